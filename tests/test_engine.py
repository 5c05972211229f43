import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import styleplug
from styleplug import engine, predictor, rendering
from styleplug.engine import Stylizer, stylize, stylize_file
from styleplug.errors import DeviceError, MemoryLimitError, StyleNotFoundError
from styleplug.networks import StyleNetwork, with_changes
from styleplug.style import StyleInfo, read_info
from styleplug.weights import load_style, save_style


@pytest.fixture
def stylizer(tiny_style, device) -> Stylizer:
    return Stylizer(tiny_style, device=device, dtype="float32")


@pytest.fixture(scope="session")
def other_style(tiny_style, tmp_path_factory):
    """Another vector on the trunk of `tiny_style`."""
    tiny = load_style(tiny_style)
    path = tmp_path_factory.mktemp("styles") / "other.safetensors"
    vector = tiny.vector.roll(5)
    save_style(path, vector, tiny.network, StyleInfo(name="other"))
    return path


def as_float(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def test_the_function_and_the_object_give_the_same(tiny_style, content_image):
    one = stylize(content_image, tiny_style, device="cpu", dtype="float32")
    two = Stylizer(tiny_style, device="cpu", dtype="float32")(content_image)
    assert one.mode == "RGB"
    assert one.size == content_image.size
    assert one.tobytes() == two.tobytes() != content_image.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3), (40, 50, 4)])
def test_arrays_keep_shape_and_type(stylizer, dtype, shape):
    rng = np.random.default_rng(0)
    white = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    image = (rng.random(shape) * white).astype(dtype)
    out = stylizer(image)
    assert out.shape == image.shape
    assert out.dtype == image.dtype
    assert not np.array_equal(out, image)
    if shape[2:] == (4,):
        assert np.array_equal(out[..., 3], image[..., 3])


def test_a_batch_of_tensors_is_rendered_one_by_one(stylizer):
    batch = torch.rand(2, 3, 40, 56)
    seen: list[float] = []
    out = stylizer(batch, progress=seen.append)
    assert out.shape == batch.shape
    assert out.dtype == batch.dtype
    torch.testing.assert_close(out[1:], stylizer(batch[1:]))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_keep_mode_and_size(stylizer, content_image, mode):
    image = content_image.convert("L" if mode == "I;16" else mode).convert(mode)
    out = stylizer(image)
    assert (out.mode, out.size) == (image.mode, image.size)


def test_strength_0_is_the_content_exactly(stylizer):
    pixels = np.random.default_rng(0).normal(0.5, 2, (30, 40, 3)).astype(np.float32)
    assert np.array_equal(stylizer.render(pixels, strength=0), pixels)


def test_a_light_painting_fades_into_the_content(stylizer, content_image):
    content = as_float(content_image)
    distances = [
        np.abs(as_float(stylizer(content_image, strength=s / 10)) - content).mean()
        for s in range(6)
    ]
    assert distances == sorted(distances)
    assert distances[1] < 0.3 * distances[5]


def test_grain_is_as_much_as_is_asked_for(stylizer):
    card = np.full((64, 96, 3), 128, np.uint8)
    smooth, grained = (
        stylizer.render(card, grain=grain).std(axis=(0, 1)) for grain in (0, 4)
    )
    assert (grained > 2 * smooth + 1).all()


def test_style_scale_changes_the_strokes_not_the_size(stylizer, content_image):
    fine, coarse = (stylizer(content_image, style_scale=scale) for scale in (0.5, 2))
    assert fine.size == coarse.size == content_image.size
    assert fine.tobytes() != coarse.tobytes()


def test_strokes_twice_as_large_are_those_of_half_the_base_size(
    tiny_style, content_image
):
    stylizer = Stylizer(tiny_style, device="cpu")

    def paint(base_size, style_scale):
        stylizer.info = dataclasses.replace(stylizer.info, base_size=base_size)
        return stylizer(content_image, style_scale=style_scale).tobytes()

    assert paint(120, 2) == paint(60, 1) != paint(120, 1)


