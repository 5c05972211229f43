"""The dialog as a user meets it: from the menu, with keys and the pointer."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

from gi.repository import GdkPixbuf, Gimp, Gio
from in_gimp import Notes, area, call, floats, native, processes, stylize, use_worker

folder, picture, standin = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
journal = f"{folder}/journal"
standin.append(journal)
use_worker(standin)
notes = Notes(folder)
TITLE = "^Neural Style$"
PREVIEW, LAYER, ROW = 512, 800, 112


def x(*words):
    command = ["timeout", "20", "xdotool", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip()


def shot(name):
    subprocess.run(["scrot", "-o", f"{folder}/{name}.png"], check=True)


def window(name):
    return (x("search", "--onlyvisible", "--name", name).split() or [None])[-1]


def until(action, condition, what, patience=20):
    """Do ``action``, again after ``patience`` s in vain, until ``condition`` holds."""
    for _ in range(8):
        action()
        end = time.time() + patience
        while time.time() < end:
            if value := condition():
                return value
            time.sleep(0.1)
    shot("failed")
    raise RuntimeError(f"waited in vain for {what}; see failed.png")


def wait(condition, what):
    return until(lambda: None, condition, what)


def shows(color, part=0.04):
    """Whether a good part of the screen has nearly this color."""
    shot("now")
    pixbuf = GdkPixbuf.Pixbuf.new_from_file(f"{folder}/now.png")
    data, size = pixbuf.get_pixels(), pixbuf.get_n_channels()
    places = range(0, len(data) - size, size * 47)
    alike = sum(all(abs(data[i + k] - color[k]) <= 2 for k in range(3)) for i in places)
    return alike > part * len(places)


def warns():
    return shows((68, 64, 59), 0.01)


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
            close(window(TITLE))

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
    return processes("standin_worker.py")


def kill_workers():
    for number in workers():
        os.kill(number, 9)
    wait(lambda: not workers(), "the worker's death")


def painted(style, width):
    """How many pictures of a width were begun in a style since the worker's notes."""
    with open(journal, "a+") as file:
        file.seek(0)
        return file.read().splitlines().count(f"{style} {width}")


def strength(dialog, value, condition):
    """Type a strength until the screen shows it."""
    keys = ("alt+g", "ctrl+a", value, "Tab")
    until(lambda: key(dialog, *keys), condition, f"the preview of strength {value}")


def come_back(dialog, condition, what):
    """Leave the dialog for the image window, and come back."""

    def leave():
        for each in main, dialog:
            x("windowactivate", "--sync", each)

    until(leave, condition, what)


def undo(condition, what):
    until(lambda: key(main, "ctrl+z"), condition, what, 60)


def close(dialog):
    until(lambda: key(dialog, "Escape"), lambda: not window(TITLE), "the dialog's end")


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


# From the menu; OK; undo; repeat.
dialog = until(open_from_menu, lambda: window(TITLE), "the dialog from the menu", 40)
wait(lambda: shows(negative_color), "the preview")
shot("dialog")
until(lambda: key(dialog, "alt+o"), lambda: native(layer) != before, "the result", 60)
wait(lambda: not processes("/styleplug_gimp.py"), "the plug-in's end")
applied = native(layer)
rectangle = area(layer)
negative = bytes(255 - value for value in before[: rectangle.width * 3])
notes["applied"] = applied[: rectangle.width * 3] == negative
undo(lambda: native(layer) != applied, "the undo")
notes["undone"] = native(layer) == before
until(lambda: key(main, "ctrl+f"), lambda: native(layer) != before, "the repetition")
wait(lambda: not processes("/styleplug_gimp.py"), "the plug-in's end")
notes["repeated"] = native(layer) == applied
undo(lambda: native(layer) != applied, "the second undo")

# A new layer through a feathered selection is one step, too.
Gimp.context_set_feather(True)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 50, 50, 100, 100)
stylize(image, layer, output="new-layer")
notes["layers"] = [len(image.get_layers())]
Gimp.displays_flush()
undo(lambda: len(image.get_layers()) == 1, "the undo of the new layer")
notes["layers"].append(len(image.get_layers()))
notes["undone_new"] = native(layer) == before

