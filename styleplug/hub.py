"""Where style files come from: the wheel, a path, or the Hugging Face Hub.

Only this module imports huggingface_hub, and only inside the functions that need it,
so that bundled styles and files load without that cost.

Files from the Hub are not trusted: only one file name is ever requested, its size is
checked before the download and its hash before it is used (every time if the cache
supports links), and no pickle is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from . import cards, vgg
from .errors import (
    DownloadError,
    InvalidStyleError,
    StyleNotFoundError,
    StyleplugError,
    TrainingError,
)
from .files import replacing
from .style import StyleInfo, bundled_styles, check_style_texts, read_info

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILENAME = "model.safetensors"
MAX_STYLE_BYTES = 64 * 2**20
"""Larger files are refused before the download; the bundled styles need 2 MB."""

LOSS_NETWORK = "timm/vgg19.tv_in1k"

_LONGEST_WAIT = 20.0
_PAUSES = (0.5, 2.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_ID = re.compile(r"\w(?:[\w.-]{0,94}\w)?/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]|/(?!/))*")
_BUSY = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")

logger = logging.getLogger(__name__)


def locate(
    style: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Path:
    """Return the file of a style, downloading it from the Hub if needed.

    ``style`` is a path, a Hub repository ``owner/repo[@revision]`` (see :func:`pull`)
    or the name of a bundled style, tried in this order. A string is a path if it ends
    in ``.safetensors``, or if it has a folder part and the file exists, as in
    ``./wave``. Raises :class:`StyleNotFoundError` if there is no such style, and
    whatever :func:`pull` raises.
    """
    name = os.fspath(style)
    if not isinstance(name, str):
        raise TypeError(f"style must be a name or a path, got {style!r}")
    is_path = not isinstance(style, str) or name.lower().endswith(".safetensors")
    if (is_path or os.path.dirname(name)) and os.path.isfile(name):
        return Path(name)
    if is_path and "://" not in name:
        raise StyleNotFoundError(f"There is no file {name}; check the path.")
    if "://" in name or name.partition("@")[0].count("/") == 1:
        return pull(name, cache_dir=cache_dir, token=token)
    bundled = bundled_styles()
    if name not in bundled and os.path.isfile(f"{name}.safetensors"):
        raise StyleNotFoundError(
            f"There is no style {name!r}, but a file: name {name}.safetensors."
        )
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
    token: str | bool | None = None,
) -> Path:
    """Return the file of the Hub style ``owner/repo[@revision]`` in the local cache.

    ``revision`` is a branch, a tag or a commit; the default is ``main``. A cached
    style with a full commit hash needs no HTTP request. Any other revision is looked
    up on the Hub; if the Hub cannot be reached or refuses, the cached file is used,
    with a warning. ``token`` gives access to private repositories: by default it is
    the one saved by ``hf auth login`` or set in ``HF_TOKEN``; ``False`` sends none.
    ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are respected.

    Raises :class:`StyleNotFoundError` for a repository or revision that does not
    exist, :class:`InvalidStyleError` for one that holds no style, and
    :class:`DownloadError` if the download fails for any other reason.
    """
    name, revision = _parse(repo_id)
    path = _download(name, revision, cache_dir, token)
    style_info(path)
    return path


def style_info(path: Path) -> StyleInfo:
    """Return :func:`.style.read_info`, with repository and commit of a cached file.

    A file in the Hub cache lies in ``models--owner--repo/snapshots/<commit>/``.
    """
    repo_id, revision = _origin(path)
    with naming_repository(path):
        info = read_info(path)
    return dataclasses.replace(info, repo_id=repo_id, revision=revision)


def _origin(path: Path) -> tuple[str, str] | tuple[None, None]:
    folders = path.absolute().parts[-4:-1]
    if len(folders) == 3 and folders[1] == "snapshots":
        kind, *name = folders[0].split("--")
        if kind == "models" and len(name) == 2:
            return "/".join(name), folders[2]
    return None, None


@contextmanager
def naming_repository(path: Path) -> Iterator[None]:
    """Let an error about the style in a cached file name its repository instead, and
    not advise to download it again, which would bring the same file."""
    try:
        yield
    except InvalidStyleError as error:
        repo_id, _ = _origin(path)
        if repo_id is None:
            raise
        message = str(error).replace(str(path), repo_id)
        raise InvalidStyleError(
            message.replace("download it again", "use another revision or style")
        ) from error


@dataclass(frozen=True)
class CachedStyle:
    """A style in the Hub cache."""

    info: StyleInfo
    size: int
    """Bytes on disk."""
    refs: tuple[str, ...]
    """Branches and tags that point to this commit; empty if it is only pinned."""


def cache_info(*, cache_dir: str | os.PathLike[str] | None = None) -> list[CachedStyle]:
    """Return the styles in the Hub cache by repository, without an HTTP request."""
    styles = []
    for path in _cache(cache_dir).glob(f"models--*--*/snapshots/*/{FILENAME}"):
        try:
            info, size = style_info(path), path.stat().st_size
        except (InvalidStyleError, OSError):
            continue
        folder = path.parents[2] / "refs"
        names = []
        for ref in sorted(folder.rglob("*")):
            with suppress(OSError):
                if ref.read_text(errors="replace").strip() == info.revision:
                    names.append(ref.relative_to(folder).as_posix())
        styles.append(CachedStyle(info, size, tuple(names)))
    return sorted(styles, key=lambda s: (s.info.repo_id or "", s.info.revision or ""))


def list_styles(*, cache_dir: str | os.PathLike[str] | None = None) -> list[StyleInfo]:
    """Return the bundled styles and those in the Hub cache."""
    bundled = [read_info(path) for path in bundled_styles().values()]
    return bundled + [style.info for style in cache_info(cache_dir=cache_dir)]


@dataclass(frozen=True)
class HubStyle:
    """A style on the Hub, as the Hub lists it."""

    repo_id: str
    revision: str
    license: str
    downloads: int
    tags: tuple[str, ...]


def list_hub_styles(
    search: str | None = None, license: str | None = None
) -> list[HubStyle]:
    """Return the styles on the Hub, those with the most downloads first.

    ``search`` is part of a repository's name, ``license`` is an SPDX identifier.
    Raises :class:`DownloadError`.
    """
    wanted = ["styleplug"]
    known = _hub_license(license) if license else None
    if known:
        wanted.append(f"license:{known}")
    with _explained("the list of styles"):
        _reach()
        models = list(
            _api().list_models(
                filter=wanted,
                search=search,
                sort="downloads",
                expand=["sha", "cardData", "downloads", "tags"],
            )
        )
    styles = [
        HubStyle(
            model.id,
            model.sha or "main",
            _license_of(model.card_data),
            model.downloads or 0,
            tuple(model.tags or ()),
        )
        for model in models
    ]
    if license and known is None:
        styles = [s for s in styles if s.license.lower() == license.lower()]
    return styles


@dataclass(frozen=True)
class Publication:
    """What :func:`publish` uploaded, or would upload."""

    repo_id: str
    url: str
    files: Mapping[str, bytes]
    """Contents of the files, by their names in the repository."""
    revision: str | None
    """The new commit; ``None`` after a dry run."""


def publish(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    samples: Sequence[str | os.PathLike[str]] = (),
    license: str | None = None,
    artwork: str | None = None,
    token: str | None = None,
) -> Publication:
    """Upload a style file to the Hub repository ``owner/name``, created if needed.

    Uploads ``model.safetensors`` with its trunk, ``config.json``, a model card and
    the pictures ``samples`` in one commit. Without samples, the card shows those that
    the repository has. ``license`` (of the weights) and ``artwork``
    (the rights in the artwork) override or complete what the file says; the local
    file is not changed. Samples are re-encoded without EXIF, XMP, IPTC and comments,
    which can reveal where and when a photograph was taken; the colour profile is kept.
    ``dry_run`` makes no HTTP request.

    Raises :class:`InvalidStyleError` for a style that is damaged, is too large to be
    pulled, holds weights that are not finite, or does not state its licence and the
    rights in its artwork, :class:`~styleplug.errors.InvalidImageError` for samples that
    cannot be read, ``ValueError`` for samples with the same file name or without an
    image suffix, and :class:`DownloadError` if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, constants

    name, _ = _parse(repo_id)
    if name != repo_id:
        raise ValueError(f"repo_id must be 'owner/name', got {repo_id!r}")
    given = {"license": license, "artwork": artwork}
    rights = {field: text for field, text in given.items() if text is not None}
    check_style_texts(rights)
    info, files = _repository(Path(path), [Path(sample) for sample in samples], rights)
    shown = [file for file in files if file.startswith("samples/")]
    url = f"{constants.ENDPOINT}/{name}"
    if dry_run:
        files["README.md"] = model_card(info, name, shown).encode()
        return Publication(name, url, files, None)
    with _explained(name):
        _reach()
        api = _api(token)
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise DownloadError(
                f"{name} exists and is public; make it private on {url}/settings, or "
                "publish under another name."
            )
        tree = api.list_repo_tree(name, recursive=True, expand=True)
        there = {entry.path: entry.last_commit for entry in tree}
        shown = shown or [file for file in there if _is_sample(file)]
        files["README.md"] = model_card(info, name, shown).encode()
        last = there.get("README.md")
        if last and last.title != _MESSAGE:
            logger.warning(
                "The README.md of %s was edited on the Hub and is replaced; its text "
                "is still in the history on %s/commits/main.",
                *(name, url),
            )
        commit = api.create_commit(
            name,
            [CommitOperationAdd(file, content) for file, content in files.items()],
            commit_message=_MESSAGE,
        )
    return Publication(name, url, files, commit.oid)


