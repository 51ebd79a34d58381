"""Single rules of one engine; most are mistakes that other implementations made (nil votes counted, locks lost, ...).

The branches are those of `height.py`; what is signed and in which order it is logged, `journal.py`'s.
"""

import pytest

from consensus import (
    NIL,
    Begin,
    Behind,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    CertificateReceived,
    CheckBlock,
    Commit,
    Decide,
    DelaysMeasured,
    EvidenceReceived,
    FetchBlock,
    HeightWanted,
    LocalFault,
    Persist,
    Prepare,
    Proposal,
    Record,
    Refused,
    ReportEvidence,
    SetTimer,
    StartHeight,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
    ViewStatus,
)
from consensus.limits import VIEWS_KEPT_MAX, WAITING_PER_MEMBER_MAX
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import block_on, contribution
from tests.consensus.bench import Bench, of, said


def fire(kind: str, view: int, height: int = 1) -> TimerFired:
    return TimerFired(Timer(TimerKind(kind), height, view))


@pytest.fixture
def bench() -> Bench:
    """Node 0 of four, height 1 running; node 1 proposes view 0, node 2 view 1, node 3 view 2, node 0 view 3."""
    bench = Bench()
    bench.begin()
    return bench


def locked(bench: Bench):
    """Make the engine lock a block of node 1 in view 0; gives the block."""
    block = bench.block(1, 1)
    bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, block))
    assert bench.engine.lock == (0, block.hash)
    return block


def next_view(bench: Bench) -> None:
    view = bench.engine.view
    bench.step(*[bench.commit(i, view, None) for i in (1, 2, 3)])
    bench.step(fire("commit", view))
    assert bench.engine.view == view + 1


