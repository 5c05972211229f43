"""Descent in bounds: L-BFGS and Adam on losses whose least is known."""

import math

import pytest
import torch

from styleplug.descent import DESCENTS, LBFGS


def bowl(least):
    """A quadratic with its least at `least`, the mean over a picture."""
    curvature = torch.linspace(1, 30, least.numel()).reshape(least.shape)

    def evaluate(x):
        loss = (curvature * (x - least).square()).mean().item()
        return loss, 2 * curvature * (x - least) / least.numel()

    return evaluate


def descend(descent, evaluate, steps):
    losses = []
    for _ in range(steps):
        x = descent.ask()
        loss, gradient = evaluate(x)
        losses.append(loss)
        descent.tell(x, loss, gradient)
    return losses


@pytest.fixture
def target():
    return torch.linspace(0.1, 0.9, 48).reshape(1, 3, 4, 4)


@pytest.mark.parametrize(("name", "steps"), [("lbfgs", 40), ("adam", 300)])
def test_it_finds_the_least(name, steps, target):
    descent = DESCENTS[name]()
    descent.start(torch.full_like(target, 0.5), 10)
    descend(descent, bowl(target), steps)
    torch.testing.assert_close(descent.x, target, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_it_stays_within_0_and_1(name, target):
    descent = DESCENTS[name]()
    descent.start(torch.full_like(target, 0.5), 10)
    outside = target * 3 - 1
    evaluate = bowl(outside)
    for _ in range(300 if name == "adam" else 60):
        x = descent.ask()
        assert x.min() >= 0
        assert x.max() <= 1
        descent.tell(x, *evaluate(x))
    torch.testing.assert_close(descent.x, outside.clamp(0, 1), rtol=0, atol=0.02)


def test_lbfgs_never_goes_up(target):
    descent = LBFGS()
    descent.start(torch.full_like(target, 0.5), 10)
    accepted = []
    for _ in range(30):
        x = descent.ask()
        loss = (x - target).abs().pow(1.5).sum().item()
        gradient = 1.5 * (x - target).abs().sqrt() * (x - target).sign()
        descent.tell(x, loss, gradient)
        accepted.append(descent.loss)
    assert accepted == sorted(accepted, reverse=True)
    assert accepted[-1] < accepted[0] / 10


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_it_steps_back_from_a_loss_that_is_not_finite(name, bad, target):
    descent = DESCENTS[name]()
    start = torch.full_like(target, 0.5)
    descent.start(start, 10)
    evaluate = bowl(target)

    def cliff(x):
        loss, gradient = evaluate(x)
        far = (x - start).abs().max() > 0.1
        return (bad, torch.full_like(x, bad)) if far else (loss, gradient)

    losses = descend(descent, cliff, 60)
    assert any(not math.isfinite(loss) for loss in losses)
    loss, _ = cliff(descent.x)
    assert loss < losses[0]


def test_lbfgs_refuses_a_gradient_that_is_no_number(target):
    descent = LBFGS()
    descent.start(torch.full_like(target, 0.5), 10)
    descent.tell(descent.ask(), *bowl(target)(descent.ask()))
    good = descent.x
    descent.tell(descent.ask(), 0.0, torch.full_like(target, math.nan))
    assert descent.x is good
    assert descent.ask().isfinite().all()


def test_lbfgs_begins_with_waves_of_any_length_alike():
    x = torch.linspace(0, 4 * torch.pi, 65)[:-1].cos().expand(1, 3, 64, 64)
    fine = (8 * torch.linspace(0, 4 * torch.pi, 65)[:-1]).cos().expand(1, 3, 64, 64)
    descent = LBFGS()
    descent.start(torch.full_like(x, 0.5), 10)
    descent.tell(descent.ask(), 1.0, x + 8 * fine)
    step = descent.direction / descent.direction.std()
    expected = -(x + fine) / (x + fine).std()
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-3)


def test_lbfgs_leaves_what_has_no_gradient(target):
    descent = LBFGS()
    descent.start(torch.full_like(target, 0.5), 10)
    evaluate = bowl(target)
    for _ in range(10):
        x = descent.ask()
        loss, gradient = evaluate(x)
        gradient[..., :2, :] = 0
        descent.tell(x, loss, gradient)
    assert (descent.x[..., :2, :] == 0.5).all()
    assert (descent.x[..., 2:, :] != 0.5).any()


def test_what_lbfgs_learned_holds_at_twice_the_size(target):
    descent = LBFGS()
    descent.start(torch.full_like(target, 0.5), 10)
    descend(descent, bowl(target), 15)
    large = torch.nn.functional.interpolate(target, scale_factor=2)

    def steps_from_half(descent):
        descent.start(torch.full_like(large, 0.5), 10)
        return descend(descent, bowl(large), 6)[-1]

    assert steps_from_half(descent) < steps_from_half(LBFGS())
