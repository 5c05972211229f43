"""Any picture as the style: predict a style vector from a picture.

The idea is Ghiasi et al. 2017, "Exploring the structure of a real-time, arbitrary
neural artistic stylization network" (arXiv 1705.06830). Where they read the style off
an Inception-v3, this encoder is small and pools statistics, since a style is what a
picture's features do everywhere, not where.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InvalidStyleError
from .images import Picture
from .networks import LoadedStyle, hash_trunk, load_tensors, load_trunk, write_tensors
from .style import StyleInfo, bundled_predictor, bundled_trunk, read_info


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

        Height and width are at least 32; :attr:`SIZE` is their geometric mean.
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


def capture(picture: Picture, name: str) -> LoadedStyle:
    """Return the style of a picture, on the bundled trunk, called ``name``.

    The whole picture is looked at, made small: strokes are captured relative to it.

    Raises :class:`~styleplug.errors.InvalidStyleError` when the bundled predictor is
    damaged.
    """
    info, predictor = load_predictor(bundled_predictor())
    network = load_trunk(bundled_trunk())
    if hash_trunk(network) != info.trunk:
        raise InvalidStyleError(
            "The bundled predictor and trunk do not belong together; install "
            "styleplug again."
        )
    with torch.no_grad():
        vector = predictor(_small(picture))[0]
    header = StyleInfo(
        name=name,
        title=name,
        network={"name": network.NAME, **network.hyperparameters},
        trunk=info.trunk,
        base_size=info.base_size,
        training={"captured": True},
    )
    return LoadedStyle(header, network, vector)


def _small(picture: Picture) -> Tensor:
    """Return (1, 3, h, w) in [0, 1] with :attr:`StylePredictor.SIZE` pixels squared."""
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    side = (height * width) ** 0.5
    # Every n-th pixel of a huge picture still leaves the filter enough to average.
    step = max(1, int(side / (8 * StylePredictor.SIZE)))
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    full = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    image = torch.from_numpy(pixels.astype(np.float32) / full).permute(2, 0, 1)[None]
    scale = StylePredictor.SIZE / side
    size = [max(32, round(scale * n)) for n in (height, width)]
    return F.interpolate(
        image, size, mode="bilinear", antialias=True, align_corners=False
    ).clamp(0, 1)


@functools.lru_cache(maxsize=2)
def load_predictor(path: Path) -> tuple[StyleInfo, StylePredictor]:
    """Load a predictor file: its header, which names the trunk, and its network.

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
