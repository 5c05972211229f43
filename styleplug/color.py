"""Colour spaces: conversion of an image's samples to sRGB and back.

Samples are arrays ``(H, W, C)``. An ICC profile, or a mode such as CMYK or grey,
defines their meaning. A :class:`ColorSpace` converts them to and from sRGB in bands of
rows, so a large image needs little memory besides the two arrays.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Conversion = Callable[[Array], Array]

PIXELS_PER_BAND = 1 << 20
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""

# Linear sRGB to CIE XYZ under D50, the white point of ICC profiles (IEC 61966-2-1).
_SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_GRID = np.linspace(0.0, 1.0, 65536)
_SRGB_CURVE = np.where(
    _GRID <= 0.04045, _GRID / 12.92, ((_GRID + 0.055) / 1.055) ** 2.4
)
_PROFILE_ERRORS = (
    *(struct.error, ValueError, LookupError, ArithmeticError),
    *(ImageCms.PyCMSError, OSError, ImportError),
)
_CLOSE = 2e-3  # profiles called sRGB differ by less; plain gamma 2.2 by more


class ColorSpace:
    """A pair of conversions between samples ``(H, W, C)`` and sRGB ``(H, W, 3)``.

    `wide` samples hold colours outside sRGB, which clips them.
    """

    def __init__(
        self,
        pixel_dtype: DTypeLike,
        to_srgb: Conversion,
        from_srgb: Conversion,
        *,
        wide: bool = False,
    ) -> None:
        self._pixel_dtype = pixel_dtype
        self._to_srgb = to_srgb
        self._from_srgb = from_srgb
        self._wide = wide

    def to_srgb(self, samples: Array) -> Array:
        """Return the samples as sRGB pixels (H, W, 3)."""
        pixels = np.empty((*samples.shape[:2], 3), self._pixel_dtype)
        for rows in bands(samples.shape):
            pixels[rows] = self._to_srgb(samples[rows])
        return pixels

    def from_srgb(self, pixels: Array, before: Array, samples: Array) -> Array:
        """Convert sRGB pixels to samples of the shape and type of `samples`.

        `before` is `samples` in sRGB. A pixel that equals it keeps its exact samples,
        and one that nearly does keeps most of what sRGB has clipped.
        """
        result = np.empty_like(samples)
        for rows in bands(samples.shape):
            changed = (pixels[rows] != before[rows]).any(axis=-1, keepdims=True)
            converted = self._from_srgb(pixels[rows])
            result[rows] = np.where(changed, converted, samples[rows])
            if self._wide:
                self._keep_clipped(
                    result[rows], pixels[rows], before[rows], samples[rows]
                )
        return result

    def _keep_clipped(
        self, result: Array, pixels: Array, before: Array, samples: Array
    ) -> None:
        """Give pixels back what sRGB clipped, the less, the more they have changed."""
        white = np.iinfo(pixels.dtype).max
        change = np.abs(pixels.astype(np.int32) - before).max(axis=-1)
        clipped = ((before == 0) | (before == white)).any(axis=-1)
        where = clipped & (change > 0) & (change < white / 2)
        if where.any():
            again = self._from_srgb(before[where][:, None])[:, 0].astype(np.float32)
            share = 1 - 2 / white * change[where][:, None]
            kept = result[where] + (samples[where] - again) * share
            result[where] = np.rint(np.clip(kept, 0, np.iinfo(samples.dtype).max))


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows, each about a megapixel."""
    step = max(1, PIXELS_PER_BAND // max(1, shape[1]))
    for top in range(0, shape[0], step):
        yield slice(top, top + step)


def luma(pixels: Array) -> Array:
    """Return the luma (..., 1) of sRGB pixels (..., 3), exact for grey pixels."""
    if pixels.dtype.kind == "f":
        grey: Array = pixels.astype(np.float64) @ np.array(LUMA)[:, None]
        return grey.astype(pixels.dtype)
    weights = np.array([19595, 38470, 7471], np.uint32)  # in 1/65536, as in Pillow
    weighted: Array = (pixels * weights).sum(axis=-1, dtype=np.uint32, keepdims=True)
    return ((weighted + 32768) >> 16).astype(pixels.dtype)


def to_grey(pixels: Array) -> Array:
    """Return the :func:`luma` (H, W, 1) of a large image."""
    result = np.empty((*pixels.shape[:2], 1), pixels.dtype)
    for rows in bands(pixels.shape):
        result[rows] = luma(pixels[rows])
    return result


def change_depth(pixels: Array, dtype: DTypeLike) -> Array:
    """Convert pixels to uint8, uint16 or float32 such that white stays white."""
    dtype = np.dtype(dtype)
    if pixels.dtype == dtype:
        return pixels
    result = np.empty(pixels.shape, dtype)
    for rows in bands(pixels.shape):
        band = pixels[rows]
        if band.dtype.kind == dtype.kind == "f":
            result[rows] = band
        elif band.dtype.kind == "f":
            result[rows] = np.rint(np.clip(band, 0, 1) * np.iinfo(dtype).max)
        elif dtype.kind == "f":
            result[rows] = band / band.dtype.type(np.iinfo(band.dtype).max)
        elif dtype == np.uint16:
            result[rows] = band * np.uint16(257)
        else:
            result[rows] = (band.astype(np.uint32) + 128) // 257
    return result


def over_white(pixels: Array, alpha: Array) -> Array:
    """Composite pixels (H, W, C) with an opacity (H, W) over white."""
    result = np.empty_like(pixels)
    for rows in bands(pixels.shape):
        opacity = change_depth(alpha[rows], np.float32)[..., None].clip(0, 1)
        opaque = change_depth(pixels[rows], np.float32)
        upon = opaque * opacity + (1 - opacity)
        result[rows] = change_depth(upon, pixels.dtype)
    return result


def grey_space(dtype: DTypeLike) -> ColorSpace:
    """Return the space of one grey channel, encoded as sRGB."""
    pixel_dtype = np.float32 if np.dtype(dtype).kind == "f" else dtype
    return ColorSpace(pixel_dtype, lambda samples: samples, luma)


def scaled_grey_space(dtype: DTypeLike, white: float) -> ColorSpace:
    """Return the space of one grey channel with any white, for Pillow's I and F."""
    if np.dtype(dtype).kind == "f":
        return ColorSpace(
            np.float32,
            lambda samples: samples / np.float32(white),
            lambda pixels: luma(pixels) * np.float32(white),
        )
    return ColorSpace(
        np.uint16,
        lambda samples: np.rint(np.clip(samples / white, 0, 1) * 65535),
        lambda pixels: np.rint(luma(pixels) * (white / 65535)),
    )


def float_space(dtype: DTypeLike) -> ColorSpace:
    """Return the space of three float channels of a type other than float32."""
    return ColorSpace(np.float32, lambda s: s, lambda pixels: pixels.astype(dtype))


def mode_space(mode: str) -> ColorSpace:
    """Return the space of Pillow's 8-bit CMYK, YCbCr, HSV or LAB."""
    if mode == "LAB":
        return _lcms_space(ImageCms.createProfile("LAB"), mode)
    return ColorSpace(
        np.uint8,
        lambda samples: np.asarray(to_image(samples, mode).convert("RGB")),
        lambda pixels: from_image(to_image(pixels, "RGB").convert(mode)),
    )


def to_image(samples: Array, mode: str) -> Image.Image:
    """Return 8-bit samples (H, W, C) as a PIL image of `mode`."""
    size = samples.shape[1], samples.shape[0]
    return Image.frombytes(mode, size, np.ascontiguousarray(samples))


def from_image(image: Image.Image) -> Array:
    """Return the samples (H, W, C) of a PIL image, read in bands to save memory."""
    strip = np.asarray(image.crop((0, 0, image.width, 1)))
    channels = strip.shape[2] if strip.ndim == 3 else 1
    dtype = strip.dtype.newbyteorder("=")
    samples = np.empty((image.height, image.width, channels), dtype)
    for rows in bands(samples.shape):
        bottom = min(rows.stop, image.height)
        strip = np.asarray(image.crop((0, rows.start, image.width, bottom)))
        samples[rows] = strip.reshape(*strip.shape[:2], channels)
    return samples


def profile_space(profile: bytes, mode: str, dtype: DTypeLike) -> ColorSpace | None:
    """Return the space that an ICC profile describes; None if it is sRGB itself.

    `mode` is L, RGB or CMYK, `dtype` uint8 or uint16. Raises ``ValueError`` for a
    profile that is damaged or belongs to another mode.
    """
    expected = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}[mode]
    if profile[36:40] != b"acsp" or profile[16:20] != expected:
        raise ValueError(f"not an ICC profile for {mode} images")
    neutral = None
    if mode != "RGB":
        neutral = mode_space(mode) if mode == "CMYK" else grey_space(dtype)
    try:
        shaper = _read_shaper(profile)
        if shaper is not None and _is_srgb(*shaper):
            return neutral
        if np.dtype(dtype) == np.uint8:
            opened = ImageCms.getOpenProfile(io.BytesIO(profile))
            if _leads_back(opened):
                return _lcms_space(opened, mode)
        elif shaper is not None:
            return _shaper_space(*shaper)
    except _PROFILE_ERRORS as error:
        raise ValueError(f"damaged ICC profile ({error})") from error
    logger.warning(
        "This kind of ICC profile cannot be applied at %d bits; "
        "the style is rendered as if the image were sRGB.",
        8 * np.dtype(dtype).itemsize,
    )
    return neutral


