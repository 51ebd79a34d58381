"""A model as a folder of transformers: config.json, generation_config.json and the weights, in shards where it is large.

A pure function of the model: two exports of one model are equal to the byte. Nothing is made durable or put in place here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.interchange import safetensors_file
from model.interchange.config_json import to_document
from model.interchange.tensor_names import Piece, pieces
from model.limits import SHARD_BYTES, TENSORS_PER_FILE_MAX

CONFIG: Final = "config.json"
GENERATION: Final = "generation_config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


def write_model(
    directory: Path,
    config: ModelConfig,
    theta: NDArray[np.float32],
    *,
    end: int | None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Into a directory that is there. `theta`: the flat buffer. `end`: the token that ends a text.

    Raises InterchangeError where transformers has no such decoder, and OSError.
    """
    write_json(directory / CONFIG, to_document(config, end=end))
    write_json(directory / GENERATION, {"bos_token_id": None, "eos_token_id": end, "pad_token_id": None})
    shards = _shards(pieces(config), shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        tensors = [(p.name, theta[p.offset : p.offset + p.count].reshape(p.shape)) for p in shard]
        safetensors_file.write(directory / name, tensors)
    if len(shards) > 1:
        total = 4 * sum(piece.count for shard in shards for piece in shard)
        where = {piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard}
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """As transformers lays it out. Raises OSError."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(tensors: tuple[Piece, ...], shard_bytes: int) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    held = 0
    for piece in tensors:
        size = 4 * piece.count
        if shards[-1] and (held + size > shard_bytes or len(shards[-1]) == TENSORS_PER_FILE_MAX):
            shards.append([])
            held = 0
        shards[-1].append(piece)
        held += size
    return shards


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"
