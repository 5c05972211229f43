"""Input and output of PIL images, arrays, tensors and files.

A :class:`Picture` holds any of them as sRGB pixels ``(H, W, 3)`` to render, together
with everything needed to return the same kind: type, size, mode family, bit depth,
alpha, colour profile and metadata.

============================  =========================================================
input                         output
============================  =========================================================
L, LA, RGB, RGBA, CMYK,       the same mode
YCbCr, LAB, HSV, I;16, I, F
1; P, PA                      L; RGB or RGBA, since a painting has no palette
La, RGBa                      the same, by way of straight alpha
a transparent colour (tRNS)   an alpha channel; in I;16, the same
ndarray, tensor               the same shape and dtype (and device)
============================  =========================================================

Modes I and F do not define white: it is 1.0 (F only), 255 (as in Pillow's conversions),
65535 or 2^31 - 1, the first that is not below the largest value. In F a white of 1.0
allows highlights up to 16, the others a quarter above white, as resampling overshoots.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, IptcImagePlugin, TiffTags
from PIL.PsdImagePlugin import PsdImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from . import color
from .color import ColorSpace
from .errors import ImageTooLargeError, InvalidImageError
from .files import already_exists, check_free, check_writable, replacing

logger = logging.getLogger(__name__)

Array = NDArray[Any]

MAX_PIXELS = 178_956_970
"""Largest image that is read by default, in pixels: Pillow's own limit."""


class _Format(NamedTuple):
    """What an image format can hold, and the options for Pillow to save it."""

    name: str
    modes: tuple[str, ...] = ("L", "RGB")
    depths: tuple[str, ...] = ("uint8",)
    alpha: bool = False
    metadata: bool = False
    max_side: int = 2**31 - 1
    options: Mapping[str, Any] = {}


_JPEG = _Format(
    "JPEG",
    modes=("L", "RGB", "CMYK"),
    metadata=True,
    max_side=65500,
    options={"quality": 95, "subsampling": 0},
)
_PNG = _Format("PNG", depths=("uint8", "uint16"), alpha=True, metadata=True)
_TIFF = _Format(
    "TIFF",
    modes=("L", "RGB", "CMYK", "F"),
    depths=("uint8", "uint16", "float32"),
    alpha=True,
    metadata=True,
)
_WEBP = _Format(
    "WEBP",
    alpha=True,
    metadata=True,
    max_side=16383,
    options={"quality": 95, "exact": True},
)
_AVIF = _Format(
    "AVIF",
    alpha=True,
    metadata=True,
    max_side=32768,
    options={"quality": 90, "subsampling": "4:4:4"},
)
_GIF = _Format("GIF", alpha=True, max_side=65535)
_WRITABLE = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".png": _PNG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": _WEBP,
    ".avif": _AVIF,
    ".bmp": _Format("BMP"),
    ".gif": _GIF,
    ".ppm": _Format("PPM"),
    ".tga": _Format("TGA", alpha=True, max_side=65535),
}
# Raster formats only: for EPS, Pillow would start Ghostscript.
_READABLE = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "DIB", "PPM", "JPEG2000"),
    *("TGA", "PSD", "ICO", "ICNS", "QOI", "DDS", "SGI", "PCX", "MSP", "XBM", "SUN"),
)
IMAGE_SUFFIXES = frozenset(_WRITABLE)
"""Suffixes, lower case with the dot, that :func:`write_picture` can write."""
_SUFFIXES = {form.name: suffix for suffix, form in reversed(_WRITABLE.items())}
_SUFFIXES["MPO"] = ".jpg"  # several JPEG images, the first of which is read
PICTURE_SUFFIXES = IMAGE_SUFFIXES | {
    *(".apng", ".dib", ".j2k", ".jfif", ".jp2", ".jpe", ".mpo", ".pbm", ".pgm"),
    *(".pnm", ".psd", ".qoi"),
}
"""Suffixes that distinguish a picture from a style file."""
EXPORT_FIRST = frozenset(
    [
        *(".heic", ".heif", ".hif", ".arw", ".cr2", ".cr3", ".dng", ".nef"),
        *(".orf", ".raf", ".rw2"),
    ]
)
"""Suffixes of HEIC and camera raw. Pillow would read some raw files as TIFF, but only
the small preview in them."""

# Whatever a decoder may raise on a hostile file.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(EOFError, AttributeError, AssertionError, RuntimeError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
    Warning,  # if the application turns warnings into errors
)
# Whatever an encoder may raise if a value does not fit its format.
_ENCODER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    struct.error,
)
_UINT16_MAX = 65535
# Whites for modes that define none, and the largest value each is chosen for.
_FLOAT_WHITES = ((1.0, 16.0), (255.0, 1.25 * 255), (65535.0, 1.25 * 65535))
_INTEGER_WHITES = ((255.0, 255.0), (65535.0, 65535.0))
_limit_lock = threading.Lock()


@dataclass(eq=False)
class Picture:
    """An image as pixels to render, convertible back to what it was.

    Create one with :meth:`from_image` or :func:`read_picture`.
    """

    pixels: Array
    """(H, W, 3) uint8, uint16 or float32, encoded as sRGB, C-contiguous. Floats are
    in [0, 1], highlights above it allowed. Do not change them in place. Pixels with
    alpha 0, which can hold anything, are set to the mean of the others, so that they do
    not affect the painting."""
    alpha: Array | None = None
    """(H, W) straight alpha of the same depth as the image, passed on unchanged."""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    """Records of captions, keywords and the like (IPTC-IIM)."""
    dpi: tuple[float, float] | None = None
    lossless: bool = False
    """Whether it was a lossless WebP, which it then is again."""
    suffix: str | None = None
    """The file's suffix if it names the format that was read, otherwise the format's
    own; None if :func:`write_picture` cannot write the format."""
    _mode: str = field(default="RGB", repr=False)
    _samples: Array | None = field(default=None, repr=False)
    _space: ColorSpace | None = field(default=None, repr=False)
    _restore: Callable[[Array], Any] | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def over_white(self) -> Array:
        """:attr:`pixels` composited over white."""
        if self.alpha is None:
            return self.pixels
        return color.over_white(self.pixels, self.alpha)

    @classmethod
    def from_image(cls, image: Any) -> Picture:
        """Make a picture from a PIL image, an ndarray or a tensor.

        An ndarray is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or a
        float in [0, 1]; a tensor is (1, 3, H, W), a float in [0, 1]. Floats may be
        negative, and have highlights below 128. A fourth channel is straight alpha. An
        EXIF orientation is not applied; the result has the same one.

        Raises ``TypeError`` or ``ValueError`` for another type, shape or range, and
        ``InvalidImageError`` for a PIL image that cannot be decoded.
        """
        if isinstance(image, Image.Image):
            return _from_pil(image)
        if isinstance(image, np.ndarray):
            return _from_array(image)
        if _is_tensor(image):
            return _from_tensor(image)
        raise TypeError(
            "image must be a PIL image, a NumPy array or a tensor, not "
            f"{type(image).__name__}; use stylize_file or PIL.Image.open for a path"
        )

    def to_image(self, pixels: Array) -> Any:
        """Return pixels like :attr:`pixels` in the form given to :meth:`from_image`.

        Where they equal :attr:`pixels`, the original samples are restored exactly, even
        with CMYK or a colour profile. A returned array may share memory with `pixels`.
        """
        samples = self._encode(pixels)
        if self._restore is None:
            return _join_pil(samples, self.alpha, self._mode)
        return self._restore(samples)

    def _encode(self, pixels: Array) -> Array:
        self._check(pixels)
        if self._samples is None:
            return pixels
        if self._space is not None:
            samples = self._space.from_srgb(pixels, self.pixels, self._samples)
        else:
            samples = pixels.copy()
        hidden = _hidden(self.alpha)
        if hidden is not None:
            np.copyto(samples, self._samples, where=hidden[..., None])
        return samples

    def _check(self, pixels: Array) -> None:
        expected = self.pixels.shape, self.pixels.dtype
        if (pixels.shape, pixels.dtype) != expected:
            raise ValueError(
                f"pixels must be {expected[0]} {expected[1]} as the picture's, "
                f"not {pixels.shape} {pixels.dtype}"
            )


