"""From what nodes recorded to figures. Pure, and of no opinion about what is good."""

import statistics
from collections.abc import Iterable, Sequence

from p2pnode.bench.network import Json, Turn
from p2pnode.timings import PARTS


def spread(samples: Iterable[float]) -> dict[str, float]:
    """Median and 90th and 99th percentile; the smallest sample that at least so many do not exceed."""
    ordered = sorted(samples)
    return {"p50": statistics.median(ordered), "p90": _percentile(ordered, 90), "p99": _percentile(ordered, 99)}


def round_figures(turns: Sequence[Turn], *, nodes: int) -> Json:
    """Every height of every node counts once. ``agreement`` holds what must be true of them."""
    rows = [row for turn in turns for said in turn.rounds for row in said]
    heights: dict[int, list[Json]] = {}
    for row in rows:
        heights.setdefault(row["height"], []).append(row)
    return {
        "heights": len(heights),
        "seconds": spread(row["seconds"]["total"] for row in rows),
        "agree_seconds": spread(row["seconds"]["agree"] for row in rows),
        "start_to_decision_seconds": spread(row["seconds"]["propose"] + row["seconds"]["agree"] for row in rows),
        "cpu_seconds": statistics.mean(turn.cpu_seconds for turn in turns),
        "parts": {part: spread(row["seconds"][part] for row in rows) for part in (*PARTS, "apply")},
        "agreement": {
            "every_node_tells_every_height": all(len(same) == nodes for same in heights.values()),
            "one_root_at_every_height": all(len({row["model_root"] for row in same}) == 1 for same in heights.values()),
        },
        "heights_with_every_contribution": sum(same[0]["contributions"] == nodes for same in heights.values()),
        "view_max": max(row["view"] for row in rows),
    }


def rival_figures(turns: Sequence[Sequence[Json]]) -> Json:
    answers = [answer for turn in turns for answer in turn]
    return {
        "rounds": len(answers),
        "seconds": spread(answer["seconds"] for answer in answers),
        "seconds_with_matchmaking": spread(answer["seconds_with_matchmaking"] for answer in answers),
        "rounds_in_full_group": sum(answer["full_group"] for answer in answers),
        "rounds_equal": sum(answer["equal"] for answer in answers),
    }


def ratios(ours: Sequence[Turn], theirs: Sequence[Sequence[Json]]) -> list[float]:
    """Our median over theirs, for each pair of turns: neighbours in time saw the same machine."""
    return [
        statistics.median(row["seconds"]["total"] for said in turn.rounds for row in said)
        / statistics.median(answer["seconds"] for answer in answers)
        for turn, answers in zip(ours, theirs, strict=True)
    ]


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[-(-percent * len(ordered) // 100) - 1]
