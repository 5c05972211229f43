"""Train trunks, styles on them, and a predictor together with them."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from ..engine import Stylizer, pick_device
from ..errors import StyleplugError, TrainingError
from ..files import write_or_warn
from ..images import read_picture
from ..losses import (
    CONTENT_LAYERS,
    LossNetwork,
    content_loss,
    style_loss,
)
from ..networks import StyleNetwork, paint, stack_styles
from ..predictor import capture, save_predictor
from ..style import (
    TEXTS,
    StyleInfo,
    bundled_predictor,
    bundled_trunk,
    check_style_texts,
    hyphenated,
    is_style_name,
    read_info,
    to_nfc,
)
from ..weights import hash_trunk, load_style, save_style, save_trunk
from .config import TrainConfig
from .controls import Controls, measure_controls
from .data import Archive, Photographs, load_artwork
from .distillation import distilled_predictor, encoder_checkpoint
from .learner import (
    Batch,
    Learner,
    Losses,
    load_loss_network,
    load_own_trunk,
    thinned_loss_network,
    total_loss,
)
from .outputs import SHEET, all_or_none, check_places
from .predictor import predictor_beside
from .sampler import Sampler, of_artwork, targets
from .state import (
    SAVE_EVERY,
    State,
    hash_tensors,
    identify,
    process_and_count,
    step_rng,
)

logger = logging.getLogger(__name__)

NO_ARTWORK = "Name at least one artwork to learn the style of."
NO_RANK = "--rank is for styles on a trunk that stays as it is; leave it out."
_DRAW_EVERY = 180.0
"""Seconds between two sheets."""
_MEASURED = 12
"""Maximum number of photographs that the figures are measured on."""
_ROUND = 100
"""If time limits the steps, their number is a multiple of this. So the same machine
usually takes the same number, and trains the same style."""
_WEAK = 0.4
"""Largest style distance of a good style, as a share of the photographs' own."""


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
    self_contained: bool = False,
    overwrite: bool = False,
    command: str = "",
) -> list[Path]:
    """Train a style for each artwork, write them into ``out``, return their paths.

    With ``trunk``, only the styles are trained, on that trunk, unless ``train_trunk``
    says to train it further; without ``trunk``, a new one is trained. A trained trunk
    is written as ``trunk.safetensors``. Styles of a trunk that is neither there nor
    bundled contain their trunk.
    ``start`` are styles of the trunk to start from, one for each artwork. Without them,
    training starts from styles that are captured with the predictor beside a trunk
    called ``trunk.safetensors``, or with the bundled one, if it fits the trunk.
    ``archive`` is a folder of artworks; those named in ``held_out`` are left out. The
    trunk is also trained in their styles as predicted by a predictor, which is trained
    along with it and written as ``predictor.safetensors``. This starts as the predictor
    beside the trunk, or as a new one, whose encoder is trained first.
    ``about`` maps the file name of an artwork to header fields of its style. The
    photographs in ``measure`` are not trained on; the distances in the headers are
    measured on them. See :mod:`.controls` for the other figures.
    ``checkpoint`` is written every minute; if it exists, training resumes from it.
    ``sheet`` is a picture of the progress. ``self_contained`` styles contain their
    trunk even if it is bundled. ``overwrite`` allows replacing files in ``out``, and a
    sheet of another training. ``command`` is recorded in the headers as the command
    that was run.

    In a process group of torch.distributed, every process handles its part of each
    batch, and the first one writes the files.

    Raises, before training, :class:`~styleplug.errors.TrainingError` and
    :class:`~styleplug.errors.DeviceError`, and ``FileExistsError`` for a file that must
    not be replaced.
    """
    config = config or TrainConfig()
    device = pick_device(device)
    process, _ = process_and_count(config)
    train_trunk = train_trunk or trunk is None or archive is not None
    if config.rank and train_trunk:
        raise TrainingError(NO_RANK)
    if config.pool and archive is not None:
        raise TrainingError("--pool is not for crops in any style; leave it out.")
    if not artworks and archive is None:
        raise TrainingError(NO_ARTWORK)
    if artworks and archive is not None and not config.dealt:
        raise TrainingError(
            f"Batches of {config.batch_size} leave no crop for the named artworks; "
            "raise --batch-size, or lower --any-share."
        )
    infos = _describe(artworks, config, about or {})
    paths = [out / f"{info.name}.safetensors" for info in infos]
    out_trunk = out / bundled_trunk().name
    out_predictor = out / bundled_predictor().name
    results = paths.copy()
    if train_trunk:
        results.append(out_trunk)
    if archive is not None:
        results.append(out_predictor)
    check_places(
        out,
        results,
        (checkpoint, encoder_checkpoint(checkpoint) if archive else None),
        sheet,
        pictures=(content, archive, measure),
        overwrite=overwrite,
    )
    torch.manual_seed(config.seed)
    network = StyleNetwork() if trunk is None else load_own_trunk(trunk)
    photographs = Photographs(content, but=measure)
    tests = Photographs(measure) if measure else photographs
    pictures = None
    if archive is not None:
        pictures = Archive(archive, config.style_size, held_out)
    loss_net = load_loss_network(loss_network, photographs, config, device)
    images = [load_artwork(path, config.style_size) for path in artworks]
    wanted = targets(images, loss_net, device)
    learned_from, grams = loss_net, wanted
    if not train_trunk:
        learned_from = thinned_loss_network(
            loss_net, photographs, images, config, device
        )
        grams = targets(images, learned_from, device)

    network = network.to(device).requires_grad_(train_trunk)
    alone = self_contained
    if not (alone or train_trunk):
        trunks = [path for path in (bundled_trunk(), out_trunk) if path.exists()]
        alone = hash_trunk(network) not in {read_info(path).trunk for path in trunks}
    if trunk is None:
        styles = network.new_style().to(device).repeat(len(artworks), 1)
    else:
        styles = _first_styles(trunk, network, artworks, start, config.rank)
    identity = {
        "config": dataclasses.asdict(config),
        "artworks": identify(artworks),
        "from": identify(start),
        "archive": pictures and len(pictures.images),
        "files of the archive": pictures and pictures.files,
        "photographs": len(photographs.images),
        "files of the photographs": photographs.files,
        "loss_network": loss_network.name,
        "trunk": train_trunk or hash_trunk(network),
        # The rest of a trunk that is trained is in the checkpoint.
        "start of the trunk": hash_tensors([network.photo]),
    }
    predictor = None
    if pictures is not None:
        predictor = predictor_beside(trunk)
        if predictor is None:
            predictor = distilled_predictor(
                *(trunk, network, photographs, pictures, loss_net),
                *(identity, config, checkpoint),
            )
        predictor = predictor.to(device)
        identity["start of the predictor"] = hash_tensors(
            tensor.half()
            for name, tensor in predictor.state_dict().items()
            if not name.startswith("head.")
        )
        predictor.head.requires_grad_(True)
    learner = Learner(network, styles, predictor, config.rank)
    state = State(learner.learned(), config, identity)
    if checkpoint:
        state.resume(checkpoint)
    sampler = Sampler(photographs, pictures, grams, learned_from, config, device)

    @torch.no_grad()
    def styles_so_far() -> Tensor:
        return learner.styles(torch.arange(len(artworks)))

    def draw() -> None:
        if sheet:
            shown = styles_so_far()
            if predictor is not None:
                shown = torch.cat([shown, sampler.examples(predictor)])
            draw_sheet(sheet, network, shown, photographs)

    descend(learner, state, sampler, learned_from, config, checkpoint, draw)
    if process > 0:
        return []

    info = record(command, loss_network, loss_net, photographs, config, state)
    info["measured_on"] = "Test photographs" if measure else "Training photographs"
    styles, shown = styles_so_far(), tests.images[:_MEASURED]
    with all_or_none(out) as folder:
        if train_trunk:
            kept = StyleInfo("trunk", base_size=config.style_size, training=info)
            save_trunk(folder / out_trunk.name, network, kept)
        if predictor is not None and pictures is not None:
            header = StyleInfo(
                "predictor",
                trunk=hash_trunk(network),
                base_size=config.style_size,
                training={**info, "artworks": len(pictures.images)},
            )
            save_predictor(folder / out_predictor.name, predictor, header)
        for path, header, style in zip(paths, infos, styles, strict=True):
            save_style(
                *(folder / path.name, style, network),
                dataclasses.replace(header, training=info),
                self_contained=alone,
            )
    for i, (path, style) in enumerate(zip(paths, styles, strict=True)):
        figures = _measure(path, style, network, loss_net, shown, of_artwork(wanted, i))
        header = dataclasses.replace(infos[i], training=info, figures=figures)
        save_style(path, style, network, header, self_contained=alone)
    draw()
    return paths


