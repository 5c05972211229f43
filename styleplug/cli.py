"""The command ``styleplug``.

A command is a function here that adds its parser, with the function that does it as
the default of ``run``, and is named in ``_COMMANDS``. Options have no defaults: what
is not given is not passed on, so the API's own defaults hold. torch is imported only
by the commands that compute.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InvalidImageError, StyleplugError

if TYPE_CHECKING:
    from . import gimp
    from .style import StyleInfo

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_STYLE_HELP = (
    "bundled name, path of a .safetensors, or owner/repo[@revision] on the Hub"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 an error told in one line on stderr, 2 a command line that makes
    no sense, 130 an interruption.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = _parser(arguments).parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    with _notes_on_stderr():
        try:
            code = int(args.run(args))
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        except KeyboardInterrupt:
            print("styleplug: stopped", file=sys.stderr)
            return 130
        except _USER_ERRORS as error:
            _complain(error)
            return 1
    return code


_USER_ERRORS = (StyleplugError, OSError, ValueError, MemoryError)


def _complain(error: BaseException) -> None:
    text = str(error)
    if isinstance(error, MemoryError):
        text = "there is not enough memory; close other programs"
    elif isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    print(f"styleplug: error: {' '.join(text.split())}", file=sys.stderr)


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Show what the library logs as warnings, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        # over a progress bar that may be on the line
        logging.Formatter(
            "\rstyleplug: note: %(message)-60s"
            if sys.stderr.isatty()
            else "styleplug: note: %(message)s"
        )
    )
    logger = logging.getLogger("styleplug")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for, which takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from . import __version__

        print(f"styleplug {__version__}")
        parser.exit()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="styleplug",
        description="Turn photographs into paintings, on your own machine.",
        epilog="styleplug COMMAND --help tells the options of a command.",
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
    _add_train(commands, wanted=arguments[:1] == ["train"])
    return parser


# stylize


def _add_stylize(commands: Commands) -> None:
    parser = commands.add_parser(
        "stylize",
        help="paint images in a style",
        description="Paint images in a style. The result has the size, bit depth, "
        "transparency, colour profile and metadata of the image.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="image, or folder of images")
    add(
        *("-o", "--output"),
        required=True,
        metavar="OUT",
        help="image to write, or folder for several",
    )
    add(
        "--style",
        action="append",
        required=True,
        metavar="STYLE[:WEIGHT]",
        help=f"{_STYLE_HELP}; give several with weights to blend them",
    )
    add("--strength", type=float, metavar="0..1", help="how far from the photograph")
    add(
        "--style-scale",
        type=float,
        metavar="0.25..4",
        help="stroke size, 2 paints strokes twice as large",
    )
    add("--preserve-color", action="store_true", help="keep the photograph's colours")
    add("--mask", type=Path, metavar="IMAGE", help="paint only where this is white")
    add("--device", help="cpu, cuda, cuda:1, mps or xpu")
    add("--dtype", help="float32, bfloat16 or float16")
    add(
        "--tile-size",
        type=int,
        metavar="PIXELS",
        help="side of what is painted at once",
    )
    add(
        "--memory",
        dest="memory_limit",
        type=_bytes,
        metavar="SIZE",
        help="working memory to stay within, such as 2G or 500M",
    )
    add("--max-pixels", type=int, metavar="N", help="read images up to this size")
    add("--overwrite", action="store_true", help="replace files that are there already")
    parser.set_defaults(run=_stylize)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 2G or 500M")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def _stylize(args: argparse.Namespace) -> int:
    options = vars(args).copy()
    del options["run"]
    inputs, output = options.pop("inputs"), options.pop("output")
    style = _parse_styles(options.pop("style"))
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

    from .engine import Stylizer, stylize_file

    where = {key: options.pop(key) for key in ("device", "dtype") if key in options}
    stylizer = Stylizer(style, **where)
    for i, (source, target) in enumerate(jobs):
        started = time.perf_counter()
        try:
            with _ProgressBar(source.name, i, len(jobs)) as bar:
                if target != Path(output):
                    Path(output).mkdir(parents=True, exist_ok=True)
                size = stylize_file(source, target, stylizer, progress=bar, **options)
        except ValueError:  # an option, and so the same for all files
            raise
        except _USER_ERRORS as error:
            _complain(error)
            failed += 1
        else:
            seconds = time.perf_counter() - started
            pixels = f"{size[0]} x {size[1]}"
            print(f"{target}  {pixels}  {stylizer.device}  {seconds:.2f} s", flush=True)
    return 1 if failed else 0


def _parse_styles(texts: Sequence[str]) -> str | list[tuple[str, float]]:
    """Return the style, or the (style, weight) pairs of a blend."""
    pairs = []
    for text in texts:
        name, colon, weight = text.rpartition(":")
        try:
            pairs.append((name, float(weight)) if colon else (text, 1.0))
        except ValueError:  # the colon belongs to the name, as in C:\style.safetensors
            pairs.append((text, 1.0))
    return pairs[0][0] if len(pairs) == 1 else pairs


def _plan(
    inputs: Sequence[Path], output: str
) -> Iterator[tuple[Path, Path] | Exception]:
    """Yield what to read and where to write it, or why that cannot be."""
    from .images import IMAGE_SUFFIXES

    several = len(inputs) > 1 or inputs[0].is_dir()
    into_folder = several or output.endswith(("/", os.sep)) or Path(output).is_dir()
    if not into_folder:
        yield inputs[0], Path(output)
        return
    folder = Path(output)
    if folder.is_file():
        yield NotADirectoryError(
            f"{folder} is a file; name a folder to write several images into."
        )
        return
    taken: dict[Path, Path] = {}
    for given in inputs:
        sources = [given]
        if given.is_dir():
            sources = sorted(
                path
                for path in given.iterdir()
                if path.suffix.lower() in IMAGE_SUFFIXES
                and not path.name.startswith(".")
                and path.is_file()
            )
            if not sources:
                yield InvalidImageError(
                    f"{given} holds no images; name another folder."
                )
        for source in sources:
            writable = source.suffix.lower() in IMAGE_SUFFIXES
            name = source.name if writable else f"{source.stem}.png"
            target = folder / name
            if target in taken:
                yield FileExistsError(
                    f"{source} and {taken[target]} would both become {target}; "
                    "stylize them into different folders."
                )
                continue
            taken[target] = source
            yield source, target


class _ProgressBar:
    """A line on stderr that shows how far all files are, on a terminal only."""

    def __init__(self, label: str, done: int, total: int) -> None:
        self._label = label
        self._done = done
        self._total = total
        self._visible = sys.stderr.isatty()
        self._shown = ""

    def __enter__(self) -> _ProgressBar:
        self(0.0)
        return self

    def __call__(self, fraction: float) -> None:
        if not self._visible:
            return
        overall = (self._done + fraction) / self._total
        filled = round(24 * overall)
        label = self._label if len(self._label) <= 32 else f"{self._label[:29]}..."
        line = f"\r[{'#' * filled:<24}] {overall:4.0%} {label}"
        if line != self._shown:
            self._show(line)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._show("\r" + " " * (len(self._shown) - 1) + "\r")

    def _show(self, line: str) -> None:
        sys.stderr.write(line)
        sys.stderr.flush()
        self._shown = line


# list, info, pull


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser("list", help="list the styles on this machine")
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    from .hub import list_styles

    styles = list_styles()
    if args.json:
        print(json.dumps([_as_json(info) for info in styles], indent=2))
        return 0
    rows = [
        (_id(info), ", ".join(filter(None, (info.title, info.artist, info.year))))
        for info in styles
    ]
    width = max((len(name) for name, _ in rows), default=0)
    for name, artwork in rows:
        print(f"{name:<{width}}  {artwork}".rstrip())
    return 0


def _id(info: StyleInfo) -> str:
    return f"{info.repo_id}@{info.revision}" if info.repo_id else info.name


def _as_json(info: StyleInfo) -> dict[str, Any]:
    fields = {"id": _id(info), **dataclasses.asdict(info)}
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser("info", help="show what a style says about itself")
    parser.add_argument("style", metavar="STYLE", help=_STYLE_HELP)
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    from .hub import locate, style_info

    info = style_info(locate(args.style))
    fields = _as_json(info)
    if args.json:
        print(json.dumps(fields, indent=2))
        return 0
    for name, value in fields.items():
        if value not in (None, "", {}):
            text = json.dumps(value) if isinstance(value, dict) else value
            print(f"{name.replace('_', ' '):<15} {text}")
    return 0


def _add_pull(commands: Commands) -> None:
    parser = commands.add_parser("pull", help="download styles from the Hub")
    parser.add_argument(
        "styles",
        nargs="+",
        metavar="OWNER/REPO[@REVISION]",
        help="repository on the Hub",
    )
    parser.set_defaults(run=_pull)


def _pull(args: argparse.Namespace) -> int:
    from .hub import pull

    failed = False
    for repo_id in args.styles:
        try:
            print(pull(repo_id), flush=True)
        except (StyleplugError, ValueError) as error:
            _complain(error)
            failed = True
    return int(failed)


# sample, train, worker


def _add_sample(commands: Commands) -> None:
    parser = commands.add_parser("sample", help="draw a landscape to try styles on")
    parser.add_argument("file", type=Path, metavar="FILE", help="image to write")
    parser.set_defaults(run=_sample)


def _sample(args: argparse.Namespace) -> int:
    from .images import Picture, write_picture
    from .sample import draw_scene

    picture = Picture.from_image(draw_scene())
    write_picture(picture, picture.pixels, args.file, provenance={"sample": "lake"})
    print(args.file)
    return 0


def _add_train(commands: Commands, *, wanted: bool) -> None:
    parser = commands.add_parser("train", help="train a style from an artwork")
    if wanted:  # its options live with the training, which imports torch
        from .training import loop

        loop.add_arguments(parser)
        parser.set_defaults(run=loop.run)


def _add_worker(commands: Commands) -> None:
    parser = commands.add_parser(
        "worker", help="serve another program on stdin and stdout"
    )
    parser.set_defaults(run=_worker)


def _worker(args: argparse.Namespace) -> int:
    from . import worker

    worker.main()


# gimp


def _add_gimp(commands: Commands) -> None:
    parser = commands.add_parser("gimp", help="install the filter for GIMP 3")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, text in (
        ("install", _gimp_install, "put the filter Neural Style into GIMP 3"),
        ("uninstall", _gimp_uninstall, "take it out again"),
        ("doctor", _gimp_doctor, "find out why it is not there or does not start"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "--profile",
            type=Path,
            metavar="FOLDER",
            help="settings folder of GIMP, such as ~/.config/GIMP/3.0; else all",
        )
        action.set_defaults(run=run)


def _gimp_profiles(args: argparse.Namespace) -> list[gimp.Profile] | None:
    from . import gimp

    return gimp.find_profiles(args.profile) if args.profile else None


def _gimp_install(args: argparse.Namespace) -> int:
    from . import gimp

    for profile in gimp.install(_gimp_profiles(args)):
        print(profile.plugin)
    print("Start GIMP anew; Neural Style is then in Filters > Artistic.")
    return 0


def _gimp_uninstall(args: argparse.Namespace) -> int:
    from . import gimp

    for profile in gimp.uninstall(_gimp_profiles(args)):
        print(profile.plugin)
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
    _add_list,
    _add_info,
    _add_pull,
    _add_sample,
    _add_worker,
    _add_gimp,
)
