"""Any picture as the style, beside MicroAST and AdaIN, on unseen pictures, in one run.

    PYTHONPATH=. STYLEPLUG_ASSETS=DIR python benchmarks/any_style.py [--sheet PNG]

Distances are measured as in quality.py; the style distance also by mean and deviation
of the features. The contents are from content/test, the styles from styles/measure_only
and the files named in held_out.txt; none of them was trained on. For every pair, our
strength or the peer's alpha is lowered until both are equally far from the content,
within 1 %, and the style distances there are compared. MicroAST stays at amount 1, as
its pictures fall apart below; where ours stays nearer to the content, both are compared
as they are.

Also measured: the time at one megapixel with the style cached, a style image equal to
the content, how near other pictures come to being taken for it, flicker in panning
crops beside the peers', and captured styles beside the house styles of the same
artworks, which the trunk was trained on, but not the predictor. Needs scikit-image.
"""

import argparse
import functools
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import peers
import torch
from PIL import Image
from quality import ASSETS, Metric, artwork_of, at_content, by_strength, load, photos
from skimage.metrics import structural_similarity
from torch import Tensor

from styleplug import Stylizer
from styleplug.images import read_picture
from styleplug.losses import STYLE_LAYERS
from styleplug.predictor import fingerprint, fingerprint_distance
from styleplug.style import bundled_predictor, bundled_styles
from styleplug.training.data import load_artwork

HELD_OUT = (Path(__file__).parent / "held_out.txt").read_text("utf-8").split()
SIZES = [384, 512]
PARTS = {"content": ["test", "train"], "styles": ["measure_only", "train"]}


def style_files() -> list[Path]:
    """Return 12 unseen styles, from the held-out artworks and the peers' own.

    Of the peers' own, those of house styles' artworks are left out, as they were seen.
    """
    peers_own = sorted((ASSETS / "styles" / "measure_only").glob("*.jpg"))
    unseen = [path for path in peers_own if not path.stem.endswith("_lengstrom")]
    held_out = [ASSETS / "styles" / "train" / name for name in HELD_OUT[::6]]
    return [*unseen[::2], *held_out][:12]


def moments(metric: Metric, image: Tensor) -> Tensor:
    """Return the mean and deviation of every channel of every style layer."""
    features = metric.network(image)
    found = []
    for layer in STYLE_LAYERS:
        variance, mean = torch.var_mean(features[layer].float(), dim=(2, 3))
        found.append(torch.cat([mean, variance.sqrt()], dim=1)[0])
    return torch.cat(found)


def moment_distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).square().sum() / other.square().sum()).item()


Painter = Callable[[Tensor, float], Tensor]


