"""Optimization beside plain Gatys + L-BFGS, in one run, on the same images.

    STYLEPLUG_ASSETS=DIR python benchmarks/optimize.py [--quick] [PART...]

Parts: ``race`` (time to reach the loss of the peers' recipe after 500 iterations),
``iteration`` (time beside a bare forward and backward pass of the loss network),
``memory`` (peak of a process), ``fidelity`` (style distances at equal content loss).
The default is all. ``--quick`` gives a first idea: 256 pixels, 100 iterations, two
pairs.

The peers' recipe is jcjohnson/neural-style with its defaults, started from the content:
VGG-19 in float32, content relu4_2 with weight 5, Gram matrices divided by the channels
of relu1_1 ... relu5_1 with weight 100, pixels in 0 ... 255, L-BFGS without line search,
one scale. All losses in the race are of that objective, in float32 and at full size,
even where ours computes in bfloat16; our time does not include measuring them. Ours
uses the best precision of the machine: bfloat16 if it has that in hardware. Times are
processor times of all threads, as other programs may be running.

The distances of fidelity are means over relu1_1 ... relu4_1 of the losses of
styleplug.losses. Our style weight is swept, and the comparison is made where our
content loss (relu4_2) equals that of the peers' result.

The loss to reach is that of the peers' picture with its values clipped to the range of
an image, as ours always are; before clipping it is lower.

With ``--cache DIR`` and ``--json FILE`` the benchmark can be split into several calls:
``--limit SECONDS`` ends one, and the same call resumes from there. Figures of another
size, number of iterations or dtype are not reused.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleplug import optimize
from styleplug.losses import (
    LossNetwork,
    content_loss,
    gram_loss,
    mean_std_loss,
    moments,
)
from styleplug.networks import training_dtype
from styleplug.training.data import load_artwork

ASSETS = Path(os.environ["STYLEPLUG_ASSETS"])
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"
RACE = ("tubingen", "vangogh_the_starry_night", "starry-night")
PAIRS = [
    ("tubingen", "vangogh_the_starry_night"),
    ("blonde_girl", "candy"),
    ("chicago", "munch_the_scream"),
    ("golden_gate", "hokusai_the_great_wave_off_kanagawa"),
    ("lion", "kandinsky_composition_vii"),
    ("cornell", "picabia_udnie"),
    ("hoovertowernight", "vangogh_wheat_field_with_cypresses"),
    ("venice_boat", "monet_water_lilies"),
    ("winter_wolf", "mosaic"),
    ("brad_pitt", "matisse_woman_with_a_hat"),
    ("flowers", "seurat_a_sunday_on_la_grande_jatte"),
    ("stata", "dore_engraving"),
]
STYLE_WEIGHTS = (10, 30, 90, 270)
OURS = training_dtype(torch.device("cpu"))
CHUNK = 50
"""Iterations of the peers' recipe between two saves."""
PHOTOGRAPHS = ("blonde_girl", "chicago", "lion", "venice_boat", "golden_gate")


def content_image(name: str, size: int) -> Tensor:
    return load_artwork(ASSETS / "content" / "test" / f"{name}.jpg", size).contiguous()


def style_image(name: str, size: int) -> Tensor:
    (path,) = (ASSETS / "styles").glob(f"[pm]*/{name}.jpg")
    return load_artwork(path, size).contiguous()


def loss_network(
    dtype: torch.dtype, layers: Sequence[str] = (*STYLE_LAYERS, CONTENT_LAYER)
) -> LossNetwork:
    network = LossNetwork(ASSETS / "vgg", layers)
    crops = [content_image(name, 256)[..., :160, :160] for name in PHOTOGRAPHS]
    network.calibrate(torch.cat(crops))
    network.stack.to(dtype)
    return network


