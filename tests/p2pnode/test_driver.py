"""The loop around the engine: a real engine, a real vote log, and a voice that only remembers what it was told to say."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import consensus
import transport
from p2pnode import driver as driver_module
from p2pnode import wal
from p2pnode.delays import Delays
from p2pnode.driver import (
    Driver,
    Revival,
)
from p2pnode.vote_records import Decided, Signed, Silent, decode
from p2pnode.wal import VoteLog, recover
from tests.p2pnode.little import Chain, RecordingLog, certify, contribution, identities, payload, sign, until
from tests.p2pnode.test_wal import file_size_limit


class Stage:
    """One driver and everything around it, with one list of what happened in order."""

    def __init__(self, path: Path, *, members: int, me: int = 0, voting: bool = True) -> None:
        self.chain = Chain(members)
        self.identity = self.chain.founders[me]
        self.state = self.chain.state
        self.path = path
        self.events: list[tuple[str, Any]] = []
        self.decided_heights: list[int] = []
        self.keeps = True  # whether a decision is durable as soon as it is applied
        self.verdict: tuple[bool, str] = (True, "")
        self.held: trio.Event | None = None  # while set and unset inside, `decided` waits
        self.undecided: dict[bytes, consensus.Block] = {}
        self.others: list[Stage] = []
        self.log = RecordingLog()
        self.delays = Delays()
        self.recovered = recover(path)
        self.vote_log = VoteLog(path)
        self.driver = self.make(voting=voting)

    def make(self, *, voting: bool = True, revival: Revival | None = None) -> Driver:
        return Driver(
            engine=self.engine(voting=voting),
            observer=partial(self.engine, voting=False),
            vote_log=self.vote_log,
            voice=self,
            duties=self,
            delays=self.delays,
            log=self.log,
            revival=revival,
        )

    def engine(self, *, voting: bool) -> consensus.Engine:
        records = [r.record for r in map(decode, self.recovered.records) if isinstance(r, Signed)]
        me = consensus.PublicKey(self.identity.public_key) if voting else None
        return consensus.Engine(
            me=me,
            sign=lambda statement: consensus.Signature(self.identity.sign(statement)),
            verify=transport.verify,
            state=self.state,
            records=records,
        )

    def note(self, what: str, thing: Any) -> None:
        self.events.append((what, thing))

    def said(self, kind: type) -> list[Any]:
        return [thing for what, thing in self.events if what == "broadcast" and isinstance(thing, kind)]

    # --- the voice -------------------------------------------------------------------------------------------------

    def broadcast(self, message: consensus.Message) -> None:
        logged = b"".join(recover(self.path).records)
        self.note("logged" if message.signature in logged else "unlogged", message)
        self.note("broadcast", message)
        for other in self.others:
            other.driver.deliver(consensus.MessageReceived(message))

    def broadcast_certificate(self, certificate: consensus.Certificate) -> None:
        self.note("certificate", certificate)

    def broadcast_evidence(self, evidence: consensus.Evidence) -> None:
        self.note("evidence", evidence)

    def tell_evidence(self, peer: bytes, evidence: consensus.Evidence) -> None:
        self.note("evidence", evidence)

    async def fetch_block(self, block_hash: bytes, holders: Sequence[bytes]) -> consensus.Block | None:
        self.note("fetch", block_hash)
        return self.undecided.get(block_hash)

    # --- the duties ------------------------------------------------------------------------------------------------

    async def build(self, request: consensus.BuildBlock) -> consensus.Block | None:
        return consensus.build_block(request.template, contributions=(), model_root=self.state.model_root)

    async def check(self, block: consensus.Block) -> tuple[bool, str]:
        return self.verdict

    async def make_payloads_durable(self, block_hash: bytes) -> None:
        logged = [r for r in recover(self.path).records if block_hash in r and record_is_commit(r)]
        self.note("durable", (block_hash, len(logged)))

    async def decided(self, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
        if self.held is not None:
            await self.held.wait()
        self.state = self.state.after(block, certificate)
        self.decided_heights.append(block.height)
        if self.keeps:
            self.driver.kept(block.height)
        self.note("decided", block.hash)

    def wanted(self, height: int, proposed: consensus.Block | None) -> None:
        self.note("wanted", height)

    def behind(self, height: int) -> None:
        self.note("behind", height)

    def accused(self, evidence: consensus.Evidence) -> None:
        self.note("accused", evidence)


def record_is_commit(data: bytes) -> bool:
    logged = decode(data)
    if not isinstance(logged, Signed):
        return False
    record = logged.record
    return record.kind.name == "VOTE" and record.data[96:].find(bytes([consensus.Kind.COMMIT])) == 4 + 16


@asynccontextmanager
async def running(*stages: Stage) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for stage in stages:
            nursery.start_soon(stage.driver.run)
        yield
        nursery.cancel_scope.cancel()
    for stage in stages:
        stage.vote_log.close()


@pytest.fixture
def alone(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "votes.log", members=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "votes.log"


def proposer_of(members: int) -> int:
    chain = Chain(members)
    return chain.state.membership.current.members.index(chain.state.membership.current.proposer(1, 0))


async def test_every_vote_is_in_the_log_before_it_is_said(alone):
    async with running(alone):
        alone.driver.deliver(consensus.StartHeight(1))
        await until(lambda: alone.decided_heights)
    kinds = [type(thing).__name__ for what, thing in alone.events if what == "broadcast"]
    assert kinds == ["Proposal", "Prepare", "Commit"]
    assert not [thing for what, thing in alone.events if what == "unlogged"]


@pytest.mark.parametrize("quick", [True, False])
async def test_a_slow_disk_is_waited_for_in_a_thread(alone, monkeypatch, quick):
    threads = set()
    append = VoteLog.append

    def noted(self, *records):
        threads.add(threading.get_ident())
        append(self, *records)

    monkeypatch.setattr(VoteLog, "append", noted)
    monkeypatch.setattr(VoteLog, "is_quick", property(lambda _: quick))
    async with running(alone):
        alone.driver.deliver(consensus.StartHeight(1))
        await until(lambda: alone.decided_heights)
    assert (threading.get_ident() in threads) is quick


async def test_payloads_are_durable_before_their_commit_is_even_logged(alone):
    """A restart sends again what the log holds, so nothing may stand there whose payloads are not on the disk."""
    async with running(alone):
        alone.driver.deliver(consensus.StartHeight(1))
        await until(lambda: alone.decided_heights)
    order = [what for what, _ in alone.events]
    durable = next(thing for what, thing in alone.events if what == "durable")
    (commit,) = alone.said(consensus.Commit)
    assert durable == (commit.block_hash, 0)
    assert order.index("durable") < alone.events.index(("broadcast", commit)) < order.index("decided")


async def test_four_drivers_decide_the_same_blocks(tmp_path):
    stages = [Stage(tmp_path / f"{place}.log", members=4, me=place) for place in range(4)]
    for stage in stages:
        stage.others = [other for other in stages if other is not stage]
    async with running(*stages):
        for height in range(1, 4):
            for stage in stages:
                stage.driver.started()
                stage.driver.deliver(consensus.StartHeight(height))
            for stage in stages:
                await until(lambda stage=stage, height=height: height in stage.decided_heights)
    assert len({tuple(t for w, t in stage.events if w == "decided") for stage in stages}) == 1
    assert not any(what == "unlogged" for stage in stages for what, _ in stage.events)
    times = stages[0].driver.counters.times
    assert 0 < times.started <= times.proposed <= times.checked <= times.committed <= times.decided


async def test_a_full_disk_ends_voting_before_the_vote_leaves(path, mock_clock, monkeypatch):
    monkeypatch.setattr(wal, "STEP_BYTES", 512)  # no room ahead of the first vote
    me = proposer_of(4)
    stage = Stage(path, members=4, me=me)
    async with running(stage):
        with file_size_limit(path.stat().st_size):
            stage.driver.deliver(consensus.StartHeight(1))
            await until(lambda: stage.driver.cannot_vote)
            await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(30)  # there is room again, and every repetition and timeout rings
        await trio.testing.wait_all_tasks_blocked(0.01)
        block, _ = stage.chain.next_block()
        certificate = certify(stage.chain.founders, stage.chain.genesis.chain_id, block)
        stage.driver.deliver(consensus.CertificateReceived(certificate))
        stage.undecided[block.hash] = block
        mock_clock.jump(30)
        await until(lambda: stage.decided_heights == [1])  # it goes on following
    assert not [e for e in stage.events if e[0] in ("broadcast", "certificate")]
    assert "file too large" in stage.driver.cannot_vote and stage.driver.silent == stage.driver.cannot_vote
    assert [fields["hint"] for fields in stage.log.said("voting stopped")]
    assert recover(path).records == ()


async def test_a_vote_that_the_disk_refused_decides_nothing(path, mock_clock, monkeypatch):
    """The COMMITs of two others are here; with its own, which it could not log, this node would be the third."""
    monkeypatch.setattr(wal, "STEP_BYTES", 0)  # no room ahead of any vote
    stage = Stage(path, members=4, me=(proposer_of(4) + 1) % 4)
    chain_id, (block, _) = stage.chain.genesis.chain_id, stage.chain.next_block()
    unsigned, others = consensus.Signature(b""), [f for f in stage.chain.founders if f is not stage.identity]
    proposer = next(f for f in others if f.public_key == block.header.proposer)
    key = {founder: consensus.PublicKey(founder.public_key) for founder in others}

    def hear(*messages: tuple[transport.Identity, Any]) -> None:
        for author, message in messages:
            stage.driver.deliver(consensus.MessageReceived(sign(author, chain_id, message)))

    proposal = consensus.Proposal(block.header.proposer, 1, 0, block, None, unsigned)
    prepares = [(other, consensus.Prepare(key[other], 1, 0, block.hash, -1, unsigned)) for other in others]
    commits = [(other, consensus.Commit(key[other], 1, 0, block.hash, unsigned)) for other in others]
    async with running(stage):
        stage.driver.deliver(consensus.StartHeight(1))
        hear((proposer, proposal), *commits[:2])
        await until(lambda: stage.said(consensus.Prepare))
        with file_size_limit(path.stat().st_size):
            hear(*prepares)
            await until(lambda: stage.driver.cannot_vote)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not stage.decided_heights and not stage.said(consensus.Commit)
        stage.undecided[block.hash] = block
        hear(*commits)
        await until(lambda: stage.decided_heights == [1])


async def test_a_restart_says_the_same_bytes_again_and_signs_nothing_new(path, mock_clock):
    me = proposer_of(4)
    first = Stage(path, members=4, me=me)
    async with running(first):
        first.driver.deliver(consensus.StartHeight(1))
        await until(lambda: first.said(consensus.Prepare))
    second = Stage(path, members=4, me=me)
    before = recover(path).records
    async with running(second):
        await until(lambda: second.said(consensus.Prepare))
        second.driver.deliver(consensus.StartHeight(1))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert second.said(consensus.Proposal) == first.said(consensus.Proposal)
    assert set(second.said(consensus.Prepare)) == set(first.said(consensus.Prepare))
    assert recover(path).records == before


async def test_a_lost_log_means_silence_until_its_height_is_decided(path, mock_clock):
    stage = Stage(path, members=4)
    height = 3
    revival = Revival(height, partial(stage.engine, voting=True), "the log is gone")
    stage.driver = stage.make(voting=False, revival=revival)
    chain = Chain(4).grow(3, contributors=())
    async with running(stage):
        for block, certificate in chain.decided:
            assert not [e for e in stage.events if e[0] == "broadcast"]
            if block.height <= height:
                assert stage.driver.silent == "the log is gone; observing until height 3 is decided"
                assert not await stage.driver.append(b"Cnothing may be signed")
            stage.driver.deliver(consensus.StartHeight(block.height))
            stage.undecided[block.hash] = block
            stage.driver.deliver(consensus.CertificateReceived(certificate))
            await until(lambda block=block: block.height in stage.decided_heights)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert stage.driver.silent is None
        stage.driver.deliver(consensus.StartHeight(4))
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(60)  # no proposal comes
        await until(lambda: stage.said(consensus.Prepare))
    assert {prepare.height for prepare in stage.said(consensus.Prepare)} == {4}
    assert stage.log.said("voting again")


async def test_peers_wait_while_the_engine_has_too_much_to_read(alone, monkeypatch):
    monkeypatch.setattr(driver_module, "REMOTE_EVENTS_MAX", 3)
    stranger = identities(9)[-1]
    message = contribution(stranger, alone.state, payload(1))
    for _ in range(3):
        await alone.driver.deliver_remote(consensus.MessageReceived(message))
    waited = trio.Event()

    async def one_more() -> None:
        await alone.driver.deliver_remote(consensus.MessageReceived(message))
        waited.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_more)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not waited.is_set()
        nursery.start_soon(alone.driver.run)
        await waited.wait()
        nursery.cancel_scope.cancel()
    alone.vote_log.close()


async def test_while_a_decision_is_applied_peers_are_not_held_up(alone, monkeypatch):
    """The payload that it waits for may come over the very connections that would be read no further."""
    monkeypatch.setattr(driver_module, "REMOTE_EVENTS_MAX", 3)
    alone.held = trio.Event()
    message = contribution(identities(9)[-1], alone.state, payload(1))
    async with running(alone):
        alone.driver.deliver(consensus.StartHeight(1))
        await until(lambda: alone.said(consensus.Commit))
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(50):
            await alone.driver.deliver_remote(consensus.MessageReceived(message))
        alone.held.set()
        await until(lambda: alone.decided_heights)


async def test_only_good_checks_teach_the_timeouts(path):
    stage = Stage(path, members=4, me=(proposer_of(4) + 1) % 4)
    stage.delays.note_round_trips([0.1], needed=1)
    proposer = stage.chain.founders[proposer_of(4)]
    block, _ = stage.chain.next_block(contributors=())
    author = consensus.PublicKey(proposer.public_key)
    unsigned = consensus.Proposal(author, 1, 0, block, None, consensus.Signature(b""))
    proposal = sign(proposer, stage.chain.genesis.chain_id, unsigned)
    stage.verdict = (False, "its payload cannot be had")
    async with running(stage):
        stage.driver.deliver(consensus.StartHeight(1))
        stage.driver.deliver(consensus.MessageReceived(proposal))
        await until(lambda: stage.said(consensus.Prepare))
        assert stage.delays.measured() is None
        assert stage.driver.block(block.hash) == block  # for peers who lack it
    (prepare,) = stage.said(consensus.Prepare)
    assert prepare.block_hash == consensus.NIL


async def test_evidence_goes_to_the_round_and_to_everybody(path):
    stage = Stage(path, members=4)
    traitor = stage.chain.founders[2]
    two = [contribution(traitor, stage.state, payload(seed)) for seed in (1, 2)]
    async with running(stage):
        for message in two:
            stage.driver.deliver(consensus.MessageReceived(message))
        await until(lambda: [e for e in stage.events if e[0] == "evidence"])
    assert [what for what, _ in stage.events] == ["accused", "evidence"]
    assert stage.events[0][1].author == traitor.public_key and stage.driver.counters.evidence == 1


async def test_what_the_engine_refuses_is_counted_and_named(path):
    stage = Stage(path, members=4)
    stranger = identities(9)[-1]
    prepare = sign(
        stranger,
        stage.chain.genesis.chain_id,
        consensus.Prepare(consensus.PublicKey(stranger.public_key), 1, 0, consensus.NIL, -1, consensus.Signature(b"")),
    )
    async with running(stage):
        stage.driver.deliver(consensus.StartHeight(1))
        stage.driver.deliver(consensus.MessageReceived(prepare))
        await until(lambda: stage.driver.counters.refused)
    assert stage.driver.counters.last_refusal == "a vote from outside the committee"
    assert stage.log.said("refused")[0]["peer"] == transport.short_id(stranger.public_key)


async def test_decided_heights_leave_the_log(path, monkeypatch):
    monkeypatch.setattr(wal, "PRUNE_BYTES", 64)
    stage = Stage(path, members=1)
    async with running(stage):
        for height in (0, 2):
            assert await stage.driver.append(Silent(height))
        stage.driver.deliver(consensus.StartHeight(1))
        await until(lambda: stage.decided_heights)
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert {decode(data).height for data in recover(path).records} == {1, 2}


async def test_a_decision_that_is_not_durable_yet_goes_into_the_log_with_the_next_statement(path):
    """So that no disk shows a statement of a height without the decision below it."""
    stage = Stage(path, members=1)
    stage.keeps = False
    async with running(stage):
        for height in (1, 2):
            stage.driver.deliver(consensus.StartHeight(height))
            await until(lambda height=height: stage.decided_heights[-1:] == [height])
        records = [decode(data) for data in recover(path).records]
        places = [place for place, record in enumerate(records) if isinstance(record, Decided)]
        assert [records[place].height for place in places] == [1]
        assert [record.height for record in records[places[0] :]][:2] == [1, 2]
        stage.driver.kept(2)
        assert await stage.driver.append(Silent(0))
    assert decode(recover(path).records[-1]) == Silent(0)
    assert len([r for r in recover(path).records if isinstance(decode(r), Decided)]) == 1


async def test_a_proposer_says_and_prepares_its_block_in_one_flush(path):
    stage = Stage(path, members=4, me=proposer_of(4))
    counted = []
    append = stage.vote_log.append
    stage.vote_log.append = lambda *records: (counted.append(len(records)), append(*records))
    async with running(stage):
        stage.driver.deliver(consensus.StartHeight(1))
        await until(lambda: stage.said(consensus.Prepare))
    assert counted == [2]
    assert not any(what == "unlogged" for what, _ in stage.events)
