"""The command ``styleplug``.

For each command a function, listed in ``_COMMANDS``, adds the parser, whose default
for ``run`` is the function that runs the command. Options have no defaults: an option
that is not given is not passed on, so the API's own defaults apply. Only commands that
compute import torch.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import contextvars
import dataclasses
import functools
import glob
import importlib
import inspect
import io
import json
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import imports
from .errors import InvalidImageError, StyleplugError
from .files import check_free, end_in_order, write_or_warn
from .style import (
    check_style_destination,
    check_style_name,
    check_style_texts,
    printable,
)

if TYPE_CHECKING:
    from . import gimp
    from .images import Picture
    from .style import StyleInfo

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

logger = logging.getLogger(__name__)

_STYLE_FILE_HELP = (
    "bundled name, path of a .safetensors, or owner/repo[@revision] on the Hub"
)
_DEVICE_HELP = "cpu, cuda, cuda:1, mps or xpu (default: the best there is)"
_MAX_PIXELS_HELP = "largest image to read, in pixels (default: 178956970)"
_TEXT_HELP = {
    "license": "licence of the weights, such as Apache-2.0",
    "artwork": "rights in the artwork, such as 'public domain'",
    "name": "name of the style",
    "title": "title of the artwork",
    "artist": "who made the artwork",
    "year": "when",
}
_NO_STYLE_LISTED = "The Hub lists no style that fits."
_STYLE_HELP = f"{_STYLE_FILE_HELP}, or any picture to take the style from"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 means success, 1 an error, reported in one line on stderr, 2 an invalid command
    line, 130 an interruption, and 141 that the reader of the output has closed it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Without a console, or once it is closed, these are None.
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    # A cache without links, as usual on Windows, is fine: a style is one file.
    os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
    with _notes_on_stderr(), warnings.catch_warnings():
        # If a file is faulty, the notes say what matters.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            args = _parser(arguments).parse_args(arguments)
            if args.run is not _worker:  # a stuck worker must end at once
                end_in_order()
            code = int(args.run(args))
            sys.stdout.flush()
        except SystemExit as stop:  # argparse has said why
            return int(stop.code or 0)
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 141  # a shell's exit code for SIGPIPE
        except KeyboardInterrupt:
            print("styleplug: stopped", file=sys.stderr)
            return 130
        except _USER_ERRORS as error:
            _complain(error)
            return 1
        except RuntimeError as error:
            from .rendering import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            _complain(MemoryError())
            return 1
    return code


_USER_ERRORS = (StyleplugError, OSError, ValueError, MemoryError)


def _complain(error: BaseException) -> None:
    text = str(error)
    if isinstance(error, MemoryError):
        text = "there is not enough memory; close other programs"
    elif isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    print(f"styleplug: error: {printable(' '.join(text.split()))}", file=sys.stderr)


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Show the library's warnings on stderr, one line each.

    Restores the log level at the end, as a command may lower it for itself.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        # overwrites a progress bar that may be on the line
        _PrintableFormatter(
            "\rstyleplug: note: %(message)-60s"
            if sys.stderr.isatty()
            else "styleplug: note: %(message)s"
        )
    )
    logger = logging.getLogger("styleplug")
    level = logger.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


_note_prefix = contextvars.ContextVar("_note_prefix", default="")


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(_note_prefix.get() + record.message)
        return super().formatMessage(record)


class _Version(argparse.Action):
    """Looks up the version only on request, as that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from . import __version__

        print(f"styleplug {__version__}")
        parser.exit()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="styleplug",
        description="Turn photographs into paintings, on your own machine.",
        epilog="Run 'styleplug COMMAND --help' for the options of a command.",
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show the version",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    _add_train(commands, arguments)
    return parser


class _ApiHelp(argparse.HelpFormatter):
    """Adds the defaults of an API function to its options' help.

    They are looked up only when help is shown, as that takes a while.
    """

    def __init__(self, module: str, function: str, **options: Any) -> None:
        super().__init__(**options)
        self._module, self._function = module, function

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        with imports.quickly():
            module = importlib.import_module(f".{self._module}", __package__)
        parameters = inspect.signature(getattr(module, self._function)).parameters
        for action in actions:
            default = getattr(parameters.get(action.dest), "default", None)
            if isinstance(default, float):
                default = f"{default:g}"
            if type(default) in (int, str) and default != "":
                action.help = f"{action.help} (default: {default})"
        super().add_arguments(actions)


# stylize


