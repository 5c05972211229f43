"""The style network.

One trunk serves every style. A style is a vector of scales and shifts for the trunk's
instance normalisations (Dumoulin, Shlens & Kudlur 2017, "A Learned Representation for
Artistic Style", arXiv 1610.07629), optionally with low-rank changes to its kernels (Hu
et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685),
which are added once per picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tiling import Region

EPS = 1e-5
BYTES_PER_PIXEL = {torch.float32: 260, torch.bfloat16: 170, torch.float16: 170}
"""Working memory in bytes per pixel painted at once, by the type that is computed in.
benchmarks/memory.py measures it with a trunk of the usual widths."""


class NormStatistics(NamedTuple):
    """Instance-norm statistics of one layer, each (B, C) in float32 or better."""

    mean: Tensor
    variance: Tensor


class _Layer(NamedTuple):
    """A convolution followed by a conditional instance norm."""

    inputs: int
    outputs: int
    resample: str = ""
    """``down`` halves, ``up`` doubles height and width."""
    relu: bool = True


class StyleNetwork(nn.Module):
    """Maps a content image and a style vector to a stylized image.

    The image is folded to half its size (pixel unshuffle), then halved twice;
    residual blocks work at 1/8, where strokes are large, and at 1/4, where they are
    fine. Nothing runs at full resolution. Upsampling is resize-convolution (Odena
    2016), evaluated as the transposed convolution it equals.

    ``widths`` are the numbers of channels at 1/2, 1/4 and 1/8, ``blocks`` the numbers
    of residual blocks at 1/4 and 1/8.
    """

    NAME = "conditional"
    STRIDE = 8
    """Height and width of the input must be multiples of this."""
    LIGHT = 0.5
    """Strength below which a painting fades into the photograph."""
    GRAIN = 4 / 255
    """Deviation of the noise that is added to flat areas, such as a sky, for strokes to
    be painted there. Without it they stay empty or are painted in a pattern."""

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96),
        blocks: Sequence[int] = (1, 3),
    ) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.hyperparameters = {"widths": list(widths), "blocks": list(blocks)}
        self.blocks = tuple(blocks)
        self.layers: dict[str, _Layer] = {
            "enter": _Layer(12, half),
            "down4": _Layer(half, quarter, "down"),
            "down8": _Layer(quarter, eighth, "down"),
        }
        for i in range(blocks[1]):
            self.layers[f"block8_{i}_a"] = _Layer(eighth, eighth)
            self.layers[f"block8_{i}_b"] = _Layer(eighth, eighth, relu=False)
        self.layers["up4"] = _Layer(eighth, quarter, "up")
        for i in range(blocks[0]):
            self.layers[f"block4_{i}_a"] = _Layer(quarter, quarter)
            self.layers[f"block4_{i}_b"] = _Layer(quarter, quarter, relu=False)
        self.layers["up2"] = _Layer(quarter, half, "up")

        self.weights = nn.ParameterDict()
        for name, layer in self.layers.items():
            shape = (layer.outputs, layer.inputs, 3, 3)
            self.weights[name] = nn.Parameter(torch.empty(shape))
        self.weights["leave"] = nn.Parameter(torch.empty(3, half, 3, 3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.light = nn.Parameter(torch.empty(2, self.style_size))
        self.photo: Tensor
        """(K,): where training starts a style that no predictor predicts. It was
        learned by earlier versions and is neutral in a new trunk."""
        self.register_buffer("photo", torch.empty(self.style_size))
        if not self.photo.is_meta:  # on meta this would load torch's compiler
            self._initialize()

    def _initialize(self) -> None:
        for name in self.layers:
            nn.init.kaiming_normal_(self.weights[name], nonlinearity="relu")
        nn.init.xavier_normal_(self.weights["leave"])
        self.photo = self.new_style()
        self.light.data = 0.5 * torch.stack([torch.ones_like(self.photo), self.photo])

    @property
    def style_size(self) -> int:
        """Length K of a style vector."""
        return 2 * sum(layer.outputs for layer in self.layers.values())

    @property
    def changeable(self) -> dict[str, torch.Size]:
        """Shapes of the kernels that a style may change, by layer.

        The first and the last layer are left out: with them, learning a style would
        take a quarter longer.
        """
        layers = (name for name in self.layers if name != "enter")
        return {name: self.weights[name].shape for name in layers}

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which the input can change an output pixel."""
        at4, at8 = self.blocks
        reach = 0
        for pixel in range(self.STRIDE):
            first, last = _needed_at_8(pixel, pixel, at4)
            first, last = first - 2 * at8, last + 2 * at8
            for _ in ("down8", "down4"):
                first, last = 2 * first - 1, 2 * last + 1
            first, last = 2 * (first - 1), 2 * (last + 1) + 1  # enter
            reach = max(reach, pixel - first, last - pixel)
        return reach

    def bytes_per_pixel(self, dtype: torch.dtype) -> int:
        """Return the working memory per pixel of a tile, its border included."""
        half, quarter, eighth = self.hyperparameters["widths"]
        # Usually most channels per pixel are at 1/2: 24 of them.
        widest = max(24.0, half, quarter / 4, eighth / 16)
        return math.ceil(BYTES_PER_PIXEL[dtype] * widest / 24)

    def side_for(self, side: float, dtype: torch.dtype) -> float:
        """Return the side of a square that takes as much memory as a square of ``side``
        does with the usual widths."""
        return side * math.sqrt(BYTES_PER_PIXEL[dtype] / self.bytes_per_pixel(dtype))

    def new_style(self) -> Tensor:
        """Return a neutral (K,) style vector: all scales 1, all shifts 0."""
        half = self.style_size // 2
        return torch.cat([torch.ones(half), torch.zeros(half)])

    def vector(self, style: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        """Return the (B, K) vector that paints ``style`` at a strength in [0, 1].

        ``style`` is (K,) or (B, K), ``strength`` a number or (B,). A style that changes
        kernels, see :func:`with_changes`, is longer, and so is the result.

        From strength 1 down to :attr:`LIGHT` the vector moves to a light version of the
        style, which keeps more of the photograph: the style times ``light[0]`` plus
        ``light[1]``, where ``light``, (2, K), is learned and the same for all styles.
        Below that the vector stays, and the painting fades, see :meth:`opacity`.
        """
        style = style.reshape(-1, style.shape[-1])
        strength = torch.as_tensor(strength, dtype=style.dtype, device=style.device)
        amount = ((strength - self.LIGHT) / (1 - self.LIGHT)).clamp(min=0)
        full, changes = style.tensor_split([self.style_size], dim=1)
        light = full * self.light[0] + self.light[1]
        return torch.cat([light.lerp(full, amount.reshape(-1, 1)), changes], dim=1)

    def opacity(self, strength: Tensor | float) -> Tensor:
        """Return the opacity of the painting at a strength in [0, 1], a number or (B,).

        The rest is the photograph, of which the lightest style keeps too little.
        """
        strength = torch.as_tensor(strength, dtype=torch.float32)
        return (strength / self.LIGHT).clamp(max=1)

    def forward(
        self,
        content: Tensor,
        vector: Tensor,
        statistics: dict[str, NormStatistics] | None = None,
        measured: Region | None = None,
    ) -> Tensor:
        """Return the stylized image, (B, 3, H, W) in [0, 1].

        ``content`` is (B, 3, H, W) in [0, 1], height and width multiples of
        :attr:`STRIDE`; ``vector`` is (B, K) from :meth:`vector`. Every layer pads its
        input by reflection. The statistics of each normalisation are measured in
        float32, on ``content`` itself or on its part ``measured``. When ``statistics``
        is given, they are measured over the whole batch, as if its images were parts of
        one, and stored there. Vectors that change kernels are computed one after the
        other.
        """
        if statistics is None and len(vector) > 1 and vector.shape[1] > self.style_size:
            each = zip(content.split(1), vector.split(1), strict=True)
            return torch.cat([self(*one, measured=measured) for one in each])
        scales, shifts = self._affine(vector)
        changes = self._changes(vector)

        def convolve(name: str, x: Tensor) -> Tensor:
            layer = self.layers[name]
            x = reflected(x, 2 if name == "enter" else 1)
            kernel = self._kernel(name, changes)
            x = _convolve(name, x, kernel, layer.resample, padded=True)
            # Batch norm takes ten times as long on a tensor with gaps in memory.
            x = x.contiguous(memory_format=torch.channels_last)
            part = crop_features(x, content, measured)
            found = measure_statistics(part, statistics is not None)
            mean, variance = found
            scale, shift = scales[name], shifts[name]
            if statistics is not None:
                statistics[name] = found
            # On MPS, torch before 2.12 aborts at a batch norm of mixed float types.
            if statistics is not None and x.device.type != "mps":
                x = F.batch_norm(x, mean[0], variance[0], scale[0], shift[0], eps=EPS)
            else:
                scale = scale * torch.rsqrt(variance + EPS)
                shift = shift - mean * scale
                x = torch.addcmul(
                    shift.to(x.dtype)[..., None, None],
                    x,
                    scale.to(x.dtype)[..., None, None],
                )
            return F.relu_(x) if layer.relu else x

        x = reflected(_wire(self.blocks, convolve, content), 1)
        leave = self._kernel("leave", {})
        x = _double(x, leave, self.bias.to(x.dtype), padded=True)
        return torch.sigmoid(x.float())

    def freeze(
        self,
        vector: Tensor,
        statistics: Mapping[str, NormStatistics],
        dtype: torch.dtype,
    ) -> FrozenNetwork:
        """Return the network with one vector (1, K) and fixed statistics folded in."""
        scales, shifts = self._affine(vector)
        changes = self._changes(vector)
        weights, biases = {}, {}
        for name, layer in self.layers.items():
            mean, variance = statistics[name]
            scale = (scales[name] * torch.rsqrt(variance + EPS))[0]
            kernel = self._kernel(name, changes)
            shape = (1, -1, 1, 1) if layer.resample == "up" else (-1, 1, 1, 1)
            weights[name] = kernel * scale.reshape(shape)
            biases[name] = shifts[name][0] - mean[0] * scale
        weights["leave"] = self._kernel("leave", {})
        biases["leave"] = self.bias
        return FrozenNetwork(self.layers, self.blocks, weights, biases, dtype)

    def _affine(self, vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        sizes = [layer.outputs for layer in self.layers.values()]
        scales, shifts = vector[:, : self.style_size].chunk(2, dim=1)
        return (
            dict(zip(self.layers, scales.split(sizes, dim=1), strict=True)),
            dict(zip(self.layers, shifts.split(sizes, dim=1), strict=True)),
        )

    def _changes(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the changes that a vector (1, K or more) adds to kernels, by layer."""
        if vector.shape[1] == self.style_size:
            return {}
        if len(vector) > 1:
            raise ValueError("vectors that change kernels share no statistics")
        shapes = self.changeable
        sizes = [shape.numel() for shape in shapes.values()]
        parts = vector[0, self.style_size :].split(sizes)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def _kernel(self, name: str, changes: Mapping[str, Tensor]) -> Tensor:
        weight = self.weights[name]
        if name in changes:
            weight = weight + changes[name]
        up = name == "leave" or self.layers[name].resample == "up"
        return _resize_kernel(weight) if up else weight


Factors = dict[str, tuple[Tensor, Tensor]]
"""Low-rank changes to kernels (O, I, 3, 3), by layer: A (..., R, 9 I), whose rows are
flattened kernels (I, 3, 3), and B (..., O, R). The product B A is added to a kernel."""


def with_changes(style: Tensor, factors: Factors) -> Tensor:
    """Return style vectors (..., K), extended by their factors' changes to kernels."""
    changes = [(b @ a).flatten(-2) for a, b in factors.values()]
    return torch.cat([style, *changes], dim=-1)


def factorize(network: StyleNetwork, style: Tensor, rank: int | None = None) -> Factors:
    """Return the factors of a style vector's changes to kernels, of full rank or less.

    The vector is (..., K), without changes, or as long as :func:`with_changes` returns
    it. The factors are the best approximation of their rank (singular value
    decomposition); the rows of A are orthonormal.
    """
    shapes = network.changeable
    sizes = [shape.numel() for shape in shapes.values()]
    changes = style[..., network.style_size :].cpu()  # not every device can decompose
    if not changes.shape[-1]:
        changes = changes.new_zeros(*style.shape[:-1], sum(sizes))
    factors = {}
    for (name, shape), change in zip(
        shapes.items(), changes.split(sizes, dim=-1), strict=True
    ):
        u, s, vh = torch.linalg.svd(
            change.unflatten(-1, (shape[0], -1)), full_matrices=False
        )
        b = u[..., :rank] * s[..., None, :rank]
        factors[name] = vh[..., :rank, :].to(style), b.to(style)
    return factors


def first_factors(network: StyleNetwork, style: Tensor, rank: int) -> Factors:
    """Return factors of a rank from which learning can start, see :func:`factorize`.

    They are those of the style's own changes. For a style without changes, A holds the
    principal directions of the trunk's own kernels, and B is 0.
    """
    factors = factorize(network, style, rank)
    for name, (a, b) in factors.items():
        kernel = network.weights[name].detach().cpu().flatten(1)
        main = torch.linalg.svd(kernel, full_matrices=False)[2][:rank].to(a)
        changed = b.flatten(-2).any(dim=-1)[..., None, None]
        factors[name] = torch.where(changed, a, main), b
    return factors


def stack_styles(styles: Sequence[Tensor]) -> Tensor:
    """Return style vectors as rows of one matrix, padded to the longest."""
    longest = max(len(style) for style in styles)
    return torch.stack([F.pad(style, (0, longest - len(style))) for style in styles])


def paint(
    network: StyleNetwork,
    crops: Tensor,
    styles: Tensor,
    strength: Tensor,
    *,
    dtype: torch.dtype,
    shift: tuple[int, int] = (0, 0),
) -> Tensor:
    """Return the crops (B, 3, H, W) painted by the network, computing in ``dtype``.

    Inside the network they are shifted by ``shift``, by at most its stride.
    """
    height, width = crops.shape[2:]
    margin = network.STRIDE if any(shift) else 0
    top, left = (margin + pixels for pixels in shift)
    bottom, right = (margin - pixels for pixels in shift)
    moved = reflected(crops, (top, left, bottom, right))
    moved = moved.contiguous(memory_format=torch.channels_last)
    vector = network.vector(styles, strength)
    with autocast(crops.device, dtype):
        painted: Tensor = network(moved, vector)
    return painted[..., top : top + height, left : left + width]


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device has bfloat16 in hardware; emulation is very slow."""
    if device.type == "cpu":
        wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
        return wide and torch.cpu._is_avx512_bf16_supported()
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # it asks the current one
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def training_dtype(device: torch.device) -> torch.dtype:
    """Return the type for gradients: bfloat16 if the device has it, else float32."""
    return torch.bfloat16 if computes_bfloat16(device) else torch.float32


def checked_dtype(
    dtype: str | torch.dtype, known: Collection[torch.dtype]
) -> torch.dtype:
    """Return a type, which may be named; raise ``ValueError`` if not ``known``."""
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, dtype)
    if isinstance(dtype, torch.dtype) and dtype in known:
        return dtype
    *others, last = (str(one).removeprefix("torch.") for one in known)
    raise ValueError(f"dtype must be {', '.join(others)} or {last}, got {dtype!r}")


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which convolutions compute in ``dtype``."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def mix(content: Tensor, stylized: Tensor, opacity: Tensor | float) -> Tensor:
    """Return ``stylized`` blended over ``content``, (B, 3, H, W) in [0, 1].

    ``opacity`` in [0, 1] is a number or of a shape that broadcasts, such as (H, W). At
    0 and 1 the result is exact. This is the last step of rendering.
    """
    stylized = stylized.to(content.dtype)
    if isinstance(opacity, float):
        return stylized if opacity == 1 else content.lerp(stylized, opacity)
    opacity = opacity.to(content)
    # On macOS 14, lerp with a tensor of weights is wrong for channels-last pixels.
    return content * (1 - opacity) + stylized * opacity


class FrozenNetwork:
    """A style network whose normalisations are folded into its convolutions.

    Calling it maps content (B, 3, H, W) in the network's dtype, height and width
    multiples of :attr:`StyleNetwork.STRIDE`, to logits: the stylized image is their
    sigmoid. Each output pixel depends only on the pixels around it (zeros around the
    content), so tiles of an image can be rendered one by one. With a ``box`` it returns
    only the logits inside, and skips part of what only the others need.
    """

    def __init__(
        self,
        layers: Mapping[str, _Layer],
        blocks: tuple[int, ...],
        weights: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self._layers = layers
        self._blocks = blocks
        self._weights = {
            name: weight.detach().to(dtype, memory_format=torch.channels_last)
            for name, weight in weights.items()
        }
        self._biases = {name: bias.detach().to(dtype) for name, bias in biases.items()}

    def __call__(self, content: Tensor, box: Region | None = None) -> Tensor:
        box = box or Region(0, 0, *content.shape[2:])
        top, bottom = _needed_at_8(box.top, box.bottom - 1, self._blocks[0])
        left, right = _needed_at_8(box.left, box.right - 1, self._blocks[0])
        needed = Region(max(top, 0), max(left, 0), bottom + 1, right + 1)
        x = _wire(self._blocks, self._convolve, content, needed)
        x = _double(x, self._weights["leave"], self._biases["leave"])
        return x[box.within(Region(*(8 * side for side in needed)))]

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        kernel, bias = self._weights[name], self._biases[name]
        layer = self._layers[name]
        return _convolve(name, x, kernel, layer.resample, bias, relu=layer.relu)


def crop_features(x: Tensor, content: Tensor, region: Region | None) -> Tensor:
    """Return the part of the features ``x`` that shows a region of ``content``."""
    if region is None:
        return x
    stride = content.shape[2] // x.shape[2]
    top, left = region.top // stride, region.left // stride
    bottom, right = -(-region.bottom // stride), -(-region.right // stride)
    return x[..., top:bottom, left:right]


def measure_statistics(x: Tensor, whole_batch: bool) -> NormStatistics:
    """Return the statistics of (B, C, H, W), of each image or of all as one.

    Two passes over rows of channels are an order of magnitude faster on a CPU than
    ``torch.var_mean`` over height and width of a channels-last tensor.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    if whole_batch:
        rows = rows.flatten(0, 1)[None]
    if _is_for_onednn(x) and len(rows) == 1:
        return _statistics_of_rows(rows[0])
    rows = rows.to(torch.promote_types(x.dtype, torch.float32))
    mean = rows.mean(dim=1)
    return NormStatistics(mean, (rows - mean[:, None]).square().mean(dim=1))


def _statistics_of_rows(rows: Tensor) -> NormStatistics:
    """Return the statistics of (N, C), measured by torch's batch norm.

    It is fast with many channels, so several rows are joined to one.
    """
    count, channels = rows.shape
    several = next(n for n in (4, 2, 1) if count % n == 0)
    x = rows.reshape(count // several, several * channels)[..., None, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    unused = x.new_zeros(2, several * channels, dtype=wide)
    means, variances = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
    means, variances = means.reshape(several, -1), variances.reshape(several, -1)
    mean = means.mean(dim=0, keepdim=True)
    return NormStatistics(
        mean, (variances + (means - mean).square()).mean(0, keepdim=True)
    )


def _wire(
    blocks: Sequence[int],
    convolve: Callable[[str, Tensor], Tensor],
    content: Tensor,
    needed: Region | None = None,
) -> Tensor:
    """Run all layers but the last: (B, 3, H, W) to (B, half width, H / 2, W / 2).

    The layers after the blocks at 1/8 continue with the box ``needed``, at 1/8, only.
    """
    quarter = convolve("down4", convolve("enter", content))
    x = convolve("down8", quarter)
    for i in range(blocks[1]):
        x = convolve(f"block8_{i}_b", convolve(f"block8_{i}_a", x)).add_(x)
    if needed is not None:
        top, left, bottom, right = needed
        x = x[..., top:bottom, left:right]
        quarter = quarter[..., 2 * top : 2 * bottom, 2 * left : 2 * right]
    x = convolve("up4", x) + quarter
    for i in range(blocks[0]):
        x = convolve(f"block4_{i}_b", convolve(f"block4_{i}_a", x)).add_(x)
    return convolve("up2", x)


def _needed_at_8(first: int, last: int, at4: int) -> tuple[int, int]:
    """Return the first and the last row at 1/8 that rows of the result depend on."""
    for residual in (0, 2 * at4, 0):  # leave, up2 and the blocks at 1/4, up4
        first, last = (first - 1) // 2 - residual, (last + 1) // 2 + residual
    return first, last


def _convolve(
    name: str,
    x: Tensor,
    kernel: Tensor,
    resample: str,
    bias: Tensor | None = None,
    *,
    padded: bool = False,
    relu: bool = False,
) -> Tensor:
    """Run one layer's convolution, and rectify the result if ``relu``.

    Zeros are added around ``x`` unless it is ``padded`` already: by one pixel, for
    ``enter`` by two.
    """
    if name == "enter":
        return _enter(x, kernel, bias, padded, relu)
    if resample == "up":
        return _double(x, kernel, bias, padded, relu)
    stride = 2 if resample == "down" else 1
    padding = 0 if padded else 1
    return _conv2d(x, kernel, bias, (stride, stride), (padding, padding), relu)


def _enter(
    content: Tensor, kernel: Tensor, bias: Tensor | None, padded: bool, relu: bool
) -> Tensor:
    """Fold the content (pixel unshuffle) and convolve it.

    On a CPU there is no folding: two neighbours in a row are read as one pixel of twice
    the channels, which costs nothing, and two rows meet two rows of the kernel.
    """
    padding = 0 if padded else 1
    if not _is_for_onednn(content):
        x = F.pixel_unshuffle(content, 2).contiguous(memory_format=torch.channels_last)
        return _conv2d(x, kernel, bias, (1, 1), (padding, padding), relu)
    batch, channels, height, width = content.shape
    x = content.permute(0, 2, 3, 1).reshape(batch, height, width // 2, 2 * channels)
    outputs = len(kernel)
    kernel = kernel.reshape(outputs, channels, 2, 2, 3, 3).permute(0, 3, 1, 4, 2, 5)
    kernel = _in_rows(kernel.reshape(outputs, 2 * channels, 6, 3))
    x = x.permute(0, 3, 1, 2)
    return _conv2d(x, kernel, bias, (2, 1), (2 * padding, padding), relu)


def _double(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    padded: bool = False,
    relu: bool = False,
) -> Tensor:
    """Double ``x`` (B, C, h, w) with the transposed kernel (C, D, 4, 4).

    On a CPU, in bfloat16 or to colours, a convolution to the four pixels around each
    corner and a shuffle do this: oneDNN's transposed convolutions are five times slower
    there at some widths. In float32 they are as fast, and take less memory.
    """
    wide = x.dtype == torch.float32 and kernel.shape[1] > 3
    if wide or not _is_for_onednn(x):
        padding = 3 if padded else 1
        x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=padding)
        return F.relu_(x) if relu else x
    inputs, outputs = kernel.shape[:2]
    taps = kernel.flip(2, 3).reshape(inputs, outputs, 2, 2, 2, 2)
    corners = taps.flip(3, 5).permute(3, 5, 1, 0, 2, 4).reshape(-1, inputs, 2, 2)
    padding = 0 if padded else 1
    bias = None if bias is None else bias.repeat(4)
    x = _conv2d(x, _in_rows(corners), bias, (1, 1), (padding, padding), relu)
    x = x.permute(0, 2, 3, 1)
    batch, height, width = x.shape[:3]
    x = x.reshape(batch, height, width, 2, 2 * outputs).transpose(2, 3)
    x = x.reshape(batch, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)
    return x[..., 1:-1, 1:-1]


def _conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    relu: bool,
) -> Tensor:
    """Convolve, and rectify if ``relu``: in one pass where oneDNN can."""
    if relu and _is_for_onednn(x) and _rectifies(x.dtype):
        return _convolve_and_rectify(x, kernel, bias, stride, padding)
    x = F.conv2d(x, kernel, bias, stride, padding)
    return F.relu_(x) if relu else x


def _convolve_and_rectify(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """Convolve and rectify with the oneDNN operator that torch's compiler uses."""
    rectified: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, kernel, bias, padding, stride, (1, 1), 1, "relu", [], ""
    )
    return rectified


@functools.cache
def _rectifies(dtype: torch.dtype) -> bool:
    """Return whether oneDNN convolves and rectifies a type in one pass on this CPU."""
    x = torch.zeros(1, 1, 1, 1, dtype=dtype)
    try:
        _convolve_and_rectify(x, x, None)
    except (AttributeError, RuntimeError):
        return False
    return True


def reflected(
    x: Tensor,
    margins: int | tuple[int, int, int, int],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return (B, C, H, W) padded by reflection, in ``dtype`` if one is given.

    ``margins`` are those at the top, left, bottom and right, or one for all. Images too
    small for that repeat their outermost pixels.
    """
    dtype = dtype or x.dtype
    sides = (margins,) * 4 if isinstance(margins, int) else margins
    top, left, below, right = sides
    batch, channels, height, width = x.shape
    small = max(top, below) >= height or max(left, right) >= width
    if small or not _is_for_onednn(x):
        mode = "replicate" if small else "reflect"
        return F.pad(x, (left, right, top, below), mode=mode).to(dtype)
    # Several times faster than F.pad.
    shape = (batch, top + height + below, left + width + right, channels)
    out = x.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)
    bottom, end = top + height, left + width
    out[..., top:bottom, left:end] = x
    for i in range(1, left + 1):
        out[..., top:bottom, left - i] = out[..., top:bottom, left + i]
    for i in range(1, right + 1):
        out[..., top:bottom, end - 1 + i] = out[..., top:bottom, end - 1 - i]
    for i in range(1, top + 1):
        out[..., top - i, :] = out[..., top + i, :]
    for i in range(1, below + 1):
        out[..., bottom - 1 + i, :] = out[..., bottom - 1 - i, :]
    return out


def _is_for_onednn(x: Tensor) -> bool:
    """Return whether to work around what oneDNN is slow at."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _in_rows(kernel: Tensor) -> Tensor:
    return kernel.contiguous(memory_format=torch.channels_last)


def _resize_kernel(weight: Tensor) -> Tensor:
    """Return the transposed kernel (in, out, 4, 4) that equals nearest-neighbour
    doubling followed by the 3x3 convolution ``weight`` (out, in, 3, 3)."""
    flipped = weight.flip(2, 3).transpose(0, 1)
    padded = F.pad(flipped, (1, 1, 1, 1))
    return (
        padded[..., 1:, 1:]
        + padded[..., 1:, :-1]
        + padded[..., :-1, 1:]
        + padded[..., :-1, :-1]
    )
