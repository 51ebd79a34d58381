"""A process with one swarm for others to attack: what it costs can be read from outside, and nothing of the attackers is in it.

`python -m tests.transport.victim [deaf] [at HOST]` prints its port and its key, holds one blob, echoes requests, takes its events (`deaf`:
none), and ends with its standard input.
"""

import sys

import trio

from tests.transport.net import CHAIN, LOOPBACK, RecordingLog, Signal, echo
from transport import MemoryBlobs
from transport.address import Address
from transport.identity import Identity
from transport.peerbook import PeerBook
from transport.swarm import Swarm

BLOB = bytes(range(256)) * 4096  # a megabyte: sixteen leaves


class Forgetful(RecordingLog):
    """Says what it refuses, and keeps nothing."""

    def _add(self, level, event, fields):  # type: ignore[no-untyped-def]
        if level == "error" and event != "request handler failed":
            sys.stderr.write(f"{event} {fields}\n")


async def main(*words: str) -> None:
    blobs = MemoryBlobs()
    blobs.add(BLOB)
    swarm = Swarm(
        identity=Identity.generate(),
        listen=Address(words[words.index("at") + 1], 0) if "at" in words else LOOPBACK,
        listen_fallback=False,
        announce=None,
        bootstrap=[],
        book=PeerBook(),
        chain_id=CHAIN,
        handler=echo,
        blobs=blobs,
        log=Forgetful(Signal()),
    )
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(swarm.run)
        sys.stdout.write(f"{bound.port} {swarm.identity.public_key.hex()}\n")
        sys.stdout.flush()
        if "deaf" not in words:
            nursery.start_soon(drain, swarm)
        stdin = trio.lowlevel.FdStream(0)
        while line := await stdin.receive_some():
            for _ in line.splitlines():
                statistics = swarm.statistics()
                sys.stdout.write(f"{statistics.peers} {statistics.known} {statistics.refused}\n")
                sys.stdout.flush()
        nursery.cancel_scope.cancel()


async def drain(swarm: Swarm) -> None:
    """Take every event, and publish what a peer asks to have said to all."""
    async for event in swarm.events:
        if getattr(event, "kind", 0) == 0x81:
            swarm.publish(bytes(event.body))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