def test_a_network_that_takes_more_memory_has_a_smaller_largest_base(
    tiny_style, content_image, monkeypatch
):
    stylizer = Stylizer(tiny_style, device="cpu")
    monkeypatch.setattr(engine, "_LARGEST_BASE", 120)

    def paint(base_size):
        stylizer.info = dataclasses.replace(stylizer.info, base_size=base_size)
        return stylizer(content_image).tobytes()

    half = paint(60)
    assert paint(4096) != half
    counted = stylizer._network.bytes_per_pixel
    monkeypatch.setattr(
        stylizer._network, "bytes_per_pixel", lambda dtype: 4 * counted(dtype)
    )
    assert paint(4096) == half


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(30, 40), (560, 530)])
def test_a_mask_keeps_the_content_exactly_where_it_is_0(stylizer, size, dtype):
    pixels = np.random.default_rng(0).normal(0.5, 2, (*size, 3)).astype(dtype)
    mask = np.zeros(size, np.float32)
    mask[-20:-10, -15:-5] = 1
    mask[-8:-3, :15] = 0.5
    out = stylizer.render(pixels, mask=mask)
    assert np.array_equal(out[mask == 0], pixels[mask == 0])
    whole = stylizer.render(pixels)
    assert np.array_equal(out[mask == 1], whole[mask == 1])
    half = (pixels + whole)[mask == 0.5] / 2
    np.testing.assert_allclose(out[mask == 0.5], half, atol=1e-5)


def test_preserve_color_changes_lightness_only(stylizer):
    pixels = np.full((40, 40, 3), (0.5, 0.4, 0.3), np.float32)
    pixels[::7] += 0.1
    change = stylizer.render(pixels, preserve_color=True) - pixels
    np.testing.assert_allclose(change, change[..., :1].repeat(3, -1), atol=1e-5)
    assert np.abs(change).max() > 0.01


def test_preserve_color_stays_in_the_range_of_the_content(stylizer):
    pixels = np.random.default_rng(0).random((40, 40, 3), np.float32)
    out = stylizer.render(pixels, preserve_color=True)
    assert 0 <= out.min() <= out.max() <= 1


def test_a_blend_is_between_its_parts(tiny_style, other_style, content_image):
    def render(style):
        return as_float(stylize(content_image, style, device="cpu", dtype="float32"))

    one, two = render(tiny_style), render(other_style)
    assert np.array_equal(render([(tiny_style, 3), (other_style, 0)]), one)
    shares = [
        np.abs(render([(tiny_style, 1 - w), (other_style, w)]) - one).mean()
        for w in (0.2, 0.5, 0.8)
    ]
    assert 0 < shares[0] < shares[1] < shares[2] < np.abs(two - one).max()


def test_a_style_file_is_read_again_when_another_takes_its_place(
    tiny_style, other_style, tmp_path
):
    path = tmp_path / "style.safetensors"
    infos = []
    for name in ("one", "two"):
        style = load_style(other_style if name == "two" else tiny_style)
        new = tmp_path / name
        save_style(new, style.vector, style.network, StyleInfo(name=name))
        os.utime(new, ns=(0, 0))
        new.replace(path)
        infos.append((Stylizer(path, device="cpu").info.name, path.stat().st_size))
    assert [name for name, _ in infos] == ["one", "two"]
    assert infos[0][1] == infos[1][1]


def test_a_relative_path_is_that_of_the_folder_one_is_in(
    tiny_style, tmp_path, monkeypatch
):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tiny_style, folder / "style.safetensors")
        monkeypatch.chdir(folder)
        path = Stylizer("style.safetensors", device="cpu").info.path
        assert path == folder / "style.safetensors"


def test_a_style_that_changes_kernels_blends_with_one_that_does_not(
    tiny_style, tmp_path, content_image
):
    torch.manual_seed(0)
    plain = load_style(tiny_style)
    factors = {
        name: (torch.randn(1, shape[1:].numel()), 0.1 * torch.randn(shape[0], 1))
        for name, shape in plain.network.changeable.items()
    }
    path = tmp_path / "changing.safetensors"
    changing = with_changes(plain.vector, factors)
    save_style(path, changing, plain.network, plain.info)
    results = [
        as_float(stylize(content_image, style, device="cpu", dtype="float32"))
        for style in (tiny_style, [(tiny_style, 1), (path, 1)], path)
    ]
    apart = np.abs(results[2] - results[0]).mean()
    assert apart > 0.01
    for end in (0, 2):
        assert 0 < np.abs(results[1] - results[end]).mean() < apart
    saved = tmp_path / "blend.safetensors"
    Stylizer([(tiny_style, 1), (path, 1)], device="cpu").save(saved)
    again = as_float(stylize(content_image, saved, device="cpu", dtype="float32"))
    assert np.abs(again - results[1]).max() < 0.02


