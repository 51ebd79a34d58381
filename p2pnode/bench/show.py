"""Figures as text. The JSON holds the same."""

from typing import Any

Json = dict[str, Any]


def round_text(result: Json) -> str:
    """A table of what a round is made of, and the comparison where there is one."""
    lines = [
        f"{result['nodes']} nodes, {result['values']:,} float32 values each, {result['heights']} rounds",
        f"  {_agreement(result)}; highest view {result['view_max']}",
        f"  {'seconds':<24}{'p50':>9}{'p90':>9}{'p99':>9}",
        *(_row(part.replace("_", " "), spread) for part, spread in result["parts"].items()),
        _row("round", result["seconds"]),
        _row("of it agreement", result["agree_seconds"]),
        _row("StartHeight to decision", result["start_to_decision_seconds"]),
    ]
    lines.append(f"  processor time of a round, all nodes together: {result['cpu_seconds']:.3f} s")
    if "hivemind" in result:
        rival = result["hivemind"]
        lines += [
            _row(f"hivemind {rival['version']}", rival["seconds"]),
            _row("with its matchmaking", rival["seconds_with_matchmaking"]),
            f"  its replicas were equal after {rival['rounds_equal']} of {rival['rounds']} rounds",
            f"  ratio of the medians, turn by turn: {', '.join(f'{ratio:.2f}' for ratio in result['ratios'])};"
            f" median {result['ratio']:.2f}",
        ]
    return "\n".join(lines)


def lag_text(result: Json) -> str:
    p99, worst = (
        ", ".join(f"{lag * 1e3:.1f}" for lag in result[f"loop_lag_seconds_{which}"]) for which in ("p99", "max")
    )
    return f"training on {result['nodes']} nodes: their event loops run late by {p99} ms (p99), {worst} ms (max)"


def _agreement(result: Json) -> str:
    wrong = [name.replace("_", " ") for name, holds in result["agreement"].items() if not holds]
    if wrong:
        return f"NOT TRUE: {', '.join(wrong)}"
    return f"one root at every height; all {result['nodes']} contributions in {result['heights_with_every_contribution']} of them"


def _row(name: str, spread: Json) -> str:
    return f"  {name:<24}{spread['p50']:>9.3f}{spread['p90']:>9.3f}{spread['p99']:>9.3f}"
