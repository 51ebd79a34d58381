"""One round, told by its parts (offering.py is what this node says itself): a real trainer, store, engine and vote log; peers are handed in."""

from dataclasses import replace

import pytest
import trio

import consensus
from consensus import Purpose
from p2pnode import pool as pool_module
from p2pnode import rounds as rounds_module
from p2pnode.collect import CLAIMS_MAX
from p2pnode.driver import Revival
from p2pnode.pool import Held
from p2pnode.vote_records import Announced, VoteRecord, decode, encode
from p2pnode.wal import recover
from p2pnode.wire import Role, Status
from tests.p2pnode.little import certify, contribution, identities, payload, sign, until
from tests.p2pnode.rig import Rig

STRANGER = identities(9)[-1]


def status(height: int, *, learning: int = 0) -> Status:
    return Status(height=height, model_root=bytes(32), role=Role.CONTRIBUTOR, learning=learning)


async def test_a_node_alone_trains_and_agrees_with_itself(tmp_path):
    rig = Rig(tmp_path)
    async with rig.running():
        await until(lambda: rig.rounds.state.height >= 3)
        rig.rounds.training.on = False
        await until(lambda: rig.driver.engine.idle)
    rows = rig.rounds.listed
    assert list(rows)[:3] == [{rig.identity.public_key}] * 3
    said = rig.said(consensus.Contribution)
    assert [c.height for c in said] == sorted({c.height for c in said})
    assert rig.rounds.training.loss_height >= 3 and rig.rounds.training.tokens >= 3 * 2 * 2 * 128


async def test_what_was_decided_is_on_the_disk_and_comes_back(tmp_path):
    rig = Rig(tmp_path)
    async with rig.running():
        await until(lambda: rig.rounds.state.height >= 2)
        rig.rounds.training.on = False
        await until(lambda: rig.driver.engine.idle)
        state = rig.rounds.state
        rows = rig.store.rounds(100)
    assert [row["height"] for row in rows] == list(range(1, state.height + 1))
    assert rows[-1]["model_root"] == state.model_root.hex() and rows[0]["listed"] and rows[0]["loss"] > 0
    parts = ("learn", "collect", "propose", "fetch_and_check", "prepare", "commit", "apply")
    assert rows[0]["seconds"]["total"] == pytest.approx(sum(rows[0]["seconds"][part] for part in parts), abs=1e-6)
    again = Rig(tmp_path)
    assert again.store.height() == state.height
    again.close()


async def test_a_restart_says_the_logged_contribution_again_and_signs_no_second(tmp_path):
    rig = Rig(tmp_path, members=4)
    async with rig.running():
        await until(lambda: rig.said(consensus.Contribution))
    (first,) = rig.said(consensus.Contribution)
    again = Rig(tmp_path, members=4)
    async with again.running(begins=False):
        await again.rounds.offering.restore(first)
        again.rounds.begin()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert again.said(consensus.Contribution) == [first]
        assert again.rounds.pool.own(first.author, Purpose.UPDATE).contribution == first
    assert len([r for r in recover(tmp_path / "votes.log").records if r[:1] == b"C"]) == 1


async def test_a_chain_put_back_signs_nothing_up_to_where_the_log_shows_a_signature(tmp_path):
    rig = Rig(tmp_path, members=4)
    later = rig.hold(0, payload(1), height=5)
    async with rig.running(begins=False):
        await rig.rounds.offering.restore(later)
        rig.rounds.begin()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await rig.rounds.offering.probe()
        assert not rig.said(consensus.Contribution)
        rig.rounds.adopt(rig.position_after(5))
        await until(lambda: rig.said(consensus.Contribution))
    assert [c.height for c in rig.said(consensus.Contribution)] == [6]


