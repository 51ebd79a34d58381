"""The file that lets a trainer go on after a restart: AdamW's moments, the count of steps, the error feedback.

Private to a node. Losing it costs a little speed of learning, never agreement, so every fault is one SnapshotError and
the daemon starts afresh.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model import compression
from model.error_feedback import ErrorFeedback, Pending
from model.errors import PayloadError, SnapshotError
from model.files import write_atomically
from model.layout import Layout

_FORMAT: Final = "p2pnode-trainer-1"
Moments = tuple[NDArray[np.float32], NDArray[np.float32], int]  # first, second, steps that they saw


@dataclass(frozen=True, slots=True)
class TrainerState:
    steps: int
    moments: Moments | None
    feedback: ErrorFeedback


def save(path: Path, *, owner: str, steps: int, moments: Moments | None, feedback: ErrorFeedback) -> None:
    """Atomically. Raises OSError."""
    tensors: dict[str, NDArray[Any]] = {"residual": feedback.residual}
    metadata = {"format": _FORMAT, "owner": owner, "steps": str(steps)}
    if moments is not None:
        tensors["first"], tensors["second"], count = moments
        metadata["moment_steps"] = str(count)
    if feedback.pending is not None:
        tensors["pending"] = np.frombuffer(feedback.pending.payload, np.uint8)
        metadata["pending_height"] = str(feedback.pending.height)

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def load(path: Path, *, owner: str, layout: Layout) -> TrainerState:
    """Raises SnapshotError for a missing or damaged file, or one of another owner or model."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path}: no readable trainer state ({error})") from None
    if metadata.get("format") != _FORMAT or metadata.get("owner") != owner:
        raise SnapshotError(f"{path}: the trainer state of another node or network")
    try:
        return _state(metadata, tensors, layout)
    except (KeyError, ValueError) as error:
        raise SnapshotError(f"{path}: a damaged trainer state ({error})") from None


def _state(metadata: dict[str, str], tensors: dict[str, NDArray[Any]], layout: Layout) -> TrainerState:
    feedback = ErrorFeedback(layout)
    feedback.residual = _flat(tensors["residual"], layout)
    if "pending" in tensors:
        feedback.pending = Pending(int(metadata["pending_height"]), tensors["pending"].tobytes())
        try:
            compression.check(feedback.pending.payload, layout)
        except PayloadError as error:
            raise ValueError(error.reason) from None
    moments: Moments | None = None
    if "first" in tensors:
        count = int(metadata["moment_steps"])
        moments = _flat(tensors["first"], layout), _flat(tensors["second"], layout), count
    return TrainerState(int(metadata["steps"]), moments, feedback)


def _flat(tensor: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    if tensor.shape != (layout.values,) or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
        raise ValueError("a tensor of another model")
    return tensor