class Peer:
    """The peers' objective, and their optimization of it."""

    def __init__(self, network: LossNetwork, content: Tensor, style: Tensor) -> None:
        self.network = network
        scale = network.activations  # the peers' features are not normalised
        with torch.no_grad():
            self.wanted = network(content)[CONTENT_LAYER]
            features = network(style)
        self.content_layers = {CONTENT_LAYER: 5 * scale[CONTENT_LAYER] ** 2}
        self.style_layers = {}
        self.targets = {}
        for layer in STYLE_LAYERS:
            target = self.targets[layer] = moments(features[layer])
            power = target.gram.square().sum().item() * scale[layer] ** 4
            self.style_layers[layer] = 100 * power / features[layer].shape[1] ** 4

    def __call__(self, image: Tensor) -> Tensor:
        features = self.network(image)
        wanted = {CONTENT_LAYER: self.wanted}
        loss = self.content_layers[CONTENT_LAYER] * content_loss(features, wanted)
        for layer, weight in self.style_layers.items():
            found = moments(features[layer])
            loss = loss + weight * gram_loss(found, self.targets[layer])
        return loss.sum()

    def optimize(
        self, content: Tensor, iterations: int, path: Path | None, until: float
    ) -> tuple[Tensor, list[Any]]:
        """Return the result, and (seconds, loss) of each iteration.

        Progress is saved at ``path``, from which the next call resumes.
        """
        x = (content * 255).requires_grad_()
        trace: list[tuple[float, float]] = []
        descent = torch.optim.LBFGS(
            [x], max_iter=CHUNK, tolerance_change=-1, tolerance_grad=-1
        )
        if path and path.exists():
            pixels, state, trace = torch.load(path)
            x.data.copy_(pixels)
            if state:
                descent.load_state_dict(state)

        def closure() -> Tensor:
            descent.zero_grad()
            loss = self(x / 255)
            loss.backward()
            trace.append((time.process_time() - started, loss.item()))
            return loss

        while len(trace) < iterations:
            started = time.process_time() - (trace[-1][0] if trace else 0)
            descent.step(closure)
            done = len(trace) >= iterations
            print(f"  peers: {len(trace)} {trace[-1]}", file=sys.stderr, flush=True)
            if path:
                state = None if done else descent.state_dict()
                torch.save((x.detach(), state, trace), path)
            if not done and time.monotonic() > until:
                raise UnfinishedError
        return (x.detach() / 255).clamp(0, 1), trace


class UnfinishedError(Exception):
    """The time is over; another call resumes from here."""


def race(
    size: int, iterations: int, cache: Path | None, known: dict[str, Any], until: float
) -> Iterator[dict[str, Any]]:
    """Time our optimization until it reaches the peers' final loss."""
    name, artwork, fast = RACE
    content, style = content_image(name, size), style_image(artwork, size)
    peer = Peer(loss_network(torch.float32), content, style)
    path = cache and cache / f"race-{size}-{iterations}.pt"
    picture, trace = peer.optimize(content, iterations, path, until)
    with torch.no_grad():
        goal = peer(picture).item()
    theirs, unclipped = trace[-1]
    known.update({"peers' loss": goal, "peers' seconds": theirs})
    known["unclipped"] = unclipped
    print(f"peers: loss {goal:.5g} after {theirs:.1f} s ({unclipped:.5g} unclipped)")
    network = loss_network(OURS)
    for init, part in (("content", 0.5), (fast, 0.25)):
        if f"from {init}" not in known:
            if time.monotonic() + part * theirs > until:
                raise UnfinishedError
            curve = chase(init, peer, content, style, network, goal, part * theirs)
            known[f"from {init}"] = {
                "reached": curve[-1][2] <= goal,
                "of their time": curve[-1][1] / theirs,
                "curve": curve,
            }
        count, seconds, loss = known[f"from {init}"]["curve"][-1]
        print(
            f"from {init}: loss {loss:.5g} after {count} iterations, {seconds:.1f} s = "
            f"{seconds / theirs:.3f} of the peers' time"
            + ("" if loss <= goal else " (NOT REACHED)"),
            flush=True,
        )
        yield known


class GoalError(Exception):
    """The goal is reached, or the time is over."""


def chase(
    init: str,
    peer: Peer,
    content: Tensor,
    style: Tensor,
    network: LossNetwork,
    goal: float,
    longest: float,
) -> list[tuple[int, float, float]]:
    """Return (iteration, seconds, loss) up to the goal; seconds exclude measuring.

    Gives up after ``longest`` seconds.
    """
    curve: list[tuple[int, float, float]] = []
    count = itertools.count(1)
    measuring = 0.0
    started = time.process_time()

    def callback(fraction: float, snapshot: Callable[[], Tensor]) -> None:
        nonlocal measuring
        i = next(count)
        if i % 5:
            return
        now = time.process_time()
        with torch.no_grad():
            curve.append((i, now - started - measuring, peer(snapshot()).item()))
        measuring += time.process_time() - now
        if curve[-1][2] <= goal or curve[-1][1] > longest:
            raise GoalError

    with contextlib.suppress(GoalError):
        optimize(
            content,
            style,
            init=init,
            style_loss="gram",
            content_layers=peer.content_layers,
            style_layers=peer.style_layers,
            content_weight=1 / goal,
            style_weight=1 / goal,
            tv_weight=0,
            iterations=2000 if init == "content" else 500,
            tolerance=5e-4,
            loss_network=network,
            callback=callback,
        )
    return curve


