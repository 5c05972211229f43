"""Where style files come from: the wheel, a path, or the Hugging Face Hub.

The only module that imports huggingface_hub, and only where a function needs it, so
that bundled styles and files start as fast without it.

What comes from the Hub is treated as a stranger's: one file name is ever asked for,
its size is known and limited before its bytes are downloaded, its hash is checked
before and every time it is used, and no pickle is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .errors import (
    DownloadError,
    InvalidStyleError,
    StyleNotFoundError,
    StyleplugError,
)
from .style import StyleInfo, bundled_styles, read_info

FILENAME = "model.safetensors"
MAX_STYLE_BYTES = 64 * 2**20
"""A larger file is refused before its download; the bundled styles need 2 MB."""

_LONGEST_WAIT = 20.0
_PAUSES = (0.5, 2.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_ID = re.compile(r"\w(?:[\w.-]{0,94}\w)?/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]|/(?!/))*")
_BUSY = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


def locate(
    style: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Path:
    """Return the file of a style, downloaded if it comes from the Hub.

    ``style`` is, tried in this order, the path of a ``.safetensors`` file, a Hub
    repository ``owner/repo[@revision]`` (see :func:`pull`), or the name of a bundled
    style. Raises :class:`StyleNotFoundError` when there is none, and what
    :func:`pull` raises.
    """
    name = os.fspath(style)
    if not isinstance(name, str):
        raise TypeError(f"style must be a name or a path, got {style!r}")
    if os.path.isfile(name):
        return Path(name)
    if not isinstance(style, str) or name.endswith(".safetensors"):
        raise StyleNotFoundError(f"There is no file {name}; check the path.")
    if name.partition("@")[0].count("/") == 1:
        return pull(name, cache_dir=cache_dir, token=token)
    bundled = bundled_styles()
    if name not in bundled:
        near = difflib.get_close_matches(name.lower(), bundled, n=3, cutoff=0.4)
        raise StyleNotFoundError(
            f"There is no style {name!r}; "
            + (f"did you mean {' or '.join(near)}? " if near else "")
            + "'styleplug list' shows the bundled ones, 'owner/name' is a style on "
            "the Hub."
        )
    return bundled[name]


def pull(
    repo_id: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Path:
    """Return the file of the Hub style ``owner/repo[@revision]`` in the local cache.

    ``revision`` is a branch, a tag or a commit; without it ``main`` is meant. A
    cached style of a full commit hash costs no HTTP request; any other is looked up,
    and used as cached when the Hub cannot be reached. ``token`` opens private
    repositories; without it the one saved by ``hf auth login`` or in ``HF_TOKEN`` is
    used. ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are obeyed.

    Raises :class:`StyleNotFoundError` for a repository or revision that is not there,
    :class:`InvalidStyleError` for one that holds no style, and
    :class:`DownloadError` for everything that goes wrong on the way.
    """
    name, revision = _parse(repo_id)
    path = _download(name, revision, cache_dir, token)
    _read(path, repo_id)
    return path


def style_info(path: Path) -> StyleInfo:
    """Return :func:`.style.read_info`, with repository and commit if cached from one.

    A file in a Hub cache lies at ``models--owner--repo/snapshots/<commit>/``.
    """
    info = read_info(path)
    folders = path.absolute().parts[-4:-1]
    if len(folders) == 3 and folders[1] == "snapshots":
        kind, *name = folders[0].split("--")
        if kind == "models" and len(name) == 2:
            return dataclasses.replace(
                info, repo_id="/".join(name), revision=folders[2]
            )
    return info


def cached_styles(
    *, cache_dir: str | os.PathLike[str] | None = None
) -> list[StyleInfo]:
    """Return the styles in the Hub cache, by repository. Makes no HTTP request."""
    styles = []
    for path in _cache(cache_dir).glob(f"models--*--*/snapshots/*/{FILENAME}"):
        try:
            styles.append(style_info(path))
        except InvalidStyleError:
            continue
    return sorted(styles, key=lambda info: (info.repo_id or "", info.revision or ""))


def list_styles(*, cache_dir: str | os.PathLike[str] | None = None) -> list[StyleInfo]:
    """Return the bundled styles and those in the Hub cache."""
    bundled = [read_info(path) for path in bundled_styles().values()]
    return bundled + cached_styles(cache_dir=cache_dir)


def _parse(repo_id: str) -> tuple[str, str]:
    """Split ``owner/repo[@revision]`` and check both parts."""
    name, at, revision = repo_id.partition("@")
    if not _REPO_ID.fullmatch(name) or re.search(r"--|\.\.|\.git$", name):
        raise StyleNotFoundError(
            f"{name!r} is neither a file nor the name of a Hub repository; write "
            "'owner/name' with letters, digits, '-', '_' and '.'."
        )
    if not at:
        return name, "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise StyleNotFoundError(
            f"{revision!r} is not a revision of {name}; write a branch, a tag or a "
            "commit after the '@'."
        )
    return name, revision


def _cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE)


def _read(path: Path, repo_id: str) -> StyleInfo:
    try:
        return style_info(path)
    except InvalidStyleError as error:
        message = str(error).replace(str(path), repo_id)
        raise InvalidStyleError(message) from error


def _download(
    name: str,
    revision: str,
    cache_dir: str | os.PathLike[str] | None,
    token: str | None,
) -> Path:
    import huggingface_hub as hf

    cache = _cache(cache_dir)
    what = name if revision == "main" else f"{name}@{revision}"
    with _explained(what):
        httpx = _httpx()
        cached = _cached(name, revision, cache)
        if cached and _COMMIT.fullmatch(revision):
            return cached

        def look_up() -> hf.HfFileMetadata:
            url = hf.hf_hub_url(name, FILENAME, revision=revision)
            return hf.get_hf_file_metadata(url, token=token, **_caller())

        try:
            if cached:
                remote = look_up()
            else:
                remote = _patiently(look_up, httpx.ReadError, httpx.RemoteProtocolError)
            _check_answer(remote, what)
        except (hf.errors.RevisionNotFoundError, hf.errors.EntryNotFoundError):
            raise
        except (httpx.HTTPError, OSError):
            if cached:
                return cached
            raise
        if cached and cached.parent.name == remote.commit_hash:
            return cached

        def download() -> Path:
            path = Path(
                hf.hf_hub_download(
                    name,
                    FILENAME,
                    revision=revision,
                    cache_dir=cache,
                    token=token,
                    tqdm_class=_silent_tqdm(),
                    **_caller(),
                )
            )
            if not _is_intact(path, remote.etag):
                _remove(path)
                raise _DamagedError
            return path

        return _patiently(download, httpx.ReadError, _DamagedError)


def _silent_tqdm() -> Any:
    """Return the progress bar that shows nothing: a library does not print."""
    return importlib.import_module("huggingface_hub.utils").silent_tqdm


def _caller() -> dict[str, Any]:
    try:
        library_version = version("styleplug")
    except PackageNotFoundError:
        library_version = None
    return {"library_name": "styleplug", "library_version": library_version}


def _cached(name: str, revision: str, cache: Path) -> Path | None:
    """Return the cached file of ``revision``; a damaged one is removed."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, FILENAME, cache_dir=cache, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    _check_size(path.stat().st_size, name)
    if _is_intact(path):
        return path
    _remove(path)
    return None


