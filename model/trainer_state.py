"""The file that lets a trainer go on after a restart: the optimizer's memory, the count of steps, the error feedback.

What is not in it, because it follows from the height: the parameters (the agreed model), the rate's place in its schedule,
the place in the text, and what a step draws at random. So a node that is stopped between rounds goes on with the same bits.

Private to a node. Losing it costs a little speed of learning, never agreement, so every fault is one SnapshotError and
the daemon starts afresh.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model import compression
from model.error_feedback import ErrorFeedback, Pending
from model.errors import PayloadError, SnapshotError
from model.files import write_atomically
from model.layout import Layout
from model.learner import Learner
from model.precision import LossScaler

_FORMAT: Final = "p2pnode-trainer-2"
_MEMORY: Final = "optimizer."


@dataclass(frozen=True, slots=True)
class TrainerState:
    steps: int
    memory: Mapping[str, NDArray[np.float32]]  # of the optimizer, by its own names
    scaler: tuple[float, int] | None  # of the loss, under fp16: scale, good steps since it changed
    feedback: ErrorFeedback


def take(learner: Learner, feedback: ErrorFeedback) -> TrainerState:
    """The state as it is: on a CPU views of memory that the next step changes."""
    memory = {name: tensor.cpu().numpy() for name, tensor in learner.optimizer.state().items()}
    scaler = None if learner.scaler is None else (learner.scaler.scale, learner.scaler.good_steps)
    return TrainerState(learner.steps, memory, scaler, feedback)


def give(state: TrainerState, learner: Learner) -> None:
    """Into a learner of the same kind, whatever its precision: where that needs no scale, or has none yet, so be it."""
    learner.steps = state.steps
    for name, tensor in learner.optimizer.state().items():
        tensor.copy_(torch.from_numpy(state.memory[name]))
    if learner.scaler is not None and state.scaler is not None:
        learner.scaler = LossScaler(*state.scaler)


def save(path: Path, *, owner: str, state: TrainerState) -> None:
    """Atomically. Raises OSError."""
    tensors: dict[str, NDArray[Any]] = {_MEMORY + name: array for name, array in state.memory.items()}
    tensors["residual"] = state.feedback.residual
    metadata = {"format": _FORMAT, "owner": owner, "steps": str(state.steps)}
    if state.scaler is not None:
        scale, good_steps = state.scaler
        metadata |= {"loss_scale": str(scale), "loss_scale_steps": str(good_steps)}
    if (pending := state.feedback.pending) is not None:
        tensors["pending"] = np.frombuffer(pending.payload, np.uint8)
        metadata["pending_height"] = str(pending.height)

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def load(path: Path, *, owner: str, like: Learner) -> TrainerState:
    """Raises SnapshotError for a missing or damaged file, or one of another owner, model or optimizer than `like`'s."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path}: no readable trainer state ({error})") from None
    if metadata.get("format") != _FORMAT:
        raise SnapshotError(f"{path}: the trainer state of another version")
    if metadata.get("owner") != owner:
        raise SnapshotError(f"{path}: the trainer state of another node or network")
    try:
        return TrainerState(
            steps=int(metadata["steps"]),
            memory={
                name: _tensor(tensors[_MEMORY + name], tuple(tensor.shape))
                for name, tensor in like.optimizer.state().items()
            },
            scaler=_scaler(metadata),
            feedback=_feedback(metadata, tensors, like.flat.layout),
        )
    except (KeyError, ValueError) as error:
        raise SnapshotError(f"{path}: a damaged trainer state ({error})") from None


def _scaler(metadata: dict[str, str]) -> tuple[float, int] | None:
    if "loss_scale" not in metadata:
        return None
    scale, good_steps = float(metadata["loss_scale"]), int(metadata["loss_scale_steps"])
    if not 1 <= scale <= 2.0**32 or good_steps < 0:
        raise ValueError(f"a loss scale of {scale}")
    return scale, good_steps


def _feedback(metadata: dict[str, str], tensors: dict[str, NDArray[Any]], layout: Layout) -> ErrorFeedback:
    feedback = ErrorFeedback(layout)
    feedback.residual = _tensor(tensors["residual"], (layout.values,))
    if "pending" in tensors:
        feedback.pending = Pending(int(metadata["pending_height"]), tensors["pending"].tobytes())
        try:
            compression.check(feedback.pending.payload, layout)
        except PayloadError as error:
            raise ValueError(error.reason) from None
    return feedback


def _tensor(tensor: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if tensor.shape != shape or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
        raise ValueError("a tensor of another model")
    return tensor
