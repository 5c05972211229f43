"""The command line: what it does, and one clear sentence for every mistake."""

from __future__ import annotations

import errno
import inspect
import io
import json
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import types
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from safetensors.numpy import load_file, save_file

from styleplug import engine
from styleplug.cli import _COMMANDS, _add_train, _bytes, _expand, _plan, main
from styleplug.engine import stylize, stylize_file
from styleplug.hub import LOSS_NETWORK
from styleplug.images import MAX_PIXELS, Picture, read_picture
from styleplug.optimization import _BLEND, _MEMORY, optimize
from styleplug.rendering import SMALLEST_TILE
from styleplug.style import bundled_trunk, read_info

ROOT = Path(__file__).parents[1]
LANDSCAPE = ROOT / "styleplug" / "sample.jpg"


@pytest.fixture
def photo(tmp_path: Path, content_image: Image.Image) -> Path:
    path = tmp_path / "photo.png"
    content_image.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, content_image: Image.Image) -> Path:
    """Three images, one of a suffix only to be read, and things that are none."""
    path = tmp_path / "photos"
    path.mkdir()
    content_image.save(path / "a.jpg")
    content_image.convert("L").save(path / "b.PNG")
    content_image.save(path / "c.jfif", "JPEG")
    (path / "notes.txt").write_text("no image")
    (path / ".hidden.png").write_text("no image")
    (path / "deeper").mkdir()
    return path