# More bits than GIMP's merge has.
image.convert_precision(Gimp.Precision.U32_LINEAR)
deep = native(layer)
stylize(image, layer)
deep_applied = native(layer)
Gimp.displays_flush()
undo(lambda: native(layer) != deep_applied, "the undo of the deep layer")
notes["undone_deep"] = native(layer) == deep
undo(lambda: native(layer) == before, "the undo of the conversion")
Gimp.Selection.none(image)


# The filters of a layer come back with its pixels.
layer.append_filter(Gimp.DrawableFilter.new(layer, "gegl:pixelize", None))
image.clean_all()
stylize(image, layer)
notes["filters"] = [len(layer.get_filters())]
filtered = native(layer)
Gimp.displays_flush()
undo(lambda: native(layer) != filtered, "the undo of the filtered layer")
notes["undone_filtered"] = native(layer) == before
notes["undone_filtered_whole"] = not image.is_dirty()
notes["filters"].append(len(layer.get_filters()))
layer.get_filters()[0].delete()


# What becomes of selection and layer while the dialog is open is seen by OK, and by
# the preview when the user comes back from there.
corner = layer.copy()
image.insert_layer(corner, None, 0)
corner.scale(400, 300, False)
image.set_selected_layers([corner])
Gimp.displays_flush()
dialog = until(open_from_menu, lambda: window(TITLE), "the dialog of the corner", 40)
wait(lambda: shows(negative_color), "the preview")
corner_before = native(corner)
image.select_rectangle(Gimp.ChannelOps.REPLACE, 0, 0, 50, 50)
come_back(dialog, lambda: not shows(negative_color), "the preview of a part")
shot("part")
Gimp.Selection.none(image)
come_back(dialog, lambda: shows(negative_color), "the preview of the whole")
image.select_rectangle(Gimp.ChannelOps.REPLACE, 600, 400, 100, 100)
come_back(dialog, warns, "the warning before OK")
Gimp.Selection.none(image)
come_back(dialog, lambda: not warns(), "the end of the warning before OK")
shot("looked_again")
image.select_rectangle(Gimp.ChannelOps.REPLACE, 600, 400, 100, 100)
key(dialog, "alt+o")
wait(warns, "the warning")
shot("beside")
notes["beside_same"] = native(corner) == corner_before
Gimp.Selection.none(image)
key(dialog, "alt+t")
wait(lambda: not warns(), "the warning's end")
shot("not_beside")
image.remove_layer(corner)
Gimp.displays_flush()
key(dialog, "alt+o")
wait(warns, "the warning")
shot("removed")
notes["removed_open"] = bool(window(TITLE))
close(dialog)
wait(lambda: not processes("/styleplug_gimp.py"), "the plug-in's end")


# The preview follows the slider; Escape changes nothing.
def slide(dialog):
    wait(lambda: shows(negative_color), "the preview")
    shot("full")
    strength(dialog, "0", lambda: not shows(negative_color))
    shot("zero")
    close(dialog)


notes["escaped"] = open_dialog(image, layer, slide)
notes["escaped_same"] = native(layer) == before


# Cancel while it paints leads back to the dialog.
def cancel(dialog):
    wait(lambda: shows(negative_color), "the preview")
    keys = ("alt+y", "Home", "Down")  # the slow style
    until(lambda: key(dialog, *keys), lambda: painted("slow", PREVIEW), "its preview")
    until(lambda: key(dialog, "alt+o"), lambda: painted("slow", LAYER), "the painting")
    shot("painting")
    count = painted("slow", PREVIEW)
    key(dialog, "alt+c")
    wait(lambda: painted("slow", PREVIEW) > count, "the way back")
    shot("cancelled")
    notes["still_open"] = bool(window(TITLE))
    notes["workers_after_cancel"] = len(workers())
    close(dialog)


notes["cancelled"] = open_dialog(image, layer, cancel)
notes["cancelled_same"] = native(layer) == before


# A worker that died is told, and can be started again.
def lose_worker(dialog):
    wait(lambda: shows(negative_color), "the preview")
    kill_workers()
    wait(warns, "the warning")
    shot("lost")
    count = painted("negative", PREVIEW)
    until(lambda: key(dialog, "alt+t"), workers, "the next worker")
    # The list of styles takes the focus; after that, keys get where they should.
    wait(lambda: painted("negative", PREVIEW) > count, "the preview")
    strength(dialog, "0", lambda: not shows(negative_color))
    strength(dialog, "1", lambda: shows(negative_color))
    until(lambda: key(dialog, "alt+o"), lambda: not window(TITLE), "the result")