# PIL images, arrays and tensors


def _from_pil(image: Image.Image) -> Picture:
    try:
        samples, alpha, mode = _split_pil(image)
    except _DECODER_ERRORS as error:
        raise InvalidImageError(f"The image cannot be decoded: {error}.") from error
    if not samples.size:
        raise InvalidImageError(f"The image has no pixels: its size is {image.size}.")
    given = image.mode
    keyed = given.startswith("I;16")
    info = {k: v for k, v in image.info.items() if keyed or k != "transparency"}
    premultiplied = image.copy() if given in ("La", "RGBa") else None
    straight = samples

    def restore(samples: Array) -> Image.Image:
        result = _join_pil(samples, alpha, mode)
        if given in ("La", "RGBa", "RGBX"):
            result = result.convert(given)
        if premultiplied is not None:  # which cannot be computed back exactly
            same = (samples == straight).all(axis=-1)
            result.paste(premultiplied, mask=Image.fromarray(same))
        elif keyed:
            if alpha is not None:
                samples = _off_key(samples, alpha, info["transparency"])
            result = _pil_uint16(samples, given)
        result.info = dict(info)
        return result

    picture = _picture(samples, alpha, mode, _mend(dict(image.info)).get("icc_profile"))
    picture._restore = restore
    return picture


def _mend(info: dict[Any, Any]) -> dict[Any, Any]:
    """Turn colour profile and XMP in Pillow's info into bytes, or remove them."""
    for name in ("icc_profile", "xmp"):
        value = info.get(name)
        if isinstance(value, str):
            info[name] = value.encode(errors="replace")
        elif value is not None and not isinstance(value, bytes):
            logger.warning("The image's %s is damaged and is ignored.", name)
            del info[name]
    return info


def _from_array(array: Array) -> Picture:
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"not {shape}"
        )
    if not array.size:
        raise ValueError(f"an image array must have pixels, not the shape {shape}")
    _check_range(array)
    dtype = array.dtype
    planes = np.atleast_3d(array).astype(dtype.newbyteorder("="), copy=False)
    colors = 1 if planes.shape[2] == 1 else 3
    samples = planes[..., :colors]
    alpha = planes[..., 3].copy() if planes.shape[2] == 4 else None

    def restore(samples: Array) -> Array:
        if alpha is None:
            return samples.reshape(shape).astype(dtype, copy=False)
        planes = np.empty(shape, dtype)
        planes[..., :3], planes[..., 3] = samples, alpha
        return planes

    picture = _picture(samples, alpha, "L" if colors == 1 else "RGB", None)
    picture._restore = restore
    return picture


def _is_tensor(image: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _from_tensor(tensor: Any) -> Picture:
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3):
        raise ValueError(
            "an image tensor must be (1, 3, H, W), or (B, 3, H, W) to paint, not "
            f"{(*tensor.shape,)}"
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"an image tensor must be a float in [0, 1], not {tensor.dtype}; "
            "divide it by its white value"
        )
    tensor = tensor.detach()
    wide = tensor if str(tensor.dtype) == "torch.float64" else tensor.float()
    picture = _from_array(wide[0].permute(1, 2, 0).cpu().numpy())
    restore_array = cast("Callable[[Array], Array]", picture._restore)

    def restore(samples: Array) -> Any:
        planes = np.ascontiguousarray(restore_array(samples).transpose(2, 0, 1))
        return tensor.new_tensor(planes)[None]

    picture._restore = restore
    return picture


def check_finite(array: Array) -> None:
    """Raise ``TypeError`` for a masked array, ``ValueError`` for NaN or infinity."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("an image array must not be masked; fill it first (filled)")
    if array.dtype.kind == "f" and not np.isfinite([array.min(), array.max()]).all():
        raise ValueError(
            "the image has values that are not finite; replace them "
            "(numpy.nan_to_num), or convert it to integers"
        )


def _check_range(array: Array) -> None:
    check_finite(array)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return
    if array.dtype.kind != "f":
        raise TypeError(
            f"an image array must be uint8, uint16 or a float in [0, 1], "
            f"not {array.dtype}"
        )
    highest = float(array.max())
    if highest >= 128:
        raise ValueError(
            f"a float image is in [0, 1], this one goes to {highest:g}; "
            "divide it by its white value, or lower its exposure"
        )


def _picture(
    samples: Array, alpha: Array | None, mode: str, icc_profile: bytes | None
) -> Picture:
    """Make a picture from samples (H, W, C) in one of Pillow's modes without alpha."""
    space, icc_profile = _find_space(samples, mode, icc_profile)
    pixels = np.ascontiguousarray(samples) if space is None else space.to_srgb(samples)
    hidden = _hidden(alpha)
    if hidden is not None and not hidden.all():
        visible = ~hidden[..., None]
        mean = pixels.mean(axis=(0, 1), dtype=np.float64, where=visible)
        if pixels is samples:
            pixels = pixels.copy()
        pixels[hidden] = mean
    return Picture(
        pixels=pixels,
        alpha=alpha,
        icc_profile=icc_profile,
        _mode=mode,
        _samples=None if space is None and hidden is None else samples,
        _space=space,
    )


