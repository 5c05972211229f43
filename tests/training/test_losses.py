import pytest
import torch
from safetensors.torch import load_file, save_file

from styleplug.errors import TrainingError
from styleplug.training.losses import (
    LossNetwork,
    content_loss,
    gram_matrix,
    style_loss,
    tv_loss,
)
from styleplug.vgg import LAYERS, tensor_shapes


def test_gram_matrix_of_a_hand_computed_example():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    expected = torch.tensor([[[2.5, 5.5], [5.5, 12.5]]])
    assert torch.equal(gram_matrix(features), expected)


def test_gram_matrix_does_not_depend_on_where_and_how_large():
    features = torch.randn(1, 4, 6, 6)
    shuffled = features.flatten(2)[..., torch.randperm(36)].reshape(1, 4, 6, 6)
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(features))
    torch.testing.assert_close(
        gram_matrix(features.repeat(1, 1, 2, 3)), gram_matrix(features)
    )


def test_content_loss_of_a_hand_computed_example():
    features = {"relu4_1": torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]])}
    targets = {"relu4_1": torch.zeros(2, 1, 1, 2)}
    assert content_loss(features, targets).tolist() == [5.0, 0.0]


def test_style_loss_is_0_for_the_style_and_1_for_black():
    features = {"relu1_1": torch.randn(1, 3, 4, 4), "relu2_1": torch.randn(1, 5, 2, 2)}
    grams = {layer: gram_matrix(f) for layer, f in features.items()}
    assert style_loss(features, grams).item() == 0
    black = {layer: torch.zeros_like(f) for layer, f in features.items()}
    torch.testing.assert_close(style_loss(black, grams), torch.ones(1))


def test_tv_loss_of_a_hand_computed_example():
    image = torch.zeros(1, 3, 2, 2)
    image[..., 1] = 0.5
    assert tv_loss(image).tolist() == [0.25]


@pytest.mark.parametrize("loss", ["content", "style", "tv"])
def test_gradients_are_those_of_the_formulas(loss):
    def compute(x):
        if loss == "content":
            return content_loss({"a": x}, {"a": torch.ones_like(x)})
        if loss == "style":
            return style_loss({"a": x}, {"a": torch.eye(3)[None]})
        return tv_loss(x)

    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    compute(x).sum().backward()
    step = torch.zeros_like(x)
    step[1, 2, 1, 3] = 1e-2
    with torch.no_grad():
        slope = (compute(x + step) - compute(x - step)).sum() / 2e-2
    torch.testing.assert_close(x.grad[1, 2, 1, 3], slope, rtol=2e-2, atol=1e-4)


def test_calibrated_features_have_mean_1(vgg):
    network = LossNetwork(vgg)
    photographs = torch.rand(2, 3, 48, 48)
    network.calibrate(photographs)
    features = network(photographs)
    assert features["relu4_1"].shape == (2, 512, 6, 6)
    for feature in features.values():
        assert feature.mean().item() == pytest.approx(1, rel=1e-4)
        assert feature.min() >= 0


def test_only_the_layers_that_are_asked_for_are_computed(vgg):
    network = LossNetwork(vgg, ("relu2_1",))
    assert set(network(torch.rand(1, 3, 16, 16))) == {"relu2_1"}
    assert len(network.stack) == 7


def test_a_file_that_is_no_loss_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(TrainingError, match="No such file"):
        LossNetwork(path)
    path.write_bytes(b"garbage!")
    with pytest.raises(TrainingError, match="not a safetensors file"):
        LossNetwork(path)


@pytest.mark.parametrize("name", ["features.0.weight", "features.10.bias"])
def test_a_tensor_that_is_missing_or_of_another_kind_is_named(vgg, tmp_path, name):
    tensors = load_file(vgg)
    path = tmp_path / "other.safetensors"
    for other in (tensors[name][:-1], tensors[name].int()):
        save_file({**tensors, name: other.contiguous()}, path)
        with pytest.raises(TrainingError, match=f"{name} is no float of shape"):
            LossNetwork(path)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(TrainingError, match=f"lacks '{name}'"):
        LossNetwork(path)


def test_the_layers_are_those_of_torchvision():
    from torchvision.models import vgg19

    with torch.device("meta"):
        features = vgg19().features
    kinds = {"Conv2d": "conv", "ReLU": "relu", "MaxPool2d": "pool"}
    assert [layer[:4] for layer in LAYERS] == [
        kinds[type(m).__name__] for m in features
    ]
    shapes = {f"features.{k}": tuple(v.shape) for k, v in features.state_dict().items()}
    assert tensor_shapes("pool5") == shapes
