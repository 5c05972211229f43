from __future__ import annotations

import dataclasses
import io
import math
import os
import shutil
import struct
import threading
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from safetensors.numpy import save_file

from styleplug import Stylizer, engine, list_styles, rendering
from styleplug.demo import studio as module
from styleplug.demo.studio import Limits, Settings, StoppedError, Studio
from styleplug.errors import (
    DownloadError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidStyleError,
    StyleNotFoundError,
    StyleplugError,
)
from styleplug.style import StyleInfo, read_info
from tests.conftest import require
from tests.space.conftest import load

STYLE = Settings("starry-night")


@pytest.fixture
def studio(styles: list[StyleInfo], tmp_path: Path) -> Studio:
    limits = Limits(pixels=100_000, file_bytes=200_000, files=3, preview_side=64)
    return Studio(styles, limits=limits, folder=tmp_path / "made")


@pytest.fixture
def photo(content_image: Image.Image, tmp_path: Path) -> str:
    path = tmp_path / "my photo.png"
    content_image.save(path)
    return str(path)


def test_a_painting_has_the_size_and_format_of_the_photo(
    studio: Studio, photo: str, content_image: Image.Image
) -> None:
    painting = studio.paint(photo, STYLE)
    assert Path(painting.path).name == "my-photo-starry-night.png"
    painted = load(painting.path)
    assert (painted.format, painted.size, painted.mode) == ("PNG", (96, 64), "RGB")
    assert np.abs(np.asarray(painted, float) - np.asarray(content_image)).mean() > 5
    assert load(painting.before).size == load(painting.after).size


@pytest.mark.parametrize(
    ("name", "came", "went", "painted"),
    [
        ("123", "JPEG", "JPEG", "123-starry-night.jpg"),
        ("photo.jfif", "JPEG", "JPEG", "photo-starry-night.jpg"),
        ("download", "TIFF", "TIFF", "download-starry-night.tif"),
        ("scan", "JPEG2000", "PNG", "scan-starry-night.png"),
        ("scan.jpg", "JPEG2000", "PNG", "scan-starry-night.png"),
        ("SHOUT.JPEG", "JPEG", "JPEG", "SHOUT-starry-night.jpeg"),
        ("really.jpg", "PNG", "PNG", "really-starry-night.png"),
        ("really.png", "WEBP", "WEBP", "really-starry-night.webp"),
    ],
)
def test_the_format_is_that_of_the_file_whatever_its_name(
    studio: Studio,
    content_image: Image.Image,
    tmp_path: Path,
    name: str,
    came: str,
    went: str,
    painted: str,
) -> None:
    content_image.save(tmp_path / name, came)
    path = Path(studio.paint(str(tmp_path / name), STYLE).path)
    assert path.name == painted
    assert load(path).format == went


def test_metadata_and_alpha_survive(studio: Studio, tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (40, 30), (200, 90, 30, 255))
    rgba.putalpha(Image.linear_gradient("L").resize((40, 30)))
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    path = tmp_path / "leaf.webp"
    rgba.save(path, lossless=True, exif=exif)
    painted = load(studio.paint(str(path), STYLE).path)
    assert painted.getexif()[ExifTags.Base.Artist] == "Somebody"
    assert "starry-night" in painted.getexif()[ExifTags.Base.Software]
    difference = np.asarray(painted.getchannel("A"), int) - rgba.getchannel("A")
    assert not difference.any()


