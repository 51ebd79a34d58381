"""Bounds of limits.py that no other test shows."""

import socket
import struct
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import trio

from tests.transport.net import Network, RecordingLog, Rogue, Signal, echo, introduction
from tests.transport.test_hostile import EVE, connect
from tests.transport.test_own_address import World, simulated
from tests.transport.test_peerbook_attacks import NOW, at, fail, reach
from transport import MemoryBlobs, limits, sockets, spread
from transport.address import Address
from transport.blobs import BlobServer
from transport.buckets import KEY_BYTES, BucketKey
from transport.dialing import DialFailure, DialPlan
from transport.errors import Malformed, RequestFailed, RequestRefused
from transport.establish import DialError, establish
from transport.framing import FRAME_BYTES_MAX, FrameDecoder, Kind, encode_frame
from transport.identity import Identity, PublicKey
from transport.machine import MACHINE, Machine
from transport.outbox import Outbox
from transport.peerbook import PeerBook, PeerRecord
from transport.pex import PexExchange
from transport.requests import Requests
from transport.sharing import Shared, Sharing
from transport.tcp import TcpStream
from transport.tls import identify, tls_identity
from transport.tls_stream import TlsStream
from transport.window import BulkWindow


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (Kind.HELLO, limits.HELLO_BYTES_MAX),
        (Kind.BYE, 1 + limits.BYE_TEXT_BYTES_MAX),
        (Kind.TWIN, limits.BYE_TEXT_BYTES_MAX),
        (Kind.ENVELOPE, limits.ENVELOPE_BYTES_MAX),
        (Kind.REQUEST, 6 + limits.REQUEST_BYTES_MAX),
        (Kind.RESPONSE, 5 + limits.RESPONSE_PART_BYTES_MAX),
        (Kind.LEAF, 8 + limits.LEAF_BYTES),
        (0xFF, limits.APPLICATION_FRAME_BYTES_MAX),
    ],
)
def test_a_frame_is_refused_by_its_header_alone(kind: int, most: int) -> None:
    assert FRAME_BYTES_MAX[kind] == most
    whole, too_long = FrameDecoder(), FrameDecoder()
    whole.feed(encode_frame(kind, bytes(most)))
    assert list(whole) == [(kind, bytes(most))]
    too_long.feed(bytes([kind]) + (most + 1).to_bytes(4, "big"))
    with pytest.raises(Malformed, match="at most"):
        too_long.next()


def test_a_certificate_is_not_parsed_beyond_its_size() -> None:
    with pytest.raises(Malformed, match=f"a certificate of {limits.CERTIFICATE_BYTES_MAX + 1} bytes"):
        identify(bytes(limits.CERTIFICATE_BYTES_MAX + 1))
    with pytest.raises(Malformed, match="does not parse"):
        identify(bytes(limits.CERTIFICATE_BYTES_MAX))


class Hanging(Machine):
    """Whatever it dials never answers."""

    async def connect(self, host: str, port: int) -> object:  # type: ignore[override]
        await trio.sleep_forever()


async def test_a_dial_that_nobody_answers_is_over_in_time(autojump_clock: trio.testing.MockClock) -> None:
    before = MACHINE.set(Hanging())
    try:
        with pytest.raises(DialError) as caught:
            await sockets.connect(Address("192.0.2.1", 1))
    finally:
        MACHINE.reset(before)
    assert caught.value.failure is DialFailure.TIMED_OUT
    assert trio.current_time() == pytest.approx(limits.CONNECT_SECONDS_MAX)


async def test_one_peer_has_few_connections_at_a_time(net: Network) -> None:
    """It dials again and again, and never closes: of two the newer stays, and those before are not kept until they end."""
    node = await net.node()
    rogue = await Rogue.meet(node)
    others = []
    for _ in range(3 * limits.LINKS_PER_PEER_MAX):
        tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        others.append(await establish(tcp, introduction(rogue.identity, tls=rogue.tls), is_client=True))
        session = node.swarm._sessions[rogue.identity.public_key]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len([c for c in session.connections if not c._scope.cancel_called]) <= limits.LINKS_PER_PEER_MAX
    assert node.swarm.statistics().peers == 1
    for shaken in others:
        await trio.aclose_forcefully(shaken.stream)
    await rogue.leave()