def fails(
    capsys: pytest.CaptureFixture[str], *argv: str | Path, expect: str, code: int = 1
) -> None:
    """Assert that the command ends with the code and one matching line on stderr."""
    assert main([str(arg) for arg in argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if "note:" not in line]
    assert len(errors) == 1, err
    assert re.match(rf"styleplug: error: .*{expect}", errors[0]), errors[0]


def test_a_wrong_option_is_told_before_the_style_is_loaded(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = photo.with_name("none.safetensors")
    argv = ["stylize", photo, "-o", photo.with_name("out.png"), "--style", style]
    fails(capsys, *argv, "--strength", "2", expect="strength must be between 0 and 1")


def test_a_damaged_file_is_told_in_one_line_and_not_by_pillow(
    photo: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photo) as image:
        image.save(photo.with_name("in.jpg"), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    out = photo.with_name("out.png")
    argv = ["stylize", str(photo.with_name("in.jpg")), "-o", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*argv, "--style", str(tiny_style), "--device", "cpu"]) == 0
    assert "Warning" not in capsys.readouterr().err


def test_a_stranger_s_words_do_not_steer_the_terminal(
    photo: Path,
    tiny_style: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    hostile = tmp_path / "pictures" / "a\x1b]0;owned\x07\x1b[31mb\u202fc.png"
    hostile.parent.mkdir()
    frames = [Image.new("L", (20, 20), value) for value in (0, 255)]
    frames[0].save(hostile, save_all=True, append_images=frames[1:])
    hostile.with_suffix(".gif").write_bytes(b"no picture")
    argv = ["stylize", str(hostile.parent), "-o", str(tmp_path), "--device", "cpu"]
    assert main([*argv, "--style", str(tiny_style)]) == 1
    tensor = {"dtype": "\x1b[31mF99", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({"style": tensor}).encode()
    style = tmp_path / "s.safetensors"
    style.write_bytes(struct.pack("<Q", len(header)) + header)
    assert main(["info", str(style)]) == 1
    out, err = capsys.readouterr()
    assert "owned\ufffd\ufffd[31mb\u202fc.png" in out
    assert "owned\ufffd\ufffd[31mb c.gif is not an image" in err
    assert r"type '\x1b[31mF99'" in err
    assert {"\x1b", "\x07"}.isdisjoint(out + err)


def test_a_bar_is_no_wider_than_the_terminal(
    photo: Path,
    tiny_style: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    japanese = tmp_path / ("\u7d75" * 9 + ".png")
    shutil.copy(photo, japanese)
    argv = ["stylize", str(japanese), "-o", str(tmp_path / "o.png"), "--device", "cpu"]
    assert main([*argv, "--style", str(tiny_style)]) == 0
    err = capsys.readouterr().err
    assert "100% \u7d75\u7d75\u7d75\r" in err
    assert max(map(len, err.split("\r"))) < 40


def test_memory_that_runs_out_in_torch_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    photo: Path,
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("styleplug.engine.Stylizer.__init__", fail)
    assert main(["capture", str(photo), "-o", str(tmp_path / "s.safetensors")]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_a_note_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(**_: Any) -> list[Any]:
        logging.getLogger("styleplug").warning("about \x1b[2J")
        return []

    monkeypatch.setattr("styleplug.hub.cache_info", note)
    assert main(["cache"]) == 0
    assert "styleplug: note: about \ufffd[2J" in capsys.readouterr().err


def test_a_file_is_stylized_and_reported(
    photo: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jpg"
    argv = ["stylize", str(photo), "-o", str(out), "--style", str(tiny_style)]
    assert main([*argv, "--device", "cpu"]) == 0
    printed, err = capsys.readouterr()
    line = rf"{re.escape(str(out))}  96 x 64  cpu  \d+\.\d\d s\n"
    assert re.fullmatch(line, printed)
    assert err == ""
    with Image.open(out) as result:
        assert result.size == (96, 64)
        software = result.getexif()[ExifTags.Base.Software]
    assert json.loads(software.split(" ", 2)[2])["style"] == "tiny"


def test_options_reach_the_api(
    photo: Path, tiny_style: Path, tmp_path: Path, content_image: Image.Image
) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (96, 64), 128).save(mask)
    options = "--strength 0.5 --style-scale 2 --preserve-color --grain 0.5"
    options += " --dtype float32"
    argv = ["stylize", str(photo), "-o", str(tmp_path / "out.png")]
    argv += ["--style", str(tiny_style), "--device", "cpu", *options.split()]
    assert main([*argv, "--mask", str(mask), "--memory", "1G"]) == 0
    expected = stylize(
        content_image,
        tiny_style,
        strength=0.5,
        style_scale=2,
        preserve_color=True,
        grain=0.5,
        dtype="float32",
        device="cpu",
        mask=mask,
    )
    with Image.open(tmp_path / "out.png") as result:
        assert result.tobytes() == expected.tobytes()


def test_every_option_is_a_parameter_of_the_api(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stylize", "--help"]) == 0
    options = set(
        re.findall(r"^  (?:-o OUT, )?--([a-z-]+)", capsys.readouterr().out, re.M)
    )
    renamed = {"output": "dst", "memory": "memory_limit"}
    names = {renamed.get(o, o.replace("-", "_")) for o in options}
    functions = (stylize_file, stylize)
    parameters = {p for f in functions for p in inspect.signature(f).parameters}
    assert names <= parameters


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_tells_the_defaults_of_the_api(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, function, told in (
        ("stylize", stylize, {"strength": "1", "style_scale": "1", "grain": "1"}),
        ("optimize", optimize, {"style_weight": "60", "init": "content", "seed": "0"}),
    ):
        text = help_of(command, capsys)
        for name, default in told.items():
            wanted = inspect.signature(function).parameters[name].default
            assert type(wanted)(default) == wanted
            option = f" --{name.replace('_', '-')} "
            own = text.rsplit(option, 1)[1].split(" --", 1)[0]
            assert own.endswith(f"(default: {default})")


def test_help_tells_what_counts_where_the_api_has_no_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of("stylize", capsys)
    assert f"(default: {MAX_PIXELS})" in text
    assert f"at least {SMALLEST_TILE} " in text
    text = help_of("optimize", capsys)
    blend = " ".join(f"{name}:{weight}" for name, weight in _BLEND.items())
    assert f"(default: {blend})" in text
    assert _bytes(re.findall(r"such as 2G \(default: (\w+)\)", text)[0]) == _MEMORY
    assert f"Hub repository (default: {LOSS_NETWORK})" in text


@pytest.mark.parametrize("command", [c.__name__[5:] for c in (*_COMMANDS, _add_train)])
def test_every_command_says_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    _usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert re.fullmatch(r"[A-Z][^\]]+\.", description)


def test_styles_are_blended_by_weight(
    photo: Path, tiny_style: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    blend = ["--style", f"{tiny_style}:0.6", "--style", f"{tiny_style}:0.4"]
    assert main(["stylize", str(photo), "-o", str(out), *blend]) == 0
    with Image.open(out) as result:
        assert "tiny:0.60 + tiny:0.40" in result.info["Software"]


@pytest.mark.parametrize("weight", ["-1", "nan", "0"])
def test_a_weight_that_no_style_can_have_is_told(
    photo: Path,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    weight: str,
) -> None:
    argv = ("stylize", photo, "-o", tmp_path / "out.png", "--style")
    fails(capsys, *argv, f"{tiny_style}:{weight}", expect="style weights")


def test_a_picture_that_is_not_there_is_told_before_its_style_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("stylize", tmp_path / "no.jpg", "-o", tmp_path / "out.png")
    fails(capsys, *argv, "--style", "no-such-style", expect=r".*no\.jpg")


@pytest.mark.parametrize("size", ["0.5", "12 kb", "1G", "2GiB", "3t"])
def test_sizes_are_read(size: str) -> None:
    factors = {"k": 1024, "g": 1024**3, "t": 1024**4}
    number = float(re.findall(r"[\d.]+", size)[0])
    factor = next((f for k, f in factors.items() if k in size.lower()), 1)
    assert _bytes(size) == int(number * factor)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--memory", "9" * 400 + "t", "is not a size such as"),
        ("--memory", "2 apples", "is not a size such as"),
        ("--max-pixels", "0", "is not a number of pixels above 0"),
        ("--max-pixels", "many", "is not a number of pixels above 0"),
    ],
)
def test_a_number_that_cannot_be_meant_is_told(
    option: str, value: str, words: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["stylize", str(photo), "-o", "out.png", "--style", "x", option, value]
    assert main(argv) == 2
    assert f"argument {option}: {value!r} {words}" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    program = (
        f"import sys; sys.{closed} = None; "
        "from styleplug.cli import main; sys.exit(main(['list']))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_folder_becomes_a_folder(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "paintings"
    assert (
        main(["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]) == 0
    )
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.PNG", "c.png"]
    assert len(capsys.readouterr().out.splitlines()) == 3
    with Image.open(out / "b.PNG") as result:
        assert result.mode == "L"


def test_files_of_a_folder_that_have_to_be_exported_first_are_counted(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("d.HEIC", "e.dng"):
        (folder / name).write_bytes(b"from a camera")
    out = tmp_path / "out"
    argv = ["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]
    assert main(argv) == 0
    assert len(list(out.iterdir())) == 3
    told = f"styleplug: note: {folder}: HEIC and camera raw files are left out (2); "
    assert capsys.readouterr().err == f"{told}export them as JPEG or TIFF first.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_a_broken_link_in_a_folder_is_told_and_the_others_are_painted(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    out = tmp_path / "out"
    argv = ["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]
    assert main(argv) == 1
    assert len(list(out.iterdir())) == 3
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in told] == [
        str(folder / "gone.jpg"),
        str(folder / "loop.jpg"),
    ]


def test_a_note_about_a_file_of_a_folder_names_it(
    folder: Path,
    content_image: Image.Image,
    tiny_style: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("aa.gif", "d.gif"):  # read ahead, and then
        frames = [content_image.rotate(90)]
        content_image.save(folder / name, save_all=True, append_images=frames)
    (folder / "a.jpg").unlink()
    (folder / "out").mkdir()
    options = ["-o", folder / "out", "--style", tiny_style]
    assert main(["stylize", *map(str, [folder, *options])]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "frames" in line]
    assert [note.split(": ")[2] for note in notes] == [
        str(folder / "aa.gif"),
        str(folder / "d.gif"),
    ]
    options = ["-o", folder / "out.png", "--style", tiny_style]
    assert main(["stylize", *map(str, [folder / "d.gif", *options])]) == 0
    assert "note: The image has several frames" in capsys.readouterr().err


def test_run_again_a_folder_is_finished_and_what_is_there_is_told(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_text("painted before")
    argv = ["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]
    assert main(argv) == 1
    told = rf"styleplug: error: {re.escape(str(out / 'a.jpg'))} already exists.*\n"
    assert re.fullmatch(told, capsys.readouterr().err)
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.PNG", "c.png"]
    assert (out / "a.jpg").read_text() == "painted before"


def test_a_psd_beside_its_png_is_not_painted_too(
    folder: Path, tiny_style: Path, tmp_path: Path
) -> None:
    (folder / "d.psd").write_bytes(b"8BPS")
    shutil.copy(folder / "b.PNG", folder / "d.png")
    out = tmp_path / "out"
    argv = ["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]
    assert main(argv) == 0
    names = ["a.jpg", "b.PNG", "c.png", "d.png"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_a_picture_beside_the_png_of_another_is_not_left_out_silently(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "b.PNG", folder / "c.png")
    out = tmp_path / "out"
    argv = ["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]
    assert main(argv) == 1
    error = r"styleplug: error: .*c\.png and .*c\.jfif would both become .*c\.png; .*\n"
    assert re.fullmatch(error, capsys.readouterr().err)
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "b.PNG", "c.png"]


@pytest.mark.parametrize("name", ["B.png", "\u00c9.png", "e\u0301.png"])
def test_names_that_some_systems_take_for_one_replace_no_picture_there(
    name: str, tmp_path: Path
) -> None:
    other = {"B.png": "b.PNG"}.get(name, "\u00e9.png")
    sources = [tmp_path / "here" / name, tmp_path / "there" / other]
    for system in ("win32", "darwin"):
        first, second = _plan(sources, f"{tmp_path}/", system)
        assert first == (sources[0], tmp_path / name)
        assert isinstance(second, FileExistsError)
    assert len([*_plan(sources, f"{tmp_path}/", "linux")]) == 2
    there, here = _plan([sources[1], tmp_path / name], f"{tmp_path}/", "darwin")
    assert isinstance(there, FileExistsError)
    assert "is to be painted itself" in str(there)
    assert here == (tmp_path / name, tmp_path / name)


def test_no_picture_replaces_another_that_is_to_be_painted(
    folder: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder / "deeper" / "a.jpg"
    shutil.copy(folder / "b.PNG", other)
    before = (folder / "a.jpg").read_bytes()
    pictures = [str(other), str(folder / "a.jpg")]
    options = ["-o", str(folder), "--style", str(tiny_style), "--overwrite"]
    assert main(["stylize", *pictures, *options]) == 1
    error = r"styleplug: error: .*deeper.a\.jpg would become .*a\.jpg, which is to .*\n"
    assert re.fullmatch(error, capsys.readouterr().err)
    with Image.open(folder / "a.jpg") as painted:
        assert painted.mode == "RGB"  # the other is grey
    assert (folder / "a.jpg").read_bytes() != before


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_do_not_hide_that_a_picture_is_to_be_painted(
    folder: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "c.jpg").symlink_to("a.jpg")
    other = folder / "deeper" / "b.PNG"
    shutil.copy(folder / "a.jpg", other)
    pictures = [other, *(folder / name for name in ("a.jpg", "b.PNG", "c.jpg"))]
    options = ["--style", tiny_style, "--overwrite"]
    once = tmp_path / "once.png"
    argv = ["stylize", folder / "b.PNG", "-o", once, *options]
    assert main([*map(str, argv)]) == 0
    argv = ["stylize", *pictures, "-o", tmp_path / "link", *options]
    assert main([*map(str, argv)]) == 1
    told = capsys.readouterr().err
    assert re.search(r"deeper.b\.PNG would become .*b\.PNG, which is to be", told)
    assert re.search(r"c\.jpg and .*a\.jpg would both become .*link.c\.jpg;", told)
    with Image.open(folder / "b.PNG") as painted, Image.open(once) as expected:
        assert np.array_equal(painted, expected)


@pytest.mark.parametrize(
    "words",
    [["", "-o", "out"], ["a.jpg", "-o", ""], ["a.jpg", "-o", "out", "--mask", ""]],
)
def test_an_empty_name_is_not_the_folder_one_is_in(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["stylize", *words, "--overwrite"]) == 2
    assert "it is empty; name a file or a folder" in capsys.readouterr().err


def test_a_file_goes_into_a_folder_that_is_there(
    photo: Path, tiny_style: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert (
        main(["stylize", str(photo), "-o", str(out), "--style", str(tiny_style)]) == 0
    )
    assert [path.name for path in out.iterdir()] == ["photo.png"]


def test_a_format_that_cannot_be_written_becomes_png(
    photo: Path, tiny_style: Path, tmp_path: Path, content_image: Image.Image
) -> None:
    content_image.save(tmp_path / "old.pcx")
    out = tmp_path / "out"
    argv = ["stylize", str(photo), str(tmp_path / "old.pcx"), "-o", str(out)]
    assert main([*argv, "--style", str(tiny_style)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["old.png", "photo.png"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name", ["aa.jpg", "0.jpg"])
def test_one_failing_file_does_not_stop_the_others(
    folder: Path,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    there: bool,
) -> None:
    (folder / name).write_bytes(b"")
    out = tmp_path / "out"
    if there:
        out.mkdir()
    assert (
        main(["stylize", str(folder), "-o", str(out), "--style", str(tiny_style)]) == 1
    )
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.PNG", "c.png"]
    printed, err = capsys.readouterr()
    assert len(printed.splitlines()) == 3
    assert re.fullmatch(rf"styleplug: error: .*{name} is empty.*\n", err)


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(
    photo: Path,
    folder: Path,
    tiny_style: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    list_folder = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read what is locked
    out = tmp_path / "out"
    argv = ["stylize", *map(str, (photo, locked, folder)), "-o", str(out)]
    assert main([*argv, "--style", str(tiny_style)]) == 1
    assert len(list(out.iterdir())) == 4
    err = capsys.readouterr().err
    assert err == f"styleplug: error: {locked}: Permission denied\n"


def test_a_pattern_that_no_shell_of_windows_expands_stands_for_its_files(
    tmp_path: Path,
) -> None:
    names = ["a[1].jpg", "b.jpg", "c.png"]
    for name in names:
        (tmp_path / name).touch()
    a, b, c = (tmp_path / name for name in names)
    pattern, nothing = tmp_path / "*.jpg", tmp_path / "*.tif"
    assert _expand([c, pattern, nothing, a], "win32") == [c, a, b, nothing, a]
    assert _expand([pattern], "linux") == [pattern]
    folder = tmp_path / "photos [2024]"
    folder.mkdir()
    (folder / "a.jpg").touch()
    assert _expand([folder / "*.jpg"], "win32") == [folder / "a.jpg"]


def test_an_unknown_style_leaves_no_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fails(capsys, "stylize", folder, "-o", out, "--style", "none", expect=".*none")
    assert not out.exists()


def test_the_page_offers_the_styles_that_are_named(
    tiny_style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    page = types.ModuleType("styleplug.demo")
    page.launch = lambda **options: asked.update(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "styleplug.demo", page)
    assert main(["demo", "--no-browser", "--style", str(tiny_style)]) == 0
    assert asked["styles"][-1].path == tiny_style
    assert len(asked["styles"]) > 1
    assert asked["inbrowser"] is False


def test_what_is_named_for_the_page_can_be_painted_with(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = types.ModuleType("styleplug.demo")
    page.launch = pytest.fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "styleplug.demo", page)
    fails(capsys, "demo", "--style", photo, expect=".*is a picture; .*capture")
    trunk = bundled_trunk()
    fails(capsys, "demo", "--style", trunk, expect=".*holds no style vector")


def test_a_gradio_that_is_too_old_is_to_be_upgraded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = types.ModuleType("styleplug.demo")
    page.launch = lambda **_: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "styleplug.demo", page)
    extra = ["torch>=2.8", 'gradio[mcp]<7,>=6.25; extra == "demo"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: extra)
    installed = "5.49.1"
    monkeypatch.setattr("importlib.metadata.version", lambda name: installed)
    told = r"The page needs gradio<7,>=6.25, not 5.49.1; .*--upgrade"
    fails(capsys, "demo", expect=told)
    installed = "6.31.0"
    assert main(["demo"]) == 0


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "http", "1_0"])
def test_the_page_is_served_at_a_port_that_there_is(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", f"--port={port}"]) == 2
    assert f"{port!r} is not a port from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_needs_no_brackets(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    page = types.ModuleType("styleplug.demo")
    page.launch = lambda **options: asked.update(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "styleplug.demo", page)
    monkeypatch.setattr("styleplug.cli._can_listen", lambda host: True)
    assert main(["demo", "--host", host]) == 0
    assert asked["server_name"] == "[::1]"


def test_where_nothing_can_listen_is_told_with_the_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**options: Any) -> None:
        assert options.get("server_name", "localhost") == "localhost"
        raise error

    page = types.ModuleType("styleplug.demo")
    page.launch = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "styleplug.demo", page)
    error = OSError("set GRADIO_SERVER_PORT, or server_port of launch()")
    told = "Cannot listen on {}; choose another --host or --port"
    expected = told.format(r"localhost, port 80")
    fails(capsys, "demo", "--host=localhost", "--port=80", expect=expected)
    for elsewhere in ("203.0.113.5", "no such host", "x" * 99):
        expected = told.format(elsewhere)
        fails(capsys, "demo", f"--host={elsewhere}", expect=expected)
    fails(capsys, "demo", expect=told.format("this machine"))
    error = OSError(errno.ENOSPC, "No space left on device")
    fails(capsys, "demo", "--port=80", expect="No space left on device")


def test_two_inputs_of_one_name_are_told_apart(
    photo: Path, folder: Path, tiny_style: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / "photo.png")
    out = tmp_path / "out"
    argv = ["stylize", str(photo), str(folder / "photo.png"), "-o", str(out)]
    assert main([*argv, "--style", str(tiny_style)]) == 1
    assert [path.name for path in out.iterdir()] == ["photo.png"]


def test_the_style_of_a_picture_is_captured(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style, out = tmp_path / "mine.safetensors", tmp_path / "out.png"
    argv = ["capture", str(photo), "-o", str(style), "--artist", "Nobody"]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{style}\n"
    info = read_info(style)
    assert (info.name, info.title, info.artist) == ("mine", "photo", "Nobody")
    assert main(["stylize", str(photo), "-o", str(out), "--style", str(style)]) == 0
    assert main(["info", str(style)]) == 0
    before = style.read_bytes()
    fails_again = ("capture", photo, "-o", style, "--title", "Other")
    capsys.readouterr()
    fails(capsys, *fails_again, expect=".*already exists; allow overwriting")
    assert style.read_bytes() == before
    assert main([*map(str, fails_again), "--overwrite"]) == 0
    assert read_info(style).title == "Other"


def test_a_style_that_came_while_one_was_captured_is_not_replaced(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    style = tmp_path / "mine.safetensors"

    def read(path: Path) -> Picture:
        style.write_text("precious")
        return read_picture(path)

    monkeypatch.setattr("styleplug.images.as_style_image", read)
    fails(capsys, "capture", photo, "-o", style, expect=".*already exists; allow")
    assert style.read_text() == "precious"


@pytest.mark.parametrize("command", ["capture", "convert"])
def test_the_texts_of_a_style_are_explained(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, capsys)
    assert "--artwork TEXT rights in the artwork" in text
    assert "--license TEXT licence of the weights" in text


def test_a_picture_of_any_suffix_is_captured(
    tmp_path: Path, content_image: Image.Image
) -> None:
    content_image.save(tmp_path / "old.pcx")
    style = tmp_path / "old.safetensors"
    assert main(["capture", str(tmp_path / "old.pcx"), "-o", str(style)]) == 0
    assert read_info(style).title == "old"


def test_pictures_and_styles_blend(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    blend = ["--style", f"{photo}:0.25", "--style", "starry-night:0.75"]
    assert main(["stylize", str(photo), "-o", str(out), *blend]) == 0
    with Image.open(out) as result:
        assert "photo:0.25 + starry-night:0.75" in result.info["Software"]


# Bad input: one sentence, exit code 1, nothing written, nothing lost


def png_header(width: int, height: int) -> bytes:
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT5\xaf\x06\x1e"


def truncated_jpeg() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(data, "JPEG")
    return data.getvalue()[:-400]


@pytest.mark.parametrize(
    ("data", "expect"),
    [
        pytest.param(b"hello" * 100, r"bad\.jpg is not an image", id="not-an-image"),
        pytest.param(truncated_jpeg(), r"bad\.jpg is damaged", id="truncated"),
        pytest.param(b"", r"bad\.jpg is empty", id="zero-bytes"),
        pytest.param(
            png_header(50000, 50000), r"2500 megapixels .* max_pixels", id="bomb"
        ),
    ],
)
def test_a_bad_image_is_told(
    data: bytes,
    expect: str,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(data)
    out = tmp_path / "out.png"
    fails(capsys, "stylize", bad, "-o", out, "--style", tiny_style, expect=expect)
    assert list(tmp_path.iterdir()) == [bad]
    assert bad.read_bytes() == data


def test_a_missing_image_and_a_folder_without_images_are_told(
    tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = ("--style", tiny_style)
    missing = tmp_path / "missing.jpg"
    fails(
        capsys,
        "stylize",
        missing,
        "-o",
        tmp_path / "o.png",
        *style,
        expect=".*not exist",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    fails(capsys, "stylize", empty, "-o", out, *style, expect=".*holds no images")
    assert not out.exists()


def damage(style: Path, kind: str) -> None:
    """Damage a style file in one way."""
    data = style.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = load_file(style)
    if kind == "truncated":
        style.write_bytes(data[:-100])
    elif kind == "nan":
        tensors["style"][3] = np.nan
        save_file(tensors, style, metadata)
    elif kind == "shapes":
        tensors["style"] = tensors["style"][:-2].copy()
        save_file(tensors, style, metadata)
    elif kind == "header":
        save_file(tensors, style)
    elif kind == "pickle":
        style.write_bytes(b"\x80\x04\x95" + data[:200])
    elif kind == "empty":
        style.write_bytes(b"")


@pytest.mark.parametrize(
    "kind", ["truncated", "nan", "shapes", "header", "pickle", "empty"]
)
def test_a_bad_style_file_is_told(
    kind: str,
    photo: Path,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    style = tmp_path / "bad.safetensors"
    shutil.copy(tiny_style, style)
    damage(style, kind)
    out = tmp_path / "out.png"
    fails(
        capsys,
        "stylize",
        photo,
        "-o",
        out,
        "--style",
        style,
        expect=".*bad.safetensors",
    )
    assert not out.exists()


def test_an_unknown_style_is_told(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    argv = ("stylize", photo, "-o", out, "--style", "no-such-style")
    fails(capsys, *argv, expect="There is no style 'no-such-style'.*styleplug list")


@pytest.mark.parametrize("suffix", [".jpg", ".safetensors.png", ""])
def test_a_captured_style_needs_its_suffix(
    suffix: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"mine{suffix}"
    fails(capsys, "capture", photo, "-o", out, expect=r".*ends in \.safetensors")
    out = tmp_path / "missing" / "mine.safetensors"
    fails(capsys, "capture", photo, "-o", out, expect=".*there is no folder")
    no_picture = tmp_path / "none.jpg"  # which would be found out later
    fails(capsys, "capture", no_picture, "-o", out, expect=".*there is no folder")
    assert list(tmp_path.iterdir()) == [photo]


def test_a_style_that_cannot_be_written_is_told_before_it_is_captured(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine, "capture", lambda *_: pytest.fail("too late"))
    out = tmp_path / "folder.safetensors"
    out.mkdir()
    fails(capsys, "capture", photo, "-o", out, "--overwrite", expect=".*is a folder")
    out = tmp_path / ".mine.safetensors"
    fails(capsys, "capture", photo, "-o", out, expect=r".*no leading dot, got '\.mine'")
    out = tmp_path / "mine.safetensors"
    fails(capsys, "capture", photo, "-o", out, "--name", "a/b", expect=".*no slashes")
    text = ("--artist", "y" * 301)
    fails(capsys, "capture", photo, "-o", out, *text, expect=".*at most 300 characters")
    out.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    fails(capsys, "capture", photo, "-o", out, "--overwrite", expect=".*protected")


def test_a_bad_style_picture_is_told(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, missing = tmp_path / "text.jpg", tmp_path / "missing.jpg"
    text.write_text("The picture of a picture.")
    out, style = tmp_path / "out.png", tmp_path / "out.safetensors"
    stylize_with = ("stylize", photo, "-o", out, "--style")
    fails(capsys, *stylize_with, text, expect=r".*text\.jpg is not an image")
    fails(capsys, *stylize_with, missing, expect=r"There is no picture .*missing\.jpg")
    endless = tmp_path / f"{'x' * 300}.jpg"
    fails(capsys, *stylize_with, endless, expect=r"There is no picture .*check the pa")
    fails(capsys, "capture", text, "-o", style, expect=r".*text\.jpg is not an image")
    fails(capsys, "capture", missing, "-o", style, expect=".*does not exist")
    fails(capsys, "capture", tmp_path, "-o", style, expect=".*is a folder")
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8)).save(clear)
    fails(capsys, "capture", clear, "-o", style, expect=".*wholly transparent")
    assert not out.exists()
    assert not style.exists()


@pytest.mark.parametrize("name", ["photo.heic", "photo.CR2"])
def test_what_has_to_be_exported_first_is_told_in_every_place(
    name: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = tmp_path / name, tmp_path / "out.png"
    told = rf".*{name} is HEIC or camera raw, .*export it as JPEG or TIFF first\."
    Image.new("RGB", (8, 8)).save(raw, "TIFF")  # the small picture in some raw files
    fails(capsys, "stylize", raw, "-o", out, "--style", "udnie", expect=told)
    fails(capsys, "stylize", photo, "-o", out, "--style", raw, expect=told)
    style = tmp_path / "mine.safetensors"
    fails(capsys, "capture", raw, "-o", style, expect=told)
    raw.unlink()
    fails(capsys, "stylize", raw, "-o", out, "--style", "udnie", expect=".*not exist")
    stylize_like = "stylize", photo, "-o", out, "--style"
    fails(capsys, *stylize_like, raw, expect=f"There is no picture .*{name}")


@pytest.mark.parametrize(
    ("option", "expect"),
    [
        ("--strength 1.5", "strength .*1.5"),
        ("--strength nan", "strength .*nan"),
        ("--style-scale 9", "style_scale .*9"),
        ("--device cuda:99", "cuda:99"),
        ("--device gpu", "gpu"),
        ("--dtype int8", "dtype .*int8"),
        ("--tile-size 0", "tile_size .*0"),
        ("--memory 1M", "1 MB .*at least"),
    ],
)
def test_a_bad_value_names_itself(
    option: str,
    expect: str,
    folder: Path,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.png"
    argv = ("stylize", folder / "a.jpg", "-o", out, "--style", tiny_style)
    fails(capsys, *argv, *option.split(), expect=expect)
    assert not out.exists()


def test_a_mask_of_another_size_is_resized_with_a_note(
    photo: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (10, 10)).save(mask)
    out = tmp_path / "out.png"
    argv = ["stylize", str(photo), "-o", str(out), "--style", str(tiny_style)]
    assert main([*argv, "--mask", str(mask)]) == 0
    assert "styleplug: note: The mask of 10 x 10" in capsys.readouterr().err
    with Image.open(out) as result, Image.open(photo) as before:
        assert result.tobytes() == before.tobytes()


def test_a_garbage_mask_is_told(
    photo: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "mask.png"
    mask.write_text("no image")
    argv = ("stylize", photo, "-o", tmp_path / "out.png", "--style", tiny_style)
    fails(capsys, *argv, "--mask", mask, expect=r".*mask\.png is not an image")
    assert not (tmp_path / "out.png").exists()


def test_a_file_is_not_overwritten_unless_told(
    photo: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photo.read_bytes()
    argv = ("stylize", photo, "-o", photo, "--style", tiny_style)
    fails(capsys, *argv, expect=r".*photo\.png already exists")
    assert photo.read_bytes() == before
    assert main([*map(str, argv), "--overwrite"]) == 0
    assert photo.read_bytes() != before


def test_destinations_that_cannot_be_written_are_told(
    photo: Path, folder: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = ("--style", tiny_style)
    out = photo.parent / "missing" / "out.png"
    fails(capsys, "stylize", photo, "-o", out, *style, expect=".*there is no folder")
    out = photo.parent / "out.xyz"
    fails(capsys, "stylize", photo, "-o", out, *style, expect=r".*use one of \.jpg")
    fails(capsys, "stylize", folder, "-o", photo, *style, expect=".*names one image")
    several = "stylize", photo, photo, "-o", photo.with_name("new.png")
    fails(capsys, *several, *style, expect=".*names one image")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_without_permission_is_told(
    photo: Path, tiny_style: Path, locked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("stylize", photo, "-o", locked / "out.png", "--style", tiny_style)
    fails(capsys, *argv, expect=r".*out\.png cannot be written")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["paint"],
        ["stylize"],
        ["stylize", "a.jpg", "-o", "b.jpg"],
        ["stylize", "a.jpg", "-o", "b.jpg", "--style", "x", "--strength", "strong"],
        ["stylize", "a.jpg", "-o", "b.jpg", "--style", "x", "--memory", "much"],
    ],
    ids=" ".join,
)
def test_a_command_line_without_sense_exits_with_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert "usage: styleplug" in capsys.readouterr().err


# Interruption, in a process of its own


def command(*argv: str | Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "styleplug", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_and_the_like_leave_whole_files_and_exit_with_130(
    end: str, folder: Path, tiny_style: Path, tmp_path: Path
) -> None:
    Image.effect_noise((700, 700), 60).save(folder / "a.png", compress_level=1)
    for i in range(40):
        shutil.copy(folder / "a.png", folder / f"c{i}.png")
    out = tmp_path / "out"
    argv = ("stylize", folder, "-o", out, "--style", tiny_style)
    # A shell starts what runs in the background with interruptions switched off.
    number = signal.Signals[end]
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    with command(*argv, preexec_fn=heed) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "styleplug: stopped\n"
    written = list(out.iterdir())
    assert 0 < len(written) < 43
    for path in written:
        with Image.open(path) as image:
            image.load()


def test_ctrl_c_while_the_options_of_train_are_loaded_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("styleplug.training.command.add_arguments", interrupt)
    assert main(["train", "--help"]) == 130
    assert capsys.readouterr().err == "styleplug: stopped\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX resource limits")
def test_a_full_disk_leaves_nothing_behind(
    photo: Path, tiny_style: Path, tmp_path: Path
) -> None:
    import resource

    out = tmp_path / "out.tif"
    out.write_bytes(b"precious")
    argv = ("stylize", photo, "-o", out, "--style", tiny_style, "--overwrite")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # noqa: E731
    with command(*argv, preexec_fn=limit) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"styleplug: error: .*out\.tif cannot be written: .*\n", err)
    assert out.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == [out, photo]


def test_a_reader_that_stops_early_ends_it_without_a_word(tmp_path: Path) -> None:
    with command("sample", tmp_path / "scene.png") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


# The other commands


def test_sample_writes_the_landscape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scene.png"
    assert main(["sample", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as scene, Image.open(LANDSCAPE) as landscape:
        assert scene.size == (960, 640)
        assert scene.tobytes() == landscape.tobytes()


def test_sample_replaces_a_file_only_when_told(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photo.read_bytes()
    fails(capsys, "sample", photo, expect=r".*photo\.png already exists.*--overwrite")
    assert photo.read_bytes() == before
    assert main(["sample", str(photo), "--overwrite"]) == 0
    with Image.open(photo) as scene:
        assert scene.size == (960, 640)


def test_info_tells_what_the_style_says(
    tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tiny_style)]) == 0
    assert re.search(r"^artist +Nobody$", capsys.readouterr().out, re.M)
    assert main(["info", str(tiny_style), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["id"], info["title"]) == ("tiny", "Tiny")


def test_info_of_an_unknown_style_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "info", "no-such-style", expect="There is no style")


def test_info_of_a_picture_says_how_it_becomes_a_style(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, "info", photo, expect=r".*is a picture; .*capture PICTURE -o .*'\.$")


def test_list_shows_every_style(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    styles = json.loads(capsys.readouterr().out)
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [style["id"] for style in styles]


def test_pull_offline_says_why_for_every_style(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pull", "owner/one", "owner/two", "nonsense"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:17] for line in err.splitlines()] == ["styleplug: error:"] * 3


def test_train_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("train", capsys)
    assert "[ARTWORK ...] Train the style of an artwork" in text
    assert "--content FOLDER" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"styleplug \S+\n", capsys.readouterr().out)
