"""A node is killed in mid-round, as planned, and comes back.

What it is: the carrying out of ``kills.py``, and one strike from SIGKILL to a node that has caught up. What it is not: the plan, or the
signals themselves (``processes.py``).

For editors: what was hit is read from the dead node's own store, never from what it said last.
"""

import time

import trio

from p2pnode import genesis
from p2pnode.localnet import kills
from p2pnode.localnet.processes import Node
from p2pnode.localnet.readings import Status
from p2pnode.localnet.run import POLL_SECONDS, VICTIM_POLL_SECONDS, Run, order_everybody, order_training, read_status
from p2pnode.localnet.verdict import Kill
from p2pnode.store import Store

HEIGHTS_WHILE_DOWN = 2  # the round that was hit, and one more without the victim
START_SECONDS_MAX = 180.0  # eight processes that import torch on two busy cores take about thirty


class Killing:
    """Carries out the plan, in its order, never with more nodes down than are allowed."""

    def __init__(self, run: Run) -> None:
        options = run.options
        self._run = run
        self._plan = kills.plan_kills(
            seed=options.seed, kills=options.kill, candidates=options.honest_indices, rounds=options.rounds
        )
        self.over = not self._plan
        self._left = len(self._plan)  # kills that nobody waits for yet

    async def carry_out(self) -> None:
        down = trio.Semaphore(self._run.options.down_max)
        async with trio.open_nursery() as nursery:
            for planned in self._plan:
                await down.acquire()
                node = self._run.nodes[planned.index]
                self._left -= 1
                if await self._wait_for_the_moment(planned, node):
                    nursery.start_soon(self._strike, planned, node, down)
                else:
                    down.release()
        self.over = True

    async def _wait_for_the_moment(self, planned: kills.PlannedKill, node: Node) -> bool:
        """True when it is there; False if the run is over before."""
        while True:
            far = self._run.height(node) + 1 < planned.height
            status = await read_status(self._run, node)
            if status is not None and status.height >= self._run.target:
                return False
            if status is not None and kills.is_the_moment(planned, status):
                return True
            await trio.sleep(POLL_SECONDS if far else VICTIM_POLL_SECONDS)

    async def _strike(self, planned: kills.PlannedKill, node: Node, down: trio.Semaphore) -> None:
        run = self._run
        strike = await Strike.at(run, node)
        if self._left:
            # Rounds of a very small model are quicker than a start: the others wait, so that the next kill finds a round to hit.
            reached = max(run.height(other) for other in run.honest)
            await order_everybody(run, min(reached + HEIGHTS_WHILE_DOWN, run.target))
        await trio.sleep(planned.seconds_down)
        if await strike.bring_back():
            await catch_up(run, node)
            await order_everybody(run, run.target)
        down.release()


class Strike:
    """One SIGKILL, and the victim's way back. ``at`` kills."""

    def __init__(self, run: Run, node: Node, *, height: int, phase: str, killed_at: float) -> None:
        self._run = run
        self._node = node
        self._height = height
        self._phase = phase
        self._killed_at = killed_at

    @classmethod
    async def at(cls, run: Run, node: Node) -> "Strike":
        said, killed_at = run.last_words[node.index], time.monotonic()
        await run.fleet.kill(node)
        run.latest[node.index] = None
        height, phase = _what_was_hit(node, said)
        run.shown.note(f"killed {node.name} at height {height} ({phase})")
        return cls(run, node, height=height, phase=phase, killed_at=killed_at)

    async def bring_back(self) -> bool:
        """Start it again; whether it answers. It is told to train then."""
        run, node = self._run, self._node
        await run.fleet.start(node)
        came_back = await answers(run, node)
        seconds_down = time.monotonic() - self._killed_at
        undecided = self._height <= run.target
        run.kills.append(
            Kill(node.node, self._height, self._phase, seconds_down, undecided=undecided, came_back=came_back)
        )
        if came_back:
            run.shown.note(f"{node.name} is back after {seconds_down:.1f} s")
            await order_training(run, node)
        return came_back


async def answers(run: Run, node: Node) -> bool:
    """Wait until a node that was started says something; False if it takes too long, or ends."""
    with trio.move_on_after(START_SECONDS_MAX):
        while node.running:
            if await read_status(run, node) is not None:
                return True
            await trio.sleep(POLL_SECONDS / 2)
    return False


async def catch_up(run: Run, node: Node) -> None:
    """Until then the node counts as down: the next kill must not cost a second vote."""
    while node.running and run.height(node) < max(run.height(other) for other in run.honest) - 1:
        await trio.sleep(POLL_SECONDS)
        await read_status(run, node)


def _what_was_hit(node: Node, said: Status) -> tuple[int, str]:
    """The height that the dead node had not decided, by its own store, and the phase that it was in.

    It may have decided between its last word and its death; then it had just begun to learn for the next height.
    """
    store = Store(node.home.chain, genesis.parse(node.home.genesis.read_bytes()).chain_id)
    try:
        undecided = store.height() + 1
    finally:
        store.close()
    return undecided, said.phase if undecided == said.undecided_height else "learn"
