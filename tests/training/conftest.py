from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def vgg(tmp_path_factory) -> Path:
    """A VGG-19 to conv4_1 with random weights, in torchvision's layout."""
    generator = torch.Generator().manual_seed(0)
    sizes = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
    sizes |= {12: (256, 256), 14: (256, 256), 16: (256, 256), 19: (256, 512)}
    tensors = {}
    for i, (inputs, outputs) in sizes.items():
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
        tensors[f"features.{i}.weight"] = (weight * (2 / 9 / inputs) ** 0.5).half()
        tensors[f"features.{i}.bias"] = torch.zeros(outputs).half()
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(tensors, path)
    return path


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