def painters(
    style: Path, microast: peers.MicroAST, adain: peers.AdaIN
) -> dict[str, Painter]:
    """Return functions that paint (1, 3, H, W) in the style at an amount."""
    image = load_artwork(style, 512)
    image = image[..., : image.shape[2] // 8 * 8, : image.shape[3] // 8 * 8]
    ours = Stylizer(style, device="cpu")
    of_microast, of_adain = microast.style(image), adain.style(image)
    return {
        "ours": lambda content, amount: ours(content, strength=amount),
        "MicroAST": lambda content, _amount: microast(content, of_microast),
        "AdaIN": lambda content, amount: adain(content, of_adain, amount),
    }


def distances(
    metric: Metric,
    painter: Painter,
    content: Tensor,
    grams: dict[str, Tensor],
    wanted: Tensor,
    amount: float,
) -> tuple[float, ...]:
    """Return the content distance, and the style distances by Gram and moments."""
    picture = painter(content, amount)
    moment = moment_distance(moments(metric, picture), wanted)
    return *metric(picture, content, grams), moment


def compare(
    metric: Metric, microast: peers.MicroAST, adain: peers.AdaIN, size: int
) -> dict[str, object]:
    """Return mean style distances at the content distance of each peer at full amount.

    Where ours does not get that far, AdaIN's amount is lowered to match ours. ``size``
    is that of the photographs; peers get styles at 512 pixels.
    """
    contents = [load(path, size) for path in photos()[::4]]
    rows: dict[str, list[dict[str, float]]] = {"MicroAST": [], "AdaIN": []}
    for path in style_files():
        grams = metric.grams(path)
        wanted = moments(metric, load_artwork(path, 512))
        paint = painters(path, microast, adain)
        for content in contents:
            at = {
                name: functools.cache(
                    functools.partial(
                        distances, metric, painter, content, grams, wanted
                    )
                )
                for name, painter in paint.items()
            }
            for peer, found in rows.items():
                theirs = at[peer](1.0)
                ours = at_content(at["ours"], theirs[0])
                if peer == "AdaIN":
                    theirs = at_content(at[peer], ours[0])
                kinds = "content", "gram", "moments"
                row = {f"ours {k}": d for k, d in zip(kinds, ours, strict=True)}
                row |= {f"{peer} {k}": d for k, d in zip(kinds, theirs, strict=True)}
                found.append(row)
        print(path.stem, {peer: found[-1] for peer, found in rows.items()}, flush=True)
    return {
        peer: {key: statistics.fmean(row[key] for row in found) for key in found[0]}
        | {"pairs": len(found)}
        for peer, found in rows.items()
    }


def beside_house_styles(metric: Metric) -> dict[str, float]:
    """Return the style distances captured / house, at equal content distance."""
    contents = [load(path, 384) for path in photos()[::4]]
    ratios = {}
    for name in bundled_styles():
        artwork = artwork_of(name)
        grams = metric.grams(artwork)
        house, captured = (
            by_strength(metric, style, contents, grams) for style in (name, artwork)
        )
        nearest = at_content(captured, house(1.0)[0])
        ratios[name] = nearest[1] / at_content(house, nearest[0])[1]
    return ratios


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def speed(microast: peers.MicroAST) -> dict[str, float]:
    content = load(photos()[0], 1000)
    content = torch.nn.functional.interpolate(content, (1000, 1000))
    style, another = style_files()[:2]
    ours = Stylizer(style, device="cpu")
    started = time.perf_counter()
    Stylizer(another, device="cpu")
    captured = time.perf_counter() - started
    theirs = microast.style(load(style, 512))
    pixels = (content[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()
    mine = seconds(lambda: ours.render(pixels))
    peer = seconds(lambda: microast(content, theirs))
    return {
        "ours, s": mine,
        "MicroAST, s": peer,
        "MicroAST / ours": peer / mine,
        "to capture a style, s": captured,
    }


def identity() -> dict[str, dict[str, float]]:
    """Return the SSIM of contents and their paintings in their own picture's style."""
    scores: dict[str, list[float]] = {}
    for path in [*photos(), *style_files()[::3]]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((640, 640))
        stylizer = Stylizer(image, device="cpu")
        width, height = image.size
        half = image.resize((width // 2, height // 2))
        part = (width // 20, height // 20, width * 19 // 20, height * 19 // 20)
        for kind, content in (
            ("itself", image),
            ("half its size, as JPEG", Image.open(as_jpeg(half))),
            ("nine tenths of it", image.crop(part)),
        ):
            pixels = np.asarray(content)
            score = similarity(pixels, stylizer(pixels))
            scores.setdefault(kind, []).append(score)
    return {
        kind: {"mean": statistics.fmean(found), "least": min(found)}
        for kind, found in scores.items()
    }


def as_jpeg(image: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    return float(structural_similarity(one, other, channel_axis=2))


def resemblance() -> dict[str, list[float]]:
    """Return the distances between the most similar pictures, in deviations.

    A content is recognised as the picture of its style by this distance. Copies, of
    which there are some among these, are nearer than 0.31 and left out. All pictures
    are compared, also those that were trained on.
    """
    nearest = {}
    for kind in ("content", "styles"):
        folders = (ASSETS / kind / part for part in PARTS[kind])
        files = sorted(itertools.chain(*(f.glob("*.jpg") for f in folders)))
        prints = torch.cat([fingerprint(read_picture(path).pixels) for path in files])
        distances = fingerprint_distance(prints, prints)
        pairs = torch.triu_indices(len(files), len(files), offset=1)
        nearer = torch.minimum(distances, distances.T)[pairs[0], pairs[1]]
        found = nearer[nearer > 0.31].sort().values
        name = f"{kind}, {len(files)} pictures"
        nearest[name] = [round(d, 3) for d in found[:8].tolist()]
    return nearest


def flicker(
    microast: peers.MicroAST, adain: peers.AdaIN, shift: int
) -> dict[str, float]:
    """Return how much more a stylized panning crop changes than its content.

    The result is by painter, at full effect, the mean of four styles.
    """
    changes: dict[str, list[float]] = {}
    for style in style_files()[::3]:
        paint = painters(style, microast, adain)
        still = functools.partial(Stylizer(style, device="cpu"), grain=0.0)
        paint["ours, grain 0"] = lambda content, _amount, still=still: still(content)
        for name, painter in paint.items():
            changes.setdefault(name, []).append(change_in_panning(painter, shift))
    return {name: statistics.fmean(found) for name, found in changes.items()}


def change_in_panning(painter: Painter, shift: int, frames: int = 4) -> float:
    """Return how much more a painted panning crop changes than its content.

    Frames are crops moved by ``shift`` pixels, compared where they overlap. Every frame
    has its own noise, which is all that changes in the content.
    """
    rng = torch.Generator().manual_seed(0)
    whole = load(photos()[1], 720)
    side = 384
    before: Sequence[Tensor] | None = None
    changes = []
    for i in range(frames):
        crop = whole[..., :side, i * shift : i * shift + side]
        noise = torch.randn(crop.shape, generator=rng) * 4 / 255
        content = (crop + noise).clamp(0, 1)
        pair = content, painter(content, 1.0).clamp(0, 1)
        if before is not None:
            changes.append(
                [
                    (new[..., : side - shift] - old[..., shift:]).abs().mean().item()
                    for new, old in zip(pair, before, strict=True)
                ]
            )
        before = pair
    of_content, of_painted = np.mean(changes, axis=0)
    return float(of_painted / of_content)


def sheet(path: Path, microast: peers.MicroAST, adain: peers.AdaIN) -> None:
    """Write a sheet of six contents in six styles: ours, and MicroAST's below."""
    contents = [load(p, 400)[..., :256, :256] for p in photos()[:6]]
    white = torch.ones(1, 3, 256, 256)
    rows = [[white, *contents]]
    for style in style_files()[::2]:
        paint = painters(style, microast, adain)
        small = load_artwork(style, 256)[..., :256, :256]
        small = torch.nn.functional.pad(
            small, (0, 256 - small.shape[3], 0, 256 - small.shape[2]), value=1
        )
        for name in ("ours", "MicroAST"):
            rows.append([small, *(paint[name](c, 1.0) for c in contents)])
    tensor = torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)
    pixels = (tensor[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    microast = peers.MicroAST(ASSETS / "peers" / "microast")
    adain = peers.AdaIN(ASSETS / "peers" / "adain")
    with torch.inference_mode():
        if args.sheet:
            sheet(args.sheet, microast, adain)
        figures: dict[str, object] = {"speed": speed(microast)}
        figures["predictor, MB"] = bundled_predictor().stat().st_size / 1e6
        figures["its own picture, SSIM"] = identity()
        figures["most alike, deviations"] = resemblance()
        for shift in (0, 7):
            name = f"flicker, moved by {shift} pixels a frame"
            figures[name] = flicker(microast, adain, shift)
        print(json.dumps(figures, indent=2), flush=True)
        metric = Metric()
        figures["captured / house"] = beside_house_styles(metric)
        print(figures["captured / house"], flush=True)
        for size in SIZES:
            found = compare(metric, microast, adain, size)
            figures[f"distances at {size} pixels"] = found
            print(size, json.dumps(found, indent=2), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
