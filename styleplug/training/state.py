"""Gradient descent, step by step: learning rate schedule, steps back, checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn

from ..errors import TrainingError
from ..files import write_or_warn
from ..optimizers import Adam, Muon
from .config import TrainConfig

logger = logging.getLogger(__name__)

SAVE_EVERY = 60.0
"""Seconds between two checkpoints."""
VECTORS = "vectors"
"""Name of the parameter that has its own learning rate."""
_FACTORS = "factors."
"""Prefix of the names of matrices that change kernels. They are trained with Muon: in
as many steps, it brings a style nearer to its artwork than Adam."""
_SQUARES_KEPT = 0.99
"""Adam's decay rate of squared gradients. A style is learned in some hundreds of steps,
over which gradients shrink. With the usual 0.999, the first gradients would slow it
down to the end."""
_KEEP_EVERY = 50
"""Steps between the states that are kept to return to if the loss is not finite."""
_OURS = tuple(
    b'{"__metadata__":{"%s":' % key.encode() for key in ("identity", "progress")
)
"""Possible beginnings of the header of a checkpoint."""
_GOOD = "good:"
"""Prefix, in a checkpoint, of the tensors of the last state to return to."""


class State:
    """The state that is carried from step to step and saved in checkpoints."""

    def __init__(
        self,
        learned: Mapping[str, Tensor],
        config: TrainConfig,
        identity: dict[str, Any],
    ) -> None:
        self.step = 0
        self.steps = config.steps
        """Number of steps in all."""
        self._config = config
        self._learned = learned
        self._identity = identity
        vectors = [p for name, p in learned.items() if name == VECTORS]
        factors = {name: p for name, p in learned.items() if name.startswith(_FACTORS)}
        known = {*vectors, *factors.values()}
        others = [p for p in learned.values() if p not in known]
        rates = [(others, 1.0), (vectors, config.vector_rate)]
        groups = [{"params": p, "times": times} for p, times in rates if p]
        adam = Adam(groups, betas=(0.9, _SQUARES_KEPT))
        self._optimizers: dict[str, torch.optim.Optimizer]
        self._optimizers = dict.fromkeys(learned, adam)
        if factors:
            muon = Muon([{"params": [*factors.values()], "times": 1.0}])
            self._optimizers |= dict.fromkeys(factors, muon)
        self._slowdown = 1.0
        self._average = 0.0
        """Running mean of the loss, over about the last hundred steps."""
        self._best = math.inf
        self._best_step = 0
        self._good = self._tensors()

    @property
    def stuck(self) -> bool:
        """Whether the loss has not fallen for as many steps as the patience allows."""
        patience = self._config.patience
        return 0 < patience <= self.step - self._best_step

    def descend(self, loss: Tensor) -> None:
        """Take one step; if gradients are not finite, step back and slow down."""
        rate = self._config.learning_rate * one_cycle(self.step / self.steps)
        for parameter in self._learned.values():
            parameter.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._learned.values(), 1.0)
        self.step += 1
        if not torch.isfinite(norm):
            self._step_back()
            return
        for optimizer in dict.fromkeys(self._optimizers.values()):
            for group in optimizer.param_groups:
                group["lr"] = rate * self._slowdown * group["times"]
            optimizer.step()
        if self.step % _KEEP_EVERY == 0:
            self._good = self._tensors()
        self._watch(loss.detach())

    def _watch(self, loss: Tensor) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        weight = max(0.01, 1 / self.step)
        self._average += weight * (loss.item() - self._average)
        warming = self.step <= self._config.patience
        if warming or self._average < 0.995 * self._best:
            self._best, self._best_step = self._average, self.step

    def _step_back(self) -> None:
        if self._slowdown == 1.0:
            logger.warning(
                "step %d: the loss is not finite; going on from the last good step "
                "with a lower learning rate",
                self.step,
            )
        self._slowdown /= 2
        if self._slowdown < 1e-3:
            raise TrainingError(
                "The loss does not stay finite; lower --learning-rate or "
                "--style-weight."
            )
        self._load(self._good)

    def _tensors(self) -> dict[str, Tensor]:
        """Return copies of the parameters and of their optimizer states."""
        tensors = {}
        for name, parameter in self._learned.items():
            tensors[name] = parameter.detach().clone().contiguous()
            for key, value in self._optimizers[name].state[parameter].items():
                tensors[f"{name}#{key}"] = value.clone().contiguous()
        return tensors

    def _load(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._learned.items():
            parameter.data.copy_(tensors[name])
            known = {
                key.removeprefix(f"{name}#"): tensor.clone()
                for key, tensor in tensors.items()
                if key.startswith(f"{name}#")
            }
            for key in known.keys() - {"step"}:
                known[key] = known[key].to(parameter.device)
            self._optimizers[name].state[parameter] = known

    def save(self, path: Path) -> None:
        """Write a checkpoint; if that fails, log a warning and keep the last one."""
        progress = {
            "step": self.step,
            "steps": self.steps,
            "slowdown": self._slowdown,
            "average": self._average,
            "best": self._best,
            "best_step": self._best_step,
        }
        called = f"the checkpoint of step {self.step}"
        good = {f"{_GOOD}{name}": tensor for name, tensor in self._good.items()}
        tensors = self._tensors() | good
        save_checkpoint(path, tensors, self._identity, progress, called)

    def resume(self, path: Path) -> None:
        """Resume from the checkpoint ``path`` if it exists; raise if only some of
        several processes do."""
        if path.exists():
            self._read(path)
        if process_and_count(self._config)[1] == 1:
            return
        device = next(iter(self._learned.values())).device
        steps = torch.tensor([self.step, -self.step], device=device)
        dist.all_reduce(steps, dist.ReduceOp.MAX)
        if steps.sum() != 0:
            raise TrainingError(
                f"The processes do not see the same checkpoint {path}; put it into a "
                "folder that all machines share."
            )

    def _read(self, path: Path) -> None:
        tensors, progress = load_checkpoint(path, self._identity)
        good = {
            name.removeprefix(_GOOD): tensor
            for name, tensor in tensors.items()
            if name.startswith(_GOOD)
        }
        try:
            self._load(good)
            self._load(tensors)
            self.step = int(progress["step"])
            self.steps = int(progress["steps"])
            self._slowdown = float(progress["slowdown"])
            self._average = float(progress["average"])
            self._best = float(progress["best"])
            self._best_step = int(progress["best_step"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from error
        self._good = good


def save_checkpoint(
    path: Path,
    tensors: dict[str, Tensor],
    identity: dict[str, Any],
    progress: dict[str, Any],
    called: str,
) -> None:
    """Write a checkpoint; if that fails, log a warning and keep the last one.

    ``identity`` holds what must be equal in a training that resumes from it.
    """
    metadata = {"progress": json.dumps(progress), "identity": json.dumps(identity)}
    data = save(tensors, metadata=metadata)
    write_or_warn(path, lambda file: file.write(data), called)


def identify(files: Sequence[Path]) -> list[str]:
    """Return entries of files for an identity: their names and hashes of contents."""
    return [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files
    ]


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """Return a hash of tensors for an identity."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_checkpoint(
    path: Path, identity: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the progress of a checkpoint with the same identity.

    Raises :class:`~styleplug.errors.TrainingError` when the file belongs to another
    training, is damaged, is not a checkpoint, or cannot be read.
    """
    try:
        with path.open("rb") as raw:
            ours = raw.read(100)[8:].startswith(_OURS)
    except OSError as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read ({error.strerror}); allow it, or "
            "name another file."
        ) from error
    if not ours:
        raise TrainingError(
            f"{path} is not a checkpoint of 'styleplug train'; name another file. To "
            "start from a style, use --from."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            # Copies: a file that is still mapped cannot be replaced on Windows.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        progress = dict(json.loads(metadata["progress"]))
        found = _flat(json.loads(metadata["identity"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    wanted = _flat(json.loads(json.dumps(identity)))
    if found != wanted:
        names = sorted(
            name for name in found | wanted if found.get(name) != wanted.get(name)
        )
        raise TrainingError(
            f"The checkpoint {path} belongs to another training, which differs in "
            f"{', '.join(names)}; name another file, or give the settings it was made "
            "with."
        )
    return tensors, progress


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the settings of its config among its other entries."""
    return {**identity, **identity.get("config", {}), "config": None}


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"The checkpoint {path} is damaged ({error}); delete it to start anew."
    )


def step_rng(seed: int, step: int) -> Generator:
    """Return the generator of a step, so that a resumed run draws the same numbers."""
    return Generator().manual_seed(seed * 1_000_003 + step + 1)


def one_cycle(progress: float) -> float:
    warmup = 0.05
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def process_and_count(config: TrainConfig) -> tuple[int, int]:
    """Return the number of this process, and of processes that share the work."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    processes = dist.get_world_size()
    if config.batch_size % processes:
        raise TrainingError(
            f"{processes} processes cannot share batches of {config.batch_size}; "
            f"choose a --batch-size that is a multiple of {processes}."
        )
    return dist.get_rank(), processes
