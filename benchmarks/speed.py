"""How fast styleplug is on this machine, beside what peers ship, in one run.

    python benchmarks/speed.py [--style NAME] [--json FILE]

Needs a quiet machine. Calls that are compared are timed in turn, and the best of
several rounds is kept. onnxruntime (with onnx and onnxscript) is measured if it is
installed. At 1 megapixel only the base is painted, and magnified. From 1.7 times the
base on (1.35 megapixels), and so at 2, every pixel is painted as well.
"""

import argparse
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from johnson import johnson, multiply_adds
from PIL import Image

from styleplug import Stylizer
from styleplug.networks import NormStatistics, autocast
from styleplug.rendering import FINER
from styleplug.style import bundled_styles

QUICK_IMPORT = """
from styleplug import imports
with imports.quickly():
    import torch
"""


def photograph(height: int, width: int) -> np.ndarray:
    """Return (H, W, 3) uint8 with the spectrum of a photograph and some edges."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 11):
        side = 1 << octave
        noise = rng.random((side, side, 3), np.float32) - 0.5
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel])
            layer = layer.resize((width, height), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(layer) * (1.3 / octave**1.2)
    total += (
        0.25
        * (np.add.outer(np.arange(height), np.arange(width)) % 701 < 250)[..., None]
    )
    return (np.clip(total + 0.4, 0, 1) * 255).astype(np.uint8)


def best(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Return the best time of each call in seconds, the calls taking turns.

    There is a pause before each, as onnxruntime's threads spin for a while after work.
    """
    for call in calls:
        call()
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            time.sleep(0.3)
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [min(found) for found in times]


def process(*arguments: str) -> Callable[[], object]:
    """Return a call that runs Python with ``arguments`` to its end."""
    return lambda: subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True
    )


def gemm_rate(dtype: torch.dtype) -> float:
    """Return the arithmetic rate of large matrix products in FLOP/s."""
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    return 2 * 2048**3 / best(5, lambda: a @ b)[0]


def network_times(stylizer: Stylizer, content: torch.Tensor) -> dict[str, float]:
    """Return the seconds that our network alone takes for ``content``: with statistics
    measured on it, as for the base, and with frozen ones, as for tiles."""
    network = stylizer._network
    vector = network.vector(stylizer._vector)
    statistics: dict[str, NormStatistics] = {}
    x = content.to(stylizer.dtype, memory_format=torch.channels_last)

    def live() -> torch.Tensor:
        with autocast(x.device, x.dtype):
            return network(x, vector, statistics)

    with torch.inference_mode():
        live()
        frozen = network.freeze(vector, statistics, x.dtype)
        times = best(7, live, lambda: frozen(x))
    return dict(zip(("network on 1 MP", "network on a tile"), times, strict=True))


def onnx_session(network: torch.nn.Module, content: torch.Tensor) -> object | None:
    if not all(map(importlib.util.find_spec, ("onnxruntime", "onnx", "onnxscript"))):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "johnson.onnx"
        torch.onnx.export(network, (content,), path, dynamo=True, verbose=False)
        return onnxruntime.InferenceSession(path, options)


def measure(style: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    pixels = photograph(1024, 1024)
    larger = photograph(1448, 1448)
    content = torch.rand(1, 3, 1024, 1024)
    network = johnson()
    stylizer = Stylizer(style, device="cpu")
    calls = [
        lambda: stylizer.render(pixels),
        lambda: stylizer.render(larger),
        lambda: network(content),
    ]
    session = onnx_session(network, content)
    if session is not None:
        feed = {session.get_inputs()[0].name: content.numpy()}
        calls.append(lambda: session.run(None, feed))
    with torch.inference_mode():
        ours, twice, theirs, *onnx = best(7, *calls)
    figures["1 MP, s"] = ours
    figures["Johnson float32 eager, times slower"] = theirs / ours
    if onnx:
        figures["Johnson onnxruntime, times slower"] = onnx[0] / ours
    figures["2 MP, s"] = twice
    figures["twice Johnson's time for 1 MP / ours for 2"] = 2 * theirs / twice
    ours_macs = style_multiply_adds(stylizer)
    figures["multiply-adds, Johnson / ours"] = (
        multiply_adds(network, content) / ours_macs
    )
    rate = gemm_rate(stylizer.dtype)
    figures["GEMM rate, TFLOP/s"] = rate / 1e12
    base_size = stylizer.info.base_size
    painted = base_size**2 / 1024**2 + (FINER * base_size <= 1024)
    figures["painted of 1 MP, MP"] = painted
    figures["share of the GEMM rate, all of 1 MP"] = (
        2 * painted * ours_macs / ours / rate
    )
    for name, seconds in network_times(stylizer, content).items():
        figures[f"share of the GEMM rate, {name}"] = 2 * ours_macs / seconds / rate

    with tempfile.TemporaryDirectory() as folder:
        small, large, out = (Path(folder, f"{name}.jpg") for name in ("1", "24", "out"))
        Image.fromarray(photograph(1000, 1000)).save(small, quality=92)
        Image.fromarray(photograph(4000, 6000)).save(large, quality=92)

        def stylize(path: Path) -> Callable[[], object]:
            options = ["--style", style, "-o", str(out), "--overwrite"]
            return process("-m", "styleplug", "stylize", str(path), *options)

        bare, lean, help_page, listing = best(
            7,
            process("-c", "pass"),
            process("-c", "import styleplug"),
            process("-m", "styleplug", "--help"),
            process("-m", "styleplug", "list"),
        )
        torch_alone, one, many, codec = best(
            3,
            process("-c", QUICK_IMPORT),
            stylize(small),
            stylize(large),
            lambda: recode(large),
        )
    figures["import styleplug beyond python, ms"] = 1e3 * (lean - bare)
    figures["styleplug --help, ms"] = 1e3 * help_page
    figures["styleplug list, ms"] = 1e3 * listing
    figures["import torch, s"] = torch_alone
    figures["1 MP JPEG to JPEG, whole process, s"] = one
    figures["1 MP process / (1.6 import torch + 1 s)"] = one / (1.6 * torch_alone + 1)
    figures["24 MP JPEG to JPEG, whole process, s"] = many
    figures["24 MP Pillow decode and encode, s"] = codec
    figures["24 MP (process - import torch) / Pillow"] = (many - torch_alone) / codec
    return figures


def style_multiply_adds(stylizer: Stylizer) -> int:
    """Return the multiply-adds of our network for one megapixel (1024 x 1024)."""
    network = stylizer._network
    half, quarter, eighth = 512**2, 256**2, 128**2
    at = {
        "enter": half,
        "down4": quarter,
        "down8": eighth,
        "up4": eighth,
        "up2": quarter,
    }
    total = 0
    for name, layer in network.layers.items():
        positions = at.get(name, eighth if "block8" in name else quarter)
        taps = 16 if layer.resample == "up" else 9
        total += positions * taps * layer.inputs * layer.outputs
    return total + half * 16 * network.weights["leave"].shape[1] * 3


def recode(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--style", default=next(iter(bundled_styles()), None))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = measure(args.style)
    for name, value in figures.items():
        print(f"{name:45s} {value:10.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
