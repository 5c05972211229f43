"""Train a predictor of any style, on a fixed trunk.

Gradient descent on the whole predictor, through trunk and loss network, converges
slowly, so it is trained in parts. The encoder takes :mod:`.lessons` from the loss
network. With the encoder, the vectors of many style pictures are refined as those of
captured pictures are, but without changes to kernels. Every so often the head is fitted
to all of these by regression, so that the next ones start nearer.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..engine import pick_device
from ..errors import TrainingError
from ..losses import LossNetwork
from ..networks import StyleNetwork, autocast, paint, stack_styles
from ..predictor import (
    StylePredictor,
    load_predictor,
    refine,
    save_predictor,
)
from ..style import StyleInfo, bundled_predictor, bundled_trunk, read_info
from ..weights import hash_trunk, load_style, save_trunk
from .config import TrainConfig
from .data import Archive, Photographs, random_part, recoloured
from .learner import load_loss_network, load_own_trunk
from .lessons import Teacher, missed
from .outputs import all_or_none, belongs, check_places
from .state import (
    SAVE_EVERY,
    State,
    hash_tensors,
    load_checkpoint,
    one_cycle,
    process_and_count,
    save_checkpoint,
    step_rng,
)

logger = logging.getLogger(__name__)

USED = ("steps", "batch_size", "style_size", "seed")
"""Settings of a training that apply here."""
_LESSONS = 2400
_LESSON_RATE = 3e-3
_LESSON = 12
"""Crops per lesson: a quarter from photographs, a sixth painted, the rest artworks."""
_LESSON_ZOOMS = (0.5, 1.3)
_CROP = 192
"""Side of the crops, in pixels."""
_ZOOMS = (0.5, 0.75)
"""Range of magnifications of the photographs that vectors are refined on; a crop shows
most of a photograph."""
_STEPS = 12
"""Refinement steps for the vectors of a batch."""
_FIRST = 10
"""Number of first batches, refined for six times as many steps: they start far away."""
_REVIEW = 20
"""Number of batches after which the head is fitted to all vectors so far."""
_EPOCHS = 100
_TAUGHT = 32
"""Style pictures per training step of the head."""
_HEAD_RATE = 2e-3
_NOISE = 0.6
"""Standard deviation of the noise on the standardised statistics in these steps."""


def train_predictor(
    content: Path,
    loss_network: Path,
    out: Path,
    *,
    config: TrainConfig,
    trunk: Path,
    archive: Path,
    held_out: Iterable[str] = (),
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    overwrite: bool = False,
    command: str = "",
) -> Path:
    """Train a predictor of any style for ``trunk``; return its path in ``out``.

    The trunk is written beside it, unless it is already there or is bundled.
    ``archive`` is a folder of artworks; those named in ``held_out`` are left out. The
    other parameters are those of :func:`~styleplug.training.loop.train`. Each step
    refines the vectors of a batch of style pictures. If there is a predictor beside
    ``trunk``, its encoder is kept and its head predicts the initial vectors. At the end
    a head is trained from scratch, on the pictures of this training alone.

    Raises, before training, what :func:`~styleplug.training.loop.train` raises.
    """
    device = pick_device(device)
    path, out_trunk = out / bundled_predictor().name, out / bundled_trunk().name
    results = [path]
    beside = out_trunk if out_trunk.exists() else bundled_trunk()
    if not belongs(beside, read_info(trunk).trunk):
        results.append(out_trunk)
    checkpoints = checkpoint, checkpoint_of_lessons(checkpoint)
    check_places(out, results, checkpoints, overwrite=overwrite)
    torch.manual_seed(config.seed)
    network = load_own_trunk(trunk).to(device).requires_grad_(False)
    photographs = Photographs(content)
    pictures = Archive(archive, config.style_size, held_out)
    identity = {
        "config": {name: getattr(config, name) for name in USED},
        "archive": len(pictures.images),
        "files of the archive": pictures.files,
        "photographs": len(photographs.images),
        "files of the photographs": photographs.files,
        "loss_network": loss_network.name,
        "trunk": hash_trunk(network),
    }
    predictor = predictor_beside(trunk)
    anew = predictor is None
    if predictor is None:
        loss_net = load_loss_network(loss_network, photographs, config, device)
        predictor = taught_predictor(
            trunk,
            network,
            photographs,
            pictures,
            loss_net,
            identity,
            config,
            checkpoint,
        )
    predictor = predictor.to(device)
    encoder = (tensor.half() for tensor in predictor.encoder.state_dict().values())
    identity["start of the predictor"] = hash_tensors(encoder)
    fits = _Fits(predictor, config, identity, anew=anew)
    if checkpoint:
        fits.resume(checkpoint)
    _fit(fits, predictor, network, photographs, pictures, config, checkpoint)
    told = StyleInfo(
        "predictor",
        trunk=hash_trunk(network),
        base_size=config.style_size,
        training={
            "command": command,
            "loss_network": loss_network.name,
            "photographs": len(photographs.images),
            "artworks": len(pictures.images),
            "lessons": _LESSONS,
            **{name: getattr(config, name) for name in USED},
        },
    )
    with all_or_none(out) as folder:
        save_predictor(folder / path.name, predictor, told)
        if out_trunk in results:
            known = read_info(trunk)  # perhaps of a style that contains the trunk
            known = StyleInfo(
                "trunk", base_size=known.base_size, training=known.training
            )
            save_trunk(folder / out_trunk.name, network, known)
    return path


def checkpoint_of_lessons(checkpoint: Path | None) -> Path | None:
    """Return the path of the checkpoint of the encoder's lessons, beside the other."""
    return checkpoint and checkpoint.with_name(f"{checkpoint.name}.lessons")


