"""The encoder that stands in for the loss network."""

import pytest
import torch

from styleplug.encoder import StyleEncoder
from styleplug.losses import STYLE_LAYERS, LossNetwork, content_loss, style_loss
from styleplug.losses import gram_matrix as gram
from styleplug.training.distillation import Teacher, unexplained_power

SMALL = {"widths": (4, 8, 8, 8, 8), "ranks": (3, 5, 6, 7)}


def images(count, seed=0, size=(48, 64)):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


class Perfect(StyleEncoder):
    """An encoder that gives what the teacher asks for."""

    def __init__(self, teacher, ranks):
        super().__init__((2,) * 5, ranks)
        self.teacher = teacher
        teacher.calibrate(self)

    def components(self, image):
        return self.teacher(image)


@pytest.fixture(scope="module")
def loss_network(vgg):
    network = LossNetwork(vgg)
    network.calibrate(images(2))
    return network


def test_features_have_the_sizes_of_the_loss_network_and_few_channels(loss_network):
    encoder = StyleEncoder(**SMALL)
    found, like = encoder(images(2)), loss_network(images(2))
    assert list(found) == list(STYLE_LAYERS)
    for rank, layer in zip(SMALL["ranks"], STYLE_LAYERS, strict=True):
        assert found[layer].shape == (2, rank + 1, *like[layer].shape[2:])


def test_losses_of_all_components_are_those_of_the_loss_network(loss_network):
    ranks = [like.shape[1] for like in loss_network(images(1)).values()]
    encoder = Perfect(Teacher(loss_network, images(4), ranks), ranks)
    one, other = images(2, seed=1), images(2, seed=2)
    with torch.no_grad():
        found, wanted = ((look(one), look(other)) for look in (encoder, loss_network))
    losses = []
    for seen, target in (found, wanted):
        grams = {layer: gram(features) for layer, features in target.items()}
        last = {"relu4_1": target["relu4_1"]}
        losses.append((style_loss(seen, grams), content_loss(seen, last)))
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0)


def test_nothing_is_missed_of_what_is_given_whole(loss_network):
    ranks = SMALL["ranks"]
    teacher = Teacher(loss_network, images(4), ranks)
    encoder = Perfect(teacher, ranks)
    pictures = images(2, seed=1)
    wanted = teacher(pictures)
    assert unexplained_power(encoder, pictures, wanted).max() < 1e-6
    shifted = [components + 0.5 for components in wanted]
    assert unexplained_power(encoder, pictures, shifted).min() > 1e-3


def test_components_are_not_correlated_and_of_deviation_1(loss_network):
    pictures = images(8)
    for components in Teacher(loss_network, pictures, SMALL["ranks"])(pictures):
        covariance = torch.cov(components.transpose(0, 1).flatten(1))
        variances = covariance.diagonal()
        assert variances.mean().item() == pytest.approx(1, abs=1e-3)
        others = covariance - variances.diag()
        assert others.abs().max() < 1e-3
        assert torch.equal(variances, variances.sort(descending=True).values)