def _add_stylize(commands: Commands) -> None:
    parser = commands.add_parser(
        "stylize",
        help="paint images in a style",
        description="Paint images in a style. The result keeps the size, bit "
        "depth, transparency, colour profile and metadata of the image.",
        argument_default=argparse.SUPPRESS,
        formatter_class=functools.partial(_ApiHelp, "engine", "stylize"),
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=_path,
        metavar="IN",
        help="image to paint, or a folder of images (subfolders are left out)",
    )
    add(
        "-o",
        "--output",
        type=_name,
        required=True,
        metavar="OUT",
        help="image to write, in the format of its suffix; or a folder, in which "
        "images keep their format, or become PNG if it cannot be written",
    )
    add(
        "--style",
        action="append",
        required=True,
        metavar="STYLE[:WEIGHT]",
        help=f"{_STYLE_HELP}; repeat, with weights, to blend",
    )
    add("--strength", type=float, metavar="0..1", help="how far from the photo")
    add(
        "--style-scale",
        type=float,
        metavar="0.25..4",
        help="stroke size; 2 paints strokes twice as large",
    )
    add("--preserve-color", action="store_true", help="keep the photo's colours")
    add(
        "--grain",
        type=float,
        metavar="0..4",
        help="noise added to flat areas such as skies; with 0, the frames of a film "
        "flicker less",
    )
    add("--mask", type=_path, metavar="IMAGE", help="paint only where this is white")
    add("--device", help=_DEVICE_HELP)
    add(
        "--dtype",
        help="float32, bfloat16 or float16 (default: the fastest that is safe there)",
    )
    add(
        "--tile-size",
        type=int,
        metavar="PIXELS",
        help="side of the square tiles that are painted one by one, at least 256 "
        "(default: as the device allows)",
    )
    add(
        "--memory",
        dest="memory_limit",
        type=_bytes,
        metavar="SIZE",
        help="limit of the working memory, such as 2G or 500M",
    )
    add(
        "--max-pixels",
        type=_pixels,
        metavar="N",
        help=_MAX_PIXELS_HELP,
    )
    add("--overwrite", action="store_true", help="overwrite existing files")
    parser.set_defaults(run=_stylize)


