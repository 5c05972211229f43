"""``styleplug train``: learn styles from artworks and photographs.

    styleplug train ARTWORK...
    styleplug train ARTWORK... --content PHOTOS --out DIR --new-trunk
    styleplug train ARTWORK... --content PHOTOS --out DIR --any --styles ARTWORKS
    styleplug train --content PHOTOS --out DIR --any --styles ARTWORKS --keep-trunk

The first fits the vectors of new styles on the bundled trunk, in minutes. The second
trains a trunk together with the styles that will share it, in an hour or more. The
third goes on training a trunk and its styles, together with a predictor that finds
the vector of any picture; the fourth only the predictor.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn

from .. import hub
from ..engine import computes_bfloat16, pick_device
from ..errors import TrainingError
from ..images import read_picture
from ..networks import (
    StyleNetwork,
    hash_trunk,
    load_style,
    load_trunk,
    save_style,
    save_trunk,
)
from ..predictor import StylePredictor, capture, load_predictor, save_predictor
from ..style import (
    StyleInfo,
    bundled_predictor,
    bundled_trunk,
    is_style_name,
    read_info,
)
from .data import Archive, Photographs, crop, folder_images, glimpse, load_artwork
from .learner import Batch, Learner, Losses, paint
from .losses import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    LossNetwork,
    content_loss,
    gram_matrix,
    style_loss,
)

logger = logging.getLogger(__name__)

_SAVE_EVERY = 180.0
"""Seconds between two checkpoints."""
_KEEP_EVERY = 50
"""Steps between two states that a loss that is not finite steps back to."""
_MEASURED = 12
"""Photographs that the figures are measured on, at most."""
SCENES = Path(__file__).parents[1] / "demo" / "examples"
"""Pictures that are always at hand: landscapes and a still life, drawn by code."""
_FIT: dict[str, Any] = {
    "steps": 190,
    "batch_size": 1,
    "crop_size": 192,
    "scales": (0.5, 0.75),
    "learning_rate": 1.7e-2,
    "stability_weight": 0.0,
}
"""Settings that fit vectors on a trunk, in a minute on two CPU cores without
bfloat16. Crops show as much of a photograph as a trunk's do, at half the size: a step
costs a quarter, and gets as far. Steadiness is the trunk's concern."""
_TOLD = tuple(
    field.name
    for field in dataclasses.fields(StyleInfo)
    if field.type == "str" and field.name != "trunk"
)
"""Header fields that are told about an artwork."""
_WEAK = 0.4
"""Share of the photographs' style distance that a good style stays below."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; they are stored with the weights."""

    steps: int = 5400
    batch_size: int = 2
    crop_size: int = 384
    """Pixels; crops are taken from photographs magnified by ``scales``."""
    scales: tuple[float, float] = (1.0, 1.5)
    style_size: int = 512
    """Geometric mean side of the artworks, in pixels: the stroke size."""
    content_weight: float = 1.0
    style_weight: float = 60.0
    far: float = 0.5
    """Relative distance ‖G - A‖ / ‖A‖ from which on it counts as it is, not squared:
    dark artworks, which all photographs are far from, are not to outweigh the rest."""
    tv_weight: float = 5.0
    learning_rate: float = 7e-4
    """Peak of a one-cycle schedule."""
    vector_rate: float = 6.0
    """Learning rate of the style vectors, as a multiple of ``learning_rate``."""
    varied_strength: float = 0.3
    """Share of the crops that is trained at a strength below 1."""
    any_share: float = 0.5
    """Share of a batch whose styles are predicted, when a predictor is trained."""
    any_size: int = 512
    """Geometric mean side of the artworks that any style is learned from."""
    identity_share: float = 0.1
    """Share of the predicted styles whose picture is the content image itself."""
    identity_weight: float = 300.0
    """Weight of the mean squared difference of pixels there, in place of the style."""
    noise: float = 0.03
    """Standard deviation, at most, of the noise that paintings are to be steady in."""
    shift: int = 4
    """Pixels, at most, of the movement that paintings are to be steady in."""
    stability_weight: float = 200.0
    """Weight of the mean squared difference of pixels that both make."""
    patience: int = 0
    """Steps without a better loss after which the training stops; 0: never."""
    seed: int = 0

    def __post_init__(self) -> None:
        stride = StyleNetwork.STRIDE
        ranges = {
            "steps": (1, math.inf),
            "batch_size": (1, math.inf),
            "patience": (0, math.inf),
            "noise": (0, math.inf),
            "shift": (0, stride),
            "crop_size": (48, math.inf),
            "style_size": (64, 4096),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.crop_size % stride:
            raise ValueError(
                f"crop_size must be a multiple of {stride}, got {self.crop_size}"
            )
        low, high = self.scales
        if not 0 < low <= high < math.inf:
            raise ValueError(
                "scales must be two numbers above 0, the larger last, "
                f"got {low} and {high}"
            )


def train(
    artworks: Sequence[Path],
    content: Path,
    loss_network: Path,
    out: Path,
    *,
    config: TrainConfig | None = None,
    trunk: Path | None = None,
    train_trunk: bool = False,
    start: Sequence[Path] = (),
    archive: Path | None = None,
    held_out: Iterable[str] = (),
    about: dict[str, dict[str, Any]] | None = None,
    device: str | torch.device | None = None,
    measure: Path | None = None,
    checkpoint: Path | None = None,
    sheet: Path | None = None,
    overwrite: bool = False,
    command: str = "",
) -> list[Path]:
    """Train a style for each artwork, write them into ``out``, return their paths.

    With ``trunk`` only the vectors are learned, on that trunk, unless ``train_trunk``
    says that it is trained on; without it a new trunk is trained. A trunk that was
    trained is written as ``trunk.safetensors``; styles of a trunk that is neither
    there nor bundled hold it themselves. ``start`` are styles of the trunk that the
    vectors begin from, one for each artwork; without them, vectors on the bundled trunk
    begin where its predictor sees them. ``archive`` is a folder of artworks: a
    predictor of any style is learned from them, but for those named in ``held_out``,
    and written as ``predictor.safetensors``; one of the trunk's, beside it, is trained
    on. ``about`` gives the header fields of a style by the file name of its artwork.
    The photographs in ``measure`` are not trained on; the figures in the headers are
    measured on them. ``checkpoint`` is written every few minutes and continued from
    when it is there; ``sheet`` is a picture of the progress. ``overwrite`` allows to
    replace files in ``out``. ``command`` is what the headers name as having been run.

    In a process group of torch.distributed, every process takes its part of each
    batch, and the first one writes.

    Raises, before it trains, :class:`~styleplug.errors.TrainingError` and
    :class:`~styleplug.errors.DeviceError`, and ``FileExistsError`` for a file that is
    not to be replaced.
    """
    config = config or TrainConfig()
    device = pick_device(device)
    rank, processes = _place(config)
    train_trunk = train_trunk or trunk is None
    infos = _describe(artworks, config, about or {})
    paths = [out / f"{info.name}.safetensors" for info in infos]
    out_trunk, out_predictor = (
        out / bundled_trunk().name,
        out / bundled_predictor().name,
    )
    results = paths.copy()
    if train_trunk:
        results.append(out_trunk)
    if archive is not None:
        results.append(out_predictor)
    _check_places(
        out,
        results,
        [path for path in (checkpoint, sheet) if path],
        overwrite=overwrite,
    )
    torch.manual_seed(config.seed)
    photographs = Photographs(content)
    tests = Photographs(measure) if measure else photographs
    pictures = None
    if archive is not None:
        pictures = Archive(archive, config.any_size, held_out)
    dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    loss_net = LossNetwork(loss_network, dtype=dtype).to(device)
    rng = _rng(config.seed, -1)
    loss_net.calibrate(photographs.crops(32, 256, (1.0, 1.0), rng).to(device))
    images = [load_artwork(path, config.style_size) for path in artworks]
    wanted = _targets(images, loss_net, device)
    learned_from, grams = loss_net, wanted
    if not train_trunk:
        seen = [image[0].mul(255).round().byte() for image in images]
        if pictures is not None:
            seen += pictures.images
        learned_from = _thinned(loss_net, photographs, seen, config, device)
        grams = _targets(images, learned_from, device)

    network = StyleNetwork() if trunk is None else copy.deepcopy(load_trunk(trunk))
    network = network.to(device).requires_grad_(train_trunk)
    trunks = [path for path in (bundled_trunk(), out_trunk) if path.exists()]
    shared = train_trunk or hash_trunk(network) in {read_info(p).trunk for p in trunks}
    vectors = _first_vectors(network, artworks, start, new=trunk is None)
    predictor = None
    if pictures is not None:
        typical = vectors.mean(dim=0) if artworks else network.photo.detach()
        predictor = _first_predictor(trunk, typical).to(device)
    learner = Learner(network, vectors, predictor)
    state = _State(
        learner,
        config,
        {
            "config": dataclasses.asdict(config),
            "artworks": [path.name for path in artworks],
            "archive": pictures and len(pictures.images),
            "trunk": train_trunk or hash_trunk(network),
        },
    )
    if checkpoint:
        state.resume(checkpoint)
    sampler = _Sampler(photographs, pictures, grams, learned_from, config, device)
    parallel: nn.Module = learner
    if processes > 1:
        parallel = nn.parallel.DistributedDataParallel(
            learner, find_unused_parameters=predictor is not None
        )

    def save() -> None:
        if checkpoint and rank == 0:
            state.save(checkpoint)

    def draw() -> None:
        if sheet and rank == 0:
            shown = learner.vectors.detach()
            if predictor is not None:
                shown = torch.cat([shown, sampler.examples(predictor)])
            draw_sheet(sheet, network, shown, photographs)

    report = _Report(config)
    saved = time.monotonic()
    while state.step < config.steps and not state.stuck:
        batch = sampler.batch(state.step, rank, processes)
        losses = parallel(batch, learned_from)
        loss = _total(losses, batch, config)
        state.descend(loss)
        report.add(state.step, losses, batch)
        if time.monotonic() - saved > _SAVE_EVERY:
            save()
            draw()
            saved = time.monotonic()
    save()
    if state.stuck:
        logger.info(
            "stopped at step %d: no better for %d steps", state.step, config.patience
        )
    if rank > 0:
        return []

    info = {
        "command": command,
        "loss_network": loss_network.name,
        "activations": loss_net.activations,
        "photographs": len(photographs.images),
        **dataclasses.asdict(config),
        "steps": state.step,
    }
    figures = [
        _figures(network, loss_net, style, tests.images[:_MEASURED], _pick(wanted, i))
        for i, style in enumerate(learner.vectors.detach())
    ]
    if train_trunk:
        kept = StyleInfo("trunk", base_size=config.style_size, training=info)
        save_trunk(out_trunk, network, kept)
    if predictor is not None and pictures is not None:
        told = StyleInfo(
            "predictor",
            trunk=hash_trunk(network),
            base_size=config.style_size,
            training={**info, "artworks": len(pictures.images)},
        )
        save_predictor(out_predictor, predictor, told)
    for path, told, style, measured in zip(
        *(paths, infos, learner.vectors, figures), strict=True
    ):
        told = dataclasses.replace(told, training=info, figures=measured)
        save_style(path, style, network, told, self_contained=not shared)
        _check(told)
    draw()
    return paths


def _check_places(
    out: Path, results: Sequence[Path], progress: Sequence[Path], *, overwrite: bool
) -> None:
    """Make the folder ``out`` of the results; raise unless all can be written."""
    for path in results:
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} is there already; add --overwrite, or name another --out."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be made ({error.strerror}); name another folder."
        ) from error
    for path in (*results, *progress):
        if path.is_dir():
            raise TrainingError(f"{path} is a folder; name a file.")
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({error.strerror}); name another folder, "
                "or create this one."
            ) from error


