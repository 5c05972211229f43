"""Where the result goes, and what is refused."""

import sys

from gi.repository import Gegl, Gimp
from in_gimp import PLUGIN, Notes, floats, make, native, select_softly, stylize

sys.path.insert(0, PLUGIN)
import layer as layers
import worker_client

notes = Notes(sys.argv[1])


def add_filter(layer):
    """Let GIMP show the layer inverted in linear light, whatever its pixels are."""
    shown = Gimp.DrawableFilter.new(layer, "gegl:invert-linear", None)
    layer.append_filter(shown)
    return shown


def make_grouped():
    """Return an image with a layer in a group, the layer and the group."""
    image, layer = make()
    group = Gimp.GroupLayer.new(image, "group")
    image.insert_layer(group, None, 0)
    image.reorder_item(layer, group, 0)
    return image, layer, group


def refused(name, image, *drawables, watched=None, **arguments):
    before = native(watched) if watched else b""
    status = stylize(image, *drawables, **arguments)
    same = before == (native(watched) if watched else b"")
    notes[name] = {"status": status, "same": same, "layers": len(image.get_layers())}
    image.delete()


image, layer = make()
refused("two-layers", image, layer, layer, watched=layer)
image, layer = make()
refused("no-layer", image, watched=layer)
for output in layers.REPLACE, layers.NEW_LAYER:
    image, layer = make()
    other, _ = make()
    refused(f"elsewhere-{output}", other, layer, watched=layer, output=output)
    image.delete()
image, layer = make()
mask = layer.create_mask(Gimp.AddMaskType.WHITE)
layer.add_mask(mask)
refused("layer-mask", image, mask, watched=mask)
image, layer = make()
channel = Gimp.Channel.new(image, "c", 48, 40, 50, Gegl.Color.new("red"))
image.insert_channel(channel, None, 0)
refused("channel", image, channel, watched=channel)
image, layer = make()
image.convert_indexed(
    Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 8, False, False, ""
)
refused("indexed", image, layer, watched=layer)
image, layer = make()
layer.set_lock_content(True)
refused("locked", image, layer, watched=layer)
image, layer = make(layer_size=(10, 10), offsets=(30, 30))
image.select_rectangle(Gimp.ChannelOps.REPLACE, 0, 0, 10, 10)
refused("beside", image, layer, watched=layer)
image, layer = make()
refused("unknown-style", image, layer, watched=layer, style="unheard-of")
image, layer = make()
refused("missing-picture", image, layer, watched=layer, style="/no/painting.jpg")
image, layer, group = make_grouped()
refused("group", image, group, watched=layer)
image, layer, group = make_grouped()
group.set_lock_content(True)
refused("locked-group", image, layer, watched=layer)
image, layer, group = make_grouped()
group.set_lock_content(True)
image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 20, 20)
refused("new-in-locked-group", image, layer, watched=layer, output="new-layer")
image, layer = make()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 20, 20)
Gimp.Selection.float(image, [layer], 0, 0)
floating = image.get_floating_sel()
refused("new-of-floating", image, floating, watched=floating, output="new-layer")
image, layer, group = make_grouped()
add_filter(group)
refused("filtered-group", image, group, watched=layer, output="new-layer")


def mask_of(layer):
    mask = layer.get_mask()
    return mask and [native(mask).hex(), layer.get_apply_mask()]


def new_layer(name, image, layer, **arguments):
    before = native(layer)
    entry = {"status": stylize(image, layer, output="new-layer", **arguments)}
    parent = layer.get_parent()
    siblings = parent.get_children() if parent else image.get_layers()
    position = image.get_item_position(layer)
    new = siblings[position - 1]
    entry |= {
        "same": native(layer) == before,
        "components": [
            image.get_component_active(getattr(Gimp.ChannelType, name))
            for name in ("RED", "GREEN", "BLUE", "ALPHA")
        ],
        "siblings": len(siblings),
        "above": position == 1,
        "name": new.get_name(),
        "offsets": [list(item.get_offsets()[1:]) for item in (layer, new)],
        "size": [new.get_width(), new.get_height()],
        "opacity": [item.get_opacity() for item in (layer, new)],
        "visible": [item.get_visible() for item in (layer, new)],
        "masks": [mask_of(item) for item in (layer, new)],
        "before": notes.keep(floats(layer)),
        "after": notes.keep(floats(new)),
    }
    image.delete()
    notes[name] = entry


