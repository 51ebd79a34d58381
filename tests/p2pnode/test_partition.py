"""Partitions of a committee of real nodes: the side with a quorum goes on, the other waits and says so, and healing is quick."""

import trio

from tests.p2pnode.partition import committee


async def test_the_side_with_a_quorum_goes_on(tmp_path):
    async with committee(tmp_path, 5) as five:
        took = await five.until(lambda: min(five.heights()) >= 2, "start")
        print("start", took)
        five.board.cut({4}, {0, 1, 2, 3})
        took = await five.until(lambda: "no quorum" in five.line(4))
        print("noticed", took, five.line(4))
        assert five.line(4) == "halted: no quorum: 1 of 5 members reachable, 4 needed"
        alone, tip = five.height(4), five.height(0)
        await five.until(lambda: five.height(0) >= tip + 5)
        assert five.height(4) <= alone + 1
        five.board.heal_all()
        goal = five.height(0)
        took = await five.until(lambda: five.height(4) >= goal)
        print("at tip", took)
        five.assert_no_fork()


async def test_no_quorum_anywhere(tmp_path):
    async with committee(tmp_path, 5) as five:
        await five.until(lambda: min(five.heights()) >= 2, "start")
        five.board.cut({0, 1}, {2, 3, 4})
        took = await five.until(lambda: all("no quorum" in five.line(place) for place in range(5)))
        print("noticed", took, [five.line(p) for p in range(5)])
        before = five.heights()
        await trio.sleep(3)
        assert max(five.heights()) <= max(before)
        print("views", five.views())
        for _ in range(5):
            five.board.heal_all()
            goal = max(five.heights()) + 1
            took = await five.until(lambda: max(five.heights()) >= goal)
            print("first decision", took)
            await five.until(lambda: min(five.heights()) >= goal)
            five.board.cut({0, 1}, {2, 3, 4})
            await trio.sleep(5)
        five.board.heal_all()
        await five.until(lambda: min(five.heights()) >= max(five.heights()) >= goal)
        five.assert_no_fork()
