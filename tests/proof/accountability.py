"""Who is to blame: two decisions at one height convict every common member of two certificates, however many are Byzantine.

Used of honest nodes is only what invariants.py proves of each alone. Of quorums, only that each has an honest member, which is so while
at most 2f of 3f+1 are Byzantine. Two quorums share more than f members (arithmetic.py), so at least f+1 are convicted; and none of
them is honest, for honest nodes never satisfy these predicates (`never_...` in invariants.py).

Views are natural numbers, so among the views with some property there is a first. z3 does not know that, and is told of the one
case that is used.
"""

from collections.abc import Callable, Iterator

from z3 import And, BoolRef, BoolVal, Consts, Exists, ExprRef, ForAll, Implies, Not

from tests.proof.invariants import (
    amnesia,
    commits_are_justified,
    double_commit,
    double_prepare,
    reproposals_are_justified,
    valid_view_is_earlier,
)
from tests.proof.model import (
    NIL,
    NO_VIEW,
    VIEWS_ARE_ORDERED,
    Block,
    Quorum,
    State,
    View,
    any_state,
    before,
    commit_certificate,
    honest,
    member,
    n,
    prepare_certificate,
    q,
    q1,
    q2,
    u,
    u1,
    w,
    x,
)
from tests.proof.prover import Answer, follows

EVERY_QUORUM_HAS_AN_HONEST_MEMBER = ForAll(q, Exists(n, And(honest(n), member(n, q))))

ONE, OTHER, RIVAL = Consts("one_decision other_decision rival", Block)
EARLY, LATE, TURN, NAMED = Consts("early late turn named", View)
COMMITS, LATER_COMMITS, PREPARES = Consts("commits later_commits prepares", Quorum)


def convicted(s: State, one: ExprRef, other: ExprRef, offence: Callable[[State, ExprRef], BoolRef]) -> BoolRef:
    """Whoever is in both quorums."""
    return ForAll(n, Implies(And(member(n, one), member(n, other)), offence(s, n)))


def quorum_prepared(s: State, view: ExprRef, block: ExprRef) -> BoolRef:
    return Exists([u, q], prepare_certificate(s, q, view, block, u))


def conflicting(s: State, view: ExprRef) -> BoolRef:
    """A quorum prepared another block than ONE in this view."""
    return Exists(x, And(x != ONE, x != NIL, quorum_prepared(s, view, x)))


def answers() -> Iterator[Answer]:
    """ONE was decided in view EARLY, OTHER in view LATE."""
    s = any_state()
    known = [*VIEWS_ARE_ORDERED, EVERY_QUORUM_HAS_AN_HONEST_MEMBER, ONE != NIL, OTHER != NIL, ONE != OTHER]
    fork = [commit_certificate(s, COMMITS, EARLY, ONE), commit_certificate(s, LATER_COMMITS, LATE, OTHER)]

    goal = convicted(s, COMMITS, LATER_COMMITS, double_commit)
    yield follows("decided in one view: the common members committed twice", [*known, *fork, EARLY == LATE], goal)

    known += [*fork, before(EARLY, LATE)]
    given = [*known, commits_are_justified(s)]
    yield follows("decided in two views: the later one is conflicting", given, conflicting(s, LATE))

    # Let TURN be the first conflicting view after EARLY: RIVAL was prepared in it, by PREPARES, naming the view NAMED.
    known += [before(EARLY, TURN), RIVAL != NIL, RIVAL != ONE, prepare_certificate(s, PREPARES, TURN, RIVAL, NAMED)]
    first = ForAll(w, Implies(And(before(EARLY, w), before(w, TURN)), Not(conflicting(s, w))))

    goal = convicted(s, COMMITS, PREPARES, amnesia)
    yield follows("the first conflict names a view before EARLY: amnesia", [*known, before(NAMED, EARLY)], goal)

    again = [*known, NAMED != NO_VIEW, reproposals_are_justified(s)]
    yield follows("otherwise RIVAL was prepared in that view too", again, quorum_prepared(s, NAMED, RIVAL))

    given = [*known, before(EARLY, NAMED), first, quorum_prepared(s, NAMED, RIVAL), valid_view_is_earlier(s)]
    yield follows("it is no view after EARLY, since TURN is the first", given, BoolVal(False))

    yield follows("ONE was prepared in EARLY", [*known, commits_are_justified(s)], quorum_prepared(s, EARLY, ONE))
    two = [prepare_certificate(s, q1, EARLY, ONE, u), prepare_certificate(s, q2, EARLY, RIVAL, u1)]
    goal = convicted(s, q1, q2, double_prepare)
    yield follows("so if it names EARLY, the common members prepared both there", [*known, *two], goal)
