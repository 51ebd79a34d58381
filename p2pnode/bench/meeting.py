"""``scripts/bench meeting``: how fast nodes meet on the sockets of this machine, beside py-libp2p where that is installed.

    handshakes    one connection after the other from nothing to two ends that have accepted each other: TCP, mutual TLS 1.3, HELLO both ways.
                  Theirs: TCP, Noise, yamux, and the protocol negotiations between them
    discovery     nodes that know one address, until every one knows every other (and, ours, is connected to it). Theirs: the routing tables
                  of its Kademlia DHT, refreshed without a pause

What it is: both ends in one process, ours and theirs in turns. What it is not: a network with distances (``scale``).
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

import transport
from p2pnode.bench.costs import CHAIN, bare_swarm
from p2pnode.errors import UserError
from transport.establish import Introduction, establish
from transport.machine import Machine
from transport.tcp import TcpStream
from transport.tls import TlsIdentity, TlsPeer, tls_identity

HANDSHAKES = 100
TURNS = 5
NODES = (8, 16)
MEET_SECONDS_MAX = 120.0
POLL_SECONDS = 0.01
LIBP2P_PEERS = Path(__file__).with_name("libp2p_peers.py")

Json = dict[str, Any]


async def measure(*, libp2p: Path | None, say: Callable[[str], None]) -> Json:
    """Figures of all turns; ``libp2p`` is the interpreter of an environment that has it."""
    ours: list[Json] = []
    theirs: list[Json] = []
    for turn in range(TURNS):
        say(f"handshakes, turn {turn + 1} of {TURNS}")
        ours.append(await handshakes(HANDSHAKES))
        if libp2p is not None:
            theirs.append(_ask_libp2p(libp2p, "handshakes", HANDSHAKES))
    result: Json = {"benchmark": "meeting", "handshakes": _medians(ours), "discovery": []}
    if theirs:
        result["libp2p"] = {"version": theirs[0]["version"], **_medians(theirs)}
        pairs = zip(ours, theirs, strict=True)
        result["ratios"] = [mine["processor_seconds"] / other["processor_seconds"] for mine, other in pairs]
    for nodes in NODES:
        say(f"discovery, {nodes} nodes")
        row: Json = {"nodes": nodes, **await discovery(nodes)}
        if libp2p is not None:
            row["libp2p_known_seconds"] = _ask_libp2p(libp2p, "discovery", nodes)["known_seconds"]
        result["discovery"].append(row)
    return result


async def handshakes(count: int) -> Json:
    """Seconds of one handshake, of the clock and of the processor, both ends together."""
    mine, other = _end(), _end()
    async with trio.open_nursery() as nursery:
        listeners = await Machine().listen("127.0.0.1", 0)

        async def answer(tcp: TcpStream) -> None:
            shaken = await establish(tcp, _introduction(*other), is_client=False)
            await shaken.stream.receive_some(1)  # until the dialer has gone
            await trio.aclose_forcefully(shaken.stream)

        nursery.start_soon(trio.serve_listeners, answer, listeners)
        port = listeners[0].socket.getsockname()[1]
        began, processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            shaken = await establish(await Machine().connect("127.0.0.1", port), _introduction(*mine), is_client=True)
            await trio.aclose_forcefully(shaken.stream)
        spent = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor}
        nursery.cancel_scope.cancel()
    return {name: value / count for name, value in spent.items()}


async def discovery(nodes: int) -> Json:
    """Seconds from the start of all until every node knows every other, and until all are connected."""
    async with trio.open_nursery() as nursery:
        swarms: list[transport.Swarm] = []
        began = time.perf_counter()
        bound: list[transport.Address] = []
        for _ in range(nodes):
            swarm = bare_swarm(transport.Identity.generate(), transport.MemoryBlobs(), bootstrap=bound[:1])
            swarms.append(swarm)
            bound.append(await nursery.start(swarm.run))
            nursery.start_soon(_drain, swarm)
        known = 0.0
        with trio.fail_after(MEET_SECONDS_MAX):
            while any(len(swarm.peers()) < nodes - 1 for swarm in swarms):
                if not known and all(swarm.statistics().known >= nodes - 1 for swarm in swarms):
                    known = time.perf_counter() - began
                await trio.sleep(POLL_SECONDS)
        connected = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return {"known_seconds": known or connected, "connected_seconds": connected}


async def _drain(swarm: transport.Swarm) -> None:
    async for _ in swarm.events:
        pass


def _end() -> tuple[transport.Identity, TlsIdentity]:
    identity = transport.Identity.generate()
    return identity, tls_identity(identity)


def _introduction(identity: transport.Identity, tls: TlsIdentity) -> Introduction:
    async def admit(peer: TlsPeer, *, is_client: bool) -> None:
        """Everybody."""

    return Introduction(
        identity=identity,
        tls=tls,
        chain_id=CHAIN,
        record=None,
        remote=transport.Address("127.0.0.1", 1),
        local=transport.Address("127.0.0.1", 2),
        expected=None,
        admit=admit,
    )


def _ask_libp2p(python: Path, task: str, count: int) -> Json:
    command = [str(python), str(LIBP2P_PEERS), task, str(count)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the operator named it
    if process.returncode != 0:
        raise UserError("py-libp2p's peers ended by themselves", "run p2pnode/bench/libp2p_peers.py by hand")
    answer: Json = json.loads(process.stdout)
    return answer


def _medians(turns: Sequence[Json]) -> Json:
    seconds, processor = (statistics.median(turn[name] for turn in turns) for name in ("seconds", "processor_seconds"))
    return {"seconds": seconds, "processor_seconds": processor, "per_second": 1 / seconds}


def text(result: Json) -> str:
    lines = [f"handshakes, both ends in one process: {_speed(result['handshakes'])}"]
    if "libp2p" in result:
        ratios = ", ".join(f"{ratio:.2f}" for ratio in result["ratios"])
        lines += [
            f"py-libp2p {result['libp2p']['version']}: {_speed(result['libp2p'])}",
            f"processor time, ours to theirs, turn by turn: {ratios}; median {statistics.median(result['ratios']):.2f}",
        ]
    lines += [
        f"{row['nodes']} nodes from one address: all know all after {row['known_seconds']:.2f} s,"
        f" all are connected after {row['connected_seconds']:.2f} s{_beside(row)}"
        for row in result["discovery"]
    ]
    return "\n".join(lines)


def _beside(row: Json) -> str:
    return f"; py-libp2p knows all after {row['libp2p_known_seconds']:.2f} s" if "libp2p_known_seconds" in row else ""


def _speed(figures: Json) -> str:
    return f"{figures['per_second']:.0f} a second, {figures['processor_seconds'] * 1e3:.2f} ms of processor time each"