async def test_who_is_quiet_is_asked_once_in_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        asked: list[float] = []

        async def listen() -> None:
            decoder = FrameDecoder()
            while True:
                decoder.feed(bytes(await line.far.receive_some(1000)))
                asked.extend(trio.current_time() for kind, _ in decoder if kind == Kind.PING)

        nursery.start_soon(listen)
        await trio.sleep(2 * limits.SILENT_SECONDS)
        nursery.cancel_scope.cancel()
    first, *gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert first == pytest.approx(limits.QUIET_SECONDS + limits.TURN_SECONDS, abs=0.01), (
        "the other end's turn comes first"
    )
    assert gaps and all(gap == pytest.approx(limits.QUIET_SECONDS, abs=0.01) for gap in gaps)


def test_news_entitle_to_a_few_requests_and_not_to_any_number() -> None:
    exchange, answered = PexExchange(now=0.0), 0
    for _ in range(100):
        exchange.news()
    with pytest.raises(Malformed, match="too often"):
        for _ in range(100):
            exchange.on_request(bytes(8) + b"\x40", 0.0)
            answered += 1
    assert answered == limits.PEX_REQUESTS_BURST


def test_without_a_quorum_so_many_tries_run_at_once_and_no_more() -> None:
    plan = DialPlan(Identity(bytes(32)).public_key, Random(1))
    members = [Identity(number.to_bytes(32, "big")).public_key for number in range(1, 101)]
    for number, key in enumerate(members):
        plan.offer(Address("127.0.0.1", 1000 + number), key=key, now=0.0)
    plan.set_members(members, 0.0)
    plan.set_quorum(False, 0.0)
    under_way = 0
    for step in range(100):
        under_way += len(plan.due(step / 10, set()))
    assert under_way == limits.QUORUM_DIALS_ALL_MAX


async def test_of_one_peer_a_few_questions_about_holdings_wait() -> None:
    server = BlobServer("eve", EVE.public_key, Outbox(), Sharing(MemoryBlobs()), RecordingLog(Signal()))
    for number in range(1000):
        server.on_held_wanted(number.to_bytes(4, "big") + number.to_bytes(32, "big") + bytes(4))
    assert len(server._curious) == limits.HELD_QUESTIONS_MAX


def test_whoever_says_that_it_fetches_the_same_is_one_of_a_few() -> None:
    met: list[int] = []
    shared = Shared(read_nothing, on_fellow=lambda *_: met.append(1))
    for number in range(1000):
        shared.met(PublicKey(number.to_bytes(32, "big")))
    assert len(shared.fellows) == len(met) == limits.FELLOWS_MAX


async def read_nothing(first: int, count: int) -> bytes:
    return b""


async def test_what_was_fetched_is_served_from_memory_for_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    sharing, shared = Sharing(MemoryBlobs()), Shared(read_nothing, on_fellow=lambda *_: None)
    assert sharing.begin(bytes(32), shared)
    await sharing.linger(bytes(32), shared)
    assert not sharing._shared and trio.current_time() == pytest.approx(limits.LINGER_SECONDS)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no such option")
async def test_the_system_holds_little_that_was_not_sent(net: Network) -> None:
    node = await net.node()
    stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", node.address.port))
    assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == limits.UNSENT_BYTES_MAX
    await stream.aclose()


