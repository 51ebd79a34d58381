"""Agreement at one height as a transition system in z3: who signed what, and the action that each rule of SPEC.md allows.

Any number of nodes, views, blocks and quorums: all four are sorts without a size. The relations record what nodes signed, and what the
honest ones wrote down and remember; a Byzantine node signs what it likes. Time and the network are not here: whatever was signed may
be known to anybody, at once, late or never.

A guard is a dictionary, condition by condition, so that a mutant can leave out one (mutants.py) and the refinement test can
compare each with its twin over real traces (twin.py).

For editing: one function per transition of consensus/height.py, its name begins with the rule that it carries out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from z3 import (
    And,
    BoolRef,
    BoolSort,
    BoolVal,
    Const,
    Consts,
    DeclareSort,
    Exists,
    ExprRef,
    ForAll,
    Function,
    If,
    Implies,
    Not,
    Or,
)

Node, View, Block, Quorum = (DeclareSort(name) for name in ("Node", "View", "Block", "Quorum"))
Relation = Callable[..., BoolRef]

# What never changes at one height.
NIL = Const("NIL", Block)  # "no block" is one of the values that a vote may name
NO_VIEW, FIRST = Consts("NO_VIEW FIRST", View)  # -1 and 0
before = Function("before", View, View, BoolSort())
honest = Function("honest", Node, BoolSort())
member = Function("member", Node, Quorum, BoolSort())
turn = Function("turn", Node, View, BoolSort())  # the proposer of a view  (rule Q3)
checked = Function("checked", Node, Block, BoolSort())  # the node's own check of the block passes, now or later

n, n1, n2 = Consts("n n1 n2", Node)
w, w1, w2, w3, u, u1 = Consts("w w1 w2 w3 u u1", View)
x, x1, x2, y = Consts("x x1 x2 y", Block)
q, q1, q2 = Consts("q q1 q2", Quorum)

# Bound in the definitions of this file alone, so that no argument is ever captured.
_voter = Const("voter", Node)
_later, _named = Consts("later named", View)
_some = Const("some", Block)


def at_most(one: ExprRef, other: ExprRef) -> BoolRef:
    return Or(one == other, before(one, other))


VIEWS_ARE_ORDERED = [
    ForAll(w, Not(before(w, w))),
    ForAll([w1, w2, w3], Implies(And(before(w1, w2), before(w2, w3)), before(w1, w3))),
    ForAll([w1, w2], Or(before(w1, w2), w1 == w2, before(w2, w1))),
    before(NO_VIEW, FIRST),
    ForAll(w, Or(w == NO_VIEW, at_most(FIRST, w))),
]
QUORUMS_SHARE_AN_HONEST_NODE = ForAll([q1, q2], Exists(n, And(honest(n), member(n, q1), member(n, q2))))
"""The only thing that is assumed about quorums: arithmetic.py proves it for fewer than a third Byzantine, whatever the size."""


@dataclass(frozen=True)
class State:
    """Each field is a relation: a Python function that gives a z3 formula."""

    # Signed. Statements cannot be taken back.
    proposed: Relation  # (node, view, block, valid_view)
    prepared: Relation  # (node, view, block, valid_view)
    committed: Relation  # (node, view, block)
    # The journal: which slots it holds, in memory; after a restart, what the log makes of it.
    has_proposed: Relation  # (node, view)
    has_prepared: Relation  # (node, view)
    has_committed: Relation  # (node, view)
    signed_after: Relation  # (node, view): something of a later view than this
    # Memory alone.
    at: Relation  # (node, view)
    locked: Relation  # (node, view): its lock is of this view or of a later one. No rule asks for the block of a lock
    decided: Relation  # (node, view, block): by COMMITs of that view


FIELDS = {
    "proposed": (Node, View, Block, View),
    "prepared": (Node, View, Block, View),
    "committed": (Node, View, Block),
    "has_proposed": (Node, View),
    "has_prepared": (Node, View),
    "has_committed": (Node, View),
    "signed_after": (Node, View),
    "at": (Node, View),
    "locked": (Node, View),
    "decided": (Node, View, Block),
}


def any_state(prefix: str = "") -> State:
    return State(**{name: Function(prefix + name, *sorts, BoolSort()) for name, sorts in FIELDS.items()})


def initial_state() -> State:
    """Rule H1: everybody in view 0, nothing said."""
    nothing = {name: lambda *_: BoolVal(False) for name in FIELDS}
    return State(**{**nothing, "at": lambda node, view: view == FIRST})


# -- certificates: a quorum, all of whose members signed --


def prepare_certificate(s: State, quorum: ExprRef, view: ExprRef, block: ExprRef, valid_view: ExprRef) -> BoolRef:
    """One and the same valid_view in all of them."""
    return ForAll(_voter, Implies(member(_voter, quorum), s.prepared(_voter, view, block, valid_view)))


def commit_certificate(s: State, quorum: ExprRef, view: ExprRef, block: ExprRef) -> BoolRef:
    return ForAll(_voter, Implies(member(_voter, quorum), s.committed(_voter, view, block)))


def view_certificate(s: State, quorum: ExprRef, view: ExprRef) -> BoolRef:
    return ForAll(_voter, Implies(member(_voter, quorum), s.has_committed(_voter, view)))


def prepared_anything(s: State, quorum: ExprRef, view: ExprRef) -> BoolRef:
    return ForAll(_voter, Implies(member(_voter, quorum), s.has_prepared(_voter, view)))


# -- actions --

Guard = dict[str, BoolRef]


@dataclass(frozen=True)
class Transition:
    guard: Guard
    after: State


Action = Callable[[State], Transition]

ME, PROPOSER = Consts("me proposer", Node)
VIEW, VALID_VIEW, EARLIER_VALID_VIEW, LEFT_VIEW = Consts("view valid_view earlier_valid_view left_view", View)
BLOCK = Const("block", Block)
QUORUM = Const("quorum", Quorum)


def p1_repropose(s: State) -> Transition:
    guard = {
        **_my_turn(s),
        "a block": BLOCK != NIL,
        "valid view is earlier": And(VALID_VIEW != NO_VIEW, before(VALID_VIEW, VIEW)),
        "certificate": prepare_certificate(s, QUORUM, VALID_VIEW, BLOCK, EARLIER_VALID_VIEW),
    }
    return Transition(guard, _propose(s, VALID_VIEW))


def p2_propose_fresh(s: State) -> Transition:
    return Transition({**_my_turn(s), "a block": BLOCK != NIL}, _propose(s, NO_VIEW))


def v2_prepare_fresh(s: State) -> Transition:
    guard = {
        **_step_propose(s),
        **_offered(s, NO_VIEW),
        "lock allows": _lock_allows(s, NO_VIEW),
        "checked": checked(ME, BLOCK),
    }
    return Transition(guard, _prepare(s, BLOCK, NO_VIEW))


def v3_prepare_reproposed(s: State) -> Transition:
    guard = {
        **_step_propose(s),
        **_offered(s, VALID_VIEW),
        "valid view is earlier": And(VALID_VIEW != NO_VIEW, before(VALID_VIEW, VIEW)),
        "certificate": prepare_certificate(s, QUORUM, VALID_VIEW, BLOCK, EARLIER_VALID_VIEW),
        "lock allows": _lock_allows(s, VALID_VIEW),
        "checked": checked(ME, BLOCK),
    }
    return Transition(guard, _prepare(s, BLOCK, VALID_VIEW))


def v1_prepare_nil(s: State) -> Transition:
    """A proposal came, and may not be prepared: whatever the reason, NIL is safe."""
    return Transition({**_step_propose(s), **_offered(s, VALID_VIEW)}, _prepare(s, NIL, NO_VIEW))


def v4_prepare_nil_timeout(s: State) -> Transition:
    return Transition(_step_propose(s), _prepare(s, NIL, NO_VIEW))


def l1_lock_and_commit(s: State) -> Transition:
    """Whatever this node prepared in this view itself."""
    guard = {
        **_step_prepare(s),
        "a block": BLOCK != NIL,
        "certificate": prepare_certificate(s, QUORUM, VIEW, BLOCK, VALID_VIEW),
        "checked": checked(ME, BLOCK),
    }
    after = _commit(s, BLOCK)
    return Transition(guard, replace(after, locked=_with_mine(s.locked, lambda view: at_most(view, VIEW))))


def l2_commit_nil(s: State) -> Transition:
    guard = {**_step_prepare(s), "certificate": prepare_certificate(s, QUORUM, VIEW, NIL, NO_VIEW)}
    return Transition(guard, _commit(s, NIL))


def l4_commit_nil_timeout(s: State) -> Transition:
    return Transition(_step_prepare(s), _commit(s, NIL))


def l5_commit_nil_hopeless(s: State) -> Transition:
    """That no block can win any more is a matter of progress; it is safe in any case."""
    guard = {**_step_prepare(s), "a quorum has prepared something": prepared_anything(s, QUORUM, VIEW)}
    return Transition(guard, _commit(s, NIL))


def w3_next_view(s: State) -> Transition:
    return Transition(_step_to_the_next_view(s), _enter(s))


def w5_next_view_hopeless(s: State) -> Transition:
    """That no block can win any more is a matter of progress, as in L5."""
    guard = {**_step_to_the_next_view(s), "certificate of the view before": view_certificate(s, QUORUM, LEFT_VIEW)}
    return Transition(guard, _enter(s))


def w4_follow(s: State) -> Transition:
    guard = {
        "honest": honest(ME),
        "in an earlier view": And(s.at(ME, LEFT_VIEW), before(LEFT_VIEW, VIEW)),
        "certificate": view_certificate(s, QUORUM, VIEW),
    }
    return Transition(guard, _enter(s))


def c2_decide(s: State) -> Transition:
    """In whatever view this node is, and whatever it has checked itself."""
    guard = {
        "honest": honest(ME),
        "a block": BLOCK != NIL,
        "certificate": commit_certificate(s, QUORUM, VIEW, BLOCK),
    }
    return Transition(guard, replace(s, decided=_with(s.decided, ME, VIEW, BLOCK)))


def x2_restart(s: State) -> Transition:
    """The memory is gone at any moment; the journal, the view, the step and the lock are what the log makes of them (X1, X3).

    A crash before a statement is durable leaves one that was never sent: as if it had not been signed.
    """
    guard = {
        "honest": honest(ME),
        "nothing later is logged": Not(logged_after(s, ME, VIEW)),
        "the view of the last statement": Or(logged(s, ME, VIEW), VIEW == FIRST),
    }
    after = replace(
        s,
        at=_with_mine(s.at, lambda view: view == VIEW),
        has_proposed=_with_mine(
            s.has_proposed, lambda view: Exists([_some, _named], s.proposed(ME, view, _some, _named))
        ),
        has_prepared=_with_mine(
            s.has_prepared, lambda view: Exists([_some, _named], s.prepared(ME, view, _some, _named))
        ),
        has_committed=_with_mine(s.has_committed, lambda view: Exists(_some, s.committed(ME, view, _some))),
        signed_after=_with_mine(s.signed_after, lambda view: logged_after(s, ME, view)),
        locked=_with_mine(s.locked, lambda view: committed_since(s, ME, view)),
    )
    return Transition(guard, after)


def byzantine(s: State) -> Transition:
    """Signs any number of statements of any kind, none of which it is held to."""
    return Transition(
        {"not honest": Not(honest(ME))},
        replace(
            s,
            proposed=_with_lies(s.proposed, "proposed"),
            prepared=_with_lies(s.prepared, "prepared"),
            committed=_with_lies(s.committed, "committed"),
            has_prepared=_with_lies(s.has_prepared, "has_prepared"),
            has_committed=_with_lies(s.has_committed, "has_committed"),
        ),
    )


ACTIONS: dict[str, Action] = {
    action.__name__: action
    for action in (
        p1_repropose,
        p2_propose_fresh,
        v1_prepare_nil,
        v2_prepare_fresh,
        v3_prepare_reproposed,
        v4_prepare_nil_timeout,
        l1_lock_and_commit,
        l2_commit_nil,
        l4_commit_nil_timeout,
        l5_commit_nil_hopeless,
        c2_decide,
        w3_next_view,
        w4_follow,
        w5_next_view_hopeless,
        x2_restart,
        byzantine,
    )
}


def logged(s: State, node: ExprRef, view: ExprRef) -> BoolRef:
    """Some statement of this view is in the node's log."""
    return Or(
        Exists([_some, _named], s.proposed(node, view, _some, _named)),
        Exists([_some, _named], s.prepared(node, view, _some, _named)),
        Exists(_some, s.committed(node, view, _some)),
    )