image, layer = make(layer_size=(30, 20), offsets=(5, 4))
new_layer("new", image, layer)
image, layer = make()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 20, 20)
new_layer("new-selected", image, layer)
image, layer = make(alpha=False)
select_softly(image)
new_layer("new-no-alpha", image, layer)
image, layer = make()
mask = layer.create_mask(Gimp.AddMaskType.BLACK)
layer.add_mask(mask)
layer.set_opacity(60)
new_layer("new-masked", image, layer)
image, layer = make()
layer.set_lock_content(True)
layer.set_lock_alpha(True)
image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 20, 20)
new_layer("new-locked", image, layer)
for component in Gimp.ChannelType.RED, Gimp.ChannelType.ALPHA:
    image, layer = make()
    image.set_component_active(component, False)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 20, 20)
    new_layer(f"new-without-{component.value_nick}", image, layer)
image, layer, group = make_grouped()
group.set_lock_content(True)
new_layer("new-in-locked", image, layer)
image, layer, group = make_grouped()
new_layer("new-of-group", image, group)
image, layer, group = make_grouped()
group.set_mode(Gimp.LayerMode.PASS_THROUGH)
new_layer("new-of-pass-through", image, group)
image, layer, group = make_grouped()
group.add_mask(group.create_mask(Gimp.AddMaskType.COPY))
group.set_apply_mask(False)
group.set_visible(False)
new_layer("new-of-masked-group", image, group)
image, layer = make()
layer.set_visible(False)
new_layer("new-invisible", image, layer)
image, layer, group = make_grouped()
new_layer("new-in-group", image, layer)


def changed(name, image, layer, **arguments):
    before = floats(layer)
    status = stylize(image, layer, **arguments)
    notes[name] = {
        "status": status,
        "before": notes.keep(before),
        "after": notes.keep(floats(layer)),
    }
    image.delete()


image, layer = make()
changed("default-style", image, layer, style="")
image, layer = make()
changed("half", image, layer, strength=0.5)
image, layer = make()
changed("blend", image, layer, second_style="slow", mix=0.25)
image, layer = make()
changed("keep-colours", image, layer, preserve_color=True)
image, layer = make()
changed("none-of-it", image, layer, second_style="slow", mix=0.0)
image, layer = make()
layer.set_visible(False)
changed("invisible", image, layer)
image, layer = make()
layer.set_lock_alpha(True)
changed("locked-alpha", image, layer)
image, layer = make()
layer.add_mask(layer.create_mask(Gimp.AddMaskType.BLACK))
changed("masked", image, layer)
image, layer = make(alpha=False)
add_filter(layer).set_visible(False)
changed("hidden-filter", image, layer)
for output in layers.REPLACE, layers.NEW_LAYER:
    image, layer = make(layer_size=(30, 20), offsets=(5, 4), alpha=False)
    pixels = native(layer)
    add_filter(layer)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 10, 10, 10, 10)
    seen = Gimp.Layer.new_from_visible(image, image, "seen")
    image.clean_all()
    [thumbnail] = layers.Thumbnail.of(image, layer, 512)
    looked_only = not image.is_dirty()
    status = stylize(image, layer, output=output)
    shown = Gimp.Layer.new_from_visible(image, image, "shown")
    notes[f"filtered, {output}"] = {
        "status": status,
        "size": [48, 40],
        "same": native(layer) == pixels,
        "filters": [len(each.get_filters()) for each in image.get_layers()],
        "seen": notes.keep(floats(seen)),
        "shown": notes.keep(floats(shown)),
        "thumbnail": notes.keep(thumbnail.pixels),
        "looked_only": looked_only,
        "images": len(Gimp.get_images()),
    }
    image.delete()

image, layer = make()
add_filter(layer)
image.set_component_active(Gimp.ChannelType.RED, False)
seen = Gimp.Layer.new_from_visible(image, image, "seen")
status = stylize(image, layer, strength=0.0, output="new-layer")
notes["filtered-without-red"] = {
    "status": status,
    "seen": notes.keep(floats(seen)),
    "after": notes.keep(floats(image.get_layers()[0])),
}
image.delete()

