"""What the batch files in here share. Runs in GIMP's Python, which has no numpy."""

import json
import os
import random

import gi

gi.require_version("Gegl", "0.4")
gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp  # noqa: E402

N = Gimp.RunMode.NONINTERACTIVE
FLOAT = "R'G'B'A float"
PLUGIN = os.path.join(os.environ["GIMP3_DIRECTORY"], "plug-ins", "styleplug_gimp")


def call(name, **arguments):
    """Run a PDB procedure; return its status and message."""
    procedure = Gimp.get_pdb().lookup_procedure(name)
    config = procedure.create_config()
    for key, value in arguments.items():
        key = key.replace("_", "-")
        if key == "drawables":
            config.set_core_object_array(key, value)
        else:
            config.set_property(key, value)
    result = procedure.run(config)
    return [int(result.index(0)), result.index(1) if result.length() > 1 else ""]


def stylize(image, *drawables, style="negative", **arguments):
    return call(
        "plug-in-styleplug",
        run_mode=N,
        image=image,
        drawables=drawables,
        style=style,
        **arguments,
    )


def use_worker(command, **settings):
    """Let the plug-in start another worker from now on."""
    with open(os.path.join(PLUGIN, "worker.json"), "w") as file:
        json.dump({"command": command, **settings}, file)


def area(drawable):
    return Gegl.Rectangle.new(0, 0, drawable.get_width(), drawable.get_height())


def native(drawable):
    """The bytes as GIMP holds them."""
    return bytes(
        drawable.get_buffer().get(area(drawable), 1.0, None, Gegl.AbyssPolicy.NONE)
    )


def floats(drawable):
    return bytes(
        drawable.get_buffer().get(area(drawable), 1.0, FLOAT, Gegl.AbyssPolicy.NONE)
    )


def selection_on(layer):
    """The selection as floats 0..1 over the layer."""
    buffer = layer.get_image().get_selection().get_buffer()
    x, y = layer.get_offsets()[1:]
    rectangle = Gegl.Rectangle.new(x, y, layer.get_width(), layer.get_height())
    return bytes(buffer.get(rectangle, 1.0, "Y float", Gegl.AbyssPolicy.NONE))


def fill_with_noise(layer, seed=1):
    """Random bytes in the layer's own format; no float that is not a number."""
    buffer = layer.get_buffer()
    count = layer.get_width() * layer.get_height() * 4
    noise = random.Random(seed)
    data = bytes(noise.randrange(256) for _ in range(count))
    buffer.set(area(layer), "R'G'B'A u8", data)
    buffer.flush()
    layer.update(0, 0, layer.get_width(), layer.get_height())


def make(
    size=(48, 40),
    layer_size=None,
    offsets=(0, 0),
    base=Gimp.ImageBaseType.RGB,
    precision=Gimp.Precision.U8_NON_LINEAR,
    alpha=True,
):
    """An image with one layer of noise."""
    image = Gimp.Image.new_with_precision(*size, base, precision)
    kind = {
        Gimp.ImageBaseType.RGB: (Gimp.ImageType.RGB_IMAGE, Gimp.ImageType.RGBA_IMAGE),
        Gimp.ImageBaseType.GRAY: (
            Gimp.ImageType.GRAY_IMAGE,
            Gimp.ImageType.GRAYA_IMAGE,
        ),
    }[base][alpha]
    layer = Gimp.Layer.new(
        image, "layer", *(layer_size or size), kind, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(layer, None, 0)
    layer.set_offsets(*offsets)
    fill_with_noise(layer)
    return image, layer


def select_softly(image):
    """A feathered ellipse over the middle of the image."""
    width, height = image.get_width(), image.get_height()
    Gimp.context_push()
    Gimp.context_set_feather(True)
    Gimp.context_set_feather_radius(6, 6)
    image.select_ellipse(
        Gimp.ChannelOps.REPLACE, width // 6, height // 6, width // 2, height // 2
    )
    Gimp.context_pop()


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


class Notes(dict):
    """What the test outside is told: JSON, and bytes in files beside it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.count = 0

    def keep(self, data):
        """Write ``data`` to a file; return its name."""
        self.count += 1
        name = f"{self.count}.bin"
        with open(os.path.join(self.folder, name), "wb") as file:
            file.write(data)
        return name

    def save(self):
        with open(os.path.join(self.folder, "notes.json"), "w") as file:
            json.dump(self, file)
