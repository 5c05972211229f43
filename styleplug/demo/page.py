"""The page itself: Gradio components and their event handlers."""

from __future__ import annotations

import abc
import base64
import functools
import html
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import gradio as gr
from gradio.component_meta import ComponentMeta
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from gradio.utils import get_upload_folder

from .. import hub
from ..engine import Progress
from ..errors import StyleplugError
from ..files import end_in_order
from ..style import StyleInfo
from .studio import (
    EXAMPLES,
    PREFIX,
    Content,
    Limits,
    Mask,
    OwnStyle,
    Settings,
    StoppedError,
    Studio,
    period,
    style_title,
)

HERE = Path(__file__).parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
THUMBNAILS = _CACHE / "styleplug" / "thumbnails"

_CLEAN_EVERY, _KEEP = 600, 3000
"""Seconds between clean-ups, and age of the files they remove: no file of a visitor
stays unused for longer than an hour."""
_WAITING = 60
"""Maximum number of visitors in the queue; others are asked to come back."""
_ENGINE: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": 1}
_PREVIEW: dict[str, Any] = {"concurrency_id": "preview", "concurrency_limit": 20}
"""Separate, to answer while a painting is in progress: then no preview is wanted."""
_API: dict[str, Any] = {"concurrency_id": "api", "concurrency_limit": 2}
"""Separate, as a call may name a style that has to be fetched from the Hub first."""
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_DRAWINGS, _DRAWING_BYTES = 100, 4 * 2**20
"""Most brush drawings kept for all visitors, and most bytes of each; one colour on a
preview needs far fewer."""
_INVITATION = "Choose a photo, or start with an example."
_YOURS = "Your own paintings"
_ONE, _MANY = "one", "many"
"""Kinds of jobs: painting the picture on the stage, and painting a folder."""
_LITERAL = str.maketrans({sign: f"&#{ord(sign)};" for sign in "\\$`"})
_MARKED, _UNMARKED = "Paint what I mark", "Keep what I mark"

OwnStyles = dict[str, OwnStyle]
F = TypeVar("F", bound=Callable[..., Any])


def launch(
    *,
    styles: Sequence[StyleInfo] | None = None,
    hub_styles: Sequence[str] = ("*",),
    limits: Limits | None = None,
    thumbnails: Path = THUMBNAILS,
    **options: Any,
) -> Any:
    """Serve the page; return what ``gradio.Blocks.launch`` returns.

    ``styles`` are the styles offered, by default the bundled and cached ones.
    ``hub_styles`` are patterns of Hub repositories that visitors may use; ``()`` allows
    none. ``thumbnails`` is the folder where the styles' thumbnails are kept.
    ``options`` are passed to ``gradio.Blocks.launch``. SIGTERM and SIGHUP end the
    process as Ctrl-C does, which removes the visitors' files.
    """
    end_in_order()
    limits = limits or Limits()
    page = build(
        styles=styles, hub_styles=hub_styles, limits=limits, thumbnails=thumbnails
    )
    page.queue(max_size=_WAITING, default_concurrency_limit=4)
    return page.launch(
        theme=_theme(),
        css_paths=[HERE / "page.css"],
        max_file_size=limits.file_bytes,
        footer_links=["api", "settings"],
        allowed_paths=[str(path) for path in EXAMPLES],
        **options,
    )


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
    )


def build(
    *,
    styles: Sequence[StyleInfo] | None = None,
    hub_styles: Sequence[str] = (),
    limits: Limits | None = None,
    thumbnails: Path = THUMBNAILS,
) -> gr.Blocks:
    """Return the page; only :func:`launch` adds its theme and its examples.

    From now on, Gradio keeps the files of this process in a folder that is removed with
    it, so other pages of the process must be built later.
    """
    styles = hub.list_styles() if styles is None else styles
    uploads = get_upload_folder()
    studio = Studio(styles, limits=limits, hub_styles=hub_styles, folder=uploads)
    if not os.path.basename(uploads).startswith(PREFIX):  # else of an earlier page
        os.environ["GRADIO_TEMP_DIR"] = str(studio.folder)
    page = _Page(studio, thumbnails)
    blocks = _Blocks(
        title="styleplug", delete_cache=(_CLEAN_EVERY, _KEEP), analytics_enabled=False
    )
    blocks.studio = studio
    with blocks:
        page.lay_out()
        blocks.unload(page.leave)
    studio.warm_up()
    threading.Thread(target=_clean_regularly, args=[studio], daemon=True).start()
    return blocks


