"""Outbox and inbox: priorities, bounds, who waits for whom."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transport import limits
from transport.events import FrameReceived, PeerDisconnected, SwarmEvent
from transport.identity import PublicKey
from transport.inbox import Inbox
from transport.outbox import Outbox

ALICE, BOB = PublicKey(b"a" * 32), PublicKey(b"b" * 32)


def frame(key: PublicKey, body: bytes = b"") -> SwarmEvent:
    return FrameReceived(key, 0x80, body)


async def test_urgent_frames_go_before_bulk_that_came_first() -> None:
    outbox = Outbox()
    await outbox.push_bulk(b"bulk")
    outbox.push(b"vote1")
    outbox.push(b"vote2")
    assert outbox.gather() == b"vote1vote2bulk"
    assert outbox.gather() == b""


async def test_what_may_go_along_goes_with_the_next_in_its_place(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox()
    outbox.push(b"passed on", along=True)
    assert outbox.gather() == b""
    outbox.push(b", vote")
    outbox.push(b", passed on", along=True)
    assert outbox.gather() == b"passed on, vote, passed on"


@pytest.mark.parametrize("alone", [True, False])
async def test_and_waits_for_no_other_longer_than_its_time(autojump_clock: trio.testing.MockClock, alone: bool) -> None:
    outbox, written = Outbox(), []

    async def write() -> None:
        while not written:
            await outbox.wait()
            if batch := outbox.gather():
                written.append((trio.current_time(), batch))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        outbox.push(b"passed on", along=True)
        await trio.sleep(limits.ALONG_SECONDS_MAX / 2)
        assert not written
        if not alone:
            outbox.push(b", vote")
    ((at, batch),) = written
    expected = (1.0, b"passed on") if alone else (0.5, b"passed on, vote")
    assert ((at - began) / limits.ALONG_SECONDS_MAX, batch) == (pytest.approx(expected[0]), expected[1])


async def test_one_write_is_bounded_and_never_cuts_a_frame() -> None:
    outbox = Outbox()
    size = limits.SEND_BYTES // 2 - 1
    for _ in range(3):
        outbox.push(bytes(size))
    assert [len(outbox.gather()) for _ in range(3)] == [2 * size, size, 0]
    outbox.push(bytes(2 * limits.SEND_BYTES))
    assert len(outbox.gather()) == 2 * limits.SEND_BYTES


async def test_what_may_be_left_out_is_sent_where_there_is_room() -> None:
    outbox = Outbox()
    piece = bytes(limits.BULK_BYTES_MAX // 2)
    assert [outbox.offer_bulk(piece, b"") for _ in range(3)] == [True, True, False]
    assert len(outbox.gather()) == len(piece)
    assert outbox.offer_bulk(piece)


async def test_bulk_makes_its_producer_wait_and_urgent_frames_pass() -> None:
    outbox = Outbox()
    piece = bytes(limits.BULK_BYTES_MAX // 2)
    queued = 0

    async def produce() -> None:
        nonlocal queued
        for _ in range(6):
            await outbox.push_bulk(piece)
            queued += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await wait_all_tasks_blocked()
        assert queued == 2
        outbox.push(b"vote")
        assert outbox.gather().startswith(b"vote")
        while queued < 6:
            outbox.gather()
            await wait_all_tasks_blocked()


async def test_a_cancelled_producer_has_queued_nothing() -> None:
    outbox = Outbox()
    for _ in range(8):
        await outbox.push_bulk(bytes(limits.BULK_BYTES_MAX // 8))
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.push_bulk(b"late")
    total = 0
    while batch := outbox.gather():
        total += len(batch)
    assert total == limits.BULK_BYTES_MAX


@pytest.mark.parametrize("size", [1, 100_000])
async def test_too_many_urgent_frames_are_an_overflow_and_not_memory(size: int) -> None:
    outbox = Outbox()
    for _ in range(limits.URGENT_FRAMES_MAX + limits.URGENT_BYTES_MAX // size):
        outbox.push(bytes(size))
        if outbox.is_overflown:
            break
    assert outbox.is_overflown
    total = 0
    while batch := outbox.gather():
        total += len(batch)
    assert total <= limits.URGENT_BYTES_MAX
    await outbox.wait()  # the writer does not sleep on an overflow


async def test_a_writer_that_must_stop_is_woken() -> None:
    outbox = Outbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.wait)
        await wait_all_tasks_blocked()
        outbox.wake()


async def test_peers_take_turns_and_each_keeps_its_order() -> None:
    inbox = Inbox()
    for number in range(3):
        await inbox.put(ALICE, frame(ALICE, b"a%d" % number), size_bytes=2)
    await inbox.put(BOB, frame(BOB, b"b0"), size_bytes=2)
    taken = [inbox.receive_nowait() for _ in range(4)]
    assert [e.body for e in taken if isinstance(e, FrameReceived)] == [b"a0", b"b0", b"a1", b"a2"]
    with pytest.raises(trio.WouldBlock):
        inbox.receive_nowait()


@pytest.mark.parametrize(
    ("count", "size"),
    [(limits.INBOX_EVENTS_PER_PEER_MAX, 1), (16, limits.INBOX_BYTES_PER_PEER_MAX // 16)],
)
async def test_a_flooder_waits_for_itself_only(count: int, size: int) -> None:
    inbox = Inbox()
    for _ in range(count):
        await inbox.put(ALICE, frame(ALICE), size_bytes=size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: inbox.put(ALICE, frame(ALICE, b"waits"), size_bytes=size))
        await wait_all_tasks_blocked()
        await inbox.put(BOB, frame(BOB), size_bytes=size)
        inbox.put_nowait(ALICE, frame(ALICE, b"control"))
        order = [inbox.receive_nowait() for _ in range(2)]
        assert [e.peer_key for e in order if isinstance(e, FrameReceived)] == [ALICE, BOB]
        rest: list[SwarmEvent] = []
        while not rest or rest[-1] != frame(ALICE, b"waits"):
            rest.append(await inbox.receive())
    assert rest[-2] == frame(ALICE, b"control")


async def test_a_taker_is_woken_and_a_cancelled_one_has_taken_nothing() -> None:
    inbox = Inbox()
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.receive()
    got: list[SwarmEvent] = []

    async def take() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        inbox.put_nowait(ALICE, frame(ALICE))
    assert got == [frame(ALICE)]


async def test_it_ends_when_it_is_closed_and_empty() -> None:
    inbox = Inbox()
    inbox.put_nowait(ALICE, frame(ALICE))
    inbox.close()
    assert [event async for event in inbox] == [frame(ALICE)]
    assert not isinstance(frame(ALICE), PeerDisconnected)