def _hidden(alpha: Array | None) -> NDArray[np.bool_] | None:
    """Return where a picture is fully transparent, or None if it is nowhere."""
    if alpha is None:
        return None
    hidden: NDArray[np.bool_] = alpha == 0
    return hidden if hidden.any() else None


def _find_space(
    samples: Array, mode: str, icc_profile: bytes | None
) -> tuple[ColorSpace | None, bytes | None]:
    """Return the colour space, None for sRGB itself, and the profile if it is valid."""
    if icc_profile and mode in ("L", "RGB", "CMYK") and samples.dtype.kind == "u":
        try:
            space = color.profile_space(icc_profile, mode, samples.dtype)
        except ValueError as error:
            logger.warning("The colour profile is ignored: %s.", error)
            icc_profile = None
        else:
            return space, icc_profile
    if mode in ("I", "F"):
        highest = float(samples.max())
        whites = _FLOAT_WHITES if mode == "F" else _INTEGER_WHITES
        white = next((w for w, most in whites if highest <= most), 2.0**31 - 1)
        return color.scaled_grey_space(samples.dtype, white), icc_profile
    if mode == "L":
        return color.grey_space(samples.dtype), icc_profile
    if mode != "RGB":
        return color.mode_space(mode), icc_profile
    if samples.dtype in (np.uint8, np.uint16, np.float32):
        return None, icc_profile
    return color.float_space(samples.dtype), icc_profile


