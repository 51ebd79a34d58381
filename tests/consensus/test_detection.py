"""Where offences are found: in statements alone, in certificates, in what a message carries inside, and in a height decided already.

What `facts.py` notices of votes and proposals, and `tally.py` of two votes in one slot.
"""

import pytest

from consensus import (
    Block,
    BlockBuilt,
    BuildBlock,
    CertificateReceived,
    Decide,
    EvidenceReceived,
    FetchBlock,
    Refused,
    ReportEvidence,
    StartHeight,
    ViewStatus,
)
from consensus.events import Timer, TimerFired, TimerKind
from consensus.facts import Facts
from consensus.limits import VIEWS_KEPT_MAX
from consensus.messages import Proposal
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import block_on
from tests.consensus.bench import Bench, of


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.begin()
    return bench


def reported(bench: Bench, *events: object) -> list[tuple[bytes, str]]:
    return [(e.evidence.author, str(e.evidence.kind)) for e in of(ReportEvidence, bench.accept(*events))]


class TestAmnesia:
    """n3 COMMITs `block` in view 0 and PREPAREs `other` in view 1, or the other way round."""

    found = [(key(3), "amnesia")]

    @pytest.fixture(autouse=True)
    def blocks(self, bench: Bench) -> None:
        self.block, self.other = bench.block(1, 1), bench.block(2, 2)

    def test_alone_in_either_order(self, bench: Bench) -> None:
        commit, prepare = bench.commit(3, 0, self.block), bench.prepare(3, 1, self.other)
        assert reported(bench, commit, prepare) == self.found
        again = Bench()
        again.begin()
        assert reported(again, again.prepare(3, 1, self.other), again.commit(3, 0, self.block)) == self.found
        assert reported(again, commit, prepare) == []

    def test_what_a_lock_allows(self, bench: Bench) -> None:
        said = (bench.prepare(3, 1, self.block), bench.prepare(2, 1, None), bench.prepare(1, 1, self.other, 0))
        assert reported(bench, *[bench.commit(i, 0, self.block) for i in (1, 3)], *said) == []

    def test_in_certificates(self, bench: Bench) -> None:
        committed, prepared = bench.committed(0, self.block, (1, 2, 3)), bench.prepared(5, self.other, (1, 2, 3))
        ended = bench.view_ends(0, (0, 1, 2))
        found = reported(
            bench, CertificateReceived(ended), bench.commit(3, 0, self.block), CertificateReceived(prepared)
        )
        assert found == self.found
        assert {author for author, _ in reported(bench, CertificateReceived(committed))} == {key(1), key(2)}

    @pytest.mark.parametrize("kind", [Proposal, ViewStatus])
    def test_inside_a_proposal_and_a_status(self, kind: type) -> None:
        bench = Bench(nodes=7)
        bench.begin()
        block, other = bench.block(1, 1), bench.block(2, 2)
        bench.show(bench.view_ends(0, (1, 2, 4, 5, 6)))
        prepared = bench.prepared(1, other, (1, 2, 3, 4, 5))
        message = bench.status(2, 2, prepared) if kind is ViewStatus else bench.proposal(3, 2, other, prepared)
        assert reported(bench, bench.commit(3, 0, block), message) == self.found

    def test_at_the_height_decided_last(self, bench: Bench) -> None:
        decide(bench, self.block)
        late = bench.prepare(3, 1, self.other)
        assert reported(bench, late) == self.found
        prepared = bench.prepared(1, self.other, (1, 2, 3))
        assert {author for author, _ in reported(bench, bench.status(2, 2, prepared))} == {key(1), key(2)}

    def test_in_the_certificate_that_the_next_block_carries(self, bench: Bench) -> None:
        """n3's COMMIT is in the next proposer's certificate only; its PREPARE of a later view came before."""
        assert reported(bench, bench.prepare(3, 1, self.other)) == []
        decide(bench, self.block, voters=(1, 2))
        state = bench.state.after(self.block, bench.committed(0, self.block, (1, 2, 3)))
        bench.step(StartHeight(2))
        block = bench.block_on(state)
        assert reported(bench, bench.proposal(2, 0, block)) == self.found

    def test_a_stale_view_is_forgotten_but_not_its_certificates(self, bench: Bench) -> None:
        far = VIEWS_KEPT_MAX + 5
        bench.accept(CertificateReceived(bench.view_ends(far, (1, 2, 3))))
        assert bench.engine.view > far
        assert reported(bench, bench.commit(3, 0, self.block), bench.prepare(3, far, self.other)) == []
        assert reported(bench, CertificateReceived(bench.committed(0, self.block, (1, 2, 3)))) == self.found


