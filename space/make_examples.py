"""Generate the example pictures of the demo by arithmetic alone.

``python space/make_examples.py [folder]`` writes three seeded pictures, so that the
package can ship examples to which nobody holds rights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
WIDTH, HEIGHT = 1200, 900


def noise(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, octaves: int
) -> Array:
    """Return fractal noise (H, W) of about [0, 1], with cells of ``scale`` pixels and
    less."""
    total, weight = np.zeros(shape), 0.0
    for octave in range(octaves):
        cells = [max(2, round(side * 2**octave / scale) + 1) for side in shape]
        grid = rng.random(cells).astype(np.float32)
        layer = Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def blend(below: Array, above: Array, amount: Array) -> Array:
    return below + (above - below) * np.clip(amount, 0, 1)[..., None]


def color(*rgb: int) -> Array:
    return np.array(rgb) / 255


def ramp(top: Array, bottom: Array, t: Array) -> Array:
    return blend(np.broadcast_to(top, (*t.shape, 3)), bottom, t)


def reflect(image: Array, horizon: int, tint: Array, rng: np.random.Generator) -> Array:
    """Fill the part below ``horizon`` with rippled water that mirrors the rest."""
    rows, columns = HEIGHT - horizon, np.arange(WIDTH)
    depth = np.arange(rows)[:, None] / rows
    wave = noise(rng, (rows * 6, WIDTH), 120, 4)[::6] - 0.5
    source = horizon - 1 - np.arange(rows)[:, None] * 0.9 + wave * 90 * (depth + 0.08)
    shifted = columns + wave * 30 * depth
    mirrored = image[
        np.clip(source, 0, horizon - 1).astype(int),
        np.clip(shifted, 0, WIDTH - 1).astype(int),
    ]
    glitter = np.clip(wave * 6 - 1.1, 0, 1) * (0.25 + depth / 2)
    water = blend(mirrored * 0.88, tint, 0.18 + 0.35 * depth + 0 * wave)
    return np.concatenate(
        [image[:horizon], blend(water, color(255, 244, 225), glitter)]
    )


def lake(rng: np.random.Generator) -> Array:
    """Snowy mountains over a lake, late in the day."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    horizon = 590
    image = ramp(color(64, 110, 178), color(255, 214, 165), (y / horizon) ** 1.3)
    sun = np.hypot(x - 850, y - 330)
    image = blend(image, color(255, 246, 214), np.exp(-((sun / 190) ** 1.1)))
    image = blend(image, color(255, 252, 240), 42 - sun)
    clouds = noise(rng, (HEIGHT * 3, WIDTH), 420, 6)[::3]
    image = blend(
        image, color(255, 232, 222), np.clip(clouds * 3.4 - 1.75, 0, 0.9) * (y < 420)
    )
    for base, height, hue, haze in (
        (520, 430, color(104, 112, 140), 0.42),
        (560, 300, color(78, 92, 108), 0.22),
    ):
        ridge = noise(rng, (2, WIDTH), 420, 8)[0]
        peak = base - height * np.clip(ridge - 0.28, 0.02, 1) * 1.3
        relief = noise(rng, (HEIGHT, WIDTH), 150, 7)
        slope = np.gradient(relief, axis=1) * 60 + (relief - 0.5)
        rock = hue * (1 + 0.9 * slope[..., None])
        snow = np.clip((peak + 105 - y + 130 * (relief - 0.5)) / 26, 0, 1)
        rock = blend(rock, color(246, 240, 240) * (1 + 0.3 * slope[..., None]), snow)
        rock = blend(rock, color(240, 206, 180), haze + (y - peak) / 1500)
        image = blend(image, rock, y - peak)
    grass = 548 + 26 * noise(rng, (2, WIDTH), 300, 4)[0]
    meadow = (
        color(96, 124, 52) * (0.7 + 0.7 * noise(rng, (HEIGHT, WIDTH), 40, 4))[..., None]
    )
    image = blend(image, meadow, y - grass)
    for _ in range(150):
        left, size = rng.uniform(-20, WIDTH + 20), rng.uniform(34, 104)
        if 480 < left < 820:
            size *= 0.35
        foot = horizon - rng.uniform(2, 26)
        along = (y - (foot - size)) / size
        reach = size * 0.24 * along * (0.72 + 0.28 * np.sin(along * 34 + left))
        tree = np.where((along > 0) & (along < 1), reach - np.abs(x - left), -1)
        light = 0.6 + 0.5 * np.clip((x - left) / (size * 0.2), -1, 1)
        green = rng.uniform(0.8, 1.25) * color(40, 74, 48) * light[..., None]
        image = blend(image, green, tree)
    return reflect(image, horizon, color(50, 86, 120), rng)


