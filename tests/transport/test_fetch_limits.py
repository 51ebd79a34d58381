"""What fetches ask of their holders, and for how long each of them is waited for: the bounds of limits.py at their edge."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from tests.transport.net import RecordingLog, Signal
from tests.transport.test_fetch import FOREVER, Near, Slow, fetch, holders
from tests.transport.test_hostile import EVE
from transport import MemoryBlobs, content, limits
from transport.blobs import BlobServer, Refusal, _Wanted, encode_held
from transport.content import digest_of
from transport.errors import Malformed, RequestFailed
from transport.fetch import SLOW, Fetch
from transport.framing import Kind, encode_frame
from transport.machine import MACHINE, Machine
from transport.outbox import Outbox
from transport.sharing import Held, Sharing
from transport.transfer import FetchPlan, Range


def outstanding(near: Sequence[Near]) -> list[int]:
    """Requests for leaves or hashes that each holder owes an answer to."""
    return [len(each.blobs._expected) for each in near]


async def test_one_holder_owes_a_few_requests_of_one_fetch(autojump_clock: trio.testing.MockClock) -> None:
    data = bytes((limits.REQUESTS_PER_HOLDER + 1) * limits.LEAVES_PER_REQUEST * limits.LEAF_BYTES)
    async with holders(Slow(data, FOREVER)) as near, trio.open_nursery() as nursery:
        nursery.start_soon(fetch, data, near)
        await trio.sleep(0.1)
        assert outstanding(near) == [limits.REQUESTS_PER_HOLDER]
        nursery.cancel_scope.cancel()


async def test_one_holder_owes_a_few_requests_of_all_fetches(autojump_clock: trio.testing.MockClock) -> None:
    """Its queue has room for no more, and who overfills it is thrown out."""
    source = Slow(b"", FOREVER)
    fetched = [bytes([number]) * (40 * limits.LEAF_BYTES) for number in range(2 * limits.FETCHES_PER_HOLDER_MAX)]
    for data in fetched:
        source.add(data)
    async with holders(source) as near, trio.open_nursery() as nursery:
        for data in fetched:
            nursery.start_soon(fetch, data, near)
        await trio.sleep(0.1)
        assert outstanding(near) == [limits.FETCHES_PER_HOLDER_MAX * limits.REQUESTS_PER_HOLDER]
        nursery.cancel_scope.cancel()


async def test_so_many_holders_are_asked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    data = bytes(limits.LEAF_BYTES * limits.LEAVES_PER_REQUEST * 3 * limits.HOLDERS_AT_ONCE)
    slow = [Slow(data, FOREVER) for _ in range(2 * limits.HOLDERS_AT_ONCE)]
    async with holders(*slow) as near, trio.open_nursery() as nursery:
        nursery.start_soon(fetch, data, near)
        await trio.sleep(0.1)
        assert len([owed for owed in outstanding(near) if owed]) == limits.HOLDERS_AT_ONCE
        nursery.cancel_scope.cancel()


async def test_of_what_others_fetch_too_little_is_asked_of_who_is_not_known_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is asked of one could come from another."""
    data = bytes(limits.SHARED_LEAVES_MIN * limits.LEAF_BYTES)
    async with holders(Slow(data, FOREVER)) as near, trio.open_nursery() as nursery:
        nursery.start_soon(fetch, data, near)
        await trio.sleep(0.1)
        assert outstanding(near) == [limits.REQUESTS_MIN]
        nursery.cancel_scope.cancel()


async def test_and_no_more_than_comes_within_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that are answered one after the other wait behind one another: so many are made that none waits longer."""
    data, seconds = bytes(4 * limits.SHARED_LEAVES_MIN * limits.LEAF_BYTES), limits.FLIGHT_SECONDS / 2
    most = 2 * limits.REQUESTS_PER_HOLDER
    async with holders(Slow(data, seconds)) as near, trio.open_nursery() as nursery:
        nursery.start_soon(fetch, data, near)
        await trio.sleep(30.5 * seconds)
        (count,) = outstanding(near)
        assert count * (count * seconds) == most * limits.FLIGHT_SECONDS  # as many as come in the time that one takes
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("kind", "layout", "most"),
    [
        (Kind.HASHES_WANTED, ">I32sII", limits.HASHES_PER_FRAME),
        (Kind.LEAVES_WANTED, ">I32sIH", limits.LEAVES_PER_REQUEST),
    ],
)
def test_one_request_asks_for_so_much(kind: Kind, layout: str, most: int) -> None:
    server = BlobServer("eve", EVE.public_key, Outbox(), Sharing(MemoryBlobs()), RecordingLog(Signal()))
    server.on_wanted(kind, struct.pack(layout, 1, bytes(32), 0, most))
    with pytest.raises(Malformed, match=f"for {most + 1} pieces"):
        server.on_wanted(kind, struct.pack(layout, 1, bytes(32), 0, most + 1))


class Listed(MemoryBlobs):
    """Has hashes to show and no leaf."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.hashes = [number.to_bytes(32, "big") for number in range(count)]
        self.length = count * limits.LEAF_BYTES
        self.digest = content.digest_of_hashes(self.hashes, self.length)

    async def leaf_hashes(self, digest: bytes) -> Sequence[bytes]:
        return self.hashes


