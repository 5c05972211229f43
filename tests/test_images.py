"""Pixels in and out: modes, depths, profiles, metadata, and hostile files."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    IptcImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from styleplug import color, images, rendering
from styleplug.errors import ImageTooLargeError, InvalidImageError
from styleplug.images import (
    Picture,
    check_destination,
    load_mask,
    pictures_in,
    read_picture,
    read_to_paint,
    write_picture,
)

SIZE = (13, 9)
rng = np.random.default_rng(0)


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def noise_image(mode: str) -> Image.Image:
    if mode in ("I", "F"):
        values = rng.integers(0, 60000, SIZE[::-1]).astype(
            "i4" if mode == "I" else "f4"
        )
        return Image.frombytes(mode, SIZE, values.tobytes())
    if mode in ("La", "RGBa"):
        return noise_image({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode in ("P", "PA", "1"):
        return noise_image("RGBA" if mode == "PA" else "RGB").convert("P").convert(mode)
    empty = Image.new(mode, SIZE)
    return Image.frombytes(mode, SIZE, rng.bytes(len(empty.tobytes())))


def invert(picture: Picture) -> np.ndarray:
    """Pixels that certainly are not those of the picture."""
    if picture.pixels.dtype.kind == "f":
        return 1 - picture.pixels
    return np.iinfo(picture.pixels.dtype).max - picture.pixels


def save(picture: Picture, path: Path, pixels: np.ndarray | None = None) -> Path:
    shown = picture.pixels if pixels is None else pixels
    write_picture(picture, shown, path, provenance={"style": "tiny"})
    return path


# PIL images

SAME = ["L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
SAME += ["La", "RGBa", "I;16", "I;16L", "I;16B", "I;16N"]
OTHER = {"1": "L", "P": "RGB", "PA": "RGBA"}


@pytest.mark.parametrize("mode", SAME + list(OTHER))
def test_every_mode_comes_back_with_its_size_and_unchanged_pixels(mode: str) -> None:
    image = noise_image(mode)
    picture = Picture.from_image(image)
    assert picture.pixels.shape == (9, 13, 3)
    assert picture.pixels.flags.c_contiguous
    same = picture.to_image(picture.pixels.copy())
    assert (same.mode, same.size) == (OTHER.get(mode, mode), SIZE)
    expected = image.convert(OTHER[mode]) if mode in OTHER else image
    if mode == "RGBX":
        same, expected = same.convert("RGB"), expected.convert("RGB")
    difference = np.asarray(same).astype(float) - np.asarray(expected)
    assert np.abs(difference).max() == 0
    other = picture.to_image(invert(picture))
    assert (other.mode, other.size) == (same.mode if mode != "RGBX" else mode, SIZE)
    if mode not in ("LAB", "HSV"):  # where inverting may end out of gamut
        assert other.tobytes() != expected.tobytes()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_is_carried_through(mode: str) -> None:
    image = noise_image(mode)
    picture = Picture.from_image(image)
    alpha = picture.to_image(invert(picture)).getchannel("A")
    assert alpha.tobytes() == image.convert("RGBA").getchannel("A").tobytes()


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [("L", 7, "LA"), ("RGB", (1, 2, 3), "RGBA"), ("P", 0, "RGBA"), ("1", 0, "LA")],
)
def test_a_transparent_colour_becomes_alpha(mode: str, key: Any, expected: str) -> None:
    image = Image.new(mode, SIZE)
    image.putpixel((3, 3), key)
    image.putpixel((4, 4), 1)
    image.info["transparency"] = key
    picture = Picture.from_image(image)
    assert picture.alpha is not None
    assert picture.alpha[3, 3] == 0
    assert picture.alpha[4, 4] == 255
    result = picture.to_image(picture.pixels)
    assert result.mode == expected
    assert "transparency" not in result.info


def test_a_palette_with_bytes_of_transparency_becomes_alpha() -> None:
    image = noise_image("P")
    image.info["transparency"] = bytes(range(256))
    picture = Picture.from_image(image)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, np.asarray(image))


def test_transparency_at_16_bits_becomes_alpha() -> None:
    image = noise_image("I;16")
    key = int(np.asarray(image)[2, 5])
    image.info["transparency"] = key
    alpha = Picture.from_image(image).alpha
    assert alpha is not None
    assert alpha.dtype == np.uint16
    assert np.array_equal(alpha == 0, np.asarray(image) == key)


def test_sixteen_bit_grey_keeps_its_levels() -> None:
    image = noise_image("I;16")
    picture = Picture.from_image(image)
    assert picture.pixels.dtype == np.uint16
    inverted = np.asarray(picture.to_image(invert(picture)))
    assert np.array_equal(inverted, 65535 - np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "highest", "white"),
    [
        *(("F", 0.9, 1), ("F", 4.0, 1), ("F", 200, 255), ("F", 60000, 65535)),
        *(("F", 260, 255), ("F", 4000, 65535), ("F", 100000, 2**31 - 1)),
        *(("I", 200, 255), ("I", 60000, 65535), ("I", 2**30, 2**31 - 1)),
    ],
)
def test_white_of_i_and_f_follows_the_largest_value(
    mode: str, highest: float, white: float
) -> None:
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), highest)
    picture = Picture.from_image(image)
    full = 1 if mode == "F" else 65535
    assert picture.pixels[0, 1, 0] == pytest.approx(highest / white * full, abs=0.5)
    pixels = np.full_like(picture.pixels, full)
    assert picture.to_image(pixels).getpixel((1, 0)) == pytest.approx(white)


def test_info_of_a_pil_image_is_kept(content_image: Image.Image) -> None:
    content_image.info = {"dpi": (300, 300), "comment": b"x"}
    picture = Picture.from_image(content_image.copy())
    assert picture.to_image(invert(picture)).info["dpi"] == (300, 300)


def test_a_profile_of_a_pil_image_that_is_no_profile_is_ignored(
    content_image: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    content_image.info["icc_profile"] = (1, 2, 3)
    assert Picture.from_image(content_image).icc_profile is None
    assert "icc_profile is damaged and is ignored" in caplog.text


def test_a_lazy_pil_image_that_is_truncated_is_invalid() -> None:
    data = io.BytesIO()
    noise_image("RGB").resize((200, 200)).save(data, "JPEG")
    image = Image.open(io.BytesIO(data.getvalue()[:5000]))
    with pytest.raises(InvalidImageError, match="cannot be decoded"):
        Picture.from_image(image)


def test_an_image_without_pixels_is_invalid() -> None:
    with pytest.raises(InvalidImageError, match="no pixels"):
        Picture.from_image(Image.new("RGB", (0, 4)))


# Arrays and tensors


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8", ">u2", ">f4"])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 1), (9, 13, 3), (9, 13, 4), (1, 1)])
def test_arrays_come_back_with_shape_dtype_and_alpha(
    shape: tuple[int, ...], dtype: str
) -> None:
    array = noise(*shape, dtype=np.dtype(dtype).newbyteorder("=")).astype(dtype)
    before = array.copy()
    picture = Picture.from_image(array)
    same = picture.to_image(picture.pixels.copy())
    assert same.dtype == array.dtype
    assert np.array_equal(same, array)
    other = picture.to_image(invert(picture))
    assert other.shape == array.shape
    if shape[-1] == 4:
        assert np.array_equal(other[..., 3], array[..., 3])
    other[...] = 0
    assert np.array_equal(array, before)


def test_arrays_that_are_not_contiguous_work() -> None:
    array = noise(9, 13, 3)[::-1, ::2]
    picture = Picture.from_image(array)
    assert picture.pixels.flags.c_contiguous
    assert np.array_equal(picture.to_image(picture.pixels), array)


@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 1), (9, 13, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_floats_of_any_depth_are_painted_as_float32_and_kept_exactly(
    shape: tuple[int, ...], dtype: str
) -> None:
    array = noise(*shape, dtype=dtype)
    picture = Picture.from_image(array)
    assert picture.pixels.dtype == np.float32
    pixels = invert(picture)
    pixels[:5] = picture.pixels[:5]
    result = picture.to_image(pixels)
    assert result.dtype == array.dtype
    assert np.array_equal(result[:5], array[:5])
    assert not np.array_equal(result[5:], array[5:])


def test_an_8_bit_rgb_array_is_not_copied() -> None:
    array = noise(9, 13, 3)
    assert np.shares_memory(Picture.from_image(array).pixels, array)


@pytest.mark.parametrize(
    ("dtype", "planes", "most"), [("u2", 4, 24), ("f4", 4, 46), ("f8", 3, 38)]
)
def test_an_array_goes_in_and_out_in_few_bytes_for_a_pixel(
    dtype: str, planes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(color, "PIXELS_PER_BAND", 1 << 12)
    array = noise(512, 512, planes, dtype=dtype)
    array[:100, :, 3:] = 0
    painted = invert(Picture.from_image(array))
    tracemalloc.start()
    try:
        Picture.from_image(array).to_image(painted)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * 512 * 512


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_come_back_with_dtype_and_values(dtype: torch.dtype) -> None:
    tensor = torch.rand(1, 3, 9, 13).to(dtype)
    picture = Picture.from_image(tensor)
    assert picture.pixels.shape == (9, 13, 3)
    same = picture.to_image(picture.pixels.copy())
    assert same.dtype == dtype
    assert torch.equal(same, tensor)
    assert picture.to_image(invert(picture)).shape == tensor.shape


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        pytest.param("photo.jpg", TypeError, "stylize_file", id="path"),
        pytest.param(None, TypeError, "NoneType", id="none"),
        pytest.param(np.zeros((4, 4), bool), TypeError, "bool", id="bool"),
        pytest.param(np.zeros((4, 4), "i8"), TypeError, "int64", id="int64"),
        pytest.param(np.zeros((4, 4, 2)), ValueError, "(4, 4, 2)", id="2-channels"),
        pytest.param(np.zeros(4), ValueError, "(4,)", id="1-dimension"),
        pytest.param(np.zeros((0, 4, 3)), ValueError, "(0, 4, 3)", id="no-pixels"),
        pytest.param(np.full((4, 4), 255.0), ValueError, "255", id="float-to-255"),
        pytest.param(np.full((4, 4), np.nan), ValueError, "not finite", id="nan"),
        pytest.param(
            np.ma.masked_invalid([[np.nan, 1.0]]), TypeError, "fill it", id="masked"
        ),
        pytest.param(torch.zeros(3, 4, 4), ValueError, "(3, 4, 4)", id="no-batch"),
        pytest.param(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "uint8", id="bytes"
        ),
    ],
)
def test_misuse_names_the_value(
    image: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Picture.from_image(image)


def test_pixels_of_another_shape_or_depth_are_refused(
    content_image: Image.Image,
) -> None:
    picture = Picture.from_image(content_image)
    with pytest.raises(ValueError, match="uint16"):
        picture.to_image(picture.pixels.astype(np.uint16))


# Files


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(m, s) for s in (".png", ".tif") for m in ("L", "LA", "RGB", "RGBA")]
    + [("CMYK", ".tif"), ("F", ".tif"), ("I;16", ".png"), ("I;16", ".tif")]
    + [("RGB", ".bmp"), ("RGBA", ".tga"), ("RGB", ".ppm"), ("L", ".ppm")],
)
def test_lossless_formats_keep_mode_and_pixels(
    mode: str, suffix: str, tmp_path: Path
) -> None:
    image = noise_image(mode)
    if mode == "F":
        image = image.point(lambda v: v * (1 / 65536) + 0)
    image.save(tmp_path / f"in{suffix}")
    picture = read_picture(tmp_path / f"in{suffix}")
    with Image.open(save(picture, tmp_path / f"out{suffix}")) as result:
        assert result.mode == mode
        assert result.tobytes() == image.tobytes()
    inverted = invert(picture)
    again = read_picture(save(picture, tmp_path / f"inverted{suffix}", inverted))
    if mode != "CMYK":
        seen = slice(None) if picture.alpha is None else picture.alpha > 0
        assert np.array_equal(again.pixels[seen], inverted[seen])


def write_tiff(
    path: Path,
    array: np.ndarray,
    order: str,
    *,
    compressed: bool = False,
    planar: bool = False,
    **tags: Any,
) -> None:
    """Write a TIFF with Pillow's directory, independent of styleplug's writer."""
    height, width, planes = array.shape
    array = array.astype(array.dtype.newbyteorder(order))
    strips = [
        part.tobytes() for part in (np.moveaxis(array, 2, 0) if planar else [array])
    ]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    sizes = tuple(map(len, strips))
    starts = tuple(sum(sizes[:i]) for i in range(len(sizes)))
    directory = TiffImagePlugin.ImageFileDirectory_v2(
        prefix=b"II" if order == "<" else b"MM"
    )
    entries = {256: width, 257: height, 258: (8 * array.itemsize,) * planes}
    entries |= {259: 8 if compressed else 1, 262: 2 if planes > 2 else 1, 273: starts}
    entries |= {277: planes, 278: height, 279: sizes, 284: 2 if planar else 1}
    entries[339] = (3 if array.dtype.kind == "f" else 1,) * planes
    for tag, value in (entries | {int(k[1:]): v for k, v in tags.items()}).items():
        directory.tagtype[tag] = 4 if tag in (273, 279, 33723) else 3
        directory._tags_v2[tag] = value  # past Pillow's idea of what it should be
    with path.open("wb") as file:
        directory.save(file)
        file.write(b"".join(strips))


@pytest.mark.parametrize(
    ("name", "suffix"), [("JPEG", ".jpg"), ("MPO", ".jpg"), ("JPEG2000", None)]
)
def test_a_file_of_any_name_has_the_suffix_of_its_format(
    tmp_path: Path, name: str, suffix: str | None
) -> None:
    image = Image.new("RGB", (8, 6))
    more = {"save_all": True, "append_images": [image]} if name == "MPO" else {}
    image.save(tmp_path / "in", name, **more)
    assert read_picture(tmp_path / "in").suffix == suffix


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [3, 4])
def test_16_bit_colour_tiff_is_read_in_full(
    planes: int, order: str, tmp_path: Path
) -> None:
    array = noise(9, 13, planes, dtype=np.uint16)
    extra = {"t338": 2} if planes == 4 else {}
    write_tiff(tmp_path / "in.tif", array, order, **extra)
    picture = read_picture(tmp_path / "in.tif")
    assert np.array_equal(picture.pixels, array[..., :3])
    if planes == 4:
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, array[..., 3])


@pytest.mark.parametrize("tag", [700, 34675], ids=["xmp", "icc_profile"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TiffImagePlugin.TiffTags.SHORT, 9),
        (TiffImagePlugin.TiffTags.LONG, 7),
        (TiffImagePlugin.TiffTags.RATIONAL, 0.5),
        (TiffImagePlugin.TiffTags.ASCII, "text"),
    ],
)
def test_a_tiff_whose_profile_or_xmp_is_no_bytes_is_read(
    tag: int, kind: int, value: Any, tmp_path: Path
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[tag] = kind
    tags[tag] = value
    image = noise_image("RGB")
    image.save(tmp_path / "in.tif", tiffinfo=tags)
    picture = read_picture(tmp_path / "in.tif")
    assert np.array_equal(picture.pixels, np.asarray(image))
    assert picture.icc_profile is None
    xmp = b"text" if (tag, value) == (700, "text") else None
    assert picture.xmp == xmp
    save(picture, tmp_path / "out.tif")


def test_16_bit_tiff_with_an_unused_channel_is_read(tmp_path: Path) -> None:
    array = noise(9, 13, 4, dtype=np.uint16)
    write_tiff(tmp_path / "in.tif", array, "<", t338=0)
    picture = read_picture(tmp_path / "in.tif")
    assert picture.alpha is None
    assert np.array_equal(picture.pixels, array[..., :3])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_tiff_with_premultiplied_alpha_is_read_straight(
    planar: bool, compressed: bool, tmp_path: Path
) -> None:
    straight = noise(9, 13, 3, dtype=np.uint16)
    alpha = np.maximum(noise(9, 13, 1, dtype=np.uint16), 20000)
    premultiplied = np.rint(straight * (alpha / 65535)).astype(np.uint16)
    write_tiff(
        tmp_path / "in.tif",
        np.dstack([premultiplied, alpha]),
        "<",
        compressed=compressed,
        planar=planar,
        t338=1,
    )
    picture = read_picture(tmp_path / "in.tif")
    of_8_bit = planar and compressed
    assert np.abs(picture.pixels.astype(int) - straight).max() <= 2000 * of_8_bit + 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_is_written_and_read_in_full(
    channels: int, suffix: str, tmp_path: Path
) -> None:
    array = noise(90, 130, channels, dtype=np.uint16)
    if channels == 4:
        array[..., 3] |= 1  # nothing is hidden
    path = save(Picture.from_image(array), tmp_path / f"out{suffix}")
    again = read_picture(path)
    colors = array[..., :3] if channels == 4 else array
    assert np.array_equal(again.pixels, np.broadcast_to(colors, (90, 130, 3)))
    assert (again.alpha is None) == (channels != 4)
    if channels == 4:
        assert np.array_equal(again.alpha, array[..., 3])


def test_16_bit_grey_with_alpha_survives_png(tmp_path: Path) -> None:
    picture = Picture.from_image(noise(9, 13, dtype=np.uint16))
    picture.alpha = noise(9, 13, dtype=np.uint16)
    again = read_picture(save(picture, tmp_path / "out.png"))
    assert np.array_equal(again.pixels, picture.pixels)
    assert np.array_equal(again.alpha, picture.alpha)
    as_tiff = read_picture(save(again, tmp_path / "out.tif"))
    assert np.array_equal(as_tiff.pixels, picture.pixels)
    assert np.array_equal(as_tiff.alpha, picture.alpha)


def png(
    ihdr: tuple[int, ...],
    rows: bytes,
    *chunks: tuple[bytes, bytes],
    late: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    body = [(b"IHDR", struct.pack(">IIBBBBB", *ihdr)), *chunks]
    body += [(b"IDAT", zlib.compress(rows)), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
        for n, d in body
    )


def test_transparent_colour_of_16_bit_png_becomes_alpha(tmp_path: Path) -> None:
    row = struct.pack(">B6H", 0, 1, 2, 3, 1, 2, 4)
    key = (b"tRNS", struct.pack(">3H", 1, 2, 3))
    (tmp_path / "in.png").write_bytes(png((2, 1, 16, 2, 0, 0, 0), row, key))
    picture = read_picture(tmp_path / "in.png")
    assert picture.pixels.tolist() == [[[1, 2, 4], [1, 2, 4]]]  # 1, 2, 3 is hidden
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 65535]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_grey_of_a_png_of_any_depth_becomes_alpha(
    bits: int, tmp_path: Path
) -> None:
    width = 8 // bits
    greys = [i % 2**bits for i in range(width)] if bits < 8 else [1]
    row = sum(grey << (8 - bits * (i + 1)) for i, grey in enumerate(greys))
    key = (b"tRNS", struct.pack(">H", 1))
    data = png((width, 1, bits, 0, 0, 0, 0), bytes([0, row]), key)
    (tmp_path / "in.png").write_bytes(data)
    picture = read_picture(tmp_path / "in.png")
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [0 if grey == 1 else 255 for grey in greys]


def test_16_bit_grey_stays_transparent_where_it_was_and_nowhere_else() -> None:
    image = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 5, 6, 900))
    image.info["transparency"] = 5
    picture = Picture.from_image(image)
    assert picture.to_image(picture.pixels).tobytes() == image.tobytes()
    painted = picture.to_image(np.full_like(picture.pixels, 5))
    assert painted.info["transparency"] == 5
    assert Picture.from_image(painted).alpha.tolist() == [[0, 65535, 65535]]


def test_16_bit_cmyk_is_read_as_8_bit_with_a_note_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = noise(9, 13, 4, dtype=np.uint16)
    write_tiff(tmp_path / "in.tif", array, "<", t262=5)
    picture = read_picture(tmp_path / "in.tif")
    assert "read as 8 bit" in caplog.text
    low = Image.fromarray((array >> 8).astype(np.uint8), "CMYK")
    assert np.array_equal(picture.pixels, Picture.from_image(low).pixels)
    write_tiff(tmp_path / "in.tif", array, "<", planar=True, t262=5)
    with pytest.raises(InvalidImageError, match="interleaved"):
        read_picture(tmp_path / "in.tif")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
def test_float_tiff_of_either_byte_order_is_read(
    compressed: bool, order: str, tmp_path: Path
) -> None:
    array = noise(9, 13, 1, dtype=np.float32)
    write_tiff(tmp_path / "in.tif", array, order, compressed=compressed)
    assert np.array_equal(read_picture(tmp_path / "in.tif").pixels[..., :1], array)


def test_grey_with_alpha_in_planes_is_refused(tmp_path: Path) -> None:
    array = noise(9, 13, 2)
    for compressed in (False, True):
        write_tiff(
            tmp_path / "in.tif",
            array,
            "<",
            compressed=compressed,
            planar=True,
            t338=2,
        )
        with pytest.raises(InvalidImageError, match="interleaved"):
            read_picture(tmp_path / "in.tif")


def ppm_of_16_bit() -> bytes:
    return (
        b"P6\n13 9\n65535\n" + noise(9, 13, 3, dtype=np.uint16).astype(">u2").tobytes()
    )


def saved(form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    noise_image("RGB").save(data, form, **options)
    return data.getvalue()


def jpeg_2000_of_16_bit() -> bytes:
    data = saved("JPEG2000")
    eight, sixteen = b"\0\3" + b"\7\1\1" * 3, b"\0\3" + b"\x0f\1\1" * 3
    assert data.count(eight) == 1
    return data.replace(eight, sixteen)


def avif_of_10_bit() -> bytes:
    data = saved("AVIF")
    config = data.index(b"av1C") + 6
    data = data[:config] + bytes([data[config] | 0x40]) + data[config + 1 :]
    return data.replace(b"\3\x08\x08\x08", b"\3\x0a\x0a\x0a")


@pytest.mark.parametrize("deep", [ppm_of_16_bit, jpeg_2000_of_16_bit, avif_of_10_bit])
def test_a_file_of_more_than_8_bits_is_read_as_8_bit_with_a_note(
    deep: Callable[[], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").write_bytes(deep())
    assert read_picture(tmp_path / "in").pixels.dtype == np.uint8
    assert "of more than 8 bits is read as 8 bit" in caplog.text


def test_a_file_of_8_bits_is_read_without_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for form in ("PPM", "JPEG2000", "AVIF"):
        (tmp_path / "in").write_bytes(saved(form))
        read_picture(tmp_path / "in")
    assert not caplog.text


def test_16_bit_written_as_jpeg_becomes_8_bit(tmp_path: Path) -> None:
    picture = Picture.from_image(np.full((8, 8, 3), 65535, np.uint16))
    with Image.open(save(picture, tmp_path / "out.jpg")) as result:
        assert result.getextrema() == ((255, 255),) * 3


def test_each_value_of_16_bits_becomes_the_nearest_of_8() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(color.change_depth(values, "uint8"), np.rint(values / 257))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_float_colour_is_written_with_16_bits(suffix: str, tmp_path: Path) -> None:
    picture = Picture.from_image(noise(9, 13, 3, dtype=np.float32))
    again = read_picture(save(picture, tmp_path / f"out{suffix}"))
    assert again.pixels.dtype == np.uint16
    assert np.abs(again.pixels / 65535 - picture.pixels).max() <= 0.51 / 65535


@pytest.mark.parametrize(("suffix", "white"), [(".png", 65535), (".jpg", 255)])
def test_highlights_are_white_where_a_format_has_none(
    suffix: str, white: int, tmp_path: Path
) -> None:
    values = np.linspace(0, 1.5, 64 * 64, dtype=np.float32).reshape(64, 64)
    path = save(Picture.from_image(Image.fromarray(values)), tmp_path / f"out{suffix}")
    with Image.open(path) as result:
        assert np.asarray(result)[-1].min() == white


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535)])
def test_integers_have_nothing_beyond_black_and_white(dtype: str, white: int) -> None:
    beyond = np.array([[-0.5, 1.5]], np.float32)
    assert color.change_depth(beyond, dtype).tolist() == [[0, white]]


def test_grey_is_that_of_pillow() -> None:
    pixels = noise(40, 50, 3)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), int)
    assert np.array_equal(color.to_grey(pixels)[..., 0], grey)
    light = (pixels / 255).astype(np.float32)
    tensor = torch.from_numpy(light).permute(2, 0, 1)[None]
    for found in (color.to_grey(light)[..., 0], rendering.luma(tensor)[0, 0].numpy()):
        assert np.abs(255 * found - grey).max() < 0.51


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_keeps_its_mode_and_nearly_its_pixels(mode: str, tmp_path: Path) -> None:
    noise_image(mode).resize((64, 64)).save(tmp_path / "in.jpg", quality=95)
    picture = read_picture(tmp_path / "in.jpg")
    save(picture, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as result:
        assert result.mode == mode
    again = read_picture(tmp_path / "out.jpg")
    assert np.abs(again.pixels.astype(int) - picture.pixels).mean() < 4


def test_jpeg_is_written_without_chroma_subsampling(tmp_path: Path) -> None:
    save(Picture.from_image(noise(16, 16, 3)), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as result:
        assert [layer[1:3] for layer in result.layer] == [(1, 1)] * 3


def test_avif_is_written_without_chroma_subsampling(tmp_path: Path) -> None:
    rows = np.tile(np.array([[[200, 30, 30]], [[30, 30, 200]]], np.uint8), (32, 64, 1))
    again = read_picture(save(Picture.from_image(rows), tmp_path / "out.avif"))
    assert np.abs(again.pixels.astype(int) - rows).mean() < 10


@pytest.mark.parametrize("with_profile", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_lossless_webp_is_written_lossless(
    lossless: bool, with_profile: bool, tmp_path: Path
) -> None:
    first = tmp_path / "in.webp"
    icc_profile = display_p3() if with_profile else None
    noise_image("RGBA").save(first, lossless=lossless, icc_profile=icc_profile)
    picture = read_picture(first)
    again = read_picture(save(picture, tmp_path / "out.webp"))
    same = np.array_equal(again.pixels, picture.pixels)
    assert (picture.lossless, again.lossless, same) == (lossless,) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_applied_once_and_reset(
    suffix: str, orientation: int, tmp_path: Path
) -> None:
    array = np.zeros((16, 32, 3), np.uint8)
    array[:8, :16] = 255  # white where the first row meets the first column
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(array).save(tmp_path / f"in{suffix}", exif=exif, **options)
    picture = read_picture(tmp_path / f"in{suffix}")
    # EXIF: where the 0th row (the visual top, bottom, ...) and 0th column lie
    row_side, column_side = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    assert picture.size == ((32, 16) if orientation < 5 else (16, 32))
    sides = {row_side, column_side}
    y = 1 if "top" in sides else -2
    x = 1 if "left" in sides else -2
    assert picture.pixels[y, x].min() > 200
    assert picture.pixels[-1 - y, x].max() < 60
    again = read_picture(save(picture, tmp_path / f"out{suffix}"))
    assert again.size == picture.size
    with Image.open(tmp_path / f"out{suffix}") as result:
        assert result.getexif().get(ExifTags.Base.Orientation, 1) == 1


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("mode", ["L", "P", "I;16", "LA", "RGBA", "CMYK"])
def test_a_tiff_of_any_mode_is_turned_upright(
    mode: str, orientation: int, tmp_path: Path
) -> None:
    image = noise_image(mode)
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "in.tif", tiffinfo={ExifTags.Base.Orientation: orientation})
    plain, turned = (read_picture(tmp_path / f"{n}.tif") for n in ("plain", "in"))
    quarters = {3: 2, 6: 3, 8: 1}[orientation]
    assert np.array_equal(turned.pixels, np.rot90(plain.pixels, quarters))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_the_resolution_is_turned_with_the_picture(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ResolutionUnit] = 2
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = 200, 100
    path = tmp_path / f"in{suffix}"
    Image.new("RGB", (8, 4)).save(path, exif=exif, dpi=(200, 100))
    picture = read_picture(path)
    assert picture.size == (4, 8)
    assert picture.dpi == pytest.approx((100, 200), abs=0.3)


MULLER = "Jürgen Müller ©".encode()
IPTC = b"\x1c\x02\x19\x00\x06harbor\x1c\x02\x78\x00\x07A quay."
"""A keyword and a caption, of an odd length."""


@pytest.fixture
def photograph(tmp_path: Path, content_image: Image.Image) -> Path:
    """A JPEG with everything that a camera and an editor leave in it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.ImageDescription] = "A caption"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = MULLER  # as cameras and editors write it
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.CameraOwnerName: MULLER,
        ExifTags.IFD.Interop: {1: "R98", 2: b"0100"},
        ExifTags.Base.ISOSpeedRatings: 200,
        ExifTags.Base.ExifImageWidth: 96,
        ExifTags.Base.ExifImageHeight: 64,
        ExifTags.Base.MakerNote: b"maker\0note",
    }
    exif[ExifTags.IFD.GPSInfo] = {
        ExifTags.GPS.GPSLatitudeRef: "N",
        ExifTags.GPS.GPSSatellites: MULLER,
    }
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6">caption</x:xmpmeta>'
    )
    thumbnail = b"8BIM" + struct.pack(">HxxI", 1036, 4) + b"old!"
    iptc = b"8BIM" + struct.pack(">HxxI", 0x0404, len(IPTC)) + IPTC + b"\0"
    resources = b"Photoshop 3.0\0" + thumbnail + iptc
    path = tmp_path / "photograph.jpg"
    content_image.save(
        path,
        exif=exif,
        xmp=xmp,
        dpi=(300, 300),
        icc_profile=display_p3(),
        extra=b"\xff\xed" + struct.pack(">H", 2 + len(resources)) + resources,
    )
    return path