def test_a_blend_of_many_styles_is_saved_under_a_shorter_title(stylizer, tmp_path):
    blend = tmp_path / "blend.safetensors"
    stylizer.save(tmp_path / f"{'n' * 90}.safetensors")
    parts = [(tmp_path / f"{'n' * 90}.safetensors", 1)] * 4
    title = Stylizer(parts, device="cpu").save(blend).title
    assert title.startswith("nnn")
    assert len(title) == 300


def test_saving_returns_what_the_file_says(stylizer, tmp_path):
    path = tmp_path / "mine.safetensors"
    info = stylizer.save(path, artist="Me")
    assert info == read_info(path)
    assert (info.name, info.artist, info.path) == ("mine", "Me", path)
    assert info.self_contained


@pytest.mark.parametrize("key", ["training", "trunk", "repo_id", "artits"])
def test_only_texts_about_a_style_are_saved_with_it(stylizer, tmp_path, key):
    with pytest.raises(TypeError, match=f"artist, .*, not '{key}'"):
        stylizer.save(tmp_path / "mine.safetensors", **{key: "x"})
    assert not list(tmp_path.iterdir())


def test_styles_of_different_trunks_are_not_blended(tiny_style, tmp_path):
    torch.manual_seed(9)
    network = StyleNetwork((4, 4, 4), (0, 0))
    path = tmp_path / "foreign.safetensors"
    save_style(path, network.new_style(), network, StyleInfo(name="foreign"))
    with pytest.raises(ValueError, match="tiny and foreign"):
        Stylizer([(tiny_style, 1), (path, 1)])


def test_memory_limit_and_tile_size_do_not_change_the_result(stylizer):
    pixels = np.random.default_rng(0).integers(0, 256, (450, 460, 3), np.uint8)

    def paint(**options) -> tuple[np.ndarray, int]:
        seen: list[float] = []
        out = stylizer.render(pixels, style_scale=4, progress=seen.append, **options)
        return out.astype(int), len(seen)

    whole, fewest = paint(tile_size=1024)
    for options in ({"tile_size": 256}, {"memory_limit": 6 * 10**7}):
        tiled, more = paint(**options)
        assert more > fewest
        assert np.abs(tiled - whole).max() <= 1


def test_a_memory_limit_below_the_smallest_tile_names_what_is_needed(stylizer):
    with pytest.raises(MemoryLimitError, match=r"at least \d+ MB"):
        stylizer.render(np.zeros((8, 8, 3), np.uint8), memory_limit=10**6)


def test_a_memory_limit_holds_beside_a_tile_size(stylizer, monkeypatch):
    sides = []
    monkeypatch.setattr(
        engine.Renderer, "render", lambda r, *_: sides.append(r.tile_size)
    )
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    for size, limit in ((None, 220 << 20), (4096, 220 << 20), (256, 220 << 20)):
        stylizer.render(pixels, tile_size=size, memory_limit=limit)
    assert sides == [sides[0], sides[0], 256]
    with pytest.raises(MemoryLimitError, match=r"at least \d+ MB"):
        stylizer.render(pixels, tile_size=256, memory_limit=10**6)


def test_freed_memory_is_given_back_but_not_after_each_of_many_pictures(
    stylizer, content_image, monkeypatch
):
    trims = []
    monkeypatch.setattr(rendering, "_LIBC", SimpleNamespace(malloc_trim=trims.append))
    monkeypatch.setattr(rendering, "_SECONDS_UNTRIMMED", 1000)
    for _ in range(2):
        monkeypatch.setattr(rendering, "_trimmed", -1e9)
        stylizer(content_image)
        stylizer(content_image)
    assert trims == [0, 0]


