"""Any picture as the style, whatever the predictor has learned."""

import copy
import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

import styleplug
import styleplug.predictor
from styleplug import engine
from styleplug.cli import main
from styleplug.engine import Stylizer, stylize, stylize_file
from styleplug.errors import (
    ImageTooLargeError,
    InvalidImageError,
    InvalidStyleError,
    StyleNotFoundError,
)
from styleplug.images import Picture, read_picture
from styleplug.losses import CONTENT_LAYERS, content_loss, style_loss
from styleplug.networks import StyleNetwork
from styleplug.predictor import (
    StylePredictor,
    capture,
    fingerprint_distance,
    load_predictor,
    refine,
    save_predictor,
)
from styleplug.style import StyleInfo, bundled_trunk, read_info
from styleplug.weights import hash_trunk, load_style, load_trunk, save_trunk


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let captured styles be refined at a glance."""
    monkeypatch.setattr(styleplug.predictor, "STEPS", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small predictor and its trunk, both with seeded random weights."""
    path = tmp_path_factory.mktemp("any")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trunk = StyleNetwork(widths=(8, 8, 8), blocks=(1, 1))
        predictor = StylePredictor(trunk.style_size, (8,) * 5, (4,) * 4, hidden=16)
    save_trunk(path / "trunk.safetensors", trunk, StyleInfo("trunk"))
    info = StyleInfo("predictor", trunk=hash_trunk(trunk))
    save_predictor(path / "predictor.safetensors", predictor, info)
    return path


@pytest.fixture(scope="module")
def predictor(folder):
    return load_predictor(folder / "predictor.safetensors")[1]


@pytest.fixture
def captured(folder, monkeypatch):
    """What the predictor sees in a picture."""
    monkeypatch.setattr(styleplug.predictor, "STEPS", 0)

    def vector(image):
        if not isinstance(image, Picture):
            image = Picture.from_image(image)
        return capture(image, "mine", folder).vector

    return vector


@pytest.fixture(scope="module")
def artwork():
    """Strokes of all sizes, 512 x 384, (H, W, 3) uint8."""
    y, x = np.mgrid[0:384, 0:512] / 60.0
    planes = [np.sin(a * x + np.cos(b * y)) for a, b in ((1, 3), (4, 1), (9, 5))]
    return np.rint(127.5 + 127 * np.stack(planes, -1)).astype(np.uint8)


@pytest.fixture
def painting(tmp_path, artwork):
    path = tmp_path / "Painting.JPG"
    Image.fromarray(artwork).save(path, "JPEG", quality=95)
    return path


# The network and its file


def test_a_batch_is_predicted_as_its_pictures_are(predictor):
    batch = torch.rand(3, 3, 64, 80)
    vectors = predictor(batch)
    assert vectors.shape == (3, predictor.hyperparameters["style_size"])
    for image, vector in zip(batch, vectors, strict=True):
        torch.testing.assert_close(predictor(image[None])[0], vector)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (32, 2048), (513, 32)])
def test_any_aspect_ratio_is_predicted(predictor, size):
    assert torch.isfinite(predictor(torch.rand(1, 3, *size))).all()


def test_a_picture_seen_larger_is_told_by_the_same_statistics(predictor, artwork):
    image = torch.from_numpy(artwork / np.float32(255)).permute(2, 0, 1)[None]
    size = (384 * 512) ** 0.5
    larger = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    told = predictor.statistics(image, size)
    torch.testing.assert_close(
        predictor.statistics(larger, 2 * size), told, atol=0.02, rtol=0.02
    )
    assert not torch.allclose(
        predictor.statistics(larger, size), told, atol=0.02, rtol=0.02
    )


def test_a_predictor_begins_at_the_vector_it_is_given():
    predictor = StylePredictor(6, (4,) * 5, (2,) * 4, hidden=8)
    vector = torch.arange(6.0)
    before = predictor(torch.zeros(1, 3, 32, 32))[0] - predictor.head[-1].bias
    predictor.begin_at(vector)
    after = predictor(torch.zeros(1, 3, 32, 32))[0] - vector
    torch.testing.assert_close(after, 0.3 * before)


