"""What the page shows of the styles; its events are tested through a browser."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from styleplug.demo.studio import Content, Limits, StoppedError, Studio
from styleplug.errors import MemoryLimitError
from styleplug.style import StyleInfo
from tests.conftest import require
from tests.space.conftest import server_environment


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[[Studio], Any]:
    require(find_spec("gradio"), "needs gradio")
    from styleplug.demo.page import _Page

    return lambda studio: _Page(studio, tmp_path / "thumbnails")


def _begin(page: Any, visitor: Any) -> Any:
    """Press the button below a photo; returns what the page is given."""
    photo = Content("", "", 1, 1)
    return page._begin(visitor, None, "Paint what I mark", photo, "udnie")


def test_a_style_that_cannot_be_painted_with_is_offered_nowhere(
    styles: list[StyleInfo],
    open_page: Callable[[Studio], Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch

    from styleplug.networks import StyleNetwork
    from styleplug.weights import save_style, save_trunk

    network = StyleNetwork(widths=(8, 8, 8), blocks=(1, 1))
    vector = torch.zeros(network.style_size)
    lone, trunk = tmp_path / "lone.safetensors", tmp_path / "trunk.safetensors"
    info = save_style(lone, vector, network, StyleInfo("lone"), self_contained=False)
    save_trunk(trunk, network, StyleInfo("trunk"))
    lone_info = dataclasses.replace(info, path=lone)
    open_page(Studio([lone_info]))._groups({})  # which keeps its thumbnail
    trunk.rename(tmp_path / "renamed.safetensors")
    os.utime(lone)  # so that it is loaded anew
    bad = [
        lone_info,
        dataclasses.replace(
            styles[0], name="trunk", path=tmp_path / "renamed.safetensors"
        ),
        dataclasses.replace(styles[0], name="gone", path=tmp_path / "gone.safetensors"),
    ]
    page = open_page(Studio([*bad, *styles]))
    good = ["melencolia", "starry-night", "udnie"]
    shown = [style["id"] for group in page._groups({}) for style in group["styles"]]
    assert shown == good
    assert [name for _, name in page._choices({})] == ["", *good]
    assert [style["name"] for style in page._api_list_styles()] == good
    for info in bad:
        assert f"The style {info.name} is left out" in caplog.text


@pytest.mark.parametrize("error", [OSError, MemoryLimitError])
def test_a_moment_s_trouble_costs_no_style(
    error: type[Exception],
    styles: list[StyleInfo],
    open_page: Callable[[Studio], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*args: Any) -> bytes:
        raise error("Too many open files")

    page = open_page(Studio(styles))
    with monkeypatch.context() as busy:
        busy.setattr(page.studio, "thumbnail", fails)
        assert page._groups({}) == []
    assert len(page._choices({})) == 1 + len(styles)
    assert sum(len(group["styles"]) for group in page._groups({})) == len(styles)


def test_the_page_tells_what_a_batch_may_hold_before_it_is_chosen(
    styles: list[StyleInfo],
    open_page: Callable[[Studio], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = open_page(Studio(styles, limits=Limits(files=7, file_bytes=9 << 20)))
    told: list[str] = []
    monkeypatch.setattr("gradio.Markdown", told.append)
    page._lay_out_batch()
    assert "up to 7 at a time, each of up to 9 MB." in told[0]


def test_a_job_that_never_ran_leaves_nothing_once_stopped_or_left(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any]
) -> None:
    page = open_page(Studio(styles))
    visitors = [SimpleNamespace(session_hash=name) for name in ("one", "other")]
    stopped, stays = (_begin(page, visitor)[0] for visitor in visitors)
    left = page._begin_batch(visitors[0])[0]
    page._stop(stopped)
    assert page.jobs == {left, stays}
    page.leave(visitors[0])
    assert page.jobs == {stays}
    with pytest.raises(StoppedError), page._report(left, None) as report:
        report(0.0)
    assert page.jobs == {stays}
    page._give_up(stays)
    assert page.jobs == set()


def test_nothing_is_begun_once_the_photo_is_put_away(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any]
) -> None:
    import gradio as gr

    page = open_page(Studio(styles))
    one = SimpleNamespace(session_hash="one")
    job, asked, _, *buttons = page._begin(one, None, "Paint what I mark", None)
    assert page.jobs == set()
    assert not any(button["visible"] for button in buttons)
    assert page._paint(job, {}, asked) == gr.skip()


def test_a_painting_that_was_put_away_as_it_was_written_is_not_shown(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any]
) -> None:
    import gradio as gr

    studio = Studio(styles)
    page = open_page(studio)
    one = SimpleNamespace(session_hash="one")
    job, asked, *_ = _begin(page, one)
    studio.paint = lambda *args, **options: page._put_away(one)  # type: ignore[method-assign]
    assert page._paint(job, {}, asked) == gr.skip()


def test_a_button_pressed_twice_begins_one_job(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any]
) -> None:
    import gradio as gr

    page = open_page(Studio(styles))
    one = SimpleNamespace(session_hash="one")
    jobs = {_begin(page, one)[0], page._begin_batch(one)[0]}
    assert _begin(page, one) == gr.skip()
    assert page._begin_batch(one) == gr.skip()
    assert page.jobs == jobs


def test_a_new_photo_ends_the_painting_of_the_one_before(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any], tmp_path: Path
) -> None:
    page = open_page(Studio(styles))
    one, other = (SimpleNamespace(session_hash=name) for name in ("one", "other"))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "red").save(photo)
    stay = {page._begin_batch(one)[0], _begin(page, other)[0]}
    _begin(page, one)
    read = page.studio.open

    def waits(path: str) -> Content:
        assert page.jobs == stay
        _begin(page, one)  # the photo before is still shown
        return read(path)

    page.studio.open = waits
    content, *_, stop, download = page._open(one, str(photo))
    assert content.path == str(photo)
    assert not stop["visible"]
    assert not download["visible"]
    assert page.jobs == stay


def test_a_preview_is_not_shown_once_the_painting_is_asked_for(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any], tmp_path: Path
) -> None:
    import gradio as gr

    studio = Studio(styles)
    page = open_page(studio)
    one, other = (SimpleNamespace(session_hash=name) for name in ("one", "other"))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "red").save(photo)
    given = studio.open(str(photo)), None, styles[0].name

    def waits(*args: Any) -> str:
        _begin(page, one)
        return str(photo)

    skipped = gr.skip()
    studio.preview = waits  # type: ignore[method-assign]
    assert page._preview(one, None, {}, *given) == skipped
    assert page._preview(one, None, {}, *given) == skipped
    page.jobs.clear()
    studio.preview = lambda *args: str(photo)  # type: ignore[method-assign]
    page._begin_batch(one)
    _begin(page, other)
    assert page._preview(one, None, {}, *given)[1] == (given[0].preview, str(photo))


def test_an_answer_about_no_photo_leaves_what_came_since(
    styles: list[StyleInfo], open_page: Callable[[Studio], Any]
) -> None:
    page = open_page(Studio(styles))
    one = SimpleNamespace(session_hash="one")
    assert "value" not in page._open(one, None)[2]  # the next photo may be there
    assert "Choose a photo" in page._preview(one, None, {}, None, None)[2]
    assert page._offer_batch(one)[1]["visible"]
    page._begin_batch(one)
    assert "visible" not in page._offer_batch(one)


def test_a_page_that_is_ended_waits_for_no_painting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(find_spec("gradio"), "needs gradio")
    import gradio as gr

    from styleplug.demo import page

    ended: list[str] = []
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: ended.append("server"))
    served = page._Blocks.__new__(page._Blocks)  # its loop of events would stay open
    served.studio = SimpleNamespace(close=lambda: ended.append("paintings"))  # type: ignore[assignment]
    served.block_thread()
    assert ended == ["server", "paintings"]


def test_what_visitors_leave_is_removed_in_time(
    style_folder: Path, tmp_path: Path
) -> None:
    require(find_spec("gradio"), "needs gradio")
    # Apart, for Gradio leaves a loop of events open.
    process = subprocess.run(
        [sys.executable, "-c", _BUILD, style_folder, tmp_path / "thumbnails"],
        env=server_environment(tmp_path / "uploads"),
        check=True,
        capture_output=True,
    )
    found = json.loads(process.stdout)
    assert found["cleaned"] == [3000, 3000]
    assert found["cached"] == [0.01, 3000]
    assert "unload" in found["events"]


_BUILD = """
import json, queue, sys
from pathlib import Path
from styleplug.demo import page, studio
from styleplug.style import read_info

