"""One run, from nothing to its verdict: read this first.

What it is: the story. ``_run_network`` is its order: found, start, measure, train (and kill), measure again, end,
judge. What it is not: any of the parts; each has a module.

For editors: a node's state is whatever it last said (``Run.latest``); nothing is remembered about a node that it was
not asked for. Every wait has an end, and says in the verdict what it waited for. The two cores that a network shares
with its harness belong to the network: a node is asked once per ``POLL_SECONDS``, and only a node about to be killed
more often.
"""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from p2pnode import genesis
from p2pnode.errors import ExitCode
from p2pnode.localnet import display, kills, verdict
from p2pnode.localnet.founding import forecast_in, found
from p2pnode.localnet.options import LocalnetOptions
from p2pnode.localnet.processes import INTERRUPTED_STOP_SECONDS_MAX, Fleet, Node, leftovers, open_fleet, tracebacks
from p2pnode.localnet.questions import Questions
from p2pnode.localnet.readings import EvidenceRow, Status
from p2pnode.localnet.verdict import Cut, Kill, NodeOutcome, Outcome
from p2pnode.localnet.weather import Partition, write_forecast
from p2pnode.store import Store

POLL_SECONDS = 0.2
POLL_SECONDS_PER_NODE = 0.05  # from five nodes on, the harness asks each of them less often
HEIGHTS_WHILE_DOWN = 2  # the round that was hit, and one more without the victim
VICTIM_POLL_SECONDS = 0.01  # the shortest phases last a few times this
START_SECONDS_MAX = 180.0  # eight processes that import torch on two busy cores take about thirty
STALL_SECONDS_MAX = 180.0  # three times the round_seconds_max of a genesis
EVALUATE_SECONDS_MAX = 600.0


def run(options: LocalnetOptions) -> int:
    """Run the network to its verdict, show it, and return the exit code. ``options`` were checked."""
    with _directory(options) as (directory, temporary):
        outcome = trio.run(_run_or_interrupt, options, directory, temporary)
    if outcome is None:
        sys.stderr.write("interrupted: every node has ended, nothing is left behind\n")
        return ExitCode.INTERRUPTED
    summary = verdict.summary(outcome)
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
        sys.stdout.flush()
    else:
        display.show_result(outcome, summary)
    return ExitCode.OK if summary["verdict"] == "ok" else ExitCode.FAILED


class RunFailed(Exception):
    """The run cannot reach its target; the text is the sentence for the verdict."""


class Run:
    """What is known while the network runs."""

    def __init__(self, options: LocalnetOptions, fleet: Fleet, nodes: list[Node], shown: display.Display) -> None:
        self.options = options
        self.fleet = fleet
        self.nodes = nodes
        self.shown = shown
        self.questions = {node.index: Questions(node.home) for node in nodes}
        self.trained_until = options.rounds
        self.latest: dict[int, Status | None] = {node.index: None for node in nodes}
        self.last_words: dict[int, Status] = {}
        self.evidence_seen: set[EvidenceRow] = set()
        self.kills: list[Kill] = []
        self.members = len(nodes)  # as the honest were last heard to say
        self.cuts: list[Cut] = []  # partitions that have begun
        self.cuts_open = 0
        self.troubles: list[str] = []
        self.wall_seconds: float | None = None
        self.validation_loss_first: float | None = None
        self.started_at = time.monotonic()

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.attack is None]

    def height(self, node: Node) -> int:
        status = self.latest[node.index]
        return status.height if status else 0

    async def until(self, reached: Callable[[], bool], *, what: str, seconds_max: float) -> None:
        """Wait for ``reached``. Raises RunFailed when an honest node ended by itself, or nothing has moved for
        ``seconds_max``."""
        progress, deadline = self._progress(), time.monotonic() + seconds_max
        while not reached():
            if any(node.troubles for node in self.honest):
                raise RunFailed(f"gave up waiting for {what}: an honest node is gone")
            if self._progress() != progress or self.cuts_open:
                progress, deadline = self._progress(), time.monotonic() + seconds_max
            if time.monotonic() > deadline:
                raise RunFailed(f"gave up waiting for {what}: nothing moved for {seconds_max:.0f} seconds")
            await trio.sleep(POLL_SECONDS / 2)

    def _progress(self) -> list[tuple[int, int]]:
        """Changes while honest nodes learn or decide. New views alone are no progress."""
        return [(s.height, s.step) if (s := self.latest[node.index]) else (-1, -1) for node in self.honest]