def test_a_predictor_is_kept_in_float16(predictor, folder, tmp_path):
    copy = tmp_path / "copy.safetensors"
    info, _ = load_predictor(folder / "predictor.safetensors")
    save_predictor(copy, predictor, info)
    assert copy.read_bytes() == (folder / "predictor.safetensors").read_bytes()
    assert {tensor.dtype for tensor in load_file(copy).values()} == {torch.float16}
    picture = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_predictor(copy)[1](picture), predictor(picture))


def test_a_predictor_is_loaded_once_until_its_file_changes(folder, tmp_path):
    path = tmp_path / "predictor.safetensors"
    shutil.copy(folder / "predictor.safetensors", path)
    info, first = load_predictor(path)
    assert load_predictor(path)[1] is first
    other = StylePredictor(**first.hyperparameters)
    save_predictor(path, other, info)
    os.utime(path, (0, 0))  # lest the clock is coarse
    weight = load_predictor(path)[1].head[0].weight
    torch.testing.assert_close(weight, other.head[0].weight, rtol=0, atol=1e-3)


def test_a_predictor_without_a_finite_result_is_refused(folder, tmp_path):
    info, predictor = load_predictor(folder / "predictor.safetensors")
    other = copy.deepcopy(predictor)
    other.spread.zero_()
    save_predictor(tmp_path / "predictor.safetensors", other, info)
    shutil.copy(folder / bundled_trunk().name, tmp_path)
    with pytest.raises(InvalidStyleError, match="not finite"):
        capture(Picture.from_image(np.full((64, 64, 3), 90, np.uint8)), "x", tmp_path)


def test_a_file_that_is_no_predictor_is_refused(folder, tiny_style):
    for path in (tiny_style, bundled_trunk()):
        with pytest.raises(InvalidStyleError, match="holds no style predictor"):
            load_predictor(path)
    with pytest.raises(InvalidStyleError, match="cannot be read"):
        load_predictor(folder / "missing.safetensors")


@pytest.mark.parametrize("damage", ["cut", "missing", "shape", "nan", "widths"])
def test_a_damaged_predictor_is_refused(folder, tmp_path, damage):
    source, path = folder / "predictor.safetensors", tmp_path / "p.safetensors"
    tensors, info = load_file(source), read_info(source)
    network = dict(info.network)
    if damage == "missing":
        del tensors["head.0.bias"]
    elif damage == "shape":
        tensors["head.0.bias"] = tensors["head.0.bias"][1:].clone()
    elif damage == "nan":
        tensors["head.0.bias"][0] = torch.nan
    elif damage == "widths":
        network["widths"] = "wide"
    metadata = StyleInfo("p", network=network, trunk=info.trunk).to_metadata()
    save_file(tensors, path, metadata)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InvalidStyleError, match=r"p\.safetensors"):
        load_predictor(path)


def test_a_predictor_of_another_trunk_is_refused(folder, tmp_path, artwork):
    shutil.copy(folder / "predictor.safetensors", tmp_path)
    torch.manual_seed(4)
    trunk = StyleNetwork(widths=(8, 8, 8), blocks=(1, 1))
    save_trunk(tmp_path / "trunk.safetensors", trunk, StyleInfo("trunk"))
    with pytest.raises(InvalidStyleError, match="do not belong together"):
        capture(Picture.from_image(artwork), "mine", tmp_path)


def test_a_predictor_without_a_trunk_is_that_of_the_bundled_one(
    folder, tmp_path, artwork, monkeypatch
):
    trunk = folder / "trunk.safetensors"
    monkeypatch.setattr(styleplug.predictor, "bundled_trunk", lambda: trunk)
    shutil.copy(folder / "predictor.safetensors", tmp_path)
    style = capture(Picture.from_image(artwork), "mine", tmp_path)
    assert style.info.trunk == read_info(trunk).trunk


