"""What a broken rule leads to, played step by step from the start of a height in the small world: two decisions.

A failed induction step (mutants.py) says that the proof needs a rule. This says that agreement does: each play is a list of actions of model.py,
every guard of which holds, the broken one among them, and after the last two honest nodes have decided differently. With the rule
in its place the same play stops at a guard.

Node 3 is Byzantine, and has signed everything there is before the play begins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import z3

from tests.proof import model
from tests.proof.model import ACTIONS, NO_VIEW, Action, any_state
from tests.proof.scope import BLOCKS, NODES, VIEWS, Scope

FIRST, SECOND, THIRD = VIEWS[1:]
RED, BLUE = BLOCKS[1:]
N0, N1, N2, TRAITOR = NODES
Entry = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """An action, and what its constants stand for."""

    action: str
    node: z3.ExprRef
    view: z3.ExprRef
    block: z3.ExprRef = RED
    quorum: str = ""  # "013": who makes it
    valid_view: z3.ExprRef = NO_VIEW
    left: z3.ExprRef = NO_VIEW


class Stopped(AssertionError):
    """A guard does not hold: the rule is kept."""


class Play:
    """A state of the small world, entry by entry. The traitor proposes in every view, and everybody's check passes."""

    def __init__(self, actions: Mapping[str, Action] = ACTIONS) -> None:
        self._actions = actions
        self._state: dict[str, set[Entry]] = {name: set() for name in model.FIELDS}
        settled = {name: self._look_up(name) for name in model.FIELDS}
        settled |= {"turn": lambda node, view: node == _name(TRAITOR), "checked": lambda node, block: True}
        self._scope = Scope(settled=settled)
        self._quorums = {"".join(str(NODES.index(m)) for m in ms): q for q, ms in self._scope.quorums.items()}
        self._state["at"] = {(_name(node), _name(FIRST)) for node in NODES}
        for name in ("proposed", "prepared", "committed", "has_prepared", "has_committed"):
            self._state[name] = {e for e in self._entries(name) if e[0] == _name(TRAITOR)}

    def _look_up(self, name: str) -> Callable[..., bool]:
        return lambda *entry: entry in self._state[name]

    def _elements(self, name: str) -> list[tuple[z3.ExprRef, ...]]:
        return list(product(*(self._scope.elements(sort) for sort in model.FIELDS[name])))

    def _entries(self, name: str) -> list[Entry]:
        return [tuple(map(_name, entry)) for entry in self._elements(name)]

    def take(self, step: Step) -> None:
        state = any_state()
        transition = self._actions[step.action](state)
        quorum = self._quorums.get(step.quorum, next(iter(self._quorums.values())))
        given = [
            *((model.ME, step.node), (model.PROPOSER, TRAITOR), (model.VIEW, step.view), (model.LEFT_VIEW, step.left)),
            *((model.BLOCK, step.block), (model.VALID_VIEW, step.valid_view), (model.EARLIER_VALID_VIEW, NO_VIEW)),
            (model.QUORUM, quorum),
        ]

        def holds(formula: z3.BoolRef) -> bool:
            return z3.is_true(self._scope.ground(z3.substitute(formula, *given)))

        for name, condition in transition.guard.items():
            if not holds(condition):
                raise Stopped(f"{step.action}: {name}")
        changed = [name for name in model.FIELDS if getattr(transition.after, name) is not getattr(state, name)]
        after = {}
        for name in changed:  # an action changes nothing of anybody else's
            mine = [e for e in self._elements(name) if e[0] is step.node]
            others = {e for e in self._state[name] if e[0] != _name(step.node)}
            relation = getattr(transition.after, name)
            after[name] = others | {tuple(map(_name, e)) for e in mine if holds(relation(*e))}
        self._state.update(after)

    @property
    def decisions(self) -> set[str]:
        """Blocks that an honest node has decided."""
        return {block for node, _, block in self._state["decided"] if node != _name(TRAITOR)}


def _name(element: z3.ExprRef) -> str:
    return str(element.decl().name())


def _prepare(view: z3.ExprRef, block: z3.ExprRef, *nodes: z3.ExprRef) -> list[Step]:
    return [Step("v2_prepare_fresh", node, view, block) for node in nodes]


def _again(view: z3.ExprRef, block: z3.ExprRef, *nodes: z3.ExprRef, quorum: str = "123") -> list[Step]:
    """Prepare it as proposed again, justified by the first view."""
    return [Step("v3_prepare_reproposed", node, view, block, quorum, FIRST) for node in nodes]


