"""A replica as a safetensors file: tensors without padding under their Llama names, `outer_momentum.` before the others.

The file says which model it holds: `model_config` and `training_config` are JSON in its metadata, beside the caller's
own entries. A file is a convenience, never evidence: what it holds counts once its root has been compared.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model.config import ModelConfig, TrainingConfig
from model.errors import ConfigError, SnapshotError
from model.files import write_atomically
from model.layout import Layout
from model.limits import SNAPSHOT_HEADER_BYTES_MAX

_MOMENTUM: Final = "outer_momentum."
_OWN: Final = ("model_config", "training_config")


def save(
    path: Path,
    *,
    config: ModelConfig,
    training: TrainingConfig,
    theta: NDArray[np.float32],
    momentum: NDArray[np.int32] | None,
    metadata: Mapping[str, str],
) -> None:
    """Atomically. Raises OSError."""
    assert not set(metadata) & set(_OWN)
    tensors: dict[str, NDArray[Any]] = {}
    for place in Layout.of(config).tensors:
        values = slice(place.offset, place.offset + place.count)
        tensors[place.name] = theta[values].reshape(place.shape)
        if momentum is not None:
            tensors[_MOMENTUM + place.name] = momentum[values].reshape(place.shape)
    own = {"model_config": json.dumps(config.to_dict()), "training_config": json.dumps(training.to_dict())}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata={**metadata, **own})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def read_metadata(path: Path) -> dict[str, str]:
    """The caller's own entries of `save`. Raises SnapshotError."""
    with _open(path) as file:
        return {key: value for key, value in (file.metadata() or {}).items() if key not in _OWN}


def read_header(path: Path) -> dict[str, str]:
    """All entries, the configurations of `save` among them. Raises SnapshotError."""
    with _open(path) as file:
        return dict(file.metadata() or {})


def load(path: Path) -> tuple[ModelConfig, TrainingConfig, NDArray[np.uint8]]:
    """The configurations and the canonical bytes (not yet known to be canonical). Raises SnapshotError."""
    with _open(path) as file:
        config, training = _configurations(path, file.metadata() or {})
        layout = Layout.of(config)
        names = {place.name for place in layout.tensors}
        if training.momentum_numerator:
            names |= {_MOMENTUM + place.name for place in layout.tensors}
        if set(file.keys()) != names:
            raise SnapshotError(f"{path}: not the tensors of the model that it names")
        state = np.zeros(layout.values * (8 if training.momentum_numerator else 4), np.uint8)
        theta = state[: 4 * layout.values].view(np.float32)
        momentum = state[4 * layout.values :].view(np.int32)
        for place in layout.tensors:
            values = slice(place.offset, place.offset + place.count)
            theta[values] = _tensor(path, file, place.name, place.shape, np.dtype(np.float32))
            if training.momentum_numerator:
                momentum[values] = _tensor(path, file, _MOMENTUM + place.name, place.shape, np.dtype(np.int32))
    return config, training, state


def _open(path: Path) -> Any:
    """The library itself would take a header of a hundred megabytes."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > SNAPSHOT_HEADER_BYTES_MAX:
            raise SnapshotError(
                f"{path}: a header of {header_bytes} bytes, at most {SNAPSHOT_HEADER_BYTES_MAX} are allowed"
            )
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path}: not a readable snapshot ({error})", "fetch it again from the network") from None


def _configurations(path: Path, metadata: Mapping[str, str]) -> tuple[ModelConfig, TrainingConfig]:
    try:
        model, training = (json.loads(metadata[key]) for key in _OWN)
        return ModelConfig.from_dict(dict(model)), TrainingConfig.from_dict(dict(training))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = error.message if isinstance(error, ConfigError) else "no valid configuration"
        raise SnapshotError(f"{path}: not a snapshot of p2pnode ({reason})") from None


def _tensor(path: Path, file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    tensor: NDArray[Any] = file.get_tensor(name)
    if tensor.shape != shape or tensor.dtype != dtype:
        raise SnapshotError(f"{path}: {name} is {tensor.dtype} {tensor.shape}, not {dtype} {shape}")
    return tensor.reshape(-1)
