"""The style file and its header, readable without torch.

A style is one ``.safetensors`` file. Its header's metadata key ``styleplug`` holds
a JSON object with the fields of :class:`StyleInfo`. The tensors are float16, in
converted styles float32:

``style``
    (K,) the style's instance-norm scales and shifts, always present;
``LAYER.lora_A``, ``LAYER.lora_B``
    (R, 9 I) and (O, R), optional: their product B A is what the style adds to the
    flattened kernel (O, I, 3, 3) of a layer;
``photo``
    (K,) the vector from which training starts if no predictor provides one;
``light``
    (2, K) the factors and offsets that are applied to styles at half strength;
everything else
    the rest of the trunk, the network that all styles of one training share.

A *self-contained* style holds all of them. A style stored beside its trunk holds only
the first two, and ``trunk`` in its header is the hash of the trunk it needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InvalidStyleError
from .files import check_writable

FORMAT = 1
METADATA_KEY = "styleplug"
FACTORS = ".lora_A", ".lora_B"
"""Suffixes of the names of tensors that change kernels."""
STYLES_DIR = Path(__file__).parent / "styles"

_MAX_HEADER_BYTES = 1_000_000
_MAX_DIMENSIONS = 8
"""Most dimensions of a tensor: kernels have four, and many take seconds to multiply."""
_MAX_LEVELS = 4
"""Most levels of a header field: trainings have two, and printing recurses."""
_MAX_NAME = 100
MAX_TEXT = 300
"""Longest text, in characters: more than a file name, often the title, can have."""
_MAX_LENGTHS = {"artwork": 2000, "description": 2000}
"""Limits of longer texts, in characters; 2000 are a page."""
_BASE_SIZES = 64, 4096
"""Smallest and largest base size, in pixels."""
_DTYPE_BYTES = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class StyleInfo:
    """What a style file says about itself."""

    name: str
    """Lower-case name with hyphens, e.g. ``starry-night``.

    In a file it has 1 to 100 printable characters, no slashes and no leading dot.
    """
    title: str = ""
    """Title of the artwork."""
    artist: str = ""
    year: str = ""
    license: str = ""
    """Licence of the weights, an SPDX identifier."""
    artwork: str = ""
    """Rights in the artwork that the style was trained on."""
    description: str = ""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Network name and hyper-parameters."""
    trunk: str = ""
    """Hash of the trunk the style belongs to, see :func:`trunk_hash`."""
    base_size: int = 512
    """Geometric mean side, in pixels, of the pictures the strokes were trained for."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Command, seed, loss network and weights of the training."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Quality measured at the end of the training."""
    self_contained: bool = field(default=False, metadata={"derived": True})
    """Whether the file holds its trunk too."""
    path: Path | None = field(default=None, metadata={"derived": True})
    """Path of the file."""
    repo_id: str | None = field(default=None, metadata={"derived": True})
    revision: str | None = field(default=None, metadata={"derived": True})
    """Commit in the Hub repository that the file came from."""

    @property
    def id(self) -> str:
        """The style's identifier: its name, or ``owner/repo@revision``."""
        return f"{self.repo_id}@{self.revision}" if self.repo_id else self.name

    def header_fields(self) -> dict[str, Any]:
        """Return the fields that are stored in a file, all but the derived ones."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not f.metadata.get("derived")
        }

    def to_metadata(self) -> dict[str, str]:
        """Return the safetensors metadata that :func:`read_info` reads back.

        Invalid Unicode, as in some file names, is written as question marks. Raises
        ``ValueError`` for a name, a text or a number that :func:`read_info` refuses.
        """
        check_style_name(self.name)
        check_style_texts(self.header_fields())
        if not _is_base_size(self.base_size):
            raise ValueError(
                f"A style's base size is {_BASE_SIZES[0]} to {_BASE_SIZES[1]} pixels, "
                f"got {self.base_size!r}"
            )
        fields = {"format": FORMAT, **self.header_fields()}
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        fields = json.loads(text.encode(errors="replace"))
        return {METADATA_KEY: json.dumps(fields, sort_keys=True)}


def _is_base_size(size: object) -> bool:
    return isinstance(size, int) and _BASE_SIZES[0] <= size <= _BASE_SIZES[1]


TEXTS = tuple(
    f.name
    for f in dataclasses.fields(StyleInfo)
    if f.type == "str" and f.name != "trunk"
)
"""The fields that describe a style in words."""


def is_style_name(name: str) -> bool:
    """Return whether a style may have this name, which is displayed and names files."""
    return (
        0 < len(name) <= _MAX_NAME
        and name.isprintable()
        and not name.startswith(".")
        and {"/", "\\"}.isdisjoint(name)
    )


def check_style_name(name: str) -> None:
    """Raise ``ValueError`` unless a style may have this name."""
    if not is_style_name(name):
        raise ValueError(
            f"A style's name has 1 to {_MAX_NAME} printable characters, no slashes "
            f"and no leading dot, got {name[: 2 * _MAX_NAME]!r}"
        )


def hyphenated(text: str, *, also: str = "") -> str:
    """Return the runs of letters and digits in a text, joined by hyphens.

    Letters keep their combining marks. Characters in ``also`` count as letters.
    """
    kept = " "
    for c in to_nfc(text):
        is_mark = unicodedata.category(c).startswith("M") and not kept.endswith(" ")
        kept += c if c.isalnum() or c in also or is_mark else " "
    return "-".join(kept.split())


def printable(text: str) -> str:
    """Return untrusted text as one line that cannot control where it is displayed.

    Other characters are replaced.
    """

    def harmless(sign: str) -> bool:
        is_space = unicodedata.category(sign) == "Zs"  # as in names of screenshots
        return is_space or sign.isprintable()

    return "".join(c if harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def to_nfc(name: str) -> str:
    """Return a file name with composed accents; some Macs store them separately."""
    return unicodedata.normalize("NFC", name)


def check_style_texts(fields: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the texts can be a style's."""
    for name in TEXTS:
        text, limit = fields.get(name, ""), _MAX_LENGTHS.get(name, MAX_TEXT)
        if not isinstance(text, str):
            raise TypeError(f"A style's {name} is a text, got {text!r}")
        if len(text) > limit:
            raise ValueError(
                f"A style's {name} has at most {limit} characters, got {len(text)}; "
                "shorten it."
            )


