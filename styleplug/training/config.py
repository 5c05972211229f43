"""The settings of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..networks import StyleNetwork


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; they are stored with the weights."""

    steps: int = 5400
    batch_size: int = 2
    crop_size: int = 384
    """Pixels; crops are taken from photographs magnified by ``scales``."""
    scales: tuple[float, float] = (1.33, 2.0)
    style_size: int = 683
    """Geometric mean side of the artworks, in pixels: the stroke size. Pictures are
    painted at it first: those of 512 pixels magnified, and so crisper."""
    content_weight: float = 1.0
    style_weight: float = 60.0
    far: float = 0.5
    """Relative distance ‖G - A‖ / ‖A‖ from which on it counts as it is, not squared:
    dark artworks, which all photographs are far from, are not to outweigh the rest."""
    tv_weight: float = 5.0
    learning_rate: float = 7e-4
    """Peak of a one-cycle schedule."""
    vector_rate: float = 6.0
    """Learning rate of the style vectors, as a multiple of ``learning_rate``."""
    rank: int = 0
    """Rank of what styles add to the kernels of a trunk that stays as it is, see
    :func:`~styleplug.networks.with_changes`; 0: they are vectors only. The factors
    learn at ``learning_rate``."""
    varied_strength: float = 0.3
    """Share of the crops that is trained at a strength below 1."""
    any_share: float = 0.5
    """Share of a batch whose styles are predicted, when a predictor is trained."""
    identity_share: float = 0.1
    """Share of the predicted styles whose picture is the content image itself."""
    identity_weight: float = 300.0
    """Weight of the mean squared difference of pixels there, in place of the style."""
    noise: float = 0.03
    """Standard deviation, at most, of the noise that paintings are to be steady in."""
    shift: int = 4
    """Pixels, at most, of the movement that paintings are to be steady in."""
    stability_weight: float = 200.0
    """Weight of the mean squared difference of pixels that both make."""
    patience: int = 0
    """Steps without a better loss after which the training stops; 0: never."""
    seed: int = 0

    def __post_init__(self) -> None:
        stride = StyleNetwork.STRIDE
        ranges = {
            "steps": (1, math.inf),
            "batch_size": (1, math.inf),
            "patience": (0, math.inf),
            "rank": (0, math.inf),
            "noise": (0, math.inf),
            "shift": (0, stride),
            "crop_size": (48, math.inf),
            "style_size": (64, 4096),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.crop_size % stride:
            raise ValueError(
                f"crop_size must be a multiple of {stride}, got {self.crop_size}"
            )
        low, high = self.scales
        if not 0 < low <= high < math.inf:
            raise ValueError(
                "scales must be two numbers above 0, the larger last, "
                f"got {low} and {high}"
            )
