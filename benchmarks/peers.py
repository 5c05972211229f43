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
