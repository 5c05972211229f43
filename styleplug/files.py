"""Safe writing of files, and orderly termination.

A file appears complete or not at all, even if the process is stopped, and replaces
another one only on request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` if ``path`` exists, unless it may be overwritten."""
    if os.path.exists(path) and not overwrite:
        raise already_exists(path)


def already_exists(path: str | os.PathLike[str]) -> FileExistsError:
    """Return the error for a file that may not be replaced."""
    return FileExistsError(
        f"{path} already exists; allow overwriting (--overwrite), or write elsewhere."
    )


def check_writable(path: Path) -> None:
    """Raise ``OSError`` unless a file can be written or replaced at ``path``.

    Its message is a sentence for a user.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {folder}; create it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is not a regular file; name another one.")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(
            f"{path} is write-protected; allow changes to it, or name another file."
        )
    part = _part_of(target)
    try:  # os.access is unreliable for folders, above all on Windows
        try:
            part.touch(exist_ok=False)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(
            f"{path} cannot be written ({error.strerror}); choose another folder."
        ) from error


def _part_of(target: Path) -> Path:
    """Return a new name beside ``target`` for the incomplete file."""
    return target.with_name(f".styleplug-{os.urandom(8).hex()}.part")


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Yield a file to write; it replaces ``path`` at the end if nothing failed.

    Raises ``OSError`` that names ``path``, and ``FileExistsError`` if ``path`` exists
    by then, unless ``overwrite``.
    """
    target = Path(os.path.realpath(path))
    part = _part_of(target)
    try:
        with part.open("xb") as file:
            yield file
        if not overwrite:
            _take_free_place(part, target)
            return
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        part.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.chmod(0o600)  # Windows does not delete read-only files
            part.unlink()
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and error.filename in (None, str(part))
        ):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def _take_free_place(part: Path, target: Path) -> None:
    """Rename ``part`` to ``target``; raise ``FileExistsError`` if that exists."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here, so the target is empty for a moment
        target.touch(exist_ok=False)
        try:
            part.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    else:
        with contextlib.suppress(OSError):  # the target is already complete
            part.unlink()


def write_or_warn(path: Path, write: Callable[[BinaryIO], object], called: str) -> None:
    """Let ``write`` fill a file; if that fails, log a warning and keep the last one."""
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        kept = "; the last one stays" if os.path.exists(path) else ""
        logger.warning(
            "%s was not written (%s)%s", called, error.strerror or error, kept
        )


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does.

    A signal that has another handler or is ignored, as under ``nohup``, is left alone.
    Outside the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
