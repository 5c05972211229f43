"""``styleplug train``: learn styles from artworks and photographs.

    styleplug train ARTWORK...
    styleplug train ARTWORK... --content PHOTOS -o DIR --new-trunk
    styleplug train ARTWORK... --content PHOTOS -o DIR --any --styles ARTWORKS
    styleplug train --content PHOTOS -o DIR --any --styles ARTWORKS --keep-trunk
    styleplug train ARTWORK... --content PHOTOS -o DIR --from ... --only-strength

The first fits new styles on the bundled trunk, in a few minutes each. The second
trains a trunk together with the styles that will share it, in an hour or more. The
third trains a trunk and its styles further, together with the predictor, which predicts
the style vector of any picture. The fourth trains only the predictor, the fifth only
how styles are painted at lower strengths.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from .. import hub
from ..engine import pick_device
from ..errors import DeviceError, TrainingError
from ..images import names_picture
from ..losses import STYLE_LAYERS
from ..predictor import PHOTOGRAPHS
from ..rendering import is_out_of_memory
from ..style import FACTORS, TEXTS, bundled_trunk, read_header, to_nfc
from .config import TrainConfig
from .data import folder_images
from .loop import NO_ARTWORK, is_free_name, train
from .predictor import USED, train_predictor
from .strength import train_strength

logger = logging.getLogger(__name__)

_FIT: dict[str, Any] = {
    "steps": 1200,
    "minutes": 2.2,
    "pool": 128,
    "batch_size": 1,
    "crop_size": 256,
    "scales": (0.89, 1.33),
    "learning_rate": 6e-3,
    "rank": 16,
    "varied_strength": 0.05,
    "stability_weight": 0.0,
}
"""Settings for fitting styles on a trunk; steps and minutes are per style. Including
the work before and after, a style takes less than three minutes.
Only a few crops are painted at lower strengths. Without any, paintings at strength 0.5
keep less of the photograph; the more there are, the farther paintings at full strength
are from their artwork.
Crops show as much of a photograph as when a trunk is trained, but are smaller. At 192
pixels they would cost half, but the styles would suit whole photographs less. Stability
against noise and shifts, which takes a third longer to learn, is left to the trunk."""
_COSTLY = "batch_size", "crop_size", "style_size"
"""Settings that memory use depends on."""
_WEIGHTS = (".safetensors", ".ckpt", ".onnx", ".pt", ".pth")
"""Suffixes of names of files, not of folders."""
_EACH = "steps", "minutes"
"""Settings of :data:`_FIT` that are multiplied by the number of artworks."""
_LONGEST_WAIT = datetime.timedelta(hours=6)
"""Longest time that processes wait for the first one, which measures and writes."""
_ANY: dict[str, Any] = {"steps": 150, "batch_size": 8}
"""Settings for training a predictor on a fixed trunk."""
_STRENGTH: dict[str, Any] = {
    "steps": 1000,
    "crop_size": 320,
    "learning_rate": 0.016,
    "varied_strength": 1.0,
    "stability_weight": 0.0,
}
"""Settings for training how an otherwise fixed trunk paints at lower strengths."""


class _Mode(NamedTuple):
    """A kind of training and the options it takes, which are given by ``dest``."""

    asked: tuple[str, ...]
    """Options that together select it."""
    defaults: dict[str, Any]
    needs: tuple[str, ...] = ()
    """Options that it requires."""
    ignores: tuple[str, ...] = ()
    """Options that would have no effect, and so are refused."""

    @property
    def flags(self) -> str:
        return " ".join(map(_flag, self.asked))


_PREDICTED = ("any_share", "identity_share", "identity_weight")
_OF_TRUNK = ("trunk", "start", "rank")
_ARCHIVE = ("styles", "hold_out", *_PREDICTED)
_STYLES_ON_TRUNK = _Mode((), _FIT, needs=("artworks",), ignores=_ARCHIVE)
_ONLY_STRENGTH = _Mode(
    ("only_strength",),
    _STRENGTH,
    needs=("artworks", "start"),
    ignores=(
        *("any", "new_trunk", "keep_trunk", "about", "measure", "rank", "vector_rate"),
        *_ARCHIVE,
    ),
)
_ONLY_PREDICTOR = _Mode(
    ("keep_trunk",),
    _ANY,
    needs=("any", "styles"),
    ignores=(
        *("artworks", "new_trunk", "start", "about", "measure", "sheet"),
        *(f.name for f in dataclasses.fields(TrainConfig) if f.name not in USED),
    ),
)
_MODES = (
    _ONLY_STRENGTH,
    _ONLY_PREDICTOR,
    _Mode(("any", "new_trunk"), {}, needs=("styles",), ignores=(*_OF_TRUNK, "pool")),
    _Mode(("any",), {}, needs=("styles",), ignores=("rank", "pool")),
    _Mode(("new_trunk",), {}, needs=("artworks",), ignores=(*_OF_TRUNK, *_ARCHIVE)),
    _STYLES_ON_TRUNK,
)
"""The first one whose options are all given is used."""


def add_arguments(parser: argparse.ArgumentParser, path: Callable[[str], Path]) -> None:
    """Add the options of ``styleplug train``; ``path`` parses a file name."""
    parser.description = (
        "Train the style of an artwork on the bundled trunk, in a few minutes. For "
        "several artworks, a few minutes each."
    )
    add = parser.add_argument
    add(
        "artworks",
        nargs="*",
        type=path,
        metavar="ARTWORK",
        help="picture whose style to learn, or a folder of such pictures",
    )
    add(
        "-o",
        "--output",
        "--out",
        type=path,
        default=Path(),
        metavar="OUT",
        help="folder for the style files; or, for one artwork, a .safetensors file, "
        "which then includes the trunk (default: the current folder)",
    )
    add(
        "--content",
        type=path,
        metavar="FOLDER",
        default=PHOTOGRAPHS,
        help="folder of photographs to train on (default: four bundled ones, enough "
        "for a style but not for a trunk)",
    )
    add(
        "--loss-network",
        metavar="VGG",
        help=f"VGG-19: a file, or a Hub repository (default: {hub.LOSS_NETWORK})",
    )
    add(
        "--from",
        dest="start",
        nargs="+",
        type=path,
        default=[],
        metavar="STYLE",
        help="styles of the same trunk to start from, one for each artwork; the new "
        "ones have at least their rank, unless --rank is given (default: what "
        "'styleplug capture' makes of the artwork)",
    )
    add(
        "--about",
        type=path,
        metavar="JSON",
        help=f"file with texts to store in the styles: {', '.join(TEXTS)}, by the file "
        'name of the artwork: {"sea.jpg": {"license": "CC-BY-4.0", "artwork": "own"}}',
    )
    add(
        "--measure",
        type=path,
        metavar="FOLDER",
        help="photographs to measure the result on; they are not trained on",
    )
    add(
        "--checkpoint",
        type=path,
        metavar="FILE",
        help="save progress here, and continue from here if it exists; --any also "
        "writes FILE.encoder, keep the two together",
    )
    add(
        "--sheet",
        type=path,
        metavar="PNG",
        help="sample paintings, redrawn every few minutes",
    )
    add("--overwrite", action="store_true", help="overwrite existing files")
    add("--device", help="where to train (default: the best there is)")
    add = parser.add_argument_group(
        "training more than styles",
        "A trunk is the network that styles share; the predictor captures the style of "
        "any picture. Training them takes hours on a CPU and needs many photographs.",
    ).add_argument
    add(
        "--new-trunk",
        action="store_true",
        help="train a new trunk from scratch, with the styles of the artworks",
    )
    add(
        "--trunk",
        type=path,
        metavar="FILE",
        help="the trunk to train on (default: the bundled one)",
    )
    add(
        "--any",
        action="store_true",
        help="train the trunk further, together with the predictor",
    )
    add(
        "--styles",
        type=path,
        metavar="FOLDER",
        help="artworks for --any, preferably of --style-size or larger: smaller ones "
        "are not enlarged, their strokes are learned as they are",
    )
    add(
        "--hold-out",
        type=path,
        metavar="FILE",
        help="text file of names in --styles to leave out, one per line",
    )
    add(
        "--keep-trunk",
        action="store_true",
        help="with --any: train only the predictor's head, afresh; of the settings "
        "below only --steps, --batch-size, --style-size and --seed apply",
    )
    add(
        "--only-strength",
        action="store_true",
        help="train only how the trunk paints the styles of --from at lower "
        "strengths; paintings at full strength stay as they are",
    )
    add = parser.add_argument_group(
        "settings", "Rarely needed; the defaults fit what is trained."
    ).add_argument
    for field in dataclasses.fields(TrainConfig):
        default = _values(field.default)
        add(
            _flag(field.name),
            type=type(default[0]),
            nargs=len(default) if len(default) > 1 else None,
            metavar="N" if isinstance(default[0], int) else "X",
            help=f"{field.metadata['help']} (default: {_defaults(field)})",
        )


def _defaults(field: dataclasses.Field[Any]) -> str:
    """Return the defaults of a setting, and the modes they apply to."""
    modes: dict[str, list[str]] = {}
    for mode in reversed(_MODES):
        if len(mode.asked) > 1 or field.name in mode.ignores:
            continue
        default = mode.defaults.get(field.name, field.default)
        text = " ".join(f"{value:g}" for value in _values(default))
        if mode is _STYLES_ON_TRUNK and field.name in _EACH:
            text += " for each artwork"
            if field.name == "minutes":
                text += ", unless --steps are given"
        modes.setdefault(text, []).append(mode.flags)
    first, *others = modes
    return "; ".join(
        [first, *(f"{text} with {', '.join(modes[text])}" for text in others)]
    )


def _flag(dest: str) -> str:
    """Return an option as it is given on the command line."""
    if dest == "artworks":
        return dest
    return "--from" if dest == "start" else f"--{dest.replace('_', '-')}"


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
    return {to_nfc(name): fields for name, fields in about.items()}


def _read_names(path: Path) -> list[str]:
    try:
        lines = map(str.strip, path.read_text("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path} is not text in UTF-8 ({error}); save it as that."
        ) from error
    return [line for line in lines if line]


def _asked(args: argparse.Namespace) -> _Mode:
    """Return the mode that the options select.

    Raises :class:`~styleplug.errors.TrainingError` for options that contradict it or
    are missing.
    """

    def given(dest: str) -> bool:
        return bool(getattr(args, dest))

    mode = next(mode for mode in _MODES if all(map(given, mode.asked)))
    where = f"with {mode.flags}" if mode.asked else "without --any"
    for dest in filter(given, mode.ignores):
        raise TrainingError(f"{_flag(dest)} has no effect {where}; leave it out.")
    for dest in itertools.filterfalse(given, mode.needs):
        if dest == "artworks":
            raise TrainingError(NO_ARTWORK)
        raise TrainingError(f"{mode.flags} needs {_flag(dest)}; give both.")
    return mode


def run(args: argparse.Namespace) -> int:
    """Run ``styleplug train``; return the exit code.

    Several processes started by ``torchrun`` train together; on Windows, torchrun needs
    ``USE_LIBUV=0`` in the environment.
    """
    logging.getLogger("styleplug").setLevel(logging.INFO)
    mode = _asked(args)
    try:
        paths = _train(args, mode)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        helping = [name for name in _COSTLY if name not in mode.ignores]
        raise TrainingError(
            "There is not enough memory for this training; lower "
            f"{' or '.join(map(_flag, helping))}."
        ) from error
    for path in paths:
        logger.info("%s", path)
    return 0


def _train(args: argparse.Namespace, mode: _Mode) -> list[Path]:
    """Run the training that is asked for; return the paths of its results."""
    if mode is _ONLY_PREDICTOR and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("--keep-trunk trains in one process; start only one.")
    artworks, out = folder_images(args.artworks), args.output
    config = TrainConfig(**_settings(args, mode, len(artworks)))
    about = _read_about(args.about) if args.about else {}
    held_out = _read_names(args.hold_out) if args.hold_out else ()
    alone = out.suffix == ".safetensors"
    if alone:
        if len(artworks) != 1 or mode is not _STYLES_ON_TRUNK:
            raise TrainingError(f"{out} is one file; name a folder for the results.")
        if not is_free_name(out.stem):
            raise TrainingError(
                f"A style cannot be called {out.stem!r}; name another --output."
            )
        fields = about.setdefault(to_nfc(artworks[0].name), {})
        if fields.setdefault("name", out.stem) != out.stem:
            raise TrainingError(
                f"--about calls the style {fields['name']!r}, and --output "
                f"{out.stem!r}; leave out the first, or make them the same."
            )
        out = out.parent
    elif not out.is_dir() and (
        names_picture(out) or out.suffix.lower() in _WEIGHTS or out.name == "-"
    ):
        raise TrainingError(
            f"{out} does not name a folder; name a folder for the styles, or for one "
            "artwork a file that ends in .safetensors."
        )
    if args.sheet and args.sheet.resolve().parent in map(Path.resolve, args.artworks):
        raise TrainingError(
            f"{args.sheet} would be taken for an artwork; name another place for the "
            "--sheet."
        )
    loss_network = hub.loss_network_file(STYLE_LAYERS[-1], source=args.loss_network)
    if mode is _ONLY_PREDICTOR:
        path = train_predictor(
            args.content,
            loss_network,
            out,
            config=config,
            trunk=args.trunk or bundled_trunk(),
            archive=args.styles,
            held_out=held_out,
            device=args.device,
            checkpoint=args.checkpoint,
            overwrite=args.overwrite,
            command=args.command,
        )
        return [path]
    given = artworks, args.content, loss_network, out
    with _processes(args.device) as device:
        common: dict[str, Any] = {
            "config": config,
            "start": args.start,
            "device": device,
            "checkpoint": args.checkpoint,
            "sheet": args.sheet,
            "overwrite": args.overwrite,
            "command": args.command,
        }
        if mode is _ONLY_STRENGTH:
            trunk = args.trunk or bundled_trunk()
            return train_strength(*given, trunk=trunk, **common)
        return train(
            *given,
            trunk=None if args.new_trunk else args.trunk or bundled_trunk(),
            train_trunk=args.any or args.new_trunk,
            archive=args.styles,
            held_out=held_out,
            about=about,
            measure=args.measure,
            self_contained=alone,
            **common,
        )


def _settings(args: argparse.Namespace, mode: _Mode, artworks: int) -> dict[str, Any]:
    """Return the settings that are given, and the defaults of the mode."""
    defaults = mode.defaults
    if mode is _STYLES_ON_TRUNK:
        defaults = defaults | {name: artworks * defaults[name] for name in _EACH}
        if args.steps is not None:
            del defaults["minutes"]
        defaults["rank"] = max([defaults["rank"], *map(_rank, args.start)])
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig)}
    settings = defaults | {k: value for k, value in given.items() if value is not None}
    if args.scales:
        settings["scales"] = tuple(args.scales)
    return settings


def _rank(style: Path) -> int:
    """Return the rank of a style file's changes to kernels; 0 if it has none."""
    tensors = read_header(style).items()
    shapes = [tensor["shape"] for name, tensor in tensors if name.endswith(FACTORS[0])]
    return max((shape[0] for shape in shapes if shape), default=0)


@contextlib.contextmanager
def _processes(device: str | None) -> Iterator[str | None]:
    """Join the other processes if ``torchrun`` started any.

    Yields the device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    chosen = pick_device(device)
    if chosen.type == "cuda":
        place, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if place >= count:
            raise DeviceError(
                "There are more processes than GPUs; start torchrun with "
                f"--nproc-per-node {count}."
            )
        device = f"cuda:{place}"
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=_LONGEST_WAIT)
    elif chosen.type == "cpu":
        dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    else:
        raise DeviceError(
            "Several processes train on CUDA devices or the CPU; give --device cpu."
        )
    try:
        yield device
        dist.barrier()  # the first process still measures and writes
    finally:
        dist.destroy_process_group()
