"""Style files: reading and writing networks and styles as safetensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .errors import InvalidStyleError
from .files import replacing
from .foreign import ARCHITECTURES
from .networks import StyleNetwork, factorize, with_changes
from .style import (
    FACTORS,
    StyleInfo,
    bundled_trunk,
    is_own_tensor,
    read_info,
    trunk_hash,
)

T = TypeVar("T")


class LoadedStyle(NamedTuple):
    """A style ready to render: its header, its trunk, and its vector (K,), or longer
    where it changes kernels."""

    info: StyleInfo
    network: StyleNetwork
    vector: Tensor
    found_in: Callable[[NDArray[Any]], float] | None = None
    """For the style of a picture: returns how far (H, W, 3) pixels are that picture, in
    [0, 1]."""


def load_style(path: Path | str) -> LoadedStyle:
    """Load the style file at ``path``, in float32 on the CPU.

    Raises :class:`~styleplug.errors.InvalidStyleError` when the file is damaged, its
    weights do not fit its network or are not finite, or its trunk is not available.
    """
    path = Path(path)
    info = read_info(path)
    tensors = load_tensors(path)
    vector = tensors.pop("style", None)
    factors = {name: tensors.pop(name) for name in [*tensors] if name.endswith(FACTORS)}
    if vector is None:
        raise InvalidStyleError(f"{path} holds no style vector; download it again.")
    if info.self_contained:
        network = _build(info, tensors)
        info = dataclasses.replace(info, trunk=hash_trunk(network))
    else:
        network = _trunk_of(path, info)
    if vector.shape != (network.style_size,):
        raise InvalidStyleError(
            f"{path} has a style vector of shape {tuple(vector.shape)}, its network "
            f"needs ({network.style_size},); download it again."
        )
    if factors:
        vector = _changed_by(factors, vector, network, path)
    return LoadedStyle(info, network, vector)


def _changed_by(
    tensors: Mapping[str, Tensor], vector: Tensor, network: StyleNetwork, path: Path
) -> Tensor:
    """Return a style vector extended by the changes to kernels in a file.

    Their sizes are checked before anything is computed from them.
    """
    try:
        factors = {
            name: (tensors[f"{name}{FACTORS[0]}"], tensors[f"{name}{FACTORS[1]}"])
            for name in network.changeable
        }
    except KeyError:
        factors = {}
    fits = len(tensors) == 2 * len(factors) and all(
        _are_factors(*factors[name], shape)
        for name, shape in network.changeable.items()
    )
    changed = with_changes(vector, factors) if fits else vector
    if not (fits and torch.isfinite(changed).all()):
        raise InvalidStyleError(
            f"{path} has changes to kernels that do not fit its network; download it "
            "again."
        )
    return changed


def _are_factors(a: Tensor, b: Tensor, kernel: torch.Size) -> bool:
    """Return whether the product of two tensors can be added to a kernel."""
    outputs, inputs = kernel[0], kernel[1:].numel()
    rank = a.shape[0] if a.ndim == 2 else -1
    fits = 0 <= rank <= min(outputs, inputs)
    return fits and (a.shape[1], tuple(b.shape)) == (inputs, (outputs, rank))


def _trunk_of(path: Path, info: StyleInfo) -> StyleNetwork:
    """Return the trunk that lies beside the style file, or the bundled one."""
    fault = None
    for trunk in (path.with_name(bundled_trunk().name), bundled_trunk()):
        if trunk.is_file():
            try:
                network = load_trunk(trunk)
            except InvalidStyleError as error:
                fault = fault or error
                continue
            if hash_trunk(network) == info.trunk:
                return network
    raise fault or InvalidStyleError(
        f"{path} belongs to the trunk {info.trunk[:12]}, which is neither beside it "
        f"nor bundled; put that {bundled_trunk().name} into its folder, or get the "
        "self-contained file of the style."
    )


def once_per_file(
    count: int,
) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Make a loader return the same object again while its file is unchanged.

    The objects of the last ``count`` files are kept.
    """

    def decorate(load: Callable[[Path], T]) -> Callable[[Path], T]:
        @functools.lru_cache(maxsize=count)
        def kept(path: Path, *_state: int) -> T:
            return load(path)

        @functools.wraps(load)
        def loaded(path: Path) -> T:
            try:
                is_now = path.stat()
            except OSError:
                return load(path)  # its error says what is wrong
            return kept(
                path.absolute(),
                is_now.st_dev,
                is_now.st_ino,
                is_now.st_size,
                is_now.st_mtime_ns,
                is_now.st_ctime_ns,
            )

        return loaded

    return decorate


@once_per_file(2)
def load_trunk(path: Path) -> StyleNetwork:
    """Load a trunk, also from a style file that contains it.

    The same file returns the same object again.

    Raises :class:`~styleplug.errors.InvalidStyleError` when the file is damaged.
    """
    tensors = load_tensors(path).items()
    trunk = {name: tensor for name, tensor in tensors if not is_own_tensor(name)}
    return _build(read_info(path), trunk)


def save_trunk(path: Path | str, network: StyleNetwork, info: StyleInfo) -> StyleInfo:
    """Write ``network`` as a trunk file; return ``info`` as written."""
    tensors = _trunk_tensors(network)
    info = _describe(info, network)
    write_tensors(Path(path), tensors, info)
    return info


