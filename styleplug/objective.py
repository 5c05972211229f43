"""The loss of a picture in optimization-based style transfer, and its gradient.

A picture that is too large for the loss network is cut into tiles that overlap by the
reach of its features. Losses that are means over positions are summed over the tiles.
Losses of statistics of the whole picture take two passes: the first sums up the
statistics, which gives the loss and its gradient with respect to them; from that, the
second computes the exact gradient with respect to the pixels, tile by tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import vgg
from .descent import resize
from .losses import (
    Features,
    LossNetwork,
    MomentLoss,
    Moments,
    content_loss,
    gram_loss,
    mean_std_loss,
    moments,
    nearest_loss,
    tv_loss,
    wasserstein_loss,
)
from .tiling import GRID, Region

Statistics = dict[str, Moments]

MOMENT_LOSSES: dict[str, MomentLoss] = {
    "gram": gram_loss,
    "mean_std": mean_std_loss,
    "wasserstein": wasserstein_loss,
}
STYLE_LOSSES = (*MOMENT_LOSSES, "nearest")
LEAST_SIDE = 32
"""Smallest side, in pixels, of the loss network's input."""

_SAMPLES = 1024
"""Number of features of the style among which the nearest is searched."""


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss."""

    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    style_losses: Mapping[str, float]
    """Weights of :data:`STYLE_LOSSES`, by name; each counts in all style layers."""
    tv: float


@dataclass
class Style:
    """A style image at its own size, and its place in the picture."""

    image: Tensor
    """(1, 3, h, w) in [0, 1]."""
    share: float
    """Share of the style loss."""
    mask: Tensor | None
    """(1, 1, h, w): the part of the image that counts."""
    region: Tensor | None
    """(1, 1, H, W): the part of the picture that takes the style."""

    def at(self, side: float, scale: float) -> Tensor:
        """Return the image resized for a picture of that geometric mean side."""
        return resize(self.image, self.size_at(side, scale))

    def size_at(self, side: float, scale: float) -> list[int]:
        """Return the size of the image for a picture of that geometric mean side.

        It is as large as the picture, or keeps its own size if that is smaller, times
        ``scale``.
        """
        height, width = self.image.shape[2:]
        factor = scale * min(1.0, side / math.sqrt(height * width))
        return [max(LEAST_SIDE, round(n * factor)) for n in (height, width)]


class _Tile(NamedTuple):
    core: Region
    """Region whose features count."""
    window: Region
    """Region that they are computed from: the core and all that its features see."""


class _Tiled:
    """The loss network over pictures of one size, tile by tile."""

    def __init__(self, network: LossNetwork, size: Sequence[int], side: int) -> None:
        self.network = network
        self.bounds = Region(0, 0, *size)
        overlap = overlap_of(network)
        self.tiles = [
            _Tile(core, core.grow(overlap).clip(self.bounds))
            for core in self._cores(side, overlap)
        ]

    def _cores(self, side: int, overlap: int) -> Iterator[Region]:
        """Cut the picture into tiles that have positions in every layer.

        A sliver at the border belongs to the tile beside it.
        """
        least = max(map(_stride, self.network.activations))
        bounds = self.bounds
        for core in bounds.cut(side, overlap):
            if min(core.height, core.width) >= least:
                bottom, right = (
                    end if end - own < least else own
                    for own, end in zip(core[2:], bounds[2:], strict=True)
                )
                yield core._replace(bottom=bottom, right=right)

    def walk(self, x: Tensor, tile: _Tile) -> Iterator[tuple[str, Tensor]]:
        """Yield layers and features of a tile's core; ``x`` is its window."""
        for layer, f in self.network.walk(x):
            core, window = _scaled(tile.core, layer), _scaled(tile.window, layer)
            yield layer, f[core.within(window)]

    def shares(self, region: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Return the share of each position in the layers, (1, 1, h, w), of sum 1."""
        shares = {}
        for layer in layers:
            bounds = _scaled(self.bounds, layer)
            # A Mac's GPU averages only where the sides divide.
            size = bounds.height, bounds.width
            values = F.interpolate(region.cpu(), size, mode="area")
            shares[layer] = (values / values.sum().clamp(min=1e-8)).to(region.device)
        return shares

    def sample(
        self, shares: Mapping[str, Tensor] | None, layers: Iterable[str], seed: int
    ) -> dict[str, Tensor]:
        """Choose positions that count at random, as masks (1, 1, h, w) of bool."""
        generator = torch.Generator().manual_seed(seed)
        picks = {}
        for layer in layers:
            bounds = _scaled(self.bounds, layer)
            pick = torch.zeros(1, 1, bounds.height, bounds.width, dtype=torch.bool)
            places = torch.arange(pick.numel())
            if shares is not None:
                share = shares[layer].flatten().cpu()
                places = places[share > share.max() / 2]
            order = torch.randperm(len(places), generator=generator)[:_SAMPLES]
            pick.view(-1)[places[order]] = True
            picks[layer] = pick
        return picks

    def crop(self, values: Tensor, tile: _Tile, layer: str) -> Tensor:
        """Return a tile's part of values (1, 1, h, w) that have a layer's size."""
        return values[_scaled(tile.core, layer).within(_scaled(self.bounds, layer))]

    def part(self, tile: _Tile, layer: str) -> float:
        """Return the fraction of a layer's positions that a tile has."""
        return _scaled(tile.core, layer).area / _scaled(self.bounds, layer).area

    def moments(
        self,
        layer: str,
        features: Tensor,
        tile: _Tile,
        shares: Mapping[str, Tensor] | None,
    ) -> Moments:
        """Return a tile's contribution to the moments of the whole picture."""
        if shares is not None:
            return moments(features, self.crop(shares[layer], tile, layer))
        own, part = moments(features), self.part(tile, layer)
        return own if part == 1 else Moments(own.mean * part, own.gram * part)


def _scaled(region: Region, layer: str) -> Region:
    """Return the positions that a region of pixels has in a layer."""
    return Region(*(side // _stride(layer) for side in region))


def _stride(layer: str) -> int:
    block = int(layer[4])
    return 1 << (block if layer.startswith("pool") else block - 1)


def overlap_of(network: LossNetwork) -> int:
    """Return the overlap of tiles in pixels: the reach of the deepest features."""
    deepest = max(map(vgg.LAYERS.index, network.activations))
    radius = 0
    for layer in vgg.LAYERS[: deepest + 1]:
        if layer.startswith("conv"):
            radius += _stride(layer)
        elif layer.startswith("pool"):
            radius += _stride(layer) // 2
    return math.ceil(radius / GRID) * GRID


def bytes_kept(weights: Weights, dtype: torch.dtype, size: Sequence[int]) -> int:
    """Return the size in bytes of the features kept of a content of that size."""
    values = sum(
        vgg.channels(layer) / _stride(layer) ** 2 for layer in weights.content_layers
    )
    return math.ceil(values * math.prod(size)) * dtype.itemsize


class _Target(NamedTuple):
    """The targets that one style image sets at a level."""

    share: float
    statistics: Statistics
    samples: Features
    """Features (N, C) of each layer among which the nearest are searched."""
    shares: dict[str, Tensor] | None
    """Share of each position of the picture; None if all count the same."""


class Objective:
    """The loss of a picture at one level, and its gradient, tile by tile."""

    def __init__(
        self,
        network: LossNetwork,
        weights: Weights,
        content: Tensor,
        styles: Sequence[Style],
        *,
        tile_size: int,
        style_scale: float = 1.0,
        free: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Measure the targets.

        ``content`` is (1, 3, h, w) in [0, 1]. ``free`` (1, 1, h, w) marks where the
        picture may change. ``seed`` chooses the style features that are searched.
        """
        self.weights = weights
        self.moment_losses = {
            name: weight
            for name, weight in weights.style_losses.items()
            if name in MOMENT_LOSSES
        }
        self.nearest = weights.style_losses.get("nearest", 0.0)
        self.free = free
        self.view = _Tiled(network, content.shape[2:], tile_size)
        side = math.sqrt(content[0, 0].numel())
        with torch.no_grad():
            self.wanted = [
                {layer: features[layer].clone() for layer in weights.content_layers}
                for tile in self.view.tiles
                for features in [self._features(content, tile)]
            ]
            # The single tile of a long content has its length as tile_size, which may
            # be too large for a square style image.
            style_tile = min(tile_size, math.ceil(side))
            self.targets = [
                self._target(style, style.at(side, style_scale), style_tile, seed)
                for style in styles
            ]

    def __call__(self, x: Tensor) -> tuple[float, Tensor]:
        """Return the loss of x (1, 3, h, w) in [0, 1], and its gradient."""
        leaf = x.detach().requires_grad_()
        rough = self.weights.tv * tv_loss(leaf).sum()
        (gradient,) = torch.autograd.grad(rough, leaf)
        loss = rough.item()
        slopes: list[Tensor] = []
        if len(self.view.tiles) > 1:
            style_part, slopes = self._slopes(x)
            loss += style_part
        for tile, wanted in zip(self.view.tiles, self.wanted, strict=True):
            window = tile.window.within(self.view.bounds)
            leaf = x[window].detach().clone().requires_grad_()
            features, found = self._see(leaf, tile)
            part = self._local(features, wanted, tile)
            if not slopes:
                part = part + self._style(found)
            loss += part.item()
            for slope, value in zip(slopes, _values(found), strict=False):
                part = part + (slope * value).sum()
            part.backward()
            assert leaf.grad is not None
            gradient[window] += leaf.grad
        if self.free is not None:
            gradient *= self.free
        return loss, gradient

    def _features(self, x: Tensor, tile: _Tile) -> Features:
        return dict(self.view.walk(x[tile.window.within(self.view.bounds)], tile))

    def _target(
        self, style: Style, image: Tensor, tile_size: int, seed: int
    ) -> _Target:
        layers = self.weights.style_layers
        view = _Tiled(self.view.network, image.shape[2:], tile_size)
        shares = None if style.mask is None else view.shares(style.mask, layers)
        picks = view.sample(shares, layers, seed) if self.nearest else {}
        parts = []
        samples: dict[str, list[Tensor]] = {layer: [] for layer in picks}
        for tile in view.tiles:
            features = dict(view.walk(image[tile.window.within(view.bounds)], tile))
            parts.append(
                {k: view.moments(k, features[k], tile, shares) for k in layers}
            )
            for layer, pick in picks.items():
                chosen = view.crop(pick, tile, layer).flatten().to(image.device)
                samples[layer].append(features[layer][0].flatten(1).T[chosen])
        return _Target(
            style.share,
            _sum(parts),
            {layer: torch.cat(found) for layer, found in samples.items()},
            None if style.region is None else self.view.shares(style.region, layers),
        )

    def _local(self, features: Features, wanted: Features, tile: _Tile) -> Tensor:
        """Return the part of the loss that is a sum over positions."""
        total = features[next(iter(wanted))].new_zeros((), dtype=torch.float32)
        for layer, weight in self.weights.content_layers.items():
            pair = {layer: features[layer]}, {layer: wanted[layer]}
            weight *= self.view.part(tile, layer)
            total = total + weight * content_loss(*pair).sum()
        if not self.nearest:
            return total
        for target in self.targets:
            for layer, weight in self.weights.style_layers.items():
                weight *= self.nearest * target.share
                share = None
                if target.shares is None:
                    weight *= self.view.part(tile, layer)
                else:
                    share = self.view.crop(target.shares[layer], tile, layer)
                found = nearest_loss(features[layer], target.samples[layer], share)
                total = total + weight * found.sum()
        return total

    def _see(self, x: Tensor, tile: _Tile) -> tuple[Features, list[Statistics]]:
        """Return the features of a tile, whose window is ``x``, and its contribution
        to the statistics for each style."""
        features: Features = {}
        found: list[Statistics] = [{} for _ in self.targets]
        for layer, f in self.view.walk(x, tile):
            features[layer] = f
            if not self.moment_losses or layer not in self.weights.style_layers:
                continue
            everywhere: Moments | None = None
            for target, statistics in zip(self.targets, found, strict=True):
                if target.shares is None:
                    everywhere = everywhere or self.view.moments(layer, f, tile, None)
                    statistics[layer] = everywhere
                else:
                    statistics[layer] = self.view.moments(layer, f, tile, target.shares)
        return features, found

    def _style(self, found: Sequence[Statistics]) -> Tensor:
        """Return the part of the loss that depends on statistics of the whole."""
        total = torch.zeros((), dtype=torch.float32)
        for target, statistics in zip(self.targets, found, strict=True):
            for layer, measured in statistics.items():
                weight = target.share * self.weights.style_layers[layer]
                for name, share in self.moment_losses.items():
                    loss = MOMENT_LOSSES[name](measured, target.statistics[layer])
                    total = total.to(loss.device) + weight * share * loss.sum()
        return total

    def _slopes(self, x: Tensor) -> tuple[float, list[Tensor]]:
        """Return the style part of the loss, and its gradients for the statistics."""
        with torch.no_grad():
            parts = [
                self._see(x[tile.window.within(self.view.bounds)], tile)[1]
                for tile in self.view.tiles
            ]
        found = [_sum(part) for part in zip(*parts, strict=True)]
        found = [
            {
                layer: Moments(m.mean.requires_grad_(), m.gram.requires_grad_())
                for layer, m in statistics.items()
            }
            for statistics in found
        ]
        loss = self._style(found)
        values = _values(found)
        if not values:
            return 0.0, []
        slopes = torch.autograd.grad(loss, values, materialize_grads=True)
        return loss.item(), list(slopes)


def _values(found: Sequence[Statistics]) -> list[Tensor]:
    return [
        value
        for statistics in found
        for m in statistics.values()
        for value in (m.mean, m.gram)
    ]


def _sum(parts: Sequence[Statistics]) -> Statistics:
    return {
        layer: Moments(
            torch.stack([part[layer].mean for part in parts]).sum(dim=0),
            torch.stack([part[layer].gram for part in parts]).sum(dim=0),
        )
        for layer in parts[0]
    }
