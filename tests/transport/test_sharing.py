"""Receivers of one blob help one another: whole swarms with real TLS, in virtual time, where the uplinks are the bottleneck."""

import random
import struct
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2pnode.simulation.streams import Listener, Network, Stream, Weather
from tests.transport.net import CHAIN, RecordingLog, Signal, echo
from transport import limits
from transport.address import Address
from transport.blobs import BlobClient, BlobServer, MemoryBlobs, Refusal, decode_held, encode_held
from transport.content import Buffer, digest_of
from transport.errors import Malformed, RequestFailed
from transport.framing import FrameDecoder, Kind
from transport.identity import Identity, PublicKey
from transport.limits import LEAF_BYTES
from transport.machine import MACHINE, Machine
from transport.outbox import Outbox
from transport.peerbook import PeerBook
from transport.sharing import WHOLE, Held, Shared, Sharing, group_leaves
from transport.swarm import Swarm

MBIT = 125_000.0
UPLINK = 20 * MBIT
PORT = 7000
MIB = 1 << 20


class Host(Machine):
    """One address of a simulated network; what would run in a thread runs at once."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self._rng = random.Random(name)

    async def listen(self, host: str, port: int) -> list[Listener]:  # type: ignore[override]
        return [await self._network.listen(host, port)]

    async def connect(self, host: str, port: int) -> Stream:  # type: ignore[override]
        return await self._network.connect(self._name, (host, port))

    async def in_thread(self, call: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return call(*args)

    def unix_seconds(self) -> float:
        return 1.8e9 + trio.current_time()


class Place:
    """One swarm."""

    def __init__(self, number: int, network: Network, first: "Place | None", upload: float, signal: Signal) -> None:
        self.signal = signal
        self.name = f"10.0.{number}.1"
        self.machine = Host(network, self.name)
        self.blobs = MemoryBlobs()
        self.identity = Identity(bytes((number + 1,)) * 32)
        self.log = RecordingLog(signal)
        self.fetched_at = 0.0
        self._first = first
        self._upload = upload

    @property
    def key(self) -> PublicKey:
        return self.identity.public_key

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        MACHINE.set(self.machine)
        self.swarm = Swarm(
            identity=self.identity,
            listen=Address(self.name, PORT),
            listen_fallback=False,
            announce=None,
            bootstrap=[] if self._first is None else [Address(self._first.name, PORT)],
            book=PeerBook(),
            chain_id=CHAIN,
            handler=echo,
            blobs=self.blobs,
            log=self.log,
            upload_bytes_per_second=self._upload,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(self.swarm.run)
            nursery.start_soon(self._drain)
            task_status.started()

    async def _drain(self) -> None:
        async for _ in self.swarm.events:
            self.signal.fire()

    async def fetch(self, data: bytes, holder: "Place") -> None:
        def order() -> list[bytes]:
            return [holder.key, *(peer.key for peer in self.swarm.peers() if peer.key != holder.key)]

        assert await self.swarm.fetch_bytes(digest_of(data), len(data), holders=order) == data
        self.fetched_at = trio.current_time()

    async def fetch_into_file(self, data: bytes, holder: "Place") -> None:
        """As into a file that is as long as the blob from the beginning: what has not come reads as zeros."""
        file = bytearray(len(data))

        def write(leaves: Sequence[tuple[int, Buffer]]) -> None:
            for index, leaf in leaves:
                file[index * LEAF_BYTES : index * LEAF_BYTES + len(leaf)] = leaf

        async def read(first: int, count: int) -> bytes:
            return bytes(file[first * LEAF_BYTES : (first + count) * LEAF_BYTES])

        await self.swarm.fetch(
            digest_of(data),
            len(data),
            holders=lambda: [holder.key, *(peer.key for peer in self.swarm.peers() if peer.key != holder.key)],
            sink=write,
            blocking=True,
            read=read,
        )
        assert file == data
        self.fetched_at = trio.current_time()

    @property
    def sent(self) -> int:
        return self.swarm.statistics().bytes_sent


@asynccontextmanager
async def places(count: int, *, upload: float = float("inf"), uplink: float = UPLINK) -> AsyncIterator[list[Place]]:
    """All connected with all."""
    network = Network(random.Random(4), Weather(delay_seconds=0.01, spread=0.2, uplink_bytes_per_second=uplink))
    signal = Signal()
    async with trio.open_nursery() as nursery:
        found: list[Place] = []
        for number in range(count):
            found.append(Place(number, network, found[0] if found else None, upload, signal))
            await nursery.start(found[-1].run)
        members = [place.key for place in found]
        for place in found:
            place.swarm.members(members)
        await signal.until(lambda: all(len(place.swarm.peers()) == count - 1 for place in found))
        await trio.sleep(2.0)
        yield found
        nursery.cancel_scope.cancel()


async def together(data: bytes, source: Place, receivers: list[Place]) -> float:
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for place in receivers:
            nursery.start_soon(place.fetch, data, source)
    return max(place.fetched_at for place in receivers) - began


@pytest.mark.parametrize("mebibytes", [4, pytest.param(16, marks=pytest.mark.long)])
async def test_eight_receivers_take_less_than_twice_the_time_of_one(
    autojump_clock: trio.testing.MockClock, mebibytes: int
) -> None:
    first, second = random.Random(1).randbytes(mebibytes * MIB), random.Random(2).randbytes(mebibytes * MIB)
    async with places(9) as (source, *receivers):
        for data in (first, second):
            source.blobs.add(data)
        alone = await together(first, source, receivers[:1])
        await trio.sleep(10.0)
        before = source.sent
        eight = await together(second, source, receivers)
        copies = (source.sent - before) / len(second)
    sys.stdout.write(
        f"{mebibytes} MiB: one {alone:.2f} s, eight {eight:.2f} s, ratio {eight / alone:.2f}; {copies:.2f} copies sent by the source"
        + "\n"
    )
    assert eight <= 2.0 * alone
    assert copies < 2.0


async def test_a_budget_is_kept_and_a_vote_does_not_wait_while_it_is(autojump_clock: trio.testing.MockClock) -> None:
    data, budget = random.Random(3).randbytes(2 * MIB), 10 * MBIT
    async with places(3, upload=budget) as (source, *receivers):
        source.blobs.add(data)
        before, began = source.sent, trio.current_time()
        waits: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receivers[0].fetch, data, source)
            while not receivers[0].fetched_at:
                connection = source.swarm._sessions[receivers[0].key].active
                assert connection is not None
                asked = trio.current_time()
                assert await connection.answers(5.0)
                waits.append(trio.current_time() - asked)
                await trio.sleep(0.05)
        assert source.sent - before <= budget * (trio.current_time() - began)
    assert max(waits) < 2 * 0.012 + 2 * limits.PIECE_SECONDS, (
        "two ways, and a piece of bulk on each link that it shares"
    )


async def test_who_comes_later_and_reaches_no_source_gets_it_from_who_still_fetches(
    autojump_clock: trio.testing.MockClock,
) -> None:
    data = random.Random(5).randbytes(6 * MIB)
    async with places(3) as (source, first, second):
        source.blobs.add(data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.fetch, data, source)
            await trio.sleep(1.0)
            assert not first.fetched_at
            await second.fetch(data, first)
        assert second.fetched_at


async def test_who_is_asked_for_what_has_not_come_to_its_file_does_not_lie(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever asks a fellow first takes it for a source, until it says what it holds."""
    data = random.Random(6).randbytes(6 * MIB)
    async with places(3) as (source, first, second):
        source.blobs.add(data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.fetch_into_file, data, source)
            await trio.sleep(1.0)
            assert not first.fetched_at
            await second.fetch_into_file(data, first)
        assert first.fetched_at and second.fetched_at
        refused = [line for place in (source, first, second) for line in place.log.lines if "peer refused" in str(line)]
        assert refused == []


