"""Folders to read: written by us or as others write them, and changed by somebody who means no good."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig, TrainingConfig
from model.interchange.reading import ModelFolder
from model.interchange.writing import write_model
from model.replica import Replica


def drawn(config: ModelConfig, seed: int = 1) -> NDArray[np.float32]:
    return Replica.initial(config, TrainingConfig(), seed).theta


def written(directory: Path, config: ModelConfig, **how: Any) -> NDArray[np.float32]:
    """A folder of ours with a model drawn at random; returns its parameters."""
    directory.mkdir(exist_ok=True)
    theta = drawn(config)
    write_model(directory, config, theta, end=None, **how)
    return theta


def read(directory: Path) -> tuple[ModelConfig, NDArray[np.float32], int]:
    folder = ModelFolder.open(directory)
    theta = np.zeros(folder.values, np.float32)
    return folder.config, theta, folder.read(theta)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the data behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path: Path, header: Mapping[str, Any] | bytes, data: bytes, *, length: int | None = None) -> None:
    """With this header, and perhaps a length that lies about it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