class TestVoting:
    def test_a_good_proposal_is_prepared_after_the_check(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.step(bench.proposal(1, 0, block))
        assert of(CheckBlock, effects) and not said(Prepare, effects)
        (vote,) = said(Prepare, bench.step(BlockChecked(block.hash, True)))
        assert (vote.block_hash, vote.valid_view) == (block.hash, -1)

    def test_a_failed_check_prepares_nil(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        bench.step(bench.proposal(1, 0, block))
        (vote,) = said(Prepare, bench.step(BlockChecked(block.hash, False, "bytes missing")))
        assert vote.block_hash == NIL

    def test_only_the_first_proposal_of_a_view_is_voted_on(self, bench: Bench) -> None:
        one, other = bench.block(1, 1), bench.block(1, 2)
        effects = bench.accept(bench.proposal(1, 0, one), bench.proposal(1, 0, other))
        assert [v.block_hash for v in said(Prepare, effects)] == [one.hash]
        assert [e.evidence.kind for e in of(ReportEvidence, effects)] == ["double_proposal"]

    def test_a_proposal_out_of_turn_is_refused(self, bench: Bench) -> None:
        effects = bench.accept(bench.proposal(2, 0, bench.block(2, 1)))
        assert not said(Prepare, effects)
        assert [e.peer for e in of(Refused, effects)] == [key(2)]

    def test_a_fresh_block_names_its_author_as_proposer(self, bench: Bench) -> None:
        (vote,) = said(Prepare, bench.accept(bench.proposal(1, 0, bench.block(2, 1))))
        assert vote.block_hash == NIL

    def test_silence_of_the_proposer_prepares_nil_without_a_valid_view(self, bench: Bench) -> None:
        (vote,) = said(Prepare, bench.step(fire("propose", 0)))
        assert (vote.block_hash, vote.valid_view) == (NIL, -1)

    def test_stale_alarms_mean_nothing(self, bench: Bench) -> None:
        assert bench.step(fire("propose", 1), fire("prepare", 0), fire("commit", 3), fire("propose", 0, height=2)) == []

    def test_votes_from_outside_the_committee_are_refused(self, bench: Bench) -> None:
        block = locked(bench)
        effects = bench.step(bench.commit(7, 0, block), bench.commit(8, 0, block), bench.commit(9, 0, block))
        assert len(of(Refused, effects)) == 3 and not of(Decide, effects)


class TestQuorums:
    def test_the_same_vote_again_counts_once(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.accept(bench.proposal(1, 0, block), *[bench.prepare(1, 0, block)] * 5)
        assert not said(Commit, effects)

    def test_nil_votes_do_not_count_for_the_block(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, None))
        assert not said(Commit, effects)
        assert [e.timer.kind for e in of(SetTimer, effects)] == [TimerKind.PREPARE]

    def test_prepares_of_different_valid_views_make_no_certificate(self, bench: Bench) -> None:
        block = locked(bench)
        next_view(bench)
        proof = bench.prepared(0, block, (0, 1, 2))
        effects = bench.accept(
            bench.proposal(2, 1, block, proof), bench.prepare(2, 1, block, 0), bench.prepare(3, 1, block, -1)
        )
        assert not said(Commit, effects)

    def test_a_conflicting_vote_counts_too_and_is_proven(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.accept(bench.prepare(2, 0, None), bench.prepare(2, 0, block), bench.prepare(1, 0, block))
        effects += bench.accept(bench.proposal(1, 0, block))
        assert said(Commit, effects)
        assert [e.evidence.kind for e in of(ReportEvidence, effects)] == ["double_prepare"]

    def test_a_third_value_is_dropped_unless_a_certificate_shows_it(self, bench: Bench) -> None:
        block, other = bench.block(1, 1), bench.block(1, 2)
        bench.accept(bench.commit(1, 0, None), bench.commit(1, 0, other), bench.commit(1, 0, block))
        bench.accept(bench.proposal(1, 0, block), bench.commit(2, 0, block), bench.commit(3, 0, block))
        assert bench.engine.height == 1
        assert of(Decide, bench.show(bench.committed(0, block, (1, 2, 3))))

    def test_votes_may_come_before_their_proposal(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        votes = [bench.commit(i, 0, block) for i in (1, 2, 3)]
        assert of(FetchBlock, bench.step(*votes))
        assert of(Decide, bench.accept(bench.proposal(1, 0, block)))

    def test_commits_of_an_old_view_decide(self, bench: Bench) -> None:
        block = locked(bench)
        bench.step(bench.commit(1, 0, block), bench.commit(2, 0, None), bench.commit(3, 0, None))
        bench.step(fire("commit", 0))
        assert bench.engine.view == 1
        (decided,) = of(Decide, bench.step(bench.commit(2, 0, block)))
        assert decided.certificate.view == 0

    def test_a_decision_needs_more_than_two_thirds(self) -> None:
        bench = Bench(nodes=3)
        bench.begin()
        block = bench.block(1, 1)
        effects = bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.commit(1, 0, block))
        assert not said(Commit, effects)
        effects = bench.accept(bench.prepare(2, 0, block))
        assert said(Commit, effects) and not of(Decide, effects)
        assert of(Decide, bench.step(bench.commit(2, 0, block)))


class TestLocks:
    def test_a_quorum_of_prepares_locks_what_we_checked_and_commits_to_it(self, bench: Bench) -> None:
        """The third PREPARE is our own; the lock is in the log with the COMMIT, before it is said."""
        block = bench.block(1, 1)
        assert not said(Commit, bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block)))
        assert bench.engine.lock is None
        effects = bench.step(bench.prepare(2, 0, block))
        (vote,) = said(Commit, effects)
        assert (vote.view, vote.block_hash) == (0, block.hash) and bench.engine.lock == (0, block.hash)
        order = [type(effect) for effect in effects if isinstance(effect, Persist | Broadcast)]
        assert order[-2:] == [Persist, Broadcast]

    def test_a_lock_refuses_a_fresh_block(self, bench: Bench) -> None:
        locked(bench)
        next_view(bench)
        (vote,) = said(Prepare, bench.accept(bench.proposal(2, 1, bench.block(2, 2))))
        assert vote.block_hash == NIL

    def test_a_lock_is_kept_when_a_quorum_prepares_nil(self, bench: Bench) -> None:
        block = locked(bench)
        next_view(bench)
        effects = bench.step(*[bench.prepare(i, 1, None) for i in (1, 2, 3)], fire("propose", 1))
        assert [v.block_hash for v in said(Commit, effects)] == [NIL]
        assert bench.engine.lock == (0, block.hash)

    def test_a_lock_yields_to_what_was_prepared_later(self, bench: Bench) -> None:
        locked(bench)
        next_view(bench)
        next_view(bench)
        other = bench.block(2, 2)
        proof = bench.prepared(1, other, (1, 2, 3))
        (vote,) = said(Prepare, bench.accept(bench.proposal(3, 2, other, proof)))
        assert (vote.block_hash, vote.valid_view) == (other.hash, 1)

    def test_a_lock_does_not_yield_to_what_was_prepared_earlier(self, bench: Bench) -> None:
        other = bench.block(1, 3)
        old = bench.prepared(0, other, (1, 2, 3))
        next_view(bench)
        block = bench.block(2, 2)
        bench.accept(bench.proposal(2, 1, block), bench.prepare(2, 1, block), bench.prepare(3, 1, block))
        assert bench.engine.lock == (1, block.hash)
        next_view(bench)
        (vote,) = said(Prepare, bench.accept(bench.proposal(3, 2, other, old)))
        assert vote.block_hash == NIL

    def test_the_locked_block_itself_needs_its_certificate(self, bench: Bench) -> None:
        """A PREPARE with an older valid view than the lock would be half of a proof of amnesia."""
        block = locked(bench)
        for _ in range(4):
            next_view(bench)
        (vote,) = said(Prepare, bench.accept(bench.proposal(1, 4, block)))
        assert vote.block_hash == NIL
        for _ in range(4):
            next_view(bench)
        again = bench.proposal(1, 8, block, bench.prepared(0, block, (1, 2, 3)))
        (vote,) = said(Prepare, bench.accept(again))
        assert (vote.block_hash, vote.valid_view) == (block.hash, 0)

    def test_a_certificate_of_another_view_locks_nothing(self, bench: Bench) -> None:
        next_view(bench)
        block = bench.block(1, 1)
        effects = bench.show(bench.prepared(0, block, (1, 2, 3)))
        effects += bench.accept(BlockReceived(block))
        assert of(FetchBlock, effects) and not said(Commit, effects)
        assert bench.engine.lock is None

    def test_what_is_prepared_is_read_off_the_certificate(self, bench: Bench) -> None:
        """The proposer equivocated: we saw one block, a quorum prepared the other."""
        mine, theirs = bench.block(1, 1), bench.block(1, 2)
        bench.accept(bench.proposal(1, 0, mine))
        effects = bench.accept(*[bench.prepare(i, 0, theirs) for i in (1, 2, 3)])
        assert [e.block_hash for e in of(FetchBlock, effects)] == [theirs.hash]
        effects = bench.accept(BlockReceived(theirs))
        assert [v.block_hash for v in said(Commit, effects)] == [theirs.hash]


class TestReproposals:
    def test_without_its_certificate_it_is_as_if_it_never_came(self, bench: Bench) -> None:
        next_view(bench)
        block = bench.block(1, 1)
        weak = bench.prepared(0, block, (1, 2))
        effects = bench.accept(bench.proposal(2, 1, block, weak))
        assert of(Refused, effects) and not said(Prepare, effects)
        good = bench.prepared(0, block, (1, 2, 3))
        assert said(Prepare, bench.accept(bench.proposal(2, 1, block, good)))

    def test_the_proposer_offers_the_highest_prepared_block(self) -> None:
        bench = Bench(me=2)
        bench.begin()
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block), *[bench.prepare(i, 0, block) for i in (0, 1, 3)])
        (offer,) = said(Proposal, bench.step(*[bench.commit(i, 0, None) for i in (0, 1, 3)]))
        assert (offer.block, offer.valid_view) == (block, 0)

    def test_the_proposer_waits_for_the_block_that_it_must_offer(self) -> None:
        bench = Bench(me=2)
        bench.begin()
        block = bench.block(1, 1)
        next_view(bench) if bench.me != 2 else bench.step(*[bench.commit(i, 0, None) for i in (0, 1, 3)])
        bench.step(fire("commit", 0))
        effects = bench.show(bench.prepared(0, block, (0, 1, 3))) + bench.step(fire("sync", 1))
        assert of(FetchBlock, effects) and not of(BuildBlock, effects)
        assert said(Proposal, bench.step(BlockReceived(block)))

    def test_nothing_is_offered_that_was_prepared_in_this_view_or_later(self) -> None:
        """Found by simulation: a slow proposer of view 0 that already knows a certificate of view 1."""
        bench = Bench(me=1)
        (asked,) = of(BuildBlock, bench.begin())
        later = bench.block(2, 2)
        effects = bench.show(bench.prepared(1, later, (0, 2, 3))) + bench.step(BlockReceived(later))
        own = block_on(asked.template, [])
        effects += bench.step(BlockBuilt(1, 0, own))
        assert not said(Proposal, effects)

    def test_the_proposer_of_a_later_view_first_hears_everybody_or_waits(self) -> None:
        bench = Bench(me=2)
        bench.begin()
        effects = bench.step(*[bench.commit(i, 0, None) for i in (0, 1, 3)], fire("commit", 0))
        assert TimerKind.SYNC in [e.timer.kind for e in of(SetTimer, effects)] and not of(BuildBlock, effects)
        assert not of(BuildBlock, bench.step(bench.status(0, 1), bench.status(1, 1)))
        assert of(BuildBlock, bench.step(bench.status(3, 1)))