def record(
    command: str,
    path: Path,
    loss_network: LossNetwork,
    photographs: Photographs,
    config: TrainConfig,
    state: State,
) -> dict[str, Any]:
    """Return the header's record of a training; ``path`` is the loss network's."""
    return {
        "command": command,
        "loss_network": path.name,
        "activations": loss_network.activations,
        "photographs": len(photographs.images),
        **dataclasses.asdict(config),
        "steps": state.step,
    }


def descend(
    learner: Learner,
    state: State,
    sampler: Sampler,
    loss_network: LossNetwork,
    config: TrainConfig,
    checkpoint: Path | None,
    draw: Callable[[], None],
) -> None:
    """Take the remaining steps, together with the other processes.

    The settings give their total number; the time limit may reduce it. The first
    process saves its state in ``checkpoint`` every minute and at the end, and calls
    ``draw`` every few minutes.
    """
    process, processes = process_and_count(config)
    if config.minutes and state.step == 0:
        fitting = _steps_within(config, learner, sampler, loss_network)
        if fitting < config.steps:
            state.steps = fitting
            logger.info(
                "%d of %d steps fit in %g minutes here; --steps sets their number",
                fitting,
                config.steps,
                config.minutes,
            )
    parallel: nn.Module = learner
    if processes > 1:
        parallel = nn.parallel.DistributedDataParallel(
            learner, find_unused_parameters=learner.predictor is not None
        )
    report = _Report(state.steps)
    saved = drawn = time.monotonic()
    while state.step < state.steps and not state.stuck:
        batch = sampler.batch(state.step, process, processes)
        losses = parallel(batch, loss_network)
        loss = total_loss(losses, batch, config)
        state.descend(loss)
        report.add(state.step, loss.item(), losses, batch)
        if process > 0:
            continue
        if checkpoint and time.monotonic() - saved > SAVE_EVERY:
            state.save(checkpoint)
            saved = time.monotonic()
        if time.monotonic() - drawn > _DRAW_EVERY:
            draw()
            drawn = time.monotonic()
    if process == 0 and checkpoint:
        state.save(checkpoint)
    if state.stuck:
        logger.info(
            "stopped at step %d: no better for %d steps", state.step, config.patience
        )


