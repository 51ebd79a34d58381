"""The proof that honest nodes agree: run it and read. `python -m tests.proof.agreement` prints every obligation and its seconds.

Induction over the actions of model.py: the invariants hold at the start, and each action keeps each of them. Nodes, views, blocks and
quorums are without bound. docs/proof.md says in plain words what that means; invariants.py holds what is proved.

Not here: that the engine does what the actions say (test_refinement.py), that anything ever happens (the simulator), heights
(heights.py), and who is to blame when more than a third are Byzantine (accountability.py).
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from z3 import And, BoolRef, Exists, ForAll, Implies, simplify

from tests.proof import accountability, arithmetic, heights
from tests.proof.invariants import (
    ALONE,
    CONSEQUENCES,
    TOGETHER,
    WITNESSED,
    Invariant,
    agreement,
    assumed_for,
    never_amnesia,
)
from tests.proof.model import (
    ACTIONS,
    FIRST,
    NIL,
    NO_VIEW,
    QUORUMS_SHARE_AN_HONEST_NODE,
    VIEWS_ARE_ORDERED,
    Action,
    any_state,
    at_most,
    before,
    honest,
    initial_state,
    n,
    n1,
    u,
    w,
    w1,
    x,
)
from tests.proof.prover import Answer, follows, satisfiable
from tests.proof.scope import Scope

INVARIANTS: tuple[Invariant, ...] = (*ALONE, *WITNESSED, *TOGETHER)


def axioms(goal: Invariant) -> list[BoolRef]:
    """Of one node alone nothing is said about quorums, so it holds however many are Byzantine."""
    alone = goal in ALONE or goal in WITNESSED or goal is never_amnesia
    return [*VIEWS_ARE_ORDERED, *([] if alone else [QUORUMS_SHARE_AN_HONEST_NODE])]


def at_the_start() -> Iterator[Answer]:
    for goal in INVARIANTS:
        yield follows(f"start: {goal.__name__}", axioms(goal), simplify(goal(initial_state())))


def kept_by(
    name: str, action: Action, goals: tuple[Invariant, ...] = INVARIANTS, dropped: tuple[Invariant, ...] = ()
) -> Iterator[Answer]:
    """`dropped` may not be used either: for rules that some invariants do without (mutants.py)."""
    state = any_state()
    transition = action(state)
    for goal in goals:
        if goal not in dropped:
            assumed = [known(state) for known in assumed_for(goal, name) if known not in dropped]
            given = [*axioms(goal), *assumed, *transition.guard.values()]
            yield follows(f"{name}: {goal.__name__}", given, goal(transition.after))


def consequences(dropped: tuple[Invariant, ...] = ()) -> Iterator[Answer]:
    state = any_state()
    for goal, known in CONSEQUENCES.items():
        if not {goal, *known} & set(dropped):
            yield follows(f"follows: {goal.__name__}", [*axioms(goal), *(k(state) for k in known)], goal(state))


def locks_only_rise(actions: Mapping[str, Action] = ACTIONS) -> Iterator[Answer]:
    """Between two states: no action lowers an honest node's lock, a restart neither."""
    state = any_state()
    known = [goal(state) for goal in assumed_for(ALONE[0], "")] + [WITNESSED[0](state)]
    for name, action in actions.items():
        transition = action(state)
        kept = ForAll([n, w], Implies(And(honest(n), state.locked(n, w)), transition.after.locked(n, w)))
        yield follows(f"{name}: the lock only rises", [*VIEWS_ARE_ORDERED, *known, *transition.guard.values()], kept)


def not_in_vain() -> Iterator[Answer]:
    """The invariants contradict neither themselves nor what is worth having. Looked for in a small world, so that z3 must find it."""
    scope, state = Scope(), any_state()
    known = [*scope.facts(), *(scope.ground(goal(state)) for goal in (*INVARIANTS, agreement))]
    decided = Exists([n, x], And(honest(n), state.decided(n, FIRST, x)))
    locked = Exists([n, w], And(honest(n), state.locked(n, w), before(FIRST, w)))
    again = Exists([n1, w1, x, u], And(honest(n1), state.prepared(n1, w1, x, u), x != NIL, at_most(FIRST, u)))
    split = Exists(
        [n, n1, x], And(honest(n), honest(n1), state.prepared(n, FIRST, NIL, NO_VIEW), state.decided(n1, FIRST, x))
    )
    for question, wanted in {
        "a decision": [decided],
        "a decision in view 0, a later lock, and a block proposed again": [decided, locked, again],
        "a decision that an honest node voted against": [split],
    }.items():
        yield satisfiable(f"possible: {question}", [*known, *(scope.ground(formula) for formula in wanted)])


PARTS: dict[str, Callable[[], Iterator[Answer]]] = {
    "At the start of a height every invariant holds": at_the_start,
    "Every action keeps every invariant": lambda: (a for name, act in ACTIONS.items() for a in kept_by(name, act)),
    "From the invariants follows": consequences,
    "Locks": locks_only_rise,
    "With more than a third Byzantine, a fork names its culprits": accountability.answers,
    "From height to height": heights.answers,
    "Thresholds, for committees of every size": arithmetic.answers,
}


def fine(answer: Answer) -> bool:
    """What is called possible must be found, and everything else proved."""
    return answer.found if answer.question.startswith("possible:") else answer.proved


def report() -> Iterator[str]:
    """Lines to read; the last one is the verdict."""
    failed, count, seconds = [], 0, 0.0
    for title, part in {**PARTS, "What the invariants leave room for": not_in_vain}.items():
        yield f"\n{title}"
        for answer in part():
            said = "found" if answer.found else "proved" if answer.proved else str(answer.verdict)
            yield f"  {said:8s} {answer.seconds:7.2f} s  {answer.question}"
            count, seconds = count + 1, seconds + answer.seconds
            failed += [] if fine(answer) else [answer.question]
    verdict = f"NOT PROVED: {', '.join(failed)}" if failed else "all of them hold"
    yield f"\n{count} obligations, {seconds:.1f} s in the solver: {verdict}"


if __name__ == "__main__":
    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