def _bytes(text: str) -> int:
    pattern = r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?"
    match = re.fullmatch(pattern, text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2G or 500M")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def _name(text: str) -> str:
    if not text:  # Path("") would be the current folder
        raise argparse.ArgumentTypeError("it is empty; name a file or a folder")
    return text


def _path(text: str) -> Path:
    return Path(_name(text))


def _pixels(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels above 0")
    return int(text)


def _stylize(args: argparse.Namespace) -> int:
    options = vars(args).copy()
    del options["run"]
    inputs, output = _expand(options.pop("inputs")), options.pop("output")
    style = _parse_pairs(options.pop("style"))
    failed = 0
    jobs: list[tuple[Path, Path]] = []
    for result in _plan(inputs, output):
        if isinstance(result, Exception):
            _complain(result)
            failed += 1
        else:
            jobs.append(result)
    if not jobs:
        return 1

    from .images import read_to_paint

    overwrite = options.pop("overwrite", False)
    max_pixels = options.pop("max_pixels", None)

    def read(source: Path, target: Path) -> Picture:
        token = _note_prefix.set(f"{source}: " if len(jobs) > 1 else "")
        try:
            return read_to_paint(
                source, target, overwrite=overwrite, max_pixels=max_pixels
            )
        finally:
            _note_prefix.reset(token)

    where = {key: options.pop(key) for key in ("device", "dtype") if key in options}
    ahead = []
    with ThreadPoolExecutor(1) as reader:
        if jobs[0][1].parent.is_dir():
            ahead.append(reader.submit(read, *jobs[0]))  # while torch is imported

        with imports.quickly():
            from .engine import Stylizer, checked_options, paint_to_file

        if len(jobs) == 1 and ahead:
            ahead[0].result()  # raises before a style is pulled or captured
        checked_options(**options)
        stylizer = Stylizer(style, **where)
    for i, (source, target) in enumerate(jobs):
        started = time.perf_counter()
        try:
            with _ProgressBar(source.name, i, len(jobs)) as bar:
                if target != Path(output):
                    Path(output).mkdir(parents=True, exist_ok=True)
                size = paint_to_file(
                    ahead.pop().result() if ahead else read(source, target),
                    *(target, stylizer),
                    overwrite=overwrite,
                    progress=bar,
                    **options,
                )
        except ValueError:  # a wrong option, which fails for every file
            raise
        except _USER_ERRORS as error:
            _complain(error)
            failed += 1
        else:
            seconds = time.perf_counter() - started
            pixels = f"{size[0]} x {size[1]}"
            name = printable(str(target))
            print(f"{name}  {pixels}  {stylizer.device}  {seconds:.2f} s", flush=True)
    return 1 if failed else 0


def _parse_pairs(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Split texts into a name and the weight after its colon, by default 1."""
    pairs = []
    for text in texts:
        name, colon, weight = text.rpartition(":")
        try:
            pairs.append((name, float(weight)) if colon else (text, 1.0))
        except ValueError:  # the colon belongs to the name, as in C:\style.safetensors
            pairs.append((text, 1.0))
    return pairs


def _expand(inputs: Sequence[Path], platform: str = sys.platform) -> list[Path]:
    """Replace patterns such as ``*.jpg`` by the files that match them.

    This is needed on Windows only, where brackets are no pattern; other shells do it
    themselves.
    """
    if platform != "win32":
        return list(inputs)
    expanded: list[Path] = []
    for given in inputs:
        pattern = str(given).replace("[", "[[]")
        found = [] if os.path.exists(given) else sorted(glob.glob(pattern))
        expanded += map(Path, found) if found else [given]
    return expanded


def _plan(
    inputs: Sequence[Path], output: str, platform: str = sys.platform
) -> Iterator[tuple[Path, Path] | Exception]:
    """Yield pairs of source and target, or an error where there can be none."""
    from .images import IMAGE_SUFFIXES

    def identity(path: Path) -> str:
        """Return what two paths of one file have in common."""
        real = os.path.realpath(path)
        if platform not in ("win32", "darwin"):
            return real
        return unicodedata.normalize("NFC", real).casefold()

    several = len(inputs) > 1 or os.path.isdir(inputs[0])
    into_folder = several or output.endswith(("/", os.sep)) or Path(output).is_dir()
    if not into_folder:
        yield inputs[0], Path(output)
        return
    folder = Path(output)
    looks_like_image = folder.suffix.lower() in IMAGE_SUFFIXES and not folder.is_dir()
    if folder.is_file() or looks_like_image:
        yield NotADirectoryError(
            f"{folder} names one image; name a folder to write several into."
        )
        return
    sources: list[Path] = []
    for given in inputs:
        try:
            sources += _pictures_in(given) if os.path.isdir(given) else [given]
        except (OSError, InvalidImageError) as error:
            yield error
    originals = set(map(identity, sources))
    taken: dict[str, Path] = {}
    for source in sources:
        writable = source.suffix.lower() in IMAGE_SUFFIXES
        target = folder / (source.name if writable else f"{source.stem}.png")
        replaced = identity(target)
        if replaced in taken:
            yield FileExistsError(
                f"{source} and {taken[replaced]} would both become {target}; "
                "stylize them into different folders."
            )
            continue
        if replaced in originals and replaced != identity(source):
            yield FileExistsError(
                f"{source} would become {target}, which is to be painted itself; "
                "stylize them into different folders."
            )
            continue
        taken[replaced] = source
        yield source, target


def _pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder; raise ``InvalidImageError`` if it has none."""
    from .images import pictures_in

    pictures = pictures_in(folder)
    if not pictures:
        raise InvalidImageError(
            f"{folder} holds no images that can be read; name another folder."
        )
    return pictures


# optimize


def _add_optimize(commands: Commands) -> None:
    parser = commands.add_parser(
        "optimize",
        help="paint an image in the style of any picture, slowly",
        description="Paint an image in the style of any picture by optimization: the "
        "original algorithm, which takes a minute where 'stylize' takes a moment. "
        "Ctrl-C writes the best picture so far, beside an existing file.",
        argument_default=argparse.SUPPRESS,
        formatter_class=functools.partial(_ApiHelp, "optimization", "optimize"),
    )
    add = parser.add_argument
    add("content", type=_path, metavar="CONTENT", help="image to paint")
    add(
        "styles",
        nargs="+",
        metavar="STYLE[:WEIGHT]",
        help="picture whose style to paint in; several are blended by their weights",
    )
    add(
        "-o",
        "--output",
        type=_path,
        required=True,
        metavar="OUT",
        help="image to write",
    )
    add(
        "--region",
        action="append",
        metavar="IMAGE",
        help="mask: paint in the first style only where this is white; repeat for the "
        "next styles, with - for everywhere",
    )
    add(
        "--style-mask",
        action="append",
        metavar="IMAGE",
        help="mask: use only the part of the first style picture where this is white; "
        "repeat for the next styles, with - for all of it",
    )
    add("--mask", type=_path, metavar="IMAGE", help="paint only where this is white")
    add(
        "--style-loss",
        action="append",
        metavar="NAME[:WEIGHT]",
        help="what to match: gram, mean_std, wasserstein or nearest; several add up "
        "(default: gram:0.6 mean_std:0.2 wasserstein:0.2)",
    )
    for kind in ("content", "style", "tv"):
        add(
            f"--{kind}-weight",
            type=float,
            metavar="X",
            help=f"weight of the {kind} loss",
        )
    add(
        "--style-scale",
        type=float,
        metavar="0.25..4",
        help="stroke size; 2 paints strokes twice as large",
    )
    add(
        "--preserve-color",
        choices=("luminance", "statistics"),
        help="keep the photo's colours: of each pixel (luminance), or overall "
        "(statistics)",
    )
    add(
        "--init",
        metavar="NAME",
        help="what to start from: content, noise, fast (what 'stylize' paints with "
        "these pictures), or the name of a style, for its painting",
    )
    add("--optimizer", metavar="NAME", help="lbfgs or adam")
    add("--iterations", type=int, metavar="N", help="iterations at the coarsest size")
    add(
        "--tolerance",
        type=float,
        metavar="0..1",
        help="relative improvement at which to stop",
    )
    add("--seed", type=int, metavar="N", help="seed of the noise")
    add(
        "--loss-network",
        metavar="VGG",
        help="VGG-19: a file, or a Hub repository (default: timm/vgg19.tv_in1k)",
    )
    add("--device", help=_DEVICE_HELP)
    add(
        "--dtype",
        help="of the loss network: float32 or bfloat16 (default: the faster there)",
    )
    add(
        "--memory",
        dest="memory_limit",
        type=_bytes,
        metavar="SIZE",
        help="limit of the working memory, such as 2G (default: 4G)",
    )
    add(
        "--max-pixels",
        type=_pixels,
        metavar="N",
        help=_MAX_PIXELS_HELP,
    )
    add(
        "--snapshots",
        type=_path,
        metavar="FOLDER",
        help="save the picture so far here after every tenth of the work",
    )
    add("--overwrite", action="store_true", help="overwrite an existing file")
    parser.set_defaults(run=_optimize)


def _optimize(args: argparse.Namespace) -> int:
    options = vars(args).copy()
    del options["run"]
    content, output = options.pop("content"), options.pop("output")
    parts = _parse_pairs(options.pop("styles"))
    regions = _masks("--region", options.pop("region", []), len(parts))
    masks = _masks("--style-mask", options.pop("style_mask", []), len(parts))
    if "style_loss" in options:
        losses: dict[str, float] = collections.defaultdict(float)
        for name, weight in _parse_pairs(options["style_loss"]):
            losses[name] += weight
        options["style_loss"] = dict(losses)
    folder = options.pop("snapshots", None)
    if folder is not None:
        named = [content, output, *(name for name, _ in parts), *regions, *masks]
        named.append(options.get("mask"))
        used = {os.path.realpath(path) for path in named if path is not None}
        for tenth in range(1, 11):
            place = _snapshot(folder, tenth)
            if os.path.realpath(place) in used:
                raise ValueError(
                    f"{place} is an image of this command; save the snapshots in "
                    "another folder."
                )
            check_free(place, overwrite=options.get("overwrite", False))
        folder.mkdir(parents=True, exist_ok=True)

    with imports.quickly():
        from .optimization import StyleImage, optimize_file

    styles = [
        StyleImage(name, weight, mask, region)
        for (name, weight), mask, region in zip(parts, masks, regions, strict=True)
    ]
    started = time.perf_counter()
    written = 0
    with _ProgressBar(content.name, 0, 1) as bar:

        def callback(fraction: float, snapshot: Callable[[], Any]) -> None:
            nonlocal written
            bar(fraction)
            if folder is not None and fraction * 10 >= written + 1:
                written = int(fraction * 10)
                path, image = _snapshot(folder, written), snapshot()
                write_or_warn(path, lambda file: image.save(file, "PNG"), str(path))

        size = optimize_file(content, output, styles, callback=callback, **options)
    seconds = time.perf_counter() - started
    print(f"{output}  {size[0]} x {size[1]}  {seconds:.1f} s")
    return 0


def _snapshot(folder: Path, tenth: int) -> Path:
    return folder / f"{tenth * 10:03d}.png"


def _masks(option: str, given: Sequence[str], count: int) -> list[str | None]:
    """Return the mask of each style, None where there is none."""
    if len(given) > count:
        raise ValueError(
            f"{option} is given {len(given)} times for {count} style(s); give it at "
            "most once for each."
        )
    masks = [None if mask == "-" else mask for mask in given]
    return masks + [None] * (count - len(given))


class _ProgressBar:
    """A line on stderr with the progress over all files, shown only on a terminal."""

    def __init__(self, label: str, done: int, total: int) -> None:
        self._label = printable(label)
        self._done = done
        self._total = total
        self._visible = sys.stderr.isatty()
        self._columns = min(shutil.get_terminal_size().columns - 1, 64)
        self._shown = ""

    def __enter__(self) -> _ProgressBar:
        self(0.0)
        return self

    def __call__(self, fraction: float) -> None:
        if not self._visible:
            return
        overall = (self._done + fraction) / self._total
        bar = "#" * round(24 * overall)
        line = _cut(f"[{bar:<24}] {overall:4.0%} {self._label}", self._columns)
        if line != self._shown:
            self._show(line)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._show(" " * self._columns + "\r")

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r{line}")
        sys.stderr.flush()
        self._shown = line


def _cut(text: str, columns: int) -> str:
    """Return as much of a text as fits into ``columns`` of a terminal."""
    for i, sign in enumerate(text):
        columns -= 2 if unicodedata.east_asian_width(sign) in "FW" else 1
        if columns < 0:
            return text[:i]
    return text


# list, info, pull


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser(
        "list",
        help="list the styles on this machine or on the Hub",
        description="List the styles on this machine, or with --hub those on the Hub.",
    )
    parser.add_argument("--hub", action="store_true", help="ask the Hub")
    _add_hub_filters(parser)
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.set_defaults(run=_list)


def _add_hub_filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--search",
        metavar="TEXT",
        help="on the Hub: only repositories whose name contains this",
    )
    add(
        "--license",
        metavar="SPDX",
        help="on the Hub: only styles under this licence, such as mit",
    )


def _list(args: argparse.Namespace) -> int:
    if args.hub:
        return _list_hub(args)
    if args.search or args.license:
        raise ValueError("--search and --license apply to the Hub; add --hub.")

    from .hub import list_styles

    styles = list_styles()
    if args.json:
        print(json.dumps([_as_json(info) for info in styles], indent=2))
        return 0
    rows = [
        (info.id, ", ".join(filter(None, (info.title, info.artist, info.year))))
        for info in styles
    ]
    _print_table(rows)
    return 0


def _list_hub(args: argparse.Namespace) -> int:
    from .hub import list_hub_styles

    styles = list_hub_styles(args.search, args.license)
    if not styles:
        logger.warning(_NO_STYLE_LISTED)
    if args.json:
        print(json.dumps([dataclasses.asdict(style) for style in styles], indent=2))
    else:
        _print_table(
            (s.repo_id, s.license or "no licence", f"{s.downloads} downloads")
            for s in styles
        )
    return 0


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(f"{text:<{width}}" for text, width in cells).rstrip())


def _as_json(info: StyleInfo) -> dict[str, Any]:
    fields = {"id": info.id, **dataclasses.asdict(info)}
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="show the artwork, rights, training and figures of a style",
        description="Show what a style file says: its artwork, the rights in it, how "
        "it was trained and what was measured.",
    )
    parser.add_argument("style", metavar="STYLE", help=_STYLE_FILE_HELP)
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    from .hub import locate, style_info

    _refuse_picture(args.style)
    info = style_info(locate(args.style))
    fields = _as_json(info)
    if args.json:
        print(json.dumps(fields, indent=2))
        return 0
    for name, value in fields.items():
        if value not in (None, "", {}):
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            print(f"{name.replace('_', ' '):<15} {printable(text)}")
    return 0


