"""The dialog as a user meets it: from the menu, with keys and the pointer."""

import json
import os
import subprocess
import sys
import threading
import time

from gi.repository import GdkPixbuf, Gimp, Gio
from in_gimp import Notes, area, call, native, stylize, use_worker

folder, picture, standin = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
notes = Notes(folder)
TITLE = "^Neural Style$"


def x(*words):
    return subprocess.run(
        ["xdotool", *map(str, words)], check=False, capture_output=True, text=True
    ).stdout.strip()


def shot(name):
    subprocess.run(["scrot", "-o", f"{folder}/{name}.png"], check=True)


def window(name):
    return (x("search", "--onlyvisible", "--name", name).split() or [None])[-1]


def wait(condition, what, seconds=60):
    end = time.time() + seconds
    while not (value := condition()):
        if time.time() > end:
            shot("failed")
            raise RuntimeError(f"waited in vain for {what}; see failed.png")
        time.sleep(0.1)
    return value


def shows(color, part=0.04):
    """Whether a good part of the screen has nearly this color."""
    shot("now")
    pixbuf = GdkPixbuf.Pixbuf.new_from_file(f"{folder}/now.png")
    data, size = pixbuf.get_pixels(), pixbuf.get_n_channels()
    places = range(0, len(data) - size, size * 47)
    alike = sum(all(abs(data[i + k] - color[k]) <= 2 for k in range(3)) for i in places)
    return alike > part * len(places)


def key(target, *keys):
    x("windowactivate", "--sync", target)
    for each in keys:
        x("key", each)
        time.sleep(0.2)


def in_background(steps):
    """Drive the dialog while this thread waits for it; note what goes wrong."""

    def work():
        try:
            steps(wait(lambda: window(TITLE), "the dialog"))
        except Exception as error:  # noqa: BLE001 - the dialog must not stay open
            notes.setdefault("errors", []).append(repr(error))
            key(window(TITLE), "Escape", "Escape")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def open_dialog(image, layer, steps):
    """Show the dialog from here, with the last values; return status and message."""
    thread = in_background(steps)
    status = call(
        "plug-in-styleplug",
        run_mode=Gimp.RunMode.INTERACTIVE,
        image=image,
        drawables=[layer],
    )
    thread.join()
    return status


def workers():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if b"standin_worker.py" in file.read():
                        found.append(int(name))
            except OSError:
                pass
    return found


image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(picture))
layer = image.get_layers()[0]
Gimp.Display.new(image)
Gimp.displays_flush()
main = wait(lambda: window("GIMP$|GNU Image"), "GIMP's window")
x("windowsize", "--sync", main, 1280, 860)
x("windowactivate", "--sync", main)
x("mousemove", 5, 895)  # no tooltip over the menus
time.sleep(1)
before = native(layer)

negative_color = bytes(255 - value for value in before[:3])


def open_from_menu():
    key(main, "Escape", "alt+r", "a")
    time.sleep(0.5)
    shot("menu")
    x("key", "n")
    end = time.time() + 15
    while time.time() < end:
        if window(TITLE):
            return window(TITLE)
        time.sleep(0.2)
    return None


# From the menu; OK; undo; repeat.
dialog = wait(open_from_menu, "the dialog from the menu")
wait(lambda: shows(negative_color), "the preview")
shot("dialog")
key(dialog, "alt+o")
wait(lambda: native(layer) != before, "the result")
wait(lambda: not window(TITLE), "the dialog's end")
applied = native(layer)
rectangle = area(layer)
negative = bytes(255 - value for value in before[: rectangle.width * 3])
notes["applied"] = applied[: rectangle.width * 3] == negative
key(main, "ctrl+z")
wait(lambda: native(layer) != applied, "the undo")
notes["undone"] = native(layer) == before
key(main, "ctrl+f")
wait(lambda: native(layer) != before, "the repetition")
notes["repeated"] = native(layer) == applied
key(main, "ctrl+z")
wait(lambda: native(layer) != applied, "the second undo")

# A new layer through a feathered selection is one step, too.
Gimp.context_set_feather(True)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 50, 50, 100, 100)
stylize(image, layer, output="new-layer")
notes["layers"] = [len(image.get_layers())]
Gimp.displays_flush()
key(main, "ctrl+z")
wait(lambda: len(image.get_layers()) == 1, "the undo of the new layer")
notes["layers"].append(len(image.get_layers()))
notes["undone_new"] = native(layer) == before
Gimp.Selection.none(image)


# The preview follows the slider; Escape changes nothing.
def slide(dialog):
    wait(lambda: shows(negative_color), "the preview")
    shot("full")
    key(dialog, "alt+g", "ctrl+a", "0", "Tab")
    wait(lambda: not shows(negative_color), "the preview of strength 0")
    shot("zero")
    key(dialog, "Escape")


notes["escaped"] = open_dialog(image, layer, slide)
notes["escaped_same"] = native(layer) == before


# Cancel while it paints leads back to the dialog.
def cancel(dialog):
    wait(lambda: shows(negative_color), "the preview")
    key(dialog, "Down")  # the next style, the slow one
    key(dialog, "alt+o")
    time.sleep(3)
    shot("painting")
    key(dialog, "alt+c")
    time.sleep(2)
    shot("cancelled")
    notes["still_open"] = bool(window(TITLE))
    notes["workers_after_cancel"] = len(workers())
    key(dialog, "alt+c")


notes["cancelled"] = open_dialog(image, layer, cancel)
notes["cancelled_same"] = native(layer) == before


# A worker that died is told, and can be started again.
def lose_worker(dialog):
    wait(lambda: shows(negative_color), "the preview")
    for number in workers():
        os.kill(number, 9)
    time.sleep(1)
    shot("lost")
    key(dialog, "alt+t")
    wait(workers, "the next worker")
    key(dialog, "alt+g", "ctrl+a", "0", "Tab")
    wait(lambda: not shows(negative_color), "the preview of strength 0")
    key(dialog, "alt+g", "ctrl+a", "1", "Tab")
    wait(lambda: shows(negative_color), "the preview")
    key(dialog, "alt+o")


notes["lost"] = open_dialog(image, layer, lose_worker)
notes["lost_applied"] = native(layer) != before
wait(lambda: not workers(), "the worker's end", 5)


# No worker at all.
def without_worker(dialog):
    time.sleep(2)
    shot("missing")
    key(dialog, "alt+o")
    time.sleep(0.5)
    notes["missing_open"] = bool(window(TITLE))
    key(dialog, "Escape")


use_worker(["/nonexistent/python"])
notes["missing"] = open_dialog(image, layer, without_worker)
use_worker(standin)

# A group: the result can only go into a new layer.
group = Gimp.GroupLayer.new(image, "group")
image.insert_layer(group, None, 0)
image.reorder_item(layer, group, 0)


def look(dialog):
    wait(workers, "the worker")
    time.sleep(3)
    shot("group")
    key(dialog, "Escape")


notes["group"] = open_dialog(image, group, look)
image.reorder_item(layer, None, 0)
image.remove_layer(group)

# Text.
text = Gimp.TextLayer.new(image, "Text", Gimp.context_get_font(), 40, Gimp.Unit.pixel())
image.insert_layer(text, None, 0)
text_before = native(text)
notes["text"] = stylize(image, text)
notes["text_changed"] = native(text) != text_before
notes.save()
