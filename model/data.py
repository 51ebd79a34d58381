"""The text that a network trains on, as tokens: who reads which of them follows from public values.

A batch is a function of (chain id, height, author, step) through SHA-256 in counter mode and integers alone, so that
anyone can recompute it. Eight slices spread over the text, one twentieth in all, are held out: no training window
overlaps them, and evaluation reads nothing else.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.errors import CorpusError
from model.limits import (
    CORPUS_BYTES_MAX,
    DEFAULT_CORPUS_BYTES,
    EVALUATION_WINDOWS,
    HELD_OUT_DIVISOR,
    HELD_OUT_SLICES,
    SOURCE_FILE_BYTES_MAX,
)
from model.words import BYTES, Words

_DOMAIN: Final = b"p2pnode-batch-v1"
_HINT: Final = "give more with --data, or leave it out to use the source of Python's standard library"
_LOST_HINT: Final = "restart the node: it fetches the text again from its peers"
_CHECKED_AT_ONCE: Final = 1 << 20  # tokens; a few megabytes
_SKIPPED: Final = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"})


class Corpus:
    """One text, cut for windows of `sequence` + 1 tokens. Raises CorpusError where it is too small or too large.

    A `CorpusFile` is read where a batch needs it, and nowhere else: however large it is, it takes no memory.
    """

    def __init__(self, data: "bytes | CorpusFile", sequence: int = 128, *, words: Words = BYTES) -> None:
        least, name = smallest_corpus(sequence), "bytes" if words == BYTES else "tokens"
        if len(data) > CORPUS_BYTES_MAX:
            raise CorpusError(f"the text is larger than {CORPUS_BYTES_MAX} bytes", "give a part of it")
        if len(data) % words.width:
            raise CorpusError(f"the text has {len(data)} bytes, which are no words of {words.width}")
        self.tokens = len(data) // words.width
        if self.tokens < least:
            size = "empty" if not self.tokens else f"only {self.tokens} {name} long"
            raise CorpusError(f"the text is {size}; windows of {sequence} {name} need at least {least}", _HINT)
        self.data = data
        self.words = words
        self.sequence = sequence
        segment = self.tokens // HELD_OUT_SLICES
        held_out = self.tokens // (HELD_OUT_SLICES * HELD_OUT_DIVISOR)
        edges = [index * segment for index in range(HELD_OUT_SLICES)] + [self.tokens]
        # each segment ends with its held-out slice
        self.training_ranges = tuple(range(start, stop - held_out) for start, stop in pairwise(edges))
        self.held_out_ranges = tuple(range(stop - held_out, stop) for stop in edges[1:])

    def batch(self, count: int, *, chain_id: bytes, height: int, author: bytes, step: int) -> NDArray[np.int64]:
        """The `count` training windows of one local step, (count, sequence + 1). Negative: as `Words.unpack` has it.

        Raises CorpusError where the file cannot be read any more.
        """
        choices = [len(span) - self.sequence for span in self.training_ranges]
        total = sum(choices)
        starts: list[int] = []
        for number in _uniform_numbers(_batch_key(chain_id, height, author, step), count):
            choice = number * total >> 64  # the bias, total / 2^64, is below 2^-28
            for span, size in zip(self.training_ranges, choices, strict=True):
                if choice < size:
                    starts.append(span.start + choice)
                    break
                choice -= size
        return self._windows(starts)

    def held_out(self) -> NDArray[np.int64]:
        """The fixed evaluation windows, (64, sequence + 1), evenly spread over every held-out slice."""
        each = EVALUATION_WINDOWS // HELD_OUT_SLICES
        starts = [
            span.start + index * (len(span) - self.sequence - 1) // (each - 1)
            for span in self.held_out_ranges
            for index in range(each)
        ]
        return self._windows(starts)

    def check(self, vocabulary: int) -> None:
        """Read all of it: every token must be one of the vocabulary's. Raises CorpusError."""
        width = self.words.width
        for start in range(0, self.tokens, _CHECKED_AT_ONCE):
            (piece,) = self._read([start], min(_CHECKED_AT_ONCE, self.tokens - start))
            largest = self.words.largest(piece)
            if largest >= vocabulary:
                raise CorpusError(f"the text has a token {largest}, and the vocabulary {vocabulary} (words of {width})")

    def _windows(self, starts: list[int]) -> NDArray[np.int64]:
        return np.stack([self.words.unpack(piece) for piece in self._read(starts, self.sequence + 1)])

    def _read(self, starts: list[int], tokens: int) -> list[bytes]:
        """So many tokens from each place on."""
        width = self.words.width
        if isinstance(self.data, CorpusFile):
            return self.data.read([start * width for start in starts], tokens * width)
        return [self.data[start * width : (start + tokens) * width] for start in starts]


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A text on the disk. Read and not mapped: a file that has become shorter is an error then, and no end of the process."""

    path: Path
    length: int  # bytes

    def __len__(self) -> int:
        return self.length

    def read(self, offsets: list[int], size: int) -> list[bytes]:
        """`size` bytes from each of the offsets on. Raises CorpusError."""
        pieces = []
        try:
            with self.path.open("rb", buffering=0) as file:
                for offset in offsets:
                    pieces.append(os.pread(file.fileno(), size, offset))
        except OSError as error:
            raise CorpusError(f"{self.path}: the text cannot be read ({error.strerror})", _LOST_HINT) from None
        if any(len(piece) != size for piece in pieces):
            raise CorpusError(f"{self.path}: the text is shorter than it was", _LOST_HINT)
        return pieces


def smallest_corpus(sequence: int) -> int:
    """In tokens: each held-out slice must hold one whole window."""
    return HELD_OUT_SLICES * HELD_OUT_DIVISOR * (sequence + 1)


def default_corpus() -> bytes:
    """The first 4 MiB of Python's standard library as source text, in sorted order: real text on every machine.

    Machines with another Python have another text; the founder's is the network's and travels by its digest.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    parts: list[bytes] = []
    size = 0
    for path in _source_files(library):
        try:
            if not path.is_file() or path.stat().st_size > SOURCE_FILE_BYTES_MAX:
                continue
            text = path.read_bytes()
        except OSError:
            continue  # unreadable to this user: the text is whatever can be read
        parts.append(text)
        size += len(text)
        if size >= DEFAULT_CORPUS_BYTES:
            break
    data = b"".join(parts)[:DEFAULT_CORPUS_BYTES]
    if not data:
        raise CorpusError(f"{library}: no source text of Python's standard library here", "give a text with --data")
    return data


def _source_files(library: Path) -> Iterator[Path]:
    """Every source file, in an order that does not depend on the file system; tests and other people's packages not."""
    for directory, below, names in os.walk(library):
        below[:] = sorted(name for name in below if name not in _SKIPPED)
        yield from (Path(directory, name) for name in sorted(names) if name.endswith(".py"))


def _batch_key(chain_id: bytes, height: int, author: bytes, step: int) -> bytes:
    assert len(chain_id) == 32 and len(author) == 32
    fields = _DOMAIN + chain_id + height.to_bytes(8, "big") + author + step.to_bytes(4, "big")
    return hashlib.sha256(fields).digest()


def _uniform_numbers(key: bytes, count: int) -> list[int]:
    """`count` integers, uniform in [0, 2^64): four from each SHA-256 of the key and a counter."""
    blocks = (hashlib.sha256(key + block.to_bytes(8, "big")).digest() for block in range(-(-count // 4)))
    stream = b"".join(blocks)
    return [int.from_bytes(stream[8 * index : 8 * index + 8], "big") for index in range(count)]
