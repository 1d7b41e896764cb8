"""Compile every Triton kernel for a GPU, which needs none: ``python -m tests.support.compile_kernels [sm]``.

The interpreter takes programs that the compiler refuses; this finds them on a machine without a GPU.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hermes.kernels import compact_triton, mass_triton, rotate_triton, score_triton

_LONG = ("keep", "members", "groups", "partner", "axis")
_SINGLE = (
    "cos",
    "sin",
    "shift",
    "weights",
    "member_shift",
    "frequencies",
    "partial",
    "attention",
    "low",
    "high",
)
_MASS = {"D": 80, "HALF": False, "BM": 64, "BN": 64, "BD": 128}


def cases() -> list[tuple[Any, dict[str, Any]]]:
    """Kernels with the constants they are compiled for."""
    found: list[tuple[Any, dict[str, Any]]] = [
        (rotate_triton._rotate, {"HALF": 40, "BLOCK": 32, "WIDTH": 64}),
    ]
    flags = ("PER_HEAD", "KEEP", "TURN", "MIX", "GROUPS", "ONE")
    for values in ((0, 1, 0, 0, 0, 1), (0, 1, 1, 1, 0, 1), (1, 1, 1, 1, 1, 0), (0, 0, 1, 0, 0, 0)):
        constants = dict(zip(flags, map(bool, values), strict=True))
        found.append((compact_triton._compact, {**constants, "HALF": 64, "WIDTH": 64, "BLOCK": 32}))
    for causal, cast, half in ((True, False, False), (False, True, True)):
        constants = {**_MASS, "CAST": cast, "HALF": half}
        found.append((mass_triton._lse, {**constants, "CAUSAL": causal, "PARTS": 16}))
        found.append((mass_triton._sums, constants))
    for partner, recursive in ((False, False), (False, True), (True, False)):
        found.append((score_triton._scores, {"PARTNER": partner, "RECURSIVE": recursive, "BLOCK": 128}))
    return found


def signature(kernel: Any, constants: dict[str, Any], pointer: str) -> dict[str, str]:
    """Argument types as a launch would have them."""
    pointers = kernel.arg_names[: kernel.arg_names.index(_FIRST_SIZE[kernel.__name__])]
    out = {}
    for name in kernel.arg_names:
        if name in constants:
            out[name] = "constexpr"
        elif name in pointers:
            single = name in _SINGLE or kernel.__name__ == "_scores" or name in ("lse",)
            single = single or (kernel.__name__ in ("_lse", "_sums") and name == "out")
            out[name] = "*i64" if name in _LONG else "*fp32" if single else pointer
        else:
            out[name] = "fp32" if name == "scaling" else "i32"
    return out


_FIRST_SIZE = {"_rotate": "B1", "_compact": "H", "_lse": "G", "_sums": "G", "_scores": "V"}


def main(capability: int = 90) -> int:
    count = 0
    for kernel, constants in cases():
        for pointer in ("*bf16",) if constants.get("CAST") or constants.get("GROUPS") else ("*bf16", "*fp32"):
            where = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
            source = ASTSource(kernel, signature(kernel, constants, pointer), where)
            triton.compile(source, target=GPUTarget("cuda", capability, 32))
            count += 1
    return count


if __name__ == "__main__":
    sys.stdout.write(f"{main(*map(int, sys.argv[1:]))} kernels compiled\n")
