"""What always holds of the transition system in model.py: of each honest node alone, and of all together.

ALONE and WITNESSED need nothing of anybody else: they hold with any number of Byzantine nodes, which is why an honest node cannot be
framed. `what_may_be_chosen_binds` needs that two quorums share an honest node, and agreement follows from it.

For editing: an invariant that is not inductive by itself needs another one beside it, not a longer one. A new one that promises that
something exists belongs to WITNESSED: such formulas make the solver search, so they are assumed only where `assumed_for` says.
"""

from collections.abc import Callable

from z3 import And, BoolRef, Exists, ExprRef, ForAll, Implies, Not, Or

from tests.proof.model import (
    NIL,
    NO_VIEW,
    State,
    at_most,
    before,
    checked,
    commit_certificate,
    committed_since,
    honest,
    logged,
    logged_after,
    member,
    n,
    n1,
    n2,
    prepare_certificate,
    q,
    turn,
    u,
    u1,
    w,
    w1,
    w2,
    x,
    x1,
    x2,
)

Invariant = Callable[[State], BoolRef]


# -- evidence, and what may yet be decided --


def double_proposal(s: State, node: ExprRef) -> BoolRef:
    both = And(s.proposed(node, w, x1, u), s.proposed(node, w, x2, u1))
    return Exists([w, x1, x2, u, u1], And(both, Or(x1 != x2, u != u1)))


def double_prepare(s: State, node: ExprRef) -> BoolRef:
    both = And(s.prepared(node, w, x1, u), s.prepared(node, w, x2, u1))
    return Exists([w, x1, x2, u, u1], And(both, Or(x1 != x2, u != u1)))


def double_commit(s: State, node: ExprRef) -> BoolRef:
    return Exists([w, x1, x2], And(s.committed(node, w, x1), s.committed(node, w, x2), x1 != x2))


def wrong_proposer(s: State, node: ExprRef) -> BoolRef:
    return Exists([w, x, u], And(s.proposed(node, w, x, u), Not(turn(node, w))))


def amnesia(s: State, node: ExprRef) -> BoolRef:
    """COMMIT of a block, and in a later view PREPARE of another one, justified by nothing as late as that COMMIT."""
    two = And(s.committed(node, w1, x1), s.prepared(node, w2, x2, u))
    return Exists([w1, w2, x1, x2, u], And(two, before(w1, w2), x1 != NIL, x2 != NIL, x1 != x2, before(u, w1)))


EVIDENCE = (double_proposal, double_prepare, double_commit, wrong_proposer, amnesia)


def choosable(s: State, view: ExprRef, block: ExprRef) -> BoolRef:
    """A commit certificate may yet come: all honest members of some quorum committed, or signed nothing of a later view so far."""
    may = Implies(And(honest(n), member(n, q)), Or(s.committed(n, view, block), Not(s.signed_after(n, view))))
    return Exists(q, ForAll(n, may))


# -- one honest node alone: never, always --


def in_one_view(s: State) -> BoolRef:
    return ForAll([n, w1, w2], Implies(And(honest(n), s.at(n, w1), s.at(n, w2)), w1 == w2))


def in_real_views(s: State) -> BoolRef:
    return ForAll([n, w], Implies(And(honest(n), Or(s.at(n, w), logged(s, n, w))), w != NO_VIEW))


def signs_only_forwards(s: State) -> BoolRef:
    return ForAll([n, w], Implies(And(honest(n), s.at(n, w)), Not(s.signed_after(n, w))))


def journal_is_whole(s: State) -> BoolRef:
    whole = And(
        Implies(s.proposed(n, w, x, u), s.has_proposed(n, w)),
        Implies(s.prepared(n, w, x, u), s.has_prepared(n, w)),
        Implies(s.committed(n, w, x), s.has_committed(n, w)),
    )
    return ForAll([n, w, x, u], Implies(honest(n), whole))


def journal_knows_later_slots(s: State) -> BoolRef:
    slot = Or(s.has_proposed(n, w2), s.has_prepared(n, w2), s.has_committed(n, w2), s.signed_after(n, w2))
    return ForAll([n, w1, w2], Implies(And(honest(n), slot, before(w1, w2)), s.signed_after(n, w1)))


def never_double_proposal(s: State) -> BoolRef:
    return ForAll(n, Implies(honest(n), Not(double_proposal(s, n))))


def never_double_prepare(s: State) -> BoolRef:
    return ForAll(n, Implies(honest(n), Not(double_prepare(s, n))))


def never_double_commit(s: State) -> BoolRef:
    return ForAll(n, Implies(honest(n), Not(double_commit(s, n))))


def never_wrong_proposer(s: State) -> BoolRef:
    return ForAll(n, Implies(honest(n), Not(wrong_proposer(s, n))))


def justified_no_earlier_than_it_committed(s: State) -> BoolRef:
    """What the vote rule V2 comes to, across restarts: stronger than `never_amnesia`."""
    two = And(s.committed(n, w1, x1), s.prepared(n, w2, x2, u), before(w1, w2), x1 != NIL, x2 != NIL)
    return ForAll([n, w1, w2, x1, x2, u], Implies(And(honest(n), two), at_most(w1, u)))


def nil_names_no_valid_view(s: State) -> BoolRef:
    return ForAll([n, w, u], Implies(And(honest(n), s.prepared(n, w, NIL, u)), u == NO_VIEW))


