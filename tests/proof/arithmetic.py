"""Thresholds in integers, for committees of every size: `python -m tests.proof.arithmetic` prints what holds, and where others break.

P members, fewer than a third of them Byzantine; a quorum is q = 2P // 3 + 1, or more where the genesis asks for a percentage.
test_proof.py compares `Committee` with these formulas for every size that it allows.
"""

import sys
from collections.abc import Callable, Iterator

import z3

from tests.proof.prover import Answer, follows

P, byzantine, shared = z3.Ints("members byzantine shared")
Quorum = Callable[[z3.ArithRef], z3.ArithRef]
PERCENTAGES = range(67, 101)


def just_more_than_two_thirds(members: z3.ArithRef) -> z3.ArithRef:
    return 2 * members / 3 + 1


def faults(members: z3.ArithRef) -> z3.ArithRef:
    return (members - 1) / 3


def at_least(percent: int) -> Quorum:
    """Rule Q4."""

    def quorum(members: z3.ArithRef) -> z3.ArithRef:
        least, asked = just_more_than_two_thirds(members), (members * percent + 99) / 100
        return z3.If(asked > least, asked, least)

    return quorum


OTHERS: dict[str, Quorum] = {
    "floor(2P / 3)": lambda members: 2 * members / 3,
    "int(0.67 P)": lambda members: 67 * members / 100,
    "ceil(2P / 3)": lambda members: (2 * members + 2) / 3,
    "ceil(67P / 100)": lambda members: (67 * members + 99) / 100,
}
"""Rules that look alike."""


def fewer_than_a_third() -> list[z3.BoolRef]:
    return [P >= 1, byzantine >= 0, 3 * byzantine < P]


def two_quorums(quorum: Quorum) -> list[z3.BoolRef]:
    """Any two share at least so many: each leaves out at most P - q."""
    return [shared >= 2 * quorum(P) - P, shared >= 0]


def unsafe(quorum: Quorum) -> list[z3.BoolRef]:
    """The members that two quorums share may all be Byzantine: then two blocks can be decided."""
    return [*fewer_than_a_third(), *two_quorums(quorum), shared <= byzantine]


def stuck(quorum: Quorum) -> list[z3.BoolRef]:
    """The honest are no quorum: then the Byzantine can stop everything by saying nothing."""
    return [*fewer_than_a_third(), P - byzantine < quorum(P)]


def answers() -> Iterator[Answer]:
    q, f = just_more_than_two_thirds, faults(P)
    third = fewer_than_a_third()
    yield follows(
        "q = 2P // 3 + 1: two quorums share more than the Byzantine", [*third, *two_quorums(q)], shared > byzantine
    )
    yield follows("two quorums share more than f members", [P >= 1, *two_quorums(q)], shared >= f + 1)
    yield follows("f = (P - 1) // 3 is all that is fewer than a third", third, byzantine <= f)
    yield follows("the honest are a quorum: P - f >= q", [P >= 1], P - f >= q(P))
    yield follows("a blocking set P - q + 1 is f + 1", [P >= 1], P - q(P) + 1 == f + 1)
    yield follows(
        "with at most 2f Byzantine every quorum has an honest member", [P >= 1, byzantine <= 2 * f], q(P) > byzantine
    )
    least = [at_least(percent)(P) for percent in PERCENTAGES]
    safe = [z3.And(q(P) <= asked, asked <= P, P - (f + 1) < asked) for asked in least]
    yield follows("67 to 100 percent: no lower than q, at most all, and f + 1 members block it", [P >= 1], z3.And(safe))
    apart = [z3.Implies(shared >= 2 * asked - P, shared > byzantine) for asked in least]
    yield follows("67 to 100 percent: two quorums share more than the Byzantine", third, z3.And(apart))
    alive = [(P - byzantine >= asked) == (byzantine <= P - asked) for asked in least]
    yield follows("67 to 100 percent: the others are a quorum while at most P - q are silent", [P >= 1], z3.And(alive))


def smallest(what: Callable[[Quorum], list[z3.BoolRef]], quorum: Quorum) -> tuple[int, int] | None:
    """(P, Byzantine) of the first size at which it goes wrong."""
    solver = z3.Optimize()
    solver.add(*what(quorum), quorum(P) >= 1)
    solver.minimize(P)
    if solver.check() != z3.sat:
        return None
    model = solver.model()
    return model[P].as_long(), model[byzantine].as_long()


def report() -> Iterator[str]:
    for answer in answers():
        yield f"{'proved' if answer.proved else answer.verdict}  {answer.seconds:6.2f} s  {answer.question}"
    yield ""
    yield f"{'quorum':20s} {'two decisions':34s} stopped by the silent"
    asked = {f"at least {percent} %": at_least(percent) for percent in (67, 75, 90, 100)}
    for name, quorum in {"2P // 3 + 1": just_more_than_two_thirds, **OTHERS, **asked}.items():
        yield f"{name:20s} {_said(smallest(unsafe, quorum)):34s} {_said(smallest(stuck, quorum))}"


def _said(found: tuple[int, int] | None) -> str:
    return "never" if found is None else f"first with P = {found[0]}, {found[1]} Byzantine"


if __name__ == "__main__":
    for line in report():
        sys.stdout.write(line + "\n")
