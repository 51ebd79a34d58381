"""The uplink's budget: bulk in turn and in time, consensus at once, and pieces that are no longer than a vote may wait."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as some

from transport import limits
from transport.errors import Malformed
from transport.framing import FrameDecoder, FrameJoiner, Kind, cut, encode_frame
from transport.outbox import Outbox
from transport.pacing import Pacer
from transport.window import BulkWindow

LEAF = encode_frame(Kind.LEAF, bytes(limits.LEAF_BYTES))
MBIT = 125_000.0


def test_who_books_next_comes_after_what_is_booked() -> None:
    pacer = Pacer(1000.0)
    late = limits.PACE_LATE_SECONDS_MAX
    moments = [pacer.book(500, now=10.0) for _ in range(3)]
    assert moments == [pytest.approx(10.0 - late + 0.5 * place) for place in range(3)]


def test_what_consensus_takes_is_taken_from_bulk() -> None:
    pacer = Pacer(1000.0)
    first = pacer.book(0, now=1.0)
    pacer.spend(2000, now=1.0)
    assert pacer.book(1, now=1.0) == pytest.approx(first + 2.0)


def test_without_a_budget_nothing_waits() -> None:
    pacer = Pacer()
    assert all(pacer.book(1 << 30, now=5.0) <= 5.0 for _ in range(3))
    assert pacer.piece_bytes == limits.SEND_BYTES


@pytest.mark.parametrize(("mbit", "pieces"), [(1, limits.PIECE_BYTES_MIN), (16, 32_000), (1000, limits.SEND_BYTES)])
def test_a_piece_is_as_long_as_a_vote_may_wait(mbit: int, pieces: int) -> None:
    assert Pacer(mbit * MBIT).piece_bytes == pieces


async def write(outbox: Outbox, written: list[tuple[float, bytes]]) -> None:
    while True:
        await outbox.wait()
        if batch := outbox.gather():
            written.append((trio.current_time(), batch))


@pytest.mark.parametrize("peers", [1, 8])
async def test_bulk_keeps_to_the_budget_and_peers_share_it(autojump_clock: trio.testing.MockClock, peers: int) -> None:
    pacer = Pacer(10 * MBIT)
    outboxes = [Outbox(pacer) for _ in range(peers)]
    written: list[list[tuple[float, bytes]]] = [[] for _ in range(peers)]
    frames = 160 // peers

    async def produce(outbox: Outbox) -> None:
        for _ in range(frames):
            await outbox.push_bulk(LEAF)

    async with trio.open_nursery() as nursery:
        for outbox, its in zip(outboxes, written, strict=True):
            nursery.start_soon(write, outbox, its)
            nursery.start_soon(produce, outbox)
        began = trio.current_time()
        await trio.sleep(4.0)
        halfway = [sum(len(batch) for _, batch in its) for its in written]
        assert sum(halfway) == pytest.approx(4.0 * 10 * MBIT, rel=0.01)
        assert max(halfway) - min(halfway) <= limits.LEAF_BYTES, "nobody gets more than its share"
        await trio.sleep(60.0)
        nursery.cancel_scope.cancel()
    total = sum(len(batch) for its in written for _, batch in its)
    ended = max(its[-1][0] for its in written)
    assert total / (ended - began) == pytest.approx(10 * MBIT, rel=0.01)


async def test_a_vote_never_waits_for_the_budget(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox(Pacer(MBIT))
    written: list[tuple[float, bytes]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, outbox, written)
        for _ in range(5):
            await outbox.push_bulk(LEAF)
        for number in range(20):
            await trio.sleep(0.1)
            said = trio.current_time()
            outbox.push(b"vote%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            assert written[-1] == (said, b"vote%d" % number) or written[-1][1].startswith(b"vote%d" % number)
        nursery.cancel_scope.cancel()


async def test_where_little_may_be_on_its_way_bulk_is_cut_and_comes_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outbox, decoder, joiner = Outbox(), FrameDecoder(), FrameJoiner()
    outbox.window = window = shrunk()
    pieces = int(window.piece_bytes)
    assert pieces < limits.LEAF_BYTES
    await outbox.push_bulk(LEAF)
    kinds, whole = [], []
    ping = encode_frame(Kind.PING, bytes(8))
    for number in range(100, 105):
        batch = outbox.gather()
        assert len(batch) <= pieces + len(ping)
        decoder.feed(batch)
        window.probed(number)
        window.answered(number, seconds=10.0, now=0.0, is_urgent=False)
        outbox.push(ping)
    for kind, body in decoder:
        kinds.append(kind)
        if kind == Kind.PART and (frame := joiner.take(body)) is not None:
            whole.append(frame)
    assert whole == [(Kind.LEAF, bytes(limits.LEAF_BYTES))]
    assert kinds[:4] == [Kind.PART, Kind.PING, Kind.PART, Kind.PING]


async def test_bulk_waits_for_the_window_and_votes_do_not() -> None:
    outbox = Outbox()
    outbox.window = window = BulkWindow()
    for _ in range(6):
        await outbox.push_bulk(LEAF)
    written = 0
    while batch := outbox.gather():
        written += len(batch)
    assert written <= limits.WINDOW_BYTES_START < written + window.piece_bytes
    outbox.push(b"vote")
    assert outbox.gather() == b"vote"
    window.probed(1)
    window.answered(1, seconds=0.01, now=0.0, is_urgent=False)
    assert outbox.gather().startswith(LEAF)


async def test_for_a_moment_after_a_vote_bulk_is_to_keep_out_of_the_way(autojump_clock: trio.testing.MockClock) -> None:
    pacer = Pacer()
    votes, others = Outbox(pacer), Outbox(pacer)
    others.push(encode_frame(Kind.PING, bytes(8)))
    assert not pacer.is_agreeing(trio.current_time())
    votes.push(encode_frame(Kind.ENVELOPE, b"vote"))
    await trio.sleep(limits.AGREEMENT_SECONDS / 2)
    assert pacer.is_agreeing(trio.current_time())
    await trio.sleep(limits.AGREEMENT_SECONDS)
    assert not pacer.is_agreeing(trio.current_time())


def shrunk() -> BulkWindow:
    """Of a link on which all takes ten seconds longer than it might."""
    window = BulkWindow()
    window.probed(0)
    window.answered(0, seconds=0.001, now=0.0, is_urgent=False)
    for number in range(1, 20):
        window.sent(limits.WINDOW_BYTES_START)
        window.probed(number)
        window.answered(number, seconds=10.0, now=0.0, is_urgent=False)
    return window


@given(some.binary(min_size=1, max_size=4000), some.integers(20, 500))
def test_a_frame_in_parts_is_the_same_frame(body: bytes, size: int) -> None:
    joiner, decoder = FrameJoiner(), FrameDecoder()
    for part in cut(encode_frame(0x83, body), number=7, bytes_max=size):
        assert len(part) <= size
        decoder.feed(part)
    found = [joiner.take(part) for _, part in decoder]
    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] == (0x83, body)


def bodies(frame: bytes, *, number: int = 1, size: int = 100) -> list[bytes]:
    return [part[5:] for part in cut(frame, number=number, bytes_max=size)]


def test_parts_that_do_not_go_on_are_dropped_with_what_came_before() -> None:
    first, second = bodies(encode_frame(0x83, bytes(150)), number=1), bodies(encode_frame(0x83, bytes(150)), number=2)
    joiner = FrameJoiner()
    assert [joiner.take(part) for part in (first[0], second[1], first[1])] == [None, None, None]
    assert [joiner.take(part) for part in second][-1] == (0x83, bytes(150))


@pytest.mark.parametrize(
    "parts",
    [
        [bytes(8)],
        [bytes(8) + b"abc"],
        bodies(encode_frame(Kind.ENVELOPE, bytes(300))),
        bodies(encode_frame(Kind.PING, bytes(8))),
        bodies(bytes((0x50,)) + (10).to_bytes(4, "big") + bytes(10)),
        bodies(bytes((Kind.BLOB_REFUSED,)) + (6).to_bytes(4, "big") + bytes(6)),
        bodies(encode_frame(0x83, bytes(20)) + b"more"),
    ],
)
def test_parts_of_what_may_not_be_cut_are_malformed(parts: list[bytes]) -> None:
    joiner = FrameJoiner()
    with pytest.raises(Malformed):
        for part in parts:
            joiner.take(part)