def _check_answer(remote: Any, what: str) -> None:
    """Refuse what is not an answer of the Hub, leads out of the cache, or is huge."""
    from huggingface_hub.errors import FileMetadataError

    if (
        remote.size is None
        or not _COMMIT.fullmatch(remote.commit_hash or "")
        or not re.fullmatch(r"[\w-]+", remote.etag or "", re.ASCII)
    ):
        raise FileMetadataError
    _check_size(remote.size, what)


def _check_size(size: int, what: str) -> None:
    if size > MAX_STYLE_BYTES:
        raise InvalidStyleError(
            f"{what} holds a file of {size / 2**20:,.0f} MB, a style has at most "
            f"{MAX_STYLE_BYTES // 2**20} MB; choose a repository that holds a style."
        )


def _is_intact(path: Path, etag: str | None = None) -> bool:
    """Whether the content has the hash that the Hub gave for it.

    The cache names a blob by its ETag and links to it, so the hash is at hand later
    too; where links are not possible, ``etag`` must say it. The Hub's ETags are the
    SHA-256 under large-file storage and git's SHA-1 for other files.
    """
    if path.is_symlink():
        etag = Path(os.readlink(path)).name
    content = path.read_bytes()
    if re.fullmatch(r"[0-9a-f]{64}", etag or ""):
        return hashlib.sha256(content).hexdigest() == etag
    if re.fullmatch(r"[0-9a-f]{40}", etag or ""):
        blob = b"blob %d\0" % len(content) + content
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == etag
    return True


def _remove(path: Path) -> None:
    """Remove a cached file and the blob it links to."""
    if path.is_symlink():
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
    path.unlink()


