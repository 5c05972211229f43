"""Old checkpoints against plain re-implementations of what their authors computed."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from styleplug import Stylizer, stylize
from styleplug.convert import convert
from styleplug.errors import InvalidStyleError
from styleplug.foreign import JohnsonNetwork
from styleplug.weights import load_style
from tests.conftest import require

Tensors = dict[str, Tensor]

RIGHTS = {"license": "MIT", "artwork": "Public domain."}


# Plain forward passes: tensors of the checkpoint and a picture in 0 to 255


def conv(t: Tensors, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = t[f"{name}.weight"]
    pad = [weight.shape[-1] // 2] * 4
    return F.conv2d(
        F.pad(x, pad, mode="reflect"), weight, t[f"{name}.bias"], stride=stride
    )


def norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    weight, bias = t.get(f"{name}.weight"), t.get(f"{name}.bias")
    return F.instance_norm(x, weight=weight, bias=bias)


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def fast_neural_style(t: Tensors, x: Tensor) -> Tensor:
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        x = norm(t, f"in{i}", conv(t, f"conv{i}.conv2d", x, stride)).relu()
    for i in range(1, 6):
        y = norm(t, f"res{i}.in1", conv(t, f"res{i}.conv1.conv2d", x)).relu()
        x = x + norm(t, f"res{i}.in2", conv(t, f"res{i}.conv2.conv2d", y))
    for i in (1, 2):
        x = norm(t, f"in{i + 3}", conv(t, f"deconv{i}.conv2d", double(x))).relu()
    return conv(t, "deconv3.conv2d", x)


def _rrmina(t: Tensors, x: Tensor, block: Callable[[str, Tensor], Tensor]) -> Tensor:
    x = x.flip(1)
    for i, stride in ((0, 1), (2, 2), (4, 2)):
        x = conv(t, f"ConvBlock.{i}.conv_layer", x, stride)
        x = norm(t, f"ConvBlock.{i}.norm_layer", x).relu()
    for i in range(5):
        x = x + block(f"ResidualBlock.{i}", x)
    for i in (0, 2):
        name = f"DeconvBlock.{i}"
        weight, bias = (
            t[f"{name}.conv_transpose.weight"],
            t[f"{name}.conv_transpose.bias"],
        )
        x = F.conv_transpose2d(x, weight, bias, 2, 1, 1)
        x = norm(t, f"{name}.norm_layer", x).relu()
    return conv(t, "DeconvBlock.4.conv_layer", x).flip(1)


def transformer_network(t: Tensors, x: Tensor) -> Tensor:
    def block(name: str, x: Tensor) -> Tensor:
        x = norm(t, f"{name}.conv1.norm_layer", conv(t, f"{name}.conv1.conv_layer", x))
        x = conv(t, f"{name}.conv2.conv_layer", x.relu())
        return norm(t, f"{name}.conv2.norm_layer", x)

    return _rrmina(t, x, block)


def transformer_network_tanh(t: Tensors, x: Tensor) -> Tensor:
    return 150 * torch.tanh(transformer_network(t, x))


def transformer_network_v2(t: Tensors, x: Tensor) -> Tensor:
    def block(name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            x = norm(t, f"{name}.conv{i}.norm_layer", x).relu()
            x = conv(t, f"{name}.conv{i}.conv_layer", x)
        return x

    return _rrmina(t, x, block)


def resnext(t: Tensors, x: Tensor) -> Tensor:
    def block(name: str, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = conv(t, f"{name}.conv{i}.conv_layer", x)
            x = norm(t, f"{name}.conv{i}.norm_layer", x)
            x = x if i == 3 else x.relu()
        return x

    return _rrmina(t, x, block)


def msg_net(t: Tensors, x: Tensor, style: Tensor, blocks: int = 2) -> Tensor:
    def unit(name: str, x: Tensor, stride: int = 1, up: bool = False) -> Tensor:
        enlarge = double if up else lambda x: x
        y = conv(t, f"{name}.conv_block.2", norm({}, "", x).relu())
        y = enlarge(norm({}, "", y).relu())
        y = conv(t, f"{name}.conv_block.5.conv2d", y, stride)
        y = conv(t, f"{name}.conv_block.8", norm({}, "", y).relu())
        inner = ".conv2d" if up else ""
        if f"{name}.residual_layer{inner}.weight" in t:
            x = conv(t, f"{name}.residual_layer{inner}", enlarge(x), stride)
        return x + y

    def encode(x: Tensor) -> Tensor:
        x = norm({}, "", conv(t, "model1.0.conv2d", x.flip(1))).relu()
        return unit("model1.4", unit("model1.3", x, 2), 2)

    features = encode(style)
    b, c, h, w = features.shape
    flat = features.view(b, c, h * w)
    gram = flat.bmm(flat.transpose(1, 2)) / (c * h * w)
    matrix = torch.bmm(t["ins.weight"], gram).transpose(1, 2)
    x = encode(x)
    x = torch.bmm(matrix, x.view(1, c, -1)).view_as(x)
    for i in range(blocks):
        x = unit(f"model.{i + 2}", x)
    for i in (2, 3):
        x = unit(f"model.{blocks + i}", x, up=True)
    return conv(t, f"model.{blocks + 6}.conv2d", norm({}, "", x).relu()).flip(1)


# Checkpoints with random weights


class Checkpoint(OrderedDict[str, Tensor]):
    def save(self, path: Path) -> None:
        torch.save(OrderedDict(self), path)

    def conv(self, name: str, outputs: int, inputs: int, kernel: int) -> None:
        fan = inputs * kernel**2
        weight = torch.randn(outputs, inputs, kernel, kernel) * (2 / fan) ** 0.5
        self[f"{name}.weight"], self[f"{name}.bias"] = weight, torch.randn(outputs) / 9

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"] = 1 + torch.randn(channels) / 4
        self[f"{name}.bias"] = torch.randn(channels) / 4

    def end(self, name: str, weight: float, bias: float) -> None:
        """Let the last layer fill the range of a picture."""
        self[f"{name}.weight"] *= weight
        self[f"{name}.bias"] += bias


def new_fast_neural_style(width: int = 8) -> Checkpoint:
    t = Checkpoint()
    a, b, c = width, 2 * width, 4 * width
    for i, size in ((1, (a, 3, 9)), (2, (b, a, 3)), (3, (c, b, 3))):
        t.conv(f"conv{i}.conv2d", *size)
        t.norm(f"in{i}", size[0])
    for i in range(1, 6):
        for j in (1, 2):
            t.conv(f"res{i}.conv{j}.conv2d", c, c, 3)
            t.norm(f"res{i}.in{j}", c)
    for i, size in ((1, (b, c, 3)), (2, (a, b, 3))):
        t.conv(f"deconv{i}.conv2d", *size)
        t.norm(f"in{i + 3}", size[0])
    t.conv("deconv3.conv2d", 3, a, 9)
    t.end("deconv3.conv2d", 30, 120)
    return t


def new_rrmina(
    kernels: tuple[int, ...] = (3, 3), norm_first: bool = False, tanh: bool = False
) -> Checkpoint:
    t = Checkpoint()
    for i, size in ((0, (8, 3, 9)), (2, (16, 8, 3)), (4, (32, 16, 3))):
        t.conv(f"ConvBlock.{i}.conv_layer", *size)
        t.norm(f"ConvBlock.{i}.norm_layer", size[0])
    middle = 32 if len(kernels) == 2 else 16
    ends = [32, *[middle] * (len(kernels) - 1), 32]
    for i in range(5):
        for j, kernel in enumerate(kernels):
            name = f"ResidualBlock.{i}.conv{j + 1}"
            if norm_first:
                t.norm(f"{name}.norm_layer", ends[j])
            t.conv(f"{name}.conv_layer", ends[j + 1], ends[j], kernel)
            if not norm_first:
                t.norm(f"{name}.norm_layer", ends[j + 1])
    for i, (outputs, inputs) in ((0, (16, 32)), (2, (8, 16))):
        t.conv(f"DeconvBlock.{i}.conv_transpose", inputs, outputs, 3)
        t[f"DeconvBlock.{i}.conv_transpose.bias"] = torch.randn(outputs)
        t.norm(f"DeconvBlock.{i}.norm_layer", outputs)
    t.conv("DeconvBlock.4.conv_layer", 3, 8, 9)
    if tanh:
        t.end("DeconvBlock.4.conv_layer", 0.3, 0.8)
    else:
        t.end("DeconvBlock.4.conv_layer", 30, 120)
    return t


def new_msg_net(width: int = 4, blocks: int = 2) -> Checkpoint:
    t, deep = Checkpoint(), 4 * width
    t.conv("model1.0.conv2d", 64, 3, 7)
    units = [("model1.3", 64, 32), ("model1.4", 128, width)]
    units += [(f"model.{i + 2}", deep, width) for i in range(blocks)]
    units += [(f"model.{blocks + 2}", deep, 32), (f"model.{blocks + 3}", 128, 16)]
    for i, (name, inputs, planes) in enumerate(units):
        inner = ".conv2d" if i >= blocks + 2 else ""
        if i < 2 or inner:
            t.conv(f"{name}.residual_layer{inner}", 4 * planes, inputs, 1)
        t.conv(f"{name}.conv_block.2", planes, inputs, 1)
        t.conv(f"{name}.conv_block.5.conv2d", planes, planes, 3)
        t.conv(f"{name}.conv_block.8", 4 * planes, planes, 1)
    t["ins.weight"] = torch.rand(1, deep, deep)
    again = {k.replace("model1", "model.0"): v for k, v in t.items() if "model1" in k}
    t |= {**again, "model.1.weight": t["ins.weight"]}
    t.conv(f"model.{blocks + 6}.conv2d", 3, 64, 7)
    t.end(f"model.{blocks + 6}.conv2d", 30, 120)
    return t


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def content() -> Tensor:
    y, x = torch.meshgrid(
        torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij"
    )
    return (
        torch.stack([x, y, (9 * x * y).sin() ** 2])[None] + torch.rand(1, 3, 48, 64) / 9
    ).clamp(0, 1)


def painted(path: Path, content: Tensor) -> Tensor:
    style = load_style(path)
    network, vector = style.network, style.vector
    with torch.no_grad():
        return network(content, network.vector(vector))


def as_painted(original: Tensor) -> Tensor:
    picture = original.clamp(0, 255) / 255
    assert picture.std() > 0.05
    return picture


SYNTHETIC = {
    "fast-neural-style-32": (lambda: new_fast_neural_style(32), fast_neural_style),
    "fast-neural-style-16": (lambda: new_fast_neural_style(16), fast_neural_style),
    "fast-neural-style-8": (new_fast_neural_style, fast_neural_style),
    "rrmina": (new_rrmina, transformer_network),
    "rrmina-v2": (lambda: new_rrmina(norm_first=True), transformer_network_v2),
    "rrmina-resnext": (lambda: new_rrmina((1, 3, 1)), resnext),
}


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_a_converted_network_paints_what_the_original_paints(
    kind: str, content: Tensor, tmp_path: Path
) -> None:
    create, forward = SYNTHETIC[kind]
    checkpoint = create()
    checkpoint.save(tmp_path / "old.pth")
    convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)
    expected = as_painted(forward(checkpoint, 255 * content))
    result = painted(tmp_path / "new.safetensors", content)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_a_last_tanh_is_there_when_it_is_said(
    content: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = new_rrmina(tanh=True)
    checkpoint.save(tmp_path / "old.pth")
    paths = tmp_path / "old.pth", tmp_path / "new.safetensors"
    convert(*paths, tanh=True, **RIGHTS)
    assert caplog.text == ""
    expected = as_painted(transformer_network_tanh(checkpoint, 255 * content))
    result = painted(paths[1], content)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
    convert(*paths, overwrite=True, **RIGHTS)
    assert "--tanh" in caplog.text


@pytest.mark.parametrize("kind", ["fast-neural-style-8", "rrmina-v2", "rrmina-resnext"])
def test_a_tanh_that_a_network_never_had_is_refused(kind: str, tmp_path: Path) -> None:
    SYNTHETIC[kind][0]().save(tmp_path / "old.pth")
    with pytest.raises(ValueError, match="tanh is for a TransformerNetworkTanh"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", tanh=True, **RIGHTS)


def test_what_only_the_order_of_tensors_tells_is_not_guessed(
    content: Tensor, tmp_path: Path
) -> None:
    for kind in ("rrmina", "rrmina-v2", "rrmina-resnext"):
        create, forward = SYNTHETIC[kind]
        checkpoint = create()
        save_file(dict(checkpoint), tmp_path / "old.safetensors")
        new = tmp_path / f"{kind}.safetensors"
        if kind == "rrmina-resnext":
            convert(tmp_path / "old.safetensors", new, **RIGHTS)
            expected = as_painted(forward(checkpoint, 255 * content))
            torch.testing.assert_close(
                painted(new, content), expected, rtol=0, atol=1e-4
            )
        else:
            with pytest.raises(InvalidStyleError, match=r"order .* lost.*\.pth"):
                convert(tmp_path / "old.safetensors", new, **RIGHTS)


@pytest.mark.parametrize("size", [(512, 512), (300, 200)])
def test_msg_net_is_aimed_at_a_style_image(
    content: Tensor, tmp_path: Path, size: tuple[int, int]
) -> None:
    checkpoint = new_msg_net()
    checkpoint.save(tmp_path / "old.model")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "style.png")
    style = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    style = F.interpolate(style, (512, 512), mode="bilinear", antialias=True)
    convert(
        tmp_path / "old.model",
        tmp_path / "new.safetensors",
        style_image=tmp_path / "style.png",
        **RIGHTS,
    )
    expected = as_painted(msg_net(checkpoint, 255 * content, style))
    result = painted(tmp_path / "new.safetensors", content)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_what_is_transparent_in_a_style_image_is_white_paper(tmp_path: Path) -> None:
    new_msg_net().save(tmp_path / "old.model")
    painted = Image.new("RGBA", (64, 64), "white")
    painted.paste("teal", (0, 0, 32, 64))
    painted.convert("RGB").save(tmp_path / "opaque.png")
    painted.paste((90, 0, 0, 0), (32, 0, 64, 64))
    painted.save(tmp_path / "clear.png")
    vectors = []
    for name in ("opaque", "clear"):
        path = tmp_path / f"{name}.safetensors"
        image = tmp_path / f"{name}.png"
        convert(tmp_path / "old.model", path, style_image=image, **RIGHTS)
        vectors.append(load_style(path).vector)
    torch.testing.assert_close(*vectors)


def test_msg_net_needs_a_style_image(tmp_path: Path) -> None:
    new_msg_net().save(tmp_path / "old.model")
    with pytest.raises(ValueError, match="style_image"):
        convert(tmp_path / "old.model", tmp_path / "new.safetensors", **RIGHTS)


def test_stale_running_statistics_are_left_out(content: Tensor, tmp_path: Path) -> None:
    checkpoint = new_fast_neural_style()
    for name in [
        name for name in checkpoint if name.endswith(("in1.bias", "in5.bias"))
    ]:
        for stale in ("running_mean", "running_var"):
            checkpoint[name.replace("bias", stale)] = torch.full((8,), float("nan"))
    torch.save({"state_dict": OrderedDict(checkpoint)}, tmp_path / "old.pth")
    convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)
    expected = as_painted(fast_neural_style(checkpoint, 255 * content))
    result = painted(tmp_path / "new.safetensors", content)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("create", "name"),
    [
        (new_fast_neural_style, "in1.num_batches_tracked"),
        (new_fast_neural_style, "attention.weight"),
        (new_rrmina, "ConvBlock.0.norm_layer.num_batches_tracked"),
        (new_msg_net, "model1.1.weight"),
        (new_msg_net, "model.2.conv_block.0.bias"),
    ],
)
def test_a_tensor_without_use_is_refused_by_its_name(
    create: Callable[[], Checkpoint], name: str, tmp_path: Path
) -> None:
    checkpoint = create()
    checkpoint[name] = torch.tensor(7)
    checkpoint.save(tmp_path / "old.pth")
    Image.new("RGB", (9, 9)).save(tmp_path / "style.png")
    with pytest.raises(InvalidStyleError, match=f"tensor '{name}'"):
        convert(
            tmp_path / "old.pth",
            tmp_path / "new.safetensors",
            style_image=tmp_path / "style.png",
            **RIGHTS,
        )
    assert not (tmp_path / "new.safetensors").exists()


def test_a_checkpoint_in_safetensors_is_converted_too(
    content: Tensor, tmp_path: Path
) -> None:
    checkpoint = {f"module.{k}": v for k, v in new_fast_neural_style().items()}
    save_file(checkpoint, tmp_path / "old.safetensors")
    info = convert(
        tmp_path / "old.safetensors", tmp_path / "Old Mill.safetensors", **RIGHTS
    )
    assert info.name == "old-mill"
    assert info.license == "MIT"
    assert painted(tmp_path / "Old Mill.safetensors", content).shape == content.shape


@pytest.mark.parametrize("kind", ["fast-neural-style-8", "rrmina-resnext"])
def test_the_engine_renders_a_converted_style_of_any_size(
    kind: str, tmp_path: Path
) -> None:
    SYNTHETIC[kind][0]().save(tmp_path / "old.pth")
    path = tmp_path / "new.safetensors"
    convert(tmp_path / "old.pth", path, base_size=96, **RIGHTS)
    pixels = np.random.default_rng(0).integers(0, 256, (333, 421, 3), np.uint8)
    stylizer = Stylizer(path, device="cpu", dtype="float32")
    whole = stylizer(pixels)
    assert whole.shape == pixels.shape
    assert np.abs(whole.astype(int) - pixels).mean() > 5
    tiles = stylizer(pixels, tile_size=256).astype(int)
    assert np.abs(tiles - whole).max() <= 1
    assert np.array_equal(stylizer(pixels, strength=0), pixels)
    half = stylizer(pixels, strength=0.5).astype(int)
    assert np.abs(half - pixels).mean() < np.abs(whole.astype(int) - pixels).mean()
    one = stylize(pixels[:1, :1], path, device="cpu")
    assert one.shape == (1, 1, 3)


def test_styles_of_one_msg_net_can_be_blended(tmp_path: Path) -> None:
    new_msg_net().save(tmp_path / "old.model")
    paths = []
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels // (i + 1)).save(tmp_path / "style.png")
        paths.append(tmp_path / f"{i}.safetensors")
        image = tmp_path / "style.png"
        convert(tmp_path / "old.model", paths[-1], style_image=image, **RIGHTS)
    blend = Stylizer([(path, 0.5) for path in paths], device="cpu")
    assert blend(Image.new("RGB", (40, 30), "teal")).size == (40, 30)


# What is refused


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(pickle.dumps(Evil()), "nothing in it is executed", id="code"),
        pytest.param(b"", "nothing in it is executed", id="empty"),
        pytest.param(b"PK\x03\x04 torn", "nothing in it is executed", id="torn"),
        pytest.param(b"\x80\x02X\x00", "nothing in it is executed", id="cut"),
        pytest.param(None, "check the path", id="missing"),
    ],
)
def test_what_is_not_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("old.pth").write_bytes(content)
    with pytest.raises(InvalidStyleError, match=message):
        convert("old.pth", "new.safetensors", **RIGHTS)
    assert not Path("pwned").exists()
    assert not Path("new.safetensors").exists()


def test_a_checkpoint_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    new_fast_neural_style(32).save(tmp_path / "old.pth")
    os.truncate(tmp_path / "old.pth", 5000)
    with pytest.raises(InvalidStyleError, match="is damaged"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


@pytest.mark.parametrize("kind", ["compressed", "overlapping"])
def test_an_archive_that_unpacks_to_more_than_its_size_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkpoint = new_fast_neural_style()
    checkpoint["conv1.conv2d.bias"] = torch.zeros(1_000_000)
    checkpoint.save(tmp_path / "old.pth")
    bomb = tmp_path / "bomb.pth"
    method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(tmp_path / "old.pth") as old,
        zipfile.ZipFile(bomb, "w", method) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        if kind == "overlapping":
            largest = max(new.infolist(), key=lambda entry: entry.file_size)
            new.filelist.extend([largest] * 10)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(InvalidStyleError, match="is damaged, compressed or"):
        convert(bomb, tmp_path / "new.safetensors", **RIGHTS)


def test_an_unknown_network_is_refused_by_its_tensors(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "old.pth")
    with pytest.raises(InvalidStyleError, match=r"layer.weight.*known are"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


def test_a_network_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    for kind, (create, _) in SYNTHETIC.items():
        checkpoint = create()
        for name in list(checkpoint)[:: len(checkpoint) // 5]:
            damaged = {k: v for k, v in checkpoint.items() if k != name}
            torch.save(damaged, tmp_path / "old.pth")
            with pytest.raises(InvalidStyleError) as caught:
                convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)
            assert "\n" not in str(caught.value), kind


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_a_nested_tensor_is_refused(tmp_path: Path) -> None:
    checkpoint = new_fast_neural_style()
    weight = checkpoint["conv2.conv2d.weight"]
    checkpoint["conv2.conv2d.weight"] = torch.nested.nested_tensor([*weight])
    checkpoint.save(tmp_path / "old.pth")
    told = "another shape or type|holds more than weights"  # from torch 2.15
    with pytest.raises(InvalidStyleError, match=told):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


@pytest.mark.parametrize(
    ("create", "name", "change"),
    [
        (new_fast_neural_style, "in1.weight", lambda v: v[1:].clone()),
        (new_fast_neural_style, "in1.bias", lambda v: v.repeat(2)),
        (new_fast_neural_style, "in1.weight", lambda v: v[:, None]),
        (new_fast_neural_style, "in1.weight", lambda v: v.to(torch.complex64)),
        (new_fast_neural_style, "in1.weight", lambda v: v[:1].half().expand(10**13)),
        (new_fast_neural_style, "in1.weight", lambda v: v.int()),
        (new_fast_neural_style, "conv1.conv2d.weight", lambda v: v.sum()),
        (new_fast_neural_style, "conv2.conv2d.weight", lambda v: v.to_sparse()),
        (new_fast_neural_style, "conv2.conv2d.weight", lambda v: v.to("meta")),
        (new_fast_neural_style, "res1.conv1.conv2d.weight", lambda v: v[:, 1:].clone()),
        (new_rrmina, "ConvBlock.0.conv_layer.weight", lambda v: v[:, 0, 0, 0].clone()),
        (new_rrmina, "DeconvBlock.4.conv_layer.bias", lambda v: v.sum()),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(
    create: Callable[[], Checkpoint],
    name: str,
    change: Callable[[Tensor], Tensor],
    tmp_path: Path,
) -> None:
    checkpoint = create()
    checkpoint[name] = change(checkpoint[name])
    checkpoint.save(tmp_path / "old.pth")
    with pytest.raises(InvalidStyleError, match="another shape or type"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)
    assert not (tmp_path / "new.safetensors").exists()


def test_norms_whose_sizes_add_up_all_the_same_are_refused(tmp_path: Path) -> None:
    checkpoint = new_fast_neural_style()
    scales = checkpoint["in1.weight"], checkpoint["in5.weight"]
    short, long = torch.cat(scales).split([7, 9])
    checkpoint |= {"in1.weight": short, "in5.weight": long}
    Checkpoint(checkpoint).save(tmp_path / "old.pth")
    with pytest.raises(InvalidStyleError, match=r"its tensor 'in1.weight'"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


def test_no_number_in_a_name_is_counted_to(tmp_path: Path) -> None:
    checkpoint = new_fast_neural_style()
    checkpoint[f"res{10**30}.conv1.conv2d.weight"] = torch.ones(1)
    checkpoint.save(tmp_path / "old.pth")
    with pytest.raises(InvalidStyleError, match=r"its tensor 'res6\.conv1"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


def test_no_memory_is_used_for_sizes_that_a_file_only_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Network(JohnsonNetwork):
        def __init__(self, *sizes: Any, **options: Any) -> None:
            super().__init__(*sizes, **options)
            made.extend(self.weights.values())

    monkeypatch.setattr("styleplug.convert.JohnsonNetwork", Network)
    for checkpoint, name in (
        (new_fast_neural_style(), "conv3.conv2d.weight"),
        (new_rrmina(), "ResidualBlock.0.conv1.conv_layer.weight"),
    ):
        checkpoint[name] = torch.empty(512, 0, 9, 9)
        checkpoint.save(tmp_path / "old.pth")
        with pytest.raises(InvalidStyleError, match="another shape"):
            convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)
    assert {weight.device.type for weight in made} == {"meta"}


def test_a_matrix_that_does_not_fit_its_network_is_refused(tmp_path: Path) -> None:
    checkpoint = new_msg_net()
    checkpoint["ins.weight"] = torch.rand(1, 18, 18)
    checkpoint.save(tmp_path / "old.model")
    Image.new("RGB", (9, 9)).save(tmp_path / "style.png")
    paths = tmp_path / "old.model", tmp_path / "new.safetensors"
    with pytest.raises(InvalidStyleError, match="another shape or type"):
        convert(*paths, style_image=tmp_path / "style.png", **RIGHTS)


def test_a_missing_file_of_either_kind_is_said_to_be_missing(tmp_path: Path) -> None:
    for name in ("old.pth", "old.safetensors"):
        with pytest.raises(InvalidStyleError, match="No such file"):
            convert(tmp_path / name, tmp_path / "new.safetensors", **RIGHTS)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    checkpoint = new_fast_neural_style()
    checkpoint["res2.conv1.conv2d.weight"][0, 0, 0, 0] = float("inf")
    checkpoint.save(tmp_path / "old.pth")
    with pytest.raises(InvalidStyleError, match="not finite"):
        convert(tmp_path / "old.pth", tmp_path / "new.safetensors", **RIGHTS)


def test_a_style_is_overwritten_only_when_told(tmp_path: Path) -> None:
    new_fast_neural_style().save(tmp_path / "old.pth")
    paths = tmp_path / "old.pth", tmp_path / "new.safetensors"
    convert(*paths, **RIGHTS)
    with pytest.raises(FileExistsError, match="already exists"):
        convert(*paths, **RIGHTS)
    assert convert(*paths, title="Again", overwrite=True, **RIGHTS).title == "Again"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("new.pth", {}, r"name a file that ends in \.safetensors"),
        ("missing/new.safetensors", {}, "there is no folder .*create it first"),
        ("new.safetensors", {"base_size": 32}, "64 to 4096 pixels, got 32"),
    ],
)
def test_what_could_never_be_used_is_not_written(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    old = tmp_path / "old.pth"
    new_fast_neural_style().save(old)
    with pytest.raises((ValueError, OSError), match=message):
        convert(old, tmp_path / name, **options, **RIGHTS)
    assert list(tmp_path.iterdir()) == [old]


def test_a_style_is_named_in_the_letters_of_its_file(tmp_path: Path) -> None:
    new_fast_neural_style().save(tmp_path / "old.pth")
    name = "\u0939\u093f\u0928\u094d\u0926\u0940"
    info = convert(tmp_path / "old.pth", tmp_path / f"{name} 2.safetensors", **RIGHTS)
    assert info.name == f"{name}-2"


@pytest.mark.parametrize("missing", ["license", "artwork"])
def test_rights_must_be_said(tmp_path: Path, missing: str) -> None:
    for value, error in (("", ValueError), (None, TypeError)):
        rights: dict[str, Any] = {**RIGHTS, missing: value}
        with pytest.raises(error, match=rf"{missing} .*got {value!r}"):
            convert(tmp_path / "a.pth", tmp_path / "b.safetensors", **rights)


# Checkpoints that people trained


PEERS = {
    "fast_neural_style_16/mosaic.model": fast_neural_style,
    "fast_neural_style_16/candy.safetensors": fast_neural_style,
    "fast_neural_style_8/udnie.safetensors": fast_neural_style,
    "resnext/mosaic.pth": resnext,
}


@pytest.mark.assets
@pytest.mark.parametrize("name", PEERS)
def test_real_checkpoints_paint_what_they_always_painted(
    name: str, content: Tensor, tmp_path: Path
) -> None:
    assets = os.environ.get("STYLEPLUG_ASSETS")
    require(assets, "STYLEPLUG_ASSETS does not name the assets")
    path = Path(assets or "") / "peers" / name
    convert(path, tmp_path / "new.safetensors", **RIGHTS)
    if path.suffix == ".safetensors":
        checkpoint = load_file(path)
    else:
        checkpoint = torch.load(path, weights_only=True)
    expected = as_painted(PEERS[name](checkpoint, 255 * content))
    result = painted(tmp_path / "new.safetensors", content)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
