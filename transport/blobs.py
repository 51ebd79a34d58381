"""Blobs with one peer: asking for hashes and leaves, and serving them.

    HASHES_WANTED  id u32 | digest 32 | first u32 | count u32     answered by one HASHES
    HASHES         id u32 | leaf hashes, 32 bytes each
    LEAVES_WANTED  id u32 | digest 32 | first u32 | count u16     answered by `count` LEAF in order
    LEAF           id u32 | index u32 | bytes
    BLOB_REFUSED   id u32 | code u8                               in place of (the rest of) an answer

One task serves one peer, in the order of asking: a peer that asks for much waits for itself. Not here: verifying
(transfer.py) and the choice of holders (fetch.py).
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from transport import limits
from transport.content import DIGEST_BYTES, Buffer, digest_of_hashes, leaf_hashes, split
from transport.errors import Malformed
from transport.framing import Kind, encode_frame, frame_pieces
from transport.limits import LEAF_BYTES
from transport.log import Log
from transport.outbox import Outbox
from transport.transfer import Range

_HASHES_WANTED: Final = struct.Struct(">I32sII")
_LEAVES_WANTED: Final = struct.Struct(">I32sIH")
_ID: Final = struct.Struct(">I")
_LEAF: Final = struct.Struct(">II")


Take = Callable[[int, Buffer], str | None]


class Refusal(enum.IntEnum):
    NOT_HELD = 1
    NO_SUCH_LEAF = 2
    FAILED = 3


class BlobSource(Protocol):
    """Where the blobs come from that we serve. Slow reads belong in a worker thread (trio.to_thread)."""

    async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
        """All leaf hashes of the blob, or None where it is not held."""

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        """The bytes of leaves first .. first + count - 1, contiguous; None where it is not held.

        `count` is at most LEAVES_PER_REQUEST. Leaves beyond the end are simply not there.
        """


class MemoryBlobs:
    """A BlobSource of bytes in memory."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, tuple[memoryview, list[bytes]]] = {}

    def add(self, data: Buffer) -> bytes:
        """Hold `data`, which must not change; returns its digest."""
        leaves = split(data)
        hashes = leaf_hashes(leaves)
        digest = digest_of_hashes(hashes, memoryview(data).nbytes)
        self._blobs[digest] = (memoryview(data).cast("B"), hashes)
        return digest

    def remove(self, digest: bytes) -> None:
        self._blobs.pop(digest, None)

    async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
        held = self._blobs.get(digest)
        return None if held is None else held[1]

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        held = self._blobs.get(digest)
        return None if held is None else held[0][first * LEAF_BYTES : (first + count) * LEAF_BYTES]


class Expected:
    """An answer on its way. `done` is set at its end; `failure` then says what went wrong, if anything."""

    __slots__ = ("done", "failure", "left", "take")

    def __init__(self, left: int, take: Take) -> None:
        self.left = left
        self.take = take
        self.done = trio.Event()
        self.failure: str | None = None

    def fail(self, reason: str) -> None:
        if not self.done.is_set():
            self.failure = reason
            self.done.set()


