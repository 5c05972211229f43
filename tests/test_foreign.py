"""The architectures of other projects; what they paint is tested with convert."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from styleplug.foreign import ARCHITECTURES, ForeignNetwork
from styleplug.networks import BYTES_PER_PIXEL


def build(name: str, **sizes: Any) -> ForeignNetwork:
    with torch.device("meta"):
        return ARCHITECTURES[name](**sizes)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("johnson", {"kernels": [2, 2]}),
        ("johnson", {"kernels": [11]}),
        ("johnson", {"kernels": [3, -3]}),
        ("johnson", {"kernels": []}),
        ("johnson", {"kernels": [1] * 4}),
        ("johnson", {"kernels": [3.0, 3.0]}),
        ("johnson", {"blocks": 33}),
        ("johnson", {"blocks": -1}),
        ("johnson", {"widths": [8, 8]}),
        ("johnson", {"widths": [0, 8, 8]}),
        ("johnson", {"widths": [8, 8, 513]}),
        ("johnson", {"widths": [65, 8, 8]}),
        ("johnson", {"widths": [8, 129, 8]}),
        ("johnson", {"bottleneck": 10**9}),
        ("msg-net", {"blocks": 400}),
        ("msg-net", {"width": 0}),
        ("msg-net", {"width": "128"}),
    ],
)
def test_sizes_that_no_checkpoint_has_are_refused(
    name: str, sizes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"size of a network|widths must be three"):
        build(name, **sizes)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("johnson", {}),
        ("johnson", {"widths": [8, 16, 32], "bottleneck": 32}),
        ("johnson", {"kernels": [1, 3, 1], "bottleneck": 64, "transposed": True}),
        ("johnson", {"kernels": [3, 3], "preactivated": True}),
        ("johnson", {"blocks": 0}),
        ("msg-net", {}),
    ],
)
def test_sizes_of_known_checkpoints_are_built(name: str, sizes: dict[str, Any]) -> None:
    assert build(name, **sizes).hyperparameters.items() >= sizes.items()


def test_networks_with_more_channels_count_more_memory() -> None:
    small = build("johnson", widths=[8, 16, 32])
    large = build("johnson", widths=[32, 64, 128])
    for dtype in (torch.float32, torch.bfloat16):
        assert small.bytes_per_pixel(dtype) == BYTES_PER_PIXEL[dtype]
        # 64 channels are doubled to full size, and copied to be padded.
        assert large.bytes_per_pixel(dtype) >= 2 * 64 * dtype.itemsize
