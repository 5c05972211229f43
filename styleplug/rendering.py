"""Rendering of any resolution: coarse to fine, tile by tile, in bounded memory.

A picture is first stylized whole at the style's base size, where the network paints
the strokes it was trained for. Then, level by level up to full size, the change so far
is magnified onto the photograph at that size, and the same network paints again; the
part of its change that the level below could already show is subtracted. So strokes are
a fraction of the picture, whatever its resolution, and a preview shows what the full
size will look like. The last octave of a large picture is not painted: its strokes are
wide, and the finest detail comes from the photograph.

From the second level on, the statistics of the instance normalisations are measured on
a fixed sample of the level and frozen. This makes the network local: tiles that overlap
by its receptive field equal the whole image, and the tile size does not show.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .color import LUMA
from .errors import MemoryLimitError
from .networks import (
    FrozenNetwork,
    NormStatistics,
    StyleNetwork,
    mix,
    reflected,
)
from .tiling import GRID, Region

logger = logging.getLogger(__name__)

SMALLEST_TILE = 256
_LARGEST_TILE = 4096
FINER = 1.7
"""Smallest ratio of a picture's side to the base size at which it is painted again."""
_FINE_WEIGHT = 0.5
"""Weight of what finer levels paint. In full, they would weave jags of the level below
into a cloth of horizontal and vertical threads, which shows at 100 %."""
_LARGE = 4
"""Smallest ratio of a picture's side to the base size at which its last octave is left
to the photograph. The network paints no strokes there, only threads in flat areas, and
would take three quarters of the time."""
_FADING = 2 * FINER
"""Ratio from which the paint of that octave fades, so that it does not end abruptly."""
_ALIKE = 0.75, 0.85, 1.1, 1.3
"""Picture sizes, as multiples of the base size, at which the change is hardly
resized and is therefore smoothed: the smoothing rises between the first two, is full
up to the third, and falls to none at the last. Without it, the change would be crisper
than in the large pictures of which these are previews."""
_SOFT = 0.2
"""Share that the neighbours have in a smoothed pixel."""
_COPIED = 8
"""Number of pixels that are magnified in the time it takes to paint one."""
_BASE_MARGIN = 24
"""Pixels by which the base is extended by reflection. Without them, the layers' own
padding would give the picture a dull rim a few strokes wide."""
_NEAR = 8
"""Pixels around a tile that are painted too, to subtract what half the size shows."""
_FLAT = 5 / 255
"""Standard deviation of lightness above which a cell of 8 x 8 pixels is hardly flat."""
_NOISE_SIDE = 1024
"""Side in pixels of a block of noise: most pictures need one, panoramas several."""
_OCTAVES = 16, 8, 4, 2
_NOISE_DEVIATION = 1.17
"""Standard deviation of the sum of four octaves of noise, each of deviation 1, that are
doubled up to the full size."""
_OUT_OF_MEMORY = (  # as CUDA, MPS, XPU, Linux, Windows, C++, cuBLAS and oneDNN word it
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
    "invalid buffer size",
    "out_of_device_memory",
    "out_of_host_memory",
    "out_of_resources",
    "could not create a primitive",
)
_RAISED_BY_CALLER = "_styleplug_raised_by_caller"
"""Attribute of an error that :func:`call_back` marks."""
_KEPT = 40_000_000
"""Largest picture, in pixels, whose half-size copy is kept, as it is read four times.
The half of a larger picture is averaged at every read and takes no memory."""
_BLOCK_SIDES = {"cpu": 512}
"""Sides in pixels of the blocks that are computed at once without the network, by type
of device: in a CPU's cache this is twice as fast. Other devices use large blocks, as
every call takes time."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_SECONDS_UNTRIMMED = 5
"""Shortest time between two trims of the heaps: to trim them after each of many small
pictures would take a fifth more time."""
_SAMPLE = 128
"""Side in pixels of the patches on which a level's statistics are measured."""
_NO_MARGINS = Region(0, 0, 0, 0)
_CELL = 8
"""Windows are aligned to multiples of this, a multiple of every network's stride."""