def logged_after(s: State, node: ExprRef, view: ExprRef) -> BoolRef:
    return Exists(_later, And(before(view, _later), logged(s, node, _later)))


def committed_since(s: State, node: ExprRef, view: ExprRef) -> BoolRef:
    """The node's last COMMIT for a block is of this view or of a later one."""
    return Exists([_later, _some], And(s.committed(node, _later, _some), _some != NIL, at_most(view, _later)))


# -- parts of guards --


def _my_turn(s: State) -> Guard:
    return {
        "honest": honest(ME),
        "in this view": s.at(ME, VIEW),
        "step propose": Not(Or(s.has_prepared(ME, VIEW), s.has_committed(ME, VIEW))),
        "my turn": turn(ME, VIEW),
        "not proposed yet": Not(s.has_proposed(ME, VIEW)),
    }


def _step_propose(s: State) -> Guard:
    return {
        "honest": honest(ME),
        "in this view": s.at(ME, VIEW),
        "step propose": Not(Or(s.has_prepared(ME, VIEW), s.has_committed(ME, VIEW))),
    }


def _step_prepare(s: State) -> Guard:
    return {
        "honest": honest(ME),
        "in this view": s.at(ME, VIEW),
        "step prepare": And(s.has_prepared(ME, VIEW), Not(s.has_committed(ME, VIEW))),
    }


