"""Start styleplug's worker in the Python that has it installed, and talk to it.

Needs only the standard library. PROTOCOL.md describes the protocol.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROTOCOL = 1
PICTURE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd"),
    *(".qoi", ".tga", ".tif", ".tiff", ".webp"),
)
"""Suffixes, in upper or lower case, of pictures that the worker takes as a style."""
PIXEL_BYTES = {"u8": 4, "f32": 16}
MAX_LINE = 1 << 16
"""Longest header, in bytes; the worker exits rather than accept more."""
MAX_PIXELS = 1 << 29
"""Largest picture, in pixels; the worker exits rather than accept more."""
CONFIG = Path(__file__).with_name("worker.json")
"""Written by ``styleplug gimp install``; has ``command``, perhaps ``silence_limit``."""

_MAX_LINE = 1 << 22
_POLL = 0.03
# Seconds; a longer poll was suspended, perhaps together with the worker.
_LONGEST_POLL = 1.0
# Variables that GIMP sets for its own Python and libraries break another Python.
_FOREIGN = ("PYTHON", "GI_", "GTK_", "GDK_", "GIO_", "LD_", "DYLD_")


class WorkerError(Exception):
    """The worker failed; the message is for the user."""


class CancelledError(Exception):
    """The request was cancelled."""


def start() -> Worker:
    """Start the worker that ``styleplug gimp install`` recorded."""
    try:
        config = json.loads(CONFIG.read_text(encoding="utf-8"))
        command = [str(word) for word in config["command"]]
        if not command:
            raise ValueError("empty command")
        silence_limit = float(config.get("silence_limit", 90))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkerError(
            "The plug-in does not know which Python holds styleplug. "
            "Run “styleplug gimp install” in a terminal."
        ) from error
    return Worker(command, silence_limit)


def first_of(styles: Sequence[Mapping[str, str]]) -> str:
    """Return the id of the style to use when none is chosen."""
    if not styles:
        raise WorkerError(
            "styleplug has no style yet. Run “styleplug pull OWNER/NAME” in a terminal."
        )
    return styles[0]["id"]


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` without the variables that GIMP set for its libraries."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_FOREIGN)
        # On macOS GIMP has its own cache, which lacks the styles from the Hub.
        and not (name == "XDG_CACHE_HOME" and "/GIMP/" in value)
    }


@contextmanager
def _without_gimps_libraries() -> Iterator[None]:
    """Keep programs that are started from looking for libraries in GIMP's folder."""
    if sys.platform != "win32":
        yield  # clean_environment is enough
        return
    import ctypes

    system = ctypes.WinDLL("kernel32")
    folder = ctypes.create_unicode_buffer(1 << 15)
    system.GetDllDirectoryW(len(folder), folder)
    system.SetDllDirectoryW(None)
    try:
        yield
    finally:
        system.SetDllDirectoryW(folder.value or None)