class Canvas:
    """An image that is read and written by regions.

    ``pixels`` is an array or tensor (H, W, 3), uint8, uint16 or floating point.
    Regions are float32 tensors (1, 3, h, w) on ``device``, channels last; integers are
    scaled to [0, 1].
    """

    def __init__(self, pixels: NDArray[Any] | Tensor, device: torch.device) -> None:
        self.pixels = pixels
        self.device = device
        self.bounds = Region(0, 0, pixels.shape[0], pixels.shape[1])
        self._scale = {"uint8": 255, "uint16": 65535}.get(
            str(pixels.dtype).removeprefix("torch.")
        )

    def read(self, region: Region) -> Tensor:
        part = self.pixels[region.top : region.bottom, region.left : region.right]
        if isinstance(part, np.ndarray):
            part = torch.from_numpy(np.array(part))
        if part.dtype in (torch.float64, torch.uint16):
            part = part.float()  # not every device supports these
        tensor = part.to(self.device).float()[None].permute(0, 3, 1, 2)
        return tensor if self._scale is None else tensor.div_(self._scale)

    @property
    def is_8bit(self) -> bool:
        return self._scale == 255

    def clamped(self, pixels: Tensor) -> Tensor:
        """Clamp pixels that were read to [0, 1], where integers lie already."""
        return pixels.clamp(0, 1) if self._scale is None else pixels

    def write(self, region: Region, tensor: Tensor) -> None:
        """Write ``tensor``, which may be modified in place."""
        if self._scale is not None:
            tensor = tensor.clamp_(0, 1).mul_(self._scale).round_()
        part: Any = tensor[0].permute(1, 2, 0)
        if isinstance(self.pixels, np.ndarray):
            part = part.cpu().numpy()
        self.pixels[region.top : region.bottom, region.left : region.right] = part


class _Half(Canvas):
    """An image at half its size, averaged at every read, so that it takes no memory.

    The values read are in [0, 1].
    """

    def __init__(self, whole: Canvas) -> None:
        super().__init__(whole.pixels, whole.device)
        self._whole = whole
        height, width = whole.bounds.height, whole.bounds.width
        self.bounds = Region(0, 0, math.ceil(height / 2), math.ceil(width / 2))

    def read(self, region: Region) -> Tensor:
        def averaged(block: Region) -> Tensor:
            doubled = Region(*(2 * side for side in block)).clip(self._whole.bounds)
            return _halved(self._whole.clamped(self._whole.read(doubled)))

        return _by_blocks(region, self.device, averaged)


Finish = Callable[[Region, Canvas, Tensor], Tensor]
"""Maps a region, the content and the stylized pixels there to the pixels to write."""

_Emit = Callable[[Region, Tensor], None]
_Magnify = Callable[[Region], Tensor]
_Use = Callable[[Region, Region, Tensor, Tensor], None]


