"""``stylize`` and ``Stylizer``, which bring styles, devices and images together."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import hub
from .errors import (
    DeviceError,
    MemoryLimitError,
    StyleNotFoundError,
)
from .images import (
    Picture,
    as_style_image,
    check_finite,
    load_mask,
    names_picture,
    read_to_paint,
    write_picture,
)
from .networks import (
    BYTES_PER_PIXEL,
    StyleNetwork,
    checked_dtype,
    computes_bfloat16,
    mix,
    stack_styles,
)
from .predictor import capture
from .rendering import (
    SMALLEST_TILE,
    Canvas,
    Renderer,
    is_out_of_memory,
    is_raised_by_caller,
    luma,
    tile_size_within,
    usual_tile_size,
)
from .style import (
    MAX_TEXT,
    STYLES_DIR,
    TEXTS,
    StyleInfo,
    check_style_destination,
    read_info,
)
from .tiling import Region
from .weights import LoadedStyle, load_style, once_per_file, save_style

if TYPE_CHECKING:
    from typing_extensions import Unpack
else:  # typing has it from Python 3.11 on
    Unpack = tuple

OneStyle = str | os.PathLike[str] | PIL.Image.Image | NDArray[Any] | Tensor | Picture
Style = OneStyle | Sequence[tuple[OneStyle, float]]

logger = logging.getLogger(__name__)

Progress = Callable[[float], object]
ImageT = TypeVar("ImageT", PIL.Image.Image, NDArray[Any], Tensor)


class Options(TypedDict, total=False):
    """The keywords of :meth:`Stylizer.__call__`."""

    strength: float
    style_scale: float
    preserve_color: bool
    grain: float
    mask: Any
    tile_size: int | None
    memory_limit: int | None
    progress: Progress | None


_DEPTHS = (np.uint8, np.uint16, np.float16, np.float32, np.float64)
_LIBRARIES = "cudnn", "cublas", "miopen", "find an engine", "level_zero"
"""Words of libraries of devices in errors for which torch has no type."""
_LARGEST_BASE = 2732
"""Largest base size, in pixels. The base is painted whole, so it must fit into memory,
whatever a style says. The bundled styles reach this at the smallest stroke size. For
networks that take more memory per pixel the limit is lower."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Compute as if no caller had set autocast for any device, or a default device."""
    with contextlib.ExitStack() as stack:
        for kind in {"cpu", pick_device(None).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))  # slows every call a little
        yield


