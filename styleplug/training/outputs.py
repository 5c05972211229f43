"""Where a training writes: its results, all or none of them, checkpoints and sheet."""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InvalidStyleError, TrainingError
from ..files import check_free, check_writable, replacing
from ..style import bundled_predictor, bundled_trunk, read_info

SHEET = "Software", "styleplug train"
"""Keyword and value of the text chunk that PNG files of sheets begin with."""


@contextlib.contextmanager
def all_or_none(out: Path) -> Iterator[Path]:
    """Yield a folder to write into; at the end its files are moved into ``out``.

    If anything fails before, ``out`` stays as it is. An ``OSError`` names files as they
    would be called in ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)  # it may have been removed since the start
    with tempfile.TemporaryDirectory(prefix=".part.", dir=out) as name:
        folder = Path(name)
        try:
            yield folder
        except OSError as error:
            if error.filename and Path(error.filename).parent == folder:
                error.filename = str(out / Path(error.filename).name)
            raise
        for path in sorted(folder.iterdir()):
            target = out / path.name
            if target.is_symlink():  # perhaps to another disk
                with path.open("rb") as whole, replacing(target) as file:
                    shutil.copyfileobj(whole, file)
                continue
            if target.exists():
                path.chmod(stat.S_IMODE(target.stat().st_mode))
            path.replace(target)


def check_places(
    out: Path,
    results: Sequence[Path],
    checkpoints: Sequence[Path | None],
    sheet: Path | None = None,
    *,
    pictures: Sequence[Path | None] = (),
    overwrite: bool,
) -> None:
    """Create the folder ``out`` of the results; raise unless all can be written.

    A trunk must not be replaced if remaining styles or a predictor need it. A training
    that resumes from a checkpoint may replace its sheet. The sheet must not lie in
    ``pictures``, the folders that are trained on. Checkpoints, sheet and results must
    be different files.
    """
    for folder in filter(None, pictures):
        if sheet and folder.resolve() in sheet.resolve().parents:
            raise TrainingError(
                f"{sheet} would be taken for one of the pictures in {folder}; name "
                "another place for the --sheet."
            )
    places = [path for path in (*results, *checkpoints, sheet) if path]
    for i, path in enumerate(places):
        if path.resolve() in [other.resolve() for other in places[:i]]:
            raise TrainingError(
                f"{path} would be written for two purposes; give --output, "
                "--checkpoint and --sheet different names."
            )
    for path in results:
        check_free(path, overwrite=overwrite)
    trunk = out / bundled_trunk().name
    left = _needing(trunk, results) if trunk in results else []
    if left:
        raise TrainingError(
            f"This would replace the trunk in {out}, which {', '.join(left)} still "
            "need; name another --output, or move these away first."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be made ({error.strerror}); name another folder."
        ) from error
    for path in places:
        try:
            check_writable(path)
        except OSError as error:
            raise TrainingError(str(error)) from error
    resumed = any(path and path.exists() for path in checkpoints)
    if sheet and not (resumed and sheet.exists() and _is_sheet(sheet)):
        check_free(sheet, overwrite=overwrite)


def _is_sheet(path: Path) -> bool:
    with path.open("rb") as file:
        return "\0".join(SHEET).encode() in file.read(100)


def _needing(trunk: Path, results: Sequence[Path]) -> list[str]:
    """Return the names of files beside a trunk that need it, except the results, which
    are replaced. Styles do not need a copy of the bundled trunk."""
    try:
        known = read_info(trunk).trunk
    except InvalidStyleError:
        return []
    original = bundled_trunk()
    copy = belongs(original, known) and trunk.resolve() != original.resolve()

    def needs(path: Path) -> bool:
        if path.name == bundled_predictor().name:
            return True
        return not (copy or read_info(path).self_contained)

    files = sorted(trunk.parent.glob("*.safetensors"))
    left = [path for path in files if path not in results and belongs(path, known)]
    return [path.name for path in left if needs(path)]


def belongs(path: Path, trunk: str) -> bool:
    """Return whether a file is the trunk of that hash, or belongs to it; False for
    other files, which may also lie beside a trunk."""
    try:
        return read_info(path).trunk == trunk
    except InvalidStyleError:
        return False
