"""What the page shows of the styles; its events are tested through a browser."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from styleplug.demo.studio import StoppedError, Studio
from styleplug.style import StyleInfo
from tests.conftest import require


@pytest.fixture
def open_desk(tmp_path: Path) -> Callable[[Studio], Any]:
    require(find_spec("gradio"), "needs gradio")
    from styleplug.demo.page import _Desk

    return lambda studio: _Desk(studio, tmp_path / "thumbnails")


def test_a_style_that_cannot_be_painted_is_left_out_of_the_gallery(
    styles: list[StyleInfo],
    open_desk: Callable[[Studio], Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut_short = tmp_path / "cut short.safetensors"
    cut_short.write_bytes(b"nothing")
    bad = [
        dataclasses.replace(styles[0], name="damaged", path=cut_short),
        dataclasses.replace(styles[0], name="gone", path=tmp_path / "gone.safetensors"),
    ]
    desk = open_desk(Studio([*bad, *styles]))
    shown = [style["id"] for group in desk._groups({}) for style in group["styles"]]
    assert shown == ["melencolia", "starry-night", "udnie"]
    for info in bad:
        assert f"The style {info.name} is left out" in caplog.text


def test_a_job_that_never_ran_leaves_nothing_once_stopped_or_left(
    styles: list[StyleInfo], open_desk: Callable[[Studio], Any]
) -> None:
    desk = open_desk(Studio(styles))
    visitors = [SimpleNamespace(session_hash=name) for name in ("one", "other")]
    stopped, left, stays = (desk._begin(visitors[i])[0] for i in (0, 0, 1))
    desk._stop(stopped)
    assert desk.jobs == {left, stays}
    desk.leave(visitors[0])
    assert desk.jobs == {stays}
    with pytest.raises(StoppedError), desk._report(left, None) as report:
        report(0.0)
    assert desk.jobs == {stays}


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_thumbnails_are_kept_where_the_system_wants_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require(find_spec("gradio"), "needs gradio")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = runpy.run_module("styleplug.demo.page")
    assert page["THUMBNAILS"] == tmp_path / "styleplug" / "thumbnails"