def _leads_back(profile: Any) -> bool:
    """Return whether colours can be converted to a profile, not only from it.

    Many profiles of scanners and cameras work in one direction only.
    """
    output = ImageCms.Direction.OUTPUT
    supports = ImageCms.isIntentSupported
    return any(supports(profile, intent, output) == 1 for intent in ImageCms.Intent)


def _lcms_space(profile: Any, mode: str) -> ColorSpace:
    srgb = ImageCms.createProfile("sRGB")

    def conversion(
        source: Any, source_mode: str, target: Any, target_mode: str
    ) -> Conversion:
        transform = ImageCms.buildTransform(
            source,
            target,
            source_mode,
            target_mode,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )

        def convert(band: Array) -> Array:
            image = to_image(band, source_mode)
            converted = ImageCms.applyTransform(image, transform)
            return from_image(cast("Image.Image", converted))

        return convert

    return ColorSpace(
        np.uint8,
        conversion(profile, mode, srgb, "RGB"),
        conversion(srgb, "RGB", profile, mode),
        wide=mode == "RGB",  # in CMYK a colour has many mixtures
    )


def _shaper_space(curves: list[Array], to_xyz: Array) -> ColorSpace:
    """Return the space of 16-bit samples with tone curves and a matrix.

    Pillow's lcms cannot convert 16 bits.
    """
    grey = len(curves) == 1
    forward = np.eye(1) if grey else np.linalg.inv(_SRGB_TO_XYZ) @ to_xyz
    srgb_curves = [_SRGB_CURVE] * len(curves)
    to_srgb = _through_linear(curves, forward, srgb_curves)
    from_srgb = _through_linear(srgb_curves, np.linalg.inv(forward), curves)
    if grey:
        return ColorSpace(np.uint16, to_srgb, lambda pixels: from_srgb(luma(pixels)))
    return ColorSpace(np.uint16, to_srgb, from_srgb, wide=True)


