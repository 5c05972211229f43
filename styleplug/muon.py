"""Descent on matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic that takes singular values from 0 to 1 near to 1, in five rounds."""


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are nearly orthogonal, for parameters (..., M, N) of
    matrices (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural
    networks").

    All directions of a matrix are learned at one rate, also those that gradients hardly
    show. A step changes numbers by 0.2 ``lr`` on average, about as Adam's do (Liu et
    al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982). Matrices without a
    gradient stay as they are.
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
                seen = gradient.flatten(-2).any(dim=-1)[..., None, None]
                average = state["exp_avg"]
                average.lerp_(gradient, (1 - kept) * seen.to(gradient.dtype))
                ahead = gradient.lerp(average, kept)  # Nesterov's
                length = 0.2 * max(parameter.shape[-2:]) ** 0.5
                step = length * (seen * _orthogonal(ahead))
                parameter.add_(step, alpha=-group["lr"])


def _orthogonal(x: Tensor) -> Tensor:
    """Return matrices (..., M, N) with singular values of about 1, by the iteration of
    Newton and Schulz."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