def _split_pil(image: Image.Image) -> tuple[Array, Array | None, str]:
    """Return samples (H, W, C), alpha (H, W) or None, and the mode of the samples."""
    image.load()
    mode = image.mode
    if mode.startswith("I;16"):
        samples = color.from_image(image)
        key = image.info.get("transparency")
        alpha = None if key is None else _alpha_from_key(samples, key)
        return samples, alpha, "L"
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode in ("1", "L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    elif mode in ("1", "RGBX"):
        image = image.convert("L" if mode == "1" else "RGB")
    planes = color.from_image(image)
    if image.mode in ("LA", "RGBA"):
        samples = np.ascontiguousarray(planes[..., :-1])
        return samples, planes[..., -1].copy(), image.mode[:-1]
    if image.mode == "F" and not np.isfinite(planes.sum(dtype=np.float64)):
        raise InvalidImageError(
            "The image has values that are not finite; replace them first."
        )
    return planes, None, image.mode


def _alpha_from_key(samples: Array, key: Any) -> Array:
    differs = (samples != np.asarray(key)).any(axis=-1)
    alpha: Array = differs.astype(np.uint16) * np.uint16(_UINT16_MAX)
    return alpha


def _off_key(samples: Array, alpha: Array, key: Any) -> Array:
    """Change grey samples so that they equal the transparent key only at alpha 0."""
    now = _alpha_from_key(samples, key) == 0
    return np.where((now & (alpha > 0))[..., None], samples ^ 1, samples)


def _join_pil(samples: Array, alpha: Array | None, mode: str) -> Image.Image:
    """Undo :func:`_split_pil`."""
    height, width = samples.shape[:2]
    if mode in ("I", "F"):
        return Image.frombytes(mode, (width, height), samples.tobytes())
    if samples.dtype == np.uint16 and mode == "L":
        return _pil_uint16(samples, "I;16")
    image = color.to_image(samples, mode)
    if alpha is not None:
        image.putalpha(color.to_image(alpha, "L"))
    return image


def _pil_uint16(samples: Array, mode: str) -> Image.Image:
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    data = samples.astype(order).tobytes()
    return Image.frombytes(mode, (samples.shape[1], samples.shape[0]), data)


# Reading files


def names_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a picture, not a style.

    The picture may be one that must be exported first.
    """
    suffix = Path(path).suffix.lower()
    return suffix in PICTURE_SUFFIXES or suffix in EXPORT_FIRST


def pictures_in(folder: Path, *, below: bool = False) -> list[Path]:
    """Return the pictures in a folder, and with ``below`` in its subfolders, sorted.

    Hidden files are skipped, and so are files that must be exported first, with a
    warning. Links to files that are missing are not.
    """
    files = [
        path
        for path in (folder.rglob("*") if below else folder.iterdir())
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    ]
    unread = sum(path.suffix.lower() in EXPORT_FIRST for path in files)
    if unread:
        logger.warning(
            "%s: HEIC and camera raw files are left out (%d); export them as JPEG or "
            "TIFF first.",
            *(folder, unread),
        )
    pictures = {path for path in files if path.suffix.lower() in PICTURE_SUFFIXES}
    return sorted(  # a PNG beside a PSD is its export
        path
        for path in pictures
        if path.suffix.lower() != ".psd" or path.with_suffix(".png") not in pictures
    )


def as_style_image(image: Any) -> Picture:
    """Return the :class:`Picture` of a style image: a path or any type of image.

    Raises what :func:`read_picture` and :meth:`Picture.from_image` raise.
    """
    if isinstance(image, Picture):
        return image
    if not isinstance(image, str | os.PathLike):
        try:
            return Picture.from_image(image)
        except (TypeError, ValueError) as error:
            raise type(error)(f"style: {error}") from error
    try:
        return read_picture(image)
    except ImageTooLargeError as error:
        raise ImageTooLargeError(
            f"{image} is too large to take its style; make it smaller first, a few "
            "megapixels are enough."
        ) from error


def read_picture(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Read an image file and apply its EXIF orientation.

    PNG and TIFF keep 16 bits per channel. From an animation or a multi-page file the
    first image is read; the layers of a PSD are read as one image.

    Raises ``InvalidImageError`` if there is no readable image in a known raster
    format, and ``ImageTooLargeError`` if it has more than `max_pixels`.
    """
    path = Path(path)
    with _open_to_read(path) as file:
        head = file.read(1 << 16)
        image = _identify(file, path)
        if image.width * image.height > max_pixels:
            raise _too_large(path, image, max_pixels)
        try:
            with _pillow_allowing(image.width * image.height):
                if isinstance(image, PsdImageFile):
                    image.info |= _info_of_psd(image)
                _mend(image.info)  # or Pillow would fail on it
                single = image.format in ("PSD", "MPO")  # layers; a photo's thumbnail
                # Counting the frames may take hours.
                if not single and getattr(image, "is_animated", False):
                    logger.warning(
                        "The image has several frames; the first is painted."
                    )
                if _declares_another_space(image.info, head):
                    logger.warning(
                        "The colours are not sRGB, but without an ICC profile they are "
                        "taken for it; convert the image to sRGB if they look wrong."
                    )
                if _loses_depth(image, head):
                    logger.warning(
                        "The %s of more than 8 bits is read as 8 bit.", image.format
                    )
                turned = (
                    isinstance(image, TiffImageFile)  # which Pillow rotates itself
                    and image.tag_v2.get(ExifTags.Base.Orientation) in range(5, 9)
                )
                samples, alpha, mode = _decode(file, image, path)
                orientation = _orientation(image)
                metadata = _read_metadata(image)
                if metadata["dpi"] and (turned or orientation >= 5):
                    metadata["dpi"] = metadata["dpi"][::-1]
        except Image.DecompressionBombError as error:
            raise _too_large(path, image, max_pixels) from error
        except InvalidImageError as error:
            raise InvalidImageError(f"{path}: {error}") from error
        except _DECODER_ERRORS as error:
            raise InvalidImageError(
                f"{path} is damaged or incomplete ({_brief(error)}); "
                "get another copy of it."
            ) from error
    icc_profile = metadata.pop("icc_profile")
    samples = _upright(samples, orientation)
    if alpha is not None:
        alpha = _upright(alpha, orientation)
    picture = _picture(samples, alpha, mode, icc_profile)
    picture.lossless = image.format == "WEBP" and b"VP8L" in head
    picture.suffix = _suffix_of(path, image.format or "")
    for name, value in metadata.items():
        setattr(picture, name, value)
    return picture


def _suffix_of(path: Path, form: str) -> str | None:
    named, suffix = path.suffix.lower(), _SUFFIXES.get(form)
    if suffix and _WRITABLE.get(named) is _WRITABLE[suffix]:
        return named
    return suffix


def _open_to_read(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise InvalidImageError(f"{path} is a folder; name an image file in it.")
        if not path.exists():
            raise InvalidImageError(f"{path} does not exist; check the name.")
        if not path.is_file():
            raise InvalidImageError(
                f"{path} is not a regular file; name an image file."
            )
        if path.stat().st_size == 0:
            raise InvalidImageError(f"{path} is empty; get another copy of it.")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise InvalidImageError(f"{path} cannot be opened: {_brief(error)}.") from error


def _brief(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    return str(text).strip().rstrip(".") or type(error).__name__


def _too_large(path: Path, image: Image.Image, max_pixels: int) -> ImageTooLargeError:
    megapixels = image.width * image.height / 1e6
    return ImageTooLargeError(
        f"{path} has {megapixels:.0f} megapixels ({image.width} x {image.height}), the "
        f"limit is {max_pixels / 1e6:.0f}; make it smaller, or allow more with "
        "max_pixels (--max-pixels) if you trust it."
    )


@contextlib.contextmanager
def _pillow_allowing(pixels: int) -> Iterator[None]:
    """Allow Pillow's decoders to read an image of that many pixels.

    Pillow's limit is global to the process. If it is too low, or may become so when
    another thread restores it, only one thread at a time may enter.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or pixels <= min(limit, MAX_PIXELS):
        yield
        return
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            if pixels == Image.MAX_IMAGE_PIXELS:  # nobody else has set it meanwhile
                Image.MAX_IMAGE_PIXELS = limit


def _identify(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """Open with the plug-in that recognises the file, as ``Image.open`` does.

    ``Image.open`` itself would refuse a large image before its size is known.
    """
    if path.suffix.lower() in EXPORT_FIRST:
        raise InvalidImageError(
            f"{path} is HEIC or camera raw, which cannot be read; export it as JPEG or "
            "TIFF first."
        )
    file.seek(0)
    prefix = file.read(16).ljust(16, b"\0")  # Pillow fails on fewer bytes
    reason = "not a format that Pillow can read"
    tried: set[str] = set()
    for register in (Image.preinit, Image.init):
        register()
        for name in _READABLE:
            if name in tried or name not in Image.OPEN:
                continue
            tried.add(name)
            factory, accept = Image.OPEN[name]
            accepted = accept is None or accept(prefix)
            if not accepted or isinstance(accepted, str):  # a reason why not
                continue
            file.seek(0)
            try:
                # With a name Pillow would memory-map the file, and mix up the rows of
                # TIFFs that must be rotated.
                return factory(file, "")
            except _DECODER_ERRORS as error:
                if accept is not None:
                    reason = f"{name}: {_brief(error)}"
    raise InvalidImageError(
        f"{path} is not an image that can be read ({reason}); "
        "save it as PNG or JPEG with an image editor."
    )


def _decode(
    file: BinaryIO, image: ImageFile.ImageFile, path: Path
) -> tuple[Array, Array | None, str]:
    """Return what :func:`_split_pil` does, but with all 16 bits of PNG and TIFF."""
    if not _has_16_bit_color(image):
        if image.format == "PNG":
            _widen_key(image)
        elif isinstance(image, TiffImageFile):
            _prepare_tiff(image)
        samples, alpha, mode = _split_pil(image)
        if isinstance(image, TiffImageFile):
            samples = _as_stored(samples, image)
        return samples, alpha, mode
    multiplied = False
    if isinstance(image, TiffImageFile):
        multiplied = image.tag_v2.get(338) == (1,)
        if image.tag_v2.get(284) == 2 and image.tile[0][0] == "libtiff":
            logger.warning("A 16-bit TIFF of compressed planes is read as 8 bit.")
            multiplied = False  # as Pillow has divided by alpha itself
    if image.tile[0][3] == "LA;16B":  # read the raw bytes, 4 per pixel
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        image.load()
        planes = color.from_image(image).view(">u2").astype(np.uint16)
    else:
        planes = _load_bytes(image, "high").astype(np.uint16)
        planes <<= 8
        planes |= _load_bytes(_identify(file, path), "low")
    if planes.shape[2] == 3:
        key = image.info.get("transparency")
        return planes, None if key is None else _alpha_from_key(planes, key), "RGB"
    samples, alpha = np.ascontiguousarray(planes[..., :-1]), planes[..., -1].copy()
    if multiplied:
        _unpremultiply(samples, alpha)
    return samples, alpha, "L" if samples.shape[2] == 1 else "RGB"


def _declares_another_space(info: Mapping[Any, Any], head: bytes) -> bool:
    """Return whether a PNG or AVIF has other colours than sRGB, but no profile."""
    if info.get("icc_profile"):
        return False
    pattern = rb"\0\0\0\x04cICP(.)(.)|colrnclx\0(.)\0(.)"
    coded = re.search(pattern, head, re.DOTALL)
    if coded:  # as in ITU-T H.273, where 2 says nothing
        primaries, transfer = (code[0] for code in coded.groups() if code)
        return primaries not in (1, 2) or transfer not in (1, 2, 6, 13)
    if "srgb" in info:
        return False
    declared = (info.get("gamma", 0.45455), *info.get("chromaticity", ()))
    srgb = (0.45455, 0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    return any(abs(a - b) > 0.01 for a, b in zip(declared, srgb, strict=False))


def _loses_depth(image: ImageFile.ImageFile, head: bytes) -> bool:
    """Return whether Pillow reads PPM, AVIF or JPEG 2000 of more than 8 bits as 8."""
    if image.format == "PPM":
        args = image.tile[0].args
        return image.mode == "RGB" and isinstance(args, tuple) and args[-1] > 255
    deep = {
        "AVIF": rb"av1C..[\x40-\x7f\xc0-\xff]",
        "JPEG2000": rb"\xff\x4f\xff\x51.{38}[\x08-\x7e]",
    }.get(image.format or "")
    return (
        deep is not None
        and image.mode != "I;16"
        and bool(re.search(deep, head, re.DOTALL))
    )


def _widen_key(image: ImageFile.ImageFile) -> None:
    """Scale the transparent grey of a 2- or 4-bit PNG to 8 bits, like its pixels."""
    rawmode = image.tile[0][3] if image.tile else ""
    if rawmode in ("L;2", "L;4") and "transparency" in image.info:
        most = 2 ** int(rawmode[2:]) - 1
        image.info["transparency"] = (image.info["transparency"] & most) * 255 // most


def _prepare_tiff(image: TiffImageFile) -> None:
    """Correct or refuse what Pillow would misread; note 16 bits that it reads as 8."""
    compressed = image.tile[0][0] == "libtiff"
    planes = image.tag_v2.get(284) == 2
    deep_cmyk = image.mode == "CMYK" and 16 in image.tag_v2.get(258, ())
    if planes and (image.mode == "LA" or (deep_cmyk and not compressed)):
        kind = "CMYK of 16 bits in uncompressed" if deep_cmyk else "Grey with alpha in"
        raise InvalidImageError(
            f"{kind} planes cannot be read; save it with interleaved channels, or as "
            "RGB."
        )
    if deep_cmyk:
        logger.warning("A 16-bit CMYK TIFF is read as 8 bit.")
    if compressed:  # and decompressed in this machine's byte order
        tile = image.tile[0]
        rawmode, *others = cast("tuple[Any, ...]", tile.args)
        rawmode = rawmode.replace(";32B", ";32N")
        image.tile = [tile._replace(args=(rawmode, *others))]


def _as_stored(samples: Array, image: TiffImageFile) -> Array:
    """Correct what Pillow misreads: 16-bit grey where 0 is white, unsigned 32 bits."""
    if image.mode.startswith("I;16") and image.tag_v2.get(262) == 0:
        return np.bitwise_not(samples)
    unsigned = image.tag_v2.get(339, (1,))[0] == 1
    if image.mode == "I" and unsigned and samples.min() < 0:
        halved: Array = (samples.view(np.uint32) >> 1).astype(samples.dtype)
        return halved
    return samples


def _has_16_bit_color(image: ImageFile.ImageFile) -> bool:
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(258, ())
        return image.mode in ("RGB", "RGBA") and set(bits) == {16}
    deep = ("LA;16B", "RGB;16B", "RGBA;16B")
    return image.format == "PNG" and bool(image.tile) and image.tile[0][3] in deep


def _load_bytes(image: ImageFile.ImageFile, which: Literal["high", "low"]) -> Array:
    """Load the high or the low bytes of 16-bit colour as an 8-bit image.

    Pillow has no mode for all 16 bits and keeps the high bytes. But its unpackers
    exist for both byte orders, and the wrong one keeps the low bytes.
    """
    in_file = "B"
    if isinstance(image, TiffImageFile):
        in_file = "L" if image.tag_v2.prefix == b"II" else "B"
    native = "L" if sys.byteorder == "little" else "B"

    def changed(tile: ImageFile._Tile) -> ImageFile._Tile:
        args: Any = tile.args
        rawmode = args if isinstance(args, str) else args[0]
        bands, _, order = rawmode.partition(";16")
        order = {"": in_file, "N": native}.get(order, order)
        if which == "low":
            order = "B" if order == "L" else "L"
        rawmode = f"{bands.replace('a', 'A')};16{order}"
        return tile._replace(
            args=rawmode if isinstance(args, str) else (rawmode, *args[1:])
        )

    image.tile = [changed(tile) for tile in image.tile]
    image.load()
    return color.from_image(image)


def _unpremultiply(samples: Array, alpha: Array) -> None:
    for rows in color.bands(samples.shape):
        opacity = np.maximum(alpha[rows, :, None], 1) / _UINT16_MAX
        samples[rows] = np.rint(np.minimum(samples[rows] / opacity, _UINT16_MAX))


def _orientation(image: Image.Image) -> int:
    if isinstance(image, PsdImageFile):  # whose pixels are upright
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS as error:
        logger.warning("The EXIF data cannot be read: %s.", _brief(error))
        return 1
    return value if value in range(1, 9) else 1


def _upright(planes: Array, orientation: int) -> Array:
    """Apply an EXIF orientation, 1 to 8, to an array (H, W, ...)."""
    if orientation >= 5:
        planes = planes.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        planes = planes[::-1]
    if orientation in (2, 3, 6, 7):
        planes = planes[:, ::-1]
    return np.ascontiguousarray(planes)


# XMP that says what else is in a JPEG, which is not kept.
_PROMISE = (
    rb"(?:GCamera:(?:MotionPhoto|MicroVideo)\w*|hdrgm:Version|xmpNote:HasExtendedXMP)"
)
_PROMISES = re.compile(rb'\s%b="[^"]*"|<(%b)>[^<]*</\1>' % (_PROMISE, _PROMISE))


def _read_metadata(image: ImageFile.ImageFile) -> dict[str, Any]:
    info = image.info
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp:
        if b"xmpNote:HasExtendedXMP" in xmp:
            logger.warning("The XMP data beyond 64 kB is left out.")
        xmp = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp)
        xmp = _PROMISES.sub(b"", xmp)
    return {
        "icc_profile": info.get("icc_profile") or None,
        "dpi": _read_dpi(image),
        "exif": _read_exif(image),
        "xmp": xmp or None,
        "iptc": _read_iptc(image) or None,
    }


def _info_of_psd(image: PsdImageFile) -> dict[Any, Any]:
    """Return the metadata of a PSD under Pillow's names for those of other formats."""
    found = {number: data for number, _, data in image.resources}
    names = {1028: "iptc", 1058: "exif", 1060: "xmp"}
    info: dict[Any, Any] = {names[i]: found[i] for i in found if i in names}
    if len(found.get(1005, b"")) >= 12:
        info["dpi"] = [v / 65536 for v in struct.unpack_from(">I4xI", found[1005])]
    return info


def _read_iptc(image: ImageFile.ImageFile) -> bytes:
    """Return the IPTC records of a JPEG, TIFF or PSD.

    Of a JPEG or TIFF, empty records and those of 32 kB or more are left out.
    """
    if isinstance(image, PsdImageFile):
        return bytes(image.info.get("iptc", b""))
    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}
    except _DECODER_ERRORS as error:
        logger.warning("The IPTC data cannot be kept: %s.", _brief(error))
        return b""
    return b"".join(
        struct.pack(">3BH", 0x1C, *name, len(text)) + text
        for name, texts in records.items()
        for text in (texts if isinstance(texts, list) else [texts])
        if text is not None and len(text) < 0x8000
    )


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        if "dpi" in image.info:
            x, y = (float(value) for value in image.info["dpi"])
        else:  # WebP and AVIF have it in EXIF only
            exif = image.getexif()
            dots = {2: 1.0, 3: 2.54}[exif[ExifTags.Base.ResolutionUnit]]
            x = float(exif[ExifTags.Base.XResolution]) * dots
            y = float(exif[ExifTags.Base.YResolution]) * dots
    except _DECODER_ERRORS:
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


# By the EXIF standard these are UNDEFINED; Pillow would write them as BYTE.
for _tag in (
    *(ExifTags.Base.MakerNote, ExifTags.Base.UserComment),
    *(ExifTags.Base.SceneType, ExifTags.Base.FileSource),
    *(ExifTags.Base.ComponentsConfiguration, ExifTags.Base.DeviceSettingDescription),
):
    TiffTags.TAGS_V2_GROUPS[ExifTags.IFD.Exif].setdefault(
        _tag, TiffTags.TagInfo(_tag, _tag.name, TiffTags.UNDEFINED, 1)
    )

# The TIFF tags that describe a photograph; all others describe a TIFF file.
_DESCRIPTIVE_TAGS = frozenset(
    [
        *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model),
        *(ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist),
        *(ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
        *(ExifTags.Base.Rating, ExifTags.Base.RatingPercent),
        *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor),
        *(ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
        *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
    ]
)


def _read_exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        for tag in set(exif) - _DESCRIPTIVE_TAGS:
            del exif[tag]
        if not exif:
            return None
        exif.bigtiff = False
        _keep_bytes(exif)
        data = exif.tobytes()
        _exif_of(data)
        return data
    except _DECODER_ERRORS as error:
        logger.warning("The EXIF data cannot be kept: %s.", _brief(error))
        return None


def _exif_of(data: bytes) -> Image.Exif:
    """Return EXIF that :meth:`~PIL.Image.Exif.tobytes` writes without loss."""
    exif = Image.Exif()
    exif.load(data)
    if ExifTags.IFD.Exif in exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        if ExifTags.IFD.Interop in details:
            other = Image.Exif()  # read from `exif`, it would be written twice
            other.load(data)
            details[ExifTags.IFD.Interop] = other.get_ifd(ExifTags.IFD.Interop)
    _keep_bytes(exif)
    return exif


def _keep_bytes(exif: Image.Exif) -> None:
    """Turn non-ASCII text back into bytes, as Pillow would write it as "?"."""
    there = [i for i in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) if i in exif]
    for part in (exif, *map(exif.get_ifd, there)):
        for tag, value in part.items():
            if isinstance(value, str) and not value.isascii():
                part[tag] = value.encode("latin-1")


# Writing files


def read_to_paint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    overwrite: bool,
    max_pixels: int | None,
) -> Picture:
    """Read the image file ``src`` and check that its result can be written to ``dst``.

    ``max_pixels=None`` means the default of :func:`read_picture`. Raises what that and
    :func:`check_destination` raise, ``FileExistsError`` if ``dst`` already exists,
    unless ``overwrite``, and ``OSError`` if the image is too large for the format.
    """
    check_free(dst, overwrite=overwrite)
    check_destination(dst)
    limits = {} if max_pixels is None else {"max_pixels": max_pixels}
    picture = read_picture(src, **limits)
    _check_sides(picture, Path(dst))
    return picture


