"""The loss of a picture and its gradient, whole and in tiles."""

from __future__ import annotations

import pytest
import torch

from styleplug.losses import LossNetwork
from styleplug.objective import STYLE_LOSSES, Objective, Style, Weights, overlap_of

CONTENT = "relu2_1"
LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture(scope="session")
def network(shallow_vgg) -> LossNetwork:
    return LossNetwork(shallow_vgg, LAYERS)


def objective(network, content, losses, tile_size, region=None, mask=None, free=None):
    generator = torch.Generator().manual_seed(1)
    style = torch.rand(1, 3, 40, 48, generator=generator)
    return Objective(
        network,
        Weights({CONTENT: 1.0}, {"relu1_1": 3.0, "relu2_1": 5.0}, losses, tv=2.0),
        content,
        [Style(style, 0.75, mask, region), Style(style.flip(1), 0.25, None, None)],
        tile_size=tile_size,
        free=free,
    )


def pictures(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", STYLE_LOSSES)
@pytest.mark.parametrize("region", [False, True])
def test_tiles_have_the_loss_and_the_gradient_of_the_whole(loss, region, network):
    content, x = pictures(2, 1, 3, 71, 117)
    where = None
    if region:
        where = torch.zeros(1, 1, 71, 117)
        where[..., 10:60, 5:90] = 1
    whole, tiled = (
        objective(network, content, {loss: 1.0}, side, where) for side in (117, 32)
    )
    assert (len(whole.view.tiles), len(tiled.view.tiles)) == (1, 12)
    expected, gradient = whole(x)
    found, in_tiles = tiled(x)
    assert found == pytest.approx(expected, rel=1e-4)
    error = (in_tiles - gradient).norm() / gradient.norm()
    assert error < 2e-3


def test_a_sliver_at_the_border_belongs_to_the_tile_beside_it(network):
    content, x = pictures(2, 1, 3, 65, 97)
    losses = dict.fromkeys(STYLE_LOSSES, 1.0)
    whole, tiled = (objective(network, content, losses, side) for side in (97, 32))
    assert {tile.core.bottom for tile in tiled.view.tiles} == {32, 65}
    assert {tile.core.right for tile in tiled.view.tiles} == {32, 64, 97}
    expected, gradient = whole(x)
    found, in_tiles = tiled(x)
    assert found == pytest.approx(expected, rel=1e-4)
    assert (in_tiles - gradient).norm() / gradient.norm() < 2e-3


def test_a_style_is_seen_in_tiles_no_larger_than_a_long_content(network, monkeypatch):
    seen, walk = [], network.walk

    def watched(x):
        seen.append(x[0, 0].numel())
        return walk(x)

    monkeypatch.setattr(network, "walk", watched)
    Objective(
        network,
        Weights({CONTENT: 1.0}, {"relu1_1": 1.0}, {"gram": 1.0}, tv=0.0),
        pictures(1, 3, 32, 512),
        [Style(pictures(1, 3, 400, 400), 1.0, None, None)],
        tile_size=512,
        style_scale=4,
    )
    assert seen[0] == 32 * 512
    assert max(seen[1:]) <= (128 + 2 * overlap_of(network)) ** 2


def test_the_gradient_is_the_slope_of_the_loss(network):
    content, x, way = pictures(3, 1, 3, 40, 40)
    losses = {"gram": 0.5, "mean_std": 1.0, "wasserstein": 2.0}
    evaluate = objective(network, content, losses, 64)
    _, gradient = evaluate(x)
    slope = (evaluate(x + 1e-3 * way)[0] - evaluate(x - 1e-3 * way)[0]) / 2e-3
    assert (gradient * way).sum().item() == pytest.approx(slope, rel=0.02)


def test_the_losses_add_up_with_their_weights(network):
    content, x = pictures(2, 1, 3, 40, 40)

    def loss(**losses):
        return objective(network, content, losses, 64)(x)[0]

    without = loss(gram=0.0)
    gram, nearest = loss(gram=1.0) - without, loss(nearest=1.0) - without
    both = loss(gram=2.0, nearest=0.5) - without
    assert both == pytest.approx(2 * gram + 0.5 * nearest, rel=1e-4)


def test_what_is_not_free_has_no_gradient(network):
    content, x = pictures(2, 1, 3, 40, 40)
    free = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    free[..., 20:] = True
    _, gradient = objective(network, content, {"gram": 1.0}, 64, free=free)(x)
    assert gradient[..., :20].abs().max() == 0
    assert gradient[..., 20:].abs().max() > 0


def test_the_mask_of_a_style_tells_which_features_count(network):
    content, x = pictures(2, 1, 3, 40, 40)
    everywhere = torch.ones(1, 1, 40, 48)
    masked = objective(network, content, {"gram": 1.0}, 64, mask=everywhere)(x)[0]
    assert masked == pytest.approx(objective(network, content, {"gram": 1.0}, 64)(x)[0])
    half = everywhere.clone()
    half[..., :24] = 0
    assert objective(network, content, {"gram": 1.0}, 64, mask=half)(x)[0] != masked


def test_the_style_image_follows_the_size_of_the_picture():
    style = Style(torch.zeros(1, 3, 300, 1200), 1.0, None, None)
    assert style.at(300, 1.0).shape == (1, 3, 150, 600)
    assert style.at(300, 2.0).shape == (1, 3, 300, 1200)
    assert style.at(5000, 1.0).shape == (1, 3, 300, 1200)
    assert style.at(32, 0.25).shape == (1, 3, 32, 32)


def test_tiles_overlap_by_what_a_feature_sees(network):
    assert overlap_of(network) == 16
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    network(x + torch.rand_like(x))["relu2_1"][..., 16, 16].sum().backward()
    seen = x.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() >= 32 - 16
    assert seen.max() < 34 + 16