class Threads(Machine):
    """Counts what is done off the loop."""

    def __init__(self) -> None:
        self.calls = 0

    async def in_thread(self, call: Callable[..., Any], *args: Any, **_: Any) -> Any:
        self.calls += 1
        return call(*args)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_long_list_of_hashes_is_checked_off_the_loop(autojump_clock: trio.testing.MockClock, more: int) -> None:
    source, machine = Listed(limits.HASHES_ON_LOOP_MAX + more), Threads()
    plan, log = FetchPlan(source.digest, source.length), RecordingLog(Signal())
    token = MACHINE.set(machine)
    try:
        async with holders(source) as near:
            with pytest.raises(RequestFailed):
                await Fetch(
                    plan,
                    holders=lambda: near,
                    sink=lambda _: None,
                    lied=lambda _: None,
                    stalled=lambda _: None,
                    log=log,
                ).run()
    finally:
        MACHINE.reset(token)
    assert plan.hashes is not None and machine.calls == more


class Dripping(BlobServer):
    """Sends a leaf in so many seconds."""

    seconds = 0.0

    async def _leaves(self, wanted: _Wanted) -> Refusal | None:
        for index in range(wanted.range.first, wanted.range.first + wanted.range.count):
            await trio.sleep(self.seconds)
            await super()._leaves(replace(wanted, range=Range(index, 1)))
        return None


@pytest.mark.parametrize("share", [0.8, 1.2])
async def test_who_is_slower_than_the_least_rate_makes_room(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(Dripping, "seconds", limits.LEAF_BYTES / (share * limits.HOLDER_BYTES_PER_SECOND_MIN))
    data, log = bytes(40 * limits.LEAF_BYTES), RecordingLog(Signal())
    async with holders(Slow(data, 0.0), Slow(data, FOREVER), kind=Dripping) as near, trio.open_nursery() as nursery:
        plan, connected = FetchPlan(digest_of(data), len(data)), near[:1]
        whole = Fetch(
            plan, holders=lambda: connected, sink=lambda _: None, lied=lambda _: None, stalled=lambda _: None, log=log
        )
        nursery.start_soon(whole.run)
        await trio.sleep(limits.RATE_SECONDS)
        connected = near
        await trio.sleep(limits.RATE_SECONDS / 2)
        failed = [line["reason"] for line in log.named("fetch source failed")]
        assert failed == ([SLOW] if share < 1 else [])
        nursery.cancel_scope.cancel()


async def test_who_is_slow_waits_no_longer_than_that_for_another(autojump_clock: trio.testing.MockClock) -> None:
    """One keeps four ranges of five. The other takes most of the patience for the fifth, and then asks for those as well."""
    data, seconds = bytes(40 * limits.LEAF_BYTES), 0.75 * limits.PATIENCE_SECONDS_MAX
    async with holders(Slow(data, FOREVER), Slow(data, seconds)) as near:
        assert await fetch(data, near) == data
    assert trio.current_time() == pytest.approx(limits.PATIENCE_SECONDS_MAX + 4 * seconds)


class Fellow(BlobServer):
    """Holds one group of what it fetches, says so, and never gets another."""

    def on_held_wanted(self, body: bytes) -> None:
        number, _, known = struct.unpack(">I32sI", body)
        if not known:
            self.outbox.push(encode_frame(Kind.HELD, struct.pack(">I", number), encode_held(Held(0b1, 1))))


async def test_a_fellow_that_gets_nothing_more_is_waited_for_so_long(autojump_clock: trio.testing.MockClock) -> None:
    data = bytes(limits.SHARED_LEAVES_MIN * limits.LEAF_BYTES)
    async with holders(Slow(data, 0.0), kind=Fellow) as near:
        with pytest.raises(RequestFailed, match="had nothing more"):
            await fetch(data, near)
    assert trio.current_time() == pytest.approx(limits.FELLOW_SECONDS_MAX)