def icc(
    space: bytes,
    tags: dict[bytes, bytes],
    *,
    pcs: bytes = b"XYZ ",
    kind: bytes = b"mntr",
) -> bytes:
    """Build an ICC v2 profile."""
    tags = {
        b"desc": b"desc" + struct.pack(">4xI", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI", start + len(data), 0x02100000) + kind + space + pcs
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(columns: list[list[float]], curve: bytes) -> bytes:
    tags = {p + b"TRC": curve for p in (b"r", b"g", b"b")}
    pairs = zip((b"r", b"g", b"b"), columns, strict=True)
    return icc(b"RGB ", tags | {p + b"XYZ": xyz(*c) for p, c in pairs})


def adobe_rgb() -> bytes:
    columns = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087]]
    return rgb_profile([*columns, [0.14919, 0.06322, 0.74457]], gamma(2.19921875))


def display_p3() -> bytes:
    columns = [[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189]]
    curve = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]
    para = b"para\0\0\0\0" + struct.pack(">HH", 3, 0)
    para += struct.pack(">5i", *(round(v * 65536) for v in curve))
    return rgb_profile([*columns, [0.15710, 0.06657, 0.78407]], para)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_metadata_is_kept_and_provenance_added(
    suffix: str, photograph: Path, tmp_path: Path
) -> None:
    picture = read_picture(photograph)
    save(picture, tmp_path / f"out{suffix}", invert(picture))
    with Image.open(tmp_path / f"out{suffix}") as result:
        if suffix == ".png":
            result.load()
        exif = result.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert result.size == (64, 96)
        assert exif[ExifTags.Base.Make] == "Camera"
        assert exif[ExifTags.Base.ImageDescription] == "A caption"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert details[ExifTags.Base.ISOSpeedRatings] == 200
        assert details[ExifTags.Base.ExifImageWidth] == 64
        assert details[ExifTags.Base.ExifImageHeight] == 96
        assert details[ExifTags.Base.MakerNote] == b"maker\0note"
        assert ExifTags.IFD.Interop not in exif  # but in the details alone
        assert exif.get_ifd(ExifTags.IFD.Interop) == {1: "R98", 2: b"0100"}
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
        assert place[ExifTags.GPS.GPSLatitudeRef] == "N"
        for text in (
            exif[ExifTags.Base.Artist],
            details[ExifTags.Base.CameraOwnerName],
            place[ExifTags.GPS.GPSSatellites],
        ):
            stored = text if isinstance(text, bytes) else text.encode("latin-1")
            assert stored == MULLER
        assert result.info["icc_profile"] == display_p3()
        xmp = result.info["xmp"]
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        assert b"caption" in xmp
        assert b'tiff:Orientation="1"' in xmp
        assert exif[ExifTags.Base.XResolution] == pytest.approx(300, abs=0.01)
        if suffix not in (".webp", ".avif"):
            assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        software = exif[ExifTags.Base.Software]
        if suffix == ".png":
            assert result.info["Software"] == software
    again = read_picture(tmp_path / f"out{suffix}").exif or b""
    assert again.count(MULLER) == 3
    assert again.count(b"R98\0") == 1
    name, _, provenance = software.split(" ", 2)
    assert name == "styleplug"
    assert json.loads(provenance) == {"style": "tiny"}


