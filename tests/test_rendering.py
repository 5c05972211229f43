import gc
import re

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from styleplug import rendering
from styleplug.errors import MemoryLimitError
from styleplug.networks import FrozenNetwork, StyleNetwork
from styleplug.rendering import (
    Canvas,
    Renderer,
    _doubled,
    _Half,
    _halved,
    _resize,
    _resize_bicubic,
    _sharpened,
    _smoothed,
    tile_size_within,
    usual_tile_size,
)
from styleplug.tiling import Region

CPU = torch.device("cpu")


@pytest.fixture
def network() -> StyleNetwork:
    torch.manual_seed(0)
    return StyleNetwork((4, 6, 8), (0, 1)).requires_grad_(False)


def picture(height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * x + 4 * y), np.cos(40 * y * x), np.sin(90 * x) * np.cos(70 * y)]
    values = np.stack(waves, axis=-1) / 2 + 0.5
    if dtype == "float32":
        return values.astype(dtype)
    return np.round(values * np.iinfo(dtype).max).astype(dtype)


def render(network, pixels, *, base_size=32.0, strength=1.0, dtype=torch.float32, **kw):
    torch.manual_seed(1)
    style = network.new_style() + 0.2 * torch.randn(network.style_size)
    out = np.empty_like(pixels)
    renderer = Renderer(
        network,
        network.vector(style, strength),
        strength,
        base_size=base_size,
        grain=kw.pop("grain", 1.0),
        dtype=dtype,
        tile_size=kw.pop("tile_size", 1 << 12),
        **kw,
    )
    with torch.inference_mode():
        renderer.render(
            Canvas(pixels, CPU), Canvas(out, CPU), lambda region, content, new: new
        )
    return out


