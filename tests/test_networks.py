import contextlib
import copy
import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from styleplug import networks
from styleplug.errors import InvalidStyleError
from styleplug.networks import (
    BYTES_PER_PIXEL,
    NormStatistics,
    StyleNetwork,
    computes_bfloat16,
    factorize,
    first_factors,
    mix,
    stack_styles,
    with_changes,
)
from styleplug.style import StyleInfo, bundled_styles, read_info
from styleplug.tiling import Region
from styleplug.weights import (
    hash_trunk,
    load_style,
    load_tensors,
    load_trunk,
    save_style,
    save_trunk,
)


@pytest.fixture
def network() -> StyleNetwork:
    torch.manual_seed(0)
    return StyleNetwork((4, 6, 8), (1, 1)).requires_grad_(False)


def random_style(network: StyleNetwork) -> torch.Tensor:
    return network.new_style() + 0.3 * torch.randn(network.style_size)


def changing_style(network: StyleNetwork) -> torch.Tensor:
    """Return a random style that changes the kernels, too, by rank 2."""
    factors = {
        name: (torch.randn(2, shape[1:].numel()), 0.1 * torch.randn(shape[0], 2))
        for name, shape in network.changeable.items()
    }
    return with_changes(random_style(network), factors)


def test_the_transposed_kernel_equals_doubling_and_convolving():
    weight, x = torch.randn(5, 7, 3, 3), torch.randn(2, 7, 6, 9)
    doubled = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    kernel = networks._resize_kernel(weight)
    torch.testing.assert_close(
        F.conv_transpose2d(x, kernel, stride=2, padding=1), doubled
    )


def test_output_has_the_size_of_the_content_and_lies_in_0_1(network):
    content = torch.rand(2, 3, 32, 48)
    out = network(content, network.vector(random_style(network)))
    assert out.shape == content.shape
    assert 0 <= out.min() <= out.max() <= 1


