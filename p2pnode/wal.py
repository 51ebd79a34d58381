"""The vote log: what this node has signed, made durable before it leaves.

One file of 512-byte sectors (SPEC.md, D1 to D5). The records' contents belong to ``vote_records``; this module knows only how to keep
bytes. It is not a database: it holds the current height alone, and ``prune`` rewrites it.

    sector    A5 | append u64 | index u16 | count u16 | used u16 | bytes 0..492, zero-filled | crc32 of all before | 5A
    sector 0  append 0, the file's name; then each append in ``count`` sectors of its own: its records, each behind its length u32
    the rest  zeros: what is written later overwrites blocks that the file owns already, so a flush need not write metadata

An append is one write and one flush, and counts whole or not at all. A loss of power leaves of the last append any of its sectors, or the
beginning of one, and zeros; it was never acknowledged, so it is cut. A flipped bit looks like nothing of the kind, wherever it is: every
sector that was written has a checksum and ends in 5A, every other byte is zero, and no single bit makes one of the other. So damage is
told from a torn tail, in the last record and behind it, too.

Rules for editing: append, then flush, then return. No sector is written twice, so a torn write cannot reach what was acknowledged. A
failed flush is never retried (the kernel may have dropped the pages): the log is closed for good and the node stops voting. On damage the
caller must not vote on what is left.
"""

import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from p2pnode.errors import why
from p2pnode.files import FILES, Files, sync_at, write_whole

SECTOR_BYTES = 512  # what disks write whole, or at worst from the front
RECORD_BYTES_MAX = 4 << 20  # a proposal with its block and certificate stays below 1 MiB at 256 members
STEP_BYTES = 256 << 10  # thirty heights of four nodes; the file grows by so many zeros at a time
PRUNE_BYTES = 1 << 20  # rewriting costs three flushes, so it waits until the file is worth it
QUICK_SECONDS = 0.002  # a thread and back takes about as long where all cores have work
BEGUN_SUFFIX = ".begun"  # of the marker beside the log: there has been one

_FAMILY = b"p2pnode-votes-"
_NAME = _FAMILY + b"2\n"
_HEAD = struct.Struct(">BQHHH")  # mark, append, index, count, used
_PLACE = 11  # bytes of the head that are known before the sector is: mark, append, index
_MARK, _END = 0xA5, 0x5A  # no single bit turns either to zero
_ROOM = SECTOR_BYTES - _HEAD.size - 5
_LENGTH = struct.Struct(">I")
_ZEROS = bytes(SECTOR_BYTES)


class VoteLogFault(Exception):
    """The log cannot be written any more: the node must stop voting."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a log holds: records in order, bytes of torn tail, and what is wrong with it.

    ``begun`` is False where there is no log; ``lost`` says that there has been one, as the marker beside it shows.
    """

    records: tuple[bytes, ...]
    torn_bytes: int = 0
    damage: str | None = None
    begun: bool = True
    lost: bool = False


