"""What a message costs a processor on this machine: measured first, then charged in the simulated network (``wan``).

Two real swarms on loopback, TLS and signatures included, carry envelopes of the size of a vote from one to the other; the processor time
of both ends together is one message. What the engine makes of a message is timed where it happens. For editors: medians of several
turns, because other work on the machine only ever adds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

import transport
from p2pnode.logs import get_logger

CHAIN = transport.ChainId(b"\x17" * 32)
MESSAGES = 400
TURNS = 5
VOTE_KIND = 0x11
BULK_BYTES = 1 << 20
KNOWN_IN_TURN = 20


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core. ``message_seconds``: one envelope, both ends together, its signature checked; ``known_seconds``: one that
    the receiver has heard before; ``byte_seconds``: a byte of a verified payload, both ends together."""

    sign_seconds: float
    verify_seconds: float
    message_seconds: float
    known_seconds: float
    byte_seconds: float


def measure() -> Costs:
    """Takes about three seconds."""
    return trio.run(_measure)


async def _measure() -> Costs:
    identity = transport.Identity.generate()
    statement = transport.make_statement(VOTE_KIND, CHAIN, bytes(48))
    signature = identity.sign(statement)
    blobs = transport.MemoryBlobs()
    async with trio.open_nursery() as nursery:
        listener = bare_swarm(transport.Identity.generate(), blobs, bootstrap=())
        bound = await nursery.start(listener.run)
        dialer = bare_swarm(identity, transport.MemoryBlobs(), bootstrap=[bound])
        await nursery.start(dialer.run)
        for swarm in (listener, dialer):
            while not isinstance(await swarm.events.receive(), transport.PeerConnected):
                pass
        fresh, known = [], []
        for turn in range(TURNS):
            frames = [_vote(dialer, turn * MESSAGES + number) for number in range(MESSAGES)]
            fresh.append(await _carry(dialer, listener, frames))
            known.append(await _carry_again(dialer, listener, frames, fresh[-1]))
        bulk = [await _bulk(listener, dialer, blobs, turn) for turn in range(TURNS)]
        nursery.cancel_scope.cancel()
    return Costs(
        sign_seconds=_timed(lambda: identity.sign(statement)),
        verify_seconds=_timed(lambda: transport.verify(identity.public_key, statement, signature)),
        message_seconds=statistics.median(fresh),
        known_seconds=statistics.median(known),
        byte_seconds=statistics.median(bulk),
    )


def bare_swarm(
    identity: transport.Identity, blobs: transport.MemoryBlobs, *, bootstrap: Sequence[transport.Address]
) -> transport.Swarm:
    async def refuse(_: transport.PublicKey, method: int, body: bytes) -> bytes:
        raise transport.RequestRefused("nothing is asked here")

    return transport.Swarm(
        identity=identity,
        listen=transport.Address("127.0.0.1", 0),
        listen_fallback=False,
        announce=None,
        bootstrap=list(bootstrap),
        book=transport.PeerBook(),
        chain_id=CHAIN,
        handler=refuse,
        blobs=blobs,
        log=get_logger(part="bench"),
    )


def _timed(call: Callable[[], object]) -> float:
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        for _ in range(MESSAGES):
            call()
        turns.append((time.process_time() - began) / MESSAGES)
    return statistics.median(turns)


def _vote(swarm: transport.Swarm, number: int) -> bytes:
    signed = transport.make_statement(VOTE_KIND, CHAIN, number.to_bytes(48, "big"))
    return transport.Envelope(swarm.identity.public_key, swarm.identity.sign(signed), signed, b"").frame()


async def _carry(sender: transport.Swarm, receiver: transport.Swarm, frames: Sequence[bytes]) -> float:
    """Processor time of one message. One at a time, as votes come: nothing is gained by reading several at once."""
    began = time.process_time()
    for frame in frames:
        sender.publish(frame)
        await receiver.events.receive()
    return (time.process_time() - began) / len(frames)


async def _carry_again(
    sender: transport.Swarm, receiver: transport.Swarm, frames: Sequence[bytes], fresh_seconds: float
) -> float:
    """Of one that was heard before: nothing shows that it came, so something new follows now and then."""
    first = (
        int.from_bytes(transport.content_digest([frames[0]], len(frames[0]))[:6], "big") << 16
    )  # new ones in each turn
    ends = [_vote(sender, first + number) for number in range(len(frames) // KNOWN_IN_TURN)]
    sender_frames = iter(frames)
    began = time.process_time()
    for end in ends:
        for _ in range(KNOWN_IN_TURN):
            sender.publish(next(sender_frames))
        sender.publish(end)
        await receiver.events.receive()
    return max(0.0, (time.process_time() - began - len(ends) * fresh_seconds) / len(frames))


async def _bulk(holder: transport.Swarm, receiver: transport.Swarm, blobs: transport.MemoryBlobs, turn: int) -> float:
    blob = bytes([turn]) * BULK_BYTES
    digest = blobs.add(blob)
    began = time.process_time()
    await receiver.fetch_bytes(digest, len(blob), holders=lambda: [holder.identity.public_key])
    return (time.process_time() - began) / len(blob)