@pytest.mark.parametrize("style_of", [random_style, changing_style])
def test_frozen_with_its_own_statistics_equals_live_away_from_the_border(
    network, style_of
):
    reach = -(-network.receptive_field // 8) * 8
    content = torch.rand(1, 3, 2 * reach + 16, 2 * reach + 32)
    vector = network.vector(style_of(network))
    statistics: dict[str, NormStatistics] = {}
    live = network(content, vector, statistics)
    frozen = network.freeze(vector, statistics, torch.float32)
    inside = ..., slice(reach, -reach), slice(reach, -reach)
    assert live[inside].numel() > 0
    torch.testing.assert_close(torch.sigmoid(frozen(content))[inside], live[inside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_paints_without_gradients_what_it_paints_with_them(network, dtype):
    content = torch.rand(1, 3, 64, 96)
    vector = network.vector(random_style(network))

    def paint():
        statistics = {}
        painted = network(content, vector, statistics)
        return (
            painted,
            statistics,
            network.freeze(vector, statistics, dtype)(content.to(dtype)),
        )

    *plain, logits = paint()
    with torch.inference_mode():
        *fast, fast_logits = paint()
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(fast_logits, logits, atol=tolerance, rtol=0)


def test_a_box_is_that_part_of_the_whole(network):
    content = torch.rand(1, 3, 96, 128)
    vector = network.vector(random_style(network))
    statistics = {}
    with torch.inference_mode():
        network(content, vector, statistics)
        frozen = network.freeze(vector, statistics, torch.float32)
        part, whole = frozen(content, Region(37, 29, 61, 90)), frozen(content)
    torch.testing.assert_close(part, whole[..., 37:61, 29:90])


def test_where_onednn_cannot_rectify_the_picture_is_the_same(network, monkeypatch):
    def refuse(*_arguments):
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    content = torch.rand(1, 3, 64, 64)
    vector = network.vector(network.new_style())
    statistics = {}
    with torch.inference_mode():
        network(content, vector, statistics)
        frozen = network.freeze(vector, statistics, torch.float32)
        painted = frozen(content)
        monkeypatch.setattr(networks, "_convolve_and_rectify", refuse)
        networks._rectifies.cache_clear()
        again = frozen(content)
    networks._rectifies.cache_clear()
    torch.testing.assert_close(again, painted)


@pytest.mark.parametrize("training", [False, True])
def test_stripes_have_no_frame_at_their_ends(network, training):
    vector = network.vector(random_style(network))
    stripes = torch.rand(1, 3, 40, 1)
    with torch.set_grad_enabled(training):
        painted = network(stripes.expand(-1, -1, -1, 48), vector)
    phases = painted.unflatten(3, (6, 8))
    torch.testing.assert_close(phases, phases[..., :1, :].expand_as(phases))


@pytest.mark.parametrize("size", [(8, 8), (8, 64), (16, 8)])
def test_a_picture_of_one_cell_can_be_painted(network, size):
    painted = network(torch.rand(1, 3, *size), network.vector(random_style(network)))
    assert painted.shape == (1, 3, *size)
    assert painted.isfinite().all()


def test_statistics_can_be_measured_on_a_part_of_the_content(network):
    content, other = torch.rand(2, 1, 3, 64, 160)
    other[..., :128] = content[..., :128]
    vector = network.vector(random_style(network))
    part = Region(0, 0, 64, 64)
    first, second = (network(x, vector, measured=part) for x in (content, other))
    assert torch.equal(first[..., :64], second[..., :64])
    whole, changed = (network(x, vector) for x in (content, other))
    assert not torch.allclose(whole[..., :64], changed[..., :64], atol=1e-3)


def test_shared_statistics_treat_a_batch_as_one_image(network):
    halves = torch.rand(2, 3, 32, 32)
    statistics: dict[str, NormStatistics] = {}
    network(halves, network.vector(random_style(network)), statistics)
    mean, variance = statistics["enter"]
    assert mean.shape == variance.shape == (1, 4)
    x = F.pixel_unshuffle(F.pad(halves, (2, 2, 2, 2), mode="reflect"), 2)
    x = F.conv2d(x, network.weights["enter"])
    torch.testing.assert_close(mean[0], x.mean(dim=(0, 2, 3)))


class _AsOnMps(TorchFunctionMode):
    """Passes the CPU off as MPS, and fails where floating-point types are mixed."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function == torch.Tensor.device.__get__:
            return torch.device("mps")
        every = (a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor))
        dtypes = {a.dtype for a in every if a.is_floating_point()}
        assert len(dtypes) < 2, f"{function} of {dtypes}"
        return function(*args, **(kwargs or {}))


def test_on_mps_no_operation_mixes_types(network):
    network.half()
    content = torch.rand(2, 3, 32, 32, dtype=torch.float16)
    vector = random_style(network)[None]
    expected, statistics = {}, {}
    painted = network(content, vector, expected)
    with _AsOnMps():
        on_mps = network(content, vector, statistics)
    torch.testing.assert_close(on_mps, painted, atol=5e-3, rtol=0)
    torch.testing.assert_close(statistics, expected, atol=5e-3, rtol=5e-3)


def test_networks_with_more_channels_count_more_memory():
    for dtype, usual in BYTES_PER_PIXEL.items():
        counted = {
            widths: StyleNetwork(widths, (0, 0)).bytes_per_pixel(dtype)
            for widths in [(8, 16, 32), (24, 48, 96), (48, 48, 96), (8, 8, 512)]
        }
        assert [*counted.values()] == [usual, usual, 2 * usual, -(-usual * 32 // 24)]


def test_nothing_beyond_the_receptive_field_changes_a_pixel(network):
    network.double()
    side = 2 * (network.receptive_field + 34) // 8 * 8
    content = torch.rand(1, 3, side, side).double()
    vector = network.vector(random_style(network).double())
    statistics: dict[str, NormStatistics] = {}
    network(content, vector, statistics)
    frozen = network.freeze(vector, statistics, torch.float64)
    middle = side // 2
    before = frozen(content)[..., middle, middle]
    other = torch.rand_like(content)
    reach = network.receptive_field
    near = slice(middle - reach, middle + reach + 1)
    other[..., near, near] = content[..., near, near]
    torch.testing.assert_close(frozen(other)[..., middle, middle], before)


def test_strength_leads_to_the_style_by_way_of_a_light_one(network):
    network.light += torch.randn_like(network.light)
    style = random_style(network)
    light = network.light[0] * style + network.light[1]
    for strength, expected in (
        (1.0, style),
        (0.75, (style + light) / 2),
        (0.5, light),
        (0.2, light),
        (0.0, light),
    ):
        torch.testing.assert_close(network.vector(style, strength)[0], expected)
    assert torch.equal(network.vector(style, np.float64(1))[0], style)
    vectors = network.vector(style.repeat(2, 1), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(vectors, torch.stack([light, style]))


def test_a_changing_style_paints_as_the_network_with_its_kernels_changed(network):
    style = changing_style(network)
    changed = copy.deepcopy(network)
    for name, (a, b) in factorize(network, style).items():
        changed.weights[name] += (b @ a).reshape(changed.weights[name].shape)
    content = torch.rand(1, 3, 32, 48)
    plain = style[: network.style_size]
    painted = network(content, network.vector(style))
    torch.testing.assert_close(painted, changed(content, changed.vector(plain)))
    assert (painted - network(content, network.vector(plain))).abs().max() > 0.01


def test_each_of_a_batch_is_painted_with_its_own_kernels(network):
    contents = torch.rand(2, 3, 32, 32)
    styles = stack_styles([changing_style(network), random_style(network)])
    both = network(contents, network.vector(styles))
    for content, style, painted in zip(contents, styles, both, strict=True):
        alone = network(content[None], network.vector(style))
        torch.testing.assert_close(alone[0], painted)


def test_a_light_style_changes_the_same_kernels(network):
    style = changing_style(network)
    changes = network.vector(style, 0.5)[0, network.style_size :]
    assert torch.equal(changes, style[network.style_size :])


def test_factors_of_a_lower_rank_are_the_nearest(network):
    style = changing_style(network)
    torch.testing.assert_close(
        with_changes(style[: network.style_size], factorize(network, style, 2)), style
    )
    both = factorize(network, style, 2)
    for name, (a, b) in factorize(network, style, 1).items():
        whole = both[name][1] @ both[name][0]
        dropped = torch.linalg.svdvals(whole)[1]
        torch.testing.assert_close((whole - b @ a).norm(), dropped)


def test_learning_begins_at_a_styles_changes_or_the_main_directions_of_kernels(
    network,
):
    changing, plain = changing_style(network), random_style(network)
    alone = [first_factors(network, style, 2) for style in (changing, plain)]
    both = first_factors(network, stack_styles([changing, plain]), 2)
    wanted = factorize(network, changing, 2)
    for name, factors in both.items():
        a, b = alone[1][name]
        assert not b.any()
        kernel = network.weights[name].flatten(1)
        along = (kernel @ a.T).norm(dim=0)
        torch.testing.assert_close(along, torch.linalg.svdvals(kernel)[:2])
        for i, factor in enumerate(factors):
            torch.testing.assert_close(factor[0], alone[0][name][i])
            torch.testing.assert_close(factor[0], wanted[name][i])
            torch.testing.assert_close(factor[1], alone[1][name][i])


def test_the_content_is_seen_at_strength_0_and_the_painting_at_1(network):
    content, stylized = torch.rand(2, 1, 3, 4, 4)
    assert torch.equal(mix(content, stylized, network.opacity(0.0)), content)
    assert torch.equal(mix(content, stylized, network.opacity(1.0)), stylized)
    assert torch.equal(mix(content, stylized, 1.0), stylized)


def test_bfloat16_is_asked_of_the_device_that_computes(monkeypatch):
    current = [0]

    @contextlib.contextmanager
    def switched(device):
        current.append(device.index)
        yield
        current.pop()

    def supported(including_emulation):
        return current[-1] == 1 and not including_emulation

    monkeypatch.setattr(torch.cuda, "device", switched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert computes_bfloat16(torch.device("cuda:1"))
    assert not computes_bfloat16(torch.device("cuda:0"))


def test_a_mask_mixes_by_pixel_and_is_exact_at_0_and_1():
    content, stylized = torch.rand(2, 1, 3, 4, 4)
    mask = torch.tensor([0.0, 0.25, 1.0, 0.5]).expand(4, 4)
    mixed = mix(content, stylized, mask)
    assert torch.equal(mixed[..., 0], content[..., 0])
    assert torch.equal(mixed[..., 2], stylized[..., 2])
    torch.testing.assert_close(mixed, content.lerp(stylized, mask))


def test_mixing_does_without_lerp_by_a_tensor(monkeypatch):
    lerp = torch.Tensor.lerp

    def lerp_of_macos_14(start, end, weight):
        mixed = lerp(start, end, weight)
        return mixed * torch.nan if isinstance(weight, torch.Tensor) else mixed

    monkeypatch.setattr(torch.Tensor, "lerp", lerp_of_macos_14)
    content, stylized = torch.rand(2, 1, 3, 4, 4)
    for opacity in (0.3, torch.tensor(0.3), torch.full((4, 4), 0.3)):
        assert mix(content, stylized, opacity).isfinite().all()


def test_opacity_rises_with_strength(network):
    opacities = network.opacity(torch.linspace(0, 1, 11))
    assert (opacities[:6].diff() > 0).all()
    assert (opacities[5:] == 1).all()
    assert opacities[3] == pytest.approx(network.opacity(0.3))


def test_a_saved_style_renders_as_before(network, tmp_path):
    vector = random_style(network).half().float()
    network.half().float()
    path = tmp_path / "dusk.safetensors"
    info = save_style(path, vector, network, StyleInfo(name="dusk"))
    loaded = load_style(path)
    assert loaded.info.trunk == info.trunk == hash_trunk(network)
    assert loaded.info.self_contained
    content = torch.rand(1, 3, 32, 32)
    assert torch.equal(
        loaded.network(content, loaded.network.vector(loaded.vector)),
        network(content, network.vector(vector)),
    )


def test_changes_are_saved_as_factors(network, tmp_path):
    save_trunk(tmp_path / "trunk.safetensors", network, StyleInfo(name="trunk"))
    path = tmp_path / "dusk.safetensors"
    style = changing_style(network)
    save_style(path, style, network, StyleInfo(name="dusk"), self_contained=False)
    assert not read_info(path).self_contained
    assert load_file(path)["up2.lora_A"].shape == (2, 9 * 6)
    torch.testing.assert_close(load_style(path).vector, style, atol=2e-3, rtol=2e-3)


def test_a_change_of_nothing_is_saved_as_nothing(network, tmp_path):
    path = tmp_path / "dusk.safetensors"
    style = torch.cat([random_style(network), changing_style(network) * 0])
    style = style[: len(changing_style(network))]
    save_style(path, style, network, StyleInfo(name="dusk"))
    assert load_file(path)["up2.lora_A"].shape == (0, 9 * 6)
    assert not load_style(path).vector[network.style_size :].any()


def test_a_trunk_is_loaded_once(network, tmp_path):
    path = tmp_path / "trunk.safetensors"
    info = save_trunk(path, network, StyleInfo(name="trunk"))
    assert load_trunk(path) is load_trunk(path)
    assert hash_trunk(load_trunk(path)) == info.trunk


def test_a_file_that_holds_its_trunk_serves_as_one(network, tmp_path):
    path = tmp_path / "dusk.safetensors"
    info = save_style(path, changing_style(network), network, StyleInfo(name="dusk"))
    assert hash_trunk(load_trunk(path)) == info.trunk


def test_a_trunk_that_was_replaced_is_loaded_anew(network, tmp_path):
    path = tmp_path / "trunk.safetensors"
    save_trunk(path, network, StyleInfo(name="trunk"))
    load_trunk(path)
    other = StyleNetwork(**network.hyperparameters)
    info = save_trunk(path, other, StyleInfo(name="trunk"))
    os.utime(path, (0, 0))  # lest the clock is coarse
    assert hash_trunk(load_trunk(path)) == info.trunk


def test_a_style_finds_the_trunk_beside_it(network, tmp_path):
    save_trunk(tmp_path / "trunk.safetensors", network, StyleInfo(name="trunk"))
    path = tmp_path / "dusk.safetensors"
    vector = random_style(network)
    save_style(path, vector, network, StyleInfo(name="dusk"), self_contained=False)
    assert hash_trunk(load_style(path).network) == hash_trunk(network)


def test_an_unusable_file_beside_a_style_does_not_hide_the_bundled_trunk(
    network, tmp_path
):
    path = Path(shutil.copy(bundled_styles()["udnie"], tmp_path))
    beside = tmp_path / "trunk.safetensors"
    for tensors in ({}, {"weight": torch.zeros(3)}):
        save_file(tensors, beside)
        assert load_style(path).info.name == "udnie"
    vector = random_style(network)
    save_style(path, vector, network, StyleInfo("x"), self_contained=False)
    with pytest.raises(InvalidStyleError, match=r"trunk\.safetensors has no styleplug"):
        load_style(path)


def test_a_style_cannot_claim_the_trunk_of_another(damaged):
    loaded = load_style(damaged(trunk="0" * 64))
    assert loaded.info.trunk == hash_trunk(loaded.network)


def test_what_is_loaded_while_rendering_can_be_trained_on_later(network, tmp_path):
    path = tmp_path / "trunk.safetensors"
    save_trunk(path, network, StyleInfo(name="trunk"))
    with torch.inference_mode():
        loaded = load_trunk(path)
    style = loaded.new_style().requires_grad_()
    loaded(torch.rand(1, 3, 16, 16), loaded.vector(style)).sum().backward()
    assert style.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_was_loaded_is_independent_of_its_file(dtype, tmp_path):
    path = tmp_path / "any.safetensors"
    save_file({"style": torch.ones(7, dtype=dtype)}, path)
    loaded = load_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded["style"], torch.ones(7))


def test_a_vector_without_its_trunk_says_which_it_needs(network, tmp_path):
    path = tmp_path / "dusk.safetensors"
    vector = random_style(network)
    info = StyleInfo(name="dusk")
    save_style(path, vector, network, info, self_contained=False)
    assert set(load_file(path)) == {"style"}
    with pytest.raises(InvalidStyleError, match=hash_trunk(network)[:12]):
        load_style(path)


@pytest.fixture
def damaged(network, tmp_path):
    """Return a function that writes a good style file anew, with a change."""
    path = tmp_path / "dusk.safetensors"
    save_style(path, random_style(network), network, StyleInfo(name="dusk"))
    header = read_info(path)

    def write(tensors=(), **fields):
        info = dataclasses.replace(header, **fields)
        kept = {**load_file(path), **dict(tensors)}
        kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
        save_file(kept, path, metadata=info.to_metadata())
        return path

    return write


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        pytest.param({"bias": torch.full((3,), np.nan).half()}, "finite", id="nan"),
        pytest.param({"bias": torch.zeros(4).half()}, "fit", id="wrong-shape"),
        pytest.param({"bias": None}, "fit", id="missing"),
        pytest.param({"more": torch.zeros(1).half()}, "fit", id="one-too-many"),
        pytest.param({"style": None}, "no style", id="no-style"),
        pytest.param({"style": torch.zeros(7).half()}, "shape", id="style-too-short"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(damaged, tensors, message):
    with pytest.raises(InvalidStyleError, match=message):
        load_style(damaged(tensors))


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param({"up2.lora_A": None}, id="half-missing"),
        pytest.param({"up2.lora_A": torch.zeros(3, 54).half()}, id="ranks-differ"),
        pytest.param({"up2.lora_A": torch.zeros(2, 53).half()}, id="wrong-shape"),
        pytest.param({"up2.lora_A": torch.zeros(108).half()}, id="flat"),
        pytest.param({"enter.lora_A": torch.zeros(2, 108).half()}, id="fixed-layer"),
        pytest.param({"x.lora_B": torch.zeros(1).half()}, id="no-layer"),
        pytest.param(
            {"up2.lora_A": torch.zeros(9, 54), "up2.lora_B": torch.zeros(4, 9)},
            id="rank-above-the-kernel's",
        ),
        pytest.param(
            {"up2.lora_A": torch.zeros(0, 54), "up2.lora_B": torch.zeros(10**9, 0)},
            id="huge-out-of-nothing",
        ),
        pytest.param(
            {
                "up2.lora_A": torch.full((2, 54), 1e30),
                "up2.lora_B": torch.full((4, 2), 1e30),
            },
            id="product-overflows",
        ),
        pytest.param({"up2.lora_A": torch.full((2, 54), np.inf)}, id="infinite"),
    ],
)
def test_changes_that_do_not_fit_the_network_are_refused(network, damaged, tensors):
    name = damaged()
    save_style(name, changing_style(network), network, read_info(name))
    with pytest.raises(InvalidStyleError, match=r"kernels that do not fit|not finite"):
        load_style(damaged(tensors))


@pytest.mark.parametrize(
    "network_field",
    [
        {"name": "other"},
        {"name": "conditional", "widths": [4, 6], "blocks": [1, 1]},
        {"name": "conditional", "widths": [4, 6, 10**9], "blocks": [1, 1]},
        {"name": "conditional", "widths": "many", "blocks": [1, 1]},
        {"name": "conditional", "widths": [4, 6, 8], "blocks": [1]},
        {"name": "conditional", "widths": [4, 6, 8], "blocks": [1, 1, 1]},
        {"name": "conditional", "widths": [4, 6, 8], "blocks": [1, 1], "depth": 4},
        {},
    ],
)
def test_networks_that_are_unknown_or_absurd_are_refused(damaged, network_field):
    with pytest.raises(InvalidStyleError):
        load_style(damaged(network=network_field))


def test_a_failed_save_leaves_the_old_file(network, tmp_path):
    path = tmp_path / "dusk.safetensors"
    save_style(path, random_style(network), network, StyleInfo(name="dusk"))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_style(
            path,
            random_style(network),
            network,
            StyleInfo(name="dusk", training={"bad": object()}),
        )
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_not_finite_in_float16_replaces_no_file(tmp_path):
    network = StyleNetwork((4, 4, 4), (0, 0))
    path = tmp_path / "style.safetensors"
    save_style(path, network.photo, network, StyleInfo("style"))
    before = path.read_bytes()
    with pytest.raises(InvalidStyleError, match=r"style\.safetensors is not written"):
        save_style(path, network.photo + 70_000, network, StyleInfo("style"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
