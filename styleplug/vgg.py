"""The part of a VGG-19 file that the loss network needs, and where it lies.

The names are torchvision's: ``features.N.weight`` and ``features.N.bias``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import TrainingError

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAYERS = tuple(
    name
    for block, (_, depth) in enumerate(_BLOCKS, start=1)
    for name in (
        *(f"{k}{block}_{i}" for i in range(1, depth + 1) for k in ("conv", "relu")),
        f"pool{block}",
    )
)
"""The modules of VGG-19's ``features`` in their order, from conv1_1 to pool5."""
_BYTES = {"F16": 2, "F32": 4}
_FIRST_READ = 1 << 16
"""Number of bytes that hold the header of a VGG-19 file."""


def channels(layer: str) -> int:
    """Return the number of channels of a layer's features."""
    count, _ = _BLOCKS[int(layer[4]) - 1]
    return count


def tensor_shapes(last_layer: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of VGG-19's tensors down to ``last_layer``."""
    if last_layer not in LAYERS:
        raise ValueError(
            f"last_layer must be a layer from {LAYERS[0]!r} to {LAYERS[-1]!r}, "
            f"got {last_layer!r}"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for index, layer in enumerate(LAYERS[: LAYERS.index(last_layer) + 1]):
        if layer.startswith("conv"):
            width = channels(layer)
            shapes[f"features.{index}.weight"] = (width, inputs, 3, 3)
            shapes[f"features.{index}.bias"] = (width,)
            inputs = width
    return shapes


def find_tensors(
    read: Callable[[int, int], bytes],
    size: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, int]]:
    """Return the byte ranges of tensors, float32 or float16, in a safetensors file.

    ``shapes`` are those of the wanted tensors. ``read(start, stop)`` returns bytes of
    the file, whose size is ``size`` bytes. Raises :class:`TrainingError` if a tensor is
    missing, has another type or shape, or does not lie inside the file.
    """
    start = read(0, min(_FIRST_READ, size))
    end = 8 + int.from_bytes(start[:8], "little")
    if not 8 <= end <= min(_FIRST_READ, size):
        raise TrainingError("it is not a safetensors file")
    try:
        header = json.loads(start[8:end])
        ranges = {}
        for name, shape in shapes.items():
            tensor = header[name]
            begin, stop = tensor["data_offsets"]
            if tensor["dtype"] not in _BYTES or tensor["shape"] != list(shape):
                raise TrainingError(f"{name} is no float32 or float16 of shape {shape}")
            count = _BYTES[tensor["dtype"]] * math.prod(shape)
            if begin < 0 or stop - begin != count or stop > size - end:
                raise TrainingError(f"{name} does not lie inside the file")
            ranges[name] = (end + begin, end + stop)
    except KeyError as error:
        raise TrainingError(f"it lacks {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError("its header is damaged") from error
    return ranges


def group_touching(ranges: Mapping[str, tuple[int, int]]) -> list[list[str]]:
    """Return the names in the order of the file, adjacent ranges grouped together."""
    runs: list[list[str]] = []
    end = -1
    for name in sorted(ranges, key=ranges.__getitem__):
        if ranges[name][0] == end:
            runs[-1].append(name)
        else:
            runs.append([name])
        end = ranges[name][1]
    return runs


def find_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Return ``path``, or the first safetensors file in it, if it has all tensors.

    Raises :class:`TrainingError` if no file has them.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        try:
            with file.open("rb") as stream:
                size = file.stat().st_size
                find_tensors(lambda a, b: _read_at(stream, a, b), size, shapes)
        except (OSError, TrainingError) as error:
            reason = str(error)
        else:
            return file
    raise TrainingError(
        f"{path} holds no VGG-19 down to the layer that is needed"
        + (f" ({reason})" if files else "")
        + "; give a safetensors file with torchvision's names, or leave it out to "
        "download one."
    )


def _read_at(stream: BinaryIO, start: int, stop: int) -> bytes:
    stream.seek(start)
    return stream.read(stop - start)


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the names and values of NumPy arrays."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def has_its_hash(path: Path) -> bool:
    """Return whether a file that :func:`.hub.loss_network_file` wrote is unchanged."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        return bool(metadata["sha256"] == hash_tensors(load_file(path)))
    except (OSError, SafetensorError, KeyError, TypeError):
        return False