class BlobClient:
    """What we asked one peer for. `take(index, bytes)` gets each piece as it arrives; what it returns is a failure."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._expected: dict[int, Expected] = {}
        self._next_id = 0
        self._closed: str | None = None
        # A peer refuses to queue more than it has room for.
        self.slots = trio.Semaphore(limits.FETCHES_PER_HOLDER_MAX * limits.REQUESTS_PER_HOLDER)

    @contextmanager
    def hashes(self, digest: bytes, wanted: Range, take: Take) -> Iterator[Expected]:
        """Ask for leaf hashes; `take` gets (first, joined hashes) once."""
        with self._ask(Expected(1, take)) as (number, expected):
            head = _HASHES_WANTED.pack(number, digest, wanted.first, wanted.count)
            self._outbox.push(encode_frame(Kind.HASHES_WANTED, head))
            yield expected

    @contextmanager
    def leaves(self, digest: bytes, wanted: Range, take: Take) -> Iterator[Expected]:
        """Ask for leaves; `take` gets (index, leaf) for each."""
        with self._ask(Expected(wanted.count, take)) as (number, expected):
            head = _LEAVES_WANTED.pack(number, digest, wanted.first, wanted.count)
            self._outbox.push(encode_frame(Kind.LEAVES_WANTED, head))
            yield expected

    def on_hashes(self, body: bytes) -> None:
        if len(body) < _ID.size or (len(body) - _ID.size) % DIGEST_BYTES:
            raise Malformed(f"leaf hashes in {len(body)} bytes")
        self._arrived(_ID.unpack_from(body)[0], 0, memoryview(body)[_ID.size :])

    def on_leaf(self, body: bytes) -> None:
        if len(body) <= _LEAF.size:
            raise Malformed(f"a leaf in {len(body)} bytes")
        number, index = _LEAF.unpack_from(body)
        self._arrived(number, index, memoryview(body)[_LEAF.size :])

    def on_refused(self, body: bytes) -> None:
        if len(body) != _ID.size + 1:
            raise Malformed(f"a refusal of {len(body)} bytes")
        expected = self._expected.get(_ID.unpack_from(body)[0])
        if expected is not None:
            code = body[_ID.size]
            expected.fail("does not hold it" if code == Refusal.NOT_HELD else f"refused with code {code}")

    def close(self, reason: str) -> None:
        self._closed = reason
        for expected in self._expected.values():
            expected.fail(reason)

    def _arrived(self, number: int, index: int, piece: Buffer) -> None:
        """What nobody waits for is late, and costs nothing."""
        expected = self._expected.get(number)
        if expected is None or expected.done.is_set():
            return
        failure = expected.take(index, piece)
        expected.left -= 1
        if failure is not None:
            expected.fail(failure)
        elif expected.left == 0:
            expected.done.set()

    @contextmanager
    def _ask(self, expected: Expected) -> Iterator[tuple[int, Expected]]:
        self._next_id = (self._next_id + 1) % 2**32
        number = self._next_id
        self._expected[number] = expected
        if self._closed is not None:
            expected.fail(self._closed)
        try:
            yield number, expected
        finally:
            del self._expected[number]


@dataclass(frozen=True, slots=True)
class _Wanted:
    kind: int
    number: int
    digest: bytes
    range: Range


@dataclass(slots=True)
class BlobServer:
    """What one peer asked us for, answered in order by one task."""

    name: str
    outbox: Outbox
    source: BlobSource
    log: Log
    _queue: deque[_Wanted] = field(default_factory=deque)
    _lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def on_wanted(self, kind: int, body: bytes) -> None:
        """Queue a request; raises Malformed, also where the peer has too many waiting."""
        layout = _HASHES_WANTED if kind == Kind.HASHES_WANTED else _LEAVES_WANTED
        if len(body) != layout.size:
            raise Malformed(f"a blob request of {len(body)} bytes")
        number, digest, first, count = layout.unpack(body)
        most = limits.HASHES_PER_FRAME if kind == Kind.HASHES_WANTED else limits.LEAVES_PER_REQUEST
        if not 1 <= count <= most:
            raise Malformed(f"a blob request for {count} pieces")
        if len(self._queue) >= limits.BLOB_REQUESTS_QUEUED_MAX:
            raise Malformed(f"more than {limits.BLOB_REQUESTS_QUEUED_MAX} blob requests waiting")
        self._queue.append(_Wanted(kind, number, digest, Range(first, count)))
        self._lot.unpark()

    async def run(self) -> None:
        """Serve until cancelled. A source that raises is logged, and the peer is refused."""
        while True:
            while not self._queue:
                await self._lot.park()
            wanted = self._queue.popleft()
            try:
                refusal = await (self._hashes if wanted.kind == Kind.HASHES_WANTED else self._leaves)(wanted)
            except Exception as error:  # the node's source failed (disk, bug): this peer asks somebody else
                self.log.error("blob source failed", peer=self.name, digest=wanted.digest.hex(), error=repr(error))
                refusal = Refusal.FAILED
            if refusal is not None:
                body = _ID.pack(wanted.number) + bytes((refusal,))
                await self.outbox.push_bulk(encode_frame(Kind.BLOB_REFUSED, body))

    async def _hashes(self, wanted: _Wanted) -> Refusal | None:
        hashes = await self.source.leaf_hashes(wanted.digest)
        if hashes is None:
            return Refusal.NOT_HELD
        part = hashes[wanted.range.first : wanted.range.first + wanted.range.count]
        if len(part) != wanted.range.count:
            return Refusal.NO_SUCH_LEAF
        await self.outbox.push_bulk(*frame_pieces(Kind.HASHES, _ID.pack(wanted.number), b"".join(part)))
        return None

    async def _leaves(self, wanted: _Wanted) -> Refusal | None:
        data = await self.source.read(wanted.digest, wanted.range.first, wanted.range.count)
        if data is None:
            return Refusal.NOT_HELD
        view = memoryview(data).cast("B")
        if not (wanted.range.count - 1) * LEAF_BYTES < len(view) <= wanted.range.count * LEAF_BYTES:
            return Refusal.NO_SUCH_LEAF
        for position in range(wanted.range.count):
            leaf = view[position * LEAF_BYTES : (position + 1) * LEAF_BYTES]
            head = _LEAF.pack(wanted.number, wanted.range.first + position)
            await self.outbox.push_bulk(*frame_pieces(Kind.LEAF, head, leaf))
        return None
