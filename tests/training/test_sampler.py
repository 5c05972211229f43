import copy

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from styleplug.losses import STYLE_LAYERS, LossNetwork, gram_matrix
from styleplug.predictor import StylePredictor
from styleplug.training import sampler as sampler_module
from styleplug.training.config import TrainConfig
from styleplug.training.data import Archive, Photographs, load_artwork
from styleplug.training.sampler import Sampler, _deal, targets


@pytest.fixture(scope="module")
def loss_net(vgg):
    return LossNetwork(vgg, dtype=torch.float32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of six pictures, each of other colours."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i, color in enumerate(("red", "lime", "blue", "black", "white", "gray")):
        noise = rng.normal(0, 25, (72, 96, 3))
        pixels = np.array(ImageColor.getrgb(color)) + noise
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i}.png")
    return folder


@pytest.fixture
def sampler(artwork, photographs, loss_net):
    device = torch.device("cpu")
    grams = targets([load_artwork(artwork, 64)] * 3, loss_net, device)

    def sampler(**settings):
        config = TrainConfig(crop_size=48, style_size=64, **settings)
        archive = Archive(photographs, config.style_size)
        return Sampler(
            *(Photographs(photographs), archive, grams, loss_net, config, device)
        )

    return sampler


def test_each_round_deals_every_style_once():
    dealt = torch.cat([_deal(6, 4, 0, step) for step in range(3)])
    assert sorted(dealt[:6].tolist()) == sorted(dealt[6:].tolist()) == list(range(6))


def test_processes_share_a_batch_among_them(sampler):
    sampler = sampler(batch_size=8, identity_share=0.5)
    whole = sampler.batch(2, 0, 1)
    parts = [sampler.batch(2, process, 2) for process in range(2)]
    assert {part.shift for part in parts} == {whole.shift}
    for process, part in enumerate(parts):
        mine = slice(process, None, 2)
        for name in ("crops", "strength", "itself", "noise", "picks"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[mine]), name
        for layer, grams in whole.grams.items():
            assert torch.equal(part.grams[layer], grams[mine])
        seen = whole.style_images[mine]
        assert all(map(torch.equal, part.style_images, seen))
        assert len(part.style_images) == len(seen) == 2


def test_who_is_to_stay_as_it_is_is_painted_at_full_strength_in_its_own_style(sampler):
    settings = {"batch_size": 6, "any_share": 1.0, "varied_strength": 1.0}
    stays = sampler(identity_share=1.0, **settings).batch(0, 0, 1)
    assert stays.itself.all()
    assert (stays.strength == 1).all()
    for crop, glimpse in zip(stays.crops, stays.style_images, strict=True):
        assert _colors(crop) == pytest.approx(_colors(glimpse[0]), abs=0.05)
    changes = sampler(identity_share=0.0, **settings).batch(0, 0, 1)
    assert not changes.itself.any()
    assert (changes.strength < 1).all()


def test_crops_of_a_pool_come_again_and_are_looked_at_once(
    artwork, photographs, loss_net, monkeypatch
):
    looked = []
    look = LossNetwork.forward

    def looks(network, image):
        looked.append(image)
        return look(network, image)

    monkeypatch.setattr(LossNetwork, "forward", looks)
    device = torch.device("cpu")
    grams = targets([load_artwork(artwork, 64)], loss_net, device)
    config = TrainConfig(crop_size=48, style_size=64, pool=3, varied_strength=1.0)
    sampler = Sampler(Photographs(photographs), None, grams, loss_net, config, device)
    looked.clear()
    batches = [sampler.batch(step, 0, 1) for step in range(6)]
    assert len(looked) == 3
    for first, again in zip(batches[:3], batches[3:], strict=True):
        assert torch.equal(first.crops, again.crops)
        assert torch.equal(first.wanted["relu4_1"], again.wanted["relu4_1"])
        assert not torch.equal(first.strength, again.strength)
    assert not torch.equal(batches[0].crops, batches[1].crops)
    seen = loss_net(batches[0].crops)["relu4_1"]
    assert torch.equal(batches[0].wanted["relu4_1"], seen)


