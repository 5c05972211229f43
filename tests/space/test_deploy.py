from __future__ import annotations

import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from styleplug.predictor import PHOTOGRAPHS
from styleplug.style import bundled_styles
from tests.conftest import require
from tests.space.conftest import ROOT, server_environment, wait_for


def _setuptools_builds_here() -> bool:
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled Space, by the command of its docs."""
    require(find_spec("gradio"), "needs gradio")
    require(_setuptools_builds_here(), "needs setuptools 77 to build the wheel")
    require(bundled_styles(), "needs the bundled styles")
    folder = tmp_path_factory.mktemp("space")
    script = [sys.executable, str(ROOT / "space/deploy.py"), "owner/name"]
    done = subprocess.run(
        [*script, "--dry-run", "--folder", str(folder)],
        env={**os.environ, "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing uploaded" in done.stdout
    return folder


def test_the_front_matter_is_what_the_hub_expects() -> None:
    text = (ROOT / "space/README.md").read_text("utf-8")
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["sdk"] == "gradio"
    assert matter["app_file"] == "app.py"
    requirements = (ROOT / "space/requirements.txt").read_text("utf-8")
    assert f"gradio[mcp]=={matter['sdk_version']}" in requirements
    assert len(matter["short_description"]) <= 60


def test_the_space_tells_the_limits_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(find_spec("gradio"), "needs gradio")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "styleplug.demo.launch", lambda **options: asked.update(options)
    )
    runpy.run_path(str(ROOT / "space/app.py"))
    limits = asked["limits"]
    told = (
        f"{limits.pixels // 1_000_000} megapixels and {limits.file_bytes >> 20} MB, "
        f"a batch {limits.files} pictures"
    )
    assert told in " ".join((ROOT / "space/README.md").read_text("utf-8").split())


@pytest.mark.parametrize("name", ["name", "a/", "a b/c", "a/b@main", "a/b.git"])
def test_a_wrong_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "space/deploy.py"))["main"]
    with pytest.raises(SystemExit):
        main([name, "--dry-run"])
    assert name in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_in_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "styleplug-0.0.1-py3-none-any.whl"
    file.write_bytes(b"old")
    main = runpy.run_path(str(ROOT / "space/deploy.py"))["main"]
    for path in (tmp_path, file):
        with pytest.raises(SystemExit):
            main(["owner/name", "--dry-run", "--folder", str(path)])
        told = f"{path} is not an empty folder; name a new one"
        assert told in capsys.readouterr().err


def test_the_space_holds_exactly_what_it_needs(space: Path) -> None:
    names = {p.relative_to(space).as_posix() for p in space.rglob("*") if p.is_file()}
    folders = {name.split("/")[0] for name in names if "/" in name}
    about = f"styleplug-{version('styleplug')}.dist-info"
    assert folders == {"styleplug", "styleplug_gimp", about, "thumbnails"}
    assert {name for name in names if "/" not in name} == {
        *("app.py", "README.md", "page.webp", "requirements.txt")
    }
    assert len(list((space / "thumbnails").iterdir())) == len(bundled_styles())
    assert {"styleplug/demo/page.css", "styleplug/demo/examples/lake.jpg"} <= names
    assert {f"styleplug/photographs/{p.name}" for p in PHOTOGRAPHS.iterdir()} <= names
    assert "styleplug/sample.jpg" in names


def test_the_requirements_are_found_without_the_space_s_other_files() -> None:
    lines = (ROOT / "space/requirements.txt").read_text("utf-8").splitlines()
    named = {re.split(r"[\[=<>]", line)[0] for line in lines if line[0] != "#"}
    needed = requires("styleplug") or []
    own = {re.split(r"[\[=<>;]", line)[0] for line in needed if "extra" not in line}
    assert named == own | {"gradio", "spaces"}


def test_the_space_starts_in_an_environment_of_its_own(
    space: Path, tmp_path: Path
) -> None:
    """Requirements are lent, as torch and Gradio are large; styleplug itself is not."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    purelib = next(folder.glob("lib/python*/site-packages"))
    lent = Path(find_spec("gradio").origin or "").parents[1]  # type: ignore[union-attr]
    (purelib / "lent.pth").write_text(f"{lent}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = server_environment(tmp_path / "uploads") | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HOME": str(tmp_path),
    }
    del environment["PYTHONPATH"]
    elsewhere = shutil.copytree(space, tmp_path / "space")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(folder / "bin/python"), "app.py"],
            cwd=elsewhere,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        from gradio_client import Client, handle_file

        client = Client(f"http://127.0.0.1:{port}/", verbose=False)
        styles = client.predict(api_name="/list_styles")
        assert [style["name"] for style in styles] == list(bundled_styles())
        example = ROOT / "styleplug/demo/examples/lake.jpg"
        call = handle_file(str(example)), styles[0]["name"]
        assert Path(client.predict(*call, api_name="/preview")).stat().st_size > 1000
    finally:
        process.terminate()
        process.wait(30)
    assert not (tmp_path / ".cache" / "styleplug").exists()