def test_a_picture_that_is_all_length_has_no_larger_base_than_others(
    network, monkeypatch
):
    seen = []
    forward = network.forward

    def watched(content, *rest):
        seen.append(content[0, 0].numel())
        return forward(content, *rest)

    monkeypatch.setattr(network, "forward", watched)
    out = render(network, picture(1, 40_000))
    assert out.shape == (1, 40_000, 3)
    assert seen
    with_margins = 8 * (32**2 // 8 + 2 * 24)
    assert max(seen) <= with_margins


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_canvas_writes_what_it_reads(dtype):
    pixels = picture(20, 30, dtype)
    out = np.zeros_like(pixels)
    region = Region(3, 4, 17, 29)
    tensor = Canvas(pixels, CPU).read(region)
    assert tensor.shape == (1, 3, 14, 25)
    assert 0 <= tensor.min() <= tensor.max() <= 1
    Canvas(out, CPU).write(region, tensor)
    assert np.array_equal(out[3:17, 4:29], pixels[3:17, 4:29])
    assert not out[:3].any()


@pytest.mark.parametrize("dtype", ["uint16", "float64"])
def test_a_device_is_sent_no_type_that_not_every_device_supports(dtype):
    class Sent(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            assert function is not torch.Tensor.to or args[0].dtype == torch.float32
            return function(*args, **(kwargs or {}))

    with Sent():
        Canvas(np.ones((8, 8, 3), dtype), CPU).read(Region(0, 0, 8, 8))


@pytest.mark.parametrize("base_size", [32, 100, 200])
def test_depths_of_one_picture_are_painted_alike(network, base_size):
    pixels = picture(150, 190)
    deep = pixels.astype(np.uint16) * 257
    real = (pixels / 255).astype(np.float32)
    coarse, fine, exact = (
        render(network, each, base_size=base_size) / white
        for each, white in ((pixels, 255), (deep, 65535), (real, 1))
    )
    assert np.abs(fine - exact).max() < 2e-5
    assert np.abs(coarse - exact).max() < 0.03


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_levels_of_deep_pictures_are_kept_deep(network, dtype, monkeypatch):
    kept = set()
    blank = Renderer._blank

    def watched(*arguments):
        canvas = blank(*arguments)
        kept.add(canvas.pixels.dtype)
        return canvas

    monkeypatch.setattr(Renderer, "_blank", watched)
    render(network, picture(150, 190, dtype))
    assert kept == {torch.float16}


def test_a_level_is_painted_as_the_network_paints(network):
    vector = network.vector(network.new_style())
    options = {"base_size": 32, "grain": 0, "dtype": torch.float32, "tile_size": 4096}
    renderer = Renderer(network, vector, 1.0, **options)
    renderer._desaturation = torch.eye(3)
    level = Canvas(picture(160, 192, "float32"), CPU)
    painted = []
    with torch.inference_mode():
        unchanged = torch.zeros(1, 3, 160, 192)
        renderer._paint(
            level,
            lambda region: unchanged[region.within(level.bounds)],
            lambda tile, near, x, here: painted.append(here.clone()),
        )
        live = network(level.read(level.bounds), vector)
    inside = slice(network.receptive_field, -network.receptive_field)
    difference = (painted[0] - live)[..., inside, inside].abs()
    assert len(painted) == 1
    assert difference.numel() > 10_000
    assert difference.max() < 1e-3


@pytest.mark.parametrize("change", [_smoothed, _sharpened])
def test_what_is_flat_stays_so_to_its_edges(change):
    card = torch.full((1, 3, 5, 6), 0.3)
    torch.testing.assert_close(change(card), card)


def test_the_memory_limit_that_is_named_is_enough_and_held(network):
    content = np.empty((3000, 4000, 3), np.uint8)
    about = network, content, 512.0, torch.float16
    with pytest.raises(MemoryLimitError) as refused:
        tile_size_within(10**6, *about)
    least = int(re.findall(r"at least (\d+) MB", str(refused.value))[0])
    assert tile_size_within(least * 10**6, *about) >= rendering.SMALLEST_TILE
    with pytest.raises(MemoryLimitError):
        tile_size_within((least - 1) * 10**6, *about)
    border = 2 * rendering._overlap(network)
    for limit in (least * 10**6, 4 * least * 10**6):
        side = tile_size_within(limit, *about) + border
        assert side**2 * network.bytes_per_pixel(torch.float16) < limit


def test_a_canvas_reads_arrays_that_cannot_be_written():
    pixels = picture(8, 8)
    pixels.flags.writeable = False
    assert Canvas(pixels, CPU).read(Region(0, 0, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("region", [Region(0, 0, 26, 176), Region(3, 5, 26, 40)])
def test_a_half_of_a_half_reads_what_averaging_twice_gives(region):
    whole = Canvas(picture(101, 703), CPU)
    twice = _halved(_halved(whole.read(whole.bounds)))
    found = _Half(_Half(whole))
    assert found.bounds == Region(0, 0, 26, 176)
    assert torch.allclose(
        found.read(region), twice[region.within(found.bounds)], atol=1e-6
    )


def test_halves_of_one_colour_have_it_up_to_odd_edges():
    card = np.full((101, 75, 3), (200, 120, 40), np.uint8)
    quarter = _Half(_Half(Canvas(card, CPU)))
    colors = quarter.read(quarter.bounds)[0].flatten(1).T
    wanted = torch.tensor([200, 120, 40]) / 255
    torch.testing.assert_close(colors, wanted.expand_as(colors), atol=1e-6, rtol=0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("base_size", [32.0, 128.0, 256.0])
def test_floating_point_results_are_in_range(network, base_size, strength):
    pixels = (picture(301, 411, "float32") > 0.5).astype(np.float32)
    result = render(network, pixels, base_size=base_size, strength=strength)
    assert result.min() >= 0
    assert result.max() <= 1


def test_the_result_does_not_depend_on_the_tile_size(network):
    pixels = picture(301, 411, "float32")
    whole = render(network, pixels)
    for tile_size in (64, 112, 256):
        difference = np.abs(render(network, pixels, tile_size=tile_size) - whole)
        assert difference.mean() < 1e-5
        assert difference.max() < 5e-4  # a step of the float16 kept between levels


@pytest.mark.parametrize("base_size", [32, 130, 300])
def test_the_result_does_not_depend_on_the_blocks(network, base_size, monkeypatch):
    pixels = picture(301, 411, "float32")
    whole = render(network, pixels, base_size=base_size)
    monkeypatch.setitem(rendering._BLOCK_SIDES, "cpu", 48)
    difference = np.abs(render(network, pixels, base_size=base_size) - whole)
    assert difference.mean() < 1e-5
    assert difference.max() < 5e-4


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 5000), (300, 2), (17, 23), (32, 32), (45, 45), (70, 91), (257, 129)],
)
def test_any_size_comes_out_as_it_went_in(network, height, width):
    out = render(network, picture(height, width))
    assert out.shape == (height, width, 3)
    assert out.std() > 0 or height == width == 1


def test_a_long_panorama_is_painted_to_its_ends(network):
    pixels = picture(300, 30000)
    out = render(network, pixels, base_size=512.0, tile_size=1024)
    assert out.shape == pixels.shape
    for end in (slice(0, 300), slice(-300, None)):
        assert np.abs(out[:, end].astype(int) - pixels[:, end]).mean() > 1


def test_the_large_shapes_of_two_resolutions_agree(network):
    large = picture(512, 640, "float32")
    small = large.reshape(128, 4, 160, 4, 3).mean(axis=(1, 3))
    rendered = render(network, large).reshape(128, 4, 160, 4, 3).mean(axis=(1, 3))
    preview = render(network, small)
    change = np.abs(preview - small).mean()
    assert np.abs(rendered - preview).mean() < 0.25 * change


def test_grain_varies_what_is_flat_in_the_same_way_each_time(network):
    flat = np.full((64, 96, 3), 128, np.uint8)
    smooth, painted, again = (
        render(network, flat, base_size=300, grain=grain) for grain in (0, 1, 1)
    )
    assert smooth.std(axis=(0, 1)).max() < 1
    assert painted.std(axis=(0, 1)).min() > 3
    assert np.array_equal(painted, again)


def test_grain_is_laid_on_what_is_flat_alone(network):
    x = torch.full((1, 3, 96, 128), 0.5)
    x[..., 64:] = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(48, 32)
    renderer = Renderer(
        network,
        network.vector(network.new_style()),
        1.0,
        base_size=96,
        grain=1.0,
        dtype=torch.float32,
        tile_size=1 << 12,
    )
    grain = renderer._grained(x) - x
    assert grain[..., 16:48].std() > 0.005
    assert grain[..., 80:112].abs().max() < 1e-4


def test_the_grain_of_a_line_is_not_made_wider_than_it():
    whole = rendering._grain((1500, 3000))
    assert torch.equal(rendering._grain((19, 3000)), whole[..., :19, :])
    assert torch.equal(rendering._grain((1500, 7)), whole[..., :7])
    assert rendering._noise(19, 3000).shape[2] < 200
    assert rendering._noise(1500, 7).shape[3] < 200


def test_the_grain_of_a_panorama_does_not_repeat_and_has_no_seam():
    grain = rendering._grain((300, 3000))[0, 0]
    for shift in (1024, 2048):
        alike = (grain[:, shift:] * grain[:, :-shift]).mean() / grain.square().mean()
        assert abs(alike) < 0.1
    steps = grain.diff(dim=1).square().mean(dim=0).sqrt()
    for seam in (1024, 2048):
        assert steps[seam - 4 : seam + 4].max() < 1.05 * steps[:1000].max()


def test_the_grain_of_two_resolutions_agrees(network):
    def texture(height: int, width: int) -> np.ndarray:
        flat = np.full((height, width, 3), 0.5, np.float32)
        painted = render(network, flat, base_size=100)
        cell = height // 60
        cells = painted.reshape(60, cell, -1, cell, 3).mean(axis=(1, 3, 4))
        return cells - cells.mean()

    small, large = texture(120, 160), texture(480, 640)
    likeness = (small * large).mean() / (small.std() * large.std())
    assert likeness > 0.9


def test_bicubic_resizing_keeps_fine_waves_and_what_is_flat():
    wave = torch.sin(torch.arange(96.0) * 2 * torch.pi / 5).expand(1, 3, 48, 96)
    for size in (36, 72), (72, 144):
        bounds = Region(0, 0, *size)
        kept, blurred = (
            resized(wave, bounds).std() / wave.std()
            for resized in (_resize_bicubic, _resize)
        )
        assert kept > 0.7
        assert kept > blurred + 0.1
    card = torch.full((1, 3, 20, 30), 0.3)
    assert torch.equal(
        _resize_bicubic(card, Region(0, 0, 26, 39)),
        card[..., :1, :1].expand(1, 3, 26, 39),
    )


@pytest.mark.parametrize("base_size", [90, 45])
def test_pictures_near_the_base_in_size_keep_its_detail(
    network, base_size, monkeypatch
):
    pixels = picture(64, 64, "float32")

    def detail() -> float:
        change = render(network, pixels, base_size=base_size) - pixels
        return np.abs(np.diff(change, axis=1)).mean()

    crisp = detail()
    monkeypatch.setattr("styleplug.rendering._resize_bicubic", _resize)
    assert crisp > 1.03 * detail()


def test_a_picture_of_the_size_of_the_base_is_as_soft_as_larger_ones(
    network, monkeypatch
):
    pixels = picture(64, 64, "float32")

    def detail() -> float:
        change = render(network, pixels, base_size=64) - pixels
        return np.abs(np.diff(change, axis=1)).mean()

    soft = detail()
    monkeypatch.setattr("styleplug.rendering._SOFT", 0.0)
    assert soft < 0.97 * detail()


def test_magnifying_a_smoothed_change_keeps_slopes_and_fades_jags():
    down = torch.arange(12.0)[:, None]
    slope = (down + 2 * torch.arange(10.0)).expand(1, 3, -1, -1)
    magnified = _doubled(_smoothed(slope))[..., 4:-4, 4:-4]
    steps = magnified.diff(dim=2), magnified.diff(dim=3)
    for step, wanted in zip(steps, (0.5, 1.0), strict=True):
        torch.testing.assert_close(step, torch.full_like(step, wanted))
    jags = (-1.0) ** (down + torch.arange(10)).expand(1, 3, -1, -1)
    assert _smoothed(jags)[..., 1:-1, 1:-1].abs().max() < 0.4


def test_a_low_strength_changes_little(network):
    pixels = picture(150, 200, "float32")
    changes = [
        np.abs(render(network, pixels, strength=strength) - pixels).mean()
        for strength in (0.01, 0.1, 0.5)
    ]
    assert changes[0] < 0.01
    assert changes == sorted(changes)


def test_progress_rises_to_one_with_the_tiles(network):
    seen: list[float] = []
    options = {"base_size": 64, "tile_size": 64, "progress": seen.append}
    render(network, picture(200, 300), **options)
    assert seen == sorted(set(seen))
    assert len(seen) > 20
    assert seen[0] < 0.3
    assert seen[-1] == 1.0
    seen.clear()
    render(network, picture(200, 300), **options | {"base_size": 32})
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("ratio", [1.5, 3, 7])
def test_a_grey_painting_stays_grey_in_the_finest_detail(network, ratio):
    network.weights["leave"].data[:] = network.weights["leave"].data.mean(dim=0)
    network.bias.data[:] = 0
    pixels = np.random.default_rng(0).random((240, 240, 3), np.float32)
    out = render(network, pixels, base_size=240 / ratio)
    assert out.std() > 0.05
    assert np.ptp(out, axis=2).max() < 0.01


def test_the_finest_detail_has_no_more_colour_than_the_photograph(network):
    network.weights["leave"].data *= 5
    rng = np.random.default_rng(0)
    pixels = rng.normal(0.5, 0.02, (240, 240, 3)).astype(np.float32)

    def finest_color(image: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(image).permute(2, 0, 1)[None]
        x = x - rendering.luma(x)
        return x - _halved(x).repeat_interleave(2, 2).repeat_interleave(2, 3)

    before = finest_color(pixels)
    after = finest_color(render(network, pixels, base_size=240 / 7))
    assert (after * before).sum() < 1.05 * before.square().sum()


def test_the_last_octave_of_a_large_picture_is_the_photographs(network):
    pixels = 0.25 + picture(384, 384, "float32") / 2

    def finest_change(base_size):
        change = torch.from_numpy(render(network, pixels, base_size=base_size) - pixels)
        coarse = change.reshape(192, 2, 192, 2, 3).mean(dim=(1, 3))
        finest = change.reshape(192, 2, 192, 2, 3) - coarse[:, None, :, None]
        return (finest.square().mean() / change.square().mean()).item()

    assert finest_change(384 / 4) < 0.5 * finest_change(384 / 3)
    # The paint of the last octave fades before.
    assert finest_change(384 / 3.99) < 1.05 * finest_change(384 / 4.01)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2)])