class VoteLog:
    """An open vote log. Methods block; the caller runs them off the event loop, from any thread (``append`` on it, where ``is_quick``).

    ``anew`` replaces whatever the file holds, in one step: a log that was lost must not look like a good one for a moment. A damaged
    file is kept beside.
    """

    def __init__(self, path: Path, *, anew: Sequence[bytes] | None = None) -> None:
        self._path = path
        self._files = FILES.get()
        self._failed: str | None = None
        self._lock = threading.Lock()
        self._append_seconds = (
            5 * QUICK_SECONDS
        )  # on average, lately; slow until a dozen of appends have shown otherwise
        content = _content(self._files, path)
        self.recovered, self._appends, self._end = _read(content, lost=_marked(self._files, path))
        whole = self.recovered.damage is None and not self.recovered.torn_bytes
        if content is not None and whole and anew is None:
            self._descriptor = self._files.open(path)
            self._size = len(content)
        else:
            self._descriptor = self._rewrite(self.recovered.records if anew is None else anew)
        if not _marked(self._files, path):
            write_whole(self._files, _marker(path), b"")

    def append(self, *records: bytes) -> None:
        """Make records durable, with one flush for all of them; after a crash all of them are there or none.

        Raises:
            VoteLogFault: the disk refused, now or earlier.
        """
        if sum(map(len, records)) > RECORD_BYTES_MAX:
            raise VoteLogFault(f"records above {RECORD_BYTES_MAX} bytes")
        if not records:
            return
        with self._lock:
            self._check_usable()
            began = time.perf_counter()
            data = b"".join(_sectors(self._appends + 1, records))
            try:
                if self._end + len(data) > self._size:
                    self._extend(len(data))
                self._files.write(self._descriptor, data, offset=self._end)
                self._files.sync_data(self._descriptor)
            except OSError as problem:
                self._fail("writing", problem)
            self._appends += 1
            self._end += len(data)
            self._append_seconds += (time.perf_counter() - began - self._append_seconds) / 8

    @property
    def is_quick(self) -> bool:
        """Whether an append takes so little here that it may be done on the event loop, and nobody else writes now. Does not block."""
        return self._append_seconds < QUICK_SECONDS and not self._lock.locked()

    @property
    def needs_care(self) -> bool:
        """Whether ``prune`` has something to do. Does not block."""
        return self._end >= PRUNE_BYTES or self._size - self._end < STEP_BYTES // 2

    def prune(self, keep: Callable[[bytes], bool]) -> None:
        """Once the file is large, drop the records that ``keep`` does not want (those of decided heights); see that there is room.

        Raises:
            VoteLogFault: the disk refused.
        """
        with self._lock:  # an append between reading and renaming would be lost
            if self._failed is not None:
                return
            try:
                if self._end >= PRUNE_BYTES:
                    recovered = _read(_content(self._files, self._path), lost=False)[0]
                    fresh = self._rewrite([data for data in recovered.records if keep(data)])
                    self._files.close(self._descriptor)
                    self._descriptor = fresh
                elif self._size - self._end < STEP_BYTES // 2:
                    self._extend(0)
            except OSError as problem:
                self._fail("rewriting", problem)

    def close(self) -> None:
        with self._lock:
            self._failed = f"{self._path.name} is closed"
            self._files.close(self._descriptor)

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise VoteLogFault(self._failed)

    def _fail(self, doing: str, problem: OSError) -> NoReturn:
        self._failed = f"{doing} {self._path.name} failed: {why(problem)}"
        raise VoteLogFault(self._failed) from problem

    def _extend(self, needed: int) -> None:
        """More zeros behind the end. Flushed, so that the appends that come overwrite what is on the disk."""
        size = self._size + needed + STEP_BYTES
        self._files.write(self._descriptor, bytes(size - self._size), offset=self._size)
        self._files.sync(self._descriptor)
        self._size = size

    def _rewrite(self, keep: Sequence[bytes]) -> int:
        """Put a log of these records in the file's place, whole or not at all. Returns its descriptor."""
        fresh, damaged = self._path.with_suffix(".new"), self._path.with_suffix(".damaged")
        parts = list(_sectors(0, (_NAME,)))
        for number, data in enumerate(keep, start=1):
            parts += _sectors(number, (data,))
        content = b"".join(parts)
        descriptor = self._files.create(fresh)
        try:
            size = len(content) + STEP_BYTES
            self._files.write(descriptor, content + bytes(size - len(content)), offset=0)
            self._files.sync(descriptor)
            if self.recovered.damage is not None and not self._files.exists(damaged):
                self._files.link(self._path, damaged)  # the evidence of what happened; the log itself is never absent
            self._files.rename(fresh, self._path)
            sync_at(self._files, self._path.parent)
        except BaseException:
            self._files.close(descriptor)
            raise
        self._appends, self._end, self._size = len(keep), len(content), size
        return descriptor


def recover(path: Path) -> Recovered:
    """What the log at ``path`` holds, without opening it for writing."""
    files = FILES.get()
    return _read(_content(files, path), lost=_marked(files, path))[0]


def _marker(path: Path) -> Path:
    return path.with_suffix(BEGUN_SUFFIX)