_MESSAGE = "Publish with styleplug"


def _is_sample(file: str) -> bool:
    from .images import IMAGE_SUFFIXES

    path = PurePosixPath(file)
    return path.parts[0] == "samples" and path.suffix.lower() in IMAGE_SUFFIXES


def _repository(
    path: Path, samples: Sequence[Path], rights: Mapping[str, Any]
) -> tuple[StyleInfo, dict[str, bytes]]:
    """Return a style's header and the files of its repository but the model card."""
    from .images import IMAGE_SUFFIXES
    from .weights import complete_style, load_style

    loaded = load_style(path)
    info = dataclasses.replace(loaded.info, **rights)
    for field, lack in (
        ("license", "name the licence of its weights"),
        ("artwork", "say who holds the rights in its artwork"),
    ):
        if not getattr(info, field).strip():
            raise InvalidStyleError(
                f"{path} does not {lack}; publish it with --{field} "
                f"({field}= in Python)."
            )
    if info.self_contained and info == loaded.info:
        content = path.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            complete = Path(folder) / FILENAME
            info = complete_style(loaded._replace(info=info), complete)
            content = complete.read_bytes()
    if len(content) > MAX_STYLE_BYTES:
        raise InvalidStyleError(
            f"{path} makes a file of {len(content) / 2**20:,.0f} MB, and none above "
            f"{MAX_STYLE_BYTES // 2**20} MB is ever pulled; publish a smaller network."
        )
    for sample in samples:
        if sample.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(
                f"samples must be pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), got "
                f"{sample}"
            )
    pictures = {f"samples/{sample.name}": _bare_image(sample) for sample in samples}
    if len(pictures) < len(samples):
        raise ValueError(
            "samples must have different file names, got "
            + ", ".join(map(str, samples))
        )
    config = cards.config(info, hashlib.sha256(content).hexdigest())
    return info, {FILENAME: content, "config.json": config.encode(), **pictures}


