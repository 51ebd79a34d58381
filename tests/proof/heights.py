"""From one height to all: honest nodes whose chains agree so far check the next height with the same committee.

The committee of a height follows from the blocks two and more below it alone (rule M1), and a certificate is checked with the committee of
its height (rule C1). So agreement at one height (agreement.py) carries over to all heights, one after another.

For editing: chains and committees are opaque here; whatever `advance` in consensus/membership.py computes is `committee_after`.
"""

from collections.abc import Iterator

from z3 import (
    And,
    BoolRef,
    BoolSort,
    Const,
    Consts,
    DeclareSort,
    ExprRef,
    ForAll,
    Function,
    Implies,
    Int,
    Ints,
    IntSort,
    IntVal,
)

from tests.proof.prover import Answer, follows

Node, Block, Chain, Committee = (DeclareSort(name) for name in ("Node", "Block", "Chain", "Committee"))
GENESIS = Const("genesis", Chain)
extended = Function("extended", Chain, Block, Chain)
committee_after = Function("committee_after", Chain, Committee)  # that of two heights on
founders = Const("founders", Committee)

decided = Function("decided", Node, IntSort(), BoolSort())  # the node holds a decision of this height and of all below
block = Function("block", Node, IntSort(), Block)
chain = Function("chain", Node, IntSort(), Chain)  # up to this height
committee = Function("committee", Node, IntSort(), Committee)  # with which the node checks this height's certificates

n, n1, n2 = Consts("n n1 n2", Node)
h, k = Ints("h k")
HEIGHT = Int("height")


def rules() -> list[BoolRef]:
    follows_from_the_chain = Implies(h >= 3, committee(n, h) == committee_after(chain(n, h - 2)))  # rule M1
    return [*THE_START, ForAll([n, h], one_by_one(h)), ForAll([n, h], follows_from_the_chain)]


def one_by_one(height: ExprRef) -> BoolRef:
    below = Implies(And(decided(n, height), height > 1), decided(n, height - 1))
    return And(below, Implies(height >= 1, chain(n, height) == extended(chain(n, height - 1), block(n, height))))


THE_START = [
    ForAll(n, chain(n, 0) == GENESIS),
    ForAll(n, And(committee(n, 1) == founders, committee(n, 2) == founders)),
]


def three_heights_without_rule_m1() -> list[BoolRef]:
    """A counterexample is looked for among few heights: one with endless chains is a model that z3 finds only by luck."""
    return [*THE_START, *(ForAll(n, one_by_one(IntVal(height))) for height in (1, 2, 3)), HEIGHT == 3]


def one_height_agrees() -> BoolRef:
    """What agreement.py proves, where both check with one committee."""
    both = And(decided(n1, h), decided(n2, h), committee(n1, h) == committee(n2, h))
    return ForAll([n1, n2, h], Implies(both, block(n1, h) == block(n2, h)))


def chains_agree(height: ExprRef) -> BoolRef:
    both = And(decided(n1, height), decided(n2, height))
    return ForAll([n1, n2], Implies(both, chain(n1, height) == chain(n2, height)))


def committees_agree(height: ExprRef) -> BoolRef:
    """Of all who are at this height: they decided the one below it."""
    both = And(decided(n1, height - 1), decided(n2, height - 1))
    return ForAll([n1, n2], Implies(both, committee(n1, height) == committee(n2, height)))


def one_committee(given: list[BoolRef]) -> Answer:
    below = [*given, HEIGHT > 2, chains_agree(HEIGHT - 2)]
    return follows("one committee for all whose chains agree two below", below, committees_agree(HEIGHT))


def answers() -> Iterator[Answer]:
    known = [*rules(), HEIGHT >= 1]
    everybody = ForAll([n1, n2], committee(n1, HEIGHT) == committee(n2, HEIGHT))
    yield follows("heights 1 and 2: the founders decide", [*known, HEIGHT <= 2], everybody)
    yield one_committee(rules())
    so_far = ForAll(k, Implies(And(k >= 1, k < HEIGHT), chains_agree(k)))
    step = [*known, so_far, one_height_agrees(), committees_agree(HEIGHT)]
    yield follows("the chains agree one height further", [*step, HEIGHT > 1], chains_agree(HEIGHT))
    yield follows("and at height 1", [*known, one_height_agrees(), HEIGHT == 1], chains_agree(HEIGHT))
