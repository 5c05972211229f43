"""Whatever the worker does, the layer is untouched and GIMP stays alive."""

import json
from statistics import median

import pytest
from faulty_worker import FAULTS
from harness import FAULTY, STANDIN, finish, require_gimp, run_gimp, start_gimp

pytestmark = pytest.mark.gimp


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    require_gimp()
    folder = tmp_path_factory.mktemp("faults")
    words = map(json.dumps, (STANDIN, FAULTY, FAULTS))
    return run_gimp(folder, "batch_faults.py", folder, *words)


@pytest.mark.parametrize("fault", [*FAULTS, "no-python", "no-command"])
def test_a_fault_leaves_the_layer_and_gives_a_sentence(notes, fault):
    for output in ("replace", "new-layer")[: 2 if "result" in fault else 1]:
        note = notes[f"{fault}, {output}"]
        status, message = note["status"]
        assert status == 0
        assert message.endswith(".")
        assert "Error:" not in message
        assert "run" in message.lower() or "Nothing was changed" in message
        assert note["same"]
        assert note["layers"] == 1
        assert note["seconds"] < 60  # the limit for silence is 1.5 s


def test_after_all_the_faults_the_filter_works(notes):
    assert notes["afterwards"] == [3, ""]


def test_two_gimps_work_at_once(tmp_path_factory):
    require_gimp()
    folders = [tmp_path_factory.mktemp("twin") for _ in range(2)]
    running = [start_gimp(folder, "batch_twins.py", folder) for folder in folders]
    for process in running:
        finish(process)
    for folder in folders:
        assert json.loads((folder / "notes.json").read_text()) == {"done": [3, ""]}


def test_a_gimp_that_crashes_leaves_neither_plug_in_nor_worker(tmp_path):
    require_gimp()
    notes = run_gimp(tmp_path, "batch_crash.py", tmp_path)
    assert notes == {"working": 2, "left": 0}


def test_a_killed_plug_in_leaves_neither_worker_nor_half_a_result(tmp_path):
    """GIMP's Cancel is a SIGKILL."""
    require_gimp()
    notes = run_gimp(tmp_path, "batch_kill.py", tmp_path)
    for moment, note in notes.items():
        assert note["state"] in ("untouched", "complete"), moment
        assert note["orphans"] == [], moment
        assert note["layers"] == 1, moment
    # The median: on a busy machine a single one may take longer.
    assert median(note["orphaned for"] for note in notes.values()) < 5
    killed = [moment.split()[0] for moment, note in notes.items() if note["killed"]]
    assert killed.count("slow") == 10
    assert killed.count("large") >= 3
    assert notes["afterwards"]["state"] == "complete"
