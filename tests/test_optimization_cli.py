"""``styleplug optimize``."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleplug.cli import main
from styleplug.images import read_picture


@pytest.fixture
def files(content_image, tmp_path) -> Path:
    """A folder with photo.png, style.png, other.png and white.png."""
    content_image.save(tmp_path / "photo.png")
    content_image.rotate(180).save(tmp_path / "style.png")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "other.png")
    Image.new("L", content_image.size, 255).save(tmp_path / "white.png")
    return tmp_path


def arguments(files, vgg, *more) -> list[str]:
    """A command line; of the shallow loss network no deep layers can be asked."""
    return [
        "optimize",
        str(files / "photo.png"),
        *("-o", str(files / "out.png"), "--loss-network", str(vgg)),
        *("--iterations", "2", *more),
    ]


def test_it_writes_the_picture_and_tells_its_size(files, vgg, capsys):
    assert main(arguments(files, vgg, str(files / "style.png"))) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{files / 'out.png'}  96 x 64")
    assert err == ""
    with Image.open(files / "out.png") as result:
        assert result.size == (96, 64)


def test_styles_have_weights_regions_masks_and_losses(files, vgg, capsys):
    line = arguments(
        files,
        vgg,
        *(f"{files / 'style.png'}:0.7", f"{files / 'other.png'}:0.3"),
        *("--region", str(files / "white.png"), "--region", "-"),
        *("--style-mask", "-", "--mask", str(files / "white.png")),
        *("--style-loss", "gram:0.5", "--style-loss", "nearest"),
        *("--preserve-color", "luminance", "--memory", "2G"),
        *("--snapshots", str(files / "shots")),
    )
    assert main(line) == 0
    shots = sorted(path.name for path in (files / "shots").iterdir())
    assert shots[-1] == "100.png"
    with (
        Image.open(files / "shots" / "100.png") as last,
        Image.open(files / "out.png") as result,
    ):
        assert np.array_equal(np.array(last), np.array(result))


def test_snapshots_replace_nothing_unasked_and_end_nothing(
    files, vgg, capsys, monkeypatch
):
    shots = files / "shots"
    shots.mkdir()
    (shots / "050.png").write_bytes(b"precious")
    line = arguments(*(files, vgg, str(files / "style.png"), "--snapshots", str(shots)))
    assert main(line) == 1
    assert "050.png already exists" in capsys.readouterr().err
    assert (shots / "050.png").read_bytes() == b"precious"

    def refuse(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("styleplug.files.replacing", refuse)
    assert main([*line, "--overwrite"]) == 0
    assert "was not written (No space left on device)" in capsys.readouterr().err
    assert read_picture(files / "out.png").size == (96, 64)


@pytest.mark.parametrize("role", ["-o", "--mask", "style"])
def test_a_snapshot_never_takes_the_place_of_an_image_of_the_command(
    role, files, vgg, capsys
):
    place = files / "100.png"
    style = files / "style.png"
    if role != "-o":
        style.rename(place)
        style = place if role == "style" else files / "other.png"
    before = place.read_bytes() if place.exists() else None
    more = ["--snapshots", str(files), "--overwrite", str(style)]
    more += [] if role == "style" else [role, str(place)]
    assert main(arguments(files, vgg, *more)) == 1
    assert "100.png is an image of this command" in capsys.readouterr().err
    assert (place.read_bytes() if place.exists() else None) == before


def test_losses_of_one_name_add_up(files, vgg, capsys):
    with Image.open(files / "photo.png") as photo:
        photo.save(files / "out.png")
    results = []
    for losses in (["gram", "nearest:0.5", "gram:0.5"], ["nearest:0.5", "gram:1.5"]):
        more = [word for loss in losses for word in ("--style-loss", loss)]
        line = arguments(files, vgg, str(files / "style.png"), *more, "--overwrite")
        assert main(line) == 0
        with Image.open(files / "out.png") as result:
            results.append(np.array(result))
            told = json.loads(result.info["Software"].split(maxsplit=2)[2])
        assert told["style_loss"] == {"gram": 1.5, "nearest": 0.5}
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--region", "a.png", "--region", "b.png"], "--region is given 2 times"),
        (["--style-loss", "sharpness"], "style_loss must be one of"),
        (["--mask", "nowhere.png"], "nowhere.png"),
    ],
)
def test_misuse_is_told_in_one_line(files, vgg, capsys, more, message):
    assert main(arguments(files, vgg, str(files / "style.png"), *more)) == 1
    err = capsys.readouterr().err
    assert err.startswith("styleplug: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (files / "out.png").exists()


def test_without_a_loss_network_it_says_how_to_get_one(files, capsys):
    photo, style = str(files / "photo.png"), str(files / "style.png")
    assert main(["optimize", photo, style, "-o", str(files / "out.png")]) == 1
    assert "--loss-network" in capsys.readouterr().err