class Worker:
    """One worker process. Requests are made one at a time, from any one thread."""

    def __init__(self, command: Sequence[str], silence_limit: float) -> None:
        """Start ``command``; it is killed when silent for ``silence_limit`` seconds."""
        self._command = list(command)
        self._silence_limit = silence_limit
        self._silent = False
        folder = os.path.dirname(command[0])
        if os.path.exists("/.flatpak-info"):
            # --watch-bus: the process outside ends with this one.
            spawn = ["flatpak-spawn", "--host", "--watch-bus", f"--directory={folder}"]
            command, folder = [*spawn, *command], ""
        try:
            with _without_gimps_libraries():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**clean_environment(os.environ), "PYTHONIOENCODING": "utf-8"},
                    # python -m puts the working directory first on its path.
                    cwd=folder or None,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            raise WorkerError(
                "The Python that holds styleplug cannot be started: "
                f"{self._command[0]} ({error.strerror}). "
                "Run “styleplug gimp install” again in a terminal."
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._stderr = self._process.stderr
        self._last_words: collections.deque[str] = collections.deque(maxlen=20)
        self._ids = itertools.count(1)
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._unread = 0
        self._body_read = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._listen, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests can still be made."""
        return self._process.poll() is None and not self._stdin.closed

    def hello(self) -> list[dict[str, str]]:
        """Return the available styles: id, title, artist, year, license."""
        reply = self.request({"type": "hello"})
        if reply.get("type") != "hello" or reply.get("protocol") != PROTOCOL:
            self.close()
            raise WorkerError(
                "This plug-in and the installed styleplug do not belong to the "
                "same version. Run “styleplug gimp install” again in a terminal."
            )
        return list(reply["styles"])

    def request(
        self,
        header: Mapping[str, Any],
        body: Iterable[bytes] = (),
        *,
        progress: Callable[[float], None] = lambda fraction: None,
        idle: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Send a request and return the header of its answer.

        ``body`` yields the ``header["bytes"]`` bytes in pieces. ``progress`` is called
        with fractions. ``idle`` and ``cancelled`` are called about every 30 ms while
        waiting; the request is cancelled when ``cancelled`` returns true. If the answer
        has ``bytes``, they must be fetched with :meth:`read` before anything else.
        Raises :class:`WorkerError`, or :class:`CancelledError` if it was cancelled.
        """
        number = next(self._ids)
        self._send({"protocol": PROTOCOL, "id": number, **header})
        try:
            for piece in body:
                self._write(piece)
        except BaseException:
            self.close()  # the stream ends in the middle of a body: nothing can follow
            raise
        taken_back = False

        def wait() -> None:
            nonlocal taken_back
            idle()
            if not taken_back and cancelled():
                taken_back = True
                self._send({"protocol": PROTOCOL, "type": "cancel", "id": number})

        while True:
            message = self._next(wait)
            kind, about = message.get("type"), message.get("id")
            if kind == "error" and about in (number, None):
                if message.get("code") == "Cancelled":
                    raise CancelledError
                raise WorkerError(str(message.get("message")))
            if about != number:
                if message.get("bytes"):
                    raise self._broken()
            elif kind == "progress":
                progress(float(message["fraction"]))
            else:
                return message

    def stylize(
        self,
        header: Mapping[str, Any],
        body: Iterable[bytes],
        *,
        progress: Callable[[float], None] = lambda fraction: None,
        idle: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Send a ``stylize`` request; see :meth:`request`.

        The answer is checked to have as many bytes as the picture. Also raises
        :class:`WorkerError`, before anything is sent, for a picture that is too large.
        """
        pixels = header["width"] * header["height"]
        if pixels > MAX_PIXELS:
            raise WorkerError(
                f"The layer has {pixels / 1e6:.0f} million pixels, and the most that "
                f"can be painted at once are {MAX_PIXELS / 1e6:.0f} million. Scale it "
                "down, or cut it into parts."
            )
        size = pixels * PIXEL_BYTES[header["format"]]
        reply = self.request(
            {"type": "stylize", **header},
            body,
            progress=progress,
            idle=idle,
            cancelled=cancelled,
        )
        if reply.get("type") != "result" or reply.get("bytes") != size:
            raise self._broken()
        return reply

    def read(self, size: int) -> bytes:
        """Return the next ``size`` of the bytes that follow the last answer."""
        with self._killed_if_stuck():
            data = self._stdout.read(size)
        if len(data) < size:
            raise self._died()
        self._unread -= size
        if self._unread <= 0:
            self._body_read.set()
        return data

    def close(self) -> None:
        """End the worker."""
        with suppress(OSError):
            self._stdin.close()  # tells it to exit
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._body_read.set()
        for thread, stream in zip(
            self._threads, (self._stdout, self._stderr), strict=True
        ):
            thread.join(1)
            if not thread.is_alive():
                stream.close()

    def _send(self, header: Mapping[str, Any]) -> None:
        line = json.dumps(header).encode()
        if len(line) > MAX_LINE:
            raise WorkerError(
                "The name of the style is too long: choose another style, or move its "
                "file to a folder with a shorter path."
            )
        self._write(line + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            with self._killed_if_stuck():
                self._stdin.write(data)
                self._stdin.flush()
        except (OSError, ValueError) as error:
            raise self._died() from error

    def _next(self, wait: Callable[[], None]) -> dict[str, Any]:
        silence, asked = 0.0, time.monotonic()
        while True:
            wait()
            try:
                message = self._messages.get(timeout=_POLL)
            except queue.Empty:
                now = time.monotonic()
                silence += min(now - asked, _LONGEST_POLL)
                asked = now
                if silence > self._silence_limit:
                    self._kill_silent()
                continue
            if message is None:
                raise self._died()
            if message.get("type") != "alive":
                return message
            silence, asked = 0.0, time.monotonic()

    def _listen(self) -> None:
        """Put the worker's lines into the queue; wait while a body is read."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            while line := self._stdout.readline(_MAX_LINE):
                message = json.loads(line)
                self._unread = int(message.get("bytes", 0))
                self._body_read.clear()
                self._messages.put(message)
                if self._unread:
                    self._body_read.wait()
        self._messages.put(None)

    def _read_stderr(self) -> None:
        for line in self._stderr:
            self._last_words.append(line.decode(errors="replace").rstrip())

    @contextmanager
    def _killed_if_stuck(self) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            polls = math.ceil(self._silence_limit / _LONGEST_POLL)
            if not any(done.wait(self._silence_limit / polls) for _ in range(polls)):
                self._kill_silent()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _kill_silent(self) -> None:
        self._silent = True
        self._process.kill()

    def _broken(self) -> WorkerError:
        self.close()
        return WorkerError(
            "Something other than styleplug's worker answered. "
            "Run “styleplug gimp doctor” in a terminal."
        )

    def _died(self) -> WorkerError:
        """Return an error that says why there is no answer."""
        if self._silent:
            self.close()
            return WorkerError(
                "styleplug gave no sign of life for "
                f"{self._silence_limit:.0f} seconds and was ended. Try again; if it "
                "keeps happening, run “styleplug gimp doctor” in a terminal."
            )
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        code = self._process.poll()
        if code is None:  # it is running, but what it wrote is not an answer
            return self._broken()
        self.close()
        words = [line for line in self._last_words if line.strip()]
        reason = words[-1] if words else f"exit code {code}"
        if reason.startswith("Portal call failed: org.freedesktop.DBus.Error"):
            app = os.environ.get("FLATPAK_ID", "org.gimp.GIMP")
            return WorkerError(
                "The Flatpak of GIMP is not allowed to start styleplug. Run “flatpak "
                f"override --user --talk-name=org.freedesktop.Flatpak {app}” in a "
                "terminal, then restart GIMP."
            )
        if code == -9:
            reason = "it was killed, perhaps because memory ran out"
        elif "No module named styleplug" in reason:
            reason = f"styleplug is no longer installed in {self._command[0]}"
        return WorkerError(
            f"styleplug ended before it was done: {reason.rstrip('.')}. Nothing was "
            "changed. Run “styleplug gimp doctor” in a terminal to find out more."
        )


def check() -> str:
    """Start the worker, let it stylize a small picture, and return how that went."""
    worker = start()
    try:
        styles = worker.hello()
        side = 64
        reply = worker.stylize(
            {
                "style": first_of(styles),
                "width": side,
                "height": side,
                "format": "u8",
                "bytes": side * side * 4,
            },
            [bytes(side * side * 4)],
        )
        worker.read(reply["bytes"])
    finally:
        worker.close()
    return (
        f"the worker answers, with {len(styles)} styles, and paints on "
        f"{reply['device']}"
    )


if __name__ == "__main__":
    try:
        sys.stdout.write(check() + "\n")
    except WorkerError as error:
        sys.exit(str(error))
