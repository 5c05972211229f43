"""Train a predictor of any style, on a fixed trunk.

Gradient descent on the whole predictor, through trunk and loss network, converges
slowly, so it is trained in parts. The encoder is trained by :mod:`.distillation` of the
loss network. With the encoder, the vectors of many style pictures are refined as those
of captured pictures are, but without changes to kernels. Every so often the head is
fitted to all of these by regression, so that the next ones start nearer.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import pick_device
from ..networks import StyleNetwork
from ..predictor import StylePredictor, load_predictor, refine, save_predictor
from ..style import StyleInfo, bundled_predictor, bundled_trunk, read_info
from ..weights import hash_trunk, save_trunk
from .config import TrainConfig
from .data import Archive, Photographs, random_part, recoloured
from .distillation import DISTILLATION_STEPS, distilled_predictor, encoder_checkpoint
from .learner import load_loss_network, load_own_trunk
from .outputs import all_or_none, belongs, check_places
from .state import (
    SAVE_EVERY,
    hash_tensors,
    load_checkpoint,
    one_cycle,
    save_checkpoint,
    step_rng,
)

logger = logging.getLogger(__name__)

USED = ("steps", "batch_size", "style_size", "seed")
"""Settings of a training that apply here."""
_CROP = 192
"""Side of the crops, in pixels."""
_ZOOMS = (0.5, 0.75)
"""Range of magnifications of the photographs that vectors are refined on; a crop shows
most of a photograph."""
_STEPS = 12
"""Refinement steps for the vectors of a batch."""
_FIRST = 10
"""Number of first batches, refined for six times as many steps: they start far away."""
_REFIT_EVERY = 20
"""Number of batches between two fits of the head to all vectors so far."""
_EPOCHS = 100
_HEAD_BATCH = 32
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
    existing = out_trunk if out_trunk.exists() else bundled_trunk()
    if not belongs(existing, read_info(trunk).trunk):
        results.append(out_trunk)
    checkpoints = checkpoint, encoder_checkpoint(checkpoint)
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
    new_head = predictor is None
    if predictor is None:
        loss_net = load_loss_network(loss_network, photographs, config, device)
        predictor = distilled_predictor(
            *(trunk, network, photographs, pictures, loss_net),
            *(identity, config, checkpoint),
        )
    predictor = predictor.to(device)
    encoder = (tensor.half() for tensor in predictor.encoder.state_dict().values())
    identity["start of the predictor"] = hash_tensors(encoder)
    examples = _Examples(predictor, config, identity, new_head=new_head)
    if checkpoint:
        examples.resume(checkpoint)
    _add_examples(
        *(examples, predictor, network, photographs, pictures, config, checkpoint)
    )
    info = StyleInfo(
        "predictor",
        trunk=hash_trunk(network),
        base_size=config.style_size,
        training={
            "command": command,
            "loss_network": loss_network.name,
            "photographs": len(photographs.images),
            "artworks": len(pictures.images),
            "distillation_steps": DISTILLATION_STEPS,
            **{name: getattr(config, name) for name in USED},
        },
    )
    with all_or_none(out) as folder:
        save_predictor(folder / path.name, predictor, info)
        if out_trunk in results:
            info = read_info(trunk)  # perhaps of a style that contains the trunk
            info = StyleInfo("trunk", base_size=info.base_size, training=info.training)
            save_trunk(folder / out_trunk.name, network, info)
    return path


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


class _Examples:
    """Examples for the head: statistics and refined vectors of style pictures."""

    def __init__(
        self,
        predictor: StylePredictor,
        config: TrainConfig,
        identity: dict[str, Any],
        *,
        new_head: bool,
    ) -> None:
        self.batches = 0
        self.new_head = new_head
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
        if self.new_head and self.batches % _REFIT_EVERY == 0:
            self.fit()

    def fit(self) -> None:
        """Fit the predictor's head to all pictures so far."""
        statistics, vectors = torch.cat(self._statistics), torch.cat(self._vectors)
        fit_head(self._predictor, statistics, vectors, self._seed)

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
        count = len(tensors["vectors"])
        last_fit = count - count % _REFIT_EVERY if self.new_head else 0
        for i, (statistics, vectors) in enumerate(pairs, start=1):
            self._statistics.append(statistics)
            self._vectors.append(vectors)
            if i == last_fit:
                self.fit()
        self.batches = count


def _add_examples(
    examples: _Examples,
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
    while examples.batches < config.steps:
        rng = step_rng(config.seed, examples.batches)
        parts = (
            random_part(pictures.draw(rng), 1.0, rng) for _ in range(config.batch_size)
        )
        images = [recoloured(part, rng).to(device) for part in parts]
        far = examples.new_head and examples.batches < _FIRST
        steps = _STEPS * (6 if far else 1)
        contents = [
            photographs.crops(config.batch_size, _CROP, _ZOOMS, rng).to(device)
            for _ in range(steps)
        ]
        with torch.no_grad():
            statistics = torch.cat(
                [predictor.statistics(image, config.style_size) for image in images]
            )
            vectors = predictor.predict(statistics)
            each = [predictor.grams(image) for image in images]
        grams = {layer: torch.cat([g[layer] for g in each]) for layer in each[0]}
        refined = refine(network, predictor.encoder, vectors, grams, contents)
        examples.add(statistics, refined)
        if examples.batches % 10 == 0:
            logger.info(
                "batch %d/%d  moved by %.3f  %.0f s",
                examples.batches,
                config.steps,
                (refined - vectors).square().mean().sqrt().item(),
                time.monotonic() - began,
            )
        if checkpoint and time.monotonic() - saved > SAVE_EVERY:
            examples.save(checkpoint)
            saved = time.monotonic()
    if checkpoint:
        examples.save(checkpoint)
    examples.fit()


def fit_head(
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
    targets = (vectors - mean) / (spread + 1e-6)

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
    steps = _EPOCHS * -(-count // _HEAD_BATCH)
    batches = [
        torch.randperm(count, generator=rng).split(_HEAD_BATCH) for _ in range(_EPOCHS)
    ]
    for step, batch in enumerate(itertools.chain.from_iterable(batches)):
        optimizer.param_groups[0]["lr"] = _HEAD_RATE * one_cycle(step / steps)
        inputs = statistics[batch]
        noise = _NOISE * torch.randn(inputs.shape, generator=rng).to(device)
        optimizer.zero_grad()
        (head(inputs + noise) - targets[batch]).square().mean().backward()
        optimizer.step()
    last = head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data *= spread[:, None]
    last.bias.data = last.bias.data * spread + mean
    predictor.head.load_state_dict(head.state_dict())
