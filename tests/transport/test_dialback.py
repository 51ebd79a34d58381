"""Dialing back over real sockets: who is asked, what is dialed, what is believed, and what nobody can make a node do."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import trio

from tests.transport.net import Node, Rogue, introduction, open_network
from transport import limits
from transport.address import Address
from transport.dialback import probe
from transport.establish import DialError, establish
from transport.events import ReachabilityChanged
from transport.framing import Kind, encode_frame
from transport.identity import Identity
from transport.reachability import Result, Verdict, decode_answer

QUESTION = struct.Struct(">QH")


def told(node: Node) -> list[Verdict]:
    return [event.reach.verdict for event in node.of(ReachabilityChanged)]


async def test_peers_dial_back_and_the_node_knows_that_it_can_be_reached():
    async with open_network() as network:
        first, second = await network.pair()
        third = await network.node(first)
        await network.until(lambda: all(told(node) == [Verdict.YES] for node in (first, second, third)))
        for node in (first, second, third):
            reach = node.swarm.reach()
            assert reach.peers >= 1 and reach.failed == 0
            assert reach.address == node.address
            assert reach.clock_seconds is not None and abs(reach.clock_seconds) < 5
        assert first.ups_and_downs(second.key) == "+", "a probe is no connection"
        assert not first.log.named("peer refused") and not first.log.named("duplicate connection")


async def test_a_node_that_nobody_can_dial_is_told_so():
    async with open_network() as network:
        first = await network.node()
        # What it says is its port is none where anybody listens.
        with trio.socket.socket() as held:
            await held.bind(("127.0.0.1", 0))
            closed = Address("127.0.0.1", held.getsockname()[1])
            second = await network.node(first, announce=closed)
            await network.until(lambda: told(second) == [Verdict.NO])
        reach = second.swarm.reach()
        assert (reach.failed, reach.result, reach.address) == (1, Result.REFUSED, closed)


async def ask(rogue: Rogue, port: int, nonce: int = 7) -> Result:
    await rogue.send(encode_frame(Kind.DIAL_BACK, QUESTION.pack(nonce, port)))
    answer = decode_answer(await rogue.next(Kind.DIALED_BACK))
    assert answer[0] == nonce
    return answer[1]


async def test_a_stranger_behind_the_port_is_not_the_asker():
    async with open_network() as network:
        node, other = await network.node(), await network.node()
        rogue = await Rogue.meet(node)
        assert await ask(rogue, other.address.port) is Result.ANOTHER
        assert not other.of(ReachabilityChanged) and not other.swarm.peers(), "who was dialed has met nobody"
        assert await ask(rogue, node.address.port) is Result.ANOTHER, "nor is the node that is asked"
        await rogue.leave()


async def test_one_peer_is_dialed_back_three_times_and_then_told_not_now():
    async with open_network() as network:
        node = await network.node()
        rogue = await Rogue.meet(node)
        with trio.socket.socket() as held:
            await held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            results = [await ask(rogue, port, nonce) for nonce in range(int(limits.DIAL_BACKS_BURST) + 3)]
        assert results == [Result.REFUSED] * int(limits.DIAL_BACKS_BURST) + [Result.BUSY] * 3
        assert node.swarm.is_connected(rogue.identity.public_key), "asking too often is no fault"
        await rogue.leave()


async def test_all_together_only_so_many_are_dialed_back_at_once():
    async with open_network() as network:
        node = await network.node()
        rogues = [await Rogue.meet(node) for _ in range(limits.DIAL_BACKS_AT_ONCE + 1)]
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        accepted = []
        for rogue in rogues[:-1]:
            await rogue.send(encode_frame(Kind.DIAL_BACK, QUESTION.pack(1, port)))
            accepted.append(await listener.accept())  # and says nothing
        assert await ask(rogues[-1], port) is Result.BUSY
        for stream in accepted:
            await stream.aclose()
        assert decode_answer(await rogues[0].next(Kind.DIALED_BACK))[1] is Result.ANOTHER
        await listener.aclose()
        for rogue in rogues:
            await rogue.leave()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(encode_frame(Kind.DIAL_BACK, QUESTION.pack(1, 0)), id="port 0"),
        pytest.param(encode_frame(Kind.DIAL_BACK, b"\x01"), id="a short question"),
        pytest.param(encode_frame(Kind.DIALED_BACK, bytes(17)), id="an answer to nothing"),
        pytest.param(encode_frame(Kind.DIALED_BACK, bytes(8) + b"\x06" + bytes(8)), id="a result that there is not"),
        pytest.param(encode_frame(Kind.DIALED_BACK, b""), id="a short answer"),
    ],
)
async def test_what_is_no_question_or_answer_ends_the_connection(body: bytes):
    async with open_network() as network:
        node = await network.node()
        rogue = await Rogue.meet(node)
        await rogue.send(body)
        await rogue.closed()
        await rogue.leave()


async def test_a_peer_that_claims_to_have_reached_us_is_not_believed():
    async with open_network() as network:
        node = await network.node()
        rogue = await Rogue.meet(node)
        nonce, _ = QUESTION.unpack(await rogue.next(Kind.DIAL_BACK))
        await rogue.send(encode_frame(Kind.DIALED_BACK, struct.pack(">QBQ", nonce, Result.REACHED, 0)))
        await rogue.send(encode_frame(Kind.PING, bytes(8)))
        await rogue.next(Kind.PONG)
        assert node.swarm.reach().verdict is Verdict.UNKNOWN
        # The same peer's probe is believed, whatever it says.
        tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        intro = replace(introduction(rogue.identity, tls=rogue.tls), is_probe=True)
        shaken = await establish(tcp, intro, is_client=True)
        await trio.aclose_forcefully(shaken.stream)
        await network.until(lambda: told(node) == [Verdict.YES])
        await rogue.leave()


async def test_a_probe_needs_no_place_and_says_who_answers():
    async with open_network() as network:
        node, prober = await network.node(), await network.node()
        await probe(prober.swarm, node.address, node.key)
        assert not node.swarm.peers() and not prober.swarm.peers()
        with pytest.raises(DialError, match="answers there, not"):
            await probe(prober.swarm, node.address, Identity.generate().public_key)
        assert not node.log.named("peer refused")


async def test_without_a_listener_nobody_is_asked():
    async with open_network() as network:
        first = await network.node()
        second = await network.node(first, listen=None)
        await network.until(lambda: first.knows(second) and told(first) == [Verdict.YES])
        assert second.swarm.reach().verdict is Verdict.UNKNOWN
        assert second.swarm.reach().asked == 0