def test_a_picture_is_seen_as_large_as_its_style_is_painted(
    folder, artwork, tmp_path, monkeypatch
):
    shutil.copy(folder / "trunk.safetensors", tmp_path)
    info, predictor = load_predictor(folder / "predictor.safetensors")
    info = dataclasses.replace(info, base_size=96)
    save_predictor(tmp_path / "predictor.safetensors", predictor, info)
    seen = []
    grams = StylePredictor.grams

    def watched(self, image):
        seen.append(image.shape[2:])
        return grams(self, image)

    monkeypatch.setattr(StylePredictor, "grams", watched)
    style = capture(Picture.from_image(artwork), "mine", tmp_path)
    assert style.info.base_size == 96
    assert seen == [(83, 111)]


# Refining


@pytest.fixture
def studio(folder, artwork):
    """A trunk, an encoder, two vectors, what they are to paint like, and contents."""
    network = load_trunk(folder / "trunk.safetensors")
    predictor = load_predictor(folder / "predictor.safetensors")[1]
    generator = torch.Generator().manual_seed(0)
    vectors = network.new_style() + 0.3 * torch.randn(
        2, network.style_size, generator=generator
    )
    image = torch.from_numpy(artwork / np.float32(255)).permute(2, 0, 1)[None]
    grams = (predictor.grams(each).items() for each in (image, 1 - image))
    pairs = zip(*grams, strict=True)
    wanted = {layer: torch.cat([one, two]) for (layer, one), (_, two) in pairs}
    contents = torch.rand(2, 3, 64, 64, generator=generator)
    return network, predictor.encoder, vectors, wanted, contents


def test_refined_vectors_paint_nearer_to_their_styles(studio):
    network, encoder, vectors, wanted, contents = studio
    refined = refine(network, encoder, vectors, wanted, [contents] * 10)
    with torch.no_grad():
        before, after = (
            style_loss(encoder(network(contents, network.vector(v))), wanted)
            for v in (vectors, refined)
        )
    assert (after < 0.9 * before).all()


def test_refining_holds_to_the_content(studio, monkeypatch):
    for name, value in ("_STYLE_WEIGHT", 0.0), ("_TV_WEIGHT", 0.0), ("_EPS", 1e-8):
        monkeypatch.setattr(styleplug.predictor, name, value)
    network, encoder, vectors, wanted, contents = studio
    refined = refine(network, encoder, vectors, wanted, [contents] * 10)
    with torch.no_grad():
        seen = encoder(contents)
        seen = {layer: seen[layer] for layer in CONTENT_LAYERS}
        before, after = (
            content_loss(encoder(network(contents, network.vector(v))), seen)
            for v in (vectors, refined)
        )
    assert (after < 0.9 * before).all()


def test_styles_are_refined_together_as_they_are_alone(studio):
    network, encoder, vectors, wanted, contents = studio
    both = refine(network, encoder, vectors, wanted, [contents] * 2)
    for i in range(2):
        one = slice(i, i + 1)
        alone = {layer: gram[one] for layer, gram in wanted.items()}
        seen = [contents[one]] * 2
        refined = refine(network, encoder, vectors[one], alone, seen)
        change = (both[one] - vectors[one]).abs().mean()
        assert (refined - both[one]).abs().mean() < 0.05 * change


def test_refining_on_the_cpu_leaves_cuda_alone(studio, monkeypatch):
    def touched(*_):
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    device = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_lazy_init", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, touched)
    network, encoder, vectors, wanted, contents = studio
    refined = refine(network, encoder, vectors, wanted, [contents], rank=2)
    assert not torch.equal(refined[:, : network.style_size], vectors)


def test_nothing_is_refined_where_there_is_nothing_to_look_at(studio):
    network, encoder, vectors, wanted, _ = studio
    assert torch.equal(refine(network, encoder, vectors, wanted, []), vectors)


