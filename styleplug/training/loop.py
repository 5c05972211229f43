"""``styleplug train``: learn styles from artworks and photographs.

    styleplug train ARTWORK... --content PHOTOS --out DIR
    styleplug train ARTWORK... --content PHOTOS --out DIR --new-trunk
    styleplug train ARTWORK... --content PHOTOS --out DIR --any --styles ARTWORKS

The first fits the vectors of new styles on the bundled trunk, in minutes. The second
trains a trunk together with the styles that will share it, in an hour or more. The
third goes on training a trunk and its styles, together with a predictor that finds
the vector of any picture.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn

from .. import hub
from ..engine import pick_device
from ..errors import TrainingError
from ..networks import (
    StyleNetwork,
    hash_trunk,
    load_style,
    load_trunk,
    mix,
    save_style,
    save_trunk,
)
from ..predictor import StylePredictor, save_predictor
from ..style import StyleInfo, bundled_predictor, bundled_trunk
from .data import Archive, Photographs, crop, folder_images, glimpse, load_artwork
from .losses import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    LossNetwork,
    content_loss,
    gram_matrix,
    style_loss,
    tv_loss,
)

logger = logging.getLogger(__name__)

_SAVE_EVERY = 180.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; they are stored with the weights."""

    steps: int = 5000
    batch_size: int = 4
    crop_size: int = 224
    """Pixels; crops are taken from photographs magnified by ``scales``."""
    scales: tuple[float, float] = (1.0, 1.7)
    style_size: int = 512
    """Geometric mean side of the artworks, in pixels: the stroke size."""
    content_weight: float = 1.0
    style_weight: float = 25.0
    tv_weight: float = 5.0
    learning_rate: float = 3e-3
    """Peak of a one-cycle schedule."""
    vector_rate: float = 4.0
    """Learning rate of the style vectors, as a multiple of ``learning_rate``."""
    varied_strength: float = 0.4
    """Share of the crops that is trained at a strength below 1."""
    any_share: float = 0.75
    """Share of a batch whose styles are predicted, when a predictor is trained."""
    any_size: int = 384
    """Geometric mean side of the artworks that any style is learned from."""
    identity_share: float = 0.1
    """Share of the predicted styles whose picture is the content image itself."""
    identity_weight: float = 100.0
    """Weight of the mean squared difference of pixels there, in place of the style."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "crop_size": 48, "style_size": 64}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(
                    f"{name} must be at least {low}, got {getattr(self, name)}"
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
    command: str = "",
) -> list[Path]:
    """Train a style for each artwork, write them into ``out``, return their paths.

    With ``trunk`` only the vectors are learned, on that trunk, unless ``train_trunk``
    says that it is trained on; without it a new trunk is trained. A trunk that was
    trained is written as ``trunk.safetensors``. ``start`` are styles of the trunk that
    the vectors begin from, one for each artwork. ``archive`` is a folder of artworks:
    a predictor of any style is learned from them, but for those named in ``held_out``,
    and written as ``predictor.safetensors``. ``about`` gives the header
    fields of a style by the file name of its artwork. The photographs in ``measure``
    are not trained on; the figures in the headers are measured on them. ``checkpoint``
    is written every few minutes and continued from when it is there; ``sheet`` is a
    picture of the progress.

    Raises :class:`~styleplug.errors.TrainingError` and
    :class:`~styleplug.errors.DeviceError`.
    """
    config = config or TrainConfig()
    device = pick_device(device)
    infos = _describe(artworks, config, about or {})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out} cannot be made: {error.strerror}.") from error
    torch.manual_seed(config.seed)
    photographs = Photographs(content)
    loss_net = LossNetwork(loss_network, dtype=_fast_dtype(device)).to(device)
    rng = _rng(config.seed, -1)
    loss_net.calibrate(photographs.crops(32, 256, (1.0, 1.0), rng).to(device))
    grams = _targets(artworks, loss_net, config, device)

    train_trunk = train_trunk or trunk is None
    network = StyleNetwork() if trunk is None else copy.deepcopy(load_trunk(trunk))
    network = network.to(device).requires_grad_(train_trunk)
    styles = nn.Parameter(_first_vectors(network, len(artworks), start, trunk is None))
    named = dict(network.named_parameters()) if train_trunk else {}
    any_style = None
    if archive is not None:
        pictures = Archive(archive, config.any_size, held_out)
        any_style = _AnyStyle(pictures, photographs, network, styles, loss_net)
        named.update(any_style.predictor.named_parameters("predictor"))
    vector_rate = config.vector_rate * config.learning_rate
    groups = [(list(named.values()), config.learning_rate)] if named else []
    if artworks:
        groups.append(([styles], vector_rate))
    optimizer = torch.optim.Adam([{"params": members} for members, _ in groups])
    if artworks:
        named["styles"] = styles

    identity = {
        "config": dataclasses.asdict(config),
        "artworks": [path.name for path in artworks],
        "archive": any_style and len(any_style.archive.images),
        "trunk": train_trunk or hash_trunk(network),
    }
    state = _State(named, optimizer, identity)
    step = state.resume(checkpoint) if checkpoint else 0
    saved = shown = time.monotonic()
    running: list[tuple[float, float, float]] = []
    share = config.any_share if artworks else 1.0
    from_archive = round(share * config.batch_size) if any_style else 0
    dealt = config.batch_size - from_archive
    while step < config.steps:
        for group, (_, peak) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = peak * _one_cycle(step / config.steps)
        rng = _rng(config.seed, step)
        crops = photographs.crops(
            config.batch_size, config.crop_size, config.scales, rng
        ).to(device)
        picks = _deal(len(artworks), dealt, config.seed, step).to(device)
        strength = torch.rand(config.batch_size, generator=rng)
        varied = torch.rand(config.batch_size, generator=rng) < config.varied_strength
        strength = torch.where(varied, strength, 1.0).to(device)

        vectors = styles[picks]
        targets = {layer: gram[picks] for layer, gram in grams.items()}
        itself = torch.zeros(config.batch_size, dtype=torch.bool, device=device)
        if any_style:
            drawn = any_style.draw(from_archive, config, rng)
            vectors = torch.cat([vectors, drawn.vectors])
            targets = {
                layer: torch.cat([targets[layer], gram]) if artworks else gram
                for layer, gram in drawn.grams.items()
            }
            for i, crop in drawn.contents.items():
                crops[dealt + i] = crop.to(device)
                itself[dealt + i], strength[dealt + i] = True, 1.0
        losses = objective(network, loss_net, crops, vectors, strength, targets)
        wanted = torch.where(
            itself,
            config.identity_weight * losses.difference,
            config.style_weight * strength**2 * losses.style,
        )
        loss = (
            config.content_weight * losses.content
            + wanted
            + config.tv_weight * losses.variation
        ).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(named.values(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            logger.warning("step %d: the loss is not finite, left out", step)
        step += 1

        full = (strength == 1.0) & ~itself
        if full.any():
            running.append(
                (
                    losses.content[full].mean().item(),
                    losses.style[full].mean().item(),
                    loss.item(),
                )
            )
        if running and (step % 50 == 0 or step == config.steps):
            means = [sum(column) / len(column) for column in zip(*running, strict=True)]
            logger.info(
                "step %d/%d  content %.3f  style %.4f  loss %.3f  %.1f s",
                *(step, config.steps, *means, time.monotonic() - shown),
            )
            running.clear()
            shown = time.monotonic()
        if time.monotonic() - saved > _SAVE_EVERY or step == config.steps:
            if checkpoint:
                state.save(checkpoint, step)
            if sheet:
                shown_styles = styles.detach()
                if any_style:
                    shown_styles = torch.cat([shown_styles, any_style.examples()])
                draw_sheet(sheet, network, shown_styles, photographs)
            saved = time.monotonic()

    info = {
        "command": command,
        "loss_network": loss_network.name,
        "activations": loss_net.activations,
        "photographs": len(photographs.images),
        **dataclasses.asdict(config),
    }
    figures: list[dict[str, float]] = [{}] * len(artworks)
    if measure:
        tests = Photographs(measure).images
        figures = [
            _figures(network, loss_net, style, tests, _pick(grams, i))
            for i, style in enumerate(styles.detach())
        ]
    kept = StyleInfo("trunk", base_size=config.style_size, training=info)
    if train_trunk:
        kept = save_trunk(out / bundled_trunk().name, network, kept)
    if any_style:
        about_it = {**info, "artworks": len(any_style.archive.images)}
        told = StyleInfo(
            "predictor",
            trunk=hash_trunk(network),
            base_size=config.style_size,
            training=about_it,
        )
        save_predictor(out / bundled_predictor().name, any_style.predictor, told)
    paths = []
    for told, style, measured in zip(infos, styles, figures, strict=True):
        told = dataclasses.replace(told, training=info, figures=measured)
        paths.append(out / f"{told.name}.safetensors")
        save_style(paths[-1], style, network, told, self_contained=False)
    return paths


def _first_vectors(
    network: StyleNetwork, count: int, start: Sequence[Path], new: bool
) -> Tensor:
    """Return the vectors (count, K) that the training begins with."""
    device = network.photo.device
    if not start:
        first = network.new_style().to(device) if new else network.photo.detach()
        return first.repeat(count, 1)
    if len(start) != count:
        raise TrainingError(
            f"There are {count} artworks, but {len(start)} styles to begin from; name "
            "one for each."
        )
    loaded = [load_style(path) for path in start]
    for path, style in zip(start, loaded, strict=True):
        if hash_trunk(style.network) != hash_trunk(network):
            raise TrainingError(
                f"{path} belongs to another trunk; name that one with --trunk."
            )
    return torch.stack([style.vector for style in loaded]).to(device)


class _Drawn(NamedTuple):
    vectors: Tensor
    """(n, K), predicted."""
    grams: dict[str, Tensor]
    """Of the artworks, (n, C, C) for each style layer."""
    contents: dict[int, Tensor]
    """Crops (3, size, size) of those of the n whose content is the style image."""


class _AnyStyle:
    """Styles that are predicted from the pictures of an archive."""

    def __init__(
        self,
        archive: Archive,
        photographs: Photographs,
        network: StyleNetwork,
        styles: Tensor,
        loss_net: LossNetwork,
    ) -> None:
        self.archive = archive
        self._photographs = photographs
        self._loss_net = loss_net
        self._device = network.photo.device
        self._grams: dict[int, dict[str, Tensor]] = {}
        self.predictor = StylePredictor(network.style_size).to(self._device)
        typical = styles.detach().mean(dim=0) if len(styles) else network.photo.detach()
        self.predictor.begin_at(typical)

    def draw(self, count: int, config: TrainConfig, rng: Generator) -> _Drawn:
        """Predict the styles of ``count`` random artworks.

        A few times, and then as often from a photograph, the content is to be the
        picture that the style is predicted from.
        """
        picks = torch.randint(len(self.archive.images), (count,), generator=rng)
        kinds = torch.rand(count, generator=rng) / config.identity_share
        vectors, grams, contents = [], [], {}
        for i, (pick, kind) in enumerate(
            zip(picks.tolist(), kinds.tolist(), strict=True)
        ):
            picture = self.archive.images[pick]
            if kind < 0.5:
                others = self._photographs.images
                picture = others[pick * 31 % len(others)]
            if kind < 1:
                contents[i] = crop(picture, config.crop_size, config.scales, rng)
            seen = glimpse(picture, StylePredictor.SIZE, rng).to(self._device)
            vectors.append(self.predictor(seen))
            grams.append(self._targets(pick))
        return _Drawn(
            torch.cat(vectors),
            {
                layer: torch.stack([gram[layer] for gram in grams]).float()
                for layer in STYLE_LAYERS
            },
            contents,
        )

    @torch.no_grad()
    def examples(self, count: int = 6) -> Tensor:
        """Return the vectors (count, K) of a few artworks."""
        stride = len(self.archive.images) // count
        seen = [
            glimpse(self.archive.images[i * stride], StylePredictor.SIZE, _rng(7, i))
            for i in range(count)
        ]
        return torch.cat([self.predictor(image.to(self._device)) for image in seen])

    @torch.no_grad()
    def _targets(self, pick: int) -> dict[str, Tensor]:
        """Return the Gram matrices of an artwork; kept in half precision."""
        if pick not in self._grams:
            features = self._loss_net(self.archive.artwork(pick).to(self._device))
            self._grams[pick] = {
                layer: gram_matrix(features[layer])[0].half() for layer in STYLE_LAYERS
            }
        return self._grams[pick]


class Losses(NamedTuple):
    """What a batch is judged by, each (B,)."""

    content: Tensor
    style: Tensor
    variation: Tensor
    """Total variation."""
    difference: Tensor
    """Mean squared difference to the content image's pixels."""


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
        one = content.new_ones(1)
        distances = objective(network, loss_network, content, style, one, grams)
        unpainted = style_loss(loss_network(content), grams)
        found = distances.content, distances.style, unpainted
        rows.append([distance.item() for distance in found])
    means = [round(sum(column) / len(rows), 4) for column in zip(*rows, strict=True)]
    names = "content_distance", "style_distance", "style_distance_of_photographs"
    return dict(zip(names, means, strict=True))


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu" and not torch.backends.mkldnn.is_available():
        return torch.float32
    return torch.bfloat16


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
    artworks: Sequence[Path],
    loss_net: LossNetwork,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the Gram matrices of all artworks, (N, C, C) for each style layer."""
    grams: dict[str, list[Tensor]] = {layer: [] for layer in STYLE_LAYERS}
    with torch.no_grad():
        for path in artworks:
            features = loss_net(load_artwork(path, config.style_size).to(device))
            for layer, found in grams.items():
                found.append(gram_matrix(features[layer]))
    return {layer: torch.cat(found) for layer, found in grams.items() if found}


class _State:
    """All that a checkpoint holds: weights, Adam's moments and the step."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Adam,
        identity: dict[str, Any],
    ) -> None:
        self.parameters = parameters
        self.optimizer = optimizer
        self.identity = json.dumps(identity)

    def save(self, path: Path, step: int) -> None:
        tensors = {}
        for name, parameter in self.parameters.items():
            adam = self.optimizer.state[parameter]
            tensors[name] = parameter.detach().clone()
            tensors[f"{name}#exp_avg"] = adam["exp_avg"]
            tensors[f"{name}#exp_avg_sq"] = adam["exp_avg_sq"]
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        temporary = path.with_name(f".{path.name}.part")
        metadata = {"step": str(step), "identity": self.identity}
        temporary.write_bytes(save(tensors, metadata=metadata))
        temporary.replace(path)

    def resume(self, path: Path) -> int:
        """Load ``path`` if it is there; return the step to go on from."""
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                if metadata.get("identity") != self.identity:
                    raise TrainingError(
                        f"The checkpoint {path} belongs to another training; name "
                        "another file, or give the settings it was made with."
                    )
                step = int(metadata["step"])
                for name, parameter in self.parameters.items():
                    parameter.data.copy_(file.get_tensor(name))
                    adam = {
                        key: file.get_tensor(f"{name}#{key}").to(parameter.device)
                        for key in ("exp_avg", "exp_avg_sq")
                    }
                    adam["step"] = torch.tensor(float(step))
                    self.optimizer.state[parameter] = adam
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(
                f"The checkpoint {path} is damaged ({error}); delete it to start anew."
            ) from error
        return step


