"""Seeded disorder: nodes that come and go, and peers that send anything. Stories stay consistent and nothing crashes."""

import re
from random import Random

import pytest
import trio

from tests.transport.net import Network, Node, Rogue, everybody_knows_everybody
from transport.framing import FRAME_BYTES_MAX, Kind, encode_frame
from transport.peerbook import PeerBook


def stories(node: Node, others: list[bytes]) -> set[str]:
    return {node.ups_and_downs(key) for key in others}


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_comes_and_goes_in_the_end_all_know_all(net: Network, seed: int) -> None:
    random = Random(seed)
    nodes = [await net.node()]
    nodes += [await net.node(nodes[0]) for _ in range(4)]
    everyone = list(nodes)
    for _ in range(8):
        victim = random.choice(nodes[1:])
        book, identity = victim.swarm.book.dump(), victim.swarm.identity
        await victim.stop()
        if random.random() < 0.5:
            await net.until(lambda v=victim: not any(n.knows(v) for n in nodes if n is not v))  # type: ignore[misc]
        again = await net.node(nodes[0], identity=identity, book=PeerBook.load(book))
        nodes[nodes.index(victim)] = again
        everyone.append(again)
    await net.until(lambda: everybody_knows_everybody(nodes))
    keys = [node.key for node in nodes]
    for node in everyone:
        for story in stories(node, keys):
            assert re.fullmatch(r"(\+-)*\+?", story), "connected and gone take turns"
        assert not node.log.named("connection crashed")
        assert not node.log.named("handshake crashed")


def anything(random: Random) -> bytes:
    """A frame that is right in its header, and in its body anything from empty to nearly right."""
    kind = random.choice([*Kind, 0x80, 0xFF])
    cap = FRAME_BYTES_MAX[kind]
    size = random.choice([0, min(1, cap), min(8, cap), min(random.randrange(300), cap), cap])
    filler = random.choice([bytes, lambda n: b"\xff" * n, random.randbytes])
    return encode_frame(kind, filler(size))


@pytest.mark.parametrize("seed", range(10))
async def test_no_frame_crashes_a_node(net: Network, seed: int) -> None:
    random = Random(seed)
    alice, bob = await net.pair()
    for _ in range(8):
        rogue = await Rogue.meet(alice)
        try:
            await rogue.send(*[anything(random) for _ in range(10)])
        except trio.BrokenResourceError:
            pass
        await rogue.leave()
        await net.until(lambda r=rogue: not alice.swarm.is_connected(r.identity.public_key))  # type: ignore[misc]
    assert not alice.log.named("connection crashed")
    bob.swarm.publish(bob.envelope(1).frame())
    await net.until(lambda: bool(alice.envelopes()))
    assert alice.ups_and_downs(bob.key) == "+"


@pytest.mark.parametrize("seed", range(5))
async def test_no_bytes_crash_a_node(net: Network, seed: int) -> None:
    random = Random(seed)
    alice, bob = await net.pair()
    for _ in range(10):
        rogue = await Rogue.meet(alice)
        try:
            await rogue.send(random.randbytes(random.randrange(1, 3000)))
        except trio.BrokenResourceError:
            pass
        await rogue.leave()
    assert not alice.log.named("connection crashed")
    await net.until(lambda: alice.knows(bob) and len(alice.swarm.peers()) == 1)
