"""A key that signs elsewhere silences this engine; echoes of what it said itself, at any time and after a restart, do not."""

from dataclasses import replace

import pytest

from consensus import (
    Begin,
    BlockBuilt,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    CertificateReceived,
    ChainState,
    Commit,
    Decide,
    EvidenceReceived,
    KeyElsewhere,
    LocalFault,
    Prepare,
    Proposal,
    StartHeight,
    Synced,
    TimerFired,
)
from consensus.events import Timer, TimerKind
from consensus.evidence import evidence_of
from consensus.own_key import OwnKey
from consensus.record import statement_of
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import Bench, of


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.begin()
    return bench


def elsewhere(bench: Bench, *events: object) -> list[str]:
    return [effect.reason for effect in of(KeyElsewhere, bench.step(*events))]


def decided(bench: Bench) -> list[object]:
    """Node 0 votes for node 1's block of height 1, and everything it said."""
    block = bench.block(1, 1)
    effects = bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, block))
    return [e.message for e in of(Broadcast, effects)]


def test_echoes_of_what_we_said_are_harmless(bench: Bench) -> None:
    ours = decided(bench)
    assert {type(message) for message in ours} == {Prepare, Commit}
    assert elsewhere(bench, *ours) == []
    block = bench.block(1, 1)
    assert elsewhere(bench, CertificateReceived(bench.prepared(0, block, (0, 1, 2)))) == []


def test_echoes_of_what_we_said_before_a_restart_are_harmless(bench: Bench) -> None:
    ours = decided(bench)
    records = bench.records
    assert {statement_of(r) for r in records if r.kind == 3} == {m.statement(bench.state.chain_id) for m in ours}
    bench.boot(0, records)
    assert elsewhere(bench, *ours) == []
    assert elsewhere(bench, CertificateReceived(bench.prepared(0, bench.block(1, 1), (0, 1, 2)))) == []


def test_an_echo_may_be_the_first_that_a_restarted_engine_hears(bench: Bench) -> None:
    ours, records = decided(bench), bench.records
    bench.boot(0, records)
    assert elsewhere(bench, ours[0]) == []


def test_a_status_is_in_no_log_and_proves_nothing(bench: Bench) -> None:
    assert elsewhere(bench, bench.status(0, 3)) == []


def moved(bench: Bench, height: int) -> ChainState:
    """As if that many heights had been decided."""
    return replace(bench.state, height=height)


def strangers(bench: Bench) -> dict[str, object]:
    """What another copy of our key may have signed."""
    block = bench.block(1, 1)
    return {
        "prepare": bench.prepare(0, 0, block),
        "nil": bench.prepare(0, 0, None),
        "commit": bench.commit(0, 5, block),
        "proposal": bench.proposal(0, 3, block),
        "next height": bench.commit(0, 0, None, height=2),
        "far ahead": bench.commit(0, 0, None, height=77),
        "prepare certificate": CertificateReceived(bench.prepared(0, block, (0, 1, 2))),
        "commit certificate": CertificateReceived(bench.committed(0, block, (0, 1, 2))),
        "view certificate": CertificateReceived(bench.view_ends(4, (0, 1, 2))),
        "inside a proposal": bench.proposal(3, 2, block, bench.prepared(1, block, (0, 1, 2))),
        "inside a status": bench.status(2, 2, bench.prepared(1, block, (0, 1, 2))),
        "too few others": CertificateReceived(bench.prepared(0, block, (0,))),
    }


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("what", strangers(Bench()))
def test_a_vote_in_our_name_that_is_not_in_our_log_silences_us(what: str, idle: bool) -> None:
    bench = Bench()
    bench.step(Begin(), *([] if idle else [StartHeight(1)]))
    assert len(elsewhere(bench, strangers(bench)[what])) == 1
    assert elsewhere(bench, bench.prepare(0, 2, None)) == []  # said once
    ours = bench.step(StartHeight(1)) + bench.accept(bench.proposal(1, 0, bench.block(1, 1)))
    ours += bench.step(*(TimerFired(Timer(kind, 1, 0)) for kind in TimerKind))
    assert not of(Broadcast, ours) and not of(BroadcastCertificate, ours)


def test_a_silenced_engine_still_follows_and_decides(bench: Bench) -> None:
    bench.step(bench.prepare(0, 0, None))
    block = bench.block(1, 1)
    effects = bench.accept(bench.proposal(1, 0, block), *[bench.commit(i, 0, block) for i in (1, 2, 3)])
    assert of(Decide, effects)
    effects = bench.step(StartHeight(2))
    assert not of(Broadcast, effects) and not of(BuildBlock, effects) and bench.engine.greeting() == []


def test_what_somebody_else_made_up_in_our_name_does_not(bench: Bench) -> None:
    forged = bench.prepared(0, bench.block(1, 1), (0, 1, 2))
    signers = ((forged.signers[0][0], forged.signers[1][1]), *forged.signers[1:])
    assert elsewhere(bench, CertificateReceived(replace(forged, signers=signers))) == []


def test_heights_below_the_running_one_are_not_told(bench: Bench) -> None:
    block = bench.block(1, 1)
    state = bench.state.after(block, bench.committed(0, block, (1, 2, 3)))
    bench.step(Synced(state))
    assert elsewhere(bench, bench.prepare(0, 0, block), CertificateReceived(bench.committed(0, block, (0, 1, 2)))) == []


