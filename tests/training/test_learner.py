import pytest
import torch

from styleplug import networks
from styleplug.losses import CONTENT_LAYERS, LossNetwork, gram_matrix
from styleplug.networks import StyleNetwork, paint, with_changes
from styleplug.training.config import TrainConfig
from styleplug.training.data import Photographs
from styleplug.training.learner import (
    Batch,
    Learner,
    Losses,
    load_loss_network,
    total_loss,
)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return StyleNetwork((4, 4, 4))


@pytest.fixture
def look(network, vgg):
    """Returns the losses of a batch of two crops."""
    loss_network = LossNetwork(vgg)
    learner = Learner(network, network.new_style()[None], None)
    crops = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    grams = {k: gram_matrix(f) for k, f in loss_network(1 - crops).items()}
    wanted = {k: loss_network(crops)[k] for k in CONTENT_LAYERS}

    def losses(noise, shift=(0, 0)):
        picks = torch.zeros(2, dtype=torch.long)
        itself = torch.zeros(2, dtype=torch.bool)
        return learner(
            Batch(crops, wanted, torch.ones(2), picks, [], grams, itself, noise, shift),
            loss_network,
        )

    return losses


def test_a_movement_by_whole_cells_moves_the_painting_along(network):
    crop = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    inside = ..., slice(96, -96), slice(96, -96)  # what is beyond the border differs
    style = network.new_style()[None]
    still, moved = (
        paint(network, crop, style, torch.ones(1), dtype=torch.float32, shift=shift)
        for shift in ((0, 0), (8, -8))
    )
    still, moved = still[inside], moved[inside]
    assert (still - moved).square().mean() < 0.1 * still.var()


def test_the_same_look_twice_is_steady(look):
    still = look(torch.zeros(2, 3, 48, 48))
    assert still.instability.tolist() == [0.0, 0.0]
    noisy = look(0.1 * torch.randn(2, 3, 48, 48))
    assert noisy.instability.min() > 0
    assert torch.equal(still.style, noisy.style)
    assert look(None).instability.tolist() == [0.0, 0.0]


def test_the_total_loss_of_a_hand_computed_example():
    losses = Losses(
        content=torch.tensor([1.0, 3.0]),
        style=torch.tensor([9.0, 4.0]),
        variation=torch.tensor([0.25, 0.5]),
        difference=torch.tensor([0.5, 7.0]),
        instability=torch.tensor([0.125, 0.0625]),
    )
    config = TrainConfig(
        content_weight=2,
        style_weight=8,
        far=0.5,
        tv_weight=4,
        identity_weight=16,
        stability_weight=32,
    )
    itself, strength = torch.tensor([True, False]), torch.tensor([1.0, 0.5])
    nothing = torch.empty(0)
    batch = Batch(nothing, {}, strength, nothing, [], {}, itself, None, (0, 0))
    far = 0.5 * (2 * 4.0**0.5 - 0.5)
    first = 2 * 1.0 + 16 * 0.5 + 4 * 0.25 + 32 * 0.125
    second = 2 * 3.0 + 8 * 0.5**3 * far + 4 * 0.5 + 32 * 0.0625
    assert total_loss(losses, batch, config).item() == (first + second) / 2


def test_learning_begins_at_the_styles_given(network):
    plain = network.new_style()
    changing = with_changes(
        plain,
        {
            name: (torch.randn(2, shape[1:].numel()), torch.randn(shape[0], 2))
            for name, shape in network.changeable.items()
        },
    )
    for style, rank in ((plain, 2), (changing, 2), (changing, 3)):
        learner = Learner(network, style[None], None, rank)
        began = learner.styles(torch.tensor([0]))[0]
        torch.testing.assert_close(began[: len(style)], style, atol=1e-4, rtol=1e-4)
        changes = began[network.style_size :]
        assert len(changes) == len(changing) - network.style_size
        assert bool(changes.any()) == (style is changing)


def test_without_a_rank_styles_change_what_they_did(network):
    style = torch.randn(1, network.style_size + 5)
    learner = Learner(network, style, None)
    assert torch.equal(learner.styles(torch.tensor([0])), style)


def test_factors_that_change_nothing_can_learn(network):
    learner = Learner(network, network.new_style()[None], None, 2)
    style = learner.styles(torch.tensor([0]))
    (style * torch.randn_like(style)).sum().backward()
    assert all(
        factor.grad.any()
        for name, factor in learner.factors.items()
        if name.endswith("_b")
    )


@pytest.mark.parametrize("capable", [False, True])
def test_the_loss_network_computes_in_what_the_device_has(
    photographs, vgg, monkeypatch, capable
):
    monkeypatch.setattr(networks, "computes_bfloat16", lambda device: capable)
    found = load_loss_network(
        vgg, Photographs(photographs), TrainConfig(), torch.device("cpu")
    )
    assert found.dtype == (torch.bfloat16 if capable else torch.float32)