def test_metadata_after_the_pixels_of_a_png_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ann"
    exif[ExifTags.Base.Orientation] = 6
    late = (
        (b"eXIf", exif.tobytes()[6:]),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"),
    )
    data = png((2, 1, 8, 0, 0, 0, 0), b"\0\1\2", late=late)
    (tmp_path / "in.png").write_bytes(data)
    picture = read_picture(tmp_path / "in.png")
    assert picture.size == (1, 2)
    assert picture.xmp == b"<x/>"
    assert b"Ann" in (picture.exif or b"")


def test_xmp_does_not_promise_what_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attributes = (
        b'GCamera:MotionPhoto="1"',
        b'GCamera:MicroVideoOffset="12345"',
        b'hdrgm:Version="1.0"',
        b'xmpNote:HasExtendedXMP="0123456789ABCDEF"',
    )
    xmp = b'<rdf:Description dc:title="quay"\n' + b" ".join(attributes)
    xmp += b"><GCamera:MotionPhotoVersion>1</GCamera:MotionPhotoVersion><dc:format>"
    noise_image("RGB").save(tmp_path / "in.jpg", xmp=xmp)
    picture = read_picture(tmp_path / "in.jpg")
    assert picture.xmp == b'<rdf:Description dc:title="quay"><dc:format>'
    assert caplog.text.count("XMP") == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_keeps_its_types_and_the_rating(suffix: str, tmp_path: Path) -> None:
    details = (
        struct.pack("<HHHI4s", 2, 0x927C, 7, 4, b"note")
        + struct.pack("<HHI4s", 0xA301, 7, 1, b"\1")
        + bytes(4)
    )
    exif = struct.pack("<2sHIH", b"II", 42, 8, 2)
    exif += struct.pack("<HHIHxx", 0x4749, 3, 1, 99)
    exif += struct.pack("<HHII", 0x8769, 4, 1, 38) + bytes(4) + details
    noise_image("RGB").save(tmp_path / "in.jpg", exif=b"Exif\0\0" + exif)
    picture = read_picture(tmp_path / "in.jpg")
    again = read_picture(save(picture, tmp_path / f"out{suffix}")).exif or b""
    assert struct.pack("<HHIHxx", 0x4749, 3, 1, 99) in again
    assert struct.pack("<HHI4s", 0x927C, 7, 4, b"note") in again
    assert struct.pack("<HHI4s", 0xA301, 7, 1, b"\1") in again


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_captions_and_keywords_of_iptc_are_kept_but_no_old_thumbnail(
    suffix: str, photograph: Path, tmp_path: Path
) -> None:
    picture = read_picture(photograph)
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    save(picture, first, invert(picture))
    save(read_picture(first), second, picture.pixels)
    for path in (first, second):
        with Image.open(path) as result:
            assert IptcImagePlugin.getiptcinfo(result) == {
                (2, 25): b"harbor",
                (2, 120): b"A quay.",
            }
        assert b"old!" not in path.read_bytes()


