"""Two hosts of py-libp2p that connect again and again, for ``meeting.py``. Run by the interpreter of libp2p's own environment, never imported.

``python libp2p_peers.py COUNT`` prints one line of JSON: seconds of one connection from nothing to both ends ready (TCP, Noise, yamux, and
what is negotiated between), of the clock and of the processor, both ends together. Everything is libp2p's default.
"""

import importlib.metadata
import json
import sys
import time

import trio
from libp2p import new_host  # type: ignore[import-not-found]  # ours does not have it
from libp2p.crypto.ed25519 import create_new_key_pair  # type: ignore[import-not-found]
from libp2p.peer.peerinfo import PeerInfo  # type: ignore[import-not-found]
from multiaddr import Multiaddr  # type: ignore[import-not-found]

HERE = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def main(count: int) -> None:
    dialer, listener = (new_host(key_pair=create_new_key_pair()) for _ in range(2))
    async with dialer.run(listen_addrs=[HERE]), listener.run(listen_addrs=[HERE]):
        other = PeerInfo(listener.get_id(), listener.get_addrs())
        await dialer.connect(other)  # the first one opens what the others use
        await dialer.disconnect(other.peer_id)
        began, processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            await dialer.connect(other)
            await dialer.disconnect(other.peer_id)
        spent = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
    answer = {name: value / count for name, value in spent.items()}
    sys.stdout.write(json.dumps({"version": importlib.metadata.version("libp2p"), **answer}) + "\n")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
