"""What the plug-in refuses, and where its result goes, in a real GIMP."""

import numpy as np
import pytest
from harness import require_gimp, run_gimp

pytestmark = pytest.mark.gimp

DONE = [3, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def notes(folder):
    require_gimp()
    return run_gimp(folder, "batch_kinds.py", folder, options=("--verbose",))


def pixels(folder, entry, which):
    return np.fromfile(folder / entry[which], "<f4").reshape(-1, 4)


def inverted(before):
    return np.concatenate([1 - before[:, :3], before[:, 3:]], axis=1)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("two-layers", "exactly one"),
        ("no-layer", "exactly one"),
        ("elsewhere-replace", "another image"),
        ("elsewhere-new-layer", "another image"),
        ("layer-mask", "mask"),
        ("channel", "channel"),
        ("indexed", "Image > Mode > RGB"),
        ("locked", "locked"),
        ("locked-group", "The group of the layer is locked"),
        ("new-in-locked-group", "The group of the layer is locked"),
        ("new-of-floating", "Layer > To New Layer"),
        ("beside", "do not overlap"),
        ("unknown-style", "unheard-of"),
        ("missing-picture", "no picture /no/painting.jpg"),
        ("group", "New layer above"),
        ("filtered-group", "Layer > Merge Layer Groups"),
        ("vector", "New layer above"),
    ],
)
def test_refusals_have_a_sentence_and_change_nothing(notes, case, words):
    if case == "vector" and notes["version"].startswith("3.0"):
        return  # there are no vector layers yet
    status, message = notes[case]["status"]
    assert status in (0, 1)
    assert words in message
    assert notes[case]["same"]


def test_a_layer_removed_meanwhile_is_refused(notes):
    assert "no longer there" in notes["removed"]


@pytest.mark.parametrize(
    "case",
    [
        *("new", "new-selected", "new-no-alpha", "new-masked", "new-locked"),
        *("new-of-group", "new-of-masked-group", "new-of-pass-through"),
        *("new-in-group", "new-in-locked", "new-invisible"),
    ],
)
def test_a_new_layer_is_put_above_and_the_old_one_left_alone(notes, case):
    entry = notes[case]
    assert entry["status"] == DONE
    assert entry["same"]
    assert entry["above"]
    assert entry["siblings"] == 2
    assert entry["name"].endswith("stylized")
    assert entry["offsets"][0] == entry["offsets"][1]
    assert entry["opacity"][0] == entry["opacity"][1]
    assert entry["visible"][0] == entry["visible"][1]
    assert entry["masks"][0] == entry["masks"][1]
    assert bool(entry["masks"][1]) == ("masked" in case)


def test_gimp_has_nothing_to_complain_of(notes, folder):
    assert "Gimp-Core-CRITICAL" not in (folder / "output.txt").read_text()


@pytest.mark.parametrize("output", ["replace", "new-layer"])
@pytest.mark.parametrize("moment", [0.0, 0.96, 0.989])
@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("remove", "no longer there"),
        *((action, "was changed") for action in ("crop", "gray", "flatten", "deepen")),
    ],
)
def test_a_layer_changed_while_it_is_painted_is_left_alone(
    notes, action, words, moment, output
):
    entry = notes[f"{action}, {moment}, {output}"]
    assert words in entry["error"]
    assert entry["same"]
    assert entry["layers"] == (action != "remove")


@pytest.mark.parametrize("moment", [0.0, 0.96, 0.989])
def test_pixels_painted_meanwhile_are_not_replaced(notes, moment):
    entry = notes[f"dot, {moment}, replace"]
    assert "was changed" in entry["error"]
    assert entry["same"]
    entry = notes[f"dot, {moment}, new-layer"]
    assert "error" not in entry
    assert entry["same"]
    assert entry["layers"] == 2


@pytest.mark.parametrize("case", ["new", "new-masked", "new-of-group", "new-in-group"])
def test_a_new_layer_holds_the_whole_result(notes, folder, case):
    entry = notes[case]
    expected = inverted(pixels(folder, entry, "before"))
    difference = np.abs(pixels(folder, entry, "after") - expected)
    assert difference[expected[:, 3] > 0].max() < 1e-3


@pytest.mark.parametrize(
    "case", ["new-selected", "new-locked", "new-without-red", "new-without-alpha"]
)
def test_a_new_layer_is_transparent_where_nothing_is_selected(notes, folder, case):
    entry = notes[case]
    width, height = entry["size"]
    after = pixels(folder, entry, "after").reshape(height, width, 4)
    expected = inverted(pixels(folder, entry, "before")).reshape(height, width, 4)
    selected = np.zeros((height, width), bool)
    selected[10:30, 10:30] = True
    assert not after[~selected][:, 3].any()
    visible = selected & (expected[..., 3] > 0)
    assert np.abs(after[visible] - expected[visible]).max() < 1e-3


def test_components_that_are_off_are_so_again(notes):
    assert notes["new-selected"]["components"] == [True] * 4
    assert notes["new-without-red"]["components"] == [False, True, True, True]
    assert notes["new-without-alpha"]["components"] == [True, True, True, False]


