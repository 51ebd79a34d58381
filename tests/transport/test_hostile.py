"""Peers that shake hands properly and then break rules: they lose their connection, and nobody else loses anything."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from tests.transport.net import CHAIN, OTHER_CHAIN, Network, Node, RecordingLog, Rogue, Signal, forged, introduction
from transport import limits
from transport.address import Address
from transport.connection import Connection, Receive, Traffic
from transport.envelope import Envelope
from transport.establish import establish
from transport.events import EnvelopeReceived, PeerDisconnected
from transport.framing import FRAME_BYTES_MAX, Kind, encode_frame
from transport.handshake import Bye, encode_bye
from transport.identity import Identity
from transport.log import Log
from transport.outbox import Outbox
from transport.peerbook import PeerRecord
from transport.pex import encode_response
from transport.ratelimit import TokenBucket
from transport.session import Host, Session
from transport.statement import make_statement

EVE = Identity.generate()


def header(kind: int, length: int) -> bytes:
    return struct.pack(">BI", kind, length)


def other_network() -> bytes:
    signed = make_statement(0x11, OTHER_CHAIN, b"vote")
    return Envelope(EVE.public_key, EVE.sign(signed), signed).frame()


def false_record() -> bytes:
    good = PeerRecord.sign(EVE, CHAIN, sequence=1, address=Address("127.0.0.1", 1))
    return PeerRecord(Identity.generate().public_key, good.signature, CHAIN, 1, good.address).encode()


FAULTS = {
    "unknown kind": (header(0x7F, 0), "unknown kind"),
    "oversized frame": (header(Kind.ENVELOPE, FRAME_BYTES_MAX[Kind.ENVELOPE] + 1), "with 262145 bytes"),
    "oversized by far": (header(Kind.PING, 2**32 - 1), "with 4294967295 bytes"),
    "hello again": (encode_frame(Kind.HELLO, b""), "out of place"),
    "ack again": (encode_frame(Kind.ACK, bytes(32)), "out of place"),
    "short pong": (encode_frame(Kind.PONG, b"x"), "a PONG of 1 bytes"),
    "short envelope": (encode_frame(Kind.ENVELOPE, b"x"), "ends early"),
    "forged envelope": (forged(), "wrong signature"),
    "envelope of another network": (other_network(), "another network"),
    "short request": (encode_frame(Kind.REQUEST, b"x"), "a request of 1 bytes"),
    "short response": (encode_frame(Kind.RESPONSE, b"x"), "a response of 1 bytes"),
    "unsolicited peers": (encode_response(7, []), "not asked for"),
    "greedy peer exchange": (encode_frame(Kind.PEX_REQUEST, bytes(9)) * 200, "too often"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_ends_that_connection_and_no_other(net: Network, name: str) -> None:
    data, reason = FAULTS[name]
    alice, bob = await net.pair()
    rogue = await Rogue.meet(alice)
    await rogue.send(data)
    await rogue.closed()
    await net.until(lambda: bool(alice.log.named("peer refused")))
    line = alice.log.named("peer refused")[0]
    assert reason in line["reason"]
    assert rogue.identity.node_id[:10] in line["peer"]
    assert "127.0.0.1" in line["peer"]
    alice.swarm.publish(alice.envelope(1).frame())
    await net.until(lambda: bool(bob.envelopes()))
    assert alice.ups_and_downs(bob.key) == "+"
    await rogue.leave()


async def banned(net: Network, node: Node, identity: Identity) -> bool:
    """Whether the node refuses that identity now."""
    tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
    refused = len(node.log.named("peer refused"))
    try:
        shaken = await establish(tcp, introduction(identity), is_client=True)
    except Exception:
        await net.until(lambda: len(node.log.named("peer refused")) > refused)
        return "banned" in node.log.reasons()[-1]
    await trio.aclose_forcefully(shaken.stream)
    return False


@pytest.mark.parametrize(("name", "is_proof"), [("forged envelope", True), ("unknown kind", False)])
async def test_only_proof_bans(net: Network, name: str, is_proof: bool) -> None:
    node = await net.node()
    rogue = await Rogue.meet(node)
    await rogue.send(FAULTS[name][0])
    await rogue.closed()
    await net.until(lambda: bool(node.log.named("peer refused")))
    assert await banned(net, node, rogue.identity) is is_proof
    assert not await banned(net, node, Identity.generate())
    await rogue.leave()


async def test_a_false_record_is_proof(net: Network) -> None:
    node = await net.node()
    rogue = await Rogue.meet(node)
    nonce = (await rogue.next(Kind.PEX_REQUEST))[:8]
    await rogue.send(encode_frame(Kind.PEX_RESPONSE, nonce + b"\x01" + false_record()))
    await rogue.closed()
    await net.until(lambda: bool(node.log.named("peer refused")))
    assert "peer record with a wrong signature" in node.log.reasons()[0]
    assert await banned(net, node, rogue.identity)
    assert len(node.swarm.book) == 0
    await rogue.leave()


async def test_a_false_record_in_a_hello_says_nothing_of_where_it_listens(net: Network) -> None:
    """It is not taken in; its owner gains nothing by it, and is let in."""
    node, identity = await net.node(), Identity.generate()
    record = PeerRecord.sign(identity, CHAIN, sequence=1, address=Address("127.0.0.1", 9))
    rogue = await Rogue.meet(node, identity=identity, record=replace(record, signature=bytes(64)))
    await net.until(lambda: bool(node.log.named("record refused")))
    (peer,) = node.swarm.peers()
    assert not peer.listens
    assert peer.address != record.address
    assert len(node.swarm.book) == 0
    await rogue.leave()


def told(request: bytes, *records: PeerRecord) -> bytes:
    """The answer to a PEX_REQUEST with this body."""
    return encode_response(int.from_bytes(request[:8], "big"), records)


async def test_ones_own_address_under_the_names_of_others_is_dialed_once(net: Network) -> None:
    """Forty made-up nodes are said to listen where this one does; it meets itself, and looks for none of them there any more."""
    alice, bob = await net.pair()
    rogue, plan = await Rogue.meet(alice), alice.swarm.dialer.plan
    everybody = [Identity.generate() for _ in range(40)]
    lies = [PeerRecord.sign(who, CHAIN, sequence=1, address=alice.address) for who in everybody]
    await rogue.send(told(await rogue.next(Kind.PEX_REQUEST), *lies[:20]))
    await net.until(lambda: plan.is_mine(alice.address))
    await rogue.send(encode_frame(Kind.PEX_NEWS))
    more = told(await rogue.next(Kind.PEX_REQUEST), *lies[20:])
    await rogue.send(more, encode_frame(Kind.PEX_NEWS))
    await rogue.next(Kind.PEX_REQUEST)  # it has read that answer, too
    assert alice.swarm.book.of(everybody[-1].public_key)
    await trio.testing.wait_all_tasks_blocked(0.01)
    met = [fields["reason"] for fields in alice.log.named("dial failed")]
    assert met == ["it is this node itself"], "no more than one of all these"
    assert not [target for target in plan._all() if target.address == alice.address]
    assert alice.ups_and_downs(bob.key) == "+" and alice.swarm.statistics().refused == 0
    await rogue.leave()


async def test_an_older_record_takes_nothing_back(net: Network) -> None:
    """Somebody keeps what a node once said, and tells it again after the node has moved."""
    alice = await net.node()
    rogue = await Rogue.meet(alice)
    here, there = Address("127.0.0.1", 9), Address("127.0.0.1", 10)
    old, new = (PeerRecord.sign(EVE, CHAIN, sequence=number, address=at) for number, at in ((1, there), (2, here)))
    await rogue.send(told(await rogue.next(Kind.PEX_REQUEST), new), encode_frame(Kind.PEX_NEWS))
    await rogue.send(told(await rogue.next(Kind.PEX_REQUEST), old), encode_frame(Kind.PEX_NEWS))
    await rogue.next(Kind.PEX_REQUEST)  # it has read that answer, too
    assert alice.swarm.book.addresses(EVE.public_key) == [here]
    assert alice.swarm.statistics().refused == 0, "an old record is no fault: others may be behind"
    await rogue.leave()


async def test_a_flood_is_slowed_and_others_are_heard(net: Network) -> None:
    """The node does not take its events: the flooder's share fills, and another's vote still comes through."""
    alice = await net.node(drain=False)
    bob = await net.node(alice)
    rogue = await Rogue.meet(alice)

    async def flood() -> None:
        batch = encode_frame(0x80, bytes(1000)) * 100
        try:
            while True:
                await rogue.send(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await net.until(lambda: bob.swarm.is_connected(alice.key))
        inbox = alice.swarm.inbox
        while len(inbox._queues[rogue.identity.public_key].events) < limits.INBOX_EVENTS_PER_PEER_MAX:
            await trio.lowlevel.checkpoint()
        bob.swarm.publish(bob.envelope(1).frame())
        found = 0
        with trio.fail_after(10):
            while not isinstance(await inbox.receive(), EnvelopeReceived):
                found += 1
        assert found < limits.INBOX_EVENTS_PER_PEER_MAX, "bob's vote did not wait behind the flood"
        assert alice.swarm.statistics().refused == 0, "too fast is no fault"
        nursery.cancel_scope.cancel()
    await rogue.leave()


async def test_addresses_of_the_wrong_scope_are_not_taken(net: Network) -> None:
    node = await net.node()
    elsewhere = PeerRecord.sign(EVE, CHAIN, sequence=1, address=Address("8.8.8.8", 1))
    rogue = await Rogue.meet(node, record=None)
    session = node.swarm._sessions[rogue.identity.public_key]
    object.__setattr__(session._latest, "remote", Address("8.8.4.4", 5))
    private = PeerRecord.sign(EVE, CHAIN, sequence=1, address=Address("192.168.1.1", 1))
    loopback = PeerRecord.sign(EVE, CHAIN, sequence=1, address=Address("127.0.0.1", 1))
    node.swarm.exchange.learn(session, [private, loopback])
    assert len(node.swarm.book) == 0, "a stranger must not point our dialer into our own network"
    node.swarm.exchange.learn(session, [elsewhere])
    assert len(node.swarm.book) == 1
    await rogue.leave()


async def test_leaving_says_so(net: Network) -> None:
    node = await net.node()
    rogue = await Rogue.meet(node)
    await rogue.send(encode_bye(Bye.LEAVING, "good\x1b[31mbye"))
    await net.until(lambda: bool(node.of(PeerDisconnected)))
    assert node.of(PeerDisconnected)[0].reason == "the peer said: good?[31mbye"
    assert node.swarm.statistics().refused == 0
    await rogue.leave()


async def test_too_many_half_open_connections_are_turned_away(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", 3)
    node = await net.node()
    held = [await trio.open_tcp_stream("127.0.0.1", node.address.port) for _ in range(4)]
    await net.until(lambda: bool(node.log.named("peer refused")))
    assert node.log.reasons() == ["too many handshakes at once"]
    for stream in held:
        await trio.aclose_forcefully(stream)
    await net.until(lambda: len(node.log.named("peer refused")) == 4)
    friend = await net.node(node)
    await net.until(lambda: friend.knows(node))


# --- By the clock: one connection over memory -----------------------------------------------------------------------


class Line:
    """A live connection whose other end is a bare TLS stream in the test's hands."""

    def __init__(self, near: trio.testing.MemorySendStream, far: trio.abc.Stream, connection: Connection) -> None:
        self.near = near
        self.far = far
        self.connection = connection
        self.ended = trio.Event()
        self.take: Receive = ignore

    async def run(self) -> None:
        await self.connection.run(self._take)
        self.ended.set()

    async def _take(self, kind: int, body: bytes) -> None:
        await self.take(kind, body)

    async def end(self) -> str:
        await self.ended.wait()
        return self.connection.reason


