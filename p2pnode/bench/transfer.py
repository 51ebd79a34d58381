"""``scripts/bench transfer``: what heights take while a large payload moves over the same connections, beside what they take without.

Four real nodes that decide empty blocks; one of them holds a blob on its disk, and others fetch it, each leaf verified, into files.
What it is not: the rate of one connection (``sync``).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from model.config import ModelConfig
from p2pnode.bench.figures import spread
from p2pnode.bench.mover import ANSWER, ORDER, write
from p2pnode.bench.network import Network, Plan, Turn, open_network
from p2pnode.errors import UserError

NODES = 4
MEBIBYTES = 500
HEIGHTS_PER_TURN = 50
TURNS_IDLE = 4
ANSWER_SECONDS_MAX = 120.0  # for the blob to stand on a disk; a fetch has answered by then

Json = dict[str, Any]


async def measure(
    *, mebibytes: int, receivers: int, upload_mbit: float | None, size: ModelConfig, say: Callable[[str], None]
) -> Json:
    """Idle turns, then turns for as long as the blob moves. Raises UserError where it does not arrive."""
    flags = ("--moves", *(() if upload_mbit is None else ("--upload-mbit", str(upload_mbit))))
    async with open_network(Plan(nodes=NODES, size=size, heights="empty", flags=flags)) as network:
        source, *others = network.homes
        write(source / ORDER, {"make": mebibytes << 20})
        (order,) = await _answers([source])
        say(f"{mebibytes} MiB are on the disk of one node; {TURNS_IDLE * HEIGHTS_PER_TURN} heights without a transfer")
        idle = [await network.decide(HEIGHTS_PER_TURN) for _ in range(TURNS_IDLE)]
        for home in others[:receivers]:
            write(home / ORDER, order)
        say("and now with one")
        busy, answers = await _while_moving(network, others[:receivers])
    if not all(answer["is_whole"] for answer in answers):
        raise UserError("the blob did not arrive", "this is a bug")
    return {
        "benchmark": "transfer",
        "nodes": NODES,
        "bytes": mebibytes << 20,
        "upload_mbit": upload_mbit,
        "seconds": [answer["seconds"] for answer in answers],
        "idle": {"heights": len(idle) * HEIGHTS_PER_TURN, **_height_seconds(idle)},
        "busy": {"heights": len(busy) * HEIGHTS_PER_TURN, **_height_seconds(busy)},
        "ratio_p99": _height_seconds(busy)["p99"] / _height_seconds(idle)["p99"],
        "views_max": max(row["view"] for turn in (*idle, *busy) for said in turn.rounds for row in said),
    }


def text(result: Json) -> str:
    link = f"a link of {result['mbit']} Mbit/s" if result["mbit"] else "loopback"
    rate = [result["bytes"] / 1e6 / seconds for seconds in result["seconds"]]
    lines = [
        f"{result['nodes']} nodes, empty blocks, and {result['bytes'] / 1e6:.0f} MB on their way from one to {len(rate)} others",
        f"  on {link}; uplink budget of each node: {_budget(result)}",
        f"  moved in {', '.join(f'{seconds:.1f} s' for seconds in result['seconds'])} ({', '.join(f'{r:.0f}' for r in rate)} MB/s)",
        f"  {'StartHeight to decision, ms':<30}{'p50':>9}{'p90':>9}{'p99':>9}{'heights':>9}",
    ]
    for name in ("idle", "busy"):
        its = result[name]
        figures = "".join(f"{its[which] * 1e3:>9.1f}" for which in ("p50", "p90", "p99"))
        lines.append(f"  {'while it moves' if name == 'busy' else 'without it':<30}{figures}{its['heights']:>9}")
    lines.append(
        f"  p99 while it moves over p99 without: {result['ratio_p99']:.2f}; highest view {result['views_max']}"
    )
    return "\n".join(lines)


def _budget(result: Json) -> str:
    return "none" if result["upload_mbit"] is None else f"{result['upload_mbit']:g} Mbit/s"


def _height_seconds(turns: Sequence[Turn]) -> dict[str, float]:
    rows = [row["seconds"] for turn in turns for said in turn.rounds for row in said]
    return spread(seconds["propose"] + seconds["agree"] for seconds in rows)


async def _while_moving(network: Network, homes: Sequence[Path]) -> tuple[list[Turn], list[Json]]:
    """Turns that ended before the last byte came; at least one."""
    turns: list[Turn] = []
    while not turns or not all((home / ANSWER).exists() for home in homes):
        turns.append(await network.decide(HEIGHTS_PER_TURN))
    answers = await _answers(homes)
    return (turns[:-1] or turns), answers


async def _answers(homes: Sequence[Path]) -> list[Json]:
    with trio.move_on_after(ANSWER_SECONDS_MAX) as waited:
        while not all((home / ANSWER).exists() for home in homes):  # noqa: ASYNC110 - other processes make them
            await trio.sleep(0.1)
    if waited.cancelled_caught:
        raise UserError(
            f"a node said nothing for {ANSWER_SECONDS_MAX:.0f} s", "what it logged stands above, if it failed"
        )
    return [json.loads((home / ANSWER).read_text()) for home in homes]
