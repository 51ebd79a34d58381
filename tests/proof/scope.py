"""A small world instead of any: 4 nodes, one of them Byzantine, 3 views, 2 blocks. In it every "for all" is a finite "and".

For finding counterexamples: over worlds of any size the solver may search without end for one, here it cannot. Never for proving.
"""

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import z3

from tests.proof import model
from tests.proof.model import FIRST, NIL, NO_VIEW, Block, Node, Quorum, View

NODES = tuple(z3.Consts("node0 node1 node2 node3", Node))
HONEST = NODES[:3]
VIEWS = (NO_VIEW, FIRST, *z3.Consts("view1 view2", View))
BLOCKS = (NIL, *z3.Consts("block1 block2", Block))
ACTION_CONSTANTS = (
    *(model.ME, model.PROPOSER, model.VIEW, model.VALID_VIEW, model.EARLIER_VALID_VIEW, model.LEFT_VIEW),
    *(model.BLOCK, model.QUORUM),
)
Settled = bool | z3.BoolRef  # either decided already, or what is left to decide
Written = Callable[[tuple[Any, ...]], Any]  # a formula as a function of what its bound variables stand for


class Scope:
    """`quorum` members make one: 3 of 4 is right, 2 of 4 is a rule broken. `settled`: further relations, over the elements' names."""

    def __init__(self, quorum: int = 3, settled: dict[str, Callable[..., bool]] | None = None) -> None:
        sets = list(combinations(NODES, quorum))
        self.quorums = {z3.Const(f"quorum{i}", Quorum): members for i, members in enumerate(sets)}
        self._universe = {Node: NODES, View: VIEWS, Block: BLOCKS, Quorum: tuple(self.quorums)}
        self._by_name = {e.decl().name(): e for elements in self._universe.values() for e in elements}
        position = {view.decl().name(): i for i, view in enumerate(VIEWS)}
        honest = {node.decl().name() for node in HONEST}
        inside = {(m.decl().name(), q.decl().name()) for q, members in self.quorums.items() for m in members}
        self._fixed: dict[str, Callable[..., bool]] = {
            "before": lambda one, other: position[one] < position[other],
            "honest": lambda node: node in honest,
            "member": lambda node, quorum_: (node, quorum_) in inside,
            "=": lambda one, other: one == other,
            "distinct": lambda one, other: one != other,
            **(settled or {}),
        }

    def facts(self) -> list[z3.BoolRef]:
        """The actions' constants are among the elements, which differ, and the fixed relations are as they are."""
        facts = [z3.Distinct(*elements) for elements in self._universe.values() if len(elements) > 1]
        facts += [z3.Or(*(constant == e for e in self._universe[constant.sort()])) for constant in ACTION_CONSTANTS]
        for relation, sorts in ((model.before, (View, View)), (model.honest, (Node,)), (model.member, (Node, Quorum))):
            for chosen in product(*(self._universe[sort] for sort in sorts)):
                names = (element.decl().name() for element in chosen)
                facts.append(relation(*chosen) == self._fixed[relation.name()](*names))
        return facts

    def elements(self, sort: z3.SortRef) -> tuple[z3.ExprRef, ...]:
        return self._universe[sort]

    def ground(self, formula: z3.BoolRef) -> z3.BoolRef:
        """The same formula with every quantifier written out, and what is settled left out."""
        settled = self._write(formula)(())
        return z3.BoolVal(settled) if isinstance(settled, bool) else settled

    def _write(self, e: z3.ExprRef) -> Written:
        """The solver's own library takes minutes for what plain functions do in a second. Elements go by their names here."""
        if z3.is_var(e):
            index = -1 - z3.get_var_index(e)
            return lambda bound: bound[index]
        if z3.is_quantifier(e):
            names = [[x.decl().name() for x in self._universe[e.var_sort(i)]] for i in range(e.num_vars())]
            body, both = self._write(e.body()), _all if e.is_forall() else _any
            return lambda bound: both(body(bound + chosen) for chosen in product(*names))
        parts = [self._write(part) for part in e.children()]
        if z3.is_and(e):
            return lambda bound: _all(part(bound) for part in parts)
        if z3.is_or(e):
            return lambda bound: _any(part(bound) for part in parts)
        if z3.is_implies(e):
            given, then = parts
            return lambda bound: _any(side(bound) for side in (lambda b: _not(given(b)), then))
        if z3.is_not(e):
            return lambda bound: _not(parts[0](bound))
        if z3.is_true(e) or z3.is_false(e):
            truth = z3.is_true(e)
            return lambda bound: truth
        return self._write_term(e, parts)

    def _write_term(self, e: z3.ExprRef, parts: list[Written]) -> Written:
        name, declaration, written = e.decl().name(), e.decl(), {}
        if not parts:
            plain = name if name in self._by_name else e
            return lambda bound: plain
        fixed = self._fixed.get(name)

        def term(bound: tuple[Any, ...]) -> Any:
            given = tuple(part(bound) for part in parts)
            if fixed is not None and all(isinstance(x, str) for x in given):
                return fixed(*given)
            if name == "if" and isinstance(given[0], bool):
                return given[1] if given[0] else given[2]
            key = tuple(x if isinstance(x, str | bool) else x.get_id() for x in given)
            if key not in written:
                made = declaration(*(self._by_name[x] if isinstance(x, str) else x for x in given))
                written[key] = (made, given)  # what is held keeps its id
            return written[key][0]

        return term


def _not(part: Settled) -> Settled:
    return not part if isinstance(part, bool) else z3.Not(part)


def _all(parts: Iterable[Settled]) -> Settled:
    kept = []
    for part in parts:
        if part is False:
            return False
        if part is not True:
            kept.append(part)
    return z3.And(kept) if kept else True


def _any(parts: Iterable[Settled]) -> Settled:
    kept = []
    for part in parts:
        if part is True:
            return True
        if part is not False:
            kept.append(part)
    return z3.Or(kept) if kept else False
