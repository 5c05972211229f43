"""Serve stylize requests of another program over stdin and stdout.

``python -su -m styleplug worker`` speaks the protocol of ``gimp_plugin/PROTOCOL.md``.
It exits as soon as its stdin is closed, even in the middle of a render: the program
that started it may be killed at any time, and no worker may outlive it.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__, imports
from .errors import StyleplugError

if TYPE_CHECKING:
    from .engine import Stylizer
    from .style import StyleInfo

PROTOCOL = 1
MAX_LINE = 1 << 16
"""Longest line that is accepted, in bytes."""
MAX_PIXELS = 1 << 29
"""Largest picture that is accepted, in pixels."""
MAX_WAITING = 16
"""Requests that may wait for their turn; one more is refused as ``Busy``."""
HEARTBEAT = 1.0
"""Seconds between two ``alive`` lines while a request is unanswered."""
PROGRESS_INTERVAL = 0.05
"""Shortest time between two ``progress`` lines, in seconds."""

_CANCELLED = "Cancelled", "The request was cancelled."
_OUT_OF_MEMORY = (
    "There is not enough memory for this picture; close other programs, or make it "
    "smaller."
)

FORMATS = {"u8": ("uint8", 1), "f32": ("<f4", 4)}
PARAMETERS = frozenset(
    {"strength", "style_scale", "preserve_color", "tile_size", "memory_limit"}
)


class _RequestError(Exception):
    """Answers the request with an error of ``code``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _Request:
    header: dict[str, Any]
    body: mmap.mmap | None = None
    refusal: _RequestError | None = None
    cancelled: bool = False

    @property
    def id(self) -> int:
        return int(self.header["id"])


