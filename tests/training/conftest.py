import contextlib
import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleplug.foreign import JohnsonNetwork
from styleplug.losses import LossNetwork
from styleplug.style import StyleInfo
from styleplug.training import controls, distillation, loop, predictor
from styleplug.training.config import TrainConfig
from styleplug.training.data import Photographs
from styleplug.training.loop import train
from styleplug.weights import save_trunk


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of six small pictures."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(6):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg")
    return folder


@pytest.fixture(scope="session")
def other_photographs(photographs, tmp_path_factory) -> Path:
    """Copies of these, to measure on."""
    folder = tmp_path_factory.mktemp("others") / "photographs"
    return Path(shutil.copytree(photographs, folder))


@pytest.fixture(scope="session")
def artwork(tmp_path_factory) -> Path:
    """A picture of stripes."""
    y, x = np.mgrid[:64, :80]
    stripes = (np.sin(x / 2 + y) > 0)[..., None] * np.array([250, 80, 20], np.uint8)
    path = tmp_path_factory.mktemp("artworks") / "my_Stripes 1.png"
    Image.fromarray(stripes.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def foreign_trunk(tmp_path_factory) -> Path:
    """A trunk of another project, as converting brings it along."""
    network = JohnsonNetwork((4, 4, 4), blocks=1, bottleneck=4)
    for tensor in network.state_dict().values():
        tensor.zero_()
    path = tmp_path_factory.mktemp("foreign") / "trunk.safetensors"
    save_trunk(path, network, StyleInfo("trunk"))
    return path


@pytest.fixture(autouse=True)
def short_distillation(monkeypatch):
    """Let encoders be trained in three small steps, in place of thousands."""
    monkeypatch.setattr(distillation, "DISTILLATION_STEPS", 3)
    monkeypatch.setattr(distillation, "_BATCH", 6)


@pytest.fixture
def killed_in(monkeypatch):
    """Kill a training in the step of a generator; before, it saves after each step."""

    class KilledError(Exception):
        pass

    crops = Photographs.crops

    @contextlib.contextmanager
    def killed_in(step):
        def killed(photographs, count, size, scales, rng):
            if rng.initial_seed() == step.initial_seed():
                raise KilledError
            return crops(photographs, count, size, scales, rng)

        with monkeypatch.context() as patch:
            for module in (distillation, loop, predictor):
                patch.setattr(module, "SAVE_EVERY", 0.0)
            patch.setattr(Photographs, "crops", killed)
            with pytest.raises(KilledError):
                yield

    return killed_in


@pytest.fixture(scope="session")
def quick() -> TrainConfig:
    """Settings of a training of four small steps."""
    return TrainConfig(steps=4, batch_size=1, crop_size=48, style_size=64, seed=1)


@pytest.fixture(scope="module")
def quick_calibration():
    """Let the loss network be calibrated, and controls measured, at a glance."""
    calibrate = LossNetwork.calibrate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            *(LossNetwork, "calibrate"),
            lambda network, images: calibrate(network, images[:2, :, :64, :64]),
        )
        patch.setattr(controls, "_CARD", 48)
        patch.setattr(controls, "_CARDS", 1)
        yield


@pytest.fixture
def run(quick, artwork, photographs, vgg, tmp_path):
    """Run a training with quick settings; any of them, and its options, can be named.

    By default the artwork's style is trained into the test's folder.
    """
    settings = {field.name for field in dataclasses.fields(TrainConfig)}

    def run(
        training, out=tmp_path, artworks=(artwork,), content=photographs, **options
    ):
        named = {name: options.pop(name) for name in settings & options.keys()}
        config = dataclasses.replace(quick, **named)
        return training(artworks, content, vgg, out, config=config, **options)

    return run


@pytest.fixture
def learn(run):
    """Train styles; arguments are those of ``run``."""
    return functools.partial(run, train)


@pytest.fixture
def trunk(trained) -> Path:
    """The trunk of the trained style."""
    return trained.with_name("trunk.safetensors")


@pytest.fixture(scope="module")
def trained(
    quick,
    quick_calibration,
    artwork,
    photographs,
    other_photographs,
    vgg,
    tmp_path_factory,
):
    """A trunk of four steps, its style, its checkpoint and its sheet."""
    out = tmp_path_factory.mktemp("trained")
    (style,) = train(
        [artwork],
        photographs,
        vgg,
        out,
        config=quick,
        about={artwork.name: {"name": "stripes", "title": "Stripes"}},
        checkpoint=out / "run.ckpt",
        sheet=out / "sheet.png",
        measure=other_photographs,
        command="styleplug train my_stripes.png",
    )
    return style