def test_the_rim_of_a_picture_is_painted_as_its_middle(network, axes):
    wave = 0.5 + 0.2 * np.cos(2 * np.pi * np.arange(129) / 8)  # reflected, it goes on
    pixels = np.tile(wave[:, None, None], (1, 129, 3)).transpose(axes)
    pixels = np.ascontiguousarray(pixels, np.float32)
    change = (render(network, pixels, base_size=129) - pixels).transpose(axes)
    assert network.receptive_field - 24 <= 16  # what the margins leave
    rim, middle = change[16:24], change[64:72]
    assert middle.std() > 0.05
    assert np.abs(rim - middle).max() < 1e-3


def test_an_overflow_is_redone_in_float32(network):
    network.weights["enter"].data *= 1e6
    pixels = picture(200, 200, "float32")
    reference = render(network, pixels)
    halved = render(network, pixels, dtype=torch.float16)
    assert np.isfinite(halved).all()
    assert np.abs(halved - reference).mean() < 0.02


class _Infinite(FrozenNetwork):
    """Stands for kernels of which one overflows in a short type."""

    def __call__(self, content, box):
        out = super().__call__(content, box)
        if content.dtype == torch.bfloat16:
            out[..., 50:, :] = -torch.inf
        return out


def test_what_is_infinite_is_redone_in_float32(network, monkeypatch):
    def freeze(vector, statistics, dtype):
        frozen = StyleNetwork.freeze(network, vector, statistics, dtype)
        frozen.__class__ = _Infinite
        return frozen

    pixels = picture(200, 200, "float32")
    reference = render(network, pixels)
    monkeypatch.setattr(network, "freeze", freeze)
    short = render(network, pixels, dtype=torch.bfloat16)
    assert np.abs(short - reference).mean() < 0.02


