"""Whole nodes: one that joins late and slowly, and what the others notice of it, which is nothing."""

import trio

from p2pnode.config import Config, Endpoint
from p2pnode.gossip import Block, Gossip
from p2pnode.node import Kit, Node
from tests.p2pnode.little import identities, make_genesis, until
from tests.p2pnode.test_node import NEWCOMER, height, living, make_home, make_node, ready

HEIGHTS = 4  # that are decided while the newcomer still reads its first page


async def test_who_joins_slowly_holds_up_no_round(tmp_path):
    gate = trio.Event()

    class SlowGossip(Gossip):
        async def fetch_blocks(self, peer: bytes, first: int, count: int) -> tuple[list[Block], int]:
            await gate.wait()
            return await super().fetch_blocks(peer, first, count)

    founders = identities(4)
    genesis = make_genesis(founders)
    first = make_node(make_home(tmp_path / "0", founders[0], genesis))
    async with living(first):
        await until(lambda: first.bound is not None)
        there = (Endpoint("127.0.0.1", first.bound.port),)
        others = [
            make_node(make_home(tmp_path / str(place), founders[place], genesis), bootstrap=there)
            for place in (1, 2, 3)
        ]
        async with living(*others):
            await until(lambda: all(ready(node) and height(node) >= 1 for node in (first, *others)))
            config = Config(
                home=tmp_path / "slow",
                listen=Endpoint("127.0.0.1", 0),
                repl=False,
                bootstrap=there,
                origins={"listen": "--listen"},
            )
            slow = Node(make_home(tmp_path / "slow", NEWCOMER), config, kit=Kit(gossip=SlowGossip))
            async with living(slow):
                await until(lambda: slow.catchup is not None and slow.catchup.doing is not None)
                at = height(first)
                assert slow.view.health().reason.startswith("catching up: block 0 of ")
                await until(lambda: height(first) >= at + HEIGHTS)
                assert slow.rounds is None
                gate.set()
                await until(lambda: ready(slow) and height(slow) >= at + HEIGHTS)
            rows = [row for row in first.view.rounds(1000) if row["height"] > 1]
    assert {row["view"] for row in rows} == {0}
    assert {row["contributions"] for row in rows[:HEIGHTS]} == {4}, "all that train, and nobody waited for who does not"
    assert all(row["seconds"]["collect"] < genesis.round_seconds_max / 2 for row in rows)
