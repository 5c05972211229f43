import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from styleplug.errors import TrainingError
from styleplug.style import bundled_predictor, bundled_trunk, read_info
from styleplug.training import strength
from styleplug.training.loop import train
from styleplug.training.state import step_rng
from styleplug.training.strength import train_strength
from styleplug.weights import load_style, read_style, save_style, write_tensors

pytestmark = pytest.mark.usefixtures("quick_calibration")


def test_only_strength_is_learned(quick, trained, artwork, photographs, vgg, tmp_path):
    trunk = trained.with_name("trunk.safetensors")
    config = dataclasses.replace(
        quick, steps=3, learning_rate=0.1, vector_rate=0.01, varied_strength=1.0
    )
    given = [artwork], photographs, vgg
    (changing,) = train(
        *given,
        tmp_path / "styles",
        config=dataclasses.replace(config, rank=2),
        trunk=trunk,
        start=[trained],
    )
    options = {
        "config": config,
        "trunk": trunk,
        "start": [changing],
        "checkpoint": tmp_path / "run.ckpt",
    }
    sheet = tmp_path / "sheet.png"
    (moved,) = train_strength(*given, tmp_path / "moved", **options, sheet=sheet)
    with Image.open(sheet) as drawn:
        assert drawn.size == (4 * 384, 2 * 384)
    before, after = load_file(trunk), load_file(moved.with_name(trunk.name))
    differ = {name for name in before if not torch.equal(before[name], after[name])}
    assert differ == {"light"}
    before, after = load_file(changing), load_file(moved)
    assert {"style", "up2.lora_A", "up2.lora_B"} <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after)
    old, new = load_style(changing), load_style(moved)
    assert read_info(moved.with_name(trunk.name)).trunk == new.info.trunk
    assert new.info.trunk != old.info.trunk
    assert new.info.figures == old.info.figures
    assert not torch.equal(
        old.network.vector(old.vector, 0.5), new.network.vector(new.vector, 0.5)
    )
    (again,) = train_strength(*given, tmp_path / "resumed", **options)
    assert read_info(again).trunk == new.info.trunk