async def test_of_what_is_on_its_way_nothing_is_read_but_what_has_come() -> None:
    leaves = 2 * limits.SHARED_LEAVES_MIN + 1
    size = group_leaves(leaves)
    assert leaves > 2 * size

    async def zeros(first: int, count: int) -> bytes:
        return bytes(min(count, leaves - first) * LEAF_BYTES)

    sharing = Sharing(MemoryBlobs())
    shared = Shared(zeros, on_fellow=lambda _: None)
    sharing.begin(DIGEST, shared)
    assert await sharing.read(DIGEST, 0, 1) is None, "not even its hashes have come"
    shared.hashes = [bytes(32)] * leaves
    last = (leaves - 1) // size
    sharing.grew(shared, Held(1 | 1 << last, 2))
    assert await sharing.read(DIGEST, 0, size) == bytes(size * LEAF_BYTES)
    assert await sharing.read(DIGEST, size - 1, 2) is None and await sharing.read(DIGEST, size, 1) is None
    assert await sharing.read(DIGEST, leaves - 1, size) == bytes(LEAF_BYTES)
    sharing.grew(shared, WHOLE)
    assert await sharing.read(DIGEST, size, 1) == bytes(LEAF_BYTES)


async def test_fellows_whose_source_is_gone_give_up(autojump_clock: trio.testing.MockClock) -> None:
    data = random.Random(6).randbytes(6 * MIB)
    async with places(3) as (source, first, second):
        source.blobs.add(data)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.fetch, data, source)
                nursery.start_soon(second.fetch, data, source)
                await trio.sleep(1.0)
                source.blobs.remove(digest_of(data))
        assert caught.group_contains(RequestFailed)


def test_long_blobs_are_told_in_many_groups_and_short_ones_as_ever() -> None:
    assert [group_leaves(count) for count in (1, 63, 64, 255, 256, 512, 1024, 1 << 21)] == [8, 8, 1, 1, 2, 4, 8, 8]


