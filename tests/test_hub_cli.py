"""The commands that use the Hub, in a process of their own, see hub_server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from styleplug.networks import StyleNetwork
from styleplug.style import StyleInfo, read_info
from styleplug.weights import save_style
from tests.hub_client import ROOT, hub_environment
from tests.hub_server import OWNER_TOKEN, Fault, HubServer
from tests.test_convert import new_fast_neural_style

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _start_empty(server: HubServer) -> None:
    server.repos.clear()
    server.forget_requests()


@pytest.fixture
def run(server: HubServer, tmp_path: Path) -> Run:
    """Return a function that runs ``styleplug`` with these arguments."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "styleplug", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            check=False,
            env={
                **hub_environment(server.url, tmp_path / "huggingface"),
                "PYTHONIOENCODING": "utf-8",
                **environment,
            },
        )

    return run


@pytest.fixture
def style(tmp_path: Path) -> Path:
    network = StyleNetwork((4, 4, 4), (1, 1))
    info = StyleInfo("wave", license="MIT", artwork="Public domain.")
    path = tmp_path / "wave.safetensors"
    save_style(path, network.new_style(), network, info)
    return path


def test_a_cache_that_can_hold_no_links_is_nothing_to_tell(
    server: HubServer, run: Run, style: Path, tmp_path: Path
) -> None:
    """As on Windows, where links are for developers and administrators."""
    server.add("owner/wave", {"model.safetensors": style})
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "def refuse(*_, **__): raise OSError('no links')\n"
        "os.symlink = refuse\n"
    )
    pulled = run("pull", "owner/wave", PYTHONPATH=str(tmp_path))
    assert (pulled.returncode, pulled.stderr) == (0, "")
    path = Path(pulled.stdout.strip())
    assert not path.is_symlink()
    assert path.read_bytes() == style.read_bytes()


def test_styles_are_found_pulled_kept_and_used_offline(
    server: HubServer, run: Run, style: Path
) -> None:
    for name, licence in (("one", "mit"), ("two", "cc0-1.0"), ("three", "mit")):
        server.add(
            f"owner/{name}",
            {"model.safetensors": style},
            card={"library_name": "styleplug", "license": licence},
        )
    for command in (["list", "--hub"], ["pull", "--all"]):
        nothing = run(*command, "--license", "gpl-3.0")
        assert (nothing.returncode, nothing.stdout) == (0, "")
        assert "The Hub lists no style that fits." in nothing.stderr
    assert "No style from the Hub is cached" in run("cache").stderr
    listed = run("list", "--hub", "--license", "mit").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["owner/one", "mit"],
        ["owner/three", "mit"],
    ]
    assert len(json.loads(run("list", "--hub", "--json").stdout)) == 3

    pulled = run("pull", "--all", "--license", "mit")
    assert pulled.returncode == 0
    assert len(pulled.stdout.splitlines()) == 2
    commit = server.repos["owner/one"].refs["main"]
    two = server.repos["owner/two"].refs["main"]
    assert run("pull", f"owner/two@{two}").returncode == 0

    server.forget_requests()
    cache = run("cache").stdout.splitlines()
    assert [line.split()[0] for line in cache] == [
        "owner/one",
        "owner/three",
        "owner/two",
    ]
    assert commit[:12] in cache[0]
    assert [line.split()[-1] for line in cache] == ["main", "main", "pinned"]
    sizes = [entry["size"] for entry in json.loads(run("cache", "--json").stdout)]
    assert sizes == [style.stat().st_size] * 3
    info = run("info", "owner/one", HF_HUB_OFFLINE="1")
    assert f"revision        {commit}" in info.stdout
    assert not server.requests


def test_a_cached_style_that_could_not_be_looked_up_is_told(
    server: HubServer, run: Run, style: Path
) -> None:
    server.add("owner/wave", {"model.safetensors": style})
    pulled = run("pull", "owner/wave")
    server.repos["owner/wave"].faults = [Fault("status", "HEAD", 503)]
    again = run("pull", "owner/wave")
    assert (again.returncode, again.stdout) == (0, pulled.stdout)
    (line,) = again.stderr.splitlines()
    assert "Using the cached copy of owner/wave: The Hub has a problem" in line


def test_one_style_that_fails_does_not_stop_the_others(
    server: HubServer, run: Run, style: Path
) -> None:
    server.add("owner/good", {"model.safetensors": style})
    server.add("owner/bad", {"model.safetensors": b"\x80\x04."})
    done = run("pull", "--all")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("styleplug: error: owner/bad is not a safetensors file")


def test_a_strangers_words_do_not_steer_the_terminal(
    server: HubServer, run: Run, tmp_path: Path
) -> None:
    network = StyleNetwork((4, 4, 4), (1, 1))
    path = tmp_path / "evil.safetensors"
    info = StyleInfo("evil", title="\x1b[2J\x07wiped", license="\x1b[31mred")
    save_style(path, network.new_style(), network, info)
    card = {"library_name": "styleplug", "license": "\x1b[31mred"}
    server.add("owner/evil", {"model.safetensors": path}, card=card)
    assert run("pull", "owner/evil").returncode == 0
    for command in (["list"], ["list", "--hub"], ["cache"], ["info", "owner/evil"]):
        shown = run(*command).stdout
        assert "owner/evil" in shown
        assert "\x1b" not in shown
        assert "\x07" not in shown


@pytest.mark.parametrize(
    "arguments", [["pull"], ["pull", "--search", "x"], ["list", "--license", "mit"]]
)
def test_a_request_that_makes_no_sense_is_told(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_publish_shows_before_it_uploads(
    server: HubServer, run: Run, style: Path
) -> None:
    dry = run("publish", style, "--repo-id", "owner/wave", "--dry-run")
    assert dry.returncode == 0
    assert "library_name: styleplug" in dry.stdout
    assert dry.stdout.endswith(f"would go to {server.url}/owner/wave\n")
    assert not server.requests

    done = run("publish", style, "--repo-id", "owner/wave", HF_TOKEN=OWNER_TOKEN)
    assert done.stdout.endswith(f"is on {server.url}/owner/wave\n")
    assert "owner/wave" in server.repos


def test_convert_makes_a_style_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    new_fast_neural_style().save(tmp_path / "old.pth")
    new = tmp_path / "new.safetensors"
    rights = ["--license", "MIT", "--artwork", "Public domain."]
    done = run("convert", tmp_path / "old.pth", "-o", new, *rights, "--title", "Mill")
    assert done.stdout == f"{new}\n"
    assert read_info(new).title == "Mill"
    without = run("convert", tmp_path / "old.pth", "-o", new, "--license", "MIT")
    assert without.returncode == 2
    assert "--artwork" in without.stderr
