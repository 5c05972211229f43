"""``optimize``: style transfer by optimization of the picture itself, without training.

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks":
the picture is changed by gradient descent until its features in a fixed network match
those of the content image, and their statistics those of the style image. It works for
any style image, and takes minutes where a trained style takes a moment.

A large picture grows from coarse to fine: the style image is taken at the size of each
level, so strokes are a fraction of the picture. Large levels are computed in tiles: the
statistics of the whole are measured first, then every tile adds its share of the exact
gradient.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import color, hub, vgg
from .descent import DESCENTS, Descent, resize
from .engine import Stylizer, check_weights, checked_number, pick_device, undisturbed
from .errors import (
    MemoryLimitError,
    TrainingError,
)
from .images import (
    Picture,
    as_style_image,
    load_mask,
    read_picture,
    read_to_paint,
    write_picture,
)
from .losses import CONTENT_LAYERS, STYLE_LAYERS, LossNetwork
from .networks import checked_dtype, mix, training_dtype
from .objective import (
    LEAST_SIDE,
    STYLE_LOSSES,
    Objective,
    Style,
    Weights,
    bytes_kept,
    overlap_of,
)
from .predictor import PHOTOGRAPHS
from .rendering import SMALLEST_TILE, call_back, is_out_of_memory, luma

if TYPE_CHECKING:
    import PIL.Image

logger = logging.getLogger(__name__)

ImageT = TypeVar("ImageT", "PIL.Image.Image", NDArray[Any], Tensor)
Callback = Callable[[float, Callable[[], Any]], object]
Layers = Sequence[str] | Mapping[str, float]

PRESERVE_COLOR = (False, True, "luminance", "statistics")

_BLEND = {"gram": 0.6, "mean_std": 0.2, "wasserstein": 0.2}
"""Default style losses, with their weights."""
_COARSEST = 256
"""Smallest geometric mean side of the first level, in pixels. A level of half that size
costs a third of the time and brings no lower loss (measured at 256 pixels)."""
_CALIBRATION = 256
"""Sides in pixels of the photographs on which the loss network is calibrated."""
_MEMORY = 4 << 30
"""Default limit of working memory, in bytes."""
_BYTES_PER_PIXEL = {torch.float32: 2600, torch.bfloat16: 1400}
"""Working memory of the loss network per pixel of a tile, its border included, in
bytes; benchmarks/optimize.py measures it."""
_BYTES_OF_NEAREST = 100
"""Bytes per pixel added by each style whose nearest features are searched."""
_BYTES_OF_REGION = 50
"""Bytes per pixel of a tile added by each style that has a region."""
_VECTORS = 12
"""Number of pictures of a level's size held in addition to the pairs of L-BFGS. Each
region takes as much as one."""
_HISTORY = 12
"""Number of pairs that L-BFGS remembers, if they fit into memory."""
_COARSE = 10
"""Factor by which the tolerance is larger at levels before the last."""
_PATIENCE = 10
"""Iterations over which the relative improvement is measured."""
_LAYERS = vgg.LAYERS[:-1]
"""Layers to choose from. The last one of VGG-19 is left out: it has a stride of 32, and
tiles lie on multiples of 16 pixels."""
_RECORDED = (
    *("style_loss", "content_weight", "style_weight", "tv_weight"),
    *("content_layers", "style_layers", "style_scale", "init", "optimizer"),
    *("iterations", "tolerance", "preserve_color", "seed"),
)
"""Options that are noted in the metadata of a result if they are given."""


@dataclass(frozen=True)
class StyleImage:
    """A style image, or a part of it, and where in the picture it goes.

    ``image`` is a path, a PIL image, an array or a tensor, like the content of
    :func:`optimize`; transparent areas become white paper. ``mask`` (h, w) selects the
    part of it that counts, ``region`` (H, W) the part of the content image that takes
    its style. Each is a path, image, array or tensor in [0, 1], by default the whole.
    Of the weights, only the proportions matter.
    """

    image: Any
    weight: float = 1.0
    mask: Any = None
    region: Any = None


@dataclass(frozen=True)
class Options:
    """The keywords of :func:`optimize` with their defaults, checked."""

    style_loss: str | Mapping[str, float] | None = None
    content_weight: float = 1.0
    style_weight: float = 60.0
    tv_weight: float = 1.0
    content_layers: Layers = CONTENT_LAYERS
    style_layers: Layers = STYLE_LAYERS
    style_scale: float = 1.0
    init: str = "content"
    optimizer: str = "lbfgs"
    iterations: int = 120
    tolerance: float = 1e-3
    preserve_color: bool | str = False
    mask: Any = None
    seed: int = 0
    loss_network: str | os.PathLike[str] | LossNetwork | None = None
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    memory_limit: int | None = None
    callback: Callback | None = None

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, tuple(DESCENTS))
        _check_choice("preserve_color", self.preserve_color, PRESERVE_COLOR)
        if not isinstance(self.init, str | os.PathLike):
            raise TypeError(
                "init must be 'content', 'noise', 'fast' or the name of a style, got "
                f"{reprlib.repr(self.init)}"
            )
        network = self.loss_network
        if not isinstance(network, str | os.PathLike | LossNetwork | None):
            raise TypeError(
                "loss_network must be a file, a Hub repository or a LossNetwork, got "
                f"{type(network).__name__}"
            )
        for name, low, high in (
            ("content_weight", 0, math.inf),
            ("style_weight", 0, math.inf),
            ("tv_weight", 0, math.inf),
            ("style_scale", 0.25, 4),
            ("iterations", 1, math.inf),
            ("tolerance", 0, 1),
            ("seed", -(2**63), 2**63 - 1),
            ("memory_limit", 1, sys.maxsize),
        ):
            value = getattr(self, name)
            if name != "memory_limit" or value is not None:
                whole = name in ("iterations", "seed")
                value = checked_number(name, value, low, high, whole=whole)
                object.__setattr__(self, name, value)
        _ = self.weights

    @property
    def grey(self) -> bool:
        """Only the lightness is painted, so that a picture is grey at every step."""
        return self.preserve_color in (True, "luminance")

    @functools.cached_property
    def weights(self) -> Weights:
        content = _weights("content_layers", self.content_layers, _LAYERS)
        style = _weights("style_layers", self.style_layers, _LAYERS)
        losses = _BLEND if self.style_loss is None else self.style_loss
        return Weights(
            {layer: self.content_weight * w for layer, w in content.items()},
            {layer: self.style_weight * w for layer, w in style.items()},
            _weights("style_loss", losses, STYLE_LOSSES),
            self.tv_weight,
        )


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {known}; got {value!r}")


def _weights(
    name: str, value: str | Layers, choices: Sequence[str]
) -> dict[str, float]:
    """Return the weight of each name in ``value``; names without weights share 1."""
    if isinstance(value, str):
        value = (value,)
    try:
        if not isinstance(value, Mapping):
            value = dict.fromkeys(value, 1 / max(1, len(value)))
        weights = {key: float(weight) for key, weight in value.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"{name} must be a name, names or a mapping of them to numbers, got "
            f"{value!r}"
        ) from error
    for key in weights:
        _check_choice(name, key, choices)
    if not weights or not all(0 <= w < math.inf for w in weights.values()):
        raise ValueError(
            f"{name} must have finite weights, none below 0, got {value!r}"
        )
    return weights


@undisturbed()
def optimize(
    content: ImageT,
    style: Any,
    *,
    style_loss: str | Mapping[str, float] | None = None,
    content_weight: float = Options.content_weight,
    style_weight: float = Options.style_weight,
    tv_weight: float = Options.tv_weight,
    content_layers: Layers = Options.content_layers,
    style_layers: Layers = Options.style_layers,
    style_scale: float = Options.style_scale,
    init: str = Options.init,
    optimizer: str = Options.optimizer,
    iterations: int = Options.iterations,
    tolerance: float = Options.tolerance,
    preserve_color: bool | str = Options.preserve_color,
    mask: Any = None,
    seed: int = Options.seed,
    loss_network: str | os.PathLike[str] | LossNetwork | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory_limit: int | None = None,
    callback: Callback | None = None,
) -> ImageT:
    """Return ``content`` painted in ``style``: same type, size, depth and alpha.

    ``content`` is a PIL image of any mode, an array (H, W), (H, W, 1|3|4) of uint8,
    uint16 or float in [0, 1], or a tensor (B, 3, H, W) in [0, 1]. ``style`` is any
    picture, as one of these or as a path, or a :class:`StyleImage`; or a sequence of
    ``(picture, weight)`` pairs or style images, all of which count, each in its region.

    The loss is ``content_weight`` times the squared difference of the features in
    ``content_layers``, relative to their mean activation on photographs, plus
    ``style_weight`` times ``style_loss`` in ``style_layers``, plus ``tv_weight`` times
    :func:`.tv_loss`. Layers are those of VGG-19, such as ``"relu4_1"``, except the last
    pooling; a mapping gives each a weight. ``style_loss`` is ``"gram"``,
    ``"mean_std"``, ``"wasserstein"`` or ``"nearest"``, or a mapping from these to
    weights; each is about 0 for the style itself. The default is 0.6 gram + 0.2
    mean_std + 0.2 wasserstein. The Gram distance grows with the fourth power of the
    features, so the strongest ones dominate it; used alone, it brings the texture of a
    painting. The distance of Gaussians (``"wasserstein"``), of second power, brings its
    swirls and stars, but ends further off in the Gram distance at the same content
    loss. The blend keeps the strokes and stays close in both.

    ``style_scale`` in [0.25, 4] is the stroke size; at 1 the style image has the size
    of the picture, or its own if that is smaller. ``preserve_color`` keeps the
    content's colours and paints only its lightness (``True`` or ``"luminance"``), or
    gives the style image the content's mean colour and covariance beforehand
    (``"statistics"``), each measured where masks and regions let it count. ``mask`` is
    (H, W) in [0, 1]; 0 keeps the content exactly.

    ``init`` is the picture to start from: ``"content"``, ``"noise"`` (random, from
    ``seed``), the name of a style in which :func:`.stylize` paints the content, or
    ``"fast"``, with which it paints in the style images. Its fine detail is added again
    at the level of that size. ``optimizer`` is ``"lbfgs"`` or ``"adam"``. The coarsest
    level has at most ``iterations``, and each next level, of twice the size, half as
    many. The last level ends early when ten iterations improve the loss by less than
    the fraction ``tolerance``, the levels before it when they improve it by less than
    ten times as much. The same call returns the same picture on a CPU with the same
    number of threads.

    ``loss_network`` is a VGG-19 in safetensors with torchvision's names: a file, a Hub
    repository, or a calibrated :class:`.LossNetwork`; by default it comes from the
    Hub. ``memory_limit`` in bytes of working memory, by default 4 GiB, decides whether
    a level is computed in tiles. ``callback(fraction, snapshot)`` is called after every
    iteration; ``snapshot()`` returns the best picture so far, in the form of the
    result. Several images in a tensor are optimized one after the other, each with its
    own snapshots and with ``fraction`` starting again. An exception raised from the
    callback ends the optimization.

    Raises :class:`~styleplug.errors.TrainingError` for a loss that is not finite,
    :class:`~styleplug.errors.InvalidImageError`,
    :class:`~styleplug.errors.DeviceError`,
    :class:`~styleplug.errors.MemoryLimitError`, and what :class:`.Stylizer` and
    :func:`.hub.loss_network_file` raise.
    """
    options = Options(
        style_loss=style_loss,
        content_weight=content_weight,
        style_weight=style_weight,
        tv_weight=tv_weight,
        content_layers=content_layers,
        style_layers=style_layers,
        style_scale=style_scale,
        init=init,
        optimizer=optimizer,
        iterations=iterations,
        tolerance=tolerance,
        preserve_color=preserve_color,
        mask=mask,
        seed=seed,
        loss_network=loss_network,
        device=device,
        dtype=dtype,
        memory_limit=memory_limit,
        callback=callback,
    )
    if isinstance(content, Tensor) and content.ndim == 4 and len(content) > 1:
        return torch.cat([_optimize(one, style, options) for one in content.split(1)])
    return _optimize(content, style, options)


def _optimize(content: ImageT, style: Any, options: Options) -> ImageT:
    picture = Picture.from_image(content)
    run = _Run(picture, style, options, picture.to_image)
    run()
    result: ImageT = picture.to_image(run.pixels())
    return result


@undisturbed()
def optimize_file(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    style: Any,
    *,
    overwrite: bool = False,
    max_pixels: int | None = None,
    **options: Any,
) -> tuple[int, int]:
    """Do what :func:`.stylize_file` does, with :func:`optimize` and its keywords.

    ``snapshot()`` of a callback returns an 8-bit PIL image. On an interruption
    (``KeyboardInterrupt``), or when memory or the loss network fails at a level, the
    best picture so far, if there is one, is written before the exception is raised
    again: to ``dst``, or as ``NAME.stopped.SUFFIX`` beside it if that exists. Returns
    the (width, height) of the image.
    """
    chosen = Options(**options)
    picture = read_to_paint(src, dst, overwrite=overwrite, max_pixels=max_pixels)
    run = _Run(picture, style, chosen, _show)
    write = functools.partial(
        write_picture,
        picture,
        provenance=_provenance(style, chosen, options),
    )
    try:
        run()
        write(run.pixels(), dst, overwrite=overwrite)
    except (KeyboardInterrupt, MemoryLimitError, TrainingError):
        if run.best is not None:
            place = _free_place(Path(dst))
            write(run.pixels(), place, overwrite=False)
            logger.warning("Stopped; %s is the best picture so far.", place)
        raise
    return picture.size


def _free_place(dst: Path) -> Path:
    """Return ``dst``, or a name beside it if that exists."""
    marks = itertools.chain(
        ["", ".stopped"], (f".stopped{i}" for i in itertools.count(2))
    )
    places = (dst.with_name(f"{dst.stem}{mark}{dst.suffix}") for mark in marks)
    return next(place for place in places if not os.path.exists(place))


def _provenance(style: Any, options: Options, given: Iterable[str]) -> dict[str, Any]:
    """Return the metadata to note in a result: style images and given parameters."""
    parts = _style_images(style)
    names = [f"{_name(part.image)}:{part.weight:.2f}" for part in parts]
    recorded = {name: getattr(options, name) for name in _RECORDED if name in given}
    if "init" in recorded:
        recorded["init"] = _name(recorded["init"])
    style = " + ".join(names) if len(parts) > 1 else _name(parts[0].image)
    return {"optimized": True, "style": style, **recorded}


def _name(what: Any) -> str:
    """Return a name for a picture or a style, without the user's folders."""
    if not isinstance(what, str | os.PathLike):
        return "picture"
    name = os.fspath(what)
    return os.path.basename(name) if os.path.isfile(name) else name