class Stylizer:
    """A style on a device, loaded once and called often.

    ``style`` is the name of a bundled style, the path of a ``.safetensors`` file, a Hub
    repository ``owner/repo[@revision]``, any picture whose style is wanted (the path of
    an image file, or an image of the types that :meth:`__call__` takes), or a sequence
    of ``(style, weight)`` pairs to blend; only the proportions of the weights matter. A
    picture painted in its own style is left unchanged. The style captured from a
    picture differs slightly with the machine and its number of threads; a style that
    :meth:`save` writes is the same everywhere. ``style`` can name any file of this
    machine, and any repository it names is downloaded: never pass untrusted text on
    unchecked.

    ``device=None`` picks cuda, mps, xpu or cpu, whichever is available, and falls back
    to the CPU if that device cannot compute; ``dtype=None`` picks the fastest type that
    is safe on it. ``predictor`` is a folder with a predictor and its trunk, as
    ``styleplug train --any`` writes them, which captures the styles of pictures instead
    of the bundled one.

    Raises :class:`~styleplug.errors.StyleNotFoundError`,
    :class:`~styleplug.errors.InvalidStyleError`,
    :class:`~styleplug.errors.InvalidImageError`,
    :class:`~styleplug.errors.ImageTooLargeError`,
    :class:`~styleplug.errors.DownloadError` and
    :class:`~styleplug.errors.DeviceError`, ``TypeError`` if ``style`` is of no such
    type, and ``ValueError`` for weights or styles that cannot be blended.
    """

    info: StyleInfo
    """Header of the style; for a blend, that of its heaviest part."""
    device: torch.device
    dtype: torch.dtype

    @undisturbed()
    def __init__(
        self,
        style: Style,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        predictor: str | os.PathLike[str] = STYLES_DIR,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
    ) -> None:
        self.device = pick_device(device)
        self._picked = device is None
        self.dtype = _pick_dtype(dtype, self.device)
        parts = _parts(style)
        folder = Path(predictor)
        loaded = [_load(part, folder, cache_dir, token) for part, _ in parts]
        trunks = {part.info.trunk: part for part in loaded}
        if len(trunks) > 1:
            names = " and ".join(part.info.name for part in trunks.values())
            raise ValueError(
                f"style: {names} were trained with different trunks and cannot be "
                "blended; blend styles of one trunk, such as the bundled ones."
            )
        self._blended = len(parts) > 1
        total = sum(weight for _, weight in parts)
        shares = [weight / total for _, weight in parts]
        weights = torch.tensor(shares, dtype=torch.float32)
        self.info = loaded[int(weights.argmax())].info
        self._vector = weights @ stack_styles([part.vector for part in loaded])
        self._network = loaded[0].network
        self._found_in = [
            (float(weight), part.found_in)
            for part, weight in zip(loaded, weights, strict=True)
            if part.found_in is not None
        ]
        self._name = " + ".join(
            _describe(part.info, weight)
            for part, weight in zip(loaded, weights.tolist(), strict=True)
        )
        logger.info("styleplug renders on %s in %s", self.device, self.dtype)

    def __call__(self, image: ImageT, **options: Unpack[Options]) -> ImageT:
        """Return the stylized image, with the type, size and depth of ``image``.

        ``image`` is a PIL image of any mode, an array (H, W), (H, W, 1|3|4) of uint8,
        uint16 or float in [0, 1], or a tensor (B, 3, H, W) in [0, 1]. ``options`` are
        the keywords of :func:`stylize` except ``device`` and ``dtype``.
        """
        given = checked_options(**options)
        if isinstance(image, Tensor) and image.ndim == 4 and len(image) > 1:
            progress = given.pop("progress", None)
            return torch.cat(
                [
                    self(one, progress=part_of(progress, i, len(image)), **given)
                    for i, one in enumerate(image.split(1))
                ]
            )
        picture = Picture.from_image(image)
        result: ImageT = picture.to_image(self.render(picture.pixels, **given))
        return result

    @undisturbed()
    def render(
        self,
        pixels: NDArray[Any],
        *,
        out: NDArray[Any] | None = None,
        **options: Unpack[Options],
    ) -> NDArray[Any]:
        """Return ``pixels`` stylized: (H, W, 3) uint8, uint16 or float.

        If ``out`` is given, an array of the same shape and type, the result is written
        there. Floating-point values must be finite; those outside [0, 1] are kept where
        nothing is painted (strength or mask 0). See :func:`stylize` for the options.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ValueError(f"pixels must be (H, W, 3), got shape {pixels.shape}")
        if pixels.dtype not in _DEPTHS:
            raise TypeError(
                f"pixels must be uint8, uint16 or float, got {pixels.dtype}"
            )
        check_finite(pixels)
        if out is None:
            out = np.empty_like(pixels, order="C")
        elif out.shape != pixels.shape or out.dtype != pixels.dtype:
            raise ValueError(
                f"out must be {pixels.dtype} {pixels.shape}, "
                f"got {out.dtype} {out.shape}"
            )
        elif np.may_share_memory(out, pixels):
            pixels = pixels.copy()
        self._render(pixels, out, **checked_options(**options))
        return out

    def _share_in(self, pixels: NDArray[Any]) -> float:
        """Return how much of the style, in [0, 1], comes from this very picture."""
        share = sum(weight * found_in(pixels) for weight, found_in in self._found_in)
        if share > 0.999:
            logger.warning("The picture is the style's own and is left unchanged.")
        elif share > 0:
            logger.warning(
                "The picture resembles the style's own and is painted at %.0f %% of "
                "the strength that was asked for.",
                100 * (1 - share),
            )
        return min(1.0, share)

    def _render(
        self,
        pixels: NDArray[Any],
        out: NDArray[Any],
        *,
        strength: float = 1.0,
        style_scale: float = 1.0,
        preserve_color: bool = False,
        grain: float = 1.0,
        mask: Any = None,
        tile_size: int | None = None,
        memory_limit: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if mask is not None:
            mask = load_mask(mask, pixels.shape[:2])
        if strength > 0:
            strength *= 1 - self._share_in(pixels)
        if strength == 0:
            out[:] = pixels
            if progress is not None:
                progress(1.0)
            return
        finish = functools.partial(_finish, preserve_color=preserve_color, mask=mask)
        progress = progress and _rising(progress)
        device, dtype = self.device, self.dtype
        largest_base = self._network.side_for(_LARGEST_BASE, torch.float32)
        base_size = min(largest_base, self.info.base_size / style_scale)
        while True:
            about = self._network, pixels, base_size, dtype
            sides = [] if tile_size is None else [tile_size]
            if memory_limit is not None:
                sides.append(tile_size_within(memory_limit, *about))
            try:
                network = _network_on(self._network, device)
                renderer = Renderer(
                    network,
                    network.vector(self._vector.to(device), strength),
                    strength,
                    base_size=base_size,
                    grain=grain,
                    dtype=dtype,
                    tile_size=min(sides) if sides else usual_tile_size(device, *about),
                    progress=progress,
                )
                with torch.inference_mode():
                    renderer.render(Canvas(pixels, device), Canvas(out, device), finish)
                break
            except (MemoryLimitError, RuntimeError) as error:
                full = isinstance(error, MemoryLimitError) or is_out_of_memory(error)
                broken = not full and _is_broken_device(error)
                ours = not is_raised_by_caller(error)
                if device.type == "cpu" or not (ours and (full or broken)):
                    raise
                # The lines below the first say how to debug CUDA.
                message = str(error).partition("\n")[0]
                reason = f"cannot compute ({message})" if broken else "is out of memory"
                if broken and not self._picked:
                    raise DeviceError(
                        f"{device} {reason}; use the CPU (--device cpu)."
                    ) from error
                logger.warning("%s %s, rendering on the CPU", device, reason)
                device = torch.device("cpu")
                dtype = _pick_dtype(None, device)
                if broken:  # for good, while memory may become free again
                    self.device, self.dtype = device, dtype
        if mask is not None:
            kept = mask == 0
            for channel in range(3):  # several times as fast as all three at once
                np.copyto(out[..., channel], pixels[..., channel], where=kept)

    @undisturbed()
    def save(self, path: str | os.PathLike[str], **header: Any) -> StyleInfo:
        """Write the style, even of a picture or a blend, to one self-contained file.

        ``header`` gives the texts of :class:`~styleplug.style.StyleInfo`: ``name``,
        ``title``, ``artist``, ``year``, ``license``, ``artwork`` and ``description``.
        An existing file is replaced. Returns the header of the file.

        Raises ``ValueError`` for a suffix other than ``.safetensors``, an empty name or
        a text that is too long, ``TypeError`` for an unknown keyword or a value that is
        not text, and ``OSError``.
        """
        path = Path(path)
        check_style_destination(path)
        header = {"name": path.stem, **header}
        for key, value in header.items():
            if key not in TEXTS:
                raise TypeError(f"save takes {', '.join(TEXTS)}, not {key!r}")
            if not isinstance(value, str):
                raise TypeError(f"{key} must be text, got {value!r}")
        if not header["name"]:
            raise ValueError("The name of a style must not be empty.")
        info = self.info
        if self._blended:  # the artist of its heaviest part did not make the blend
            info = StyleInfo(
                "",
                title=self._name[:MAX_TEXT],
                base_size=info.base_size,
                training={"blend": True},
            )
        info = dataclasses.replace(info, **header)
        save_style(path, self._vector, self._network, info)
        return read_info(path)

    @classmethod
    def from_pretrained(
        cls, repo_id: str, *, revision: str | None = None, **keywords: Any
    ) -> Stylizer:
        """Return a stylizer for the style in a Hub repository or a folder.

        ``keywords`` are those of the constructor. Only ``model.safetensors`` is read,
        and validated strictly. Raises what the constructor raises.
        """
        if os.path.isdir(repo_id):
            return cls(os.path.join(repo_id, hub.FILENAME), **keywords)
        return cls(f"{repo_id}@{revision}" if revision else repo_id, **keywords)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        license: str | None = None,
        artwork: str | None = None,
        token: str | None = None,
    ) -> hub.Publication:
        """Publish the style as ``owner/name``, see :func:`.hub.publish`.

        Raises ``ValueError`` for the style of a picture or a blend, which has no file.
        """
        if self._blended or self.info.path is None:
            kind = "a blend" if self._blended else "a picture's style"
            raise ValueError(
                f"{self._name} is {kind} and has no file; save it, and publish that."
            )
        return hub.publish(
            self.info.path,
            repo_id,
            private=private,
            license=license,
            artwork=artwork,
            token=token,
        )

    def provenance(self, **options: Unpack[Options]) -> dict[str, Any]:
        """Return the metadata to note in a result: style, revision and parameters."""
        given = {
            name: value
            for name, value in checked_options(**options).items()
            if name in ("strength", "style_scale", "preserve_color", "grain")
        }
        return {"style": self._name, **given}


def stylize(
    image: ImageT,
    style: Style,
    *,
    strength: float = 1.0,
    style_scale: float = 1.0,
    preserve_color: bool = False,
    grain: float = 1.0,
    mask: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tile_size: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> ImageT:
    """Return ``image`` painted in ``style``: same type, size, depth and alpha.

    ``image`` is a PIL image of any mode, an array (H, W), (H, W, 1|3|4) of uint8,
    uint16 or float in [0, 1], or a tensor (B, 3, H, W) in [0, 1]. ``style``,
    ``device`` and ``dtype`` are those of :class:`Stylizer`.

    ``strength`` in [0, 1] is how far the result departs from the content image; 0
    returns it exactly.
    ``style_scale`` in [0.25, 4] is the stroke size: 1 as trained, 2 twice as large.
    ``preserve_color`` keeps the content's colours and paints only its lightness.
    ``grain`` in [0, 4] is the amount of noise that lets skies and other flat areas be
    painted in strokes; with 0 a panning film flickers less.
    ``mask`` is (H, W) in [0, 1], an image, array, tensor or path; 0 keeps the content
    exactly. Integers range from 0 to the largest value of their type; in an array or
    tensor of only 0 and 1, 1 means fully painted.
    ``tile_size``, the side of a square in pixels from 256 to 65536, and
    ``memory_limit``, in bytes of working memory and at least 1, bound how much is
    rendered at once; they do not change the result beyond rounding. The limit does not
    count image, mask and result, nor the copies that alpha, float16, float64 and other
    colour spaces need. ``progress`` is called with a rising fraction in [0, 1]; an
    exception raised from it ends the rendering.

    Raises what :class:`Stylizer` raises, :class:`~styleplug.errors.InvalidImageError`,
    :class:`~styleplug.errors.MemoryLimitError` if there is too little memory for the
    smallest tile, ``ValueError`` for a value out of its range or a wrong shape, and
    ``TypeError`` for an argument of a wrong type.
    """
    options = checked_options(
        strength=strength,
        style_scale=style_scale,
        preserve_color=preserve_color,
        grain=grain,
        mask=mask,
        tile_size=tile_size,
        memory_limit=memory_limit,
        progress=progress,
    )
    return Stylizer(style, device=device, dtype=dtype)(image, **options)


def stylize_file(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    style: Style | Stylizer,
    *,
    overwrite: bool = False,
    max_pixels: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **options: Unpack[Options],
) -> tuple[int, int]:
    """Stylize the image file ``src`` into ``dst``, whose suffix chooses the format.

    Keeps EXIF (with the orientation applied), ICC profile, XMP, IPTC, resolution,
    16-bit depth and alpha where the format allows, and notes style and parameters in
    the metadata. ``dst`` is written completely or not at all; an existing file is
    replaced only with ``overwrite``. ``device`` and ``dtype`` are ignored when
    ``style`` is a :class:`Stylizer`, which has its own. ``options`` are the keywords of
    :meth:`Stylizer.__call__`. Returns the (width, height) of the image.

    Raises what :func:`stylize` raises, :class:`~styleplug.errors.ImageTooLargeError`,
    ``ValueError`` for a suffix of no image format, ``FileExistsError`` and ``OSError``.
    """
    checked_options(**options)
    picture = read_to_paint(src, dst, overwrite=overwrite, max_pixels=max_pixels)
    if not isinstance(style, Stylizer):
        style = Stylizer(style, device=device, dtype=dtype)
    return paint_to_file(picture, dst, style, overwrite=overwrite, **options)


def paint_to_file(
    picture: Picture,
    dst: str | os.PathLike[str],
    stylizer: Stylizer,
    *,
    overwrite: bool = False,
    **options: Unpack[Options],
) -> tuple[int, int]:
    """Stylize ``picture``, read by :func:`.read_to_paint`, into the file ``dst``.

    Does, returns and raises what :func:`stylize_file` does after reading.
    """
    pixels = stylizer.render(picture.pixels, **options)
    provenance = stylizer.provenance(**options)
    write_picture(picture, pixels, dst, provenance=provenance, overwrite=overwrite)
    return picture.size


def _finish(
    region: Region,
    content: Canvas,
    stylized: Tensor,
    *,
    preserve_color: bool,
    mask: NDArray[np.float32] | None,
) -> Tensor:
    """Return ``stylized`` (1, 3, h, w) with colours preserved and the mask applied."""
    if not preserve_color and mask is None:
        return stylized
    pixels = content.read(region)
    if preserve_color:
        change = luma(stylized - pixels)
        lowest, highest = pixels.clamp(max=0), pixels.clamp(min=1)
        stylized = (pixels + change).clamp(lowest, highest)
    if mask is not None:
        part = mask[region.top : region.bottom, region.left : region.right]
        amount = torch.from_numpy(np.array(part)).to(pixels.device)
        stylized = mix(pixels, stylized, amount)
    return stylized


def _is_broken_device(error: Exception) -> bool:
    """Return whether an error means that a device cannot compute."""
    if isinstance(error, (torch.AcceleratorError, NotImplementedError)):
        return True
    text = str(error).lower()
    return any(library in text for library in _LIBRARIES)


def _parts(style: Any) -> list[tuple[Any, float]]:
    """Return the styles to blend, each with its weight."""
    if not isinstance(style, Sequence) or isinstance(style, str):
        return [(style, 1.0)]
    try:
        parts = [(name, float(weight)) for name, weight in style]
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_style(style) from error
    check_weights([weight for _, weight in parts])
    return parts


def _no_style(what: Any) -> TypeError:
    return TypeError(
        "style must be a name, a path, a picture or (style, weight) pairs, got "
        f"{reprlib.repr(what)}"
    )


def _describe(info: StyleInfo, weight: float) -> str:
    return info.id if weight == 1 else f"{info.id}:{weight:.2f}"


def _load(
    style: Any,
    predictor: Path,
    cache_dir: str | os.PathLike[str] | None,
    token: str | None,
) -> LoadedStyle:
    if not isinstance(style, str | os.PathLike):
        if not isinstance(style, Picture | PIL.Image.Image | np.ndarray | Tensor):
            raise _no_style(style)
        return capture(as_style_image(style), "picture", predictor)
    path = Path(style)
    if not names_picture(path):
        return _load_file(hub.locate(style, cache_dir=cache_dir, token=token))
    if not os.path.isfile(path):
        raise StyleNotFoundError(f"There is no picture {path}; check the path.")
    return _load_file(path) if predictor == STYLES_DIR else _capture(path, predictor)


@once_per_file(32)
def _load_file(path: Path) -> LoadedStyle:
    if names_picture(path):
        return _capture(path, STYLES_DIR)
    with hub.naming_repository(path):
        loaded = load_style(path)
    return loaded._replace(info=hub.style_info(path))


def _capture(path: Path, predictor: Path) -> LoadedStyle:
    return capture(as_style_image(path), path.stem, predictor)


@functools.lru_cache(maxsize=4)
def _network_on(network: StyleNetwork, device: torch.device) -> StyleNetwork:
    """Return ``network`` on ``device``, the same object again for the same pair."""
    return network if device.type == "cpu" else copy.deepcopy(network).to(device)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return ``device``, or the best available: cuda, mps, xpu or cpu.

    Raises :class:`~styleplug.errors.DeviceError` if the device is not available.
    """
    accelerator = None
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
    if device is None:
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(
            f"There is no device {device!r}; use cpu, cuda, mps or xpu."
        ) from error
    there = accelerator is not None and chosen.type == accelerator.type
    count = torch.accelerator.device_count() if there else 0
    if chosen.type != "cpu" and (chosen.index or 0) >= count:
        raise DeviceError(
            f"The device {device} is not available here; use "
            + (f"{accelerator.type} or cpu." if accelerator else "cpu.")
        )
    return chosen


