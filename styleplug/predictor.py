"""Any picture as the style: predict a style vector from a picture.

The idea is Ghiasi et al. 2017, "Exploring the structure of a real-time, arbitrary
neural artistic stylization network" (arXiv 1705.06830). Where they read the style off
an Inception-v3, this encoder is small and pools statistics, since a style is what a
picture's features do everywhere, not where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InvalidImageError, InvalidStyleError
from .images import Array, Picture
from .networks import (
    LoadedStyle,
    load_tensors,
    load_trunk,
    once_per_file,
    write_tensors,
)
from .style import STYLES_DIR, StyleInfo, bundled_predictor, bundled_trunk, read_info


class StylePredictor(nn.Module):
    """Maps a style image to a style vector of a trunk.

    ``widths`` are the channels of the encoder at 1/2, 1/4, 1/8 and 1/16. Of each
    stage, and of the picture itself, the mean and standard deviation of every channel
    are taken, and the correlations of ``rank`` projections; two layers of ``hidden``
    units map them to the vector.
    """

    NAME = "predictor"
    SIZE = 256
    """Geometric mean side, in pixels, of the style images it is trained with."""
    SHORTEST = 32
    """Side, in pixels, that a style image has at least."""

    def __init__(
        self,
        style_size: int,
        widths: Sequence[int] = (32, 64, 96, 128),
        rank: int = 24,
        hidden: int = 384,
    ) -> None:
        super().__init__()
        self.hyperparameters = {
            "style_size": style_size,
            "widths": list(widths),
            "rank": rank,
            "hidden": hidden,
        }
        inputs = (12, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2 if i else 1, padding=1)
            for i, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.deepest = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.projections = nn.ModuleList(
            nn.Conv2d(width, rank, 1, bias=False) for width in widths
        )
        pairs = rank * (rank - 1) // 2
        statistics = 2 * (3 + sum(widths)) + len(widths) * pairs
        self.head = nn.Sequential(
            nn.Linear(statistics, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, style_size),
        )

    def begin_at(self, vector: Tensor) -> None:
        """Make predictions start out near one (K,) vector."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.weight.data.mul_(0.3)
        last.bias.data.copy_(vector)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, K) style vectors for (B, 3, H, W) pictures in [0, 1].

        Height and width are at least :attr:`SHORTEST`, their geometric mean is
        :attr:`SIZE`.
        """
        x = (image - 0.5) * 4
        found = [_mean_and_deviation(x)]
        x = F.pixel_unshuffle(_even(x), 2)
        for i, (stage, project) in enumerate(
            zip(self.stages, self.projections, strict=True)
        ):
            x = F.relu(stage(x))
            if i == len(self.stages) - 1:
                x = x + F.relu(self.deepest(x))
            found += [_mean_and_deviation(x), _correlations(project(x))]
        vector: Tensor = self.head(torch.cat(found, dim=1))
        return vector


def _even(x: Tensor) -> Tensor:
    return x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]


def _mean_and_deviation(x: Tensor) -> Tensor:
    """Return (B, 2C) for (B, C, H, W)."""
    variance, mean = torch.var_mean(x.flatten(2), dim=2, correction=0)
    return torch.cat([mean, (variance + 1e-4).sqrt()], dim=1)


def _correlations(x: Tensor) -> Tensor:
    """Return (B, C (C - 1) / 2): the correlations of the channels of (B, C, H, W)."""
    x = x.flatten(2)
    x = x - x.mean(dim=2, keepdim=True)
    x = x * torch.rsqrt(x.square().sum(dim=2, keepdim=True) + 1e-4)
    row, column = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
    return (x @ x.transpose(1, 2))[:, row, column]


def capture(picture: Picture, name: str, folder: Path = STYLES_DIR) -> LoadedStyle:
    """Return the style of a picture, called ``name``.

    All that can be seen of the picture is looked at, made small: strokes are captured
    relative to it. ``folder`` holds the predictor and its trunk, those that are bundled
    or that a training left there.

    Raises :class:`~styleplug.errors.InvalidImageError` when nothing can be seen, and
    :class:`~styleplug.errors.InvalidStyleError` when predictor or trunk are damaged or
    do not belong together.
    """
    info, predictor = load_predictor(folder / bundled_predictor().name)
    trunk = folder / bundled_trunk().name
    network = load_trunk(trunk)
    if read_info(trunk).trunk != info.trunk:
        raise InvalidStyleError(
            f"{info.path} and the trunk beside it do not belong together; install "
            "styleplug again."
        )
    with torch.no_grad():
        vector = predictor(_small(_visible(picture, name)))[0]
    header = StyleInfo(
        name=name,
        title=name,
        network={"name": network.NAME, **network.hyperparameters},
        trunk=info.trunk,
        base_size=info.base_size,
        training={"captured": True},
    )
    return LoadedStyle(header, network, vector)


def _visible(picture: Picture, name: str) -> Array:
    """Return the pixels of a picture without its transparent margins."""
    if picture.alpha is None:
        return picture.pixels
    rows, columns = (np.flatnonzero(picture.alpha.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        raise InvalidImageError(
            f"{name} is wholly transparent and has no style; choose another picture."
        )
    return picture.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _small(pixels: Array) -> Tensor:
    """Return (1, 3, h, w) in [0, 1] as a predictor wants it, of (H, W, 3) pixels."""
    size, shortest = StylePredictor.SIZE, StylePredictor.SHORTEST
    sides = pixels.shape[:2]
    scale = size / (sides[0] * sides[1]) ** 0.5
    # What is longer than this is a line, and bent, lest it takes all memory.
    longest = size * size // shortest
    target = [min(max(shortest, round(scale * side)), longest) for side in sides]
    rows, columns = (max(1, s // (4 * t)) for s, t in zip(sides, target, strict=True))
    return F.interpolate(
        _averaged(pixels, (rows, columns)),
        target,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )


def _averaged(pixels: Array, blocks: tuple[int, int]) -> Tensor:
    """Return the means of blocks (h, w) of (H, W, 3) pixels, white being 1.

    In bands of rows: a huge picture is never there in float32.
    """
    rows = blocks[0] * max(1, (1 << 17) // (blocks[0] * pixels.shape[1]))
    means = []
    for top in range(0, len(pixels), rows):
        band = torch.from_numpy(pixels[top : top + rows].astype(np.float32))
        if pixels.dtype.kind == "f":
            band = band.clamp(0, 1)
        means.append(F.avg_pool2d(band.permute(2, 0, 1)[None], blocks, ceil_mode=True))
    full = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    return torch.cat(means, dim=2) / full


@once_per_file(2)
def load_predictor(path: Path) -> tuple[StyleInfo, StylePredictor]:
    """Load a predictor file: its header, which names the trunk, and its network.

    The same file gives the same objects again.

    Raises :class:`~styleplug.errors.InvalidStyleError` when the file is damaged.
    """
    info = read_info(path)
    tensors = load_tensors(path)
    hyperparameters = dict(info.network)
    try:
        if hyperparameters.pop("name") != StylePredictor.NAME:
            raise ValueError("no predictor")
        with torch.device("meta"):
            predictor = StylePredictor(**hyperparameters)
        predictor.load_state_dict(tensors, assign=True)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise InvalidStyleError(
            f"{path} holds no style predictor that this styleplug knows; upgrade "
            "styleplug."
        ) from error
    return info, predictor.eval().requires_grad_(False)


def save_predictor(path: Path, predictor: StylePredictor, info: StyleInfo) -> None:
    """Write ``predictor`` in float16; ``info.trunk`` is the trunk it belongs to."""
    network = {"name": predictor.NAME, **predictor.hyperparameters}
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in predictor.state_dict().items()
    }
    write_tensors(path, tensors, dataclasses.replace(info, network=network))
