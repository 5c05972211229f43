"""The loss network, and the losses on its features.

Features of each layer are divided by that layer's mean activation on natural
photographs (the normalised VGG of Gatys, Ecker & Bethge 2015, arXiv 1505.07376), so
that weights mean the same whichever VGG-19 is used.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import vgg
from .errors import TrainingError

Features = dict[str, Tensor]

CONTENT_LAYERS = ("relu4_1",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


class LossNetwork(nn.Module):
    """VGG-19 (Simonyan & Zisserman 2014, arXiv 1409.1556) up to the deepest layer.

    ``path`` is a safetensors file in torchvision's layout (``features.N.weight``,
    ``features.N.bias``). Calling it maps (B, 3, H, W) RGB in [0, 1] to the features
    of ``layers``, one name or several, each (B, C, h, w).

    Raises :class:`~styleplug.errors.TrainingError` when the file is not usable, and
    ``ValueError`` for layers that VGG-19 does not have.
    """

    def __init__(
        self,
        path: Path | str,
        layers: Iterable[str] = STYLE_LAYERS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from torchvision.models import vgg19

        super().__init__()
        layers = [layers] if isinstance(layers, str) else list(layers)
        if not layers or not set(layers) <= set(vgg.LAYERS):
            raise ValueError(
                f"layers must be names from {vgg.LAYERS[0]!r} to {vgg.LAYERS[-1]!r}, "
                f"got {layers!r}"
            )
        self.taps = {vgg.LAYERS.index(layer): layer for layer in layers}
        deepest = max(self.taps)
        shapes = vgg.tensor_shapes(vgg.LAYERS[deepest])
        with torch.device("meta"):
            stack = vgg19().features[: deepest + 1]
        path = vgg.find_file(Path(path), shapes)
        try:
            with safe_open(path, "pt") as file:
                # Copies: mapped memory changes with the file, or ends the process.
                tensors = {
                    name: file.get_tensor(name).to(dtype, copy=True) for name in shapes
                }
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The loss network {path} cannot be read ({error}); give a VGG-19 "
                "in safetensors with torchvision's names."
            ) from error
        wanted = {name.removeprefix("features."): t for name, t in tensors.items()}
        stack.load_state_dict(wanted, assign=True)
        for i, module in enumerate(stack):
            if isinstance(module, nn.ReLU):
                module.inplace = i - 1 not in self.taps
        self.stack = stack.to(dtype, memory_format=torch.channels_last)
        self.activations = dict.fromkeys(layers, 1.0)
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.stack.parameters()).dtype
        return dtype

    def calibrate(self, photographs: Tensor) -> None:
        """Measure each layer's mean activation on (B, 3, H, W) photographs.

        The division by it is folded into the weights, where it costs nothing: the
        output of a convolution is divided, and the next one multiplies it back. Layers
        without a convolution between them are divided by the mean of the first.
        """
        with torch.no_grad():
            features = self(photographs)
        convolutions = [
            i for i, module in enumerate(self.stack) if isinstance(module, nn.Conv2d)
        ]
        divisor = 1.0
        ends = [*convolutions[1:], len(self.stack)]
        for start, end in zip(convolutions, ends, strict=True):
            given = divisor
            layers = [self.taps[i] for i in range(start, end) if i in self.taps]
            if layers:
                mean = features[layers[0]].float().relu().mean().item()
                divisor = mean if 0 < mean < math.inf else 1.0
            for layer in layers:
                self.activations[layer] *= divisor
            convolution = self.stack[start]
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            convolution.weight.data *= given / divisor
            convolution.bias.data /= divisor

    @torch.no_grad()
    def thinned(self, images: Tensor, kept: float = 0.99) -> LossNetwork:
        """Return a network that computes nearly the same features at a third the cost.

        Each convolution but the first is split in two (Zhang, Zou, He & Sun 2016,
        "Accelerating Very Deep Convolutional Networks for Classification and
        Detection", arXiv 1505.06798): one to the principal components that hold
        ``kept`` of the variance of its output on (B, 3, H, W) images, and a 1 x 1
        convolution from there to its channels, which also makes up, as far as it can,
        for what the layers before it lose.
        """
        thin = copy.deepcopy(self)
        x = thin_x = self._entered(images)
        for i, module in enumerate(self.stack):
            if isinstance(module, nn.Conv2d) and module.in_channels > 3:
                wanted, given = module(x), module(thin_x)
                thin.stack[i] = _split(module, wanted, given, kept)
                x = wanted
            else:
                x = module(x)
            thin_x = thin.stack[i](thin_x)
        return thin

    def forward(self, image: Tensor) -> Features:
        return dict(self.walk(image))

    def walk(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the layers and their features as they are computed.

        If something is computed from features before the next ones are asked for, its
        gradient is computed only when the backward pass reaches that layer, and does
        not wait for it in memory.
        """
        x = self._entered(image)
        for i, module in enumerate(self.stack):
            x = module(x)
            if i in self.taps:
                yield self.taps[i], x

    def _entered(self, image: Tensor) -> Tensor:
        from torchvision.transforms.functional import normalize

        x: Tensor = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        return x.to(self.dtype, memory_format=torch.channels_last)


def _split(
    convolution: nn.Conv2d, wanted: Tensor, given: Tensor, kept: float
) -> nn.Sequential:
    """Return two convolutions that compute ``wanted`` from the input of ``given``.

    ``wanted`` and ``given`` are outputs of ``convolution``, (B, C, H, W): for its true
    input, and for its input in the thinned network. Between the two convolutions are as
    many channels as ``kept`` of the variance needs, in multiples of 8.
    """
    y, z = (_positions(f).flatten(0, 1).float() for f in (wanted, given))
    mean, mean_z = y.mean(dim=0), z.mean(dim=0)
    y, z = y - mean, z - mean_z
    square, cross = (z.T @ z).cpu(), (z.T @ y).cpu()
    square.diagonal().add_(1e-5 * square.diagonal().mean() + 1e-12)
    regression = torch.linalg.solve(square, cross).T
    values, vectors = torch.linalg.eigh(regression @ square @ regression.T)
    rest = int((values.cumsum(dim=0) <= (1 - kept) * values.sum()).sum())
    count = len(values)
    channels = min(max(8, -(-(count - rest) // 8) * 8), count)
    basis = vectors[:, -channels:]
    inner = basis.T @ regression

    weight, bias = (p.float().cpu() for p in convolution.parameters())
    first = nn.Conv2d(convolution.in_channels, channels, 3, padding=1, bias=False)
    first.weight.data = torch.einsum("rc,cijk->rijk", inner, weight)
    last = nn.Conv2d(channels, count, 1)
    last.weight.data = basis[..., None, None]
    assert last.bias is not None
    last.bias.data = mean.cpu() - basis @ inner @ (mean_z.cpu() - bias)
    pair = nn.Sequential(first, last).requires_grad_(False).to(convolution.weight)
    return pair.to(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of features over positions, which describe a style."""

    mean: Tensor
    """(B, C), in float32."""
    gram: Tensor
    """(B, C, C): the mean of f fᵀ, not centred, in float32."""

    @property
    def covariance(self) -> Tensor:
        return self.gram - self.mean[:, :, None] * self.mean[:, None, :]

    @property
    def std(self) -> Tensor:
        variance = self.gram.diagonal(dim1=1, dim2=2) - self.mean.square()
        return (variance.clamp(min=0) + 1e-8).sqrt()

    @property
    def energy(self) -> Tensor:
        """(B,): the mean of fᵀ f."""
        return self.gram.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=1e-8)

    @functools.cached_property
    def root(self) -> Tensor:
        """R (B, C, K) with R Rᵀ the covariance, except its smallest 2 per cent."""
        values, vectors = _symmetric_eigen(self.covariance.detach())
        values = values.clamp(min=0)
        rest = values.cumsum(dim=1) <= _NEGLIGIBLE * values.sum(dim=1, keepdim=True)
        kept = slice(int(rest.sum(dim=1).min()), None)
        root: Tensor = vectors[:, :, kept] * values[:, None, kept].sqrt()
        return root


MomentLoss = Callable[[Moments, Moments], Tensor]
_NEGLIGIBLE = 0.02


def moments(features: Tensor, weight: Tensor | None = None) -> Moments:
    """Return the moments of (B, C, H, W) features.

    ``weight`` (1, 1, H, W) is the share of each position, by default 1 / HW. If the
    weights of several tiles sum to 1, their moments sum to those of the whole.
    """
    share = None if weight is None else weight.to(features.dtype).reshape(-1, 1)
    mean, gram = _Moments.apply(features, share)
    return Moments(mean, gram)


class _Moments(torch.autograd.Function):
    """Moments of (B, C, H, W) with shares (HW, 1), and their gradient.

    The gradient of the second moments takes one matrix product, with autograd two. Sums
    over parts are in float32, so that bfloat16 does not coarsen them. The gradient is
    not a view of another tensor, so that autograd adds the gradient from deeper layers
    to it in place.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, share: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        positions = _positions(features)
        ctx.save_for_backward(positions, share)
        ctx.shape = features.shape
        count = positions.shape[1]
        weight = positions.new_ones(count, 1) if share is None else share
        weighted = positions if share is None else positions * share
        mean = _products(weight.expand(len(positions), -1, -1), positions)[:, 0]
        gram = _products(weighted, positions)
        if share is None:
            mean, gram = mean.div_(count), gram.div_(count)
        return mean, gram

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean: Tensor, gram: Tensor) -> tuple[Tensor, None]:
        positions, share = ctx.saved_tensors
        scale = 1 / positions.shape[1] if share is None else 1
        both = (scale * (gram + gram.transpose(1, 2))).to(positions.dtype)
        shift = (scale * mean[:, None]).to(positions.dtype)
        slope = torch.empty(
            ctx.shape,
            dtype=positions.dtype,
            device=positions.device,
            memory_format=torch.channels_last,
        )
        torch.baddbmm(shift, positions, both, out=_positions(slope))
        if share is not None:
            _positions(slope).mul_(share)
        return slope, None


def _positions(features: Tensor) -> Tensor:
    """Return (B, H W, C), a view where (B, C, H, W) is in channels_last."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, K, C): aᵀ b of (B, N, K) and (B, N, C), in float32 at least."""
    wide = torch.promote_types(a.dtype, torch.float32)
    parts = a.shape[1] // _PART
    even = parts * _PART
    return torch.stack(
        [
            torch.bmm(
                x[:even].unflatten(0, (parts, _PART)).transpose(1, 2),
                y[:even].unflatten(0, (parts, _PART)),
            ).sum(dim=0, dtype=wide)
            + x[even:].T @ y[even:]
            for x, y in zip(a, b, strict=True)
        ]
    )


_PART = 1024
"""Number of positions that are summed up at once."""


def gram_matrix(features: Tensor) -> Tensor:
    """Return (B, C, C): the mean over positions of f fᵀ, for (B, C, H, W) features.

    Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural
    Networks", with the mean instead of the sum, so that sizes can differ.
    """
    return moments(features).gram


def content_loss(features: Features, targets: Features) -> Tensor:
    """Return (B,): mean squared difference of features, mean over the layers."""
    losses = []
    for layer, target in targets.items():
        change = features[layer] - target
        wide = torch.promote_types(change.dtype, torch.float32)
        length = torch.linalg.vector_norm(change, dim=(1, 2, 3), dtype=wide)
        losses.append(length.square() / change[0].numel())
    return torch.stack(losses).mean(dim=0)


def style_loss(features: Features, grams: Mapping[str, Tensor]) -> Tensor:
    """Return (B,): relative Gram distance ‖G - A‖² / ‖A‖², mean over the layers.

    ``grams`` holds A for each layer, (B, C, C) or (1, C, C).
    """
    losses = [
        _gram_distance(gram_matrix(features[layer]), gram)
        for layer, gram in grams.items()
    ]
    return torch.stack(losses).mean(dim=0)


def gram_loss(found: Moments, wanted: Moments) -> Tensor:
    """Return (B,): relative Gram distance ‖G - A‖² / ‖A‖² (Gatys et al. 2016)."""
    return _gram_distance(found.gram, wanted.gram)


def _gram_distance(gram: Tensor, target: Tensor) -> Tensor:
    power = target.square().sum(dim=(1, 2)).clamp(min=1e-12)
    return (gram - target).square().sum(dim=(1, 2)) / power


def huber(squared: Tensor, far: float) -> Tensor:
    """Return squared distances that grow only linearly beyond a distance of ``far``."""
    distance = squared.clamp(min=far * far).sqrt()
    return torch.where(distance > far, far * (2 * distance - far), squared)


def mean_std_loss(found: Moments, wanted: Moments) -> Tensor:
    """Return (B,): (‖m - m'‖² + ‖s - s'‖²) / (‖m'‖² + ‖s'‖²).

    m and s are the mean and the standard deviation of each channel, the statistics
    that Huang & Belongie 2017 match, arXiv 1703.06868.
    """
    means = (found.mean - wanted.mean).square().sum(dim=1)
    return (means + (found.std - wanted.std).square().sum(dim=1)) / wanted.energy


def wasserstein_loss(found: Moments, wanted: Moments) -> Tensor:
    """Return (B,): the squared 2-Wasserstein distance of Gaussians, relative.

    (‖μ - μ'‖² + tr(Σ + Σ') - 2 tr (Rᵀ Σ R)^½) / (‖μ'‖² + tr Σ') with Σ' = R Rᵀ; Olkin
    & Pukelsheim 1982, "The distance between two random vectors with given dispersion
    matrices"; as a style loss Mroueh 2020, arXiv 1905.12828.
    """
    covariance = found.covariance
    # The trace of (Rᵀ Σ R)^½ is that of K Σ, with K = R (Rᵀ Σ R)^-½ Rᵀ, and its
    # gradient is K / 2.
    with torch.no_grad():
        root = wanted.root
        across = root.transpose(1, 2)
        transport = root @ _inverse_root(across @ covariance @ root) @ across
        trace = (transport * covariance).sum(dim=(1, 2))
    cross = trace + (transport * covariance).sum(dim=(1, 2))
    means = (found.mean - wanted.mean).square().sum(dim=1)
    spread = (covariance + wanted.covariance).diagonal(dim1=1, dim2=2).sum(dim=1)
    squared: Tensor = means + spread - cross
    return squared.clamp(min=0) / wanted.energy


def _symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (B, K), rising, and eigenvectors (B, K, K) of (B, K, K).

    On a Mac's GPU they come from the CPU: torch has no kernel for them there.
    """
    here = matrix.cpu() if matrix.device.type == "mps" else matrix
    values, vectors = torch.linalg.eigh(here)
    return values.to(matrix.device), vectors.to(matrix.device)


def _inverse_root(matrix: Tensor) -> Tensor:
    """Return M^-½ of symmetric M (B, K, K), 0 in directions where M is 0."""
    if not matrix.isfinite().all():
        return torch.full_like(matrix, torch.nan)
    values, vectors = _symmetric_eigen(matrix)
    least = 1e-6 * values[:, -1:].clamp(min=1e-12)
    scale = torch.where(values > least, values.clamp(min=least).rsqrt(), 0)
    root: Tensor = (vectors * scale[:, None, :]) @ vectors.transpose(1, 2)
    return root


def nearest_loss(
    features: Tensor, samples: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return (B,): the mean cosine distance to the nearest feature of the style.

    ``features`` are (B, C, H, W), ``samples`` (N, C) features of the style, from whose
    mean the directions start; ``weight`` is that of :func:`moments`. Kolkin, Kucera,
    Paris, Sýkora, Shechtman & Shakhnarovich 2022, "Neural Neighbor Style Transfer",
    arXiv 2203.13215.
    """
    distance: Tensor = _Nearest.apply(features, samples)
    if weight is None:
        return distance.mean(dim=1)
    return (distance * weight.flatten(1)).sum(dim=1)


class _Nearest(torch.autograd.Function):
    """Cosine distances (B, H W) of (B, C, H, W) to the nearest of samples (N, C), and
    their gradient with respect to the features.

    Autograd would keep several tensors as large as the features for the gradient; here
    they are computed again, a few rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, samples: Tensor) -> Tensor:
        wide = torch.promote_types(features.dtype, torch.float32)
        centre = samples.mean(dim=0)
        units = nn.functional.normalize(samples - centre, dim=1)
        # Allocated before any temporary tensor, so that memory is not fragmented.
        maps = [
            torch.empty_like(features[:, :1], dtype=dtype)
            for dtype in (torch.long, wide, wide)
        ]
        for rows in zip(*map(_in_rows, (features, *maps)), strict=True):
            f, pick, length, cosine = map(_positions, rows)
            f = f - centre
            torch.argmax(f @ units.T, dim=2, keepdim=True, out=pick)
            f = f.to(wide)
            length.copy_(f.square().sum(dim=2, keepdim=True).clamp(min=1e-12).sqrt())
            product = (f * units[pick[..., 0]]).sum(dim=2, keepdim=True)
            torch.div(product, length, out=cosine)
        ctx.save_for_backward(features, centre, units, *maps)
        return 1 - maps[-1].flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        features, centre, units, picks, lengths, cosines = ctx.saved_tensors
        gradient = torch.empty_like(features, memory_format=torch.channels_last)
        scales = slope.reshape(lengths.shape) / lengths
        given = features, gradient, picks, scales, cosines / lengths
        for rows in zip(*map(_in_rows, given), strict=True):
            f, target, pick, scale, along = map(_positions, rows)
            away = along * (f - centre) - units[pick[..., 0]]
            target.copy_(scale * away)
        return gradient, None


def _in_rows(features: Tensor) -> tuple[Tensor, ...]:
    """Split (B, C, H, W) into groups of rows of about :data:`_CHUNK` positions."""
    parts: tuple[Tensor, ...] = features.split(max(1, _CHUNK // features.shape[3]), 2)
    return parts


_CHUNK = 1 << 12
"""Number of positions whose neighbours are searched at once, to bound the memory."""


def tv_loss(image: Tensor) -> Tensor:
    """Return (B,): mean squared difference of neighbours in (B, 3, H, W).

    Total variation as in Mahendran & Vedaldi 2015, arXiv 1412.0035, with β = 2.
    """
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean(dim=(1, 2, 3))
    right = (image[..., 1:] - image[..., :-1]).square().mean(dim=(1, 2, 3))
    return down + right
