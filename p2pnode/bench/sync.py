"""``scripts/bench sync``: what a joiner gets out of one TLS connection on this machine, against what a plain TLS stream carries.

Two processes on loopback, in turns, so that all see the same machine: (1) a plain ``trio.SSLStream`` under the same contexts, read and
thrown away; (2) a model snapshot by the node's own code, each leaf verified, into a file; (3) a chain, every certificate checked. A
ratio is of one turn's pair. Loopback is as fast as the processors: what verifying and writing take is missing there, and nowhere on a
link that is slower than they are (``--mbit``, ``link``).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import transport
from model.replica import Replica
from p2pnode.bench.donor import Speaker
from p2pnode.catchup import CatchUp
from p2pnode.errors import UserError
from p2pnode.genesis import Genesis, parse
from p2pnode.logs import get_logger
from transport.machine import in_thread
from transport.tls import tls_identity

MODEL_MEBIBYTES = 256
BLOCKS = 3000
TURNS = 5
READ_BYTES = 64 << 10  # of the plain stream; it hands on one record of 16 KiB at a time, whatever is asked for

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Donor:
    """The other process, as far as this one knows it."""

    port: int
    plain_port: int
    genesis: Genesis
    model_root: bytes
    blocks: int


async def measure(*, mebibytes: int, blocks: int, turns: int, say: Callable[[str], None]) -> Json:
    """Everything, in turns. Raises UserError where nothing can be measured."""
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as name:
        directory = Path(name)
        say(f"a donor with {mebibytes} MiB of model and {blocks} blocks: starting")
        async with _donor(directory / "donor", mebibytes, blocks) as donor:
            like = await in_thread(_blank, donor.genesis)
            rows = []
            for turn in range(turns + 1):  # the first one opens caches and is not counted
                rows.append(await _turn(directory / f"joiner{turn}", donor, like))
                say(f"turn {turn} of {turns}")
    counted = rows[1:]
    plain, file, memory, chain, rate = (
        [row[key] for row in counted] for key in ("plain", "file", "memory", "chain", "blocks_per_second")
    )
    return {
        "benchmark": "sync",
        "model_bytes": like.byte_length,
        "blocks": blocks,
        "plain_mb_per_second": plain,
        "snapshot_mb_per_second": file,
        "snapshot_in_memory_mb_per_second": memory,
        "chain_mb_per_second": chain,
        "blocks_per_second": rate,
        "ratios": [ours / theirs for ours, theirs in zip(file, plain, strict=True)],
        "ratio": statistics.median(ours / theirs for ours, theirs in zip(file, plain, strict=True)),
        "cpu_seconds": {key: statistics.median(row[key] for row in counted) for key in ("plain_cpu", "file_cpu")},
    }


def text(result: Json) -> str:
    def line(name: str, values: list[float], unit: str = "MB/s") -> str:
        return f"  {name:<46}{statistics.median(values):>8.0f} {unit}   ({', '.join(f'{v:.0f}' for v in values)})"

    cpu = result["cpu_seconds"]
    link = f"a link of {result['mbit']} Mbit/s" if result["mbit"] else "loopback"
    return "\n".join(
        [
            f"one connection on {link}, a model of {result['model_bytes'] / 1e6:.0f} MB, {result['blocks']} blocks; medians (turns)",
            line("plain TLS stream", result["plain_mb_per_second"]),
            line("snapshot, each leaf verified, in a file", result["snapshot_mb_per_second"]),
            line("the same until it is a model in memory", result["snapshot_in_memory_mb_per_second"]),
            line("chain, every certificate checked", result["chain_mb_per_second"]),
            line("", result["blocks_per_second"], "blocks/s"),
            f"  snapshot over plain stream, turn by turn: {', '.join(f'{r:.2f}' for r in result['ratios'])}; median {result['ratio']:.2f}",
            f"  processor time of the receiving end: plain {cpu['plain_cpu']:.2f} s, snapshot {cpu['file_cpu']:.2f} s",
        ]
    )


async def _turn(directory: Path, donor: Donor, like: Replica) -> Json:
    size = like.byte_length / 1e6
    plain_seconds, plain_cpu = await _timed(lambda: _plain(donor, like.byte_length))
    address = transport.Address("127.0.0.1", donor.port)
    joiner = Speaker(directory, donor.genesis, identity=transport.Identity.generate(), bootstrap=[address])
    heard = trio.Event()
    joiner.gossip.on_status = heard.set
    async with trio.open_nursery() as nursery:
        await nursery.start(joiner.run)
        with trio.fail_after(30):
            await heard.wait()
        holders = joiner.gossip.connected()
        blob = joiner.blobs.arriving(donor.model_root, like.byte_length)
        blob.open()
        began = time.perf_counter()
        file_seconds, file_cpu = await _timed(lambda: joiner.gossip.fetch_file(blob, holders))
        replica = await in_thread(Replica.from_file, like.config, like.training, blob.path)
        if await in_thread(joiner.blobs.model_root, replica) != donor.model_root:
            raise UserError("the model that came is another one", "this is a bug")
        memory_seconds = time.perf_counter() - began
        blob.remove()
        del replica
        catchup = CatchUp(
            genesis=donor.genesis,
            store=joiner.store,
            blobs=joiner.blobs,
            gossip=joiner.gossip,
            log=get_logger(part="bench"),
        )
        before = joiner.swarm.statistics().bytes_received
        chain_seconds, _ = await _timed(lambda: catchup.sync.extend(donor.blocks))
        if catchup.chain.height != donor.blocks:
            raise UserError(f"the chain ends at {catchup.chain.height}", "this is a bug")
        chain_bytes = joiner.swarm.statistics().bytes_received - before
        nursery.cancel_scope.cancel()
    joiner.store.close()
    return {
        "plain": size / plain_seconds,
        "plain_cpu": plain_cpu,
        "file": size / file_seconds,
        "file_cpu": file_cpu,
        "memory": size / memory_seconds,
        "chain": chain_bytes / 1e6 / chain_seconds,
        "blocks_per_second": donor.blocks / chain_seconds,
    }


async def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's processor time."""
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - began, time.process_time() - cpu


async def _plain(donor: Donor, length: int) -> None:
    tcp = await trio.open_tcp_stream("127.0.0.1", donor.plain_port)
    stream = trio.SSLStream(tcp, tls_identity(transport.Identity.generate()).client, https_compatible=True)
    await stream.do_handshake()
    await stream.send_all(b"x")
    received = 0
    while data := await stream.receive_some(READ_BYTES):
        received += len(data)
    await stream.aclose()
    if received != length:
        raise UserError(f"{received} bytes came of {length}", "this is a bug")


@asynccontextmanager
async def _donor(directory: Path, mebibytes: int, blocks: int) -> AsyncIterator[Donor]:
    command = [sys.executable, "-P", "-m", "p2pnode.bench.donor", str(directory), str(mebibytes), str(blocks)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            more = await process.stdout.receive_some()
            if not more:
                raise UserError("the donor did not start", "what it says stands above")
            said += more
        ready = json.loads(said)
        yield Donor(
            port=ready["port"],
            plain_port=ready["plain_port"],
            genesis=parse(ready["genesis"].encode()),
            model_root=bytes.fromhex(ready["model_root"]),
            blocks=ready["blocks"],
        )
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _blank(genesis: Genesis) -> Replica:
    """A model of the right form, so that there is something to take the place of."""
    return Replica.initial(genesis.model, genesis.training, 0)
