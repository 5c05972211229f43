"""Conversion of old checkpoints of other projects to style files.

Only this module reads pickles, with ``weights_only=True``, so nothing in them is
executed. The architecture is recognised by the names of the tensors.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from . import color
from .errors import InvalidStyleError
from .files import check_free
from .foreign import ForeignNetwork, JohnsonNetwork, MsgNetwork
from .images import as_style_image
from .style import (
    StyleInfo,
    check_style_destination,
    check_style_texts,
    hyphenated,
)
from .weights import save_style

logger = logging.getLogger(__name__)

_STALE = re.compile(r"(.*\.)?(running_mean|running_var)")
"""Statistics that instance norms of PyTorch 0.3 stored but never used; those in use
come with ``num_batches_tracked``."""
_STYLE_IMAGE_SIZE = 512


def convert(
    old_path: str | os.PathLike[str],
    new_path: str | os.PathLike[str],
    *,
    license: str,
    artwork: str,
    name: str | None = None,
    title: str = "",
    artist: str = "",
    year: str = "",
    base_size: int = 512,
    style_image: str | os.PathLike[str] | None = None,
    tanh: bool = False,
    overwrite: bool = False,
) -> StyleInfo:
    """Convert the checkpoint ``old_path`` to the style file ``new_path``.

    Supported are pytorch/examples ``fast_neural_style``, with or without running
    statistics, the networks of rrmina/fast-neural-style-pytorch without dense blocks
    (both with up to 64 channels at full size and 128 at half size), and MSG-Net, which
    needs the ``style_image`` to paint like. ``tanh`` declares a checkpoint to be
    rrmina's TransformerNetworkTanh, which has the same tensors as TransformerNetwork.
    The weights stay in float32. ``license`` is the licence of the weights, ``artwork``
    states the rights in the artwork, and ``base_size`` is the side, in pixels, of a
    picture in which the strokes look right. An existing file is replaced only with
    ``overwrite``.

    Raises :class:`~styleplug.errors.InvalidStyleError` if the checkpoint is damaged, is
    of another kind, or holds more than weights, ``ValueError`` for a suffix other than
    ``.safetensors``, a text or base size that no style has, or ``tanh`` with another
    network, and ``OSError``.
    """
    old_path, new_path = Path(old_path), Path(new_path)
    check_style_texts({"license": license, "artwork": artwork})
    for value, parameter in ((license, "license"), (artwork, "artwork")):
        if not value.strip():
            raise ValueError(f"{parameter} must not be empty, got {value!r}")
    check_style_destination(new_path)
    check_free(new_path, overwrite=overwrite)
    tensors = _read(old_path)
    try:
        with torch.device("meta"):  # allocates nothing for sizes that the file claims
            recipe = _recognise(tensors, tanh)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _unlike(old_path, error) from error
    if recipe is None:
        raise InvalidStyleError(
            f"{old_path} is not a network styleplug knows (its first tensors are "
            f"{', '.join(list(tensors)[:3]) or 'none'}); known are fast_neural_style, "
            "rrmina's TransformerNetwork and ResNext, and MSG-Net."
        )
    network = recipe.network.requires_grad_(False).eval()
    if tanh and not (isinstance(network, JohnsonNetwork) and network.tanh):
        raise ValueError(
            f"tanh is for a TransformerNetworkTanh, which {old_path} is not"
        )
    if isinstance(network, MsgNetwork) and style_image is None:
        raise ValueError("MSG-Net needs the style_image it is to paint like, got None")
    try:
        weights = {f"weights.{key}": recipe.take(key) for key in network.weights}
        network.load_state_dict(weights, assign=True)
        vector = recipe.vector()
    except (KeyError, RuntimeError, TypeError, IndexError) as error:
        raise _unlike(old_path, error) from error
    for key in tensors:
        if key not in tensors.read:
            raise InvalidStyleError(
                f"{old_path} has the tensor {key!r}, which the network it seems to be "
                "does not have; use another checkpoint."
            )
        if not torch.isfinite(tensors[key]).all():
            raise InvalidStyleError(
                f"{old_path} has weights that are not finite (tensor {key!r}); use "
                "another checkpoint."
            )
    if isinstance(network, MsgNetwork):
        assert style_image is not None
        vector = network.aim(_style_image(style_image), vector)
    info = StyleInfo(
        name=name or hyphenated(new_path.stem.lower()) or "converted",
        title=title,
        artist=artist,
        year=year,
        license=license,
        artwork=artwork,
        base_size=base_size,
        training={"converted_from": old_path.name},
    )
    return save_style(new_path, vector, network, info, dtype=torch.float32)


def _unlike(path: Path, error: Exception) -> InvalidStyleError:
    which = (
        f"its tensor {error}" if isinstance(error, KeyError) else "one of its tensors"
    )
    return InvalidStyleError(
        f"{path} looks like a known network, but {which} is missing or of another "
        "shape or type; use another checkpoint."
    )


class Tensors(dict[str, Tensor]):
    """The tensors of a checkpoint by name, in file order, and which were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        """Return a tensor in float32; raise ``KeyError`` if it cannot hold weights."""
        tensor = super().__getitem__(key)
        if not _is_plain(tensor):
            raise KeyError(key)
        self.read.add(key)
        return tensor.detach().float()


