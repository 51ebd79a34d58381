"""Rules broken on purpose, one at a time: the proof has to fail, or it would prove nothing about them.

`python -m tests.proof.mutants` prints a table: which invariants a mutant breaks (with a counterexample in a small world, scope.py), in how
many steps it leads to two decisions (forks.py), and, of those that cost no more than accountability, that agreement is still proved.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from z3 import And, Exists, ForAll, Implies, Not, Or

from tests.proof import forks, model
from tests.proof.agreement import INVARIANTS, consequences, kept_by
from tests.proof.invariants import (
    Invariant,
    agreement,
    justified_no_earlier_than_it_committed,
    never_double_commit,
    valid_view_is_earlier,
)
from tests.proof.model import ACTIONS, ME, Action, State, Transition, any_state, at_most, u, w
from tests.proof.prover import satisfiable
from tests.proof.scope import Scope


@dataclass(frozen=True)
class Mutant:
    """`action` stands for the one called `replaces`, which carries out `rule`."""

    name: str
    rule: str
    replaces: str
    action: Action


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


def lock_of_the_paper(s: State) -> Transition:
    """Also allowed: the very block that the lock is on, whatever justifies it."""
    transition = ACTIONS["v3_prepare_reproposed"](s)
    none_later = ForAll(u, Implies(s.locked(ME, u), at_most(u, w)))
    same = Exists(w, And(s.committed(ME, w, model.BLOCK), none_later))
    return replace(transition, guard={**transition.guard, "lock allows": Or(transition.guard["lock allows"], same)})


def commit_after_commit(s: State) -> Transition:
    transition = ACTIONS["l1_lock_and_commit"](s)
    return replace(transition, guard={**transition.guard, "step prepare": s.has_prepared(ME, model.VIEW)})


def _dropping(name: str, rule: str, replaces: str, condition: str) -> Mutant:
    return Mutant(name, rule, replaces, without(replaces, condition))


MUTANTS: tuple[Mutant, ...] = (
    _dropping("ignore the lock for fresh blocks", "V2", "v2_prepare_fresh", "lock allows"),
    _dropping("ignore the lock's view", "V2", "v3_prepare_reproposed", "lock allows"),
    _dropping("a re-proposal without certificate", "V3", "v3_prepare_reproposed", "certificate"),
    _dropping("PREPARE twice in a view", "V1", "v2_prepare_fresh", "step propose"),
    _dropping("PREPARE what was not checked", "V1", "v2_prepare_fresh", "checked"),
    _dropping("COMMIT without a quorum", "L1", "l1_lock_and_commit", "certificate"),
    _dropping("COMMIT in a view that was left", "L1", "l1_lock_and_commit", "in this view"),
    Mutant("no lock at COMMIT", "L1", "l1_lock_and_commit", no_lock_at_commit),
    Mutant("unlock on NIL", "L2", "l2_commit_nil", unlock_on_nil),
    _dropping("decide without a quorum", "C2", "c2_decide", "certificate"),
    Mutant("lock lost at restart", "X3", "x2_restart", lock_lost_at_restart),
    Mutant("votes forgotten at restart", "X1", "x2_restart", votes_forgotten_at_restart),
    _dropping("valid_view not before the view", "V3", "v3_prepare_reproposed", "valid view is earlier"),
    Mutant("the lock of the paper", "V2", "v3_prepare_reproposed", lock_of_the_paper),
    Mutant("COMMIT after COMMIT(NIL)", "L1", "l1_lock_and_commit", commit_after_commit),
)
HARMLESS = {"the lock of the paper", "valid_view not before the view", "COMMIT after COMMIT(NIL)"}
"""Needed for accountability, not for agreement."""
UNCHECKED = "PREPARE what was not checked"
"""Lets a block through that nobody checked; the two who decide it agree."""

FRAMING_ONLY = (never_double_commit, valid_view_is_earlier, justified_no_earlier_than_it_committed)


@dataclass(frozen=True)
class Verdict:
    """`broken`: invariants with a counterexample. `agrees`: agreement is proved without them."""

    mutant: Mutant
    broken: tuple[str, ...]
    agrees: bool
    seconds: float


class SmallWorld:
    """The invariants written out once, for all mutants."""

    def __init__(self, quorum: int = 3) -> None:
        self._scope = Scope(quorum)
        state = any_state()
        self._known = [*self._scope.facts(), *(self._scope.ground(goal(state)) for goal in INVARIANTS)]

    def steps_out(self, mutant: Mutant, goal: Invariant) -> bool:
        """A step of the mutant from a state in which every invariant holds to one in which this one does not."""
        transition = mutant.action(any_state())
        guard = [self._scope.ground(condition) for condition in transition.guard.values()]
        wrong = self._scope.ground(Not(goal(transition.after)))
        return satisfiable(goal.__name__, [*self._known, *guard, wrong]).found

    def forks(self) -> bool:
        """Every invariant holds, and two honest nodes decided differently."""
        return satisfiable("a fork", [*self._known, self._scope.ground(Not(agreement(any_state())))]).found


def suspects(mutant: Mutant) -> list[Invariant]:
    """What z3 does not prove any more, in worlds of any size: to be looked for in the small one."""
    answers = zip(INVARIANTS, kept_by(mutant.name, mutant.action), strict=True)
    return [goal for goal, answer in answers if not answer.proved]


def agreement_without(mutant: Mutant, dropped: tuple[Invariant, ...]) -> bool:
    """In worlds of any size, and with every rule as it is but this one."""
    actions = {name: action for name, action in ACTIONS.items() if name != mutant.replaces}
    actions[mutant.name] = mutant.action
    kept = (answer for name, action in actions.items() for answer in kept_by(name, action, dropped=dropped))
    return all(answer.proved for answer in kept) and all(answer.proved for answer in consequences(dropped))


def judged(mutant: Mutant, world: SmallWorld) -> Verdict:
    started = time.perf_counter()
    broken = tuple(goal for goal in suspects(mutant) if world.steps_out(mutant, goal))
    harmless = bool(broken) and set(broken) <= set(FRAMING_ONLY)
    agrees = harmless and agreement_without(mutant, broken)
    return Verdict(mutant, tuple(goal.__name__ for goal in broken), agrees, time.perf_counter() - started)


def forks_when_broken(mutant: Mutant) -> bool:
    """There is a play in which the mutant, and not the rule, leads to two decisions."""
    if mutant.name not in forks.PLAYS:
        return False
    try:
        forks.played(mutant.name)
    except forks.Stopped:
        return len(forks.played(mutant.name, {**ACTIONS, mutant.replaces: mutant.action})) > 1
    return False


def report() -> Iterator[str]:
    yield f"{'rule':4s}  {'broken':34s}  {'s':>5s}  {'fork':8s}  what breaks"
    world = SmallWorld()
    for mutant in MUTANTS:
        verdict = judged(mutant, world)
        said = "agreement is still proved; lost: " if verdict.agrees else ""
        forked = f"{len(forks.PLAYS[mutant.name])} steps" if forks_when_broken(mutant) else "-"
        lost = f"{said}{', '.join(verdict.broken) or 'NOTHING'}"
        yield f"{mutant.rule:4s}  {mutant.name:34s}  {verdict.seconds:5.1f}  {forked:8s}  {lost}"
    small, right = SmallWorld(quorum=2).forks(), world.forks()
    yield f"{'Q1':4s}  {'2 of 4 members as a quorum':34s}  {'':5s}  {'':8s}  {'agreement' if small and not right else 'NOTHING'}"


if __name__ == "__main__":
    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
