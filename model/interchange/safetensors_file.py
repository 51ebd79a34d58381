"""The safetensors format, strictly: a header that describes every byte of the file behind it, and nothing else.

    length of the header u64, little-endian | header, JSON | data

The header is {name: {"dtype", "shape", "data_offsets": [begin, end]}}, with "__metadata__" of strings beside the tensors
(the format's own description, huggingface/safetensors on GitHub). A file comes from anybody: nothing is read that its size
does not hold, nothing is allocated that it only claims, and no byte may belong to two tensors or to none.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from model.errors import InterchangeError
from model.limits import TENSOR_HEADER_BYTES_MAX

HINT: Final = "fetch the folder again from where it came"
# Of those that a decoder's parameters come in; the others (integers, eight bits, doubles) are refused by name.
FLOATS: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),  # the outer momentum
}
_BITS: Final = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
}  # fmt: skip
_AXES_MAX: Final = 8  # a decoder's parameters have three at most
_READ_AT_ONCE: Final = 1 << 22  # values


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor: bytes [begin, end) of the file's data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A file whose header has been checked against its size. `data`: where the data begins."""

    path: Path
    entries: Mapping[str, Entry]
    data: int

    @classmethod
    def open(cls, path: Path) -> "SafetensorsFile":
        """Raises InterchangeError."""
        try:
            with open_regular(path) as file:
                size = file.seek(0, SEEK_END)
                file.seek(0)
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > size - 8:
                    raise _bad(path, f"its header of {length} bytes is longer than the file")
                if length > TENSOR_HEADER_BYTES_MAX:
                    raise _bad(path, f"a header of {length} bytes, at most {TENSOR_HEADER_BYTES_MAX} are allowed")
                header = file.read(length)
        except OSError as problem:
            raise _bad(path, problem.strerror or str(problem)) from None
        entries = _entries(path, header)
        _check_offsets(path, entries, size - 8 - length)
        return cls(path, entries, 8 + length)

    def read(self, name: str, out: NDArray[Any]) -> None:
        """All values of a tensor, in their order, into `out`: float32, or int32 where the file holds these.

        Sixteen bits become thirty-two, a piece at a time. Raises InterchangeError.
        """
        entry = self.entries[name]
        kind = FLOATS[entry.dtype]
        try:
            with open_regular(self.path) as file:
                file.seek(self.data + entry.begin)
                for start in range(0, len(out), _READ_AT_ONCE):
                    part = out[start : start + _READ_AT_ONCE]
                    raw = np.fromfile(file, kind, len(part))
                    if len(raw) != len(part):
                        raise _bad(self.path, f"it ends within {name}")
                    part[:] = _widened(raw) if entry.dtype == "BF16" else raw
        except OSError as problem:
            raise _bad(self.path, problem.strerror or str(problem)) from None


def open_regular(path: Path) -> BinaryIO:
    """A file to be read, and no pipe or device, which might never end. Raises OSError."""
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # of a pipe, opening alone waits for a writer
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a file")
    return os.fdopen(descriptor, "rb")


def write(path: Path, tensors: Sequence[tuple[str, NDArray[Any]]]) -> None:
    """A file of these tensors in this order, float32 or int32 and contiguous, not copied. Raises OSError."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it; the layout is torch's
    offset = 0
    for name, values in tensors:
        assert values.dtype in (np.float32, np.int32) and values.flags.c_contiguous
        dtype = "F32" if values.dtype == np.float32 else "I32"
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begin on eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, values in tensors:
            file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).data)


def _widened(half: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (half.astype("<u4") << 16).view("<f4")


def _entries(path: Path, header: bytes) -> dict[str, Entry]:
    try:
        document = json.loads(header, object_pairs_hook=_no_name_twice)
        if not isinstance(document, dict):
            raise ValueError("no object")
        return {name: _entry(name, value) for name, value in document.items() if name != "__metadata__"}
    except (ValueError, RecursionError) as problem:
        raise _bad(path, f"its header is none: {' '.join(str(problem).split())[:200]}") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:100]!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{name[:100]!r} is of an unknown type {str(dtype)[:20]!r}")
    if not _are_sizes(shape) or len(shape) > _AXES_MAX:
        raise ValueError(f"{name[:100]!r} has no shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name[:100]!r} has no two data_offsets")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _check_offsets(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    """Tensors lie one behind the other, and fill the data."""
    at, before = 0, "the header"
    for name, entry in _in_order(entries):
        if entry.begin < at:
            raise _bad(path, f"{name[:100]} overlaps {before[:100]}")
        if entry.begin > at:
            raise _bad(path, f"{entry.begin - at} bytes between {before[:100]} and {name[:100]} belong to no tensor")
        if entry.end > size:
            raise _bad(path, f"{name[:100]} ends at byte {entry.end} of its data, which has {size}")
        wanted = _BITS[entry.dtype] // 8
        for length in entry.shape:
            wanted *= length
        if entry.end - entry.begin != wanted:
            raise _bad(path, f"{name[:100]} has {entry.end - entry.begin} bytes; its shape takes {wanted}")
        at, before = entry.end, name
    if at != size:
        raise _bad(path, f"{size - at} bytes at its end belong to no tensor")


def _in_order(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    yield from sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))


def _bad(path: Path, what: str) -> InterchangeError:
    return InterchangeError(f"{path}: {what}", HINT)
