"""One run, from nothing to its verdict: read this first.

What it is: the story. ``_run_network`` is its order: found, start, measure, train (and kill), measure again, end,
judge. What it is not: any of the parts; each has a module.

For editors: nothing is remembered about a node that it was not asked for. Every wait has an end, and says in the
verdict what it waited for.
"""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from p2pnode.errors import ExitCode
from p2pnode.localnet import display, verdict
from p2pnode.localnet.churn import Churn
from p2pnode.localnet.founding import forecast_in, found
from p2pnode.localnet.ground import GROUND
from p2pnode.localnet.options import LocalnetOptions
from p2pnode.localnet.processes import INTERRUPTED_STOP_SECONDS_MAX, Node, leftovers, open_fleet, tracebacks
from p2pnode.localnet.run import POLL_SECONDS, Run, RunFailed, evaluate, order_training, read_outcome, watch
from p2pnode.localnet.strikes import START_SECONDS_MAX, Killing
from p2pnode.localnet.verdict import Cut, NodeOutcome, Outcome
from p2pnode.localnet.weather import Partition, write_forecast

STALL_SECONDS_MAX = 180.0  # three times the round_seconds_max of a genesis


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
    async with GROUND.get().open(options.weather) as remark, open_fleet(temporary) as fleet:
        with display.open_display(options.rounds if options.churn is None else None) as shown:
            if remark:
                shown.note(remark)
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
            nursery.start_soon(watch, run, node)
        nursery.start_soon(_keep_showing, run)
        try:
            await run.until(lambda: _all_met(run), what="the nodes to meet", seconds_max=START_SECONDS_MAX)
            run.validation_loss_first = await evaluate(run, run.honest[0])
            await _train(run, nursery)
        except RunFailed as failure:
            run.troubles.append(str(failure))
            if run.options.churn is not None:  # nobody had been told a target yet
                run.target = min(run.target, max(run.height(node) for node in run.honest))
        nursery.cancel_scope.cancel()


async def _train(run: Run, nursery: trio.Nursery) -> None:
    """Order the training, kill and change by plan, wait for the target."""
    run.shown.note(f"training; held-out loss before it: {_shown(run.validation_loss_first)}")
    run.started_at = time.monotonic()
    for node in run.nodes:
        nursery.start_soon(order_training, run, node)
    killing, churn = Killing(run), Churn(run, nursery)
    nursery.start_soon(killing.carry_out)
    nursery.start_soon(churn.carry_out)
    if not run.options.weather.is_fair:
        nursery.start_soon(_begin_weather, run, nursery)
    await run.until(
        lambda: killing.over and churn.over and all(run.height(node) >= run.target for node in run.honest),
        what="the last height on every honest node",
        seconds_max=STALL_SECONDS_MAX,
    )
    run.wall_seconds = time.monotonic() - run.started_at


async def _begin_weather(run: Run, nursery: trio.Nursery) -> None:
    """From now on partitions count."""
    weather = GROUND.get().left_to_shim(run.options.weather)
    if weather.partitions:
        forecast, ports = forecast_in(run.nodes[0].home.path.parent), [node.port for node in run.nodes]
        write_forecast(forecast, weather, ports, seed=run.options.seed, began=time.monotonic())
    for partition in run.options.weather.partitions:
        nursery.start_soon(_watch_partition, run, partition)


async def _watch_partition(run: Run, partition: Partition) -> None:
    """Say when it begins and ends. On the loopback the nodes carry it out by themselves."""
    await trio.sleep(partition.at_seconds)
    members = [node.index + 1 for node in run.present]
    cut = Cut.of(partition, members=members, height=max(map(run.height, run.honest)))
    without = "" if cut.quorum else ", and no side has a quorum"
    run.shown.note(f"partition {cut.groups} for {cut.seconds:g} s{without}")
    run.cuts.append(cut)
    run.cuts_open.append(partition)
    await GROUND.get().cut(run.cuts_open)
    await trio.sleep(partition.seconds)
    run.cuts_open.remove(partition)
    await GROUND.get().cut(run.cuts_open)
    run.shown.note(f"partition {cut.groups} is over")


def _all_met(run: Run) -> bool:
    statuses = run.latest.values()
    return all(s is not None and s.members_reachable >= s.members == len(run.nodes) for s in statuses)


async def _keep_showing(run: Run) -> None:
    while True:
        _show(run)
        await trio.sleep(POLL_SECONDS)


def _show(run: Run) -> None:
    views = [display.NodeView(n.name, n.node, n.attack, run.latest[n.index]) for n in run.present]
    run.shown.update(views, seconds=time.monotonic() - run.started_at)


async def _read_everything(run: Run) -> Outcome:
    """The last questions, while all nodes still run."""
    outcomes: dict[int, NodeOutcome] = {}
    async with trio.open_nursery() as nursery:
        for node in run.nodes:
            nursery.start_soon(_read_node, run, node, outcomes)
    _show(run)
    return Outcome(
        rounds=run.target,
        churned=run.options.churn is not None,
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
    if node.index in run.gone:
        outcomes[node.index] = run.gone[node.index]
        return
    # A node that is gone has no loss; one that failed to arrive is not worth the wait.
    loss = await evaluate(run, node) if node.attack is None and node.running and not run.troubles else None
    outcomes[node.index] = await read_outcome(run, node, loss=loss)


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
