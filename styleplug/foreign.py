"""Networks of other projects, rendered by the same engine as our own.

:mod:`styleplug.convert` creates them from checkpoints and folds the projects'
conventions (RGB or BGR, 0 to 255) into the first and last convolutions. Here all
networks map RGB in [0, 1] to RGB in [0, 1], and strength blends with the content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import (
    BYTES_PER_PIXEL,
    EPS,
    FrozenNetwork,
    NormStatistics,
    StyleNetwork,
    crop_features,
    measure_statistics,
    reflected,
)
from .tiling import Region

_WIDTHS = range(1, 513)
_FULL, _HALF = range(1, 65), range(1, 129)
"""Channels at full size, and at half size, whose features are enlarged to full size."""
_BLOCKS = range(33)
_CONVOLUTIONS = range(1, 4)
"""Convolutions in a block."""
_KERNELS = range(1, 10, 2)
_AT_4 = "block", "inspire", "up2", "down4"
"""Prefixes of the names of layers that work at a quarter of the size."""

Convolution = tuple[int, int, int]
"""Output channels, input channels and kernel size."""


class ForeignNetwork(StyleNetwork):
    """Base class for networks of other projects.

    Convolutions use reflection padding, and normalisations are instance norms. A
    subclass implements ``paint``, which runs its layers through a :class:`_Pass`.
    """

    STRIDE = 4
    GRAIN = 0.0

    def __init__(
        self,
        hyperparameters: Mapping[str, Any],
        convolutions: Mapping[str, Convolution],
        transposed: Sequence[str] = (),
    ) -> None:
        nn.Module.__init__(self)
        self.hyperparameters = dict(hyperparameters)
        self.weights = nn.ParameterDict()
        for name, (outputs, inputs, kernel) in convolutions.items():
            ends = (inputs, outputs) if name in transposed else (outputs, inputs)
            shape = (*ends, kernel, kernel)
            self.weights[f"{name}_weight"] = nn.Parameter(torch.zeros(shape))
            self.weights[f"{name}_bias"] = nn.Parameter(torch.zeros(outputs))

    @property
    def changeable(self) -> dict[str, torch.Size]:
        return {}

    @property
    def receptive_field(self) -> int:
        """Upper bound: half of every kernel at its scale, plus slack for the grid."""
        reach = 4 * self.STRIDE
        for name, kernel in self.weights.items():
            if name.endswith("_weight"):
                at4 = name.startswith(_AT_4)
                at2 = name.startswith(("up1", "down2"))
                scale = 4 if at4 else 2 if at2 else 1
                reach += kernel.shape[-1] // 2 * scale
        return reach

    def bytes_per_pixel(self, dtype: torch.dtype) -> int:
        """Return at least the memory of two copies of the widest full-size features."""
        channels = max(
            max(kernel.shape[:2])
            for name, kernel in self.weights.items()
            if name.endswith("_weight") and not name.startswith((*_AT_4, "down2"))
        )
        widest: int = 2 * channels * dtype.itemsize
        return max(BYTES_PER_PIXEL[dtype], widest)

    def vector(self, style: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        return style.reshape(-1, self.style_size)

    def opacity(self, strength: Tensor | float) -> Tensor:
        return torch.as_tensor(strength)

    def forward(
        self,
        content: Tensor,
        vector: Tensor,
        statistics: dict[str, NormStatistics] | None = None,
        measured: Region | None = None,
    ) -> Tensor:
        def measure(name: str, x: Tensor) -> NormStatistics:
            part = crop_features(x, content, measured)
            found = measure_statistics(part, statistics is not None)
            if statistics is not None:
                statistics[name] = found
            return found

        run = _Pass(dict(self.weights.items()), self.affine(vector), measure)
        return self.paint(run, content).float().clamp(0, 1)

    def freeze(
        self,
        vector: Tensor,
        statistics: Mapping[str, NormStatistics],
        dtype: torch.dtype,
    ) -> FrozenNetwork:
        return _FrozenForeign(self, vector, statistics, dtype)

    def affine(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of the vector (B, K) by name."""
        raise NotImplementedError

    def paint(self, run: _Pass, x: Tensor) -> Tensor:
        """Return the painting (B, 3, H, W) of content ``x``, not clipped."""
        raise NotImplementedError


