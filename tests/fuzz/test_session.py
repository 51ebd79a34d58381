"""Fuzzing a live connection: frames of every kind, in any order, almost right or not at all, at a real swarm over real sockets.

What needs more than the bytes of one frame (a session's questions, its queues, what came before) is met here. A rogue may lose its
connection over it; nothing else may happen: no line of level error, and nobody else's connection ends.
"""

import hashlib
import struct
from random import Random

import pytest
import trio

from tests.fuzz.mutation import Target, mutant
from tests.transport.net import CHAIN, Network, Node, Rogue, open_network
from transport import MemoryBlobs, content
from transport.address import Address
from transport.envelope import Envelope
from transport.framing import APPLICATION_KIND_MIN, FRAME_BYTES_MAX, Kind, encode_frame
from transport.identity import Identity
from transport.peerbook import PeerRecord
from transport.pex import encode_response
from transport.statement import make_statement

FRAMES_EACH = 40
HELD = bytes(range(256)) * 700


def seeds(identity: Identity) -> list[bytes]:
    """True frames of one who has connected."""
    digest = content.digest_of(HELD)
    vote = make_statement(0x11, CHAIN, b"vote")
    record = PeerRecord.sign(identity, CHAIN, sequence=1, address=Address("127.0.0.1", 1))
    wanted = struct.pack(">I32sI", 1, digest, 0)
    return [
        encode_frame(Kind.PING, bytes(8)),
        encode_frame(Kind.PONG, struct.pack(">Q", 1)),
        encode_frame(Kind.PEX_NEWS),
        encode_frame(Kind.PEX_REQUEST, bytes(8) + b"\x40"),
        encode_response(1, [record]),
        Envelope(identity.public_key, identity.sign(vote), vote).frame(),
        *(encode_frame(Kind.REQUEST, struct.pack(">IH", 1, method) + b"?") for method in (1, 2, 4)),
        encode_frame(Kind.RESPONSE, struct.pack(">IB", 1, 1) + b"part"),
        encode_frame(Kind.HASHES_WANTED, wanted + struct.pack(">I", 3)),
        encode_frame(Kind.LEAVES_WANTED, wanted + struct.pack(">H", 3)),
        encode_frame(Kind.HASHES, bytes(4 + 96)),
        encode_frame(Kind.LEAF, bytes(8) + b"leaf"),
        encode_frame(Kind.BLOB_REFUSED, bytes(5)),
        encode_frame(0x80, b"status"),
    ]


def frames(rng: Random, identity: Identity) -> list[bytes]:
    """Of one connection: mostly true ones in an order that nobody expects; bodies mutated under a true length; now and then raw bytes."""
    true = seeds(identity)
    bodies = [frame[5:] for frame in true]
    any_body = Target("body", bytes, tuple(bodies), (), bytes_max=70_000)
    kinds = [*Kind, *range(APPLICATION_KIND_MIN, APPLICATION_KIND_MIN + 8)]
    made = []
    for _ in range(FRAMES_EACH):
        draw = rng.random()
        if draw < 0.3:
            made.append(rng.choice(true))
        elif draw < 0.98:
            frame = rng.choice(true)
            kind = frame[0] if rng.random() < 0.8 else rng.choice(kinds)
            body = mutant(rng, [frame[5:]] if rng.random() < 0.7 else bodies, any_body)[: FRAME_BYTES_MAX[kind]]
            made.append(encode_frame(kind, body))
        else:
            made.append(mutant(rng, true, any_body))
    return made


async def attack(net: Network, victim: Node, seed: int) -> None:
    """Until it has said everything or is thrown out."""
    rng = Random(seed)
    rogue = await Rogue.meet(victim, identity=Identity(hashlib.sha256(b"rogue %d" % seed).digest()))

    async def read() -> None:
        while await rogue.receive() is not None:
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        try:
            for frame in frames(rng, rogue.identity):
                await rogue.send(frame)
            await rogue.send(encode_frame(Kind.BYE, b"\0"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()
    await net.until(lambda: not victim.swarm.is_connected(rogue.identity.public_key))
    await rogue.leave()


async def survive(rogues: range) -> None:
    async with open_network() as net:
        held = MemoryBlobs()
        held.add(HELD)
        alice = await net.node(blobs=held)
        bob = await net.node(alice)
        await net.until(lambda: alice.knows(bob) and bob.knows(alice))
        for seed in rogues:
            await attack(net, alice, seed)
        loud = [line for line in alice.log.lines if line[0] == "error" and line[1] != "request handler failed"]
        assert not loud, "method 3 of the test's own handler has a bug, and nothing else"
        assert alice.ups_and_downs(bob.key) == "+" and bob.ups_and_downs(alice.key) == "+"
        alice.swarm.publish(alice.envelope(1).frame())
        await net.until(lambda: any(e.envelope == alice.envelope(1) for e in bob.envelopes()))


async def test_frames_of_all_kinds_in_any_order_end_one_connection_at_most() -> None:
    await survive(range(60))


@pytest.mark.long
async def test_and_so_do_a_hundred_thousand_of_them() -> None:
    await survive(range(1000, 3500))
