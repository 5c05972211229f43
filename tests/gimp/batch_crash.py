"""Kill another GIMP while the plug-in waits for its worker; note what is left."""

import os
import shutil
import subprocess
import sys
import time

from in_gimp import Notes, processes

folder = sys.argv[1]
notes = Notes(folder)
profile = os.path.join(folder, "other")
shutil.copytree(os.environ["GIMP3_DIRECTORY"], profile)
code = (
    f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); "
    "from in_gimp import make, stylize; stylize(*make(), style='stuck')"
)


def left():
    return [*processes("/styleplug_gimp.py"), *processes("standin_worker.py")]


def wait(condition, seconds):
    end = time.time() + seconds
    while not condition() and time.time() < end:
        time.sleep(0.1)


with subprocess.Popen(
    ["gimp-console", "-ni", "--batch-interpreter=python-fu-eval", "-b", code],
    env={**os.environ, "GIMP3_DIRECTORY": profile},
    stdin=subprocess.DEVNULL,
) as other:
    wait(lambda: len(left()) > 1, 60)
    time.sleep(2)  # now it paints
    notes["working"] = len(left())
    other.kill()
wait(lambda: not left(), 20)
notes["left"] = len(left())
notes.save()
