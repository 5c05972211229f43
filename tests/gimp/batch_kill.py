"""Kill the plug-in at many moments of a run, as GIMP's Cancel does."""

import os
import signal
import sys
import threading
import time

from gi.repository import Gimp
from in_gimp import Notes, make, native, processes, stylize

notes = Notes(sys.argv[1])


def kill_after(seconds, killed):
    end = time.time() + 60
    while not (plug_ins := processes("/styleplug_gimp.py")) and time.time() < end:
        time.sleep(0.005)
    time.sleep(seconds)
    for number in plug_ins:
        try:
            os.kill(number, signal.SIGKILL)
            killed.append(number)
        except OSError:
            pass  # it was done already


def alike(one, other):
    """Whether float pixels differ by rounding at most.

    babl times its conversions and may take another one in another process.
    """
    one, other = memoryview(one).cast("f")[::13], memoryview(other).cast("f")[::13]
    return all(abs(a - b) < 1e-4 for a, b in zip(one, other, strict=True))


def attempt(name, style, size, seconds=None):
    """Run the filter and kill it after ``seconds``; note what is left of it."""
    image, layer = make(size=size, precision=Gimp.Precision.FLOAT_LINEAR)
    before = native(layer)
    killed = []
    began = time.time()
    if seconds is not None:
        killer = threading.Thread(target=kill_after, args=(seconds, killed))
        killer.start()
    stylize(image, layer, style=style)
    if seconds is not None:
        killer.join()
    ended = time.time()
    while (orphans := processes("standin_worker.py")) and time.time() < ended + 30:
        time.sleep(0.05)
    orphaned_for = time.time() - ended
    after = native(layer)
    complete.setdefault(size, after)  # the first one of a size is not killed
    notes[name] = {
        "killed": bool(killed),
        "state": "untouched"
        if after == before
        else "complete"
        if alike(after, complete[size])
        else "half",
        "orphans": orphans,
        "orphaned for": orphaned_for,
        "layers": len(image.get_layers()),
    }
    image.delete()
    return ended - began


complete = {}
attempt("small", "negative", (300, 200))
whole = min(attempt(f"large {i}", "negative", (1500, 1000)) for i in ("one", "other"))
for step in range(10):  # while it starts, sends, renders
    attempt(f"slow {step}", "slow", (300, 200), 0.02 + 0.1 * step)
for step in range(6):  # while pixels travel
    attempt(f"large {step}", "negative", (1500, 1000), whole * (0.25 + 0.1 * step))
attempt("afterwards", "negative", (300, 200))
notes.save()
