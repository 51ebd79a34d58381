"""Fetches by a virtual clock: holders joined by hand, without sockets."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from tests.transport.net import RecordingLog, Signal
from transport import limits
from transport.blobs import BlobClient, BlobServer, MemoryBlobs, Refusal, _Wanted
from transport.content import Buffer, digest_of
from transport.errors import RequestFailed
from transport.fetch import Fetch, Leaves
from transport.framing import FrameDecoder, Kind, encode_frame
from transport.identity import PublicKey
from transport.limits import LEAF_BYTES
from transport.outbox import Outbox
from transport.sharing import BlobSource, Sharing
from transport.transfer import FetchPlan, Range


@dataclass
class Near:
    """One holder, as a fetch sees it."""

    key: PublicKey
    blobs: BlobClient


async def carry(outbox: Outbox, client: BlobClient, server: BlobServer) -> None:
    """What a connection does with the frames of blobs, in both directions."""
    decoder = FrameDecoder()
    takes = {
        Kind.HASHES: client.on_hashes,
        Kind.LEAF: client.on_leaf,
        Kind.BLOB_REFUSED: client.on_refused,
        Kind.HELD: client.on_held,
        Kind.HELD_WANTED: server.on_held_wanted,
    }
    while True:
        await outbox.wait()
        decoder.feed(outbox.gather())
        for kind, body in decoder:
            if kind in takes:
                takes[Kind(kind)](body)
            else:
                server.on_wanted(kind, body)


@asynccontextmanager
async def holders(*sources: BlobSource, kind: type[BlobServer] = BlobServer) -> AsyncIterator[list[Near]]:
    log = RecordingLog(Signal())
    async with trio.open_nursery() as nursery:
        found = []
        for number, source in enumerate(sources):
            asks, answers = Outbox(), Outbox()
            client, server = BlobClient(asks), kind("peer", ALICE, answers, Sharing(source), log)
            nursery.start_soon(server.run)
            nursery.start_soon(carry, asks, client, server)
            nursery.start_soon(carry, answers, client, server)
            found.append(Near(PublicKey(bytes((number,)) * 32), client))
        yield found
        nursery.cancel_scope.cancel()


def nothing(_: PublicKey) -> None:
    pass


async def fetch(
    data: bytes,
    near: Sequence[Near],
    *,
    lied: Callable[[PublicKey], None] = nothing,
    stalled: Callable[[PublicKey], None] = nothing,
) -> bytes:
    target = bytearray(len(data))

    def sink(leaves: Leaves) -> None:
        for index, leaf in leaves:
            target[index * LEAF_BYTES : index * LEAF_BYTES + len(leaf)] = leaf

    plan = FetchPlan(digest_of(data), len(data))
    log = RecordingLog(Signal())
    await Fetch(plan, holders=lambda: near, sink=sink, lied=lied, stalled=stalled, log=log).run()
    return bytes(target)


class Slow(MemoryBlobs):
    """Takes some seconds for each read; for ever, if they are infinite."""

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__()
        self.add(data)
        self.seconds = seconds

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        await trio.sleep(self.seconds)
        return await super().read(digest, first, count)


ALICE = PublicKey(b"a" * 32)
DATA = bytes(range(256)) * 256 * 40  # 40 leaves
FOREVER = float("inf")


async def test_a_holder_that_falls_silent_is_replaced_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """What it owes is asked of the other one once that has nothing else to do."""
    async with holders(Slow(DATA, FOREVER), Slow(DATA, 0.0)) as near:
        started = trio.current_time()
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() - started == pytest.approx(limits.PATIENCE_SECONDS_MIN)


async def test_who_is_silent_from_the_start_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    """Without hashes nobody else is asked; then after the time over which speed is measured."""

    class Mute(MemoryBlobs):
        async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
            await trio.sleep_forever()
            raise AssertionError

    async with holders(Mute(), Slow(DATA, 0.0)) as near:
        started = trio.current_time()
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() - started == pytest.approx(limits.RATE_SECONDS)


async def test_who_kept_us_waiting_is_named(autojump_clock: trio.testing.MockClock) -> None:
    """Who says nothing at all, and who says nothing after the hashes; not who had nothing to do."""

    class Mute(MemoryBlobs):
        async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
            await trio.sleep_forever()
            raise AssertionError

    for late in (Mute(), Slow(DATA, FOREVER)):
        named: list[PublicKey] = []
        async with holders(late, Slow(DATA, 0.0), Slow(DATA, 0.0)) as near:
            assert await fetch(DATA, near, stalled=named.append) == DATA
        assert named == [near[0].key]


async def test_who_drips_keeps_nobody_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """As many of them as are asked at once, and one honest holder behind them all."""

    drips = [Slow(DATA, 0.9 * limits.HOLDER_SECONDS_MAX) for _ in range(limits.HOLDERS_AT_ONCE)]
    async with holders(*drips, Slow(DATA, 0.01)) as near:
        started = trio.current_time()
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() - started < 2 * limits.RATE_SECONDS


async def test_a_slow_holder_is_asked_again_when_there_is_nobody_better(autojump_clock: trio.testing.MockClock) -> None:
    async with holders(Slow(DATA, 0.9 * limits.HOLDER_SECONDS_MAX), MemoryBlobs()) as near:
        assert await fetch(DATA, near) == DATA


class Misnumbered(BlobServer):
    """Answers what it was asked for with other leaves of the same blob, each of them true."""

    async def _leaves(self, wanted: object) -> Refusal | None:
        assert isinstance(wanted, _Wanted)
        other = replace(wanted, range=Range(0, wanted.range.count))
        return await super()._leaves(other)


async def test_true_leaves_that_were_not_asked_for_are_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    """Else a holder could keep us asking for ever."""
    async with holders(Slow(DATA, 0.0), kind=Misnumbered) as near:
        with pytest.raises(RequestFailed, match="was not asked for"):
            await fetch(DATA, near)


async def test_when_all_are_silent_that_is_said(autojump_clock: trio.testing.MockClock) -> None:
    async with holders(Slow(DATA, FOREVER), Slow(DATA, FOREVER)) as near:
        with pytest.raises(RequestFailed, match="fell silent for 5 s"):
            await fetch(DATA, near)


async def test_slow_is_not_silent(autojump_clock: trio.testing.MockClock) -> None:
    """Each read takes nearly the whole time that a silence may last, and the requests queue behind one another."""
    async with holders(Slow(DATA, limits.HOLDER_SECONDS_MAX * 0.9)) as near:
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() == pytest.approx(5 * 0.9 * limits.HOLDER_SECONDS_MAX)


async def test_a_holder_that_closes_is_replaced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with holders(Slow(DATA, 1.0), Slow(DATA, 0.0)) as near, trio.open_nursery() as nursery:

        async def close() -> None:
            await trio.sleep(0.1)
            near[0].blobs.close("connection lost")

        nursery.start_soon(close)
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() == pytest.approx(0.1)


async def test_a_sink_that_fails_ends_the_fetch_with_its_own_error(autojump_clock: trio.testing.MockClock) -> None:
    def full(leaves: Leaves) -> None:
        raise OSError("no space left")

    async with holders(Slow(DATA, 0.0), Slow(DATA, 0.0)) as near:
        plan, log = FetchPlan(digest_of(DATA), len(DATA)), RecordingLog(Signal())
        with pytest.raises(OSError, match="no space left"):
            await Fetch(
                plan, holders=lambda: near, sink=full, lied=lambda key: None, stalled=lambda key: None, log=log
            ).run()


class LiesAndGoesOn(BlobServer):
    """Sends hashes that do not fit together with a leaf, so that both are known at the same moment."""

    asked = 0

    async def _hashes(self, wanted: _Wanted) -> Refusal | None:
        self.asked = wanted.number
        return None

    async def _leaves(self, wanted: _Wanted) -> Refusal | None:
        lie = encode_frame(Kind.HASHES, self.asked.to_bytes(4, "big"), bytes(32 * 40))
        leaf = encode_frame(Kind.LEAF, wanted.number.to_bytes(4, "big"), bytes(4), bytes(LEAF_BYTES))
        await self.outbox.push_bulk(lie, leaf)
        return None


async def test_a_lie_is_one_whatever_else_failed_at_the_same_moment(autojump_clock: trio.testing.MockClock) -> None:
    """Which of its requests is looked at first is chance; sixteen of them take their turn."""
    caught: list[PublicKey] = []
    async with holders(*[MemoryBlobs() for _ in range(16)], kind=LiesAndGoesOn) as near:
        with pytest.raises(RequestFailed):
            await fetch(DATA, near, lied=caught.append)
    assert caught == [holder.key for holder in near]
