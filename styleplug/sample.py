"""A landscape by code, so that a first try needs no photograph.

An evening lake below misty mountains, 960 x 640: smooth gradients, hard edges and
fine texture, which is what a style can show itself on. The same every time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 960, 640
HORIZON = 372
_SUN = (655.0, 286.0)
_OVERSAMPLE = 2  # of everything that is drawn with a brush

Array = NDArray[Any]
Color = tuple[int, int, int]


def draw_scene() -> Image.Image:
    """Return the landscape, RGB, 960 x 640."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    scene = _sky(x, y, rng)
    scene = _mountains(scene, x, y, rng)
    scene = _paint(scene, lambda brush: _far_shore(brush, rng))
    scene = _lake(scene, x, y, rng)
    scene = _paint(scene, _boat)
    scene = _meadow(scene, x, y, rng)
    scene = _paint(scene, lambda brush: _near_shore(brush, rng))
    pixels = np.clip(scene, 0, 1) * 255 + 0.5
    return Image.fromarray(pixels.astype(np.uint8))


def _noise(rng: np.random.Generator, cells_x: float, cells_y: float) -> Array:
    """Smooth noise (HEIGHT, WIDTH) in [0, 1], about that many bumps across."""
    grid = rng.random((math.ceil(cells_y) + 2, math.ceil(cells_x) + 2), np.float32)

    def along(size: int, cells: float) -> tuple[Array, Array]:
        at = np.arange(size, dtype=np.float32) * (cells / size)
        part = at % 1
        return at.astype(int), part * part * (3 - 2 * part)

    (top, down), (left, right) = along(HEIGHT, cells_y), along(WIDTH, cells_x)
    rows = grid[top] + (grid[top + 1] - grid[top]) * down[:, None]
    result: Array = rows[:, left] + (rows[:, left + 1] - rows[:, left]) * right
    return result


def _clouded(
    rng: np.random.Generator, cells_x: float, cells_y: float, octaves: int
) -> Array:
    """Fractal noise in [0, 1]: each octave twice as fine and half as strong."""
    full = 2 - 2 ** (1 - octaves)
    parts = [
        _noise(rng, cells_x * 2**i, cells_y * 2**i) / (full * 2**i)
        for i in range(octaves)
    ]
    total: Array = sum(parts[1:], parts[0])
    return total


def _blend(below: Array, above: Array | Color, amount: Array) -> Array:
    if isinstance(above, tuple):
        above = np.array(above, np.float32) / 255
    return below + (above - below) * amount[..., None]


def _gradient(position: Array, stops: list[tuple[float, Color]]) -> Array:
    places = [place for place, _ in stops]
    colors = np.array([color for _, color in stops]) / 255
    planes = [np.interp(position, places, colors[:, i]) for i in range(3)]
    return np.stack(planes, axis=-1).astype(np.float32)


def _step(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


def _shift(value: Array, dy: int, dx: int) -> Array:
    """Return what lies `dy` below and `dx` to the right of each place."""
    rows = np.clip(np.arange(HEIGHT) + dy, 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) + dx, 0, WIDTH - 1)
    return value[rows[:, None], columns]


def _sky(x: Array, y: Array, rng: np.random.Generator) -> Array:
    sky = _gradient(
        y / HORIZON,
        [
            (0.0, (44, 84, 146)),
            (0.35, (104, 148, 190)),
            (0.62, (196, 196, 190)),
            (0.8, (246, 206, 150)),
            (1.0, (248, 168, 110)),
        ],
    )
    distance = np.hypot(x - _SUN[0], (y - _SUN[1]) * 1.15)
    sky = _blend(sky, (255, 214, 140), 0.75 * np.exp(-distance / 130))

    billows = 1 - np.abs(2 * _clouded(rng, 5, 9, 6) - 1)
    density = billows + 0.10 * np.sin(y / 40 + x / 240 + 2.2)
    density -= 0.14 * _step(y, 190, 320)
    cover = _step(density, 0.74, 1.0)
    thickness = _shift(density, 7, 9) - density  # lit from the sun
    lit = _step(-thickness, -0.12, 0.14)
    near_sun = np.exp(-distance / 300)
    shade = _gradient(
        lit, [(0, (118, 128, 164)), (0.55, (226, 206, 206)), (1, (255, 243, 226))]
    )
    shade = _blend(shade, (255, 196, 132), 0.65 * near_sun * (0.35 + 0.65 * lit))
    sky = _blend(sky, shade, 0.92 * cover)
    return _blend(sky, (255, 250, 224), 1 - _step(distance, 25, 29))


