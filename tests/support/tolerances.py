"""One table of tolerances, keyed by operation and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

# (operation, dtype) -> largest absolute difference
TOLERANCES = {
    ("oracle_kv", torch.float32): 5e-5,
    ("oracle_scores", torch.float32): 2e-5,
    ("oracle_half_scores", torch.float32): 1e-3,
    ("one_shot", torch.float32): 1e-4,
    ("one_shot_keys", torch.float32): 2e-4,
    # Rotated keys of the sharpened tiny models are tens of units long.
    ("kept_keys", torch.float32): 2e-4,
    ("kept_values", torch.float32): 2e-5,
    # Keys turned once or twice, of the same models.
    ("recorded", torch.float32): 4e-4,
    ("rotation", torch.float32): 2e-5,
    ("rotation", torch.bfloat16): 3e-2,
    ("rotation", torch.float16): 4e-3,
    # Angles of a thousand radians have lost digits.
    ("turns", torch.float32): 1e-3,
    ("attention", torch.float32): 1e-5,
    ("attention", torch.bfloat16): 2e-2,
    ("attention", torch.float16): 3e-3,
    ("mass", torch.float32): 1e-6,
    ("mass", torch.bfloat16): 1e-6,
    ("mass", torch.float16): 1e-6,
    ("scores", torch.float32): 1e-5,
    ("observed", torch.float32): 1e-5,
    ("half_mass", torch.float32): 1e-4,
    ("mix", torch.float32): 1e-5,
    ("mix", torch.bfloat16): 3e-2,
    ("mix", torch.float16): 4e-3,
    ("kernel_rotate", torch.float32): 2e-6,
    ("kernel_rotate", torch.bfloat16): 3.2e-2,
    ("kernel_rotate", torch.float16): 4e-3,
    ("kernel_compact", torch.float32): 2e-5,
    ("kernel_compact", torch.bfloat16): 3.2e-2,
    ("kernel_compact", torch.float16): 4e-3,
    ("kernel_mass", torch.float32): 1e-6,
    # Of one query, where the mean over many rounds less.
    ("kernel_largest", torch.float32): 5e-6,
    ("kernel_half_mass", torch.float32): 1e-3,
    ("kernel_score", torch.float32): 2e-6,
}


def close(operation: str, ours: Tensor, expected: Tensor) -> None:
    """Assert that two tensors of one shape agree within the table's tolerance for their dtype."""
    assert ours.shape == expected.shape, f"{tuple(ours.shape)} against {tuple(expected.shape)}"
    worst = (ours.double() - expected.double()).abs().max().item() if ours.numel() else 0.0
    tolerance = TOLERANCES[operation, ours.dtype]
    assert worst <= tolerance, f"{operation}: differs by {worst:.2e}, allowed {tolerance:.0e}"
