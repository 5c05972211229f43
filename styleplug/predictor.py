"""Any picture as the style: predict a style vector from a picture.

The idea is Ghiasi et al. 2017, "Exploring the structure of a real-time, arbitrary
neural artistic stylization network" (arXiv 1705.06830). They predict the style from an
Inception-v3. The encoder here is small and pools statistics, since a style is what a
picture's features have in common everywhere, not where they lie.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import color
from .encoder import StyleEncoder
from .errors import InvalidImageError, InvalidStyleError
from .images import Array, Picture, read_picture
from .losses import (
    CONTENT_LAYERS,
    Features,
    content_loss,
    gram_matrix,
    huber,
    style_loss,
    tv_loss,
)
from .networks import (
    StyleNetwork,
    autocast,
    first_factors,
    paint,
    training_dtype,
    with_changes,
)
from .optimizers import Adam, Muon
from .style import STYLES_DIR, StyleInfo, bundled_predictor, bundled_trunk, read_info
from .weights import LoadedStyle, load_tensors, load_trunk, once_per_file, write_tensors

PHOTOGRAPHS = Path(__file__).parent / "photographs"
"""Folder of the bundled photographs; drawn scenes in their place work less well."""
STEPS = 24
"""Number of steps in which a captured vector is refined."""
_VIEW = 320
"""Side, in pixels, of the crops of photographs on which it is refined. The larger they
are, the closer whole pictures come to the style; vectors that paint small crops well
bring them less close. The time grows with the crops."""
_PHOTOGRAPH = 480
"""Geometric mean side, in pixels, of the photographs from which the crops are taken."""
_EPS = 4e-3
"""Epsilon of Adam: gradients far below it are noise and hardly move a value."""
_RATE = 0.065
"""Learning rate of the first step on a vector."""
_KERNEL_RATE = 0.04
"""Learning rate of the first step on changes to kernels, which comes after a third of
the steps. From the start, or at a rate of 0.06, the result depends more on chance, such
as the size of the picture, and is hardly better."""
_MOMENTUM = 0.8
"""Share of past gradients that a step keeps. They are forgotten in a few steps, as
there are only a few."""
_FINGERPRINT = 128
"""Side, in pixels, at which a content image is compared with the style's picture."""
_SAME, _OTHER = 0.3, 0.5
"""Distances, in deviations, up to which the content image is wholly the style's
picture, and from which on it is a different one."""
_STYLE_WEIGHT = 60.0
_FAR = 0.5
_TV_WEIGHT = 5.0