def _refuse_picture(style: str, or_else: str = "") -> None:
    """Raise ``StyleplugError`` for a picture where a style file is needed."""
    from .images import names_picture

    if names_picture(style):
        raise StyleplugError(
            f"{style} is a picture; make a style of it with 'styleplug capture "
            f"PICTURE -o NEW.safetensors'{or_else}."
        )


def _add_pull(commands: Commands) -> None:
    parser = commands.add_parser(
        "pull",
        help="download styles from the Hub",
        description="Download styles from the Hub and print the paths of their files. "
        "They work offline from then on.",
    )
    parser.add_argument(
        "styles",
        nargs="*",
        metavar="OWNER/REPO[@REVISION]",
        help="repository on the Hub",
    )
    parser.add_argument(
        "--all", action="store_true", help="download all that the Hub lists"
    )
    _add_hub_filters(parser)
    parser.set_defaults(run=_pull)


def _pull(args: argparse.Namespace) -> int:
    from .hub import list_hub_styles, pull

    repo_ids = list(args.styles)
    if args.all:
        found = list_hub_styles(args.search, args.license)
        if not found:
            logger.warning(_NO_STYLE_LISTED)
        repo_ids += [style.repo_id for style in found]
    elif args.search or args.license:
        raise ValueError(
            "--search and --license filter the styles of --all; add --all."
        )
    elif not repo_ids:
        raise ValueError("name the styles to download, or give --all.")
    failed = False
    for repo_id in repo_ids:
        try:
            print(pull(repo_id), flush=True)
        except (StyleplugError, ValueError) as error:
            _complain(error)
            failed = True
    return int(failed)