def _step_to_the_next_view(s: State) -> Guard:
    return {
        "honest": honest(ME),
        "in the view before": s.at(ME, LEFT_VIEW),
        "the next view": And(before(LEFT_VIEW, VIEW), ForAll(u, Not(And(before(LEFT_VIEW, u), before(u, VIEW))))),
    }


def _offered(s: State, valid_view: ExprRef) -> Guard:
    signed = s.proposed(PROPOSER, VIEW, BLOCK, valid_view)
    return {"a proposal in turn": And(turn(PROPOSER, VIEW), signed, BLOCK != NIL)}


def _lock_allows(s: State, valid_view: ExprRef) -> BoolRef:
    """Not locked, or locked in no later view than the one that justifies the proposal. (NO_VIEW is before every lock.)"""
    return ForAll(u, Implies(s.locked(ME, u), at_most(u, valid_view)))


# -- parts of effects --


def _with(relation: Relation, *entry: ExprRef) -> Relation:
    """The relation and one entry more."""
    return lambda *given: Or(relation(*given), And(*(one == other for one, other in zip(given, entry, strict=True))))


def _with_mine(relation: Relation, mine: Relation) -> Relation:
    """The relation with this node's part replaced."""
    return lambda node, *rest: If(node == ME, mine(*rest), relation(node, *rest))