notes["lost"] = open_dialog(image, layer, lose_worker)
notes["lost_applied"] = native(layer) != before
wait(lambda: not workers(), "the worker's end")


# After that, a change of the settings starts the next one, too.
def change_without_worker(dialog):
    wait(lambda: shows(painted_color), "the preview")
    kill_workers()
    time.sleep(1)
    strength(dialog, "0", lambda: not shows(painted_color))
    strength(dialog, "1", lambda: shows(painted_color))
    shot("changed_lost")
    close(dialog)


painted_color = bytes(255 - value for value in native(layer)[:3])
notes["changed_lost"] = open_dialog(image, layer, change_without_worker)
wait(lambda: not workers(), "the worker's end")


# One that dies while it paints the layer is told, and OK waits for the next one.
def lose_worker_painting(dialog):
    wait(lambda: shows(painted_color), "the preview")
    keys = ("alt+y", "Home", "Down")  # the slow style
    until(lambda: key(dialog, *keys), lambda: painted("slow", PREVIEW), "its preview")
    until(lambda: key(dialog, "alt+o"), lambda: painted("slow", LAYER), "the painting")
    kill_workers()
    wait(warns, "the warning")
    shot("lost_painting")
    key(dialog, "alt+o")
    time.sleep(1)
    notes["lost_painting_workers"] = len(workers())
    close(dialog)


open(journal, "w").close()
notes["lost_painting"] = open_dialog(image, layer, lose_worker_painting)


# No worker at all.
def without_worker(dialog):
    time.sleep(2)
    shot("missing")
    key(dialog, "alt+o")
    time.sleep(0.5)
    notes["missing_open"] = bool(window(TITLE))
    close(dialog)


use_worker(["/nonexistent/python"])
notes["missing"] = open_dialog(image, layer, without_worker)
use_worker(standin)

# A group: the result can only go into a new layer.
group = Gimp.GroupLayer.new(image, "group")
image.insert_layer(group, None, 0)
image.reorder_item(layer, group, 0)


def look(dialog):
    wait(warns, "the warning")
    shot("group")
    close(dialog)


notes["group"] = open_dialog(image, group, look)
image.reorder_item(layer, None, 0)
image.remove_layer(group)

# Text.
text = Gimp.TextLayer.new(image, "Text", Gimp.context_get_font(), 40, Gimp.Unit.pixel())
image.insert_layer(text, None, 0)
text_before = floats(text)
notes["new_of_text"] = stylize(image, text, output="new-layer")
new = image.get_layers()[0]
new_before = floats(new)
image.convert_precision(Gimp.Precision.FLOAT_NON_LINEAR)  # renders texts anew
notes["new_of_text_painted"] = new_before != text_before
notes["new_of_text_stays"] = floats(new) == new_before
image.convert_precision(Gimp.Precision.U8_NON_LINEAR)
image.remove_layer(new)
notes["text"] = stylize(image, text)
notes["text_changed"] = floats(text) != text_before


# A picture as the style, from elsewhere.
def add_picture(dialog):
    wait(lambda: painted("negative", PREVIEW) > earlier, "the preview")
    until(lambda: key(dialog, "alt+f"), lambda: window("^Add a Style$"), "the entry")
    adding = window("^Add a Style$")
    shot("add")
    until(lambda: key(adding, "alt+b"), lambda: window("^Choose a Style$"), "the files")
    time.sleep(2)
    shot("browse")
    files = window("^Choose a Style$")
    until(lambda: key(files, "Escape"), lambda: window("^Choose a Style$") is None, "")
    x("windowactivate", "--sync", adding)
    x("key", "alt+s", "ctrl+a")
    x("type", f'"{painting}"')  # as Windows copies it
    x("key", "Return")
    wait(lambda: painted(painting, PREVIEW), "the preview in the picture's style")
    time.sleep(2)
    shot("picture")
    until(lambda: key(dialog, "alt+o"), lambda: not window(TITLE), "the result")