def _marked(files: Files, path: Path) -> bool:
    return files.exists(_marker(path))


def _content(files: Files, path: Path) -> bytes | None:
    try:
        return files.read(path)
    except FileNotFoundError:
        return None


# --- sectors ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sector:
    append: int
    index: int
    count: int
    data: bytes


def _sectors(append: int, records: Sequence[bytes]) -> Iterator[bytes]:
    stream = b"".join(_LENGTH.pack(len(data)) + data for data in records)
    count = -(-len(stream) // _ROOM)
    for index in range(count):
        data = stream[index * _ROOM : (index + 1) * _ROOM]
        body = _HEAD.pack(_MARK, append, index, count, len(data)) + data.ljust(_ROOM, b"\0")
        yield body + _LENGTH.pack(zlib.crc32(body)) + bytes((_END,))


def _sector(content: bytes, offset: int) -> _Sector | None:
    """The sector here, if one was written here and has not changed since."""
    raw = content[offset : offset + SECTOR_BYTES]
    if len(raw) < SECTOR_BYTES or raw[-1] != _END or raw[0] != _MARK:
        return None
    if zlib.crc32(raw[:-5]) != _LENGTH.unpack_from(raw, SECTOR_BYTES - 5)[0]:
        return None
    _, append, index, count, used = _HEAD.unpack_from(raw)
    return _Sector(append, index, count, raw[_HEAD.size : _HEAD.size + used])


def _read(content: bytes | None, *, lost: bool) -> tuple[Recovered, int, int]:
    """What is there, the number of the last append, and where the next one goes."""
    if content is None:
        return Recovered((), begun=False, lost=lost), 0, 0
    first = _sector(content, 0)
    if first is not None and first.data[_LENGTH.size :].startswith(_FAMILY) and first.data[_LENGTH.size :] != _NAME:
        return Recovered((), damage="byte 0: it was written by another version"), 0, 0
    if first is None or first.data != _LENGTH.pack(len(_NAME)) + _NAME:
        return Recovered((), damage="byte 0: it does not begin like a vote log"), 0, 0
    records: list[bytes] = []
    appends, offset = 0, SECTOR_BYTES
    while (stream := _append_at(content, offset, appends + 1)) is not None:
        appends += 1
        offset += SECTOR_BYTES * -(-len(stream) // _ROOM)
        records += _split(stream)
    torn_bytes, damage = _tail(content, offset, appends + 1)
    return Recovered(tuple(records), torn_bytes, damage), appends, offset


def _append_at(content: bytes, offset: int, append: int) -> bytes | None:
    """The bytes of this append, if it begins here and is whole."""
    first = _sector(content, offset)
    if first is None:
        return None
    parts = []
    for index in range(first.count):
        sector = _sector(content, offset + index * SECTOR_BYTES)
        if sector is None or (sector.append, sector.index) != (append, index):
            return None
        parts.append(sector.data)
    return b"".join(parts)


def _split(stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        end = at + _LENGTH.size + _LENGTH.unpack_from(stream, at)[0]
        yield stream[at + _LENGTH.size : end]
        at = end


def _tail(content: bytes, start: int, append: int) -> tuple[int, str | None]:
    """What stands behind the last whole append: how many bytes of a torn one, and the first place that no torn write explains."""
    end = start
    for offset in range(start, len(content), SECTOR_BYTES):
        raw = content[offset : offset + SECTOR_BYTES]
        if raw == _ZEROS or not (written := raw.rstrip(b"\0")):
            continue
        index = (offset - start) // SECTOR_BYTES
        place = _HEAD.pack(_MARK, append, index, 0, 0)[:_PLACE]
        begun = place.startswith(written[:_PLACE]) and not (len(raw) == SECTOR_BYTES and raw[-1])
        sector = _sector(content, offset)
        if not begun and (sector is None or (sector.append, sector.index) != (append, index)):
            return len(content) - start, f"byte {offset}: the {SECTOR_BYTES} bytes from here on are damaged"
        end = offset + len(written)
    return end - start, None
