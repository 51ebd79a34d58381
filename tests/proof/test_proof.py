"""The proof of agreement and the arithmetic of thresholds, run; and that `Committee` computes what the arithmetic is about."""

from functools import cache

import pytest
import z3

from consensus.committee import Committee
from consensus.identifiers import PublicKey
from consensus.limits import MEMBERS_MAX
from tests.proof import accountability, agreement, arithmetic, heights, invariants, model, mutants
from tests.proof.prover import follows


@pytest.mark.parametrize("title", agreement.PARTS)
def test_everything_is_proved(title: str) -> None:
    answers = list(agreement.PARTS[title]())
    assert answers
    assert [answer.question for answer in answers if not answer.proved] == []


def test_and_not_in_vain() -> None:
    """What contradicts itself proves everything: there is a state with a decision, a later lock and a block proposed again."""
    answers = list(agreement.not_in_vain())
    assert len(answers) == 3
    assert [answer.question for answer in answers if not answer.found] == []


def test_committees_need_to_follow_from_the_chain() -> None:
    assert heights.one_committee(heights.rules()).proved
    assert heights.one_committee(heights.three_heights_without_rule_m1()).found


def test_a_certificate_of_several_valid_views_would_convict_nobody() -> None:
    """Accountability is why PREPAREs count together only if they name one valid_view."""
    s, voter, quorum = model.any_state(), model.n, accountability.PREPARES
    prepared = s.prepared(voter, accountability.TURN, accountability.RIVAL, model.u)
    loose = z3.ForAll(voter, z3.Implies(model.member(voter, quorum), z3.Exists(model.u, prepared)))
    earlier = z3.Exists([voter, model.u], z3.And(prepared, model.before(model.u, accountability.EARLY)))
    decided = model.commit_certificate(s, accountability.COMMITS, accountability.EARLY, accountability.ONE)
    forgot = accountability.convicted(s, accountability.COMMITS, quorum, invariants.amnesia)
    assert follows("not convicted", [*model.VIEWS_ARE_ORDERED, decided, loose, earlier], forgot).found


def test_where_other_thresholds_break() -> None:
    first = {name: arithmetic.smallest(arithmetic.unsafe, quorum) for name, quorum in arithmetic.OTHERS.items()}
    assert first == {"floor(2P / 3)": (2, 0), "int(0.67 P)": (2, 0), "ceil(2P / 3)": None, "ceil(67P / 100)": None}
    assert arithmetic.smallest(arithmetic.stuck, arithmetic.OTHERS["ceil(67P / 100)"]) == (103, 34)
    assert arithmetic.smallest(arithmetic.stuck, arithmetic.just_more_than_two_thirds) is None


def test_the_committee_counts_as_the_arithmetic_does() -> None:
    """For every size and every threshold that a genesis may ask for."""
    members, percent, q = z3.IntVal, (0, *arithmetic.PERCENTAGES), arithmetic.just_more_than_two_thirds
    for size in range(1, MEMBERS_MAX + 1):
        keys = [PublicKey(number.to_bytes(32, "big")) for number in range(size)]
        f = _value(arithmetic.faults(members(size)))
        for asked in percent:
            committee = Committee.of(keys, asked)
            quorum = arithmetic.at_least(asked) if asked else q
            assert committee.quorum() == _value(quorum(members(size)))
            assert (committee.faults_tolerated(), committee.blocking()) == (f, f + 1)


def _value(term: z3.ArithRef) -> int:
    return int(z3.simplify(term).as_long())


@cache
def small_world() -> mutants.SmallWorld:
    return mutants.SmallWorld()


@pytest.mark.parametrize("name", ["COMMIT without a quorum", "no lock at COMMIT", "unlock on NIL"])
def test_a_broken_rule_breaks_the_proof(name: str) -> None:
    """All of them with --long: these three are quick."""
    verdict = mutants.judged(_mutant(name), small_world())
    assert verdict.broken
    assert not verdict.agrees


@pytest.mark.long
@pytest.mark.parametrize("name", [mutant.name for mutant in mutants.MUTANTS])
def test_every_broken_rule_breaks_the_proof(name: str) -> None:
    verdict = mutants.judged(_mutant(name), small_world())
    assert verdict.broken
    assert verdict.agrees == (name in mutants.HARMLESS)


@pytest.mark.parametrize("name", ["no lock at COMMIT", "lock lost at restart", "ignore the lock for fresh blocks"])
def test_a_broken_rule_forks(name: str) -> None:
    assert mutants.forks_when_broken(_mutant(name))


@pytest.mark.long
@pytest.mark.parametrize("name", [mutant.name for mutant in mutants.MUTANTS])
def test_every_broken_rule_forks_unless_it_is_harmless(name: str) -> None:
    harmless = name in mutants.HARMLESS or name == mutants.UNCHECKED
    assert mutants.forks_when_broken(_mutant(name)) != harmless


@pytest.mark.long
def test_quorums_that_do_not_intersect_fork() -> None:
    assert mutants.SmallWorld(quorum=2).forks()
    assert not small_world().forks()


def _mutant(name: str) -> mutants.Mutant:
    return next(mutant for mutant in mutants.MUTANTS if mutant.name == name)