def check_destination(path: str | os.PathLike[str]) -> None:
    """Check early that :func:`write_picture` can write to ``path``.

    Raises ``ValueError`` for a suffix of no known image format, and ``OSError``, with a
    sentence for a user, if the file cannot be written.
    """
    path = Path(path)
    form = _format_of(path)
    Image.preinit()
    if form.name not in Image.SAVE:
        Image.init()  # loads all others, which takes a while
    if form.name not in Image.SAVE:
        raise _unwritable(path, form, "this Pillow cannot; update it")
    check_writable(path)


def _check_sides(picture: Picture, path: Path) -> None:
    form = _format_of(path)
    if max(picture.size) > form.max_side:
        raise _unwritable(path, form, f"it has at most {form.max_side} pixels a side")


def _unwritable(path: Path, form: _Format, reason: str) -> OSError:
    others = " or ".join(s for s in (".png", ".tif") if _WRITABLE[s] is not form)
    return OSError(
        f"{path} cannot be written as {form.name} ({reason}); write a {others} file."
    )


def _format_of(path: Path) -> _Format:
    try:
        return _WRITABLE[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"{path.name!r} does not end in a supported image suffix; "
            f"use one of {', '.join(_WRITABLE)}"
        ) from None


def write_picture(
    picture: Picture,
    pixels: Array,
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any],
    overwrite: bool = True,
) -> None:
    """Write the pixels to a file, in the format that its suffix names.

    Mode, bit depth, colour profile, EXIF, XMP, IPTC, resolution and alpha are those of
    `picture` as far as the format supports them: JPEG and WebP have 8 bits, formats
    without alpha get the image over white, and only JPEG and TIFF have IPTC.
    `provenance` is written with styleplug's version as ``styleplug 0.1.0 {"style": …}``
    to the EXIF tag Software and, in PNG, to the text chunk Software.

    The file appears complete or not at all. Raises what :func:`check_destination`
    raises, and ``FileExistsError`` if the file exists by then, unless `overwrite`.
    """
    path = Path(path)
    check_destination(path)
    _check_sides(picture, path)
    form = _format_of(path)
    samples, alpha, mode, icc_profile = _samples_for(picture, pixels, form)
    exif = _exif_for(picture, _software(provenance))
    metadata = _Metadata(icc_profile, exif, picture.xmp, picture.iptc, picture.dpi)
    try:
        with replacing(path, overwrite=overwrite) as file:
            if form is _TIFF:
                _write_tiff(file, samples, alpha, mode, metadata)
            elif form is _PNG:
                _write_png(file, samples, alpha, metadata)
            else:
                if form is _WEBP and picture.lossless:
                    form = form._replace(options={**form.options, "lossless": True})
                _write_pil(file, _join_pil(samples, alpha, mode), form, metadata)
    except FileExistsError as error:
        raise already_exists(path) from error
    except _ENCODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(f"{path} cannot be written: {_brief(error)}.") from error
        raise _unwritable(path, form, _brief(error)) from error


