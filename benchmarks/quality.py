"""How close our styles come to their artworks, beside peers' networks, in one run.

    STYLEPLUG_ASSETS=DIR python benchmarks/quality.py [--sheets DIR] [--json FILE]

Distances by the rod of the loss network's normalised features (Oxford VGG-19):
content = mean squared relu4_1 difference, style = relative Gram distance, mean over
relu1_1 ... relu4_1. Photographs of content/test, 512 pixels (geometric mean side), none
of which was trained on. For every peer our strength is swept to the peer's content
distance, and the style distances there are compared.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from PIL import Image
from torch import Tensor

from styleplug import Stylizer
from styleplug.style import bundled_styles, read_info
from styleplug.training.data import load_artwork
from styleplug.training.losses import (
    LossNetwork,
    content_loss,
    gram_matrix,
    style_loss,
)

ASSETS = Path(os.environ["STYLEPLUG_ASSETS"])
PHOTOGRAPHS = [
    *("blonde_girl", "chicago", "lion", "venice_boat", "hoovertowernight"),
    *("golden_gate", "winter_wolf", "cornell"),
]
PEERS = [
    ("great-wave", "lengstrom/wave", "wave_lengstrom"),
    ("the-scream", "lengstrom/scream", "scream_lengstrom"),
    ("udnie", "lengstrom/udnie", "udnie_lengstrom"),
    ("minotaur", "lengstrom/wreck", None),
    ("udnie", "fast_neural_style_16/udnie", None),
]
STRENGTHS = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


class Rod:
    """Measures content and style distances."""

    def __init__(self) -> None:
        (path,) = (ASSETS / "vgg").glob("*.safetensors")
        self.network = LossNetwork(path)
        self.network.calibrate(torch.cat([load(p, 256, square=True) for p in photos()]))

    def grams(self, artwork: Path) -> dict[str, Tensor]:
        with torch.inference_mode():
            features = self.network(load_artwork(artwork, 512))
        return {layer: gram_matrix(feature) for layer, feature in features.items()}

    def __call__(
        self, stylized: Tensor, content: Tensor, grams: dict[str, Tensor]
    ) -> tuple[float, float]:
        with torch.inference_mode():
            features = self.network(stylized)
            wanted = {"relu4_1": self.network(content)["relu4_1"]}
        style = style_loss(features, grams).item()
        return content_loss(features, wanted).item(), style


def photos() -> list[Path]:
    return [ASSETS / "content" / "test" / f"{name}.jpg" for name in PHOTOGRAPHS]


def load(path: Path, size: int, square: bool = False) -> Tensor:
    image = load_artwork(path, size)
    height, width = (side // 8 * 8 for side in image.shape[2:])
    if square:
        height = width = 160
    return image[..., :height, :width]


def mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    contents, styles = zip(*pairs, strict=True)
    return sum(contents) / len(pairs), sum(styles) / len(pairs)


def at_content(curve: list[tuple[float, float]], content: float) -> float | None:
    """Return the style distance where the curve passes a content distance."""
    for (c0, s0), (c1, s1) in itertools.pairwise(curve):
        if c0 <= content <= c1:
            return s0 + (s1 - s0) * (content - c0) / (c1 - c0)
    return None


def artwork_of(name: str) -> Path:
    catalogue = json.loads(Path("model_cards/styles.json").read_text("utf-8"))
    (file,) = (file for file, about in catalogue.items() if about["name"] == name)
    return ASSETS / "styles" / "public_domain" / file


def compare_with_peers(rod: Rod, contents: list[Tensor]) -> dict[str, object]:
    figures: dict[str, object] = {}
    for name, peer, own_file in PEERS:
        artwork = artwork_of(name)
        if own_file:
            artwork = ASSETS / "styles" / "measure_only" / f"{own_file}.jpg"
        grams = rod.grams(artwork)
        run: Callable[[Path, Tensor], Tensor] = getattr(
            peers, "lengstrom" if peer.startswith("lengstrom") else "fast_neural_style"
        )
        path = ASSETS / "peers" / f"{peer}.safetensors"
        with torch.inference_mode():
            theirs = mean([rod(run(path, c), c, grams) for c in contents])
        stylizer = Stylizer(name, device="cpu")
        curve = [
            mean([rod(stylizer(c, strength=s), c, grams) for c in contents])
            for s in STRENGTHS
        ]
        ours = at_content(curve, theirs[0])
        figures[f"{name} / {peer}"] = {
            "peer": theirs,
            "ours at the peer's content distance": ours,
            "ours / peer": ours and ours / theirs[1],
            "ours at strength 1": curve[-1],
            "photographs": mean([rod(c, c, grams) for c in contents])[1],
        }
        print(f"{name} / {peer}", figures[f"{name} / {peer}"], flush=True)
    return figures


def sheet(name: str, folder: Path) -> None:
    """Write artwork, photographs and our pictures, a peer's below."""
    contents = [load(path, 512)[..., :400, :400] for path in photos()]
    stylizer = Stylizer(name, device="cpu")
    artwork = load_artwork(artwork_of(name), 400)[..., :400, :400]
    artwork = torch.nn.functional.pad(
        artwork, (0, 400 - artwork.shape[3], 0, 400 - artwork.shape[2]), value=1
    )
    rows = [[artwork, *contents], [artwork, *map(stylizer, contents)]]
    for style, peer, _ in PEERS:
        if style == name and peer.startswith("lengstrom"):
            path = ASSETS / "peers" / f"{peer}.safetensors"
            rows.append([artwork, *(peers.lengstrom(path, c) for c in contents)])
    tensor = torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)
    pixels = (tensor[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with torch.inference_mode():
        if args.sheets:
            for name in bundled_styles():
                sheet(name, args.sheets)
        figures = compare_with_peers(Rod(), [load(path, 512) for path in photos()])
    for path in bundled_styles().values():
        print(read_info(path).name, dict(read_info(path).figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
