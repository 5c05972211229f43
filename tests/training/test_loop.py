import contextlib
import copy
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from styleplug.engine import stylize
from styleplug.errors import InvalidStyleError, StyleplugError, TrainingError
from styleplug.foreign import JohnsonNetwork
from styleplug.networks import StyleNetwork
from styleplug.predictor import load_predictor, save_predictor
from styleplug.style import StyleInfo, bundled_trunk, read_info
from styleplug.training import loop
from styleplug.training.config import TrainConfig
from styleplug.training.controls import Controls
from styleplug.training.data import Photographs
from styleplug.training.loop import draw_sheet, train
from styleplug.training.state import State, process_and_count, step_rng
from styleplug.weights import load_style, load_trunk, save_style, save_trunk

pytestmark = pytest.mark.usefixtures("quick_calibration")


def test_a_training_leaves_a_trunk_a_style_and_a_sheet(trained):
    info = read_info(trained)
    assert trained.name == "stripes.safetensors"
    assert info.title == "Stripes"
    assert info.training["command"] == "styleplug train my_stripes.png"
    assert info.training["seed"] == 1
    assert info.training["loss_network"] == "vgg19.safetensors"
    assert info.base_size == 64
    assert info.figures["style_distance"] > 0
    assert info.figures["content_distance"] > 0
    assert info.figures["similarity_at_strength_1"] < 1
    assert {"stroke_growth", "border_energy"} <= info.figures.keys()
    trunk = trained.with_name("trunk.safetensors")
    assert read_info(trunk).trunk == info.trunk
    with Image.open(trained.with_name("sheet.png")) as sheet:
        assert sheet.size == (4 * 384, 2 * 384)


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    learn, quick, trunk, tmp_path, killed_in
):
    def resume():
        learn(checkpoint=tmp_path / "run.ckpt")
        return load_trunk(tmp_path / "trunk.safetensors").state_dict()

    with killed_in(step_rng(quick.seed, 2)):
        resume()
    resumed = resume()
    reference = load_trunk(trunk).state_dict()
    for name, tensor in reference.items():
        assert torch.equal(resumed[name], tensor), name


