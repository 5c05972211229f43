"""The plug-in with the real networks, on 8-bit and float layers."""

import itertools
import sys

from gi.repository import Gegl, Gimp
from in_gimp import Notes, area, make, selection_on, stylize

folder, *styles = sys.argv[1:]
notes = Notes(folder)
kinds = {
    "u8": Gimp.Precision.U8_NON_LINEAR,
    "u16": Gimp.Precision.U16_NON_LINEAR,
    "float": Gimp.Precision.FLOAT_LINEAR,
}
for (name, precision), style in itertools.product(kinds.items(), styles):
    image, layer = make(size=(90, 70), precision=precision)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 10, 10, 60, 50)
    babl = "R'G'B'A u8" if name == "u8" else "R'G'B'A float"

    def pixels(layer=layer, babl=babl):
        return bytes(
            layer.get_buffer().get(area(layer), 1.0, babl, Gegl.AbyssPolicy.NONE)
        )

    before = pixels()
    status = stylize(image, layer, style=style, strength=0.8, style_scale=1.5)
    notes[f"{name} {style}"] = {
        "status": status,
        "style": style,
        "u8": name == "u8",
        "size": [90, 70],
        "selection": notes.keep(selection_on(layer)),
        "before": notes.keep(before),
        "after": notes.keep(pixels()),
    }
    image.delete()
notes.save()
