"""`scripts/simulate`: many seeds on several cores, the mutants, and the gate. Progress and failures on stderr, the summary on stdout.

The gate is what scripts/check runs: fixed seeds, so that it says the same every time. `--seed-base` gives it fresh ones.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import typer

from p2pnode.errors import ExitCode, UserError, render_error
from p2pnode.simulation.adversaries import PLAYED, expand
from p2pnode.simulation.batches import Batch, Cores, Fall, Outcome
from p2pnode.simulation.mutants import MUTANTS, UNNEEDED

GATE = (("lockstep", 4, 100_000), ("lockstep", 5, 5_000), ("lockstep", 6, 5_000), ("lockstep", 7, 5_000))
GATE_LONG = (("lockstep", 4, 300_000), ("lockstep", 5, 20_000), ("lockstep", 6, 20_000), ("lockstep", 7, 20_000))
EXCESS = (("lockstep", 4, 2, 2_000), ("lockstep", 7, 3, 300), ("lockstep", 7, 4, 300))  # nodes, traitors, scenarios
PROGRESS_SECONDS = 5.0


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parse(words)
    try:
        with Cores(arguments.jobs) as cores:
            if arguments.gate or arguments.mutants:
                return _gate(cores, arguments)
            return _sweep(cores, arguments)
    except UserError as error:
        typer.echo(render_error(error), err=True)
        return error.exit_code
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Many simulated runs, one seed each.")
    parser.error = _usage_error  # type: ignore[assignment]
    parser.add_argument("--seeds", type=_positive, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--seed-base", type=int, default=0, metavar="N", help="the first seed (0)")
    parser.add_argument("--nodes", type=_positive, metavar="N", help="drawn from the seed unless given")
    parser.add_argument("--byzantine", type=int, metavar="K", help="f, or none, unless given")
    parser.add_argument("--level", choices=("lockstep", "events", "network"), default="events")
    parser.add_argument("--attack", metavar="NAME[,NAME]|all|pairs", help="drawn from the seed unless given")
    parser.add_argument("--heights", type=_positive, metavar="N", help="drawn from the seed unless given")
    parser.add_argument("--jobs", type=_positive, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--mutants", action="store_true", help="break one rule at a time: each must be noticed")
    parser.add_argument("--gate", action="store_true", help="everything that scripts/check asks for")
    parser.add_argument("--long", action="store_true", help="the gate's larger numbers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        return parser.parse_args(words)
    except UserError as error:
        typer.echo(render_error(error), err=True)
        raise SystemExit(error.exit_code) from None


def _usage_error(message: str) -> None:
    raise UserError(message, "scripts/simulate --help", exit_code=ExitCode.USAGE)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


# --- seeds ---------------------------------------------------------------------------------------------------------------------


def _sweep(cores: Cores, arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    outcome = run_all(cores, batches_of(arguments), label=arguments.level)
    facts = summary(outcome, time.perf_counter() - began)
    if arguments.json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(f"{name:<10} {value}" for name, value in facts.items() if value not in ([], {})))
    return ExitCode.FAILED if outcome.failures else ExitCode.OK


def batches_of(arguments: argparse.Namespace) -> list[Batch]:
    """`all`: each adversary alone; `pairs`: each two of them; as many seeds of each as asked for in all, at least one."""
    fixed = {"nodes": arguments.nodes, "byzantine": arguments.byzantine, "heights": arguments.heights}
    fixed = {name: value for name, value in fixed.items() if value is not None}
    first, count = arguments.seed_base, arguments.seeds
    if arguments.level == "lockstep":
        if arguments.attack is not None:
            hint = "leave --attack out, or use --level events"
            raise UserError("in lock-step the traitors say anything they can sign", hint, exit_code=ExitCode.USAGE)
        return [Batch("lockstep", first, count, arguments.nodes or 4, arguments.byzantine)]
    if arguments.level == "network":
        return [Batch("network", first, count, fixed=fixed)]
    if "nodes" in fixed:
        fixed["founders"] = None
    match arguments.attack:
        case None:
            return [Batch("events", first, count, fixed=fixed)]
        case "all":
            groups: list[tuple[str, ...]] = [(name,) for name in PLAYED]
        case "pairs":
            groups = list(combinations(PLAYED, 2))
        case names:
            groups = [expand(names)]
    each = max(count // len(groups), 1)
    return [Batch("events", first, each, fixed={**fixed, "attacks": attacks}) for attacks in groups]


def run_all(cores: Cores, batches: Iterable[Batch], *, label: str) -> Outcome:
    """Says how far it is, and each failure with the line that replays it, as they come."""
    todo = list(batches)
    total, outcome, said = sum(batch.count for batch in todo), Outcome(), time.perf_counter()
    for part in cores.batches(todo):
        outcome.add(part)
        for what, line in part.failures:
            typer.echo(f"FAILED {what}\n  {line}", err=True)
        if time.perf_counter() - said > PROGRESS_SECONDS:
            said = time.perf_counter()
            typer.echo(f"{label}: {outcome.scenarios} of {total}", err=True)
    return outcome


def summary(outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "verdict": "failed" if outcome.failures else "ok",
        "seeds": outcome.scenarios,
        "seconds": round(seconds, 1),
        "per_second": round(outcome.scenarios / max(seconds, 1e-9), 1),
        "heights": outcome.decisions,
        "views": {str(view): count for view, count in sorted(outcome.views.items())},
        "evidence": dict(sorted(outcome.evidence.items())),
        "forks": outcome.forks,
        "messages": outcome.messages,
        "failures": [line for _, line in outcome.failures],
    }


# --- the gate ------------------------------------------------------------------------------------------------------------------


def _gate(cores: Cores, arguments: argparse.Namespace) -> int:
    facts: dict[str, Any] = {"verdict": "ok", "levels": [], "mutants": []}
    if arguments.gate:
        for label, batches in gate_of(long=arguments.long, first=arguments.seed_base):
            began = time.perf_counter()
            outcome = run_all(cores, batches, label=label)
            level = {"level": label, **summary(outcome, time.perf_counter() - began)}
            facts["levels"].append(level)
            if not arguments.json:
                typer.echo(_line(level))
            if outcome.failures:
                facts["verdict"] = "failed"
    for fall in cores.mutants(MUTANTS):
        facts["mutants"].append({name: getattr(fall, name) for name in Fall.__slots__})
        if not arguments.json:
            typer.echo(_row(fall))
        if fall.scenario is None:
            facts["verdict"] = "failed"
    if arguments.json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo("".join(f"no scenario needs {rules}: {why}\n" for rules, why in UNNEEDED.items()), nl=False)
    return ExitCode.OK if facts["verdict"] == "ok" else ExitCode.FAILED


def gate_of(*, long: bool, first: int) -> list[tuple[str, list[Batch]]]:
    """(label, batches) of every line that the gate prints."""
    plan = [
        (f"lock-step, {nodes} nodes", [Batch(level, first, count, nodes)])
        for level, nodes, count in (GATE_LONG if long else GATE)
    ]
    excess = [Batch(level, first, count, nodes, byzantine) for level, nodes, byzantine, count in EXCESS]
    plan.append(("lock-step, more than f traitors", excess))
    plan.append(("events", [Batch("events", first, 1_000 if long else 100)]))
    alone = [Batch("events", first, 1, fixed={"attacks": (name,)}) for name in PLAYED]
    twins = [Batch("events", first, 1, fixed={"attacks": ("twin", name)}) for name in PLAYED if name != "twin"]
    plan.append(("events, each adversary alone and as twins", [*alone, *twins]))
    if long:
        pairs = [Batch("events", first, 1, fixed={"attacks": pair}) for pair in combinations(PLAYED, 2)]
        plan.append(("events, pairs of adversaries", pairs))
    plan.append(("whole nodes", [Batch("network", first, 100 if long else 20)]))
    return plan


def _line(level: dict[str, Any]) -> str:
    views = ", ".join(f"{view}: {count}" for view, count in level["views"].items())
    counts = f"{level['seeds']} seeds, {level['seconds']} s, {level['per_second']}/s"
    return f"{level['level']:<42} {level['verdict']:<7} {counts}; {level['heights']} heights (by view {views or '-'})"


def _row(fall: Fall) -> str:
    fell = "SURVIVED" if fall.scenario is None else f"scenario {fall.scenario}"
    return f"{fall.name:<48} {fall.rule:<7} {fall.level:<15} {fell:<14} {fall.seconds:5.1f} s  {fall.what[:80]}"
