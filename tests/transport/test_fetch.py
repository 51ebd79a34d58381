"""Fetches by a virtual clock: holders joined by hand, without sockets."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from tests.transport.net import RecordingLog, Signal
from transport import limits
from transport.blobs import BlobClient, BlobServer, BlobSource, MemoryBlobs
from transport.content import Buffer, digest_of
from transport.errors import RequestFailed
from transport.fetch import Fetch
from transport.framing import FrameDecoder, Kind
from transport.identity import PublicKey
from transport.limits import LEAF_BYTES
from transport.outbox import Outbox
from transport.transfer import FetchPlan


@dataclass
class Near:
    """One holder, as a fetch sees it."""

    key: PublicKey
    blobs: BlobClient


async def carry(outbox: Outbox, client: BlobClient, server: BlobServer) -> None:
    """What a connection does with the frames of blobs, in both directions."""
    decoder = FrameDecoder()
    takes = {Kind.HASHES: client.on_hashes, Kind.LEAF: client.on_leaf, Kind.BLOB_REFUSED: client.on_refused}
    while True:
        await outbox.wait()
        decoder.feed(outbox.gather())
        for kind, body in decoder:
            if kind in takes:
                takes[Kind(kind)](body)
            else:
                server.on_wanted(kind, body)


@asynccontextmanager
async def holders(*sources: BlobSource) -> AsyncIterator[list[Near]]:
    log = RecordingLog(Signal())
    async with trio.open_nursery() as nursery:
        found = []
        for number, source in enumerate(sources):
            asks, answers = Outbox(), Outbox()
            client, server = BlobClient(asks), BlobServer("peer", answers, source, log)
            nursery.start_soon(server.run)
            nursery.start_soon(carry, asks, client, server)
            nursery.start_soon(carry, answers, client, server)
            found.append(Near(PublicKey(bytes((number,)) * 32), client))
        yield found
        nursery.cancel_scope.cancel()


async def fetch(data: bytes, near: Sequence[Near]) -> bytes:
    target = bytearray(len(data))

    def sink(index: int, leaf: bytes) -> None:
        target[index * LEAF_BYTES : index * LEAF_BYTES + len(leaf)] = leaf

    plan = FetchPlan(digest_of(data), len(data))
    log = RecordingLog(Signal())
    await Fetch(plan, holders=lambda: near, sink=sink, lied=lambda key: None, log=log).run()
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


DATA = bytes(range(256)) * 256 * 40  # 40 leaves
FOREVER = float("inf")


async def test_a_holder_that_falls_silent_is_replaced_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with holders(Slow(DATA, FOREVER), Slow(DATA, 0.0)) as near:
        started = trio.current_time()
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() - started == pytest.approx(limits.HOLDER_SECONDS_MAX)


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
            await trio.sleep(0.5)
            near[0].blobs.close("connection lost")

        nursery.start_soon(close)
        assert await fetch(DATA, near) == DATA
        assert trio.current_time() == pytest.approx(0.5)
