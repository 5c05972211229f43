import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from styleplug.errors import TrainingError
from styleplug.losses import (
    LossNetwork,
    Moments,
    content_loss,
    gram_loss,
    gram_matrix,
    huber,
    mean_std_loss,
    moments,
    nearest_loss,
    style_loss,
    tv_loss,
    wasserstein_loss,
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


MOMENT_LOSSES = [gram_loss, mean_std_loss, wasserstein_loss]


def gaussian(mean, variances) -> Moments:
    """The moments of independent channels."""
    mean = torch.tensor([mean], dtype=torch.float32)
    spread = torch.diag(torch.tensor(variances, dtype=torch.float32))
    return Moments(mean, spread + mean[:, :, None] * mean[:, None, :])


def test_moments_of_a_hand_computed_example():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # (1, 2, 1, 2)
    found = moments(features)
    assert found.mean.tolist() == [[1.5, 4.0]]
    assert found.gram.tolist() == [[[2.5, 6.5], [6.5, 17.0]]]
    assert found.covariance.tolist() == [[[0.25, 0.5], [0.5, 1.0]]]
    assert found.std[0].tolist() == pytest.approx([0.5, 1.0], abs=1e-6)
    assert found.energy.tolist() == [19.5]


def test_weighted_moments_add_up_to_those_of_the_whole():
    features = torch.rand(2, 5, 6, 8)
    whole = moments(features)
    share = torch.full((1, 1, 6, 4), 1 / 48)
    halves = [moments(half, share) for half in features.split(4, dim=3)]
    torch.testing.assert_close(halves[0].mean + halves[1].mean, whole.mean)
    torch.testing.assert_close(halves[0].gram + halves[1].gram, whole.gram)


def test_positions_without_weight_do_not_count():
    features = torch.rand(1, 3, 2, 4)
    weight = torch.zeros(1, 1, 2, 4)
    weight[..., :2] = 1 / 4
    torch.testing.assert_close(
        moments(features, weight).gram, gram_matrix(features[..., :2])
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_moments_is_that_of_autograd(weighted):
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(1, 1, 4, 5, dtype=torch.float64) if weighted else None

    def both(x):
        found = moments(x, weight)
        return found.mean, found.gram

    assert torch.autograd.gradcheck(both, features)


def test_bfloat16_does_not_coarsen_the_sums():
    features = torch.rand(1, 8, 64, 64).bfloat16()
    exact, found = moments(features.float()), moments(features)
    torch.testing.assert_close(found.gram, exact.gram, rtol=3e-3, atol=0)
    torch.testing.assert_close(found.mean, exact.mean, rtol=3e-3, atol=0)
    assert found.gram.dtype == torch.float32


@pytest.mark.parametrize("loss", MOMENT_LOSSES)
def test_a_loss_of_moments_is_0_for_the_style_and_1_for_black(loss):
    style = moments(torch.rand(1, 6, 9, 9))
    black = moments(torch.zeros(1, 6, 9, 9))
    assert loss(style, style).item() == pytest.approx(0, abs=0.02)
    assert loss(black, style).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # energy 1 + 4 + 9 + 1 = 15
        (mean_std_loss, (1 + 4 + (3 - 2) ** 2 + 0) / 15),
        (wasserstein_loss, (1 + 4 + (3 - 2) ** 2 + 0) / 15),
        # G - A has [[0 + 4 - 10, 0 - 2], [-2, 1 - 5]], A has [[10, 2], [2, 5]]
        (gram_loss, (36 + 4 + 4 + 16) / (100 + 4 + 4 + 25)),
    ],
)
def test_losses_of_gaussians_are_those_computed_by_hand(loss, expected):
    found, wanted = gaussian([0, 0], [4, 1]), gaussian([1, 2], [9, 1])
    assert loss(found, wanted).item() == pytest.approx(expected, rel=1e-5)