async def _run_or_interrupt(options: LocalnetOptions, directory: Path, temporary: Path | None) -> Outcome | None:
    """The outcome, or None if the operator ended the run first."""
    outcome: Outcome | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def interrupt() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(interrupt)
            outcome = await _run_network(options, directory, temporary)
            nursery.cancel_scope.cancel()
    return outcome


async def _run_network(options: LocalnetOptions, directory: Path, temporary: Path | None) -> Outcome:
    async with open_fleet(temporary) as fleet:
        with display.open_display(options.rounds) as shown:
            shown.note(f"founding a network of {options.nodes} nodes ({options.size}, {options.rounds} rounds)")
            nodes = await found(fleet, options, directory)
            run = Run(options, fleet, nodes, shown)
            try:
                await _train_to_the_target(run)
                outcome = await _read_everything(run)
                await fleet.stop(nodes)
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.stop(nodes, seconds_max=INTERRUPTED_STOP_SECONDS_MAX)
    return _with_what_is_left(outcome, nodes)


async def _train_to_the_target(run: Run) -> None:
    """Start every node and return when all honest ones are there, or when it is clear that they will not be."""
    async with trio.open_nursery() as nursery:
        for node in run.nodes:
            await run.fleet.start(node)
            nursery.start_soon(_watch, run, node)
        nursery.start_soon(_keep_showing, run)
        try:
            await run.until(lambda: _all_met(run), what="the nodes to meet", seconds_max=START_SECONDS_MAX)
            run.validation_loss_first = await _evaluate(run, run.honest[0])
            await _train(run, nursery)
        except RunFailed as failure:
            run.troubles.append(str(failure))
        nursery.cancel_scope.cancel()


async def _train(run: Run, nursery: trio.Nursery) -> None:
    """Order the training, kill by plan, wait for the target."""
    target = run.options.rounds
    run.shown.note(f"training; held-out loss before it: {_shown(run.validation_loss_first)}")
    run.started_at = time.monotonic()
    for node in run.nodes:
        nursery.start_soon(_order_training, run, node)
    killing = _Killing(run)
    nursery.start_soon(killing.carry_out)
    if not run.options.weather.is_fair:
        nursery.start_soon(_begin_weather, run, nursery)
    await run.until(
        lambda: killing.over and all(run.height(node) >= target for node in run.honest),
        what=f"height {target} on every honest node",
        seconds_max=STALL_SECONDS_MAX,
    )
    run.wall_seconds = time.monotonic() - run.started_at


async def _begin_weather(run: Run, nursery: trio.Nursery) -> None:
    """From now on partitions count."""
    weather, ports = run.options.weather, [node.port for node in run.nodes]
    forecast = forecast_in(run.nodes[0].home.path.parent)
    write_forecast(forecast, weather, ports, seed=run.options.seed, began=time.monotonic())
    for partition in weather.partitions:
        nursery.start_soon(_watch_partition, run, partition)


async def _watch_partition(run: Run, partition: Partition) -> None:
    """Say when it begins and ends. The nodes carry it out by themselves."""
    await trio.sleep(partition.at_seconds)
    cut = Cut.of(partition, members=len(run.nodes), height=max(map(run.height, run.honest)))
    without = "" if cut.quorum else ", and no side has a quorum"
    run.shown.note(f"partition {cut.groups} for {cut.seconds:g} s{without}")
    run.cuts.append(cut)
    run.cuts_open += 1
    await trio.sleep(partition.seconds)
    run.cuts_open -= 1
    run.shown.note(f"partition {cut.groups} is over")