def test_changes_to_kernels_bring_vectors_nearer_still(studio):
    network, encoder, vectors, wanted, contents = studio
    together = {layer: gram[:1] for layer, gram in wanted.items()}
    plain, changing = (
        refine(network, encoder, vectors[:1], together, [contents[:1]] * 24, rank)[0]
        for rank in (0, 4)
    )
    with torch.no_grad():
        missed, nearer = (
            style_loss(encoder(network(contents, network.vector(v))), wanted)[0]
            for v in (plain, changing)
        )
    assert nearer < missed


@pytest.mark.parametrize("rank", [0, 4])
def test_vectors_are_refined_where_gradients_are_off(studio, rank):
    network, encoder, vectors, wanted, contents = studio
    with torch.inference_mode():
        refined = refine(network, encoder, vectors, wanted, [contents] * 3, rank)
    assert not torch.equal(refined[:, : network.style_size], vectors)
    assert bool(refined[:, network.style_size :].any()) == bool(rank)


# What is captured


def test_a_picture_paints_the_same_at_another_resolution(
    artwork, content_image, monkeypatch
):
    monkeypatch.setattr(styleplug.predictor, "STEPS", 24)
    picture, other = Image.fromarray(artwork), Image.fromarray(255 - artwork)
    small, large, far = (
        np.asarray(stylize(content_image, style, device="cpu"), int)
        for style in (picture, picture.resize((1024, 768)), other)
    )
    difference = np.abs(small - large).mean()
    assert difference < 0.1 * np.abs(small - far).mean()


def test_four_photographs_are_at_hand_large_enough_to_capture_and_learn_on():
    paths = styleplug.predictor.PHOTOGRAPHS.glob("*.jpg")
    photographs = [read_picture(path) for path in paths]
    assert len(photographs) == 4
    for photograph in photographs:
        height, width, channels = photograph.pixels.shape
        assert channels == 3
        assert min(height, width) >= 256
        assert min(height, width) / (height * width) ** 0.5 > 224 / 336


def test_the_same_picture_is_looked_at_once(captured, artwork, monkeypatch):
    vector = captured(artwork)
    monkeypatch.setattr(
        styleplug.predictor, "refine", lambda *_: pytest.fail("refined again")
    )
    assert torch.equal(captured(Image.fromarray(artwork)), vector)


def test_a_style_says_what_it_was_captured_from(folder, artwork):
    upside_down = Picture.from_image(artwork[::-1].copy())  # none has captured it
    style = capture(upside_down, "mine", folder)
    assert (style.info.name, style.info.title) == ("mine", "mine")
    assert style.info.trunk == hash_trunk(style.network)
    network = style.network
    kernels = sum(shape.numel() for shape in network.changeable.values())
    assert style.vector.shape == (network.style_size + kernels,)
    assert style.vector[network.style_size :].any()
    plain = capture(upside_down, "mine", folder, rank=0)
    assert plain.vector.shape == (network.style_size,)
    assert not style.vector.requires_grad


def test_a_predictor_of_ones_own_serves_pictures(folder, artwork, tmp_path):
    path, style = tmp_path / "mine.png", tmp_path / "mine.safetensors"
    Image.fromarray(artwork).save(path)
    trunk = read_info(folder / "trunk.safetensors").trunk
    for picture in (path, Image.fromarray(artwork)):
        stylizer = Stylizer(picture, predictor=folder, device="cpu")
        assert stylizer.info.trunk == trunk
    assert Stylizer(path, device="cpu").info.trunk == read_info(bundled_trunk()).trunk
    argv = ["capture", str(path), "-o", str(style), "--predictor", str(folder)]
    assert main(argv) == 0
    assert read_info(style).trunk == trunk
    assert Stylizer(style, device="cpu")(artwork).shape == artwork.shape


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_vector_does_not_depend_on_the_resolution(captured, artwork, factor):
    large = artwork.repeat(factor, axis=0).repeat(factor, axis=1)
    vector = captured(artwork)
    another = captured(255 - artwork)
    assert (captured(large) - vector).norm() < 0.05 * (another - vector).norm()