@dataclass(frozen=True)
class _Level:
    """One size of the picture, and the progress of its descent."""

    size: tuple[int, int]
    iterations: int
    """Largest number of iterations."""
    start: float
    end: float
    """Fractions of all the work that are done before and after the level."""
    least: list[float] = field(default_factory=list)
    """Lowest loss so far, after each iteration."""

    @property
    def fraction(self) -> float:
        part = len(self.least) / self.iterations
        return self.start + (self.end - self.start) * part


class _Run:
    """One optimization, from the coarsest level to the finest."""

    best: Tensor | None = None
    """Best picture so far, (1, 3, h, w) in [0, 1], padded; None before the first."""

    @torch.inference_mode(False)
    def __init__(
        self,
        picture: Picture,
        style: Any,
        options: Options,
        show: Callable[[NDArray[Any]], Any],
    ) -> None:
        self.options = options
        self.show = show
        self.tiled = False
        self.picture = picture
        self.device = pick_device(options.device)
        with self._memory_watched():
            self._set_up(style)

    def _set_up(self, style: Any) -> None:
        options = self.options
        self.mask = None
        if options.mask is not None:
            self.mask = self._map(options.mask, self.picture)
        self.content = _padded(_tensor(self.picture.pixels, self.device))
        self.styles = [self._load(part) for part in _style_images(style)]
        _share_out(self.styles)
        self.styles = [style for style in self.styles if style.share > 0]
        if options.grey:
            self.content = _grey(self.content)
            for part in self.styles:
                part.image = _grey(part.image)
        if options.preserve_color:
            for part in self.styles:
                part.image = _match_statistics(part, self.content)
        self.network = _loss_network(options, self.device)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(self) -> None:
        """Go through all levels and keep the best picture in :attr:`best`."""
        if not self.styles:
            logger.warning(
                "The mask, or every region in it, is black: the picture stays as it is."
            )
            return
        with self._memory_watched():
            self._descend()

    @contextlib.contextmanager
    def _memory_watched(self) -> Iterator[None]:
        """Raise an error that says what to do when memory runs out."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._short_of_memory() from error

    def _short_of_memory(self) -> MemoryLimitError:
        return MemoryLimitError(
            f"Not enough memory on {self.device}; lower --memory (memory_limit= in "
            f"Python){'' if self.device.type == 'cpu' else ', or use the CPU'}."
        )

    def _descend(self) -> None:
        levels = self._levels()
        # The finest first: a lack of memory is reported before anything is computed.
        plans = [self._plan(level.size) for level in reversed(levels)]
        self.sketch = self._sketch()
        descent = DESCENTS[self.options.optimizer]()
        largest = max(self.content.shape[2:])
        for level, (tile_size, history) in zip(levels, reversed(plans), strict=True):
            tile_size = min(tile_size, largest)
            while not self._has_room(level, descent, tile_size, history):
                if tile_size <= SMALLEST_TILE:
                    raise self._short_of_memory()
                tile_size = largest = max(SMALLEST_TILE, tile_size // 2)
                logger.warning(
                    "Memory ran out at %d x %d pixels; they go on in tiles of %d.",
                    *reversed(level.size),
                    tile_size,
                )

    def _has_room(
        self, level: _Level, descent: Descent, tile_size: int, history: int
    ) -> bool:
        """Compute the rest of a level; return whether memory was enough."""
        try:
            self._paint(level, descent, tile_size, history)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _paint(
        self, level: _Level, descent: Descent, tile_size: int, history: int
    ) -> None:
        content = resize(self.content, level.size)
        objective = self._objective(content, tile_size)
        descent.start(self._first(content), history)
        finest = level.size == self.content.shape[2:]
        tolerance = self.options.tolerance * (1 if finest else _COARSE)
        least, ended = level.least, False
        while not ended:
            x = descent.ask()
            loss, gradient = objective(x)
            if self.options.grey:
                gradient = gradient.mean(dim=1, keepdim=True).expand_as(gradient)
            if not least and not math.isfinite(loss):
                raise TrainingError(
                    f"The loss of the first picture is not finite ({loss}); use "
                    "dtype='float32', or another loss network."
                )
            better = not least or loss < least[-1]
            if better:
                self.best = x
            least.append(loss if better else least[-1])
            descent.tell(x, loss, gradient)
            ended = len(least) >= level.iterations or _has_stalled(least, tolerance)
            if self.options.callback is not None:
                fraction = level.end if ended else level.fraction
                call_back(self.options.callback, fraction, self.snapshot)
        height, width = level.size
        logger.info("%d x %d: loss %.4g after %d", width, height, least[-1], len(least))

    def _objective(self, content: Tensor, tile_size: int) -> Objective:
        return Objective(
            self.network,
            self.options.weights,
            content,
            self.styles,
            tile_size=tile_size,
            style_scale=self.options.style_scale,
            free=self._free(content.shape[2:]),
            seed=self.options.seed,
        )

    def pixels(self) -> NDArray[Any]:
        """Return the best picture at full size, in the type of the content's pixels."""
        pixels = self.picture.pixels
        if self.best is None:
            return np.array(pixels)
        height, width = pixels.shape[:2]
        x = self._grown(self.content)[..., :height, :width]
        content = _tensor(self.picture.pixels, self.device)
        if self.options.grey:
            x = (content + luma(x - content)).clamp(0, 1)
        if self.mask is not None:
            x = mix(content, x, self.mask[..., :height, :width])
        painted = x[0].permute(1, 2, 0).contiguous().cpu().numpy()
        painted = color.change_depth(painted, pixels.dtype)
        if self.mask is not None:
            kept = (self.mask[0, 0, :height, :width, None] == 0).cpu().numpy()
            painted = np.where(kept, pixels, painted)
        return painted

    def snapshot(self) -> Any:
        """Return the best picture so far."""
        with self._memory_watched():
            return self.show(self.pixels())

    def _levels(self) -> list[_Level]:
        """Return the levels, coarse to fine."""
        height, width = self.content.shape[2:]
        octaves = max(0, int(math.log2(math.sqrt(height * width) / _COARSEST)))
        shapes = [
            (
                max(LEAST_SIDE, round(height / 2**k)),
                max(LEAST_SIDE, round(width / 2**k)),
                max(1, self.options.iterations >> (octaves - k)),
            )
            for k in range(octaves, -1, -1)
        ]
        work = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]
        return [
            _Level((height, width), count, start / work[-1], end / work[-1])
            for (height, width, count), (start, end) in zip(
                shapes, itertools.pairwise(work), strict=True
            )
        ]

    def _plan(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the tile size and the history of L-BFGS that fit the memory."""
        limit = self.options.memory_limit or _MEMORY
        vector = 12 * size[0] * size[1]
        per_pixel = _BYTES_PER_PIXEL[self.network.dtype]
        if self.options.weights.style_losses.get("nearest"):
            per_pixel += _BYTES_OF_NEAREST * len(self.styles)
        border = 2 * overlap_of(self.network)
        regions = sum(style.region is not None for style in self.styles)
        per_pixel += _BYTES_OF_REGION * regions
        fixed = (_VECTORS + regions) * vector
        fixed += bytes_kept(self.options.weights, self.network.dtype, size)
        side, scale = math.sqrt(math.prod(size)), self.options.style_scale
        fixed += 12 * max(math.prod(s.size_at(side, scale)) for s in self.styles)
        held = [self.content, *(x for s in self.styles for x in (s.image, s.mask))]
        fixed += sum(4 * x.numel() for x in held if x is not None)
        fixed_with_tile = fixed + per_pixel * (SMALLEST_TILE + border) ** 2
        least = fixed_with_tile + 2 * 2 * vector
        room = min(limit // 4, limit - fixed_with_tile)
        pairs = min(_HISTORY, max(2, int(room // (2 * vector))))
        left = limit - fixed - pairs * 2 * vector
        if per_pixel * size[0] * size[1] <= left:
            return max(size), pairs
        if limit < least:
            raise MemoryLimitError(
                f"A memory limit of {limit / 2**20:.0f} MB is too small for this "
                f"picture; allow at least --memory {math.ceil(least / 2**20)}M "
                "(memory_limit= in Python, in bytes)."
            )
        tile_size = max(SMALLEST_TILE, int((left / per_pixel) ** 0.5) - border)
        if not self.tiled:
            logger.warning(
                "%d x %d pixels at once do not fit in %.0f MB; they are computed in "
                "tiles of %d.",
                size[1],
                size[0],
                limit / 2**20,
                tile_size,
            )
        self.tiled = True
        return tile_size, pairs

    def _first(self, content: Tensor) -> Tensor:
        """Return the picture from which the level of that content starts."""
        if self.best is not None:
            return self._grown(content)
        if self.options.init == "noise":
            generator = torch.Generator().manual_seed(self.options.seed)
            noise = torch.rand(content.shape, generator=generator, dtype=content.dtype)
            noise = _grey(noise) if self.options.grey else noise
            return self._kept(noise.to(content.device), content)
        return self._kept(resize(self.sketch, content.shape[2:]).clone(), content)

    def _sketch(self) -> Tensor:
        """Return the picture to start from, at full size; for noise, the content."""
        style: Any = self.options.init
        if style in ("content", "noise"):
            return self.content
        if style == "fast":
            style = [(part.image, part.share) for part in self.styles]
        stylizer = Stylizer(style, device=self.device)
        picture = stylizer(self.content, style_scale=self.options.style_scale)
        return _grey(picture) if self.options.grey else picture

    def _grown(self, content: Tensor) -> Tensor:
        """Return the best picture at the size of ``content``, with fine detail."""
        assert self.best is not None
        size = content.shape[2:]
        if self.best.shape[2:] == size:
            return self.best
        coarse = resize(self.sketch, self.best.shape[2:])
        detail = resize(self.sketch, size) - resize(coarse, size)
        return self._kept((resize(self.best, size) + detail).clamp_(0, 1), content)

    def _kept(self, x: Tensor, content: Tensor) -> Tensor:
        """Return ``x``, with the content where the mask is 0."""
        free = self._free(content.shape[2:])
        return x if free is None else torch.where(free, x, content)

    def _load(self, part: StyleImage) -> Style:
        picture = as_style_image(part.image)
        mask = region = None
        if part.mask is not None:
            mask = self._map(part.mask, picture)
            if not mask.any():
                raise ValueError(
                    "The mask of a style image is black; paint the part that counts "
                    "white."
                )
        if self.mask is not None:
            region = self.mask
        if part.region is not None:
            region = self._map(part.region, self.picture)
            region = region if self.mask is None else region * self.mask
        image = _padded(_tensor(picture.over_white, self.device))
        found = Style(image, part.weight, mask, region)
        side = math.sqrt(self.content[0, 0].numel())
        # Larger than any level asks for it, it would only take memory.
        found.image = found.at(max(1.0, self.options.style_scale) * side, 1.0)
        found.mask = None if mask is None else resize(mask, found.image.shape[2:])
        return found

    def _map(self, mask: Any, picture: Picture) -> Tensor:
        """Return a mask of a picture as (1, 1, H, W), padded like it."""
        values = torch.from_numpy(load_mask(mask, picture.pixels.shape[:2]))
        return _padded(values[None, None].to(self.device))

    def _free(self, size: Sequence[int]) -> Tensor | None:
        """Return where a level's picture may change, (1, 1, h, w)."""
        return None if self.mask is None else resize(self.mask, size) > 0


def _style_images(style: Any) -> list[StyleImage]:
    """Return the style images, with weights that sum to 1."""
    given: Sequence[Any] = [style]
    if isinstance(style, Sequence) and not isinstance(style, str):
        given = style
    elif not isinstance(style, StyleImage):
        given = [StyleImage(style)]
    try:
        parts = [
            one if isinstance(one, StyleImage) else StyleImage(*one) for one in given
        ]
        weights = [float(part.weight) for part in parts]
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            "style must be a picture, a StyleImage, or a sequence of these or of "
            f"(picture, weight) pairs, got {reprlib.repr(style)}"
        ) from error
    check_weights(weights)
    total = sum(weights)
    return [replace(p, weight=w / total) for p, w in zip(parts, weights, strict=True)]


