"""Files that appear whole or not at all, and replace others only when told to."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` for what is there and is not to be overwritten."""
    if os.path.exists(path) and not overwrite:
        raise already_exists(path)


def already_exists(path: str | os.PathLike[str]) -> FileExistsError:
    """Return the error of a file that is not to be replaced."""
    return FileExistsError(
        f"{path} already exists; allow overwriting (--overwrite), or write elsewhere."
    )


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of ``path`` when all went well.

    Raises ``OSError``; ``FileExistsError`` for a file that is there by then, unless
    ``overwrite``.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".styleplug-{secrets.token_hex(8)}.part")
    claimed = False
    try:
        with part.open("xb") as file:
            yield file
        if not overwrite:
            target.touch(exist_ok=False)
            claimed = True
        elif target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.chmod(0o600)  # Windows removes nothing that is read-only
            part.unlink()
        if claimed:
            target.unlink(missing_ok=True)
        raise
