"""The training of trunks, of styles on them, and of a predictor together with them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Generator, Tensor, nn

from ..engine import pick_device
from ..errors import TrainingError
from ..images import read_picture
from ..losses import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    LossNetwork,
    content_loss,
    gram_matrix,
    style_loss,
)
from ..networks import (
    StyleNetwork,
    hash_trunk,
    load_style,
    load_trunk,
    paint,
    read_style,
    save_style,
    save_trunk,
    stack_styles,
    write_tensors,
)
from ..predictor import StylePredictor, capture, load_predictor, save_predictor
from ..style import (
    StyleInfo,
    bundled_predictor,
    bundled_trunk,
    is_style_name,
    read_info,
)
from .amortize import checkpoint_of_lessons, predictor_beside, taught_predictor
from .config import TrainConfig
from .data import Archive, Photographs, crop, glimpse, load_artwork
from .learner import Batch, Learner, Losses, load_loss_network, total_loss
from .state import SAVE_EVERY, State, check_places, replace_file, step_rng

logger = logging.getLogger(__name__)

ONLY_STRENGTH = (
    "--only-strength is for a trunk and styles that stay as they are; name these with "
    "--from, and leave out --any, --new-trunk, --keep-trunk and --rank."
)
_MEASURED = 12
"""Photographs that the figures are measured on, at most."""
_TOLD = tuple(
    field.name
    for field in dataclasses.fields(StyleInfo)
    if field.type == "str" and field.name != "trunk"
)
"""Header fields that are told about an artwork."""
_WEAK = 0.4
"""Share of the photographs' style distance that a good style stays below."""