def _share_out(styles: Sequence[Style]) -> None:
    """Turn weights into shares of the style loss.

    Where regions overlap, styles share the loss by their weights. A region of half the
    picture has half the style loss, as it has half the content loss.
    """
    whole = torch.ones(1, 1, 1, 1, dtype=torch.float32)
    regions = [whole if s.region is None else s.region.cpu() for s in styles]
    cover = sum(
        (s.share * r for s, r in zip(styles, regions, strict=True)),
        torch.zeros(1, dtype=torch.float32),
    )
    for style, region in zip(styles, regions, strict=True):
        common = (region * cover).mean().item()
        if common > 0:
            style.share *= region.mean().item() ** 2 / common
        else:
            style.share = 0.0


def _has_stalled(least: Sequence[float], tolerance: float) -> bool:
    if len(least) <= _PATIENCE:
        return False
    return least[-1 - _PATIENCE] - least[-1] <= tolerance * abs(least[-1])


# Pictures as tensors


def _show(pixels: NDArray[Any]) -> PIL.Image.Image:
    return color.to_image(color.change_depth(pixels, np.uint8), "RGB")


def _tensor(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """Return pixels (H, W, 3) as (1, 3, H, W) in [0, 1]."""
    pixels = color.change_depth(pixels, np.float32)
    planes = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    return planes.contiguous().clamp_(0, 1).to(device)


def _padded(x: Tensor) -> Tensor:
    """Pad (1, C, H, W) to the size the loss network needs, repeating its edges."""
    height, width = (max(0, LEAST_SIDE - side) for side in x.shape[2:])
    return F.pad(x, (0, width, 0, height), mode="replicate")


def _grey(x: Tensor) -> Tensor:
    return luma(x).expand(-1, 3, -1, -1).contiguous()


def _match_statistics(style: Style, content: Tensor) -> Tensor:
    """Return the style image with the content's mean colour and covariance.

    They are measured where the style image counts, and where the content takes it.
    Gatys, Bethge, Hertzmann & Shechtman 2016, "Preserving Color in Neural Artistic
    Style Transfer", arXiv 1606.05897.
    """

    def measure(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        shares = torch.ones_like(x[:, :1]) if weight is None else weight
        total = torch.zeros(4, 4, dtype=torch.float64)
        for rows, part in zip(x[0].split(256, 1), shares[0].split(256, 1), strict=True):
            # Not every device has doubles.
            pixels = rows.flatten(1).cpu().double()
            pixels = F.pad(pixels, (0, 0, 0, 1), value=1.0)
            total += (pixels * part.flatten(1).cpu().double()) @ pixels.T
        total /= total[3, 3].item()
        mean = total[:3, 3:]
        return mean, total[:3, :3] - mean @ mean.T

    def root(covariance: Tensor, power: float) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        scale = torch.where(values > 1e-6, values.clamp(min=1e-6) ** power, 0)
        result: Tensor = (vectors * scale) @ vectors.T
        return result

    mean, given = measure(style.image, style.mask)
    wanted_mean, wanted = measure(content, style.region)
    change = root(wanted, 0.5) @ root(given, -0.5)
    shift = wanted_mean - change @ mean
    pixels = style.image[0].flatten(1)
    matched = torch.addmm(shift.to(pixels), change.to(pixels), pixels)
    return matched.clamp_(0, 1).reshape(style.image.shape)


# The loss network


def _loss_network(options: Options, device: torch.device) -> LossNetwork:
    """Return the loss network, calibrated on the bundled photographs unless given.

    Calibrated on a hazy content, features would count so much that little is painted.
    """
    weights = options.weights
    layers = sorted({*weights.content_layers, *weights.style_layers})
    given = options.loss_network
    if isinstance(given, LossNetwork):
        if given.dtype not in _BYTES_PER_PIXEL:
            raise ValueError(
                f"loss_network must be in float32 or bfloat16, got {given.dtype}"
            )
        missing = [layer for layer in layers if layer not in given.activations]
        if missing:
            raise ValueError(
                f"loss_network has no features of {missing[0]}; make it with all "
                f"layers: LossNetwork(path, {layers})."
            )
        return copy.deepcopy(given).to(device)
    deepest = max(layers, key=vgg.LAYERS.index)
    path = hub.loss_network_file(deepest, source=given)
    dtype = training_dtype(device)
    if options.dtype is not None:
        dtype = checked_dtype(options.dtype, _BYTES_PER_PIXEL)
    network = LossNetwork(path, layers, dtype).to(device)
    size = _CALIBRATION, _CALIBRATION
    photographs = [
        resize(_tensor(read_picture(path).pixels, device), size)
        for path in sorted(PHOTOGRAPHS.glob("*.jpg"))
    ]
    network.calibrate(torch.cat(photographs))
    return network
