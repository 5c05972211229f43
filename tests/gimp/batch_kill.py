"""Kill the plug-in at many moments of a run, as GIMP's Cancel does."""

import os
import signal
import sys
import threading
import time

from gi.repository import Gimp
from in_gimp import Notes, make, native, stylize

notes = Notes(sys.argv[1])


def processes(word):
    """Ids of the processes that have ``word`` in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if word.encode() in file.read():
                        found.append(int(name))
            except OSError:
                pass
    return found


def kill_after(seconds, killed):
    end = time.time() + 10
    while not (plug_ins := processes("/styleplug_gimp.py")) and time.time() < end:
        time.sleep(0.005)
    time.sleep(seconds)
    for number in plug_ins:
        try:
            os.kill(number, signal.SIGKILL)
            killed.append(number)
        except OSError:
            pass  # it was done already


def attempt(name, style, size, seconds=None):
    """Run the filter and kill it after ``seconds``; note what is left of it."""
    image, layer = make(size=size, precision=Gimp.Precision.FLOAT_LINEAR)
    before = native(layer)
    killed = []
    if seconds is not None:
        killer = threading.Thread(target=kill_after, args=(seconds, killed))
        killer.start()
    stylize(image, layer, style=style)
    if seconds is not None:
        killer.join()
    end = time.time() + 5
    while (orphans := processes("standin_worker.py")) and time.time() < end:
        time.sleep(0.05)
    after = native(layer)
    complete.setdefault(size, after)  # the first one of a size is not killed
    notes[name] = {
        "killed": bool(killed),
        "state": {before: "untouched", complete[size]: "complete"}.get(after, "half"),
        "orphans": orphans,
        "layers": len(image.get_layers()),
    }
    image.delete()


complete = {}
attempt("small", "negative", (300, 200))
attempt("large", "negative", (1500, 1000))
for step in range(8):  # while it starts, sends, renders
    attempt(f"slow {step}", "slow", (300, 200), 0.02 + 0.12 * step)
for step in range(6):  # while pixels travel
    attempt(f"large {step}", "negative", (1500, 1000), 0.35 + 0.12 * step)
attempt("afterwards", "negative", (300, 200))
notes.save()
