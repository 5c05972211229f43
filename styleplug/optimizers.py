"""Optimizers for style vectors and for the matrices that change kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic that brings singular values in [0, 1] close to 1 in five
iterations."""


class Adam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980).

    It takes the same steps as torch's own, which starts CUDA even for tensors on the
    CPU. That must not happen in the main process of a ZeroGPU Space, and fails where
    the memory of the GPU is full.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                state["step"] += 1
                count = int(state["step"])
                mean.lerp_(gradient, 1 - first)
                square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
                spread = square.sqrt().div_((1 - second**count) ** 0.5)
                length = group["lr"] / (1 - first**count)
                parameter.addcdiv_(mean, spread.add_(group["eps"]), value=-length)


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
