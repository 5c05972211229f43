"""Lessons for the encoder, which distil the loss network into it.

No labels are needed, only pictures: the small encoder learns to give the principal
components of the loss network's features (knowledge distillation, Hinton, Vinyals &
Dean 2015, arXiv 1503.02531; of features, Romero et al. 2015, "FitNets", arXiv
1412.6550).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..encoder import StyleEncoder
from ..losses import STYLE_LAYERS, Features, LossNetwork


class Teacher:
    """Principal components of a loss network's features.

    They are computed from its features of ``images`` (B, 3, H, W). Each layer has as
    many as ``ranks`` says, divided by its standard deviation along them.
    """

    def __init__(
        self, loss_network: LossNetwork, images: Tensor, ranks: Sequence[int]
    ) -> None:
        self._loss_network = loss_network
        with torch.no_grad():
            features = loss_network(images)
        self._layers = {
            layer: _principal(features[layer], rank)
            for layer, rank in zip(STYLE_LAYERS, ranks, strict=True)
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the components that the encoder should give for (B, 3, H, W)."""
        features: Features = self._loss_network(images)
        wanted = []
        for layer, (mean, basis, scale) in self._layers.items():
            x = features[layer].float() - mean[:, None, None]
            wanted.append(nn.functional.conv2d(x, (basis / scale)[..., None, None]))
        return wanted

    def settle(self, encoder: StyleEncoder) -> None:
        """Tell an encoder where its components lie in the loss network's feature space.

        Losses average over channels, of which the encoder has fewer. Lengths are scaled
        by the square root of the ratio, so that the averages are the same.
        """
        origins = []
        for i, (mean, basis, scale) in enumerate(self._layers.values()):
            within = basis @ mean
            beside = (mean - basis.T @ within).norm()
            ratio = ((len(basis) + 1) / len(mean)) ** 0.5
            origins.append(torch.cat([within, beside[None]]) * ratio)
            encoder.scales[i] = scale * ratio
        encoder.origins.copy_(torch.cat(origins))


def _principal(features: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (C,) of (B, C, H, W), its principal directions as orthonormal
    rows (rank, C), and the standard deviation along them."""
    x = features.float().transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(x).cpu())
    basis = vectors[:, -rank:].flip(1).T.contiguous()
    # The signs are arbitrary and differ between machines.
    basis *= basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()
    basis = basis.to(x)
    return x.mean(dim=1), basis, values[-rank:].mean().sqrt().to(x)


def missed(encoder: StyleEncoder, images: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """Return the share of each layer's power that the encoder misses, (layers,)."""
    found = encoder.components(images)
    return torch.stack(
        [
            (f.float() - w).square().mean() / w.square().mean()
            for f, w in zip(found, wanted, strict=True)
        ]
    )