class _Pass:
    """One run through a network: its weights, style and statistics."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        style: Mapping[str, Tensor],
        measure: Callable[[str, Tensor], NormStatistics],
    ) -> None:
        self.weights = weights
        self.style = style
        self.measure = measure

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = self.weights[f"{name}_weight"]
        pad = kernel.shape[-1] // 2
        if pad:
            x = reflected(x, pad)
        return F.conv2d(x, kernel, self.weights[f"{name}_bias"], stride)

    def transpose(self, name: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x,
            self.weights[f"{name}_weight"],
            self.weights[f"{name}_bias"],
            stride=2,
            padding=1,
            output_padding=1,
        )

    def normalise(self, name: str, x: Tensor) -> Tensor:
        mean, variance = self.measure(name, x)
        scale = torch.rsqrt(variance + EPS)
        if f"{name}_scale" in self.style:
            scale = scale * self.style[f"{name}_scale"]
        shift = self.style.get(f"{name}_shift", torch.zeros_like(mean)) - mean * scale
        return torch.addcmul(
            shift.to(x.dtype)[..., None, None], x, scale.to(x.dtype)[..., None, None]
        )


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class _FrozenForeign(FrozenNetwork):
    """A foreign network with fixed statistics; returns logits like its base class."""

    def __init__(
        self,
        network: ForeignNetwork,
        vector: Tensor,
        statistics: Mapping[str, NormStatistics],
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self._paint = network.paint
        weights = {name: weight.to(dtype) for name, weight in network.weights.items()}
        style = network.affine(vector)
        self._run = _Pass(weights, style, lambda name, _: statistics[name])

    def __call__(self, content: Tensor, box: Region | None = None) -> Tensor:
        top, left, bottom, right = box or (0, 0, *content.shape[2:])
        painted = self._paint(self._run, content)[..., top:bottom, left:right].float()
        return torch.logit(painted, eps=1e-7)


class JohnsonNetwork(ForeignNetwork):
    """The network of Johnson, Alahi & Fei-Fei 2016 (arXiv 1603.08155) and its variants.

    ``widths`` are the channels at full, 1/2 and 1/4 size. Each of the ``blocks``
    residual blocks has convolutions with the kernel sizes ``kernels`` and
    ``bottleneck`` channels between them; if ``preactivated``, the norms come first.
    Upsampling is nearest-neighbour, or ``transposed`` convolution. ``tanh`` limits the
    output to +-150 of 255, for networks trained that way.

    The vector holds the scales and shifts of the instance norms.
    """

    NAME = "johnson"

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 5,
        kernels: Sequence[int] = (3, 3),
        bottleneck: int = 128,
        preactivated: bool = False,
        transposed: bool = False,
        tanh: bool = False,
    ) -> None:
        if len(widths) != 3:
            raise ValueError(
                f"widths must be three, at 1, 1/2 and 1/4, got {list(widths)}"
            )
        _check(_FULL, widths[0])
        _check(_HALF, widths[1])
        _check(_WIDTHS, widths[2], bottleneck)
        _check(_BLOCKS, blocks)
        _check(_KERNELS, *kernels)
        _check(_CONVOLUTIONS, len(kernels))
        full, half, quarter = widths
        convolutions = {
            "enter": (full, 3, 9),
            "down2": (half, full, 3),
            "down4": (quarter, half, 3),
        }
        norms = {"enter": full, "down2": half, "down4": quarter}
        ends = [quarter, *[bottleneck] * (len(kernels) - 1), quarter]
        for i in range(blocks):
            for j, kernel in enumerate(kernels):
                convolutions[f"block{i}_{j}"] = (ends[j + 1], ends[j], kernel)
                norms[f"block{i}_{j}"] = ends[j] if preactivated else ends[j + 1]
        convolutions |= {
            "up2": (half, quarter, 3),
            "up1": (full, half, 3),
            "leave": (3, full, 9),
        }
        self.norms = norms | {"up2": half, "up1": full}
        super().__init__(
            {
                "widths": list(widths),
                "blocks": blocks,
                "kernels": list(kernels),
                "bottleneck": bottleneck,
                "preactivated": preactivated,
                "transposed": transposed,
                "tanh": tanh,
            },
            convolutions,
            ("up2", "up1") if transposed else (),
        )
        self.kernels, self.preactivated = tuple(kernels), preactivated
        self.transposed, self.tanh = transposed, tanh
        self.block_count = blocks

    @property
    def style_size(self) -> int:
        return 2 * sum(self.norms.values())

    def affine(self, vector: Tensor) -> dict[str, Tensor]:
        sizes = list(self.norms.values())
        scales, shifts = vector.chunk(2, dim=1)
        parts = zip(
            self.norms, scales.split(sizes, 1), shifts.split(sizes, 1), strict=True
        )
        style = {}
        for name, scale, shift in parts:
            style[f"{name}_scale"], style[f"{name}_shift"] = scale, shift
        return style

    def paint(self, run: _Pass, x: Tensor) -> Tensor:
        for name, stride in (("enter", 1), ("down2", 2), ("down4", 2)):
            x = F.relu(run.normalise(name, run.convolve(name, x, stride)))
        for i in range(self.block_count):
            x = x + self._block(run, f"block{i}", x)
        for name in ("up2", "up1"):
            if self.transposed:
                x = run.transpose(name, x)
            else:
                x = run.convolve(name, _double(x))
            x = F.relu(run.normalise(name, x))
        x = run.convolve("leave", x)
        return torch.tanh(x) * (150 / 255) if self.tanh else x

    def _block(self, run: _Pass, block: str, x: Tensor) -> Tensor:
        last = len(self.kernels) - 1
        for j in range(len(self.kernels)):
            name = f"{block}_{j}"
            if self.preactivated:
                x = run.convolve(name, F.relu(run.normalise(name, x)))
            else:
                x = run.normalise(name, run.convolve(name, x))
                x = x if j == last else F.relu(x)
        return x


class MsgNetwork(ForeignNetwork):
    """MSG-Net (Zhang & Dana 2017, arXiv 1703.06953) for one style image.

    ``width`` is a quarter of the channels at 1/4 size, ``blocks`` the number of
    bottlenecks there. The vector is the matrix that multiplies the content's features,
    so styles of one checkpoint can be blended.
    """

    NAME = "msg-net"

    def __init__(self, width: int = 128, blocks: int = 6) -> None:
        _check(_WIDTHS, width)
        _check(_BLOCKS, blocks)
        self.width, self.block_count = width, blocks
        deep = 4 * width
        convolutions = {"enter": (64, 3, 7), "leave": (3, 64, 7)}
        units = [("down2", 64, 32), ("down4", 128, width)]
        units += [(f"block{i}", deep, width) for i in range(blocks)]
        units += [("up2", deep, 32), ("up1", 128, 16)]
        for name, inputs, planes in units:
            if not name.startswith("block"):
                convolutions[f"{name}_skip"] = (4 * planes, inputs, 1)
            convolutions[f"{name}_0"] = (planes, inputs, 1)
            convolutions[f"{name}_1"] = (planes, planes, 3)
            convolutions[f"{name}_2"] = (4 * planes, planes, 1)
        super().__init__({"width": width, "blocks": blocks}, convolutions)

    @property
    def style_size(self) -> int:
        return (4 * self.width) ** 2

    def affine(self, vector: Tensor) -> dict[str, Tensor]:
        side = 4 * self.width
        return {"inspire": vector.reshape(-1, side, side)}

    def paint(self, run: _Pass, x: Tensor) -> Tensor:
        x = self.encode(run, x)
        matrix = run.style["inspire"].to(x.dtype)
        x = torch.einsum("bij,bjhw->bihw", matrix.expand(len(x), -1, -1), x)
        for i in range(self.block_count):
            x = x + self._unit(run, f"block{i}", x)
        for name in ("up2", "up1"):
            skip = run.convolve(f"{name}_skip", _double(x))
            x = skip + self._unit(run, name, x, up=True)
        return run.convolve("leave", F.relu(run.normalise("leave", x)))

    def encode(self, run: _Pass, x: Tensor) -> Tensor:
        """Return the features (B, 4 * width, H / 4, W / 4) that styles act on."""
        x = F.relu(run.normalise("enter", run.convolve("enter", x)))
        for name in ("down2", "down4"):
            skip = run.convolve(f"{name}_skip", x, 2)
            x = skip + self._unit(run, name, x, stride=2)
        return x

    def aim(self, style_image: Tensor, weight: Tensor) -> Tensor:
        """Return the vector (K,) for a style image (1, 3, H, W) in [0, 1].

        ``weight`` is the checkpoint's matrix that multiplies the Gram matrix.
        """

        def measure(_: str, x: Tensor) -> NormStatistics:
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
            return NormStatistics(mean, variance)

        run = _Pass(dict(self.weights.items()), {}, measure)
        features = self.encode(run, style_image)[0]
        flat = features.flatten(1)
        gram = flat @ flat.T / flat.numel()
        return (weight.reshape(gram.shape) @ gram).T.flatten()

    def _unit(
        self, run: _Pass, name: str, x: Tensor, stride: int = 1, up: bool = False
    ) -> Tensor:
        x = run.convolve(f"{name}_0", F.relu(run.normalise(f"{name}_0", x)))
        x = F.relu(run.normalise(f"{name}_1", x))
        x = run.convolve(f"{name}_1", _double(x) if up else x, stride)
        return run.convolve(f"{name}_2", F.relu(run.normalise(f"{name}_2", x)))


def _check(allowed: range, *sizes: Any) -> None:
    """Refuse sizes that no checkpoint has, before they cost memory or time."""
    for size in sizes:
        if not isinstance(size, int) or size not in allowed:
            raise ValueError(f"{size!r} is not the size of a network")


ARCHITECTURES: dict[str, type[ForeignNetwork]] = {
    network.NAME: network for network in (JohnsonNetwork, MsgNetwork)
}
