"""What is trained: a trunk, the styles on it, and the predictor of any style."""

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
    """Return a copy of a trunk, to be trained or trained on.

    Raises :class:`~styleplug.errors.TrainingError` when the file holds none, or that
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
    """Return a loss network that costs less, made for such photographs and artworks.

    The artworks are (1, 3, H, W) in [0, 1]. It is for what can hardly make use of what
    it does not see: styles on a trunk that stays as it is, and their strength. Figures
    are measured on the whole one.
    """
    size, rng, count = config.crop_size, step_rng(config.seed, -2), 8
    crops = []
    for i in range(count):
        artwork = artworks[i * len(artworks) // count][0].mul(255).round().byte()
        crops.append(crop(artwork, size, (1.0, 1.0), rng))
    crops += photographs.crops(count, size, config.scales, rng)
    return whole.thinned(torch.stack(crops).to(device))


class Batch(NamedTuple):
    """Crops of photographs, and for each the style it is to be painted in.

    The first styles are those of ``picks``, the others are predicted from
    ``glimpses``.
    """

    crops: Tensor
    """(B, 3, H, W) in [0, 1]."""
    wanted: Features
    """What the loss network sees in the crops, in the content layers."""
    strength: Tensor
    """(B,) in [0, 1]."""
    picks: Tensor
    """(n,), rows of the learner's styles."""
    glimpses: list[Tensor]
    """B - n pictures, each (1, 3, h, w)."""
    grams: dict[str, Tensor]
    """Of the style images, (B, C, C) for each style layer."""
    itself: Tensor
    """(B,): whether the style image is the content image, which is to stay then."""
    noise: Tensor | None
    """As the crops: what a second look at them has on top; None: none is taken."""
    shift: tuple[int, int]
    """By how many pixels down and right the second look is moved."""


class Losses(NamedTuple):
    """What a batch is judged by, each (B,)."""

    content: Tensor
    style: Tensor
    variation: Tensor
    """Total variation."""
    difference: Tensor
    """Mean squared difference to the content image's pixels."""
    instability: Tensor
    """Mean squared difference between what two looks at the content are painted to."""


def total_loss(losses: Losses, batch: Batch, config: TrainConfig) -> Tensor:
    """Return what is minimised, the mean over the batch.

    The lower the strength, the less the style weighs: an eighth at a half, with which a
    painting is a fifth nearer to its content.
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

    It begins with ``styles`` (N, K), or longer where they change kernels. What they
    change is learned in factors of a ``rank``; with 0 it is no more than they are.

    Calling it with a :class:`Batch` and the loss network gives the :class:`Losses`.
    Only what is to be learned requires gradients.
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
        """Return the styles of some rows, (n, K) or longer."""
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
            vectors += [self.predictor(glimpse) for glimpse in batch.glimpses]
        styles = torch.cat(vectors)
        dtype = loss_network.dtype
        painted = paint(self.network, batch.crops, styles, batch.strength, dtype=dtype)
        stylized = mix(batch.crops, painted, self.network.opacity(batch.strength))
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
            *(self.network, noisy, styles, batch.strength),
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
