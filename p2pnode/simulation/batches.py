"""Many scenarios on several cores: what `scripts/simulate` and the gate run. One work item is a level and a range of seeds.

Workers are spawned, so that nothing is inherited, ignore Ctrl-C and end with their pool; the parent alone answers to it.
"""

import gc
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from p2pnode.simulation import lockstep, mutants, world
from p2pnode.simulation.options import drawn
from p2pnode.simulation.witness import Violation

CHUNK = {"lockstep": 500, "events": 10, "network": 1}


@dataclass(frozen=True, slots=True)
class Batch:
    """Seeds `first` to `first + count - 1` of one level. `fixed`: options that the seed does not draw."""

    level: str
    first: int
    count: int
    nodes: int = 4
    byzantine: int | None = None
    fixed: dict[str, Any] = field(default_factory=dict)

    def chunks(self) -> Iterator["Batch"]:
        size = CHUNK[self.level]
        for at in range(self.first, self.first + self.count, size):
            count = min(size, self.first + self.count - at)
            yield Batch(self.level, at, count, self.nodes, self.byzantine, self.fixed)


@dataclass(slots=True)
class Outcome:
    """What came of some batches. `failures`: (what, the command line that replays it)."""

    scenarios: int = 0
    decisions: int = 0
    messages: int = 0
    forks: int = 0
    views: Counter[int] = field(default_factory=Counter)
    evidence: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.scenarios += other.scenarios
        self.decisions += other.decisions
        self.messages += other.messages
        self.forks += other.forks
        self.views += other.views
        self.evidence += other.evidence
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Fall:
    """Where a mutant fell: the scenario's number, or None if it survived its budget."""

    name: str
    rule: str
    level: str
    scenario: int | None
    seconds: float
    what: str


def run_batch(batch: Batch) -> Outcome:
    outcome = Outcome()
    for seed in range(batch.first, batch.first + batch.count):
        outcome.scenarios += 1
        try:
            witness = _run_one(batch, seed, outcome)
        except AssertionError as violation:
            outcome.failures.append((str(violation), replay(batch, seed)))
            continue
        if witness is None:
            continue
        outcome.decisions += len(witness.decided_in_view)
        outcome.views.update(witness.decided_in_view)
        outcome.evidence.update(str(proof.kind) for proof in witness.evidence)
        outcome.forks += len(witness.forks)
    return outcome


def _run_one(batch: Batch, seed: int, outcome: Outcome) -> Any:
    if batch.level == "lockstep":
        scenario = lockstep.run(seed, nodes=batch.nodes, byzantine=batch.byzantine)
        outcome.messages += scenario.messages
        return scenario.witness
    if batch.level == "network":
        from p2pnode.simulation import whole  # trio and whole nodes

        outcome.decisions += whole.run(whole.drawn(seed, **batch.fixed)).height
        return None
    done = world.run(drawn(seed, **batch.fixed))
    outcome.messages += done.counts["messages"]
    return done.witness


def replay(batch: Batch, seed: int) -> str:
    """The command line that runs this one again."""
    if batch.level == "lockstep":
        words = ["--level lockstep", f"--nodes {batch.nodes}"]
        words += [f"--byzantine {batch.byzantine}"] if batch.byzantine is not None else []
    else:
        level = "--drawn" if batch.level == "events" else "--level network"
        names = {"nodes": "--nodes", "byzantine": "--byzantine", "heights": "--heights"}
        words = [level] + [f"{flag} {batch.fixed[key]}" for key, flag in names.items() if key in batch.fixed]
        attacks = batch.fixed.get("attacks")
        words += [f"--attack {','.join(attacks) or 'none'}"] if attacks is not None else []
    return " ".join(["p2pnode simulate", *words, f"--seed {seed}"])


def run_mutant(name: str) -> Fall:
    mutant = mutants.MUTANTS[name]
    began = time.perf_counter()
    with mutants.applied(mutant):
        for seed in range(mutant.budget):
            try:
                match mutant.level:
                    case mutants.LOCKSTEP:
                        lockstep.run(seed)
                    case mutants.EXCESS:
                        lockstep.run(seed, byzantine=2)
                    case _:
                        world.run(drawn(seed, **mutant.fixed))
            except Violation as violation:
                what = str(violation).split(" in lock-step")[0].split(" [seed=")[0]
                return Fall(name, mutant.rule, mutant.level, seed, time.perf_counter() - began, what)
    return Fall(name, mutant.rule, mutant.level, None, time.perf_counter() - began, "")


class Cores:
    """A pool of spawned workers; `with Cores(2) as cores`. One job runs in this very process."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: Any = None

    def __enter__(self) -> "Cores":
        if self._jobs > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = context.Pool(self._jobs, initializer=_begin)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._pool is not None:
            if kind is None:
                self._pool.close()
            else:
                self._pool.terminate()
            self._pool.join()

    def batches(self, batches: Iterable[Batch]) -> Iterator[Outcome]:
        """In the order in which they end."""
        chunks = [chunk for batch in batches for chunk in batch.chunks()]
        yield from map(run_batch, chunks) if self._pool is None else self._pool.imap_unordered(run_batch, chunks)

    def mutants(self, names: Iterable[str]) -> Iterator[Fall]:
        """In the order of the names."""
        yield from map(run_mutant, names) if self._pool is None else self._pool.imap(run_mutant, names)


def _begin() -> None:
    """Of a worker. A scenario makes many objects and few cycles: looking for those as often as usual takes a twentieth of its time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(5_000)  # with more the garbage outgrows the cache