@contextlib.contextmanager
def left_at_third():
    """Interrupt a training in its third step; before, it saves after each step."""
    descend = State.descend

    def descends(state, loss):
        if state.step == 2:
            raise KeyboardInterrupt
        descend(state, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_EVERY", 0.0)
        patch.setattr(State, "descend", descends)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_an_interrupted_fit_of_changes_ends_as_if_it_had_not_been(
    learn, trained, trunk, tmp_path
):
    def fit(out, **options):
        options |= {"trunk": trunk, "start": [trained]}
        (style,) = learn(tmp_path / out, rank=2, learning_rate=1e-2, **options)
        return load_style(style).vector

    checkpoint = tmp_path / "run.ckpt"
    with left_at_third():
        fit("killed", checkpoint=checkpoint)
    assert torch.equal(fit("resumed", checkpoint=checkpoint), fit("whole"))


def test_what_is_measured_on_is_not_trained_on(learn, trunk, photographs, tmp_path):
    content = Path(shutil.copytree(photographs, tmp_path / "content"))
    measure = tmp_path / "content" / "test"
    measure.mkdir()
    (content / "0.jpg").rename(measure / "0.jpg")
    (style,) = learn(content=content, steps=1, trunk=trunk, measure=measure)
    assert read_info(style).training["photographs"] == 5


@pytest.mark.parametrize("self_contained", [False, True])
def test_a_style_of_its_own_holds_the_trunk_beside_it(
    learn, trunk, tmp_path, self_contained
):
    beside = Path(shutil.copy(trunk, tmp_path))
    (style,) = learn(steps=1, trunk=beside, self_contained=self_contained)
    assert read_info(style).self_contained == self_contained
    known = load_style(style).info.trunk
    beside.unlink()
    if self_contained:
        assert load_style(style).info.trunk == known


def test_a_style_that_does_not_do_what_it_is_asked_is_told(
    learn, trunk, monkeypatch, caplog
):
    found = Controls([1.0] * 11, [1.0, 2.0, 3.0, 4.0, 5.0], 1.0)
    monkeypatch.setattr(loop, "measure_controls", lambda *arguments: found)
    (style,) = learn(steps=1, trunk=trunk)
    assert "does not get ever stronger" in caplog.text
    info = read_info(style)
    assert info.figures["stroke_growth"] == 5
    assert info.figures["style_distance"] > 0
    assert info.training["measured_on"] == "Training photographs"


def test_a_checkpoint_of_another_training_is_refused(learn, trained):
    with pytest.raises(TrainingError, match=r"another training, .* in seed;"):
        learn(seed=2, checkpoint=trained.with_name("run.ckpt"))


@pytest.mark.parametrize("changed", ["artworks", "from", "files of the photographs"])
def test_a_checkpoint_of_other_contents_is_refused(
    learn, trained, trunk, artwork, photographs, tmp_path, changed
):
    files = artwork, trained, trunk
    other, style, copied = (Path(shutil.copy(path, tmp_path)) for path in files)
    content = Path(shutil.copytree(photographs, tmp_path / "content"))
    options = {
        "artworks": [other],
        "content": content,
        "steps": 1,
        "trunk": copied,
        "start": [style],
        "checkpoint": tmp_path / "run.ckpt",
    }
    learn(tmp_path / "out", **options)
    if changed == "artworks":
        Image.new("RGB", (80, 64), "teal").save(other)
    elif changed == "files of the photographs":
        (content / "0.jpg").rename(content / "6.jpg")
    else:
        save_style(
            *(style, load_style(trained).vector + 1, load_style(trained).network),
            read_info(trained),
        )
    with pytest.raises(TrainingError, match=f"another training.* in {changed};"):
        learn(tmp_path / "out", **options, overwrite=True)


def test_a_new_style_learns_on_a_trunk_that_stays_as_it_is(
    learn, trunk, other_photographs, tmp_path
):
    copied = Path(shutil.copy(trunk, tmp_path))
    before = copy.deepcopy(load_trunk(copied).state_dict())
    options = {"learning_rate": 1e-2, "trunk": copied, "measure": other_photographs}
    (style,) = learn(steps=1, **options)
    short = read_info(style).figures["style_distance"]
    (style,) = learn(steps=30, **options, overwrite=True)
    info = read_info(style)
    assert info.figures["style_distance"] < 0.9 * short
    assert style.name == "my-stripes-1.safetensors"
    assert info.trunk == read_info(copied).trunk
    assert not info.self_contained
    assert style.stat().st_size < 10_000
    for name, tensor in load_trunk(copied).state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("about", "said"),
    [
        pytest.param({"colour": "red"}, "'colour'.*my_Stripes", id="unknown-field"),
        pytest.param({"path": "a"}, "'path'.*my_Stripes", id="derived-field"),
        pytest.param({"year": 1889}, "year of my_Stripes 1.png.*1889", id="number"),
        pytest.param({"artist": ["A", "B"]}, "artist of my_Stripes", id="list"),
        pytest.param({"name": None}, "name of my_Stripes", id="null"),
        pytest.param({"name": ""}, "my_Stripes", id="no-name"),
        pytest.param({"year": "y" * 301}, "my_Stripes.*300 characters", id="long"),
        pytest.param({"name": "trunk"}, "'trunk'", id="name-of-the-trunk"),
        pytest.param({"name": "predictor"}, "'predictor'", id="name-of-the-predictor"),
        pytest.param({"name": "a/b"}, "'a/b'", id="name-in-a-folder"),
    ],
)
def test_what_is_wrong_about_a_style_is_said_before_training(
    learn, artwork, about, said
):
    with pytest.raises(TrainingError, match=said):
        learn(about={artwork.name: about})


def test_what_is_told_about_no_artwork_is_said(learn, artwork, tmp_path, caplog):
    accented = Path(shutil.copy(artwork, tmp_path / "e\u0301te\u0301.png"))
    about = {
        "stripe.png": {"title": "Stripes"},
        artwork.name: {},
        "\u00e9t\u00e9.png": {"name": "trunk"},
    }
    with pytest.raises(TrainingError, match="'trunk'"):
        learn(artworks=[artwork, accented], about=about)
    assert caplog.messages == ["in --about, but not among the artworks: stripe.png"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("no memory"), "no memory"), (MemoryError(), "out of memory")],
)
def test_what_is_trained_is_kept_when_it_cannot_be_measured(
    error, reason, learn, trained, monkeypatch, caplog
):
    def failing(*arguments):
        raise error

    monkeypatch.setattr(loop, "_figures", failing)
    (path,) = learn()
    kept = load_style(path)
    assert torch.equal(kept.vector, load_style(trained).vector)
    assert not kept.info.figures
    assert not kept.info.self_contained
    told = f"my-stripes-1 could not be measured ({reason}), and is kept without figures"
    assert caplog.messages == [told]