class _Metadata(NamedTuple):
    icc_profile: bytes | None
    exif: Image.Exif
    xmp: bytes | None
    iptc: bytes | None
    dpi: tuple[float, float] | None

    @property
    def software(self) -> str:
        return str(self.exif[ExifTags.Base.Software])


def _software(provenance: Mapping[str, Any]) -> str:
    from . import __version__

    return f"styleplug {__version__} {json.dumps(dict(provenance), default=str)}"


def _exif_for(picture: Picture, software: str) -> Image.Exif:
    exif = Image.Exif()
    if picture.exif:
        exif = _exif_of(picture.exif)
    if ExifTags.IFD.Exif in exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        width, height = picture.size
        sizes = {
            ExifTags.Base.ExifImageWidth: width,
            ExifTags.Base.ExifImageHeight: height,
        }
        details.update({tag: size for tag, size in sizes.items() if tag in details})
        exif[ExifTags.IFD.Exif] = details
    if picture.dpi:
        exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = picture.dpi
        exif[ExifTags.Base.ResolutionUnit] = 2
    exif[ExifTags.Base.Software] = software
    return exif


def _samples_for(
    picture: Picture, pixels: Array, form: _Format
) -> tuple[Array, Array | None, str, bytes | None]:
    """Return samples, alpha, mode and profile as the format can hold them."""
    mode, alpha, icc_profile = picture._mode, picture.alpha, picture.icc_profile
    fits = form.metadata and (mode != "L" or _stays_grey(picture, form))
    if mode in form.modes and (icc_profile is None or fits):
        samples = picture._encode(pixels)
    else:
        picture._check(pixels)
        icc_profile = None
        grey = mode in ("L", "I", "F")
        mode, samples = ("L", color.to_grey(pixels)) if grey else ("RGB", pixels)
    depth = str(samples.dtype)
    if samples.dtype.kind == "f" and mode != "F":
        depth = "uint16"
    if depth not in form.depths:
        depth = form.depths[-1]
    samples = color.change_depth(samples, depth)
    if alpha is not None:
        alpha = color.change_depth(alpha, depth)
        if not form.alpha:
            _note_once(f"{form.name} has no transparency: the image is put on white.")
            samples, alpha = color.over_white(samples, alpha), None
        elif form is _GIF:
            samples, alpha = _hard_edged(samples, alpha)
            mode = "RGB"  # Pillow writes grey without its alpha
    return samples, alpha, mode, icc_profile