def _with_lies(relation: Relation, name: str) -> Relation:
    lies = Function(f"lies_{name}", *FIELDS[name], BoolSort())
    return lambda node, *rest: Or(relation(node, *rest), And(node == ME, lies(node, *rest)))


def _signed_in_view(s: State) -> Relation:
    return lambda node, view: Or(s.signed_after(node, view), And(node == ME, before(view, VIEW)))


def _propose(s: State, valid_view: ExprRef) -> State:
    return replace(
        s,
        proposed=_with(s.proposed, ME, VIEW, BLOCK, valid_view),
        has_proposed=_with(s.has_proposed, ME, VIEW),
        signed_after=_signed_in_view(s),
    )


def _prepare(s: State, block: ExprRef, valid_view: ExprRef) -> State:
    return replace(
        s,
        prepared=_with(s.prepared, ME, VIEW, block, valid_view),
        has_prepared=_with(s.has_prepared, ME, VIEW),
        signed_after=_signed_in_view(s),
    )


def _commit(s: State, block: ExprRef) -> State:
    return replace(
        s,
        committed=_with(s.committed, ME, VIEW, block),
        has_committed=_with(s.has_committed, ME, VIEW),
        signed_after=_signed_in_view(s),
    )


def _enter(s: State) -> State:
    return replace(s, at=_with_mine(s.at, lambda view: view == VIEW))