def test_the_finest_dots_of_a_large_scan_are_seen_as_their_mean(captured):
    dots = (np.arange(4200) + np.arange(4200)[:, None]).astype(np.uint8) % 2 * 254
    grey = np.full((64, 64, 1), 127 / 255, np.float32)
    torch.testing.assert_close(captured(dots), captured(grey), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [1, 3, 40, 7000])
def test_a_plain_picture_of_any_size_has_the_style_of_its_color(captured, side):
    color = np.array([200, 90, 30], np.uint8)
    plain = captured(np.broadcast_to(color, (side, side, 3)))
    expected = captured(np.broadcast_to(color, (256, 256, 3)))
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (7, 900_000)])
def test_the_longest_pictures_have_a_style(captured, size):
    rng = np.random.default_rng(0)
    assert torch.isfinite(captured(rng.integers(0, 256, size, np.uint8))).all()


def test_the_depth_of_a_picture_does_not_matter(captured, artwork):
    vector = captured(artwork)
    for same in (
        artwork.astype(np.uint16) * 257,
        artwork.astype(np.float32) / 255,
        artwork.astype(np.float64) / 255,
        Image.fromarray(artwork),
        torch.from_numpy(artwork / 255.0).permute(2, 0, 1)[None],
    ):
        torch.testing.assert_close(captured(same), vector, atol=1e-4, rtol=1e-4)


def test_a_grey_picture_is_one_of_three_equal_channels(captured, artwork):
    grey = Image.fromarray(artwork).convert("L")
    assert torch.equal(captured(grey), captured(grey.convert("RGB")))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_a_picture_of_any_mode_has_a_style(captured, artwork, mode):
    image = Image.fromarray(artwork)
    assert torch.isfinite(captured(image.convert(mode))).all()


def test_highlights_above_white_are_seen_as_white(captured, artwork):
    pixels = artwork.astype(np.float32) / 255
    vector = captured(np.where(pixels > 0.9, 1, pixels))
    assert torch.equal(captured(np.where(pixels > 0.9, 7, pixels)), vector)


def test_transparent_margins_are_no_part_of_the_style(captured, artwork):
    large = np.zeros((600, 800, 4), np.uint8)
    large[100:484, 200:712] = np.dstack([artwork, np.full((384, 512), 255, np.uint8)])
    assert torch.equal(captured(large), captured(artwork))
    large[:50, :, :3] = 255
    assert torch.equal(captured(large), captured(artwork))


def test_what_is_transparent_is_seen_as_white_paper(captured, artwork):
    alpha = np.full(artwork.shape[:2], 255, np.uint8)
    alpha[40:-40, 50:-50] = 0
    hidden = np.dstack([artwork, alpha])
    seen = np.where(alpha[..., None] == 0, 255, artwork).astype(np.uint8)
    assert torch.equal(captured(hidden), captured(seen))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_a_picture_that_cannot_be_seen_has_no_style(captured, mode):
    image = Image.new("RGBA", (30, 20), (200, 10, 10, 0)).convert(mode)
    with pytest.raises(InvalidImageError, match="mine is wholly transparent"):
        captured(image)


# Through the API


def test_a_path_an_image_and_an_array_are_the_same_style(painting, content_image):
    results = {
        stylize(content_image, style, device="cpu").tobytes()
        for style in (
            *(painting, str(painting), Image.open(painting)),
            *(read_picture(painting), read_picture(painting).pixels),
        )
    }
    assert len(results) == 1


@pytest.mark.parametrize("side", [1, 3, 40])
def test_a_tiny_style_picture_paints(content_image, side):
    style = Image.new("RGB", (side, 2 * side), (200, 60, 20))
    assert stylize(content_image, style, device="cpu").size == content_image.size


