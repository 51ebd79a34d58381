"""`p2pnode simulate`: one run, judged. What the flags mean at each level, and what came of it, for a person and as JSON.

Many runs are scripts/simulate (sweep.py). Levels: `lockstep` (lockstep.py), `events` (world.py), `network` (whole.py) and `processes`,
which is localnet.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2pnode.errors import ExitCode, UserError
from p2pnode.simulation import lockstep, world
from p2pnode.simulation.adversaries import expand, listing
from p2pnode.simulation.options import Kill, Options, Partition, drawn, parse_kill, parse_partition
from p2pnode.simulation.witness import Violation, Witness

LEVELS = ("lockstep", "events", "network", "processes")
NODES_MAX = 100
HEALED_AT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator typed; None where nothing was."""

    nodes: int | None = None
    byzantine: int | None = None
    attack: str | None = None
    partition: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    heights: int | None = None
    seed: int = 0
    level: str = "events"
    drawn: bool = False
    as_json: bool = False
    trace: Path | None = None
    verbose: bool = False


def run_simulation(request: Request) -> tuple[int, list[str]]:
    """The exit code and the lines to print."""
    if request.attack == "help":
        return ExitCode.OK, listing().splitlines()
    _check(request)
    match request.level:
        case "lockstep":
            facts, lines = _lockstep(request)
        case "events":
            facts, lines = _events(request)
        case "network":
            facts, lines = _network(request)
        case _:
            return _processes(request), []
    if request.trace is not None:
        request.trace.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    shown = lines if request.verbose else []
    code = ExitCode.OK if facts["verdict"] == "ok" else ExitCode.FAILED
    return code, [*shown, *([json.dumps(facts)] if request.as_json else _text(facts))]


def _check(request: Request) -> None:
    nodes = request.nodes if request.nodes is not None else 4
    if request.level not in LEVELS:
        raise _usage(f"no level is called {request.level!r}", f"one of {', '.join(LEVELS)}")
    if not 1 <= nodes <= NODES_MAX:
        raise _usage(f"--nodes {nodes} is not between 1 and {NODES_MAX}", "four tolerate one fault, seven two")
    if request.byzantine is not None and not 0 <= request.byzantine < nodes:
        raise _usage(f"--byzantine {request.byzantine} of {nodes} nodes", "somebody honest must be there to watch")
    if request.heights is not None and request.heights < 1:
        raise _usage(f"--heights {request.heights}", "at least one")
    if request.level == "lockstep" and (request.partition or request.kill):
        raise _usage(
            "in lock-step the seed decides about every link, and nobody dies",
            "leave --partition and --kill out, or use --level events",
        )
    if request.level == "lockstep" and request.attack is not None:
        raise _usage(
            "in lock-step the traitors say anything they can sign", "leave --attack out, or use --level events"
        )


def _usage(message: str, hint: str) -> UserError:
    return UserError(message, hint, exit_code=ExitCode.USAGE)


# --- lock-step -----------------------------------------------------------------------------------------------------------------


def _lockstep(request: Request) -> tuple[dict[str, Any], list[str]]:
    nodes = request.nodes or 4
    facts: dict[str, Any] = {"level": "lockstep", "seed": request.seed, "nodes": nodes}
    scenario = lockstep.LockStep(request.seed, nodes=nodes, byzantine=request.byzantine)
    problem = None
    try:
        scenario.run()
    except Violation as violation:
        problem = str(violation)
    facts |= {"byzantine": len(scenario.traitors), "messages": scenario.messages}
    return facts | _findings(scenario.witness, problem), []


# --- events --------------------------------------------------------------------------------------------------------------------


def options_of(request: Request) -> Options:
    """With `drawn`, what was not asked for is drawn from the seed; else it is as usual, with a little loss."""
    partitions = tuple(parse_partition(text) for text in request.partition)
    asked: dict[str, Any] = {"nodes": request.nodes, "byzantine": request.byzantine, "heights": request.heights}
    asked["attacks"] = None if request.attack is None else expand(request.attack)
    given = {name: value for name, value in asked.items() if value is not None}
    if request.drawn:
        if "nodes" in given:
            given["founders"] = None
        options = drawn(request.seed, **given)
    else:
        options = Options(seed=request.seed, **{"loss": 0.02, "heights": 10, **given})
        roles = drawn(request.seed, attacks=options.attacks)
        options = replace(options, disk=roles.disk if "disk" in options.attacks else 0.0)
        options = replace(options, links=roles.links if "links" in options.attacks else ())
    healed_at = max([options.healed_at, *(p.at + p.seconds for p in partitions)])
    rng = random.Random(f"kills {request.seed}")
    kills = tuple(kill for text in request.kill for kill in parse_kill(text, rng=rng, healed_at=healed_at))
    healed_at = max([healed_at, *(kill.at + 1 for kill in kills)])
    _check_named(partitions, kills, nodes=options.nodes)
    seconds = options.progress_seconds + 20.0 * options.heights
    return replace(options, partitions=partitions, kills=kills, healed_at=healed_at, progress_seconds=seconds)


