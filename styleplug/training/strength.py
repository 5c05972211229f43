"""Train how a trunk, which is otherwise fixed, paints styles at lower strengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ..engine import pick_device
from ..errors import TrainingError
from ..predictor import save_predictor
from ..style import StyleInfo, bundled_predictor, bundled_trunk, read_info
from ..weights import hash_trunk, read_style, save_trunk, write_tensors
from .config import TrainConfig
from .data import Photographs, load_artwork
from .learner import (
    Learner,
    load_loss_network,
    load_own_trunk,
    thinned_loss_network,
)
from .loop import (
    NO_ARTWORK,
    NO_RANK,
    check_names,
    descend,
    draw_sheet,
    is_free_name,
    record,
    styles_to_begin_from,
)
from .outputs import all_or_none, check_places
from .predictor import predictor_beside
from .sampler import Sampler, targets
from .state import State, hash_tensors, identify, process_and_count


def train_strength(
    artworks: Sequence[Path],
    content: Path,
    loss_network: Path,
    out: Path,
    *,
    config: TrainConfig,
    trunk: Path,
    start: Sequence[Path],
    device: str | torch.device | None = None,
    checkpoint: Path | None = None,
    sheet: Path | None = None,
    overwrite: bool = False,
    command: str = "",
) -> list[Path]:
    """Train the light versions of styles, which ``trunk`` paints at lower strengths.

    ``start`` are styles of the trunk, one for each artwork. Nothing else is trained.
    The styles, and a predictor beside the trunk, are written into ``out`` unchanged,
    except that they now belong to the trunk that is written there. ``out`` may be the
    folder they were read from. Returns the paths of the styles. The sheet shows their
    lightest versions. The other parameters are those of
    :func:`~styleplug.training.loop.train`.

    Raises, before training, what :func:`~styleplug.training.loop.train` raises.
    """
    if config.rank:
        raise TrainingError(NO_RANK)
    if not artworks:
        raise TrainingError(NO_ARTWORK)
    device = pick_device(device)
    process, _ = process_and_count(config)
    styles = [read_style(path) for path in start]
    for path, (info, _) in zip(start, styles, strict=True):
        if not is_free_name(info.name):
            raise TrainingError(
                f"The style {path} is called {info.name!r}, which is the name of "
                "another result file; start from a style of another name."
            )
    check_names([info.name for info, _ in styles], "name each of them once")
    sizes = {info.base_size for info, _ in styles}
    named = " and ".join(map(str, sorted(sizes)))
    if len(sizes) > 1:
        raise TrainingError(
            f"The styles to begin from were trained with --style-size {named}; name "
            "those of one size, and another --output."
        )
    if sizes - {config.style_size}:
        raise TrainingError(
            f"The styles to begin from were trained with --style-size {named}, not "
            f"{config.style_size}; give theirs."
        )
    paths = [out / f"{info.name}.safetensors" for info, _ in styles]
    out_trunk = out / bundled_trunk().name
    out_predictor = out / bundled_predictor().name
    predictor = predictor_beside(trunk)
    results = [*paths, out_trunk]
    if predictor is not None:
        results.append(out_predictor)
    check_places(
        out, results, [checkpoint], sheet, pictures=[content], overwrite=overwrite
    )
    torch.manual_seed(config.seed)
    network = load_own_trunk(trunk).to(device)
    photographs = Photographs(content)
    whole = load_loss_network(loss_network, photographs, config, device)
    images = [load_artwork(path, config.style_size) for path in artworks]
    loss_net = thinned_loss_network(whole, photographs, images, config, device)
    grams = targets(images, loss_net, device)

    header = read_info(trunk)  # perhaps of a style that contains the trunk
    vectors = styles_to_begin_from(network, artworks, start)
    learner = Learner(network, vectors, None).requires_grad_(False)
    network.light.requires_grad_(True)
    state = State(
        learner.learned(),
        config,
        {
            "config": dataclasses.asdict(config),
            "artworks": identify(artworks),
            "photographs": len(photographs.images),
            "files of the photographs": photographs.files,
            "loss_network": loss_network.name,
            "trunk": hash_trunk(network),
            "strength of": hash_tensors([vectors]),
        },
    )
    if checkpoint:
        state.resume(checkpoint)
    sampler = Sampler(photographs, None, grams, loss_net, config, device)

    def draw() -> None:
        if sheet:
            with torch.no_grad():
                light = network.vector(vectors, network.LIGHT)
            draw_sheet(sheet, network, light, photographs)

    descend(learner, state, sampler, loss_net, config, checkpoint, draw)
    if process > 0:
        return []
    learned = record(command, loss_network, whole, photographs, config, state)
    learned["trunk"] = header.trunk
    training = {**header.training, "strength": learned}
    header = StyleInfo("trunk", base_size=header.base_size, training=training)
    with all_or_none(out) as folder:
        moved = save_trunk(folder / out_trunk.name, network, header).trunk
        for (info, tensors), path in zip(styles, paths, strict=True):
            info = dataclasses.replace(info, trunk=moved)
            write_tensors(folder / path.name, tensors, info)
        if predictor is not None:
            info = read_info(trunk.with_name(bundled_predictor().name))
            info = dataclasses.replace(info, trunk=moved)
            save_predictor(folder / out_predictor.name, predictor, info)
    draw()
    return paths