def check_style_destination(path: Path) -> None:
    """Check early that a style can be written to ``path``.

    Raises ``ValueError`` for a suffix other than ``.safetensors``, and ``OSError`` for
    any other reason.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: name a file that ends in .safetensors.")
    check_writable(path)


def trunk_hash(tensors: Iterable[tuple[str, tuple[int, ...], bytes]]) -> str:
    """Return the SHA-256 that identifies a trunk.

    ``tensors`` are the names, shapes and little-endian float16 bytes of the trunk's
    tensors, in any order.
    """
    digest = hashlib.sha256()
    for name, shape, data in sorted(tensors):
        digest.update(f"{name}{list(shape)}".encode())
        digest.update(data)
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Return the checked safetensors header of ``path``: tensors and ``__metadata__``.

    Reads only the header. Raises :class:`InvalidStyleError` if the file is not a
    safetensors file, is truncated, or holds tensors that no style has.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
                raise InvalidStyleError(
                    f"{path} is not a safetensors file, or was cut short; "
                    "download it again, or import an old checkpoint with "
                    "'styleplug convert'."
                )
            header = json.loads(file.read(length))
        data_size = size - 8 - length
        end = 0
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            if tensor["dtype"] not in _DTYPE_BYTES:
                raise InvalidStyleError(
                    f"{path} holds the tensor {name!r:.100} of type "
                    f"{tensor['dtype']!r:.100}; a style holds only "
                    "floating-point weights."
                )
            begin, end = tensor["data_offsets"]
            shape, itemsize = tensor["shape"], _DTYPE_BYTES[tensor["dtype"]]
            if (
                not (
                    len(shape) <= _MAX_DIMENSIONS
                    and all(0 <= s < 1 << 40 for s in shape)
                )
                or not 0 <= begin <= end <= data_size
                or end - begin != itemsize * math.prod(shape)
            ):
                raise InvalidStyleError(
                    f"{path} was cut short or damaged (tensor {name!r:.100}); "
                    "download it again."
                )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidStyleError(
            f"{path} is not a safetensors file ({error}); download it again."
        ) from error
    except OSError as error:
        raise InvalidStyleError(f"{path} cannot be read: {error.strerror}.") from error
    return dict(header)


def read_info(path: Path | str) -> StyleInfo:
    """Return what the style file at ``path`` says about itself.

    Raises :class:`InvalidStyleError` if it is not a style that this version knows.
    """
    path = Path(path)
    header = read_header(path)
    try:
        fields = json.loads(header["__metadata__"][METADATA_KEY])
        version = fields.pop("format")
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InvalidStyleError(
            f"{path} has no styleplug header, so it is not a style; a network of "
            "another project has to go through 'styleplug convert' first."
        ) from error
    if version != FORMAT:
        raise InvalidStyleError(
            f"{path} is written in style format {reprlib.repr(version)}, this "
            f"styleplug reads {FORMAT}; upgrade styleplug."
        )
    known = {
        f.name: f.type
        for f in dataclasses.fields(StyleInfo)
        if not f.metadata.get("derived")
    }
    for name, value in fields.items():
        expected: type | tuple[type, ...] = str
        if known.get(name, "").startswith("Mapping"):
            expected = dict
        elif name == "base_size":
            expected = int
        if name not in known or not isinstance(value, expected):
            raise InvalidStyleError(
                f"{path} has the header field {name!r:.100} that this styleplug cannot "
                "read; upgrade styleplug."
            )
    try:
        info = StyleInfo(**fields, path=path, self_contained=_has_trunk(header))
        if not (
            is_style_name(info.name)
            and _is_base_size(info.base_size)
            and _is_shallow(fields)
            and all(isinstance(value, int | float) for value in info.figures.values())
        ):
            raise ValueError
        check_style_texts(fields)
        # Python's JSON allows lone surrogates and numbers that are not finite
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidStyleError(
            f"{path} has an invalid name, text or number in its header; use another "
            "style."
        ) from error
    return info


def _is_shallow(value: Any, levels: int = _MAX_LEVELS + 1) -> bool:
    """Return whether lists and objects are nested in at most so many levels."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _has_trunk(header: Mapping[str, Any]) -> bool:
    """Return whether a file has tensors other than those of a style without trunk."""
    return not all(name == "__metadata__" or is_own_tensor(name) for name in header)


def is_own_tensor(name: str) -> bool:
    """Return whether a tensor of that name belongs to the style, not to the trunk."""
    return name == "style" or name.endswith(FACTORS)


def bundled_trunk() -> Path:
    """Return the file of the trunk that the bundled styles share."""
    return STYLES_DIR / "trunk.safetensors"


def bundled_predictor() -> Path:
    """Return the file of the predictor of style vectors for the bundled trunk."""
    return STYLES_DIR / "predictor.safetensors"


def bundled_styles() -> dict[str, Path]:
    """Return the files of the bundled styles by name, sorted."""
    return {
        path.stem: path
        for path in sorted(STYLES_DIR.glob("*.safetensors"))
        if path not in (bundled_trunk(), bundled_predictor())
    }
