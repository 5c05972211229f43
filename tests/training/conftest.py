from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleplug.training import amortize


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of six small pictures."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(6):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg")
    return folder


@pytest.fixture(scope="session")
def artwork(tmp_path_factory) -> Path:
    """A picture of stripes."""
    y, x = np.mgrid[:64, :80]
    stripes = (np.sin(x / 2 + y) > 0)[..., None] * np.array([250, 80, 20], np.uint8)
    path = tmp_path_factory.mktemp("artworks") / "my_Stripes 1.png"
    Image.fromarray(stripes.astype(np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def few_lessons(monkeypatch):
    """Let encoders take three short lessons, in place of thousands."""
    monkeypatch.setattr(amortize, "_LESSONS", 3)
    monkeypatch.setattr(amortize, "_LESSON", 6)
