"""The plug-in with workers that fail in every way; GIMP and the layer must not."""

import json
import sys
import time

from in_gimp import Notes, make, native, stylize, use_worker

folder, standin, faulty, faults = sys.argv[1], *map(json.loads, sys.argv[2:])
notes = Notes(folder)


def attempt(name, command, **settings):
    image, layer = make(size=(600, 500))
    before = native(layer)
    use_worker(command, **settings)
    for output in ("replace", "new-layer")[: 2 if "result" in name else 1]:
        started = time.time()
        status = stylize(image, layer, style="", output=output)
        notes[f"{name}, {output}"] = {
            "status": status,
            "same": native(layer) == before,
            "layers": len(image.get_layers()),
            "seconds": time.time() - started,
        }
    image.delete()


for fault in faults:
    attempt(fault, [*faulty, fault], silence_limit=1.5)
attempt("no-python", ["/nonexistent/python"])
use_worker([])
attempt("no-command", [])
image, layer = make()
use_worker(standin)
notes["afterwards"] = stylize(image, layer)
notes.save()