def _steps_within(
    config: TrainConfig, learner: Learner, sampler: Sampler, loss_network: LossNetwork
) -> int:
    """Return how many steps fit in the time limit, rounded down to hundreds if any.

    The time of a step is estimated from the gradients of a few, on the slowest process.
    With a pool, the first steps also compute the features of its crops.
    """
    process, processes = process_and_count(config)
    pool_times, step_times = [], []
    for step in range(5):
        began = time.monotonic()
        if config.pool:
            sampler.batch(step, process, processes)
        middle = time.monotonic()
        batch = sampler.batch(step, process, processes)
        loss = total_loss(learner(batch, loss_network), batch, config)
        loss.backward()
        loss.item()  # waits for a GPU
        pool_times.append(middle - began)
        step_times.append(time.monotonic() - middle)
    learner.zero_grad(set_to_none=True)
    slowest = loss.new_tensor([median(pool_times), median(step_times)])
    if processes > 1:
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
    pool_time, step_time = slowest.tolist()
    seconds = 60 * config.minutes
    fitting = (seconds - config.pool * pool_time) / step_time
    if fitting < config.pool:  # every step computes the features of its crops
        fitting = seconds / (pool_time + step_time)
    steps = max(1, int(fitting))
    return steps // _ROUND * _ROUND or steps