@pytest.mark.parametrize("order", "<>")
def test_iptc_in_words_as_photoshop_writes_it_is_kept(
    order: str, tmp_path: Path
) -> None:
    padded = IPTC + bytes(-len(IPTC) % 4)
    words = struct.unpack(f"{order}{len(padded) // 4}L", padded)
    array = noise(*SIZE, 3, dtype=np.uint16)
    write_tiff(tmp_path / "in.tif", array, order, t33723=words)
    picture = read_picture(tmp_path / "in.tif")
    assert picture.iptc == IPTC
    save(picture, tmp_path / "out.jpg")
    assert read_picture(tmp_path / "out.jpg").iptc == IPTC


@pytest.mark.parametrize(
    "data",
    [
        *(b"no records", IPTC[:3], IPTC[:-2]),
        b"\x1c\x02\x19\0\0" + IPTC,  # an empty record
        b"\x1c\x02\x19\x84\0\1\0\0" + bytes(2**16),
    ],
)
def test_damaged_iptc_does_not_keep_a_picture_from_being_read(
    data: bytes, tmp_path: Path
) -> None:
    image = noise_image("RGB")
    image.save(tmp_path / "in.tif", tiffinfo={33723: data})
    picture = read_picture(tmp_path / "in.tif")
    assert np.array_equal(picture.pixels, np.asarray(image))
    save(picture, tmp_path / "out.jpg", picture.pixels)