class TestWrongProposer:
    def test_at_the_running_height_and_the_one_before(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        assert reported(bench, bench.proposal(3, 0, block), bench.proposal(3, 7, block)) == [(key(3), "wrong_proposer")]
        decide(bench, block)
        assert reported(bench, bench.proposal(2, 0, block)) == [(key(2), "wrong_proposer")]
        assert reported(bench, bench.proposal(1, 0, block), bench.proposal(2, 1, block)) == []

    def test_a_proposal_by_nobody_is_refused_and_no_more(self, bench: Bench) -> None:
        effects = bench.accept(bench.proposal(9, 0, bench.block(1, 1)))
        assert of(Refused, effects) and not of(ReportEvidence, effects)

    def test_it_goes_into_the_next_block_and_acts(self) -> None:
        bench = Bench(me=1)
        bench.begin()
        effects = bench.step(bench.proposal(3, 0, bench.block(2, 2)))
        (found,) = of(ReportEvidence, effects)
        heard = Bench(me=2)
        heard.signatures._issued |= bench.signatures._issued
        heard.begin()
        assert of(ReportEvidence, heard.step(EvidenceReceived(found.evidence)))
        decide(heard, heard.block(1, 1), voters=(1, 3))
        (asked,) = of(BuildBlock, heard.step(StartHeight(2)))
        assert [proof.kind for proof in asked.template.evidence] == ["wrong_proposer"]
        second = block_on(asked.template, [])
        votes = [heard.commit(i, 0, second, 2) for i in (0, 1, 3)]
        (decided,) = of(Decide, heard.accept(BlockBuilt(2, 0, second), *votes))
        assert decided.block.evidence == (found.evidence,)
        assert key(3) not in heard.engine.state.membership.next and key(3) in heard.engine.state.membership.current


def decide(bench: Bench, block: Block, voters: tuple[int, ...] = (1, 2, 3)) -> None:
    """The engine at hand votes for it as well."""
    said = [bench.prepare(i, 0, block) for i in voters] + [bench.commit(i, 0, block) for i in voters]
    assert of(Decide, bench.accept(bench.proposal(1, 0, block), *said))


class Nobody:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.suspected: list[bytes] = []

    def suspect(self, author: bytes, *signed: object) -> None:
        self.suspected.append(author)

    def refuse(self, peer: bytes | None, reason: str) -> None:
        pass

    def notice(self, block: Block) -> None:
        pass


class TestFreeKeysAndVotes:
    """What costs whoever says it a signature, and must cost us no memory."""

    @pytest.fixture(autouse=True)
    def facts(self, bench: Bench) -> None:
        self.heard = Nobody()
        self.facts = Facts(bench.state, verify=bench.signatures.verify, observer=self.heard)

    def test_view_certificates_with_ever_other_votes_of_one_member(self, bench: Bench) -> None:
        for salt in range(20):
            other = bench.block_on(bench.state, salt)
            votes = [bench.commit(1, 0, None), bench.commit(2, 0, None), bench.commit(3, 0, other)]
            assert self.facts.add_certificate(bench.view_ends(0, (), votes=votes)) is None
        assert len(self.facts.of_view(0).commits.of(key(3))) == 2 and self.heard.suspected == [key(3)]

    def test_proposals_out_of_turn_by_strangers(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        for author in (*range(20, 40), 2):
            self.facts.add_proposal(bench.proposal(author, 0, block))
        assert self.heard.suspected == [key(2)]

    def test_a_block_that_we_voted_for_outlives_a_flood_of_others(self, bench: Bench) -> None:
        """A traitor may hold its certificate back, and whoever proposes then asks us for the block."""
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block))
        for view in range(40):
            proposer = bench.state.membership.current.proposer(1, view)
            if view > 0 and proposer == key(1):
                bench.step(*(bench.proposal(1, view, bench.block(1, view, 100 + i)) for i in (0, 1)))
            bench.step(*(bench.commit(i, view, None) for i in (1, 2, 3)), TimerFired(Timer(TimerKind.COMMIT, 1, view)))
        for i in range(100):
            bench.engine._running.facts.add_block(bench.block(1, 50 + i), sender=None)  # type: ignore[union-attr]
            bench.engine._running.facts.move_to(40)  # type: ignore[union-attr]
        assert bench.engine.block(block.hash) == block
        late = bench.prepared(0, block, (0, 1, 2))
        assert not of(FetchBlock, bench.show(late))
