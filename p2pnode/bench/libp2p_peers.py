"""Hosts of py-libp2p that meet, for ``meeting.py``. Run by the interpreter of libp2p's own environment, never imported.

``python libp2p_peers.py handshakes COUNT`` connects two hosts again and again: seconds of one connection from nothing to both ends ready (TCP,
Noise, yamux, and what is negotiated between), of the clock, and of the processor with the closing, both ends together.
``python libp2p_peers.py discovery NODES`` starts hosts that know the first one's address, with its Kademlia DHT, and refreshes every routing
table without a pause until each names all others. Everything else is libp2p's default. One line of JSON comes out.
"""

import importlib.metadata
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import trio
from libp2p import new_host  # type: ignore[import-not-found]  # ours does not have it
from libp2p.crypto.ed25519 import create_new_key_pair  # type: ignore[import-not-found]
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT  # type: ignore[import-not-found]
from libp2p.peer.peerinfo import PeerInfo  # type: ignore[import-not-found]
from libp2p.tools.anyio_service import background_trio_service  # type: ignore[import-not-found]
from multiaddr import Multiaddr  # type: ignore[import-not-found]

HERE = Multiaddr("/ip4/127.0.0.1/tcp/0")
PAUSE_SECONDS = 0.05


async def handshakes(count: int) -> dict[str, float]:
    dialer, listener = (new_host(key_pair=create_new_key_pair()) for _ in range(2))
    async with dialer.run(listen_addrs=[HERE]), listener.run(listen_addrs=[HERE]):
        other = PeerInfo(listener.get_id(), listener.get_addrs())
        await dialer.connect(other)  # the first one opens what the others use
        await dialer.disconnect(other.peer_id)
        seconds, processor = 0.0, time.process_time()
        for _ in range(count):
            began = time.perf_counter()
            await dialer.connect(other)
            seconds += time.perf_counter() - began  # its way of closing takes long, and is no handshake
            await dialer.disconnect(other.peer_id)
        spent = {"seconds": seconds, "processor_seconds": time.process_time() - processor}
    return {name: value / count for name, value in spent.items()}


async def discovery(nodes: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        began = time.perf_counter()
        tables: list[Any] = []
        first: PeerInfo | None = None
        for _ in range(nodes):
            host = new_host(key_pair=create_new_key_pair())
            await stack.enter_async_context(host.run(listen_addrs=[HERE]))
            table = KadDHT(host, DHTMode.SERVER)
            if first is None:
                first = PeerInfo(host.get_id(), host.get_addrs())
            else:
                await host.connect(first)
                await table.routing_table.add_peer(first.peer_id)
            await stack.enter_async_context(background_trio_service(table))
            tables.append(table)
        while any(table.get_routing_table_size() < nodes - 1 for table in tables):
            for table in tables:
                await table.refresh_routing_table()
            await trio.sleep(PAUSE_SECONDS)
        _say({"known_seconds": time.perf_counter() - began})
        os._exit(0)  # closing them one after the other takes longer than all the rest


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps({"version": importlib.metadata.version("libp2p"), **answer}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    task = {"handshakes": handshakes, "discovery": discovery}[sys.argv[1]]
    _say(trio.run(task, int(sys.argv[2])))