def test_the_wasserstein_loss_sees_how_channels_go_together():
    correlated = Moments(torch.zeros(1, 2), torch.tensor([[[1.0, 0.8], [0.8, 1.0]]]))
    apart = gaussian([0, 0], [1, 1])
    assert mean_std_loss(correlated, apart).item() == pytest.approx(0, abs=1e-6)
    roots = 1.8**0.5 + 0.2**0.5  # of the eigenvalues
    expected = (2 + 2 - 2 * roots) / 2
    assert wasserstein_loss(correlated, apart).item() == pytest.approx(
        expected, rel=1e-5
    )
    assert wasserstein_loss(apart, correlated).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("loss", MOMENT_LOSSES)
def test_the_gradient_of_a_loss_of_moments_is_its_slope(loss):
    generator = torch.Generator().manual_seed(0)
    x, style, way = torch.rand(3, 1, 4, 6, 6, generator=generator)[:, None]
    wanted = moments(style.double()[0])
    x, way = x[0].double().requires_grad_(), way[0].double()
    loss(moments(x), wanted).sum().backward()
    with torch.no_grad():
        ends = [loss(moments(x + s * 1e-4 * way), wanted).item() for s in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-4
    assert (x.grad * way).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("loss", MOMENT_LOSSES)
@pytest.mark.parametrize("style", [torch.zeros(1, 4, 3, 3), torch.ones(1, 4, 3, 3)])
def test_a_style_without_variance_gives_no_nan(loss, style):
    x = torch.rand(1, 4, 5, 5, requires_grad=True)
    value = loss(moments(x), moments(style)).sum()
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    flat = torch.ones(1, 4, 5, 5, requires_grad=True)
    loss(moments(flat), moments(style)).sum().backward()
    assert flat.grad.isfinite().all()


def test_the_nearest_loss_of_a_hand_computed_example():
    samples = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # their mean is 0
    features = torch.tensor([[[[2.0, 0.0, -1.0]], [[0.0, 3.0, -1.0]]]])
    expected = (0 + 1 + (1 - 0.5**0.5)) / 3
    assert nearest_loss(features, samples).item() == pytest.approx(expected)
    weight = torch.tensor([[[[0.0, 0.5, 0.0]]]])
    assert nearest_loss(features, samples, weight).item() == pytest.approx(0.5)


def test_the_gradient_of_the_nearest_loss_is_its_slope():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64)
    samples = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    x, way = features.requires_grad_(), torch.ones(1, 3, 4, 4, dtype=torch.float64)
    way[:, 1:] = -0.3
    nearest_loss(x, samples).sum().backward()
    with torch.no_grad():
        ends = [nearest_loss(x + s * 1e-3 * way, samples).item() for s in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-3
    assert (x.grad * way).sum().item() == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_nearest_loss_holds_little_beside_the_features(dtype):
    features = torch.rand(1, 64, 96, 96, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    samples = torch.rand(16, 64, dtype=dtype)
    held = {}

    def hold(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        nearest_loss(features.requires_grad_(), samples)
    held.pop(features.untyped_storage().data_ptr())
    assert sum(held.values()) < features.nbytes / 3


def test_calibrated_features_have_mean_1(vgg):
    network = LossNetwork(vgg)
    photographs = torch.rand(2, 3, 48, 48)
    network.calibrate(photographs)
    features = network(photographs)
    assert features["relu4_1"].shape == (2, 512, 6, 6)
    for feature in features.values():
        assert feature.mean().item() == pytest.approx(1, rel=1e-4)
        assert feature.min() >= 0


def test_calibration_only_scales_the_features(vgg):
    torch.manual_seed(0)
    network, plain = LossNetwork(vgg), LossNetwork(vgg)
    for _ in range(2):
        network.calibrate(torch.rand(2, 3, 48, 48))
    image = torch.rand(1, 3, 32, 32)
    features = network(image)
    for layer, expected in plain(image).items():
        found = features[layer] * network.activations[layer]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_thinned_network_that_keeps_all_gives_the_same_features(vgg):
    network = LossNetwork(vgg)
    images = torch.rand(3, 3, 64, 64)
    network.calibrate(images)
    thin = network.thinned(images, kept=1.0)
    for layer, expected in network(images).items():
        torch.testing.assert_close(thin(images)[layer], expected, rtol=0.02, atol=0.02)


def test_a_thinned_network_has_fewer_weights_the_less_it_keeps(vgg):
    network = LossNetwork(vgg)
    images = torch.rand(3, 3, 64, 64)
    network.calibrate(images)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    sizes, errors = [], []
    for kept in (0.999, 0.9, 0.5):
        thin = network.thinned(images, kept)
        sizes.append(sum(t.numel() for t in thin.parameters()))
        deepest = thin(images)["relu4_1"] - network(images)["relu4_1"]
        errors.append(deepest.square().mean().item())
    assert sum(t.numel() for t in before.values()) > sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2]
    torch.testing.assert_close(dict(network.state_dict()), before)


def test_a_network_thinned_on_black_pictures_stays_finite(vgg):
    network = LossNetwork(vgg)
    thin = network.thinned(torch.zeros(2, 3, 32, 32))
    assert thin(torch.rand(1, 3, 32, 32))["relu4_1"].isfinite().all()


def test_only_the_layers_that_are_asked_for_are_computed(vgg):
    network = LossNetwork(vgg, ("relu2_1",))
    assert set(network(torch.rand(1, 3, 16, 16))) == {"relu2_1"}
    assert len(network.stack) == 7


def test_layers_are_one_name_or_any_iterable_of_them(vgg):
    for layers in ("relu2_1", (layer for layer in ["relu2_1"])):
        network = LossNetwork(vgg, layers)
        assert set(network(torch.rand(1, 3, 16, 16))) == {"relu2_1"}
        assert set(network.activations) == {"relu2_1"}


@pytest.mark.parametrize("layers", [(), "relu9_1", ["relu1_1", "conv4"]])
def test_layers_that_vgg_does_not_have_are_refused(layers, vgg):
    with pytest.raises(ValueError, match="layers must be names from 'conv1_1' to"):
        LossNetwork(vgg, layers)


def test_a_loss_network_has_the_dtype_that_it_was_moved_to(vgg):
    network = LossNetwork(vgg)
    assert network.dtype == torch.float32
    image = torch.rand(1, 3, 16, 16)
    assert network.to(torch.bfloat16).dtype == torch.bfloat16
    assert network(image)["relu1_1"].dtype == torch.bfloat16


def test_a_file_that_is_no_loss_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(TrainingError, match="No such file"):
        LossNetwork(path)
    path.write_bytes(b"garbage!")
    with pytest.raises(TrainingError, match="not a safetensors file"):
        LossNetwork(path)


def test_of_a_loss_network_only_its_own_tensors_are_read(vgg, tmp_path):
    data = vgg.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    header["z"] = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [end, end]}
    text = json.dumps(header).encode()
    path = tmp_path / "more.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    picture = torch.rand(1, 3, 32, 32)
    expected = LossNetwork(vgg)(picture)["relu4_1"]
    assert torch.equal(LossNetwork(path)(picture)["relu4_1"], expected)


@pytest.mark.parametrize("name", ["features.0.weight", "features.10.bias"])
def test_a_tensor_that_is_missing_or_of_another_kind_is_named(vgg, tmp_path, name):
    tensors = load_file(vgg)
    path = tmp_path / "other.safetensors"
    for other in (tensors[name][:-1], tensors[name].int(), tensors[name].bfloat16()):
        save_file({**tensors, name: other.contiguous()}, path)
        with pytest.raises(
            TrainingError, match=f"{name} is no float32 or float16 of shape"
        ):
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


def test_far_distances_count_as_they_are_and_near_ones_squared():
    squared = torch.tensor([0.0, 0.04, 0.25, 1.0], requires_grad=True)
    found = huber(squared, 0.5)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.04, 0.25, 0.75]))
    found.sum().backward()
    assert squared.grad.tolist() == [1.0, 1.0, 1.0, 0.5]


def test_a_file_that_is_overwritten_changes_no_network_that_was_loaded(
    shallow_vgg, tmp_path
):
    path = tmp_path / "vgg.safetensors"
    save_file({name: t.float() for name, t in load_file(shallow_vgg).items()}, path)
    network, image = LossNetwork(path, ["relu1_1"]), torch.rand(1, 3, 16, 16)
    before = network(image)["relu1_1"]
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(network(image)["relu1_1"], before)