async def test_what_is_kept_for_each_place_that_peers_come_from_is_bounded(net: Network) -> None:
    """Netgroups that told us of somebody, addresses of our own, and records that were shown: none grows with who comes."""
    node = await net.node()
    rogue = await Rogue.meet(node)
    session, exchange = node.swarm._sessions[rogue.identity.public_key], node.swarm.exchange
    for number in range(limits.SOURCES_MAX + 100):
        place = Address(f"{11 + number // 256}.{number % 256}.0.1", 1)
        object.__setattr__(session._latest, "remote", place)
        exchange._may_tell(session, 0.0)
        exchange._signed(place)
    assert len(exchange._shares) == limits.SOURCES_MAX
    assert len(exchange._own) <= limits.OWN_RECORDS_MAX
    pex, record = PexExchange(now=0.0), PeerRecord.sign(EVE, None, sequence=1, address=Address("127.0.0.1", 1))
    for number in range(0, limits.SHOWN_RECORDS_MAX + 640, 64):
        pex.show([replace(record, signature=(number + each).to_bytes(64, "big")) for each in range(64)], 0.0)
    assert len(pex._shown) == limits.SHOWN_RECORDS_MAX
    await rogue.leave()


# --- one connection, and what it is asked ------------------------------------------------------------------------------------