async def test_a_restart_that_lost_the_payload_stays_silent_for_that_height(tmp_path):
    """Learning again would sign a second contribution for the slot: proof against ourselves."""
    rig = Rig(tmp_path, members=4)
    async with rig.running():
        await until(lambda: rig.said(consensus.Contribution))
    (first,) = rig.said(consensus.Contribution)
    rig.blobs.drop(first.payload_digest)
    again = Rig(tmp_path, members=4)
    async with again.running(begins=False):
        await again.rounds.offering.restore(first)
        again.rounds.begin()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not again.said(consensus.Contribution) and again.rounds.timings.first_step is None
        again.rounds.adopt(again.position_after(1))
        await until(lambda: again.said(consensus.Contribution))  # the next height is another slot
    assert [c.height for c in again.said(consensus.Contribution)] == [2]


async def test_a_contribution_that_is_logged_too_late_does_not_reach_the_next_height(tmp_path, monkeypatch):
    rig = Rig(tmp_path, members=4)
    logged = rig.driver.append

    async def slow(*records: VoteRecord) -> bool:
        durable = await logged(*records)
        if isinstance(records[0], Announced) and rig.rounds.state.height == 0:
            rig.rounds.adopt(rig.position_after(1))  # decided by the others while our disk was busy
        return durable

    monkeypatch.setattr(rig.driver, "append", slow)
    async with rig.running():
        await until(lambda: rig.said(consensus.Contribution))
    assert [c.height for c in rig.said(consensus.Contribution)] == [2]
    assert all(held.contribution.height == 2 for held in rig.rounds.pool.held())


@pytest.mark.parametrize("why", ["disk", "lost log"])
async def test_who_may_not_sign_does_not_learn_either(tmp_path, why):
    rig = Rig(tmp_path, members=4)
    if why == "disk":
        rig.driver.cannot_vote = "the disk is full"
    else:
        rig.driver._revival = Revival(2, lambda: rig.driver.engine, "lost")
    async with rig.running():
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert rig.rounds.timings.first_step is None
        await rig.rounds.offering.probe()
    assert not rig.said(consensus.Contribution)


async def test_an_announcement_is_fetched_checked_and_held(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    async with rig.running():
        offered = rig.hold(1, payload(7))
        rig.rounds.heard(offered)
        await until(lambda: rig.rounds.pool.find(offered))
        broken = contribution(rig.chain.founders[2], rig.rounds.state, b"\xff" * len(payload(7)))
        rig.blobs.put(b"\xff" * len(payload(7)))
        rig.rounds.heard(broken)
        await until(lambda: rig.rounds.pool.rejected(broken.payload_digest))
        nowhere = contribution(rig.chain.founders[3], rig.rounds.state, payload(8))
        rig.rounds.heard(nowhere)
        await until(lambda: rig.log.said("fetch failed"))
    assert rig.rounds.pool.held()[0].contribution == offered and len(rig.rounds.pool.held()) == 1
    assert rig.log.said("payload refused")


async def test_what_comes_a_height_early_waits_for_it(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    after = rig.position_after(1)
    both = [
        contribution(rig.chain.founders[1], after.state, payload(7), purpose=purpose)
        for purpose in (Purpose.UPDATE, Purpose.PROBE)
    ]
    rig.blobs.put(payload(7))
    async with rig.running():
        for early in both:
            rig.rounds.heard(early)
        rig.rounds.heard(replace(both[0], height=9))  # nobody knows that committee yet
        assert not rig.rounds.pool.held()
        rig.rounds.adopt(after)
        await until(lambda: len(rig.rounds.pool.held()) == 2)
    assert [held.contribution for held in rig.rounds.pool.held()] == both


async def test_what_strangers_say_early_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds_module, "STRANGERS_MAX", 2)
    rig = Rig(tmp_path, members=1, trains=False)
    after = rig.position_after(1)
    async with rig.running():
        for stranger in identities(12):
            rig.rounds.heard(contribution(stranger, after.state, payload(1)))
        assert len(rig.rounds._later) == 2


async def test_a_proposal_of_impossible_lengths_is_refused_before_anything_is_fetched(tmp_path):
    """One byte of a proposer's lie must not cost every honest node its memory."""
    rig = Rig(tmp_path, members=4, trains=False)
    listed = contribution(STRANGER, rig.rounds.state, payload(1), payload_bytes=2**63)
    template = consensus.BlockTemplate(rig.rounds.state, rig.rounds.state.membership.current.members[0])
    block = consensus.build_block(template, contributions=[listed], model_root=rig.rounds.state.model_root)
    async with rig.running():
        ok, reason = await rig.rounds.check(block)
    assert not ok and "is not of" in reason


async def test_a_proposal_that_lists_crowds_of_strangers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "STRANGERS_MAX", 2)
    rig = Rig(tmp_path, members=1, trains=False)
    listed = [contribution(stranger, rig.rounds.state, payload(1)) for stranger in identities(5)[1:]]
    template = consensus.BlockTemplate(rig.rounds.state, rig.rounds.state.membership.current.members[0])
    block = consensus.build_block(template, contributions=listed, model_root=rig.rounds.state.model_root)
    async with rig.running():
        ok, reason = await rig.rounds.check(block)
    assert not ok and "non-members" in reason


