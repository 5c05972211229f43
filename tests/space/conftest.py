"""The page on loopback, with styles of random weights, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from styleplug.style import StyleInfo, read_info
from tests.conftest import require

ROOT = Path(__file__).parents[2]
HOSTILE = "Udnie <b>& ${window.taken = 1} \\u `"
"""A title that would be markup or a script where it is taken for one."""


def load(path: str | Path | BinaryIO) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


@pytest.fixture(scope="session")
def style_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three styles of one random trunk, of three centuries and painters."""
    import torch

    from styleplug.networks import StyleNetwork
    from styleplug.weights import save_style

    folder = tmp_path_factory.mktemp("styles")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = StyleNetwork(widths=(8, 8, 8), blocks=(1, 1))
        for name, title, artist, year in (
            ("melencolia", "Melencolia I", "Albrecht Dürer", "1514"),
            ("starry-night", "The Starry Night", "Vincent van Gogh", "1889"),
            ("udnie", HOSTILE, "Francis Picabia", "1913"),
        ):
            vector = network.new_style() + 0.5 * torch.randn(network.style_size)
            info = StyleInfo(name, title, artist, year, license="CC0-1.0")
            save_style(folder / f"{name}.safetensors", vector, network, info)
    return folder


@pytest.fixture(scope="session")
def styles(style_folder: Path) -> list[StyleInfo]:
    return [read_info(path) for path in sorted(style_folder.glob("*.safetensors"))]


@pytest.fixture
def painting(tmp_path: Path) -> str:
    """A picture that a visitor brings to be the style."""
    path = tmp_path / "Sun & flowers.JPG"
    Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 80).save(path, "JPEG")
    return str(path)


@dataclass
class Server:
    url: str
    log: Path
    uploads: Path
    """Where the server keeps what visitors send and get."""


@pytest.fixture(scope="session")
def server(
    style_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with serving(style_folder, tmp_path_factory.mktemp("server")) as (started, _):
        yield started


@contextmanager
def serving(
    style_folder: Path, folder: Path
) -> Iterator[tuple[Server, subprocess.Popen[bytes]]]:
    require(find_spec("gradio") and find_spec("mcp"), "needs gradio[mcp]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = Server(f"http://127.0.0.1:{port}/", folder / "log", folder / "uploads")
    with started.log.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "tests/space/serve.py"),
                style_folder,
                str(port),
            ],
            stdout=log,
            stderr=log,
            env=server_environment(started.uploads),
        )
    try:
        wait_for(started.url, process)
        yield started, process
    finally:
        process.terminate()
        process.wait(30)


def server_environment(uploads: Path) -> dict[str, str]:
    return {
        **os.environ,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(uploads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=10).read()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"nothing answers at {url}")
