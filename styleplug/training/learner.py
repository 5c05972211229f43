"""What is trained: a trunk, the styles on it, and the predictor of any style."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..networks import StyleNetwork, mix
from ..predictor import StylePredictor
from .losses import CONTENT_LAYERS, LossNetwork, content_loss, style_loss, tv_loss


class Batch(NamedTuple):
    """Crops of photographs, and for each the style it is to be painted in.

    The first styles are those of ``picks``, the others are predicted from
    ``glimpses``.
    """

    crops: Tensor
    """(B, 3, H, W) in [0, 1]."""
    strength: Tensor
    """(B,) in [0, 1]."""
    picks: Tensor
    """(n,), rows of the learner's vectors."""
    glimpses: list[Tensor]
    """B - n pictures, each (1, 3, h, w)."""
    grams: dict[str, Tensor]
    """Of the style images, (B, C, C) for each style layer."""
    itself: Tensor
    """(B,): whether the style image is the content image, which is to stay then."""


class Losses(NamedTuple):
    """What a batch is judged by, each (B,)."""

    content: Tensor
    style: Tensor
    variation: Tensor
    """Total variation."""
    difference: Tensor
    """Mean squared difference to the content image's pixels."""


class Learner(nn.Module):
    """A style network with style vectors (N, K) and perhaps a predictor.

    Calling it with a :class:`Batch` and the loss network gives the :class:`Losses`.
    Only what is to be learned requires gradients.
    """

    def __init__(
        self,
        network: StyleNetwork,
        vectors: Tensor,
        predictor: StylePredictor | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.vectors = nn.Parameter(vectors, requires_grad=len(vectors) > 0)
        self.predictor = predictor

    def forward(self, batch: Batch, loss_network: LossNetwork) -> Losses:
        vectors = [self.vectors[batch.picks]]
        if self.predictor is not None:
            vectors += [self.predictor(glimpse) for glimpse in batch.glimpses]
        return objective(
            self.network,
            loss_network,
            batch.crops,
            torch.cat(vectors),
            batch.strength,
            batch.grams,
        )

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are learned, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }


def objective(
    network: StyleNetwork,
    loss_network: LossNetwork,
    crops: Tensor,
    styles: Tensor,
    strength: Tensor,
    grams: dict[str, Tensor],
) -> Losses:
    """Return the losses of a batch.

    ``crops`` is (B, 3, H, W) in [0, 1], ``styles`` (B, K), ``strength`` (B,).
    """
    m = network.MARGIN
    padded = nn.functional.pad(crops, (m, m, m, m), mode="reflect")
    padded = padded.contiguous(memory_format=torch.channels_last)
    vector = network.vector(styles, strength)
    with torch.autocast(crops.device.type, torch.bfloat16):
        stylized = network(padded, vector)[..., m:-m, m:-m]
    stylized = mix(crops, stylized, strength)
    with torch.no_grad():
        wanted = loss_network(crops)
        wanted = {layer: wanted[layer] for layer in CONTENT_LAYERS}
    features = loss_network(stylized)
    return Losses(
        content_loss(features, wanted),
        style_loss(features, grams),
        tv_loss(stylized),
        (stylized - crops).square().mean(dim=(1, 2, 3)),
    )
