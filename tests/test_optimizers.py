"""Optimizers: their steps, and what they leave alone."""

import pytest
import torch
from torch import nn

from styleplug.optimizers import Adam, Muon


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (3, 16, 48)])
def test_a_step_goes_as_far_in_every_direction_of_a_matrix(shape):
    rng = torch.Generator().manual_seed(0)
    matrix = nn.Parameter(torch.zeros(shape))
    steep = torch.randn(shape, generator=rng)
    steep[..., 0, :] *= 100  # one direction far steeper than the rest
    matrix.grad = steep
    Muon([matrix], lr=0.1).step()
    lengths = torch.linalg.svdvals(matrix.detach())
    assert lengths.min() > 0.5 * lengths.max()
    assert matrix.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.1, rel=0.2)
    assert (matrix.detach() * steep).sum() < 0  # down


def test_matrices_without_a_gradient_stay_as_they_are_and_take_up_again():
    matrices = nn.Parameter(torch.zeros(2, 4, 8))
    descent = Muon([matrices], lr=0.1)
    both = torch.ones(2, 4, 8)
    first = both * torch.tensor([1.0, 0.0])[:, None, None]
    matrices.grad = both
    descent.step()
    before = matrices.detach().clone()
    matrices.grad = first
    descent.step()
    assert not torch.equal(matrices[0], before[0])
    assert torch.equal(matrices[1], before[1])
    matrices.grad = both
    descent.step()
    assert not torch.equal(matrices[1], before[1])


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_adam_takes_the_steps_of_torchs_own(betas):
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (
        nn.Parameter(torch.linspace(-1, 1, 20).reshape(2, 10)) for _ in range(2)
    )
    pairs = [
        (parameter, kind([{"params": [parameter], "lr": 0.1}], betas=betas, eps=1e-4))
        for parameter, kind in ((ours, Adam), (theirs, torch.optim.Adam))
    ]
    for _ in range(30):
        gradient = torch.randn(2, 10, generator=rng)
        for parameter, descent in pairs:
            parameter.grad = gradient.clone()
            descent.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
