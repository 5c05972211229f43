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
    with pytest.raises(ValueError, match=r"style_size must be .* at most 4096, got 5"):
        TrainConfig(style_size=5000)


@pytest.mark.parametrize("scales", [(0, 1), (2, 1), (1, float("nan"))])
def test_scales_are_a_range_of_magnifications(scales):
    with pytest.raises(ValueError, match="scales must be"):
        TrainConfig(scales=scales)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("any_share", 1.5), ("identity_share", -0.1), ("varied_strength", 2.0)),
        *(("far", 0.0), ("learning_rate", 0.0), ("vector_rate", -1.0)),
        *(("content_weight", -1.0), ("tv_weight", -1.0), ("stability_weight", -1.0)),
        *(("style_weight", float("nan")), ("noise", float("inf")), ("seed", -1)),
    ],
)
def test_settings_out_of_their_range_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be .*, got {value}"):
        TrainConfig(**{setting: value})
