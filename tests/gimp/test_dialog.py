"""The dialog in a GIMP with windows, driven by keys; screenshots are looked at."""

import json

import numpy as np
import pytest
from harness import STANDIN, require_gimp, run_gimp
from PIL import Image

pytestmark = pytest.mark.gimp

COLOR = (200, 120, 40)
NEGATIVE = tuple(255 - value for value in COLOR)
WARNING = (68, 64, 59)
DONE, CANCELLED = [3, ""], 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dialog")


@pytest.fixture(scope="module")
def notes(folder):
    require_gimp()
    Image.new("RGB", (800, 600), COLOR).save(folder / "plain.png")
    return run_gimp(
        folder,
        "gui_dialog.py",
        folder,
        folder / "plain.png",
        json.dumps(STANDIN),
        options=("--gui",),
    )


def pixels_of(folder, shot, color):
    """How many pixels of a screenshot's dialog have ``color``."""
    shown = np.asarray(Image.open(folder / f"{shot}.png").convert("RGB")).astype(int)
    return int((np.abs(shown - color).max(-1) <= 2).sum())


def warned(folder, shot):
    return pixels_of(folder, shot, WARNING) > 10_000


def test_nothing_went_wrong(notes):
    assert notes.get("errors", []) == []


def test_ok_stylizes_and_one_undo_takes_it_back(notes):
    assert notes["applied"]
    assert notes["undone"]


def test_repeat_last_does_the_same_again(notes):
    assert notes["repeated"]


def test_one_undo_removes_the_new_layer(notes):
    assert notes["layers"] == [2, 1]
    assert notes["undone_new"]


def test_one_undo_gives_a_deep_layer_all_its_bits_back(notes):
    assert notes["undone_deep"]


def test_one_undo_gives_a_layer_its_filters_back(notes):
    assert notes["filters"] == [0, 1]
    assert notes["undone_filtered"]
    assert notes["undone_filtered_whole"]


def test_a_selection_moved_beside_the_layer_is_told_and_may_come_back(notes, folder):
    assert warned(folder, "beside")
    assert notes["beside_same"]
    assert not warned(folder, "not_beside")


def test_who_comes_back_from_the_image_sees_what_ok_will_do(notes, folder):
    assert pixels_of(folder, "part", NEGATIVE) < 20_000
    assert pixels_of(folder, "looked_again", NEGATIVE) > 50_000
    assert not warned(folder, "looked_again")


def test_a_layer_removed_meanwhile_is_told(notes, folder):
    assert warned(folder, "removed")
    assert notes["removed_open"]


def test_preview_shows_the_result_and_follows_the_slider(notes, folder):
    full = pixels_of(folder, "full", NEGATIVE)
    assert full > 50_000
    assert pixels_of(folder, "zero", NEGATIVE) < full / 4


def test_escape_changes_nothing(notes):
    assert notes["escaped"][0] == CANCELLED
    assert notes["escaped_same"]


def test_cancel_while_painting_leads_back_to_the_dialog(notes):
    assert notes["still_open"]
    assert notes["workers_after_cancel"] == 1
    assert notes["cancelled"][0] == CANCELLED
    assert notes["cancelled_same"]


def test_a_lost_worker_is_told_and_can_be_started_again(notes, folder):
    assert warned(folder, "lost")
    assert notes["lost"] == DONE
    assert notes["lost_applied"]


def test_a_change_of_the_settings_starts_a_worker_again(notes, folder):
    assert notes["changed_lost"][0] == CANCELLED
    assert not warned(folder, "changed_lost")


def test_a_worker_lost_while_it_paints_is_told_until_the_user_goes_on(notes, folder):
    assert warned(folder, "lost_painting")
    assert notes["lost_painting_workers"] == 0
    assert notes["lost_painting"][0] == CANCELLED


def test_without_a_worker_the_dialog_can_only_be_closed(notes):
    assert notes["missing_open"]
    assert notes["missing"][0] == CANCELLED


def test_a_group_needs_another_output(notes, folder):
    assert warned(folder, "group")
    assert not warned(folder, "full")
    assert notes["group"][0] == CANCELLED


def test_a_text_layer_is_stylized(notes):
    assert notes["text"] == DONE
    assert notes["text_changed"]


def test_a_new_layer_above_a_text_stays_when_texts_are_rendered_anew(notes):
    assert notes["new_of_text"] == DONE
    assert notes["new_of_text_painted"]
    assert notes["new_of_text_stays"]


def test_cancel_leads_back_also_from_a_preview_that_never_comes(notes):
    assert notes["given_up"][0] == CANCELLED
    assert notes["waiting"] == 0
    assert notes["workers_after_giving_up"] == 1


def test_a_second_style_can_be_blended_in_and_taken_out(notes):
    assert notes["blended"]
    assert notes["blend"][0] == CANCELLED


def test_a_text_without_spaces_does_not_widen_the_dialog(notes):
    before, after = notes["widths"]
    assert before == after
    assert before.startswith("WIDTH=")


def test_a_picture_can_be_added_as_a_style(notes):
    assert notes["picture"] == DONE
    assert notes["picture_applied"]


def test_a_style_that_was_not_to_be_had_can_be_tried_again(notes):
    assert notes["found"]


def test_without_its_picture_the_dialog_offers_the_other_styles(notes):
    assert notes["missing_picture_open"]
    assert notes["missing_picture"][0] == CANCELLED
