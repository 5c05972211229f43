from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from styleplug.files import check_free, check_writable, replacing


def write(path: Path, text: str, **options: bool) -> None:
    with replacing(path, **options) as file:
        file.write(text.encode())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    with replacing(path) as file:
        file.write(b"half ")
        assert not path.exists()
        file.write(b"and half")
    assert path.read_text() == "half and half"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_that_is_there_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_text("precious")

    def stop_halfway() -> None:
        with replacing(path) as file:
            file.write(b"half ")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, fill_disk: Callable[[], None]
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "out.txt", tmp_path / "folder"):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write(path, "new")
        assert caught.value.filename == str(path)
        assert caught.value.filename2 is None
    fill_disk()
    with pytest.raises(OSError, match=r"No space left .*full\.txt"):
        write(tmp_path / "full.txt", "new")


def test_a_full_disk_leaves_the_file_that_is_there_and_no_other(
    tmp_path: Path, fill_disk: Callable[[], None]
) -> None:
    path = tmp_path / "old.txt"
    path.write_text("precious")
    fill_disk()
    with pytest.raises(OSError, match="No space left"):
        write(path, "new")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_made_in_the_meantime_stays_unless_it_may_be_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.txt"
    write(path, "first", overwrite=False)
    with pytest.raises(FileExistsError):
        write(path, "second", overwrite=False)
    assert path.read_text() == "first"
    write(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_may_replace_no_other_is_never_seen_empty(
    tmp_path: Path, fill_disk: Callable[[], None]
) -> None:
    fill_disk()  # which an empty file that is to be replaced would meet
    path = tmp_path / "out.txt"
    write(path, "whole", overwrite=False)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no hard links, as on FAT."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_no_file_is_replaced_unasked_either(
    tmp_path: Path, no_links: None
) -> None:
    path = tmp_path / "out.txt"
    write(path, "first", overwrite=False)
    with pytest.raises(FileExistsError, match=r"out\.txt"):
        write(path, "second", overwrite=False)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_could_not_take_its_place_leaves_no_empty_one(
    tmp_path: Path, fill_disk: Callable[[], None], no_links: None
) -> None:
    fill_disk()
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "out.txt", "new", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")
def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "out.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_is_there_is_told_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    check_free(path, overwrite=False)
    path.write_text("precious")
    check_free(path, overwrite=True)
    with pytest.raises(FileExistsError, match=r"out\.txt already exists; .*elsewhere"):
        check_free(path, overwrite=False)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_that_takes_no_file_is_told_before(locked: Path) -> None:
    with pytest.raises(OSError, match=r"out\.txt cannot be .*another folder"):
        check_writable(locked / "out.txt")


def test_a_file_that_may_not_be_changed_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.txt"
    check_writable(path)
    assert not list(tmp_path.iterdir())
    path.write_text("precious")
    check_writable(path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"protected; .*name another file"):
        check_writable(path)
