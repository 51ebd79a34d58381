"""Partitions of a committee of real nodes on real sockets: the side with a quorum goes on, the other waits and says so, healing is quick.

What decides a test is agreement and what nodes say of themselves; how long things took is printed, with generous limits where the
promise is a matter of seconds.
"""

import random
import statistics

import pytest
import trio

from p2pnode.wire import Method, decode_blocks, encode_blocks_request
from tests.p2pnode.partition import Committee, committee
from tests.switchboard import say

HEALED_SECONDS_MAX = 8.0  # the promise is two on a quiet machine; a busy one is not what is tested


def without_quorum(made: Committee, places) -> bool:
    return all("no quorum" in made.line(place) for place in places)


async def test_the_side_with_a_quorum_goes_on_and_the_other_waits_and_serves_reads(tmp_path):
    async with committee(tmp_path, 5) as five:
        await five.until(lambda: min(five.heights()) >= 2, "start")
        five.board.cut({4}, {0, 1, 2, 3})
        noticed = await five.until(lambda: without_quorum(five, [4]))
        assert five.line(4) == "halted: no quorum: 1 of 5 members reachable, 4 needed"
        alone, tip = five.height(4), five.height(0)
        await five.until(lambda: min(five.heights([0, 1, 2, 3])) >= tip + 5)
        assert five.height(4) == alone, "it decides nothing"
        assert not without_quorum(five, [0])
        view = five.nodes[4].view
        assert len(view.rounds(100)) == alone and view.status()["height"] == alone and len(view.peers()) <= 4
        page = await five.nodes[4].gossip.answer(Method.BLOCKS, encode_blocks_request(1, 64))
        assert len(decode_blocks(page)) == alone, "peers may ask it for blocks"
        five.board.heal_all()
        goal = five.height(0)
        healed = await five.until(lambda: five.height(4) >= goal and not without_quorum(five, [4]))
        say(f"verdict after {noticed:.1f} s, at the tip {healed:.2f} s after healing, {goal - alone} heights behind")
        assert healed <= HEALED_SECONDS_MAX
        five.assert_no_fork()


async def test_without_a_quorum_anywhere_all_wait_none_forks_and_all_recover(tmp_path):
    async with committee(tmp_path, 5) as five:
        await five.until(lambda: min(five.heights()) >= 2, "start")
        five.board.cut({0, 1}, {2, 3, 4})
        await five.until(lambda: without_quorum(five, range(5)))
        lines = [five.line(place) for place in range(5)]
        assert lines[0] == lines[1] == "halted: no quorum: 2 of 5 members reachable, 4 needed"
        assert lines[2] == lines[4] == "halted: no quorum: 3 of 5 members reachable, 4 needed"
        heights, views = five.heights(), five.views()
        await trio.sleep(4)  # longer than any timeout of a view
        assert five.heights() == heights
        assert max(five.views()) <= max(views) + 1, "views wait for a quorum, too"
        took = await heal(five)
        assert took <= HEALED_SECONDS_MAX
        await five.until(lambda: min(five.heights()) > max(heights))
        five.assert_no_fork()


async def test_a_one_way_link_and_one_that_flaps_stop_nobody_for_long(tmp_path):
    """Five, of which two hear each other in one direction only, and one comes and goes; the other links are enough."""
    dice = random.Random(5)
    async with committee(tmp_path, 5) as five:
        await five.until(lambda: min(five.heights()) >= 1, "start")
        five.board.cut({0}, {1}, both_ways=False)
        for _ in range(6):
            five.board.cut({4}, {0, 1, 2, 3}, both_ways=dice.random() < 0.5)
            await trio.sleep(dice.uniform(0.2, 2.0))
            five.board.heal({4}, {0, 1, 2, 3})
            await trio.sleep(dice.uniform(0.2, 1.0))
        height = max(five.heights())
        await five.until(lambda: min(five.heights()) >= height + 2)
        five.assert_no_fork()
        assert not any(node.view.evidence() for node in five.nodes)


async def heal(five: Committee) -> float:
    """Seconds from healing to the first decision."""
    goal = max(five.heights()) + 1
    five.board.heal_all()
    return await five.until(lambda: max(five.heights()) >= goal)


async def measure(five: Committee, seconds: float, times: int) -> None:
    """Print median and maximum of the time to the first decision after partitions of that length."""
    took = []
    for _ in range(times):
        five.board.cut({0, 1}, {2, 3, 4})
        await trio.sleep(seconds)
        took.append(await heal(five))
        goal = max(five.heights()) + 1
        await five.until(lambda goal=goal: min(five.heights()) >= goal)
    say(f"{times} healings of {seconds:g} s: median {statistics.median(took):.2f} s, maximum {max(took):.2f} s")
    assert max(took) <= HEALED_SECONDS_MAX


@pytest.mark.parametrize(
    ("seconds", "times"),
    [
        pytest.param(3, 3),
        pytest.param(3, 20, marks=pytest.mark.long),
        pytest.param(10, 20, marks=pytest.mark.long),
        pytest.param(30, 20, marks=pytest.mark.long),
    ],
)
async def test_the_first_decision_after_healing(tmp_path, seconds, times):
    async with committee(tmp_path, 5) as five:
        await five.until(lambda: min(five.heights()) >= 2, "start")
        await measure(five, seconds, times)
        five.assert_no_fork()