class StylePredictor(nn.Module):
    """Maps a style image to a style vector of a trunk.

    It computes the mean and the standard deviation of the picture's colours and of all
    components from its encoder, and the correlations of each layer's components. Two
    layers of ``hidden`` units map these statistics to the vector. ``widths`` and
    ``ranks`` are those of the encoder.
    """

    NAME = "predictor"
    SIZE = 512
    """Geometric mean side, in pixels, of the style images that it predicts from."""
    SHORTEST = 32
    """Smallest side, in pixels, of a style image."""

    def __init__(
        self,
        style_size: int,
        widths: Sequence[int] = (16, 32, 64, 128, 192),
        ranks: Sequence[int] = (12, 24, 40, 48),
        hidden: int = 288,
    ) -> None:
        super().__init__()
        self.encoder = StyleEncoder(widths, ranks)
        self.hyperparameters = {
            "style_size": style_size,
            **self.encoder.hyperparameters,
            "hidden": hidden,
        }
        pairs = sum(rank * (rank - 1) // 2 for rank in ranks)
        size = 2 * (3 + sum(ranks)) + pairs
        self.usual: Tensor
        self.spread: Tensor
        self.register_buffer("usual", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.head = nn.Sequential(
            nn.Linear(size, hidden),
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
        return self.predict(self.statistics(image, self.SIZE))

    def predict(self, statistics: Tensor) -> Tensor:
        """Return (B, K) style vectors for (B, S) statistics."""
        vector: Tensor = self.head(self.standardise(statistics))
        return vector

    def statistics(self, image: Tensor, size: float) -> Tensor:
        """Return the statistics (B, S) of (B, 3, H, W) pictures that tell their style.

        ``size`` is the geometric mean side of the whole pictures. They are scaled to
        :attr:`SIZE`, but no side below :attr:`SHORTEST`.
        """
        if size != self.SIZE:
            scale = self.SIZE / size
            image = F.interpolate(
                image,
                [max(self.SHORTEST, round(scale * side)) for side in image.shape[2:]],
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
        found = [_mean_and_deviation((image - 0.5) * 4)]
        for x in self.encoder.components(_even(image)):
            found += [_mean_and_deviation(x), _correlations(x)]
        return torch.cat(found, dim=1)

    def grams(self, image: Tensor) -> Features:
        """Return the Gram matrices of (B, 3, H, W) pictures, (B, C, C) for each layer.

        They are the targets for paintings in the pictures' styles.
        """
        return {
            layer: gram_matrix(found)
            for layer, found in self.encoder(_even(image)).items()
        }

    def standardise(self, statistics: Tensor) -> Tensor:
        """Return statistics (B, S) standardised by their usual mean and spread."""
        return (statistics - self.usual) / self.spread


def _even(x: Tensor) -> Tensor:
    return x[..., : x.shape[2] // 8 * 8, : x.shape[3] // 8 * 8]


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


def refine(
    network: StyleNetwork,
    encoder: StyleEncoder,
    vectors: Tensor,
    wanted: Features,
    contents: Sequence[Tensor],
    rank: int = 0,
) -> Tensor:
    """Return style vectors (B, K) closer to their styles, after a step per content.

    This is gradient descent on the vectors and, with a ``rank``, on changes to kernels
    of that rank, which make the vectors longer. The encoder stands in for the loss
    network; it is fixed, as is the trunk, so that little can be gained by deceiving it.
    ``wanted`` are the Gram matrices of the styles, see :meth:`StylePredictor.grams`;
    contents are (B, 3, H, W) in [0, 1], with one image for each style, H and W
    multiples of 8.
    """
    dtype = training_dtype(vectors.device)

    @functools.cache
    def content_features(content: Tensor) -> Features:
        with torch.no_grad(), autocast(content.device, dtype):
            features = encoder(content)
        return {layer: features[layer] for layer in CONTENT_LAYERS}

    with torch.inference_mode(False), torch.enable_grad():
        vectors = vectors.detach().clone().requires_grad_(True)
        factors = first_factors(network, vectors.detach(), rank) if rank else {}
        changes = [
            each.requires_grad_(True) for pair in factors.values() for each in pair
        ]
        strength = vectors.new_ones(len(vectors))
        betas, count = (_MOMENTUM, 0.95), len(contents)
        descents: list[tuple[torch.optim.Optimizer, float, int]]
        descents = [(Adam([vectors], betas=betas, eps=_EPS), _RATE, 0)]
        if changes:
            muon = Muon(changes, momentum=_MOMENTUM)
            descents.append((muon, _KERNEL_RATE, count // 3))
        for step, content in enumerate(contents):
            styles = with_changes(vectors, factors)
            painted = paint(network, content, styles, strength, dtype=dtype)
            with autocast(vectors.device, dtype):
                found = encoder(painted)
            loss = (
                content_loss(found, content_features(content))
                + _STYLE_WEIGHT * huber(style_loss(found, wanted), _FAR)
                + _TV_WEIGHT * tv_loss(painted)
            )
            loss.sum().backward()
            for descent, rate, first in descents:
                descent.param_groups[0]["lr"] = rate * _falling(step, first, count)
                descent.step()
                descent.zero_grad()
        return with_changes(vectors, factors).detach()


def _falling(step: int, first: int, count: int) -> float:
    """Return the factor of a learning rate at a step.

    It is 0 before step ``first``, then 1, and falls until step ``count``.
    """
    if step < first:
        return 0.0
    return 0.55 + 0.45 * math.cos(math.pi * (step - first) / (count - first))


def capture(
    picture: Picture, name: str, folder: Path = STYLES_DIR, rank: int = 16
) -> LoadedStyle:
    """Return the style of a picture, called ``name``.

    The whole visible picture is used, scaled down, so strokes are captured relative to
    it. The predicted vector is refined on the bundled photographs in a few seconds,
    with changes to kernels of ``rank``; for the same picture, the same style is
    returned again at once. The style recognises its own picture, which is then left
    unchanged. ``folder`` holds the predictor and, if that is not the bundled one, its
    trunk.

    Raises :class:`~styleplug.errors.InvalidImageError` when nothing is visible, and
    :class:`~styleplug.errors.InvalidStyleError` when predictor or trunk are damaged or
    do not belong together.
    """
    info, predictor = load_predictor(folder / bundled_predictor().name)
    trunk = folder / bundled_trunk().name
    if not trunk.exists():
        trunk = bundled_trunk()
    network = load_trunk(trunk)
    fits = predictor.hyperparameters["style_size"] == network.style_size
    if read_info(trunk).trunk != info.trunk or not fits:
        raise InvalidStyleError(
            f"{info.path} and {trunk} do not belong together; install styleplug again, "
            "or name a folder that 'styleplug train --any' has written."
        )
    size = info.base_size
    small = _small(visible(picture, name), size)[0].mul(255).round().byte()
    pixels = small.numpy().tobytes()
    vector = _vector(network, predictor, size, tuple(small.shape), pixels, rank)
    if not vector.isfinite().all():
        raise InvalidStyleError(
            f"{info.path} gives a style that is not finite; install styleplug again, "
            "or train the predictor anew."
        )
    header = StyleInfo(
        name=name,
        title=name,
        network={"name": network.NAME, **network.hyperparameters},
        trunk=info.trunk,
        base_size=size,
        training={"captured": True},
    )
    found_in = functools.partial(_likeness, fingerprint(picture.pixels))
    return LoadedStyle(header, network, vector, found_in)


def _likeness(known: Tensor, pixels: Array) -> float:
    """Return how far (H, W, 3) pixels are the picture of a fingerprint, in [0, 1].

    Copies of it in other sizes and formats give 1; darker copies and parts of it give
    less, or 0.
    """
    distance = fingerprint_distance(known, fingerprint(pixels)).item()
    return min(1.0, max(0.0, (_OTHER - distance) / (_OTHER - _SAME)))


def fingerprint(pixels: Array) -> Tensor:
    """Return a fingerprint of (H, W, 3) pixels, to recognise a picture by.

    It is (1, 3, 128, 128) in [0, 1].
    """
    with torch.inference_mode(False):
        return _shrunk(pixels, [_FINGERPRINT, _FINGERPRINT])


def fingerprint_distance(fingerprints: Tensor, others: Tensor) -> Tensor:
    """Return distances (N, M) of fingerprints (N, 3, h, w) from others (M, 3, h, w).

    They are root mean squares, in standard deviations of the first fingerprints.
    """
    deviations = fingerprints.std(dim=(2, 3)).square().mean(dim=1, keepdim=True).sqrt()
    differences: Tensor = torch.cdist(fingerprints.flatten(1), others.flatten(1))
    return differences / math.sqrt(fingerprints[0].numel()) / (deviations + 0.01)


@functools.lru_cache(maxsize=16)
def _vector(
    network: StyleNetwork,
    predictor: StylePredictor,
    size: int,
    shape: tuple[int, ...],
    pixels: bytes,
    rank: int,
) -> Tensor:
    """Return the style vector of a picture of ``shape`` (3, h, w) in 8 bits.

    It is (K,), or longer with changes to kernels of ``rank``. ``size`` is the geometric
    mean side of the picture, and of paintings in its style.
    """
    with torch.inference_mode(False), torch.no_grad():
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        image = image.reshape(1, *shape).float() / 255
        vectors = predictor.predict(predictor.statistics(image, size))
        wanted = predictor.grams(image)
    contents = list(itertools.islice(itertools.cycle(_contents()), STEPS))
    return refine(network, predictor.encoder, vectors, wanted, contents, rank)[0]


@functools.cache
def _contents() -> list[Tensor]:
    """Return crops (1, 3, _VIEW, _VIEW) of the bundled photographs, two of each."""
    with torch.inference_mode(False):
        photographs = [
            _small(read_picture(path).pixels, _PHOTOGRAPH)
            for path in sorted(PHOTOGRAPHS.glob("*.jpg"))
        ]
        first = [whole[..., :_VIEW, :_VIEW] for whole in photographs]
        second = [whole[..., -_VIEW:, -_VIEW:].flip(3) for whole in photographs]
    return first + second


def visible(picture: Picture, name: str) -> Array:
    """Return the pixels of a picture from which its style is captured.

    Transparent margins are cut off; what else is transparent becomes white paper.

    Raises :class:`~styleplug.errors.InvalidImageError` when nothing is visible.
    """
    if picture.alpha is None:
        return picture.pixels
    rows, columns = (np.flatnonzero(picture.alpha.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        raise InvalidImageError(
            f"{name} is wholly transparent and has no style; choose another picture."
        )
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels, alpha = picture.pixels[box], picture.alpha[box]
    if alpha.min() >= (1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max):
        return pixels
    return color.over_white(pixels, alpha)


def _small(pixels: Array, size: int) -> Tensor:
    """Resize (H, W, 3) pixels for a predictor, to (1, 3, h, w) in [0, 1].

    ``size`` is the geometric mean side of the result.
    """
    shortest = StylePredictor.SHORTEST
    sides = pixels.shape[:2]
    scale = size / (sides[0] * sides[1]) ** 0.5
    # A longer picture is hardly more than a line. It is distorted to bound the memory.
    longest = size * size // shortest
    return _shrunk(
        pixels, [min(max(shortest, round(scale * side)), longest) for side in sides]
    )


def _shrunk(pixels: Array, target: list[int]) -> Tensor:
    """Resize (H, W, 3) pixels to (1, 3, h, w) in [0, 1], of the ``target`` size."""
    sides = pixels.shape[:2]
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

    It works in bands of rows, so that a huge picture is never held in float32.
    """
    rows = blocks[0] * max(1, (1 << 17) // (blocks[0] * pixels.shape[1]))
    means = []
    for top in range(0, len(pixels), rows):
        band = torch.from_numpy(pixels[top : top + rows].astype(np.float32))
        if pixels.dtype.kind == "f":
            band = band.clamp(0, 1)
        band = band.permute(2, 0, 1)[None].contiguous()
        if blocks != (1, 1):  # torch is slow even for these
            band = F.avg_pool2d(band, blocks, ceil_mode=True)
        means.append(band)
    full = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    return torch.cat(means, dim=2) / full


@once_per_file(2)
def load_predictor(path: Path) -> tuple[StyleInfo, StylePredictor]:
    """Load a predictor file: its header, which names the trunk, and its network.

    The same file returns the same objects again.

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
