"""One key in two processes: a copied home, started beside the first. At least one of the two stops voting and says so."""

import shutil

import pytest

from p2pnode.home import Home
from tests.p2pnode.partition import Committee, committee, introduce, start


async def stop(made: Committee, place: int) -> None:
    made.nodes[place].stopping.set()
    await made.nodes[place].ended.wait()


def copies(made: Committee, place: int, count: int) -> list[Home]:
    """The home of a node that has ended, as often as asked for."""
    path = made.nodes[place].home.path
    for number in range(count):
        shutil.copytree(path, path.with_name(f"copy{number}"))
    return [Home(path.with_name(f"copy{number}")) for number in range(count)]


def told(made: Committee) -> list[str]:
    return [made.line(place) for place in range(len(made.nodes))]


@pytest.mark.parametrize("together", [False, True])
async def test_of_two_copies_of_a_home_at_least_one_stops_and_says_so(tmp_path, together):
    async with committee(tmp_path, 4) as four:
        await four.until(lambda: min(four.heights()) >= 2, "start")
        await stop(four, 3)
        one, two = copies(four, 3, 2)
        four.nodes[3] = four.make(one, trains=True)
        await start(four, 3, four.nodes[3])
        if not together:
            introduce(four)
            height = max(four.heights())
            await four.until(lambda: min(four.heights()) >= height + 2)
        four.nodes.append(four.make(two, trains=True))
        await start(four, 4, four.nodes[4])
        introduce(four)
        await four.until(lambda: any("this key votes elsewhere" in line for line in told(four)[3:]), "nobody stops")
        if not together:
            assert "this key votes elsewhere" not in told(four)[3], "the one that was first goes on"
        height = max(four.heights())
        await four.until(lambda: max(four.heights()) >= height + 2)
        if not together:
            assert not any(node.view.evidence() for node in four.nodes), "it said so before it signed"
        four.assert_no_fork()
