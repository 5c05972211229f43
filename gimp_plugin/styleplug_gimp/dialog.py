"""The dialog of Neural Style: choose a style, preview it on the layer, apply it."""

from __future__ import annotations

import functools
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import gi

gi.require_version("GimpUi", "3.0")
gi.require_version("Gtk", "3.0")
import layer as layers
from gi.repository import GdkPixbuf, Gegl, GimpUi, GLib, Gtk, Pango
from layer import LayerError, Settings, Thumbnail
from worker_client import (
    PICTURE_SUFFIXES,
    CancelledError,
    Worker,
    WorkerError,
    first_of,
    start,
)

PREVIEW_SIDE = 512
ROW_SIDE = 56
_ARGUMENTS = (
    *("style", "second-style", "mix", "strength"),
    *("style-scale", "preserve-color", "output"),
)


@dataclass
class _Job:
    """A thumbnail to stylize, and callbacks for the answer, run in the main thread."""

    settings: Settings
    thumbnail: Thumbnail
    done: Callable[[dict[str, Any], bytes], None]
    failed: Callable[[str], None]


class PreviewThread(threading.Thread):
    """Owns the worker while the dialog is used; a new wish replaces the last one."""

    def __init__(
        self,
        worker: Worker | None,
        started: Callable[[list[dict[str, str]]], None],
        failed: Callable[[str], None],
        rows: Iterable[_Job] = (),
    ) -> None:
        """Start a worker unless there is one; ``started`` then gets its styles.

        ``rows`` are the jobs left over from another thread with this worker.
        """
        super().__init__(daemon=True)
        self.worker = worker
        self._on_start, self._on_failure = started, failed
        self._condition = threading.Condition()
        self._wish: _Job | None = None
        self.rows = deque(rows)
        self._stopped = self._given_up = False

    @property
    def working(self) -> bool:
        """Whether jobs are still processed."""
        return self.is_alive() and self.worker is not None and self.worker.alive

    def wish(self, job: _Job) -> None:
        """Render ``job`` next; the current job is outdated, or can wait."""
        with self._condition:
            self._wish = job
            self._condition.notify()

    def add_row(self, job: _Job) -> None:
        """Render ``job`` when there is nothing else to do."""
        with self._condition:
            self.rows.append(job)
            self._condition.notify()

    def stop(self) -> None:
        """End the thread soon, but not the worker."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def give_up(self) -> None:
        """End the thread and the worker, which may be waiting for the Hub."""
        self._given_up = True
        self.stop()
        if self.worker:
            self.worker.close()

    def run(self) -> None:
        try:
            if self.worker is None:
                self.worker = start()
                if self._given_up:
                    self.worker.close()
                    return
                GLib.idle_add(self._on_start, self.worker.hello())
            while job := self._next():
                self._render(self.worker, job)
        except WorkerError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - the dialog waits for an answer
            traceback.print_exc()
            if self.worker:
                self.worker.close()
            self._fail(
                f"The preview failed ({type(error).__name__}: {error}). Try again."
            )

    def _fail(self, message: str) -> None:
        if not self._given_up:
            GLib.idle_add(self._on_failure, message)

    def _next(self) -> _Job | None:
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or self._wish or self.rows)
            if self._stopped:
                return None
            if self._wish:
                job, self._wish = self._wish, None
                return job
            return self.rows[0]

    def _render(self, worker: Worker, job: _Job) -> None:
        try:
            reply = worker.stylize(
                {**job.settings.request(), **job.thumbnail.request()},
                job.thumbnail.body(),
                cancelled=lambda: self._stopped or self._wish is not None,
            )
            data = worker.read(reply["bytes"])
        except CancelledError:
            return
        except WorkerError as error:
            if not worker.alive:
                raise
            GLib.idle_add(job.failed, str(error))
        else:
            GLib.idle_add(job.done, reply, data)
        with self._condition:
            if self.rows and self.rows[0] is job:
                self.rows.popleft()


class _Picture(Gtk.ScrolledWindow):
    """Shows a pixbuf scaled to fit; while pressed, the original one."""

    def __init__(self) -> None:
        # With this policy, the window need not be as large as the picture.
        super().__init__(
            hscrollbar_policy=Gtk.PolicyType.EXTERNAL,
            vscrollbar_policy=Gtk.PolicyType.EXTERNAL,
            shadow_type=Gtk.ShadowType.IN,
            hexpand=True,
            vexpand=True,
        )
        self.set_size_request(440, 380)
        self._image = Gtk.Image()
        box = Gtk.EventBox()
        box.add(self._image)
        self.add(box)
        self._pixbuf: Any = None
        self.original: Any = None
        self._pressed = False
        self._fitted: tuple[Any, int, int] | None = None
        self.set_tooltip_text("Press and hold to see the original layer")
        self.get_accessible().set_name("Preview")
        box.connect("button-press-event", self._press, True)
        box.connect("button-release-event", self._press, False)
        self.connect("size-allocate", lambda *_args: self._fit())

    def show_pixbuf(self, pixbuf: Any) -> None:
        self._pixbuf = pixbuf
        self._fit()

    def _press(self, _widget: Any, _event: Any, pressed: bool) -> None:
        self._pressed = pressed
        self._fit()

    def _fit(self) -> None:
        pixbuf = self.original if self._pressed else self._pixbuf
        if pixbuf is None:
            return
        room = self.get_allocation()
        wanted = (pixbuf, room.width - 4, room.height - 4)
        if wanted == self._fitted or min(wanted[1:]) < 1:
            return
        self._fitted = wanted
        self._image.set_from_pixbuf(_fitting(pixbuf, *wanted[1:]))


def _fitting(pixbuf: Any, width: int, height: int) -> Any:
    """Scale to fit, with a chequered background behind transparent parts."""
    scale = min(width / pixbuf.get_width(), height / pixbuf.get_height())
    size = [
        max(1, round(side * scale))
        for side in (pixbuf.get_width(), pixbuf.get_height())
    ]
    return pixbuf.composite_color_simple(
        *size, GdkPixbuf.InterpType.BILINEAR, 255, 8, 0x999999, 0x666666
    )


class StyleDialog:
    """Lets the user choose a style and settings, and stylizes the layer."""

    _thread: PreviewThread

    def __init__(self, procedure: Any, config: Any, image: Any, layer: Any) -> None:
        GimpUi.init("styleplug")
        self._config, self._image, self._layer = config, image, layer
        self._thumbnail, row = Thumbnail.of(image, layer, PREVIEW_SIDE, 2 * ROW_SIDE)
        self._row_thumbnail = replace(row, mask=None)
        self._refusal = ""
        self._rows: dict[str, Any] = {}
        self._failed_rows: list[_Job] = []
        self._styles: list[dict[str, str]] = []
        self._connected = self._rendering = self._cancelled = self._left = False
        self._dialog = GimpUi.ProcedureDialog.new(procedure, config, "Neural Style")
        self._build()
        self._picture.original = self._pixbuf(self._thumbnail, self._thumbnail.pixels)
        self._picture.show_pixbuf(self._picture.original)
        for name in _ARGUMENTS:
            config.connect(f"notify::{name}", lambda *_args: self._changed())
        self._dialog.connect("response", self._on_response)
        self._dialog.connect("delete-event", self._on_delete)
        self._dialog.connect("notify::is-active", self._on_active)
        self._start(None)

    def run(self) -> None:
        """Return when the layer is stylized; raise ``CancelledError`` if it is not."""
        try:
            while self._dialog.run():
                if self._apply():
                    return
            raise CancelledError
        finally:
            self._thread.give_up()
            self._dialog.destroy()

    # ----------------------------------------------------------------- widgets

    def _build(self) -> None:
        self._picture = _Picture()
        self._bar = Gtk.ProgressBar(no_show_all=True)
        self._bar.get_accessible().set_name("Progress")
        left = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        left.pack_start(self._picture, True, True, 0)
        left.pack_start(self._bar, False, False, 0)
        left.pack_start(self._build_status(), False, False, 0)
        self._right = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self._build_styles(self._right)
        self._build_controls(self._right)
        body = Gtk.Box(spacing=12)
        body.pack_start(left, True, True, 0)
        body.pack_start(self._right, False, False, 0)
        outer = Gtk.Box(
            orientation=Gtk.Orientation.VERTICAL, spacing=12, border_width=12
        )
        outer.pack_start(self._build_info(), False, False, 0)
        outer.pack_start(body, True, True, 0)
        outer.show_all()
        self._dialog.get_content_area().pack_start(outer, True, True, 0)
        self._dialog.set_default_size(900, 620)

    def _build_styles(self, column: Any) -> None:
        self._list = Gtk.ListBox(activate_on_single_click=True)
        self._list.set_selection_mode(Gtk.SelectionMode.BROWSE)
        self._list.connect("row-selected", self._on_row_selected)
        # GIMP's dark themes hardly show what is selected.
        self._mark = Gtk.CssProvider()
        self._mark.load_from_data(b":selected { box-shadow: inset 4px 0 currentColor }")
        label = Gtk.Label.new_with_mnemonic("St_yle")
        label.set_xalign(0)
        label.set_mnemonic_widget(self._list)
        self._list.get_accessible().set_name("Style")
        self._scrolled = Gtk.ScrolledWindow(
            hscrollbar_policy=Gtk.PolicyType.NEVER,
            shadow_type=Gtk.ShadowType.IN,
            vexpand=True,
        )
        self._scrolled.set_size_request(300, 240)
        self._scrolled.add(self._list)
        other = Gtk.Button.new_with_mnemonic("Add a style _from elsewhere…")
        other.connect("clicked", lambda _button: self._add_style())
        column.pack_start(label, False, False, 0)
        column.pack_start(self._scrolled, True, True, 0)
        column.pack_start(other, False, False, 0)

    def _build_controls(self, column: Any) -> None:
        self._second = Gtk.ComboBoxText(hexpand=True)
        for renderer in self._second.get_cells():
            renderer.set_property("ellipsize", 3)
        self._second.connect("changed", self._on_second_chosen)
        label = Gtk.Label.new_with_mnemonic("_Blend with")
        label.set_mnemonic_widget(self._second)
        self._second.get_accessible().set_name("Blend with")
        second = Gtk.Box(spacing=6)
        second.pack_start(label, False, False, 0)
        second.pack_start(self._second, True, True, 0)

        entries = [
            self._dialog.get_scale_entry(name, 1.0)
            for name in ("mix", "strength", "style-scale")
        ]
        for entry in entries:
            entry.set_digits(2)
            entry.get_range().set_size_request(130, -1)
        self._mix, _, scale = entries
        scale.set_logarithmic(True)  # 0.5 and 2 are equally far from 1
        controls = self._dialog.fill_box(
            "controls", ["mix", "strength", "style-scale", "preserve-color", "output"]
        )
        column.pack_start(second, False, False, 0)
        column.pack_start(controls, False, False, 0)

    def _build_status(self) -> Any:
        self._spinner = Gtk.Spinner()
        self._status = Gtk.Label(xalign=0, ellipsize=3, selectable=False)
        status = Gtk.Box(spacing=6)
        status.pack_start(self._spinner, False, False, 0)
        status.pack_start(self._status, True, True, 0)
        return status

    def _build_info(self) -> Any:
        self._failure = Gtk.Label(
            xalign=0,
            wrap=True,
            wrap_mode=Pango.WrapMode.WORD_CHAR,  # a path may be a single long word
            lines=6,
            ellipsize=Pango.EllipsizeMode.END,
            max_width_chars=80,
        )
        self._info = Gtk.InfoBar(message_type=Gtk.MessageType.ERROR, no_show_all=True)
        self._info.get_content_area().add(self._failure)
        self._again = self._info.add_button("_Try again", 1)
        self._info.connect("response", lambda *_args: self._start_again())
        self._failure.show()
        return self._info

    def _add_row(self, style: dict[str, str], position: int = -1) -> None:
        image = Gtk.Image.new_from_icon_name("image-loading", Gtk.IconSize.DND)
        image.set_size_request(ROW_SIDE, ROW_SIDE)
        title = GLib.markup_escape_text(style["title"])
        by = ", ".join(filter(None, (style.get("artist"), style.get("year"))))
        label = Gtk.Label(xalign=0, ellipsize=3, use_markup=True)
        label.set_markup(
            f"{title}\n<small>{GLib.markup_escape_text(by)}</small>" if by else title
        )
        box = Gtk.Box(spacing=9, border_width=3)
        box.pack_start(image, False, False, 0)
        box.pack_start(label, True, True, 0)
        row = Gtk.ListBoxRow()
        row.get_style_context().add_provider(
            self._mark, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION
        )
        row.add(box)
        row.style_id = style["id"]
        if style["title"] == _title(style["id"]):
            row.set_tooltip_text(style["id"])
        row.get_accessible().set_name(f"{style['title']} {by}".strip())
        row.show_all()
        self._list.insert(row, position)
        self._rows[style["id"]] = row
        # Below "no other style".
        self._second.insert(position + 1 or -1, style["id"], style["title"])

        def failed(_message: str) -> None:
            image.set_from_icon_name("dialog-error", Gtk.IconSize.DND)
            self._failed_rows.append(job)

        job = _Job(
            Settings(style["id"], 1.0, 1.0, False, ""),
            self._row_thumbnail,
            lambda _reply, data: image.set_from_pixbuf(
                _fitting(self._pixbuf(self._row_thumbnail, data), ROW_SIDE, ROW_SIDE)
            ),
            failed,
        )
        self._thread.add_row(job)

    def _add_style(self) -> None:
        dialog = Gtk.Dialog(
            title="Add a Style",
            transient_for=self._dialog,
            modal=True,
            use_header_bar=False,
        )
        dialog.add_buttons(
            "_Cancel", Gtk.ResponseType.CANCEL, "_Add", Gtk.ResponseType.OK
        )
        dialog.set_default_response(Gtk.ResponseType.OK)
        label = Gtk.Label.new_with_mnemonic(
            "Any picture or _style file, or owner/name on the Hugging Face Hub:"
        )
        label.set_xalign(0)
        entry = Gtk.Entry(
            activates_default=True, hexpand=True, width_chars=48, max_length=4096
        )
        label.set_mnemonic_widget(entry)
        browse = Gtk.Button.new_with_mnemonic("_Browse…")
        browse.connect("clicked", lambda _button: self._browse(dialog, entry))
        grid = Gtk.Grid(row_spacing=6, column_spacing=6, border_width=12)
        grid.attach(label, 0, 0, 2, 1)
        grid.attach(entry, 0, 1, 1, 1)
        grid.attach(browse, 1, 1, 1, 1)
        dialog.get_content_area().add(grid)
        dialog.show_all()
        chosen = dialog.run() == Gtk.ResponseType.OK and entry.get_text().strip()
        dialog.destroy()
        if chosen:
            self._config.set_property("style", _named(chosen))

    def _browse(self, parent: Any, entry: Any) -> None:
        chooser = Gtk.FileChooserNative.new(
            "Choose a Style", parent, Gtk.FileChooserAction.OPEN, None, None
        )
        styles = Gtk.FileFilter()
        styles.set_name("Styles and pictures")
        for suffix in (".safetensors", *PICTURE_SUFFIXES):
            styles.add_pattern(f"*{suffix}")
            styles.add_pattern(f"*{suffix.upper()}")
        chooser.add_filter(styles)
        if chooser.run() == Gtk.ResponseType.ACCEPT:
            entry.set_text(chooser.get_filename() or "")
        chooser.destroy()

    # ----------------------------------------------------------------- preview

    def _start(self, worker: Worker | None) -> None:
        self._info.hide()
        rows = self._thread.rows if worker else ()
        self._thread = PreviewThread(worker, self._on_styles, self._fail, rows)
        self._thread.start()
        if worker is None:
            self._connected = False
            self._dialog.set_response_sensitive(Gtk.ResponseType.OK, False)
            self._say("Starting styleplug…", busy=True)
        else:
            self._changed()

    def _on_styles(self, styles: list[dict[str, str]]) -> None:
        self._connected = True
        for row in self._list.get_children():
            self._list.remove(row)
        self._rows.clear()
        self._failed_rows.clear()
        self._second.remove_all()
        self._second.append("", "no other style")
        self._styles = styles
        for style in styles:
            self._add_row(style)
        self._changed()
        if row := self._list.get_selected_row():
            row.grab_focus()
            # Only after the row has been given its place.
            GLib.idle_add(self._scroll_to, row, priority=GLib.PRIORITY_LOW)

    def _scroll_to(self, row: Any) -> None:
        place = row.get_allocation()
        self._scrolled.get_vadjustment().clamp_page(place.y, place.y + place.height)

    def _on_row_selected(self, _list: Any, row: Any) -> None:
        if row is not None and row.style_id != self._config.get_property("style"):
            self._config.set_property("style", row.style_id)

    def _on_second_chosen(self, second: Any) -> None:
        chosen = second.get_active_id()
        if chosen is not None and chosen != self._config.get_property("second-style"):
            self._config.set_property("second-style", chosen)

    def _changed(self) -> None:
        """Update the list and the preview to the settings."""
        settings = Settings.of(self._config)
        if self._rendering or not self._connected:
            return
        if not self._thread.working:
            self._start_again()
            return
        if not settings.style:
            try:
                self._config.set_property("style", first_of(self._styles))
            except WorkerError as error:
                self._fail(str(error))
            return
        for style in filter(None, (settings.second_style, settings.style)):
            if style not in self._rows:
                self._add_row({"id": style, "title": _title(style)}, 0)
                self._scrolled.get_vadjustment().set_value(0)
        self._list.select_row(self._rows[settings.style])
        self._second.set_active_id(settings.second_style)
        self._mix.set_sensitive(bool(settings.second_style))
        self._refusal = self._find_refusal()
        if self._refusal:
            self._warn(self._refusal)
        else:
            self._info.hide()
            self._dialog.set_response_sensitive(Gtk.ResponseType.OK, True)
        self._say("Painting the preview…", busy=True)
        done = functools.partial(self._on_preview, self._thumbnail)
        failed = functools.partial(self._on_no_preview, settings)
        self._thread.wish(_Job(settings, self._thumbnail, done, failed))

    def _find_refusal(self) -> str:
        """Return why the layer cannot be painted with these settings, or ``""``."""
        try:
            layers.check(self._image, [self._layer])
            layers.check_output(self._layer, self._config.get_property("output"))
        except LayerError as refusal:
            return str(refusal)
        return ""

    def _on_active(self, dialog: Any, _property: Any) -> None:
        """Check the layer again after the user was elsewhere, perhaps in the image."""
        if not dialog.is_active():
            self._left = True
        elif self._left and not self._rendering and self._look():
            self._changed()

    def _look(self) -> bool:
        """Read the layer and its selection again; return whether anything changed."""
        before = self._thumbnail, self._refusal
        self._refusal = self._find_refusal()
        if self._layer.is_valid():
            [self._thumbnail] = Thumbnail.of(self._image, self._layer, PREVIEW_SIDE)
            self._picture.original = self._pixbuf(
                self._thumbnail, self._thumbnail.pixels
            )
        return before != (self._thumbnail, self._refusal)

    def _on_no_preview(self, settings: Settings, message: str) -> None:
        if Settings.of(self._config) == settings:
            self._warn(message, again=True)

    def _on_preview(
        self, thumbnail: Thumbnail, reply: dict[str, Any], data: bytes
    ) -> None:
        self._picture.show_pixbuf(self._pixbuf(thumbnail, data))
        self._say(
            f"Preview {reply['width']} x {reply['height']}, {reply['seconds']:.2f} s "
            f"on {_device(reply['device'])}"
        )

    def _pixbuf(self, thumbnail: Thumbnail, data: bytes) -> Any:
        width, height = thumbnail.width, thumbnail.height
        if thumbnail.gray:
            area = Gegl.Rectangle.new(0, 0, width, height)
            gray = Gegl.Buffer.new("Y'A u8", 0, 0, width, height)
            gray.set(area, "R'G'B'A u8", data)
            data = gray.get(area, 1.0, "R'G'B'A u8", Gegl.AbyssPolicy.NONE)
        return GdkPixbuf.Pixbuf.new_from_bytes(
            GLib.Bytes.new(data),
            GdkPixbuf.Colorspace.RGB,
            True,
            8,
            width,
            height,
            width * 4,
        )

    # ------------------------------------------------------------------ result

    def _apply(self) -> bool:
        """Stylize the layer; return False if it was cancelled or failed."""
        self._rendering, self._cancelled = True, False
        self._show_rendering(True)
        self._thread.stop()
        while self._thread.is_alive():
            self._pump()
            if self._cancelled:
                self._thread.give_up()
                break
            time.sleep(0.01)
        worker = self._thread.worker
        failure = ""
        try:
            if self._cancelled or not worker:
                raise CancelledError
            layers.stylize(
                worker,
                self._image,
                self._layer,
                Settings.of(self._config),
                progress=self._on_progress,
                idle=self._pump,
                cancelled=lambda: self._cancelled,
            )
            return True
        except CancelledError:
            pass
        except (LayerError, WorkerError) as error:
            failure = str(error)
        finally:
            self._rendering = False
        self._show_rendering(False)
        self._look()
        alive = worker is not None and worker.alive
        if alive or not failure:
            self._start(worker if alive else None)
        if failure:
            self._fail(failure)
        return False

    def _show_rendering(self, rendering: bool) -> None:
        self._right.set_sensitive(not rendering)
        self._bar.set_fraction(0)
        self._bar.set_visible(rendering)
        for response in (Gtk.ResponseType.OK, Gtk.ResponseType.HELP, 1, 2, 3):
            self._dialog.set_response_sensitive(response, not rendering)
        if rendering:
            self._say("Painting the layer…", busy=True)

    def _on_progress(self, fraction: float) -> None:
        self._bar.set_fraction(fraction)
        if not self._cancelled:
            self._say(f"Painting the layer… {100 * fraction:.0f} %", busy=True)
        self._pump()

    def _pump(self) -> None:
        while Gtk.events_pending():
            Gtk.main_iteration_do(False)

    def _on_response(self, _dialog: Any, response: int) -> None:
        if self._rendering and response in (
            Gtk.ResponseType.CANCEL,
            Gtk.ResponseType.DELETE_EVENT,
        ):
            self._cancelled = True
            self._say("Stopping…", busy=True)

    def _on_delete(self, _dialog: Any, _event: Any) -> bool:
        return self._rendering  # the response has already cancelled it

    # ------------------------------------------------------------------ status

    def _say(self, text: str, busy: bool = False) -> None:
        self._status.set_text(text)
        if busy:
            self._spinner.start()
        else:
            self._spinner.stop()
        self._spinner.set_visible(busy)

    def _warn(self, message: str, again: bool = False) -> None:
        """Show why these settings do not work; others may."""
        self._failure.set_text(message)
        self._again.set_visible(again)
        self._info.show()
        self._say("")
        self._dialog.set_response_sensitive(Gtk.ResponseType.OK, False)

    def _fail(self, message: str) -> None:
        """Show why there is no worker; only a new one may help."""
        self._warn(message, again=True)

    def _start_again(self) -> None:
        if self._thread.working:
            for job in self._failed_rows:
                self._thread.add_row(job)
            self._failed_rows.clear()
            self._changed()
            return
        worker = self._thread.worker
        self._thread.stop()
        self._start(worker if worker and worker.alive else None)


def _named(text: str) -> str:
    """Return the style that was typed, or dropped as a file URI.

    Quotes are removed, as Windows copies paths in them.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if text.startswith("file://"):
        try:
            return str(GLib.filename_from_uri(text)[0])
        except GLib.Error:
            return text
    return os.path.expanduser(text)


def _title(style: str) -> str:
    """Return the title of a style of which only the id is known."""
    return os.path.basename(style) if os.path.isabs(style) else style


def _device(name: str) -> str:
    kind = name.split(":")[0]
    return {"cpu": "CPU", "cuda": "GPU"}.get(kind, f"GPU ({kind})")
