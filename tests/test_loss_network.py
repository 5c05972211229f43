"""The loss network from the Hub: only what is needed crosses the network."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from styleplug import hub
from styleplug.errors import TrainingError
from tests.conftest import require
from tests.hub_client import ROOT, HubClient, RemoteError, hub_environment
from tests.hub_server import Blob, Fault, HubServer

VGG19 = {
    0: (64, 3),
    2: (64, 64),
    5: (128, 64),
    7: (128, 128),
    10: (256, 128),
    **dict.fromkeys((12, 14, 16), (256, 256)),
    19: (512, 256),
    **dict.fromkeys((21, 23, 25, 28, 30, 32, 34), (512, 512)),
}
"""Width and inputs of torchvision's convolutions, by their place in ``features``."""

BIAS = {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}


def write_vgg(path: Path, dtype: str = "F32", **changes: Any) -> dict[str, bytes]:
    """Write a VGG-19 file as on the Hub, sparse below conv4_1 and in the classifier.

    Returns the bytes of the tensors down to conv4_1.
    """
    shapes: dict[str, list[int]] = {}
    for i, (width, inputs) in VGG19.items():
        shapes[f"features.{i}.bias"] = [width]
        shapes[f"features.{i}.weight"] = [width, inputs, 3, 3]
    for name, shape in {
        "head.fc": [1000, 4096],
        "pre_logits.fc1": [4096, 512, 7, 7],
        "pre_logits.fc2": [4096, 4096, 1, 1],
    }.items():
        shapes |= {f"{name}.bias": shape[:1], f"{name}.weight": shape}
    header: dict[str, Any] = {}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {
            "dtype": dtype,
            "shape": shapes[name],
            "data_offsets": [start, end],
        }
    header |= changes
    text = json.dumps(header).encode()
    rng = random.Random(0)
    tensors = {}
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        data = file.tell()
        for name in sorted(shapes):
            if name.startswith("features") and int(name.split(".")[1]) <= 19:
                start, stop = header[name]["data_offsets"]
                floats = struct.pack("<64f", *(rng.gauss(0, 1) for _ in range(64)))
                tensors[name] = floats * ((stop - start) // len(floats))
                file.seek(data + start)
                file.write(tensors[name])
        file.truncate(data + end)
    return tensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    path = tmp_path_factory.mktemp("vgg") / "model.safetensors"
    return path, write_vgg(path)


@pytest.fixture
def client(server: HubServer, tmp_path: Path) -> Iterator[HubClient]:
    server.forget_requests()
    client = HubClient(server.url, tmp_path / "huggingface")
    yield client
    client.close()


def serve(server: HubServer, repo_id: str, path: Path, *faults: Fault) -> None:
    blob = Blob(path, sha256="5" * 64)
    server.add(repo_id, {"model.safetensors": blob}, faults=faults)


def test_only_the_convolutions_that_are_needed_cross_the_network(
    server: HubServer, client: HubClient, weights: tuple[Path, dict[str, bytes]]
) -> None:
    path, tensors = weights
    serve(server, hub.LOSS_NETWORK, path)
    assert path.stat().st_size > 570e6
    file = client("hub.loss_network_file", "conv4_1")
    assert server.sent < 0.15 * path.stat().st_size
    with safe_open(file, "pt") as stored:
        assert set(stored.keys()) == set(tensors)
        for name, content in tensors.items():
            expected = torch.frombuffer(bytearray(content), dtype=torch.float32)
            assert torch.equal(stored.get_tensor(name).flatten(), expected)
        assert stored.metadata()["source"].startswith("timm/vgg19.tv_in1k@")

    server.forget_requests()
    assert client("hub.loss_network_file", "conv4_1") == file
    assert not server.requests


def test_the_loss_network_of_the_training_loads_it(
    server: HubServer, client: HubClient, weights: tuple[Path, dict[str, bytes]]
) -> None:
    from styleplug.losses import LossNetwork

    serve(server, hub.LOSS_NETWORK, weights[0])
    file = client("hub.loss_network_file", "relu2_1")
    network = LossNetwork(file, ["relu1_1", "relu2_1"])
    assert network(torch.rand(1, 3, 16, 16))["relu2_1"].shape == (1, 128, 8, 8)


def test_a_cached_file_that_rotted_is_fetched_again(
    server: HubServer, client: HubClient, weights: tuple[Path, dict[str, bytes]]
) -> None:
    serve(server, hub.LOSS_NETWORK, weights[0])
    file = Path(client("hub.loss_network_file", "relu1_2"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\xff")
    assert client("hub.loss_network_file", "relu1_2") == str(file)
    assert file.read_bytes()[-1000:] == content[-1000:]


def test_threads_that_need_it_at_once_do_not_disturb_each_other(
    server: HubServer, tmp_path: Path, weights: tuple[Path, dict[str, bytes]]
) -> None:
    serve(server, hub.LOSS_NETWORK, weights[0])
    code = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from styleplug.hub import loss_network_file

both_wrote, replace = threading.Barrier(2, timeout=60), Path.replace

def replace_together(path, target):
    both_wrote.wait()
    return replace(path, target)

Path.replace = replace_together
with ThreadPoolExecutor(2) as threads:
    first, second = threads.map(loss_network_file, ["relu1_2", "relu1_2"])
assert first == second and [*first.parent.iterdir()] == [first]
"""
    environment = hub_environment(server.url, tmp_path / "huggingface")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("reset", "STORAGE", times=2), id="reset"),
        pytest.param(Fault("truncate", "STORAGE"), id="truncate"),
        pytest.param(Fault("status", "STORAGE", 503), id="503"),
        pytest.param(Fault("drop", "STORAGE"), id="drop"),
    ],
)
def test_a_fault_that_passes_is_overcome(
    server: HubServer,
    client: HubClient,
    weights: tuple[Path, dict[str, bytes]],
    fault: Fault,
) -> None:
    path, tensors = weights
    serve(server, hub.LOSS_NETWORK, path, fault)
    with safe_open(client("hub.loss_network_file", "conv1_1"), "pt") as stored:
        weight = stored.get_tensor("features.0.weight").numpy().tobytes()
        assert weight == tensors["features.0.weight"]


def test_a_server_that_ignores_ranges_is_not_read_to_the_end(
    server: HubServer, client: HubClient, weights: tuple[Path, dict[str, bytes]]
) -> None:
    serve(server, hub.LOSS_NETWORK, weights[0], Fault("norange", "STORAGE", times=3))
    with pytest.raises(RemoteError, match="damaged") as caught:
        client("hub.loss_network_file", "conv1_1")
    assert caught.value.kind == "DownloadError"
    assert server.sent < 50e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"dtype": "I32"}, "no float32 or float16 of", id="dtype"),
        pytest.param(
            {"features.0.weight": {"dtype": "F32", "shape": [64, 3, 3, 3]}},
            "lacks 'data_offsets'",
            id="no-offsets",
        ),
        pytest.param(
            {
                "features.0.weight": {
                    "dtype": "F32",
                    "shape": [64, 3, 3, 3],
                    "data_offsets": [10**12, 10**12 + 6912],
                }
            },
            "inside the file",
            id="outside",
        ),
        pytest.param({"features.0.weight": 7}, "header is damaged", id="no-tensor"),
    ],
)
def test_a_repository_that_holds_no_vgg19_is_refused(
    server: HubServer,
    client: HubClient,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / "model.safetensors"
    if "features.0.weight" in changes:
        content = json.dumps({"features.0.bias": BIAS, **changes})
        path.write_bytes(struct.pack("<Q", len(content)) + content.encode())
    else:
        write_vgg(path, **changes)
    serve(server, "owner/other", path)
    with pytest.raises(RemoteError, match=message) as caught:
        client("hub.loss_network_file", "conv1_1", source="owner/other")
    assert caught.value.kind == "TrainingError"


def test_a_missing_file_is_not_sought_on_the_hub() -> None:
    with pytest.raises(TrainingError, match=r"vgg/vgg19\.safetensors.*No such file"):
        hub.loss_network_file(source="vgg/vgg19.safetensors")


def test_without_a_network_it_says_so(server: HubServer, tmp_path: Path) -> None:
    client = HubClient(server.url, tmp_path, HF_HUB_OFFLINE="1")
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE") as caught:
        client("hub.loss_network_file")
    assert caught.value.kind == "DownloadError"
    client.close()


def test_an_assets_cache_that_cannot_be_written_is_explained(
    server: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "assets").write_text("in the way")
    client = HubClient(server.url, tmp_path, HF_ASSETS_CACHE=str(tmp_path / "assets"))
    with pytest.raises(RemoteError, match="Corrupted assets folder") as caught:
        client("hub.loss_network_file")
    assert caught.value.kind == "DownloadError"
    client.close()


def test_a_local_file_or_folder_stands_in(
    weights: tuple[Path, dict[str, bytes]],
) -> None:
    path, _ = weights
    assert hub.loss_network_file("relu5_1", source=path) == path
    assert hub.loss_network_file("relu5_1", source=path.parent) == path


def test_half_precision_stands_in_too(tmp_path: Path) -> None:
    tensors = {
        "features.0.weight": torch.rand(64, 3, 3, 3).half(),
        "features.0.bias": torch.rand(64).half(),
    }
    save_file(tensors, tmp_path / "vgg.safetensors")
    file = hub.loss_network_file("relu1_1", source=tmp_path)
    assert file == tmp_path / "vgg.safetensors"
    with pytest.raises(TrainingError, match=r"lacks 'features\.2\.weight'"):
        hub.loss_network_file("relu1_2", source=tmp_path)


@pytest.mark.assets
def test_the_loss_network_of_the_assets_stands_in() -> None:
    assets = os.environ.get("STYLEPLUG_ASSETS")
    require(assets, "STYLEPLUG_ASSETS does not name the assets")
    assert hub.loss_network_file("relu4_1", source=Path(assets or "") / "vgg").exists()


@pytest.mark.parametrize("source", ["missing.safetensors", "."])
def test_a_local_source_without_the_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="holds no VGG-19"):
        hub.loss_network_file(source=source)


def test_an_unknown_layer_is_misuse() -> None:
    with pytest.raises(ValueError, match="relu6_1"):
        hub.loss_network_file("relu6_1")