def test_the_result_may_replace_the_content(stylizer):
    pixels = np.random.default_rng(0).integers(0, 256, (450, 460, 3), np.uint8)
    expected = stylizer.render(pixels, tile_size=256, style_scale=4)
    stylizer.render(pixels, out=pixels, tile_size=256, style_scale=4)
    assert np.array_equal(pixels, expected)


def test_out_receives_the_result(stylizer):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    out = np.empty_like(pixels)
    assert stylizer.render(pixels, out=out) is out
    assert np.array_equal(out, stylizer.render(pixels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"style_scale": 0}, "style_scale"),
        ({"grain": -1}, "grain"),
        ({"tile_size": 7}, "tile_size"),
        ({"memory_limit": 0}, "memory_limit .* 0"),
        ({"memory_limit": float("nan")}, "memory_limit .* nan"),
        ({"memory_limit": float("inf")}, "memory_limit .* inf"),
        ({"memory_limit": 10**400}, "memory_limit .* 1000"),
        ({"mask": np.full((2, 2), 7.0)}, "mask"),
        ({"out": np.zeros((1, 1, 3), np.uint8)}, "out"),
    ],
)
def test_misuse_names_the_value(stylizer, options, message):
    with pytest.raises(ValueError, match=message):
        stylizer.render(np.zeros((8, 8, 3), np.uint8), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": np.float16(0.5), "style_scale": np.float16(1.5)},
        {"style_scale": np.float16(1)},
        {"strength": np.True_, "grain": np.int8(2), "preserve_color": np.True_},
        {"style_scale": np.float16(0.25), "tile_size": np.int16(256)},
        {"memory_limit": np.int32(200 << 20)},
    ],
)
def test_numbers_of_numpy_are_as_good_as_python_s(stylizer, options):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    plain = {name: value.item() for name, value in options.items()}
    expected = stylizer.render(pixels, **plain)
    assert np.array_equal(stylizer.render(pixels, **options), expected)
    assert stylizer.provenance(**options) == stylizer.provenance(**plain)
    json.dumps(stylizer.provenance(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": np.complex64(1)}, "strength must be a number"),
        ({"tile_size": 300.5}, r"tile_size must be an integer, got 300\.5"),
        ({"strenght": 0.5}, "There is no option 'strenght'; there are strength,"),
        ({"out": np.zeros((64, 96, 3), np.uint8)}, "no option 'out'"),
        ({"style_scale": "2"}, "style_scale must be a number"),
    ],
)
def test_wrong_options_are_told_before_anything_is_done(
    options, message, tmp_path, content_image, monkeypatch
):
    def stylizer(*_, **__):
        raise AssertionError("The style was loaded.")

    monkeypatch.setattr(Stylizer, "__init__", stylizer)
    content_image.save(tmp_path / "in.png")
    files = tmp_path / "in.png", tmp_path / "out.png"
    with pytest.raises(TypeError, match=message):
        stylize_file(*files, "starry-night", **options)
    if not {"strenght", "out"} & {*options}:  # which Python itself refuses
        with pytest.raises(TypeError, match=message):
            stylize(content_image, "starry-night", **options)


def test_a_stylizer_takes_the_options_of_stylize_alone(stylizer, content_image):
    shared = {"device", "dtype", "image", "style"}
    assert {*inspect.signature(stylize).parameters} - shared == {
        *engine.Options.__annotations__
    }
    pixels = np.asarray(content_image)
    with pytest.raises(TypeError, match="no option 'out'"):
        stylizer(pixels, out=np.empty_like(pixels))


def test_pixels_that_are_no_numbers_are_refused(stylizer):
    pixels = np.full((8, 8, 3), 0.5, np.float32)
    with pytest.raises(TypeError, match="masked; fill it"):
        stylizer.render(np.ma.masked_greater(pixels, 0.4))
    pixels[3, 4] = np.nan
    for strength in (0, 1):
        with pytest.raises(ValueError, match="not finite"):
            stylizer.render(pixels, strength=strength)


