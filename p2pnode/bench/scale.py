"""``scripts/bench network``: how a network grows. Whole nodes in one process, in virtual time, from 25 to 200 of them.

What it is: real nodes (TLS, peer exchange, gossip, engine, chain and vote log on a disk) of which only the machine below is simulated:
streams in memory, a virtual clock, files that are not flushed. A third of them are members who contribute and vote; the others follow.
Nobody knows more than the address of the first node. A size is measured in three parts, one after the other:

    meeting     from the start of all until everybody's address book names everybody else, and until nothing new is connected
    quiet       what nodes send while nobody trains: questions whether the other lives, peer exchange, who hears whom
    heights     what comes on top of that with each block, when all members train

What it is not: a measure of time on a processor, but for the last row, which says what the simulation took. Each size has a process of its own,
so that its memory is its own: what all nodes hold together, both ends of every connection, divided by their number.
"""

import gc
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pnode.errors import UserError
from p2pnode.files import Files
from p2pnode.simulation.cluster import Cluster
from p2pnode.simulation.streams import Weather
from p2pnode.simulation.whole import running, scratch, virtually
from transport.events import KindTraffic
from transport.framing import APPLICATION_KIND_MIN, Kind

SIZES = (25, 50, 100, 200)
MEMBER_SHARE = 0.32  # of 200 nodes 64, which is as many as a genesis may name
WEATHER = Weather(delay_seconds=0.04, spread=1.0)  # one way, 40 to 80 ms
HEIGHTS = 2
MEETING_SECONDS_MAX = 60.0  # virtual; who knows whom by then is told as a share
SETTLED_SECONDS = 3.0  # without a new connection anywhere
SETTLING_SECONDS_MAX = 30.0  # in a large network somebody always tries an address
QUIET_SECONDS = 5.0
HEIGHT_SECONDS_MAX = 300.0
POLL_SECONDS = 0.1
GARBAGE_OBJECTS = 100_000  # new ones between two looks for garbage: each look goes through what many nodes hold
GROUPS = ("alive", "peers", "agreement", "payloads", "other")

Json = dict[str, Any]