def iteration(size: int) -> dict[str, Any]:
    """Time our iteration beside a forward and backward pass of the loss network."""
    content, style = content_image(RACE[0], size), style_image(RACE[1], size)
    network = loss_network(OURS, STYLE_LAYERS[:4])

    def bare() -> None:
        leaf = content.clone().requires_grad_()
        network(leaf)["relu4_1"].sum().backward()

    def ours(count: int) -> float:
        processor = [time.process_time()]

        def callback(fraction: float, snapshot: Any) -> None:
            processor.append(time.process_time())

        optimize(
            *(content, style),
            loss_network=network,
            tolerance=0,
            iterations=2 * count,
            callback=callback,
        )
        steps = [b - a for a, b in itertools.pairwise(processor)][-count + 1 :]
        return sorted(steps)[len(steps) // 2]

    def median(function: Callable[[], None], count: int) -> float:
        times = []
        for _ in range(count):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        return sorted(times)[count // 2]

    bare()
    before, own, after = median(bare, 7), ours(16), median(bare, 7)
    least = (before + after) / 2
    print(
        f"processor time: bare {least:.3f} s, an iteration {own:.3f} s: "
        f"{own / least:.3f} times",
        flush=True,
    )
    return {"bare": least, "iteration": own, "ratio": own / least}


def memory(size: int) -> dict[str, Any]:
    """Measure the peak memory of the bare network, ours, and 4000 x 3000 pixels."""
    peaks = {}
    for what in ("bare", "ours", "large"):
        command = [sys.executable, __file__, "--peak", what, "--size", str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[what] = int(done.stdout.split()[-1])
        print(f"{what}: peak {peaks[what] / 1e6:.0f} MB", flush=True)
    above = peaks["ours"] - peaks["bare"]
    print(f"ours above the bare network: {above / 1e6:.0f} MB")
    return {**peaks, "above": above}


def peak(what: str, size: int) -> None:
    """Print the peak memory of this process in bytes after running ``what``."""
    network = loss_network(OURS, STYLE_LAYERS[:4])
    content, style = content_image(RACE[0], size), style_image(RACE[1], size)
    if what == "bare":
        for _ in range(3):
            leaf = content.clone().requires_grad_()
            network(leaf)["relu4_1"].sum().backward()
    elif what == "ours":
        optimize(content, style, loss_network=network, iterations=20, tolerance=0)
    else:
        large = torch.nn.functional.interpolate(content, (3000, 4000), mode="bicubic")
        pixels = (large.clamp(0, 1)[0] * 255).byte().permute(1, 2, 0).numpy()
        del large
        optimize(pixels, style, loss_network=network, iterations=16, tolerance=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def sliced_wasserstein_distance(
    features: Tensor, style: Tensor, directions: int = 64, seed: int = 0
) -> Tensor:
    """Return (B,): relative squared 2-Wasserstein distance along random directions.

    ``features`` and ``style`` are (B, C, h, w) of any sizes; the mean is over
    ``directions``. Heitz, Vanhoey, Chambon & Belcour 2021, "A Sliced Wasserstein Loss
    for Neural Texture Synthesis", arXiv 2006.07229.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(directions, features.shape[1], generator=generator)
    basis = torch.nn.functional.normalize(basis, dim=1).to(features)
    count = min(features[0, 0].numel(), style[0, 0].numel())
    found, wanted = (
        quantiles((basis @ f.flatten(2)).float(), count) for f in (features, style)
    )
    power = wanted.square().mean(dim=(1, 2)).clamp(min=1e-12)
    return (found - wanted).square().mean(dim=(1, 2)) / power


def quantiles(values: Tensor, count: int) -> Tensor:
    """Return (B, K, count) quantiles, evenly spaced, of (B, K, N) values."""
    ordered = values.sort(dim=2).values
    if values.shape[2] == count:
        return ordered
    return torch.nn.functional.interpolate(ordered, count, mode="linear")


class Metric:
    """Measures distances in float32."""

    def __init__(self) -> None:
        self.network = loss_network(torch.float32)

    @torch.no_grad()
    def __call__(
        self, image: Tensor, content: Tensor, style: Tensor
    ) -> dict[str, float]:
        found, photo, artwork = map(self.network, (image, content, style))
        wanted = {CONTENT_LAYER: photo[CONTENT_LAYER]}
        layers = STYLE_LAYERS[:4]
        pairs = [(moments(found[k]), moments(artwork[k])) for k in layers]
        sliced = [sliced_wasserstein_distance(found[k], artwork[k]) for k in layers]
        return {
            "content": content_loss(found, wanted).item(),
            "gram": sum(gram_loss(*pair).item() for pair in pairs) / 4,
            "mean_std": sum(mean_std_loss(*pair).item() for pair in pairs) / 4,
            "sliced": sum(distance.item() for distance in sliced) / 4,
        }


def fidelity(
    size: int,
    iterations: int,
    pairs: list[tuple[str, str]],
    dtype: torch.dtype,
    cache: Path | None,
    sheets: Path | None,
    known: dict[str, Any],
    until: float,
) -> Iterator[dict[str, Any]]:
    """Compare distances to the style at equal content loss."""
    metric = Metric()
    fast = loss_network(OURS)
    plain = loss_network(dtype)
    for name, artwork in pairs:
        if f"{name} / {artwork}" in known:
            continue
        if time.monotonic() > until:
            raise UnfinishedError
        content, style = content_image(name, size), style_image(artwork, size)
        path = cache and cache / f"{name}-{artwork}-{size}-{iterations}-{dtype}.pt"
        peer = Peer(plain, content, style)
        picture, _ = peer.optimize(content, iterations, path, until)
        theirs = metric(picture, content, style)
        pictures, curve = [], []
        for weight in STYLE_WEIGHTS:
            pictures.append(
                optimize(content, style, style_weight=weight, loss_network=fast)
            )
            curve.append(metric(pictures[-1], content, style))
            if curve[-1]["content"] > theirs["content"]:
                break
        ours = at_content(curve, theirs["content"])
        known[f"{name} / {artwork}"] = {"peers": theirs, "ours": ours}
        print(name, artwork, {k: round(v, 4) for k, v in theirs.items()}, end=" ")
        print({k: round(v / theirs[k], 3) for k, v in (ours or {}).items()}, flush=True)
        if sheets:
            save_row(sheets / f"{name}.png", [content, picture, *pictures[-2:]])
        yield known
    compared = [f for f in known.values() if f["ours"]]
    for kind in ("gram", "mean_std", "sliced"):
        ratios = [f["ours"][kind] / f["peers"][kind] for f in compared]
        mean = math.exp(sum(map(math.log, ratios)) / max(1, len(ratios)))
        closer = sum(r < 1 for r in ratios)
        print(f"{kind}: ours / peers' {mean:.3f}, closer in {closer} of {len(ratios)}")


def at_content(
    curve: list[dict[str, float]], content: float
) -> dict[str, float] | None:
    """Interpolate the distances, in logarithms, at the given content loss."""
    for low, high in itertools.pairwise(curve):
        if low["content"] <= content <= high["content"]:
            part = math.log(content / low["content"])
            part /= math.log(high["content"] / low["content"])
            return {k: low[k] ** (1 - part) * high[k] ** part for k in low}
    return None


def save_row(path: Path, images: list[Tensor]) -> None:
    from PIL import Image

    row = (torch.cat(images, dim=3)[0] * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(row.numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("race", "iteration", "memory", "fidelity")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int, help="pixels (default: 512, quick 256)")
    parser.add_argument("--iterations", type=int, help="(default: 500, quick 100)")
    parser.add_argument("--pairs", type=int, help="how many (default: 12, quick 2)")
    parser.add_argument(
        "--dtype", default="float32", help="of the peers' network, in fidelity"
    )
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--json", type=Path, help="figures; what it has is not redone")
    parser.add_argument("--limit", type=float, default=math.inf, help="in seconds")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = args.size or (256 if args.quick else 512)
    if args.peak:
        peak(args.peak, size)
        return
    iterations = args.iterations or (100 if args.quick else 500)
    pairs = PAIRS[: args.pairs or (2 if args.quick else 12)]
    dtype = getattr(torch, args.dtype)
    until = time.monotonic() + args.limit
    figures: dict[str, Any] = {}
    if args.json and args.json.exists():
        figures = json.loads(args.json.read_text())
    settings = {"size": size, "iterations": iterations, "dtype": args.dtype}
    if figures.get("settings") != settings:
        figures = {"settings": settings}
    known = {part: figures.get(part, {}) for part in args.parts or parts}
    doers: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "race": lambda: race(size, iterations, args.cache, known["race"], until),
        "iteration": lambda: [iteration(size)],
        "memory": lambda: [memory(size)],
        "fidelity": lambda: fidelity(
            *(size, iterations, pairs, dtype),
            *(args.cache, args.sheets, known["fidelity"], until),
        ),
    }
    for part in known:
        print(f"== {part}", flush=True)
        try:
            for found in doers[part]():
                figures[part] = found
                if args.json:
                    args.json.write_text(json.dumps(figures, indent=2) + "\n")
        except UnfinishedError:
            print("The time is over; the same call goes on from here.")
            return


if __name__ == "__main__":
    main()
