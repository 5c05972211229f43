"""What the command line asks of a training."""

import json
import logging
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from styleplug.cli import main
from styleplug.style import bundled_trunk
from styleplug.training import command
from styleplug.training.config import TrainConfig
from styleplug.training.state import SAVE_EVERY


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks of a training, which does not take place."""
    found = {}

    def train(artworks, content, loss_network, out, **options):
        found.update(options, artworks=artworks, out=out)
        return []

    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(command, "train_strength", train)
    return found


@pytest.fixture
def argv(artwork, vgg):
    """The command line of a training on the artwork."""
    return ["train", str(artwork), "--loss-network", str(vgg)]


def test_the_command_is_told_as_it_was_given(asked, argv):
    words = [*argv, "-o", "my styles"]
    assert main(words) == 0
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    assert shlex.split(asked["command"]) == ["styleplug", *words]
    assert not asked["overwrite"]
    assert not asked["self_contained"]


def test_the_command_is_told_without_the_folders_of_this_machine(
    asked, artwork, vgg, tmp_path
):
    assert artwork.is_absolute()
    options = f"--loss-network={vgg}", f"-o{tmp_path / 'out'}", "--checkpoint", "../c"
    assert main(["train", str(artwork), *options]) == 0
    told = artwork.name, f"--loss-network={vgg.name}", "-oout", "--checkpoint", "../c"
    assert shlex.split(asked["command"]) == ["styleplug", "train", *told]


@pytest.mark.parametrize(
    "words",
    [[""], ["a.jpg", "-o", ""], ["a.jpg", "--content", ""], ["a.jpg", "--from", ""]],
)
def test_an_empty_name_is_not_the_folder_one_is_in(asked, words, capsys):
    assert main(["train", *words]) == 2
    assert "it is empty; name a file or a folder" in capsys.readouterr().err
    assert not asked


def test_without_a_loss_network_it_says_how_to_get_one(
    asked, artwork, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets")
    )
    assert main(["train", str(artwork), "-o", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "VGG-19) is not on this machine" in told
    assert "--loss-network" in told
    assert not asked


def test_a_style_that_is_one_file_holds_its_trunk(asked, argv, tmp_path):
    out = tmp_path / "mine.safetensors"
    words = [*argv, "-o", str(out)]
    assert main(words) == 0
    assert asked["self_contained"]
    assert asked["out"] == tmp_path


@pytest.mark.parametrize("name", ["-", "a.jpg", "a.heic", "a.pth", "a.SafeTensors"])
def test_a_new_folder_is_not_called_as_a_file_is(
    asked, argv, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    words = [*argv, "-o", name]
    assert main(words) == 1
    assert f"{name} does not name a folder" in capsys.readouterr().err
    assert not asked
    Path(name).mkdir()
    assert main(words) == 0


@pytest.mark.parametrize("name", ["trunk", "Predictor"])
def test_a_style_that_is_one_file_is_not_called_as_what_it_lies_beside(
    asked, artwork, tmp_path, capsys, name
):
    out = tmp_path / f"{name}.safetensors"
    assert main(["train", str(artwork), "-o", str(out)]) == 1
    assert f"'{name}'; name another --output." in capsys.readouterr().err
    assert not asked


def test_steps_that_are_given_are_made_however_long_they_take(asked, argv):
    for given, steps, minutes in (
        ([], command._FIT["steps"], command._FIT["minutes"]),
        (["--steps", "7"], 7, 0),
        (["--minutes", "9"], command._FIT["steps"], 9),
        (["--steps", "7", "--minutes", "9"], 7, 9),
    ):
        assert main([*argv, *given]) == 0
        wanted = command._FIT | {"steps": steps, "minutes": minutes}
        assert asked["config"] == TrainConfig(**wanted)


def test_a_fit_is_saved_long_before_its_end():
    assert 60 * command._FIT["minutes"] >= 2 * SAVE_EVERY


def test_several_styles_take_as_many_steps_and_minutes_each_as_one(
    asked, artwork, vgg, tmp_path
):
    other = shutil.copy(artwork, tmp_path / "other.png")
    words = ["train", str(artwork), str(other), "--loss-network", str(vgg)]
    assert main(words) == 0
    assert asked["config"].steps == 2 * command._FIT["steps"]
    assert asked["config"].minutes == 2 * command._FIT["minutes"]
    assert main([*words, "--steps", "7", "--minutes", "9"]) == 0
    assert asked["config"].steps == 7
    assert asked["config"].minutes == 9


def test_a_style_keeps_its_rank_unless_another_is_given(asked, argv, tiny_style):
    starry_night = bundled_trunk().with_name("starry-night.safetensors")
    for given, rank in (
        (["--from", tiny_style], command._FIT["rank"]),
        (["--from", starry_night], 32),
        (["--from", tiny_style, starry_night], 32),
        (["--from", starry_night, "--rank", "20"], 20),
    ):
        assert main([*argv, *map(str, given)]) == 0
        assert asked["config"].rank == rank


def test_only_strength_is_asked_for(asked, argv, artwork):
    style = bundled_trunk().with_name("starry-night.safetensors")
    assert main([*argv, "--from", str(style), "--only-strength"]) == 0
    assert "train_trunk" not in asked
    assert asked["artworks"] == [artwork]
    assert asked["trunk"] == bundled_trunk()
    assert asked["start"] == [style]
    assert asked["config"] == TrainConfig(**command._STRENGTH)


def test_other_commands_tell_no_more_after_a_training(asked, argv):
    level = logging.getLogger("styleplug").level
    assert main(argv) == 0
    assert logging.getLogger("styleplug").level == level


def test_options_reach_the_training(asked, argv, artwork, tmp_path):
    about = tmp_path / "about.json"
    about.write_text(json.dumps({artwork.name: {"title": "Stripes"}}), "utf-8")
    words = [
        *argv,
        *("-o", str(tmp_path / "new.safetensors"), "--overwrite"),
        *("--scales", "0.5", "2", "--about", str(about)),
    ]
    assert main(words) == 0
    assert asked["out"] == tmp_path
    assert asked["overwrite"]
    assert asked["config"].scales == (0.5, 2.0)
    assert asked["about"] == {artwork.name: {"title": "Stripes", "name": "new"}}


def test_one_file_has_one_name(asked, argv, artwork, tmp_path, capsys):
    about = tmp_path / "about.json"
    about.write_text(json.dumps({artwork.name: {"name": "sea-view"}}), "utf-8")
    words = [*argv, "--about", str(about)]
    assert main([*words, "-o", str(tmp_path / "new.safetensors")]) == 1
    assert "calls the style 'sea-view', and --output 'new'" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "sea-view.safetensors")]) == 0


def test_what_is_told_about_an_artwork_reaches_it_however_its_accents_are_written(
    asked, artwork, vgg, tmp_path
):
    accented = Path(shutil.copy(artwork, tmp_path / "e\u0301te\u0301.png"))
    about = tmp_path / "about.json"
    about.write_text('{"\u00e9t\u00e9.png": {"title": "Summer"}}', "utf-8")
    words = [
        *("train", str(accented), "--loss-network", str(vgg), "--about", str(about)),
        *("-o", str(tmp_path / "new.safetensors")),
    ]
    assert main(words) == 0
    assert asked["about"] == {"\u00e9t\u00e9.png": {"title": "Summer", "name": "new"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{'a': 1}", "is not JSON", id="no-json"),
        pytest.param("[]", "must hold an object", id="list"),
        pytest.param('{"a.jpg": "Title"}', "must hold an object", id="no-fields"),
    ],
)
def test_about_holds_fields_for_each_artwork(asked, argv, tmp_path, capsys, text, said):
    about = tmp_path / "about.json"
    about.write_text(text, "utf-8")
    words = [*argv, "--about", str(about)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert f"about.json {said}" in error
    assert error.count("\n") == 1
    assert not asked


_ANY = ["--any", "--styles", ".", "--keep-trunk"]


_FROM = ["--from", "a.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--styles", "."], "--styles has no effect without --any"),
        (["--hold-out", "a.txt"], "--hold-out has no effect without --any"),
        (["--any-share", "0.3"], "--any-share has no effect without --any"),
        (["--any"], "--any needs --styles"),
        ([*_ANY[:3], "--rank", "2"], "--rank has no effect with --any"),
        ([*_ANY[:3], "--new-trunk", *_FROM], "--from .* with --any --new-trunk"),
        (["--new-trunk", "--trunk", "t"], "--trunk has no effect with --new-trunk"),
        (["--new-trunk", *_FROM], "--from has no effect with --new-trunk"),
        (["--new-trunk", "--styles", "."], "--styles .* with --new-trunk"),
        (["--keep-trunk"], "artworks has no effect with --keep-trunk"),
        (["--only-strength"], "--only-strength needs --from"),
        (["--only-strength", *_FROM, "--rank", "2"], "--rank .* --only-strength"),
        (["--only-strength", *_FROM, "--new-trunk"], "--new-trunk has no effect"),
        (["--only-strength", *_FROM, "--measure", "a"], "--measure has no effect"),
        (["--only-strength", *_FROM, "--about", "a"], "--about has no effect"),
        (["--only-strength", *_FROM, *_ANY[:3]], "--any has no effect"),
    ],
)
def test_options_that_would_not_count_are_refused(asked, artwork, capsys, words, said):
    assert main(["train", str(artwork), *words]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Name at least one artwork"),
        (["--new-trunk"], "Name at least one artwork"),
        (["--keep-trunk"], "--keep-trunk needs --any"),
        ([*_ANY, "--rank", "2"], "--rank has no effect with --keep-trunk"),
        ([*_ANY, "--new-trunk"], "--new-trunk has no effect"),
        ([*_ANY, *_FROM], "--from has no effect"),
        ([*_ANY, "--sheet", "a.png"], "--sheet has no effect"),
        ([*_ANY, "--measure", "."], "--measure has no effect"),
        ([*_ANY, "--about", "a.json"], "--about has no effect"),
        ([*_ANY, "--minutes", "9"], "--minutes has no effect with --keep-trunk"),
        ([*_ANY, "--scales", "1", "2"], "--scales has no effect"),
        ([*_ANY, "--any-share", "0.2"], "--any-share has no effect"),
    ],
)
def test_without_artworks_other_options_count(asked, capsys, words, said):
    assert main(["train", *words]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not asked


def test_a_sheet_does_not_lie_in_a_folder_of_artworks(
    asked, artwork, photographs, vgg, capsys
):
    words = ["train", str(photographs), "--loss-network", str(vgg), "--sheet"]
    assert main([*words, str(photographs / "sheet.png")]) == 1
    assert "would be taken for an artwork; name another" in capsys.readouterr().err
    assert not asked
    words[1] = str(artwork)
    assert main([*words, str(artwork.with_name("sheet.png"))]) == 0


@pytest.mark.parametrize("words", [[], ["--new-trunk"], ["-o", "one.safetensors"]])
def test_a_folder_without_artworks_is_told(asked, tmp_path, capsys, words):
    assert main(["train", str(tmp_path), *words]) == 1
    assert f"{tmp_path} holds no pictures; name" in capsys.readouterr().err
    assert not asked


def test_names_to_hold_out_reach_the_training(asked, vgg, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("my photo.jpg \n\nother.png\n", "utf-8")
    words = ["train", *_ANY[:3], "--hold-out", str(names), "--loss-network", str(vgg)]
    assert main(words) == 0
    assert asked["held_out"] == ["my photo.jpg", "other.png"]
    assert asked["train_trunk"]
    assert asked["trunk"] == bundled_trunk()


def test_names_to_hold_out_are_in_utf_8(asked, vgg, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_bytes("\u00e9t\u00e9.jpg\n".encode("latin-1"))
    words = ["train", *_ANY[:3], "--hold-out", str(names), "--loss-network", str(vgg)]
    assert main(words) == 1
    assert f"{names} is not text in UTF-8" in capsys.readouterr().err
    assert not asked


@pytest.mark.parametrize("option", ["-o", "--output", "--out"])
def test_the_folder_of_the_results_is_named_as_elsewhere(asked, argv, tmp_path, option):
    assert main([*argv, option, str(tmp_path)]) == 0
    assert asked["out"] == tmp_path


def test_help_tells_what_a_setting_is_and_its_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["train", "--help"]) == 0
    told = capsys.readouterr().out
    assert (
        "steps of gradient descent (default: 1200 for each artwork; 5400 with "
        "--new-trunk, --any; 150 with --keep-trunk; 1000 with --only-strength)"
    ) in told
    assert "(default: 2.2 for each artwork, unless --steps are given; 0 with" in told
    assert "0: none, the style is only a vector (default: 16)" in told


def test_a_predictor_is_trained_on_a_trunk_that_stays(monkeypatch, vgg, tmp_path):
    found = {}

    def train_predictor(content, loss_network, out, **options):
        found.update(options, out=out)
        return out / "predictor.safetensors"

    monkeypatch.setattr(command, "train_predictor", train_predictor)
    words = ["train", *_ANY, "--loss-network", str(vgg), "-o", str(tmp_path)]
    assert main([*words, "--steps", "7"]) == 0
    assert found["out"] == tmp_path
    assert found["trunk"] == bundled_trunk()
    assert found["config"] == TrainConfig(**command._ANY | {"steps": 7})


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), id="cuda"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory"), id="cpu"
        ),
    ],
)
def test_too_little_memory_is_told_in_one_line(monkeypatch, capsys, error, argv):
    def train(*given, **options):
        raise error

    monkeypatch.setattr(command, "train", train)
    assert main(argv) == 1
    told = capsys.readouterr().err
    advice = "lower --batch-size or --crop-size or --style-size."
    assert f"not enough memory for this training; {advice}" in told
    assert told.count("\n") == 1


def test_too_little_memory_is_answered_with_what_counts(monkeypatch, vgg, capsys):
    def train(*given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(command, "train_predictor", train)
    assert main(["train", *_ANY, "--loss-network", str(vgg)]) == 1
    told = capsys.readouterr().err
    assert "lower --batch-size or --style-size." in told


def test_another_error_of_a_training_is_not_taken_for_too_little_memory(
    monkeypatch, argv
):
    def train(*given, **options):
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr(command, "train", train)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(argv)


def test_more_processes_than_devices_are_told(monkeypatch, asked, capsys, argv):
    monkeypatch.setattr(command, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert main(argv) == 1
    assert "start torchrun with --nproc-per-node 2." in capsys.readouterr().err
    assert not asked


def test_several_processes_on_other_accelerators_are_told(
    monkeypatch, asked, capsys, argv
):
    monkeypatch.setattr(command, "pick_device", lambda _: torch.device("mps"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(argv) == 1
    assert "give --device cpu." in capsys.readouterr().err
    assert not asked


def test_several_processes_do_not_train_one_predictor(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *_ANY]) == 1
    assert "one process" in capsys.readouterr().err