def test_a_value_that_is_no_number_is_named(stylizer):
    with pytest.raises(TypeError, match="strength must be a number, got '1'"):
        stylizer.render(np.zeros((8, 8, 3), np.uint8), strength="1")
    with pytest.raises(TypeError, match="memory_limit must be a number, got '2G'"):
        stylizer.render(np.zeros((8, 8, 3), np.uint8), memory_limit="2G")
    with pytest.raises(TypeError, match=">f4"):
        stylizer.render(np.zeros((8, 8, 3), ">f4"))


@pytest.mark.parametrize("value", ["no", "statistics", 1, None])
def test_preserving_colour_is_yes_or_no(stylizer, value):
    with pytest.raises(TypeError, match=f"preserve_color .*, got {value!r}"):
        stylizer.render(np.zeros((8, 8, 3), np.uint8), preserve_color=value)


@pytest.mark.parametrize("weights", [(-1, 2), (0, 0), (float("nan"), 1)])
def test_weights_that_make_no_blend_are_refused(tiny_style, weights):
    with pytest.raises(ValueError, match="weights"):
        Stylizer([(tiny_style, weight) for weight in weights])


def test_a_device_that_is_not_there_is_an_error(tiny_style):
    for device in ("cuda:99", "abacus"):
        with pytest.raises(DeviceError, match="use"):
            Stylizer(tiny_style, device=device)


