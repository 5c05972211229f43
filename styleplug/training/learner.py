"""The model that is trained: a trunk, styles on it, and a predictor of any style."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..losses import (
    Features,
    LossNetwork,
    content_loss,
    huber,
    style_loss,
    tv_loss,
)
from ..networks import (
    StyleNetwork,
    first_factors,
    mix,
    paint,
    training_dtype,
    with_changes,
)
from ..predictor import StylePredictor
from ..style import read_info
from ..weights import load_trunk
from .config import TrainConfig
from .data import Photographs, crop
from .state import step_rng


def load_own_trunk(path: Path) -> StyleNetwork:
    """Return a copy of a trunk, for training it or styles on it.

    Raises :class:`~styleplug.errors.TrainingError` when the file holds no trunk, or one
    of another project, and :class:`~styleplug.errors.InvalidStyleError` when it is
    damaged.
    """
    info = read_info(path)
    if not info.self_contained or info.network.get("name") == StylePredictor.NAME:
        raise TrainingError(
            f"{path} holds no trunk; name a --trunk that 'styleplug train' wrote, or "
            "leave it out."
        )
    network = load_trunk(path)
    if network.NAME != StyleNetwork.NAME:
        raise TrainingError(
            f"{path} holds a network of another project ({network.NAME}), which cannot "
            "be trained; name a --trunk that 'styleplug train' wrote, or leave it out."
        )
    return copy.deepcopy(network)


def load_loss_network(
    path: Path, photographs: Photographs, config: TrainConfig, device: torch.device
) -> LossNetwork:
    """Return the loss network, calibrated on some of the photographs."""
    network = LossNetwork(path, dtype=training_dtype(device)).to(device)
    rng = step_rng(config.seed, -1)
    network.calibrate(photographs.crops(32, 256, (1.0, 1.0), rng).to(device))
    return network


def thinned_loss_network(
    whole: LossNetwork,
    photographs: Photographs,
    artworks: Sequence[Tensor],
    config: TrainConfig,
    device: torch.device,
) -> LossNetwork:
    """Return a cheaper loss network, made for these photographs and artworks.

    The artworks are (1, 3, H, W) in [0, 1]. It is used where training can hardly
    exploit what this network misses: for styles on a fixed trunk, and for their
    strength. Figures are measured with the whole loss network.
    """
    size, rng, count = config.crop_size, step_rng(config.seed, -2), 8
    crops = []
    for i in range(count):
        artwork = artworks[i * len(artworks) // count][0].mul(255).round().byte()
        crops.append(crop(artwork, size, (1.0, 1.0), rng))
    crops += photographs.crops(count, size, config.scales, rng)
    return whole.thinned(torch.stack(crops).to(device))


class Batch(NamedTuple):
    """Crops of photographs, and the style that each is to be painted in.

    The first styles are those of ``picks``, the others are predicted from
    ``style_images``.
    """

    crops: Tensor
    """(B, 3, H, W) in [0, 1]."""
    wanted: Features
    """The loss network's features of the crops in the content layers."""
    strength: Tensor
    """(B,) in [0, 1]."""
    picks: Tensor
    """(n,): rows of the learner's styles."""
    style_images: list[Tensor]
    """B - n pictures, each (1, 3, h, w)."""
    grams: dict[str, Tensor]
    """Gram matrices of the style images, (B, C, C) for each style layer."""
    itself: Tensor
    """(B,): whether the style image is the content image, to be left unchanged."""
    noise: Tensor | None
    """Noise added to the crops for a second painting; None: no second painting."""
    shift: tuple[int, int]
    """Pixels by which the crops are moved down and right for the second painting."""


class Losses(NamedTuple):
    """Losses of a batch, each (B,)."""

    content: Tensor
    style: Tensor
    variation: Tensor
    """Total variation."""
    difference: Tensor
    """Mean squared difference to the content image's pixels."""
    instability: Tensor
    """Mean squared difference between the two paintings of the content."""


def total_loss(losses: Losses, batch: Batch, config: TrainConfig) -> Tensor:
    """Return the loss to minimise, the mean over the batch.

    The lower the strength, the less the style weighs. At strength 0.5 it weighs an
    eighth, which brings a painting a fifth nearer to its content.
    """
    wanted = torch.where(
        batch.itself,
        config.identity_weight * losses.difference,
        config.style_weight * batch.strength**3 * huber(losses.style, config.far),
    )
    return (
        config.content_weight * losses.content
        + wanted
        + config.tv_weight * losses.variation
        + config.stability_weight * losses.instability
    ).mean()


class Learner(nn.Module):
    """A style network with styles and perhaps a predictor.

    It starts from ``styles``, (N, K) or longer if they change kernels. Changes to
    kernels are learned as factors of a ``rank``; with 0, none are added to the styles.

    Calling it with a :class:`Batch` and the loss network returns the :class:`Losses`.
    Only the parameters to be learned require gradients.
    """

    def __init__(
        self,
        network: StyleNetwork,
        styles: Tensor,
        predictor: StylePredictor | None,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.predictor = predictor
        vectors = (styles[:, : network.style_size] if rank else styles).clone()
        self.vectors = nn.Parameter(vectors, requires_grad=len(vectors) > 0)
        self.factors = nn.ParameterDict()
        if rank:
            for name, (a, b) in first_factors(network, styles, rank).items():
                self.factors[f"{name}_a"] = nn.Parameter(a)
                self.factors[f"{name}_b"] = nn.Parameter(b)

    def styles(self, picks: Tensor) -> Tensor:
        """Return the styles in the given rows, (n, K) or longer."""
        if not self.factors:
            return self.vectors[picks]
        factors = {
            name: (self.factors[f"{name}_a"][picks], self.factors[f"{name}_b"][picks])
            for name in self.network.changeable
        }
        return with_changes(self.vectors[picks], factors)

    def forward(self, batch: Batch, loss_network: LossNetwork) -> Losses:
        vectors = [self.styles(batch.picks)]
        if self.predictor is not None:
            vectors += [self.predictor(image) for image in batch.style_images]
        styles = torch.cat(vectors)
        dtype = loss_network.dtype
        painted = paint(self.network, batch.crops, styles, batch.strength, dtype=dtype)
        opacity = self.network.opacity(batch.strength).reshape(-1, 1, 1, 1)
        stylized = mix(batch.crops, painted, opacity)
        features = loss_network(stylized)
        losses = Losses(
            content_loss(features, batch.wanted),
            style_loss(features, batch.grams),
            tv_loss(stylized),
            (stylized - batch.crops).square().mean(dim=(1, 2, 3)),
            torch.zeros_like(batch.strength),
        )
        if batch.noise is None:
            return losses
        noisy = batch.crops + batch.noise
        again = paint(
            self.network,
            noisy,
            styles,
            batch.strength,
            dtype=dtype,
            shift=batch.shift,
        )
        difference = (again - painted).square().mean(dim=(1, 2, 3))
        return losses._replace(instability=difference)

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are learned, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }
