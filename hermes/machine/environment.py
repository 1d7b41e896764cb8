"""What a run ran on: versions, device and attention backend, one dictionary for every record."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "hermes-stream",
    "torch",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "accelerate",
    "triton",
    "av",
    "numpy",
    "pillow",
    "omegaconf",
    "lightning",
    "torchmetrics",
    "matplotlib",
    "rich",
    "typer",
)


def versions() -> dict[str, str | None]:
    """Versions of Python and of what a run depends on; None where it is not installed.

    >>> versions()["torch"] is None
    False
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def attention_backend(name: str, device: torch.device) -> str:
    """How attention is computed on a device: our registered function, and PyTorch's kernels under it."""
    if device.type != "cuda":
        return f"{name} on PyTorch SDPA ({device.type})"
    backends = torch.backends.cuda
    kernels = {
        "flash": backends.flash_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "efficient": backends.mem_efficient_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    enabled = ", ".join(kernel for kernel, on in kernels.items() if on)
    return f"{name} on PyTorch SDPA (cuda: {enabled})"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def environment(attention: str, device: torch.device | str | None = None) -> dict[str, Any]:
    """Everything about the machine that a result may depend on.

    Args:
        attention: name of the attention function (``hermes.attention.NAME``).
        device: where the model is; by default the first GPU, or else the CPU.

    Returns:
        plain values, safe for JSON: ``versions``, ``platform``, ``device``, ``device_name``, ``threads`` and
        ``attention``.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = chosen.type == "cuda"
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": str(chosen),
        "device_name": torch.cuda.get_device_name(chosen) if cuda else _cpu_name(),
        "threads": torch.get_num_threads(),
        "attention": attention_backend(attention, chosen),
    }