def _all_met(run: Run) -> bool:
    statuses = run.latest.values()
    return all(s is not None and s.members_reachable >= s.members == len(run.nodes) for s in statuses)


async def _watch(run: Run, node: Node) -> None:
    """Ask one node again and again for what it says of itself."""
    pause = max(POLL_SECONDS, POLL_SECONDS_PER_NODE * len(run.nodes))
    while True:
        await _read_status(run, node)
        await trio.sleep(pause)


async def _read_status(run: Run, node: Node) -> Status | None:
    status = await run.questions[node.index].status() if node.running else None
    run.latest[node.index] = status
    if status is not None:
        before = run.last_words.get(node.index)
        run.last_words[node.index] = status
        if node.attack is None and before is not None and status.members < before.members == run.members:
            run.members = status.members
            run.shown.note(f"{status.members} members remain: {display.tolerance(status.members)}")
        if node.attack is None and status.evidence > len(run.evidence_seen):
            await _note_evidence(run, node)
    return status


async def _note_evidence(run: Run, node: Node) -> None:
    rows = await run.questions[node.index].evidence()
    names = {other.node: other.name for other in run.nodes}
    for row in rows or ():
        if row not in run.evidence_seen:
            run.evidence_seen.add(row)
            run.shown.note(f"evidence: {names.get(row.node, row.node)} {row.kind} at height {row.height}")


async def _keep_showing(run: Run) -> None:
    while True:
        _show(run)
        await trio.sleep(POLL_SECONDS)


def _show(run: Run) -> None:
    views = [display.NodeView(n.name, n.node, n.attack, run.latest[n.index]) for n in run.nodes]
    run.shown.update(views, seconds=time.monotonic() - run.started_at)


async def _evaluate(run: Run, node: Node) -> float | None:
    with trio.move_on_after(EVALUATE_SECONDS_MAX):
        return await run.questions[node.index].evaluate()
    return None


async def _order_training(run: Run, node: Node) -> None:
    """Tell a node how far to train, until it has heard."""
    questions = run.questions[node.index]
    while node.running:
        status = await questions.status()
        if status is not None:
            if status.height >= run.options.rounds or status.until_height == run.trained_until:
                return
            await questions.train(run.trained_until)
        await trio.sleep(VICTIM_POLL_SECONDS)


async def _order_everybody(run: Run, height: int) -> None:
    """All nodes that run train until this height from now on."""
    run.trained_until = height
    async with trio.open_nursery() as nursery:
        for node in run.nodes:
            nursery.start_soon(_order_training, run, node)


