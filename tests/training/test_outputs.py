import os

import pytest

from styleplug.errors import TrainingError
from styleplug.networks import StyleNetwork
from styleplug.predictor import StylePredictor, save_predictor
from styleplug.style import StyleInfo, bundled_predictor, bundled_trunk
from styleplug.training import outputs
from styleplug.training.data import Photographs
from styleplug.training.loop import draw_sheet
from styleplug.training.outputs import all_or_none, check_places
from styleplug.weights import save_style, save_trunk


def test_a_trunk_is_replaced_where_nothing_that_stays_needs_it(tmp_path):
    trunk, alone, whole, of_another, predictor = (
        tmp_path / f"{name}.safetensors"
        for name in ("trunk", "alone", "whole", "of-another", "predictor")
    )
    network, other = StyleNetwork((4, 4, 4), (0, 0)), StyleNetwork((4, 4, 4), (0, 0))
    info = save_trunk(trunk, network, StyleInfo("trunk"))
    save_style(whole, network.photo, network, StyleInfo("whole"))
    save_style(
        *(of_another, other.photo, other, StyleInfo("of-another")), self_contained=False
    )
    (tmp_path / "vgg19.safetensors").write_text("no style")
    check_places(tmp_path, [trunk], [], overwrite=True)

    save_style(alone, network.photo, network, StyleInfo("alone"), self_contained=False)
    save_predictor(predictor, StylePredictor(4, (2,) * 5, (2,) * 4), info)
    check_places(tmp_path, [trunk, alone, predictor], [], overwrite=True)
    check_places(tmp_path, [tmp_path / "new.safetensors"], [], overwrite=True)
    needing = r"alone\.safetensors, predictor\.safetensors still need"
    with pytest.raises(TrainingError, match=rf"which {needing}.* --output"):
        check_places(tmp_path, [trunk], [], overwrite=True)


def test_only_copies_of_the_bundled_trunk_are_replaced_under_styles(
    tmp_path, monkeypatch
):
    trunk = tmp_path / bundled_trunk().name
    for path in (
        bundled_trunk(),
        bundled_trunk().with_name("starry-night.safetensors"),
    ):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    check_places(tmp_path, [trunk], [], overwrite=True)
    predictor = tmp_path / bundled_predictor().name
    predictor.write_bytes(bundled_predictor().read_bytes())
    with pytest.raises(TrainingError, match=rf"which {predictor.name} still"):
        check_places(tmp_path, [trunk], [], overwrite=True)
    predictor.unlink()
    monkeypatch.setattr(outputs, "bundled_trunk", lambda: trunk)
    with pytest.raises(TrainingError, match=r"which starry-night\.safetensors still"):
        check_places(tmp_path, [trunk], [], overwrite=True)


def test_a_sheet_is_replaced_by_the_training_that_goes_on(photographs, tmp_path):
    network = StyleNetwork((2, 2, 2)).requires_grad_(False)
    checkpoint, sheet = tmp_path / "run.ckpt", tmp_path / "sheet.png"
    given = tmp_path / "out", [], [checkpoint, None], sheet
    check_places(*given, overwrite=False)
    draw_sheet(sheet, network, network.new_style()[None], Photographs(photographs))
    check_places(*given, overwrite=True)
    with pytest.raises(FileExistsError, match=r"sheet\.png already exists"):
        check_places(*given, overwrite=False)
    checkpoint.touch()
    check_places(*given, overwrite=False)
    sheet.write_text("another picture")
    with pytest.raises(FileExistsError, match=r"sheet\.png already exists"):
        check_places(*given, overwrite=False)


def test_checkpoint_sheet_and_results_are_files_of_their_own(tmp_path):
    one, other = tmp_path / "one", tmp_path / "." / "folder" / ".." / "one"
    for result, checkpoint, sheet in (
        (one, other, None),
        (one, None, other),
        (tmp_path / "result", one, other),
    ):
        with pytest.raises(TrainingError, match="one would be written for two"):
            check_places(tmp_path, [result], [checkpoint], sheet, overwrite=True)


def test_a_sheet_does_not_lie_among_what_is_learned_from(tmp_path):
    photographs = tmp_path / "photographs"
    (photographs / "of-sheets").mkdir(parents=True)
    sheet = photographs / "of-sheets" / "sheet.png"
    given = tmp_path / "out", [], [], sheet
    with pytest.raises(TrainingError, match="another place for the --sheet"):
        check_places(*given, pictures=[None, photographs], overwrite=False)
    assert not (tmp_path / "out").exists()
    check_places(*given, pictures=[tmp_path / "out"], overwrite=False)


def test_results_come_together_or_not_at_all(tmp_path):
    def write():
        with all_or_none(tmp_path) as folder:
            (folder / "a").write_text("new")
            raise OSError(28, "full", str(folder / "b"))

    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError, match="full") as failed:
        write()
    assert failed.value.filename == str(tmp_path / "b")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_results_come_into_a_folder_that_was_removed_meanwhile(tmp_path):
    out = tmp_path / "away" / "out"
    with all_or_none(out) as folder:
        (folder / "a").write_text("new")
    assert [path.read_text() for path in out.iterdir()] == ["new"]


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_results_replace_what_links_lead_to_and_keep_modes(tmp_path):
    target, plain = tmp_path / "elsewhere" / "target", tmp_path / "plain"
    target.parent.mkdir()
    (tmp_path / "link").symlink_to(target)
    for path, mode in ((target, 0o640), (plain, 0o604)):
        path.write_text("before")
        path.chmod(mode)
    with all_or_none(tmp_path) as folder:
        for name in ("link", "plain"):
            (folder / name).write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert [path.read_text() for path in (target, plain)] == ["new", "new"]
    assert [path.stat().st_mode & 0o777 for path in (target, plain)] == [0o640, 0o604]
