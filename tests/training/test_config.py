import pytest

from styleplug.training.config import TrainConfig


@pytest.mark.parametrize("setting", ["steps", "batch_size", "crop_size", "style_size"])
def test_settings_that_cannot_work_are_named(setting):
    with pytest.raises(ValueError, match=setting):
        TrainConfig(**{setting: 0})


def test_crops_fit_the_stride_of_the_network():
    with pytest.raises(ValueError, match="crop_size must be a multiple of 8, got 100"):
        TrainConfig(crop_size=100)


def test_styles_are_trained_for_sizes_that_a_header_can_tell():
    with pytest.raises(ValueError, match="style_size must be at most 4096, got 5000"):
        TrainConfig(style_size=5000)


@pytest.mark.parametrize("scales", [(0, 1), (2, 1), (1, float("nan"))])
def test_scales_are_a_range_of_magnifications(scales):
    with pytest.raises(ValueError, match="scales must be"):
        TrainConfig(scales=scales)