# cache, publish, convert


def _add_cache(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache",
        help="list the styles downloaded from the Hub",
        description="List the styles that were downloaded from the Hub, with commit, "
        "size, licence, and the branches and tags that point to them.",
    )
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.set_defaults(run=_cache)


def _cache(args: argparse.Namespace) -> int:
    from .hub import cache_info

    styles = cache_info()
    if args.json:
        fields = [
            {**_as_json(s.info), "size": s.size, "refs": list(s.refs)} for s in styles
        ]
        print(json.dumps(fields, indent=2))
        return 0
    if not styles:
        logger.warning(
            "No style from the Hub is cached; 'styleplug pull' downloads one."
        )
    _print_table(
        (
            s.info.repo_id or "",
            (s.info.revision or "")[:12],
            f"{s.size / 1e6:.1f} MB",
            s.info.license or "no licence",
            ", ".join(s.refs) or "pinned",
        )
        for s in styles
    )
    return 0


def _add_publish(commands: Commands) -> None:
    parser = commands.add_parser(
        "publish",
        help="upload a style to the Hub",
        description="Upload a style with its model card to a repository on the Hub, "
        "created if needed. Log in first with 'hf auth login'.",
    )
    add = parser.add_argument
    add("file", type=_path, metavar="FILE", help="the style, a .safetensors")
    add("--repo-id", required=True, metavar="OWNER/NAME", help="repository on the Hub")
    add(
        "--sample",
        action="append",
        default=[],
        type=_path,
        metavar="IMAGE",
        help="sample picture for the card, uploaded without its EXIF, XMP and IPTC; "
        "repeat for more",
    )
    for text in ("license", "artwork"):
        add(
            f"--{text}",
            metavar="TEXT",
            help=f"{_TEXT_HELP[text]} (default: what the file says)",
        )
    add("--private", action="store_true", help="make the repository private")
    add("--dry-run", action="store_true", help="only show what would be uploaded")
    parser.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> int:
    from .hub import publish

    published = publish(
        args.file,
        args.repo_id,
        private=args.private,
        dry_run=args.dry_run,
        samples=args.sample,
        license=args.license,
        artwork=args.artwork,
    )
    _print_table((name, f"{len(data):,}") for name, data in published.files.items())
    if args.dry_run:
        print(f"\n{published.files['README.md'].decode()}")
    print(f"{'would go to' if args.dry_run else 'is on'} {published.url}")
    return 0


