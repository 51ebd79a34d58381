"""consensus.waiting and consensus.suspicion: what is kept of the future and of culprits, and for how long."""

from dataclasses import replace

from consensus.identifiers import NIL
from consensus.limits import EVIDENCE_AGE_HEIGHTS_MAX, WAITING_PER_MEMBER_MAX
from consensus.suspicion import Suspicion
from consensus.waiting import Waiting
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import contribution
from tests.consensus.bench import Bench
from tests.consensus.test_membership import double_contribution


def fresh() -> tuple[Bench, Waiting]:
    return Bench(), Waiting()


def test_messages_of_each_kind_are_kept_up_to_a_bound_and_in_a_fixed_order() -> None:
    bench, waiting = fresh()
    sent = [bench.prepare(i, view, None) for view in range(9) for i in (3, 1, 2)] + [bench.commit(1, 0, None)]
    for message in sent:
        waiting.add(message, bench.state, verify=bench.signatures.verify)
    taken = list(waiting.take(1))
    assert [m.author for m in taken] == sorted(m.author for m in taken)
    assert len(taken) == 3 * WAITING_PER_MEMBER_MAX + 1
    assert list(waiting.take(1)) == []


def test_strangers_leave_no_trace() -> None:
    bench, waiting = fresh()
    waiting.add(bench.prepare(9, 0, None), bench.state, verify=bench.signatures.verify)
    assert list(waiting.take(1)) == [] and waiting.height_shown(bench.state) == 0


def test_a_proposal_that_came_two_heights_early_counts_when_its_height_is_next() -> None:
    bench, waiting = fresh()
    first = bench.block(1, 1)
    later = Bench(state=bench.state.after(first, bench.committed(0, first, (0, 1, 2))))
    later.signatures = bench.signatures
    offer = later.proposal(2, 0, later.block(2, 2))
    waiting.add(offer, bench.state, verify=bench.signatures.verify)
    assert waiting.proposed(bench.state) is None
    waiting.moved_to(later.state, verify=bench.signatures.verify)
    assert waiting.proposed(later.state) == offer.block and not waiting.wants(later.state)
    assert list(waiting.take(2)) == [offer]


def test_a_proposal_of_a_later_view_alone_wants_nothing() -> None:
    bench, waiting = fresh()
    waiting.add(bench.proposal(2, 1, bench.block(2, 2)), bench.state, verify=bench.signatures.verify)
    assert not waiting.wants(bench.state) and waiting.proposed(bench.state) is None


def test_f_plus_1_members_show_a_height_one_does_not() -> None:
    bench, waiting = fresh()
    for author, height in ((1, 50), (2, 40), (3, 30)):
        waiting.add(bench.prepare(author, 0, None, height=height), bench.state, verify=bench.signatures.verify)
        expected = {1: 0, 2: 40, 3: 40}[author]
        assert waiting.height_shown(bench.state) == expected


def test_a_decision_comes_out_first_and_only_at_its_height() -> None:
    bench, waiting = fresh()
    block = bench.block(1, 1)
    waiting.add(bench.commit(1, 0, block), bench.state, verify=bench.signatures.verify)
    weak, decision = bench.committed(0, block, (1, 2)), bench.committed(0, block, (1, 2, 3))
    assert not waiting.add_certificate(weak, bench.state, verify=bench.signatures.verify)
    assert waiting.add_certificate(decision, bench.state, verify=bench.signatures.verify)
    assert next(waiting.take(1)) == decision


def test_proofs_wait_once_per_author_and_kind_and_expire() -> None:
    bench, suspicion = Bench(), Suspicion()
    proof = double_contribution(bench, 1)
    assert suspicion.add(proof, bench.state) and not suspicion.add(proof, bench.state)
    assert not suspicion.add(double_contribution(bench, 9), bench.state)  # a stranger
    assert suspicion.for_next_block(bench.state) == (proof,)
    suspicion.moved_to(replace(bench.state, height=EVIDENCE_AGE_HEIGHTS_MAX + 5))
    assert suspicion.pending() == ()


def test_contributions_are_watched_for_two_heights_only() -> None:
    bench, suspicion = Bench(), Suspicion()
    for height, expected in ((0, True), (1, True), (2, False)):
        state = replace(bench.state, height=height)
        one, other = (contribution(bench.signatures, 1, state, salt=salt) for salt in (b"", b"x"))
        assert suspicion.watch(one, bench.state) is None
        assert (suspicion.watch(other, bench.state) is not None) == expected
    assert key(1) != NIL


def test_a_certificate_of_a_far_height_costs_no_more_than_its_first_bad_signature() -> None:
    bench, waiting = fresh()
    asked: list[bytes] = []

    def verify(author: bytes, statement: bytes, signature: bytes) -> bool:
        asked.append(author)
        return bench.signatures.verify(author, statement, signature)

    votes = [replace(bench.commit(3, 0, None, height=9), signature=bytes(64)) for _ in range(100)]
    assert not waiting.add_certificate(bench.view_ends(0, (), height=9, votes=votes), bench.state, verify=verify)
    assert len(asked) == 1