def test_a_figure_that_is_not_finite_is_left_out(learn, monkeypatch):
    names = "content_distance", "style_distance", "style_distance_of_photographs"
    figures = dict(zip(names, (0.5, float("nan"), float("inf")), strict=True))
    monkeypatch.setattr(loop, "_figures", lambda *_: figures)
    (path,) = learn()
    kept = load_style(path).info.figures
    assert kept["content_distance"] == 0.5
    assert "style_distance" not in kept


def test_what_is_trained_is_kept_when_the_measuring_is_interrupted(
    learn, artwork, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_figures", interrupted)
    second = Path(shutil.copy(artwork, tmp_path / "second.png"))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        learn(out, artworks=[artwork, second], steps=1)
    names = ["my-stripes-1.safetensors", "second.safetensors", "trunk.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names[:2]:
        assert not load_style(out / name).info.figures


@pytest.mark.parametrize(
    ("reached", "unpainted", "said"),
    [
        (0.5, 1.0, "stripes is only 50 % nearer to its artwork than"),
        (3.1, 1.0, "stripes is no nearer to its artwork than"),
        (0.1, 0.0, "stripes is no nearer to its artwork than"),
    ],
)
def test_a_style_that_came_out_weak_is_told(caplog, reached, unpainted, said):
    figures = {
        "style_distance": reached,
        "style_distance_of_photographs": unpainted,
    }
    found = Controls([i / 10 for i in range(11)], [1.0, 2.0, 3.0, 4.0, 5.0], 1.0)
    loop._check("stripes", figures, found)
    assert caplog.messages[0].startswith(said)


def test_without_artworks_there_is_nothing_to_train(photographs, vgg, tmp_path):
    with pytest.raises(TrainingError, match="at least one artwork"):
        train([], photographs, vgg, tmp_path)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        pytest.param("E\u0301tude No. 2", "\u00e9tude-no-2", id="decomposed"),
        pytest.param("\u0939\u093f\u0928\u094d\u0926\u0940", None, id="hindi"),
        pytest.param("\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48", None, id="thai"),
        pytest.param("I \u2764\ufe0f NY", "i-ny", id="emoji"),
    ],
)
def test_a_style_is_named_in_the_letters_of_its_artwork(
    learn, artwork, tmp_path, stem, name
):
    copied = Path(shutil.copy(artwork, tmp_path / f"{stem}.png"))
    (tmp_path / f"{name or stem}.safetensors").touch()
    with pytest.raises(FileExistsError, match=name or stem):
        learn(artworks=[copied])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("my_Stripes 1.png", "rename the artworks."),
        ("my stripes 1.png", "rename the artworks, or name the styles with --about."),
    ],
)
def test_two_styles_cannot_have_one_name(learn, artwork, tmp_path, name, advice):
    other = Path(shutil.copy(artwork, tmp_path / name))
    with pytest.raises(TrainingError, match=f"names that differ.*; {advice}$"):
        learn(artworks=[artwork, other])


@pytest.mark.parametrize("name", ["", "trunk", "Predictor", "up/there", "n" * 101])
def test_a_name_that_no_style_can_have_is_refused_before_training(learn, artwork, name):
    with pytest.raises(TrainingError, match="cannot be called"):
        learn(about={artwork.name: {"name": name}})


@pytest.mark.parametrize("name", ["stripes", "trunk", "predictor"])
def test_files_that_are_there_are_not_replaced(
    learn, artwork, photographs, tmp_path, name
):
    path = tmp_path / f"{name}.safetensors"
    path.write_text("precious")
    about = {artwork.name: {"name": "stripes"}}
    with pytest.raises(FileExistsError, match=f"{name}.*--overwrite"):
        learn(batch_size=4, archive=photographs, about=about)
    assert path.read_text() == "precious"