def test_a_log_that_is_ahead_of_the_chain_cannot_tell_about_the_heights_between() -> None:
    """The chain was lost, the log was not: of heights below its last one the log is pruned."""
    first = Bench()
    first.step(Begin())
    block = first.block(1, 1)
    first.step(Synced(first.state.after(block, first.committed(0, block, (1, 2, 3)))), StartHeight(2))
    first.step(TimerFired(Timer(TimerKind.PROPOSE, 2, 0)))
    assert [record.height for record in first.records] == [2]
    again = Bench(records=first.records)
    again.step(Begin())
    assert elsewhere(again, again.prepare(0, 0, block), again.prepare(0, 0, None)) == []
    assert elsewhere(again, again.prepare(0, 0, None, height=2)) == []  # this one the log holds
    assert len(elsewhere(again, again.commit(0, 0, None, height=2))) == 1


def test_two_contributions_in_our_name(bench: Bench) -> None:
    ours = contribution(bench.signatures, 0, bench.state)
    assert elsewhere(bench, ours, ours) == []
    assert len(elsewhere(bench, contribution(bench.signatures, 0, bench.state, salt=b"another copy"))) == 1


def test_our_own_proposal_shown_as_a_proof_is_none() -> None:
    """One PROPOSAL is well-formed evidence; whether it was out of turn only a committee tells."""
    bench = Bench(me=1)
    bench.begin()
    block = bench.block(1, 1)
    (ours,) = (e.message for e in of(Broadcast, bench.step(BlockBuilt(1, 0, block))) if isinstance(e.message, Proposal))
    proof = evidence_of(key(1), (ours.statement(CHAIN_ID), ours.signature))
    assert elsewhere(bench, EvidenceReceived(proof)) == []
    assert of(Decide, bench.accept(bench.commit(2, 0, block), bench.commit(3, 0, block), bench.commit(0, 0, block)))
    assert elsewhere(bench, EvidenceReceived(proof)) == []
    bench.step(Synced(moved(bench, 5)))
    assert elsewhere(bench, EvidenceReceived(proof)) == []


def test_a_proposal_out_of_turn_that_we_did_not_sign_silences_us(bench: Bench) -> None:
    false = bench.proposal(0, 0, bench.block(1, 1))  # it is node 1's turn
    proof = evidence_of(key(0), (false.statement(CHAIN_ID), false.signature))
    assert elsewhere(bench, EvidenceReceived(proof)) == ["a proof of wrong_proposer names our key"]


def test_our_own_block_may_be_what_shows_a_second_contribution() -> None:
    bench = Bench(me=1)
    bench.begin()
    assert elsewhere(bench, contribution(bench.signatures, 1, bench.state, salt=b"another copy")) == []
    effects = bench.step(BlockBuilt(1, 0, bench.block(1, 1)))
    assert len(of(KeyElsewhere, effects)) == 1 and not of(Broadcast, effects)


def test_a_proof_of_an_earlier_run_can_be_shown_for_ever_and_silences_nobody(bench: Bench) -> None:
    pair = [
        (v.statement(CHAIN_ID), v.signature) for v in (bench.commit(0, 3, bench.block(1, 1)), bench.commit(0, 3, None))
    ]
    proof = evidence_of(key(0), *pair)
    bench.step(Synced(moved(bench, 5)))
    assert elsewhere(bench, EvidenceReceived(proof)) == []
    again = Bench(state=moved(bench, 5))
    again.signatures = bench.signatures
    again.boot(0, ())
    again.begin(6)
    assert elsewhere(again, EvidenceReceived(proof)) == []


def test_a_proof_against_our_own_key_silences_us_also_after_its_height(bench: Bench) -> None:
    block = bench.block(1, 1)
    bench.accept(bench.proposal(1, 0, block), *[bench.commit(i, 0, block) for i in (1, 2, 3)])
    bench.step(StartHeight(2))
    pair = [(v.statement(CHAIN_ID), v.signature) for v in (bench.commit(0, 3, block), bench.commit(0, 3, None))]
    proof = evidence_of(key(0), *pair)
    forged = evidence_of(key(0), pair[0], (pair[1][0], pair[0][1]))
    assert elsewhere(bench, EvidenceReceived(forged)) == []
    assert elsewhere(bench, EvidenceReceived(proof)) == ["a proof of double_commit names our key"]


def test_a_certificate_of_the_height_decided_last_that_contradicts_us(bench: Bench) -> None:
    """Below the running height a log is pruned; what it still remembers is compared."""
    block = bench.block(1, 1)
    said = [bench.prepare(i, 0, block) for i in (1, 2)] + [bench.commit(i, 0, block) for i in (1, 2, 3)]
    assert of(Decide, bench.accept(bench.proposal(1, 0, block), *said))
    assert elsewhere(bench, CertificateReceived(bench.prepared(0, block, (0, 1, 2)))) == []
    other = bench.block(1, 2)
    assert len(elsewhere(bench, CertificateReceived(bench.prepared(0, other, (0, 1, 3))))) == 1


def test_a_node_without_a_key_or_a_seat_is_concerned_only_by_its_own() -> None:
    observer = Bench(me=None)
    observer.begin()
    assert elsewhere(observer, observer.prepare(0, 0, None), *strangers(observer).values()) == []
    stranger = Bench(me=7)
    stranger.begin()
    assert elsewhere(stranger, stranger.prepare(0, 0, None)) == []
    assert len(elsewhere(stranger, stranger.prepare(7, 0, None))) == 1


def test_a_damaged_log_is_loud() -> None:
    bench = Bench()
    bench.begin()
    bench.accept(bench.proposal(1, 0, bench.block(1, 1)))
    (record, *_) = [r for r in bench.records if r.kind == 3]
    damaged = replace(record, data=record.data[:40])
    own = OwnKey(key(0), chain_id=bench.state.chain_id, verify=bench.signatures.verify)
    with pytest.raises(LocalFault, match="damaged at height 1"):
        own.restore([damaged], height=1)