def draw_sheet(
    path: Path, network: StyleNetwork, styles: Tensor, photographs: Photographs
) -> None:
    """Write a picture of the progress: a row for each style, at strength 1."""
    contents = photographs.crops(4, 384, (1.5, 1.5), _rng(7, 0)).to(styles.device)
    m = network.MARGIN
    padded = nn.functional.pad(contents, (m, m, m, m), mode="reflect")
    rows = [torch.cat(list(contents), dim=2)]
    with torch.no_grad(), torch.autocast(contents.device.type, torch.bfloat16):
        for style in styles:
            out = network(padded, network.vector(style))[..., m:-m, m:-m].float()
            rows.append(torch.cat(list(out), dim=2))
    pixels = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0)
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(pixels.cpu().numpy()).save(temporary, "PNG")
    temporary.replace(path)


def _describe(
    artworks: Sequence[Path], config: TrainConfig, about: dict[str, dict[str, Any]]
) -> list[StyleInfo]:
    """Return the headers of the styles, as far as they are known before training."""
    infos = []
    for artwork in artworks:
        fields: dict[str, Any] = {"name": _name(artwork.stem)}
        fields.update(about.get(artwork.name, {}))
        try:
            infos.append(StyleInfo(**fields, base_size=config.style_size))
        except TypeError as error:
            raise TrainingError(
                f"What is told about {artwork.name} has fields that a style does not "
                f"have ({error})."
            ) from error
    names = [info.name for info in infos]
    if not all(names) or len(set(names)) < len(names) or "trunk" in names:
        raise TrainingError(
            f"The styles need names that differ, not {', '.join(map(repr, names))}; "
            "rename the artworks, or name the styles with --about."
        )
    return infos