def styles_to_begin_from(
    network: StyleNetwork, artworks: Sequence[Path], start: Sequence[Path]
) -> Tensor:
    """Return the styles (N, K), or longer, of the files ``start``.

    Raises :class:`~styleplug.errors.TrainingError` unless there is one style of this
    trunk for each artwork.
    """
    if len(start) != len(artworks):
        raise TrainingError(
            f"There are {len(artworks)} artworks, but {len(start)} styles to begin "
            "from; name one for each."
        )
    loaded = [load_style(path) for path in start]
    trunk = hash_trunk(network)
    for path, style in zip(start, loaded, strict=True):
        if style.network.NAME != StyleNetwork.NAME:
            raise TrainingError(
                f"{path} is a style of another project ({style.network.NAME}), which "
                "cannot be trained further; leave it out."
            )
        if style.info.trunk != trunk:
            raise TrainingError(
                f"{path} belongs to another trunk; name that one with --trunk."
            )
    return stack_styles([style.vector for style in loaded]).to(network.photo.device)


def _first_styles(
    trunk: Path,
    network: StyleNetwork,
    artworks: Sequence[Path],
    start: Sequence[Path],
    rank: int,
) -> Tensor:
    """Return the initial styles on a trunk, (N, K), or longer with a ``rank``.

    They are those of the files ``start``. Without any, they are captured with the
    predictor beside the trunk or the bundled one, if it belongs to this trunk; else
    they are the trunk's ``photo``.
    """
    if start:
        styles = styles_to_begin_from(network, artworks, start)
        if styles.shape[1] > network.style_size and not rank:
            advice = "add --rank to train it further"
            if network.bias.requires_grad:
                advice = "to train the trunk, start from styles that change none"
            raise TrainingError(f"A style of --from changes kernels; {advice}.")
        return styles
    device = network.photo.device
    own = [trunk.parent] if trunk.name == bundled_trunk().name else []
    for folder in (*own, bundled_trunk().parent):
        if artworks and _can_capture(folder, hash_trunk(network)):
            vectors = [
                capture(read_picture(path), path.stem, folder, rank).vector
                for path in artworks
            ]
            return torch.stack(vectors).to(device)
    return network.photo.detach().repeat(len(artworks), 1)


def _can_capture(folder: Path, trunk: str) -> bool:
    """Return whether a folder holds the trunk of that hash and its predictor."""
    pair = folder / bundled_trunk().name, folder / bundled_predictor().name
    return all(path.exists() and read_info(path).trunk == trunk for path in pair)