def train(
    artworks: Sequence[Path],
    content: Path,
    loss_network: Path,
    out: Path,
    *,
    config: TrainConfig | None = None,
    trunk: Path | None = None,
    train_trunk: bool = False,
    only_strength: bool = False,
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

    With ``trunk`` only the styles are learned, on that trunk, unless ``train_trunk``
    says that it is trained on; without it a new trunk is trained. A trunk that was
    trained is written as ``trunk.safetensors``; styles of a trunk that is neither
    there nor bundled hold it themselves. With ``only_strength`` nothing is learned but
    what the trunk makes of the styles of ``start`` at lower strengths; the trunk is
    written, and as they were, but as its own, these and the predictor beside it.
    ``start`` are styles of the trunk that the styles begin from, one for each artwork;
    without them, styles on the bundled trunk begin where its predictor sees them.
    ``archive`` is a folder of artworks, but for those named in ``held_out``: the trunk
    is trained on them, too, in the styles that a predictor finds, which learns along
    and is written as ``predictor.safetensors``. It is the one beside the trunk, or a
    new one, whose encoder takes lessons first.
    ``about`` gives the header fields of a style by the file name of its artwork. The
    photographs in ``measure`` are not trained on; the figures in the headers are
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
    process, processes = _place(config)
    train_trunk = train_trunk or trunk is None or archive is not None
    if only_strength and (train_trunk or config.rank or not start):
        raise TrainingError(ONLY_STRENGTH)
    if config.rank and train_trunk:
        raise TrainingError(
            "--rank is for styles on a trunk that stays as it is; leave it out."
        )
    infos = _describe(artworks, config, about or {})
    if only_strength:
        infos = [read_info(path) for path in start]
    paths = [out / f"{info.name}.safetensors" for info in infos]
    out_trunk, out_predictor = (
        out / bundled_trunk().name,
        out / bundled_predictor().name,
    )
    results = paths.copy()
    if train_trunk or only_strength:
        results.append(out_trunk)
    if archive is not None or only_strength:
        results.append(out_predictor)
    lessons = checkpoint_of_lessons(checkpoint) if archive else None
    progress = [path for path in (checkpoint, lessons, sheet) if path]
    check_places(out, results, progress, overwrite=overwrite)
    torch.manual_seed(config.seed)
    photographs = Photographs(content)
    tests = Photographs(measure) if measure else photographs
    pictures = None
    if archive is not None:
        pictures = Archive(archive, config.style_size, held_out)
    loss_net = load_loss_network(loss_network, photographs, config, device)
    images = [load_artwork(path, config.style_size) for path in artworks]
    wanted = _targets(images, loss_net, device)
    learned_from, grams = loss_net, wanted
    if not train_trunk:
        seen = [image[0].mul(255).round().byte() for image in images]
        learned_from = _thinned(loss_net, photographs, seen, config, device)
        grams = _targets(images, learned_from, device)

    network = StyleNetwork() if trunk is None else copy.deepcopy(load_trunk(trunk))
    network = network.to(device).requires_grad_(train_trunk)
    trunks = [path for path in (bundled_trunk(), out_trunk) if path.exists()]
    shared = train_trunk or hash_trunk(network) in {read_info(p).trunk for p in trunks}
    styles = _first_styles(network, artworks, start, new=trunk is None)
    changing = styles.shape[1] > network.style_size
    if changing and not config.rank and not only_strength:
        raise TrainingError(
            "A style to begin from changes kernels; give a --rank, that it may go on, "
            "or, where the trunk is trained, begin from styles that change none."
        )
    predictor = None
    if pictures is not None:
        predictor = predictor_beside(trunk)
        if predictor is None:
            predictor = taught_predictor(
                *(trunk, network, photographs, pictures, loss_net, config, lessons)
            )
        predictor = predictor.to(device)
        predictor.head.requires_grad_(True)
    learner = Learner(network, styles, predictor, config.rank)
    if only_strength:
        learner.requires_grad_(False)
        network.light.requires_grad_(True)
    state = State(
        learner.learned(),
        config,
        {
            "config": dataclasses.asdict(config),
            "artworks": [path.name for path in artworks],
            "archive": pictures and len(pictures.images),
            "trunk": train_trunk or hash_trunk(network),
            "strength of": only_strength and _hash(styles),
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
        if checkpoint and process == 0:
            state.save(checkpoint)

    @torch.no_grad()
    def styles_so_far() -> Tensor:
        return learner.styles(torch.arange(len(artworks)))

    def draw() -> None:
        if sheet and process == 0:
            shown = styles_so_far()
            if only_strength:
                shown = network.vector(shown, network.LIGHT)
            if predictor is not None:
                shown = torch.cat([shown, sampler.examples(predictor)])
            draw_sheet(sheet, network, shown, photographs)

    report = _Report(config)
    saved = time.monotonic()
    while state.step < config.steps and not state.stuck:
        batch = sampler.batch(state.step, process, processes)
        losses = parallel(batch, learned_from)
        loss = total_loss(losses, batch, config)
        state.descend(loss)
        report.add(state.step, loss.item(), losses, batch)
        if time.monotonic() - saved > SAVE_EVERY:
            save()
            draw()
            saved = time.monotonic()
    save()
    if state.stuck:
        logger.info(
            "stopped at step %d: no better for %d steps", state.step, config.patience
        )
    if process > 0:
        return []

    info = {
        "command": command,
        "loss_network": loss_network.name,
        "activations": loss_net.activations,
        "photographs": len(photographs.images),
        **dataclasses.asdict(config),
        "steps": state.step,
    }
    if only_strength and trunk is not None:
        _write_strength(network, trunk, start, paths, info)
        draw()
        return paths
    styles = styles_so_far()
    figures = [
        _figures(network, loss_net, style, tests.images[:_MEASURED], _pick(wanted, i))
        for i, style in enumerate(styles)
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
        *(paths, infos, styles, figures), strict=True
    ):
        told = dataclasses.replace(told, training=info, figures=measured)
        save_style(path, style, network, told, self_contained=not shared)
        _check(told)
    draw()
    return paths


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


def _first_styles(
    network: StyleNetwork, artworks: Sequence[Path], start: Sequence[Path], *, new: bool
) -> Tensor:
    """Return the styles (N, K), or longer, that the training begins with."""
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
        return stack_styles([style.vector for style in loaded]).to(device)
    if artworks and bundled_predictor().exists():
        info, _ = load_predictor(bundled_predictor())
        if info.trunk == trunk:
            seen = [capture(read_picture(path), path.stem).vector for path in artworks]
            return torch.stack(seen).to(device)
    return network.photo.detach().repeat(len(artworks), 1)


def _write_strength(
    network: StyleNetwork,
    trunk: Path,
    start: Sequence[Path],
    paths: Sequence[Path],
    training: dict[str, Any],
) -> None:
    """Write a trunk that learned strength, and its styles and predictor, which may take
    the places of those that they are read from."""
    told = read_info(trunk)
    training = {**told.training, "strength": {**training, "trunk": told.trunk}}
    styles = [read_style(path) for path in start]
    predictor = predictor_beside(trunk)
    out = paths[0].parent
    told = dataclasses.replace(told, training=training)
    told = save_trunk(out / bundled_trunk().name, network, told)
    for (info, tensors), path in zip(styles, paths, strict=True):
        write_tensors(path, tensors, dataclasses.replace(info, trunk=told.trunk))
    if predictor is not None:
        info = read_info(trunk.with_name(bundled_predictor().name))
        info = dataclasses.replace(info, trunk=told.trunk)
        save_predictor(out / bundled_predictor().name, predictor, info)


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
        rng = step_rng(config.seed, step)
        size = config.batch_size
        crops = self._photographs.crops(size, config.crop_size, config.scales, rng)
        # A third at the strength that all lower ones are painted at.
        strength = 0.25 + 0.75 * torch.rand(size, generator=rng)
        strength = strength.clamp(min=StyleNetwork.LIGHT)
        varied = torch.rand(size, generator=rng) < config.varied_strength
        strength = torch.where(varied, strength, 1.0)
        itself = torch.zeros(size, dtype=torch.bool)
        picks = _deal(self._artworks, self._dealt, config.seed, step).tolist()
        grams = [_pick(self._grams, pick) for pick in picks]
        glimpses = []
        mine = range(rank, size, processes)
        for i in range(self._dealt, size):
            pick, picture, scales, kind = self._draw(rng)
            if kind < config.identity_share:
                itself[i], strength[i] = True, 1.0
                crops[i] = crop(picture, config.crop_size, scales, rng)
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

    def _draw(self, rng: Generator) -> tuple[int, Tensor, tuple[float, float], float]:
        """Return an artwork of the archive, its picture, what range crops of it are
        magnified by, and a number in [0, 1).

        For numbers below the identity share, every other picture is a photograph.
        Artworks are as large as paintings are already.
        """
        assert self._archive is not None
        pick = int(torch.randint(len(self._archive.images), (), generator=rng))
        kind = float(torch.rand((), generator=rng))
        if kind < self._config.identity_share / 2:
            others = self._photographs.images
            photograph = int(torch.randint(len(others), (), generator=rng))
            return pick, others[photograph], self._config.scales, kind
        low, high = self._config.scales
        return pick, self._archive.images[pick], (1.0, high / low), kind

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
            glimpse(
                images[i * len(images) // count], StylePredictor.SIZE, step_rng(7, i)
            )
            for i in range(count)
        ]
        return torch.cat([predictor(image.to(self._device)) for image in seen])


class _Report:
    """Logs the mean of what is minimised, and of what was found at strength 1."""

    def __init__(self, config: TrainConfig) -> None:
        self._steps = config.steps
        self._minimised: list[float] = []
        self._rows: list[tuple[float, float]] = []
        self._since = time.monotonic()

    def add(self, step: int, loss: float, losses: Losses, batch: Batch) -> None:
        self._minimised.append(loss)
        full = (batch.strength == 1.0) & ~batch.itself
        found = losses.content[full].tolist(), losses.style[full].tolist()
        self._rows += zip(*found, strict=True)
        if step % 50 == 0 or step == self._steps:
            told = f"loss {fmean(self._minimised):.3f}"
            if self._rows:
                content, style = map(fmean, zip(*self._rows, strict=True))
                told += f"  content {content:.3f}  style {style:.4f}"
            seconds = time.monotonic() - self._since
            logger.info("step %d/%d  %s  %.1f s", step, self._steps, told, seconds)
            self._minimised.clear()
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


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


def _deal(count: int, dealt: int, seed: int, step: int) -> Tensor:
    """Return ``dealt`` of ``count`` styles: each epoch deals every style once."""
    picks = []
    for i in range(step * dealt, (step + 1) * dealt):
        order = torch.randperm(count, generator=step_rng(seed + 1, i // count))
        picks.append(int(order[i % count]))
    return torch.tensor(picks, dtype=torch.long)


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

    It is for what can hardly make use of what it does not see: styles on a trunk that
    stays as it is. They are measured on the whole one.
    """
    size, rng, count = config.crop_size, step_rng(config.seed, -2), 8
    crops = [
        crop(artworks[i * len(artworks) // count], size, (1.0, 1.0), rng)
        for i in range(count)
    ]
    crops += photographs.crops(count, size, config.scales, rng)
    return loss_net.thinned(torch.stack(crops).to(device))


def draw_sheet(
    path: Path, network: StyleNetwork, styles: Tensor, photographs: Photographs
) -> None:
    """Write a picture of the progress: a row for each style, at strength 1.

    When that fails, say so and keep the last one.
    """
    contents = photographs.crops(4, 384, (1.5, 1.5), step_rng(7, 0)).to(styles.device)
    rows = [torch.cat(list(contents), dim=2)]
    with torch.no_grad():
        for style in styles:
            rows.append(torch.cat(list(network(contents, network.vector(style))), 2))
    pixels = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)
    png = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(png, "PNG")
    replace_file(path, png.getvalue(), "the sheet")


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