def _total(losses: Losses, batch: Batch, config: TrainConfig) -> Tensor:
    """Return what is minimised, the mean over the batch."""
    wanted = torch.where(
        batch.itself,
        config.identity_weight * losses.difference,
        config.style_weight * batch.strength**2 * _huber(losses.style, config.far),
    )
    return (
        config.content_weight * losses.content
        + wanted
        + config.tv_weight * losses.variation
        + config.stability_weight * losses.instability
    ).mean()


def _huber(squared: Tensor, far: float) -> Tensor:
    """Return squared distances, growing as the distance does where that is ``far``."""
    distance = squared.clamp(min=far * far).sqrt()
    return torch.where(distance > far, far * (2 * distance - far), squared)


def _place(config: TrainConfig) -> tuple[int, int]:
    """Return the rank of this process, and how many share the work."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    processes = dist.get_world_size()
    if config.batch_size % processes:
        raise TrainingError(
            f"{processes} processes cannot share batches of {config.batch_size}; "
            "choose a --batch-size that is a multiple."
        )
    return dist.get_rank(), processes


def _first_vectors(
    network: StyleNetwork, artworks: Sequence[Path], start: Sequence[Path], *, new: bool
) -> Tensor:
    """Return the vectors (N, K) that the training begins with."""
    device = network.photo.device
    if new:
        return network.new_style().to(device).repeat(len(artworks), 1)
    trunk = hash_trunk(network)
    if start:
        if len(start) != len(artworks):
            raise TrainingError(
                f"There are {len(artworks)} artworks, but {len(start)} styles to "
                "begin from; name one for each."
            )
        loaded = [load_style(path) for path in start]
        for path, style in zip(start, loaded, strict=True):
            if style.info.trunk != trunk:
                raise TrainingError(
                    f"{path} belongs to another trunk; name that one with --trunk."
                )
        return torch.stack([style.vector for style in loaded]).to(device)
    if artworks and bundled_predictor().exists():
        info, _ = load_predictor(bundled_predictor())
        if info.trunk == trunk:
            seen = [capture(read_picture(path), path.stem).vector for path in artworks]
            return torch.stack(seen).to(device)
    return network.photo.detach().repeat(len(artworks), 1)


def _first_predictor(trunk: Path | None, typical: Tensor) -> StylePredictor:
    """Return the predictor beside the trunk, or a new one that predicts ``typical``."""
    if trunk is not None:
        path = trunk.with_name(bundled_predictor().name)
        if path.exists():
            info, predictor = load_predictor(path)
            if info.trunk == read_info(trunk).trunk:
                return copy.deepcopy(predictor).requires_grad_(True)
    predictor = StylePredictor(len(typical))
    predictor.begin_at(typical)
    return predictor


class _Sampler:
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
        self._artworks = len(next(iter(grams.values()), ()))
        share = config.any_share if archive else 0.0
        self._dealt = round((1 - share) * config.batch_size) if self._artworks else 0
        self._archive_grams: dict[int, dict[str, Tensor]] = {}

    def batch(self, step: int, rank: int, processes: int) -> Batch:
        """Return the part of the batch of ``step`` that falls to one process."""
        config = self._config
        rng = _rng(config.seed, step)
        size = config.batch_size
        crops = self._photographs.crops(size, config.crop_size, config.scales, rng)
        strength = torch.rand(size, generator=rng)
        varied = torch.rand(size, generator=rng) < config.varied_strength
        strength = torch.where(varied, strength, 1.0)
        itself = torch.zeros(size, dtype=torch.bool)
        picks = _deal(self._artworks, self._dealt, config.seed, step).tolist()
        grams = [_pick(self._grams, pick) for pick in picks]
        glimpses = []
        mine = range(rank, size, processes)
        for i in range(self._dealt, size):
            pick, picture, kind = self._draw(rng)
            if kind < config.identity_share:
                itself[i], strength[i] = True, 1.0
                crops[i] = crop(picture, config.crop_size, config.scales, rng)
            glimpses.append(glimpse(picture, StylePredictor.SIZE, rng))
            grams.append(self._targets(pick) if i in mine else {})
        own = list(mine)
        noise = None
        if config.stability_weight:
            noise = torch.randn(crops.shape, generator=rng)
            noise *= config.noise * torch.rand(size, 1, 1, 1, generator=rng)
            noise = noise[own].to(self._device)
        low, high = -config.shift, config.shift + 1
        shift = torch.randint(low, high, (2,), generator=rng).tolist()
        return Batch(
            crops[own].to(self._device),
            strength[own].to(self._device),
            torch.tensor([picks[i] for i in own if i < self._dealt], dtype=torch.long),
            [
                glimpses[i - self._dealt].to(self._device)
                for i in own
                if i >= self._dealt
            ],
            {
                layer: torch.cat([grams[i][layer].float() for i in own])
                for layer in STYLE_LAYERS
            },
            itself[own].to(self._device),
            noise,
            (shift[0], shift[1]),
        )

    def _draw(self, rng: Generator) -> tuple[int, Tensor, float]:
        """Return an artwork of the archive, its picture, and a number in [0, 1).

        For numbers below the identity share, every other picture is a photograph.
        """
        assert self._archive is not None
        pick = int(torch.randint(len(self._archive.images), (), generator=rng))
        kind = float(torch.rand((), generator=rng))
        if kind < self._config.identity_share / 2:
            others = self._photographs.images
            photograph = int(torch.randint(len(others), (), generator=rng))
            return pick, others[photograph], kind
        return pick, self._archive.images[pick], kind

    @torch.no_grad()
    def _targets(self, pick: int) -> dict[str, Tensor]:
        """Return the Gram matrices of an artwork; kept in half precision."""
        assert self._archive is not None
        if pick not in self._archive_grams:
            features = self._loss_net(self._archive.artwork(pick).to(self._device))
            self._archive_grams[pick] = {
                layer: gram_matrix(features[layer]).half() for layer in STYLE_LAYERS
            }
        return self._archive_grams[pick]

    @torch.no_grad()
    def examples(self, predictor: StylePredictor, count: int = 6) -> Tensor:
        """Return the predicted vectors (count, K) of a few artworks."""
        assert self._archive is not None
        images = self._archive.images
        seen = [
            glimpse(images[i * len(images) // count], StylePredictor.SIZE, _rng(7, i))
            for i in range(count)
        ]
        return torch.cat([predictor(image.to(self._device)) for image in seen])


class _Report:
    """Logs the mean losses of the last steps, at strength 1."""

    def __init__(self, config: TrainConfig) -> None:
        self._steps = config.steps
        self._rows: list[tuple[float, float]] = []
        self._since = time.monotonic()

    def add(self, step: int, losses: Losses, batch: Batch) -> None:
        full = (batch.strength == 1.0) & ~batch.itself
        found = losses.content[full].tolist(), losses.style[full].tolist()
        self._rows += zip(*found, strict=True)
        if self._rows and (step % 50 == 0 or step == self._steps):
            means = [
                sum(values) / len(values) for values in zip(*self._rows, strict=True)
            ]
            logger.info(
                "step %d/%d  content %.3f  style %.4f  %.1f s",
                *(step, self._steps, *means, time.monotonic() - self._since),
            )
            self._rows.clear()
            self._since = time.monotonic()


def _check(info: StyleInfo) -> None:
    """Say so when a style came out weak."""
    reached = info.figures["style_distance"]
    unpainted = info.figures["style_distance_of_photographs"]
    if reached > _WEAK * unpainted:
        logger.warning(
            "%s is only %.0f %% nearer to its artwork than the photographs are; train "
            "it for more --steps, or with a higher --style-weight.",
            *(info.name, 100 * (1 - reached / unpainted)),
        )


def _pick(grams: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {layer: gram[i : i + 1] for layer, gram in grams.items()}


@torch.no_grad()
def _figures(
    network: StyleNetwork,
    loss_network: LossNetwork,
    style: Tensor,
    photographs: Sequence[Tensor],
    grams: dict[str, Tensor],
) -> dict[str, float]:
    """Return mean distances at strength 1, and how far the photographs were."""
    rows = []
    for photograph in photographs:
        height, width = (side // 8 * 8 for side in photograph.shape[1:])
        content = photograph[None, :, :height, :width].to(style.device).float() / 255
        painted = paint(
            *(network, content, style, content.new_ones(1)), dtype=loss_network.dtype
        )
        found, photo = loss_network(painted), loss_network(content)
        wanted = {layer: photo[layer] for layer in CONTENT_LAYERS}
        distances = (
            content_loss(found, wanted),
            style_loss(found, grams),
            style_loss(photo, grams),
        )
        rows.append([distance.item() for distance in distances])
    means = [round(sum(column) / len(rows), 4) for column in zip(*rows, strict=True)]
    names = "content_distance", "style_distance", "style_distance_of_photographs"
    return dict(zip(names, means, strict=True))


def _rng(seed: int, step: int) -> Generator:
    """Return the generator of one step, so that a resumed run repeats the schedule."""
    return Generator().manual_seed(seed * 1_000_003 + step + 1)


def _deal(count: int, dealt: int, seed: int, step: int) -> Tensor:
    """Return ``dealt`` of ``count`` styles: each epoch deals every style once."""
    picks = []
    for i in range(step * dealt, (step + 1) * dealt):
        order = torch.randperm(count, generator=_rng(seed + 1, i // count))
        picks.append(int(order[i % count]))
    return torch.tensor(picks, dtype=torch.long)


def _one_cycle(progress: float) -> float:
    warmup = 0.05
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _targets(
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


def _thinned(
    loss_net: LossNetwork,
    photographs: Photographs,
    artworks: Sequence[Tensor],
    config: TrainConfig,
    device: torch.device,
) -> LossNetwork:
    """Return a loss network that costs less, made for such photographs and artworks.

    It is for what cannot make use of what it does not see: vectors on a trunk that
    stays as it is.
    """
    size, rng, count = config.crop_size, _rng(config.seed, -2), 8
    crops = [
        crop(artworks[i * len(artworks) // count], size, (1.0, 1.0), rng)
        for i in range(count)
    ]
    crops += photographs.crops(count, size, config.scales, rng)
    return loss_net.thinned(torch.stack(crops).to(device))


class _State:
    """What goes on from step to step, and all that a checkpoint holds."""

    def __init__(
        self, learner: Learner, config: TrainConfig, identity: dict[str, Any]
    ) -> None:
        self.step = 0
        self._config = config
        self._learned = learner.learned()
        self._identity = json.dumps(identity)
        vectors = [learner.vectors] if learner.vectors.requires_grad else []
        others = [p for p in self._learned.values() if p is not learner.vectors]
        rates = [(others, 1.0), (vectors, config.vector_rate)]
        groups = [{"params": p, "times": times} for p, times in rates if p]
        self._optimizer = torch.optim.Adam(groups)
        self._slowdown = 1.0
        self._average = 0.0
        """Of the loss, over the last hundred steps or so."""
        self._best = math.inf
        self._best_step = 0
        self._good = self._tensors()

    @property
    def stuck(self) -> bool:
        """Whether the loss has not fallen for as long as the patience lasts."""
        patience = self._config.patience
        return 0 < patience <= self.step - self._best_step

    def descend(self, loss: Tensor) -> None:
        """Take one step; from a loss that is not finite, step back and slow down."""
        rate = self._config.learning_rate * _one_cycle(self.step / self._config.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._slowdown * group["times"]
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._learned.values(), 1.0)
        self.step += 1
        if not torch.isfinite(norm):
            self._step_back()
            return
        self._optimizer.step()
        if self.step % _KEEP_EVERY == 0:
            self._good = self._tensors()
        self._watch(loss.detach())

    def _watch(self, loss: Tensor) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        weight = max(0.01, 1 / self.step)
        self._average += weight * (loss.item() - self._average)
        warming = self.step <= self._config.patience
        if warming or self._average < 0.995 * self._best:
            self._best, self._best_step = self._average, self.step

    def _step_back(self) -> None:
        if self._slowdown == 1.0:
            logger.warning(
                "step %d: the loss is not finite; going on from the last good step "
                "with a lower learning rate",
                self.step,
            )
        self._slowdown /= 2
        if self._slowdown < 1e-3:
            raise TrainingError(
                "The loss does not stay finite; lower --learning-rate or "
                "--style-weight."
            )
        self._load(self._good)

    def _tensors(self) -> dict[str, Tensor]:
        """Return copies of the weights and of Adam's moments."""
        tensors = {}
        for name, parameter in self._learned.items():
            tensors[name] = parameter.detach().clone().contiguous()
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{name}#{key}"] = value.clone().contiguous()
        return tensors

    def _load(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._learned.items():
            parameter.data.copy_(tensors[name])
            adam = {
                key: tensors[f"{name}#{key}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}#{key}" in tensors
            }
            for key in adam.keys() - {"step"}:
                adam[key] = adam[key].to(parameter.device)
            self._optimizer.state[parameter] = adam

    def save(self, path: Path) -> None:
        """Write a checkpoint; when that fails, say so and keep the last one."""
        progress = {
            "step": self.step,
            "slowdown": self._slowdown,
            "average": self._average,
            "best": self._best,
            "best_step": self._best_step,
        }
        metadata = {"progress": json.dumps(progress), "identity": self._identity}
        _replace(
            path,
            save(self._tensors(), metadata=metadata),
            f"the checkpoint of step {self.step}",
        )

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint ``path`` if it is there."""
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                if metadata.get("identity") != self._identity:
                    raise TrainingError(
                        f"The checkpoint {path} belongs to another training; name "
                        "another file, or give the settings it was made with."
                    )
                progress = json.loads(metadata["progress"])
                names = list(file.keys())
                self._load({name: file.get_tensor(name) for name in names})
                self.step = int(progress["step"])
                self._slowdown = float(progress["slowdown"])
                self._average = float(progress["average"])
                self._best = float(progress["best"])
                self._best_step = int(progress["best_step"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint {path} is damaged ({error}); delete it to start anew."
            ) from error
        self._good = self._tensors()


def draw_sheet(
    path: Path, network: StyleNetwork, styles: Tensor, photographs: Photographs
) -> None:
    """Write a picture of the progress: a row for each style, at strength 1.

    When that fails, say so and keep the last one.
    """
    contents = photographs.crops(4, 384, (1.5, 1.5), _rng(7, 0)).to(styles.device)
    rows = [torch.cat(list(contents), dim=2)]
    with torch.no_grad():
        for style in styles:
            rows.append(torch.cat(list(network(contents, network.vector(style))), 2))
    pixels = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)
    png = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(png, "PNG")
    _replace(path, png.getvalue(), "the sheet")


def _replace(path: Path, data: bytes, called: str) -> None:
    """Write a file; when that fails, say so and keep the one that is there."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        logger.warning(
            "%s was not written (%s); the last good one stays", called, error.strerror
        )


def _describe(
    artworks: Sequence[Path], config: TrainConfig, about: dict[str, dict[str, Any]]
) -> list[StyleInfo]:
    """Return the headers of the styles, as far as they are known before training."""
    infos = []
    for artwork in artworks:
        fields = {"name": _name(artwork.stem), **about.get(artwork.name, {})}
        for name, value in fields.items():
            if name not in _TOLD:
                raise TrainingError(
                    f"{name!r}, told about {artwork.name}, is none of the fields "
                    f"{', '.join(_TOLD)}; correct it."
                )
            if not isinstance(value, str):
                raise TrainingError(
                    f"The {name} of {artwork.name} must be text, not {value!r}; put it "
                    "in quotes."
                )
        infos.append(StyleInfo(**fields, base_size=config.style_size))
    names = [info.name for info in infos]
    reserved = {bundled_trunk().stem, bundled_predictor().stem}
    for artwork, name in zip(artworks, names, strict=True):
        if name.lower() in reserved or not is_style_name(name):
            raise TrainingError(
                f"The style of {artwork.name} cannot be called {name!r}; rename the "
                "artwork, or name the style with --about."
            )
    if len({name.lower() for name in names}) < len(names):
        raise TrainingError(
            f"The styles need names that differ, not {', '.join(names)}; rename the "
            "artworks, or name the styles with --about."
        )
    return infos


def _name(stem: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in stem).lower().split())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``styleplug train``."""
    add = parser.add_argument
    add("artworks", nargs="*", type=Path, help="the pictures whose style is learned")
    add(
        "--content",
        type=Path,
        default=SCENES,
        help="a folder of photographs (default: the page's drawn scenes, good enough "
        "to fit a style on a trunk)",
    )
    add(
        "--loss-network",
        metavar="VGG",
        help=f"VGG-19: a file, or a Hub repository (default: {hub.LOSS_NETWORK})",
    )
    add(
        *("--out", "-o"),
        type=Path,
        default=Path(),
        help="folder for the style files, or for one artwork a .safetensors "
        "(default: here)",
    )
    add("--new-trunk", action="store_true", help="train a trunk, not only vectors")
    add("--trunk", type=Path, help="the trunk to fit on (default: the bundled one)")
    add(
        "--from",
        dest="start",
        nargs="+",
        type=Path,
        default=[],
        metavar="STYLE",
        help="styles of that trunk to begin from, one for each artwork (default: what "
        "'styleplug capture' gives)",
    )
    add(
        "--any",
        action="store_true",
        help="train a predictor of any style, and the trunk on, from --styles",
    )
    add("--styles", type=Path, help="folder of artworks for --any")
    add(
        "--keep-trunk", action="store_true", help="with --any: leave the trunk as it is"
    )
    add(
        "--hold-out",
        type=Path,
        help="text file: names in --styles to leave out, one in each line",
    )
    add("--about", type=Path, help="JSON: header fields by file name of the artwork")
    add("--measure", type=Path, help="photographs to measure on, not trained on")
    add("--checkpoint", type=Path, help="continue from here, and save here")
    add("--sheet", type=Path, help="PNG of the progress, drawn every few minutes")
    add("--overwrite", action="store_true", help="replace files that are there already")
    add("--device", help="where to train (default: the best there is)")
    for field in dataclasses.fields(TrainConfig):
        default = _values(field.default)
        told = " ".join(map(str, default))
        if field.name in _FIT:
            fitted = " ".join(map(str, _values(_FIT[field.name])))
            told = f"{fitted}, or {told} with a trunk"
        add(
            f"--{field.name.replace('_', '-')}",
            type=type(default[0]),
            nargs=len(default) if len(default) > 1 else None,
            help=f"(default: {told})",
        )


def _values(setting: Any) -> tuple[Any, ...]:
    return setting if isinstance(setting, tuple) else (setting,)


def _read_about(path: Path) -> dict[str, dict[str, Any]]:
    try:
        about = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not JSON ({error}); correct it.") from error
    if not (
        isinstance(about, dict)
        and all(isinstance(fields, dict) for fields in about.values())
    ):
        raise TrainingError(
            f"{path} must hold an object of fields for each artwork, such as "
            '{"sunflowers.jpg": {"title": "Sunflowers"}}.'
        )
    return about


def _read_names(path: Path) -> list[str]:
    lines = map(str.strip, path.read_text("utf-8-sig").splitlines())
    return [line for line in lines if line]


def run(args: argparse.Namespace) -> int:
    """Run ``styleplug train``; return the exit code.

    Started by ``torchrun`` with several processes, they train together.
    """
    logging.getLogger("styleplug").setLevel(logging.INFO)
    if args.any != bool(args.styles):
        raise TrainingError("--any and --styles go together; give both or neither.")
    if not (args.artworks or args.any):
        raise TrainingError("Name at least one artwork to learn the style of.")
    if args.keep_trunk and (args.new_trunk or not args.any):
        raise TrainingError("--keep-trunk goes with --any, and not with --new-trunk.")
    only_fit = not (args.any or args.new_trunk)
    train_trunk = not (only_fit or args.keep_trunk)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig)}
    fields = dict(_FIT) if only_fit else {}
    fields |= {name: value for name, value in given.items() if value is not None}
    if args.scales:
        fields["scales"] = tuple(args.scales)
    about = _read_about(args.about) if args.about else {}
    held_out = _read_names(args.hold_out) if args.hold_out else ()
    artworks, out = folder_images(args.artworks), args.out
    if out.suffix == ".safetensors":
        if len(artworks) != 1 or not only_fit:
            raise TrainingError(f"{out} is one file; name a folder for several.")
        about.setdefault(artworks[0].name, {})["name"] = out.stem
        out = out.parent
    with _processes(args.device) as device:
        paths = train(
            artworks,
            args.content,
            hub.loss_network_file(STYLE_LAYERS[-1], source=args.loss_network),
            out,
            config=TrainConfig(**fields),
            trunk=None if args.new_trunk else args.trunk or bundled_trunk(),
            train_trunk=train_trunk,
            start=args.start,
            archive=args.styles,
            held_out=held_out,
            about=about,
            device=device,
            measure=args.measure,
            checkpoint=args.checkpoint,
            sheet=args.sheet,
            overwrite=args.overwrite,
            command=args.command,
        )
    for path in paths:
        logger.info("%s", path)
    return 0


@contextlib.contextmanager
def _processes(device: str | None) -> Iterator[str | None]:
    """Join the other processes that ``torchrun`` started, if it did.

    Yields the device of this one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if pick_device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield device
        dist.barrier()  # the first one still measures and writes
    finally:
        dist.destroy_process_group()
