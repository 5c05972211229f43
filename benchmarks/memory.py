"""Peak memory and time per megapixel from 1 to 100 megapixels, seams, leaks, previews.

    python benchmarks/memory.py [--style NAME] [--photo FILE] [--json FILE]

Each size runs in a process of its own. The peak is what is used beyond the imports, the
decoded input and the output; the time is that of the second call. With ``--photo``, the
preview of 800 pixels is compared with the whole painting scaled down.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from speed import photograph

from styleplug import Stylizer
from styleplug.rendering import _overlap
from styleplug.style import bundled_styles
from styleplug.tiling import Region
from styleplug.training.controls import ssim

SIZES = {1: (1000, 1000), 8: (2400, 3400), 33: (4320, 7680), 100: (8660, 11550)}


def status(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1e3
    raise KeyError(field)


def give_back() -> None:
    """Return free memory to the system, so that its reuse is counted."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc can
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def one_size(style: str, megapixels: int) -> dict[str, float]:
    height, width = SIZES[megapixels]
    pixels = photograph(height // 10, width // 10)
    pixels = np.tile(pixels, (10, 10, 1))
    out = np.full_like(pixels, 255)
    stylizer = Stylizer(style, device="cpu")
    gc.collect()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    stylizer.render(pixels, out=out)
    peak = status("VmHWM") - before
    start = time.perf_counter()
    stylizer.render(pixels, out=out)
    seconds = time.perf_counter() - start
    return {
        "peak above input and output, MB": peak,
        "s per MP": seconds / (height * width / 1e6),
    }


def leak(style: str) -> float:
    """Return the growth of resident memory from call 20 to call 500, in MB."""
    stylizer = Stylizer(style, device="cpu")
    image = Image.fromarray(photograph(700, 900))
    for _ in range(20):
        stylizer(image)
    before = status("VmRSS")
    for _ in range(480):
        stylizer(image)
    return status("VmRSS") - before


def seams(style: str) -> dict[str, float]:
    """Compare 4 MP painted in tiles of 512 with the same in one tile."""
    pixels = photograph(2000, 2000)
    stylizer = Stylizer(style, device="cpu")
    whole = stylizer.render(pixels, tile_size=4096).astype(np.float32)
    tiled = stylizer.render(pixels, tile_size=512).astype(np.float32)
    steps = np.abs(np.diff(tiled, axis=0)).mean(axis=(1, 2))
    tiles = Region(0, 0, 2000, 2000).cut(512, _overlap(stylizer._network))
    borders = np.array(sorted({tile.top for tile in tiles} - {0})) - 1
    elsewhere = np.delete(steps, borders)
    return {
        "largest difference of 255": float(np.abs(tiled - whole).max()),
        "gradient at borders / elsewhere": float(
            steps[borders].mean() / elsewhere.mean()
        ),
    }


def preview(style: str, photo: Path) -> dict[str, float]:
    """Compare a preview 800 pixels wide with the whole painting scaled down."""
    stylizer = Stylizer(style, device="cpu")
    with Image.open(photo) as image:
        large = image.convert("RGB")
    size = 800, round(800 * large.height / large.width)
    small = large.resize(size, Image.Resampling.LANCZOS)
    whole = stylizer(large).resize(size, Image.Resampling.LANCZOS)
    shown, unpainted, painted = (
        np.array(image) for image in (stylizer(small), small, whole)
    )
    return {
        "SSIM of preview and painting": ssim(shown, painted),
        "SSIM of photograph and painting": ssim(unpainted, painted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--style", default=next(iter(bundled_styles()), None))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--photo", type=Path, help="compare a preview of this")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size:
        print(json.dumps(one_size(args.style, args.size)))
        return
    figures: dict[str, object] = {}
    for megapixels in SIZES:
        command = [sys.executable, __file__, "--style", args.style]
        command += ["--size", str(megapixels)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures[f"{megapixels} MP"] = json.loads(done.stdout)
        print(f"{megapixels} MP", figures[f"{megapixels} MP"])
    figures["tiles of 512"] = seams(args.style)
    print("tiles of 512", figures["tiles of 512"])
    figures["growth from call 20 to 500, MB"] = leak(args.style)
    print("growth from call 20 to 500, MB", figures["growth from call 20 to 500, MB"])
    if args.photo:
        figures["preview"] = preview(args.style, args.photo)
        print("preview", figures["preview"])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
