"""A small network that approximates the features of the loss network.

The predictor sees the style of a picture through it, and it stands in for the loss
network where that is too large to be available: with a twentieth of the weights it
computes the principal components of the same layers. It is trained by
:mod:`styleplug.training.distillation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import STYLE_LAYERS, Features


class StyleEncoder(nn.Module):
    """Maps pictures to the features of the loss network, in few dimensions.

    Calling it maps (B, 3, H, W) in [0, 1], H and W multiples of 8, to stand-ins for the
    features of each style layer, (B, rank + 1, h, w). They are an orthogonal projection
    of the features, so that Gram matrices, distances and losses mean the same.
    ``widths`` are the numbers of channels at 1, 1/2, 1/4 and, twice, 1/8; ``ranks`` the
    numbers of principal components of the layers.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 128, 192),
        ranks: Sequence[int] = (12, 24, 40, 48),
    ) -> None:
        super().__init__()
        whole, half, quarter, eighth, last = widths
        self.hyperparameters = {"widths": list(widths), "ranks": list(ranks)}
        self.ranks = tuple(ranks)
        self.whole = _convolution(3, whole)
        self.stages = nn.ModuleList(
            nn.ModuleList(convolutions)
            for convolutions in (
                [_convolution(12, half), _convolution(half, half)],
                [_convolution(half, quarter, 2), _convolution(quarter, quarter)],
                [
                    _convolution(quarter, eighth, 2),
                    _convolution(eighth, eighth),
                    _convolution(eighth, last),
                ],
            )
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(width, rank, 1)
            for width, rank in zip((whole, half, quarter, last), ranks, strict=True)
        )
        self.scales: Tensor
        """(layers,): deviation of a layer's components in the loss network's units."""
        self.origins: Tensor
        """(sum of rank + 1,): the point where the components are 0. The last value of
        each layer is the distance from the origin to the space that they span."""
        self.register_buffer("scales", torch.ones(len(ranks)))
        self.register_buffer("origins", torch.zeros(sum(ranks) + len(ranks)))

    def forward(self, image: Tensor) -> Features:
        return self.features(self.components(image))

    def features(self, components: Sequence[Tensor]) -> Features:
        """Return the stand-ins for the loss network's features from components."""
        found = {}
        origins = self.origins.split([rank + 1 for rank in self.ranks])
        for layer, each, scale, origin in zip(
            STYLE_LAYERS, components, self.scales, origins, strict=True
        ):
            x = F.pad(each * scale, (0, 0, 0, 0, 0, 1))
            found[layer] = x + origin.to(x.dtype)[:, None, None]
        return found

    def components(self, image: Tensor) -> list[Tensor]:
        """Return the principal components of each layer, (B, rank, h, w)."""
        image = (image - 0.5) * 4
        features = [F.relu(self.whole(image))]
        x = F.pixel_unshuffle(image, 2)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for convolution in stage:
                change = F.relu(convolution(x))
                x = x + change if change.shape == x.shape else change
            features.append(x)
        return [p(x) for p, x in zip(self.projections, features, strict=True)]


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)