def harbour(rng: np.random.Generator) -> Array:
    """A row of coloured houses on a quay, with boats."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    horizon = 610
    image = ramp(color(86, 146, 208), color(214, 232, 242), y / horizon)
    clouds = noise(rng, (HEIGHT * 2, WIDTH), 380, 6)[::2]
    image = blend(image, color(255, 255, 255), np.clip(clouds * 4 - 1.9, 0, 0.95))
    grain = noise(rng, (HEIGHT, WIDTH), 24, 4)
    walls = [
        *((214, 84, 62), (238, 186, 82), (96, 140, 170), (232, 220, 200)),
        *((168, 62, 70), (120, 160, 118), (240, 158, 110), (76, 104, 140)),
    ]
    left = -30.0
    for index in range(12):
        width, top = rng.uniform(96, 148), rng.uniform(170, 300)
        inside = np.minimum(x - left, left + width - x)
        wall = color(*walls[index % len(walls)]) * (0.82 + 0.36 * grain[..., None])
        shade = np.clip(1.08 - (x - left) / width * 0.22, 0, 2)[..., None]
        image = blend(image, wall * shade, np.minimum(inside, y - top))
        gable = (y - (top - width * 0.42)) / (width * 0.42)
        roof = color(132, 62, 48) * (0.75 + 0.5 * grain[..., None])
        roof = roof * (1 - 0.2 * (np.sin(y * 0.9) > 0)[..., None])
        edge = (width / 2 + 6) * gable - np.abs(x - left - width / 2)
        image = blend(image, roof, np.where((gable > 0) & (gable < 1), edge, -1))
        columns = 3 if width > 118 else 2
        for row in range(int((horizon - top - 70) // 74)):
            for column in range(columns):
                cx = left + width * (column + 0.5) / columns
                cy = top + 48 + row * 74
                pane = np.minimum(13 - np.abs(x - cx), 21 - np.abs(y - cy))
                image = blend(image, color(248, 244, 236), pane + 4)
                glass = (
                    color(60, 82, 104) * (0.7 + 0.8 * ((y - cy + 21) / 42))[..., None]
                )
                image = blend(image, glass, pane)
                bars = 1.6 - np.minimum(np.abs(x - cx), np.abs(y - cy + 6))
                image = blend(image, color(248, 244, 236), np.minimum(bars, pane + 2))
        door = np.minimum(15 - np.abs(x - left - width * 0.5), y - (horizon - 66))
        image = blend(image, color(64, 44, 40), door)
        left += width
    stone = color(150, 140, 128) * (0.75 + 0.5 * grain)[..., None]
    image = blend(image, stone, y - (horizon - 24))
    image = reflect(image, horizon, color(40, 84, 104), rng)
    for cx, size, hull in ((250, 1.0, (38, 70, 120)), (560, 0.8, (190, 52, 44)),
                           (930, 1.15, (240, 236, 224))):  # fmt: skip
        deck = horizon + 60 * size
        for sign in (1, -1):  # the boat and, below it, its reflection
            up = (deck - y) * sign + (0 if sign > 0 else 66 * size)
            half = (92 + 26 * np.clip(up / 30, -1, 1)) * size
            body = np.minimum(
                half - np.abs(x - cx), np.minimum(up + 32 * size, -up + 6)
            )
            cabin = np.minimum(
                34 * size - np.abs(x - cx + 20 * size),
                np.minimum(up - 4, 44 * size - up),
            )
            mast = np.minimum(3.2 * size - np.abs(x - cx - 24 * size), 300 * size - up)
            mast = np.minimum(mast, up)
            sail = np.minimum(
                x - cx - 30 * size, (250 * size - up) * 0.36 - (x - cx - 30 * size)
            )
            sail = np.minimum(sail, up - 40 * size)
            for shape, rgb in ((mast, (96, 66, 44)), (sail, (246, 236, 214)),
                               (cabin, (250, 246, 238)), (body, hull)):  # fmt: skip
                paint = color(*rgb) * (0.8 + 0.4 * grain)[..., None]
                fade = 1.0 if sign > 0 else 0.4
                image = blend(
                    image,
                    paint,
                    np.clip(shape, 0, fade) * ((sign > 0) | (y > horizon + 92 * size)),
                )
    return image


def still_life(rng: np.random.Generator) -> Array:
    """Fruit and a vase on a cloth, by marching rays through a distance field."""
    fruit = [  # centre, radius, colour
        (-1.75, 0.62, 0.2, 0.62, (226, 96, 34)),
        (-0.75, 0.55, -0.75, 0.55, (198, 38, 40)),
        (2.35, 0.5, -0.55, 0.5, (122, 158, 46)),
        (1.0, 0.6, 0.05, 0.6, (232, 176, 48)),
        (-2.75, 0.5, -0.6, 0.5, (214, 158, 40)),
        (0.35, 0.42, -1.15, 0.42, (120, 30, 62)),
    ]

    def vase(p: Array) -> Array:
        radius = np.hypot(p[..., 0] - 0.2, p[..., 2] - 1.6)
        t = np.clip(p[..., 1], 0, 3.1)
        profile = 0.55 + 0.42 * np.sin(t * 1.5 + 0.1) * np.exp(-((t - 1.0) ** 2) / 1.9)
        side = (radius - profile) * 0.6
        return np.maximum(side, np.abs(p[..., 1] - 1.55) - 1.55)

    def cloth(p: Array) -> Array:
        fold = 0.05 * np.sin(p[..., 0] * 2.3 + np.sin(p[..., 2] * 1.7) * 1.2)
        return (p[..., 1] - fold - 0.03 * np.sin(p[..., 2] * 4.1 + p[..., 0])) * 0.8

    def distances(p: Array) -> Array:
        parts = [cloth(p), vase(p)]
        parts += [
            np.linalg.norm(p - np.array([x, y, z]), axis=-1)
            - r * (1 - 0.1 * np.exp(-8 * ((p[..., 0] - x) ** 2 + (p[..., 2] - z) ** 2)))
            for x, y, z, r, _ in fruit
        ]
        return np.stack(parts)

    def march(origin: Array, direction: Array, steps: int, far: float) -> Array:
        t = np.full(direction.shape[:-1], 0.02)
        for _ in range(steps):
            t += distances(origin + direction * t[..., None]).min(axis=0)
        return np.minimum(t, far)

    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    eye = np.array([0.0, 2.5, -6.2])
    ray = np.stack([(x - WIDTH / 2) / 780, (395 - y) / 780 - 0.12, np.ones_like(x)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    t = march(np.broadcast_to(eye, ray.shape), ray, 70, 14.0)
    p = eye + ray * t[..., None]
    here = distances(p)
    part = here.argmin(axis=0)
    normal = np.stack(
        [distances(p + d).min(axis=0) - here.min(axis=0) for d in np.eye(3) * 2e-3], -1
    )
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    sun = np.array([-0.62, 0.66, -0.42])
    hits = march(p + normal * 0.03, np.broadcast_to(sun, p.shape), 28, 9.0)
    lit = np.clip((hits - 4) / 3, 0, 1)
    grain = noise(rng, (HEIGHT, WIDTH), 30, 5)
    checks = (np.floor(p[..., 0] * 1.1) + np.floor(p[..., 2] * 1.1)) % 2
    hues = [
        blend(
            np.broadcast_to(color(232, 222, 204), p.shape),
            color(112, 136, 172),
            checks * 0.75,
        )
    ]
    bands = np.clip(np.sin(p[..., 1] * 9) * 3, 0, 1) * (np.abs(p[..., 1] - 1.5) < 0.9)
    hues.append(
        blend(np.broadcast_to(color(38, 92, 118), p.shape), color(222, 196, 140), bands)
    )
    hues += [np.broadcast_to(color(*rgb), p.shape) for *_, rgb in fruit]
    albedo = np.choose(part[..., None], hues) * (0.82 + 0.36 * grain[..., None])
    diffuse = np.clip(normal @ sun, 0, 1) * lit
    shine = np.clip((normal @ ((sun - ray) / 2).mean((0, 1))), 0, 1) ** 40 * (part > 0)
    image = albedo * (0.34 + 0.1 * normal[..., 1:2] + 0.82 * diffuse[..., None])
    image = blend(image, color(255, 250, 240), shine * 0.6 * lit)
    wall = ramp(color(66, 44, 42), color(128, 92, 74), (x + y * 0.6) / 1700)
    wall = wall * (0.75 + 0.5 * noise(rng, (HEIGHT, WIDTH), 160, 6)[..., None])
    return blend(image, wall, (t - 12.0))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, scene in enumerate((lake, harbour, still_life)):
        rng = np.random.default_rng(seed)
        image = scene(rng) + rng.normal(0, 0.008, (HEIGHT, WIDTH, 1))
        pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
        name = f"{scene.__name__.replace('_', '-')}.jpg"
        photograph = Image.fromarray(pixels).resize(
            (960, 720), Image.Resampling.LANCZOS
        )
        photograph.save(folder / name, quality=85, optimize=True)


if __name__ == "__main__":
    here = Path(__file__).parent
    main(Path(sys.argv[1]) if sys.argv[1:] else here / "../styleplug/demo/examples")