def _clean_regularly(studio: Studio) -> NoReturn:
    while True:
        studio.clean(_KEEP)
        time.sleep(_CLEAN_EVERY)


def _sentences(function: F) -> F:
    """Make a handler show its errors to the visitor as sentences."""

    @functools.wraps(function)
    def speaking(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (StyleplugError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    # A tool is named after its function.
    speaking.__name__ = function.__name__.removeprefix("_api_")
    return speaking  # type: ignore[return-value]


class _Blocks(gr.Blocks):
    """A page that ends its paintings when it is closed, instead of waiting for them."""

    studio: Studio

    def block_thread(self) -> None:
        try:
            super().block_thread()
        finally:
            self.studio.close()


class _Unannounced(ComponentMeta):
    """Makes a component without the stub that Gradio would write beside its source."""

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> Any:
        return abc.ABCMeta.__new__(cls, name, bases, attrs)


class _Photo(gr.Image, metaclass=_Unannounced):
    """An image whose value is the path of the uploaded file, whatever it may be.

    The engine refuses what is not an image, with a sentence.
    """

    is_template = True
    """Whether it is displayed like its base class."""

    def preprocess(self, payload: Any) -> str | None:
        return _path_of(payload)


class _Slider(gr.Slider, metaclass=_Unannounced):
    """A slider whose value is what was sent, whatever it may be.

    The studio refuses what is not a number in its range, with a sentence.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return payload


class _Brush(gr.ImageEditor, metaclass=_Unannounced):
    """An editor whose value is only the drawing: a PNG as it was sent, or None.

    Everything else that it sends is ignored, and nothing is decoded before the engine
    has checked its size.
    """

    is_template = True

    @server  # type: ignore[untyped-decorator]
    def accept_blobs(self, data: AcceptBlobs) -> None:
        one, (_, drawing) = data.data, data.files[0]
        first = one["type"] == "layer" and str(one["index"]) == "0"
        if first and len(drawing) <= _DRAWING_BYTES:
            super().accept_blobs(data)
            for forgotten in list(self.blob_storage)[:-_DRAWINGS]:
                self.blob_storage.pop(forgotten, None)

    def preprocess(self, payload: Any) -> Any:
        if payload is not None and payload.id is not None:
            payload = self.blob_storage.pop(payload.id, None)
        layer = next(iter(payload.layers), None) if payload is not None else None
        return layer if isinstance(layer, bytes) else _path_of(layer)


class _Job(NamedTuple):
    session: str | None
    kind: str
    token: str


class _Page:
    """The components of the page and their events."""

    def __init__(self, studio: Studio, thumbnails: Path) -> None:
        self.studio = studio
        self.thumbnails = thumbnails
        self.jobs: set[_Job] = set()
        """Paintings in progress or in the queue, without those that were stopped."""

    # Layout

    def lay_out(self) -> None:
        gr.HTML(
            "<h1>styleplug</h1><p>Turn a photo into a painting. Choose a picture and a "
            "style, or a painting of your own as the style; move the line to compare, "
            "and download it in full size.</p>",
            elem_id="header",
        )
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=8, min_width=320, elem_id="stage"), gr.Tabs():
                with gr.Tab("One picture"):
                    self._lay_out_stage()
                with gr.Tab("Many pictures"):
                    self._lay_out_batch()
            with gr.Column(scale=5, min_width=320):
                self._lay_out_styles()
                self._lay_out_settings()
                if self.studio.hub_styles:
                    self._lay_out_hub()
        gr.Markdown(
            f"Pictures are used for nothing but this, and deleted within an hour of "
            f"their last use. Up to {self.studio.limits.pixels // 1_000_000} "
            "megapixels.",
            elem_id="footnote",
        )
        self.settings = [
            *(self.picker, self.strength, self.scale),
            *(self.colors, self.second, self.mix),
        ]
        self._connect_styles()
        self._connect_stage()
        self._connect_batch()
        self._offer_api()

    def _lay_out_styles(self) -> None:
        groups = self._groups({})
        if not self.studio.styles:
            raise StyleplugError("There is no style to offer; install styleplug again.")
        self.picker = gr.HTML(
            next(iter(self.studio.styles)),
            groups=groups,
            html_template=(HERE / "picker.html").read_text("utf-8"),
            js_on_load=(HERE / "picker.js").read_text("utf-8"),
            apply_default_css=False,
            label="Style",
            elem_id="picker",
        )
        self.own = gr.State({})
        with gr.Column(elem_id="own-part"):
            self.own_upload = gr.UploadButton(
                "Use your own painting as the style", file_types=["image"]
            )
            self.own_upload.preprocess = _path_of  # type: ignore[method-assign]
            self.own_status = gr.HTML(_say(""), elem_id="own-status")

    def _lay_out_settings(self) -> None:
        self.strength = _Slider(
            0, 1, 1, step=0.01, label="Strength", info="How far from the photo"
        )
        self.scale = _Slider(
            0.25, 4, 1, step=0.05, label="Stroke size",
            info="2 paints with a brush twice as large",
        )  # fmt: skip
        self.colors = gr.Checkbox(label="Keep the photo's colours")
        with gr.Accordion("Blend with a second style", open=False):
            self.second = gr.Dropdown(self._choices({}), value="", label="Second style")
            self.mix = _Slider(0, 1, 0.5, step=0.01, label="Share of the second style")

    def _lay_out_hub(self) -> None:
        with gr.Accordion("A style from the Hugging Face Hub", open=False):
            self.hub_name = gr.Textbox(
                label="Repository",
                placeholder="owner/name",
                info="Press Enter to add it to the list above",
                max_length=200,
            )
            self.hub_status = gr.HTML(elem_id="hub-status")

    def _lay_out_stage(self) -> None:
        self.content = gr.State(None)
        self.mask = gr.State(None)
        self.job = gr.State(None)
        self.asked = gr.State(None)
        self.painted = gr.State(None)
        self.in_editor = gr.State(None)
        self.photo = _Photo(
            label="Photo", height=420, sources=["upload", "clipboard", "webcam"],
            buttons=[], elem_id="photo",
        )  # fmt: skip
        self.compare = gr.ImageSlider(
            label="Photo and painting", type="filepath", format="png", image_mode=None,
            interactive=False, visible=False, max_height=640, buttons=["fullscreen"],
            elem_id="compare",
        )  # fmt: skip
        self.status = gr.HTML(_say(_INVITATION), elem_id="status")
        with gr.Row(elem_id="actions"):
            self.full = gr.Button(
                "Paint in full size", variant="primary", visible=False
            )
            self.stop = gr.Button("Stop", variant="stop", visible=False)
            self.download = gr.DownloadButton(
                "Download", variant="primary", visible=False
            )
            self.another = gr.Button("Another photo", visible=False)
        with gr.Accordion("Only a part of the picture", open=False, visible=False) as a:
            self.region = gr.Radio(
                [_MARKED, _UNMARKED], value=_MARKED, label="Mark with the brush"
            )
            self.editor = _Brush(
                label="Brush", format="png", image_mode="RGBA", sources=(),
                transforms=(), layers=False, buttons=[],
                brush=gr.Brush(
                    default_size=40, colors=["#ff2d55b3"], color_mode="fixed"
                ),
                elem_id="editor",
            )  # fmt: skip
        self.part = a
        self.examples = gr.Dataset(
            components=[gr.Image(visible=False, type="filepath")],
            samples=[[str(path)] for path in EXAMPLES],
            type="index",
            label="Examples",
            elem_id="examples",
        )

    def _lay_out_batch(self) -> None:
        limits = self.studio.limits
        gr.Markdown(
            "Paint many pictures with the style and settings chosen on this page, and "
            f"download them as a zip file: up to {limits.files} at a time, each of up "
            f"to {limits.file_bytes >> 20} MB."
        )
        self.batch_files = gr.File(
            label="Pictures", file_count="multiple", height=220, elem_id="batch-files"
        )
        self.batch_job = gr.State(None)
        self.batch_asked = gr.State(None)
        self.batch_status = gr.HTML(_say(""), elem_id="batch-status")
        with gr.Row(elem_id="batch-actions"):
            self.batch_folder = gr.UploadButton(
                "Choose a folder", file_count="directory"
            )
            self.batch_run = gr.Button("Paint all", variant="primary")
            self.batch_stop = gr.Button("Stop", variant="stop", visible=False)
        self.batch_zip = gr.DownloadButton(
            "Download zip", variant="primary", visible=False
        )

    # Styles

    def _groups(self, own: OwnStyles) -> list[dict[str, Any]]:
        """Return the gallery, a visitor's own paintings first."""
        groups: dict[str, list[dict[str, str]]] = {}
        for info, image in self.studio.thumbnails(self.thumbnails):
            heading = period(info)
            words = f"{info.id} {style_title(info)} {info.artist} {info.year} {heading}"
            groups.setdefault(heading, []).append(
                _tile(info.id, style_title(info), words, image, info.artist, info.year)
            )
        gallery = [
            {"title": heading, "styles": groups[heading]}
            for heading in sorted(groups, key=lambda h: (not h[0].isdigit(), h))
        ]
        if own:
            tiles = [
                _tile(style.id, style.title, f"{style.title} {_YOURS}", style.thumbnail)
                for style in reversed(own.values())
            ]
            gallery.insert(0, {"title": _YOURS, "styles": tiles})
        return gallery

    def _choices(self, own: OwnStyles) -> list[tuple[str, str]]:
        """Return the titles and ids that are offered as second styles."""
        return [
            ("None", ""),
            *((style.title, style.id) for style in reversed(own.values())),
            *((style_title(info), name) for name, info in self.studio.styles.items()),
        ]

    def _connect_styles(self) -> None:
        self.own_upload.upload(
            self._add_own_style, [self.own_upload, self.own],
            [self.own, self.picker, self.second, self.own_status],
            api_visibility="private", show_progress="minimal",
            show_progress_on=self.own_status, trigger_mode="multiple",
            concurrency_id="own", concurrency_limit=1,
        )  # fmt: skip
        if self.studio.hub_styles:
            self.hub_name.submit(
                self._add_hub_style, [self.hub_name, self.own],
                [self.picker, self.second, self.hub_status], **_QUIET,
            )  # fmt: skip

    def _add_hub_style(self, name: str, own: OwnStyles) -> tuple[Any, ...]:
        try:
            info = self.studio.add_hub_style(name)
        except (StyleplugError, ValueError) as error:
            return gr.skip(), gr.skip(), _say(str(error), wrong=True)
        added = f"Added {style_title(info)}, licence {info.license}."
        return *self._offer(own, info.id), _say(added)

    def _add_own_style(self, path: str | None, own: OwnStyles) -> tuple[Any, ...]:
        try:
            style = self.studio.own_style(_given(path), own)
        except (StyleplugError, ValueError) as error:
            return gr.skip(), gr.skip(), gr.skip(), _say(str(error), wrong=True)
        own = {**own, style.id: style}
        text = (
            f"{style.title} is now a style, until you leave the page or do not use it "
            f"for {_KEEP // 60} minutes."
        )
        return own, *self._offer(own, style.id), _say(text)

    def _offer(self, own: OwnStyles, chosen: str) -> tuple[Any, Any]:
        """Return updates of the gallery and of the second styles."""
        return (
            gr.update(groups=self._groups(own), value=chosen),
            gr.update(choices=self._choices(own)),
        )

    # One picture

    def _connect_stage(self) -> None:
        buttons = [self.full, self.stop, self.download]
        self.photo.change(
            self._open,
            self.photo,
            [
                *(self.content, self.mask, self.photo, self.compare, self.status),
                *(self.another, self.part, self.editor, *buttons),
            ],
            **_QUIET,
        )
        self.another.click(
            self._put_away, None, [self.photo, self.status], queue=False, **_QUIET
        )
        self.examples.click(
            self._make_way, self.content, self.photo, queue=False,
            trigger_mode="always_last", **_QUIET,
        ).then(
            self._example, self.examples, [self.photo, self.picker], queue=False,
            trigger_mode="always_last", **_QUIET,
        )  # fmt: skip
        self.part.expand(
            self._load_into_editor, [self.content, self.in_editor],
            [self.editor, self.in_editor], **_QUIET,
        )  # fmt: skip
        gr.on(
            [self.editor.input, self.region.change],
            self._mark, [self.editor, self.region], self.mask,
            trigger_mode="always_last", **_QUIET,
        )  # fmt: skip
        self.editor.clear(self._wipe, self.content, [self.editor, self.mask], **_QUIET)
        given: list[Any] = [self.content, self.mask, *self.settings]
        shown = [self.painted, self.compare, self.status, *buttons]
        preview: dict[str, Any] = {
            "fn": self._preview,
            "inputs": [self.painted, self.own, *given],
            "outputs": shown,
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self.compare,
            **_PREVIEW,
        }
        gr.on([c.change for c in given], trigger_mode="always_last", **preview)
        self.full.click(
            self._begin, [self.editor, self.region, self.content, *self.settings],
            [self.job, self.asked, self.status, *buttons], queue=False, **_QUIET,
        ).then(
            self._paint, [self.job, self.own, self.asked], shown,
            api_visibility="private", show_progress="full",
            show_progress_on=self.compare, trigger_mode="multiple", **_ENGINE,
        ).failure(
            self._give_up, self.job, [self.status, *buttons], queue=False, **_QUIET
        )  # fmt: skip
        self.stop.click(
            self._stop, self.job, [self.status, *buttons], queue=False, **_QUIET
        ).then(**preview)  # for changes made while no preview was wanted

    def _open(self, request: gr.Request, path: str | None) -> tuple[Any, ...]:
        self._end_jobs(request, _ONE)  # of the previous photo: an example was chosen
        if path is None:
            return self._closed(gr.skip(), photo=gr.update(visible=True))
        try:
            content = self.studio.open(path)
        except (StyleplugError, ValueError) as error:
            no_photo = gr.update(value=None, visible=True)
            return self._closed(_say(str(error), wrong=True), photo=no_photo)
        finally:
            self._end_jobs(request, _ONE)  # begun while this waited for others
        before = (content.preview, content.preview)
        return (
            *(content, None, gr.update(visible=False)),
            *(gr.update(value=before, visible=True), ""),
            *(gr.update(visible=True), gr.update(visible=True, open=False), None),
            *_buttons(),
        )

    def _closed(self, status: Any, photo: Any) -> tuple[Any, ...]:
        """Return updates to a stage without a photo, with a place to drop one.

        A place that is empty is not cleared, as the next photo may be there by then.
        """
        hidden = gr.update(visible=False)
        compare = gr.update(value=None, visible=False)
        return None, None, photo, compare, status, hidden, hidden, None, *_buttons()

    def _put_away(self, request: gr.Request) -> tuple[None, str]:
        self._end_jobs(request, _ONE)
        return None, _say(_INVITATION)

    def _make_way(self, content: Content | None) -> Any:
        """Clear a photo whose files are gone, so that the same example is a change."""
        if content and all(map(os.path.exists, (content.path, content.preview))):
            return gr.skip()
        return None

    def _example(self, index: int) -> tuple[str, str]:
        names = list(self.studio.styles)
        return str(EXAMPLES[index]), names[(index + 1) * 3 % len(names)]

    def _load_into_editor(self, content: Content | None, in_editor: str | None) -> Any:
        """Give the editor the photo unless it has it; it takes one only while open."""
        if content is None or content.preview == in_editor:
            return gr.skip(), gr.skip()
        return _undrawn(content), content.preview

    def _wipe(self, content: Content | None) -> tuple[Any, None]:
        """Give the photo back to the editor, as clearing it removes that, too."""
        return None if content is None else _undrawn(content), None

    @_sentences
    def _mark(self, drawing: bytes | str | None, region: str) -> Mask:
        return self.studio.mask_of(drawing, inverted=region == _UNMARKED)

    def _preview(
        self,
        request: gr.Request,
        painted: list[Any] | None,
        own: OwnStyles,
        *given: Any,
    ) -> Any:
        content, mask, *settings = given
        if content is None:  # the status may be about the previous photo
            return None, gr.skip(), _say(_INVITATION), *_buttons()
        if self._has_job(request, _ONE) or list(given) == painted:
            return gr.skip()  # the full painting is there, or will be
        start = time.monotonic()
        try:
            preview = self.studio.preview(content, Settings(*settings, own=own), mask)
        except (StyleplugError, ValueError) as error:
            return None, gr.skip(), _say(str(error), wrong=True), *_buttons()
        if self._has_job(request, _ONE):  # begun while this waited for others
            return gr.skip()
        seconds = time.monotonic() - start
        text = (
            f"Preview after {seconds:.1f} s. The photo has "
            f"{content.width} by {content.height} pixels."
        )
        return None, (content.preview, preview), _say(text), *_buttons("full")

    def _paint(
        self,
        job: _Job | None,
        own: OwnStyles,
        asked: list[Any],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        if job is None:
            return gr.skip()
        content, mask, *settings = asked
        try:
            with self._report(job, progress) as report:
                painting = self.studio.paint(
                    content.path,
                    Settings(*settings, own=own),
                    mask=mask,
                    progress=report,
                )
        except StoppedError:
            return gr.skip()
        except (StyleplugError, ValueError) as error:
            return None, gr.skip(), _say(str(error), wrong=True), *_buttons("full")
        size = os.path.getsize(painting.path)
        text = (
            f"Done: {content.width} by {content.height} pixels, {size / 1e6:.1f} MB, "
            "ready to download."
        )
        return (
            asked,
            (painting.before, painting.after),
            _say(text),
            # Another style may have been chosen meanwhile, which then has no preview.
            *_buttons("full", "download", path=painting.path),
        )

    def _begin(
        self,
        request: gr.Request,
        drawing: bytes | str | None,
        region: str,
        content: Content | None,
        *settings: Any,
    ) -> Any:
        """Begin a job; read the drawing itself, as the last stroke may be in no mask
        yet."""
        if content is None:  # put away just as the button was pressed
            return None, None, gr.skip(), *_buttons()
        mask = self._mark(drawing, region)
        return self._new_job(request, _ONE, (content, mask, *settings))

    def _begin_batch(self, request: gr.Request, *asked: Any) -> Any:
        return self._new_job(request, _MANY, asked)

    def _new_job(self, request: gr.Request, kind: str, asked: tuple[Any, ...]) -> Any:
        """Return a job, what to paint as of now, the status and the buttons."""
        if self._has_job(request, kind):  # the button was pressed twice
            return gr.skip()
        job = _Job(request.session_hash, kind, secrets.token_hex(8))
        self.jobs.add(job)
        return job, list(asked), _say(""), *_buttons("stop")

    def _has_job(self, request: gr.Request, kind: str) -> bool:
        """Return whether a visitor has a job of this kind in progress or queued."""
        return any(self._jobs_of(request, kind))

    def _jobs_of(self, request: gr.Request, *kinds: str) -> Iterator[_Job]:
        """Yield a visitor's jobs, perhaps only those of some kinds."""
        for job in list(self.jobs):
            if job.session == request.session_hash and (not kinds or job.kind in kinds):
                yield job

    def _end_jobs(self, request: gr.Request, *kinds: str) -> None:
        """Stop a visitor's jobs, perhaps only those of some kinds."""
        self.jobs.difference_update(self._jobs_of(request, *kinds))

    def _stop(self, job: _Job) -> tuple[Any, ...]:
        self.jobs.discard(job)
        return _say("Stopped."), *_buttons("full")

    def _give_up(self, job: _Job) -> tuple[Any, ...]:
        """Report that a job found no place in the queue."""
        self.jobs.discard(job)
        text = "Nothing was painted, as too many are waiting; try again in a minute."
        return _say(text, wrong=True), *_buttons("full")

    def leave(self, request: gr.Request) -> None:
        """Stop the jobs of a visitor who has left."""
        self._end_jobs(request)

    @contextmanager
    def _report(self, job: _Job, progress: gr.Progress) -> Iterator[Progress]:
        """Yield a callback for the engine that shows progress and ends stopped jobs."""

        def report(fraction: float) -> None:
            if job not in self.jobs:
                raise StoppedError("Stopped.")
            progress(fraction, desc="Painting")

        try:
            yield report
            report(1.0)  # the job may have been stopped while the file was written
        finally:
            self.jobs.discard(job)

    # Many pictures

    def _connect_batch(self) -> None:
        self.batch_folder.upload(
            lambda files: files, self.batch_folder, self.batch_files, **_QUIET
        )
        buttons = [self.batch_run, self.batch_stop, self.batch_zip]
        shown = [self.batch_status, *buttons]
        self.batch_files.change(self._offer_batch, None, shown, queue=False, **_QUIET)
        self.batch_run.click(
            self._begin_batch, [self.batch_files, *self.settings],
            [self.batch_job, self.batch_asked, *shown], queue=False, **_QUIET
        ).then(
            self._paint_all, [self.batch_job, self.own, self.batch_asked], shown,
            api_visibility="private", show_progress="full",
            show_progress_on=self.batch_files, trigger_mode="multiple",
            concurrency_id="batch", concurrency_limit=1,
        ).failure(
            self._give_up, self.batch_job, shown, queue=False, **_QUIET
        )  # fmt: skip
        self.batch_stop.click(self._stop, self.batch_job, shown, queue=False, **_QUIET)

    def _offer_batch(self, request: gr.Request) -> Any:
        if self._has_job(request, _MANY):  # begun meanwhile
            return gr.skip()
        return _say(""), *_buttons("full")

    def _paint_all(
        self,
        job: _Job,
        own: OwnStyles,
        asked: list[Any],
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        files, *settings = asked
        try:
            with self._report(job, progress) as report:
                batch = self.studio.paint_all(
                    files or [], Settings(*settings, own=own), report
                )
        except StoppedError:
            return gr.skip()
        except (StyleplugError, ValueError) as error:
            return _say(str(error), wrong=True), *_buttons("full")
        text = f"{batch.painted} picture{'s' * (batch.painted != 1)} painted."
        if batch.refused:
            text += " Left out: " + " ".join(batch.refused)
        return _say(text), *_buttons("full", "download", path=batch.path)

    # The API

    def _offer_api(self) -> None:
        """Add the named endpoints; their docstrings are their docs, also for MCP."""
        with gr.Group(visible=False):
            photo = _Photo(label="Photo")
            mask = _Photo(label="Mask: white is painted, black stays a photo")
            files = gr.File(label="Photos", file_count="multiple")
            second = gr.Textbox("", label="Second style")
            painted = _Photo(label="Style image: its style is taken, instead of style")
            painting = gr.Image(label="Painting", type="filepath", format="png")
            archive = gr.File(label="Zip file of the paintings")
            listing = gr.JSON(label="Styles")
            call = gr.Button()
        # A dropdown would refuse a style that was added after the page was built.
        settings = [second if c is self.second else c for c in self.settings]
        inputs = [photo, *settings, mask, painted]
        call.click(self._api_stylize, inputs, painting, api_name="stylize", **_API)
        call.click(self._api_preview, inputs, painting, api_name="preview", **_API)
        call.click(
            self._api_stylize_batch, [files, *settings, painted], archive,
            api_name="stylize_batch", concurrency_id="batch", concurrency_limit=1,
        )  # fmt: skip
        call.click(self._api_list_styles, None, listing, api_name="list_styles")

    @_sentences
    def _api_stylize(
        self,
        image: str,
        style: str,
        strength: float = 1.0,
        style_scale: float = 1.0,
        preserve_color: bool = False,
        second_style: str = "",
        mix: float = 0.5,
        mask: str | None = None,
        style_image: str | None = None,
    ) -> str:
        """Turn a photo into a painting, in the photo's own size and format.

        For tools the answer holds a copy of the painting, which may be too much for
        some; the file itself, with its metadata, is at the address beside it.

        Args:
            image: The photo, a file of any raster format.
            style: Name of a style, see list_styles.
            strength: How far from the photo, 0 (not at all) to 1.
            style_scale: Stroke size, 0.25 to 4; 2 is a brush twice as large.
            preserve_color: Keep the photo's colours, paint only its lightness.
            second_style: Name of a second style to blend in, or nothing.
            mix: Share of the second style, 0 to 1.
            mask: An image; only where it is white the photo is painted.
            style_image: Any picture, to paint in its style; style is then not used.

        Returns:
            The painting, an image file.
        """
        settings = self._given_settings(
            style_image,
            style,
            strength,
            style_scale,
            preserve_color,
            second_style,
            mix,
        )
        return self.studio.paint(_given(image), settings, mask=self._mask(mask)).path

    @_sentences
    def _api_preview(
        self,
        image: str,
        style: str,
        strength: float = 1.0,
        style_scale: float = 1.0,
        preserve_color: bool = False,
        second_style: str = "",
        mix: float = 0.5,
        mask: str | None = None,
        style_image: str | None = None,
    ) -> str:
        """Show a quick preview of what stylize would paint, at most 800 pixels on its
        longer side.

        Args:
            image: The photo, a file of any raster format.
            style: Name of a style, see list_styles.
            strength: How far from the photo, 0 (not at all) to 1.
            style_scale: Stroke size, 0.25 to 4; 2 is a brush twice as large.
            preserve_color: Keep the photo's colours, paint only its lightness.
            second_style: Name of a second style to blend in, or nothing.
            mix: Share of the second style, 0 to 1.
            mask: An image; only where it is white the photo is painted.
            style_image: Any picture, to paint in its style; style is then not used.

        Returns:
            The small painting, an image file.
        """
        settings = self._given_settings(
            style_image,
            style,
            strength,
            style_scale,
            preserve_color,
            second_style,
            mix,
        )
        content = self.studio.open(_given(image))
        return self.studio.preview(content, settings, self._mask(mask))

    @_sentences
    def _api_stylize_batch(
        self,
        images: list[str],
        style: str,
        strength: float = 1.0,
        style_scale: float = 1.0,
        preserve_color: bool = False,
        second_style: str = "",
        mix: float = 0.5,
        style_image: str | None = None,
    ) -> str:
        """Turn many photos into paintings of one style.

        Args:
            images: The photos; those that cannot be painted are left out.
            style: Name of a style, see list_styles.
            strength: How far from the photo, 0 (not at all) to 1.
            style_scale: Stroke size, 0.25 to 4; 2 is a brush twice as large.
            preserve_color: Keep the photos' colours, paint only their lightness.
            second_style: Name of a second style to blend in, or nothing.
            mix: Share of the second style, 0 to 1.
            style_image: Any picture, to paint in its style; style is then not used.

        Returns:
            A zip file of the paintings; left-out.txt in it says which photos were left
            out and why.
        """
        settings = self._given_settings(
            style_image,
            style,
            strength,
            style_scale,
            preserve_color,
            second_style,
            mix,
        )
        return self.studio.paint_all(images or [], settings).path

    # An endpoint, but not a tool for agents: Gradio's tools take no list of files.
    _api_stylize_batch._mcp_type = "none"  # type: ignore[attr-defined]

    @_sentences
    def _api_list_styles(self) -> list[dict[str, str]]:
        """List the styles: name, title, artist, year and licence of each.

        Returns:
            One object per style; its name is what the other tools take.
        """
        return [
            {
                "name": name,
                "title": style_title(info),
                "artist": info.artist,
                "year": info.year,
                "license": info.license,
            }
            for name, info in self.studio.styles.items()
        ]

    def _given_settings(
        self, style_image: str | None, style: str, *settings: Any
    ) -> Settings:
        if style_image is None:
            return Settings(style, *settings)
        own = self.studio.own_style(style_image)
        return Settings(own.id, *settings, own={own.id: own})

    def _mask(self, path: str | None) -> Mask:
        return None if path is None else self.studio.mask(path)


def _path_of(payload: Any) -> str | None:
    """Return the path of an uploaded file; refuse any other path without opening it.

    Gradio itself checks only what is marked as a file, and a caller need not mark it.
    """
    if payload is None or payload.path is None:
        return None
    folder = Path(os.path.abspath(get_upload_folder()))
    if folder not in Path(os.path.abspath(payload.path)).parents:
        raise gr.Error("Upload the picture first.", print_exception=False)
    return str(payload.path)


def _undrawn(content: Content) -> dict[str, Any]:
    """Return a photo for the editor, with nothing drawn on it."""
    return {"background": content.preview, "layers": [], "composite": None}


def _given(path: str | None) -> str:
    if path is None:
        raise ValueError("Choose a photo first.")
    return path


def _tile(
    name: str, title: str, words: str, image: bytes, artist: str = "", year: str = ""
) -> dict[str, str]:
    """Return a style's tile in the gallery.

    Gradio fills in the gallery's template and evaluates the result as a JavaScript
    template literal, so both HTML and that syntax are escaped in the style's texts.
    """
    said = {
        "id": name,
        "title": title,
        "words": words.lower(),
        "artist": artist,
        "year": year,
    }
    texts = {key: html.escape(text).translate(_LITERAL) for key, text in said.items()}
    webp = base64.b64encode(image).decode()
    return {**texts, "image": f"data:image/webp;base64,{webp}"}


def _say(text: str, *, wrong: bool = False) -> str:
    role = 'role="alert" class="wrong"' if wrong else 'role="status"'
    return f"<p {role}>{html.escape(text)}</p>"


def _buttons(*shown: str, path: str | None = None) -> tuple[Any, Any, Any]:
    """Return updates of the buttons full, stop and download, with those named shown."""
    return (
        gr.update(visible="full" in shown),
        gr.update(visible="stop" in shown),
        gr.update(visible="download" in shown, value=path),
    )