def taught_predictor(
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
    lessons = checkpoint_of_lessons(checkpoint)
    if checkpoint and lessons and checkpoint.exists() and not lessons.exists():
        raise TrainingError(
            f"The checkpoint {checkpoint} can only be resumed with {lessons}, which is "
            "missing; restore it, or name another file to start anew."
        )
    device = network.photo.device
    predictor = StylePredictor(network.style_size)
    predictor.begin_at(network.photo.detach().cpu())
    predictor = predictor.to(device)
    styles = _styles_beside(trunk, network)
    pupil = predictor.encoder.to(memory_format=torch.channels_last)

    def lesson(count: int, rng: Generator) -> Tensor:
        of_photographs, painted = count // 4, count // 6
        seen = [
            pictures.crops(count - of_photographs - painted, _CROP, _LESSON_ZOOMS, rng),
            photographs.crops(of_photographs, _CROP, _LESSON_ZOOMS, rng),
        ]
        contents = photographs.crops(painted, _CROP, _LESSON_ZOOMS, rng)
        picked = styles[torch.randint(len(styles), (2, painted), generator=rng)]
        between = picked[0].lerp(picked[1], torch.rand(painted, 1, generator=rng))
        light = network.LIGHT
        strength = light + (1 - light) * torch.rand(painted, generator=rng)
        with torch.no_grad():
            paintings = paint(
                network,
                contents.to(device),
                between.to(device),
                strength.to(device),
                dtype=loss_network.dtype,
            )
        return torch.cat([recoloured(torch.cat(seen), rng).to(device), paintings])

    teacher = Teacher(loss_network, lesson(24, step_rng(config.seed, -3)), pupil.ranks)
    teacher.settle(pupil)
    settings = dataclasses.replace(
        config, steps=_LESSONS, learning_rate=_LESSON_RATE, patience=0
    )
    # Includes the buffers that settle() sets, which differ between machines.
    learned = pupil.state_dict(keep_vars=True)
    state = State(learned, settings, {**identity, "lessons": _LESSONS})
    if lessons:
        state.resume(lessons)
    process, _ = process_and_count(config)
    saves = lessons if process == 0 else None
    saved = began = time.monotonic()
    while state.step < _LESSONS:
        images = lesson(_LESSON, step_rng(config.seed, state.step))
        wanted = teacher(images)
        with autocast(device, loss_network.dtype):
            found = missed(pupil, images, wanted)
        state.descend(found.sum())
        if state.step % 100 == 0:
            logger.info(
                "lesson %d/%d  missed %s  %.0f s",
                state.step,
                _LESSONS,
                " ".join(f"{share:.3f}" for share in found.tolist()),
                time.monotonic() - began,
            )
        if saves and time.monotonic() - saved > SAVE_EVERY:
            state.save(saves)
            saved = time.monotonic()
    if saves:
        state.save(saves)
    predictor.requires_grad_(False)
    return predictor


def predictor_beside(trunk: Path | None) -> StylePredictor | None:
    """Return a copy of the predictor that lies beside its trunk, if there is one."""
    if trunk is None:
        return None
    path = trunk.with_name(bundled_predictor().name)
    if not path.exists():
        return None
    info, predictor = load_predictor(path)
    if info.trunk != read_info(trunk).trunk:
        return None
    return copy.deepcopy(predictor)


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


class _Fits:
    """Statistics and refined vectors of the style pictures so far."""

    def __init__(
        self,
        predictor: StylePredictor,
        config: TrainConfig,
        identity: dict[str, Any],
        *,
        anew: bool,
    ) -> None:
        self.batches = 0
        self.anew = anew
        """Whether the head started untrained; otherwise it predicts better than one
        fitted to a few batches would."""
        self._predictor = predictor
        self._seed = config.seed
        self._identity = identity
        self._statistics: list[Tensor] = []
        self._vectors: list[Tensor] = []

    def add(self, statistics: Tensor, vectors: Tensor) -> None:
        """Add a batch, (B, S) and (B, K); refit a new head every few batches."""
        self._statistics.append(statistics.cpu())
        self._vectors.append(vectors.cpu())
        self.batches += 1
        if self.anew and self.batches % _REVIEW == 0:
            self.review()

    def review(self) -> None:
        """Fit the predictor's head to all pictures so far."""
        statistics, vectors = torch.cat(self._statistics), torch.cat(self._vectors)
        teach_head(self._predictor, statistics, vectors, self._seed)

    def save(self, path: Path) -> None:
        """Write a checkpoint; if that fails, log a warning and keep the last one."""
        tensors = {
            "statistics": torch.stack(self._statistics),
            "vectors": torch.stack(self._vectors),
        }
        called = f"the checkpoint of batch {self.batches}"
        save_checkpoint(path, tensors, self._identity, {}, called)

    def resume(self, path: Path) -> None:
        """Resume from the checkpoint ``path`` if it exists."""
        if not path.exists():
            return
        tensors, _ = load_checkpoint(path, self._identity)
        pairs = zip(tensors["statistics"], tensors["vectors"], strict=True)
        reviewed = len(tensors["vectors"]) // _REVIEW * _REVIEW if self.anew else 0
        for i, (statistics, vectors) in enumerate(pairs, start=1):
            self._statistics.append(statistics)
            self._vectors.append(vectors)
            if i == reviewed:
                self.review()
        self.batches = len(self._vectors)


def _fit(
    fits: _Fits,
    predictor: StylePredictor,
    network: StyleNetwork,
    photographs: Photographs,
    pictures: Archive,
    config: TrainConfig,
    checkpoint: Path | None,
) -> None:
    """Refine the vectors of the style pictures of the remaining steps."""
    device = network.photo.device
    saved = began = time.monotonic()
    while fits.batches < config.steps:
        rng = step_rng(config.seed, fits.batches)
        glimpses = (
            random_part(pictures.draw(rng), 1.0, rng) for _ in range(config.batch_size)
        )
        seen = [recoloured(image, rng).to(device) for image in glimpses]
        far = fits.anew and fits.batches < _FIRST
        steps = _STEPS * (6 if far else 1)
        contents = [
            photographs.crops(len(seen), _CROP, _ZOOMS, rng).to(device)
            for _ in range(steps)
        ]
        with torch.no_grad():
            told = [predictor.statistics(image, config.style_size) for image in seen]
            statistics = torch.cat(told)
            vectors = predictor.predict(statistics)
            grams = [predictor.grams(image) for image in seen]
        together = {
            layer: torch.cat([found[layer] for found in grams]) for layer in grams[0]
        }
        refined = refine(network, predictor.encoder, vectors, together, contents)
        fits.add(statistics, refined)
        if fits.batches % 10 == 0:
            logger.info(
                "batch %d/%d  moved by %.3f  %.0f s",
                fits.batches,
                config.steps,
                (refined - vectors).square().mean().sqrt().item(),
                time.monotonic() - began,
            )
        if checkpoint and time.monotonic() - saved > SAVE_EVERY:
            fits.save(checkpoint)
            saved = time.monotonic()
    if checkpoint:
        fits.save(checkpoint)
    fits.review()


def teach_head(
    predictor: StylePredictor, statistics: Tensor, vectors: Tensor, seed: int
) -> None:
    """Fit a predictor's head to vectors (N, K), given statistics (N, S).

    The head is trained from scratch. There are more statistics than pictures, so noise
    on them and strong weight decay keep it from memorising the pictures.
    """
    device = predictor.usual.device
    statistics, vectors = statistics.to(device), vectors.to(device)
    spread, mean = torch.std_mean(statistics, dim=0, correction=0)
    predictor.usual.copy_(mean)
    predictor.spread.copy_(spread + 1e-3 * spread.mean())
    statistics = predictor.standardise(statistics)
    spread, mean = torch.std_mean(vectors, dim=0, correction=0)
    wanted = (vectors - mean) / (spread + 1e-6)

    rng = step_rng(seed, -4)
    head = copy.deepcopy(predictor.head).requires_grad_(True)
    for layer in head:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                tensor.data = torch.empty(tensor.shape).uniform_(
                    -bound, bound, generator=rng
                )
    head = head.to(device)
    optimizer = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.98), weight_decay=1)
    count = len(vectors)
    steps = _EPOCHS * -(-count // _TAUGHT)
    picks = [
        torch.randperm(count, generator=rng).split(_TAUGHT) for _ in range(_EPOCHS)
    ]
    for step, picked in enumerate(itertools.chain.from_iterable(picks)):
        optimizer.param_groups[0]["lr"] = _HEAD_RATE * one_cycle(step / steps)
        seen = statistics[picked]
        noise = _NOISE * torch.randn(seen.shape, generator=rng).to(device)
        optimizer.zero_grad()
        (head(seen + noise) - wanted[picked]).square().mean().backward()
        optimizer.step()
    last = head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data *= spread[:, None]
    last.bias.data = last.bias.data * spread + mean
    predictor.head.load_state_dict(head.state_dict())
