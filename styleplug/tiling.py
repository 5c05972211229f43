"""Rectangles of pixels, and how they are cut into tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

GRID = 16
"""Tile origins are multiples of this, and so of the network's stride and of 2."""


class Region(NamedTuple):
    """A rectangle of pixels, ``bottom`` and ``right`` excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def relative_to(self, outer: Region) -> Region:
        """Return the region with the origin of ``outer`` as the origin."""
        return Region(
            self.top - outer.top,
            self.left - outer.left,
            self.bottom - outer.top,
            self.right - outer.left,
        )

    def within(self, outer: Region) -> tuple[Any, slice, slice]:
        """Return the index that cuts this region out of a tensor of ``outer``."""
        top, left, bottom, right = self.relative_to(outer)
        return (..., slice(top, bottom), slice(left, right))

    def grow(self, overlap: int) -> Region:
        """Return the region extended by ``overlap`` on each side."""
        return Region(
            self.top - overlap,
            self.left - overlap,
            self.bottom + overlap,
            self.right + overlap,
        )

    def clip(self, outer: Region) -> Region:
        """Return the part of the region that lies in ``outer``."""
        return Region(
            max(outer.top, self.top),
            max(outer.left, self.left),
            min(outer.bottom, self.bottom),
            min(outer.right, self.right),
        )

    def round_up(self, cell: int) -> Region:
        """Return the region, bottom and right rounded up to multiples of ``cell``."""
        bottom, right = -(-self.bottom // cell) * cell, -(-self.right // cell) * cell
        return Region(self.top, self.left, bottom, right)

    def resized(self, height: int, width: int, outer: Region) -> Region:
        """Return the region enlarged to that size and moved to lie in ``outer``.

        Where ``outer`` is smaller, the region spans all of it.
        """
        top = max(outer.top, min(self.top, outer.bottom - height))
        left = max(outer.left, min(self.left, outer.right - width))
        return Region(top, left, top + height, left + width).clip(outer)

    def margins_around(self, inner: Region) -> Region:
        """Return how far this region reaches beyond ``inner`` on each side."""
        return Region(
            inner.top - self.top,
            inner.left - self.left,
            self.bottom - inner.bottom,
            self.right - inner.right,
        )

    def cut(self, tile_size: int, border: int = 0) -> Iterator[Region]:
        """Cut the region into tiles and yield them row by row.

        With a ``border`` around it, a tile has no more pixels than a square of
        ``tile_size`` with that border. The cut minimises the total area of the tiles
        and their borders. The tiles are about equally large; their origins lie on
        multiples of :data:`GRID` from the origin of the region.
        """
        largest = (tile_size + 2 * border) ** 2
        least, best = math.inf, (GRID, GRID)
        for count in range(1, math.ceil(self.height / GRID) + 1):
            height = _step(self.height, count)
            room = int(largest / (height + 2 * border)) - 2 * border
            if room < self.width:
                room = room // GRID * GRID
            if room < 1:
                continue
            width = _step(self.width, math.ceil(self.width / room))
            count *= math.ceil(self.width / width)
            area = count * (height + 2 * border) * (width + 2 * border)
            if area < least:
                least, best = area, (height, width)
        rows = [*range(self.top, self.bottom, best[0]), self.bottom]
        columns = [*range(self.left, self.right, best[1]), self.right]
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                yield Region(top, left, bottom, right)


def _step(length: int, count: int) -> int:
    """Return the length of each part when a length is cut into at most ``count``."""
    return min(length, math.ceil(length / count / GRID) * GRID)
