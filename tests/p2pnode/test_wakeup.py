"""A wake-up call reaches whoever waits now, and nobody later."""

import trio

from p2pnode.wakeup import Signal


async def test_everybody_who_waits_is_woken(autojump_clock):
    signal, woken = Signal(), []

    async def wait(name: int) -> None:
        await signal.wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(wait, name)
        await trio.testing.wait_all_tasks_blocked()
        signal.fire()
    assert sorted(woken) == [0, 1, 2]


async def test_a_call_that_nobody_waits_for_is_forgotten(autojump_clock):
    signal = Signal()
    signal.fire()
    with trio.move_on_after(5) as waited:
        await signal.wait()
    assert waited.cancelled_caught


async def test_a_loop_that_checks_again_misses_nothing(autojump_clock):
    signal, work = Signal(), []

    async def take() -> None:
        taken = 0
        while taken < 100:
            while not work:
                await signal.wait()
            work.pop()
            taken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for _ in range(100):
            work.append(1)
            signal.fire()
            await trio.lowlevel.checkpoint()