def _through_linear(
    decode: list[Array], matrix: Array, encode: list[Array]
) -> Conversion:
    # Encoding is nearly linear in the square root of light, so a table indexed by it
    # is within one 16-bit level even in the shadows.
    decoders = [curve.astype(np.float32) for curve in decode]
    encoders = [
        np.rint(np.interp(_GRID**2, curve, _GRID) * 65535).astype(np.uint16)
        for curve in encode
    ]
    matrix = matrix.T.astype(np.float32)

    def convert(band: Array) -> Array:
        light = np.stack([d[band[..., i]] for i, d in enumerate(decoders)], axis=-1)
        root = np.sqrt(np.clip(light @ matrix, 0, 1))
        index = np.rint(root * 65535).astype(np.uint16)
        return np.stack([e[index[..., i]] for i, e in enumerate(encoders)], axis=-1)

    return convert


def _read_shaper(profile: bytes) -> tuple[list[Array], Array] | None:
    """Return tone curves and XYZ matrix of an ICC.1 profile; None if it has tables."""
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for i in range(min(count, 100)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        tags[name] = profile[offset : offset + size]
    if b"kTRC" in tags:
        return [_read_curve(tags[b"kTRC"])], np.eye(1)
    if b"A2B0" in tags or not {b"rXYZ", b"rTRC"} <= tags.keys():
        return None
    primaries = (b"r", b"g", b"b")
    columns = [struct.unpack_from(">3i", tags[p + b"XYZ"], 8) for p in primaries]
    curves = [_read_curve(tags[p + b"TRC"]) for p in primaries]
    return curves, np.array(columns).T / 65536


def _read_curve(tag: bytes) -> Array:
    """Return the linear light (65536,) per 16-bit level, from a curv or para tag."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        length = (1, 3, 4, 5, 7)[kind]
        read = [v / 65536 for v in struct.unpack_from(f">{length}i", tag, 12)]
        g, a, b, c, d, e, f = read + [0.0] * (7 - length)
        if kind == 0:
            a = 1.0
        elif kind < 3:  # the third parameter is an offset, not a slope
            e, f, c, d = c, c, 0.0, -b / a
        power = np.maximum(a * _GRID + b, 0.0) ** g + e
        curve = np.where(d <= _GRID, power, c * _GRID + f)
    else:
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            curve = _GRID
        elif count == 1:
            curve = _GRID ** (struct.unpack_from(">H", tag, 12)[0] / 256)
        else:
            levels = np.frombuffer(tag, ">u2", count, 12) / 65535
            curve = np.interp(_GRID, np.linspace(0, 1, count), levels)
    return np.maximum.accumulate(np.clip(curve, 0, 1))


def _is_srgb(curves: list[Array], to_xyz: Array) -> bool:
    primaries = len(curves) == 1 or np.allclose(to_xyz, _SRGB_TO_XYZ, atol=_CLOSE)
    return primaries and all(np.allclose(c, _SRGB_CURVE, atol=_CLOSE) for c in curves)