def _name(stem: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in stem).lower().split())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``styleplug train``."""
    add = parser.add_argument
    add("artworks", nargs="*", type=Path, help="the pictures whose style is learned")
    add("--content", type=Path, required=True, help="a folder of photographs")
    add(
        "--loss-network",
        metavar="VGG",
        help=f"VGG-19: a file, or a Hub repository (default: {hub.LOSS_NETWORK})",
    )
    add("--out", "-o", type=Path, required=True, help="folder for the style files")
    add("--new-trunk", action="store_true", help="train a trunk, not only vectors")
    add("--trunk", type=Path, help="the trunk to fit on (default: the bundled one)")
    add(
        "--from",
        dest="start",
        nargs="+",
        type=Path,
        default=[],
        metavar="STYLE",
        help="styles of that trunk to begin from, one for each artwork",
    )
    add(
        "--any",
        action="store_true",
        help="train a predictor of any style, and the trunk on, from --styles",
    )
    add("--styles", type=Path, help="folder of artworks for --any")
    add(
        "--hold-out",
        type=Path,
        help="text file: names of files in --styles to leave out",
    )
    add("--about", type=Path, help="JSON: header fields by file name of the artwork")
    add("--measure", type=Path, help="photographs to measure on, not trained on")
    add("--checkpoint", type=Path, help="continue from here, and save here")
    add("--sheet", type=Path, help="PNG of the progress, drawn every few minutes")
    add("--device", help="where to train (default: the best there is)")
    for field in dataclasses.fields(TrainConfig):
        if field.name != "scales":
            add(
                f"--{field.name.replace('_', '-')}",
                type=type(field.default),
                help="(default: %(default)s)",
                default=field.default,
            )


def run(args: argparse.Namespace) -> int:
    """Run ``styleplug train``; return the exit code."""
    logging.getLogger("styleplug").setLevel(logging.INFO)
    fields = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(TrainConfig)
        if field.name != "scales"
    }
    if args.any != bool(args.styles):
        raise TrainingError("--any and --styles go together; give both or neither.")
    if not (args.artworks or args.any):
        raise TrainingError("Name at least one artwork to learn the style of.")
    about = json.loads(args.about.read_text("utf-8")) if args.about else {}
    held_out = args.hold_out.read_text("utf-8").split() if args.hold_out else ()
    trunk = None if args.new_trunk else args.trunk or bundled_trunk()
    train(
        folder_images(args.artworks),
        args.content,
        hub.loss_network_file(STYLE_LAYERS[-1], source=args.loss_network),
        args.out,
        config=TrainConfig(**fields),
        trunk=trunk,
        train_trunk=args.any,
        start=args.start,
        archive=args.styles,
        held_out=held_out,
        about=about,
        device=args.device,
        measure=args.measure,
        checkpoint=args.checkpoint,
        sheet=args.sheet,
        command=shlex.join(["styleplug", *sys.argv[1:]]),
    )
    return 0
