"""A network from nothing to what its nodes recorded: found, start, decide some heights, ask, end.

What it is: the one way in which every benchmark gets its figures. What it is not: a clock; every duration was taken inside a node.

For editors: while heights are being decided, nobody is asked anything more often than ``POLL_SECONDS``: the cores belong to the nodes.
"""

import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import trio

from model.config import ModelConfig
from p2pnode.client import Client
from p2pnode.errors import UserError
from p2pnode.localnet.founding import found
from p2pnode.localnet.options import LocalnetOptions
from p2pnode.localnet.processes import PYTHON, Node, open_fleet

POLL_SECONDS = 0.5
STALL_SECONDS_MAX = 180.0  # eight processes that import torch on two busy cores take about thirty
WARM_UP_HEIGHTS = (
    2  # the nodes hear the order one after the other, so the first heights of a turn are not like the others
)
TEXT = (
    b"It takes all the running you can do, to keep in the same place.\n" * 1024
)  # for a genesis; who does not learn reads none of it

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """A network to measure; ``size`` is a preset's name, or a model of one's own.

    ``heights``: what its nodes fill a height with: learning, an update that was drawn beforehand, or nothing. ``flags``: of ``quick``.
    """

    nodes: int
    size: str | ModelConfig
    heights: Literal["learned", "drawn", "empty"] = "drawn"
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What the nodes said after some heights, node by node: ``/rounds`` of these heights, ascending, and ``/status``.

    ``cpu_seconds`` is the processor time of all nodes for one height; other work on the machine hardly changes it.
    """

    rounds: tuple[tuple[Json, ...], ...]
    statuses: tuple[Json, ...]
    cpu_seconds: float


@asynccontextmanager
async def open_network(plan: Plan) -> AsyncIterator["Network"]:
    """A network whose nodes have met. At the end its processes and its homes are gone. Raises UserError if a node fails."""
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as name:
        directory = Path(name)
        async with open_fleet(directory) as fleet:
            text = directory / "text"
            text.write_bytes(TEXT)
            options = LocalnetOptions(
                nodes=plan.nodes,
                size=_size(plan.size, directory),
                data=() if plan.heights == "learned" else (str(text),),
            )
            nodes = await found(fleet, options, directory)
            try:
                for node in nodes:
                    node.command = _command(plan, node, nodes)
                    await fleet.start(node)
                network = Network(nodes)
                await network.met()
                yield network
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.stop(nodes)


class Network:
    """A running network; made by ``open_network``."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._clients = [Client(node.home) for node in nodes]

    @property
    def homes(self) -> list[Path]:
        """Where the nodes live."""
        return [node.home.path for node in self._nodes]

    async def met(self) -> None:
        """Wait until every node has its part in the network and reaches every other."""
        everybody = len(self._nodes)
        await self._until(
            lambda said: said["phase"] != "start" and said["members_reachable"] == said["members"] == everybody
        )

    async def decide(self, heights: int) -> Turn:
        """Decide so many heights after those of the warm-up, and tell what the nodes recorded of them."""
        before = self._cpu_seconds()
        first = 1 + WARM_UP_HEIGHTS + max(said["height"] for said in await self._ask(Client.status))
        last = first + heights - 1
        await self._ask(lambda client: _train_until(client, last))
        await self._until(lambda said: said["height"] >= last)
        rows = await self._ask(lambda client: client.rounds(heights))
        statuses = await self._ask(Client.status)
        asked = tuple(tuple(row for row in said if first <= row["height"] <= last) for said in rows)
        spent = (self._cpu_seconds() - before) / (heights + WARM_UP_HEIGHTS)
        return Turn(asked, tuple(statuses), spent)

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(node.process.pid) for node in self._nodes if node.process is not None)

    async def _until(self, reached: Callable[[Json], bool]) -> None:
        """Raises UserError when a node ends by itself, or nothing has been decided for ``STALL_SECONDS_MAX``."""
        deadline, decided = time.monotonic() + STALL_SECONDS_MAX, 0
        while True:
            said = await self._ask(_status)
            if all(each and reached(each) for each in said):
                return
            for node in self._nodes:
                if node.troubles:
                    raise UserError(f"{node.name} {node.troubles[0]}")
            total = sum(each.get("height", 0) for each in said)
            if total > decided:
                decided, deadline = total, time.monotonic() + STALL_SECONDS_MAX
            if time.monotonic() > deadline:
                raise UserError(
                    f"gave up: nothing was decided for {STALL_SECONDS_MAX:.0f} seconds", "is the machine busy?"
                )
            await trio.sleep(POLL_SECONDS)

    async def _ask(self, question: Callable[[Client], T]) -> list[T]:
        """All nodes at once: whoever heard an order first would begin alone."""
        answers: dict[int, T] = {}

        async def ask(index: int, client: Client) -> None:
            answers[index] = await trio.to_thread.run_sync(question, client, abandon_on_cancel=True)

        async with trio.open_nursery() as nursery:
            for index, client in enumerate(self._clients):
                nursery.start_soon(ask, index, client)
        return [answers[index] for index in sorted(answers)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _train_until(client: Client, height: int) -> None:
    client.train(height, since=0)


def _status(client: Client) -> Json:
    """Empty while the node is not up yet."""
    try:
        return client.status()
    except UserError:
        return {}


def _size(size: str | ModelConfig, directory: Path) -> str:
    """As ``init --size`` takes it."""
    if isinstance(size, str):
        return size
    path = directory / "size.json"
    path.write_text(json.dumps(size.to_dict()))
    return str(path)


def _command(plan: Plan, node: Node, nodes: Sequence[Node]) -> tuple[str, ...]:
    if plan.heights == "learned":
        return node.command
    others = [word for other in nodes if other is not node for word in ("--bootstrap", f"127.0.0.1:{other.port}")]
    place = ("--home", str(node.home), "--listen", f"127.0.0.1:{node.port}")
    empty = ("--empty",) if plan.heights == "empty" else ()
    return (*PYTHON, "p2pnode.bench.quick", *empty, *place, "--no-train", "--threads", "1", *plan.flags, *others)