class _Killing:
    """Carries out the plan of ``kills.py``, in its order, never with more nodes down than are allowed."""

    def __init__(self, run: Run) -> None:
        options = run.options
        self._run = run
        self._plan = kills.plan_kills(
            seed=options.seed, kills=options.kill, candidates=options.honest_indices, rounds=options.rounds
        )
        self._chain_id = genesis.parse(run.nodes[0].home.genesis.read_bytes()).chain_id
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
            status = await _read_status(self._run, node)
            if status is not None and status.height >= self._run.options.rounds:
                return False
            if status is not None and kills.is_the_moment(planned, status):
                return True
            await trio.sleep(POLL_SECONDS if far else VICTIM_POLL_SECONDS)

    async def _strike(self, planned: kills.PlannedKill, node: Node, down: trio.Semaphore) -> None:
        run = self._run
        said = run.last_words[node.index]
        killed_at = time.monotonic()
        await run.fleet.kill(node)
        run.latest[node.index] = None
        height, phase = self._what_was_hit(node, said)
        run.shown.note(f"killed {node.name} at height {height} ({phase})")
        if self._left:
            # Rounds of a very small model are quicker than a start: the others wait, so that the next kill finds a round to hit.
            reached = max(run.height(other) for other in run.honest)
            await _order_everybody(run, min(reached + HEIGHTS_WHILE_DOWN, run.options.rounds))
        await trio.sleep(planned.seconds_down)
        await run.fleet.start(node)
        came_back = await self._comes_back(node)
        seconds_down = time.monotonic() - killed_at
        run.kills.append(
            Kill(node.node, height, phase, seconds_down, undecided=height <= run.options.rounds, came_back=came_back)
        )
        if came_back:
            run.shown.note(f"{node.name} is back after {seconds_down:.1f} s")
            await _order_training(run, node)
            await self._catches_up(node)
            await _order_everybody(run, run.options.rounds)
        down.release()

    def _what_was_hit(self, node: Node, said: Status) -> tuple[int, str]:
        """The height that the dead node had not decided, by its own store, and the phase that it was in.

        It may have decided between its last word and its death; then it had just begun to learn for the next height.
        """
        store = Store(node.home.chain, self._chain_id)
        try:
            undecided = store.height() + 1
        finally:
            store.close()
        return undecided, said.phase if undecided == said.undecided_height else "learn"

    async def _comes_back(self, node: Node) -> bool:
        with trio.move_on_after(START_SECONDS_MAX):
            while node.running:
                if await _read_status(self._run, node) is not None:
                    return True
                await trio.sleep(POLL_SECONDS / 2)
        return False

    async def _catches_up(self, node: Node) -> None:
        """Until then the node counts as down: the next kill must not cost a second vote."""
        run = self._run
        while node.running and run.height(node) < max(run.height(other) for other in run.honest) - 1:
            await trio.sleep(POLL_SECONDS)
            await _read_status(run, node)


async def _read_everything(run: Run) -> Outcome:
    """The last questions, while all nodes still run."""
    outcomes: dict[int, NodeOutcome] = {}
    async with trio.open_nursery() as nursery:
        for node in run.nodes:
            nursery.start_soon(_read_node, run, node, outcomes)
    _show(run)
    return Outcome(
        rounds=run.options.rounds,
        kills_planned=run.options.kill,
        wall_seconds=run.wall_seconds,
        nodes=tuple(outcomes[node.index] for node in run.nodes),
        kills=tuple(run.kills),
        cuts_planned=len(run.options.weather.partitions),
        cuts=tuple(run.cuts),
        validation_loss_first=run.validation_loss_first,
        troubles=tuple(run.troubles),
    )


async def _read_node(run: Run, node: Node, outcomes: dict[int, NodeOutcome]) -> None:
    questions = run.questions[node.index]
    honest = node.attack is None
    # A node that is gone has no loss; one that failed to arrive is not worth the wait.
    loss = await _evaluate(run, node) if honest and node.running and not run.troubles else None
    status = await _read_status(run, node)
    outcomes[node.index] = NodeOutcome(
        name=node.name,
        node=node.node,
        attack=node.attack,
        status=status or run.last_words.get(node.index),
        rounds=(await questions.rounds(run.options.rounds)) if honest and status else (),
        evidence=(await questions.evidence()) if honest and status else (),
        validation_loss=loss,
    )


def _with_what_is_left(outcome: Outcome, nodes: Sequence[Node]) -> Outcome:
    """Add what shows only after the end: exits, tracebacks, leftovers."""
    ended = tuple(
        replace(outcome_of, troubles=(*node.troubles, *leftovers(node), *tracebacks(node)))
        for outcome_of, node in zip(outcome.nodes, nodes, strict=True)
    )
    return replace(outcome, nodes=ended)


@contextmanager
def _directory(options: LocalnetOptions) -> Iterator[tuple[Path, Path | None]]:
    """(where the homes go, the same if it is ours to remove): a fresh temporary directory, or ``--home``, which
    stays."""
    if options.home is not None:
        options.home.mkdir(parents=True, exist_ok=True)
        yield options.home.absolute(), None
        return
    temporary = Path(tempfile.mkdtemp(prefix="p2pnode-localnet-"))
    try:
        yield temporary, temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _shown(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.3f}"