def _stays_grey(picture: Picture, form: _Format) -> bool:
    """Return whether a grey picture is written as grey, not as RGB."""
    if form in (_WEBP, _AVIF):  # AVIF has grey without alpha from Pillow 12.3
        return False
    # Pillow cannot read 16-bit grey with alpha.
    deep = picture.alpha is not None and picture.alpha.dtype != np.uint8
    return not (form is _TIFF and deep)


def _hard_edged(samples: Array, alpha: Array) -> tuple[Array, Array]:
    """Return RGB and alpha for a format whose pixels are opaque or transparent."""
    if not np.isin(alpha, (0, 255)).all():
        _note_once("GIF has no partial transparency: soft edges are put on white.")
    samples = np.repeat(color.over_white(samples, alpha), 3 // samples.shape[2], axis=2)
    return samples, np.where(alpha < 128, 0, 255).astype(np.uint8)


@functools.cache
def _note_once(message: str) -> None:
    logger.warning(message)


def _write_pil(
    file: BinaryIO, image: Image.Image, form: _Format, metadata: _Metadata
) -> None:
    options: dict[str, Any] = dict(form.options)
    if form.metadata:
        options["exif"] = metadata.exif.tobytes()
        options["icc_profile"] = metadata.icc_profile or b""
        options["xmp"] = metadata.xmp or b""
    if metadata.dpi and (form is not _JPEG or max(metadata.dpi) <= 65535):
        options["dpi"] = metadata.dpi
    if form is _JPEG:
        if len(options["exif"]) > 65533:  # one JPEG segment
            logger.warning("The EXIF data is too long for JPEG and is left out.")
            exif = Image.Exif()
            exif[ExifTags.Base.Software] = metadata.software
            options["exif"] = exif.tobytes()
        if len(options["xmp"]) > 65504:
            logger.warning("The XMP data is too long for JPEG and is left out.")
            options["xmp"] = b""
        options["extra"] = _iptc_segment(metadata.iptc) if metadata.iptc else b""
    image.save(file, form.name, **options)


def _iptc_segment(iptc: bytes) -> bytes:
    """Return the JPEG segment APP13 with the IPTC data as a Photoshop resource."""
    resource = b"8BIM" + struct.pack(">HxxI", 0x0404, len(iptc)) + iptc
    data = b"Photoshop 3.0\0" + resource + bytes(len(iptc) % 2)
    if len(data) > 65533:
        logger.warning("The IPTC data is too long for JPEG and is left out.")
        return b""
    return b"\xff\xed" + struct.pack(">H", 2 + len(data)) + data


def _write_png(
    file: BinaryIO, samples: Array, alpha: Array | None, metadata: _Metadata
) -> None:
    """Write a PNG (ISO 15948); Pillow cannot write 16-bit RGB."""

    def chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data)
        file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))

    height, width, colors = samples.shape
    bits = 8 * samples.itemsize
    kind = (2 if colors == 3 else 0) | (0 if alpha is None else 4)
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    if metadata.icc_profile:
        chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi:
        per_metre = (round(dots / 0.0254) for dots in metadata.dpi)
        chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    chunk(b"tEXt", b"Software\0" + metadata.software.encode("latin-1", "replace"))
    if metadata.xmp:
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    chunk(b"eXIf", metadata.exif.tobytes().removeprefix(b"Exif\0\0"))

    compressor = zlib.compressobj(4)
    for filtered in _paeth_rows(samples, alpha):
        chunk(b"IDAT", compressor.compress(filtered))
    chunk(b"IDAT", compressor.flush())
    chunk(b"IEND", b"")