def _pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return ``dtype``, or the fastest type that ``device`` has in hardware."""
    if dtype is not None:
        return checked_dtype(dtype, BYTES_PER_PIXEL)
    if computes_bfloat16(device):
        return torch.bfloat16
    if device.type == "cpu":
        return torch.float32
    return torch.float16


def part_of(progress: Progress | None, i: int, count: int) -> Progress | None:
    """Return a progress callback for the ``i``-th of ``count`` equal parts."""
    if progress is None:
        return None
    return lambda fraction: progress((i + fraction) / count)


def _rising(progress: Progress) -> Progress:
    """Return a progress callback that never falls, even if rendering starts again."""
    highest = 0.0

    def report(fraction: float) -> None:
        nonlocal highest
        highest = max(highest, fraction)
        progress(highest)

    return report


def checked_options(**options: Unpack[Options]) -> dict[str, Any]:
    """Return the given options, numbers as Python's own types and a mask unchanged.

    Raises ``TypeError`` and ``ValueError`` that name the option.
    """
    checked: dict[str, Any] = {**options}
    for name in checked:
        if name not in Options.__annotations__:
            known = ", ".join(Options.__annotations__)
            raise TypeError(f"There is no option {name!r}; there are {known}.")
    for name, low, high in (
        ("strength", 0, 1),
        ("style_scale", 0.25, 4),
        ("grain", 0, 4),
    ):
        if name in checked:
            checked[name] = checked_number(name, checked[name], low, high)
    for name, low, high, whole in (
        ("tile_size", SMALLEST_TILE, 1 << 16, True),
        ("memory_limit", 1, sys.maxsize, False),
    ):
        if checked.get(name) is not None:
            checked[name] = checked_number(name, checked[name], low, high, whole=whole)
    if "preserve_color" in checked:
        keep = checked["preserve_color"]
        if not isinstance(keep, bool | np.bool_):
            raise TypeError(f"preserve_color must be True or False, got {keep!r}")
        checked["preserve_color"] = bool(keep)
    return checked


def check_weights(weights: Sequence[float]) -> None:
    """Raise ``ValueError`` for weights with which styles cannot be blended."""
    if not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(
            f"style weights must be finite, not negative and not all 0, got {weights}"
        )


def checked_number(
    name: str, value: Any, low: float, high: float, *, whole: bool = False
) -> Any:
    """Return a number, Python's or NumPy's, as Python's: finite, ``low`` to ``high``.

    Raises ``TypeError`` and ``ValueError`` that contain ``name``.
    """
    if isinstance(value, np.floating):  # may overflow, or have few digits
        value = float(value)
    elif isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, int if whole else int | float):
        kind = "an integer" if whole else "a number"
        raise TypeError(f"{name} must be {kind}, got {value!r}")
    if not low <= value <= high or value == math.inf:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")
    return value