class TestViews:
    def test_a_view_certificate_of_a_later_view_takes_us_there_and_no_further(self, bench: Bench) -> None:
        blocks = [bench.block(i, 1) for i in (1, 2)]
        votes = [bench.commit(i, 5, blocks[i - 1] if i < 3 else None) for i in (1, 2, 3)]
        effects = bench.show(bench.view_ends(5, (1, 2, 3), votes=votes))
        assert bench.engine.view == 5
        assert [v.view for v in said(ViewStatus, effects)] == [5]
        assert TimerKind.COMMIT in [e.timer.kind for e in of(SetTimer, effects)]

    def test_no_timer_is_waited_for_where_no_block_can_win(self, bench: Bench) -> None:
        """PREPARE(NIL) by two and a block by two: with one liar's second vote it may yet win. By three: it cannot."""
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block))
        effects = bench.step(bench.prepare(1, 0, block), bench.prepare(2, 0, None), bench.prepare(3, 0, None))
        assert not said(Commit, effects)
        assert TimerKind.PREPARE in [e.timer.kind for e in of(SetTimer, effects)]
        bench.step(bench.commit(1, 0, block), bench.commit(2, 0, None), bench.commit(3, 0, None))
        assert bench.engine.view == 0
        bench.step(fire("prepare", 0))
        assert bench.engine.view == 1

    def test_f_plus_1_votes_of_a_later_view_do_not_move_us(self, bench: Bench) -> None:
        bench.step(bench.prepare(1, 9, None), bench.prepare(2, 9, None))
        assert bench.engine.view == 0

    def test_the_end_of_a_view_is_shown_once(self, bench: Bench) -> None:
        effects = bench.step(*[bench.commit(i, 0, None) for i in (1, 2, 3)])
        effects += bench.step(bench.commit(1, 0, None), bench.commit(1, 0, bench.block(1, 1)))
        assert len(of(BroadcastCertificate, effects)) == 1

    def test_a_vote_for_the_next_view_is_kept(self, bench: Bench) -> None:
        block = bench.block(2, 2)
        bench.accept(bench.proposal(2, 1, block), *[bench.prepare(i, 1, block) for i in (1, 2, 3)])
        effects = bench.accept(*[bench.commit(i, 0, None) for i in (1, 2, 3)])
        assert [v.block_hash for v in said(Commit, effects)] == [block.hash]

    def test_a_flood_of_views_is_not_kept(self, bench: Bench) -> None:
        bench.step(*[bench.prepare(1, view, None) for view in range(2, 300)])
        facts = bench.engine._running.facts  # type: ignore[union-attr]
        assert len(facts._views) <= 2
        for _ in range(VIEWS_KEPT_MAX + 20):
            next_view(bench)
        assert len(bench.engine._running.facts._views) <= VIEWS_KEPT_MAX + 2  # type: ignore[union-attr]

    def test_the_status_shows_what_is_prepared(self, bench: Bench) -> None:
        block = locked(bench)
        (status,) = said(ViewStatus, bench.step(*[bench.commit(i, 0, None) for i in (1, 2, 3)]))
        assert status.prepared is not None and status.prepared.block_hash == block.hash
        assert status.view_certificate is not None and status.view_certificate.view == 0

    def test_a_status_with_a_bad_certificate_does_not_count(self) -> None:
        bench = Bench(me=2)
        bench.begin()
        bench.step(*[bench.commit(i, 0, None) for i in (0, 1, 3)], fire("commit", 0))
        weak = bench.prepared(0, bench.block(1, 1), (0, 1))
        effects = bench.step(bench.status(0, 1), bench.status(1, 1), bench.status(3, 1, weak))
        assert of(Refused, effects) and not of(BuildBlock, effects)