def test_a_preview_is_small_and_keeps_alpha(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.new("RGBA", (200, 100), (10, 200, 40, 128)).save(path)
    content = studio.open(str(path))
    preview = load(studio.preview(content, STYLE))
    assert (content.width, content.height) == (200, 100)
    assert preview.size == (64, 32)
    assert preview.getchannel("A").getextrema() == (128, 128)


def test_strength_0_gives_the_photo_back(
    studio: Studio, photo: str, content_image: Image.Image
) -> None:
    result = studio.paint(photo, Settings("udnie", strength=0)).path
    assert np.array_equal(load(result), content_image)


@pytest.mark.parametrize(
    "options", [{"strength": 0.6}, {"style_scale": 2.0}, {"preserve_color": True}]
)
def test_every_setting_reaches_painting_and_preview(
    options: dict[str, Any],
    studio: Studio,
    styles: list[StyleInfo],
    content_image: Image.Image,
    tmp_path: Path,
) -> None:
    content_image.putalpha(200)  # so that the preview is no JPEG
    photo = tmp_path / "photo.png"
    content_image.save(photo)
    path = next(info.path for info in styles if info.name == "udnie")
    assert path is not None
    stylizer, settings = Stylizer(path), Settings("udnie", **options)
    content = studio.open(str(photo))
    for painted, source in (
        (studio.paint(str(photo), settings).path, photo),
        (studio.preview(content, settings), content.preview),
    ):
        image = load(source)
        pixels = load(painted).tobytes()
        assert pixels == stylizer(image, **options).tobytes()
        assert pixels != stylizer(image).tobytes()


def test_a_mask_of_another_size_limits_the_painting(
    studio: Studio, photo: str, content_image: Image.Image
) -> None:
    mask = Image.new("L", (31, 17))
    mask.paste(255, (0, 0, 15, 17))
    result = studio.paint(photo, STYLE, mask=mask).path
    changed = (np.asarray(load(result)) != np.asarray(content_image)).any(-1)
    assert changed[:, :40].mean() > 0.9
    assert not changed[:, 56:].any()


def test_blending_lies_between_both_styles(studio: Studio, photo: str) -> None:
    def paint(**options: Any) -> bytes:
        settings = Settings("udnie", second_style="melencolia", **options)
        return load(studio.paint(photo, settings).path).tobytes()

    assert paint(mix=0.0) == load(studio.paint(photo, Settings("udnie")).path).tobytes()
    assert paint(mix=0.5) not in (paint(mix=0.0), paint(mix=1.0))


def test_a_visitor_s_painting_is_a_style(
    studio: Studio, photo: str, painting: str, tmp_path: Path
) -> None:
    own = studio.own_style(painting)
    assert (own.id, own.title) == ("own:Sun-flowers", "Sun & flowers")
    assert load(own.path).size == (300, 200)
    assert tmp_path / "made" in Path(own.path).parents
    Path(painting).unlink()
    settings = Settings(own.id, own={own.id: own})
    result = studio.paint(photo, settings).path
    assert Path(result).name == "my-photo-Sun-flowers.png"
    assert "Sun-flowers" in str(load(result).info["Software"])
    expected = Stylizer(own.path)(Image.open(photo))
    assert np.array_equal(load(result), expected)
    preview = load(studio.preview(studio.open(photo), settings))
    assert preview.size == (64, 43)
    with zipfile.ZipFile(studio.paint_all([photo], settings).path) as zipped:
        assert zipped.namelist() == ["my-photo-Sun-flowers.png"]


def test_paintings_blend_with_each_other_and_with_bundled_styles(
    photo: str, painting: str, tmp_path: Path
) -> None:
    studio = Studio(list_styles()[:2], folder=tmp_path / "made")
    named = next(iter(studio.styles))
    one = studio.own_style(painting)
    two = studio.own_style(photo, [one.id])
    own = {one.id: one, two.id: two}

    def paint(style: str, second: str, mix: float) -> Path:
        settings = Settings(style, second_style=second, mix=mix, own=own)
        return Path(studio.paint(photo, settings).path)

    assert paint(named, one.id, 0.3).name == f"my-photo-{named}-Sun-flowers.png"
    there, back, end, alone = (
        np.asarray(load(paint(*which)), int)
        for which in (
            *((named, one.id, 0.3), (one.id, named, 0.7)),
            *((one.id, two.id, 1.0), (two.id, "", 0.5)),
        )
    )
    # 0.3 is not quite 1 - 0.7.
    assert np.abs(there - back).mean() < 0.05 * np.abs(there - end).mean()
    assert np.array_equal(end, alone)


def test_paintings_of_one_name_are_told_apart(studio: Studio, painting: str) -> None:
    one = studio.own_style(painting)
    two = studio.own_style(painting, [one.id])
    assert (one.id, two.id) == ("own:Sun-flowers", "own:Sun-flowers-2")
    assert studio.own_style(painting, [one.id.lower()]).id == two.id
    with pytest.raises(ValueError, match="You already have 20 paintings"):
        studio.own_style(painting, list(map(str, range(20))))


def test_a_painting_of_someone_else_or_that_is_gone_is_no_style(
    studio: Studio, photo: str, painting: str
) -> None:
    own = studio.own_style(painting)
    with pytest.raises(StyleNotFoundError, match="There is no style"):
        studio.paint(photo, Settings(own.id))
    Path(own.path).unlink()
    with pytest.raises(StyleNotFoundError, match="Sun & flowers is no longer here"):
        studio.paint(photo, Settings(own.id, own={own.id: own}))


@pytest.mark.parametrize(
    "name", ["e\u0301tude", "\u0939\u093f\u0928\u094d\u0926\u0940"]
)
def test_a_painting_is_named_in_its_own_letters(
    studio: Studio, painting: str, name: str
) -> None:
    path = Path(painting).rename(Path(painting).with_name(f"{name}.png"))
    own = studio.own_style(str(path))
    assert own.id == f"own:{unicodedata.normalize('NFC', name)}"


@pytest.mark.parametrize("name", ["x" * 200, "..", "-", "❦", "ü ö"])
def test_a_painting_of_any_name_is_a_style(
    studio: Studio, painting: str, photo: str, name: str
) -> None:
    path = Path(painting).with_name("other") / f"{name}.jpg"
    path.parent.mkdir()
    Path(painting).rename(path)
    own = studio.own_style(str(path))
    settings = Settings(own.id, own={own.id: own})
    assert Path(studio.paint(photo, settings).path).parent.is_dir()


def test_a_painting_that_cannot_be_seen_is_refused(
    studio: Studio, tmp_path: Path
) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (40, 30)).save(path)
    with pytest.raises(InvalidImageError, match=r"^clear is wholly transparent"):
        studio.own_style(str(path))


