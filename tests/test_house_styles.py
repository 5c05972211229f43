"""The bundled styles are really those artworks: measured with the loss network."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleplug.engine import Stylizer
from styleplug.style import bundled_styles, read_info
from tests.conftest import require

CARDS = Path(__file__).parents[1] / "model_cards"


@pytest.fixture(scope="module")
def assets() -> Path:
    folder = Path(os.environ.get("STYLEPLUG_ASSETS", ""))
    require(
        (folder / "vgg").is_dir(), "set STYLEPLUG_ASSETS to the folder of the assets"
    )
    return folder


@pytest.fixture(scope="module")
def rod(assets):
    from styleplug.losses import LossNetwork

    (path,) = (assets / "vgg").glob("*.safetensors")
    network = LossNetwork(path)
    with Image.open(assets / "content" / "test" / "stata.jpg") as image:
        pixels = np.array(image.convert("RGB").resize((384, 256)))
    content = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    network.calibrate(content)
    return network, content


def grams_of(assets, rod, name):
    """Return the Gram matrices of a bundled style's artwork."""
    from styleplug.losses import gram_matrix
    from styleplug.training.data import load_artwork

    catalogue = json.loads((CARDS / "styles.json").read_text("utf-8"))
    (file,) = (file for file, about in catalogue.items() if about["name"] == name)
    artwork = load_artwork(assets / "styles" / "public_domain" / file, 384)
    return {k: gram_matrix(f) for k, f in rod[0](artwork).items()}


@pytest.mark.assets
@pytest.mark.parametrize("name", bundled_styles())
def test_a_bundled_style_brings_a_photograph_near_its_artwork(assets, rod, name):
    from styleplug.losses import style_loss

    network, content = rod
    with torch.inference_mode():
        grams = grams_of(assets, rod, name)
        stylized = Stylizer(name, device="cpu")(content)
        far = style_loss(network(content), grams).item()
        near = style_loss(network(stylized), grams).item()
    assert near < 0.5 * far


@pytest.mark.assets
@pytest.mark.parametrize("name", bundled_styles())
def test_strength_leads_from_the_photograph_to_the_artwork(assets, rod, name):
    from styleplug.losses import content_loss, style_loss

    network, content = rod
    stylizer = Stylizer(name, device="cpu")
    from_content, from_style = [], []
    with torch.inference_mode():
        grams = grams_of(assets, rod, name)
        wanted = {"relu4_1": network(content)["relu4_1"]}
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            features = network(stylizer(content, strength=strength))
            from_content.append(content_loss(features, wanted).item())
            from_style.append(style_loss(features, grams).item())
    assert from_content == sorted(from_content)
    assert from_style[:3] == sorted(from_style[:3], reverse=True)
    assert max(from_style[3:]) < from_style[2]


@pytest.mark.assets
@pytest.mark.parametrize("number", [0, 20, 39])
def test_a_captured_style_brings_a_photograph_near_an_unseen_artwork(
    assets, rod, number
):
    from styleplug.losses import gram_matrix, style_loss
    from styleplug.training.data import load_artwork

    network, content = rod
    held_out = (CARDS.parent / "benchmarks" / "held_out.txt").read_text("utf-8")
    path = assets / "styles" / "train" / held_out.split()[number]
    with torch.inference_mode():
        features = network(load_artwork(path, 512))
        grams = {k: gram_matrix(f) for k, f in features.items()}
        stylized = Stylizer(path, device="cpu")(content)
        far = style_loss(network(content), grams).item()
        near = style_loss(network(stylized), grams).item()
    assert near < 0.4 * far


def test_every_bundled_style_is_described_in_the_catalogue():
    catalogue = json.loads((CARDS / "styles.json").read_text("utf-8"))
    about = {fields["name"]: fields for fields in catalogue.values()}
    for name, path in bundled_styles().items():
        info = read_info(path)
        for field, value in about[name].items():
            assert getattr(info, field) == value


def test_a_preview_shows_what_the_full_size_will_be():
    with Image.open(CARDS.parent / "styleplug" / "sample.jpg") as image:
        scene = image.resize((1920, 1280))
    small = scene.resize((750, 500), Image.Resampling.LANCZOS)
    stylizer = Stylizer("starry-night", device="cpu")
    painting = stylizer(scene).resize(small.size, Image.Resampling.LANCZOS)
    preview, photo, wanted = (
        np.asarray(image, np.float32) for image in (stylizer(small), small, painting)
    )
    assert np.abs(preview - wanted).mean() < 0.2 * np.abs(photo - wanted).mean()
