"""Thresholds in integers, and growth as a pure function of blocks."""

from dataclasses import replace

import pytest

from consensus import BlockContent, Committee, Contribution, Malformed, Membership, Purpose, Rules, advance, weights
from consensus.advance import evidence_problem
from consensus.evidence import evidence_of
from consensus.limits import CANDIDATES_MAX, EVIDENCE_AGE_HEIGHTS_MAX
from consensus.membership import Guest, UsedToken
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import Bench


def committee(n: int) -> Committee:
    return Committee.of(key(i) for i in range(n))


@pytest.mark.parametrize(
    ("n", "quorum"),
    [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 3),
        (5, 4),
        (6, 5),
        (7, 5),
        (8, 6),
        (9, 7),
        (10, 7),
        (13, 9),
        (16, 11),
        (31, 21),
        (67, 45),
        (100, 67),
    ],
)
def test_quorums(n: int, quorum: int) -> None:
    assert committee(n).quorum() == quorum


@pytest.mark.parametrize("n", range(1, 129))
def test_thresholds_fit_together(n: int) -> None:
    members = committee(n)
    q, b, f = members.quorum(), members.blocking(), members.faults_tolerated()
    assert 3 * q > 2 * n and 3 * (q - 1) <= 2 * n
    assert 2 * q - n > f and n - f >= q and b == n - q + 1 == f + 1


def test_the_proposer_goes_round_by_height_and_view() -> None:
    members = committee(4)
    assert [members.proposer(h, v) for h in (4, 5) for v in range(3)] == [key(i) for i in (0, 1, 2, 1, 2, 3)]
    assert {members.proposer(10, v) for v in range(4)} == set(members.members)


def test_committees_are_sorted_unique_and_bounded() -> None:
    for wrong in ((), (key(1), key(0)), (key(1), key(1)), tuple(key(i) for i in range(129)), (b"short",)):
        with pytest.raises(Malformed):
            Committee(wrong)
    assert committee(3).hash != committee(4).hash


class Chain:
    """Blocks of contributors only."""

    def __init__(self, founders: int, **rules: object) -> None:
        self.bench = Bench(nodes=founders)
        self.rules = Rules(**rules)  # type: ignore[arg-type]
        self.membership = Membership.founding(key(i) for i in range(founders))
        self.height = 0

    def block(self, *authors: int, probes: tuple[int, ...] = ()) -> list[int]:
        """The sizes of the committees of the next two heights after a block with these contributors."""
        state, signatures = self.bench.state, self.bench.signatures
        listed = [contribution(signatures, i, state) for i in authors]
        listed += [contribution(signatures, i, state, purpose=Purpose.PROBE) for i in probes]
        self.height += 1
        content = BlockContent(self.height, key(0), contributions=listed)
        self.membership = advance(self.membership, content, self.rules)
        return [len(self.membership.current), len(self.membership.next)]


def test_from_one_to_four_together_two_heights_later() -> None:
    chain = Chain(1)
    assert [chain.block(0, 1, 2, 3) for _ in range(4)] == [[1, 1], [1, 1], [1, 4], [4, 4]]


def test_two_and_three_are_no_place_to_stop() -> None:
    chain = Chain(1)
    for _ in range(10):
        assert chain.block(0, 1, 2) == [1, 1]
    assert chain.block(0, 1, 2, 3) == [1, 1]
    assert [chain.block(0, 1, 2, 3), chain.block(0, 1, 2, 3)] == [[1, 1], [1, 4]]


def test_candidates_must_be_in_both_of_the_last_two_blocks() -> None:
    chain = Chain(1)
    for _ in range(3):
        chain.block(1, 2)
    for _ in range(3):
        chain.block(3)
    assert chain.block(1, 2, 3) == [1, 1]
    assert chain.block(1, 2, 3) == [1, 4]


def test_from_four_on_one_at_a_time_smallest_key_first() -> None:
    chain = Chain(4)
    sizes = [chain.block(4, 5, 6)[1] for _ in range(6)]
    assert sizes == [4, 4, 5, 6, 7, 7]
    chain = Chain(4)
    for _ in range(3):
        chain.block(6, 5)
    assert key(5) in chain.membership.next and key(6) not in chain.membership.next