ages = queue.Queue()
page._CLEAN_EVERY = 0.01
studio.Studio.clean = lambda studio, age: ages.put(age)
styles = [read_info(path) for path in Path(sys.argv[1]).glob("*.safetensors")]
built = page.build(styles=styles, thumbnails=Path(sys.argv[2]))
print(json.dumps({
    "cleaned": [ages.get(timeout=60), ages.get(timeout=60)],
    "cached": built.delete_cache,
    "events": [event for fn in built.fns.values() for _, event in fn.targets],
}))
"""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_only_so_many_drawings_of_so_many_bytes_are_kept() -> None:
    require(find_spec("gradio"), "needs gradio")
    from gradio.components.image_editor import AcceptBlobs

    from styleplug.demo import page

    brush = page._Brush()
    most = page._DRAWING_BYTES

    def draw(name: str, size: int) -> None:
        one: Any = {"type": "layer", "index": 0, "id": name, "file": b""}
        brush.accept_blobs(AcceptBlobs(data=one, files=[("file", bytes(size))]))

    draw("large", most)
    draw("too large", most + 1)
    assert list(brush.blob_storage) == ["large"]
    for number in range(page._DRAWINGS):
        draw(str(number), 1)
    assert list(brush.blob_storage) == [str(n) for n in range(page._DRAWINGS)]


def test_thumbnails_are_kept_where_the_system_wants_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require(find_spec("gradio"), "needs gradio")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "styleplug.demo.page", raising=False)
    page = runpy.run_module("styleplug.demo.page")
    assert page["THUMBNAILS"] == tmp_path / "styleplug" / "thumbnails"
