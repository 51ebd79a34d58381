"""Whole nodes: one that joins late and slowly, and what the others notice of it, which is nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from p2pnode.config import Config, Endpoint
from p2pnode.gossip import Block, Gossip
from p2pnode.node import Kit, Node
from p2pnode.simulation.cluster import Cluster, Member
from p2pnode.simulation.whole import running, scratch, virtually
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


class FiveSecondsAPage(Gossip):
    async def fetch_blocks(self, peer: bytes, first: int, count: int) -> tuple[list[Block], int]:
        await trio.sleep(5.0)
        return await super().fetch_blocks(peer, first, count)


async def twenty(cluster: Cluster, members: Sequence[Member]) -> float:
    """Virtual seconds that twenty heights take these members."""
    began, at = trio.current_time(), max(cluster.watch.blocks)
    await cluster.reach(at + 20, members=members, seconds=120)
    return trio.current_time() - began


async def twenty_beside(cluster: Cluster, members: Sequence[Member], slow: Member) -> tuple[float, set[int]]:
    """The same while another starts and catches up, which takes it longer; it comes there in the end."""
    cluster.start(slow)
    await cluster.until(lambda: slow.node is not None and slow.node.catchup is not None, seconds=20, what="meets")
    seconds, at = await twenty(cluster, members), max(cluster.watch.blocks)
    assert slow.height < at - 5, "it has not come so far in all that time"
    views = {row["view"] for row in members[0].node.store.rounds(20)}
    await cluster.reach(at, members=[slow], seconds=120)
    return seconds, views


def play(scenario: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
    """In virtual time, so that it is the slow one alone that could hold the others up."""

    async def main() -> None:
        cluster = Cluster(directory, seed=1, traitors={4: Kit(gossip=FiveSecondsAPage)}, **options)
        async with running(cluster):
            await scenario(cluster)

    with scratch() as directory:
        virtually(main, seed=1)


def test_the_rounds_of_the_others_are_as_quick_as_ever():
    """Four train, a newcomer waits five seconds for each page."""

    async def scenario(cluster: Cluster) -> None:
        *founders, newcomer = cluster.members
        cluster.start(*founders)
        await cluster.reach(2, members=founders, seconds=10)
        alone = await twenty(cluster, founders)
        beside, views = await twenty_beside(cluster, founders, newcomer)
        assert beside < 1.5 * alone and views == {0}

    play(scenario, joiners=1)


def test_a_member_that_was_away_holds_up_no_more_while_it_comes_back():
    """Five members, one killed and started again: while it catches up, the others are no slower than without it."""

    async def scenario(cluster: Cluster) -> None:
        *others, laggard = cluster.members
        cluster.start(*cluster.members)
        await cluster.reach(2, seconds=10)
        await cluster.kill(laggard)
        without = await twenty(cluster, others)
        beside, _ = await twenty_beside(cluster, others, laggard)
        assert beside < 1.2 * without
        await cluster.reach(max(cluster.watch.blocks) + 10, seconds=60)
        assert {row["view"] for row in others[0].node.store.rounds(5)} == {0}, "it takes its turn again"

    play(scenario, founders=5)
