"""The work behind the page: pictures of strangers in, paintings out.

All input was typed or uploaded by strangers. So a style is one of those offered, the
visitor's own painting, or a Hub repository that the host allows, never a path. Pictures
are read within limits. Every refusal is a :class:`~styleplug.errors.StyleplugError` or
``ValueError`` whose message is one sentence that names no folder of this machine.
"""

from __future__ import annotations

import atexit
import contextvars
import fnmatch
import functools
import hashlib
import io
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .. import color, hub
from ..engine import Progress, Stylizer, part_of
from ..errors import (
    DownloadError,
    ImageTooLargeError,
    InvalidStyleError,
    StyleNotFoundError,
    StyleplugError,
)
from ..files import write_or_warn
from ..images import Picture, read_picture, write_picture
from ..predictor import PHOTOGRAPHS
from ..rendering import trim_heaps
from ..style import StyleInfo, bundled_styles, hyphenated

logger = logging.getLogger(__name__)

EXAMPLES = [
    *(PHOTOGRAPHS / name for name in ("astronaut.jpg", "coffee.jpg")),
    *sorted((Path(__file__).parent / "examples").glob("*.jpg")),
]
ZERO_GPU = bool(os.environ.get("SPACES_ZERO_GPU"))
"""Whether the package ``spaces`` lends a GPU, only for the duration of a call."""

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Errors that Pillow raises for data that is not a PNG."""
_LASTING = (FileNotFoundError, InvalidStyleError, StyleNotFoundError)
"""Errors of styles for which to try again is no use."""
_CLOSED = "This page was closed; come back later."
_THUMBNAIL = 176
_SHOWN = 1600
_STYLE_SIDE = 1024
_REASONS = 3
"""Maximum number of reasons given when nothing of a batch could be painted."""
_OWN = "own:"
PREFIX = "styleplug-"
"""Prefix of the names of the folders that are created."""

T = TypeVar("T")
Parts = list[tuple[Path, float]]
Mask = Image.Image | None
"""Where to paint; transparent counts as 0, None means everywhere."""


class StoppedError(StyleplugError):
    """The user stopped the painting."""


@dataclass(frozen=True)
class Limits:
    """Limits on what a visitor may ask for."""

    pixels: int = 100_000_000
    """Largest picture, in pixels."""
    file_bytes: int = 200 * 2**20
    """Largest uploaded file, in bytes."""
    files: int = 100
    """Maximum number of files in a batch."""
    own_styles: int = 20
    """Maximum number of a visitor's own paintings in one visit."""
    hub_styles: int = 100
    """Maximum number of styles fetched from the Hub, for all visitors together."""
    preview_side: int = 800
    """Longer side of a preview, in pixels."""


@dataclass(frozen=True)
class Settings:
    """How a picture is to be painted; the :class:`Studio` that uses it checks it."""

    style: str
    strength: float = 1.0
    style_scale: float = 1.0
    preserve_color: bool = False
    second_style: str = ""
    mix: float = 0.5
    """Share of the second style."""
    own: Mapping[str, OwnStyle] = field(default_factory=dict, kw_only=True)
    """The visitor's paintings by id; both styles may be one of them."""


class OwnStyle(NamedTuple):
    """A visitor's own painting, used as a style."""

    id: str
    title: str
    path: str
    """Path of a smaller copy, large enough to capture its style."""
    thumbnail: bytes
    """WebP file."""


class Content(NamedTuple):
    """A picture that was opened, and the preview that the page shows."""

    path: str
    preview: str
    """Path of a copy whose longer side is at most ``Limits.preview_side``."""
    width: int
    height: int


class Painting(NamedTuple):
    path: str
    """Path of the painting in full size, in the format of the photo."""
    before: str
    after: str
    """Paths of the pictures that the page shows, of equal size."""


class Batch(NamedTuple):
    path: str
    """Path of the zip file."""
    painted: int
    refused: list[str]
    """A sentence for each picture that was left out."""