def _paeth_rows(samples: Array, alpha: Array | None) -> Iterator[bytes]:
    """Yield bands of PNG rows, all with the Paeth filter, the best for photographs."""
    planes = samples.shape[2] + (alpha is not None)
    pixel = planes * samples.itemsize
    above = np.zeros((1, pixel + samples.shape[1] * pixel), np.int16)
    for rows in color.bands(samples.shape):
        raw = _bytes_of_rows(samples, alpha, rows, ">")
        x = np.zeros((len(raw) + 1, above.shape[1]), np.int16)
        x[0], x[1:, pixel:] = above, raw
        above = x[-1:]
        left, up, corner = x[1:, :-pixel], x[:-1, pixel:], x[:-1, :-pixel]
        to_left, to_up = np.abs(up - corner), np.abs(left - corner)
        to_corner = np.abs(left + up - 2 * corner)
        predicted = np.where(to_up <= to_corner, up, corner)
        nearest = (to_left <= to_up) & (to_left <= to_corner)
        predicted = np.where(nearest, left, predicted)
        filtered = np.full((len(raw), 1 + raw.shape[1]), 4, np.uint8)
        filtered[:, 1:] = raw - predicted
        yield filtered.tobytes()


def _bytes_of_rows(
    samples: Array, alpha: Array | None, rows: slice, order: Literal["<", ">"]
) -> NDArray[np.uint8]:
    band = samples[rows]
    if alpha is not None:
        band = np.dstack([band, alpha[rows]])
    band = np.ascontiguousarray(band, band.dtype.newbyteorder(order))
    return band.reshape(len(band), -1).view(np.uint8)


def _write_tiff(
    file: BinaryIO,
    samples: Array,
    alpha: Array | None,
    mode: str,
    metadata: _Metadata,
) -> None:
    """Write an uncompressed TIFF 6.0; Pillow cannot write 16-bit RGB."""
    if alpha is not None and samples.shape[2] == 1 and samples.dtype != np.uint8:
        samples, mode = np.repeat(samples, 3, axis=2), "RGB"  # see _stays_grey
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in _tiff_tags(samples, alpha, mode, metadata).items():
        directory[tag] = value
    for tag in (256, 257, 273, 278, 279):
        directory.tagtype[tag] = TiffTags.LONG
    directory.save(file)
    for rows in color.bands(samples.shape):
        file.write(_bytes_of_rows(samples, alpha, rows, "<").tobytes())


def _tiff_tags(
    samples: Array, alpha: Array | None, mode: str, metadata: _Metadata
) -> dict[int, Any]:
    height, width, colors = samples.shape
    planes = colors + (alpha is not None)
    row_bytes = width * planes * samples.itemsize
    if height * row_bytes > 0xFFF00000:
        raise OSError("more than 4 GiB")
    rows_per_strip = max(1, 2**20 // row_bytes)
    tops = range(0, height, rows_per_strip)
    tags = {
        256: width,
        257: height,
        258: (8 * samples.itemsize,) * planes,
        259: 1,  # not compressed
        262: {"L": 1, "F": 1, "RGB": 2, "CMYK": 5}[mode],
        273: tuple(top * row_bytes for top in tops),
        277: planes,
        278: rows_per_strip,
        279: tuple(min(rows_per_strip, height - top) * row_bytes for top in tops),
        284: 1,
        339: (3 if mode == "F" else 1,) * planes,
    }
    if alpha is not None:
        tags[338] = 2  # straight alpha
    if metadata.dpi:
        tags |= {282: metadata.dpi[0], 283: metadata.dpi[1], 296: 2}
    if metadata.icc_profile:
        tags[34675] = metadata.icc_profile
    if metadata.xmp:
        tags[700] = metadata.xmp
    if metadata.iptc:
        tags[33723] = metadata.iptc
    for tag, value in metadata.exif.items():
        if tag in TiffTags.TAGS_V2_GROUPS and not isinstance(value, dict):
            value = metadata.exif.get_ifd(tag)
        tags.setdefault(tag, value)
    return tags


# Masks

_ROUNDING = 1e-3
"""How far a float mask may be outside [0, 1]; one that was blurred is by less."""


def load_mask(mask: Any, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a mask as float32 (H, W) in [0, 1], resized to `size` = (H, W).

    `mask` is a path, a PIL image, an ndarray (H, W) or (H, W, C), or a tensor (H, W),
    (1, H, W) or (1, 1, H, W), of bool, uint8, uint16 or floats in [0, 1]; or a float
    tensor (1, 3, H, W). Integers are divided by the largest value of their type, but if
    all are 0 or 1, 1 is white. Colours are converted to grey, and transparent pixels
    are 0. A file may have as many pixels as the image.

    Raises ``InvalidImageError`` for a file that is not an image, ``ImageTooLargeError``
    for one that is too large, and ``ValueError`` or ``TypeError`` for another range,
    shape or type.
    """
    if isinstance(mask, (str, os.PathLike)):
        try:
            picture = read_picture(mask, max_pixels=max(MAX_PIXELS, size[0] * size[1]))
        except ImageTooLargeError as error:
            raise ImageTooLargeError(
                f"{mask} is too large for a mask; make it smaller first, as large as "
                "the image is enough."
            ) from error
    else:
        if _is_tensor(mask) and mask.numel() == math.prod(mask.shape[-2:]):
            mask = mask.detach().cpu().reshape(mask.shape[-2:])
            mask = (mask.float() if mask.is_floating_point() else mask).numpy()
        unsigned = isinstance(mask, np.ndarray) and mask.dtype.kind in "bu"
        if unsigned and (mask <= 1).all():
            mask = mask.astype(np.uint8) * np.uint8(255)
        try:
            picture = Picture.from_image(mask)
        except (TypeError, ValueError) as error:
            raise type(error)(f"mask: {error}") from error
    values = color.change_depth(color.to_grey(picture.pixels), np.float32)[..., 0]
    if picture.alpha is not None:
        values = values * color.change_depth(picture.alpha, np.float32)
    if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        raise ValueError(
            f"a mask is in [0, 1], this one in [{values.min():g}, {values.max():g}]"
        )
    values = np.clip(values, 0, 1)
    if values.shape != tuple(size):
        logger.warning(
            "The mask of %d x %d is resized to the image's %d x %d.",
            *values.shape[::-1],
            *size[::-1],
        )
        resized = Image.fromarray(values).resize(
            (size[1], size[0]), Image.Resampling.BILINEAR
        )
        values = np.clip(np.asarray(resized), 0, 1)
    return np.ascontiguousarray(values, np.float32)
