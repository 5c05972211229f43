"""Photographs and artworks for training, as tensors."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from .. import color
from ..errors import ImageTooLargeError, StyleplugError, TrainingError
from ..images import Array, pictures_in, read_picture
from ..predictor import visible
from ..style import to_nfc

logger = logging.getLogger(__name__)

_LEAST = 16
"""Shortest side, in pixels, of a picture that the networks can process."""


class Photographs:
    """All photographs of a folder, held in memory as uint8.

    Each is reduced to a shorter side of ``size`` pixels at most. Files that cannot be
    read, or have a side below 16 pixels, are skipped and logged. Files whose names are
    in ``held_out``, or that also lie in the folder ``but``, are left out. ``files`` is
    a hash that identifies the remaining files.

    Raises :class:`~styleplug.errors.TrainingError` when none is left.
    """

    def __init__(
        self,
        folder: Path | str,
        size: int = 384,
        held_out: Iterable[str] = (),
        but: Path | None = None,
    ) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of pictures.")
        self._size = size
        left_out = set(map(to_nfc, held_out))
        found = pictures_in(folder, below=True)
        missing = left_out - {to_nfc(file.name) for file in found}
        if missing:
            logger.warning(
                "to be held out, but not in %s: %s", folder, ", ".join(sorted(missing))
            )
        others = pictures_in(but, below=True) if but else []
        elsewhere = set(map(os.path.realpath, others))
        files = [
            file
            for file in found
            if to_nfc(file.name) not in left_out
            and os.path.realpath(file) not in elsewhere
        ]
        if found and elsewhere and not files:
            raise TrainingError(
                f"All pictures of {folder} lie in {but}, too; name others for one of "
                "them."
            )
        with ThreadPoolExecutor() as pool:
            loaded = list(pool.map(self._load, files))
        self.images = [image for image in loaded if image is not None]
        lines = [
            f"{file.relative_to(folder).as_posix()} {file.stat().st_size}"
            for file, image in zip(files, loaded, strict=True)
            if image is not None
        ]
        listing = "\n".join(lines).encode(errors="surrogatepass")
        self.files = hashlib.sha256(listing).hexdigest()
        skipped = len(files) - len(self.images)
        if skipped:
            logger.warning(
                "%d of %d pictures in %s were skipped", skipped, len(files), folder
            )
        if not self.images:
            raise TrainingError(
                f"{folder} holds no readable pictures; it and its subfolders are "
                "searched for JPEG, PNG, WebP, TIFF and similar files."
            )

    def _load(self, path: Path) -> Tensor | None:
        try:
            image = _image(read_picture(path).over_white)
        except StyleplugError as error:
            logger.warning("skipped: %s", error)
            return None
        if min(image.size) < _LEAST:
            logger.warning("skipped: %s has a side below %d pixels", path, _LEAST)
            return None
        scale = self._size / min(image.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return _to_tensor(image)

    def crops(
        self, count: int, size: int, scales: tuple[float, float], rng: Generator
    ) -> Tensor:
        """Return (count, 3, size, size) random crops in [0, 1], mirrored at random.

        ``scales`` is the range of magnifications of the stored photographs; smaller
        photographs are magnified until a crop fits.
        """
        picks = torch.randint(len(self.images), (count,), generator=rng)
        return torch.stack(
            [crop(self.images[i], size, scales, rng) for i in picks.tolist()]
        )

    def collages(
        self, count: int, size: int, scales: tuple[float, float], rng: Generator
    ) -> Tensor:
        """Return crops as :meth:`crops` does, each partly covered by another one.

        The two meet at a random line, and the covering one may be recoloured.
        """
        under, over = (self.crops(count, size, scales, rng) for _ in range(2))
        angle = 2 * torch.pi * torch.rand(count, 1, 1, 1, generator=rng)
        offset = 0.6 * torch.rand(count, 1, 1, 1, generator=rng) - 0.3
        x = torch.linspace(-0.5, 0.5, size)
        beyond = angle.cos() * x + angle.sin() * x[:, None] > offset
        return torch.where(beyond, recoloured(over, rng), under)


class Archive(Photographs):
    """All artworks of a folder, to learn any style from; held in memory as uint8.

    The geometric mean of each one's sides is ``size`` pixels, or that of the file if
    smaller: artworks blurred by enlarging them would teach the network to blur.
    """

    def draw(self, rng: Generator) -> Tensor:
        """Return a random artwork, (3, H, W) uint8."""
        return self.images[int(torch.randint(len(self.images), (), generator=rng))]

    def artwork(self, i: int) -> Tensor:
        """Return artwork ``i`` as (1, 3, H, W) in [0, 1]."""
        return self.images[i][None].float() / 255

    def _load(self, path: Path) -> Tensor | None:
        try:
            image = _read(path)
            size = min(self._size, math.sqrt(image.width * image.height))
            return _to_tensor(_resized(image, size))
        except TrainingError as error:
            logger.warning("skipped: %s", error)
            return None


def random_part(image: Tensor, scale: float, rng: Generator) -> Tensor:
    """Return a large part of a picture (3, H, W) uint8, as (1, 3, h, w) in [0, 1].

    It has at least 0.7 of each side, mirrored at random and magnified by ``scale``.
    """
    height, width = image.shape[1:]
    share = 0.7 + 0.3 * torch.rand(2, generator=rng)
    sides = [
        max(1, round(side * s))
        for side, s in zip((height, width), share.tolist(), strict=True)
    ]
    top = int(torch.randint(height - sides[0] + 1, (), generator=rng))
    left = int(torch.randint(width - sides[1] + 1, (), generator=rng))
    part = image[None, :, top : top + sides[0], left : left + sides[1]].float() / 255
    if torch.rand((), generator=rng) < 0.5:
        part = part.flip(3)
    target = [max(32, round(side * scale)) for side in sides]
    return F.interpolate(
        part, target, mode="bilinear", antialias=True, align_corners=False
    )


def recoloured(images: Tensor, rng: Generator) -> Tensor:
    """Return (B, 3, H, W) pictures in [0, 1], about half of them in other colours.

    Their colours are changed by a random affine map, so that a few pictures show many
    palettes.
    """
    count = len(images)
    chosen = torch.rand(count, 1, 1, generator=rng) < 0.5
    mixing = torch.eye(3) + 0.25 * chosen * torch.randn(count, 3, 3, generator=rng)
    moved = 0.5 + 0.08 * chosen * torch.randn(count, 3, 1, generator=rng)
    found: Tensor = mixing @ (images.flatten(2) - 0.5) + moved
    return found.clamp(0, 1).reshape(images.shape)


def load_artwork(path: Path | str, size: int) -> Tensor:
    """Return an artwork as (1, 3, H, W) in [0, 1], with geometric mean side ``size``.

    Transparent margins are cut off.

    Raises :class:`~styleplug.errors.TrainingError` when it cannot be read.
    """
    return _to_tensor(_resized(_read(path), size))[None].float() / 255


def _read(path: Path | str) -> Image.Image:
    try:
        return _image(visible(read_picture(path), str(path)))
    except ImageTooLargeError as error:
        raise TrainingError(
            f"The artwork {path} is too large; make it smaller first, a few megapixels "
            "are enough."
        ) from error
    except StyleplugError as error:
        raise TrainingError(f"An artwork cannot be read: {error}") from error


def _resized(image: Image.Image, size: float) -> Image.Image:
    scale = size / math.sqrt(image.width * image.height)
    width = max(_LEAST, round(image.width * scale))
    height = max(_LEAST, round(image.height * scale))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _image(pixels: Array) -> Image.Image:
    """Return (H, W, 3) pixels as an 8-bit image."""
    return Image.fromarray(color.change_depth(pixels, np.uint8))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def crop(
    image: Tensor, size: int, scales: tuple[float, float], rng: Generator
) -> Tensor:
    """Return a random crop (3, size, size) in [0, 1] of (3, H, W) uint8, mirrored at
    random; ``scales`` is as in :meth:`Photographs.crops`."""
    height, width = image.shape[1:]
    low, high = scales
    scale = low + (high - low) * torch.rand((), generator=rng).item()
    side = min(max(1, round(size / scale)), height, width)
    top = int(torch.randint(height - side + 1, (), generator=rng))
    left = int(torch.randint(width - side + 1, (), generator=rng))
    part = image[:, top : top + side, left : left + side].float() / 255
    if torch.rand((), generator=rng) < 0.5:
        part = part.flip(2)
    if side == size:
        return part
    return F.interpolate(
        part[None], (size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def folder_images(paths: Iterable[Path | str]) -> list[Path]:
    """Return the image files of ``paths``, with folders replaced by their images.

    Raises :class:`~styleplug.errors.TrainingError` for a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        images = pictures_in(path) if path.is_dir() else [path]
        if not images:
            raise TrainingError(
                f"{path} holds no pictures; name an artwork or another folder."
            )
        found += images
    return found
