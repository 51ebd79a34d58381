"""The vote log at a start: when it is trusted, who observes and for how long, and what is said again."""

import random
import sqlite3
from pathlib import Path

import pytest

import consensus
from consensus.record import record_of_vote
from p2pnode.driver import Driver
from p2pnode.recovery import Recovery, Standing, chain_shows, logged_contributions, restore_decisions, take_up
from p2pnode.verify import Wishes, verify
from p2pnode.vote_records import Announced, Decided, Moved, Signed, Silent, decode, encode
from p2pnode.wal import VoteLog, recover
from tests.p2pnode.little import Chain, RecordingLog, contribution, identities, make_genesis, payload, sign, until
from tests.p2pnode.rig import Rig
from tests.p2pnode.test_node import height, living, make_home, make_node


@pytest.fixture(params=[4, 1], ids=["of four", "alone"])
async def rig(request, tmp_path):
    rig = Rig(tmp_path / "home", members=request.param)
    yield rig
    rig.close()


def recovered(rig: Rig, path: Path, *, seen: int = 0, lost: bool = False) -> Recovery:
    me = consensus.PublicKey(rig.identity.public_key)
    standing = Standing(me=me, state=lambda: rig.rounds.state, height_seen=seen, lost=lost)
    recovery = take_up(path, standing, gossip=rig.gossip, log=RecordingLog())
    recovery.vote_log.close()
    return recovery


async def test_a_log_that_never_was_is_no_lost_one(rig, tmp_path):
    assert recovered(rig, tmp_path / "votes").revival is None


async def test_who_lost_its_log_observes_until_two_heights_beyond_any_it_can_have_signed_in(rig, tmp_path):
    revival = recovered(rig, tmp_path / "votes", seen=7, lost=True).revival
    if len(rig.rounds.state.membership.current) == 1:
        assert revival is None  # nobody else would ever decide that height
    else:
        assert revival.height == 9 and "missing" in revival.why


async def test_silence_outlives_a_restart_and_grows_no_longer(rig, tmp_path):
    path = tmp_path / "votes"
    log = VoteLog(path, anew=[encode(Silent(5))])
    log.close()
    for _ in range(2):
        revival = recovered(rig, path, seen=7).revival
        assert (revival and revival.height) == (5 if len(rig.rounds.state.membership.current) > 1 else None)


async def test_a_key_from_another_home_is_silent_until_this_one_has_decided_as_far_and_keeps_its_votes(rig, tmp_path):
    """Whoever shows it a shorter chain gets no second vote for a height whose first one stands in no log any more; alone, too."""
    path = tmp_path / "votes"
    vote = Signed(consensus.Record(consensus.RecordKind.BLOCK, 6, 0, b"a block"))
    VoteLog(path, anew=[encode(vote), encode(Moved(5))]).close()
    for _ in range(2):
        recovery = recovered(rig, path)
        assert recovery.revival.height == 5 and "from another home" in recovery.revival.why
        assert recovery.records == (vote, Moved(5))
    VoteLog(path, anew=[encode(vote), encode(Moved(rig.rounds.state.height))]).close()
    assert recovered(rig, path).revival is None
    if len(rig.rounds.state.membership.current) > 1:  # and then the log is damaged
        VoteLog(path, anew=[encode(Moved(5)), b"Xyz"]).close()
        assert recovered(rig, path, seen=3).revival.height == 7


async def test_what_was_announced_is_found_by_its_height(rig, tmp_path):
    path, state = tmp_path / "votes", rig.rounds.state
    message = contribution(rig.identity, state, payload(1))
    log = VoteLog(path)
    log.append(encode(Announced(1, rig.gossip.envelope(message))))
    log.close()
    found = recovered(rig, path).records
    assert list(logged_contributions(found, state.chain_id, first=1)) == [message]
    assert list(logged_contributions(found, state.chain_id, first=0)) == [message]  # this home's chain was put back
    assert not list(logged_contributions(found, state.chain_id, first=2))


async def test_a_key_that_the_chain_shows_has_kept_a_log(rig):
    """Put into a new home, with neither chain nor log nor marker beside it, it is known once the chain is here."""
    stranger = consensus.PublicKey(bytes(range(32)))
    assert not chain_shows(rig.store, consensus.PublicKey(rig.identity.public_key))
    for block, certificate in rig.chain.grow(2).decided:
        rig.store.put_block(block, certificate, {})
    assert chain_shows(rig.store, consensus.PublicKey(rig.identity.public_key))
    assert not chain_shows(rig.store, stranger)


