"""The training of a predictor on a trunk that stays."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from styleplug.errors import TrainingError
from styleplug.images import read_picture
from styleplug.networks import StyleNetwork
from styleplug.predictor import (
    StylePredictor,
    capture,
    load_predictor,
    save_predictor,
)
from styleplug.style import StyleInfo, bundled_trunk, read_info
from styleplug.training import distillation
from styleplug.training import predictor as training
from styleplug.training.config import TrainConfig
from styleplug.training.predictor import fit_head, train_predictor
from styleplug.training.state import step_rng
from styleplug.weights import save_trunk

QUICK = TrainConfig(steps=4, batch_size=2, style_size=64, seed=1)


@pytest.fixture
def trunk(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "styles" / "trunk.safetensors"
    path.parent.mkdir()
    save_trunk(path, StyleNetwork((4, 4, 4), (0, 1)), StyleInfo("trunk"))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    small = {"_STEPS": 2, "_FIRST": 1, "_REFIT_EVERY": 2, "_EPOCHS": 2, "_CROP": 48}
    for name, value in small.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(distillation, "_CROP", 48)


@pytest.fixture
def learn(photographs, vgg, trunk):
    def learn(out, trunk=trunk, content=photographs, **options):
        return train_predictor(
            content,
            vgg,
            out,
            **{"config": QUICK, "trunk": trunk, "archive": photographs} | options,
        )

    return learn


def test_a_predictor_is_learned_while_the_trunk_stays(learn, trunk, tmp_path):
    before = trunk.read_bytes()
    path = learn(tmp_path / "out", held_out=["0.jpg"], command="styleplug train")
    assert trunk.read_bytes() == before
    info, predictor = load_predictor(path)
    assert info.trunk == read_info(trunk).trunk
    assert info.training["command"] == "styleplug train"
    assert info.training["artworks"] == 5
    assert torch.isfinite(predictor(torch.rand(1, 3, 64, 48))).all()


def test_a_predictor_lies_beside_its_trunk(learn, trunk, artwork, tmp_path):
    path = learn(tmp_path / "out")
    assert {file.name for file in path.parent.iterdir()} == {path.name, trunk.name}
    style = capture(read_picture(artwork), "stripes", path.parent, rank=0)
    assert style.info.trunk == read_info(trunk).trunk
    before = trunk.read_bytes()
    learn(trunk.parent)
    assert trunk.read_bytes() == before


def test_no_other_trunk_is_replaced_by_that_of_a_predictor(learn, tmp_path):
    other = tmp_path / "out" / "trunk.safetensors"
    other.parent.mkdir()
    save_trunk(other, StyleNetwork((4, 4, 4), (0, 1)), StyleInfo("trunk"))
    before = other.read_bytes()
    with pytest.raises(FileExistsError, match=r"trunk\.safetensors already exists"):
        learn(other.parent)
    assert other.read_bytes() == before


def test_the_bundled_trunk_is_not_written_beside_its_predictor(learn, tmp_path):
    path = learn(tmp_path / "out", trunk=bundled_trunk())
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    ("step", "saved"),
    [
        pytest.param(1, {"run.ckpt.encoder"}, id="in-the-distillation"),
        pytest.param(3, {"run.ckpt.encoder", "run.ckpt"}, id="in-a-refinement"),
    ],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    learn, tmp_path, killed_in, step, saved
):
    whole = load_file(learn(tmp_path / "whole"))
    checkpoint = tmp_path / "run.ckpt"
    with killed_in(step_rng(QUICK.seed, step)):
        learn(tmp_path / "parts", checkpoint=checkpoint)
    left = {path.name for path in tmp_path.glob("run.ckpt*")}
    assert left == saved
    parts = load_file(learn(tmp_path / "parts", checkpoint=checkpoint))
    assert parts.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_of_another_training_is_refused(learn, trunk, tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    learn(trunk.parent)  # with a predictor there, its encoder is kept
    learn(tmp_path / "out", checkpoint=checkpoint)
    other = TrainConfig(steps=5, batch_size=2, style_size=64, seed=1)
    with pytest.raises(TrainingError, match=r"run\.ckpt belongs to another training"):
        learn(tmp_path / "other", checkpoint=checkpoint, config=other)


@pytest.mark.parametrize(
    ("changed", "told"), [("archive", "archive"), ("content", "photographs")]
)
def test_a_checkpoint_of_as_many_other_pictures_is_refused(
    learn, trunk, photographs, tmp_path, changed, told
):
    checkpoint = tmp_path / "run.ckpt"
    learn(trunk.parent)
    learn(tmp_path / "out", checkpoint=checkpoint)
    others = Path(shutil.copytree(photographs, tmp_path / "others"))
    (others / "0.jpg").rename(others / "6.jpg")
    with pytest.raises(TrainingError, match=f"differs in files of the {told};"):
        learn(
            tmp_path / "out", checkpoint=checkpoint, overwrite=True, **{changed: others}
        )


def test_a_checkpoint_of_another_encoder_is_refused(learn, trunk, tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    path = learn(trunk.parent, checkpoint=checkpoint)
    whole = load_file(path)
    again = load_file(learn(trunk.parent, checkpoint=checkpoint, overwrite=True))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    info, predictor = load_predictor(path)
    next(predictor.encoder.parameters()).mul_(2)
    save_predictor(path, predictor, info)
    with pytest.raises(TrainingError, match=r"differs in start of the predictor;"):
        learn(tmp_path / "out", checkpoint=checkpoint)


def test_a_checkpoint_without_its_encoder_is_refused_before_another_is_trained(
    learn, tmp_path, monkeypatch
):
    checkpoint = tmp_path / "run.ckpt"
    learn(tmp_path / "out", checkpoint=checkpoint)
    checkpoint.with_name("run.ckpt.encoder").unlink()
    monkeypatch.setattr(distillation, "Teacher", lambda *_: pytest.fail("trains"))
    with pytest.raises(
        TrainingError, match=r"only be resumed with .*run\.ckpt\.encoder, which"
    ):
        learn(tmp_path / "other", checkpoint=checkpoint)


def test_a_distillation_goes_on_with_the_components_that_it_began_with(
    learn, tmp_path, monkeypatch
):
    checkpoint = tmp_path / "run.ckpt"
    whole = load_file(learn(tmp_path / "out", checkpoint=checkpoint))

    def calibrate(self, encoder):
        encoder.origins.fill_(9.0)  # as another machine might

    monkeypatch.setattr(distillation.Teacher, "calibrate", calibrate)
    again = load_file(learn(tmp_path / "other", checkpoint=checkpoint))
    assert torch.equal(again["encoder.origins"], whole["encoder.origins"])


def test_an_encoder_of_another_training_is_refused(learn, tmp_path, killed_in):
    checkpoint = tmp_path / "run.ckpt"
    with killed_in(step_rng(QUICK.seed, 1)):
        learn(tmp_path / "out", checkpoint=checkpoint)
    message = r"run\.ckpt\.encoder belongs to another training, .* in archive"
    with pytest.raises(TrainingError, match=message):
        learn(tmp_path / "out", checkpoint=checkpoint, held_out=["0.jpg"])


def test_a_trunk_of_another_project_is_refused(learn, foreign_trunk, tmp_path):
    with pytest.raises(TrainingError, match="another project"):
        learn(tmp_path / "out", trunk=foreign_trunk)


def test_other_files_beside_the_trunk_are_passed_over(learn, trunk, vgg, tmp_path):
    shutil.copy(vgg, trunk.with_name("vgg19.safetensors"))
    assert learn(tmp_path / "out").exists()


def test_the_encoder_beside_the_trunk_is_not_trained_further(
    learn, trunk, tmp_path, monkeypatch
):
    first = load_file(learn(trunk.parent))
    monkeypatch.setattr(distillation, "Teacher", lambda *_: pytest.fail("trains"))
    again = load_file(learn(tmp_path / "again"))
    assert all(
        torch.equal(again[name], tensor)
        for name, tensor in first.items()
        if name.startswith("encoder")
    )
    assert not torch.equal(again["head.0.weight"], first["head.0.weight"])


def test_of_several_processes_the_first_one_saves_the_encoder(
    learn, tmp_path, monkeypatch
):
    monkeypatch.setattr(distillation, "process_and_count", lambda config: (1, 2))
    learn(tmp_path / "out", checkpoint=tmp_path / "run.ckpt")
    assert not (tmp_path / "run.ckpt.encoder").exists()


def test_what_is_there_is_not_replaced(learn, tmp_path):
    (tmp_path / "predictor.safetensors").write_text("precious")
    with pytest.raises(FileExistsError, match="--overwrite"):
        learn(tmp_path)
    assert (tmp_path / "predictor.safetensors").read_text() == "precious"


def test_a_head_learns_the_vectors_of_its_pictures(monkeypatch):
    monkeypatch.setattr(training, "_EPOCHS", 100)
    generator = torch.Generator().manual_seed(0)
    predictor = StylePredictor(6, (4,) * 5, (4,) * 4, hidden=16)
    size = len(predictor.usual)
    statistics = 5 + 2 * torch.randn(300, size, generator=generator)
    vectors = torch.sin(statistics @ torch.randn(size, 6, generator=generator) / 40)
    vectors = vectors * torch.tensor([1, 2, 3, 4, 5, 1e-3]) + 7
    before = torch.random.get_rng_state()
    fit_head(predictor, statistics, vectors, seed=0)
    error = (predictor.predict(statistics) - vectors).square().mean(dim=0)
    assert (error < 0.7 * vectors.var(dim=0)).all()
    assert torch.equal(torch.random.get_rng_state(), before)
    predicted = predictor.predict(statistics)
    fit_head(predictor, statistics, vectors, seed=0)
    assert torch.equal(predictor.predict(statistics), predicted)
