"""The Byzantine nodes lie as they promise to, and honest parts notice."""

import subprocess
import sys

import numpy as np
import pytest

import consensus
import transport
from consensus.evidence import evidence_of
from model import compression
from model.data import Corpus
from model.trainer import Trainer
from p2pnode import attacks
from p2pnode.attacks import KITS, BadRootRounds, EquivocatingGossip, HollowRounds, HugeTrainer, SilentGossip, another
from tests.p2pnode.little import LAYOUT, MODEL, TEXT, TRAINING, Chain, contribution, payload, sign, until
from tests.p2pnode.rig import Peer, Rig, network

CHAIN = Chain(4).grow(3)


def founders(tmp_path, voice):
    """Three honest ones, and the last one with that voice."""
    peers = [Peer(tmp_path / f"peer{place}", CHAIN) for place in range(4)]
    for place, peer in enumerate(peers):
        peer.identity = CHAIN.founders[place]
    return peers, lambda: setattr(peers[3].gossip, "__class__", voice)


def messages(author):
    key, chain_id = consensus.PublicKey(author.public_key), CHAIN.genesis.chain_id
    block, _ = CHAIN.next_block()
    unsigned = consensus.Signature(b"")
    return [
        sign(author, chain_id, message)
        for message in (
            consensus.Prepare(key, 4, 0, block.hash, -1, unsigned),
            consensus.Prepare(key, 4, 1, consensus.NIL, -1, unsigned),
            consensus.Commit(key, 4, 0, block.hash, unsigned),
            consensus.Proposal(key, 4, 0, block, None, unsigned),
        )
    ]


@pytest.mark.parametrize("which", range(4))
async def test_equivocate_shows_each_half_another_thing_and_signs_both(tmp_path, which):
    peers, turn = founders(tmp_path, EquivocatingGossip)
    message = messages(CHAIN.founders[3])[which]
    async with network(*peers):
        turn()
        peers[3].gossip.broadcast(message)
        await until(lambda: all(peer.heard for peer in peers[:3]))
        heard = {m.statement(consensus.Digest(CHAIN.genesis.chain_id)): m for peer in peers for m in peer.heard}
        assert len(heard) == 2  # the ring may have brought both to one of them
        (one, a), (other, b) = heard.items()
        proof = evidence_of(a.author, (one, a.signature), (other, b.signature))
        chain_id = consensus.Digest(CHAIN.genesis.chain_id)
        assert consensus.check_evidence(proof, chain_id=chain_id, verify=transport.verify) is None


async def test_equivocate_says_the_rest_as_everybody_does(tmp_path):
    peers, turn = founders(tmp_path, EquivocatingGossip)
    offered = contribution(CHAIN.founders[3], CHAIN.state, payload(1))
    async with network(*peers):
        turn()
        peers[3].gossip.broadcast(offered)
        await until(lambda: all(peer.heard for peer in peers[:3]))
        assert {m.signature for peer in peers[:3] for m in peer.heard} == {offered.signature}


def test_another_vote_contradicts():
    assert another(consensus.NIL) != consensus.NIL
    assert another(consensus.Digest(b"\1" * 32)) == consensus.NIL


async def test_silent_says_nothing_that_it_signed(tmp_path):
    peers, turn = founders(tmp_path, SilentGossip)
    async with network(*peers):
        turn()
        mute = peers[3].gossip
        vote, certificate = messages(CHAIN.founders[3])[0], CHAIN.decided[2][1]
        mute.broadcast(vote)
        mute.broadcast_certificate(certificate)
        mute.send([peers[0].key], vote)
        mute.tell(peers[0].key, [vote, certificate])
        peers[3].says(3)  # what it says unsigned still comes, after all of that
        await until(lambda: all(peers[3].key in peer.gossip.statuses for peer in peers[:3]))
        assert not any(peer.heard or peer.events for peer in peers[:3])


async def test_bad_root_proposes_what_nobody_can_reproduce(tmp_path):
    liar, honest = Rig(tmp_path / "liar", members=1, trains=False), Rig(tmp_path / "honest", members=1, trains=False)
    liar.rounds.__class__ = BadRootRounds
    for rig in (liar, honest):
        offered = rig.hold(0, payload(5))
        rig.blobs.put(payload(5))
    template = consensus.BlockTemplate(liar.rounds.state, consensus.PublicKey(liar.identity.public_key))
    async with liar.running():
        liar.rounds.hold(offered, payload(5))
        block = await liar.rounds.build(consensus.BuildBlock(1, 0, template))
    assert block.header.model_root == b"\3" * 32
    assert consensus.check_block(block, honest.rounds.state, transport.verify) is None  # its form is good
    async with honest.running():
        ok, reason = await honest.rounds.check(block)
    assert not ok and reason.startswith("model root 0303")


async def test_bad_root_keeps_a_height_without_contributions_as_it_is(tmp_path):
    rig = Rig(tmp_path, members=1, trains=False)
    rig.rounds.__class__ = BadRootRounds
    template = consensus.BlockTemplate(rig.rounds.state, consensus.PublicKey(rig.identity.public_key))
    async with rig.running():
        block = await rig.rounds.build(consensus.BuildBlock(1, 0, template))
        assert block.header.model_root == rig.rounds.state.model_root


async def test_hollow_proposes_nothing_at_once_when_it_is_its_turn(tmp_path):
    founders = Chain(4).founders
    turn = next(i for i, f in enumerate(founders) if f.public_key == CHAIN.states[0].membership.current.proposer(1, 0))
    for place in (turn, (turn + 1) % 4):
        rig = Rig(tmp_path / str(place), members=4, me=place, trains=False)
        rig.rounds.__class__ = HollowRounds
        rig.rounds.synced = True
        assert rig.rounds._start_moment() == (0.0 if place == turn else None)
        template = consensus.BlockTemplate(rig.rounds.state, consensus.PublicKey(rig.identity.public_key))
        block = await rig.rounds.build(consensus.BuildBlock(1, 0, template))
        assert not block.contributions and block.header.model_root == rig.rounds.state.model_root
        rig.close()


def test_huge_is_the_longest_step_in_the_wrong_direction():
    def learn(kind):
        corpus = Corpus(TEXT, TRAINING.sequence)
        trainer = kind(MODEL, TRAINING, corpus, chain_id=bytes(32), author=bytes(32))
        update = trainer.learn(CHAIN.replicas[0], 1)
        compression.check(update.payload, LAYOUT)
        return compression.dequantize(compression.decode(update.payload, LAYOUT))

    honest, huge = learn(Trainer), learn(HugeTrainer)
    moved = honest != 0
    assert (np.sign(huge[moved]) == -np.sign(honest[moved])).all()
    assert np.abs(huge[moved]).min() > 10 * np.abs(honest).max()


def test_every_attack_changes_exactly_one_part():
    honest = attacks.node.Kit()
    for name, kit in KITS.items():
        parts = [(getattr(kit, part), getattr(honest, part)) for part in ("gossip", "rounds", "trainer")]
        assert sum(lying is not true for lying, true in parts) == 1, name
        assert all(issubclass(lying, true) for lying, true in parts)


def test_the_command_line_names_its_attacks(tmp_path):
    words = [sys.executable, "-m", "p2pnode.attacks", "--home", str(tmp_path / "home"), "--attack", "kindness"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "equivocate" in done.stderr


def test_what_stops_it_is_one_line(tmp_path):
    (tmp_path / "home").write_text("a file where the home should be")
    words = [sys.executable, "-m", "p2pnode.attacks", "--home", str(tmp_path / "home"), "--attack", "silent"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
