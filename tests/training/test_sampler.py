import torch

from styleplug.training.sampler import _deal


def test_each_round_deals_every_style_once():
    dealt = torch.cat([_deal(6, 4, 0, step) for step in range(3)])
    assert sorted(dealt[:6].tolist()) == sorted(dealt[6:].tolist()) == list(range(6))