def test_iptc_that_is_too_long_for_jpeg_is_left_out_with_a_warning(
    photograph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = read_picture(photograph)
    picture.iptc = IPTC * 4000
    save(picture, tmp_path / "out.jpg", picture.pixels)
    assert "IPTC" in caplog.text
    assert read_picture(tmp_path / "out.jpg").iptc is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_no_directory_is_written_that_was_not_there(
    suffix: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    Image.new("RGB", (8, 8)).save(tmp_path / "in.jpg", exif=exif)
    out = save(read_picture(tmp_path / "in.jpg"), tmp_path / f"out{suffix}")
    with Image.open(out) as result:
        found = result.getexif()
    assert found[ExifTags.Base.Make] == "Camera"
    assert not {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo} & set(found)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif", ".bmp"])
def test_the_resolution_goes_from_any_format_to_any(
    suffix: str, tmp_path: Path
) -> None:
    picture = Picture.from_image(noise(8, 8, 3))
    picture.dpi = (300.0, 150.0)
    first = read_picture(save(picture, tmp_path / f"first{suffix}"))
    for other in (".jpg", ".png", ".tif", ".webp", ".avif", ".bmp"):
        again = read_picture(save(first, tmp_path / f"then{other}"))
        assert again.dpi == pytest.approx((300, 150), abs=0.3)


def test_a_resolution_of_a_microscope_goes_through_jpeg(tmp_path: Path) -> None:
    picture = Picture.from_image(noise(8, 8, 3))
    picture.dpi = (254000.0, 254000.0)
    with Image.open(save(picture, tmp_path / "out.jpg")) as result:
        assert result.info["jfif_unit"] == 0
    assert read_picture(tmp_path / "out.jpg").dpi == picture.dpi


def test_a_resolution_in_centimetres_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 100
    for unit, dpi in ((3, (254, 254)), (1, None)):
        exif[ExifTags.Base.ResolutionUnit] = unit
        Image.new("RGB", (4, 4)).save(tmp_path / "in.webp", exif=exif)
        assert read_picture(tmp_path / "in.webp").dpi == dpi


def test_the_description_in_a_big_tiff_is_kept(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 3))
    image.save(tmp_path / "in.tif", big_tiff=True, description="a holiday")
    picture = read_picture(tmp_path / "in.tif")
    with Image.open(save(picture, tmp_path / "out.png")) as result:
        assert result.getexif()[ExifTags.Base.ImageDescription] == "a holiday"


def test_metadata_that_is_too_long_for_jpeg_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Picture.from_image(noise(8, 8, 3))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70000
    picture.exif, picture.xmp = exif.tobytes(), b"y" * 70000
    with caplog.at_level(logging.WARNING):
        save(picture, tmp_path / "out.jpg")
    assert "too long" in caplog.text
    with Image.open(tmp_path / "out.jpg") as result:
        assert result.getexif()[ExifTags.Base.Software].startswith("styleplug ")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
def test_broken_exif_is_not_fatal(
    tmp_path: Path, content_image: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    junk = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + rng.bytes(400)
    content_image.save(tmp_path / "in.jpg", exif=junk)
    picture = read_picture(tmp_path / "in.jpg")
    save(picture, tmp_path / "out.jpg")
    assert read_picture(tmp_path / "out.jpg").size == content_image.size


# Colour profiles


def reference(image: Image.Image, profile: bytes) -> np.ndarray:
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    assert converted is not None
    return np.asarray(converted)


_A, _B, _C, _D = 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
"""Parameters of sRGB's curve."""
_CURVES: list[tuple[list[float], Callable[[np.ndarray], np.ndarray]]] = [
    ([2.2], lambda x: x**2.2),
    ([2.4, _A, _B], lambda x: (_A * x + _B) ** 2.4),
    ([2.4, _A, _B, 0.01], lambda x: (_A * x + _B) ** 2.4 + 0.01),
    (
        [2.4, _A, _B, _C, _D],
        lambda x: np.where(x >= _D, (_A * x + _B) ** 2.4, _C * x),
    ),
    (
        [2.4, _A, _B, _C, _D, 0.01, 0.01],
        lambda x: np.where(x >= _D, (_A * x + _B) ** 2.4, _C * x) + 0.01,
    ),
]
"""Parametric curves of ICC profiles (ICC.1:2022, 10.18), by kind."""


@pytest.mark.parametrize("kind", range(5))
def test_parametric_curves_of_profiles_are_those_of_their_standard(kind: int) -> None:
    parameters, curve = _CURVES[kind]
    fixed = [round(65536 * value) for value in parameters]
    tag = b"para\0\0\0\0" + struct.pack(f">HH{len(fixed)}i", kind, 0, *fixed)
    expected = curve(np.linspace(0, 1, 65536)).clip(0, 1)
    assert np.abs(color._read_curve(tag) - expected).max() < 1e-4


def smooth(dtype: Any) -> np.ndarray:
    """Colours that sRGB has too."""
    y, x = np.mgrid[0:64, 0:64] / 63
    planes = np.stack([0.4 + 0.2 * x, 0.4 + 0.2 * y, 0.4 + 0.1 * (x + y)], -1)
    return np.rint(planes * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("profile", [adobe_rgb(), display_p3()], ids=["adobe", "p3"])
def test_8_bit_is_rendered_in_srgb_and_written_in_its_profile(
    profile: bytes, tmp_path: Path
) -> None:
    image = Image.fromarray(smooth(np.uint8))
    image.save(tmp_path / "in.png", icc_profile=profile)
    picture = read_picture(tmp_path / "in.png")
    assert np.array_equal(picture.pixels, reference(image, profile))
    pixels = np.ascontiguousarray(picture.pixels[:, ::-1])
    with Image.open(save(picture, tmp_path / "out.png", pixels)) as result:
        assert result.info["icc_profile"] == profile
        shown = reference(result, profile)
    assert np.abs(shown.astype(int) - pixels).max() <= 2


@pytest.mark.parametrize("profile", [adobe_rgb(), display_p3()], ids=["adobe", "p3"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_goes_through_its_profile(
    suffix: str, profile: bytes, tmp_path: Path
) -> None:
    array = smooth(np.uint16)
    picture = Picture.from_image(array)
    picture.icc_profile = profile
    save(picture, tmp_path / f"in{suffix}")
    picture = read_picture(tmp_path / f"in{suffix}")
    image = Image.fromarray((array / 257 + 0.5).astype(np.uint8))
    difference = picture.pixels / 257 - reference(image, profile)
    assert np.abs(difference).max() < 2.5
    assert np.abs(difference).mean() < 0.5
    pixels = np.ascontiguousarray(picture.pixels[:, ::-1])
    again = read_picture(save(picture, tmp_path / f"out{suffix}", pixels))
    assert again.icc_profile == profile
    assert np.abs(again.pixels.astype(int) - pixels).max() <= 8


def test_pixels_that_stay_come_back_exactly_through_a_profile(tmp_path: Path) -> None:
    array = noise(40, 40, 3)  # much of it outside sRGB
    image = Image.fromarray(array)
    image.info["icc_profile"] = adobe_rgb()
    picture = Picture.from_image(image)
    pixels = picture.pixels.copy()
    pixels[:20] = 128
    result = np.asarray(picture.to_image(pixels))
    assert np.array_equal(result[20:], array[20:])
    assert len(np.unique(result[:20].reshape(-1, 3), axis=0)) <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_outside_srgb_fade_as_their_pixels_change(
    dtype: Any, tmp_path: Path
) -> None:
    white = np.iinfo(dtype).max
    red = np.rint(np.array([0.88, 0.04, 0.06]) * white)  # in P3
    picture = Picture.from_image(np.full((1, 102, 3), red, dtype))
    picture.icc_profile = display_p3()
    picture = read_picture(save(picture, tmp_path / "in.png"))
    assert picture.pixels[0, 0, 1] == 0
    pixels = picture.pixels.astype(float)
    pixels += np.linspace(0, 0.6, 102)[:, None] * (0.4 * white - pixels)
    again = save(picture, tmp_path / "out.png", np.rint(pixels).astype(dtype))
    with Image.open(again) as result:
        levels = np.asarray(result.convert("RGB")).astype(int)
    assert np.abs(levels[0, 0] - red * (255 / white)).max() <= 1
    assert np.abs(np.diff(levels, axis=1)).max() <= 4


def test_srgb_profiles_change_no_pixel(content_image: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content_image.info["icc_profile"] = profile
    picture = Picture.from_image(content_image)
    assert np.array_equal(picture.pixels, np.asarray(content_image))
    assert picture.to_image(invert(picture)).info["icc_profile"] == profile


GAMMA = (b"gAMA", struct.pack(">I", 45455))


def primaries(*values: float) -> tuple[bytes, bytes]:
    values = (0.3127, 0.329, *values)
    return b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in values))


@pytest.mark.parametrize(
    ("chunks", "noted"),
    [
        ([GAMMA], False),
        ([GAMMA, primaries(0.64, 0.33, 0.3, 0.6, 0.15, 0.06)], False),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 55556))], False),
        ([(b"cICP", b"\1\x0d\0\1")], False),
        ([(b"gAMA", struct.pack(">I", 100000))], True),
        ([GAMMA, primaries(0.68, 0.32, 0.265, 0.69, 0.15, 0.06)], True),
        ([(b"cICP", b"\x0c\x0d\0\1")], True),
        ([(b"cICP", b"\x09\x10\0\1")], True),
    ],
)
def test_other_colours_than_srgb_are_noted_where_a_png_has_no_profile(
    chunks: list[tuple[bytes, bytes]],
    noted: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(png((1, 1, 8, 2, 0, 0, 0), b"\0abc", *chunks))
    assert read_picture(path).pixels.tobytes() == b"abc"
    assert ("not sRGB" in caplog.text) == noted


def test_other_colours_than_srgb_are_noted_where_an_avif_has_no_profile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "in.avif"
    noise_image("RGB").save(path)
    read_picture(path)
    assert not caplog.text
    data = path.read_bytes()
    assert b"colrnclx\0\1\0\x0d" in data
    path.write_bytes(data.replace(b"nclx\0\1", b"nclx\0\x0c"))
    read_picture(path)
    assert "not sRGB" in caplog.text


def scanner_profile(space: bytes, channels: int) -> bytes:
    """Build a profile from which colours can be converted, but not to it."""
    ramp, corners = bytes(range(256)), range(2**channels)
    grid = bytes(255 * (i >> c & 1) for i in corners for c in range(3))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + matrix
    table += channels * ramp + grid + 3 * ramp
    return icc(space, {b"A2B0": table}, pcs=b"Lab ", kind=b"scnr")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_that_leads_only_to_other_spaces_stays_with_a_note(
    dtype: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profile = scanner_profile(b"RGB ", 3)
    array = noise(8, 8, 3, dtype=dtype)
    picture = Picture.from_image(array)
    picture.icc_profile = profile
    save(picture, tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    assert np.array_equal(picture.pixels, array)
    assert f"cannot be applied at {8 * np.dtype(dtype).itemsize} bits" in caplog.text
    again = read_picture(save(picture, tmp_path / "out.png", picture.pixels))
    assert again.icc_profile == profile


def test_cmyk_with_such_a_profile_is_read_as_without(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 4), "CMYK")
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "in.tif", icc_profile=scanner_profile(b"CMYK", 4))
    plain, picture = (read_picture(tmp_path / f"{n}.tif") for n in ("plain", "in"))
    assert np.array_equal(picture.pixels, plain.pixels)
    assert picture.icc_profile is not None
    again = read_picture(save(picture, tmp_path / "out.tif", picture.pixels))
    assert np.array_equal(again.pixels, picture.pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_profiles_are_applied(dtype: Any, tmp_path: Path) -> None:
    profile = icc(b"GRAY", {b"kTRC": gamma(1.0)})
    full = np.iinfo(dtype).max
    picture = Picture.from_image(np.full((4, 4), round(0.214 * full), dtype))
    picture.icc_profile = profile
    picture = read_picture(save(picture, tmp_path / "in.png"))
    assert picture.pixels[0, 0] / full == pytest.approx(0.5, abs=0.005)
    pixels = np.full_like(picture.pixels, full // 4)
    again = read_picture(save(picture, tmp_path / "out.png", pixels))
    assert again.icc_profile == profile
    assert np.abs(again.pixels.astype(int) - pixels).max() <= full // 60


@pytest.mark.parametrize(
    ("suffix", "dtype", "alpha"),
    [
        (".webp", np.uint8, False),
        (".webp", np.uint8, True),
        (".avif", np.uint8, False),
        (".avif", np.uint8, True),
        (".tif", np.uint16, True),
    ],
)
def test_grey_looks_the_same_where_its_profile_cannot_go_along(
    suffix: str,
    dtype: Any,
    alpha: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grey = np.full((8, 8), np.iinfo(dtype).max // 5, dtype)
    given = Picture.from_image(grey)
    given.icc_profile = icc(b"GRAY", {b"kTRC": gamma(1.0)})
    given.alpha = np.full_like(grey, np.iinfo(dtype).max) if alpha else None
    picture = read_picture(save(given, tmp_path / "in.png"))
    again = read_picture(save(picture, tmp_path / f"out{suffix}"))
    seen, wanted = again.pixels.astype(float), picture.pixels.astype(float)
    assert np.abs(seen - wanted).max() <= 0.02 * np.iinfo(dtype).max
    assert "profile" not in caplog.text


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"not a profile", id="garbage"),
        pytest.param(adobe_rgb()[:200], id="truncated"),
        pytest.param(icc(b"CMYK", {}), id="of-another-mode"),
        pytest.param(icc(b"RGB ", {b"rXYZ": b"", b"rTRC": b""}), id="empty-tags"),
        pytest.param(rgb_profile([[0] * 3] * 3, gamma(1)), id="singular-matrix"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_broken_profile_is_ignored_with_a_warning(
    dtype: Any, profile: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = noise(8, 8, 3, dtype=dtype)
    given = Picture.from_image(array)
    given.icc_profile = profile
    save(given, tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    assert "profile" in caplog.text
    assert np.array_equal(picture.pixels, array)
    save(picture, tmp_path / "out.png", invert(picture))


def test_a_format_without_profiles_is_written_in_srgb(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(np.uint8))
    image.save(tmp_path / "in.png", icc_profile=adobe_rgb())
    picture = read_picture(tmp_path / "in.png")
    again = read_picture(save(picture, tmp_path / "out.bmp"))
    assert np.array_equal(again.pixels, picture.pixels)


def test_cmyk_becomes_rgb_where_the_format_has_no_cmyk(tmp_path: Path) -> None:
    picture = Picture.from_image(noise_image("CMYK"))
    again = read_picture(save(picture, tmp_path / "out.png"))
    assert np.array_equal(again.pixels, picture.pixels)


# Writing


def test_alpha_lies_on_white_in_jpeg_and_is_noted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images._note_once.cache_clear()
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    picture = Picture.from_image(image)
    save(picture, tmp_path / "a.jpg")
    save(picture, tmp_path / "b.jpg")
    assert caplog.text.count("no transparency") == 1
    with Image.open(tmp_path / "a.jpg") as result:
        assert result.getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["", ".xyz", ".pdf", ".eps"])
def test_an_unknown_suffix_names_the_known_ones(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.jpg, \.jpeg, \.png"):
        check_destination(tmp_path / f"out{suffix}")


def test_destinations_that_cannot_be_written_are_told_before(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .* create it"):
        check_destination(tmp_path / "missing" / "out.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_destination(tmp_path / "folder.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(FileExistsError, match="not a regular file"):
            check_destination(tmp_path / "pipe.png")


def test_a_format_that_this_pillow_cannot_write_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(OSError, match=r"this Pillow cannot; .* \.png or \.tif"):
        check_destination(tmp_path / "out.avif")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_a_link_into_a_folder_that_is_missing_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "missing" / "out.png")
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing; create it"):
        check_destination(tmp_path / "link.png")


def test_a_file_made_in_the_meantime_is_not_replaced_unasked(tmp_path: Path) -> None:
    picture = Picture.from_image(noise(4, 4, 3))
    path = tmp_path / "out.png"
    write_picture(picture, picture.pixels, path, provenance={}, overwrite=False)
    assert read_picture(path).size == (4, 4)
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="already exists; allow overwriting"):
        write_picture(picture, picture.pixels, path, provenance={}, overwrite=False)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_destination_and_no_other_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.webp"
    path.write_bytes(b"precious")
    wide = Picture.from_image(np.zeros((1, 20000, 3), np.uint8))
    with pytest.raises(OSError, match=r"as WEBP .*; write a \.png"):
        save(wide, path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_gif_has_the_transparency_and_no_dark_edges(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new(mode, (30, 10))
    for left, alpha in ((10, 64), (20, 255)):
        color = (0,) * (len(mode) - 1)
        image.paste((*color, alpha), (left, 0, left + 10, 10))
    image.paste((*color, 192), (25, 0, 30, 10))
    images._note_once.cache_clear()
    with Image.open(save(Picture.from_image(image), tmp_path / "out.gif")) as result:
        pixels = np.asarray(result.convert("RGBA"))[5]
    assert pixels[[5, 15, 22, 28], 3].tolist() == [0, 0, 255, 255]
    assert pixels[22, :3].tolist() == [0, 0, 0]
    assert pixels[28, :3] == pytest.approx([63] * 3, abs=3)
    assert "soft edges" in caplog.text


def test_grey_where_0_is_white_and_unsigned_integers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    Image.frombytes("I;16", (2, 1), b"\0\0\xff\xff").save(path)
    data = path.read_bytes()
    assert read_picture(path).pixels[0, :, 0].tolist() == [0, 65535]
    kind = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert data.count(kind) == 1
    path.write_bytes(data.replace(kind, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    assert read_picture(path).pixels[0, :, 0].tolist() == [65535, 0]

    Image.fromarray(np.array([[0, -1]], np.int32)).save(path)
    data = path.read_bytes()
    signed = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    assert data.count(signed) == 1
    path.write_bytes(data.replace(signed, struct.pack("<HHIHH", 339, 3, 1, 1, 0)))
    dark, bright = read_picture(path).pixels[0, :, 0]
    assert dark == 0
    assert bright == pytest.approx(
        np.iinfo(bright.dtype).max if bright.dtype.kind == "u" else 1
    )


@pytest.mark.parametrize(
    ("name", "side"),
    [("JPEG", 65500), ("WEBP", 16383), ("AVIF", 32768), ("GIF", 65535), ("TGA", 65535)],
)
def test_an_image_too_long_for_its_format_is_told(
    name: str, side: int, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{name.lower()}"
    longest = Picture.from_image(np.zeros((1, side, 3), np.uint8))
    assert read_picture(save(longest, path)).size == (side, 1)
    longer = Picture.from_image(np.zeros((side + 1, 1, 3), np.uint8))
    refusal = rf"as {name} \(.* {side} pixels.*write a \.png"
    with pytest.raises(OSError, match=refusal):
        save(longer, path)
    assert list(tmp_path.iterdir()) == [path]
    save(longer, tmp_path / "long.tif")
    with pytest.raises(OSError, match=refusal):
        read_to_paint(tmp_path / "long.tif", path, overwrite=True, max_pixels=None)


@pytest.mark.parametrize(
    ("suffix", "advice"),
    [(".png", "a .tif"), (".tif", "a .png"), (".jpg", "a .png or .tif")],
)
def test_metadata_that_no_file_can_hold_is_told(
    suffix: str, advice: str, tmp_path: Path
) -> None:
    picture = Picture.from_image(noise(4, 4, 3))
    picture.dpi = (float("nan"), float("nan"))
    message = (
        rf"out\..* cannot be written as .*\(.*NaN.*; write {re.escape(advice)} file"
    )
    with pytest.raises(OSError, match=message):
        save(picture, tmp_path / f"out{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")
def test_permissions_and_links_of_the_destination_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.png"
    real.write_bytes(b"")
    real.chmod(0o640)
    link = tmp_path / "link.png"
    link.symlink_to(real)
    save(Picture.from_image(noise(4, 4, 3)), link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert read_picture(real).size == (4, 4)


def test_many_bands_are_written_as_one_image(tmp_path: Path) -> None:
    array = np.tile(noise(50, 1500, 3), (20, 1, 1))
    for suffix in (".png", ".tif"):
        path = save(Picture.from_image(array), tmp_path / f"out{suffix}")
        with Image.open(path) as result:
            assert np.array_equal(np.asarray(result), array)


# Hostile files


def jpeg(size: tuple[int, int] = (64, 64)) -> bytes:
    data = io.BytesIO()
    Image.effect_noise(size, 60).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("a.jpg", b"", "is empty", id="zero-bytes"),
        pytest.param("a.jpg", b"o", "not an image", id="1-byte"),
        pytest.param("a.jpg", b"ok", "not an image", id="2-bytes"),
        pytest.param("a.jpg", b"ok\n", "not an image", id="3-bytes"),
        pytest.param("a.jpg", b"hello, world" * 99, "not an image", id="text"),
        pytest.param("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG", id="png-junk"),
        pytest.param("a.jpg", jpeg()[:-300], "damaged", id="truncated-jpeg"),
        pytest.param("a.jpg", jpeg()[:30], "not an image", id="jpeg-header"),
        pytest.param(
            "a.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not an image",
            id="eps",
        ),
        pytest.param(
            "a.png", png((4, 4, 8, 2, 0, 0, 0), b"\0" * 20), "damaged", id="short-png"
        ),
        pytest.param(
            "a.png", png((0, 4, 8, 2, 0, 0, 0), b""), "a.png", id="no-columns"
        ),
        pytest.param("a.tif", b"II*\0\x08\0\0\0\xff\xff", "a.tif", id="tiff-junk"),
    ],
)
def test_a_file_that_is_no_image_is_told_in_one_sentence(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidImageError) as caught:
        read_picture(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match="does not exist"):
        read_picture(tmp_path / "missing.jpg")
    with pytest.raises(InvalidImageError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(InvalidImageError, match=r"does not exist|cannot be opened"):
        read_picture("a\0b.jpg")


def test_fuzzed_files_raise_nothing_else(tmp_path: Path) -> None:
    fuzz = np.random.default_rng(1)
    for suffix in ("png", "jpg", "tif", "webp", "gif", "bmp"):
        data = io.BytesIO()
        form = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        Image.effect_noise((32, 32), 60).convert("RGB").save(data, form)
        for _ in range(15):
            damaged = np.frombuffer(data.getvalue(), np.uint8).copy()
            where = fuzz.integers(0, min(len(damaged), 200), 4)
            damaged[where] = fuzz.integers(0, 256, 4)
            path = tmp_path / f"fuzzed.{suffix}"
            path.write_bytes(damaged.tobytes())
            try:
                picture = read_picture(path, max_pixels=10**7)
            except (InvalidImageError, ImageTooLargeError) as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                assert picture.pixels.ndim == 3


def test_a_decompression_bomb_is_refused_with_its_size(tmp_path: Path) -> None:
    bomb = png((20000, 20000, 8, 0, 0, 0, 0), b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageTooLargeError, match=r"400 megapixels \(20000 x 20000\)"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_max_pixels_is_the_callers_choice(
    suffix: str, tmp_path: Path, content_image: Image.Image
) -> None:
    path = tmp_path / f"in{suffix}"
    content_image.save(path)
    with pytest.raises(ImageTooLargeError, match="max_pixels"):
        read_picture(path, max_pixels=96 * 64 - 1)
    assert read_picture(path, max_pixels=96 * 64).size == (96, 64)
    limit = Image.MAX_IMAGE_PIXELS
    assert read_picture(path, max_pixels=10**9).size == (96, 64)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("own_limit", [1000, 10**9])
def test_what_an_application_sets_while_a_file_is_read_stays(
    own_limit: int,
    tmp_path: Path,
    content_image: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content_image.save(tmp_path / "in.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", own_limit)
    filters: list[object] = []
    decode = images._decode

    def in_the_meantime(*arguments: Any) -> Any:
        Image.MAX_IMAGE_PIXELS = 12345
        warnings.simplefilter("ignore", ResourceWarning)
        filters.extend(warnings.filters)
        return decode(*arguments)

    monkeypatch.setattr(images, "_decode", in_the_meantime)
    read_picture(tmp_path / "in.png")
    assert Image.MAX_IMAGE_PIXELS == 12345
    assert list(warnings.filters) == filters


def test_an_application_s_lower_limit_is_there_again_after_a_larger_image(
    tmp_path: Path, content_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content_image.save(tmp_path / "in.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_picture(tmp_path / "in.tif").size == (96, 64)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_picture_is_read_while_another_is_written(
    tmp_path: Path, content_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content_image.save(tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    writing, written = threading.Event(), threading.Event()
    save = Image.Image.save

    def wait_in_the_middle(*arguments: Any, **options: Any) -> None:
        writing.set()
        written.wait(30)
        save(*arguments, **options)

    monkeypatch.setattr(Image.Image, "save", wait_in_the_middle)
    writer = threading.Thread(
        target=write_picture,
        args=(picture, picture.pixels, tmp_path / "out.jpg"),
        kwargs={"provenance": {}},
    )
    reader = threading.Thread(target=read_picture, args=(tmp_path / "in.png",))
    writer.start()
    assert writing.wait(30)
    reader.start()
    reader.join(10)
    waits = reader.is_alive()
    written.set()
    writer.join()
    reader.join()
    assert not waits


def test_pictures_of_a_folder_are_found_by_their_suffix(tmp_path: Path) -> None:
    names = ["a.jpg", "b.PNG", "c.mpo"]
    for name in (*names, "text.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == names


def test_reading_in_threads_is_safe(
    tmp_path: Path, content_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    content_image.save(tmp_path / "in.png")
    sizes: list[tuple[int, int]] = []

    def read() -> None:
        sizes.append(read_picture(tmp_path / "in.png", max_pixels=10**9).size)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [(96, 64)] * 8
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_first_image_of_an_animation_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "in.gif").pixels[0, 0].tolist() == [255, 0, 0]
    assert "several frames; the first is painted" in caplog.text
    assert str(tmp_path) not in caplog.text  # the web page logs no visitor's names


def test_the_pages_of_a_file_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = Image.new("L", (8, 8))
    page.save(tmp_path / "in.tif", save_all=True, append_images=[page] * 9)
    looked_at = []
    look = TiffImagePlugin.TiffImageFile._seek

    def seek(self: Any, frame: int) -> None:
        looked_at.append(frame)
        look(self, frame)

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "_seek", seek)
    assert read_picture(tmp_path / "in.tif").size == (8, 8)
    assert set(looked_at) == {0}
    assert "several frames; the first is painted" in caplog.text


def psd_with_layers() -> bytes:
    """The composite is red, its two layers are green; all are of one pixel."""
    layer = struct.pack(">4i H", 0, 0, 1, 1, 3)
    layer += b"".join(struct.pack(">hI", channel, 3) for channel in range(3))
    extra = struct.pack(">II", 0, 0) + b"\x01a\0\0"
    layer += b"8BIMnorm" + bytes([255, 0, 0, 0]) + struct.pack(">I", len(extra)) + extra
    channels = b"".join(b"\0\0" + bytes([value]) for value in (0, 255, 0))
    layers = struct.pack(">h", 2) + 2 * layer + 2 * channels
    layers += b"\0" * (len(layers) % 2)
    section = struct.pack(">I", len(layers)) + layers + struct.pack(">I", 0)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 1, 8, 3)
    sections = struct.pack(">III", 0, 0, len(section)) + section
    return header + sections + b"\0\0" + bytes([255, 0, 0])


def test_layers_of_a_psd_are_read_as_one_image_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.psd").write_bytes(psd_with_layers())
    with Image.open(tmp_path / "in.psd") as image:
        assert image.n_frames == 2
    assert read_picture(tmp_path / "in.psd").pixels.tolist() == [[[255, 0, 0]]]
    assert not caplog.text


def test_metadata_of_a_psd_are_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ann"
    exif[ExifTags.Base.Orientation] = 6
    resolution = struct.pack(">IHHIHH", 300 << 16, 1, 1, 150 << 16, 1, 1)
    resources = b"".join(
        b"8BIM" + struct.pack(">HxxI", number, len(data)) + data + bytes(len(data) % 2)
        for number, data in (
            *((1005, resolution), (1028, IPTC)),
            *((1058, exif.tobytes()[6:]), (1060, b"<x/>")),
        )
    )
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 2, 8, 3)
    sections = struct.pack(">II", 0, len(resources)) + resources + bytes(6)
    (tmp_path / "in.psd").write_bytes(header + sections + b"abcdef")
    picture = read_picture(tmp_path / "in.psd")
    assert picture.pixels.tobytes() == b"acebdf"
    assert picture.dpi == (300, 150)
    assert picture.xmp == b"<x/>"
    for suffix in (".jpg", ".tif"):
        again = read_picture(save(picture, tmp_path / f"out{suffix}"))
        assert again.size == (2, 1)
        assert again.iptc == IPTC
        assert b"Ann" in (again.exif or b"")


def test_text_of_a_png_does_not_leak_into_the_result(
    tmp_path: Path, content_image: Image.Image
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "editor")
    content_image.save(tmp_path / "in.png", pnginfo=info)
    path = save(read_picture(tmp_path / "in.png"), tmp_path / "out.png")
    with Image.open(path) as result:
        result.load()
        assert result.info["Software"].startswith("styleplug ")


# Masks


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.array([[False, True]]), id="bool"),
        pytest.param(np.array([[0, 255]], np.uint8), id="uint8"),
        pytest.param(np.array([[0, 1]], np.uint8), id="uint8-of-0-and-1"),
        pytest.param(np.array([[0, 1]], np.uint16), id="uint16-of-0-and-1"),
        pytest.param(np.array([[0, 65535]], np.uint16), id="uint16"),
        pytest.param(np.array([[0.0, 1.0]]), id="float"),
        pytest.param(np.array([[-1e-7, 1 + 3e-7]], np.float32), id="float-rounded"),
        pytest.param(Image.fromarray(np.array([[0, 255]], np.uint8)), id="pil"),
        pytest.param(torch.tensor([[0.0, 1.0]], requires_grad=True), id="tensor"),
        pytest.param(torch.tensor([[[0, 1]]], dtype=torch.bfloat16), id="1-plane"),
        pytest.param(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), id="batch-of-1"),
        pytest.param(torch.tensor([[False, True]]), id="bool-tensor"),
        pytest.param(torch.tensor([[0.0, 1.0]]).expand(1, 3, 1, 2), id="rgb-tensor"),
    ],
)
def test_a_mask_becomes_floats_of_the_images_size(mask: Any) -> None:
    result = load_mask(mask, (1, 2))
    assert result.dtype == np.float32
    assert result.tolist() == [[0, 1]]


def test_a_nearly_black_picture_is_a_nearly_black_mask() -> None:
    mask = Image.fromarray(np.array([[0, 1]], np.uint8))
    assert load_mask(mask, (1, 2)).max() == pytest.approx(1 / 255)


def test_transparent_parts_of_a_mask_are_zero() -> None:
    mask = np.full((1, 2, 4), 255, np.uint8)
    mask[0, 0, 3] = 0
    assert load_mask(mask, (1, 2)).tolist() == [[0, 1]]


def test_a_mask_may_have_as_many_pixels_as_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    Image.new("L", (20, 20)).save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", (20, 20)).shape == (20, 20)
    with pytest.raises(ImageTooLargeError, match=r"mask\.png is too large for a mask"):
        load_mask(tmp_path / "mask.png", (8, 8))


def test_a_mask_of_another_size_is_resized_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (10, 20), 51).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png", (64, 96))
    assert mask.shape == (64, 96)
    assert mask == pytest.approx(0.2)
    assert "10 x 20 is resized to the image's 96 x 64" in caplog.text


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        pytest.param(np.array([[0.0, 1.5]]), ValueError, "1.5", id="above"),
        pytest.param(np.array([[-0.5, 1]]), ValueError, "-0.5", id="below"),
        pytest.param(np.array([[np.nan, 1]]), ValueError, "mask", id="nan"),
        pytest.param(
            np.ma.masked_equal([[True, False]], False),
            TypeError,
            "mask",
            id="masked",
        ),
        pytest.param(np.zeros(3), ValueError, "mask", id="1-dimension"),
        pytest.param(torch.zeros(2, 1, 1, 2), ValueError, "mask", id="batch"),
        pytest.param(torch.zeros(0, 2), ValueError, "mask", id="empty-tensor"),
        pytest.param([[0, 1]], TypeError, "mask", id="list"),
    ],
)
def test_garbage_is_no_mask(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        load_mask(mask, (1, 2))


def test_a_mask_file_that_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(InvalidImageError, match=r"mask\.png is not an image"):
        load_mask(tmp_path / "mask.png", (4, 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colours_hidden_by_alpha_0_are_not_rendered_and_come_back(dtype):
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    image = np.zeros((4, 6, 4), dtype)
    image[:, 3:] = (white, 0, 0, white)
    image[0, 0] = (0, white, 0, 0)
    picture = Picture.from_image(image)
    assert (picture.pixels == picture.pixels[0, 5]).all()
    out = picture.to_image(np.full_like(picture.pixels, white // 2))
    assert np.array_equal(out[:, :3], image[:, :3])
    assert (out[:, 3:, :3] == white // 2).all()
    assert np.array_equal(picture.to_image(picture.pixels), image)


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535)])
def test_paper_shows_as_far_as_a_picture_is_transparent(dtype, white):
    pixels = np.arange(12, dtype=dtype).reshape(2, 2, 3) * (white // 12)
    alpha = np.array([[white, 0], [white // 3, white]], dtype)
    upon = color.over_white(pixels, alpha)
    assert upon.dtype == pixels.dtype
    assert np.array_equal(upon[0, 0], pixels[0, 0])
    assert np.array_equal(upon[1, 1], pixels[1, 1])
    assert (upon[0, 1] == white).all()
    expected = (pixels[1, 0] + 2.0 * white) / 3
    assert np.abs(upon[1, 0] - expected).max() <= 1


def test_what_is_brighter_than_white_stays_so_where_it_is_opaque():
    pixels = np.full((1, 2, 3), 1.5, np.float32)
    upon = color.over_white(pixels, np.array([[1, 0]], np.float32))
    assert upon[0].tolist() == [[1.5] * 3, [1.0] * 3]