class _Small(FrozenNetwork):
    """Stands for a device on which only small tiles fit."""

    largest = 0

    def __call__(self, content, box):
        if content.shape[2] * content.shape[3] > self.largest:
            raise torch.OutOfMemoryError("out of memory")
        return super().__call__(content, box)


@pytest.fixture
def small_memory(network, monkeypatch):
    def freeze(vector, statistics, dtype):
        frozen = StyleNetwork.freeze(network, vector, statistics, dtype)
        frozen.__class__ = _Small
        return frozen

    monkeypatch.setattr(network, "freeze", freeze)


def test_tiles_that_do_not_fit_are_halved(network, small_memory, monkeypatch, caplog):
    pixels = picture(700, 600, "float32")
    monkeypatch.setattr(_Small, "largest", 10**9)
    options = {"base_size": 300, "tile_size": 600}
    reference = render(network, pixels, **options)
    monkeypatch.setattr(_Small, "largest", 480 * 480)
    assert np.abs(render(network, pixels, **options) - reference).max() < 5e-4
    assert len(caplog.messages) == len(set(caplog.messages)) > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("level_zero: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        RuntimeError("Invalid buffer size: 20.00 GiB"),
    ],
)
def test_no_memory_outside_the_tiles_is_said_too(network, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(StyleNetwork, "forward", fail)
    with pytest.raises(MemoryLimitError):
        render(network, picture(40, 40))


def test_other_errors_are_not_taken_for_lack_of_memory(network, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(StyleNetwork, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        render(network, picture(40, 40))


def test_when_not_even_the_smallest_tile_fits_it_is_said(network, small_memory):
    with pytest.raises(MemoryLimitError, match="256 pixels"):
        render(network, picture(700, 600))


def test_rendering_leaves_no_cycles_that_hold_its_memory(network):
    pixels = picture(120, 150)
    render(network, pixels)
    gc.collect()
    gc.disable()
    try:
        render(network, pixels)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_tiles_take_half_of_what_is_free_on_a_gpu(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 28)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 28)
    about = network, np.empty((4000, 6000, 3), np.uint8), 512.0, torch.float16
    free = 1 << 30
    half = (free + (1 << 29)) // 2
    assert usual_tile_size(torch.device("cuda"), *about) == tile_size_within(
        half, *about
    )
    free = 1 << 40
    assert usual_tile_size(torch.device("cuda"), *about) == 4096
    free = 1 << 20
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    assert usual_tile_size(torch.device("cuda"), *about) == 256
