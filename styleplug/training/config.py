"""The settings of a training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..networks import StyleNetwork


def _setting(
    default: Any,
    text: str,
    least: float = 0,
    most: float = math.inf,
    *,
    above: bool = False,
) -> Any:
    """Return a field with a ``default``; ``text`` is the help of its option.

    Its value must be finite and in [``least``, ``most``]; with ``above``, it must be
    above ``least``.
    """
    metadata = {"help": text, "range": (least, most, above)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; they are stored with the weights.

    Raises ``ValueError`` for a setting out of its range.
    """

    steps: int = _setting(5400, "steps of gradient descent", 1)
    minutes: float = _setting(
        0.0,
        # The learning rate schedule needs the number of steps beforehand.
        "time limit in minutes; a machine too slow for all steps takes fewer; 0: none",
    )
    batch_size: int = _setting(2, "crops in each step", 1)
    crop_size: int = _setting(384, "side of the square crops, in pixels", 48)
    pool: int = _setting(
        0,
        # The loss network processes each of them once. Fewer batches make gradients
        # less noisy; too few are memorised.
        "number of batches that are drawn once and reused; 0: every batch is new",
    )
    scales: tuple[float, float] = _setting(
        (1.33, 2.0),
        "range of the factors by which photographs are scaled before cropping",
    )
    style_size: int = _setting(
        683,
        # Pictures are first painted at this size. Those of 512 pixels are enlarged to
        # it, and so become crisper.
        "size to which artworks are scaled, as the square root of their pixels; it "
        "sets the size of the strokes",
        64,
        4096,
    )
    content_weight: float = _setting(1.0, "weight of the content loss")
    style_weight: float = _setting(60.0, "weight of the style loss")
    far: float = _setting(
        0.5,
        # Keeps dark artworks, which all photographs are far from, from outweighing the
        # rest.
        "relative distance of Gram matrices above which the style loss grows linearly, "
        "not with its square",
        above=True,
    )
    tv_weight: float = _setting(5.0, "weight of the total variation loss")
    learning_rate: float = _setting(
        7e-4, "peak of the one-cycle learning rate", above=True
    )
    vector_rate: float = _setting(
        6.0,
        "learning rate of the style vectors, as a multiple of --learning-rate",
        above=True,
    )
    rank: int = _setting(
        0,
        # See networks.with_changes; the factors are trained at ``learning_rate``.
        "rank of the changes that a style makes to the kernels of a fixed trunk "
        "(LoRA); 0: none, the style is only a vector",
    )
    varied_strength: float = _setting(
        0.3, "share of crops painted at a strength below 1", most=1
    )
    any_share: float = _setting(
        0.5, "with --any: share of crops whose style is predicted", most=1
    )
    identity_share: float = _setting(
        0.1,
        "share of those whose style picture is the photograph itself",
        most=1,
    )
    identity_weight: float = _setting(
        300.0,
        "weight of the mean squared pixel error there, in place of the style loss",
    )
    noise: float = _setting(
        0.03,
        "largest standard deviation of noise under which paintings should stay stable",
    )
    shift: int = _setting(
        4,
        "largest shift, in pixels, under which paintings should stay stable",
        most=StyleNetwork.STRIDE,
    )
    stability_weight: float = _setting(
        200.0, "weight of the mean squared pixel error that noise and shift cause"
    )
    patience: int = _setting(
        0, "steps without improvement after which training stops; 0: never"
    )
    seed: int = _setting(0, "seed of all random choices", most=2**32)

    @property
    def dealt(self) -> int:
        """Number of crops per batch painted in the styles of the named artworks, when
        the others are painted in predicted styles."""
        return round((1 - self.any_share) * self.batch_size)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                continue
            least, most, above = field.metadata["range"]
            enough = value > least if above else value >= least
            if not (enough and value <= most and math.isfinite(value)):
                wanted = f"{'above' if above else 'at least'} {least}"
                if most < math.inf:
                    wanted += f" and at most {most}"
                raise ValueError(f"{field.name} must be {wanted}, got {value}")
        if self.crop_size % StyleNetwork.STRIDE:
            raise ValueError(
                f"crop_size must be a multiple of {StyleNetwork.STRIDE}, got "
                f"{self.crop_size}"
            )
        low, high = self.scales
        if not 0 < low <= high < math.inf:
            raise ValueError(
                "scales must be two numbers above 0, the larger last, "
                f"got {low} and {high}"
            )
