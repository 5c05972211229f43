"""Descent of a picture to a minimum of a loss, within bounds and across sizes.

A descent asks for pictures and receives their loss and gradient. L-BFGS and Adam carry
what they learn at one size over to the next: where the loss is a mean over the picture,
the gradient of a pixel shrinks as the number of pixels grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST_STEP = 0.01
"""Average change of a pixel in the first step of L-BFGS."""
SHORTEST = 0.01
"""Fraction of a step below which L-BFGS clears its memory."""


class Descent:
    """Asks for pictures in [0, 1] to evaluate, and continues from the good ones."""

    x: Tensor
    loss = math.inf

    def start(self, x: Tensor, history: int) -> None:
        """Start at ``x``, with what was learned at another size."""
        raise NotImplementedError

    def ask(self) -> Tensor:
        """Return the next picture to evaluate."""
        raise NotImplementedError

    def tell(self, x: Tensor, loss: float, gradient: Tensor) -> None:
        """Take the loss and the gradient of the picture that was asked for."""
        raise NotImplementedError


class LBFGS(Descent):
    """L-BFGS (Liu & Nocedal 1989) within bounds, without steps that raise the loss.

    Its initial curvature assumes that the loss is flatter along coarse waves than along
    fine ones, as features respond to edges more than to shades. Pixels that have no
    gradient, or are pushed against a bound, stay unchanged. A step that raises the
    loss, or makes it infinite or NaN, is shortened; if that does not help, the memory
    is cleared.
    """

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque()
        """Steps, changes of the gradient, and their dot product, oldest first."""
        self.gradient: Tensor | None = None

    def start(self, x: Tensor, history: int) -> None:
        size = x.shape[2:]
        known = self.pairs
        self.pairs = deque(maxlen=history)
        for step, change, _ in known:
            finer = x[0].numel() / step[0].numel()
            self._learn(resize(step, size), resize(change, size) / finer)
        self.x, self.loss, self.gradient = x, math.inf, None

    def ask(self) -> Tensor:
        if self.gradient is None:
            return self.x
        return torch.add(self.x, self.direction, alpha=self.length).clamp_(0, 1)

    def tell(self, x: Tensor, loss: float, gradient: Tensor) -> None:
        if self.gradient is not None:
            if not (loss <= self.loss and gradient.isfinite().all()):
                self._shorten()
                return
            self._learn(x - self.x, gradient - self.gradient)
        self.x, self.loss, self.gradient = x, loss, gradient
        self._aim()

    def _learn(self, step: Tensor, change: Tensor) -> None:
        curvature = _dot(step, change)
        if curvature > 0:
            self.pairs.append((step, change, curvature))

    def _shorten(self) -> None:
        self.length /= 4
        if self.length < SHORTEST and self.pairs:
            self.pairs.clear()
            self._aim()

    def _aim(self) -> None:
        """Set the direction: downhill, scaled by the known curvature."""
        assert self.gradient is not None
        held = self.gradient == 0
        held |= (self.x <= 0) & (self.gradient > 0)
        held |= (self.x >= 1) & (self.gradient < 0)
        downhill = (-self.gradient).masked_fill_(held, 0)
        q = downhill.clone()
        shares = []
        for step, change, curvature in reversed(self.pairs):
            shares.append(_dot(step, q) / curvature)
            q.sub_(change, alpha=shares[-1])
        even = _even_out(q)
        gain = _dot(q, even)
        if self.pairs and gain > 0:
            _, change, curvature = self.pairs[-1]
            even.mul_(curvature / _dot(change, change) * _dot(q, q) / gain)
        q = even
        for step, change, curvature in self.pairs:
            q.add_(step, alpha=shares.pop() - _dot(change, q) / curvature)
        self.direction = q.masked_fill_(held, 0)
        self.length = 1.0
        if not self.pairs:
            self.length = FIRST_STEP / max(q.abs().mean().item(), 1e-30)
        elif _dot(q, downhill) <= 0:
            self.pairs.clear()
            self._aim()


class Adam(Descent):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) within bounds.

    After a loss that is not finite, it continues from the previous picture at half the
    rate.
    """

    rate = 0.02

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.square: Tensor | None = None
        self.steps = 0

    def start(self, x: Tensor, history: int) -> None:
        size = x.shape[2:]
        if self.mean is not None and self.square is not None:
            finer = x[0].numel() / self.mean[0].numel()
            self.mean = resize(self.mean, size) / finer
            self.square = resize(self.square, size).clamp_(min=0) / finer**2
        self.x, self.next = x, x

    def ask(self) -> Tensor:
        return self.next

    def tell(self, x: Tensor, loss: float, gradient: Tensor) -> None:
        if not math.isfinite(loss) or not gradient.isfinite().all():
            self.rate /= 2
        else:
            self.steps += 1
            if self.mean is None or self.square is None:
                self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)
            self.mean.lerp_(gradient, 0.1)
            self.square.lerp_(gradient.square(), 0.01)
            self.x = x
        if self.mean is None or self.square is None:
            return
        mean = self.mean / (1 - 0.9**self.steps)
        root = (self.square / (1 - 0.99**self.steps)).sqrt_().add_(1e-12)
        self.next = (self.x - self.rate * mean / root).clamp_(0, 1)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, C, H, W) at another size (height, width)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", antialias=True)


def _even_out(gradient: Tensor) -> Tensor:
    """Return (B, C, H, W) with each wave divided by its frequency."""
    height, width = gradient.shape[2:]
    dtype, device = gradient.dtype, gradient.device
    down = torch.fft.fftfreq(height, dtype=dtype, device=device)
    across = torch.fft.rfftfreq(width, dtype=dtype, device=device)
    frequency = torch.hypot(down[:, None], across).clamp_(min=1 / max(height, width))
    waves = torch.fft.rfft2(gradient).div_(frequency)
    even: Tensor = torch.fft.irfft2(waves, s=(height, width))
    return even


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.flatten(), b.flatten()).item()


DESCENTS: dict[str, Callable[[], Descent]] = {"lbfgs": LBFGS, "adam": Adam}
