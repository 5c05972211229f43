"""What the page shows of the styles; its events are tested through a browser."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest

from styleplug.demo.studio import Studio
from styleplug.style import StyleInfo
from tests.conftest import require


def test_a_style_that_cannot_be_painted_is_left_out_of_the_gallery(
    styles: list[StyleInfo], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require(find_spec("gradio"), "needs gradio")
    from styleplug.demo.page import _Desk

    cut_short = tmp_path / "cut short.safetensors"
    cut_short.write_bytes(b"nothing")
    bad = [
        dataclasses.replace(styles[0], name="damaged", path=cut_short),
        dataclasses.replace(styles[0], name="gone", path=tmp_path / "gone.safetensors"),
    ]
    desk = _Desk(Studio([*bad, *styles]), tmp_path / "thumbnails")
    shown = [style["id"] for group in desk._groups({}) for style in group["styles"]]
    assert shown == ["melencolia", "starry-night", "udnie"]
    for info in bad:
        assert f"The style {info.name} is left out" in caplog.text