async def test_a_good_proposal_is_good_and_a_wrong_root_is_not(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    block, _ = rig.chain.next_block()
    for data in rig.chain.payloads.values():
        rig.blobs.put(data)
    wrong = replace(block, header=replace(block.header, model_root=consensus.Digest(b"\3" * 32)))
    async with rig.running():
        assert await rig.rounds.check(block) == (True, "")
        ok, reason = await rig.rounds.check(wrong)
        assert not ok and reason.startswith("model root 0303030303030303 claimed")
        rig.rounds.adopt(rig.position_after(1))
        assert await rig.rounds.check(block) == (False, "it is for another height")


async def test_a_block_that_throws_away_what_members_learned_is_refused_once(tmp_path):
    """A faulty proposer may start an empty height at once; whoever holds the bytes of an honest member waits for the next one."""
    rig = Rig(tmp_path, members=4, trains=False)
    template = consensus.BlockTemplate(rig.rounds.state, rig.rounds.state.membership.current.members[1])
    empty = consensus.build_block(template, contributions=[], model_root=rig.rounds.state.model_root)
    now = rig.rounds.timings.opened
    async with rig.running():
        for place in (1, 2):
            assert await rig.rounds.check(empty) == (True, "")
            offered = contribution(rig.chain.founders[place], rig.rounds.state, payload(place))
            rig.rounds.pool.hold(Held(offered, payload(place), now))
        assert await rig.rounds.check(empty) == (False, "it lists no member's update, and those of 2 members are here")
        assert await rig.rounds.check(empty) == (True, "")  # proposed again: perhaps somebody is locked on it
        rig.rounds.adopt(rig.position_after(1))
        assert not rig.rounds.pool.held()


async def test_an_empty_block_is_as_good_as_any_when_nobody_is_waited_for_any_more(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    template = consensus.BlockTemplate(rig.rounds.state, rig.rounds.state.membership.current.members[1])
    empty = consensus.build_block(template, contributions=[], model_root=rig.rounds.state.model_root)
    long_ago = rig.rounds.timings.opened - rig.genesis.round_seconds_max
    async with rig.running():
        for place in (1, 2):
            offered = contribution(rig.chain.founders[place], rig.rounds.state, payload(place))
            rig.rounds.pool.hold(Held(offered, payload(place), long_ago))
        assert await rig.rounds.check(empty) == (True, "")


async def test_payloads_are_on_the_disk_before_a_commit_even_if_they_were_swept(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    block, _ = rig.chain.next_block()
    for data in rig.chain.payloads.values():
        rig.blobs.put(data)
    assert block.header.proposer != rig.identity.public_key
    proposer = next(i for i in rig.chain.founders if i.public_key == block.header.proposer)
    unsigned = consensus.Proposal(block.header.proposer, 1, 0, block, None, consensus.Signature(b""))
    async with rig.running():
        rig.driver.deliver(consensus.StartHeight(1))
        rig.driver.deliver(consensus.MessageReceived(sign(proposer, rig.genesis.chain_id, unsigned)))
        await until(lambda: rig.said(consensus.Prepare))
        for digest in rig.chain.payloads:
            rig.blobs.drop(digest)
        await rig.rounds.make_payloads_durable(block.hash)
        assert all(rig.blobs.get(digest) for digest in rig.chain.payloads)
        await rig.rounds.make_payloads_durable(consensus.NIL)


async def test_a_decision_without_its_payloads_waits_for_catch_up_and_never_goes_back(tmp_path, mock_clock):
    rig = Rig(tmp_path, members=4, trains=False)
    later = rig.position_after(3)
    block, certificate = rig.chain.decided[0]
    async with rig.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.rounds.decided, block, certificate)
            await until(lambda: rig.log.said("fetch failed"))
            assert rig.rounds.state.height == 0 and rig.store.height() == 1  # durable, not applied
            rig.rounds.adopt(later)
            await until(lambda: mock_clock.jump(1) or not nursery.child_tasks)
        assert rig.rounds.state == later.state
        await rig.rounds.decided(block, certificate)  # and one that comes late changes nothing
        assert rig.rounds.state == later.state


async def test_a_left_out_contribution_goes_back_to_the_trainer(tmp_path, monkeypatch):
    rig = Rig(tmp_path, members=4)
    settled = []
    monkeypatch.setattr(rig.trainer, "settle", lambda *said: settled.append(said))
    for data in (payload(place) for place in (0, 1)):
        rig.blobs.put(data)
    async with rig.running():
        await until(lambda: rig.said(consensus.Contribution))
        block, _ = rig.chain.next_block(contributors=(1,))
        for data in rig.chain.payloads.values():
            rig.blobs.put(data)
        certificate = certify(rig.chain.founders, rig.genesis.chain_id, block)
        rig.driver.started()
        await rig.rounds.decided(block, certificate)
        await until(lambda: len(rig.said(consensus.Contribution)) == 2)
    assert settled == [(1, False)]


async def test_pause_stops_a_step_in_the_middle_and_train_goes_on(tmp_path):
    rig = Rig(tmp_path, members=4)
    rig.rounds.training.on = False
    async with rig.running():
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert rig.rounds.role() is Role.MEMBER and not rig.rounds.status().learning
        rig.rounds.training.on = True
        rig.rounds.changed.fire()
        await until(lambda: rig.said(consensus.Contribution))
        assert rig.rounds.status().learning == 1


async def test_who_is_waited_for(tmp_path):
    rig = Rig(tmp_path, members=4, me=0)
    a, b, c, d = (i.public_key for i in rig.chain.founders)
    statuses = rig.gossip.statuses
    assert rig.rounds._expected() == {a, b, c, d}  # at height 1, every member
    statuses[b] = status(0)
    assert rig.rounds._expected() == {a, c, d}  # it says that it is not learning
    statuses[STRANGER.public_key] = status(0, learning=1)
    assert rig.rounds._expected() == {a, c, d, STRANGER.public_key}
    rig.rounds.training.on = False
    assert rig.rounds._expected() == {c, d, STRANGER.public_key}
    rig.close()


async def test_nobody_is_waited_for_who_only_claims_to_learn(tmp_path):
    rig = Rig(tmp_path, members=4)
    statuses, liar = rig.gossip.statuses, STRANGER.public_key
    statuses[liar] = status(0, learning=1)
    for _ in range(CLAIMS_MAX):
        assert liar in rig.rounds._expected()
        rig.rounds._count_claims(frozenset())
    assert liar not in rig.rounds._expected()
    rig.rounds._count_claims(frozenset([liar]))  # it delivered
    assert liar in rig.rounds._expected()
    del statuses[liar]
    rig.rounds._count_claims(frozenset())
    assert not rig.rounds.claims  # keys are free: who is gone is forgotten
    rig.close()


async def test_what_others_decide_starts_the_height_here(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    async with rig.running():
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert rig.driver.engine.idle
        rig.rounds.wanted(1)
        await until(lambda: not rig.driver.engine.idle)


async def test_an_empty_proposal_alone_starts_nothing_while_members_learn(tmp_path):
    """A faulty proposer may propose an empty height at once; the others go on learning."""
    rig = Rig(tmp_path, members=4, trains=False)
    state = rig.rounds.state
    proposer = state.membership.current.proposer(1, 0)
    empty = consensus.build_block(
        consensus.BlockTemplate(state, proposer), contributions=[], model_root=state.model_root
    )
    full, _ = rig.chain.next_block()
    async with rig.running():
        rig.rounds.wanted(1, empty)
        assert rig.rounds._wanted == 0
        rig.rounds.wanted(1, full)
        assert rig.rounds._wanted == 1
        rig.rounds._wanted = 0
        rig.gossip.statuses.update({i.public_key: status(0) for i in rig.chain.founders[1:]})
        rig.rounds.wanted(1, empty)  # nobody learns, so nothing is lost
        assert rig.rounds._wanted == 1
        rig.rounds._wanted = 0
        rig.gossip.statuses.clear()
        rig.rounds.wanted(1)  # whatever is proposed, an honest member votes on it
        assert rig.rounds._wanted == 1


async def test_a_height_opens_as_the_record_of_its_time_says(tmp_path):
    """Rule (a) with the pool's own moments: all that are expected are held."""
    rig = Rig(tmp_path, members=4, trains=False)
    rig.rounds.synced = True
    opened = rig.rounds.timings.opened
    for place in (1, 2, 3):
        offered = contribution(rig.chain.founders[place], rig.rounds.state, payload(place))
        rig.rounds.pool.hold(Held(offered, payload(place), opened + place / 10))
    assert rig.rounds._start_moment() == opened + 0.3
    rig.close()


async def test_the_record_of_a_contribution_names_its_height(tmp_path):
    rig = Rig(tmp_path)
    envelope = rig.gossip.envelope(contribution(rig.identity, rig.rounds.state, payload(1)))
    assert decode(encode(Announced(7, envelope))) == Announced(7, envelope)
    rig.close()


async def test_a_committee_that_has_not_begun_opens_a_height_when_nobody_trains(tmp_path):
    """Who left is a member until the block after the one that says so."""
    rig = Rig(tmp_path, members=4, trains=False)
    rig.gossip.statuses.update({i.public_key: status(1) for i in rig.chain.founders[1:]})
    after = rig.position_after(1)
    rest = consensus.Committee.of(after.state.membership.next.members[1:])
    changing = replace(after.state, membership=replace(after.state.membership, next=rest))
    async with rig.running():
        rig.rounds.adopt(replace(after, state=changing))
        opened = rig.rounds.timings.opened
        assert rig.rounds._start_moment() == pytest.approx(opened + 3, abs=0.01)
        begun = replace(changing, membership=replace(changing.membership, current=rest), height=2)
        rig.rounds.adopt(replace(after, state=begun))
        assert rig.rounds._start_moment() is None


async def test_evidence_opens_a_height_when_nobody_trains(tmp_path):
    rig = Rig(tmp_path, members=4, trains=False)
    two = [contribution(rig.chain.founders[1], rig.rounds.state, payload(seed)) for seed in (1, 2)]
    rig.gossip.statuses.update({i.public_key: status(0) for i in rig.chain.founders[1:]})
    async with rig.running():
        before = trio.current_time()
        for message in two:
            rig.driver.deliver(consensus.MessageReceived(message))
        await until(rig.store.evidence)
        assert before + 3 <= rig.rounds._start_moment() <= trio.current_time() + 3
        assert rig.log.said("evidence")[0]["kind"] == "double_contribution"
