"""One of two GIMPs that work at the same time."""

import sys

from in_gimp import Notes, make, stylize

notes = Notes(sys.argv[1])
for _ in range(3):
    image, layer = make(size=(700, 500))
    notes["done"] = stylize(image, layer)
    image.delete()
notes.save()
