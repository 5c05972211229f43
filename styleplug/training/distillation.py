"""Train the encoder of a new predictor: distil the loss network into it.

No labels are needed, only pictures: the small encoder, the student, learns to give the
principal components of the features of its teacher, the loss network (knowledge
distillation, Hinton, Vinyals & Dean 2015, arXiv 1503.02531; of features, Romero et al.
2015, "FitNets", arXiv 1412.6550).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..encoder import StyleEncoder
from ..errors import TrainingError
from ..losses import STYLE_LAYERS, Features, LossNetwork
from ..networks import StyleNetwork, autocast, paint, stack_styles
from ..predictor import StylePredictor
from ..style import bundled_predictor, read_info
from ..weights import load_style
from .config import TrainConfig
from .data import Archive, Photographs, recoloured
from .outputs import belongs
from .state import SAVE_EVERY, State, process_and_count, step_rng

logger = logging.getLogger(__name__)

DISTILLATION_STEPS = 2400
_RATE = 3e-3
_BATCH = 12
"""Crops per step: a quarter from photographs, a sixth painted, the rest artworks."""
_CROP = 192
"""Side of the crops, in pixels."""
_SCALES = (0.5, 1.3)
"""Range of magnifications of the pictures that they are taken from."""


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
        components = []
        for layer, (mean, basis, scale) in self._layers.items():
            x = features[layer].float() - mean[:, None, None]
            components.append(nn.functional.conv2d(x, (basis / scale)[..., None, None]))
        return components

    def calibrate(self, encoder: StyleEncoder) -> None:
        """Tell an encoder where its components lie in the loss network's feature space.

        Losses average over channels, of which the encoder has fewer. Lengths are scaled
        by the square root of the ratio, so that the averages are the same.
        """
        origins = []
        for i, (mean, basis, scale) in enumerate(self._layers.values()):
            projection = basis @ mean
            distance = (mean - basis.T @ projection).norm()
            ratio = ((len(basis) + 1) / len(mean)) ** 0.5
            origins.append(torch.cat([projection, distance[None]]) * ratio)
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


def unexplained_power(
    encoder: StyleEncoder, images: Tensor, targets: Sequence[Tensor]
) -> Tensor:
    """Return the share of the power of each layer's targets that the encoder does not
    reproduce, (layers,)."""
    components = encoder.components(images)
    return torch.stack(
        [
            (x.float() - target).square().mean() / target.square().mean()
            for x, target in zip(components, targets, strict=True)
        ]
    )


def encoder_checkpoint(checkpoint: Path | None) -> Path | None:
    """Return the path of the checkpoint of the encoder, beside the other one."""
    return checkpoint and checkpoint.with_name(f"{checkpoint.name}.encoder")


def distilled_predictor(
    trunk: Path | None,
    network: StyleNetwork,
    photographs: Photographs,
    pictures: Archive,
    loss_network: LossNetwork,
    identity: dict[str, Any],
    config: TrainConfig,
    checkpoint: Path | None,
) -> StylePredictor:
    """Return a new predictor for ``network`` with a trained encoder.

    The encoder's checkpoint is saved beside the ``checkpoint`` of the training, which
    has this ``identity``. With several processes, all train the same encoder and the
    first one saves it.
    """
    path = encoder_checkpoint(checkpoint)
    if checkpoint and path and checkpoint.exists() and not path.exists():
        raise TrainingError(
            f"The checkpoint {checkpoint} can only be resumed with {path}, which is "
            "missing; restore it, or name another file to start anew."
        )
    device = network.photo.device
    predictor = StylePredictor(network.style_size)
    predictor.begin_at(network.photo.detach().cpu())
    predictor = predictor.to(device)
    styles = _styles_beside(trunk, network)
    student = predictor.encoder.to(memory_format=torch.channels_last)

    def draw_batch(count: int, rng: Generator) -> Tensor:
        of_photographs, painted = count // 4, count // 6
        originals = [
            pictures.crops(count - of_photographs - painted, _CROP, _SCALES, rng),
            photographs.crops(of_photographs, _CROP, _SCALES, rng),
        ]
        contents = photographs.crops(painted, _CROP, _SCALES, rng)
        pairs = styles[torch.randint(len(styles), (2, painted), generator=rng)]
        blends = pairs[0].lerp(pairs[1], torch.rand(painted, 1, generator=rng))
        light = network.LIGHT
        strength = light + (1 - light) * torch.rand(painted, generator=rng)
        with torch.no_grad():
            paintings = paint(
                network,
                contents.to(device),
                blends.to(device),
                strength.to(device),
                dtype=loss_network.dtype,
            )
        return torch.cat([recoloured(torch.cat(originals), rng).to(device), paintings])

    examples = draw_batch(24, step_rng(config.seed, -3))
    teacher = Teacher(loss_network, examples, student.ranks)
    teacher.calibrate(student)
    settings = dataclasses.replace(
        config, steps=DISTILLATION_STEPS, learning_rate=_RATE, patience=0
    )
    # Includes the buffers that calibrate() sets, which differ between machines.
    learned = student.state_dict(keep_vars=True)
    identity = {**identity, "distillation steps": DISTILLATION_STEPS}
    state = State(learned, settings, identity)
    if path:
        state.resume(path)
    process, _ = process_and_count(config)
    saves = path if process == 0 else None
    saved = began = time.monotonic()
    while state.step < state.steps:
        images = draw_batch(_BATCH, step_rng(config.seed, state.step))
        targets = teacher(images)
        with autocast(device, loss_network.dtype):
            unexplained = unexplained_power(student, images, targets)
        state.descend(unexplained.sum())
        if state.step % 100 == 0:
            logger.info(
                "encoder %d/%d  unexplained %s  %.0f s",
                state.step,
                state.steps,
                " ".join(f"{share:.3f}" for share in unexplained.tolist()),
                time.monotonic() - began,
            )
        if saves and time.monotonic() - saved > SAVE_EVERY:
            state.save(saves)
            saved = time.monotonic()
    if saves:
        state.save(saves)
    predictor.requires_grad_(False)
    return predictor


def _styles_beside(trunk: Path | None, network: StyleNetwork) -> Tensor:
    """Return the vectors (N, K), or longer, of the styles beside their trunk.

    The first one is the network's ``photo``.
    """
    vectors = [network.photo.detach().cpu()]
    if trunk is not None:
        name = read_info(trunk).trunk
        others = (trunk.name, bundled_predictor().name)
        for path in sorted(trunk.parent.glob("*.safetensors")):
            if path.name not in others and belongs(path, name):
                vectors.append(load_style(path).vector)
    return stack_styles(vectors)