def test_a_trunk_that_other_styles_need_is_not_replaced(
    learn, trained, trunk, tmp_path
):
    for path in (trained, trunk):
        shutil.copy(path, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TrainingError, match=r"which stripes\.safetensors still"):
        learn(overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_trunk_is_replaced_by_the_one_that_is_trained(learn, tmp_path):
    trunk = tmp_path / "trunk.safetensors"
    trunk.write_text("damaged")
    (style,) = learn(steps=1, overwrite=True)
    assert load_style(style).info.trunk == read_info(trunk).trunk


def test_a_picture_that_is_there_is_not_replaced_by_a_sheet(learn, artwork, tmp_path):
    before = artwork.read_bytes()
    with pytest.raises(FileExistsError, match=rf"{artwork.name} already.*--overwrite"):
        learn(checkpoint=tmp_path / "run.ckpt", sheet=artwork)
    assert artwork.read_bytes() == before


@pytest.mark.parametrize("option", ["checkpoint", "sheet"])
@pytest.mark.parametrize("place", ["missing/file.png", "folder"])
def test_a_file_that_could_not_be_written_is_told_before_training(
    learn, tmp_path, option, place
):
    (tmp_path / "folder").mkdir()
    with pytest.raises(TrainingError, match=place):
        learn(tmp_path / "out", **{option: tmp_path / place})


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_without_write_permission_is_told_before_training(learn):
    with pytest.raises(TrainingError, match="/proc"):
        learn(Path("/proc"))


def test_a_damaged_trunk_beside_the_styles_is_told_before_training(
    learn, tmp_path, monkeypatch
):
    (tmp_path / "trunk.safetensors").write_text("no trunk")
    monkeypatch.setattr(State, "descend", lambda *_: pytest.fail("it trains"))
    with pytest.raises(InvalidStyleError, match="trunk"):
        learn(trunk=bundled_trunk())


def test_a_trunk_of_another_project_is_refused_before_training(learn, foreign_trunk):
    with pytest.raises(TrainingError, match=r"another project \(johnson\).*--trunk"):
        learn(trunk=foreign_trunk)


def test_what_holds_no_trunk_is_refused_before_training(learn, trained, tmp_path):
    predictor = bundled_trunk().with_name("predictor.safetensors")
    for path, said in (
        (trained, "holds no trunk.*--trunk"),
        (predictor, "holds no trunk.*--trunk"),
        (tmp_path / "nowhere.safetensors", "No such file"),
    ):
        with pytest.raises(StyleplugError, match=rf"{re.escape(path.name)}.*{said}"):
            learn(trunk=path)


def test_a_training_that_gets_no_better_stops(learn):
    (style,) = learn(steps=60, patience=4, learning_rate=1e-12, trunk=bundled_trunk())
    assert read_info(style).training["steps"] < 30


def test_as_many_steps_are_made_as_there_is_time_for(
    learn, trained, trunk, tmp_path, monkeypatch
):
    def timed(out, **options):
        (style,) = learn(tmp_path / out, trunk=trunk, start=[trained], **options)
        assert read_info(style).training["steps"] == 3
        return load_style(style).vector

    checkpoint = tmp_path / "run.ckpt"
    whole = timed("whole", steps=3, minutes=0.0)
    clock = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    assert torch.equal(timed("timed", steps=9, minutes=0.05), whole)
    assert torch.equal(timed("enough", steps=3, minutes=5.0), whole)
    with left_at_third():
        timed("killed", steps=9, minutes=0.05, checkpoint=checkpoint)
    monkeypatch.setattr(loop, "_ROUND", 2)  # would make it two
    resumed = timed("resumed", steps=9, minutes=0.05, checkpoint=checkpoint)
    assert torch.equal(resumed, whole)


def test_as_many_steps_as_there_is_time_for_are_rounded_down(
    learn, trained, trunk, monkeypatch
):
    clock = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(loop, "_ROUND", 2)
    (style,) = learn(steps=9, minutes=0.05, trunk=trunk, start=[trained])
    assert read_info(style).training["steps"] == 2


@pytest.mark.parametrize(("pool", "steps"), [(2, 7), (8, 4)])
def test_looking_at_the_crops_of_a_pool_takes_time_once(
    pool, steps, learn, trained, trunk, monkeypatch
):
    clock = itertools.count()  # a look takes a second, and so does the rest of a step
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    (style,) = learn(steps=20, minutes=0.15, pool=pool, trunk=trunk, start=[trained])
    assert read_info(style).training["steps"] == steps


def test_a_sheet_that_cannot_be_written_leaves_the_last_one(
    photographs, tmp_path, caplog, fill_disk
):
    network = StyleNetwork((2, 2, 2)).requires_grad_(False)
    path = tmp_path / "sheet.png"
    path.write_text("the last one")
    fill_disk()
    draw_sheet(path, network, network.new_style()[None], Photographs(photographs))
    assert path.read_text() == "the last one"
    assert "sheet was not written" in caplog.text


def test_vectors_begin_from_given_styles(learn, trained, trunk):
    (style,) = learn(steps=1, learning_rate=1e-12, trunk=trunk, start=[trained])
    assert torch.equal(load_file(style)["style"], load_file(trained)["style"])
    assert read_info(style).self_contained  # its trunk is not beside it


def test_vectors_begin_where_the_predictor_beside_the_trunk_sees_them(
    learn, trunk, photographs, tmp_path, monkeypatch
):
    still = {"steps": 1, "learning_rate": 1e-12}
    learn(artworks=[], trunk=trunk, archive=photographs, **still)
    beside = tmp_path / "trunk.safetensors"
    photo = load_trunk(beside).photo

    def captured(picture, name, folder, rank):
        assert (folder, rank) == (tmp_path, 0)
        return SimpleNamespace(vector=photo + 1)

    monkeypatch.setattr(loop, "capture", captured)
    (style,) = learn(trunk=beside, overwrite=True, **still)
    torch.testing.assert_close(load_style(style).vector, photo + 1, atol=2e-3, rtol=0)
    beside.with_name("predictor.safetensors").unlink()
    (style,) = learn(trunk=beside, overwrite=True, **still)
    torch.testing.assert_close(load_style(style).vector, photo, atol=2e-3, rtol=0)


def test_a_style_that_changes_kernels_learns_more(
    learn, trained, trunk, other_photographs, tmp_path
):
    settings = {"steps": 30, "learning_rate": 5e-2, "vector_rate": 0.2}
    settings["stability_weight"] = 0.0

    def fit(start, place, **changed):
        (style,) = learn(
            tmp_path / place,
            trunk=trunk,
            start=[start],
            measure=other_photographs,
            **settings | changed,
        )
        return style

    def distance(style):
        return read_info(style).figures["style_distance"]

    vector = fit(trained, "vector")
    changing = fit(trained, "changing", rank=4)
    assert load_file(changing)["up2.lora_B"].shape[1] == 4
    assert distance(changing) < 0.95 * distance(vector)
    with pytest.raises(TrainingError, match="--rank"):
        fit(changing, "refused")
    with pytest.raises(TrainingError, match="start from styles that change none"):
        learn(tmp_path / "refused", trunk=trunk, train_trunk=True, start=[changing])
    on = fit(changing, "on", rank=4, steps=1, learning_rate=1e-12)
    torch.testing.assert_close(
        load_style(on).vector, load_style(changing).vector, atol=2e-3, rtol=2e-3
    )


def test_a_trunk_that_is_trained_has_no_styles_that_change_it(learn):
    with pytest.raises(TrainingError, match="--rank"):
        learn(rank=2)


def test_styles_to_begin_from_must_fit(learn, trained, trunk, tmp_path):
    with pytest.raises(TrainingError, match="another trunk"):
        learn(trunk=bundled_trunk(), start=[trained])
    foreign = tmp_path / "foreign.safetensors"
    network = JohnsonNetwork((4, 4, 4), blocks=1, bottleneck=4).requires_grad_(False)
    style = torch.zeros(network.style_size)
    save_style(foreign, style, network, StyleInfo("foreign"))
    with pytest.raises(TrainingError, match=r"another project \(johnson\).*leave it"):
        learn(trunk=bundled_trunk(), start=[foreign])
    with pytest.raises(TrainingError, match="1 artworks, but 2 styles"):
        learn(trunk=trunk, start=[trained, trained])


@pytest.mark.parametrize("with_artworks", [True, False])
def test_any_style_is_learned_from_an_archive(
    learn, trained, trunk, artwork, photographs, tmp_path, with_artworks
):
    styles = learn(
        artworks=[artwork] if with_artworks else [],
        steps=3,
        batch_size=4,
        identity_share=0.5,
        trunk=trunk,
        train_trunk=True,
        archive=photographs,
        held_out=["0.jpg"],
        checkpoint=tmp_path / "run.ckpt",
        sheet=tmp_path / "sheet.png",
    )
    assert len(styles) == with_artworks
    moved = read_info(tmp_path / "trunk.safetensors")
    info, predictor = load_predictor(tmp_path / "predictor.safetensors")
    assert info.trunk == moved.trunk != read_info(trained).trunk
    assert info.training["artworks"] == 5
    vector = predictor(torch.rand(1, 3, 64, 48))
    assert vector.shape == (1, load_style(trained).network.style_size)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("trunk", "start of the trunk"),
        ("predictor", "start of the predictor"),
        ("held_out", "files of the archive"),
    ],
)
def test_a_checkpoint_of_what_began_otherwise_is_refused(
    learn, trunk, photographs, tmp_path, changed, told
):
    held_out = ["0.jpg"]

    def train_any(trunk, out, **options):
        options |= {"trunk": trunk, "archive": photographs}
        learn(tmp_path / out, artworks=[], steps=1, **options)
        return tmp_path / out

    first = train_any(trunk, "first")
    trunk, predictor = (
        first / f"{name}.safetensors" for name in ("trunk", "predictor")
    )
    checkpoint = tmp_path / "run.ckpt"
    train_any(trunk, "out", checkpoint=checkpoint, held_out=held_out)
    if changed == "held_out":
        held_out = ["1.jpg"]
    elif changed == "trunk":
        network = copy.deepcopy(load_trunk(trunk))
        network.photo += 1
        known = save_trunk(trunk, network, read_info(trunk)).trunk
        info, kept = load_predictor(predictor)
        save_predictor(predictor, kept, dataclasses.replace(info, trunk=known))
    else:
        info, kept = load_predictor(predictor)
        kept.usual.add_(1)
        save_predictor(predictor, kept, info)
    with pytest.raises(TrainingError, match=f"differs in {told};"):
        train_any(trunk, "again", checkpoint=checkpoint, held_out=held_out)


