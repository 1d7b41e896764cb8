"""Muon for the decoder's matrices and AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MuonAdamW", "orthogonalise"]


def orthogonalise(matrices: Float[Tensor, "n rows cols"], steps: int = 5) -> Float[Tensor, "n rows cols"]:
    """Push all singular values towards 1 by the quintic Newton-Schulz iteration (Jordan et al., 2024).

    >>> values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 8, 16)).float())
    >>> bool(((values > 0.5) & (values < 1.5)).all())
    True
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return out


class MuonAdamW(torch.optim.Optimizer):
    """One optimiser for both kinds of parameters.

    Source: Muon, Keller Jordan et al., 2024; AdamW, arXiv 1711.05101. Difference: matrices of one shape are
    orthogonalised together.

    Args:
        matrices: weights for Muon, each of two dimensions.
        others: weights for AdamW.
        muon_lr: learning rate of Muon.
        adam_lr: learning rate of AdamW.
        momentum: of Muon (Nesterov).
        betas: of AdamW.
        decay: weight decay of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        muon_lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        decay: float = 0.0,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "muon": True, "lr": muon_lr},
            {"params": list(others), "muon": False, "lr": adam_lr},
        ]
        super().__init__(groups, {"momentum": momentum, "betas": betas, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(group, given)
            else:
                self._adam(group, given)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        for shape, same in shapes.items():
            updates = []
            for p in same:
                grad: Tensor = p.grad  # type: ignore[assignment]
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                buffer = self.state[p]["momentum"].lerp_(grad, 1 - group["momentum"])
                updates.append(grad.lerp(buffer, group["momentum"]))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for p, update in zip(same, orthogonalise(torch.stack(updates)), strict=True):
                p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)

    def _adam(self, group: dict[str, Any], params: list[Tensor]) -> None:
        first, second = group["betas"]
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            grad: Tensor = p.grad  # type: ignore[assignment]
            state["step"] += 1
            state["mean"].lerp_(grad, 1 - first)
            state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
            mean = state["mean"] / (1 - first ** state["step"])
            root = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(1e-9)
            p.mul_(1 - group["lr"] * group["decay"]).addcdiv_(mean, root, value=-group["lr"])