for base, precision in {
    "rgb": Gimp.Precision.U8_NON_LINEAR,
    "gray": Gimp.Precision.U16_PERCEPTUAL,
    "deep": Gimp.Precision.FLOAT_LINEAR,
}.items():
    kind = Gimp.ImageBaseType.GRAY if base == "gray" else Gimp.ImageBaseType.RGB
    for operation in "gegl:c2g", "gegl:stress":
        image, layer = make(base=kind, precision=precision)
        layer.append_filter(Gimp.DrawableFilter.new(layer, operation, None))
        pixels = native(layer)
        status = stylize(image, layer)
        notes[f"random, {base}, {operation}"] = [status, native(layer) != pixels]
        image.delete()

if hasattr(Gimp, "VectorLayer"):  # since GIMP 3.2
    image, layer = make()
    path = Gimp.Path.new(image, "path")
    image.insert_path(path, None, 0)
    path.bezier_stroke_new_ellipse(20, 20, 10, 10, 0)
    vector = Gimp.VectorLayer.new(image, path)
    image.insert_layer(vector, None, 0)
    vector.refresh()
    refused("vector", image, vector, watched=vector)


def meddle(name, action, moment, output, prepare=lambda layer: None):
    """Do ``action`` to the image once more than ``moment`` of the work is done."""
    image, layer = make(size=(60, 500))
    prepare(layer)
    worker = worker_client.start()
    # Bands of 68 rows: some lie in tiles that no band before was read from.
    band_bytes, layers._BAND_BYTES = layers._BAND_BYTES, 1 << 14
    before = []

    def pixels():
        return native(layer) if layer.is_valid() else None

    def progress(fraction):
        if fraction > moment and not before:
            action(image, layer)
            before.append(pixels())

    notes[name] = entry = {}
    settings = layers.Settings("negative", 1.0, 1.0, False, output)
    try:
        layers.stylize(worker, image, layer, settings, progress=progress)
    except layers.LayerError as error:
        entry["error"] = str(error)
    entry["same"] = [pixels()] == before
    entry["layers"] = len(image.get_layers())
    layers._BAND_BYTES = band_bytes
    worker.close()
    image.delete()


DEEP = Gimp.Precision.FLOAT_LINEAR


def dot(_image, layer):
    """Paint the first pixel."""
    buffer = layer.get_buffer()
    buffer.set(Gegl.Rectangle.new(0, 0, 1, 1), "R'G'B'A u8", b"dot!")
    buffer.flush()


for output in layers.REPLACE, layers.NEW_LAYER:
    for moment in 0.0, 0.96, 0.989:
        for action, does in {
            "crop": lambda image, _layer: image.crop(30, 250, 30, 250),
            "remove": lambda image, layer: image.remove_layer(layer),
            "gray": lambda image, _layer: image.convert_grayscale(),
            "flatten": lambda _image, layer: layer.flatten(),
            "deepen": lambda image, _layer: image.convert_precision(DEEP),
            "dot": dot,
        }.items():
            meddle(f"{action}, {moment}, {output}", does, moment, output)


def dot_below(_image, layer):
    """Paint the last pixel, which is read late."""
    buffer = layer.get_buffer()
    buffer.set(Gegl.Rectangle.new(59, 499, 1, 1), "R'G'B'A u8", b"dot!")
    buffer.flush()


def fade(_image, layer):
    """Let the filter be seen by half."""
    [shown] = layer.get_filters()
    shown.set_opacity(0.5)
    shown.update()


for moment in 0.0, 0.96, 0.989:
    for action, does in {
        "dot": dot_below,
        "fade": fade,
        "hide": lambda _image, layer: layer.get_filters()[0].set_visible(False),
        "add": lambda _image, layer: add_filter(layer),
    }.items():
        meddle(f"filtered {action}, {moment}", does, moment, "replace", add_filter)

image, layer = make()
image.remove_layer(layer)
try:
    layers.check(image, [layer])
except layers.LayerError as error:
    notes["removed"] = str(error)

image, layer = make(base=Gimp.ImageBaseType.GRAY)
gray = layers.Thumbnail.of(image, layer, 512)
image.convert_rgb()
coloured = layers.Thumbnail.of(image, layer, 512)
notes["thumbnails differ"] = gray != coloured

notes["version"] = Gimp.version()
notes.save()