class _DamagedError(OSError):
    """What arrived is not what the Hub has."""


def _httpx() -> ModuleType:
    """Return httpx or httpx2, whichever this huggingface_hub speaks through."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__)


def _patiently(action: Callable[[], T], *passing: type[Exception]) -> T:
    """Return ``action()``, tried again when it failed from a passing cause.

    Passing are the exceptions named, and a Hub that is busy or broken for a moment.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for pause in _PAUSES:
        try:
            return action()
        except HfHubHTTPError as error:
            wait = _seconds_to_wait(error)
            if error.response.status_code not in _BUSY or wait > _LONGEST_WAIT:
                raise
            time.sleep(max(pause, wait))
        except passing:
            time.sleep(pause)
    return action()


def _seconds_to_wait(error: Any) -> float:
    """Return what the server asks for in ``Retry-After``, 0 if nothing."""
    text = error.response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn every failure of huggingface_hub and below into one of ours."""
    httpx = _httpx()
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as e:
        raise _explanation(e, what) from e


def _explanation(error: BaseException, what: str) -> StyleplugError:
    from huggingface_hub import constants, errors

    httpx = _httpx()
    name, _, revision = what.partition("@")
    hub = constants.ENDPOINT
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        error.__cause__, (httpx.HTTPError, OSError)
    ):
        error = error.__cause__
    match error:
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return DownloadError(
                f"{what} is not in the local cache and HF_HUB_OFFLINE forbids to "
                f"download it; unset it and run 'styleplug pull {what}' once."
            )
        case errors.GatedRepoError():
            return DownloadError(
                f"{name} asks for consent; accept its conditions on {hub}/{name}, "
                "then log in with 'hf auth login' or set HF_TOKEN."
            )
        case errors.RepositoryNotFoundError():
            return StyleNotFoundError(
                f"There is no repository {name} on the Hub, or it is private; check "
                "the spelling, or log in with 'hf auth login' if it is yours."
            )
        case errors.RevisionNotFoundError():
            return StyleNotFoundError(
                f"{name} has no revision {revision!r}; leave out '@{revision}' for "
                "the newest."
            )
        case errors.EntryNotFoundError():
            return InvalidStyleError(
                f"{what} holds no {FILENAME}, so it is not a style, and pickled "
                "weights are never loaded; 'styleplug convert' makes a style of an "
                "old checkpoint."
            )
        case errors.HfHubHTTPError():
            return _refusal(error, what)
        case errors.FileMetadataError():
            return DownloadError(
                f"{hub} does not answer like the Hub; check HF_ENDPOINT, and whether "
                "this network asks to log in first."
            )
        case httpx.ProxyError():
            return DownloadError(
                "The proxy does not let styleplug reach the Hub; check HTTPS_PROXY."
            )
        case httpx.TimeoutException():
            return DownloadError(
                f"{hub} did not answer in time; try again, or raise "
                "HF_HUB_DOWNLOAD_TIMEOUT on a slow line."
            )
        case httpx.ConnectError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return DownloadError(
                f"{hub} cannot be reached; check the internet connection and "
                "HF_ENDPOINT, or use a bundled style."
            )
        case httpx.NetworkError() | httpx.ProtocolError():
            return DownloadError(
                f"The connection broke while {what} was downloaded; try again."
            )
        case OSError(errno=int()):
            return DownloadError(
                f"{what} cannot be kept in the cache {constants.HF_HUB_CACHE} "
                f"({error.strerror}); free some space, or set HF_HOME to a folder "
                "that can be written."
            )
        case OSError():
            return DownloadError(
                f"{what} arrived damaged and was thrown away; try again later."
            )
    return DownloadError(f"{what} could not be downloaded ({error}); try again.")


def _refusal(error: Any, what: str) -> StyleplugError:
    status = error.response.status_code
    if status == 401:
        return DownloadError(
            "The Hub does not accept the access token; log in again with "
            "'hf auth login', or correct HF_TOKEN."
        )
    if status == 403:
        return DownloadError(
            f"The Hub forbids access to {what}; use a token that has the right to it."
        )
    if status == 429:
        wait = _seconds_to_wait(error)
        when = f"in {wait:.0f} seconds" if wait else "in some minutes"
        return DownloadError(f"The Hub is asked too often; try again {when}.")
    if status >= 500:
        return DownloadError(
            f"The Hub has a problem of its own (status {status}); try again later."
        )
    return DownloadError(
        f"The Hub refused {what} (status {status}); check its page on the Hub."
    )
