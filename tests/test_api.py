"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest

import styleplug
from styleplug.errors import StyleplugError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "PIL", "huggingface_hub")


def loaded_by(code: str, *options: str) -> set[str]:
    """Run the code in a fresh interpreter; return the heavy packages it imported."""
    tail = f"\nimport sys\nprint('!', *(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run(
        [sys.executable, *options, "-c", code + tail],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return set(result.stdout.rpartition("!")[2].split())


def test_every_public_name_resolves() -> None:
    assert styleplug.__all__ == sorted(styleplug.__all__)
    for name in styleplug.__all__:
        assert getattr(styleplug, name) is not None
        assert name in dir(styleplug)


def test_every_type_hint_resolves() -> None:
    public = [getattr(styleplug, name) for name in styleplug.__all__]
    stylizer = styleplug.Stylizer
    methods = [stylizer.__init__, stylizer.__call__, stylizer.render]
    for function in (*filter(callable, public), *methods):
        typing.get_type_hints(function)


def test_every_error_is_public() -> None:
    errors = {
        cls.__name__
        for cls in StyleplugError.__subclasses__()
        if cls.__module__ == StyleplugError.__module__
    }
    assert errors <= set(styleplug.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'stylise'"):
        _ = styleplug.stylise  # type: ignore[attr-defined]


def test_importing_loads_nothing_heavy_and_warns_of_nothing() -> None:
    assert loaded_by("import styleplug", "-W", "error") == set()


def test_importing_everything_warns_of_nothing() -> None:
    loaded_by("from styleplug import *", "-W", "error")


@pytest.mark.parametrize("command", ["--help", "list", "list --json", "--version"])
def test_commands_that_compute_nothing_load_no_torch(command: str) -> None:
    code = f"from styleplug.cli import main\nmain({command.split()!r})"
    assert "torch" not in loaded_by(code)


def test_images_load_no_torch() -> None:
    assert loaded_by("import styleplug.images") == {"numpy", "PIL"}


def test_the_sample_loads_no_torch(tmp_path: Path) -> None:
    argv = ["sample", str(tmp_path / "scene.png")]
    code = f"from styleplug.cli import main\nmain({argv!r})"
    assert loaded_by(code) == {"numpy", "PIL"}