def _add_convert(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="import another project's checkpoint as a style",
        description="Import a checkpoint of pytorch/examples fast_neural_style, "
        "rrmina/fast-neural-style-pytorch or MSG-Net as a style. Pickles are read as "
        "weights only; nothing in them is executed.",
        argument_default=argparse.SUPPRESS,
        formatter_class=functools.partial(_ApiHelp, "convert", "convert"),
    )
    add = parser.add_argument
    add("old_path", type=_path, metavar="OLD", help="the checkpoint")
    add(
        "-o",
        "--output",
        dest="new_path",
        type=_path,
        required=True,
        metavar="NEW.safetensors",
        help="style file to write",
    )
    _add_texts(parser, required=("license", "artwork"))
    add(
        "--base-size",
        type=int,
        metavar="PIXELS",
        help="side, in pixels, of a picture in which the strokes look right",
    )
    add(
        "--style-image",
        type=_path,
        metavar="IMAGE",
        help="style image, which MSG-Net needs",
    )
    add(
        "--tanh",
        action="store_true",
        help="the network is rrmina's TransformerNetworkTanh",
    )
    add("--overwrite", action="store_true", help="overwrite an existing file")
    parser.set_defaults(run=_convert)


def _add_texts(parser: argparse.ArgumentParser, required: Sequence[str] = ()) -> None:
    for name, description in _TEXT_HELP.items():
        parser.add_argument(
            f"--{name}", metavar="TEXT", required=name in required, help=description
        )


