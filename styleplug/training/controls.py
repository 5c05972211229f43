"""Measure how a style responds to strength and stroke size, and paints borders."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine import Stylizer
from ..images import Array
from ..rendering import luma

STROKE_SIZES = (0.5, 0.7, 1.0, 1.4, 2.0)
_CARD = 512
"""Side, in pixels, of the grey cards that strokes and borders are measured on."""
_CARDS = 8
"""Number of cards that the border energy is averaged over, as patches of colour fall
differently on each."""
_BORDER = 8
"""Width of the border, in pixels."""


class Controls(NamedTuple):
    """Measurements of a style."""

    similarity: list[float]
    """Structural similarity (SSIM) to a photograph at strengths 0, 0.1 ... 1."""
    strokes: list[float]
    """Length of strokes in pixels at :data:`STROKE_SIZES`."""
    border: float
    """Variance of the outer 8 pixels, as a multiple of the variance inside."""

    @property
    def growth(self) -> float:
        """Length of strokes at the largest stroke size, as a multiple of that at the
        smallest; 0 without strokes."""
        return self.strokes[-1] / self.strokes[0] if self.strokes[0] else 0.0

    def figures(self) -> dict[str, float]:
        """Return the figures to store in a header."""
        return {
            "similarity_at_strength_1": round(self.similarity[-1], 3),
            "stroke_growth": round(self.growth, 2),
            "border_energy": round(self.border, 2),
        }

    def faults(self) -> list[str]:
        """Return what is worse than in a good style, as predicates of a sentence."""
        found = []
        if not all(b < a for a, b in itertools.pairwise(self.similarity)):
            found.append("does not get ever stronger from strength 0 to 1")
        longer = all(b > a for a, b in itertools.pairwise(self.strokes))
        if not longer or self.growth < 2:
            found.append("has strokes that hardly grow with the stroke size")
        if self.border > 1.3:
            found.append("paints the border otherwise than the inside")
        return found


def measure_controls(stylizer: Stylizer, photograph: Array) -> Controls:
    """Measure a style's controls on a photograph (H, W, 3), uint8, and grey cards."""
    similarity = [
        ssim(photograph, stylizer(photograph, strength=tenth / 10))
        for tenth in range(11)
    ]
    cards = [stylizer(_grey_card(seed)) for seed in range(_CARDS)]
    strokes = [
        _stroke_length(
            cards[0] if size == 1.0 else stylizer(_grey_card(0), style_scale=size)
        )
        for size in STROKE_SIZES
    ]
    borders = list(map(_border_energy, cards))
    return Controls(similarity, strokes, sum(borders) / len(borders))


def ssim(one: Array, other: Array) -> float:
    """Return the structural similarity of the luma of (H, W, 3) uint8 pictures.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity", with their window and constants.
    """
    window = torch.exp(-(torch.arange(-5, 6.0) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    a, b = (
        luma(torch.from_numpy(np.ascontiguousarray(x)).float().permute(2, 0, 1)[None])
        for x in (one, other)
    )
    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean())


def _grey_card(seed: int) -> Array:
    """Return a grey card with faint noise."""
    rng = np.random.default_rng(seed)
    card: Array = rng.normal(128, 3, (_CARD, _CARD, 1)).round().clip(0, 255)
    return card.astype(np.uint8).repeat(3, axis=2)


def _stroke_length(painted: Array) -> float:
    """Return the lag, in pixels, at which the autocorrelation of the lightness falls to
    0.5; 0 for a picture of one colour."""
    light = painted.mean(axis=2)
    light = light - light.mean()
    if not light.any():
        return 0.0
    spectrum = np.abs(np.fft.fft2(light)) ** 2
    correlation = np.fft.ifft2(spectrum).real
    correlation /= correlation[0, 0]
    side = len(light)
    lags = np.minimum(np.arange(side), side - np.arange(side))
    ring = np.hypot(lags[:, None], lags[None]).round().astype(int).ravel()
    mean = np.bincount(ring, correlation.ravel()) / np.bincount(ring)
    after = max(1, int(np.argmax(mean < 0.5)))
    return float(after - (0.5 - mean[after]) / (mean[after - 1] - mean[after]))


def _border_energy(painted: Array) -> float:
    """Return the variance of the border, as a multiple of the variance inside."""
    middle = slice(_BORDER, -_BORDER)
    inside = painted[middle, middle].astype(float)
    energy = (painted - inside.mean(axis=(0, 1))) ** 2
    border = np.ones(painted.shape[:2], bool)
    border[middle, middle] = False
    return float(energy[border].mean() / max(energy[~border].mean(), 1e-9))