async def ignore(kind: int, body: bytes) -> None:
    """A node that has no use for any frame."""


async def connect(
    nursery: trio.Nursery, *, shared: Callable[[], TokenBucket | None] = lambda: None
) -> tuple[Line, Outbox]:
    left, right = trio.testing.memory_stream_pair()
    ends: list[trio.abc.Stream] = []

    async def far() -> None:
        ends.append((await establish(right, introduction(EVE), is_client=True)).stream)

    async with trio.open_nursery() as setup:
        setup.start_soon(far)
        shaken = await establish(left, introduction(Identity.generate()), is_client=False)
    outbox = Outbox()
    line = Line(left.send_stream, ends[0], Connection(shaken, outbox, Traffic(), shared=shared))
    nursery.start_soon(line.run)
    return line, outbox


async def test_a_peer_that_says_nothing_is_dead_after_fifteen_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        started = trio.current_time()
        assert "nothing heard for 15 s" in await line.end()
        assert trio.current_time() - started == pytest.approx(limits.DEAD_SECONDS, abs=0.1)


async def test_a_peer_that_never_reads_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, outbox = await connect(nursery)
        line.near.send_all_hook = trio.sleep_forever

        async def talk_but_never_read() -> None:
            try:
                while True:
                    await line.far.send_all(encode_frame(Kind.PONG, bytes(8)))
                    await trio.sleep(1.0)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(talk_but_never_read)
        outbox.push(encode_frame(0x80, bytes(100_000)))
        started = trio.current_time()
        assert "does not read" in await line.end()
        assert trio.current_time() - started == pytest.approx(limits.SEND_SECONDS_MAX)
        nursery.cancel_scope.cancel()