class Studio:
    """Styles, limits and the one engine that serves all visitors in turn."""

    def __init__(
        self,
        styles: Sequence[StyleInfo],
        *,
        limits: Limits | None = None,
        hub_styles: Sequence[str] = (),
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        """Offer ``styles``, and the Hub repositories that match a pattern.

        ``hub_styles`` are patterns such as ``owner/*``; none by default. Files are
        created in :attr:`folder`, a new one within ``folder``, and stay until
        :meth:`clean` or the end of the process removes them. Raises ``ValueError`` for
        two styles of the same name.
        """
        offered: dict[str, StyleInfo] = {}
        for info in styles:
            path = offered.setdefault(info.id, info).path
            if os.path.realpath(path or "") != os.path.realpath(info.path or ""):
                raise ValueError(
                    f"{path} and {info.path} are both called {info.id}; "
                    "offer one of them, or train or capture one under another name."
                )
        self.styles: Mapping[str, StyleInfo] = offered
        """Replaced, never modified, as another thread may be iterating over it."""
        self._offered = len(self.styles)
        self.limits = limits or Limits()
        self.hub_styles = tuple(hub_styles)
        self._around = None if folder is None else Path(folder)
        if self._around:
            self._around.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        """Folder for visitors' files; Gradio may keep its own in it, too."""
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self._engine = ThreadPoolExecutor(1, "styleplug")
        self._closed = False
        self._adding = threading.Lock()
        self._thumbnails: dict[Path, bytes] = {}

    # Styles

    def add_hub_style(self, name: str) -> StyleInfo:
        """Fetch a style from the Hub and offer it, pinned to its commit.

        It is offered only if it loads, since all visitors will see it.
        """
        if not isinstance(name, str) or name.count("/") != 1:
            raise StyleNotFoundError("Write a style on the Hub as owner/name.")
        name = name.strip()
        repo_id, _, revision = name.partition("@")
        if not any(fnmatch.fnmatchcase(repo_id, p) for p in self.hub_styles):
            raise StyleNotFoundError(
                f"This page does not allow the Hub style {repo_id}; "
                "choose one of the list."
            )
        if len(self.styles) - self._offered >= self.limits.hub_styles:
            for info in self.styles.values():
                if info.repo_id == repo_id and revision in ("", info.revision):
                    return info
            raise StyleNotFoundError(
                f"This page has {self.limits.hub_styles} styles from the Hub already; "
                "choose one of the list."
            )
        try:
            path = hub.pull(name, token=False)
        except (DownloadError, StyleNotFoundError) as error:  # with advice for the host
            logger.warning("%s was not added: %s", name, error)
            raise type(error)(
                f"{name} cannot be fetched. Only styles that are public on the Hub, "
                "without conditions, can be added here: check the name, or try again "
                "later. The log of this page, in its terminal, says why."
            ) from error
        try:
            with _explained(path, name):
                info = Stylizer(path, device="cpu").info
        except InvalidStyleError:
            # Another visitor's call may have removed it, or may still be reading it.
            with suppress(OSError):
                hub.remove(path)
            raise
        with self._adding:
            self.styles = {**self.styles, info.id: info}
        return info

    def own_style(self, path: str, taken: Collection[str] = ()) -> OwnStyle:
        """Capture the style of an uploaded picture, with an id not in ``taken``."""
        if len(taken) >= self.limits.own_styles:
            raise ValueError(
                f"You already have {len(taken)} paintings; reload the page to start "
                "over."
            )

        def look() -> OwnStyle:
            picture = self._read(path)
            title = Path(path).stem.strip() or "Painting"
            copy = self._new_file(f"{_plain(title)}.png")
            small = _shrink(picture, picture.pixels, _STYLE_SIDE)
            small.save(copy, compress_level=1)
            Stylizer(copy, device="cpu")
            tile = _webp(ImageOps.fit(small, (_THUMBNAIL, _THUMBNAIL)))
            name = _unique(_OWN + _plain(title), {*map(str.casefold, taken)})
            return OwnStyle(name, title, str(copy), tile)

        with _explained(path):
            return self.run(look)

    def thumbnails(self, cache: Path) -> list[tuple[StyleInfo, bytes]]:
        """Return the styles with their thumbnails.

        Styles that are gone or damaged are no longer offered; those that fail for
        another reason are only left out this time.
        """
        gallery, unusable = [], set()
        for name, info in self.styles.items():
            try:
                gallery.append((info, self.thumbnail(info, cache)))
            except (StyleplugError, OSError) as error:
                logger.warning("The style %s is left out: %s", name, error)
                if isinstance(error, _LASTING):
                    unusable.add(name)
        with self._adding:
            self.styles = {n: i for n, i in self.styles.items() if n not in unusable}
        return gallery

    def thumbnail(self, info: StyleInfo, cache: Path) -> bytes:
        """Return a WebP of the example scene in a style, painted once per cache.

        If ``cache`` cannot be written, it is kept in memory. Raises ``StyleplugError``
        for a style that does not load, even if its thumbnail was painted before.
        """
        assert info.path is not None
        digest = hashlib.sha256(info.path.read_bytes())
        digest.update(EXAMPLES[-1].read_bytes())
        path = cache / f"{digest.hexdigest()[:32]}.webp"
        if path not in self._thumbnails:
            if info.path not in bundled_styles().values():
                Stylizer(info.path, device="cpu")  # its trunk may be gone by now
            try:
                self._thumbnails[path] = path.read_bytes()
            except OSError:
                self._thumbnails[path] = self._paint_thumbnail(info)
                with suppress(OSError):
                    cache.mkdir(parents=True, exist_ok=True)
                content = self._thumbnails[path]
                write_or_warn(path, lambda file: file.write(content), "A thumbnail")
        return self._thumbnails[path]

    def _paint_thumbnail(self, info: StyleInfo) -> bytes:
        scene = Image.open(EXAMPLES[-1]).crop((330, 180, 810, 660))
        painted = self.run(lambda: Stylizer(info.path or "", device="cpu")(scene))
        painted.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        return _webp(painted)

    def warm_up(self) -> None:
        """Load the styles, and paint once so that the first visitor need not wait."""
        paths = [info.path or "" for info in self.styles.values()]

        def paint() -> None:
            for path in paths:
                Stylizer(path, device="cpu")
            if not ZERO_GPU:
                Stylizer(paths[0])(Image.open(EXAMPLES[0]).reduce(2))

        self._engine.submit(paint)

    def _parts(self, settings: Settings) -> Parts:
        """Return the style files and their shares.

        This may wait for the Hub, so it runs in a visitor's thread, never in the
        engine's.
        """
        for style in settings.own.values():
            _touch(_folder(style))
        mix = _number("mix", settings.mix, 0, 1) if settings.second_style else 0.0
        parts = [(settings.style, 1 - mix), (settings.second_style, mix)]
        own = settings.own
        return [(self._path(name, own), share) for name, share in parts if share]

    def _path(self, name: Any, own: Mapping[str, OwnStyle]) -> Path:
        if not isinstance(name, str) or not name:
            raise StyleNotFoundError("Choose a style first.")
        if name in own:
            path = Path(own[name].path)
            if not path.is_file():
                raise StyleNotFoundError(
                    f"Your painting {own[name].title[:60]} is no longer here; "
                    "choose it again."
                )
            return path
        info = self.styles.get(name)
        if info is None and name.count("/") == 1 and self.hub_styles:
            info = self.add_hub_style(name)
        if info is None or info.path is None:
            raise StyleNotFoundError(
                f"There is no style {name[:60]!r} here; choose one of the list."
            )
        return info.path

    # Pictures

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` when the engine is free: first come, first served.

        Using one thread for everything that needs much memory keeps the process small,
        and so does giving memory back after each job.
        """

        def job() -> T:
            try:
                return work()
            finally:
                trim_heaps()

        context = contextvars.copy_context()
        try:
            return self._engine.submit(context.run, job).result()
        except (StyleplugError, ValueError):
            raise
        except Exception as error:
            if self._closed:
                raise StoppedError(_CLOSED) from error
            logger.error("%s while painting", type(error).__name__)  # no file names
            raise StyleplugError(
                "Something went wrong here; try again, or another picture."
            ) from error

    def close(self) -> None:
        """Cancel the jobs that wait, and end a painting at its next progress."""
        self._closed = True
        self._engine.shutdown(wait=False, cancel_futures=True)

    def _unless_closed(self, progress: Progress | None) -> Progress:
        def report(fraction: float) -> None:
            if self._closed:
                raise StoppedError(_CLOSED)
            if progress is not None:
                progress(fraction)

        return report

    def open(self, path: str) -> Content:
        """Read an uploaded file and make its preview."""
        with _explained(path):
            return self.run(lambda: self._open(path))

    def _open(self, path: str) -> Content:
        picture = self._read(path)
        preview = _shrink(picture, picture.pixels, self.limits.preview_side)
        return Content(path, self._save(preview, "photo"), *picture.size)

    def mask(self, path: str) -> Image.Image:
        """Read an uploaded mask in full size, RGB or RGBA; transparent counts as 0."""

        def read() -> Image.Image:
            picture = self._read(path)
            return _shrink(picture, picture.pixels, max(picture.size))

        with _explained(path):
            return self.run(read)

    def mask_of(self, drawing: bytes | str | None, *, inverted: bool) -> Mask:
        """Return the mask (mode L) that was drawn on a preview; None means everywhere.

        ``drawing`` is the content or the path of a PNG file. Only its alpha counts: how
        far the brush covered a place, whatever its colour.
        """
        if drawing is None:
            return None
        file = io.BytesIO(drawing) if isinstance(drawing, bytes) else drawing
        side = 2 * self.limits.preview_side
        try:
            with Image.open(file, formats=("PNG",)) as layer:
                fits = max(layer.size) <= side
                mask = layer.convert("RGBA").getchannel("A") if fits else None
        except _UNREADABLE as error:
            raise ValueError("What was drawn cannot be read; draw it again.") from error
        if mask is None:
            raise ValueError(
                "The drawing is too large; draw on the picture of this page."
            )
        alpha = np.asarray(mask)
        if not alpha.any():
            return None
        covered = (alpha.astype(np.uint16) * 255 // alpha.max()).astype(np.uint8)
        return Image.fromarray(255 - covered if inverted else covered)

    def preview(self, content: Content, settings: Settings, mask: Mask = None) -> str:
        """Paint an opened picture's preview at the same size; return the path."""
        parts, options = self._parts(settings), {**_options(settings), "mask": mask}
        for path in (content.path, content.preview):
            _use(path)

        def paint() -> str:
            with Image.open(content.preview) as photo:
                picture = Picture.from_image(photo)
            report = self._unless_closed(None)
            pixels = _render(picture.pixels, parts, options, report)
            return self._save(picture.to_image(pixels), "preview")

        return self.run(paint)

    def paint(
        self,
        path: str,
        settings: Settings,
        *,
        mask: Mask = None,
        progress: Progress | None = None,
    ) -> Painting:
        """Paint an uploaded file in full size, keeping its format and metadata."""
        parts = self._parts(settings)

        def paint() -> Painting:
            picture, pixels, result = self._paint_file(
                path, parts, settings, mask, progress
            )
            before = self._save(_shrink(picture, picture.pixels, _SHOWN), "before")
            after = self._save(_shrink(picture, pixels, _SHOWN), "after")
            return Painting(result, before, after)

        with _explained(path):
            return self.run(paint)

    def paint_all(
        self,
        paths: Sequence[str],
        settings: Settings,
        progress: Progress | None = None,
    ) -> Batch:
        """Paint uploaded files into a zip file; other jobs get their turn in between.

        If some cannot be painted, ``left-out.txt`` in it says which and why.
        """
        if not paths:
            raise ValueError("Choose some pictures first.")
        if len(paths) > self.limits.files:
            raise ValueError(
                f"You chose {len(paths)} pictures; the most is {self.limits.files}."
            )
        parts = self._parts(settings)
        own = [_folder(style) for style in settings.own.values()]

        def paint(path: str, report: Progress | None) -> str:
            return self._paint_file(path, parts, settings, None, report)[-1]

        archive = self._new_file("styleplug.zip")
        refused: list[str] = []
        taken: set[str] = set()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
            for index, path in enumerate(paths):
                for later in (*paths[index:], *own):
                    _touch(later)
                report = part_of(progress, index, len(paths))
                try:
                    with _explained(path):
                        result = self.run(functools.partial(paint, path, report))
                except StoppedError:
                    raise
                except StyleplugError as error:
                    refused.append(_naming(path, str(error)))
                    continue
                zipped.write(result, _unique(Path(result).name, taken))
                os.remove(result)
            if refused:
                zipped.writestr("left-out.txt", "\n".join(refused) + "\n")
        if not taken:
            reasons = " ".join(refused[:_REASONS])
            raise ValueError(f"None of these could be painted. {reasons}")
        return Batch(str(archive), len(taken), refused)

    def _paint_file(
        self,
        path: str,
        parts: Parts,
        settings: Settings,
        mask: Mask,
        progress: Progress | None,
    ) -> tuple[Picture, NDArray[Any], str]:
        options = _options(settings)
        picture = self._read(path)
        report = self._unless_closed(progress)
        pixels = _render(picture.pixels, parts, {**options, "mask": mask}, report)
        names = [_plain(Path(path).stem)]
        for style in filter(None, (settings.style, settings.second_style)):
            name = style.removeprefix(_OWN).partition("@")[0]
            names.append(_plain(name.replace(".", "-")))
        result = self._new_file("-".join(names) + (picture.suffix or ".png"))
        provenance = _load(parts, device="cpu").provenance(**options)
        write_picture(picture, pixels, result, provenance=provenance)
        return picture, pixels, str(result)

    def _read(self, path: str) -> Picture:
        _use(path)
        if os.path.getsize(path) > self.limits.file_bytes:
            raise ImageTooLargeError(
                f"This file has more than {self.limits.file_bytes >> 20} MB; save the "
                "picture smaller or as JPEG first."
            )
        try:
            return read_picture(path, max_pixels=self.limits.pixels)
        except ImageTooLargeError as error:
            raise ImageTooLargeError(
                f"This picture has more than {self.limits.pixels // 1_000_000} "
                "megapixels; make it smaller first."
            ) from error

    def _save(self, image: Image.Image, name: str) -> str:
        """Write a picture for the page, as JPEG, or as PNG if it has alpha."""
        if "A" in image.mode:
            path = self._new_file(f"{name}.png")
            image.save(path, compress_level=1)
        else:
            path = self._new_file(f"{name}.jpg")
            image.save(path, quality=93, subsampling=0)
        return str(path)

    def _new_file(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.folder)) / name

    def clean(self, age: float) -> None:
        """Remove the files that were not used in the last ``age`` seconds.

        This includes the files of processes that were killed, and files that Gradio
        created in :attr:`folder` from pictures sent within a call, and then forgot.
        """
        _touch(str(self.folder))  # so that no other process takes this one for killed
        made = set(self.folder.glob(f"{PREFIX}*"))
        for name in ("file", "file.*"):
            made |= {file.parent for file in self.folder.glob(f"*/{name}")}
        if self._around:
            made |= set(self._around.glob(f"{PREFIX}*")) - {self.folder}
        for folder in made:
            with suppress(OSError):  # files may be removed or added meanwhile
                used = max(f.stat().st_mtime for f in (folder, *folder.rglob("*")))
                if time.time() - used > age:
                    shutil.rmtree(folder)


def style_title(info: StyleInfo) -> str:
    return info.title or info.name.replace("-", " ").capitalize()


def period(info: StyleInfo) -> str:
    """Return the heading under which a style is offered."""
    if info.repo_id:
        return "From the Hub"
    year = re.search(r"\d{4}", info.year)
    if year is None:
        return "More styles"
    century = (int(year.group()) - 1) // 100 + 1
    ending = {1: "st", 2: "nd", 3: "rd"}.get(century % 10, "th")
    return f"{century}{'th' if 10 < century % 100 < 14 else ending} century"


def _paint(
    pixels: NDArray[Any],
    parts: Parts,
    options: dict[str, Any],
    progress: Progress | None = None,
) -> NDArray[Any]:
    return _load(parts).render(pixels, progress=progress, **options)


def _load(parts: Parts, device: str | None = None) -> Stylizer:
    """Load styles; only the host's log says what is wrong with one, naming folders."""
    try:
        return Stylizer(parts, device=device)
    except (InvalidStyleError, StyleNotFoundError) as error:
        logger.warning("A style is not here any more: %s", error)
        raise StyleNotFoundError(
            "This style is not here any more; choose another."
        ) from error


def _seconds(pixels: NDArray[Any], parts: Parts, options: dict[str, Any]) -> int:
    """Return for how many seconds to borrow a GPU, given the megapixels."""
    return 10 + math.ceil(pixels[..., 0].size / 2e6)


if ZERO_GPU:
    import spaces
    from gradio import Error as _GpuError

    _paint_on_lent_gpu = spaces.GPU(duration=_seconds)(_paint)


def _render(
    pixels: NDArray[Any],
    parts: Parts,
    options: dict[str, Any],
    report: Progress,
) -> NDArray[Any]:
    mask = options["mask"]
    if mask is not None and mask.size != pixels.shape[1::-1]:
        size = pixels.shape[1], pixels.shape[0]
        options = {**options, "mask": mask.resize(size, Image.Resampling.BILINEAR)}
    report(0.0)
    if not ZERO_GPU:
        return _paint(pixels, parts, options, report)
    # This runs in another process, which callbacks do not reach.
    try:
        result: NDArray[Any] = _paint_on_lent_gpu(pixels, parts, options)
    except _GpuError as error:  # about the quota, the queue, or signing in
        if error.title == "ZeroGPU worker error":  # its message is only a class name
            raise RuntimeError(error.message) from error
        raise StyleplugError(str(error.message).strip()) from error
    report(1.0)
    return result


def _options(settings: Settings) -> dict[str, Any]:
    if not isinstance(settings.preserve_color, bool):
        raise ValueError("preserve_color must be true or false.")
    return {
        "strength": _number("strength", settings.strength, 0, 1),
        "style_scale": _number("stroke size", settings.style_scale, 0.25, 4),
        "preserve_color": settings.preserve_color,
    }


def _number(name: str, value: Any, low: float, high: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
    ):
        raise ValueError(f"The {name} is a number between {low} and {high}.")
    return float(value)


def _shrink(picture: Picture, pixels: NDArray[Any], side: int) -> Image.Image:
    """Return the pixels as 8-bit RGB or RGBA, with sides of at most ``side``."""
    samples = color.change_depth(pixels, "uint8")
    image = Image.fromarray(samples)
    if picture.alpha is not None:
        alpha = color.change_depth(picture.alpha, "uint8")
        image.putalpha(Image.fromarray(alpha))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=82)
    return file.getvalue()


def _folder(style: OwnStyle) -> str:
    """Return the folder of an own style. It is touched instead of the file, since a
    file that seems new would be captured again."""
    return os.path.dirname(style.path)


def _touch(path: str) -> None:
    """Postpone the removal of a file or folder that is in use."""
    with suppress(OSError):
        os.utime(path)


def _use(path: str) -> None:
    if not os.path.exists(path):
        raise StyleplugError("Your picture is no longer here; choose it again.")
    _touch(path)


def _naming(path: str, message: str) -> str:
    name = Path(path).name
    return message if name in message else f"{name}: {message}"


def _plain(stem: str) -> str:
    """Return a name that is safe in a file name, of 60 bytes at most."""
    name = hyphenated(stem, also="_.-")
    return name.encode()[:60].decode(errors="ignore").strip("-.") or "picture"


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that no case tells from one in ``taken``, and add it there.

    Those in ``taken`` are case-folded.
    """
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name


@contextmanager
def _explained(path: str | os.PathLike[str], name: str | None = None) -> Iterator[None]:
    """Make errors name the file as the visitor knows it, without our folders."""
    try:
        yield
    except StyleplugError as error:
        message = str(error).replace(str(path), name or Path(path).name)
        if message == str(error):
            raise
        raise type(error)(message) from error
