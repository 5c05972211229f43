"""Descent on matrices: its steps, and what it leaves alone."""

import pytest
import torch
from torch import nn

from styleplug.muon import Muon


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
