"""Asks z3 one question and says how long it took. The bound is on steps, not on seconds: a busy machine gets the same answer.

Not here: what is asked.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import z3

STEPS_MAX = 400_000_000
"""z3's own unit. The hardest obligation takes a tenth of it."""


@dataclass(frozen=True)
class Answer:
    """`model` is a counterexample if `verdict` is sat."""

    question: str
    verdict: z3.CheckSatResult
    seconds: float
    model: z3.ModelRef | None = None

    @property
    def proved(self) -> bool:
        return bool(self.verdict == z3.unsat)

    @property
    def found(self) -> bool:
        return bool(self.verdict == z3.sat)


def satisfiable(question: str, formulas: Iterable[z3.BoolRef]) -> Answer:
    solver = z3.Solver()
    solver.set("rlimit", STEPS_MAX)
    solver.add(*formulas)
    started = time.perf_counter()
    verdict = solver.check()
    seconds = time.perf_counter() - started
    return Answer(question, verdict, seconds, solver.model() if verdict == z3.sat else None)


def follows(question: str, assumed: Iterable[z3.BoolRef], goal: z3.BoolRef) -> Answer:
    """Proved when no state satisfies what is assumed and not the goal."""
    return satisfiable(question, [*assumed, z3.Not(goal)])