class UnflushedFiles(Files):
    """A disk that holds what was written for as long as the process runs: nobody is killed here."""

    on_operation: Callable[[], None] = staticmethod(lambda: None)

    def sync(self, descriptor: int) -> None: ...

    def sync_data(self, descriptor: int) -> None: ...

    def crash(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Count:
    """What all nodes together have received, by group of frames; ``connections``: ends of such."""

    frames: Counter[str]
    bytes: Counter[str]
    connections: int

    def since(self, before: "Count") -> "Count":
        frames, size = Counter(self.frames), Counter(self.bytes)
        frames.subtract(before.frames)
        size.subtract(before.bytes)
        return Count(frames, size, self.connections)


def group_of(kind: int) -> str:
    """What a frame is for."""
    match kind:
        case Kind.PING | Kind.PONG:
            return "alive"
        case Kind.PEX_NEWS | Kind.PEX_REQUEST | Kind.PEX_RESPONSE:
            return "peers"
        case Kind.ENVELOPE:
            return "agreement"
        case Kind.HASHES_WANTED | Kind.HASHES | Kind.LEAVES_WANTED | Kind.LEAF | Kind.BLOB_REFUSED:
            return "payloads"
        case _:
            return "agreement" if kind >= APPLICATION_KIND_MIN else "other"


def count(received: Iterable[Mapping[int, KindTraffic]], connections: int) -> Count:
    frames: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for kinds in received:
        for kind, traffic in kinds.items():
            frames[group_of(kind)] += traffic.frames
            size[group_of(kind)] += traffic.bytes
    return Count(frames, size, connections)


def place_of(place: int) -> str:
    """A host's address on the open internet; no two are in one group of addresses."""
    return f"20.{place}.0.1"


# --- one size, in this process ---------------------------------------------------------------------------------------------------


def measure(nodes: int, *, heights: int = HEIGHTS) -> Json:
    """All figures of one network, taken in this process."""
    gc.set_threshold(GARBAGE_OBJECTS)
    began, before = time.process_time(), resident_bytes()
    with scratch() as directory:
        result = virtually(partial(_grow, directory, nodes, heights), seed=nodes)
    total = result.pop("resident_bytes") - before
    return {**result, "memory_bytes_per_node": total / nodes, "processor_seconds": time.process_time() - began}


async def _grow(directory: Path, nodes: int, heights: int) -> Json:
    members = max(1, round(nodes * MEMBER_SHARE))
    crowd = Cluster(
        directory,
        seed=nodes,
        founders=members,
        joiners=nodes - members,
        weather=WEATHER,
        host=place_of,
        strangers=True,
    )
    for member in crowd.members:
        member.disk = UnflushedFiles()  # type: ignore[assignment]
    began = trio.current_time()
    async with running(crowd):
        crowd.start(*crowd.members)
        known_seconds = await _all_know_all(crowd, began)
        known_share = _known(crowd) / (nodes * (nodes - 1))
        settled_seconds = await _settled(crowd) - began
        met = _count(crowd)
        await trio.sleep(QUIET_SECONDS)
        rested = _count(crowd)
        quiet = rested.since(met)
        height = await _heights(crowd, crowd.members[:members], heights)
        gc.collect()
        return {
            "nodes": nodes,
            "members": members,
            "known_seconds": known_seconds,
            "settled_seconds": settled_seconds,
            "known_share": known_share,
            "links_per_node": met.connections / nodes,
            "meeting": _per(met, nodes),
            "quiet_per_second": _per(quiet, nodes * QUIET_SECONDS),
            **height,
            "resident_bytes": resident_bytes(),
        }


async def _heights(crowd: Cluster, members: Sequence[Any], heights: int) -> Json:
    """All of them are told to train; the first height begins as soon as anybody has heard that, and is not counted."""
    for member in members:
        member.node.training.on = True
        member.node.rounds.changed.fire()
    try:
        await crowd.reach(1, seconds=HEIGHT_SECONDS_MAX)
        first, first_at = _count(crowd), trio.current_time()
        await crowd.reach(1 + heights, seconds=HEIGHT_SECONDS_MAX * heights)
    except AssertionError as problem:
        return {"height_seconds": None, "height": None, "problem": str(problem)}
    spent, seconds = _count(crowd).since(first), trio.current_time() - first_at
    return {"height_seconds": seconds / heights, "height": _per(spent, len(crowd.members) * heights)}


async def _all_know_all(crowd: Cluster, began: float) -> float | None:
    """Seconds until every book names everybody else; None where that does not happen in time."""
    nodes = len(crowd.members)
    while _known(crowd) < nodes * (nodes - 1):
        if trio.current_time() - began > MEETING_SECONDS_MAX:
            return None
        await trio.sleep(POLL_SECONDS)
    return trio.current_time() - began


def _known(crowd: Cluster) -> int:
    """How many addresses of others all books together hold: each node has one."""
    swarms = [member.node.swarm for member in crowd.members if member.node and hasattr(member.node, "swarm")]
    return sum(len(swarm.book) for swarm in swarms)


async def _settled(crowd: Cluster) -> float:
    """The moment of the last change in who is connected to whom, once it lies SETTLED_SECONDS back, and everybody has a part."""
    links, began = -1, trio.current_time()
    changed_at, patience = began, began + SETTLING_SECONDS_MAX
    while not all(member.height >= 0 for member in crowd.members) or (
        trio.current_time() < min(changed_at + SETTLED_SECONDS, patience)
    ):
        now = _count(crowd).connections
        if now != links:
            links, changed_at = now, trio.current_time()
        await trio.sleep(POLL_SECONDS)
    return changed_at


def _count(crowd: Cluster) -> Count:
    said = [member.node.swarm.statistics() for member in crowd.members if member.node is not None]
    return count((each.received for each in said), sum(each.peers for each in said))


def _per(total: Count, divisor: float) -> Json:
    """Frames and bytes a node, all groups together and each."""
    return {
        "messages": sum(total.frames.values()) / divisor,
        "bytes": sum(total.bytes.values()) / divisor,
        "groups": {
            group: {"messages": total.frames[group] / divisor, "bytes": total.bytes[group] / divisor}
            for group in GROUPS
        },
    }


def resident_bytes() -> int:
    """Of this process (proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


# --- all sizes, each in a process of its own -------------------------------------------------------------------------------------


def grow(sizes: Sequence[int], say: Callable[[str], None]) -> Json:
    """One row a size, and by which power of the number of nodes each figure grows."""
    rows = []
    for nodes in sizes:
        say(f"{nodes} nodes")
        command = [sys.executable, "-P", "-m", "p2pnode.bench.scale", str(nodes)]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - this module
        if process.returncode != 0:
            raise UserError(f"the network of {nodes} nodes failed", "what it says stands above")
        rows.append(json.loads(process.stdout))
    return {"benchmark": "network", "sizes": rows, "growth": growth(rows)}


COLUMNS: tuple[tuple[str, str, Callable[[Json], float | None]], ...] = (
    ("all know all, s", "{:,.1f}", lambda row: row["known_seconds"]),
    ("known by then, %", "{:,.1f}", lambda row: row["known_share"] * 100),
    ("connections settled, s", "{:,.1f}", lambda row: row["settled_seconds"]),
    ("links a node", "{:,.1f}", lambda row: row["links_per_node"]),
    ("meeting: messages a node", "{:,.0f}", lambda row: row["meeting"]["messages"]),
    ("meeting: kB a node", "{:,.0f}", lambda row: row["meeting"]["bytes"] / 1e3),
    ("  of them peer exchange", "{:,.0f}", lambda row: row["meeting"]["groups"]["peers"]["bytes"] / 1e3),
    ("quiet: messages a node and second", "{:,.1f}", lambda row: row["quiet_per_second"]["messages"]),
    ("quiet: kB a node and second", "{:,.2f}", lambda row: row["quiet_per_second"]["bytes"] / 1e3),
    ("height: s", "{:,.2f}", lambda row: row["height_seconds"]),
    ("height: messages a node", "{:,.0f}", lambda row: _of_height(row, "messages")),
    ("  of them agreement", "{:,.0f}", lambda row: _of_height(row, "messages", group="agreement")),
    ("  payloads", "{:,.0f}", lambda row: _of_height(row, "messages", group="payloads")),
    ("height: kB a node", "{:,.0f}", lambda row: _of_height(row, "bytes", scale=1e-3)),
    ("  of them agreement", "{:,.0f}", lambda row: _of_height(row, "bytes", group="agreement", scale=1e-3)),
    ("  payloads", "{:,.0f}", lambda row: _of_height(row, "bytes", group="payloads", scale=1e-3)),
    ("memory, MB a node", "{:,.1f}", lambda row: row["memory_bytes_per_node"] / 1e6),
    ("processor time in all, s", "{:,.0f}", lambda row: row["processor_seconds"]),
)


def _of_height(row: Json, what: str, *, group: str | None = None, scale: float = 1.0) -> float | None:
    """None where no height was reached."""
    height = row["height"]
    if height is None:
        return None
    figure: float = (height if group is None else height["groups"][group])[what]
    return figure * scale


def growth(rows: Sequence[Json]) -> list[float | None]:
    """For each column the exponent of the power law through all sizes (least squares of the logarithms)."""
    return [exponent([(row["nodes"], value(row)) for row in rows]) for _, _, value in COLUMNS]


def exponent(points: Iterable[tuple[float, float | None]]) -> float | None:
    """Of y = c * x**e; None where fewer than two points have a positive y."""
    logs = [(math.log(x), math.log(y)) for x, y in points if y is not None and y > 0]
    if len(logs) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread: float = sum((x - mean_x) ** 2 for x, _ in logs)
    slope: float = sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread
    return slope


def text(result: Json) -> str:
    """The table: a column a size, a row a figure, and the exponent."""
    rows = result["sizes"]
    heads = [f"{row['nodes']} nodes" for row in rows]
    near, far = WEATHER.delay_seconds * 1e3, WEATHER.delay_seconds * (1 + WEATHER.spread) * 1e3
    lines = [
        f"whole nodes in virtual time, TLS included, {near:.0f} to {far:.0f} ms one way; the members train and vote, the others follow",
        f"{'':<36}" + "".join(f"{head:>12}" for head in heads) + f"{'grows as':>12}",
        f"{'members':<36}" + "".join(f"{row['members']:>12}" for row in rows),
    ]
    for (name, form, value), power in zip(COLUMNS, result["growth"], strict=True):
        cells = ["never" if (figure := value(row)) is None else form.format(figure) for row in rows]
        grows = "" if power is None else f"N^{power:.2f}"
        lines.append(f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells) + f"{grows:>12}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]))) + "\n")
