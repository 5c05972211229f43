"""The text files of a style's Hub repository: model card and ``config.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from .style import FORMAT, StyleInfo

_FIGURES = (
    "The content distance is that of paintings to their photographs, in features of a "
    "fixed network (VGG-19); the style distance is that to the artwork, in their Gram "
    "matrices, and that of photographs is the same before they are painted. Similarity "
    "is the SSIM of a painting to its photograph. Stroke growth is how many times "
    "longer strokes are at `style_scale` 2 than at 0.5, border energy the variance of "
    "the outer 8 pixels as a multiple of that inside."
)
_ONLY_WITH_ANY = ("any_share", "identity_share", "identity_weight")
"""Training settings that matter only if a predictor was trained too."""

TAGS = ("style-transfer", "neural-style-transfer", "safetensors", "art")


def config(info: StyleInfo, sha256: str) -> str:
    """Return ``config.json``: the style's header, file hash and image format.

    The Hub counts downloads by requests for this file.
    """
    image = {"channels": "RGB", "range": [0, 1], "encoding": "sRGB"}
    content = {
        "library_name": "styleplug",
        "format": FORMAT,
        **info.header_fields(),
        "image": image,
        "sha256": sha256,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def headline(info: StyleInfo) -> str:
    """Return "Title by Artist, year", without parts that the header lacks."""
    text = info.title or info.name
    if info.artist:
        text += f" by {info.artist}"
    return f"{text}, {info.year}" if info.year else text


def body(info: StyleInfo, repo_id: str, samples: Iterable[str] = ()) -> str:
    """Return the card's text below its front matter, in Markdown.

    ``samples`` are the names of picture files in the repository.
    """
    paragraphs = [f"# {_line(headline(info))}"]
    if info.description:
        paragraphs.append(_text(info.description))
    paragraphs += [f"![a stylized picture]({quote(name)})" for name in samples]
    paragraphs += [
        "A style for styleplug: photographs become paintings, on your own machine.",
        "## Use",
        "```bash\n"
        "pip install styleplug\n"
        f"styleplug stylize photo.jpg -o painting.jpg --style {repo_id}\n"
        "```",
        "```python\n"
        "from styleplug import stylize\n\n"
        f'painting = stylize(photo, "{repo_id}", strength=0.8)\n'
        "```",
        "After the first use no network is needed. The file holds weights only, in "
        "safetensors; nothing in it is executed.",
        "## Rights",
        f"The artwork: {_text(info.artwork)}",
        f"The weights: {_line(info.license)}.",
    ]
    if info.figures:
        paragraphs += ["## Figures", _FIGURES, _table(info.figures)]
    if info.training:
        hidden = {"activations"}
        if "--any" not in str(info.training.get("command")).split():
            hidden.update(_ONLY_WITH_ANY)
        shown = {k: v for k, v in info.training.items() if k not in hidden}
        paragraphs += ["## Training", _table(shown)]
    paragraphs += [
        "## Limits",
        "The style paints what it sees: it does not know what a picture shows. Faces "
        f"and lettering smaller than a few strokes dissolve; strokes were trained on "
        f"pictures of about {info.base_size} pixels a side and are scaled with the "
        "picture, see `style_scale`.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _text(text: str) -> str:
    """Return text that opens no code and no HTML that would swallow what follows."""
    return re.sub(r"(^|[\r\n])( *)(?=```|~~~|<)", r"\1\2\\", text)


def _table(rows: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    for name, value in rows.items():
        text = value if isinstance(value, str) else json.dumps(value)
        cells = (
            _line(cell).replace("|", r"\|") for cell in (name.replace("_", " "), text)
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
