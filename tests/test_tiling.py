import numpy as np
import pytest

from styleplug.tiling import GRID, Region


@pytest.mark.parametrize("border", [0, 40])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 700), (256, 256), (300, 7)])
def test_tiles_cover_every_pixel_once_from_the_grid(height, width, border):
    count = np.zeros((height, width), int)
    for tile in Region(0, 0, height, width).cut(64, border):
        assert tile.top % GRID == tile.left % GRID == 0
        assert tile.area > 0
        assert tile.grow(border).area <= (64 + 2 * border) ** 2
        count[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert (count == 1).all()


def test_a_picture_as_large_as_a_tile_is_not_cut():
    assert list(Region(0, 0, 512, 2048).cut(1024)) == [Region(0, 0, 512, 2048)]