def miss_picture(dialog):
    wait(lambda: painted(painting, "missing"), "the error")
    time.sleep(1)
    shot("missing_picture")
    count = painted("negative", PREVIEW)
    key(dialog, "alt+o")
    time.sleep(1)
    notes["missing_picture_open"] = bool(window(TITLE))
    keys = ("alt+y", "Home", "Down")
    until(
        lambda: key(dialog, *keys),
        lambda: painted("negative", PREVIEW) > count,
        "the preview of another style",
    )
    time.sleep(1)
    shot("another_style")
    close(dialog)


def find_picture(dialog):
    # Once for the preview, once for the list.
    wait(lambda: painted(painting, "missing") > missed + 1, "the errors")
    wait(warns, "the warning")
    shot("missing_again")
    shutil.copy(picture, painting)
    previews, rows = painted(painting, PREVIEW), painted(painting, ROW)
    until(
        lambda: key(dialog, "alt+t"),
        lambda: painted(painting, PREVIEW) > previews and painted(painting, ROW) > rows,
        "the pictures in the style that was missing",
    )
    wait(lambda: not warns(), "the warning's end")
    shot("found")
    notes["found"] = True
    close(dialog)


# Two styles blended, and then no more.
def blend(dialog):
    wait(lambda: painted("negative", PREVIEW) > earlier, "the preview")
    half = json.dumps([["negative", 0.5], ["slow", 0.5]])
    keys = ("alt+b", "End")
    until(lambda: key(dialog, *keys), lambda: painted(half, PREVIEW), "the blend")
    shot("blend")
    quarter = json.dumps([["negative", 0.75], ["slow", 0.25]])
    keys = ("alt+a", "ctrl+a", "0", "period", "2", "5", "Tab")
    until(lambda: key(dialog, *keys), lambda: painted(quarter, PREVIEW), "the share")
    keys = ("alt+b", "Home")
    count = painted("negative", PREVIEW)
    until(
        lambda: key(dialog, *keys),
        lambda: painted("negative", PREVIEW) > count,
        "the style alone",
    )
    shot("unblended")
    close(dialog)
    notes["blended"] = True


# A text that cannot be broken into words does not widen the dialog.
def paste(dialog):
    wait(lambda: painted("negative", PREVIEW) > earlier, "the preview")
    width = x("getwindowgeometry", "--shell", dialog).splitlines()[3]
    until(lambda: key(dialog, "alt+f"), lambda: window("^Add a Style$"), "the entry")
    x("key", "alt+s", "ctrl+a")
    x("type", "--delay", "1", "data:" + "iVBORw0KGgo" * 60)
    x("key", "Return")
    wait(warns, "the warning")
    time.sleep(1)
    shot("pasted")
    wider = x("getwindowgeometry", "--shell", dialog).splitlines()[3]
    notes["widths"] = [width, wider]
    close(dialog)


# Cancel leads back also from waiting for a preview that never comes.
def give_up(dialog):
    wait(lambda: painted("negative", PREVIEW) > earlier, "the preview")
    until(lambda: key(dialog, "alt+f"), lambda: window("^Add a Style$"), "the entry")
    x("key", "alt+s", "ctrl+a")
    x("type", "stuck")
    x("key", "Return")
    wait(lambda: painted("stuck", PREVIEW), "the preview that never comes")
    key(dialog, "alt+o")
    time.sleep(1)
    notes["waiting"] = painted("stuck", LAYER)
    key(dialog, "alt+c")
    wait(lambda: painted("stuck", PREVIEW) > 1, "the way back")
    shot("given_up")
    notes["workers_after_giving_up"] = len(workers())
    close(dialog)


earlier = painted("negative", PREVIEW)
notes["blend"] = open_dialog(image, layer, blend)
earlier = painted("negative", PREVIEW)
open_dialog(image, layer, paste)
earlier = painted("negative", PREVIEW)
notes["given_up"] = open_dialog(image, layer, give_up)

painting = f"{folder}/My painting.JPG"
shutil.copy(picture, painting)
layer_before = native(layer)
earlier = painted("negative", PREVIEW)
notes["picture"] = open_dialog(image, layer, add_picture)
notes["picture_applied"] = native(layer) != layer_before
os.remove(painting)
notes["missing_picture"] = open_dialog(image, layer, miss_picture)
missed = painted(painting, "missing")
use_worker([*standin, "negative"])  # the slow one would hold up the list
open_dialog(image, layer, find_picture)
notes.save()
