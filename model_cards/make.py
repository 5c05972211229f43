"""Make the files published with the bundled styles, and the README's pictures.

    python model_cards/make.py

Writes ``README.md`` and ``config.json`` for each bundled style into
``model_cards/NAME``, as ``styleplug publish`` uploads them, and a sample picture. Also
writes ``styles.webp`` and ``strength.webp``. The pictures show the project's own scene
and photographs from scikit-image, which has to be installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import skimage.data
from PIL import Image

from styleplug import hub
from styleplug.engine import Stylizer
from styleplug.style import bundled_styles

HERE = Path(__file__).parent
OWNER = "styleplug"
GAP = 6
SHOWN = [
    *("photograph", "great-wave", "udnie", "metzinger", "composition-vii"),
    *("the-scream", "starry-night"),
]
"""The columns of the README's picture."""
LIGHTENED = ["udnie", "starry-night"]
STRENGTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
"""The rows and columns of the picture of strengths."""


def photographs() -> list[Image.Image]:
    """Return a landscape, a portrait, a pet and a still life, square."""
    scene = Image.open(HERE.parent / "styleplug" / "sample.jpg")
    images = [scene.crop((0, 0, scene.height, scene.height))]
    for name in ("astronaut", "chelsea", "coffee"):
        image = Image.fromarray(getattr(skimage.data, name)())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        images.append(image.crop((left, top, left + side, top + side)))
    return [image.resize((640, 640), Image.Resampling.LANCZOS) for image in images]


def mosaic(rows: Iterable[Iterable[Image.Image]], side: int) -> Image.Image:
    """Return a sheet of pictures, each a square of ``side`` pixels."""
    cells = [
        [image.resize((side, side), Image.Resampling.LANCZOS) for image in row]
        for row in rows
    ]
    step = side + GAP
    sheet = Image.new(
        "RGB", (step * len(cells[0]) - GAP, step * len(cells) - GAP), "white"
    )
    for y, row in enumerate(cells):
        for x, image in enumerate(row):
            sheet.paste(image, (x * step, y * step))
    return sheet


def make_card(name: str, path: Path, pictures: list[Image.Image]) -> None:
    folder = HERE / name
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    sample = folder / "samples" / "painted.webp"
    mosaic([pictures], 320).save(sample, quality=76, method=6)
    published = hub.publish(path, f"{OWNER}/{name}", samples=[sample], dry_run=True)
    for file in ("README.md", "config.json"):
        (folder / file).write_bytes(published.files[file])


def main() -> None:
    contents = photographs()
    columns = {"photograph": contents}
    for name, path in bundled_styles().items():
        stylizer = Stylizer(name, device="cpu")
        painted = [stylizer(content) for content in contents]
        make_card(name, path, painted)
        columns[name] = painted
    # Each photograph has a row of its own, so that a style is a column.
    rows = list(zip(*(columns[name] for name in SHOWN), strict=True))[:3]
    mosaic(rows, 144).save(HERE / "styles.webp", quality=70, method=6)

    _, portrait, pet, _ = contents
    rows = [
        [Stylizer(name, device="cpu")(content, strength=s) for s in STRENGTHS]
        for name, content in zip(LIGHTENED, (portrait, pet), strict=True)
    ]
    mosaic(rows, 200).save(HERE / "strength.webp", quality=76, method=6)


if __name__ == "__main__":
    main()