def _bare_image(path: Path) -> bytes:
    """Return an image file re-encoded with only its pixels and colour profile."""
    from .images import read_picture, write_picture

    picture = read_picture(path)
    bare = dataclasses.replace(picture, exif=None, xmp=None, iptc=None, dpi=None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        write_picture(bare, bare.pixels, copy, provenance={})
        return copy.read_bytes()


def loss_network_file(
    last_layer: str = "relu4_1", *, source: str | os.PathLike[str] | None = None
) -> Path:
    """Return a safetensors file with the VGG-19 convolutions up to ``last_layer``.

    ``source`` is a file, a folder that contains one, or a Hub repository; by default
    ``timm/vgg19.tv_in1k``, whose weights torchvision trained on ImageNet. From a
    repository only the convolutions that are needed are downloaded, once, and kept
    in the assets cache of huggingface_hub. The tensors have torchvision's names
    (``features.N.weight``, ``features.N.bias``).

    Raises :class:`TrainingError` for a source without these tensors, and
    :class:`DownloadError` and :class:`StyleNotFoundError` as :func:`pull` does.
    """
    shapes = vgg.tensor_shapes(last_layer)
    name = os.fspath(source or LOSS_NETWORK)
    is_path = name.endswith(".safetensors") or name.count("/") != 1
    if os.path.exists(name) or (source is not None and is_path):
        return vgg.find_file(Path(name), shapes)
    repo_id, revision = _parse(name)
    try:
        with _explained(name):
            path = _assets() / f"{name.replace('/', '--')}--{last_layer}.safetensors"
            if path.is_file() and vgg.has_its_hash(path):
                return path
            return _download_tensors(repo_id, revision, shapes, path)
    except (DownloadError, StyleNotFoundError) as error:
        raise type(error)(
            "The loss network (VGG-19) is not on this machine, and could not be "
            f"downloaded: {error} Or give a file with --loss-network (loss_network= in "
            "Python)."
        ) from error


def _download_tensors(
    repo_id: str, revision: str, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> Path:
    """Download the tensors in ``shapes`` from a repository to ``path``."""
    import huggingface_hub as hf
    import numpy as np
    from safetensors.numpy import save

    httpx = _httpx()
    url = hf.hf_hub_url(repo_id, FILENAME, revision=revision)
    broken = (httpx.ReadError, httpx.RemoteProtocolError, _DamagedError)
    remote = _patiently(lambda: hf.get_hf_file_metadata(url, **_caller()), *broken)
    if remote.size is None or not _COMMIT.fullmatch(remote.commit_hash or ""):
        raise hf.errors.FileMetadataError
    url = hf.hf_hub_url(repo_id, FILENAME, revision=remote.commit_hash)

    def read(start: int, stop: int) -> bytes:
        return _patiently(
            lambda: _read_range(url, start, stop, remote.size or 0), *broken
        )

    try:
        ranges = vgg.find_tensors(read, remote.size, shapes)
    except TrainingError as error:
        raise TrainingError(
            f"{repo_id} holds no VGG-19 down to the layer that is needed ({error}); "
            "name another repository or a file."
        ) from error
    tensors = {}
    for run in vgg.group_touching(ranges):
        first = ranges[run[0]][0]
        data = read(first, ranges[run[-1]][1])
        for name in run:
            begin, stop = ranges[name]
            size = (stop - begin) // math.prod(shapes[name])
            values = np.frombuffer(data[begin - first : stop - first], f"<f{size}")
            if not np.isfinite(values).all():
                raise _DamagedError
            tensors[name] = values.reshape(shapes[name])
    origin = {"source": f"{repo_id}@{remote.commit_hash}"}
    origin["sha256"] = vgg.hash_tensors(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save(tensors, metadata=origin))
    return path


def _read_range(url: str, start: int, stop: int, size: int) -> bytes:
    """Return the bytes ``start`` to ``stop`` of a file of ``size`` bytes on the Hub."""
    from huggingface_hub import constants, get_session

    headers = _utils().build_hf_headers(**_caller())
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    stream = get_session().stream("GET", url, headers=headers, timeout=timeout)
    with stream as response:
        _utils().hf_raise_for_status(response)
        if response.headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{size}":
            raise _DamagedError
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > stop - start:
                break
    if len(data) != stop - start:
        raise _DamagedError
    return bytes(data)


def _assets() -> Path:
    from huggingface_hub import cached_assets_path

    return cached_assets_path("styleplug", namespace="loss-networks")


def model_card(info: StyleInfo, repo_id: str, samples: Iterable[str] = ()) -> str:
    """Return the ``README.md`` of a style's repository.

    ``samples`` are the names of picture files in the repository.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    data = ModelCardData(
        library_name="styleplug",
        pipeline_tag="image-to-image",
        license=_hub_license(info.license) or _OTHER,
        license_name=None if _hub_license(info.license) else info.license,
        tags=list(cards.TAGS),
        datasets=info.training.get("datasets"),
        base_model=info.training.get("base_model"),
        model_name=info.name,
        eval_results=[
            EvalResult(
                task_type="image-to-image",
                dataset_type="photographs",
                dataset_name=str(info.training.get("measured_on", "Photographs")),
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in info.figures.items()
            if "distance" in metric  # the text gives the others
        ]
        or None,
    )
    text = cards.body(info, repo_id, samples)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


_HUB_LICENSES = frozenset(
    [
        *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause"),
        *("bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc-by-2.0"),
        *("cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"),
        *("cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0"),
        *("cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0"),
        *("cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0"),
        *("eupl-1.1", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0"),
        *("lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by"),
        *("ofl-1.1", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib"),
    ]
)
"""Licences that the Hub knows: mostly SPDX identifiers in lower case."""


_OTHER = "other"
"""The Hub's identifier for all other licences, whose name is given separately."""


def _license_of(card_data: Any) -> str:
    license = str(getattr(card_data, "license", None) or "")
    name = getattr(card_data, "license_name", None)
    return str(name) if license == _OTHER and name else license


def _hub_license(license: str) -> str | None:
    """Return the Hub's identifier for an SPDX licence; None if it has none."""
    name = re.sub("-(only|or-later)$", "", license.strip().lower())
    name = {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl"}.get(
        name, name
    )
    return name if name in _HUB_LICENSES else None


def _parse(repo_id: str) -> tuple[str, str]:
    """Split ``owner/repo[@revision]`` and check both parts."""
    name, at, revision = repo_id.partition("@")
    if "://" in name:
        raise StyleNotFoundError(
            f"{repo_id!r:.300} is an address; write only the repository in it, as "
            "'owner/name' or 'owner/name@revision'."
        )
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


def _download(
    name: str,
    revision: str,
    cache_dir: str | os.PathLike[str] | None,
    token: str | bool | None,
) -> Path:
    from huggingface_hub import errors

    cache = _cache(cache_dir)
    what = name if revision == "main" else f"{name}@{revision}"
    with _explained(what):
        cached = _cached(name, revision, cache)
    if cached and _COMMIT.fullmatch(revision):
        return cached
    try:
        with _explained(what):
            return _newest(name, revision, cache, token, cached)
    except StyleplugError as error:
        gone = errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError
        if not cached or isinstance(error.__cause__, gone):
            raise
        if not isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            logger.warning("Using the cached copy of %s: %s", what, error)
        return cached


def _newest(
    name: str, revision: str, cache: Path, token: str | bool | None, cached: Path | None
) -> Path:
    """Return the file that ``revision`` has on the Hub, from the cache if it is there.

    ``cached`` is the file that the revision had when it was last looked up.
    """
    import huggingface_hub as hf

    httpx = _httpx()

    def look_up() -> hf.HfFileMetadata:
        url = hf.hf_hub_url(name, FILENAME, revision=revision)
        return hf.get_hf_file_metadata(url, token=token, **_caller())

    if cached:
        remote = look_up()
    else:
        remote = _patiently(look_up, httpx.ReadError, httpx.RemoteProtocolError)
    _check_answer(remote, name)
    if cached and cached.parent.name == remote.commit_hash:
        return cached

    is_damaged = False
    # A damaged file is replaced in one step, as other processes may be doing the same.
    held = hf.try_to_load_from_cache(name, FILENAME, cache, remote.commit_hash)
    with suppress(FileNotFoundError):
        is_damaged = isinstance(held, str) and not _is_intact(Path(held), remote.etag)

    def fetch() -> Path:
        nonlocal is_damaged
        path = Path(
            hf.hf_hub_download(
                name,
                FILENAME,
                revision=remote.commit_hash,
                cache_dir=cache,
                token=token,
                # otherwise the damaged file can come from a store of shared blobs
                force_download=is_damaged,
                tqdm_class=_utils().silent_tqdm,
                **_caller(),
            )
        )
        if path.stat().st_size != remote.size or not _is_intact(path, remote.etag):
            is_damaged = True
            remove(path)
            raise _DamagedError
        try:
            style_info(path)
        except InvalidStyleError:
            remove(path)
            raise
        if revision != remote.commit_hash:
            _remember(path, revision)
        return path

    cache.resolve().mkdir(parents=True, exist_ok=True)

    def download() -> Path:
        try:
            return fetch()
        except hf.errors.LocalEntryNotFoundError:
            raise
        except FileNotFoundError as error:  # another process has removed it
            raise _DamagedError from error

    return _patiently(download, httpx.ReadError, _DamagedError)


def _reach() -> None:
    """Fail at once if the Hub does not answer; its client would retry for long.

    Later requests of that client, which waits for ever by default, have a limit too.
    """
    from huggingface_hub import constants, get_session

    session = get_session()
    if session.timeout.read is None:
        session.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    session.get(f"{constants.ENDPOINT}/api/models", params={"limit": 1})


def _api(token: str | None = None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, **_caller())


def _utils() -> Any:
    """Return huggingface_hub.utils, which loads lazily and so hides its types."""
    return importlib.import_module("huggingface_hub.utils")


def _caller() -> dict[str, Any]:
    from . import __version__

    return {"library_name": "styleplug", "library_version": __version__}


def _cached(name: str, revision: str, cache: Path) -> Path | None:
    """Return the cached file of ``revision``, or None if it is missing or damaged."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, FILENAME, cache, revision)
        if not isinstance(found, str):
            return None
        path = Path(found)
        _check_size(path.stat().st_size, name)
        if _is_intact(path):
            return path
    except (FileNotFoundError, UnicodeDecodeError):
        pass  # another process has just removed it, or the ref file is damaged
    return None


def _remember(path: Path, revision: str) -> None:
    """Record in the cache that ``revision`` points to the commit of ``path``."""
    ref = path.parents[2] / "refs" / revision
    with suppress(OSError):  # a cache that cannot be written can still be used
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(path.parent.name)


def _check_answer(remote: Any, what: str) -> None:
    """Refuse an answer that is not the Hub's, leads out of the cache, or is too big."""
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
    """Return whether the content has the hash that the Hub gave for it.

    The cache names a blob by its ETag and links to it, so the hash is known later
    too; without links, it must be passed as ``etag``. The Hub's ETags are SHA-256
    hashes in large-file storage (LFS) and git's SHA-1 for other files.
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


def remove(path: Path) -> None:
    """Remove a cached file and the blob it links to."""
    if path.is_symlink():
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class _DamagedError(OSError):
    """The received data is not what the Hub has."""


def _httpx() -> ModuleType:
    """Return httpx or httpx2, whichever this huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__)


def _patiently(action: Callable[[], T], *passing: type[Exception]) -> T:
    """Return ``action()``, retried after temporary failures.

    These are the exceptions ``passing``, and the Hub being busy or down for a moment.
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
    """Return the seconds that the server asks for in ``Retry-After``, or 0."""
    text = error.response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn every error from huggingface_hub and below into one of styleplug's."""
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
    while isinstance(error, errors.LocalEntryNotFoundError | RuntimeError):
        if not isinstance(error.__cause__, Exception):
            break
        error = error.__cause__
    match error:
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return DownloadError(
                f"{what} is not in the local cache, and HF_HUB_OFFLINE is set; unset "
                "HF_HUB_OFFLINE and try again."
            )
        case errors.GatedRepoError():
            return DownloadError(
                f"{name} is gated; accept its conditions on {hub}/{name}, "
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
                f"{what} holds no {FILENAME}, so it is not a style. Pickled weights "
                "are never loaded; import an old checkpoint with 'styleplug convert'."
            )
        case errors.HfHubHTTPError():
            return _refusal(error, what)
        case errors.FileMetadataError():
            return DownloadError(
                f"The server at {hub} is not the Hub; check HF_ENDPOINT, and whether "
                "this network requires a login first."
            )
        case UnicodeEncodeError():
            return DownloadError(
                "The access token has characters that no token has; correct HF_TOKEN, "
                "or log in again with 'hf auth login'."
            )
        case httpx.ProxyError():
            return DownloadError(
                "The proxy does not let styleplug reach the Hub; check HTTPS_PROXY."
            )
        case httpx.TimeoutException():
            return DownloadError(
                f"The Hub at {hub} did not answer in time; try again, or raise "
                "HF_HUB_DOWNLOAD_TIMEOUT on a slow connection."
            )
        case httpx.ConnectError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return DownloadError(
                f"The Hub at {hub} cannot be reached; check the internet connection "
                "and HF_ENDPOINT, or use a bundled style."
            )
        case httpx.NetworkError() | httpx.ProtocolError() | ConnectionError():
            return DownloadError(
                f"The connection broke while {what} was transferred; try again."
            )
        case OSError(errno=int()):
            return DownloadError(
                f"{what} cannot be kept in the cache "
                f"{error.filename or constants.HF_HUB_CACHE} ({error.strerror}); free "
                "some space, or set HF_HOME to a folder that can be written."
            )
        case OSError():
            return DownloadError(
                f"The download of {what} was damaged and was discarded; try again "
                "later."
            )
    return DownloadError(f"The Hub could not be used for {what} ({error}); try again.")


def _refusal(error: Any, what: str) -> StyleplugError:
    status = error.response.status_code
    if status == 401:
        return DownloadError(
            "The Hub does not accept the access token; log in again with "
            "'hf auth login', or correct HF_TOKEN."
        )
    if status == 403:
        return DownloadError(
            f"The Hub forbids access to {what}; use a token with access to it."
        )
    if status == 429:
        wait = _seconds_to_wait(error)
        when = f"in {wait:.0f} seconds" if wait else "in a few minutes"
        return DownloadError(f"Too many requests to the Hub; try again {when}.")
    if status >= 500:
        return DownloadError(
            f"The Hub has a problem of its own (status {status}); try again later."
        )
    return DownloadError(
        f"The Hub refused {what} (status {status}); check its page on the Hub."
    )
