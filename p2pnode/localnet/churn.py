"""Members leave, newcomers join and nodes die all along, while the network trains (``--churn``).

What it is: the beat, and the three things that happen on it. What it is not: what a node does about them, or whether it was good
(``verdict.py``).

On every beat the committee changes by one: a member leaves for good and ends (``p2pnode leave``), or, once one is missing, a newcomer with a
fresh home is started and gets its seat as anybody would. Half a beat later a member is killed with SIGKILL and comes back. Everybody trains
without end until it is enough; then what has begun is brought to its end, and only then a target is set for all.

For editors: whom it meets is drawn from the seed, when depends on the machine. Never more than one node is down, and no more than two
seats are empty, so a quorum is there at every moment: a round without a contribution is a fault.
"""

import random
import shutil
import time

import trio

from p2pnode.localnet.founding import newcomer
from p2pnode.localnet.kills import SECONDS_DOWN_MAX, SECONDS_DOWN_MIN
from p2pnode.localnet.options import CHURN_NODES_MIN
from p2pnode.localnet.processes import Node
from p2pnode.localnet.run import POLL_SECONDS, Run, order_everybody, order_training, read_outcome, read_status, watch
from p2pnode.localnet.strikes import Strike, answers, catch_up

SEAT_SECONDS_MAX = 300.0  # a newcomer starts, catches up, and contributes to three rounds; each may take a minute
LEAVE_SECONDS_MAX = 180.0  # a round of a minute, and two heights until it takes effect
PEERS_TOLD = 3  # what a newcomer knows of the network
HEIGHTS_AT_THE_END = 2  # from the last change to the target: the last one counts, too


class Churn:
    """Of one run. ``over`` once the target is set."""

    def __init__(self, run: Run, nursery: trio.Nursery) -> None:
        self._run = run
        self._nursery = nursery
        self._chance = random.Random(f"p2pnode-localnet-churn-{run.options.seed}")  # noqa: S311 - a test plan, no secret
        self._leaving: set[int] = set()
        self._down: Node | None = None
        byzantine = run.options.byzantine
        self._seats_min = max(CHURN_NODES_MIN - 1, run.options.nodes - byzantine - (1 if byzantine else 2))
        self.over = run.options.churn is None

    async def carry_out(self) -> None:
        if self._run.options.churn is None:
            return
        beat_seconds = 60 / self._run.options.churn
        async with trio.open_nursery() as changes:
            beat = trio.current_time()
            while not self._enough():
                await self._change(changes)
                await trio.sleep_until(beat + beat_seconds / 2)
                self._kill(changes)
                beat += beat_seconds  # what had to wait is made up for
                await trio.sleep_until(beat)
        run = self._run
        run.target = max(run.height(node) for node in run.honest) + HEIGHTS_AT_THE_END
        await order_everybody(run, run.target)
        self.over = True

    def _enough(self) -> bool:
        run = self._run
        if run.options.minutes is not None:
            return time.monotonic() - run.started_at >= 60 * run.options.minutes
        return max(run.height(node) for node in run.honest) >= run.options.rounds

    def _members(self) -> list[Node]:
        """Who is a member, up, and in nobody's hands."""
        latest = self._run.latest
        free = [n for n in self._run.honest if n.running and n is not self._down and n.index not in self._leaving]
        return [node for node in free if (status := latest[node.index]) is not None and status.role == "member"]

    # --- the committee changes -----------------------------------------------------------------------------------------------------------

    async def _change(self, changes: trio.Nursery) -> None:
        """Begin the next change; wait for an earlier one where too few would be left otherwise."""
        run = self._run
        while not self._enough():
            if len(run.present) - len(self._leaving) < run.options.nodes:
                known = self._chance.sample(run.honest, min(PEERS_TOLD, len(run.honest)))
                node = await newcomer(run.fleet, run.options, run.nodes, known)
                run.add(node)
                changes.start_soon(self._join, node)
                return
            members = self._members()
            if len(members) + (self._down is not None) > self._seats_min:
                node = self._chance.choice(members)
                self._leaving.add(node.index)
                changes.start_soon(self._leave, node)
                return
            await trio.sleep(POLL_SECONDS)

    async def _leave(self, node: Node) -> None:
        run = self._run
        await run.questions[node.index].leave()
        with trio.move_on_after(LEAVE_SECONDS_MAX) as waiting:
            while True:
                status = await read_status(run, node)
                if status is not None and status.role != "member":
                    break
                await trio.sleep(POLL_SECONDS)
        if waiting.cancelled_caught:
            run.troubles.append(f"{node.name} was not let go within {LEAVE_SECONDS_MAX:.0f} seconds")
            return
        outcome = run.gone[node.index] = await read_outcome(run, node, loss=None, left=True)
        self._leaving.discard(node.index)
        await run.fleet.stop([node])
        for bulk in (node.home.blobs, node.home.snapshots, node.home.trainer):
            shutil.rmtree(bulk, ignore_errors=True)  # an hour of this would fill the disk
        run.shown.note(f"{node.name} has left at height {outcome.status.height if outcome.status else '?'}")

    async def _join(self, node: Node) -> None:
        run = self._run
        run.shown.note(f"{node.name} joins")
        await run.fleet.start(node)
        self._nursery.start_soon(watch, run, node)
        began = time.monotonic()
        seated = False
        if await answers(run, node):
            await order_training(run, node)
            with trio.move_on_after(SEAT_SECONDS_MAX):
                while not seated:
                    await trio.sleep(POLL_SECONDS)
                    status = run.latest[node.index]
                    seated = status is not None and status.role == "member"
        if seated:
            run.shown.note(f"{node.name} is a member after {time.monotonic() - began:.1f} s")
        else:
            run.troubles.append(f"{node.name} got no seat within {SEAT_SECONDS_MAX:.0f} seconds")

    # --- a node dies -------------------------------------------------------------------------------------------------------------------------

    def _kill(self, changes: trio.Nursery) -> None:
        members = self._members()
        if self._down is None and members and not self._enough():
            self._down = self._chance.choice(members)
            changes.start_soon(self._strike, self._down)

    async def _strike(self, node: Node) -> None:
        run = self._run
        strike = await Strike.at(run, node)
        await trio.sleep(self._chance.uniform(SECONDS_DOWN_MIN, SECONDS_DOWN_MAX))
        if await strike.bring_back():
            await catch_up(run, node)
        self._down = None
