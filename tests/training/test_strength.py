import dataclasses
import functools
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from styleplug.errors import TrainingError
from styleplug.style import bundled_predictor, bundled_trunk, read_info
from styleplug.training import strength
from styleplug.training.state import step_rng
from styleplug.training.strength import train_strength
from styleplug.weights import load_style, read_style, save_style, write_tensors

pytestmark = pytest.mark.usefixtures("quick_calibration")


@pytest.fixture
def learn_strength(run, trained, trunk):
    """Learn the strength of the trained style; arguments are those of ``run``."""
    return functools.partial(run, train_strength, trunk=trunk, start=[trained])


def test_only_strength_is_learned(learn, learn_strength, trained, trunk, tmp_path):
    settings = {"steps": 3, "learning_rate": 0.1, "vector_rate": 0.01}
    settings["varied_strength"] = 1.0
    (changing,) = learn(
        tmp_path / "styles", trunk=trunk, start=[trained], rank=2, **settings
    )
    options = {**settings, "start": [changing], "checkpoint": tmp_path / "run.ckpt"}
    sheet = tmp_path / "sheet.png"
    (moved,) = learn_strength(tmp_path / "moved", **options, sheet=sheet)
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
    (again,) = learn_strength(tmp_path / "resumed", **options)
    assert read_info(again).trunk == new.info.trunk


def test_strength_is_learned_for_a_style_of_each_artwork(learn_strength):
    with pytest.raises(TrainingError, match="name one for each"):
        learn_strength(start=[])


def test_strength_is_learned_in_place_and_the_predictor_stays(
    learn, learn_strength, trunk, photographs, tmp_path
):
    settings = {"steps": 1, "learning_rate": 0.1, "varied_strength": 1.0}
    (style,) = learn(
        trunk=trunk, train_trunk=True, archive=photographs, batch_size=2, **settings
    )
    moved, predictor = (
        tmp_path / f"{name}.safetensors" for name in ("trunk", "predictor")
    )
    first, before = read_info(moved).trunk, load_file(predictor)
    learn_strength(trunk=moved, start=[style], overwrite=True, **settings)
    assert load_style(style).info.trunk == read_info(moved).trunk != first
    assert read_info(predictor).trunk == read_info(moved).trunk
    after = load_file(predictor)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_predictor_is_left_with_its_trunk(learn_strength, trunk, tmp_path):
    shutil.copy(bundled_trunk(), tmp_path)
    shutil.copy(bundled_predictor(), tmp_path)
    assert not trunk.with_name(bundled_predictor().name).exists()
    with pytest.raises(TrainingError, match=r"predictor\.safetensors still"):
        learn_strength(overwrite=True)


def test_a_trunk_taken_from_a_style_is_not_called_by_its_name(
    learn_strength, trained, tmp_path
):
    style, whole = load_style(trained), tmp_path / "whole.safetensors"
    info = dataclasses.replace(style.info, title="Dusk")
    save_style(whole, style.vector, style.network, info, self_contained=True)
    (moved,) = learn_strength(tmp_path / "out", steps=1, trunk=whole, start=[whole])
    told = read_info(moved.with_name("trunk.safetensors"))
    assert (told.name, told.title) == ("trunk", "")
    assert load_style(moved).info.title == "Dusk"


def test_an_interrupted_training_of_strength_ends_as_if_it_had_not_been(
    learn_strength, quick, tmp_path, killed_in
):
    def learn(out, **options):
        (style,) = learn_strength(
            tmp_path / out, learning_rate=0.1, varied_strength=1.0, **options
        )
        return read_info(style).trunk

    checkpoint = tmp_path / "run.ckpt"
    with killed_in(step_rng(quick.seed, 2)):
        learn("killed", checkpoint=checkpoint)
    assert checkpoint.exists()
    assert learn("resumed", checkpoint=checkpoint) == learn("whole")


def test_a_checkpoint_of_strength_on_other_photographs_is_refused(
    learn_strength, photographs, tmp_path
):
    content = Path(shutil.copytree(photographs, tmp_path / "content"))
    options = {"content": content, "steps": 1, "checkpoint": tmp_path / "run.ckpt"}
    learn_strength(tmp_path / "out", **options)
    (content / "0.jpg").rename(content / "6.jpg")
    with pytest.raises(TrainingError, match="differs in files of the photographs;"):
        learn_strength(tmp_path / "other", **options)


def test_strength_that_cannot_be_written_leaves_all_as_it_was(
    learn_strength, trained, trunk, tmp_path, monkeypatch
):
    for path in (trained, trunk):
        shutil.copy(path, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(strength, "write_tensors", failing)
    with pytest.raises(OSError, match="no space"):
        learn_strength(
            steps=1,
            learning_rate=0.1,
            trunk=tmp_path / trunk.name,
            start=[tmp_path / trained.name],
            overwrite=True,
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_strength_is_not_learned_in_place_for_some_of_the_styles_there(
    learn_strength, trained, trunk, tmp_path
):
    there = Path(shutil.copy(trunk, tmp_path))
    shutil.copy(trained, tmp_path / "another.safetensors")
    with pytest.raises(TrainingError, match=r"which another\.safetensors still"):
        learn_strength(trunk=there, overwrite=True)


def test_strength_is_not_learned_for_two_styles_of_one_name(
    learn_strength, trained, artwork
):
    with pytest.raises(TrainingError, match="names that differ"):
        learn_strength(artworks=[artwork] * 2, start=[trained] * 2)


@pytest.mark.parametrize("name", ["trunk", "Predictor"])
def test_strength_is_not_learned_for_a_style_that_would_replace_the_trunk(
    learn_strength, trained, trunk, tmp_path, name
):
    info, tensors = read_style(trained)
    beside = Path(shutil.copy(trunk, tmp_path))
    style = tmp_path / "style.safetensors"
    write_tensors(style, tensors, dataclasses.replace(info, name=name))
    with pytest.raises(TrainingError, match=f"style.safetensors is called '{name}'"):
        learn_strength(tmp_path / "out", trunk=beside, start=[style])


def test_strength_is_learned_in_the_size_of_the_styles(learn_strength):
    with pytest.raises(TrainingError, match="with --style-size 64, not 128; give"):
        learn_strength(style_size=128)


def test_a_picture_that_is_there_is_not_replaced_by_a_sheet_of_strength(
    learn_strength, artwork
):
    with pytest.raises(FileExistsError, match="already exists; allow overwriting"):
        learn_strength(sheet=artwork)


def test_strength_has_no_rank(learn_strength):
    with pytest.raises(TrainingError, match="--rank"):
        learn_strength(rank=2)


def test_strength_of_a_trunk_of_another_project_is_refused(
    learn_strength, foreign_trunk
):
    with pytest.raises(TrainingError, match="another project"):
        learn_strength(trunk=foreign_trunk)


def test_strength_is_learned_for_styles_of_one_size(
    learn_strength, trained, artwork, tmp_path
):
    info, tensors = read_style(trained)
    other = tmp_path / "other.safetensors"
    write_tensors(other, tensors, dataclasses.replace(info, name="other", base_size=96))
    with pytest.raises(TrainingError, match="64 and 96; name those of one size"):
        learn_strength(tmp_path / "out", artworks=[artwork] * 2, start=[trained, other])