@pytest.mark.parametrize("factor", [0.6, 1, 1.5])
def test_a_picture_is_left_as_it_is_in_its_own_style(painting, factor, caplog):
    with Image.open(painting) as picture:
        size = tuple(round(factor * side) for side in picture.size)
        copy = np.asarray(picture.convert("RGB").resize(size))
    assert np.array_equal(stylize(copy, painting, device="cpu"), copy)
    assert "is left unchanged" in caplog.text


def test_a_picture_with_transparent_margins_is_known_again(artwork):
    alpha = np.zeros(artwork.shape[:2], np.uint8)
    alpha[60:-60, 60:-60] = 255
    picture = Image.fromarray(np.dstack([artwork, alpha]))
    assert stylize(picture, picture, device="cpu").tobytes() == picture.tobytes()


def test_other_pictures_are_painted_wholly_even_of_the_same_kind(artwork):
    rng = np.random.default_rng(0)
    specks = rng.integers(0, 2, (2, 200, 300, 1), np.uint8).repeat(3, axis=3) * 255
    for picture, other in (
        specks,
        (artwork, artwork[:, ::-1]),
        (artwork, 255 - artwork),
    ):
        of_one = Stylizer(picture, device="cpu")
        assert of_one._share_in(picture) == 1
        assert of_one._share_in(other) == 0


def test_not_a_number_is_in_no_picture(painting):
    pixels = np.full((40, 40, 3), np.nan, np.float32)
    assert Stylizer(painting, device="cpu")._share_in(pixels) == 0


def test_the_own_part_of_a_blend_is_left_out(painting):
    with Image.open(painting) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    stylizer = Stylizer(
        [(painting, 1), (styleplug.list_styles()[0].name, 1)], device="cpu"
    )
    painted = stylizer(pixels)
    stylizer._found_in = []
    assert np.array_equal(painted, stylizer(pixels, strength=0.5))


def test_a_picture_may_be_content_and_style(painting, tmp_path):
    out = tmp_path / "out.png"
    assert stylize_file(painting, out, painting, device="cpu") == (512, 384)
    with Image.open(out) as result:
        assert '"style": "Painting"' in result.info["Software"]


def test_what_is_no_picture_is_no_style(tmp_path):
    text = tmp_path / "x.jpg"
    text.write_text("The picture of a picture.")
    with pytest.raises(InvalidImageError, match=r"x\.jpg is not an image"):
        Stylizer(text)
    text.write_bytes(b"")
    with pytest.raises(InvalidImageError, match=r"x\.jpg is empty"):
        Stylizer(str(text))
    for missing in (tmp_path / "missing.png", tmp_path, "no/such.webp"):
        with pytest.raises(StyleNotFoundError, match="check the path"):
            Stylizer(missing)
    huge = tmp_path / "huge.png"
    Image.new("1", (20000, 10000)).save(huge)
    with pytest.raises(ImageTooLargeError, match="a few megapixels are enough"):
        Stylizer(huge)


@pytest.mark.parametrize(
    "style",
    [7, None, b"x", np.zeros((4, 4, 2), np.uint8), np.full((4, 4, 3), np.nan), [3, 4]],
    ids=str,
)
def test_what_is_no_style_is_named(style):
    with pytest.raises((TypeError, ValueError), match=r"^style"):
        Stylizer(style)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_default_type_of_another_library_changes_no_style(folder, artwork, dtype):
    def vector():
        styleplug.predictor._vector.cache_clear()
        return capture(Picture.from_image(artwork), "mine", folder).vector

    expected = vector()
    torch.set_default_dtype(dtype)
    try:
        found = vector()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_a_file_is_looked_at_again_only_when_it_has_changed(
    painting, content_image, monkeypatch
):
    read, seen = engine.as_style_image, []

    def watched(path):
        seen.append(path)
        return read(path)

    def vector():
        return Stylizer(painting, device="cpu")._vector

    monkeypatch.setattr(engine, "as_style_image", watched)
    first = vector()
    assert torch.equal(vector(), first)
    assert len(seen) == 1
    Image.fromarray(255 - np.asarray(content_image)).save(painting, "JPEG")
    assert not torch.equal(vector(), first)
    assert len(seen) == 2
    painting.unlink()
    with pytest.raises(StyleNotFoundError):
        vector()


