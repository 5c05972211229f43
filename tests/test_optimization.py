"""Optimization-based style transfer, on a shallow seeded VGG."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import styleplug
from styleplug import images, optimization
from styleplug.errors import (
    DownloadError,
    ImageTooLargeError,
    InvalidImageError,
    MemoryLimitError,
    StyleNotFoundError,
    TrainingError,
)
from styleplug.losses import LossNetwork, gram_loss, moments
from styleplug.objective import STYLE_LOSSES, Objective, Style
from styleplug.optimization import StyleImage, optimize, optimize_file
from tests.conftest import require


@pytest.fixture
def shallow(shallow_vgg, monkeypatch) -> dict[str, object]:
    """Keywords with which an optimization takes a moment."""
    monkeypatch.setattr(optimization, "_CALIBRATION", 64)
    return {
        "loss_network": shallow_vgg,
        "content_layers": "relu2_1",
        "style_layers": ("relu1_1", "relu2_1"),
        "iterations": 4,
        "dtype": "float32",
    }


@pytest.fixture(scope="session")
def stripes() -> Image.Image:
    """A style image of 48 x 40: orange stripes on blue."""
    y, x = np.mgrid[:40, :48]
    stripes = (np.sin(x / 2 + y) > 0)[..., None]
    return Image.fromarray(
        np.where(stripes, [250, 120, 20], [20, 40, 160]).astype(np.uint8)
    )


def flat(color, size=(32, 32)) -> Image.Image:
    return Image.new("RGB", size, color)


def style_distance(vgg, image, style) -> float:
    network = LossNetwork(vgg, ("relu1_1", "relu2_1"))
    found, wanted = (
        network(torch.from_numpy(np.array(i)).permute(2, 0, 1)[None] / 255)
        for i in (image, style)
    )
    with torch.no_grad():
        return sum(
            gram_loss(moments(found[layer]), moments(wanted[layer])).item()
            for layer in found
        )


# The result


@pytest.mark.parametrize("loss", ["gram", "mean_std", "wasserstein"])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_it_comes_nearer_to_the_style(
    loss, optimizer, content_image, stripes, shallow, shallow_vgg
):
    shallow["iterations"] = 12
    result = optimize(
        content_image, stripes, style_loss=loss, optimizer=optimizer, **shallow
    )
    before = style_distance(shallow_vgg, content_image, stripes)
    assert style_distance(shallow_vgg, result, stripes) < 0.7 * before


def test_a_hazy_content_is_painted_too(content_image, stripes, shallow, shallow_vgg):
    shallow["iterations"] = 30
    hazy = Image.blend(content_image, flat("grey", content_image.size), 0.9)
    result = optimize(hazy, stripes, **shallow)
    before = style_distance(shallow_vgg, hazy, stripes)
    assert style_distance(shallow_vgg, result, stripes) < 0.3 * before


def test_the_nearest_features_become_nearer(content_image, stripes, shallow):
    losses = []

    def callback(fraction, snapshot):
        losses.append(snapshot())

    shallow.update(iterations=12, content_weight=0, tv_weight=0)
    optimize(content_image, stripes, style_loss="nearest", callback=callback, **shallow)

    def distance(image):
        """Mean distance of the pixels to the nearest of the two colours."""
        colors = np.array([[250, 120, 20], [20, 40, 160]])
        pixels = np.array(image, float)[..., None, :]
        return np.linalg.norm(pixels - colors, axis=-1).min(axis=-1).mean()

    assert distance(losses[-1]) < 0.9 * distance(content_image)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_a_pil_image_comes_back_as_stylize_gives_it(
    mode, content_image, stripes, shallow, tiny_style
):
    content = content_image.convert(mode)
    expected = styleplug.stylize(content, tiny_style)
    result = optimize(content, stripes, **shallow)
    assert (result.mode, result.size) == (expected.mode, expected.size)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(33, 47), (33, 47, 1), (33, 47, 3), (33, 47, 4)])
def test_an_array_comes_back_with_its_shape_depth_and_alpha(
    dtype, shape, stripes, shallow
):
    values = np.random.default_rng(0).random(shape)
    if np.dtype(dtype).kind == "u":
        values = values * np.iinfo(dtype).max
    content = values.astype(dtype)
    shallow["iterations"] = 1
    result = optimize(content, stripes, **shallow)
    assert (result.shape, result.dtype) == (content.shape, content.dtype)
    if shape[-1] == 4:
        assert np.array_equal(result[..., 3], content[..., 3])


def test_a_batch_is_optimized_one_by_one(stripes, shallow):
    batch = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    result = optimize(batch, stripes, **shallow)
    assert result.shape == batch.shape
    assert torch.equal(result[1:], optimize(batch[1:], stripes, **shallow))


@pytest.mark.parametrize("init", ["content", "noise"])
@pytest.mark.parametrize("loss", ["gram", "nearest"])
def test_the_same_call_gives_the_same_picture(
    init, loss, content_image, stripes, shallow
):
    first, second = (
        np.array(
            optimize(content_image, stripes, init=init, style_loss=loss, **shallow)
        )
        for _ in range(2)
    )
    assert np.array_equal(first, second)


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("setting", ["autocast", "device", "dtype"])
def test_what_a_caller_has_set_for_torch_changes_nothing(
    setting, content_image, stripes, shallow, request
):
    def run():
        return optimize(content_image, stripes, init="noise", **shallow)

    expected = run()
    if setting == "dtype":
        request.getfixturevalue("default_float64")
        result = run()
    else:
        with {
            "autocast": torch.autocast("cpu", torch.bfloat16),
            "device": torch.device("meta"),  # stands for any but the CPU
        }[setting]:
            result = run()
    assert np.array_equal(np.array(result), np.array(expected))


def test_the_seed_is_that_of_the_noise(content_image, stripes, shallow):
    first, second = (
        np.array(optimize(content_image, stripes, init="noise", seed=s, **shallow))
        for s in (1, 2)
    )
    assert not np.array_equal(first, second)


def test_it_can_begin_with_the_picture_of_a_style(
    content_image, stripes, shallow, tiny_style
):
    shallow["iterations"] = 1
    pixels = np.asarray(content_image, np.float32) / 255
    stylized = 255 * styleplug.stylize(pixels, tiny_style)
    result = optimize(content_image, stripes, init=str(tiny_style), **shallow)
    assert np.array(result) == pytest.approx(stylized, abs=1)


@pytest.mark.parametrize("scale", [1, 2])
def test_fast_begins_with_what_is_seen_of_the_style_at_once(
    content_image, stripes, shallow, scale
):
    shallow["iterations"] = 1
    pixels = np.asarray(content_image, np.float32) / 255
    stylized = 255 * styleplug.stylize(pixels, stripes, style_scale=scale)
    result = optimize(content_image, stripes, init="fast", style_scale=scale, **shallow)
    assert np.array(result) == pytest.approx(stylized, abs=1)


def test_what_was_painted_finely_comes_back_at_its_level(stripes, shallow, tiny_style):
    shallow["iterations"] = 1
    pixels = np.random.default_rng(0).random((520, 530, 3), np.float32)
    stylized = styleplug.stylize(pixels, tiny_style)
    result = optimize(pixels, stripes, init=str(tiny_style), **shallow)
    assert result == pytest.approx(stylized.clip(0, 1), abs=1 / 255)


def test_style_scale_makes_the_strokes_larger(content_image, stripes, shallow):
    def width_of_strokes(scale):
        result = optimize(
            flat("grey", (64, 64)), stripes, style_scale=scale, init="noise", **shallow
        )
        grey = np.array(result.convert("L")).astype(float)
        return grey.std() / np.abs(np.diff(grey)).mean()

    shallow.update(iterations=30, content_weight=0)
    assert width_of_strokes(2) > 1.15 * width_of_strokes(1)


# Several styles, regions, masks and colours


def test_a_style_without_weight_does_not_count(content_image, stripes, shallow):
    both = optimize(content_image, [(stripes, 2), (flat("red"), 0)], **shallow)
    alone = optimize(content_image, stripes, **shallow)
    assert np.array_equal(np.array(both), np.array(alone))


@pytest.mark.parametrize("scale", [1e39, 1e-320])
def test_only_the_proportions_of_weights_matter(scale, content_image, stripes, shallow):
    other = flat("red")
    expected = optimize(content_image, [(stripes, 1), (other, 3)], **shallow)
    styles = [(stripes, scale), (other, 3 * scale)]
    assert np.array_equal(optimize(content_image, styles, **shallow), expected)


def test_each_region_takes_its_own_style(shallow):
    shallow.update(iterations=30, content_weight=0.01)
    left = np.zeros((48, 96), np.float32)
    left[:, :48] = 1
    styles = [
        StyleImage(flat((220, 30, 30)), region=left),
        StyleImage(flat((30, 30, 220)), region=1 - left),
    ]
    result = np.array(optimize(flat("grey", (96, 48)), styles, **shallow), float)
    assert result[:, :40, 0].mean() > result[:, :40, 2].mean() + 50
    assert result[:, 56:, 2].mean() > result[:, 56:, 0].mean() + 50


def test_the_mask_of_a_style_tells_what_of_it_counts(shallow):
    shallow.update(iterations=30, content_weight=0.01)
    style = np.zeros((32, 64, 3), np.uint8)
    style[:, :32, 0] = style[:, 32:, 2] = 220
    mask = np.zeros((32, 64), np.float32)
    mask[:, :28] = 1
    result = optimize(flat("grey", (48, 48)), StyleImage(style, mask=mask), **shallow)
    red, _, blue = np.array(result, float).mean(axis=(0, 1))
    assert red > blue + 50


def test_what_is_transparent_in_a_style_is_white_paper(content_image, stripes, shallow):
    sheet = Image.new("RGB", (64, 40), "white")
    sheet.paste(stripes)
    clear = sheet.convert("RGBA")
    clear.paste((200, 0, 0, 0), (48, 0, 64, 40))
    results = [optimize(content_image, style, **shallow) for style in (sheet, clear)]
    assert np.array_equal(*map(np.array, results))


@pytest.mark.parametrize("kind", ["mask", "region"])
def test_a_black_mask_leaves_the_content_as_it_is(
    kind, content_image, stripes, shallow, caplog
):
    black = np.zeros((64, 96), np.float32)
    if kind == "mask":
        result = optimize(content_image, stripes, mask=black, **shallow)
    else:
        result = optimize(content_image, StyleImage(stripes, region=black), **shallow)
    assert np.array_equal(np.array(result), np.array(content_image))
    assert "every region in it, is black" in caplog.text
    pixels = np.array(content_image)
    result = optimize(pixels, stripes, mask=black, **shallow)
    assert np.array_equal(result, pixels)
    assert not np.shares_memory(result, pixels)


def test_where_the_mask_is_0_the_content_stays_exactly(stripes, shallow):
    content = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), np.uint16)
    mask = np.zeros((48, 64), np.float32)
    mask[:, 32:] = np.linspace(0.1, 1, 32)
    result = optimize(content, stripes, mask=mask, **shallow)
    assert np.array_equal(result[:, :32], content[:, :32])
    assert not np.array_equal(result[:, 48:], content[:, 48:])


@pytest.mark.parametrize("value", [True, "luminance"])
def test_preserving_the_luminance_changes_all_channels_alike(value, stripes, shallow):
    shallow["iterations"] = 12
    content = np.full((48, 64, 3), (0.5, 0.45, 0.4), np.float32)
    content += 0.1 * np.random.default_rng(0).random((48, 64, 1), np.float32)
    result = optimize(content, stripes, preserve_color=value, **shallow)
    change = result - content
    inside = ((result > 0) & (result < 1)).all(axis=2)
    assert inside.mean() > 0.5
    assert np.ptp(change[inside], axis=1).max() < 1e-4
    assert np.abs(change).max() > 0.01


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_noise_of_no_colour_is_left_where_the_luminance_is_painted(
    optimizer, stripes, shallow, monkeypatch
):
    evaluate, pictures = Objective.__call__, []

    def seen(self, x):
        pictures.append(x)
        return evaluate(self, x)

    monkeypatch.setattr(Objective, "__call__", seen)
    shallow.update(init="noise", preserve_color="luminance", optimizer=optimizer)
    content = np.random.default_rng(0).integers(0, 256, (540, 520, 3), np.uint8)
    optimize(content, stripes, **shallow)
    assert {tuple(x.shape[2:]) for x in pictures} == {(270, 260), (540, 520)}
    for x in pictures:
        assert (x - x.mean(dim=1, keepdim=True)).abs().max() < 1e-5
    assert pictures[0].std() > 0.1


def test_matched_statistics_give_the_style_the_colours_of_the_content(stripes, shallow):
    shallow.update(iterations=20, content_weight=0.01)
    content = np.array([0.2, 0.6, 0.3]) + 0.1 * np.random.default_rng(0).random(
        (48, 64, 3)
    )
    result = optimize(content, stripes, preserve_color="statistics", **shallow)
    assert result.mean(axis=(0, 1)) == pytest.approx(content.mean(axis=(0, 1)), abs=0.1)
    plain = optimize(content, stripes, **shallow)
    assert abs(plain.mean(axis=(0, 1)) - content.mean(axis=(0, 1))).max() > 0.1


@pytest.mark.parametrize("keep", ["luminance", "statistics"])
def test_colors_are_matched_where_they_count(keep, stripes, shallow):
    shallow.update(iterations=20, content_weight=0.01, preserve_color=keep)
    content = np.zeros((48, 128, 3))
    content[:, :64] = [0.2, 0.6, 0.3]
    content[:, :64] += 0.1 * np.random.default_rng(0).random((48, 64, 3))
    sheet = Image.new("RGB", (96, 40), "white")
    sheet.paste(stripes)
    mask, region = np.zeros((40, 96), np.float32), np.zeros((48, 128), np.float32)
    mask[:, :48] = region[:, :64] = 1
    result = optimize(content, StyleImage(sheet, mask=mask, region=region), **shallow)
    painted = result[:, :48].mean(axis=(0, 1))
    assert painted == pytest.approx(content[:, :48].mean(axis=(0, 1)), abs=0.05)


# Memory


def least_memory(content, style, **options) -> int:
    """Return the least MiB that are told where memory is too small."""
    with pytest.raises(MemoryLimitError) as refused:
        optimize(content, style, memory_limit=1, **options)
    return int(re.findall(r"at least --memory (\d+)M ", str(refused.value))[0])


def test_with_little_memory_it_falls_to_tiles_and_says_so(shallow, stripes, caplog):
    shallow["iterations"] = 1
    content = np.random.default_rng(0).integers(0, 256, (600, 640, 3), np.uint8)
    whole = optimize(content, stripes, **shallow)
    assert caplog.text == ""
    tiled = optimize(content, stripes, memory_limit=900_000_000, **shallow)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "tiles" in caplog.text
    assert np.abs(tiled.astype(int) - whole).mean() < 0.5


def test_content_features_that_are_kept_count_as_memory(stripes, shallow):
    content = np.zeros((900, 900, 3), np.uint8)
    least = []
    for layer in ("relu1_1", "relu2_1"):
        options = {**shallow, "content_layers": layer}
        least.append(least_memory(content, stripes, **options))
    # 64 features of each pixel, 128 of each fourth
    more = 900 * 900 * (64 - 32) * 4 / 2**20
    assert least[0] - least[1] == pytest.approx(more, abs=1)


def test_an_enlarged_style_counts_as_memory(shallow, stripes, caplog):
    shallow.update(iterations=1, memory_limit=290_000_000)
    content, large = np.zeros((300, 300, 3), np.uint8), stripes.resize((300, 300))
    optimize(content, large, **shallow)
    assert caplog.text == ""
    optimize(content, large, style_scale=4, **shallow)
    assert "tiles" in caplog.text


def test_a_huge_style_takes_no_more_memory_than_one_of_the_picture_s_size(
    shallow, stripes
):
    content = np.zeros((300, 300, 3), np.uint8)
    huge, same = stripes.resize((2400, 2000)), stripes.resize((330, 275))
    mask = np.ones((2000, 2400), np.float32)
    least = least_memory(content, StyleImage(same), **shallow)
    assert abs(least_memory(content, StyleImage(huge), **shallow) - least) <= 1
    masked = least_memory(content, StyleImage(huge, mask=mask), **shallow)
    assert abs(masked - least) <= 2


def test_a_shrunk_style_is_seen_as_it_was(shallow, stripes):
    content = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    large = stripes.resize((480, 480), Image.Resampling.NEAREST)
    options = optimization.Options(**{**shallow, "style_scale": 2})
    picture = images.Picture.from_image(content)
    run = optimization._Run(picture, large, options, None)
    (found,) = run.styles
    image = optimization._tensor(np.array(large), run.device)
    whole = Style(image, 1.0, None, None)
    for side, scale in ((64, 2.0), (64, 0.5), (32, 2.0)):
        near, exact = found.at(side, scale), whole.at(side, scale)
        assert near.shape == exact.shape
        assert (near - exact).abs().mean() < 0.02
    assert found.image.numel() < image.numel() / 4


@pytest.mark.parametrize("preserve_color", ["statistics", "luminance"])
def test_memory_that_runs_out_at_the_start_is_told(
    preserve_color, content_image, stripes, shallow, monkeypatch
):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(optimization, "_match_statistics", fail)
    with pytest.raises(MemoryLimitError, match="lower --memory"):
        optimize(content_image, stripes, preserve_color=preserve_color, **shallow)


def test_statistics_are_matched_exactly_within_the_weights():
    generator = torch.Generator().manual_seed(0)
    image, content = torch.rand(2, 1, 3, 300, 40, generator=generator)
    mask, region = torch.rand(2, 1, 1, 300, 40, generator=generator)
    image = 0.3 + 0.2 * image
    content = 0.4 + 0.2 * content[:, [0]] * torch.tensor([1, 0.5, 0.2]).view(3, 1, 1)
    content += 0.05 * torch.rand(1, 3, 300, 40, generator=generator)
    style = Style(image, 1.0, mask, region)
    matched = optimization._match_statistics(style, content)
    a, b = (x[0].flatten(1).double() for x in (matched, content))
    s, t = (x.flatten().double() for x in (mask, region))
    found = torch.cov(a, aweights=s, correction=0)
    wanted = torch.cov(b, aweights=t, correction=0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(a @ s / s.sum(), b @ t / t.sum(), rtol=1e-5, atol=1e-5)


def test_a_small_style_counts_as_what_it_is_when_enlarged(shallow, stripes):
    content = np.zeros((900, 900, 3), np.uint8)
    one, four = (
        least_memory(content, stripes, style_scale=scale, **shallow) for scale in (1, 4)
    )
    assert four - one <= 1


def test_regions_count_as_memory(shallow, stripes):
    content = np.zeros((900, 900, 3), np.uint8)
    halves = [StyleImage(stripes, region=np.eye(2)[i][None]) for i in (0, 1)]
    least = least_memory(content, [(stripes, 1)] * 2, **shallow)
    maps = 2 * 900 * 900 * 4 / 2**20
    assert least_memory(content, halves, **shallow) - least > 2 * maps


def test_styles_whose_nearest_features_are_searched_count_as_memory(
    shallow, stripes, caplog
):
    shallow.update(iterations=1, memory_limit=300_000_000)
    content, styles = np.zeros((300, 300, 3), np.uint8), [(stripes, 1)] * 4
    optimize(content, styles, style_loss="gram", **shallow)
    optimize(content, styles[0][0], style_loss="nearest", **shallow)
    assert caplog.text == ""
    optimize(content, styles, style_loss="nearest", **shallow)
    assert "tiles" in caplog.text


def test_many_pixels_of_style_leave_less_for_the_history(shallow, stripes):
    content = np.zeros((900, 900, 3), np.uint8)
    large = stripes.resize((3000, 2500))
    fits = {**shallow, "iterations": 1}
    least = least_memory(content, large, **fits)
    result = optimize(content, large, memory_limit=least << 20, **fits)
    assert result.shape == content.shape


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_it_works_inside_code_that_takes_no_gradients(around, stripes, shallow):
    content = flat("gray")
    with around():
        found = optimize(content, stripes, **shallow)
    assert np.array_equal(found, optimize(content, stripes, **shallow))


def test_too_little_memory_is_refused_and_the_least_is_told(
    content_image, stripes, shallow
):
    content = np.zeros((900, 900, 3), np.uint8)
    message = r"limit of 3 MB .* at least --memory \d+M \(memory_limit= in Python"
    with pytest.raises(MemoryLimitError, match=message):
        optimize(content, stripes, memory_limit=3 << 20, **shallow)


def test_memory_that_runs_out_on_the_way_is_told(
    content_image, stripes, shallow, monkeypatch
):
    def evaluate(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Objective, "__call__", evaluate)
    with pytest.raises(MemoryLimitError, match="lower --memory"):
        optimize(content_image, stripes, **shallow)


def test_where_memory_runs_out_tiles_become_smaller(
    stripes, shallow, monkeypatch, caplog
):
    evaluate, sides, fractions = Objective.__call__, [], []

    def with_little_memory(self, x):
        sides.append(max(tile.core.height for tile in self.view.tiles))
        if sides[-1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return evaluate(self, x)

    monkeypatch.setattr(Objective, "__call__", with_little_memory)
    content = np.random.default_rng(0).integers(0, 256, (540, 520, 3), np.uint8)
    shallow.update(tolerance=0, callback=lambda fraction, _: fractions.append(fraction))
    result = optimize(content, stripes, **shallow)
    assert sides == [270] * 4 + [540, 272, 272]
    assert "at 520 x 540 pixels; they go on in tiles of 270" in caplog.text
    assert len(fractions) == 4 + 2
    assert all(a < b for a, b in itertools.pairwise(fractions))
    monkeypatch.undo()
    assert np.abs(optimize(content, stripes, **shallow) - result.astype(int)).mean() < 1


@pytest.mark.parametrize("failure", ["memory", "no number"])
def test_a_level_that_fails_leaves_the_picture_of_the_one_before(
    failure, stripes, shallow, monkeypatch, tmp_path, caplog
):
    evaluate, seen = Objective.__call__, []

    def fail(self, x):
        if x.shape[2] < 540:
            return evaluate(self, x)
        if failure == "memory":
            raise MemoryError
        return math.nan, x

    monkeypatch.setattr(Objective, "__call__", fail)
    source, target = tmp_path / "photo.png", tmp_path / "out.png"
    pixels = np.random.default_rng(0).integers(0, 256, (540, 520, 3), np.uint8)
    Image.fromarray(pixels).save(source)
    shallow["callback"] = lambda _, snapshot: seen.append(np.array(snapshot()))
    with pytest.raises((MemoryLimitError, TrainingError)):
        optimize_file(source, target, stripes, **shallow)
    with Image.open(target) as result:
        assert np.array_equal(np.array(result), seen[-1])
    assert f"{target} is the best picture so far" in caplog.text


def test_the_best_picture_survives_a_loss_that_is_no_number(
    stripes, shallow, monkeypatch
):
    losses = iter([3.0, 1.0, float("nan"), 2.0])
    pictures = []

    def evaluate(self, x):
        pictures.append(x.clone())
        return next(losses), torch.rand_like(x) - 0.5

    monkeypatch.setattr(Objective, "__call__", evaluate)
    content = torch.rand(1, 3, 64, 64)
    options = {**shallow, "iterations": 4, "tolerance": 0, "optimizer": "adam"}
    result = optimize(content, stripes, **options)
    torch.testing.assert_close(result, pictures[1])


# Wild input


@pytest.mark.parametrize("loss", STYLE_LOSSES)
@pytest.mark.parametrize(
    "style", [flat("white", (1, 1)), flat("black", (64, 48)), flat("teal", (1, 300))]
)
def test_a_style_of_one_pixel_or_one_colour_makes_no_nan(
    loss, style, content_image, shallow
):
    content = np.asarray(content_image) / 255
    for keep in (False, "luminance", "statistics"):
        result = optimize(
            content, style, style_loss=loss, preserve_color=keep, **shallow
        )
        assert np.isfinite(result).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 2), (17, 31)])
def test_any_size_of_content_goes(size, stripes, shallow):
    result = optimize(flat("olive", size), stripes, **shallow)
    assert result.size == size


def test_content_and_style_may_differ_wildly_in_size(shallow):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    small = flat("olive", (20, 16))
    assert optimize(small, noise, **shallow).size == small.size
    shallow["iterations"] = 1
    assert optimize(noise, small, **shallow).shape == noise.shape


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"style_loss": "histogram"}, "style_loss must be one of 'gram'"),
        ({"style_loss": {"gram": -1}}, "style_loss must have finite weights"),
        ({"style_loss": {}}, "style_loss must have finite weights"),
        ({"content_layers": "relu9_1"}, "content_layers must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be one of 'lbfgs', 'adam'"),
        ({"preserve_color": "hue"}, "preserve_color must be one of"),
        ({"content_weight": -1}, "content_weight must be between 0 and inf"),
        ({"style_weight": float("nan")}, "style_weight must be between"),
        ({"style_scale": 9}, "style_scale must be between 0.25 and 4"),
        ({"iterations": 0}, "iterations must be between 1"),
        ({"tolerance": 2}, "tolerance must be between 0 and 1"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16"),
        ({"style_layers": "pool5"}, "style_layers must be one of"),
        ({"memory_limit": math.inf}, "memory_limit must be between 1"),
        ({"seed": 10**20}, "seed must be between"),
        ({"memory_limit": 0}, "memory_limit must be between 1"),
        ({"memory_limit": -1}, "memory_limit must be between 1"),
    ],
)
def test_misuse_is_named(keywords, message, content_image, stripes, shallow):
    with pytest.raises(ValueError, match=message):
        optimize(content_image, stripes, **{**shallow, **keywords})


@pytest.mark.parametrize("style", [[], [("a", -1)], [(flat("red"), 0)]])
def test_styles_without_weight_are_refused(style, content_image, shallow):
    with pytest.raises(ValueError, match="style weights must be"):
        optimize(content_image, style, **shallow)


def test_what_is_no_picture_is_refused(content_image, shallow, tmp_path):
    for style in ([1], [(flat("red"), "a")], (np.zeros((9, 9, 3)), 1.0)):
        with pytest.raises(TypeError, match="style must be a picture") as caught:
            optimize(content_image, style, **shallow)
        assert len(str(caught.value)) < 200
    with pytest.raises(TypeError, match="style: image must be"):
        optimize(content_image, None, **shallow)
    path = tmp_path / "style.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InvalidImageError, match=r"style\.png"):
        optimize(content_image, path, **shallow)
    with pytest.raises(StyleNotFoundError):
        optimize(content_image, flat("red"), init="no-such-style", **shallow)


def test_a_black_mask_of_the_style_is_refused(content_image, stripes, shallow):
    style = StyleImage(stripes, mask=np.zeros((40, 48), np.float32))
    with pytest.raises(ValueError, match="mask of a style image is black"):
        optimize(content_image, style, **shallow)


def test_without_a_loss_network_it_says_how_to_get_one(content_image, stripes):
    with pytest.raises(DownloadError, match=r"download.*--loss-network"):
        optimize(content_image, stripes)


def test_a_loss_network_without_the_layers_is_refused(
    content_image, stripes, shallow_vgg
):
    network = LossNetwork(shallow_vgg, ("relu1_1",))
    with pytest.raises(ValueError, match="no features of relu2_1"):
        optimize(
            content_image,
            stripes,
            loss_network=network,
            content_layers="relu2_1",
            style_layers="relu1_1",
        )


def test_a_loss_network_of_another_type_is_refused(content_image, stripes, shallow_vgg):
    made = LossNetwork(shallow_vgg, ("relu1_1",), dtype=torch.float16)
    for network in (made, LossNetwork(shallow_vgg, ("relu1_1",)).half()):
        with pytest.raises(ValueError, match=r"or bfloat16, got torch\.float16"):
            optimize(content_image, stripes, loss_network=network)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"style_loss": 5}, "style_loss must be a name, .* got 5"),
        ({"content_layers": 5}, "content_layers must be a name, .* got 5"),
        ({"content_layers": {"relu1_1": "x"}}, "content_layers must be .* to numbers"),
        ({"loss_network": torch.nn.ReLU()}, "loss_network must be .* got ReLU"),
        ({"init": np.zeros((9, 9, 3))}, "init must be 'content', .* got array"),
    ],
)
def test_options_of_another_type_are_named(
    keywords, message, content_image, stripes, shallow
):
    with pytest.raises(TypeError, match=message):
        optimize(content_image, stripes, **{**shallow, **keywords})


def test_a_seed_is_an_integer(content_image, stripes, shallow):
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        optimize(content_image, stripes, seed=1.5, **shallow)


def test_a_memory_limit_is_a_number(content_image, stripes, shallow):
    with pytest.raises(TypeError, match="memory_limit must be a number, got '2G'"):
        optimize(content_image, stripes, memory_limit="2G", **shallow)


def test_numbers_of_numpy_are_as_good_as_python_s(
    content_image, stripes, shallow, tmp_path
):
    source, target = tmp_path / "photo.png", tmp_path / "out.png"
    content_image.save(source)
    shallow["iterations"] = np.int64(2)
    options = {"seed": np.uint8(7), "style_weight": np.float32(60), "init": "noise"}
    optimize_file(source, target, stripes, **options, **shallow)
    expected = optimize(
        content_image, stripes, **{**shallow, "iterations": 2}, seed=7, init="noise"
    )
    with Image.open(target) as result:
        assert np.array_equal(np.array(result), np.array(expected))
        told = json.loads(result.info["Software"].split(maxsplit=2)[2])
    assert (told["iterations"], told["seed"], told["style_weight"]) == (2, 7, 60)


def test_a_huge_style_image_is_to_be_made_smaller(content_image, shallow, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20000, 10000)).save(path)
    with pytest.raises(ImageTooLargeError, match="a few megapixels are enough"):
        optimize(content_image, path, **shallow)


def test_a_loss_that_is_not_finite_at_the_start_is_told(
    content_image, stripes, shallow, tmp_path
):
    path = tmp_path / "huge.safetensors"
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64)}
    tensors = {f"features.{i}.bias": torch.zeros(s[0]) for i, s in shapes.items()}
    for i, shape in shapes.items():
        tensors[f"features.{i}.weight"] = torch.full((*shape, 3, 3), 1e15)
    save_file(tensors, path)
    with pytest.raises(TrainingError, match="not finite"):
        optimize(content_image, stripes, **{**shallow, "loss_network": path})


# Progress


def test_the_callback_sees_the_picture_grow(stripes, shallow):
    content = np.zeros((540, 520, 3), np.uint8)
    seen = []
    result = optimize(
        content,
        stripes,
        tolerance=0,
        callback=lambda fraction, snapshot: seen.append((fraction, snapshot())),
        **shallow,
    )
    fractions = [fraction for fraction, _ in seen]
    assert len(seen) == 4 + 2  # two levels
    assert all(a < b for a, b in itertools.pairwise(fractions))
    assert fractions[-1] == 1
    for _, picture in seen:
        assert (picture.shape, picture.dtype) == (content.shape, content.dtype)
    assert np.array_equal(seen[-1][1], result)


def test_a_picture_below_512_pixels_has_one_level(stripes, shallow):
    count = itertools.count()
    content = np.zeros((300, 280, 3), np.uint8)
    shallow.update(tolerance=0, callback=lambda *_: next(count))
    optimize(content, stripes, **shallow)
    assert next(count) == 4


def test_it_stops_when_nothing_improves(content_image, shallow):
    shallow["iterations"] = 10_000
    count = itertools.count()
    optimize(
        content_image,
        content_image,
        tv_weight=0,
        callback=lambda *_: next(count),
        **shallow,
    )
    assert next(count) < 200


def test_a_coarse_level_ends_at_ten_times_the_tolerance(
    stripes, shallow, monkeypatch, caplog
):
    monkeypatch.setattr(optimization, "_COARSEST", 32)
    caplog.set_level(logging.INFO, "styleplug")
    style = stripes.resize((32, 32))

    def coarse_iterations(side, tolerance):
        caplog.clear()
        optimize(flat("grey", (side, side)), style, tolerance=tolerance, **shallow)
        return re.search(r"^32 x 32: .* after (\d+)$", caplog.messages[0])[1]

    shallow["iterations"] = 100
    ended = coarse_iterations(64, 0.01)
    assert ended == coarse_iterations(32, 0.1)
    assert ended != coarse_iterations(32, 0.01)


def test_an_exception_from_the_callback_ends_it(content_image, stripes, shallow):
    class StopError(Exception):
        pass

    def callback(fraction, snapshot):
        raise StopError

    with pytest.raises(StopError):
        optimize(content_image, stripes, callback=callback, **shallow)


@pytest.mark.parametrize("error", [MemoryError("mine"), RuntimeError("out of memory")])
def test_an_exception_from_the_callback_is_no_lack_of_memory(
    error, content_image, stripes, shallow
):
    calls = []

    def callback(fraction, snapshot):
        calls.append(fraction)
        raise error

    with pytest.raises(type(error)) as caught:
        optimize(content_image, stripes, callback=callback, **shallow)
    assert caught.value is error
    assert len(calls) == 1


def test_a_snapshot_without_memory_tells_what_to_do(
    content_image, stripes, shallow, monkeypatch
):
    def pixels(run):
        raise MemoryError

    monkeypatch.setattr(optimization._Run, "pixels", pixels)
    with pytest.raises(MemoryLimitError, match="lower --memory"):
        optimize(content_image, stripes, callback=lambda _, shot: shot(), **shallow)


# Files and names


def test_a_file_keeps_its_depth_and_metadata(content_image, stripes, shallow, tmp_path):
    source, target = tmp_path / "photo.jpg", tmp_path / "out.jpg"
    exif = Image.Exif()
    exif[0x010E] = "my holiday"
    content_image.save(source, exif=exif, dpi=(300, 300))
    stripes.save(tmp_path / "style.png")
    size = optimize_file(source, target, tmp_path / "style.png", **shallow)
    assert size == content_image.size
    with Image.open(target) as result:
        assert result.size == content_image.size
        assert result.getexif()[0x010E] == "my holiday"
        assert "optimized" in result.getexif()[0x0131]
    with pytest.raises(FileExistsError, match="overwriting"):
        optimize_file(source, target, tmp_path / "style.png", **shallow)


def test_a_file_tells_what_made_it_but_no_folder(
    content_image, stripes, shallow, tiny_style, tmp_path
):
    source, target, style = (tmp_path / f"{n}.png" for n in ("photo", "out", "style"))
    content_image.save(source)
    stripes.save(style)
    shallow.update(optimizer="adam", init=str(tiny_style), memory_limit=1 << 31)
    optimize_file(source, target, [(style, 3), (stripes, 1)], **shallow)
    with Image.open(target) as result:
        told = json.loads(result.info["Software"].split(maxsplit=2)[2])
    assert told == {
        "optimized": True,
        "style": "style.png:0.75 + picture:0.25",
        "content_layers": "relu2_1",
        "style_layers": ["relu1_1", "relu2_1"],
        "init": tiny_style.name,
        "optimizer": "adam",
        "iterations": 4,
    }


def test_an_interruption_writes_the_best_picture_so_far(
    content_image, stripes, shallow, tmp_path, caplog
):
    source, target = tmp_path / "photo.png", tmp_path / "out.png"
    content_image.save(source)
    shown = []

    def callback(fraction, snapshot):
        shown.append(snapshot())
        if len(shown) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_file(source, target, stripes, callback=callback, **shallow)
    with Image.open(target) as result:
        assert np.array_equal(np.array(result), np.array(shown[-1]))
    assert "best picture so far" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryLimitError])
def test_an_interruption_replaces_nothing_that_exists(
    error, content_image, stripes, shallow, tmp_path, caplog
):
    photo = tmp_path / "photo.png"
    content_image.save(photo)
    before = photo.read_bytes()

    def callback(fraction, snapshot):
        raise error

    options = {**shallow, "overwrite": True, "callback": callback}
    for name in ("photo.stopped.png", "photo.stopped2.png"):
        with pytest.raises(error):
            optimize_file(photo, photo, stripes, **options)
        assert f"{name} is the best picture so far" in caplog.text
        with Image.open(tmp_path / name) as result:
            assert result.size == content_image.size
    assert photo.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interruption_while_the_file_is_written_does_not_lose_it(
    content_image, stripes, shallow, tmp_path, monkeypatch
):
    source, target = tmp_path / "photo.png", tmp_path / "out.png"
    content_image.save(source)
    write = images._write_png

    def interrupted(*_):
        monkeypatch.setattr(images, "_write_png", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "_write_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimize_file(source, target, stripes, **shallow)
    with Image.open(target) as result:
        assert result.size == content_image.size


def test_a_file_made_in_the_meantime_is_not_replaced_unasked(
    content_image, stripes, shallow, tmp_path
):
    source, target = tmp_path / "photo.png", tmp_path / "out.png"
    content_image.save(source)

    def callback(fraction, snapshot):
        target.write_bytes(b"precious")

    with pytest.raises(FileExistsError, match="already exists"):
        optimize_file(source, target, stripes, callback=callback, **shallow)
    assert target.read_bytes() == b"precious"


@pytest.mark.assets
def test_the_real_loss_network_brings_the_strokes(content_image):
    assets = os.environ.get("STYLEPLUG_ASSETS")
    require(assets, "STYLEPLUG_ASSETS names no folder")
    artwork = Path(assets) / "styles/public_domain/vangogh_the_starry_night.jpg"
    result = optimize(
        content_image, artwork, loss_network=Path(assets) / "vgg", iterations=20
    )
    (vgg,) = Path(assets).glob("vgg/*.safetensors")
    before, after = (
        style_distance(vgg, image, small(artwork)) for image in (content_image, result)
    )
    assert after < 0.3 * before


def small(path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((96, 76), Image.Resampling.LANCZOS)
