"""Fixtures for all tests: no network, no user configuration, nothing large."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.hub_server import HubServer


def require(condition: object, reason: str) -> None:
    """Skip the test unless `condition` holds; on CI (STYLEPLUG_CI=1) fail instead."""
    if condition:
        return
    if os.environ.get("STYLEPLUG_CI") == "1":
        pytest.fail(f"CI has to run this test: {reason}")
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests off the network and away from the user's cache and settings.

    Before anything is imported: huggingface_hub reads the environment only then.
    """
    kept = {
        *("STYLEPLUG_CI", "STYLEPLUG_ASSETS", "STYLEPLUG_GIMP3_DIR"),
        "STYLEPLUG_TEST_DEVICE",
    }
    for name in [*os.environ]:
        if name.startswith(("HF_", "HUGGING_FACE_")) or (
            name.startswith("STYLEPLUG_") and name not in kept
        ):
            del os.environ[name]
    home = tempfile.TemporaryDirectory(prefix="styleplug-tests-")
    config.add_cleanup(home.cleanup)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = home.name


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no file take its place any more, as on a full disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(Path, "replace", refuse)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A folder that takes no new file."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write anywhere but there
        folder = Path("/proc")
    require(folder.is_dir(), "root needs a /proc for this test")
    return folder


@pytest.fixture(scope="session")
def device() -> str:
    """The device that STYLEPLUG_TEST_DEVICE names, else the CPU."""
    return os.environ.get("STYLEPLUG_TEST_DEVICE", "cpu")


@pytest.fixture(scope="session")
def tiny_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-contained style file of 8 channels with seeded random weights."""
    import torch

    from styleplug.networks import StyleNetwork
    from styleplug.style import StyleInfo
    from styleplug.weights import save_style

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = StyleNetwork(widths=(8, 8, 8), blocks=(1, 1))
        vector = network.new_style() + 0.5 * torch.randn(network.style_size)
    path = tmp_path_factory.mktemp("styles") / "tiny.safetensors"
    info = StyleInfo(name="tiny", title="Tiny", artist="Nobody", license="CC0-1.0")
    save_style(path, vector, network, info)
    return path


def save_random_vgg(path: Path, last_layer: str) -> Path:
    """Write a VGG-19 down to ``last_layer`` with random weights; return ``path``."""
    import torch
    from safetensors.torch import save_file

    from styleplug.vgg import tensor_shapes

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in tensor_shapes(last_layer).items():
        tensor = torch.zeros(shape)
        if len(shape) == 4:
            weight = torch.randn(shape, generator=generator)
            tensor = weight * (2 / 9 / shape[1]) ** 0.5
        tensors[name] = tensor.half()
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG-19 to conv4_1 with random weights, in torchvision's layout."""
    return save_random_vgg(
        tmp_path_factory.mktemp("vgg") / "vgg19.safetensors", "relu4_1"
    )


@pytest.fixture(scope="session")
def shallow_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same to conv2_1."""
    folder = tmp_path_factory.mktemp("shallow")
    return save_random_vgg(folder / "vgg19.safetensors", "relu2_1")


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    """A Hub on loopback for the tests of one file, see hub_server."""
    from tests.hub_server import HubServer

    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def content_image() -> Image.Image:
    """A synthetic RGB photograph of 96 x 64: a gradient, a disc and some texture."""
    y, x = np.mgrid[0:64, 0:96]
    red = 255 * x / 95
    green = 255 * y / 63
    blue = np.where((x - 60) ** 2 + (y - 24) ** 2 < 256, 230, 40 + 25 * ((x ^ y) & 3))
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))
