"""Rules broken on purpose, one at a time: the proof has to fail, or it would prove nothing about them.

`python -m tests.proof.mutants` prints a table: which invariants a mutant breaks (with a counterexample in a small world, scope.py),
and, of the two that need not be feared, that agreement is still proved.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from z3 import And

from tests.proof import model
from tests.proof.agreement import INVARIANTS, consequences, kept_by
from tests.proof.invariants import (
    Invariant,
    agreement,
    never_double_commit,
    valid_view_is_earlier,
)
from tests.proof.model import ACTIONS, ME, Action, State, Transition, any_state
from tests.proof.prover import Answer, satisfiable
from tests.proof.scope import Scope


@dataclass(frozen=True)
class Mutant:
    """`action` is the broken form of `rule`; `harmless` names what it breaks besides, if agreement holds without that."""

    name: str
    rule: str
    action: Action
    harmless: tuple[Invariant, ...] = ()


def without(rule: str, condition: str) -> Action:
    """The same action, one condition of its guard left out."""

    def broken(s: State) -> Transition:
        transition = ACTIONS[rule](s)
        assert condition in transition.guard
        return replace(transition, guard={name: c for name, c in transition.guard.items() if name != condition})

    return broken


def _nothing_of_mine(relation: model.Relation) -> model.Relation:
    return lambda node, *rest: And(node != ME, relation(node, *rest))


def no_lock_at_commit(s: State) -> Transition:
    transition = ACTIONS["l1_lock_and_commit"](s)
    return replace(transition, after=replace(transition.after, locked=s.locked))


def unlock_on_nil(s: State) -> Transition:
    transition = ACTIONS["l2_commit_nil"](s)
    return replace(transition, after=replace(transition.after, locked=_nothing_of_mine(s.locked)))


def lock_lost_at_restart(s: State) -> Transition:
    transition = ACTIONS["x2_restart"](s)
    return replace(transition, after=replace(transition.after, locked=_nothing_of_mine(s.locked)))


def votes_forgotten_at_restart(s: State) -> Transition:
    """The lock is remembered, but not what was signed: back to view 0, as if nothing had been said there."""
    forgotten = {
        name: _nothing_of_mine(getattr(s, name))
        for name in ("has_proposed", "has_prepared", "has_committed", "signed_after")
    }
    guard = {"the first view": model.VIEW == model.FIRST, "honest": model.honest(ME)}
    after = ACTIONS["x2_restart"](s).after
    return Transition(guard, replace(after, **forgotten))


def commit_after_commit(s: State) -> Transition:
    transition = ACTIONS["l1_lock_and_commit"](s)
    return replace(transition, guard={**transition.guard, "step prepare": s.has_prepared(ME, model.VIEW)})


MUTANTS: tuple[Mutant, ...] = (
    Mutant("ignore the lock for fresh blocks", "V2", without("v2_prepare_fresh", "lock allows")),
    Mutant("ignore the lock's view", "V2", without("v3_prepare_reproposed", "lock allows")),
    Mutant("a re-proposal without certificate", "V3", without("v3_prepare_reproposed", "certificate")),
    Mutant("PREPARE twice in a view", "V1", without("v2_prepare_fresh", "step propose")),
    Mutant("PREPARE what was not checked", "V1", without("v2_prepare_fresh", "checked")),
    Mutant("COMMIT without a quorum", "L1", without("l1_lock_and_commit", "certificate")),
    Mutant("COMMIT in a view that was left", "L1", without("l1_lock_and_commit", "in this view")),
    Mutant("no lock at COMMIT", "L1", no_lock_at_commit),
    Mutant("unlock on NIL", "L2", unlock_on_nil),
    Mutant("decide without a quorum", "C2", without("c2_decide", "certificate")),
    Mutant("lock lost at restart", "X3", lock_lost_at_restart),
    Mutant("votes forgotten at restart", "X1", votes_forgotten_at_restart),
    Mutant(
        "valid_view not before the view",
        "V3",
        without("v3_prepare_reproposed", "valid view is earlier"),
        harmless=(valid_view_is_earlier,),
    ),
    Mutant("COMMIT after COMMIT(NIL)", "L1", commit_after_commit, harmless=(never_double_commit,)),
)
SMALL_QUORUM = "quorums that do not intersect"


def suspects(mutant: Mutant) -> list[Invariant]:
    """What z3 does not prove any more, in worlds of any size: to be looked for in the small one."""
    answers = zip(INVARIANTS, kept_by(mutant.name, mutant.action), strict=True)
    return [goal for goal, answer in answers if not answer.proved]


def broken(mutant: Mutant, scope: Scope, known: dict[Invariant, object]) -> Iterator[Answer]:
    """One answer per suspect. A counterexample is a step from a state where all invariants hold to one where this one does not."""
    state = any_state()
    transition = mutant.action(state)
    guard = [scope.ground(condition) for condition in transition.guard.values()]
    for goal in suspects(mutant):
        wrong = scope.ground(model.Not(goal(transition.after)))
        yield satisfiable(goal.__name__, [*scope.facts(), *known.values(), *guard, wrong])


def known_in(scope: Scope) -> dict[Invariant, object]:
    return {goal: scope.ground(goal(any_state())) for goal in (*INVARIANTS, agreement)}


def still_proved(mutant: Mutant) -> list[Answer]:
    """Everything but what it breaks harmlessly, and agreement with it, in worlds of any size."""
    dropped = mutant.harmless
    actions = {**ACTIONS, mutant.name: mutant.action}
    kept = [a for name, action in actions.items() for a in kept_by(name, action, dropped=dropped)]
    return [*kept, *consequences(dropped)]


def forked_by_small_quorums() -> Answer:
    """With 2 of 4, every rule kept: two decisions."""
    scope, state = Scope(quorum=2), any_state()
    known = [scope.ground(goal(state)) for goal in INVARIANTS]
    return satisfiable("agreement", [*scope.facts(), *known, scope.ground(model.Not(agreement(state)))])