class _Input:
    """Lines and raw bytes from a file descriptor; its end ends the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def _more(self) -> bytes:
        # os.read, not a buffered file: Python aborts at exit if a daemon thread still
        # holds the file's lock.
        data = os.read(self._fd, 1 << 20)
        if not data:
            os._exit(0)
        return data

    def line(self) -> bytes:
        while (end := self._rest.find(b"\n")) < 0 and len(self._rest) <= MAX_LINE:
            self._rest += self._more()
        if not 0 <= end <= MAX_LINE:
            raise ValueError(f"no line end within {MAX_LINE} bytes")
        line, self._rest = self._rest[:end], self._rest[end + 1 :]
        return line

    def take(self, size: int, target: mmap.mmap | None) -> None:
        """Read ``size`` bytes into ``target``; discard them if it is None."""
        while size:
            data = self._rest or self._more()
            data, self._rest = data[:size], data[size:]
            if target is not None:
                target.write(data)
            size -= len(data)


class _Output:
    """Lines and raw bytes to a file descriptor, from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, header: Mapping[str, Any], body: memoryview | None = None) -> None:
        line = json.dumps(header, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                for view in (memoryview(line), body or memoryview(b"")):
                    while view:
                        view = view[os.write(self._fd, view[: 1 << 20]) :]
            except OSError:  # nobody listens any more
                os._exit(1)


class _Server:
    def __init__(
        self,
        source: int,
        sink: int,
        load: Callable[[Any], Stylizer],
        list_styles: Callable[[], list[StyleInfo]],
    ) -> None:
        self._input = _Input(source)
        self._output = _Output(sink)
        self._load = load
        self._list_styles = list_styles
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._unanswered: list[_Request] = []

    def run(self) -> NoReturn:
        for work in (self._read, self._beat):
            threading.Thread(target=work, daemon=True).start()
        while True:
            self._answer(self._requests.get())

    # ------------------------------------------------------ the reading thread

    def _read(self) -> None:
        try:
            while True:
                self._receive()
        except (ValueError, RecursionError, MemoryError, OSError) as error:
            # It is unknown how much follows, so the stream cannot be resumed.
            self._output.send(
                _error(None, "Protocol", f"This is not the worker's protocol: {error}.")
            )
        except Exception:  # noqa: BLE001 - the process must not outlive its reader
            traceback.print_exc()
        os._exit(2)

    def _receive(self) -> None:
        header = json.loads(self._input.line(), parse_constant=_no_constant)
        if not isinstance(header, dict):
            raise ValueError("a request is a JSON object")
        size = header.get("bytes", 0)
        if type(header.get("id")) is not int or type(size) is not int:
            raise ValueError("'id' and 'bytes' are integers")
        if not 0 <= size <= MAX_PIXELS * 17:  # f32 RGBA and a mask
            raise ValueError(f"'bytes' is {size}, the maximum is {MAX_PIXELS * 17}")
        request = _Request(header)
        if header.get("type") == "cancel":
            self._input.take(size, None)
            for pending in [*self._unanswered]:
                if pending.id == request.id:
                    pending.cancelled = True
            return
        try:
            _check(header, size)
            if len(self._unanswered) > MAX_WAITING:
                raise _RequestError(
                    "Busy",
                    "Too many requests are pending; wait for some answers first.",
                )
            request.body = mmap.mmap(-1, size) if size else None
        except _RequestError as refusal:
            request.refusal = refusal
        except (OSError, MemoryError):
            request.refusal = _RequestError("MemoryLimitError", _OUT_OF_MEMORY)
        self._unanswered.append(request)
        self._input.take(size, request.body)
        self._requests.put(request)

    # ----------------------------------------------------- the heartbeat thread

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            if self._unanswered:
                self._output.send({"type": "alive"})

    # --------------------------------------------------------- the main thread

    def _answer(self, request: _Request) -> None:
        body = None
        try:
            self._stop_if_cancelled(request)
            if request.refusal:
                raise request.refusal
            if request.header["type"] == "hello":
                reply = self._hello()
            else:
                reply, body = self._stylize(request)
        except Exception as error:  # noqa: BLE001 - a client must get an answer
            # Nobody needs the error of a cancelled request any more.
            reason = _CANCELLED if request.cancelled else _reason(error)
            reply = _error(request.id, *reason)
        self._unanswered.remove(request)
        self._output.send({**reply, "id": request.id}, body)

    def _hello(self) -> dict[str, Any]:
        from .style import printable

        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "version": __version__,
            "styles": [
                {
                    "id": info.id,
                    "title": printable(info.title or info.name),
                    "artist": printable(info.artist),
                    "year": printable(info.year),
                    "license": printable(info.license),
                }
                for info in self._list_styles()
            ],
        }

    def _stylize(self, request: _Request) -> tuple[dict[str, Any], memoryview]:
        import numpy as np

        from .images import check_finite

        header = request.header
        width, height = header["width"], header["height"]
        dtype, _ = FORMATS[header["format"]]
        stylizer = self._load(header["style"])
        self._stop_if_cancelled(request)
        pixels = np.frombuffer(request.body or b"", dtype, width * height * 4)
        try:
            check_finite(pixels)
        except ValueError as error:
            raise _RequestError(
                "InvalidRequest",
                "The picture has pixels that are infinite or not a number; convert it "
                "to 16-bit integers, or paint over them, first.",
            ) from error
        mask = None
        if header.get("mask", False):
            levels = np.frombuffer(request.body or b"", np.uint8, offset=pixels.nbytes)
            mask = levels.reshape(height, width).astype(np.float32) / 255
        sent = -PROGRESS_INTERVAL

        def progress(fraction: float) -> None:
            nonlocal sent
            self._stop_if_cancelled(request)
            if time.monotonic() - sent >= PROGRESS_INTERVAL:
                sent = time.monotonic()
                self._output.send(
                    {"type": "progress", "id": request.id, "fraction": fraction}
                )

        started = time.monotonic()
        progress(0.0)
        result = stylizer(
            pixels.reshape(height, width, 4),
            mask=mask,
            progress=progress,
            **header.get("parameters", {}),
        )
        result = np.ascontiguousarray(result, dtype)
        reply = {
            "type": "result",
            "width": width,
            "height": height,
            "format": header["format"],
            "device": str(stylizer.device),
            "seconds": round(time.monotonic() - started, 3),
            "bytes": result.nbytes,
        }
        return reply, result.data.cast("B")

    def _stop_if_cancelled(self, request: _Request) -> None:
        if request.cancelled:
            raise _RequestError(*_CANCELLED)