def _check_named(partitions: Iterable[Partition], kills: Iterable[Kill], *, nodes: int) -> None:
    named = [node for p in partitions for group in p.groups for node in group]
    named += [kill.node for kill in kills if kill.node is not None]
    if named and max(named) >= nodes:
        raise _usage(f"there is no node {max(named)}", f"{nodes} nodes are 0 to {nodes - 1}")


def _events(request: Request) -> tuple[dict[str, Any], list[str]]:
    options = options_of(request)
    done = world.World(options, keep_trace=request.verbose or request.trace is not None)
    problem = None
    try:
        done.run()
    except Violation as violation:
        problem = str(violation)
    except Exception as fault:  # a bug of the engine's or of ours: the seed is what matters
        problem = f"{type(fault).__name__}: {fault}"
    facts: dict[str, Any] = {"level": "events", "seed": options.seed, "nodes": options.nodes}
    facts |= {"byzantine": options.traitors, "attacks": list(options.attacks), "messages": done.counts["messages"]}
    facts |= _findings(done.witness, problem)
    facts |= {"virtual_seconds": round(done.now, 3), "trace_hash": done.trace_hash}
    return facts, done.trace.lines


# --- the others ----------------------------------------------------------------------------------------------------------------


def _network(request: Request) -> tuple[dict[str, Any], list[str]]:
    from p2pnode.simulation import whole  # trio and all

    asked = {"nodes": request.nodes, "byzantine": request.byzantine, "heights": request.heights}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if request.attack is not None:
        if request.attack not in ("none", *whole.ATTACKS):
            raise _usage(f"level network plays {', '.join(whole.ATTACKS)}", "or use --level events, which plays all")
        given["attack"] = request.attack
        nodes = request.nodes or 4
        given.setdefault("nodes", nodes)
        given.setdefault("byzantine", 0 if request.attack == "none" else (nodes - 1) // 3)
    rng = random.Random(f"kills {request.seed}")
    partitions = tuple(parse_partition(text) for text in request.partition)
    kills = tuple(k for text in request.kill for k in parse_kill(text, rng=rng, healed_at=HEALED_AT_SECONDS))
    options = whole.drawn(request.seed, **given, partitions=partitions, kills=kills)
    _check_named(partitions, kills, nodes=options.nodes)
    if options.byzantine == 0 or options.attack == "none":
        options = replace(options, byzantine=0, attack="none")
    facts: dict[str, Any] = {"verdict": "ok", "level": "network", "seed": request.seed, "nodes": options.nodes}
    facts |= {"byzantine": options.byzantine, "attacks": [options.attack], "problem": None}
    try:
        result = whole.run(options)
    except AssertionError as problem:
        return facts | {"verdict": "failed", "problem": str(problem)}, []
    facts |= {"heights": result.height, "virtual_seconds": result.virtual_seconds, "trace_hash": result.trace_hash}
    return facts, list(result.lines)


def _processes(request: Request) -> int:
    from p2pnode.localnet import LocalnetOptions, run_localnet

    if request.partition or request.trace or any("@" in text for text in request.kill):
        raise _usage("real processes take no --partition, --trace or --kill NODE@AT", "p2pnode localnet --help")
    return run_localnet(
        LocalnetOptions(
            nodes=request.nodes or 4,
            rounds=request.heights or 10,
            seed=request.seed,
            json=request.as_json,
            kill=sum(int(text) for text in request.kill if text.isdecimal()),
            byzantine=request.byzantine or int(request.attack is not None),
            attack=request.attack,
        )
    )


# --- what came of it -----------------------------------------------------------------------------------------------------------


def _findings(witness: Witness, problem: str | None) -> dict[str, Any]:
    return {
        "verdict": "ok" if problem is None else "failed",
        "problem": problem,
        "heights": len(witness.decided_in_view),
        "views": counted(witness.decided_in_view),
        "evidence": counted(str(proof.kind) for proof in witness.evidence),
        "accused": sorted(author.hex()[:8] for author in witness.reported),
        "forks": len(witness.forks),
        "culprits": sorted(author.hex()[:8] for author in witness.auditor.guilty()) if witness.forks else [],
    }


def counted(things: Iterable[object]) -> dict[str, int]:
    return {str(thing): count for thing, count in sorted(Counter(things).items(), key=lambda item: str(item[0]))}


def _text(facts: dict[str, Any]) -> list[str]:
    shown = {name: value for name, value in facts.items() if value not in (None, [], {}) and name != "verdict"}
    width = max(len(name) for name in shown)
    lines = [f"{name.replace('_', ' '):<{width}}  {_value(value)}" for name, value in shown.items()]
    return [*lines, f"{'verdict':<{width}}  {facts['verdict']}"]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
