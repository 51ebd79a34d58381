"""The vote log: what this node has signed, made durable before it leaves.

One append-only file of length-prefixed, checksummed records (SPEC.md, D1 to D5). The records' contents belong to ``consensus.record``;
this module knows only how to keep bytes. It is not a database: it holds the current height alone, and ``prune`` rewrites it.

Rules for editing: append, then fdatasync, then return. A failed fdatasync is never retried (the kernel may have dropped the pages):
the log is closed for good and the node stops voting. A torn tail is cut, because a record whose append did not return was never sent;
damage before the tail means that something else wrote here, and the caller must not vote on what is left.
"""

import os
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from p2pnode.errors import why

_MAGIC = b"p2pnode-votes-1\n"
_HEAD = struct.Struct(">IIQ")  # length, crc32 of sequence and data, sequence
RECORD_BYTES_MAX = 4 << 20  # a proposal with its block and certificate stays below 1 MiB at 256 members
PRUNE_BYTES = 1 << 20  # rewriting costs two fsyncs, so it waits until the file is worth it


class VoteLogFault(Exception):
    """The log cannot be written any more: the node must stop voting."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a log holds: whole records in order, bytes of torn tail, and whether the file was damaged before its tail.

    ``begun`` is False where there is no log at all: no file, or one whose first line never reached the disk.
    """

    records: tuple[bytes, ...]
    torn_bytes: int
    damage: str | None
    begun: bool = True


class VoteLog:
    """An open vote log. Methods block; the caller runs them off the event loop, from any thread.

    ``anew`` replaces whatever the file holds, in one step: a log that was lost must not look like a good one for a moment. A damaged
    file is kept beside.
    """

    def __init__(self, path: Path, *, anew: Sequence[bytes] | None = None) -> None:
        self._path = path
        self._failed: str | None = None
        self._lock = threading.Lock()
        self.recovered, good_bytes, self._sequence = _read(path)
        if not self.recovered.begun or self.recovered.damage is not None or anew is not None:
            self._fd = self._rewrite(self.recovered.records if anew is None else anew)
        else:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._fd, good_bytes)
            os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, *records: bytes) -> None:
        """Make records durable, with one fdatasync for all of them.

        Raises:
            VoteLogFault: the disk refused, now or earlier.
        """
        if any(len(data) > RECORD_BYTES_MAX for data in records):
            raise VoteLogFault(f"a record above {RECORD_BYTES_MAX} bytes")
        with self._lock:
            if self._failed is not None:
                raise VoteLogFault(self._failed)
            frames = [_frame(self._sequence + offset, data) for offset, data in enumerate(records, start=1)]
            self._sequence += len(records)
            try:
                _write_all(self._fd, b"".join(frames))
                os.fdatasync(self._fd)
            except OSError as problem:
                self._fail("writing", problem)

    def prune(self, keep: Callable[[bytes], bool]) -> None:
        """Once the file is large, drop the records that ``keep`` does not want (those of decided heights).

        Raises:
            VoteLogFault: the disk refused.
        """
        with self._lock:  # an append between reading and renaming would be lost
            if self._failed is not None or os.lseek(self._fd, 0, os.SEEK_END) < PRUNE_BYTES:
                return
            try:
                recovered, _, _ = _read(self._path)
                fresh = self._rewrite([data for data in recovered.records if keep(data)])
            except OSError as problem:
                self._fail("rewriting", problem)
            os.close(self._fd)
            self._fd = fresh

    def close(self) -> None:
        with self._lock:
            self._failed = f"{self._path.name} is closed"
            os.close(self._fd)

    def _fail(self, doing: str, problem: OSError) -> NoReturn:
        self._failed = f"{doing} {self._path.name} failed: {why(problem)}"
        raise VoteLogFault(self._failed) from problem

    def _rewrite(self, keep: Sequence[bytes]) -> int:
        """Put a log of these records in the file's place, whole or not at all. Returns its descriptor."""
        fresh, damaged = self._path.with_suffix(".new"), self._path.with_suffix(".damaged")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, _MAGIC)
            for data in keep:
                self._sequence += 1
                _write_all(fd, _frame(self._sequence, data))
            os.fsync(fd)
            if self.recovered.damage is not None and not damaged.exists():
                damaged.hardlink_to(self._path)  # the evidence of what happened; the log itself is never absent
            fresh.rename(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd


def recover(path: Path) -> Recovered:
    """What the log at ``path`` holds, without opening it for writing."""
    return _read(path)[0]


def _frame(sequence: int, data: bytes) -> bytes:
    return _HEAD.pack(len(data), zlib.crc32(sequence.to_bytes(8, "big") + data), sequence) + data


def _read(path: Path) -> tuple[Recovered, int, int]:
    """Every whole record, the number of good bytes, and the last sequence number."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Recovered((), 0, None, begun=False), 0, 0
    if not content.startswith(_MAGIC):
        if _MAGIC.startswith(content):  # cut short while it was being created, or emptied since
            return Recovered((), len(content), None, begun=False), 0, 0
        return Recovered((), 0, "it does not begin like a vote log"), 0, 0
    records: list[bytes] = []
    offset, sequence = len(_MAGIC), 0
    while offset < len(content):
        record = _record_at(content, offset)
        if record is None:
            damaged = _record_follows(content, offset)
            damage = f"the record at byte {offset} is damaged" if damaged else None
            return Recovered(tuple(records), len(content) - offset, damage), offset, sequence
        data, sequence, offset = record
        records.append(data)
    return Recovered(tuple(records), 0, None), offset, sequence


def _record_at(content: bytes, offset: int) -> tuple[bytes, int, int] | None:
    if offset + _HEAD.size > len(content):
        return None
    length, checksum, sequence = _HEAD.unpack_from(content, offset)
    end = offset + _HEAD.size + length
    if length > RECORD_BYTES_MAX or end > len(content):
        return None
    data = content[offset + _HEAD.size : end]
    if zlib.crc32(sequence.to_bytes(8, "big") + data) != checksum:
        return None
    return data, sequence, end


def _record_follows(content: bytes, offset: int) -> bool:
    """Whether a whole record stands after a bad one: then this is no torn tail but damage.

    A record torn by a crash is the last thing in the file. The length field tells where the next would begin; where the length
    itself is damaged, every later offset is tried.
    """
    return any(_record_at(content, start) is not None for start in range(offset + 1, len(content) - _HEAD.size))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
