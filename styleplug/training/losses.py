"""The loss network, and the losses on its features.

Features of each layer are divided by that layer's mean activation on natural
photographs (the normalised VGG of Gatys, Ecker & Bethge 2015, arXiv 1505.07376), so
that weights mean the same whichever VGG-19 is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import vgg
from ..errors import TrainingError

Features = dict[str, Tensor]

CONTENT_LAYERS = ("relu4_1",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


class LossNetwork(nn.Module):
    """VGG-19 (Simonyan & Zisserman 2014, arXiv 1409.1556) up to the deepest layer.

    ``path`` is a safetensors file in torchvision's layout (``features.N.weight``,
    ``features.N.bias``). Calling it maps (B, 3, H, W) RGB in [0, 1] to the features
    of ``layers``, each (B, C, h, w).

    Raises :class:`~styleplug.errors.TrainingError` when the file cannot serve.
    """

    def __init__(
        self,
        path: Path | str,
        layers: Iterable[str] = STYLE_LAYERS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from torchvision.models import vgg19

        super().__init__()
        self.taps = {vgg.LAYERS.index(layer): layer for layer in layers}
        deepest = max(self.taps)
        shapes = vgg.tensor_shapes(vgg.LAYERS[deepest])
        with torch.device("meta"):
            stack = vgg19().features[: deepest + 1]
        path = vgg.find_file(Path(path), shapes)
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The loss network {path} cannot be read ({error}); give a VGG-19 "
                "in safetensors with torchvision's names."
            ) from error
        wanted = {name.removeprefix("features."): tensors[name] for name in shapes}
        stack.load_state_dict(wanted, assign=True)
        for module in stack:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.stack = stack.to(dtype, memory_format=torch.channels_last)
        self.dtype = dtype
        self.activations = dict.fromkeys(layers, 1.0)
        self.eval().requires_grad_(False)

    def calibrate(self, photographs: Tensor) -> None:
        """Measure each layer's mean activation on (B, 3, H, W) photographs."""
        self.activations = dict.fromkeys(self.activations, 1.0)
        with torch.no_grad():
            features = self(photographs)
        self.activations = {k: f.float().mean().item() for k, f in features.items()}

    def forward(self, image: Tensor) -> Features:
        from torchvision.transforms.functional import normalize

        x = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        x = x.to(self.dtype, memory_format=torch.channels_last)
        features = {}
        for i, module in enumerate(self.stack):
            x = module(x)
            if i in self.taps:
                layer = self.taps[i]
                features[layer] = x / self.activations[layer]
        return features


def gram_matrix(features: Tensor) -> Tensor:
    """Return (B, C, C): the mean over positions of f fᵀ, for (B, C, H, W) features.

    Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural
    Networks", with the mean instead of the sum, so that sizes can differ.
    """
    f = features.flatten(2)
    return ((f @ f.transpose(1, 2)) / f.shape[2]).float()


def content_loss(features: Features, targets: Features) -> Tensor:
    """Return (B,): mean squared difference of features, mean over the layers."""
    losses = [
        (features[layer].float() - target.float()).square().mean(dim=(1, 2, 3))
        for layer, target in targets.items()
    ]
    return torch.stack(losses).mean(dim=0)


def style_loss(features: Features, grams: Mapping[str, Tensor]) -> Tensor:
    """Return (B,): relative Gram distance ‖G - A‖² / ‖A‖², mean over the layers.

    ``grams`` holds A for each layer, (B, C, C) or (1, C, C).
    """
    losses = [
        (gram_matrix(features[layer]) - gram).square().sum(dim=(1, 2))
        / gram.square().sum(dim=(1, 2))
        for layer, gram in grams.items()
    ]
    return torch.stack(losses).mean(dim=0)


def tv_loss(image: Tensor) -> Tensor:
    """Return (B,): mean squared difference of neighbours in (B, 3, H, W).

    Total variation as in Mahendran & Vedaldi 2015, arXiv 1412.0035, with β = 2.
    """
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean(dim=(1, 2, 3))
    right = (image[..., 1:] - image[..., :-1]).square().mean(dim=(1, 2, 3))
    return down + right