def test_nobody_is_admitted_by_invitation_yet_nor_beyond_the_limit_nor_for_probes() -> None:
    for rules in ({"admission": "invite"}, {"members_max": 4}):
        chain = Chain(4, **rules)
        assert [chain.block(5)[1] for _ in range(6)] == [4] * 6
    chain = Chain(4)
    assert [chain.block(probes=(5,))[1] for _ in range(6)] == [4] * 6
    assert chain.membership.accepted == ()


def test_fresh_keys_do_not_grow_the_table() -> None:
    chain = Chain(4)
    chain.block(200)
    crowd = tuple((bytes([250]) + i.to_bytes(31, "big"), 1) for i in range(CANDIDATES_MAX + 50))
    chain.membership = replace(chain.membership, accepted=((key(200), 9), *crowd))
    chain.block(201)
    assert len(chain.membership.accepted) == CANDIDATES_MAX
    assert (key(200), 9) in chain.membership.accepted


def test_weights() -> None:
    bench = Bench()
    listed = [contribution(bench.signatures, i, bench.state) for i in (0, 3, 5)]
    probe = contribution(bench.signatures, 0, bench.state, purpose=Purpose.PROBE)
    assert weights([*listed, probe], committee(4)) == (1, 1, 0, 0)
    assert weights([*listed, probe], committee(3)) == (1, 0, 0, 0)
    assert weights([*listed, probe], committee(1)) == (1, 1, 1, 0)
    assert weights([], committee(1)) == ()


def test_the_hash_covers_every_field() -> None:
    chain = Chain(4)
    for _ in range(2):
        chain.block(0, 5)
    membership, offence = chain.membership, double_contribution(chain.bench, 5)
    later = advance(membership, BlockContent(3, key(0), evidence=(offence,)), chain.rules)
    changed = [
        membership,
        replace(membership, previous=committee(5)),
        replace(membership, current=committee(5)),
        replace(membership, next=committee(5)),
        replace(membership, accepted=()),
        replace(membership, recent=(membership.recent[0], ())),
        replace(membership, recent=((), membership.recent[1])),
        replace(membership, offences=later.offences),
        replace(membership, permitted=(key(5),)),
        replace(membership, answered=((key(5), 1),)),
        *(replace(membership, guests=(guest,)) for guest in (Guest(key(5), key(0), 9), Guest(key(5), key(1), 9))),
        *(replace(membership, tokens=(used,)) for used in (UsedToken(key(5), key(0), 9), UsedToken(key(5), key(0), 8))),
    ]
    assert len({m.hash for m in changed}) == len(changed)


def double_contribution(bench: Bench, author: int):
    one, other = (contribution(bench.signatures, author, bench.state, salt=salt) for salt in (b"", b"x"))
    pairs = [(c.statement(CHAIN_ID), c.signature) for c in (one, other)]
    return evidence_of(key(author), *pairs)


def test_evidence_counts_once_per_author_and_kind_and_window() -> None:
    bench, rules = Bench(), Rules()
    membership, proof = bench.state.membership, double_contribution(bench, 1)
    assert evidence_problem(proof, membership, height=1) is None
    after = advance(membership, BlockContent(1, key(0), evidence=(proof,)), rules)
    assert "already" in str(evidence_problem(proof, after, height=2))
    assert "old" in str(evidence_problem(proof, membership, height=2 + EVIDENCE_AGE_HEIGHTS_MAX))
    assert "future" in str(evidence_problem(proof, membership, height=0))
    assert "stranger" in str(evidence_problem(double_contribution(bench, 9), membership, height=1))
    for height in range(2, EVIDENCE_AGE_HEIGHTS_MAX + 5):
        after = advance(after, BlockContent(height, key(0)), rules)
    assert after.offences == ()


def test_rules_are_checked() -> None:
    for wrong in ({"admission": "all"}, {"probation_contributions": 0}, {"members_max": 0}, {"members_max": 129}):
        with pytest.raises(ValueError):
            Rules(**wrong)
    assert isinstance(contribution(Bench().signatures, 0, Bench().state), Contribution)