def test_artworks_that_no_crop_is_left_for_are_refused(learn, trunk, photographs):
    with pytest.raises(TrainingError, match=r"Batches of 1 .*--batch-size"):
        learn(trunk=trunk, archive=photographs)


def test_the_predictor_of_a_trunk_is_trained_on(learn, trunk, photographs, tmp_path):
    def train_any(trunk, out):
        learn(
            tmp_path / out,
            artworks=[],
            steps=1,
            learning_rate=1e-12,
            trunk=trunk,
            train_trunk=True,
            archive=photographs,
        )
        return load_file(tmp_path / out / "predictor.safetensors")

    made = train_any(trunk, "first")
    torch.manual_seed(1)
    kept = train_any(tmp_path / "first" / "trunk.safetensors", "then")
    assert all(torch.equal(made[name], kept[name]) for name in made)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_two_processes_learn_what_one_does(artwork, photographs, vgg, tmp_path):
    start = bundled_trunk().with_name("starry-night.safetensors")

    def command(out):
        return [
            *("-m", "styleplug", "train", artwork, "--content", photographs),
            *("--from", start),
            *("--loss-network", vgg, "--out", tmp_path / out, "--device", "cpu"),
            *("--steps", "4", "--batch-size", "2", "--crop-size", "48"),
            *("--style-size", "64"),
        ]

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in (command("one"), [*launcher, *command("two")]):
        subprocess.run([sys.executable, *words], check=True, env=environment)
    one, two = (
        load_file(tmp_path / out / "my-stripes-1.safetensors")["style"].float()
        for out in ("one", "two")
    )
    moved = (one - load_file(start)["style"]).abs().mean()
    assert (one - two).abs().mean() < 0.05 * moved


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    with pytest.raises(TrainingError, match="multiple of 3"):
        process_and_count(TrainConfig(batch_size=4))


def test_a_trained_style_renders(trained, trunk, content_image, tmp_path):
    path = tmp_path / "whole.safetensors"
    save_style(path, load_file(trained)["style"], load_trunk(trunk), read_info(trained))
    assert load_style(path).info.self_contained
    assert stylize(content_image, path, device="cpu").size == content_image.size
