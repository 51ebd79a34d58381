"""A model from a folder that anybody may have made: what it holds is known, and right, before a weight is read.

In this order: config.json becomes a decoder of ours or is refused; every file's header is checked against the file's own
size; tensors and decoder must agree name by name and shape by shape; and only then is memory taken for the weights, no more
than the files have bytes for. No pickle is opened.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.errors import InterchangeError
from model.interchange.config_json import from_document
from model.interchange.safetensors_file import FLOATS, HINT, Entry, SafetensorsFile, open_regular
from model.interchange.tensor_names import Piece, are_joined, pieces
from model.interchange.writing import CONFIG, INDEX, WEIGHTS
from model.layout import Layout
from model.limits import CONFIG_BYTES_MAX, INDEX_BYTES_MAX, SHARDS_MAX, TOKENIZER_BYTES_MAX

TOKENIZER: Final = "tokenizer.json"
_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.safetensors")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_CHECKED_AT_ONCE: Final = 1 << 22  # values


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose parts are known to fit one another. `values`: of the flat buffer."""

    path: Path
    config: ModelConfig
    files: Mapping[str, SafetensorsFile]  # by the tensor that is in it
    tensors: tuple[Piece, ...]

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """Everything but the weights themselves. Raises InterchangeError with the first thing that does not fit."""
        if not path.is_dir():
            raise InterchangeError(
                f"{path}: there is no such folder", "name one with config.json and model.safetensors"
            )
        try:
            config = from_document(_read_json(path / CONFIG, CONFIG_BYTES_MAX))
        except InterchangeError as problem:
            message = problem.message if str(path) in problem.message else f"{path}/{problem.message}"
            raise InterchangeError(message, problem.hint) from None
        files = _files(path)
        tensors = pieces(config, joined=are_joined(files))
        for piece in tensors:
            _check(path, files, piece)
        folder = cls(path, config, files, tensors)
        folder._check_nothing_is_left()
        return folder

    @property
    def values(self) -> int:
        return Layout.of(self.config).values

    def read(self, theta: NDArray[np.float32]) -> int:
        """All weights into a flat buffer of zeros.

        Returns how many were -0.0 or denormal, which no model of a network holds, and have become zero: logits stay the same
        to the last bit but one. Raises InterchangeError for NaN and infinity.
        """
        turned = 0
        for piece in self.tensors:
            part = theta[piece.offset : piece.offset + piece.count]
            self.files[piece.name].read(piece.name, part)
            for start in range(0, len(part), _CHECKED_AT_ONCE):
                turned += _make_canonical(
                    self.files[piece.name].path, piece.name, part[start : start + _CHECKED_AT_ONCE]
                )
        self._check_spare_head(theta)
        return turned

    def tokenizer(self) -> bytes | None:
        """Its `tokenizer.json`, or None where it has none. Raises InterchangeError."""
        path = self.path / TOKENIZER
        return _read(path, TOKENIZER_BYTES_MAX) if path.exists() else None

    def _check_nothing_is_left(self) -> None:
        known = {piece.name for piece in self.tensors}
        if self.config.tied_head:
            known.add(_HEAD)  # some folders hold it all the same
        for name in self.files:
            if name not in known and not name.endswith(".rotary_emb.inv_freq"):  # which is computed from the sizes
                raise _bad(self.files[name].path, f"{name[:100]} is no tensor of the model that config.json describes")
        if self.config.tied_head and _HEAD in self.files:
            _check(self.path, self.files, Piece(_HEAD, (self.config.vocabulary, self.config.width), 0))

    def _check_spare_head(self, theta: NDArray[np.float32]) -> None:
        """A head beside a tied one must be the same: transformers would not read it, another program would."""
        if not (self.config.tied_head and _HEAD in self.files):
            return
        embedding = next(piece for piece in self.tensors if piece.name == _EMBEDDING)
        head = np.zeros(embedding.count, np.float32)
        self.files[_HEAD].read(_HEAD, head)
        _make_canonical(self.files[_HEAD].path, _HEAD, head)
        if not np.array_equal(head, theta[embedding.offset : embedding.offset + embedding.count]):
            raise _bad(
                self.files[_HEAD].path, f"{_HEAD} is not {_EMBEDDING}, and config.json says tie_word_embeddings true"
            )