def _mountains(scene: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    across = x[0]

    def ridge(base: float, height: float, cells: float) -> Array:
        line: Array = _clouded(rng, cells, 1, 6)[0]
        return base - height * (line - 0.5)

    far = ridge(268, 190, 4.5) - 46 * np.exp(-(((across - 250) / 150) ** 2))
    peaks = ridge(292, 200, 3.6) - 96 * np.exp(-(((across - 390) / 105) ** 2))
    hills = ridge(330, 120, 5) - 40 * np.exp(-(((across - 860) / 150) ** 2))
    woods = ridge(354, 46, 9)
    folds = [1 - np.abs(2 * _noise(rng, 15 * 2**i, 11 * 2**i) - 1) for i in range(5)]
    rock = np.sum([fold / 1.9**i for i, fold in enumerate(folds)], axis=0) / 2.0
    relief = 0.8 * (_shift(rock, -1, -3) - rock)

    layers: list[tuple[Array, list[tuple[float, Color]], float, float]] = [
        (far, [(0, (150, 150, 184)), (1, (220, 188, 178))], 0.5, 0.42),
        (
            peaks,
            [(0, (92, 104, 148)), (0.6, (136, 136, 166)), (1, (206, 176, 168))],
            1.6,
            0.5,
        ),
        (hills, [(0, (72, 96, 116)), (1, (150, 148, 150))], 0.9, 0.35),
        (woods, [(0, (38, 70, 70)), (1, (84, 108, 102))], 0.8, 0.2),
    ]
    for line, stops, roughness, mist in layers:
        depth = y - line
        body = _gradient(depth / 130, stops) * (1 + roughness * relief[..., None] * 2)
        if line is peaks:
            snow = _step(170 * rock - 52 - depth, 0, 12) * _step(262 - line, 0, 30)
            white = _gradient(
                relief * 4 + 0.5, [(0, (138, 152, 196)), (1, (255, 240, 228))]
            )
            body = _blend(body, white, snow)
        fog = mist * _step(y, HORIZON - 75, HORIZON)
        body = _blend(body, (242, 206, 176), fog)
        scene = _blend(scene, body, np.clip(depth + 0.5, 0, 1))
    return scene


class _Brush:
    """Draws on a transparent sheet larger than the scene, in its coordinates."""

    def __init__(self) -> None:
        size = WIDTH * _OVERSAMPLE, HEIGHT * _OVERSAMPLE
        self.sheet = Image.new("RGBA", size)
        self._draw = ImageDraw.Draw(self.sheet)

    def polygon(self, points: list[tuple[float, float]], color: Color) -> None:
        self._draw.polygon(
            [(a * _OVERSAMPLE, b * _OVERSAMPLE) for a, b in points], color
        )

    def line(
        self, points: list[tuple[float, float]], color: Color, width: float
    ) -> None:
        scaled = [(a * _OVERSAMPLE, b * _OVERSAMPLE) for a, b in points]
        self._draw.line(scaled, color, max(1, round(width * _OVERSAMPLE)), "curve")

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        box = (x - rx, y - ry, x + rx, y + ry)
        self._draw.ellipse([v * _OVERSAMPLE for v in box], color)


def _paint(scene: Array, draw: Any) -> Array:
    brush = _Brush()
    draw(brush)
    # Premultiplied, so that the transparent sheet does not darken the edges.
    sheet = brush.sheet.convert("RGBa").reduce(_OVERSAMPLE)
    planes = np.asarray(sheet, np.float32) / 255
    return scene * (1 - planes[..., 3:]) + planes[..., :3]


def _vary(color: Color, rng: np.random.Generator, amount: float) -> Color:
    """Return a colour that is a little lighter or darker, warmer or cooler."""
    factor = 1 + amount * (rng.random() * 2 - 1)
    warmth = amount * 20 * (rng.random() * 2 - 1)
    r, g, b = np.clip(np.array(color) * factor + (warmth, 0, -warmth), 0, 255)
    return int(r), int(g), int(b)


def _fir(
    brush: _Brush,
    x: float,
    y: float,
    height: float,
    color: Color,
    rng: np.random.Generator,
) -> None:
    red, green, blue = color
    light = (red * 3 // 2 + 14, green * 3 // 2 + 14, blue * 3 // 2 + 14)
    brush.line([(x, y), (x, y - height * 0.4)], (54, 40, 34), height / 30)
    tiers = max(5, int(height / 9))
    drop = height * 1.9 / tiers
    for i in range(tiers):
        top = y - height + i * height * 0.9 / tiers
        reach = height * 0.23 * (i + 0.7) / tiers * rng.uniform(0.85, 1.1)
        left, right, foot = x - reach, x + reach, top + drop
        twigs = [(x, top), (left, foot), (x, top + drop * 0.72), (right, foot)]
        brush.polygon(twigs, _vary(color, rng, 0.18))
        edge = [(x + reach * 0.2, top + drop * 0.35), (x + reach * 0.85, foot - 1)]
        brush.line(edge, light, height / 70)


def _far_shore(brush: _Brush, rng: np.random.Generator) -> None:
    shore = [(0.0, HORIZON + 2.0)]
    for px in range(0, WIDTH + 1, 12):
        shore.append((px, HORIZON - 4 - 5 * math.sin(px / 90) - rng.random() * 3))
    brush.polygon([*shore, (WIDTH, HORIZON + 2)], (84, 104, 72))
    for px in np.sort(rng.uniform(-10, WIDTH + 10, 90)):
        if 452 < px < 566 or rng.random() < 0.15:
            continue
        size = rng.uniform(16, 40) * (1.25 if px < 330 or px > 780 else 0.8)
        _fir(brush, px, HORIZON - 2, size, _vary((40, 70, 62), rng, 0.25), rng)
    _house(brush, 492, HORIZON - 5)
    for px in (470, 478, 556, 566, 574):
        brush.disc(px, HORIZON - 10, 9, 10, _vary((92, 122, 62), rng, 0.2))


def _house(brush: _Brush, x: float, y: float) -> None:
    def shape(color: Color, *corners: tuple[float, float]) -> None:
        brush.polygon([(x + dx, y + dy) for dx, dy in corners], color)

    def box(color: Color, left: float, top: float, right: float, bottom: float) -> None:
        shape(color, (left, top), (right, top), (right, bottom), (left, bottom))

    gable = [(36.0, 0.0), (36.0, -21.0), (46.0, -33.0), (56.0, -21.0), (56.0, 0.0)]
    eaves = [(46.0, -36.0), (36.0, -20.0), (39.0, -19.0), (47.0, -32.0)]
    box((246, 226, 190), 0, -21, 36, 0)
    shape((204, 172, 140), *gable)
    shape((188, 66, 48), (-4, -20), (8, -36), (46, -36), (36, -20))
    shape((132, 46, 40), *eaves, (57, -19), (59, -21))
    box((150, 82, 66), 12, -43, 18, -31)
    box((110, 62, 46), 15, -13, 21, 0)
    box((86, 92, 110), 5, -15, 11, -7)
    box((255, 214, 110), 25, -15, 31, -7)
    box((255, 214, 110), 44, -15, 50, -7)


def _lake(scene: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    depth = np.maximum(y - HORIZON, 0)
    ripple = _clouded(rng, 10, 90, 3) - 0.5
    waves = np.sin(depth**0.72 * 2.4 + 9 * ripple) * (0.6 + depth / 90)
    source_y = np.clip(HORIZON - depth * 1.05 - 3 * waves, 0, HORIZON - 1).astype(int)
    source_x = np.clip(x + 14 * ripple * depth / 60 + waves, 0, WIDTH - 1).astype(int)
    mirror = scene[source_y, source_x] * np.float32(0.86)
    water = _blend(mirror, (38, 84, 118), 0.16 + 0.44 * _step(depth, 0, 260))
    crest = _step(np.sin(depth**0.72 * 2.4 + 9 * ripple + 1) + 1.6 * ripple, 0.5, 1.2)
    water = _blend(water, (206, 214, 222), 0.20 * crest)
    width = 16 + depth * 0.34
    path = np.exp(-(((x - _SUN[0]) / width) ** 2)) * _step(
        waves + 2.5 * ripple, -0.3, 0.9
    )
    water = _blend(
        water, (255, 226, 158), 0.9 * path * (1 - 0.5 * _step(depth, 60, 240))
    )
    water = _blend(water, (250, 222, 190), 0.5 * np.exp(-np.abs(depth) / 5))
    return _blend(scene, water, (y >= HORIZON).astype(np.float32))


def _boat(brush: _Brush) -> None:
    x, y = 330.0, 452.0
    for i in range(9):  # its reflection, broken by the waves
        inset = i * 2.0 + 2 * math.sin(i * 2.1)
        brush.line(
            [(x + 8 + inset, y + 17 + 2.6 * i), (x + 84 - inset, y + 17 + 2.6 * i)],
            (74 + 3 * i, 56 + 5 * i, 62 + 7 * i),
            1.5,
        )
    brush.line([(x + 43, y - 66), (x + 43, y + 8)], (96, 66, 48), 2)
    brush.polygon([(x + 45, y - 64), (x + 76, y - 8), (x + 45, y - 3)], (250, 240, 220))
    brush.polygon(
        [(x + 45, y - 64), (x + 58, y - 40), (x + 45, y - 34)], (255, 250, 238)
    )
    brush.polygon([(x + 41, y - 58), (x + 41, y - 4), (x + 17, y - 9)], (226, 112, 72))
    brush.polygon(
        [(x, y), (x + 92, y - 2), (x + 80, y + 15), (x + 13, y + 16)], (134, 48, 44)
    )
    brush.polygon(
        [(x, y), (x + 92, y - 2), (x + 90, y + 3), (x + 3, y + 5)], (240, 214, 170)
    )
    brush.line([(x + 8, y + 10), (x + 84, y + 8)], (92, 32, 34), 1)


def _bank(x: Array | float) -> Any:
    """Height of the near shore at `x`."""
    return (
        548
        - 62 * np.exp(-((x / 230) ** 2))
        - 34 * np.exp(-(((x - 980) / 240) ** 2))
        + 7 * np.sin(x / 47)
    )


def _meadow(scene: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    depth = y - _bank(x) - 8 * (_noise(rng, 60, 8) - 0.5)
    ground = _gradient(
        depth / 110, [(0, (146, 152, 74)), (0.3, (104, 132, 56)), (1, (46, 76, 40))]
    )
    ground = ground * (0.72 + 0.56 * _clouded(rng, 24, 20, 5)[..., None])
    ground = _blend(ground, (206, 178, 128), 0.85 * (1 - _step(depth, 3, 10)))
    return _blend(scene, ground, np.clip(depth + 0.5, 0, 1))


def _near_shore(brush: _Brush, rng: np.random.Generator) -> None:
    for px, size in ((905, 214), (948, 260), (862, 150), (828, 104), (930, 150)):
        _fir(brush, px, float(_bank(px)) + 16, size, (30, 62, 50), rng)
    _oak(brush, rng)
    _grass(brush, rng)


def _oak(brush: _Brush, rng: np.random.Generator) -> None:
    x, y = 118.0, float(_bank(118.0)) + 26
    bark = (70, 50, 42)
    brush.polygon(
        [
            (x - 22, y + 6),
            (x - 9, y - 60),
            (x - 8, y - 150),
            (x + 8, y - 150),
            (x + 10, y - 60),
            (x + 26, y + 6),
        ],
        bark,
    )
    for dx, dy in (
        (-70, -205),
        (64, -210),
        (-36, -250),
        (30, -262),
        (-92, -160),
        (86, -158),
    ):
        brush.line(
            [(x, y - 90), (x + dx * 0.4, y + dy * 0.62), (x + dx, y + dy)], bark, 7
        )
    for i in range(7):
        brush.line(
            [(x - 12 + 4 * i, y), (x - 6 + 2 * i, y - 70), (x - 5 + 1.6 * i, y - 140)],
            _vary((104, 78, 60), rng, 0.3),
            1,
        )
    centres = [
        (-88, -176, 50),
        (78, -178, 52),
        (-46, -248, 58),
        (40, -258, 60),
        (0, -206, 66),
        (0, -300, 46),
        (-104, -222, 36),
        (102, -226, 38),
    ]
    shades = [(0.0, (30, 56, 38)), (0.3, (50, 84, 42)), (0.55, (82, 116, 48))]
    shades += [(0.8, (132, 150, 58)), (1.0, (198, 190, 92))]
    for share, shade in shades:
        for cx, cy, radius in centres:
            for _ in range(int(120 - 50 * share)):
                angle, reach = (
                    rng.uniform(0, 2 * math.pi),
                    radius * math.sqrt(rng.random()),
                )
                # light comes from the right and above
                lx = cx + reach * math.cos(angle) * (1 - 0.4 * share) + 17 * share
                ly = cy + reach * math.sin(angle) * (1 - 0.4 * share) - 14 * share
                leaf = rng.uniform(2.5, 6.5) * (1 - 0.55 * share)
                brush.disc(x + lx, y + ly, leaf * 1.25, leaf, _vary(shade, rng, 0.2))


def _grass(brush: _Brush, rng: np.random.Generator) -> None:
    greens: list[Color] = [
        (64, 98, 44),
        (96, 130, 54),
        (136, 158, 66),
        (180, 178, 92),
        (42, 74, 42),
    ]
    flowers: list[Color] = [
        (220, 56, 48),
        (250, 206, 72),
        (246, 240, 232),
        (150, 96, 180),
    ]
    roots = [
        (rng.uniform(-10, WIDTH + 10), math.sqrt(rng.random())) for _ in range(5200)
    ]
    for px, near in sorted(roots, key=lambda root: root[1]):
        bank = float(_bank(px)) + 9
        py = bank + (HEIGHT + 8 - bank) * near
        size = 5 + 24 * near**2 * rng.uniform(0.5, 1.3)
        bend = rng.normal(0.12, 0.28) * size
        color = _vary(greens[rng.integers(len(greens))], rng, 0.2)
        tip = (px + bend, py - size)
        brush.line(
            [(px, py), (px + bend * 0.3, py - size * 0.6), tip], color, 0.6 + near
        )
        if rng.random() < 0.045:
            petal = 0.9 + 2.9 * near
            tint = _vary(flowers[rng.integers(len(flowers))], rng, 0.1)
            brush.disc(*tip, petal * 1.2, petal, tint)
            brush.disc(
                tip[0] + petal * 0.3,
                tip[1] - petal * 0.2,
                petal * 0.4,
                petal * 0.35,
                (255, 228, 150),
            )
