"""Blobs with one peer: asking for hashes and leaves, and serving them.

    HASHES_WANTED  id u32 | digest 32 | first u32 | count u32     answered by one HASHES
    HASHES         id u32 | leaf hashes, 32 bytes each
    LEAVES_WANTED  id u32 | digest 32 | first u32 | count u16     answered by `count` LEAF in order
    LEAF           id u32 | index u32 | bytes
    BLOB_REFUSED   id u32 | code u8                               in place of (the rest of) an answer
    HELD_WANTED    id u32 | digest 32 | count u32                 answered by one HELD once more than `count` groups are held
    HELD           id u32 | held | coming      as many bytes each, a bit for each group, the first highest; nothing where all is held

One task serves one peer, in the order of asking: a peer that asks for much waits for itself. Another tells it what is held by
now of what is still on its way here. Not here: verifying (transfer.py) and the choice of holders (fetch.py).
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from transport import limits
from transport.content import DIGEST_BYTES, Buffer, digest_of_hashes, leaf_hashes, split
from transport.errors import Malformed
from transport.framing import Kind, encode_frame, frame_pieces
from transport.identity import PublicKey
from transport.limits import LEAF_BYTES
from transport.log import Log
from transport.outbox import Outbox
from transport.sharing import WHOLE, Held, Sharing
from transport.transfer import Range

_HASHES_WANTED: Final = struct.Struct(">I32sII")
_LEAVES_WANTED: Final = struct.Struct(">I32sIH")
_ID: Final = struct.Struct(">I")
_LEAF: Final = struct.Struct(">II")
_HELD_WANTED: Final = struct.Struct(">I32sI")
NOT_HELD: Final = "does not hold it"

Take = Callable[[int, Buffer], str | None]


class Refusal(enum.IntEnum):
    NOT_HELD = 1
    NO_SUCH_LEAF = 2
    FAILED = 3


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


def encode_held(held: Held) -> bytes:
    """The bits in bytes: the first group is the highest bit of the first byte."""
    if held.is_whole:
        return b""
    size = max(1, ((held.groups | held.coming).bit_length() + 7) // 8)
    return b"".join(bits.to_bytes(size, "little").translate(_REVERSED) for bits in (held.groups, held.coming))


def decode_held(bits: Buffer) -> Held:
    """Any bytes are holdings; what lies beyond a blob's end is for its plan to ignore."""
    if not len(bits):
        return WHOLE
    turned, half = bytes(bits).translate(_REVERSED), len(bits) // 2
    groups, coming = int.from_bytes(turned[:half], "little"), int.from_bytes(turned[half:], "little")
    return Held(groups, groups.bit_count(), coming)


_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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

    @contextmanager
    def held(self, digest: bytes, known: int, take: Take) -> Iterator[Expected]:
        """Ask what it holds, once that is more than `known` groups; `take` gets (0, bits) once."""
        with self._ask(Expected(1, take)) as (number, expected):
            self._outbox.push(encode_frame(Kind.HELD_WANTED, _HELD_WANTED.pack(number, digest, known)))
            yield expected

    def on_held(self, body: bytes) -> None:
        if len(body) < _ID.size or len(body) % 2:
            raise Malformed(f"holdings in {len(body)} bytes")
        self._arrived(_ID.unpack_from(body)[0], 0, memoryview(body)[_ID.size :])

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
            expected.fail(NOT_HELD if code == Refusal.NOT_HELD else f"refused with code {code}")

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
    """What one peer asked us for, answered in order by one task, and what is on its way here, told by another."""

    name: str
    key: PublicKey
    outbox: Outbox
    source: Sharing
    log: Log
    _queue: deque[_Wanted] = field(default_factory=deque)
    _lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _curious: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # of which blob: id of the question, and count
    _asked: trio.Event = field(default_factory=trio.Event)

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

    def on_held_wanted(self, body: bytes) -> None:
        """Remember the question, in the place of an earlier one about the same blob; the oldest makes room for one too many."""
        if len(body) != _HELD_WANTED.size:
            raise Malformed(f"a question of {len(body)} bytes about holdings")
        number, digest, count = _HELD_WANTED.unpack(body)
        self._curious.pop(digest, None)
        if len(self._curious) >= limits.HELD_QUESTIONS_MAX:
            del self._curious[next(iter(self._curious))]
        self._curious[digest] = number, count
        self._asked.set()

    async def run(self) -> None:
        """Serve until cancelled. A source that raises is logged, and the peer is refused."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            await self._serve()

    async def _tell(self) -> None:
        """Answer what can be answered by now, and not more often than HELD_SECONDS."""
        while True:
            if not self._curious:
                await self._asked.wait()
            changed, self._asked = self.source.changed, trio.Event()  # what happens from here on is looked at
            if any([await self._answer(digest) for digest in list(self._curious)]):
                await trio.sleep(limits.HELD_SECONDS)
            elif self._curious:
                await _either(self._asked, changed)

    async def _answer(self, digest: bytes) -> bool:
        """Whether there was something to say."""
        if digest not in self._curious:
            return False  # another one took its place meanwhile
        number, count = self._curious[digest]
        try:
            held = await self.source.held(digest, self.key)
        except Exception as error:  # as in `_serve`
            self.log.error("blob source failed", peer=self.name, digest=digest.hex(), error=repr(error))
            held = None
        if self._curious.get(digest, (0, 0))[0] != number or (held and not held.is_whole and held.count <= count):
            return False
        del self._curious[digest]
        if held is None:
            await self.outbox.push_bulk(encode_frame(Kind.BLOB_REFUSED, _ID.pack(number) + bytes((Refusal.NOT_HELD,))))
        else:
            await self.outbox.push_bulk(encode_frame(Kind.HELD, _ID.pack(number), encode_held(held)))
        return True

    async def _serve(self) -> None:
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


async def _either(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