def _read(path: Path) -> Tensors:
    """Return the tensors of a safetensors file or a pickle."""
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise InvalidStyleError(
            f"{path} cannot be read ({error.strerror}); check the path."
        ) from error
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            if is_archive:
                _check_unpacked_size(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything, even OSError
        raise InvalidStyleError(
            f"{path} is damaged, compressed or holds more than weights, and nothing in "
            "it is executed; if you trust it, load it and save only its state_dict."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InvalidStyleError(f"{path} holds no state_dict; save one first.")
    return Tensors(
        {
            str(key).removeprefix("module."): value
            for key, value in content.items()
            if isinstance(value, Tensor) and not _STALE.fullmatch(str(key))
        }
    )


def _check_unpacked_size(path: Path) -> None:
    """Raise ``ValueError`` for an archive larger than its file; PyTorch writes none."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("the archive is compressed")


def _is_plain(value: Tensor) -> bool:
    """Return whether a tensor is dense, floating-point and wholly in the file."""
    return (
        not value.is_nested
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.nbytes <= value.untyped_storage().nbytes()
    )


class _Recipe(NamedTuple):
    """An empty network and the functions that fill it from the checkpoint."""

    network: ForeignNetwork
    take: Callable[[str], Tensor]
    """Maps the name of a tensor in the network to its value."""
    vector: Callable[[], Tensor]
    """Returns the style vector, or MSG-Net's matrix to compute it from an image."""


def _norms(
    network: JohnsonNetwork, tensors: Tensors, names: Mapping[str, str]
) -> Callable[[], Tensor]:
    """Return a function that collects the scales and shifts of the norms ``names``."""

    def take(name: str, size: int) -> Tensor:
        if tensors[name].shape != (size,):
            raise KeyError(name)
        return tensors[name]

    def vector() -> Tensor:
        sizes = {names[layer]: size for layer, size in network.norms.items()}
        scales = [take(f"{name}.weight", size) for name, size in sizes.items()]
        shifts = [take(f"{name}.bias", size) for name, size in sizes.items()]
        return torch.cat([*scales, *shifts])

    return vector


def _recognise(tensors: Tensors, tanh: bool) -> _Recipe | None:
    if "ins.weight" in tensors:
        return _msg_net(tensors)
    if "deconv3.conv2d.weight" in tensors:
        return _fast_neural_style(tensors)
    if "ResidualBlock.0.conv1.conv_layer.weight" in tensors:
        return _rrmina(tensors, tanh)
    return None


def _count(tensors: Tensors, pattern: str) -> int:
    found = [re.match(pattern, key) for key in tensors]
    return len({match[1] for match in found if match})


def _fast_neural_style(tensors: Tensors) -> _Recipe:
    widths = [len(tensors[f"conv{i}.conv2d.weight"]) for i in (1, 2, 3)]
    blocks = _count(tensors, r"res(\d+)\.")
    layers = {"enter": "conv1", "down2": "conv2", "down4": "conv3"}
    layers |= {"up2": "deconv1", "up1": "deconv2", "leave": "deconv3"}
    norms = {"enter": "in1", "down2": "in2", "down4": "in3", "up2": "in4", "up1": "in5"}
    for i in range(blocks):
        for j in range(2):
            layers[f"block{i}_{j}"] = f"res{i + 1}.conv{j + 1}"
            norms[f"block{i}_{j}"] = f"res{i + 1}.in{j + 1}"

    def take(key: str) -> Tensor:
        layer, kind = key.rsplit("_", 1)
        tensor = tensors[f"{layers[layer]}.conv2d.{kind}"]
        return _in_our_range(layer, kind, tensor, bgr=False)

    network = JohnsonNetwork(widths, blocks, bottleneck=widths[-1])
    return _Recipe(network, take, _norms(network, tensors, norms))


def _rrmina(tensors: Tensors, tanh: bool) -> _Recipe:
    """Recognise a network of rrmina/fast-neural-style-pytorch, in OpenCV's BGR.

    Only TransformerNetwork has a variant that ends in ``150 * tanh``, with the same
    tensors. Pre-activated blocks are recognised by the sizes of their norms or, in
    TransformerNetworkV2, where all sizes are equal, by the order of the tensors.
    """
    layers = {"enter": "ConvBlock.0", "down2": "ConvBlock.2", "down4": "ConvBlock.4"}
    layers |= {"up2": "DeconvBlock.0", "up1": "DeconvBlock.2", "leave": "DeconvBlock.4"}
    first = "ResidualBlock.0.conv1"
    kernels = [
        tensors[f"ResidualBlock.0.conv{j + 1}.conv_layer.weight"].shape[-1]
        for j in range(_count(tensors, r"ResidualBlock\.0\.conv(\d+)\."))
    ]
    blocks = _count(tensors, r"ResidualBlock\.(\d+)\.")
    for i in range(blocks):
        for j in range(len(kernels)):
            layers[f"block{i}_{j}"] = f"ResidualBlock.{i}.conv{j + 1}"
    norm, conv = f"{first}.norm_layer.weight", f"{first}.conv_layer.weight"
    keys = list(tensors)
    outputs, inputs = tensors[conv].shape[:2]
    if outputs != inputs:
        preactivated = len(tensors[norm]) == inputs
    elif keys == sorted(keys):  # as safetensors stores them
        raise InvalidStyleError(
            "The order of the tensors, which tells TransformerNetworkV2 from its "
            "predecessor, is lost in this file; convert the .pth that it was made from."
        )
    else:
        preactivated = keys.index(norm) < keys.index(conv)
    perhaps = len(kernels) == 2 and not preactivated
    if perhaps and not tanh:
        logger.warning(
            "Recognised as TransformerNetwork; if it is a TransformerNetworkTanh, "
            "which has the same tensors, use --tanh (tanh=True in Python)."
        )
    tanh = perhaps and tanh

    def take(key: str) -> Tensor:
        layer, kind = key.rsplit("_", 1)
        part = "conv_transpose" if layer.startswith("up") else "conv_layer"
        tensor = tensors[f"{layers[layer]}.{part}.{kind}"]
        return _in_our_range(layer, kind, tensor, bgr=True, scale=1 if tanh else 255)

    network = JohnsonNetwork(
        [len(tensors[f"{layers[at]}.conv_layer.weight"]) for at in _ENCODER],
        blocks,
        kernels,
        bottleneck=len(tensors[f"{first}.conv_layer.weight"]),
        preactivated=preactivated,
        transposed=True,
        tanh=tanh,
    )
    norms = {layer: f"{name}.norm_layer" for layer, name in layers.items()}
    return _Recipe(network, take, _norms(network, tensors, norms))


_ENCODER = ("enter", "down2", "down4")


def _msg_net(tensors: Tensors) -> _Recipe:
    for key in [*tensors]:
        if key.startswith("model.0.") or key == "model.1.weight":
            del tensors[key]  # duplicates of model1 and ins
    width = tensors["ins.weight"].shape[-1] // 4
    blocks = _count(tensors, r"model\.(\d+)\.conv_block\.") - 2
    layers = {"enter": "model1.0.conv2d", "leave": f"model.{blocks + 6}.conv2d"}
    units = {"down2": "model1.3", "down4": "model1.4"}
    units |= {f"block{i}": f"model.{i + 2}" for i in range(blocks)}
    units |= {"up2": f"model.{blocks + 2}", "up1": f"model.{blocks + 3}"}
    for unit, at in units.items():
        inner = ".conv2d" if unit.startswith("up") else ""
        layers[f"{unit}_skip"] = f"{at}.residual_layer{inner}"
        layers[f"{unit}_0"] = f"{at}.conv_block.2"
        layers[f"{unit}_1"] = f"{at}.conv_block.5.conv2d"
        layers[f"{unit}_2"] = f"{at}.conv_block.8"

    def take(key: str) -> Tensor:
        layer, kind = key.rsplit("_", 1)
        return _in_our_range(layer, kind, tensors[f"{layers[layer]}.{kind}"], bgr=True)

    network, deep = MsgNetwork(width, blocks), 4 * width
    return _Recipe(network, take, lambda: tensors["ins.weight"].reshape(deep, deep))


def _in_our_range(
    layer: str, kind: str, tensor: Tensor, *, bgr: bool, scale: float = 255
) -> Tensor:
    """Convert a tensor from a network in 0 to 255 to [0, 1], and from BGR to RGB.

    The last convolution is divided by ``scale``.
    """
    if layer == "enter" and kind == "weight":
        tensor = tensor * 255
        return tensor.flip(1) if bgr else tensor
    if layer == "leave":
        tensor = tensor / scale
        return tensor.flip(0) if bgr else tensor
    return tensor


def _style_image(path: str | os.PathLike[str]) -> Tensor:
    """Return the style image as MSG-Net expects it, (1, 3, 512, 512) in [0, 1].

    Transparent parts are laid over white.
    """
    pixels = color.change_depth(as_style_image(path).over_white, np.float32)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    size = (_STYLE_IMAGE_SIZE, _STYLE_IMAGE_SIZE)
    return F.interpolate(image, size, mode="bilinear", antialias=True).clamp_(0, 1)