class _Report:
    """Logs the mean total loss, and the mean content and style loss at strength 1."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._minimised: list[float] = []
        self._rows: list[tuple[float, float]] = []
        self._since = time.monotonic()

    def add(self, step: int, loss: float, losses: Losses, batch: Batch) -> None:
        self._minimised.append(loss)
        full = (batch.strength == 1.0) & ~batch.itself
        found = losses.content[full].tolist(), losses.style[full].tolist()
        self._rows += zip(*found, strict=True)
        if step % 50 == 0 or step == self._steps:
            text = f"loss {fmean(self._minimised):.3f}"
            if self._rows:
                content, style = map(fmean, zip(*self._rows, strict=True))
                text += f"  content {content:.3f}  style {style:.4f}"
            seconds = time.monotonic() - self._since
            logger.info("step %d/%d  %s  %.1f s", step, self._steps, text, seconds)
            self._minimised.clear()
            self._rows.clear()
            self._since = time.monotonic()


def _measure(
    path: Path,
    style: Tensor,
    network: StyleNetwork,
    loss_network: LossNetwork,
    photographs: Sequence[Tensor],
    grams: dict[str, Tensor],
) -> dict[str, float]:
    """Return the finite figures of the style in a file, measured on photographs; if
    that fails, log a warning and return none."""
    logger.info("measuring %s", path.stem)
    largest = max(photographs, key=Tensor.numel).permute(1, 2, 0).contiguous().numpy()
    try:
        figures = _figures(network, loss_network, style, photographs, grams)
        controls = measure_controls(Stylizer(path, device=style.device), largest)
    except (StyleplugError, RuntimeError, MemoryError) as error:
        logger.warning(
            "%s could not be measured (%s), and is kept without figures",
            path.stem,
            str(error) or "out of memory",
        )
        return {}
    figures |= controls.figures()
    _check(path.stem, figures, controls)
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def _check(name: str, figures: dict[str, float], controls: Controls) -> None:
    """Log a warning when a style came out weak, or responds badly to its controls."""
    reached = figures["style_distance"]
    unpainted = figures["style_distance_of_photographs"]
    if reached > _WEAK * unpainted:
        much = "no"
        if reached < unpainted:
            much = f"only {100 * (1 - reached / unpainted):.0f} %"
        logger.warning(
            "%s is %s nearer to its artwork than the photographs are; train it for "
            "more --steps, or with a higher --style-weight.",
            name,
            much,
        )
    for fault in controls.faults():
        logger.warning("%s %s; more --steps may help.", name, fault)


@torch.no_grad()
def _figures(
    network: StyleNetwork,
    loss_network: LossNetwork,
    style: Tensor,
    photographs: Sequence[Tensor],
    grams: dict[str, Tensor],
) -> dict[str, float]:
    """Return mean distances at strength 1, and the photographs' own style distance."""
    rows = []
    for photograph in photographs:
        height, width = (side // 8 * 8 for side in photograph.shape[1:])
        content = photograph[None, :, :height, :width].to(style.device).float() / 255
        painted = paint(
            network, content, style, content.new_ones(1), dtype=loss_network.dtype
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


def draw_sheet(
    path: Path, network: StyleNetwork, styles: Tensor, photographs: Photographs
) -> None:
    """Write a picture of the progress: a row for each style, at strength 1.

    If that fails, log a warning and keep the last one.
    """
    contents = photographs.crops(4, 384, (1.5, 1.5), step_rng(7, 0)).to(styles.device)
    rows = [torch.cat(list(contents), dim=2)]
    with torch.no_grad():
        for style in styles:
            rows.append(torch.cat(list(network(contents, network.vector(style))), 2))
    pixels = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)
    mark = PngInfo()
    mark.add_text(*SHEET)
    image = Image.fromarray(pixels.cpu().numpy())
    write_or_warn(path, lambda file: image.save(file, "PNG", pnginfo=mark), "the sheet")


def _describe(
    artworks: Sequence[Path], config: TrainConfig, about: dict[str, dict[str, Any]]
) -> list[StyleInfo]:
    """Return the headers of the styles, as far as they are known before training."""
    about = {to_nfc(name): fields for name, fields in about.items()}
    left = about.keys() - {to_nfc(artwork.name) for artwork in artworks}
    if left:
        logger.warning(
            "in --about, but not among the artworks: %s", ", ".join(sorted(left))
        )
    infos = []
    for artwork in artworks:
        given = about.get(to_nfc(artwork.name), {})
        fields = {"name": hyphenated(artwork.stem.lower()), **given}
        for name, value in fields.items():
            if name not in TEXTS:
                raise TrainingError(
                    f"{name!r}, given about {artwork.name}, is none of the fields "
                    f"{', '.join(TEXTS)}; correct it."
                )
            if not isinstance(value, str):
                raise TrainingError(
                    f"The {name} of {artwork.name} must be text, not {value!r}; put it "
                    "in quotes."
                )
        try:
            check_style_texts(fields)
        except ValueError as error:
            raise TrainingError(f"{artwork.name}: {error}") from error
        infos.append(StyleInfo(**fields, base_size=config.style_size))
    names = [info.name for info in infos]
    for artwork, name in zip(artworks, names, strict=True):
        if not is_free_name(name):
            raise TrainingError(
                f"The style of {artwork.name} cannot be called {name!r}; rename the "
                "artwork, or name the style with --about."
            )
    advice = "rename the artworks"
    if len({to_nfc(artwork.name) for artwork in artworks}) == len(artworks):
        advice += ", or name the styles with --about"
    check_names(names, advice)
    return infos


def is_free_name(name: str) -> bool:
    """Return whether a style beside a trunk and a predictor can have this name."""
    reserved = {bundled_trunk().stem, bundled_predictor().stem}
    return is_style_name(name) and name.lower() not in reserved


def check_names(names: Sequence[str], advice: str) -> None:
    """Raise an error with ``advice`` unless styles of these names fit in one folder."""
    if len({name.lower() for name in names}) < len(names):
        raise TrainingError(
            f"The styles need names that differ, not {', '.join(names)}; {advice}."
        )