def _reason(error: Exception) -> tuple[str, str]:
    """Return the error code and message for the client."""
    if isinstance(error, _RequestError):
        return error.code, str(error)
    if isinstance(error, StyleplugError):
        return type(error).__name__, str(error)
    if isinstance(error, MemoryError):
        return "MemoryLimitError", _OUT_OF_MEMORY
    if isinstance(error, (ValueError, TypeError)):
        return "InvalidRequest", str(error)
    traceback.print_exception(error)
    return "InternalError", f"{type(error).__name__}: {error}"


def _check(header: Mapping[str, Any], size: int) -> None:
    """Raise ``_RequestError`` for a header that cannot be answered."""
    if header.get("protocol") != PROTOCOL:
        raise _RequestError(
            "Protocol",
            f"This is styleplug {__version__}, whose worker speaks protocol "
            f"{PROTOCOL}, not {header.get('protocol')}; update styleplug and run "
            "'styleplug gimp install' again.",
        )
    if header.get("type") == "stylize":
        expected = _check_stylize(header)
    elif header.get("type") == "hello":
        expected = 0
    else:
        raise _RequestError(
            "InvalidRequest", "'type' is one of hello, stylize, cancel."
        )
    if size != expected:
        raise _RequestError(
            "InvalidRequest", f"'bytes' is {size}, but this request needs {expected}."
        )


def _check_stylize(header: Mapping[str, Any]) -> int:
    """Return how many bytes follow the header; raise as :func:`_check` does."""
    width, height = header.get("width"), header.get("height")
    if not (type(width) is type(height) is int and min(width, height) > 0):
        raise _RequestError("InvalidRequest", "'width' and 'height' are integers >= 1.")
    if width * height > MAX_PIXELS:
        raise _RequestError(
            "ImageTooLargeError",
            f"{width} x {height} pixels are too many, the maximum is {MAX_PIXELS}.",
        )
    if not _is_style(header.get("style")):
        raise _RequestError(
            "InvalidRequest", "'style' is a string, or pairs of string and weight."
        )
    name = header.get("format")
    if not isinstance(name, str) or name not in FORMATS:
        raise _RequestError(
            "InvalidRequest", f"'format' is one of {', '.join(FORMATS)}."
        )
    mask = header.get("mask", False)
    if not isinstance(mask, bool):
        raise _RequestError("InvalidRequest", "'mask' is true or false.")
    parameters = header.get("parameters", {})
    if not isinstance(parameters, dict) or parameters.keys() - PARAMETERS:
        raise _RequestError(
            "InvalidRequest", f"'parameters' may hold {', '.join(sorted(PARAMETERS))}."
        )
    itemsize = FORMATS[name][1]
    return int(width * height * (4 * itemsize + mask))


def _is_style(style: Any) -> bool:
    if isinstance(style, list):
        return all(
            isinstance(part, list)
            and [type(item) for item in part] in ([str, int], [str, float])
            for part in style
        )
    return isinstance(style, str)


def _error(request: int | None, code: str, message: str) -> dict[str, Any]:
    return {"type": "error", "id": request, "code": code, "message": message}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _load(style: str | list[tuple[str, float]]) -> Stylizer:
    with imports.quickly():
        from .engine import Stylizer

    if not isinstance(style, str):
        return Stylizer(
            [(_load(part).info.path or part, share) for part, share in style]
        )
    # A file may change; the engine keeps the newest. The Hub is asked only once.
    return Stylizer(style) if os.path.isfile(style) else _load_named(style)


@functools.lru_cache(maxsize=16)
def _load_named(style: str) -> Stylizer:
    from .engine import Stylizer

    return Stylizer(style)


def _list_styles() -> list[StyleInfo]:
    from .hub import list_styles

    return list_styles()


def main(
    load: Callable[[Any], Stylizer] = _load,
    list_styles: Callable[[], list[StyleInfo]] = _list_styles,
) -> NoReturn:
    """Serve the program that started this process until it closes the pipe.

    ``load`` returns the stylizer of a style, or of a list of styles with their weights;
    ``list_styles`` returns the styles that ``hello`` announces.
    """
    source, sink = os.dup(0), os.dup(1)
    # Libraries query the state of standard input when they are loaded; on Windows this
    # would block until the thread that reads the pipe gets the next request.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # a stray print of any library must not get into the stream
    _Server(source, sink, load, list_styles).run()
