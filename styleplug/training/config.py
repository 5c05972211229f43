"""The settings of a training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..networks import StyleNetwork


def _setting(
    default: Any,
    told: str,
    least: float = 0,
    most: float = math.inf,
    *,
    above: bool = False,
) -> Any:
    """Return a field of ``default``; ``told`` is the help of its option.

    It must be finite and in [``least``, ``most``]; with ``above``, above ``least``.
    """
    metadata = {"told": told, "range": (least, most, above)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; they are stored with the weights.

    Raises ``ValueError`` for what is out of its range.
    """

    steps: int = _setting(5400, "steps of descent", 1)
    minutes: float = _setting(
        0.0,
        # The learning rate follows the steps, so their number is told beforehand.
        "minutes that the steps may take on this machine, which makes fewer if it is "
        "too slow for all; 0: as many as they take",
    )
    batch_size: int = _setting(2, "crops in a step", 1)
    crop_size: int = _setting(384, "pixels of a side of the crops", 48)
    pool: int = _setting(
        0,
        # They are looked at by the loss network once. Few make gradients less noisy,
        # too few are learned by heart.
        "batches of crops, which come again and again; 0: all differ",
    )
    scales: tuple[float, float] = _setting(
        (1.33, 2.0), "range of magnifications of the photographs that crops are cut of"
    )
    style_size: int = _setting(
        683,
        # Pictures are painted at it first: those of 512 pixels magnified, and so
        # crisper.
        "geometric mean side of the artworks, in pixels: the stroke size",
        *(64, 4096),
    )
    content_weight: float = _setting(1.0, "weight of the distance to the photograph")
    style_weight: float = _setting(60.0, "weight of the distance to the artwork")
    far: float = _setting(
        0.5,
        # Dark artworks, which all photographs are far from, are not to outweigh the
        # rest.
        "distance to the artwork, relative to its Gram matrices, from which on it "
        "counts as it is, not squared",
        above=True,
    )
    tv_weight: float = _setting(5.0, "weight of the total variation")
    learning_rate: float = _setting(
        7e-4, "peak of the learning rate, in one cycle", above=True
    )
    vector_rate: float = _setting(
        6.0, "learning rate of the style vectors, as a multiple of that", above=True
    )
    rank: int = _setting(
        0,
        # See networks.with_changes; the factors learn at ``learning_rate``.
        "rank of what styles change in the kernels of a trunk that stays as it is; 0: "
        "they are vectors only",
    )
    varied_strength: float = _setting(
        0.3, "share of the crops that is painted at a strength below 1", most=1
    )
    any_share: float = _setting(
        0.5, "share of a batch whose styles are predicted, with --any", most=1
    )
    identity_share: float = _setting(
        0.1,
        "share of the predicted styles whose picture is the photograph itself",
        most=1,
    )
    identity_weight: float = _setting(
        300.0,
        "weight of the mean squared difference of pixels there, in place of the style",
    )
    noise: float = _setting(
        0.03,
        "standard deviation, at most, of the noise that paintings are to be steady in",
    )
    shift: int = _setting(
        4,
        "pixels, at most, of the movement that paintings are to be steady in",
        most=StyleNetwork.STRIDE,
    )
    stability_weight: float = _setting(
        200.0, "weight of the mean squared difference of pixels that both make"
    )
    patience: int = _setting(
        0, "steps without a better loss after which the training stops; 0: never"
    )
    seed: int = _setting(0, "seed of all that is drawn at random", most=2**32)

    @property
    def dealt(self) -> int:
        """How many crops of a batch are painted in the styles of the artworks named,
        where others are in styles that are predicted."""
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
