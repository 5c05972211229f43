"""The plug-in against GIMP's own inversion, on all kinds of layers."""

import array
import random
import sys

from gi.repository import Gimp
from in_gimp import (
    FLOAT,
    Notes,
    area,
    fill_with_noise,
    floats,
    make,
    native,
    select_softly,
    selection_on,
    stylize,
)

notes = Notes(sys.argv[1])


def compare(name, image, layer, **arguments):
    """Note what the plug-in made of the layer, and what GIMP's own filter makes."""
    own = layer.copy()
    image.insert_layer(own, None, 0)
    entry = {
        "precision": image.get_precision().value_nick.split("-")[0].upper(),
        "size": [layer.get_width(), layer.get_height()],
        "selection": notes.keep(selection_on(layer)),
        "selected": not Gimp.Selection.is_empty(image),
        "before": notes.keep(native(layer)),
        "before_float": notes.keep(floats(layer)),
    }
    own.invert(False)
    entry["status"] = stylize(image, layer, **arguments)
    for key, drawable in (("after", layer), ("own", own)):
        entry[key] = notes.keep(native(drawable))
        entry[key + "_float"] = notes.keep(floats(drawable))
    notes[name] = entry
    image.delete()


for base in ("RGB", "GRAY"):
    for depth in ("U8", "U16", "U32", "HALF", "FLOAT", "DOUBLE"):
        for curve in ("LINEAR", "NON_LINEAR", "PERCEPTUAL"):
            image, layer = make(
                layer_size=(60, 50),
                offsets=(-7, -5),
                base=getattr(Gimp.ImageBaseType, base),
                precision=getattr(Gimp.Precision, f"{depth}_{curve}"),
            )
            if depth in ("HALF", "FLOAT", "DOUBLE"):  # light beyond white and below 0
                wide = array.array("f", floats(layer))
                for i in range(len(wide)):
                    if i % 4 != 3:
                        wide[i] = wide[i] * 3 - 1
                layer.get_buffer().set(area(layer), FLOAT, wide.tobytes())
                layer.get_buffer().flush()
            select_softly(image)
            compare(f"{base}-{depth}-{curve}", image, layer)

for name, options in {
    "no-alpha": {"alpha": False},
    "small-layer": {"layer_size": (20, 15), "offsets": (9, 8)},
    "partly-outside": {"layer_size": (40, 30), "offsets": (30, 25)},
    "one-pixel": {"layer_size": (1, 1), "offsets": (12, 12)},
    "thin": {"size": (300, 1)},
}.items():
    image, layer = make(**options)
    compare(f"{name}-whole", image, layer)
    image, layer = make(**options)
    if name == "thin":
        image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 0, 100, 1)
    else:
        select_softly(image)
    if layer.mask_intersect()[0]:
        compare(f"{name}-selected", image, layer)

image, layer = make(size=(64, 64))
image.set_color_profile(Gimp.ColorProfile.new_rgb_adobe())
fill_with_noise(layer)
wide = array.array("f", floats(layer))
layer.get_buffer().set(
    area(layer),
    "RGBA float",
    array.array("f", [-0.1, 0.9, -0.05, 1.0] * 64 * 64).tobytes(),
)
layer.get_buffer().flush()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 16, 16, 32, 32)
compare("adobe-rgb", image, layer)

image, layer = make(size=(64, 64))
image.set_color_profile(Gimp.ColorProfile.new_rgb_srgb())
compare("srgb-profile", image, layer)

for depth in ("U32", "DOUBLE"):  # more bits than a float has
    precision = getattr(Gimp.Precision, f"{depth}_LINEAR")
    image, layer = make(precision=precision)
    noise = random.Random(2)
    count = 48 * 40 * 4
    data = {
        "U32": noise.randbytes(count * 4),
        "DOUBLE": array.array("d", (noise.random() for _ in range(count))).tobytes(),
    }[depth]
    layer.get_buffer().set(area(layer), f"RGBA {depth.lower()}", data)
    layer.get_buffer().flush()
    for x, y in (5, 4), (30, 20):  # two parts, and much in between that is not selected
        image.select_rectangle(Gimp.ChannelOps.ADD, x, y, 10, 12)
    compare(f"parts-{depth}", image, layer)

image, layer = make(size=(700, 300))  # several bands
select_softly(image)
compare("bands", image, layer)

notes.save()