class Renderer:
    """Renders with one network and one style vector at one strength in (0, 1]."""

    def __init__(
        self,
        network: StyleNetwork,
        vector: Tensor,
        strength: float,
        *,
        base_size: float,
        grain: float,
        dtype: torch.dtype,
        tile_size: int,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        self.network = network
        self.vector = vector
        self.opacity = float(network.opacity(strength))
        self.base_size = base_size
        self.grain = grain
        self.dtype = dtype
        self.tile_size = tile_size
        self.device = vector.device
        self._overlap = _overlap(network)
        self._progress = progress
        self._done = self._work = 0

    def render(self, content: Canvas, result: Canvas, finish: Finish) -> None:
        """Stylize ``content`` into ``result``, a canvas of the same size.

        Raises :class:`~styleplug.errors.MemoryLimitError` when memory runs out at the
        smallest tile.
        """
        _keep_freed_memory()
        try:
            self._render(content, result, finish)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                f"Not even a tile of {SMALLEST_TILE} pixels fits in the memory "
                f"of {self.device}; close other programs."
            ) from error
        finally:
            trim_heaps(_SECONDS_UNTRIMMED)

    def _render(self, content: Canvas, result: Canvas, finish: Finish) -> None:
        ratio = math.sqrt(content.bounds.area) / self.base_size
        base = _base(content.bounds, self.base_size, self.network)
        levels = []
        if ratio >= FINER:
            levels.append(content)
            for i in range(int(math.log2(ratio / FINER))):
                half = _Half(levels[-1])
                kept = i > 0 or content.bounds.area <= _KEPT
                levels.append(self._kept(half) if kept else half)
        self._done = 0
        large = ratio >= _LARGE
        self._work = base.area + sum(level.bounds.area for level in levels)
        if large:
            self._work -= content.bounds.area - content.bounds.area // _COPIED

        def emit(region: Region, stylized: Tensor) -> None:
            result.write(region, finish(region, content, stylized))

        change = self._paint_base(levels[-1] if levels else content, base)
        if not levels:
            softened = float(np.interp(ratio, _ALIKE, (0.0, _SOFT, _SOFT, 0.0)))
            change = _with_neighbours(change, softened) if softened else change
            change = _resize_bicubic(change, content.bounds)
            for block in _blocks(content.bounds, self.device):
                pixels = content.read(block)
                here = change[block.within(content.bounds)]
                emit(block, self._so_far(content, pixels, here))
        below: _Octave | None = None
        while levels:
            level = levels.pop()
            painted = self._blank(level.bounds, content) if levels else None
            use = emit if painted is None else painted.write
            if below is None:
                self._paint_first(level, change, use)
            elif large and not levels:
                self._magnify(level, below, use)
            else:
                fading = 1.0 if levels else np.interp(ratio, (_FADING, _LARGE), (1, 0))
                self._paint_octave(level, below, use, _FINE_WEIGHT * float(fading))
            if painted is not None:
                below = _Octave(level, painted, self._desaturated)

    def _kept(self, half: _Half) -> Canvas:
        """Return a copy of ``half`` in memory, so that it is averaged only once."""
        kept = self._blank(half.bounds, half)
        for block in _blocks(half.bounds, self.device):
            kept.write(block, half.read(block))
        return kept

    def _blank(self, bounds: Region, like: Canvas) -> Canvas:
        """Return an empty canvas: 8 bits a channel if ``like`` has 8, else float16."""
        dtype = torch.uint8 if like.is_8bit else torch.float16
        pixels = torch.empty((bounds.height, bounds.width, 3), dtype=dtype)
        return Canvas(pixels, self.device)

    def _paint_base(self, content: Canvas, bounds: Region) -> Tensor:
        """Return how stylizing the whole image at the size of ``bounds`` changes it, as
        (1, 3, h, w)."""
        x = content.clamped(content.read(content.bounds))
        smaller = content.bounds.area < bounds.area
        x = _resize_bicubic(x, bounds).clamp_(0, 1) if smaller else _resize(x, bounds)
        live = functools.partial(self._live, statistics={})
        margins = _with_margins(bounds, self.network).margins_around(bounds)
        stylized = self._run(self._grained(x), live, margins)
        self._report(bounds.area)
        painted = mix(x, stylized, self.opacity)
        color = _colorfulness(painted) / max(_colorfulness(x), 1e-6)
        colorful = torch.eye(3, dtype=torch.float32, device=self.device)
        self._desaturation = _gray(self.device).lerp(colorful, min(1.0, color))
        return painted - self._desaturated(x)

    def _grained(self, x: Tensor) -> Tensor:
        """Return the base (1, 3, h, w) with noise added to flat areas."""
        amount = self.grain * self.network.GRAIN
        if amount == 0:
            return x
        height, width = x.shape[2:]
        noise = _grain((height, width)).to(self.device)
        return x.addcmul(noise, _flatness(x), value=amount)

    def _desaturated(self, pixels: Tensor) -> Tensor:
        """Return the photograph with no more colour than the painting has.

        Only its detail that is finer than the painting remains visible.
        """
        if self.device.type == "cpu":  # five times as fast as the product
            return F.conv2d(pixels, self._desaturation.T[..., None, None])
        return (pixels.permute(0, 2, 3, 1) @ self._desaturation).permute(0, 3, 1, 2)

    def _so_far(self, level: Canvas, pixels: Tensor, change: Tensor) -> Tensor:
        """Return ``pixels`` of a level with the change so far applied, in [0, 1]."""
        return self._desaturated(level.clamped(pixels)).add_(change).clamp_(0, 1)

    def _paint_first(self, level: Canvas, change: Tensor, emit: _Emit) -> None:
        """Paint the level that the base's ``change`` (1, 3, h, w) is magnified onto."""
        magnified = _resize(_smoothed(change), level.bounds)
        finer = torch.empty_like(magnified)

        def change_here(region: Region) -> Tensor:
            return magnified[region.within(level.bounds)]

        def keep(tile: Region, near: Region, x: Tensor, painted: Tensor) -> None:
            within = tile.within(near)
            torch.sub(painted[within], x[within], out=finer[tile.within(level.bounds)])

        self._paint(level, change_here, keep)
        small = _resize(finer, Region(0, 0, *change.shape[2:]))
        finer -= _resize(_sharpened(small), level.bounds)
        for block in _blocks(level.bounds, self.device):
            within = block.within(level.bounds)
            x = self._so_far(level, level.read(block), magnified[within])
            painted = _add_detail(x, finer[within], _FINE_WEIGHT)
            stylized = mix(x, painted, self.opacity)
            emit(block, stylized.clamp_(0, 1))

    def _paint_octave(
        self, level: Canvas, magnify: _Magnify, emit: _Emit, weight: float
    ) -> None:
        """Paint a level, with this weight, on top of the one at half its size."""

        def take_back(tile: Region, near: Region, x: Tensor, painted: Tensor) -> None:
            finer = painted.sub_(x)
            low = _doubled(_sharpened(_halved(finer)))
            finer -= low[..., : x.shape[2], : x.shape[3]]
            for block in _blocks(tile, self.device):
                here = block.within(near)
                painted = _add_detail(x[here], finer[here], weight)
                stylized = mix(x[here], painted, self.opacity)
                emit(block, stylized.clamp_(0, 1))

        self._paint(level, magnify, take_back)

    def _magnify(self, level: Canvas, magnify: _Magnify, emit: _Emit) -> None:
        """Magnify the painting at half a level's size onto the level's own detail."""
        for block in _blocks(level.bounds, self.device):
            emit(block, self._so_far(level, level.read(block), magnify(block)))
            self._report(block.area // _COPIED)

    def _paint(self, level: Canvas, magnify: _Magnify, use: _Use) -> None:
        """Let the network paint a level, tile by tile, over the change so far.

        ``use`` is called with each tile, the region near it, and what the network saw
        and painted in that region.
        """

        def see(region: Region) -> Tensor:
            return self._so_far(level, level.read(region), magnify(region))

        statistics = self._measure(level, see)

        @functools.cache
        def frozen(dtype: torch.dtype) -> FrozenNetwork:
            return self.network.freeze(self.vector, statistics, dtype)

        def forward(x: Tensor, box: Region) -> Tensor:
            return frozen(x.dtype)(x, box).float()

        def paint(tile: Region, height: int, width: int) -> None:
            # All windows have the same shape, wherever the tile lies, as oneDNN keeps
            # code and buffers for every shape it has seen.
            window = tile.grow(self._overlap).resized(
                height + 2 * self._overlap, width + 2 * self._overlap, outside
            )
            painted_box = tile.grow(_NEAR).resized(
                height + 2 * _NEAR, width + 2 * _NEAR, whole_cells
            )
            inside = window.clip(level.bounds)
            x = _by_blocks(inside, self.device, see)
            painted = self._run(
                x,
                forward,
                window.margins_around(inside),
                painted_box.relative_to(window),
            ).sigmoid_()  # not earlier, as it would hide infinite values
            near = tile.grow(_NEAR).clip(level.bounds)
            use(tile, near, x[near.within(inside)], painted[near.within(painted_box)])

        whole_cells = level.bounds.round_up(_CELL)
        outside = level.bounds.grow(_CELL).round_up(_CELL)  # context at the edges
        pending = _alike(level.bounds, self.tile_size, self._overlap)
        while pending:
            tile, height, width = pending.pop()
            side = math.isqrt(height * width)
            try:
                paint(tile, height, width)
            except (MemoryError, RuntimeError) as error:
                if side <= SMALLEST_TILE or not is_out_of_memory(error):
                    raise
                logger.warning("out of memory at a tile of %d pixels, halved", side)
                side = max(SMALLEST_TILE, side // 2)
                left, pending = [*pending, (tile, height, width)], []
                for region, _, _ in left:
                    pending += _alike(region, side, self._overlap)
            else:
                self._report(tile.area)

    def _measure(
        self, level: Canvas, see: Callable[[Region], Tensor]
    ) -> dict[str, NormStatistics]:
        """Return the statistics of a level, measured on a sample of it."""
        patches = [see(patch) for patch in _sample(level.bounds)]
        statistics: dict[str, NormStatistics] = {}
        live = functools.partial(self._live, statistics=statistics)
        self._run(torch.cat(patches), live)
        return statistics

    def _live(
        self, x: Tensor, box: Region, statistics: dict[str, NormStatistics]
    ) -> Tensor:
        low = x.dtype != torch.float32
        with torch.autocast(self.device.type, x.dtype, enabled=low):
            stylized: Tensor = self.network(x, self.vector, statistics, box)
        return stylized[..., box.top : box.bottom, box.left : box.right]

    def _run(
        self,
        x: Tensor,
        network: Callable[[Tensor, Region], Tensor],
        margins: Region = _NO_MARGINS,
        box: Region | None = None,
    ) -> Tensor:
        """Run ``network`` on (B, 3, h, w), extended by reflection by ``margins``.

        The margins are rounded up to the network's stride. Return the part in ``box``,
        relative to the corner of the margins; by default the part inside the margins.
        When a 16-bit type overflows, the network runs again in float32.
        """
        stride = self.network.STRIDE
        height, width = x.shape[2:]
        top, left = (-(-m // stride) * stride for m in margins[:2])
        bottom = margins.bottom + -(top + height + margins.bottom) % stride
        right = margins.right + -(left + width + margins.right) % stride
        within = box or Region(top, left, top + height, left + width)

        def run(dtype: torch.dtype) -> Tensor:
            return network(reflected(x, (top, left, bottom, right), dtype), within)

        out = run(self.dtype)
        # An infinity or NaN makes the sum infinite or NaN, too.
        if self.dtype != torch.float32 and not out.sum().isfinite():
            logger.info("%s overflowed, redone in float32", self.dtype)
            out = run(torch.float32)
        return out

    def _report(self, work: int) -> None:
        self._done += work
        if self._progress is not None:
            call_back(self._progress, min(1.0, self._done / self._work))


@functools.cache
def _keep_freed_memory() -> None:
    """Make the C library keep more freed memory for the next tile.

    On Linux it keeps twice the largest block freed so far, up to 64 MB. To get that
    memory from the system again and again would take a tenth of the time.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


_trimmed = 0.0


def trim_heaps(seconds: float = 0.0) -> None:
    """Give free memory in the heaps back to the system, unless this was done in the
    last ``seconds``.

    The C library of Linux would keep more and more when pictures differ in size.
    """
    global _trimmed
    trim = getattr(_LIBC, "malloc_trim", None)  # glibc only
    if trim is not None and time.monotonic() > _trimmed + seconds:
        trim(0)
        _trimmed = time.monotonic()


def _base(picture: Region, base_size: float, network: StyleNetwork) -> Region:
    """Return the bounds of a picture at its base size."""
    ratio = math.sqrt(picture.area) / base_size
    # An extremely long picture, padded to the stride, would have a huge base.
    longest = max(1, int(base_size**2) // network.STRIDE)
    height, width = (
        min(longest, max(1, round(side / ratio)))
        for side in (picture.height, picture.width)
    )
    return Region(0, 0, height, width)


def _with_margins(base: Region, network: StyleNetwork) -> Region:
    """Return the base extended by its margins, which are smaller than its sides."""
    rows, columns = (
        min(_BASE_MARGIN, side - 1) // network.STRIDE * network.STRIDE
        for side in (base.height, base.width)
    )
    return Region(-rows, -columns, base.bottom + rows, base.right + columns)


def _overlap(network: StyleNetwork) -> int:
    """Return the overlap in pixels with which tiles equal the whole image."""
    return math.ceil((network.receptive_field + _NEAR) / _CELL) * _CELL


def _alike(
    region: Region, tile_size: int, border: int
) -> list[tuple[Region, int, int]]:
    """Return the tiles of a region, last first, each with the largest tile's size."""
    tiles = list(region.cut(tile_size, border))
    return [(tile, tiles[0].height, tiles[0].width) for tile in reversed(tiles)]


def usual_tile_size(
    device: torch.device,
    network: StyleNetwork,
    content: NDArray[Any],
    base_size: float,
    dtype: torch.dtype,
) -> int:
    """Return the default tile size for a picture.

    With it, a picture of up to 100 megapixels takes less than 400 MB on a CPU, and half
    of the free memory on a CUDA device, if that is enough.
    """
    if device.type == "cpu":
        height, width = content.shape[:2]
        side = 1024 if height * width <= _KEPT else 704
        return max(SMALLEST_TILE, int(network.side_for(side, dtype)))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        about = network, content, base_size, dtype
        try:
            return min(_LARGEST_TILE, tile_size_within(free // 2, *about))
        except MemoryLimitError:
            return SMALLEST_TILE
    return _LARGEST_TILE


def tile_size_within(
    memory_limit: int,
    network: StyleNetwork,
    content: NDArray[Any],
    base_size: float,
    dtype: torch.dtype,
) -> int:
    """Return the largest tile with which rendering ``content`` fits a limit in bytes.

    The limit counts tiles, the base and the levels, but not content and result. Raises
    :class:`~styleplug.errors.MemoryLimitError`, which states the least that is needed,
    when the limit is too small.
    """
    border = 2 * _overlap(network)
    per_pixel = network.bytes_per_pixel(dtype)
    height, width = content.shape[:2]
    largest_first = (2 * FINER * base_size) ** 2
    between = 36 * min(height * width, largest_first)  # three changes in float32
    if height * width > largest_first:
        per_channel = 1 if content.dtype == np.uint8 else 2
        # Three channels of the paintings at 1/4, 1/16, ... and of the photograph there.
        area = height * width
        shares = 2 if area <= _KEPT else 1.25
        between += int(shares * per_channel * area)
    base = _base(Region(0, 0, height, width), base_size, network)
    at_once = max((SMALLEST_TILE + border) ** 2, _with_margins(base, network).area)
    least = at_once * per_pixel + between
    if memory_limit < least:
        raise MemoryLimitError(
            f"A memory limit of {memory_limit / 1e6:.0f} MB is too small for this "
            f"picture; allow at least {math.ceil(least / 1e6)} MB."
        )
    return int(((memory_limit - between) / per_pixel) ** 0.5) - border


def _add_detail(x: Tensor, finer: Tensor, weight: float) -> Tensor:
    """Return ``x`` with a level's detail ``finer`` added; overwrites ``finer``."""
    return torch.add(x, finer, alpha=weight, out=finer)


def luma(x: Tensor) -> Tensor:
    """Return the lightness (B, 1, H, W) of (B, 3, H, W)."""
    red, green, blue = x.split(1, dim=1)
    light: Tensor = LUMA[0] * red
    return light.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _colorfulness(x: Tensor) -> float:
    """Return how much the colours of (1, 3, h, w) vary, apart from their lightness.

    They are measured at every fourth pixel, which is enough.
    """
    rows = x[..., ::4, ::4].permute(0, 2, 3, 1).flatten(0, 2)
    mean = rows.mean(dim=0, keepdim=True)
    covariance = rows.T @ rows / len(rows) - mean.T @ mean
    color = torch.eye(3, dtype=torch.float32, device=x.device) - _gray(x.device)
    return (color.T @ covariance @ color).trace().clamp(min=0).sqrt().item()


def _gray(device: torch.device) -> Tensor:
    """Return the matrix (3, 3) that makes rows of pixels (N, 3) gray."""
    return torch.tensor(LUMA, dtype=torch.float32, device=device).expand(3, 3).T


class _Octave:
    """The change from content to stylized image, magnified region by region."""

    def __init__(
        self, content: Canvas, stylized: Canvas, muted: Callable[[Tensor], Tensor]
    ) -> None:
        self.content = content
        self.stylized = stylized
        self.muted = muted

    def __call__(self, region: Region) -> Tensor:
        half = Region(
            region.top // 2,
            region.left // 2,
            math.ceil(region.bottom / 2),
            math.ceil(region.right / 2),
        )
        half = half.grow(2).clip(self.content.bounds)
        content = self.muted(self.content.read(half).clamp_(0, 1))
        change = self.stylized.read(half) - content
        enlarged = _doubled(_smoothed(change))
        top, left = region.top - 2 * half.top, region.left - 2 * half.left
        return enlarged[..., top : top + region.height, left : left + region.width]


@functools.lru_cache(maxsize=2)
def _noise(height: int, width: int) -> Tensor:
    """Return noise (1, 1, H, W) of at least that size, of deviation 1, with waves 2 to
    30 pixels long.

    It does not repeat. The noise of a larger size has the same beginning.
    """
    blocks = [range(-(-side // _NOISE_SIDE)) for side in (height, width)]
    sides = [  # multiples of the octaves, with room for what spreads from outside
        min(len(along) * _NOISE_SIDE, -(-side // 64) * 64 + 64)
        for along, side in zip(blocks, (height, width), strict=True)
    ]
    layers = [
        torch.empty(sides[0] // n, sides[1] // n, dtype=torch.float32) for n in _OCTAVES
    ]
    for row, column in itertools.product(*blocks):
        rng = torch.Generator().manual_seed((row << 16) + column)
        for layer, octave in zip(layers, _OCTAVES, strict=True):
            side = _NOISE_SIDE // octave
            block = torch.randn(side, side, generator=rng, dtype=torch.float32)
            here = layer[row * side :, column * side :][:side, :side]
            here.copy_(block[: len(here), : here.shape[1]])
    noise = layers[0][None, None]
    for layer in layers[1:]:
        noise = _doubled(noise) + layer
    return _doubled(noise) / _NOISE_DEVIATION


def _grain(size: tuple[int, int]) -> Tensor:
    """Return (1, 1, h, w) of the noise, starting at its origin.

    A slightly larger picture has the same noise, so that a preview shows it.
    """
    height, width = size
    drawn = size if max(size) > _NOISE_SIDE else (_NOISE_SIDE, _NOISE_SIDE)
    return _noise(*drawn)[..., :height, :width]


def _flatness(x: Tensor) -> Tensor:
    """Return how flat (1, 3, h, w) is around each pixel, (1, 1, h, w) in [0, 1]."""
    light = luma(x)
    mean, power = (
        F.avg_pool2d(of, 8, ceil_mode=True) for of in (light, light.square())
    )
    flat = torch.exp(-(power - mean.square()).clamp(min=0) / _FLAT**2)
    return F.interpolate(flat, x.shape[2:], mode="bilinear")


def _sample(bounds: Region) -> list[Region]:
    """Return patches of equal size that represent an image, or all of a small one.

    They lie on a grid of three by three, up to six by six in a large image.
    """
    height, width = min(bounds.height, _SAMPLE), min(bounds.width, _SAMPLE)
    if bounds.area <= 12 * height * width:
        return [bounds]
    count = min(6, max(3, math.isqrt(bounds.area // _SAMPLE**2 // 7)))
    tops = _spread(bounds.height, height, count)
    lefts = _spread(bounds.width, width, count)
    return [
        Region(top, left, top + height, left + width)
        for top, left in itertools.product(tops, lefts)
    ]


def _spread(side: int, patch: int, count: int) -> list[int]:
    """Return the starts of ``count`` patches that are spread evenly over a side."""
    gap = (side - patch) / count
    return [int((i + 0.5) * gap) // GRID * GRID for i in range(count)]


def _blocks(region: Region, device: torch.device) -> Iterator[Region]:
    """Cut a region into blocks, row by row."""
    side = _BLOCK_SIDES.get(device.type, 2048)
    for top in range(region.top, region.bottom, side):
        bottom = min(top + side, region.bottom)
        for left in range(region.left, region.right, side):
            yield Region(top, left, bottom, min(left + side, region.right))


def _by_blocks(
    region: Region, device: torch.device, compute: Callable[[Region], Tensor]
) -> Tensor:
    """Compute the pixels (1, 3, h, w) of a region, channels last, block by block."""
    size = 1, region.height, region.width, 3
    out = torch.empty(size, dtype=torch.float32, device=device).permute(0, 3, 1, 2)
    for block in _blocks(region, device):
        out[block.within(region)] = compute(block)
    return out


def _resize(x: Tensor, bounds: Region) -> Tensor:
    size = bounds.height, bounds.width
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if size == (2 * height, 2 * width):
        return _doubled(x)
    if (height, width) == (2 * size[0], 2 * size[1]):
        return _halved(x)
    smaller = size[0] < height or size[1] < width
    return _interpolated(x, size, "bilinear", antialias=smaller)


def _resize_bicubic(x: Tensor, bounds: Region) -> Tensor:
    """Resize (1, 3, h, w) by bicubic interpolation.

    Strokes stay crisp but become jagged. Where they are magnified for a network, it
    would take the jags for strokes.
    """
    size = bounds.height, bounds.width
    if tuple(x.shape[2:]) == size:
        return x
    if x.shape[2] > 8 * size[0] or x.shape[3] > 8 * size[1]:
        # Bicubic needs too much memory on CUDA; a Mac's GPU averages only where the
        # sides divide evenly.
        here = x.cpu() if x.device.type == "mps" else x
        return F.interpolate(here, size, mode="area").to(x.device)
    # A uniform colour stays exactly so: a normalisation would magnify rounding errors.
    corner = x[..., :1, :1]
    return _interpolated(x - corner, size, "bicubic", antialias=True).add_(corner)


def _interpolated(
    x: Tensor, size: tuple[int, int], mode: str, *, antialias: bool
) -> Tensor:
    """Resize (1, C, h, w), channels last.

    Torch interpolates three times as fast when each channel is contiguous.
    """
    x = F.interpolate(x.contiguous(), size, mode=mode, antialias=antialias)
    return x.contiguous(memory_format=torch.channels_last)


def _halved(x: Tensor) -> Tensor:
    """Return the average of every 2 x 2 pixels of (1, 3, h, w), channels last."""
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]).div_(4)


def _doubled(x: Tensor) -> Tensor:
    """Enlarge (1, 3, h, w), channels last, to twice the size, bilinearly."""
    columns = _doubled_along(2, x.permute(0, 2, 3, 1))
    return _doubled_along(1, columns).permute(0, 3, 1, 2)


def _doubled_along(dim: int, x: Tensor) -> Tensor:
    gaps = x.shape[dim] - 1
    out = x.new_empty(*x.shape[: dim + 1], 2, *x.shape[dim + 1 :])
    first, second = out.unbind(dim + 1)
    left, right = x.narrow(dim, 0, gaps), x.narrow(dim, 1, gaps)
    torch.lerp(right, left, 0.25, out=first.narrow(dim, 1, gaps))
    torch.lerp(left, right, 0.25, out=second.narrow(dim, 0, gaps))
    first.select(dim, 0).copy_(x.select(dim, 0))
    second.select(dim, gaps).copy_(x.select(dim, gaps))
    return out.flatten(dim, dim + 1)


def _smoothed(x: Tensor) -> Tensor:
    """Smooth (1, 3, h, w) so that its pixels do not show when it is magnified.

    Smoothing and doubling is about the same as doubling by cubic B-splines. Their jags,
    which the network would take for strokes along the axes, are fainter than bilinear
    ones.
    """
    return _with_neighbours(x, _SOFT)


def _sharpened(x: Tensor) -> Tensor:
    """Sharpen (1, 3, h, w) to make up for the blur of enlarging and averaging it.

    These blur by about (1, 6, 1) / 8 along height and width.
    """
    return _with_neighbours(x, -0.25)


def _with_neighbours(x: Tensor, share: float) -> Tensor:
    """Mix a share of both neighbours into (1, 3, h, w), along height and width."""
    for dim in (2, 3):
        last = x.shape[dim] - 1
        out = x * (1 - share)
        for i, j in ((0, 1), (1, 0)):
            neighbours, edge = x.narrow(dim, j, last), x.select(dim, i * last)
            out.narrow(dim, i, last).add_(neighbours, alpha=share / 2)
            out.select(dim, i * last).add_(edge, alpha=share / 2)
        x = out
    return x


def call_back(function: Callable[..., object], *arguments: Any) -> None:
    """Call a caller's function and mark an exception it raises, which ends the work."""
    try:
        function(*arguments)
    except Exception as error:
        error.__dict__[_RAISED_BY_CALLER] = True
        raise


def is_raised_by_caller(error: Exception) -> bool:
    """Return whether an error was raised by a function of the caller."""
    return _RAISED_BY_CALLER in error.__dict__


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means, in any device's wording, that memory ran out.

    An error that a function of the caller raised never does.
    """
    if is_raised_by_caller(error):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)