async def test_an_overflow_of_consensus_frames_drops_the_peer(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, outbox = await connect(nursery)
        for _ in range(limits.URGENT_FRAMES_MAX + 1):
            outbox.push(encode_frame(0x80, b""))
        assert "too slow" in await line.end()


async def test_pings_are_answered_and_keep_it_alive(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)

        async def answer() -> None:
            data = bytearray()
            while True:
                data += await line.far.receive_some(1000)
                while len(data) >= 13:
                    assert data[0] == Kind.PING
                    await trio.sleep(0.25)
                    await line.far.send_all(encode_frame(Kind.PONG, bytes(data[5:13])))
                    del data[:13]

        nursery.start_soon(answer)
        await trio.sleep(100.0)
        assert line.connection.reason == ""
        assert line.connection.rtt_seconds == pytest.approx(0.25)
        nursery.cancel_scope.cancel()


class Counting:
    """Takes frames and counts them."""

    def __init__(self) -> None:
        self.frames = 0
        self.all = trio.Event()

    async def __call__(self, kind: int, body: bytes) -> None:
        self.frames += 1
        if self.frames == FLOOD:
            self.all.set()


FLOOD = int(limits.FRAMES_BURST + limits.FRAMES_PER_SECOND)


@pytest.mark.parametrize(
    ("kind", "length", "seconds"),
    [
        (0x80, 0, 1.0),
        (Kind.RESPONSE, 5, 1.0),
        (Kind.BLOB_REFUSED, 5, 1.0),
        (Kind.LEAF, limits.ANSWER_BYTES_FREE_MIN - 1, 1.0),
        (Kind.LEAF, limits.ANSWER_BYTES_FREE_MIN, 0.0),
    ],
)
async def test_small_frames_have_a_rate_and_large_answers_have_none(
    autojump_clock: trio.testing.MockClock, kind: int, length: int, seconds: float
) -> None:
    """Answers that were asked for come as fast as they can; small ones that nobody asked for would cost but time."""
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        line.take = count = Counting()
        started = trio.current_time()
        batch = encode_frame(kind, bytes(length)) * (FLOOD // 100)
        for _ in range(100):
            await line.far.send_all(batch)
        await count.all.wait()
        assert trio.current_time() - started == pytest.approx(seconds, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_strangers_share_what_they_may_send_and_members_do_not(autojump_clock: trio.testing.MockClock) -> None:
    """Keys are free: ten that flood are together as slow as one, each gets as much, and a member waits for none of them."""
    shared = TokenBucket(
        per_second=limits.STRANGERS_FRAMES_PER_SECOND, burst=limits.STRANGERS_FRAMES_BURST, now=trio.current_time()
    )
    async with trio.open_nursery() as nursery:
        counts = []
        for is_member in [True] + 10 * [False]:
            line, _ = await connect(nursery, shared=(lambda: None) if is_member else lambda: shared)
            line.take = count = Counting()
            counts.append(count)
            await line.far.send_all(encode_frame(0x80, b"") * 10_000)
        await trio.sleep(1.0)
        taken = [count.frames for count in counts]
        assert taken[0] == 10_000
        assert sum(taken[1:]) == pytest.approx(
            limits.STRANGERS_FRAMES_BURST + limits.STRANGERS_FRAMES_PER_SECOND, rel=0.01
        )
        await trio.sleep(5.0)
        later = [count.frames - before for count, before in zip(counts, taken, strict=True)][1:]
        waiting = [more for more, before in zip(later, taken[1:], strict=True) if before + more < 10_000]
        assert max(waiting) - min(waiting) <= 1, "one after the other, a frame of each"
        nursery.cancel_scope.cancel()


async def test_who_is_a_stranger_is_asked_for_each_frame(net: Network) -> None:
    alice = await net.node()
    rogue = await Rogue.meet(alice)
    key = rogue.identity.public_key
    assert alice.swarm._share_of(key) is alice.swarm._strangers
    alice.swarm.members([key])
    assert alice.swarm._share_of(key) is None
    await rogue.leave()


async def test_a_burst_of_frames_lets_others_in_between(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        line.take = count = Counting()
        most = before = 0

        async def others() -> None:
            nonlocal most, before
            while True:
                await trio.lowlevel.checkpoint()
                most, before = max(most, count.frames - before), count.frames

        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(others)
        await line.far.send_all(encode_frame(0x80, b"") * 15_000)
        with trio.fail_after(5.0):
            while count.frames < 15_000:
                await trio.lowlevel.checkpoint()
        assert 0 < most <= 2 * limits.FRAMES_PER_TURN_MAX  # last of one round of tasks and first of the next
        nursery.cancel_scope.cancel()


async def test_our_own_backlog_is_not_the_peers_death(autojump_clock: trio.testing.MockClock) -> None:
    """The node is busy for a minute and takes no frame: a peer is dead by its silence, not by our deafness."""
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)

        async def busy(kind: int, body: bytes) -> None:
            await trio.sleep(60.0)
            nursery.cancel_scope.cancel()

        line.take = busy
        await line.far.send_all(encode_frame(0x80, b""))
    assert line.connection.fault is None


async def test_a_retired_connection_ends_though_the_other_end_sleeps(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        line.connection.retire()
        assert await line.end() == "duplicate connection"
        assert trio.current_time() - started == pytest.approx(limits.RETIRE_SECONDS_MAX)
        assert line.connection.fault is None


def test_the_parts_fit_their_protocols() -> None:
    """Checked by mypy: what stands in for a logger and what a session asks of its host."""
    log: Log = RecordingLog(Signal())
    assert log is not None
    assert Session is not None
    assert Host is not None