def _convert(args: argparse.Namespace) -> int:
    with imports.quickly():
        from .convert import convert

    options = vars(args).copy()
    del options["run"]
    convert(**options)
    print(args.new_path)
    return 0


# capture, sample, train, worker


def _add_capture(commands: Commands) -> None:
    parser = commands.add_parser(
        "capture",
        help="save the style of a picture as a style file",
        description="Capture the style of a picture in a style file, for every "
        "command, GIMP and the page. 'styleplug train PICTURE --from FILE' refines it.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("picture", type=_path, metavar="PICTURE", help="picture whose style to capture")
    add(
        "-o",
        "--output",
        type=_path,
        required=True,
        metavar="NEW.safetensors",
        help="style file to write",
    )
    add(
        "--predictor",
        type=_path,
        metavar="FOLDER",
        help="use the predictor that 'styleplug train --any' has written here",
    )
    _add_texts(parser)
    add("--overwrite", action="store_true", help="overwrite an existing file")
    parser.set_defaults(run=_capture)


def _capture(args: argparse.Namespace) -> int:
    header = vars(args).copy()
    del header["run"]
    picture, output = header.pop("picture"), header.pop("output")
    overwrite = header.pop("overwrite", False)
    check_free(output, overwrite=overwrite)
    check_style_destination(output)
    check_style_name(header.get("name", output.stem))
    check_style_texts(header)

    with imports.quickly():
        from .engine import Stylizer
    from .images import as_style_image

    header.setdefault("title", picture.stem)
    look = {"predictor": header.pop("predictor")} if "predictor" in header else {}
    stylizer = Stylizer(as_style_image(picture), device="cpu", **look)
    check_free(output, overwrite=overwrite)  # it may have appeared meanwhile
    stylizer.save(output, **header)
    print(output)
    return 0


def _add_sample(commands: Commands) -> None:
    parser = commands.add_parser(
        "sample",
        help="write a landscape to try styles on",
        description="Write a little landscape of 960 x 640 pixels to try styles on.",
    )
    add = parser.add_argument
    add("file", type=_path, metavar="FILE", help="image to write")
    add("--overwrite", action="store_true", help="overwrite an existing file")
    parser.set_defaults(run=_sample)


def _sample(args: argparse.Namespace) -> int:
    from .images import read_picture, write_picture

    check_free(args.file, overwrite=args.overwrite)
    picture = read_picture(Path(__file__).parent / "sample.jpg")
    write_picture(picture, picture.pixels, args.file, provenance={"sample": "lake"})
    print(args.file)
    return 0


def _add_train(commands: Commands, arguments: Sequence[str]) -> None:
    parser = commands.add_parser("train", help="train a style from an artwork")
    if arguments[:1] == ["train"]:  # its options are defined where torch is imported
        with imports.quickly():
            from .training import command

        command.add_arguments(parser, _path)
        parser.set_defaults(
            run=command.run,
            command=shlex.join(["styleplug", *map(_without_folder, arguments)]),
        )


def _without_folder(argument: str) -> str:
    """Shorten an absolute path to its last part, as others may read the command."""
    path = re.sub(r"^(-\w(?=.)|--[\w-]+=)", "", argument)
    if not os.path.isabs(path):
        return argument
    return argument.removesuffix(path) + (Path(path).name or path)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="open the web page",
        description="Serve the web page for painting photos and open it in a browser. "
        "Only this machine can reach it, unless --host names another address.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add(
        "--host",
        dest="server_name",
        type=_host,
        metavar="ADDRESS",
        help="address to listen on",
    )
    add(
        "--port",
        dest="server_port",
        type=_port,
        metavar="PORT",
        help="port to listen on",
    )
    add(
        "--style",
        dest="styles",
        action="append",
        metavar="STYLE",
        help="another style to offer: a .safetensors, or a style of the Hub",
    )
    add(
        "--no-browser",
        dest="inbrowser",
        action="store_false",
        help="do not open the browser",
    )
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    _check_gradio()
    try:
        with imports.quickly():
            from .demo import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise StyleplugError(
            'The page needs Gradio; install it with: pip install "styleplug[demo]"'
        ) from error
    from .engine import Stylizer
    from .hub import list_styles, locate

    options = {name: value for name, value in vars(args).items() if name != "run"}
    if "styles" in options:
        for name in options["styles"]:
            _refuse_picture(name, ", or add it on the page")
        more = [Stylizer(locate(name), device="cpu") for name in options["styles"]]
        options["styles"] = [*list_styles(), *(style.info for style in more)]
    place = options.get("server_name", "this machine")
    if "server_port" in options:
        place += f", port {options['server_port']}"
    nothing = StyleplugError(
        f"Cannot listen on {place}; choose another --host or --port."
    )
    # Gradio would try a hundred ports, and complain about each.
    if "server_name" in options and not _can_listen(options["server_name"]):
        raise nothing
    try:
        launch(**{"inbrowser": True, **options})
    except OSError as error:
        if error.errno is not None:  # not Gradio's error that it found no port
            raise
        raise nothing from error
    return 0


