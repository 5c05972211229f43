"""An optimizer for matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic that brings singular values in [0, 1] close to 1 in five
iterations."""


class Muon(torch.optim.Optimizer):
    """Momentum with nearly orthogonal steps, for parameters (..., M, N) of matrices.

    See Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    All directions of a matrix learn at the same rate, even those that hardly appear in
    the gradients. A step changes values by 0.2 ``lr`` on average, about as much as
    Adam's (Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982).
    Matrices without a gradient stay unchanged.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            kept = group["momentum"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                active = gradient.flatten(-2).any(dim=-1)[..., None, None]
                average = state["exp_avg"]
                average.lerp_(gradient, (1 - kept) * active.to(gradient.dtype))
                ahead = gradient.lerp(average, kept)  # Nesterov's
                length = 0.2 * max(parameter.shape[-2:]) ** 0.5
                step = length * (active * _orthogonal(ahead))
                parameter.add_(step, alpha=-group["lr"])


def _orthogonal(x: Tensor) -> Tensor:
    """Bring the singular values of matrices (..., M, N) to about 1 (Newton-Schulz)."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
