"""A real GIMP 3 for the tests: run a batch file in it with the plug-in installed.

``STYLEPLUG_GIMP3_DIR`` is the folder of ``gimp3-batch``, ``GIMP3_ROOT`` the GIMP that
``setup-gimp3.sh`` made.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from styleplug import gimp
from tests.conftest import require

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNNER = Path(os.environ.get("STYLEPLUG_GIMP3_DIR", "/nonexistent")) / "gimp3-batch"
GIMP_ROOT = Path(os.environ.get("GIMP3_ROOT", "/nonexistent"))

STANDIN = [sys.executable, "-su", str(HERE / "standin_worker.py")]
FAULTY = [sys.executable, "-su", str(HERE / "faulty_worker.py")]
REAL = [
    sys.executable,
    "-su",
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    "from styleplug.worker import main; main()",
]


def require_gimp():
    """Skip the calling test, or fail it on CI, when there is no GIMP to drive."""
    require(
        RUNNER.is_file() and (GIMP_ROOT / ".gimp3-ready").is_file(),
        "no GIMP 3: set STYLEPLUG_GIMP3_DIR and GIMP3_ROOT",
    )


def start_gimp(folder, script, *arguments, command=STANDIN, options=(), env=()):
    """Start the batch file ``script`` in GIMP; it sees ``folder`` and the repository.

    ``command`` starts the worker.
    """
    profile = gimp.Profile(folder / "profile")
    shutil.rmtree(profile.path, ignore_errors=True)
    profile.path.mkdir(parents=True)
    gimp.install([profile], command)
    return subprocess.Popen(
        [
            str(RUNNER),
            *("--root", str(GIMP_ROOT)),
            *("--plugin", str(profile.plugin)),
            *("--timeout", "900"),
            *("--bind", str(folder)),
            *("--bind-ro", sys.prefix),
            *("--bind-ro", sys.base_prefix),
            *(word for pair in env for word in ("--env", pair)),
            *options,
            str(HERE / script),
            *map(str, arguments),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Wait for a GIMP and fail with all it said when its script failed.

    The runner itself ends a GIMP that takes too long.
    """
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def run_gimp(folder, script, *arguments, **options):
    """Run ``script`` to its end; return what it noted in ``folder/notes.json``.

    What GIMP said, with the option ``--verbose``, is in ``folder/output.txt``.
    """
    output = finish(start_gimp(folder, script, *arguments, **options))
    (folder / "output.txt").write_text(output)
    return json.loads((folder / "notes.json").read_text())
