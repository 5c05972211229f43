import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import nn

from styleplug.errors import TrainingError
from styleplug.training.config import TrainConfig
from styleplug.training.state import (
    State,
    load_checkpoint,
    one_cycle,
    save_checkpoint,
)


def new_state(weight, **settings):
    learned = nn.Parameter(weight)
    return learned, State({"weight": learned}, TrainConfig(**settings), {})


def test_a_loss_that_is_not_finite_is_stepped_back_from(caplog):
    weight, state = new_state(torch.ones(1, 3), learning_rate=0.1)
    before = weight.detach().clone()
    state.descend(weight.square().sum())
    assert not torch.equal(weight, before)
    state.descend(weight.sum() * float("nan"))
    state.descend(weight.sum() * float("inf"))
    assert torch.equal(weight, before)
    assert caplog.text.count("not finite") == 1

    def go_on():
        for _ in range(20):
            state.descend(weight.sum() * float("nan"))

    with pytest.raises(TrainingError, match="--learning-rate"):
        go_on()


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path, caplog, fill_disk
):
    weight, state = new_state(torch.ones(1, 3))
    path = tmp_path / "run.ckpt"
    state.save(path)
    good = path.read_bytes()
    fill_disk()
    state.descend(weight.square().sum())
    state.save(path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]
    assert "was not written" in caplog.text


def test_matrices_that_change_kernels_are_learned_by_muon_and_resumed(tmp_path):
    def begun():
        learned = {
            "vectors": nn.Parameter(torch.ones(1, 4)),
            "factors.down4_a": nn.Parameter(1 + 2 * torch.eye(2, 8)[None]),
        }
        return learned, State(learned, TrainConfig(steps=10, learning_rate=0.1), {})

    def descend(learned, state):
        state.descend(sum(p.square().sum() for p in learned.values()))

    learned, state = begun()
    before = learned["factors.down4_a"].detach().clone()
    descend(learned, state)
    change = learned["factors.down4_a"].detach() - before
    lengths = torch.linalg.svdvals(change).flatten()  # Adam's would be of rank 1
    assert lengths.min() > 0.5 * lengths.max()

    path = tmp_path / "run.ckpt"
    state.save(path)
    other, resumed = begun()
    resumed.resume(path)
    descend(learned, state)
    descend(other, resumed)
    for name, parameter in learned.items():
        assert torch.equal(parameter, other[name])


def test_the_learning_rate_warms_up_and_ends_near_0():
    rates = [one_cycle(step / 1000) for step in range(1001)]
    assert rates[0] < 0.05
    assert max(rates) == pytest.approx(1)
    assert rates.index(max(rates)) == 50
    assert rates[-1] == pytest.approx(0)


def left_and_resumed(folder):
    """Return a training after three steps, and one that goes on from its checkpoint."""
    weight, state = new_state(torch.ones(3), steps=10)
    path = folder / "run.ckpt"
    for _ in range(3):
        state.descend(weight.square().sum())
    state.save(path)
    other, resumed = new_state(torch.zeros(3), steps=10)
    resumed.resume(path)
    return (weight, state), (other, resumed)


def test_a_checkpoint_goes_on_where_it_was_left(tmp_path):
    (weight, state), (other, resumed) = left_and_resumed(tmp_path)
    assert resumed.step == 3
    for each, descent in ((weight, state), (other, resumed)):
        descent.descend(each.square().sum())
    assert torch.equal(weight, other)


def test_a_loss_that_is_not_finite_is_stepped_back_from_as_if_not_resumed(tmp_path):
    (weight, state), (other, resumed) = left_and_resumed(tmp_path)
    for each, descent in ((weight, state), (other, resumed)):
        descent.descend(each.sum() * float("nan"))
        descent.descend(each.square().sum())
    assert torch.equal(weight, other)


def test_a_checkpoint_with_other_settings_is_refused_by_their_names(tmp_path):
    def identity(**changed):
        return {"trunk": True, "config": dataclasses.asdict(TrainConfig(**changed))}

    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {}, identity(), {"step": 3}, "the checkpoint")
    assert load_checkpoint(path, identity()) == ({}, {"step": 3})
    with pytest.raises(TrainingError, match="differs in pool, trunk;"):
        load_checkpoint(path, identity(pool=7) | {"trunk": False})


def test_what_was_read_of_a_checkpoint_is_independent_of_its_file(tmp_path):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"weight": torch.ones(3)}, {}, {}, "the checkpoint")
    tensors, _ = load_checkpoint(path, {})
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(tensors["weight"], torch.ones(3))


def test_a_checkpoint_that_must_not_be_read_is_not_called_damaged(
    tmp_path, monkeypatch
):
    _, state = new_state(torch.ones(3))
    path = tmp_path / "run.ckpt"
    state.save(path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TrainingError, match=r"cannot be read \(Permission denied\)"):
        state.resume(path)


def test_nothing_is_resumed_where_there_is_no_checkpoint(tmp_path):
    _, state = new_state(torch.ones(3))
    state.resume(tmp_path / "missing.ckpt")
    assert state.step == 0


@pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
@pytest.mark.parametrize("others", ["without", "ahead", "alike"])
def test_processes_go_on_from_the_same_checkpoint_or_not_at_all(
    tmp_path, monkeypatch, others
):
    weight, state = new_state(torch.ones(3), batch_size=2)
    path = tmp_path / "run.ckpt"
    state.descend(weight.square().sum())
    state.save(path)
    step = {"without": 0, "ahead": 2, "alike": 1}[others]

    def all_reduce(found, operation):
        assert operation == dist.ReduceOp.MAX
        found.copy_(found.maximum(torch.tensor([step, -step])))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    _, resumed = new_state(torch.zeros(3), batch_size=2)
    if others == "alike":
        resumed.resume(path)
        assert resumed.step == 1
        return
    with pytest.raises(TrainingError, match=r"same checkpoint .*run\.ckpt; put it"):
        resumed.resume(path)
    if others == "ahead":
        with pytest.raises(TrainingError, match="do not see the same checkpoint"):
            resumed.resume(tmp_path / "missing.ckpt")


def test_a_checkpoint_that_is_cut_short_is_damaged(tmp_path):
    _, state = new_state(torch.ones(3))
    path = tmp_path / "run.ckpt"
    state.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"run\.ckpt is damaged .*; delete it"):
        state.resume(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8\xff\xe0 a photograph", id="photograph"),
        pytest.param(save({}, {"styleplug": "{}"}), id="style"),
    ],
)
def test_what_is_no_checkpoint_is_not_to_be_deleted(tmp_path, content):
    _, state = new_state(torch.ones(3))
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(
        TrainingError, match=r"precious is not a checkpoint .*--from\.$"
    ):
        state.resume(path)


def test_a_checkpoint_of_other_weights_is_damaged(tmp_path):
    _, state = new_state(torch.ones(3))
    state.save(tmp_path / "run.ckpt")
    _, other = new_state(torch.ones(4))
    with pytest.raises(TrainingError, match=r"run\.ckpt is damaged"):
        other.resume(tmp_path / "run.ckpt")