@pytest.mark.parametrize("held", [WHOLE, Held(), Held(0b1011, 3), Held(1 << 20, 1, 0b110)])
def test_holdings_say_the_same_at_the_other_end(held: Held) -> None:
    assert decode_held(encode_held(held)) == held


def test_the_first_group_is_the_highest_bit() -> None:
    assert encode_held(Held(0b1, 1, 0b100)) == bytes((0x80, 0x20))


ALICE, DIGEST = PublicKey(b"a" * 32), bytes(32)


@asynccontextmanager
async def server(sharing: Sharing) -> AsyncIterator[tuple[BlobServer, Outbox]]:
    outbox = Outbox()
    served = BlobServer("alice", ALICE, outbox, sharing, RecordingLog(Signal()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.run)
        yield served, outbox
        nursery.cancel_scope.cancel()


def question(number: int, digest: bytes = DIGEST, count: int = 0) -> bytes:
    return struct.pack(">I32sI", number, digest, count)


def said(outbox: Outbox) -> list[tuple[int, bytes]]:
    decoder = FrameDecoder()
    decoder.feed(outbox.gather())
    return list(decoder)


async def nothing(first: int, count: int) -> None:
    return None


async def test_holdings_are_told_once_there_are_more_and_not_too_often(autojump_clock: trio.testing.MockClock) -> None:
    sharing = Sharing(MemoryBlobs())
    met: list[PublicKey] = []
    shared = Shared(nothing, on_fellow=met.append)
    shared_again = Shared(nothing, on_fellow=met.append)
    assert sharing.begin(DIGEST, shared) and not sharing.begin(DIGEST, shared_again)
    async with server(sharing) as (served, outbox):
        served.on_held_wanted(question(1))
        await wait_all_tasks_blocked()
        assert (said(outbox), met) == ([], [ALICE])
        sharing.grew(shared, Held(0b1, 1))
        await wait_all_tasks_blocked()
        assert said(outbox) == [(Kind.HELD, struct.pack(">I", 1) + encode_held(Held(0b1, 1)))]
        served.on_held_wanted(question(2, count=1))
        sharing.grew(shared, Held(0b11, 2))
        await wait_all_tasks_blocked()
        await trio.sleep(0.9 * limits.HELD_SECONDS)
        assert said(outbox) == [], "not so soon after the last"
        await trio.sleep(0.2 * limits.HELD_SECONDS)
        assert said(outbox) == [(Kind.HELD, struct.pack(">I", 2) + encode_held(Held(0b11, 2)))]
        served.on_held_wanted(question(3, count=2))
        await trio.sleep(1.0)
        sharing.end(DIGEST, shared_again)
        await trio.sleep(1.0)
        assert said(outbox) == []
        sharing.end(DIGEST, shared)
        await wait_all_tasks_blocked()
        assert said(outbox) == [(Kind.BLOB_REFUSED, struct.pack(">IB", 3, Refusal.NOT_HELD))]
    assert met == [ALICE]


async def test_what_is_held_whole_is_said_at_once(autojump_clock: trio.testing.MockClock) -> None:
    blobs = MemoryBlobs()
    digest = blobs.add(b"abc")
    async with server(Sharing(blobs)) as (served, outbox):
        served.on_held_wanted(question(7, digest))
        await wait_all_tasks_blocked()
        assert said(outbox) == [(Kind.HELD, struct.pack(">I", 7))]


async def test_questions_of_one_peer_are_few(autojump_clock: trio.testing.MockClock) -> None:
    """A later one about the same blob takes the place of the earlier; of too many the oldest is forgotten."""
    sharing = Sharing(MemoryBlobs())
    digests = [bytes((number,)) * 32 for number in range(limits.HELD_QUESTIONS_MAX + 1)]
    for digest in digests:
        sharing.begin(digest, Shared(nothing, on_fellow=lambda _: None))
    async with server(sharing) as (served, _):
        for number in range(1000):
            served.on_held_wanted(question(number, digests[0]))
        for number, digest in enumerate(digests[1:], start=1000):
            served.on_held_wanted(question(number, digest))
        await wait_all_tasks_blocked()
        assert len(served._curious) == limits.HELD_QUESTIONS_MAX
        assert digests[0] not in served._curious


def test_more_fellows_than_can_be_reckoned_with_are_not() -> None:
    met: list[PublicKey] = []
    shared = Shared(nothing, on_fellow=met.append)
    for number in range(2 * limits.FELLOWS_MAX):
        shared.met(PublicKey(bytes((number,)) * 32))
    assert len(met) == len(shared.fellows) == limits.FELLOWS_MAX


@pytest.mark.parametrize("body", [b"", bytes(39), bytes(41)])
def test_questions_of_another_width_are_malformed(body: bytes) -> None:
    served = BlobServer("alice", ALICE, Outbox(), Sharing(MemoryBlobs()), RecordingLog(Signal()))
    with pytest.raises(Malformed):
        served.on_held_wanted(body)


@pytest.mark.parametrize("body", [b"", bytes(3), bytes(5)])
def test_holdings_of_another_width_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        BlobClient(Outbox()).on_held(body)