def _check_gradio() -> None:
    """Raise ``StyleplugError`` if the page needs another Gradio than is installed."""
    from importlib import metadata

    try:
        installed, needs = metadata.version("gradio"), metadata.requires("styleplug")
    except metadata.PackageNotFoundError:
        return  # a checkout, or no Gradio at all
    from packaging.requirements import Requirement  # comes with Gradio

    for needed in map(Requirement, needs or ()):
        fits = needed.specifier.contains(installed, prereleases=True)
        if needed.name == "gradio" and not fits:
            raise StyleplugError(
                f"The page needs gradio{needed.specifier}, not {installed}; install it "
                'with: pip install --upgrade "styleplug[demo]"'
            )


def _can_listen(host: str) -> bool:
    """Return whether an address belongs to this machine."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, *_, address in found:
        with contextlib.suppress(OSError), socket.socket(family) as one:
            one.bind(address)
            return True
    return False


def _host(text: str) -> str:
    """Return an address as URLs contain it: IPv6 in brackets."""
    return f"[{text}]" if ":" in text and not text.startswith("[") else text


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _add_worker(commands: Commands) -> None:
    parser = commands.add_parser(
        "worker",
        help="serve another program on stdin and stdout",
        description="Paint for another program, such as GIMP, which writes requests to "
        "stdin and reads the answers from stdout.",
    )
    parser.set_defaults(run=_worker)


def _worker(args: argparse.Namespace) -> int:
    from . import worker

    worker.main()


# gimp


def _add_gimp(commands: Commands) -> None:
    parser = commands.add_parser(
        "gimp",
        help="install the filter for GIMP 3",
        description="Install the Neural Style filter for GIMP 3, which runs this "
        "installation of styleplug, or find out why it does not work.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, text in (
        ("install", _gimp_install, "install the Neural Style filter in GIMP 3"),
        ("uninstall", _gimp_uninstall, "remove the filter"),
        (
            "doctor",
            _gimp_doctor,
            "find out why the filter is missing or does not start",
        ),
    ):
        action = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        action.add_argument(
            "--profile",
            type=_path,
            metavar="FOLDER",
            help="GIMP's settings folder, such as ~/.config/GIMP/3.0 (default: all "
            "that are found)",
        )
        action.set_defaults(run=run)


def _gimp_profiles(args: argparse.Namespace) -> list[gimp.Profile] | None:
    from . import gimp

    return gimp.find_profiles(args.profile) if args.profile else None


def _gimp_install(args: argparse.Namespace) -> int:
    from . import gimp

    profiles = gimp.install(_gimp_profiles(args))
    for profile in profiles:
        print(profile.plugin)
    if any(map(gimp.is_of_flatpak, profiles)):
        print(f"Allow the Flatpak of GIMP to start it: {gimp.FLATPAK_PERMISSION}")
    print("Restart GIMP; Neural Style is then in Filters > Artistic.")
    return 0


def _gimp_uninstall(args: argparse.Namespace) -> int:
    from . import gimp

    removed = gimp.uninstall(_gimp_profiles(args))
    for profile in removed:
        print(profile.plugin)
    if not removed:
        logger.warning("The filter is installed nowhere.")
    return 0


def _gimp_doctor(args: argparse.Namespace) -> int:
    from . import gimp

    failed = False
    for finding in gimp.doctor(_gimp_profiles(args)):
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.text}", flush=True)
        if not finding.ok:
            print(f"     -> {finding.advice}", flush=True)
            failed = True
    return int(failed)


_COMMANDS: tuple[Callable[[Commands], None], ...] = (
    _add_stylize,
    _add_optimize,
    _add_list,
    _add_info,
    _add_pull,
    _add_cache,
    _add_publish,
    _add_convert,
    _add_capture,
    _add_sample,
    _add_demo,
    _add_worker,
    _add_gimp,
)
