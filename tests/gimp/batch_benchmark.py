"""What benchmarks/gimp.py measures within GIMP: the modules of the plug-in at work."""

import os
import statistics
import sys
import time

from gi.repository import Gegl, Gimp
from in_gimp import PLUGIN, Notes, make, use_worker

sys.path.insert(0, PLUGIN)
import json

import layer as layers
import worker_client

folder, style, command = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
width, height = map(int, sys.argv[4:])
notes = Notes(folder)
use_worker(command)


def peak(process):
    """Highest resident memory of a process, in bytes."""
    with open(f"/proc/{process}/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024


def reset_peak(process):
    with open(f"/proc/{process}/clear_refs", "w") as file:
        file.write("5")


def settings(strength):
    return layers.Settings(style, strength, 1.0, False, layers.REPLACE)


def preview(worker, strength, longest=512):
    thumbnail = layers.Thumbnail.of(image, layer, longest)
    reply = worker.stylize(
        {**settings(strength).request(), **thumbnail.request()}, thumbnail.body()
    )
    worker.read(reply["bytes"])
    return reply


image, layer = make(size=(1500, 1000))
started = time.monotonic()
worker = worker_client.start()
worker.hello()
notes["hello, s"] = round(time.monotonic() - started, 3)
preview(worker, 1.0)
notes["first preview, s"] = round(time.monotonic() - started, 3)
times = []
for step in range(15):
    started = time.monotonic()
    preview(worker, step / 15)
    times.append(time.monotonic() - started)
notes["preview of 512 px, s"] = round(statistics.median(times), 3)
image.delete()

core = os.getppid()
for name, precision, bytes_per_pixel in (
    ("8 bit", Gimp.Precision.U8_NON_LINEAR, 4),
    ("float", Gimp.Precision.FLOAT_LINEAR, 16),
):
    image = Gimp.Image.new_with_precision(
        width, height, Gimp.ImageBaseType.RGB, precision
    )
    layer = Gimp.Layer.new(
        image, "l", width, height, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(layer, None, 0)
    buffer = layer.get_buffer()
    for top in range(0, height, 100):  # GIMP would share tiles that are alike
        rows = min(100, height - top)
        band = Gegl.Rectangle.new(0, top, width, rows)
        buffer.set(band, "R'G'B'A u8", os.urandom(width * rows * 4))
    buffer.flush()
    size = width * height * bytes_per_pixel
    before = {}
    for process in (core, os.getpid()):
        reset_peak(process)
        before[process] = peak(process)
    started = time.monotonic()
    reply = layers.stylize(
        worker, image, layer, settings(1.0), progress=lambda fraction: None
    )
    total = time.monotonic() - started
    notes[name] = {
        "size": [width, height],
        "render, s": reply["seconds"],
        "pixels moved, s": round(total - reply["seconds"], 3),
        "pixels moved / render": round(total / reply["seconds"] - 1, 3),
        "peak of GIMP above what it had / layer": round(
            (peak(core) - before[core]) / size, 2
        ),
        "peak of GIMP / layer": round(peak(core) / size, 2),
        "peak of the plug-in / layer": round(peak(os.getpid()) / size, 2),
    }
    image.delete()
worker.close()
notes.save()
