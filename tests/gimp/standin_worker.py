# ruff: noqa: T201
"""styleplug's worker with a stylizer of a few lines in place of the networks.

It starts at once and its result is known: the negative, as far as ``strength`` says;
to keep the colours means to take only the green. Any file is such a style, too; a
blend is one as far as its first part's weight, of 1 in all, says. The style ``slow``
takes five minutes; ``stuck``, which is not listed, never reports anything; ``late`` is
missing, which takes it two seconds to find. The style and the width of all that is
painted, and files that are missing, are noted in the file that the first argument
names. Further arguments are the styles to list.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from styleplug import worker
from styleplug.errors import StyleNotFoundError
from styleplug.style import StyleInfo

STYLES = ("negative", "slow", "stuck")


def note(*words):
    if sys.argv[1:]:
        with open(sys.argv[1], "a") as journal:
            print(*words, file=journal)


class Negative:
    device = "cpu"

    def __init__(self, style):
        parts = [[style, 1]] if isinstance(style, str) else style
        for name, _ in parts:
            if name.startswith("/") and not Path(name).is_file():
                note(name, "missing")
                raise StyleNotFoundError(f"There is no picture {name}; check the path.")
            if name == "late":
                time.sleep(2)
            if name not in STYLES and not name.startswith("/"):
                raise StyleNotFoundError(f"There is no style {name!r}.")
        self.style = style if isinstance(style, str) else json.dumps(style)
        self.share = parts[0][1]

    def __call__(
        self,
        image,
        *,
        strength=1.0,
        style_scale=1.0,
        preserve_color=False,
        mask=None,
        progress=lambda fraction: None,
    ):
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}, not in 0..1")
        print("a stray line on standard output")
        note(self.style, image.shape[1])
        if self.style == "stuck":
            time.sleep(3600)
        for step in range(3000 if self.style == "slow" else 2):
            progress(step / 3000)
            time.sleep(0.1 if self.style == "slow" else 0)
        colors = image[..., :3].astype(np.float32)
        if preserve_color:
            colors = colors[..., 1:2].repeat(3, -1)
        white = 255 if image.dtype == np.uint8 else 1
        weight = self.share * strength
        if mask is not None:
            weight = weight * mask[..., None]
        new = colors + (white - 2 * colors) * weight
        if image.dtype == np.uint8:
            new = np.rint(new)
        return np.concatenate([new.astype(image.dtype), image[..., 3:]], -1)


if __name__ == "__main__":
    names = sys.argv[2:] or STYLES[:2]
    infos = [StyleInfo(name=name, title=name.title()) for name in names]
    worker.main(Negative, lambda: infos)