def memory_problem(size: int) -> str | None:
    """Why a model of so many bytes cannot be held by this machine, or None."""
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size <= held:
        return None
    return f"its parameters take {size / 2**30:.1f} GiB as float32, and this machine has {held / 2**30:.1f}"


def _files(path: Path) -> dict[str, SafetensorsFile]:
    """By the tensors in them."""
    if (path / WEIGHTS).exists():  # transformers looks for it first, too
        whole = SafetensorsFile.open(path / WEIGHTS)
        return dict.fromkeys(whole.entries, whole)
    if not (path / INDEX).exists():
        others = any(path.glob("*.bin")) or any(path.glob("*.pth"))
        hint = "it holds pickles, which may run code: save it as safetensors with transformers" if others else HINT
        raise InterchangeError(f"{path}: neither {WEIGHTS} nor {INDEX} is in it", hint)
    where = _read_json(path / INDEX, INDEX_BYTES_MAX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise _bad(path / INDEX, "it has no weight_map of tensors to files")
    names = sorted(set(where.values()))
    if len(names) > SHARDS_MAX:
        raise _bad(path / INDEX, f"{len(names)} files, at most {SHARDS_MAX} are allowed")
    for name in names:
        if not _SHARD_NAME.fullmatch(name):
            raise _bad(path / INDEX, f"{name[:60]!r} is no name of a file beside it")
    found: dict[str, SafetensorsFile] = {}
    for name in names:
        shard = SafetensorsFile.open(path / name)
        for tensor in shard.entries:
            if where.get(tensor) != name:
                raise _bad(path / INDEX, f"{tensor[:100]} is in {name}, and {INDEX} says {str(where.get(tensor))[:60]}")
            found[tensor] = shard
    if missing := sorted(where.keys() - found.keys()):
        raise _bad(path / INDEX, f"{missing[0][:100]} is not in {where[missing[0]]}")
    return found


def _check(path: Path, files: Mapping[str, SafetensorsFile], piece: Piece) -> None:
    file = files.get(piece.name)
    if file is None:
        raise _bad(path, f"{piece.name} is missing, which the model that config.json describes has")
    entry: Entry = file.entries[piece.name]
    if entry.shape != piece.shape:
        raise _bad(file.path, f"{piece.name} is {list(entry.shape)}, and config.json makes it {list(piece.shape)}")
    if entry.dtype not in FLOATS or entry.dtype == "I32":
        raise _bad(file.path, f"{piece.name} is {entry.dtype}; F32, BF16 and F16 can be read")


def _make_canonical(path: Path, name: str, values: NDArray[np.float32]) -> int:
    bits = values.view(np.uint32)
    exponents = bits & np.uint32(0x7F800000)
    if (exponents == 0x7F800000).any():
        raise _bad(path, f"{name} holds NaN or infinity")
    small = (exponents == 0) & (bits != 0)
    values[small] = 0
    return int(np.count_nonzero(small))


def _read_json(path: Path, bytes_max: int) -> dict[str, Any]:
    data = _read(path, bytes_max)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise _bad(path, f"not JSON ({' '.join(str(problem).split())[:100]})") from None
    if not isinstance(document, dict):
        raise _bad(path, "not a JSON object")
    return document


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(bytes_max + 1)
    except OSError as problem:
        raise _bad(path, problem.strerror or str(problem)) from None
    if len(data) > bytes_max:
        raise _bad(path, f"larger than {bytes_max} bytes")
    return data


def _bad(path: Path, what: str) -> InterchangeError:
    return InterchangeError(f"{path}: {what}", HINT)
