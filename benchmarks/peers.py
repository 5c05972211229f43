"""Plain re-implementations of peers' networks, run from their own weights.

The weights are not part of this project; see the README of the assets folder.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor


def lengstrom(path: Path, content: Tensor) -> Tensor:
    """Run a network of lengstrom/fast-style-transfer on (1, 3, H, W) in [0, 1].

    Johnson's network with TensorFlow's SAME padding, 1.68 M parameters.
    """
    w = {name: tensor.float() for name, tensor in load_file(path).items()}

    def same(x: Tensor, size: int, stride: int) -> Tensor:
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)

    def norm(x: Tensor, name: str) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        scale, shift = (
            w[f"{name}.{k}"].reshape(1, -1, 1, 1) for k in ("scale", "shift")
        )
        return scale * (x - mean) / torch.sqrt(variance + 1e-3) + shift

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        return norm(
            F.conv2d(same(x, weight.shape[2], stride), weight, None, stride), name
        )

    def up(x: Tensor, name: str) -> Tensor:
        height, width = x.shape[2:]
        x = F.conv_transpose2d(x, w[f"{name}.weight"], stride=2)
        return F.relu(norm(x[..., : 2 * height, : 2 * width], name))

    x = F.relu(conv(content * 255, "conv1"))
    x = F.relu(conv(x, "conv2", 2))
    x = F.relu(conv(x, "conv3", 2))
    for i in range(1, 6):
        x = x + conv(F.relu(conv(x, f"res{i}.conv1")), f"res{i}.conv2")
    x = up(up(x, "convt1"), "convt2")
    x = torch.tanh(conv(x, "convt3")) * 150 + 127.5
    return (x / 255).clamp(0, 1)[..., : content.shape[2], : content.shape[3]]


def fast_neural_style(path: Path, content: Tensor) -> Tensor:
    """Run a TransformerNet of pytorch/examples on (1, 3, H, W) in [0, 1].

    Any base width; RGB 0-255 inside; stale running statistics are ignored.
    """
    w = {name: tensor.float() for name, tensor in load_file(path).items()}

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = w[f"{name}.conv2d.weight"]
        x = F.pad(x, [weight.shape[2] // 2] * 4, mode="reflect")
        return F.conv2d(x, weight, w[f"{name}.conv2d.bias"], stride)

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.instance_norm(x, weight=weight, bias=bias)

    x = content * 255
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        x = F.relu(norm(conv(x, f"conv{i}", stride), f"in{i}"))
    for i in range(1, 6):
        y = F.relu(norm(conv(x, f"res{i}.conv1"), f"res{i}.in1"))
        x = x + norm(conv(y, f"res{i}.conv2"), f"res{i}.in2")
    for i in (1, 2):
        x = F.interpolate(x, scale_factor=2)
        x = F.relu(norm(conv(x, f"deconv{i}"), f"in{i + 3}"))
    x = conv(x, "deconv3") / 255
    return x.clamp(0, 1)[..., : content.shape[2], : content.shape[3]]


class MicroAST:
    """MicroAST (Wang et al., AAAI 2023): any style, 0.47 M parameters."""

    def __init__(self, folder: Path) -> None:
        parts = ("content_encoder", "style_encoder", "modulator", "decoder")
        self._weights = {
            part: {
                name.replace(".conv_layer.", "."): tensor.float()
                for name, tensor in load_file(folder / f"{part}.safetensors").items()
            }
            for part in parts
        }

    def style(self, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Return what the decoder needs from a style image (1, 3, H, W) in [0, 1]."""
        known = []
        for i, x in enumerate(self._encode("style_encoder", image), 1):
            weight, bias = (
                self._conv(x, "modulator", f"{kind}{i}.0").mean((2, 3), keepdim=True)
                for kind in ("weight", "bias")
            )
            known.append((*_mean_and_deviation(x), weight, bias))
        return known

    def __call__(
        self, content: Tensor, style: list[tuple[Tensor, ...]], alpha: float = 1.0
    ) -> Tensor:
        _, x = self._encode("content_encoder", content)
        for name, (mean, deviation, weight, bias) in zip(
            ("dec1", "dec2"), reversed(style), strict=True
        ):
            own_mean, own_deviation = _mean_and_deviation(x)
            x = x.lerp((x - own_mean) / own_deviation * deviation + mean, alpha)
            y = weight * self._conv(x, "decoder", f"{name}.conv1") + bias * x
            y = F.relu(y)
            x = x + weight * self._conv(y, "decoder", f"{name}.conv2") + bias * y
        for layer in ("1", "3", "6", "8"):
            if layer in ("1", "6"):
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = F.relu(self._conv(x, "decoder", f"dec3.{layer}"))
        x = self._conv(x, "decoder", "dec3.10").clamp(0, 1)
        return x[..., : content.shape[2], : content.shape[3]]

    def _encode(self, part: str, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer, stride in (("0", 1), ("2", 2), ("4", 1), ("6", 2), ("8", 1)):
            x = F.relu(self._conv(x, part, f"enc1.{layer}", stride))
        first = self._residual(x, part, "enc1.10")
        return first, self._residual(first, part, "enc2.0")

    def _residual(self, x: Tensor, part: str, name: str) -> Tensor:
        y = F.relu(self._conv(x, part, f"{name}.conv1"))
        return x + self._conv(y, part, f"{name}.conv2")

    def _conv(self, x: Tensor, part: str, name: str, stride: int = 1) -> Tensor:
        weight = self._weights[part][f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.pad(x, [weight.shape[2] // 2] * 4, mode="reflect")
        bias = self._weights[part][f"{name}.bias"]
        return F.conv2d(x, weight, bias, stride, groups=groups)


class AdaIN:
    """AdaIN (Huang & Belongie 2017): VGG-19 to relu4_1 and a decoder of its size."""

    def __init__(self, folder: Path) -> None:
        self._encoder = load_file(folder / "encoder_vgg19_normalised.safetensors")
        self._decoder = load_file(folder / "decoder.safetensors")

    def style(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return _mean_and_deviation(self._encode(image))

    def __call__(
        self, content: Tensor, style: tuple[Tensor, Tensor], alpha: float = 1.0
    ) -> Tensor:
        x = self._encode(content)
        own_mean, own_deviation = _mean_and_deviation(x)
        x = x.lerp((x - own_mean) / own_deviation * style[1] + style[0], alpha)
        counts = {4: 1, 3: 4, 2: 2, 1: 2}
        for block, count in counts.items():
            if block < 4:
                x = F.interpolate(x, scale_factor=2)
            for i in range(1, count + 1):
                x = self._conv(x, self._decoder, f"block{block}_conv{i}")
                if (block, i) != (1, 2):
                    x = F.relu(x)
        return x.clamp(0, 1)[..., : content.shape[2], : content.shape[3]]

    def _encode(self, image: Tensor) -> Tensor:
        w = self._encoder
        x = F.conv2d(image, w["conv0.weight"].float(), w["conv0.bias"].float())
        for block, count in {1: 2, 2: 2, 3: 4, 4: 1}.items():
            for i in range(1, count + 1):
                x = F.relu(self._conv(x, w, f"conv{block}_{i}"))
            if block < 4:
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return x

    def _conv(self, x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, w[f"{name}.weight"].float(), w[f"{name}.bias"].float())


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-5).sqrt()
