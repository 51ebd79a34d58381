"""How long a round waits for whom, with whole nodes in virtual time: slow once, slow always, hopelessly slow, and all of them slow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import trio

from p2pnode import render
from p2pnode.simulation.cluster import Cluster, Member
from p2pnode.simulation.machine import SimulatedWorker
from tests.simulation.test_whole import START_SECONDS_MAX, begin, play, tip
from tests.switchboard import say

T = TypeVar("T")
HEIGHTS = 12


def pace(member: Member, seconds: Callable[[], float]) -> None:
    """From its start on this member trains for so long, or until the height is over, as the real one looks at its stop flag."""

    class Paced(SimulatedWorker):
        async def run(self, job: Callable[[], T]) -> T:
            height, until = member.height, trio.current_time() + seconds()
            while trio.current_time() < until and member.height == height:  # noqa: ASYNC110 - as the stop flag is
                await trio.sleep(min(0.5, seconds() / 10))
            return job()

    member.kit = replace(member.kit, worker=Paced)


def listed(cluster: Cluster, member: Member, *, first: int) -> list[bool]:
    """Of the heights from this one on: whether they list an update of this member."""
    node = cluster.members[1].node
    rows = [row for row in node.store.rounds(1000) if row["height"] >= first]
    return [member.identity.node_id in row["contributors"] for row in sorted(rows, key=lambda row: row["height"])]


def left_out(member: Member) -> str | None:
    """As ``status`` has it; it is in the lines for a person, too."""
    status: dict[str, Any] = member.status
    said = status["training"]["left_out"]
    assert said is None or (said in render.status(status) and said in render.brief(status))
    return None if said is None else str(said)


def test_who_is_slow_once_is_left_out_once_is_told_why_and_is_in_the_next():
    async def scenario(cluster: Cluster) -> None:
        seconds = [0.5]
        slow = cluster.members[0]
        for member in cluster.members:
            pace(member, (lambda: seconds[0]) if member is slow else (lambda: 0.5))
        await begin(cluster)
        seconds[0] = 30.0
        await cluster.until(lambda: left_out(slow) is not None, seconds=10, what="a word of it")
        seconds[0] = 0.5
        said, height = left_out(slow), slow.height
        say(said)
        assert f"left out of height {height}, " in said and "still learning (step" in said
        await cluster.reach(height + 3, seconds=20)
        assert listed(cluster, slow, first=height)[:2] == [False, True]
        assert left_out(slow) is None

    play(scenario)


def test_who_always_takes_nearly_twice_as_long_is_waited_for():
    async def scenario(cluster: Cluster) -> None:
        slow = cluster.members[0]
        for member in cluster.members:
            pace(member, (lambda: 3.6) if member is slow else (lambda: 2.0))
        cluster.start(*cluster.members)
        await cluster.reach(2, seconds=5 * START_SECONDS_MAX)
        await cluster.reach(2 + HEIGHTS, seconds=8.0 * HEIGHTS)
        came = listed(cluster, slow, first=3)
        say(f"1.8 times as slow as the others: in {sum(came)} of {len(came)} heights")
        assert sum(came) >= len(came) - 2

    play(scenario)


def test_who_is_hopelessly_slow_costs_the_others_little_and_knows_it():
    async def scenario(cluster: Cluster) -> None:
        slow = cluster.members[0]
        for member in cluster.members:
            pace(member, (lambda: 60.0) if member is slow else (lambda: 2.0))
        cluster.start(*cluster.members)
        others = cluster.members[1:]
        await cluster.reach(4, members=others, seconds=10 * START_SECONDS_MAX)
        began, first = trio.current_time(), tip(cluster)
        await cluster.reach(first + HEIGHTS, members=others, seconds=8.0 * HEIGHTS)
        each = (trio.current_time() - began) / HEIGHTS
        say(f"30 times as slow as the others: a height takes {each:.2f} s, of which the others learn for 2 s")
        assert each < 2.0 * 1.5
        assert not any(listed(cluster, slow, first=1))
        assert "still learning" in left_out(slow)

    play(scenario)


def test_a_round_may_take_longer_than_the_genesis_guessed():
    """One trains for 40 s, the others for longer than those and the 60 s of the genesis together: it is measured, and waited for."""

    async def scenario(cluster: Cluster) -> None:
        assert cluster.genesis.round_seconds_max == 60
        for member, seconds in zip(cluster.members, (40.0, 115.0, 120.0, 125.0), strict=True):
            pace(member, lambda seconds=seconds: seconds)
        cluster.start(*cluster.members)
        await cluster.reach(3, seconds=500)
        came = [listed(cluster, member, first=1) for member in cluster.members]
        say(f"in each of 3 heights {came}")
        assert not all(heights[0] for heights in came)
        assert all(heights[-1] for heights in came)

    play(scenario)
