"""The network that peers ship: Johnson, Alahi & Fei-Fei 2016, arXiv 1603.08155.

9x9 convolutions at both ends, widths 32-64-128, two halvings, five residual blocks,
instance norm (Ulyanov 2016, arXiv 1607.08022), as in their supplementary material, but
with the upsampling that today's re-implementations use.
"""

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(size // 2),
        nn.Conv2d(inputs, outputs, size, stride),
        nn.InstanceNorm2d(outputs, affine=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width, 3), nn.ReLU(), _conv(width, width, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def johnson(width: int = 32) -> nn.Sequential:
    """Return the network in evaluation mode, for (1, 3, H, W), sides multiples of 4."""
    network = nn.Sequential(
        _conv(3, width, 9),
        nn.ReLU(),
        _conv(width, 2 * width, 3, 2),
        nn.ReLU(),
        _conv(2 * width, 4 * width, 3, 2),
        nn.ReLU(),
        *(_Residual(4 * width) for _ in range(5)),
        nn.Upsample(scale_factor=2),
        _conv(4 * width, 2 * width, 3),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        _conv(2 * width, width, 3),
        nn.ReLU(),
        nn.ReflectionPad2d(4),
        nn.Conv2d(width, 3, 9),
    )
    return network.eval().requires_grad_(False)


def multiply_adds(network: nn.Module, content: Tensor) -> int:
    """Return how many multiply-adds the convolutions of one forward pass take."""
    total = 0

    def count(module: nn.Conv2d, _: object, out: Tensor) -> None:
        nonlocal total
        total += module.weight.numel() * out.shape[2] * out.shape[3]

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        network(content)
    for hook in hooks:
        hook.remove()
    return total
