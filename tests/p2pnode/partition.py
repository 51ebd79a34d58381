"""Whole real nodes of one committee in this process, on real sockets, with links that can be cut.

Their TLS, TCP, disks, threads and clocks are real; only the way of a dial goes through a switchboard. They train the smallest model that
there is, so heights follow one another by themselves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import transport
from p2pnode.config import Config, Endpoint, parse_endpoint
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.home import Home
from p2pnode.node import Kit, Node
from tests.p2pnode.little import TEXT, identities, make_genesis
from tests.switchboard import Switchboard, Switched
from transport.machine import MACHINE

PATIENCE_SECONDS = 90.0


class Committee:
    """`count` founders, each a whole node."""

    nursery: trio.Nursery

    def __init__(
        self, directory: Path, count: int, board: Switchboard, *, trains: bool, kit: Callable[[int], Kit]
    ) -> None:
        self.board = board
        self.identities = identities(count)
        self.genesis = make_genesis(self.identities)
        self.nodes = [self._node(directory / f"node{place}", place, trains, kit(place)) for place in range(count)]

    def _node(self, directory: Path, place: int, trains: bool, kit: Kit) -> Node:
        home = Home(directory)
        home.create()
        home.key.write_text(bytes(self.identities[place]._key).hex())
        home.key.chmod(0o600)
        open_blobs(home).put(TEXT)
        write_genesis(home, self.genesis)
        return self.make(home, trains=trains, kit=kit)

    def make(self, home: Home, *, trains: bool, kit: Kit | None = None, bootstrap: Iterable[str] = ()) -> Node:
        settings: dict[str, Any] = {"listen": Endpoint("127.0.0.1", 0), "repl": False, "threads": 1, "train": trains}
        settings["bootstrap"] = tuple(parse_endpoint(where) for where in bootstrap)
        return Node(home, Config(home=home.path, **settings, origins={"listen": "--listen"}), kit=kit or Kit())

    def height(self, place: int) -> int:
        rounds = self.nodes[place].rounds
        return rounds.state.height if rounds is not None and rounds.synced else -1

    def heights(self, places: Iterable[int] | None = None) -> list[int]:
        return [self.height(place) for place in (range(len(self.nodes)) if places is None else places)]

    def line(self, place: int) -> str:
        """What `status` says first."""
        return self.nodes[place].view.health().line

    def views(self) -> list[int]:
        return [node.driver.engine.view for node in self.nodes if node.driver is not None]

    def roots(self, place: int) -> dict[int, str]:
        store = self.nodes[place].store
        return {row["height"]: row["model_root"] for row in store.rounds(100_000)} if store is not None else {}

    def assert_no_fork(self) -> int:
        """All roots equal wherever two know a height; gives the number of heights that all know."""
        known = [self.roots(place) for place in range(len(self.nodes))]
        for height in set().union(*known):
            assert len({roots[height] for roots in known if height in roots}) == 1, f"height {height}"
        return len(set(known[0]).intersection(*known[1:]))

    async def until(self, condition: Callable[[], bool], what: str = "") -> float:
        """Seconds until it is so."""
        began = trio.current_time()
        while not condition():
            if trio.current_time() - began >= PATIENCE_SECONDS:
                lines = [self.line(place) for place in range(len(self.nodes))]
                raise AssertionError(f"{what or 'never'}: heights {self.heights()}, views {self.views()}, {lines}")
            await trio.sleep(0.01)  # several nodes' states, no single event
        return trio.current_time() - began


@asynccontextmanager
async def committee(
    directory: Path,
    count: int,
    *,
    trains: bool = True,
    kit: Callable[[int], Kit] = lambda _: Kit(),
    links: Iterable[tuple[int, int]] | None = None,
) -> AsyncIterator[Committee]:
    """All running and, unless `links` names the pairs that can, all able to dial all. Ends with nobody crashed."""
    board = Switchboard()
    async with trio.open_nursery() as nursery:
        await nursery.start(board.run)
        made = Committee(directory, count, board, trains=trains, kit=kit)
        made.nursery = nursery
        if links is not None:
            allow_only(board, count, links)
        for place, node in enumerate(made.nodes):
            await start(made, place, node)
        introduce(made)
        yield made
        for node in made.nodes:
            node.stopping.set()
        await made.until(lambda: all(node.ended.is_set() for node in made.nodes))  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()


def allow_only(board: Switchboard, count: int, links: Iterable[tuple[int, int]]) -> None:
    """Of all pairs those; the others refuse."""
    pairs = {frozenset(pair) for pair in links}
    for a in range(count):
        for b in range(count):
            if a != b and frozenset((a, b)) not in pairs:
                board.link(a, b).refuses = True


async def start(made: Committee, place: int, node: Node) -> None:
    """Run a node, its dials from its place at the switchboard."""
    node.ended = trio.Event()  # type: ignore[attr-defined]

    async def live() -> None:
        try:
            assert await node.main() == 0
        finally:
            node.ended.set()  # type: ignore[attr-defined]

    token = MACHINE.set(Switched(place, made.board.port))
    made.nursery.start_soon(live)
    MACHINE.reset(token)
    await made.until(lambda: node.bound is not None)
    made.board.plug_in(place, node.bound.port)


def introduce(made: Committee) -> None:
    """Everybody has everybody's address, as a signed record, as if from an address book."""
    now = trio.current_time()
    for node in made.nodes:
        for other in made.nodes:
            if other is not node and other.bound is not None:
                node.swarm.dialer.plan.offer(
                    transport.Address("127.0.0.1", other.bound.port), key=other.identity.public_key, now=now
                )
        node.swarm.dialer.wake()