def test_strength_is_learned_for_a_style_of_each_artwork(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    with pytest.raises(TrainingError, match="name one for each"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=quick,
            trunk=trained.with_name("trunk.safetensors"),
            start=[],
        )


def test_strength_is_learned_in_place_and_the_predictor_stays(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    config = dataclasses.replace(quick, steps=1, learning_rate=0.1, varied_strength=1.0)
    given = [artwork], photographs, vgg, tmp_path
    (style,) = train(
        *given,
        config=dataclasses.replace(config, batch_size=2),
        trunk=trained.with_name("trunk.safetensors"),
        train_trunk=True,
        archive=photographs,
    )
    trunk, predictor = (
        tmp_path / f"{name}.safetensors" for name in ("trunk", "predictor")
    )
    first, before = read_info(trunk).trunk, load_file(predictor)
    train_strength(
        *given,
        config=config,
        trunk=trunk,
        start=[style],
        overwrite=True,
    )
    assert load_style(style).info.trunk == read_info(trunk).trunk != first
    assert read_info(predictor).trunk == read_info(trunk).trunk
    after = load_file(predictor)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_predictor_is_left_with_its_trunk(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    shutil.copy(bundled_trunk(), tmp_path)
    shutil.copy(bundled_predictor(), tmp_path)
    trunk = trained.with_name("trunk.safetensors")
    assert not trunk.with_name(bundled_predictor().name).exists()
    with pytest.raises(TrainingError, match=r"predictor\.safetensors still"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=quick,
            trunk=trunk,
            start=[trained],
            overwrite=True,
        )


def test_a_trunk_taken_from_a_style_is_not_called_by_its_name(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    style, whole = load_style(trained), tmp_path / "whole.safetensors"
    info = dataclasses.replace(style.info, title="Dusk")
    save_style(whole, style.vector, style.network, info, self_contained=True)
    (moved,) = train_strength(
        *([artwork], photographs, vgg, tmp_path / "out"),
        config=dataclasses.replace(quick, steps=1),
        trunk=whole,
        start=[whole],
    )
    told = read_info(moved.with_name("trunk.safetensors"))
    assert (told.name, told.title) == ("trunk", "")
    assert load_style(moved).info.title == "Dusk"


def test_an_interrupted_training_of_strength_ends_as_if_it_had_not_been(
    quick, trained, artwork, photographs, vgg, tmp_path, killed_in
):
    config = dataclasses.replace(quick, learning_rate=0.1, varied_strength=1.0)

    def run(out, **options):
        (style,) = train_strength(
            *([artwork], photographs, vgg, tmp_path / out),
            config=config,
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained],
            **options,
        )
        return read_info(style).trunk

    checkpoint = tmp_path / "run.ckpt"
    with killed_in(step_rng(config.seed, 2)):
        run("killed", checkpoint=checkpoint)
    assert checkpoint.exists()
    assert run("resumed", checkpoint=checkpoint) == run("whole")


def test_a_checkpoint_of_strength_on_other_photographs_is_refused(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    content = Path(shutil.copytree(photographs, tmp_path / "content"))
    options = {
        "config": dataclasses.replace(quick, steps=1),
        "trunk": trained.with_name("trunk.safetensors"),
        "start": [trained],
        "checkpoint": tmp_path / "run.ckpt",
    }
    train_strength([artwork], content, vgg, tmp_path / "out", **options)
    (content / "0.jpg").rename(content / "6.jpg")
    with pytest.raises(TrainingError, match="differs in files of the photographs;"):
        train_strength([artwork], content, vgg, tmp_path / "other", **options)


def test_strength_that_cannot_be_written_leaves_all_as_it_was(
    quick, trained, artwork, photographs, vgg, tmp_path, monkeypatch
):
    for path in (trained, trained.with_name("trunk.safetensors")):
        shutil.copy(path, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(strength, "write_tensors", failing)
    with pytest.raises(OSError, match="no space"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=dataclasses.replace(quick, steps=1, learning_rate=0.1),
            trunk=tmp_path / "trunk.safetensors",
            start=[tmp_path / trained.name],
            overwrite=True,
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_strength_is_not_learned_in_place_for_some_of_the_styles_there(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    shutil.copy(trained.with_name("trunk.safetensors"), tmp_path)
    shutil.copy(trained, tmp_path / "another.safetensors")
    with pytest.raises(TrainingError, match=r"which another\.safetensors still"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=quick,
            trunk=tmp_path / "trunk.safetensors",
            start=[trained],
            overwrite=True,
        )


def test_strength_is_not_learned_for_two_styles_of_one_name(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    with pytest.raises(TrainingError, match="names that differ"):
        train_strength(
            *([artwork] * 2, photographs, vgg, tmp_path),
            config=quick,
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained, trained],
        )


@pytest.mark.parametrize("name", ["trunk", "Predictor"])
def test_strength_is_not_learned_for_a_style_that_would_replace_the_trunk(
    quick, trained, artwork, photographs, vgg, tmp_path, name
):
    info, tensors = read_style(trained)
    trunk = Path(shutil.copy(trained.with_name("trunk.safetensors"), tmp_path))
    style = tmp_path / "style.safetensors"
    write_tensors(style, tensors, dataclasses.replace(info, name=name))
    with pytest.raises(TrainingError, match=f"style.safetensors is called '{name}'"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path / "out"),
            config=quick,
            trunk=trunk,
            start=[style],
        )


def test_strength_is_learned_in_the_size_of_the_styles(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    with pytest.raises(TrainingError, match="with --style-size 64, not 128; give"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=dataclasses.replace(quick, style_size=128),
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained],
        )


def test_a_picture_that_is_there_is_not_replaced_by_a_sheet_of_strength(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    with pytest.raises(FileExistsError, match="already exists; allow overwriting"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=quick,
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained],
            sheet=artwork,
        )


def test_strength_has_no_rank(quick, trained, artwork, photographs, vgg, tmp_path):
    with pytest.raises(TrainingError, match="--rank"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=dataclasses.replace(quick, rank=2),
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained],
        )


def test_strength_of_a_trunk_of_another_project_is_refused(
    quick, trained, artwork, photographs, vgg, tmp_path, foreign_trunk
):
    with pytest.raises(TrainingError, match="another project"):
        train_strength(
            *([artwork], photographs, vgg, tmp_path),
            config=quick,
            trunk=foreign_trunk,
            start=[trained],
        )


def test_strength_is_learned_for_styles_of_one_size(
    quick, trained, artwork, photographs, vgg, tmp_path
):
    info, tensors = read_style(trained)
    other = tmp_path / "other.safetensors"
    write_tensors(other, tensors, dataclasses.replace(info, name="other", base_size=96))
    with pytest.raises(TrainingError, match="64 and 96; name those of one size"):
        train_strength(
            *([artwork] * 2, photographs, vgg, tmp_path / "out"),
            config=quick,
            trunk=trained.with_name("trunk.safetensors"),
            start=[trained, other],
        )