@pytest.mark.parametrize(
    ("capability", "hardware", "dtype"),
    [
        pytest.param("AVX512", True, torch.bfloat16, id="computed"),
        pytest.param("AVX512", False, torch.float32, id="avx512-emulates"),
        pytest.param("AVX2", False, torch.float32, id="avx2-emulates"),
        pytest.param("DEFAULT", True, torch.float32, id="torch-cannot-use-it"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_is_not_emulated(
    tiny_style, monkeypatch, capability, hardware, dtype
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: hardware)
    assert Stylizer(tiny_style, device="cpu").dtype == dtype


def test_a_dtype_that_cannot_compute_is_refused(tiny_style):
    with pytest.raises(ValueError, match="dtype"):
        Stylizer(tiny_style, dtype="int8")


@pytest.mark.parametrize(
    "error", [MemoryLimitError("full"), RuntimeError("out of memory")]
)
def test_a_full_device_leaves_it_to_the_cpu(
    tiny_style, content_image, monkeypatch, caplog, error
):
    stylizer = Stylizer(tiny_style, device="cpu", dtype="float32")
    expected = stylizer(content_image)
    render = engine.Renderer.render

    def full(renderer, *arguments):
        if renderer.device.type != "cpu":
            raise error
        render(renderer, *arguments)

    monkeypatch.setattr(engine.Renderer, "render", full)
    monkeypatch.setattr(engine, "_pick_dtype", lambda dtype, device: torch.float32)
    stylizer.device = torch.device("meta")  # stands for one without memory
    assert stylizer(content_image).tobytes() == expected.tobytes()
    assert "rendering on the CPU" in caplog.text


def test_memory_that_runs_out_on_the_cpu_is_an_error(
    stylizer, content_image, monkeypatch
):
    renders = []

    def full(*_):
        renders.append(1)
        assert len(renders) == 1
        raise MemoryLimitError("full")

    monkeypatch.setattr(engine.Renderer, "render", full)
    stylizer.device = torch.device("cpu")
    with pytest.raises(MemoryLimitError, match="full"):
        stylizer(content_image)


def test_the_provenance_names_the_options_that_made_a_picture(stylizer):
    options = {"strength": 0.5, "style_scale": 2.0, "preserve_color": True, "grain": 0}
    said = stylizer.provenance(**options, tile_size=512)
    assert said == {"style": "tiny", **options}


def test_a_destination_that_exists_is_refused_before_the_style_is_looked_for(
    tmp_path, content_image
):
    path = tmp_path / "in.png"
    content_image.save(path)
    with pytest.raises(FileExistsError):
        stylize_file(path, path, "no-such-style")


NO_KERNELS = [
    torch.AcceleratorError(
        "CUDA error: no kernel image is available\nSearch for `cudaError...`"
    ),
    NotImplementedError("The operator 'x' is not implemented for the MPS device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
]


@pytest.fixture(params=NO_KERNELS, ids=["cuda", "mps", "cudnn"])
def no_kernels(request, monkeypatch):
    """Let all devices but the CPU be of a kind that torch lacks code for."""
    render = engine.Renderer.render

    def refuse(renderer, *arguments):
        if renderer.device.type != "cpu":
            raise request.param
        render(renderer, *arguments)

    monkeypatch.setattr(engine.Renderer, "render", refuse)
    monkeypatch.setattr(engine, "_pick_dtype", lambda dtype, device: torch.float32)
    return request.param


def test_a_device_that_cannot_compute_is_told(tiny_style, content_image, no_kernels):
    stylizer = Stylizer(tiny_style, device="cpu")
    stylizer.device = torch.device("meta")  # stands for such a device
    told = re.escape(str(no_kernels).partition("\n")[0])
    message = rf"^meta cannot compute \({told}\); use the CPU"
    with pytest.raises(DeviceError, match=message) as caught:
        stylizer(content_image)
    assert caught.value.__cause__ is no_kernels


def test_a_device_that_nobody_named_and_cannot_compute_leaves_it_to_the_cpu(
    tiny_style, content_image, no_kernels, caplog
):
    expected = Stylizer(tiny_style, device="cpu")(content_image)
    stylizer = Stylizer(tiny_style)
    stylizer.device = torch.device("meta")
    assert stylizer(content_image).tobytes() == expected.tobytes()
    assert "), rendering on the CPU" in caplog.text
    assert stylizer.device.type == "cpu"
    caplog.clear()
    assert stylizer(content_image).tobytes() == expected.tobytes()
    assert not caplog.records


def test_an_error_of_the_progress_is_no_failing_device(
    tiny_style, content_image, monkeypatch
):
    def render(renderer, *arguments):
        raise RuntimeError("enough")

    monkeypatch.setattr(engine.Renderer, "render", render)
    stylizer = Stylizer(tiny_style, device="cpu")
    stylizer.device = torch.device("meta")
    with pytest.raises(RuntimeError, match="enough"):
        stylizer(content_image)


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError, MemoryLimitError])
@pytest.mark.parametrize("device", ["cpu", "other"])
def test_an_error_of_the_progress_ends_the_rendering(
    tiny_style, content_image, monkeypatch, caplog, kind, device
):
    calls, error = [], kind("out of memory")

    def progress(fraction):
        calls.append(fraction)
        raise error

    stylizer = Stylizer(tiny_style, device="cpu", dtype="float32")
    if device == "other":
        stylizer.device = torch.device("meta")  # stands for one that computes
        monkeypatch.setattr(
            engine.Renderer,
            "render",
            lambda renderer, *_: rendering.call_back(renderer._progress, 0.5),
        )
    with pytest.raises(type(error)) as caught:
        stylizer(content_image, progress=progress)
    assert caught.value is error
    assert len(calls) == 1
    assert not caplog.records


def test_a_small_memory_limit_is_no_full_device(tiny_style, content_image, caplog):
    stylizer = Stylizer(tiny_style, device="cpu", dtype="float32")
    stylizer.device = torch.device("meta")  # stands for any but the CPU
    with pytest.raises(MemoryLimitError, match=r"at least \d+ MB"):
        stylizer(content_image, memory_limit=1000)
    assert not caplog.records


def test_the_cpu_stays_within_the_memory_limit_of_a_full_device(
    tiny_style, content_image, monkeypatch
):
    stylizer = Stylizer(tiny_style, device="cpu", dtype="float16")
    sides = []

    def full_unless_cpu(renderer, *arguments):
        sides.append(renderer.tile_size)
        if renderer.device.type != "cpu":
            raise MemoryLimitError("full")

    monkeypatch.setattr(engine.Renderer, "render", full_unless_cpu)
    monkeypatch.setattr(engine, "_pick_dtype", lambda dtype, device: torch.float32)
    stylizer.device = torch.device("meta")  # stands for one without memory
    stylizer(content_image.resize((3000, 2000)), memory_limit=200 << 20)
    assert sides[0] > sides[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_default_type_that_another_library_set_changes_nothing(
    tiny_style, content_image, dtype
):
    options = {"strength": 0.37, "device": "cpu", "dtype": "float32"}
    expected = stylize(content_image, tiny_style, **options)
    torch.set_default_dtype(dtype)
    try:
        painted = stylize(content_image, tiny_style, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert painted.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_the_caller_changes_nothing(stylizer, dtype):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (60, 80, 3), np.uint16)
    expected = stylizer.render(pixels, style_scale=4, preserve_color=True)
    with torch.autocast("cpu", dtype), torch.autocast(stylizer.device.type, dtype):
        painted = stylizer.render(pixels, style_scale=4, preserve_color=True)
    assert np.array_equal(painted, expected)


def test_a_picture_is_captured_in_an_autocast_of_the_caller(content_image):
    predictor._vector.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        captured = Stylizer(content_image, device="cpu", dtype="float32")
    predictor._vector.cache_clear()
    again = Stylizer(content_image, device="cpu", dtype="float32")
    assert captured(content_image.rotate(90)) == again(content_image.rotate(90))


def test_a_default_device_that_another_library_set_changes_nothing(
    tiny_style, content_image
):
    rendering._noise.cache_clear()
    with torch.device("meta"):  # stands for any but the CPU
        painted = stylize(content_image, tiny_style, device="cpu", dtype="float32")
    expected = stylize(content_image, tiny_style, device="cpu", dtype="float32")
    assert painted.tobytes() == expected.tobytes()


def test_strokes_differ_down_to_the_smallest_scale(tiny_style, content_image):
    stylizer = Stylizer(tiny_style, device="cpu")
    stylizer.info = dataclasses.replace(stylizer.info, base_size=683)
    small, smallest = (stylizer(content_image, style_scale=s) for s in (0.3, 0.25))
    assert small.tobytes() != smallest.tobytes()


@pytest.mark.parametrize(
    "style", [{"starry-night": 1.0}, {}, None, [np.zeros((90, 90, 3)), 1.0]]
)
def test_what_can_be_a_style_is_told_of_what_is_none(style):
    message = r"a name, a path, a picture or \(style, weight\) pairs"
    with pytest.raises(TypeError, match=message) as caught:
        Stylizer(style)
    assert len(str(caught.value)) < 200


def test_an_unknown_style_is_an_error():
    with pytest.raises(StyleNotFoundError):
        stylize(Image.new("RGB", (8, 8)), "no-such-style")


def test_a_file_keeps_its_depth_and_says_how_it_was_made(tiny_style, tmp_path):
    src, dst = tmp_path / "in.png", tmp_path / "out.png"
    ramp = np.linspace(0, 65535, 64 * 48, dtype=np.uint16).reshape(48, 64)
    Image.fromarray(ramp).save(src)
    stylize_file(src, dst, tiny_style, strength=0.5, device="cpu")
    with Image.open(dst) as out:
        assert out.mode == "I;16"
        assert out.size == (64, 48)
        note = " ".join(map(str, out.info.values()))
    assert "tiny" in note
    assert "0.5" in note


def test_a_file_that_appeared_meanwhile_is_not_replaced(tiny_style, tmp_path):
    src, dst = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (40, 30)).save(src)

    def appear(fraction):
        dst.write_bytes(b"another's")

    with pytest.raises(FileExistsError):
        stylize_file(src, dst, tiny_style, device="cpu", progress=appear)
    assert dst.read_bytes() == b"another's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_a_file_is_not_replaced_unless_told(tiny_style, tmp_path, content_image):
    path = tmp_path / "in.png"
    content_image.save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrit"):
        stylize_file(path, path, tiny_style)
    assert path.read_bytes() == before
    stylize_file(path, path, tiny_style, overwrite=True, device="cpu")
    assert path.read_bytes() != before


def test_bundled_styles_all_render(content_image):
    for info in styleplug.list_styles():
        out = stylize(content_image, info.name, device="cpu")
        assert out.tobytes() != content_image.tobytes()


def test_rendering_does_not_wait_for_torch_s_compiler(tiny_style):
    code = (
        "import sys, numpy; from styleplug.engine import stylize; "
        f"stylize(numpy.zeros((600, 700, 3), 'uint8'), {str(tiny_style)!r}); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