def save_style(
    path: Path | str,
    vector: Tensor,
    network: StyleNetwork,
    info: StyleInfo,
    *,
    self_contained: bool = True,
    dtype: torch.dtype = torch.float16,
) -> StyleInfo:
    """Write a style file, with its trunk or without; return ``info`` as written.

    ``vector`` is (K,), or longer if it changes kernels: the changes are written as
    factors, without components below a thousandth of the largest. The weights are
    rounded to ``dtype``.
    """
    tensors = _trunk_tensors(network, dtype) if self_contained else {}
    vector = vector.detach().cpu().float()
    size = network.style_size
    tensors["style"] = vector[:size].to(dtype)
    if len(vector) > size:
        for name, (a, b) in factorize(network, vector).items():
            lengths = b.norm(dim=0)
            kept = lengths > 1e-3 * lengths.max()
            root = lengths[kept].sqrt()
            tensors[f"{name}{FACTORS[0]}"] = (a[kept] * root[:, None]).to(dtype)
            tensors[f"{name}{FACTORS[1]}"] = (b[:, kept] / root).to(dtype)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    info = _describe(info, network)
    write_tensors(Path(path), tensors, info)
    return info


def complete_style(style: LoadedStyle, complete: Path) -> StyleInfo:
    """Write a loaded style as one self-contained file, its weights unchanged.

    The trunk is added if the style's own file does not contain it. Return the header,
    that of ``style``.
    """
    assert style.info.path is not None
    tensors = load_file(style.info.path)
    if not style.info.self_contained:
        tensors = {**_trunk_tensors(style.network), **tensors}
    info = _describe(style.info, style.network)
    write_tensors(complete, tensors, info)
    return info


def read_style(path: Path) -> tuple[StyleInfo, dict[str, Tensor]]:
    """Return a style file's header and its tensors in float16, without the trunk."""
    info = read_info(path)
    own = {
        name: tensor.half()
        for name, tensor in load_tensors(path).items()
        if is_own_tensor(name)
    }
    return info, own


def hash_trunk(network: StyleNetwork) -> str:
    """Return the hash by which styles refer to their trunk."""
    return trunk_hash(
        (name, tuple(tensor.shape), tensor.numpy().astype("<f2").tobytes())
        for name, tensor in _trunk_tensors(network).items()
    )


def _describe(info: StyleInfo, network: StyleNetwork) -> StyleInfo:
    return dataclasses.replace(
        info,
        network={"name": network.NAME, **network.hyperparameters},
        trunk=hash_trunk(network),
    )


def _trunk_tensors(
    network: StyleNetwork, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], info: StyleInfo) -> None:
    """Write a safetensors file with ``info`` in its header, completely or not at all.

    Raises :class:`~styleplug.errors.InvalidStyleError` for values that are not finite.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InvalidStyleError(
                f"{path.name} is not written, as its weights are not finite "
                f"(tensor {name!r}); lower the --learning-rate of a training, or "
                "convert another checkpoint."
            )
    with replacing(path) as file:
        file.write(save(tensors, metadata=info.to_metadata()))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in float32, checked to be finite."""
    try:
        # Cached tensors must also work where gradients are computed, and must not be
        # views of the file, which Windows would then not let be replaced.
        with torch.inference_mode(False):
            tensors = {
                name: tensor.to(torch.float32, copy=True)
                for name, tensor in load_file(path).items()
            }
    except (OSError, SafetensorError) as error:
        raise InvalidStyleError(
            f"{path} is damaged ({error}); download it again."
        ) from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InvalidStyleError(
                f"{path} has weights that are not finite (tensor {name!r}); "
                "download it again, or train it anew."
            )
    return tensors


def _build(info: StyleInfo, tensors: Mapping[str, Tensor]) -> StyleNetwork:
    """Return the network of ``info`` with ``tensors`` as its weights."""
    hyperparameters: dict[str, Any] = dict(info.network)
    name = hyperparameters.pop("name", None)
    try:
        with torch.device("meta"):
            if name == StyleNetwork.NAME:
                network = StyleNetwork(**_checked(hyperparameters))
            else:
                network = _foreign(name, hyperparameters)
        network.load_state_dict(tensors, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidStyleError(
            f"{info.path} has weights that do not fit its network; download it again."
        ) from error
    return network.eval().requires_grad_(False)


def _foreign(name: object, hyperparameters: Mapping[str, Any]) -> StyleNetwork:
    """Return the network of a style that ``styleplug convert`` wrote."""
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InvalidStyleError(
            f"The style needs the network {name!r}, which this styleplug does not "
            "know; upgrade styleplug."
        )
    return ARCHITECTURES[name](**hyperparameters)


def _checked(hyperparameters: Mapping[str, Any]) -> dict[str, list[int]]:
    """Raise ``ValueError`` for sizes that no style has, before they take memory."""
    for key, count, low, high in (("widths", 3, 1, 512), ("blocks", 2, 0, 32)):
        values = hyperparameters.get(key)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(v, int) and low <= v <= high for v in values)
        ):
            raise ValueError(key)
    return dict(hyperparameters)