async def test_one_read_takes_so_much_and_then_others_have_their_turn() -> None:
    """A peer that sends as fast as it can keeps nobody else's frames waiting for longer than that."""
    near, far = trio.testing.memory_stream_pair()
    mine, its = tls_identity(Identity.generate()), tls_identity(EVE)
    ours = TlsStream(near, mine.client, server_side=False)
    theirs = TlsStream(far, its.server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.do_handshake)
        nursery.start_soon(theirs.do_handshake)
    await theirs.send_all(encode_frame(Kind.PING, bytes(8)) * (8 * limits.READ_BYTES // 13))
    decoder, taken = FrameDecoder(), []
    for _ in range(3):
        taken.append(await ours.receive_into(decoder))
        assert list(decoder)
    assert all(
        limits.READ_BYTES - limits.RECORD_BYTES <= size < limits.READ_BYTES + limits.RECORD_BYTES for size in taken
    )


async def test_so_many_questions_wait_for_one_peers_answer(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox()
    questions = Requests(EVE.public_key, name="eve", outbox=outbox, handler=echo, log=RecordingLog(Signal()))
    decoder, asked = FrameDecoder(), 0
    async with trio.open_nursery() as nursery:
        for _ in range(3 * limits.REQUESTS_SENT_MAX):
            nursery.start_soon(ask_in_vain, questions)
        await trio.testing.wait_all_tasks_blocked()
        while batch := outbox.gather():
            decoder.feed(batch)
            asked += len(list(decoder))
        assert asked == limits.REQUESTS_SENT_MAX


async def ask_in_vain(questions: Requests) -> None:
    with pytest.raises(RequestFailed):
        await questions.call(1, b"", timeout_seconds=1.0, response_bytes_max=1)


async def test_a_refusal_is_a_line_at_both_ends(autojump_clock: trio.testing.MockClock) -> None:
    async def refuse(*_: object) -> bytes:
        raise RequestRefused("x" * 10_000)

    most, mine, its = limits.REASON_BYTES_MAX, Outbox(), Outbox()
    asker = Requests(EVE.public_key, name="eve", outbox=mine, handler=echo, log=RecordingLog(Signal()))
    answerer = Requests(EVE.public_key, name="eve", outbox=its, handler=refuse, log=RecordingLog(Signal()))
    async with trio.open_nursery() as nursery:
        answerer.on_request(struct.pack(">IH", 1, 1), nursery)
        await trio.testing.wait_all_tasks_blocked()
        frames = FrameDecoder()
        frames.feed(its.gather())
        ((_, body),) = frames
        assert len(body) == 5 + most

        async def ask() -> None:
            with pytest.raises(RequestFailed) as caught:
                await asker.call(1, b"", timeout_seconds=1.0, response_bytes_max=1)
            assert caught.value.reason == f"refused: {'x' * most}"

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        asker.on_response(struct.pack(">IB", 1, 2) + b"x" * 10_000)


# --- many peers --------------------------------------------------------------------------------------------------------------


def test_all_strangers_together_may_send_so_much() -> None:
    """Who floods under many keys takes no more of a node than under one."""

    async def scenario(world: World) -> None:
        node = await world.node("11.1.1.1")
        began, seconds = trio.current_time(), 4
        each = int(limits.STRANGERS_FRAMES_BURST + seconds * limits.STRANGERS_FRAMES_PER_SECOND) // 4
        for number in range(12, 16):
            rogue = await world.stranger(f"{number}.1.1.1", "11.1.1.1")
            await rogue.send(encode_frame(0x80, b"") * each)
        await world.until(lambda: len(node.frames()) == 4 * each)
        assert trio.current_time() - began == pytest.approx(seconds, abs=1.0)

    simulated(scenario)


def test_whoever_is_connected_has_so_long_to_say_that_it_lives() -> None:
    async def scenario(world: World) -> None:
        node, identity = await world.node("11.1.1.1"), Identity.generate()
        await world.stranger("12.1.1.1", "11.1.1.1", identity=identity)  # and never answers
        began = trio.current_time()
        await world.stranger("13.1.1.1", "11.1.1.1", identity=identity)
        assert trio.current_time() - began == pytest.approx(limits.TWIN_SECONDS_MAX, abs=0.5)
        await world.until(lambda: node.ups_and_downs(identity.public_key).startswith("+-+"))

    simulated(scenario)


# --- the window of bulk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_urgent", "most"), [(False, limits.DELAY_SECONDS), (True, limits.DELAY_URGENT_SECONDS)])
@pytest.mark.parametrize("share", [0.8, 1.2])
def test_bulk_adds_so_much_to_a_round_trip_and_then_gives_way(is_urgent: bool, most: float, share: float) -> None:
    window, shortest = BulkWindow(), 0.001
    window.probed(0)
    window.answered(0, seconds=shortest, now=0.0, is_urgent=False)
    before = window.bytes
    window.sent(int(before))
    assert not window.has_room(1)
    window.probed(1)
    window.answered(1, seconds=shortest + share * (most + shortest / 4), now=1.0, is_urgent=is_urgent)
    assert window.bytes > before if share < 1 else window.bytes < before


# --- spreading ---------------------------------------------------------------------------------------------------------------


def test_what_is_spread_is_long_enough_and_to_enough() -> None:
    members, length = limits.SPREAD_MEMBERS_MIN, (limits.SPREAD_LEAVES_MIN - 1) * limits.LEAF_BYTES + 1
    assert spread.is_worth_it(members, length)
    assert not spread.is_worth_it(members - 1, length) and not spread.is_worth_it(members, length - 1)


def test_an_author_may_name_a_few_for_a_leaf() -> None:
    others = [bytes([number]) for number in range(100)]
    assert len(spread.named(others, 0, 10)) == limits.RELAYS_PER_LEAF_MAX


# --- the address book --------------------------------------------------------------------------------------------------------


def test_what_we_are_told_of_falls_into_so_many_buckets() -> None:
    key, where = BucketKey(bytes(KEY_BYTES)), Address("8.8.8.8", 1)
    reached = {key.new(where, b"%d" % source) for source in range(20 * limits.NEW_BUCKETS)}
    assert reached == set(range(limits.NEW_BUCKETS))


def test_what_answered_a_week_ago_is_dialed_so_often_and_then_dropped() -> None:
    book, later = PeerBook(bytes(KEY_BYTES)), NOW + limits.ADDRESS_SECONDS_MAX + 1
    entry = reach(book, at(1, "20.0.0.1"))
    assert not fail(book, entry, limits.FAILURES_PROVEN_MAX - 1, now=later)
    assert fail(book, entry, 1, now=later + 3600) and len(book) == 0
