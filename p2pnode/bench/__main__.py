"""``scripts/bench``: what can be measured, and the printing of it.

    round [--nodes N...] [--rounds N] [--hivemind PYTHON]   a million values each, exchanged and agreed on without training
    round --empty                                           empty blocks on four nodes: what agreement alone costs
    consensus                                               agreement alone, on loopback and simulated far apart
    sync [--mbit N]                                         what a joiner gets, against a plain TLS stream; on a link of N Mbit/s
    transfer [--upload-mbit MBIT] [--mbit N]                heights while a large payload moves, beside heights without
    lag                                                     how late the event loop runs beside training
    network [--nodes N...]                                  how a network grows: 25 to 200 whole nodes in virtual time
    meeting [--libp2p PYTHON]                               handshakes and discovery on the sockets of this machine
    kernels [--part PART...] [--no-compile]                 the model's operators beside what one would write without them
    trainer [--litgpt PYTHON]                               a training step beside transformers, litgpt and x-transformers

stdout is data (``--json``: one object), stderr is talk. Exit status 1 if nodes disagreed, never for a slow figure: machines differ.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from model.allocator import tune_host_allocator
from model.config import ModelConfig
from model.layout import Layout
from p2pnode.bench import agreement, figures, link, meeting, scale, sync, trainer, transfer
from p2pnode.bench.network import Plan, Turn, open_network
from p2pnode.bench.rival import open_rival
from p2pnode.bench.show import lag_text, round_text
from p2pnode.errors import ExitCode, UserError, render_error, user_error

# One wide layer: 1,000,192 parameters, and hardly any padding.
MILLION = ModelConfig(width=256, layers=1, heads=4, key_value_heads=2, feed_forward=960, context=128)
SMALLEST = ModelConfig(width=8, layers=1, heads=1, key_value_heads=1, feed_forward=8, context=128)
ROUNDS = 12
ROUNDS_PER_TURN = 4
EMPTY_HEIGHTS = 200
KERNEL_PARTS = ("swiglu", "experts", "layer")
LAG_SECONDS = 65.0  # a node remembers the last minute of its loop: nothing of its start is left then

Json = dict[str, Any]


def main() -> int:
    given = _parse()
    try:
        task = {
            "round": _round,
            "consensus": _consensus,
            "lag": _lag,
            "sync": _sync,
            "network": _network,
            "meeting": _meeting,
            "transfer": _transfer,
            "kernels": _kernels,
            "trainer": _trainer,
        }[given.command]
        results = trio.run(task, given)
        if given.command == "consensus":
            results.append(_far_apart(given))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (UserError, BaseExceptionGroup) as problem:
        shown = user_error(problem)
        if shown is None:
            raise
        sys.stderr.write(render_error(shown) + "\n")
        return int(shown.exit_code)
    if given.json:
        sys.stdout.write(json.dumps(results) + "\n")
    agreed = all(holds for result in results for holds in result.get("agreement", {}).values())
    return ExitCode.OK if agreed else ExitCode.FAILED


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="How fast it is on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("round", help="rounds without training")
    one.add_argument("--nodes", type=int, nargs="+", default=[4, 8], metavar="N")
    one.add_argument("--rounds", type=int, metavar="N", help="whose figures are wanted (12; 200 empty ones)")
    one.add_argument(
        "--hivemind", type=Path, metavar="PYTHON", help="interpreter of an environment with hivemind 1.1.12"
    )
    one.add_argument("--empty", action="store_true", help="empty blocks on four nodes: agreement alone")
    votes = commands.add_parser("consensus", help="agreement alone, on loopback and simulated far apart")
    lag = commands.add_parser("lag", help="how late the event loop runs beside training")
    joining = commands.add_parser("sync", help="what a joiner gets, against a plain TLS stream")
    joining.add_argument("--model", type=int, default=sync.MODEL_MEBIBYTES, metavar="MIB", help="size of the model")
    joining.add_argument("--blocks", type=int, default=sync.BLOCKS, metavar="N", help="length of the chain")
    joining.add_argument("--turns", type=int, default=sync.TURNS, metavar="N", help="pairs whose ratio counts")
    growing = commands.add_parser("network", help="how a network grows, in virtual time")
    growing.add_argument("--nodes", type=int, nargs="+", default=list(scale.SIZES), metavar="N")
    strangers = commands.add_parser("meeting", help="handshakes and discovery on this machine's sockets")
    strangers.add_argument("--libp2p", type=Path, metavar="PYTHON", help="interpreter of an environment with libp2p")
    moving = commands.add_parser("transfer", help="what heights take while a large payload moves")
    moving.add_argument("--size", type=int, default=transfer.MEBIBYTES, metavar="MIB", help="size of the payload")
    moving.add_argument("--receivers", type=int, default=1, choices=range(1, transfer.NODES), help="at the same time")
    moving.add_argument("--upload-mbit", type=float, metavar="MBIT", help="each node's uplink budget (none)")
    operators = commands.add_parser("kernels", help="the model's operators beside what one would write without them")
    operators.add_argument("--part", nargs="+", choices=KERNEL_PARTS, default=list(KERNEL_PARTS), help="all of them")
    operators.add_argument("--repetitions", type=int, metavar="N", help="of each way (7 to 101, by how long it takes)")
    operators.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes a minute")
    for command in (joining, moving):
        command.add_argument(
            "--mbit", type=int, metavar="N", help="over a loopback of that rate (Linux, its own namespace)"
        )
        command.add_argument(link.SHAPED, dest="shaped", action="store_true", help=argparse.SUPPRESS)
    steps = commands.add_parser("trainer", help="a training step beside transformers, litgpt and x-transformers")
    steps.add_argument("--litgpt", type=Path, metavar="PYTHON", help="interpreter of an environment with litgpt")
    steps.add_argument("--turns", type=int, default=trainer.TURNS, metavar="N", help="whose ratios count")
    steps.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    steps.add_argument("--precision", nargs="+", default=list(trainer.GOALS), choices=list(trainer.GOALS))
    steps.add_argument("--others-tuned", action="store_true", help="the others' allocator is tuned as ours")
    for command in (one, votes, lag, joining, moving, growing, strangers, operators, steps):
        command.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    return parser.parse_args()


# --- round ---------------------------------------------------------------------------------------------------------------------


async def _round(given: argparse.Namespace) -> list[Json]:
    if given.empty:
        return [await _empty(given, given.rounds or EMPTY_HEIGHTS)]
    if given.hivemind is None or not given.hivemind.exists():
        _say("hivemind: not measured (give --hivemind the interpreter of an environment that has it)")
        given.hivemind = None
    return [await _million(given, nodes) for nodes in given.nodes]


async def _million(given: argparse.Namespace, nodes: int) -> Json:
    """Ours and theirs in turns, so that both see the same machine, and each turn gives one ratio."""
    async with AsyncExitStack() as stack:
        _say(f"{nodes} nodes: starting")
        network = await stack.enter_async_context(open_network(Plan(nodes=nodes, size=MILLION)))
        rival = None
        if given.hivemind is not None:
            values = MILLION.parameters
            rival = await stack.enter_async_context(open_rival(given.hivemind, peers=nodes, values=values))
            await rival.rounds(1)  # its first one opens connections; ours has a warm-up in each turn
        ours: list[Turn] = []
        theirs: list[list[Json]] = []
        rounds = given.rounds or ROUNDS
        for first in range(0, rounds, ROUNDS_PER_TURN):
            count = min(ROUNDS_PER_TURN, rounds - first)
            ours.append(await network.decide(count))
            if rival is not None:
                theirs.append(await rival.rounds(count))
    result = {
        "benchmark": "round",
        "nodes": nodes,
        "values": MILLION.parameters,
        "payload_values": Layout.of(MILLION).values,
        **figures.round_figures(ours, nodes=nodes),
    }
    if rival is not None:
        result["hivemind"] = {"version": rival.version, **figures.rival_figures(theirs)}
        result["ratios"] = figures.ratios(ours, theirs)
        result["ratio"] = statistics.median(result["ratios"])
    return _shown(given, result, round_text)


async def _empty(given: argparse.Namespace, heights: int) -> Json:
    _say("4 nodes, empty blocks: starting")
    async with open_network(Plan(nodes=4, size=SMALLEST, heights="empty")) as network:
        turn = await network.decide(heights)
    result = {
        "benchmark": "empty",
        "nodes": 4,
        "values": SMALLEST.parameters,
        **figures.round_figures([turn], nodes=4),
    }
    return _shown(given, result, round_text)


# --- consensus -----------------------------------------------------------------------------------------------------------------


async def _consensus(given: argparse.Namespace) -> list[Json]:
    return [await _empty(given, EMPTY_HEIGHTS)]


def _far_apart(given: argparse.Namespace) -> Json:
    return _shown(given, {"benchmark": "far apart", **agreement.far_apart(_say)}, agreement.text)


# --- lag -----------------------------------------------------------------------------------------------------------------------


async def _lag(given: argparse.Namespace) -> list[Json]:
    results = []
    for nodes in (1, 4):
        _say(f"{nodes} training: starting")
        async with open_network(Plan(nodes=nodes, size="tiny", heights="learned")) as network:
            began = trio.current_time()
            while trio.current_time() < began + LAG_SECONDS:
                turn = await network.decide(1)
        p99, worst = ([status[f"loop_lag_seconds_{which}"] for status in turn.statuses] for which in ("p99", "max"))
        result = {"benchmark": "lag", "nodes": nodes, "loop_lag_seconds_p99": p99, "loop_lag_seconds_max": worst}
        results.append(_shown(given, result, lag_text))
    return results


# --- sync ----------------------------------------------------------------------------------------------------------------------


async def _sync(given: argparse.Namespace) -> list[Json]:
    if given.mbit is not None and not given.shaped:
        link.shape(given.mbit, sys.argv[1:])
    result = await sync.measure(mebibytes=given.model, blocks=given.blocks, turns=given.turns, say=_say)
    return [_shown(given, {**result, "mbit": given.mbit}, sync.text)]


# --- network -------------------------------------------------------------------------------------------------------------------


async def _network(given: argparse.Namespace) -> list[Json]:
    return [_shown(given, scale.grow(given.nodes, _say), scale.text)]


async def _meeting(given: argparse.Namespace) -> list[Json]:
    if given.libp2p is None:
        _say("py-libp2p: not measured (give --libp2p the interpreter of an environment that has it)")
    return [_shown(given, await meeting.measure(libp2p=given.libp2p, say=_say), meeting.text)]


# --- transfer ------------------------------------------------------------------------------------------------------------------


async def _transfer(given: argparse.Namespace) -> list[Json]:
    if given.mbit is not None and not given.shaped:
        link.shape(given.mbit, sys.argv[1:])
    result = await transfer.measure(
        mebibytes=given.size, receivers=given.receivers, upload_mbit=given.upload_mbit, size=SMALLEST, say=_say
    )
    return [_shown(given, {**result, "mbit": given.mbit}, transfer.text)]


# --- kernels -------------------------------------------------------------------------------------------------------------------


async def _kernels(given: argparse.Namespace) -> list[Json]:
    from p2pnode.bench import kernels  # torch, which the other benches leave to their nodes

    result = kernels.measure(
        _say,
        parts=given.part,
        repetitions=given.repetitions,
        compiled=not given.no_compile,
        allocator_tuned=tune_host_allocator(keep_all=True),  # P2PNODE_HOST_ALLOCATOR=system measures without
    )
    return [_shown(given, result, kernels.text)]


# --- trainer -------------------------------------------------------------------------------------------------------------------


async def _trainer(given: argparse.Namespace) -> list[Json]:
    result = trainer.measure(
        _say,
        litgpt=given.litgpt,
        turns=given.turns,
        threads=given.threads,
        precisions=given.precision,
        allocator="tuned" if given.others_tuned else "system",
    )
    return [_shown(given, result, trainer.text)]


# --- what one sees -------------------------------------------------------------------------------------------------------------


def _shown(given: argparse.Namespace, result: Json, show: Callable[[Json], str]) -> Json:
    if not given.json:
        sys.stdout.write(show(result) + "\n")
    return result


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