@pytest.mark.parametrize("name", ["", None, 7, ["udnie"], "nothing", "a/b", "../udnie"])
def test_only_offered_styles_are_used(studio: Studio, photo: str, name: Any) -> None:
    with pytest.raises(StyleNotFoundError):
        studio.paint(photo, Settings(name))


def test_a_path_is_no_style(
    studio: Studio, photo: str, styles: list[StyleInfo]
) -> None:
    with pytest.raises(StyleNotFoundError):
        studio.paint(photo, Settings(str(styles[0].path)))


def test_styles_of_one_name_are_not_offered_in_place_of_each_other(
    styles: list[StyleInfo], tmp_path: Path
) -> None:
    assert styles[0].path is not None
    folder, name = styles[0].path.parent, styles[0].path.name
    same = dataclasses.replace(styles[0], path=folder / ".." / folder.name / name)
    twice = [*styles, *styles, same]
    assert list(Studio(twice).styles) == [info.id for info in styles]
    other = dataclasses.replace(styles[0], path=tmp_path / "other.safetensors")
    told = rf"{styles[0].path} and .*other\.safetensors are both called {other.id}"
    with pytest.raises(ValueError, match=told):
        Studio([*styles, other])


@pytest.mark.parametrize("kind", [DownloadError, StyleNotFoundError])
def test_a_visitor_is_not_told_what_only_the_host_can_do(
    kind: type[StyleplugError],
    styles: list[StyleInfo],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    advice = "log in with 'hf auth login', or free some space in /home/host/cache"

    def pull(name: str, token: bool) -> Path:
        raise kind(advice)

    monkeypatch.setattr(module.hub, "pull", pull)
    studio = Studio(styles, hub_styles=("*",))
    with pytest.raises(kind, match=r"cannot be fetched.*check the name") as refusal:
        studio.add_hub_style("good/style")
    assert str(refusal.value).startswith("good/style ")
    assert advice not in str(refusal.value)
    assert advice in caplog.text


def test_hub_styles_need_permission(styles: list[StyleInfo]) -> None:
    studio = Studio(styles, hub_styles=("good/*", "other/one"))
    for name in ("bad/style", "other/two", "good", "x/good/y", "/etc/passwd"):
        with pytest.raises(StyleNotFoundError):
            studio.add_hub_style(name)


def _pull(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let every Hub style be the file ``path``."""

    def pull(name: str, token: bool) -> Path:
        assert token is False, "visitors would see what only the host may"
        return path

    monkeypatch.setattr(module.hub, "pull", pull)


def test_a_hub_style_that_does_not_load_is_not_offered(
    styles: list[StyleInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = StyleInfo("bad", network={"name": "johnson"}).to_metadata()
    path = tmp_path / "model.safetensors"
    save_file({"style": np.zeros(4, np.float16)}, path, metadata=header)
    _pull(monkeypatch, path)
    studio = Studio(styles, hub_styles=("*",))
    before = studio.styles
    with pytest.raises(InvalidStyleError) as refusal:
        studio.add_hub_style("bad/style")
    assert str(refusal.value).startswith("bad/style ")
    assert str(tmp_path) not in str(refusal.value)
    assert studio.styles is before
    assert not path.exists()


def test_waiting_for_the_hub_keeps_nobody_from_painting(
    styles: list[StyleInfo], photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(name: str, token: bool) -> Path:
        asked.set()
        assert answered.wait(60)
        assert styles[2].path is not None
        return styles[2].path

    asked, answered = threading.Event(), threading.Event()
    monkeypatch.setattr(module.hub, "pull", pull)
    studio = Studio(styles[:2], hub_styles=("*",))
    content = studio.open(photo)
    slow = Settings("slow/style")
    with ThreadPoolExecutor() as visitors:
        waiting = [
            visitors.submit(studio.paint, photo, slow),
            visitors.submit(studio.preview, content, slow),
        ]
        try:
            assert asked.wait(60)
            painted = visitors.submit(studio.paint, photo, STYLE).result(60)
            assert not any(visitor.done() for visitor in waiting)
        finally:
            answered.set()
        assert Path(painted.path).exists()
        assert Path(waiting[0].result().path).name == "my-photo-slow-style.png"
        assert Path(waiting[1].result()).exists()


def test_there_is_an_end_of_adding_hub_styles(
    styles: list[StyleInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123abcd"
    path = tmp_path / "models--good--style" / "snapshots" / commit / "model.safetensors"
    path.parent.mkdir(parents=True)
    assert styles[2].path is not None
    shutil.copy(styles[2].path, path)
    _pull(monkeypatch, path)
    studio = Studio(styles[:2], limits=Limits(hub_styles=1), hub_styles=("*",))
    added = studio.add_hub_style("good/style")
    monkeypatch.delattr(module.hub, "pull")
    for name in ("good/other", "good/style@another"):
        with pytest.raises(StyleNotFoundError, match="has 1 styles from the Hub"):
            studio.add_hub_style(name)
    for name in ("good/style", f"good/style@{commit}"):
        assert studio.add_hub_style(name) == added


def test_a_hub_style_is_added_while_others_look_at_the_list(
    styles: list[StyleInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert styles[2].path is not None
    _pull(monkeypatch, styles[2].path)
    studio = Studio(styles[:2], hub_styles=("*",))
    seen = []
    for name in studio.styles:
        studio.add_hub_style("good/style")
        seen.append(name)
    assert seen == ["melencolia", "starry-night"]
    assert list(studio.styles) == [*seen, "udnie"]


def test_a_style_that_is_gone_is_told_without_its_folder(
    studio: Studio, photo: str, style_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(style_folder / "udnie.safetensors", tmp_path)
    studio.styles = {"udnie": read_info(Path(copy))}
    content = studio.open(photo)
    os.remove(copy)
    told = r"^This style is not here any more; choose another\.$"
    with pytest.raises(StyleNotFoundError, match=told):
        studio.paint(photo, Settings("udnie"))
    with pytest.raises(StyleNotFoundError, match=told):
        studio.preview(content, Settings("udnie"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e308, True, "1", None, [1]])
@pytest.mark.parametrize("field", ["strength", "style_scale"])
def test_numbers_out_of_range_are_told_in_a_sentence(
    studio: Studio, photo: str, field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=r"is a number between .*\.$"):
        studio.paint(photo, Settings("udnie", **{field: value}))


@pytest.mark.parametrize("value", ["false", 0, 1, None])
def test_what_is_neither_true_nor_false_is_told_in_a_sentence(
    studio: Studio, photo: str, value: Any
) -> None:
    with pytest.raises(ValueError, match="preserve_color must be true or false"):
        studio.paint(photo, Settings("udnie", preserve_color=value))


def _svg(path: Path) -> None:
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")


def _cut_short(path: Path) -> None:
    Image.effect_noise((90, 90), 90).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    "write",
    [
        _svg,
        _cut_short,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<!doctype html><script>alert(1)</script>"),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    ],
)
def test_what_is_no_picture_is_refused_without_naming_folders(
    studio: Studio, tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    path = tmp_path / "upload.png"
    write(path)
    with pytest.raises(InvalidImageError) as refusal:
        studio.open(str(path))
    assert "upload.png" in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)
    with pytest.raises(InvalidImageError) as of_style:
        studio.own_style(str(path))
    assert str(of_style.value) == str(refusal.value)


def test_limits_on_pixels_and_bytes_are_friendly(
    studio: Studio, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (3000, 3000)).save(bomb)
    for read in (studio.open, studio.own_style):
        with pytest.raises(ImageTooLargeError, match="make it smaller first"):
            read(str(bomb))
    heavy = tmp_path / "heavy.bmp"
    heavy.write_bytes(bytes(300_000))
    with pytest.raises(ImageTooLargeError, match="MB"):
        studio.open(str(heavy))


def test_many_pictures_come_as_a_zip_of_unique_names(
    studio: Studio, photo: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "My Photo.png"
    twin.write_bytes(Path(photo).read_bytes())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    fractions: list[float] = []
    batch = studio.paint_all([photo, str(broken), str(twin)], STYLE, fractions.append)
    with zipfile.ZipFile(batch.path) as zipped:
        names = zipped.namelist()
        assert zipped.testzip() is None
        left_out = zipped.read("left-out.txt").decode()
    assert names == [
        *("my-photo-starry-night.png", "My-Photo-starry-night-2.png", "left-out.txt")
    ]
    assert batch.painted == 2
    assert len(batch.refused) == 1
    assert "broken.jpg" in batch.refused[0]
    assert left_out == batch.refused[0] + "\n"
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    with pytest.raises(ValueError, match="the most is 3"):
        studio.paint_all([photo] * 4, STYLE)
    with pytest.raises(ValueError, match="Choose some pictures"):
        studio.paint_all([], STYLE)


def test_what_is_left_out_of_a_batch_is_named(
    studio: Studio, photo: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.new("1", (3000, 3000)).save(large)
    gone = tmp_path / "gone.png"
    batch = studio.paint_all([str(large), str(gone), photo], STYLE)
    assert batch.painted == 1
    assert [text.partition(": ")[0] for text in batch.refused] == [
        *("large.png", "gone.png")
    ]


def test_a_batch_of_which_nothing_can_be_painted_is_told_why(
    studio: Studio, tmp_path: Path
) -> None:
    raw = tmp_path / "holiday.heic"
    raw.write_bytes(b"nothing")
    gone = tmp_path / "gone.png"
    with pytest.raises(ValueError, match="None of these could") as refusal:
        studio.paint_all([str(raw), str(gone)], STYLE)
    assert "holiday.heic is HEIC or camera raw" in str(refusal.value)
    assert "gone.png: Your picture is no longer here" in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def test_a_job_stopped_in_the_queue_borrows_no_gpu(
    studio: Studio, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def borrow(*call: Any) -> Any:
        borrowed.append(call)
        return module._paint(*call)

    def stop(fraction: float) -> None:
        raise StoppedError("Stopped.")

    borrowed: list[Any] = []
    monkeypatch.setattr(module, "ZERO_GPU", True)
    monkeypatch.setattr(module, "_paint_on_lent_gpu", borrow, raising=False)
    with pytest.raises(StoppedError):
        studio.paint(photo, STYLE, progress=stop)
    assert not borrowed
    fractions: list[float] = []
    studio.paint(photo, STYLE, progress=fractions.append)
    assert fractions == [0, 1]
    assert len(borrowed) == 1


@pytest.mark.parametrize(
    ("title", "message", "told"),
    [
        (
            *("ZeroGPU quota exceeded", "You have exceeded your quota. "),
            "You have exceeded your quota.",
        ),
        ("ZeroGPU worker error", "KeyError", "Something went wrong here"),
    ],
)
def test_a_visitor_is_told_why_no_gpu_is_lent(
    studio: Studio,
    photo: str,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    message: str,
    told: str,
) -> None:
    require(find_spec("gradio"), "needs gradio")
    from gradio import Error

    def refuse(*call: Any) -> Any:
        raise Error(message, title=title)

    monkeypatch.setattr(module, "ZERO_GPU", True)
    monkeypatch.setattr(module, "_GpuError", Error, raising=False)
    monkeypatch.setattr(module, "_paint_on_lent_gpu", refuse, raising=False)
    with pytest.raises(StyleplugError, match=told) as refusal:
        studio.paint(photo, STYLE)
    assert not str(refusal.value).endswith(" ")


def test_stopping_ends_at_once_and_leaves_the_engine_free(
    studio: Studio, photo: str
) -> None:
    def stop(fraction: float) -> None:
        raise StoppedError("Stopped.")

    with pytest.raises(StoppedError):
        studio.paint(photo, STYLE, progress=stop)
    assert studio.paint(photo, STYLE).path


def test_closing_ends_the_painting_in_progress_and_those_that_wait(
    studio: Studio, photo: str, caplog: pytest.LogCaptureFixture
) -> None:
    painting, closed = threading.Event(), threading.Event()

    def wait(fraction: float) -> None:
        painting.set()
        assert closed.wait(60)

    with ThreadPoolExecutor() as visitors:
        first = visitors.submit(studio.paint, photo, STYLE, progress=wait)
        assert painting.wait(60)
        queued = visitors.submit(studio.paint_all, [photo, photo], STYLE)
        while not studio._engine._work_queue.qsize():
            time.sleep(0.01)
        studio.close()
        closed.set()
        late = visitors.submit(studio.paint, photo, STYLE)
        for job in (first, queued, late):
            with pytest.raises(StoppedError, match="page was closed"):
                job.result(60)
    assert not caplog.messages


def test_an_unforeseen_failure_is_a_sentence(studio: Studio) -> None:
    with pytest.raises(module.StyleplugError, match="Something went wrong"):
        studio.run(lambda: {}["secret"])


def test_memory_is_given_back_after_each_job(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    libc = SimpleNamespace(malloc_trim=trims.append)
    monkeypatch.setattr(rendering, "_LIBC", libc)
    for jobs in (1, 2):
        studio.run(lambda: None)
        assert len(trims) == jobs


def test_a_thumbnail_is_painted_once(
    studio: Studio, styles: list[StyleInfo], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = studio.thumbnail(styles[0], cache)
    assert Image.open(io.BytesIO(first)).size == (176, 176)
    [path] = cache.iterdir()
    assert path.read_bytes() == first
    path.write_bytes(b"painted before")
    assert studio.thumbnail(styles[0], cache) == first
    assert Studio(styles).thumbnail(styles[0], cache) == b"painted before"
    assert studio.thumbnail(styles[1], cache) != first


def test_a_cache_that_cannot_be_written_costs_no_thumbnail(
    studio: Studio,
    styles: list[StyleInfo],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    first = studio.thumbnail(styles[0], blocked / "thumbnails")
    assert Image.open(io.BytesIO(first)).size == (176, 176)
    assert "thumbnail was not written" in caplog.text
    monkeypatch.setattr(studio, "run", None)
    assert studio.thumbnail(styles[0], blocked / "thumbnails") == first


def test_a_thumbnail_stays_in_the_cache_whatever_the_style_is_called(
    studio: Studio, styles: list[StyleInfo], tmp_path: Path
) -> None:
    named = dataclasses.replace(styles[0], name="../../evil")
    studio.thumbnail(named, tmp_path / "cache" / "thumbnails")
    [path] = (tmp_path / "cache").rglob("*.webp")
    assert path.parent == tmp_path / "cache" / "thumbnails"


def test_old_files_are_removed_with_their_folders_and_new_ones_kept(
    studio: Studio, photo: str, tmp_path: Path
) -> None:
    old, new = studio.open(photo).preview, studio.open(photo).preview
    batch = studio.paint_all([photo], STYLE)
    made = studio.folder
    assert list((tmp_path / "made").iterdir()) == [made]
    before = time.time() - 100
    for path in made.glob("*/*"):
        if str(path) != new:
            os.utime(path, (before, before))
            os.utime(path.parent, (before, before))
    studio.clean(50)
    assert not Path(old).parent.exists()
    assert not Path(batch.path).parent.exists()
    assert Path(new).exists()
    studio.clean(-1)
    assert list(made.glob("*/*")) == []
    made.rename(tmp_path / "taken away")
    studio.clean(-1)
    assert Path(studio.open(photo).preview).exists()


def _age(folder: Path, seconds: float) -> None:
    """Let everything in a folder be of some time ago, and the folder too."""
    for path in (*folder.rglob("*"), folder):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_what_is_in_use_is_kept(
    studio: Studio, photo: str, painting: str, tmp_path: Path
) -> None:
    content, own = studio.open(photo), studio.own_style(painting)
    _age(tmp_path, 100)
    studio.preview(content, Settings("udnie", own={own.id: own}))
    studio.clean(50)
    assert Path(content.preview).exists()
    assert Path(own.path).exists()
    assert time.time() - Path(photo).stat().st_mtime < 50


def test_an_own_painting_is_looked_at_once(
    studio: Studio, photo: str, painting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, own = studio.open(photo), studio.own_style(painting)
    settings = Settings(own.id, own={own.id: own})
    studio.preview(content, settings)

    def refuse(*_: object) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(engine, "as_style_image", refuse)
    studio.preview(content, dataclasses.replace(settings, strength=0.7))


def test_what_a_batch_needs_later_is_kept(
    studio: Studio, photo: str, painting: str, tmp_path: Path
) -> None:
    last = shutil.copy(photo, tmp_path / "last.png")
    own = studio.own_style(painting)
    unused: dict[float, float] = {}

    def look(fraction: float) -> None:
        kept = last, os.path.dirname(own.path)
        used = min(os.stat(path).st_mtime for path in kept)
        unused[fraction] = time.time() - used
        _age(tmp_path, 100)

    _age(tmp_path, 100)
    settings = Settings(own.id, own={own.id: own})
    studio.paint_all([photo, str(last)], settings, look)
    assert unused[0.0] < 50  # the first begins
    assert unused[0.5] < 50  # the second begins


def test_a_photo_that_is_gone_is_asked_for_again(studio: Studio, photo: str) -> None:
    content = studio.open(photo)
    studio.clean(-1)
    with pytest.raises(StyleplugError, match="no longer here; choose it again"):
        studio.preview(content, STYLE)
    content = studio.open(photo)
    Path(photo).unlink()
    for call in (studio.open, studio.mask, studio.own_style):
        with pytest.raises(StyleplugError, match="no longer here; choose it again"):
            call(photo)
    with pytest.raises(StyleplugError, match="no longer here; choose it again"):
        studio.preview(content, STYLE)
    with pytest.raises(StyleplugError, match="no longer here; choose it again"):
        studio.paint(photo, STYLE)


def test_what_a_killed_process_left_is_removed(
    studio: Studio, photo: str, tmp_path: Path
) -> None:
    content = studio.open(photo)
    killed, other = (tmp_path / "made" / n for n in ("styleplug-killed", "an-upload"))
    for folder in (killed, other):
        (folder / "abc").mkdir(parents=True)
        (folder / "abc" / "photo.jpg").write_bytes(b"private")
        _age(folder, 100)
    studio.clean(50)
    assert not killed.exists()
    assert other.exists()
    assert Path(content.preview).exists()


def test_a_process_that_goes_on_keeps_its_folder_though_nothing_is_used(
    styles: list[StyleInfo], tmp_path: Path
) -> None:
    one, other = (Studio(styles, folder=tmp_path / "made") for _ in range(2))
    _age(one.folder, 100)
    one.clean(50)
    other.clean(50)
    assert one.folder.exists()


def test_a_picture_that_came_within_a_call_is_removed_once_it_is_old(
    styles: list[StyleInfo], tmp_path: Path
) -> None:
    require(find_spec("gradio"), "needs gradio")
    from gradio.processing_utils import save_base64_to_cache

    def other_program_s(folder: str) -> Path:
        path = tmp_path / "made" / folder / "file.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"not ours")
        _age(path.parent, 100)
        return path

    studio = Studio(styles, folder=tmp_path / "made")
    others = [other_program_s(64 * "a"), other_program_s("project")]
    example = studio.folder / (64 * "b") / "lake.jpg"
    example.parent.mkdir()
    example.write_bytes(b"kept by Gradio")
    _age(example.parent, 100)
    others.append(example)
    kinds = ("image/png;base64,", "application/octet-stream;base64,")
    old, new = (
        Path(save_base64_to_cache(f"data:{kind}AAAA", str(studio.folder)))
        for kind in kinds
    )
    _age(old.parent, 100)
    studio.clean(50)
    assert new.exists()
    assert not old.parent.exists()
    _age(new.parent, 100)
    studio.clean(50)
    assert not new.exists()
    assert not new.parent.exists()
    assert all(path.exists() for path in others)


def test_a_mask_keeps_its_size_and_its_transparent_parts_count_as_0(
    studio: Studio, photo: str, content_image: Image.Image, tmp_path: Path
) -> None:
    mask = Image.new("RGBA", content_image.size, (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 40, 64))
    path = tmp_path / "mask.png"
    mask.save(path)
    given = studio.mask(str(path))
    assert given.size == content_image.size
    painted = np.asarray(load(studio.paint(photo, STYLE, mask=given).path))
    changed = (painted != np.asarray(content_image)).any(-1)
    assert changed[:, :40].mean() > 0.9
    assert not changed[:, 40:].any()


@pytest.mark.parametrize(
    ("year", "heading"),
    [("1514", "16th century"), ("1900", "19th century"), ("about 1901", "20th century"),
     ("2024", "21st century"), ("", "More styles")],
)  # fmt: skip
def test_styles_are_grouped_by_century(year: str, heading: str) -> None:
    assert module.period(StyleInfo("x", year=year)) == heading


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_only_the_alpha_of_what_was_drawn_is_the_mask(
    studio: Studio, tmp_path: Path
) -> None:
    layer = Image.new("RGBA", (20, 10), (255, 255, 255, 0))
    assert studio.mask_of(_png(layer), inverted=False) is None
    assert studio.mask_of(None, inverted=True) is None
    layer.paste((0, 0, 0, 180), (0, 0, 10, 10))
    path = tmp_path / "layer.png"
    path.write_bytes(_png(layer))
    for drawing in (_png(layer), str(path)):
        for inverted, seen in ((False, [255, 0]), (True, [0, 255])):
            mask = studio.mask_of(drawing, inverted=inverted)
            assert mask is not None
            assert [mask.getpixel((2, 2)), mask.getpixel((15, 2))] == seen


def test_what_no_brush_can_have_drawn_is_refused_undecoded(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (20, 10)).save(jpeg, "JPEG")
    short = _png(Image.effect_noise((60, 60), 90))[:900]
    for drawing in (b"", b"text", jpeg.getvalue(), short):
        with pytest.raises(ValueError, match="cannot be read; draw it again"):
            studio.mask_of(drawing, inverted=False)
    large = _png(Image.new("LA", (4000, 20), (0, 255)))
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + large[24:29]
    bomb = large[:12] + header + struct.pack(">I", zlib.crc32(header)) + large[33:]
    assert large[16:24] == struct.pack(">II", 4000, 20)
    with pytest.raises(ValueError, match="cannot be read; draw it again"):
        studio.mask_of(bomb, inverted=False)
    monkeypatch.delattr(Image.Image, "convert")
    with pytest.raises(ValueError, match="drawing is too large"):
        studio.mask_of(large, inverted=False)


def test_long_names_of_any_alphabet_are_cut_to_what_a_file_may_be_called(
    studio: Studio, photo: str, painting: str, tmp_path: Path
) -> None:
    long = "\N{HIRAGANA LETTER NO}" * 58
    named, own_file = tmp_path / f"{long}.png", tmp_path / f"{long}2.png"
    Path(photo).rename(named)
    Path(painting).rename(own_file)
    own = studio.own_style(str(own_file))
    settings = Settings(own.id, second_style=own.id, own={own.id: own})
    painted = Path(studio.paint(str(named), settings).path)
    assert painted.exists()
    assert painted.name.startswith(long[:20] + "-")