def test_the_plug_in_starts_where_the_first_python_on_the_path_has_no_gi(folder):
    require_gimp()
    place = folder / "venv"
    (place / "bin").mkdir(parents=True)
    (place / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (place / "bin" / "python3").symlink_to("/usr/bin/python3")
    path = f"PATH={place / 'bin'}:/usr/bin:/bin"
    notes = run_gimp(folder, "batch_path.py", folder, env=(path,))
    assert notes == {"python": str(place / "bin/python3"), "status": DONE}


def test_a_feathered_new_layer_fades_its_alpha_not_its_colours(notes, folder):
    entry = notes["new-no-alpha"]
    after = pixels(folder, entry, "after")
    expected = inverted(pixels(folder, entry, "before"))
    soft = (after[:, 3] > 0.2) & (after[:, 3] < 0.9)
    assert soft.sum() > 20
    assert np.abs(after[soft, :3] - expected[soft, :3]).max() < 0.02


@pytest.mark.parametrize(
    "case", ["default-style", "none-of-it", "invisible", "masked", "hidden-filter"]
)
def test_ordinary_layers_are_stylized_whole(notes, folder, case):
    entry = notes[case]
    assert entry["status"] == DONE
    expected = inverted(pixels(folder, entry, "before"))
    assert np.abs(pixels(folder, entry, "after") - expected).max() < 1e-3


def test_strength_reaches_the_worker(notes, folder):
    entry = notes["half"]
    assert entry["status"] == DONE
    assert np.abs(pixels(folder, entry, "after")[:, :3] - 0.5).max() < 0.01


def test_the_wish_to_keep_the_colours_reaches_the_worker(notes, folder):
    entry = notes["keep-colours"]
    assert entry["status"] == DONE
    before = pixels(folder, entry, "before")
    expected = np.repeat(inverted(before)[:, 1:2], 3, axis=1)
    assert np.abs(pixels(folder, entry, "after")[:, :3] - expected).max() < 0.01


def test_a_blend_reaches_the_worker(notes, folder):
    entry = notes["blend"]
    assert entry["status"] == DONE
    before = pixels(folder, entry, "before")
    expected = before + 0.75 * (inverted(before) - before)
    assert np.abs(pixels(folder, entry, "after") - expected).max() < 0.01


@pytest.mark.parametrize("output", ["replace", "new-layer"])
def test_a_layer_with_filters_is_painted_as_it_is_seen(notes, folder, output):
    entry = notes[f"filtered, {output}"]
    assert entry["status"] == DONE
    width, height = entry["size"]
    seen, shown = (
        pixels(folder, entry, which).reshape(height, width, 4)
        for which in ("seen", "shown")
    )
    expected = seen.copy()
    expected[10:20, 10:20, :3] = 1 - seen[10:20, 10:20, :3]
    assert np.abs(shown - expected).max() < 0.01
    thumbnail = np.fromfile(folder / entry["thumbnail"], "u1").reshape(20, 30, 4)
    assert np.abs(thumbnail / 255 - seen[4:24, 5:35]).max() < 0.01


def test_filters_leave_alone_the_components_that_are_off(notes, folder):
    entry = notes["filtered-without-red"]
    assert entry["status"] == DONE
    seen, after = (pixels(folder, entry, which) for which in ("seen", "after"))
    assert np.abs(after - seen).max() < 0.01


@pytest.mark.parametrize("operation", ["gegl:c2g", "gegl:stress"])
@pytest.mark.parametrize("kind", ["rgb", "gray", "deep"])
def test_a_filter_that_is_never_twice_the_same_does_not_look_like_a_change(
    notes, kind, operation
):
    assert notes[f"random, {kind}, {operation}"] == [DONE, True]


@pytest.mark.parametrize("moment", [0.0, 0.96, 0.989])
@pytest.mark.parametrize("action", ["dot", "fade", "hide", "add"])
def test_a_layer_with_filters_changed_while_it_is_painted_is_left_alone(
    notes, action, moment
):
    entry = notes[f"filtered {action}, {moment}"]
    assert "was changed" in entry["error"]
    assert entry["same"]


@pytest.mark.parametrize("output", ["replace", "new-layer"])
def test_looking_at_a_layer_with_filters_changes_nothing(notes, output):
    entry = notes[f"filtered, {output}"]
    assert entry["looked_only"]
    assert entry["images"] == 1


def test_the_colour_mode_is_seen_where_no_pixel_tells(notes):
    assert notes["thumbnails differ"]


def test_filters_stay_with_the_layer_below_a_new_one(notes):
    assert notes["filtered, replace"]["filters"] == [0]
    assert notes["filtered, new-layer"]["filters"] == [0, 1]
    assert notes["filtered, new-layer"]["same"]


def test_locked_alpha_stays(notes, folder):
    entry = notes["locked-alpha"]
    assert entry["status"] == DONE
    before, after = (pixels(folder, entry, which) for which in ("before", "after"))
    assert np.array_equal(before[:, 3], after[:, 3])
    assert not np.array_equal(before, after)