def _colors(image):
    return image.mean(dim=(1, 2)).tolist()


def test_crops_are_collages_where_photographs_are_few(sampler, monkeypatch):
    few = sampler(batch_size=4).batch(0, 0, 1).crops
    monkeypatch.setattr(sampler_module, "_FEW", 0)
    many = sampler(batch_size=4).batch(0, 0, 1).crops
    kept = (few == many).all(dim=1).flatten(1).float().mean(dim=1)
    assert 0.1 < kept.mean() < 0.9


def test_what_an_archive_is_held_to_does_not_fill_the_device(
    photographs, loss_net, device
):
    device = torch.device(device)
    config = TrainConfig(crop_size=48, style_size=64, batch_size=4, any_share=1.0)
    given = Photographs(photographs), Archive(photographs, 64), {}
    on_device = copy.deepcopy(loss_net).to(device)
    sampler = Sampler(*given, on_device, config, device)
    batch = sampler.batch(0, 0, 1)
    assert {gram.device.type for gram in batch.grams.values()} == {device.type}
    kept = sampler._archive_grams.values()
    assert {gram.device.type for each in kept for gram in each.values()} == {"cpu"}


def test_a_glimpse_comes_with_the_gram_matrices_of_its_picture(
    sampler, photographs, loss_net
):
    batch = sampler(batch_size=4, any_share=1.0, identity_share=0.0).batch(1, 0, 1)
    archive = Archive(photographs, 64)
    for i, glimpse in enumerate(batch.style_images):
        likeness = []
        for k in range(len(archive.images)):
            picture = archive.artwork(k)
            features = loss_net(picture)
            off = max(
                (gram_matrix(features[layer]) - batch.grams[layer][i]).abs().max()
                / batch.grams[layer][i].abs().max()
                for layer in STYLE_LAYERS
            )
            seen = torch.tensor(_colors(picture[0])) - torch.tensor(_colors(glimpse[0]))
            likeness.append((float(off), float(seen.norm())))
        by_grams, by_colors = (
            min(range(len(likeness)), key=lambda k, n=n: likeness[k][n]) for n in (0, 1)
        )
        assert by_grams == by_colors
        assert likeness[by_grams][0] < 1e-2


@pytest.mark.parametrize("style_size", [64, 256])
def test_artworks_smaller_than_the_style_size_are_seen_smaller(
    style_size, photographs, loss_net
):
    settings = {"batch_size": 6, "any_share": 1.0, "identity_share": 0.0}
    config = TrainConfig(crop_size=48, style_size=style_size, **settings)
    archive = Archive(photographs, style_size)
    device = torch.device("cpu")
    sampler = Sampler(Photographs(photographs), archive, {}, loss_net, config, device)
    whole = archive.images[0].shape[1] * StylePredictor.SIZE / style_size
    heights = [glimpse.shape[2] for glimpse in sampler.batch(0, 0, 1).style_images]
    assert all(0.7 * whole - 1 <= height <= whole for height in heights)


def test_an_artwork_to_be_left_as_it_is_is_seen_magnified_as_its_crops_are(
    photographs, loss_net
):
    settings = {"batch_size": 8, "any_share": 1.0, "identity_share": 1.0}
    config = TrainConfig(crop_size=96, style_size=256, **settings)
    archive = Archive(photographs, config.style_size)
    device = torch.device("cpu")
    sampler = Sampler(Photographs(photographs), archive, {}, loss_net, config, device)
    batch = sampler.batch(0, 0, 1)
    assert batch.itself.all()
    short_sides = [min(glimpse.shape[2:]) for glimpse in batch.style_images]
    of_photographs = StylePredictor.SIZE * 72 / (72 * 96) ** 0.5
    of_artworks = [side for side in short_sides if side < 0.7 * of_photographs - 1]
    whole = config.crop_size * StylePredictor.SIZE / config.style_size
    assert 0 < len(of_artworks) < config.batch_size
    assert all(0.7 * whole - 1 <= side <= whole for side in of_artworks)
