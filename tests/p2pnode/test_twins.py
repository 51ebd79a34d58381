"""What makes a node believe that its key is used elsewhere, and what it does then; and a fork, which ends its voting, too."""

from dataclasses import dataclass, field

import pytest
import trio

import consensus
import transport
from p2pnode.twins import PLACES_MAX, STRANGERS_MAX, WORD_SECONDS_MAX, Twins
from p2pnode.wire import Malformed, Method, decode_spoken
from tests.p2pnode.little import Chain, RecordingLog, certify, sign, until
from tests.p2pnode.rig import Peer, network
from tests.p2pnode.test_driver import Stage
from tests.p2pnode.test_health import verdict

CHAIN = Chain(4)
STRANGER = transport.Identity(bytes([77]) * 32).public_key


@dataclass
class Scene:
    """Twins of member 0 of four, with what they found."""

    found: list[str] = field(default_factory=list)
    log: RecordingLog = field(default_factory=RecordingLog)

    def __post_init__(self) -> None:
        self.twins = Twins(committee=lambda: CHAIN.state.membership.current, found=self.found.append, log=self.log)

    def refused(self, key: bytes) -> None:
        self.twins.seen(transport.TwinSeen(transport.PublicKey(key), "it is there", refused=True))


def test_one_liar_silences_nobody_and_a_blocking_set_does():
    scene = Scene()
    for _ in range(3):
        scene.refused(CHAIN.founders[1].public_key)
    scene.refused(STRANGER)
    assert not scene.found
    for founder in CHAIN.founders[2:]:
        scene.refused(founder.public_key)
    assert scene.found == ["2 members refuse this node: it is there"]


def test_strangers_who_refuse_are_forgotten_and_members_are_not():
    scene = Scene()
    scene.refused(CHAIN.founders[1].public_key)
    for number in range(2 * STRANGERS_MAX):
        scene.refused(transport.Identity(number.to_bytes(32, "big")).public_key)
    assert len(scene.twins._refused_by) == 1 + STRANGERS_MAX and not scene.found
    scene.refused(CHAIN.founders[2].public_key)
    assert scene.found == ["2 members refuse this node: it is there"]


def test_a_key_that_we_met_ourselves_needs_no_witness():
    scene = Scene()
    scene.twins.seen(transport.TwinSeen(None, "192.0.2.1:1", refused=False))
    assert scene.found == ["another process with this key is at 192.0.2.1:1"]


def test_the_one_that_is_connected_is_told_and_goes_on():
    scene = Scene()
    for number in range(PLACES_MAX + 10):
        for _ in range(2):
            scene.twins.seen(transport.TwinSeen(STRANGER, f"192.0.2.1:{number}", refused=False))
    assert not scene.found
    assert len(scene.log.said("another process with this key tries to connect")) == PLACES_MAX


# --- what others hold in our name ----------------------------------------------------------------------------------------------------


def prepare(author, height=1, view=0):
    vote = consensus.Prepare(
        consensus.PublicKey(author.public_key), height, view, consensus.NIL, -1, consensus.Signature(b"")
    )
    return sign(author, CHAIN.genesis.chain_id, vote)


async def test_a_start_hears_what_was_voted_in_its_name(tmp_path):
    """The old process voted and is gone; the new one, which may have an older log, is shown the votes before its first."""
    founders = CHAIN.founders
    peers = [Peer(tmp_path / f"peer{place}", CHAIN) for place in range(3)]
    for place, peer in enumerate(peers):
        peer.identity = founders[place]
    me, one, two = peers
    async with network(*peers):
        for view in range(3):
            me.gossip.broadcast(prepare(me.identity, view=view))
        await until(lambda: len(one.heard) == len(two.heard) == 3)
        taken: list[consensus.Message] = []
        twins = Twins(committee=lambda: CHAIN.state.membership.current, found=lambda _: None, log=RecordingLog())
        await twins.hear_first(me.gossip, me.key, taken.append)
        assert sorted(vote.view for vote in taken) == [0, 0, 1, 1, 2, 2]
        assert await two.gossip.fetch_spoken(one.key) == [], "it has said nothing"

        async def lie(_: bytes) -> bytes:
            return await two.gossip.answer(Method.SPOKEN, b"", peer=me.key)

        one.answers[Method.SPOKEN] = lie
        with pytest.raises(Malformed, match="not ours"):
            await two.gossip.fetch_spoken(one.key)


async def test_a_start_does_not_wait_for_ever_for_members_that_are_not_there(tmp_path, autojump_clock):
    me = Peer(tmp_path / "alone", CHAIN)
    me.identity = CHAIN.founders[0]
    twins = Twins(committee=lambda: CHAIN.state.membership.current, found=lambda _: None, log=RecordingLog())
    async with network(me):
        began = trio.current_time()
        await twins.hear_first(me.gossip, me.key, lambda _: None)
        assert trio.current_time() - began == pytest.approx(WORD_SECONDS_MAX)


@pytest.mark.parametrize("body", [b"", b"\x81\x01\x01", b"\x91\x05", b"\x93" + b"\xc4\x00" * 3 + b"!", b"\xdc\x00\x11"])
def test_lists_of_votes_are_bounded_and_strict(body):
    with pytest.raises(Malformed):
        decode_spoken(body)


# --- what the driver does ------------------------------------------------------------------------------------------------------------


async def test_a_node_whose_key_is_elsewhere_says_so_once_and_nothing_else(tmp_path):
    stage = Stage(tmp_path / "votes.log", members=1)
    stage.driver.key_elsewhere("a vote is not ours")
    stage.driver.key_elsewhere("again")
    assert [line["reason"] for line in stage.log.said("voting stopped")] == [
        "this key votes elsewhere: a vote is not ours"
    ]
    assert stage.driver.silent == "this key votes elsewhere: a vote is not ours"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.driver.run)
        stage.driver.deliver(consensus.StartHeight(1))
        await trio.testing.wait_all_tasks_blocked()
        assert not stage.said(object)
        nursery.cancel_scope.cancel()


async def test_a_fork_is_loud_names_the_culprits_and_ends_voting(tmp_path):
    stage = Stage(tmp_path / "votes.log", members=4)
    chain = stage.chain
    other, _ = chain.next_block(seed=1)
    rival = certify(chain.founders, chain.genesis.chain_id, other)
    chain.grow(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.driver.run)
        stage.driver.deliver(consensus.Synced(chain.state))
        stage.driver.deliver(consensus.CertificateReceived(rival))
        await until(lambda: stage.driver.forked)
        nursery.cancel_scope.cancel()
    assert len(stage.log.said("fork")) == 1
    assert [thing.author for what, thing in stage.events if what == "evidence"], "whoever signed both"
    assert stage.driver.silent.startswith("fork: height 1 has two certified blocks")


def test_what_status_says_first():
    assert verdict(forked="fork: height 7", members_reachable=1) == "halted: fork: height 7"
    line = verdict(elsewhere="2 members refuse this node", members_reachable=1)
    assert line == "halted: this key votes elsewhere: 2 members refuse this node; this process votes no more"
    assert "no quorum" in verdict(elsewhere="x", members_reachable=1, is_member=False)
