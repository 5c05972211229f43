"""Draw the batch of each training step: crops of photographs, and styles for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..losses import CONTENT_LAYERS, STYLE_LAYERS, Features, LossNetwork, gram_matrix
from ..networks import StyleNetwork
from ..predictor import StylePredictor
from .config import TrainConfig
from .data import Archive, Photographs, crop, random_part
from .learner import Batch
from .state import step_rng

_POOL = -10
"""Crops of a pool are drawn with the generators of this and lower step numbers, which
no training reaches."""
_FEW = 50
"""Number of photographs below which crops are collages of two. With the four bundled
ones, paintings then keep more of the lights and darks of photographs that were not
trained on, at the same or slightly smaller distances."""


class Sampler:
    """Draws the batch of each step, the same in every run with the same seed."""

    def __init__(
        self,
        photographs: Photographs,
        archive: Archive | None,
        grams: dict[str, Tensor],
        loss_net: LossNetwork,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self._photographs = photographs
        self._archive = archive
        self._grams = grams
        self._loss_net = loss_net
        self._config = config
        self._device = device
        self._artwork_magnification = StylePredictor.SIZE / config.style_size
        self._artworks = len(next(iter(grams.values()), ()))
        dealt = config.dealt if archive else config.batch_size
        self._dealt = dealt if self._artworks else 0
        self._archive_grams: dict[int, dict[str, Tensor]] = {}
        self._pool_features: dict[int | None, Features] = {}

    def batch(self, step: int, process: int, processes: int) -> Batch:
        """Return one process's part of the batch of ``step``."""
        config = self._config
        rng = step_rng(config.seed, step)
        size = config.batch_size
        few = len(self._photographs.images) < _FEW
        draw = self._photographs.collages if few else self._photographs.crops
        pooled = step % config.pool if config.pool else None
        crops_rng = rng if pooled is None else step_rng(config.seed, _POOL - pooled)
        crops = draw(size, config.crop_size, config.scales, crops_rng)
        # A third are at LIGHT, the strength that all lower ones are painted at.
        strength = 0.25 + 0.75 * torch.rand(size, generator=rng)
        strength = strength.clamp(min=StyleNetwork.LIGHT)
        varied = torch.rand(size, generator=rng) < config.varied_strength
        strength = torch.where(varied, strength, 1.0)
        itself = torch.zeros(size, dtype=torch.bool)
        picks = _deal(self._artworks, self._dealt, config.seed, step).tolist()
        grams = [of_artwork(self._grams, pick) for pick in picks]
        style_images = []
        mine = range(process, size, processes)
        for i in range(self._dealt, size):
            pick, picture, magnification, scales, kind = self._draw(rng)
            if kind < config.identity_share:
                itself[i], strength[i] = True, 1.0
                crops[i] = crop(picture, config.crop_size, scales, rng)
            style_images.append(random_part(picture, magnification, rng))
            grams.append(self._targets(pick) if i in mine else {})
        own = list(mine)
        own_crops = crops[own].to(self._device)
        noise = None
        if config.stability_weight:
            noise = torch.randn(crops.shape, generator=rng)
            noise *= config.noise * torch.rand(size, 1, 1, 1, generator=rng)
            noise = noise[own].to(self._device)
        low, high = -config.shift, config.shift + 1
        shift = torch.randint(low, high, (2,), generator=rng).tolist()
        return Batch(
            own_crops,
            self._content_features(own_crops, pooled),
            strength[own].to(self._device),
            torch.tensor([picks[i] for i in own if i < self._dealt], dtype=torch.long),
            [
                style_images[i - self._dealt].to(self._device)
                for i in own
                if i >= self._dealt
            ],
            {
                layer: torch.cat(
                    [grams[i][layer].to(self._device).float() for i in own]
                )
                for layer in STYLE_LAYERS
            },
            itself[own].to(self._device),
            noise,
            (shift[0], shift[1]),
        )

    @torch.no_grad()
    def _content_features(self, crops: Tensor, pooled: int | None) -> Features:
        """Return the content features of crops; those of a pool are computed once."""
        if pooled in self._pool_features:
            return self._pool_features[pooled]
        features = self._loss_net(crops)
        wanted = {layer: features[layer] for layer in CONTENT_LAYERS}
        if pooled is not None:
            self._pool_features[pooled] = wanted
        return wanted

    def _draw(
        self, rng: Generator
    ) -> tuple[int, Tensor, float, tuple[float, float], float]:
        """Return the index of an artwork of the archive, its picture, the magnification
        for the predictor, the range of magnifications for crops of it, and a random
        number in [0, 1).

        For numbers below the identity share, every other picture is a photograph.
        Artworks are already as large as paintings.
        """
        assert self._archive is not None
        pick = int(torch.randint(len(self._archive.images), (), generator=rng))
        kind = float(torch.rand((), generator=rng))
        if kind < self._config.identity_share / 2:
            others = self._photographs.images
            picture = others[int(torch.randint(len(others), (), generator=rng))]
            magnification = StylePredictor.SIZE / math.prod(picture.shape[1:]) ** 0.5
            return pick, picture, magnification, self._config.scales, kind
        low, high = self._config.scales
        picture, magnification = self._archive.images[pick], self._artwork_magnification
        if kind < self._config.identity_share:
            # Magnified as its crops are, if it is smaller than they.
            magnification *= max(1.0, self._config.crop_size / min(picture.shape[1:]))
        return pick, picture, magnification, (1.0, high / low), kind

    @torch.no_grad()
    def _targets(self, pick: int) -> dict[str, Tensor]:
        """Return the Gram matrices of an artwork. They are cached in half precision on
        the CPU, as those of an archive take gigabytes."""
        assert self._archive is not None
        if pick not in self._archive_grams:
            features = self._loss_net(self._archive.artwork(pick).to(self._device))
            self._archive_grams[pick] = {
                layer: gram_matrix(features[layer]).half().cpu()
                for layer in STYLE_LAYERS
            }
        return self._archive_grams[pick]

    @torch.no_grad()
    def examples(self, predictor: StylePredictor) -> Tensor:
        """Return the predicted vectors (6, K) of a few artworks."""
        assert self._archive is not None
        images = self._archive.images
        parts = [
            random_part(
                images[i * len(images) // 6],
                self._artwork_magnification,
                step_rng(7, i),
            )
            for i in range(6)
        ]
        return torch.cat([predictor(image.to(self._device)) for image in parts])


def of_artwork(grams: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Return the Gram matrices of one artwork, (1, C, C) each."""
    return {layer: gram[i : i + 1] for layer, gram in grams.items()}


def _deal(count: int, dealt: int, seed: int, step: int) -> Tensor:
    """Return the indices of ``dealt`` of ``count`` styles; an epoch has each once."""
    picks = []
    for i in range(step * dealt, (step + 1) * dealt):
        order = torch.randperm(count, generator=step_rng(seed + 1, i // count))
        picks.append(int(order[i % count]))
    return torch.tensor(picks, dtype=torch.long)


def targets(
    images: Sequence[Tensor], loss_net: LossNetwork, device: torch.device
) -> dict[str, Tensor]:
    """Return the Gram matrices of all artworks, (N, C, C) for each style layer."""
    grams: dict[str, list[Tensor]] = {layer: [] for layer in STYLE_LAYERS}
    with torch.no_grad():
        for image in images:
            features = loss_net(image.to(device))
            for layer, found in grams.items():
                found.append(gram_matrix(features[layer]))
    return {layer: torch.cat(found) for layer, found in grams.items() if found}