def valid_view_is_earlier(s: State) -> BoolRef:
    return ForAll([n, w, x, u], Implies(And(honest(n), s.prepared(n, w, x, u)), before(u, w)))


def commits_lock(s: State) -> BoolRef:
    bound = And(honest(n), s.committed(n, w, x), x != NIL, at_most(w1, w))
    return ForAll([n, w, w1, x], Implies(bound, s.locked(n, w1)))


def votes_for_what_it_checked(s: State) -> BoolRef:
    voted = And(honest(n), Or(s.prepared(n, w, x, u), s.committed(n, w, x)), x != NIL)
    return ForAll([n, w, x, u], Implies(voted, checked(n, x)))


ALONE: tuple[Invariant, ...] = (
    in_one_view,
    in_real_views,
    signs_only_forwards,
    journal_is_whole,
    journal_knows_later_slots,
    never_double_proposal,
    never_double_prepare,
    never_double_commit,
    never_wrong_proposer,
    justified_no_earlier_than_it_committed,
    nil_names_no_valid_view,
    valid_view_is_earlier,
    commits_lock,
    votes_for_what_it_checked,
)


# -- one honest node alone: what it did, something exists for --


def locks_are_commits(s: State) -> BoolRef:
    return ForAll([n, w], Implies(And(honest(n), s.locked(n, w)), committed_since(s, n, w)))


def journal_is_no_more_than_the_log(s: State) -> BoolRef:
    return ForAll([n, w], Implies(And(honest(n), s.signed_after(n, w)), logged_after(s, n, w)))


def reproposals_are_justified(s: State) -> BoolRef:
    shown = Exists([u1, q], prepare_certificate(s, q, u, x, u1))
    prepared = And(Exists([n1, w], And(honest(n1), s.prepared(n1, w, x, u))), x != NIL, u != NO_VIEW)
    return ForAll([x, u], Implies(prepared, shown))


def commits_are_justified(s: State) -> BoolRef:
    shown = Exists([u, q], prepare_certificate(s, q, w, x, u))
    committed = And(Exists(n1, And(honest(n1), s.committed(n1, w, x))), x != NIL)
    return ForAll([w, x], Implies(committed, shown))


def decisions_are_justified(s: State) -> BoolRef:
    decided = Exists(n1, And(honest(n1), s.decided(n1, w, x)))
    return ForAll([w, x], Implies(decided, And(x != NIL, Exists(q, commit_certificate(s, q, w, x)))))


WITNESSED: tuple[Invariant, ...] = (
    locks_are_commits,
    journal_is_no_more_than_the_log,
    reproposals_are_justified,
    commits_are_justified,
    decisions_are_justified,
)


# -- all together --


def what_may_be_chosen_binds(s: State) -> BoolRef:
    """An honest node that committed a block which may still be decided has prepared nothing else since."""
    bound = And(honest(n1), s.committed(n1, w1, x1), x1 != NIL, choosable(s, w1, x1))
    later = And(s.prepared(n1, w2, x2, u), before(w1, w2))
    return ForAll([n1, w1, w2, x1, x2, u], Implies(And(bound, later), Or(x2 == x1, x2 == NIL)))


# -- what follows --


def never_amnesia(s: State) -> BoolRef:
    return ForAll(n, Implies(honest(n), Not(amnesia(s, n))))


def agreement_in_one_view(s: State) -> BoolRef:
    both = And(honest(n1), honest(n2), s.decided(n1, w, x1), s.decided(n2, w, x2))
    return ForAll([n1, n2, w, x1, x2], Implies(both, x1 == x2))


def agreement_across_views(s: State) -> BoolRef:
    both = And(honest(n1), honest(n2), s.decided(n1, w1, x1), s.decided(n2, w2, x2), before(w1, w2))
    return ForAll([n1, n2, w1, w2, x1, x2], Implies(both, x1 == x2))


def agreement(s: State) -> BoolRef:
    both = And(honest(n1), honest(n2), s.decided(n1, w1, x1), s.decided(n2, w2, x2))
    return ForAll([n1, n2, w1, w2, x1, x2], Implies(both, x1 == x2))


def decisions_were_checked(s: State) -> BoolRef:
    """Some honest node found the block right itself."""
    decided = Exists([n1, w], And(honest(n1), s.decided(n1, w, x)))
    return ForAll(x, Implies(decided, Exists(n, And(honest(n), checked(n, x)))))


TOGETHER: tuple[Invariant, ...] = (what_may_be_chosen_binds,)

CONSEQUENCES: dict[Invariant, tuple[Invariant, ...]] = {
    never_amnesia: (justified_no_earlier_than_it_committed,),
    agreement_in_one_view: (decisions_are_justified, commits_are_justified, never_double_prepare),
    agreement_across_views: (decisions_are_justified, commits_are_justified, what_may_be_chosen_binds),
    agreement: (agreement_in_one_view, agreement_across_views),
    decisions_were_checked: (decisions_are_justified, votes_for_what_it_checked),
}
"""What follows in any one state from those that always hold there."""


def assumed_for(goal: Invariant, action: str) -> tuple[Invariant, ...]:
    """What the induction step of `goal` rests on, in the state before. All of it holds there; naming little keeps the solver quick."""
    if goal in WITNESSED:
        return (commits_lock, goal)
    if goal is not what_may_be_chosen_binds:
        return ALONE
    if action == "x2_restart":  # the memory gives way to the log, and nothing may be missing from it
        return (*ALONE, journal_is_no_more_than_the_log, goal)
    return (*ALONE, commits_are_justified, goal)