class TestDurability:
    def test_everything_is_logged_before_the_vote_that_rests_on_it(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, block))
        shown = [type(e).__name__ for e in effects if isinstance(e, Persist | Broadcast)]
        assert shown == ["Persist", "Persist", "Broadcast", "Persist", "Persist", "Broadcast"]

    def test_a_restart_goes_on_at_the_same_step_with_the_same_bytes(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.accept(bench.proposal(1, 0, block), bench.prepare(1, 0, block), bench.prepare(2, 0, block))
        log = [Record.decode(e.record.encode()) for e in of(Persist, effects)]
        before = said(Prepare, effects) + said(Commit, effects)
        bench.boot(0, log)
        again = bench.step(Begin())
        assert said(Prepare, again) + said(Commit, again) == before
        assert (bench.engine.phase, bench.engine.lock) == ("commit", (0, block.hash))
        assert not of(Persist, again)
        assert not said(Prepare, bench.step(bench.proposal(1, 0, bench.block(1, 2)), fire("propose", 0)))

    @pytest.mark.parametrize("kept", range(7))
    def test_no_second_vote_whatever_part_of_the_log_is_there(self, kept: int) -> None:
        """Crash after each record in turn; then the world goes another way."""
        bench = Bench(me=1)
        effects = bench.accept(*[Begin(), StartHeight(1)])
        (own,) = said(Proposal, effects)
        effects += bench.accept(*[bench.prepare(i, 0, own.block) for i in (0, 2)])
        log = [e.record for e in of(Persist, effects)][:kept]
        first = {(m.kind, m.view): m for m in said(Proposal, effects) + said(Prepare, effects) + said(Commit, effects)}
        bench.boot(1, log)
        after = bench.accept(
            Begin(), StartHeight(1), fire("propose", 0), *[bench.prepare(i, 0, None) for i in (0, 2, 3)]
        )
        for vote in said(Proposal, after) + said(Prepare, after) + said(Commit, after):
            if any(vote.kind.name.encode() and r.view == vote.view and vote.signature in r.data for r in log):
                assert vote == first[vote.kind, vote.view]
        signed = said(Proposal, after) + said(Prepare, after) + said(Commit, after)
        for record in log:
            same_slot = [
                v for v in signed if (v.kind, v.view) in first and first[v.kind, v.view].signature in record.data
            ]
            assert all(v.signature == first[v.kind, v.view].signature for v in same_slot)

    def test_nothing_is_signed_below_a_height_that_the_log_knows(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        record = of(Persist, bench.accept(bench.proposal(1, 0, block)))[-1].record
        later = Record(record.kind, 5, record.view, record.data)
        bench.boot(0, [later])
        effects = bench.accept(Begin(), StartHeight(1), bench.proposal(1, 0, block), fire("propose", 0))
        assert not of(Broadcast, effects) and not of(Persist, effects)

    def test_a_damaged_log_is_loud(self, bench: Bench) -> None:
        record = of(Persist, bench.accept(bench.proposal(1, 0, bench.block(1, 1))))[-1].record
        bench.boot(0, [Record(record.kind, 1, 0, record.data[:-1])])
        with pytest.raises(LocalFault, match="damaged"):
            bench.step(Begin())

    def test_the_log_of_a_decided_height_is_of_no_interest(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        log = [e.record for e in of(Persist, bench.accept(bench.proposal(1, 0, block)))]
        bench.state = bench.state.after(block, bench.committed(0, block, (0, 1, 2)))
        bench.boot(0, log)
        assert not of(Broadcast, bench.step(Begin())) and bench.engine.idle


class TestRepetition:
    def test_what_is_repeated(self, bench: Bench) -> None:
        block = locked(bench)
        effects = bench.step(fire("rebroadcast", 0, height=0))
        assert [type(m).__name__ for m in said(object, effects)] == ["Prepare", "Commit"]
        assert [e.certificate.block_hash for e in of(BroadcastCertificate, effects)] == [block.hash]
        (again,) = of(SetTimer, effects)
        assert again.timer == Timer(TimerKind.REBROADCAST, 0, 1)
        assert 0.75 <= again.seconds <= 1.25

    def test_two_chains_of_repetition_cannot_grow(self, bench: Bench) -> None:
        bench.step(fire("rebroadcast", 0, height=0))
        assert bench.step(fire("rebroadcast", 0, height=0)) == []

    def test_nodes_do_not_repeat_in_step(self) -> None:
        first = {of(SetTimer, Bench(me=i).step(Begin()))[0].seconds for i in range(4)}
        assert len(first) == 4

    def test_a_vote_is_never_answered_with_a_vote(self, bench: Bench) -> None:
        locked(bench)
        old = [bench.prepare(1, 0, None), bench.commit(2, 0, None), bench.prepare(3, 0, None)]
        assert not of(Broadcast, bench.step(*old))

    def test_the_last_decision_is_repeated_while_idle(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block), *[bench.commit(i, 0, block) for i in (1, 2, 3)])
        assert bench.engine.idle
        (shown,) = of(BroadcastCertificate, bench.step(fire("rebroadcast", 0, height=0)))
        assert shown.certificate.block_hash == block.hash


class TestHeights:
    def test_a_committee_of_one_decides_at_once(self) -> None:
        bench = Bench(nodes=1)
        effects = bench.accept(Begin(), StartHeight(1))
        assert of(Decide, effects) and bench.engine.idle and bench.engine.state.height == 1

    def test_only_the_next_height_starts_and_only_when_idle(self, bench: Bench) -> None:
        assert bench.step(StartHeight(1), StartHeight(2), StartHeight(0)) == []

    def test_an_observer_follows_and_never_signs(self) -> None:
        for me in (None, 9):
            bench = Bench(me=me)
            block = bench.block(1, 1)
            effects = bench.accept(Begin(), StartHeight(1), fire("propose", 0), bench.proposal(1, 0, block))
            effects += bench.accept(*[bench.prepare(i, 0, block) for i in (0, 1, 2)])
            effects += bench.accept(*[bench.commit(i, 0, None) for i in (0, 1, 2)], fire("commit", 0))
            effects += bench.accept(*[bench.commit(i, 0, block) for i in (0, 1, 2)], fire("rebroadcast", 0, height=0))
            assert of(Decide, effects) and not of(Broadcast, effects) and not of(Persist, effects)

    def test_a_height_is_wanted_for_a_good_proposal_or_f_plus_1_voices(self) -> None:
        bench = Bench()
        bench.step(Begin())
        assert not of(HeightWanted, bench.step(bench.proposal(2, 0, bench.block(2, 1))))
        assert not of(HeightWanted, bench.step(bench.prepare(9, 0, None)))
        assert of(HeightWanted, bench.step(bench.proposal(1, 0, bench.block(1, 1))))
        alone = Bench()
        block = alone.block(1, 1)
        assert of(HeightWanted, alone.step(Begin(), alone.proposal(1, 0, block))) == [HeightWanted(1, block)]
        assert not of(HeightWanted, alone.step(alone.prepare(1, 0, block)))  # one member's word still
        assert of(HeightWanted, alone.step(alone.prepare(2, 0, block))) == [HeightWanted(1)]
        voices = Bench()
        assert not of(HeightWanted, voices.step(Begin(), voices.prepare(1, 0, None), voices.prepare(1, 1, None)))
        assert [e.height for e in of(HeightWanted, voices.step(voices.prepare(2, 0, None)))] == [1]

    def test_what_came_early_is_replayed(self) -> None:
        bench = Bench()
        block = bench.block(1, 1)
        bench.step(Begin(), bench.proposal(1, 0, block), *[bench.prepare(i, 0, block) for i in (1, 2)])
        effects = bench.accept(StartHeight(1))
        assert [v.block_hash for v in said(Commit, effects)] == [block.hash]

    def test_what_waits_is_bounded(self) -> None:
        bench = Bench()
        bench.step(Begin(), *[bench.prepare(1, view, None, height=2) for view in range(500)])
        bench.step(*[bench.prepare(1, 0, None, height=h) for h in range(3, 500)])
        held = bench.engine._waiting._messages
        assert list(held) == [2] and len(held[2][key(1)]) == WAITING_PER_MEMBER_MAX

    def test_a_newcomer_is_greeted_and_served(self, bench: Bench) -> None:
        block = locked(bench)
        names = [type(thing).__name__ for thing in bench.engine.greeting()]
        assert names == ["Prepare", "Commit", "PrepareCertificate"]
        assert bench.engine.block(block.hash) == block and bench.engine.block(NIL) is None
        bench.accept(*[bench.commit(i, 0, block) for i in (1, 2)])
        assert bench.engine.idle and bench.engine.block(block.hash) == block
        assert [type(thing).__name__ for thing in bench.engine.greeting()] == ["CommitCertificate"]

    def test_a_decision_of_the_next_height_is_enough_to_follow(self) -> None:
        bench = Bench()
        block = bench.block(1, 1)
        effects = bench.step(Begin(), CertificateReceived(bench.committed(0, block, (1, 2, 3))))
        assert of(HeightWanted, effects) and not of(Behind, effects)
        assert of(FetchBlock, bench.step(StartHeight(1)))
        assert of(Decide, bench.step(BlockReceived(block)))

    def test_a_certificate_two_heights_on_says_behind(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        state = bench.state.after(block, bench.committed(0, block, (0, 1, 2)))
        ahead = Bench(state=state)
        ahead.signatures = bench.signatures
        next_block = ahead.block(2, 2)
        effects = bench.show(ahead.committed(0, next_block, (1, 2, 3)))
        assert [e.height for e in of(Behind, effects)] == [3]
        assert not of(Behind, bench.show(ahead.committed(0, next_block, (1,))))

    def test_one_member_alone_cannot_say_that_we_are_behind(self, bench: Bench) -> None:
        effects = bench.step(bench.prepare(1, 0, None, height=900))
        for n in range(3):
            effects += bench.step(fire("rebroadcast", n, height=0))
        assert not of(Behind, effects)
        bench.step(bench.prepare(2, 0, None, height=700))
        assert [e.height for e in of(Behind, bench.step(fire("rebroadcast", 3, height=0)))] == [700]

    def test_a_sync_moves_on_and_only_forwards(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        state = bench.state.after(block, bench.committed(0, block, (0, 1, 2)))
        bench.step(Synced(state))
        assert bench.engine.idle and bench.engine.height == 2
        bench.step(Synced(bench.state))
        assert bench.engine.height == 2

    def test_messages_of_other_chains_are_not_decoded_as_ours(self, bench: Bench) -> None:
        """Nothing to see here: decode_message refuses them (test_messages.py); the engine sees only this chain's."""
        assert bench.engine.state.chain_id == bench.state.chain_id


class TestEvidence:
    def test_a_certificate_shows_a_vote_that_conflicts_with_one_seen(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block), bench.prepare(3, 0, None))
        effects = bench.show(bench.prepared(0, block, (1, 2, 3)))
        assert [(e.evidence.kind, e.evidence.author) for e in of(ReportEvidence, effects)] == [
            ("double_prepare", key(3))
        ]

    def test_a_decision_that_arrives_late_still_proves(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        bench.accept(bench.proposal(1, 0, block), bench.commit(3, 0, None))
        bench.accept(
            *[bench.commit(i, 0, block) for i in (1, 2)], bench.prepare(1, 0, block), bench.prepare(2, 0, block)
        )
        assert bench.engine.state.height == 1
        effects = bench.show(bench.committed(0, block, (1, 2, 3)))
        assert [e.evidence.kind for e in of(ReportEvidence, effects)] == ["double_commit"]

    def test_two_statuses_and_two_views_are_no_offence(self, bench: Bench) -> None:
        block = bench.block(1, 1)
        effects = bench.step(bench.status(1, 1), bench.status(1, 1, bench.prepared(0, block, (0, 2, 3))))
        effects += bench.step(bench.prepare(1, 0, None), bench.prepare(1, 1, None))
        assert not of(ReportEvidence, effects)

    def test_two_contributions_of_one_height(self, bench: Bench) -> None:
        one = contribution(bench.signatures, 3, bench.state)
        other = contribution(bench.signatures, 3, bench.state, salt=b"again")
        assert not of(ReportEvidence, bench.step(one, one))
        effects = bench.step(other, other)
        assert [e.evidence.kind for e in of(ReportEvidence, effects)] == ["double_contribution"]

    def test_own_proofs_go_into_the_own_block_once(self) -> None:
        bench = Bench(me=1)
        bench.step(Begin(), contribution(bench.signatures, 3, bench.state))
        bench.step(contribution(bench.signatures, 3, bench.state, salt=b"again"))
        (asked,) = of(BuildBlock, bench.step(StartHeight(1)))
        assert [e.kind for e in asked.template.evidence] == ["double_contribution"]
        block = block_on(asked.template, [])
        effects = bench.accept(BlockBuilt(1, 0, block), *[bench.commit(i, 0, block) for i in (0, 2, 3)])
        assert of(Decide, effects)[0].block.evidence
        assert bench.engine.pending_evidence == ()

    def test_proof_from_others_is_checked_and_told_once(self, bench: Bench) -> None:
        bench.step(contribution(bench.signatures, 3, bench.state))
        (told,) = of(ReportEvidence, bench.step(contribution(bench.signatures, 3, bench.state, salt=b"again")))
        other = Bench()
        assert of(Refused, other.step(Begin(), EvidenceReceived(told.evidence)))
        other = Bench()
        other.signatures._issued |= bench.signatures._issued
        assert of(ReportEvidence, other.step(Begin(), EvidenceReceived(told.evidence)))
        assert not of(ReportEvidence, other.step(EvidenceReceived(told.evidence)))


class TestTimeouts:
    def test_measured_delays_move_the_timers_within_bounds(self) -> None:
        bench = Bench()
        bench.step(DelaysMeasured(0.0, 0.0))
        assert of(SetTimer, bench.step(StartHeight(1)))[0].seconds == pytest.approx(4 * 0.05 + 0.5)
        bench = Bench()
        bench.step(DelaysMeasured(1e9, 1e9))
        assert of(SetTimer, bench.step(StartHeight(1)))[0].seconds == pytest.approx(4 * 10 + 600)

    def test_a_measurement_that_is_none_is_a_bug(self) -> None:
        for bad in (float("nan"), float("inf"), -1.0):
            with pytest.raises(LocalFault):
                Bench().step(DelaysMeasured(bad, 1.0))

    def test_later_views_wait_longer_and_success_gives_back(self) -> None:
        from consensus.timeouts import Timeouts

        timeouts = Timeouts()
        base = timeouts.seconds(TimerKind.PREPARE, 0)
        assert base == pytest.approx(1.3)
        assert timeouts.seconds(TimerKind.PREPARE, 3) == pytest.approx(1.3 * 1.25**3)
        timeouts.decided_in(2)
        assert timeouts.seconds(TimerKind.PREPARE, 0) == pytest.approx(1.3 * 1.25**2)
        timeouts.decided_in(0)
        timeouts.decided_in(0)
        timeouts.decided_in(0)
        assert timeouts.seconds(TimerKind.PREPARE, 0) == base
        for _ in range(100):
            timeouts.decided_in(50)
        assert timeouts.seconds(TimerKind.PREPARE, 10**9) < 1e8