def _commit(
    view: z3.ExprRef, block: z3.ExprRef, *nodes: z3.ExprRef, quorum: str, valid_view: z3.ExprRef = NO_VIEW
) -> list[Step]:
    return [Step("l1_lock_and_commit", node, view, block, quorum, valid_view) for node in nodes]


def _decide(view: z3.ExprRef, block: z3.ExprRef, node: z3.ExprRef, quorum: str) -> list[Step]:
    return [Step("c2_decide", node, view, block, quorum)]


def _next(left: z3.ExprRef, view: z3.ExprRef, *nodes: z3.ExprRef) -> list[Step]:
    return [Step("w3_next_view", node, view, left=left) for node in nodes]


def _nil(view: z3.ExprRef, *nodes: z3.ExprRef) -> list[Step]:
    return [Step("v4_prepare_nil_timeout", node, view) for node in nodes]


def _red(view: z3.ExprRef) -> list[Step]:
    """Decided by N0; N1 is locked on it, N2 knows nothing."""
    return [*_prepare(view, RED, N0, N1), *_commit(view, RED, N0, N1, quorum="013"), *_decide(view, RED, N0, "013")]


def _blue(view: z3.ExprRef, valid_view: z3.ExprRef = NO_VIEW) -> list[Step]:
    """What N1 and N2 prepared is decided by N2."""
    return [*_commit(view, BLUE, N1, N2, quorum="123", valid_view=valid_view), *_decide(view, BLUE, N2, "123")]


_LATER = [*_next(FIRST, SECOND, N1, N2), *_prepare(SECOND, BLUE, N1, N2), *_blue(SECOND)]
PLAYS: dict[str, list[Step]] = {
    "ignore the lock for fresh blocks": [*_red(FIRST), *_LATER],
    "ignore the lock's view": [
        *_prepare(FIRST, BLUE, N1, N2),
        *_next(FIRST, SECOND, N0, N1, N2),
        *_red(SECOND),
        *_next(SECOND, THIRD, N1, N2),
        *_again(THIRD, BLUE, N1, N2),
        *_blue(THIRD, FIRST),
    ],
    "a re-proposal without certificate": [
        *_red(FIRST),
        *_next(FIRST, SECOND, N1, N2),
        *_again(SECOND, BLUE, N1, N2),
        *_blue(SECOND, FIRST),
    ],
    "PREPARE twice in a view": [
        *_prepare(FIRST, RED, N0, N1),
        *_prepare(FIRST, BLUE, N1, N2),
        *_commit(FIRST, RED, N0, N1, quorum="013"),
        *_decide(FIRST, RED, N0, "013"),
        *_next(FIRST, SECOND, N1, N2),
        *_again(SECOND, BLUE, N1, N2),
        *_blue(SECOND, FIRST),
    ],
    "COMMIT without a quorum": [*_red(FIRST), *_next(FIRST, SECOND, N1, N2), *_nil(SECOND, N1, N2), *_blue(SECOND)],
    "COMMIT in a view that was left": [
        *_prepare(FIRST, RED, N0, N1),
        *_commit(FIRST, RED, N0, quorum="013"),
        *_LATER,
        *_commit(FIRST, RED, N1, quorum="013"),
        *_decide(FIRST, RED, N0, "013"),
    ],
    "no lock at COMMIT": [*_red(FIRST), *_LATER],
    "unlock on NIL": [
        *_red(FIRST),
        *_next(FIRST, SECOND, N1, N2),
        *_nil(SECOND, N1, N2),
        Step("l2_commit_nil", N1, SECOND, quorum="123"),
        *_next(SECOND, THIRD, N1, N2),
        *_prepare(THIRD, BLUE, N1, N2),
        *_blue(THIRD),
    ],
    "decide without a quorum": [*_decide(FIRST, RED, N0, "012"), *_decide(FIRST, BLUE, N1, "012")],
    "lock lost at restart": [*_red(FIRST), Step("x2_restart", N1, FIRST), *_LATER],
    "votes forgotten at restart": [
        *_prepare(FIRST, RED, N0, N1),
        Step("x2_restart", N1, FIRST),
        *_prepare(FIRST, BLUE, N1, N2),
        *_commit(FIRST, RED, N0, N1, quorum="013"),
        *_decide(FIRST, RED, N0, "013"),
        Step("x2_restart", N1, FIRST),
        *_nil(FIRST, N1),
        *_blue(FIRST),
    ],
}
"""By the name of the mutant."""


def played(name: str, actions: Mapping[str, Action] = ACTIONS) -> set[str]:
    """The blocks that were decided, two after a fork; raises Stopped."""
    play = Play(actions)
    for step in PLAYS[name]:
        play.take(step)
    return play.decisions
