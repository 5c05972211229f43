"""Assemble the Space and upload it: ``python space/deploy.py owner/name [--dry-run]``.

Log in first with ``hf auth login``. The Space is created if needed; all other files in
an existing one are deleted.

The Space gets the app, its requirements, the package of this checkout, so that it runs
whether or not that is on any index, and ready-made thumbnails. The package is not in
requirements.txt, as a Space installs these before its other files are there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

HERE = Path(__file__).parent
ROOT = HERE.parent


def assemble(folder: Path) -> None:
    """Write all files of the Space into ``folder``, which is new or empty."""
    from styleplug.demo import Studio
    from styleplug.style import bundled_styles, read_info

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("app.py", "README.md", "page.webp", "requirements.txt"):
        shutil.copy(HERE / name, folder)
    _install(folder)
    studio = Studio([read_info(path) for path in bundled_styles().values()])
    for info in studio.styles.values():
        studio.thumbnail(info, folder / "thumbnails")


def _install(folder: Path) -> None:
    """Put the package and its metadata into ``folder``."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        copy_source(source)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
        subprocess.run([*command, "--wheel-dir", scratch, str(source)], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            package.extractall(folder)


def copy_source(folder: Path) -> None:
    """Copy what the package is built from, and nothing else of the checkout."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("styleplug", "gimp_plugin"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)


def upload(folder: Path, repo_id: str) -> str:
    """Upload the folder as one commit; return the address of the Space."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="styleplug")
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        repo_type="space",
        folder_path=folder,
        commit_message="Deploy styleplug",
        delete_patterns="*",
    )
    return str(url)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo_id", metavar="owner/name")
    parser.add_argument("--dry-run", action="store_true", help="do not upload")
    parser.add_argument(
        "--folder", type=Path, help="keep the files in this new or empty folder"
    )
    given = parser.parse_args(arguments)
    try:
        validate_repo_id(given.repo_id)
    except HFValidationError as error:
        parser.error(str(error))
    if "/" not in given.repo_id:
        parser.error("name the Space as owner/name")
    folder = given.folder
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        parser.error(f"{folder} is not an empty folder; name a new one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        assemble(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size = path.stat().st_size / 1000
                print(f"{size:10,.1f} kB  {path.relative_to(folder).as_posix()}")
        if given.dry_run:
            print(f"Nothing uploaded to {given.repo_id} (dry run).")
        else:
            print(upload(folder, given.repo_id))


if __name__ == "__main__":
    main()