def test_a_saved_style_paints_as_its_picture_does(painting, tmp_path, content_image):
    saved = tmp_path / "saved.safetensors"
    original = Stylizer(painting, device="cpu", dtype="float32")
    info = original.save(saved, artist="Nobody", license="CC0-1.0")
    assert (info.name, info.title, info.artist) == ("saved", "Painting", "Nobody")
    assert read_info(saved).self_contained
    style = capture(read_picture(painting), "e")
    numbers = slice(style.network.style_size)
    kept = load_style(saved).vector
    assert torch.equal(kept[numbers], style.vector[numbers].half().float())
    again = Stylizer(saved, device="cpu", dtype="float32")
    wanted, found = (
        np.asarray(stylizer(content_image), int) for stylizer in (original, again)
    )
    assert np.abs(found - wanted).mean() < 0.1
    assert np.abs(found - wanted).max() <= 8


def test_a_blend_of_a_picture_can_be_saved(painting, tmp_path, content_image):
    named = styleplug.list_styles()[0].name
    blend = Stylizer([(named, 1), (painting, 3)], device="cpu", dtype="float32")
    info = blend.save(tmp_path / "blend.safetensors")
    assert info.title == f"{named}:0.25 + Painting:0.75"
    assert (info.artist, info.figures) == ("", {})
    again = Stylizer(tmp_path / "blend.safetensors", device="cpu", dtype="float32")
    difference = np.asarray(again(content_image), int) - blend(content_image)
    assert np.abs(difference).max() <= 8


@pytest.mark.parametrize(
    ("name", "header", "error"),
    [
        ("style.jpg", {}, ValueError),
        ("style", {}, ValueError),
        ("missing/style.safetensors", {}, FileNotFoundError),
        ("style.safetensors", {"name": ""}, ValueError),
        ("style.safetensors", {"year": 1889}, TypeError),
        ("style.safetensors", {"painter": "Nobody"}, TypeError),
    ],
)
def test_a_style_that_could_not_be_read_again_is_not_saved(
    painting, tmp_path, name, header, error
):
    with pytest.raises(error):
        Stylizer(painting, device="cpu").save(tmp_path / name, **header)
    assert list(tmp_path.iterdir()) == [painting]


def test_named_styles_and_pictures_blend(painting, content_image):
    named = styleplug.list_styles()[0].name

    def render(style):
        image = stylize(content_image, style, device="cpu", dtype="float32")
        return np.asarray(image, int)

    one, other = render(named), render(Image.open(painting))
    assert np.array_equal(render([(named, 1), (painting, 0)]), one)
    assert np.array_equal(render([(named, 0), (painting, 2)]), other)
    between = render([(named, 1), (painting, 1)])
    assert not np.array_equal(between, one)
    assert not np.array_equal(between, other)
    # With its own mirror image, whatever that is like.
    mirrored = np.asarray(Image.open(painting))[:, ::-1]
    assert render([(painting, 1), (mirrored, 1)]).shape == one.shape


def test_a_picture_and_a_style_of_another_trunk_do_not_blend(painting, tiny_style):
    with pytest.raises(ValueError, match="tiny and Painting"):
        Stylizer([(tiny_style, 1), (painting, 1)])


def test_pictures_are_apart_by_deviations_of_the_first():
    faint = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    strong = 4 * faint
    of_faint, of_strong = (
        fingerprint_distance(faint, strong),
        fingerprint_distance(strong, faint),
    )
    assert of_faint.shape == (2, 2)
    assert (of_faint > 3 * of_strong.T).all()
    torch.testing.assert_close(
        fingerprint_distance(faint, faint).diagonal(), torch.zeros(2)
    )