async def test_a_decision_that_only_the_log_has_goes_into_the_chain(rig, tmp_path):
    """The power went before SQLite had it for good; only what follows the tip is taken, and only of this network."""
    path, chain = tmp_path / "votes", rig.chain.grow(3)
    chain_id = chain.state.chain_id
    log = VoteLog(path)
    log.append(*(encode(Decided(*decided)) for decided in (chain.decided[2], chain.decided[0], chain.decided[1])))
    log.close()
    assert restore_decisions(path, rig.store, consensus.Digest(bytes(32))) == 0
    assert restore_decisions(path, rig.store, chain_id) == 2 and rig.store.height() == 2
    assert restore_decisions(path, rig.store, chain_id) == 1 and rig.store.height() == 3
    other = Chain(4).grow(4, seed=9).decided[3]
    log = VoteLog(path)
    log.append(encode(Decided(*other)))
    log.close()
    assert restore_decisions(path, rig.store, chain_id) == 0


async def test_a_record_that_is_none_makes_a_log_that_cannot_be_trusted(rig, tmp_path):
    path = tmp_path / "votes"
    log = VoteLog(path)
    log.append(encode(Silent(0)), b"Xyz")
    log.close()
    recovery = recovered(rig, path, seen=3)
    if len(rig.rounds.state.membership.current) == 1:
        assert recovery.revival is None and recovery.records == (Silent(0),)
    else:
        assert recovery.revival.height == 5 and "record 2 is none" in recovery.revival.why


async def test_whatever_happens_to_the_log_no_slot_is_signed_twice(rig, tmp_path):
    """Any bit turned: silence. Cut short anywhere: what had been acknowledged is signed no other way, and the rest never left."""
    path, me = tmp_path / "votes", consensus.PublicKey(rig.identity.public_key)
    state, (block, _) = rig.rounds.state, rig.chain.grow().decided[0]
    said = [
        sign(rig.identity, state.chain_id, consensus.Prepare(me, 1, 0, block.hash, -1, consensus.Signature(b""))),
        sign(rig.identity, state.chain_id, consensus.Commit(me, 1, 0, block.hash, consensus.Signature(b""))),
    ]
    log = VoteLog(path)
    ends = []
    for message in said:
        log.append(encode(Signed(record_of_vote(message, chain_id=state.chain_id))))
        ends.append(len(path.read_bytes().rstrip(b"\0")))
    log.close()
    whole = path.read_bytes()
    alone = len(state.membership.current) == 1
    draw = random.Random(5)
    for _ in range(60):
        at = draw.randrange(len(whole)) if draw.random() < 0.3 else draw.randrange(ends[-1])
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        assert alone or recovered(rig, path, seen=1).revival is not None
    for length in range(512, ends[-1] + 1, 7):
        path.write_bytes(whole[:length].ljust(len(whole), b"\0"))
        recovery = recovered(rig, path)
        assert recovery.revival is None
        assert len(recovery.records) == sum(length >= end for end in ends)


async def test_heights_that_the_power_took_from_the_chain_file_come_back_from_the_log(tmp_path, monkeypatch):
    """SQLite had them, not for good; what was signed above them is on the disk, and the decisions with it. A whole node."""
    founder = identities(1)[0]
    home = make_home(tmp_path / "home", founder, make_genesis([founder]))
    with monkeypatch.context() as patched:
        patched.setattr(Driver, "kept", lambda *_: None)  # the chain file is never durable
        node = make_node(home)
        async with living(node):
            await until(lambda: height(node) >= 4)
    before = height(node)
    db = sqlite3.connect(home.chain)
    db.execute("DELETE FROM blocks WHERE height > 1").connection.commit()
    db.close()
    node = make_node(home)
    async with living(node):
        await until(lambda: height(node) > before)
        assert node.driver.silent is None
    hashes = {d.height: d.block.hash for d in map(decode, recover(home.votes).records) if isinstance(d, Decided)}
    assert before - 1 in hashes
    report = verify(home.path, Wishes())
    assert report.sound, report.faults  # the log would show another block that was signed for one of these heights
