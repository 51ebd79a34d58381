"""Catching up over real connections: from an honest peer, and past every kind of liar."""

from dataclasses import replace

import pytest

import consensus
import transport
from consensus import Purpose
from p2pnode.blocksync import DOUBT_SECONDS, decision_problem
from p2pnode.catchup import Position, following
from p2pnode.errors import SetUpError
from p2pnode.timings import round_facts
from p2pnode.wire import Method, Role, Status, encode_blocks, encode_snapshots
from tests.p2pnode.little import PAYLOAD_BYTES, Chain, certify, contribution, identities, payload, until
from tests.p2pnode.rig import Peer, network

CHAIN = Chain(4).grow(6)
OTHER = Chain(4, genesis=replace(CHAIN.genesis, nonce=b"another network!", model_root=CHAIN.genesis.model_root)).grow(6)


def honest(tmp_path, heights=6):
    return Peer(tmp_path / "honest", CHAIN, heights=heights, seed=91)


def joiner(tmp_path):
    return Peer(tmp_path / "joiner", CHAIN, seed=92)


def rows(decided):
    return [(block.encode(), certificate.encode()) for block, certificate in decided]


def same_model(position, height):
    model, wanted = position.replica, CHAIN.replicas[height]
    return model.read(0, model.byte_length) == wanted.read(0, wanted.byte_length)


async def test_a_joiner_gets_the_chain_and_every_model_on_the_way(tmp_path, monkeypatch):
    them, me = honest(tmp_path), joiner(tmp_path)
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        assert catchup.claimed() == 6
        position = await catchup.advance(position, 6)
        assert position.state == CHAIN.state and same_model(position, 6)
        assert position.recent == (frozenset(i.public_key for i in CHAIN.founders[:2]),) * 2
        assert me.store.height() == 6 and me.store.round(3)["contributions"] == 2
        assert catchup.doing is None
    assert Method.BLOCKS in them.asked


async def test_a_whole_model_is_taken_where_it_is_less_to_carry(tmp_path):
    them, me = honest(tmp_path), joiner(tmp_path)
    them.blobs.put_snapshot(5, CHAIN.states[5].model_root, CHAIN.replicas[5], keep=2)
    for digest in CHAIN.payloads:
        if digest not in {c.payload_digest for c in CHAIN.decided[5][0].contributions}:
            them.blobs.drop(digest)  # nobody can replay the old heights any more
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        position = await catchup.advance(position, 6)
        assert position.state == CHAIN.state and same_model(position, 6)
    assert me.log.said("model taken")[0]["height"] == 5
    assert me.blobs.snapshots() == [(5, CHAIN.states[5].model_root)], (
        "who gave it may be gone when this node starts again"
    )


async def test_a_node_that_missed_little_replays_and_takes_no_whole_model(tmp_path, monkeypatch):
    """What counts is what is missing, not the length of the chain."""
    them = honest(tmp_path)
    me = Peer(tmp_path / "joiner", CHAIN, heights=5, seed=92)
    me.blobs.put_snapshot(5, CHAIN.states[5].model_root, CHAIN.replicas[5], keep=2)
    them.blobs.put_snapshot(6, CHAIN.states[6].model_root, CHAIN.replicas[6], keep=2)
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        assert position.state.height == 5
        payloads = sum(c.payload_bytes for c in CHAIN.decided[5][0].contributions)
        monkeypatch.setattr(type(position.replica), "byte_length", property(lambda _: payloads))
        found = catchup._certified({(6, CHAIN.states[6].model_root)}, position)
        assert found == []
        monkeypatch.undo()
        assert (await catchup.advance(position, 6)).state == CHAIN.state


def forged(height, **changes):
    """The honest page with one block changed and certified by whoever would sign anything: nobody of the committee."""
    block, _ = CHAIN.decided[height - 1]
    block = replace(block, header=replace(block.header, **changes))
    return block, certify(CHAIN.founders[:1], CHAIN.genesis.chain_id, block)


def flipped(certificate):
    (author, signature), *rest = certificate.signers
    bad = consensus.Signature(bytes([signature[0] ^ 1]) + signature[1:])
    return replace(certificate, signers=((author, bad), *rest))


LIES = {
    "a block that nobody decided": rows([forged(1, model_root=consensus.Digest(b"\1" * 32))]),
    "the certificate of another block": [(CHAIN.decided[0][0].encode(), CHAIN.decided[1][1].encode())],
    "a bad signature": [(CHAIN.decided[0][0].encode(), flipped(CHAIN.decided[0][1]).encode())],
    "too few signatures": [
        (CHAIN.decided[0][0].encode(), replace(CHAIN.decided[0][1], signers=CHAIN.decided[0][1].signers[:2]).encode())
    ],
    "a block of another chain": rows(OTHER.decided),
    "a later block first": rows(CHAIN.decided[1:]),
    "a good block and then a wrong one": [*rows(CHAIN.decided[:1]), *rows(OTHER.decided[1:])],
    "a prepare certificate": [
        (
            CHAIN.decided[0][0].encode(),
            consensus.PrepareCertificate(1, 0, CHAIN.decided[0][0].hash, -1, CHAIN.decided[0][1].signers).encode(),
        )
    ],
    "bytes that are no block": [(b"block", b"certificate")],
    "nothing at all": [],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_liar_is_believed_in_nothing_and_an_honest_peer_is_asked_next(tmp_path, lie):
    liar, them, me = Peer(tmp_path / "liar", CHAIN, seed=93), honest(tmp_path), joiner(tmp_path)

    async def answer(_: bytes) -> bytes:
        return encode_blocks(lie)

    liar.answers[Method.BLOCKS] = answer
    async with network(liar, them, me):
        liar.says(10**6)
        them.says(6)
        await until(lambda: len(me.gossip.statuses) == 2)
        catchup, position = me.catch_up()
        assert me.gossip.peers_at(1) == [liar.key, them.key]
        position = await catchup.advance(position, catchup.claimed())
        assert position.state == CHAIN.state and same_model(position, 6)
        assert catchup.claimed() == 6  # what cannot be shown keeps nobody waiting
    assert [line["peer"] for line in me.log.said("catch-up source refused")] == [transport.short_id(liar.key)]
    assert me.asked == [] and liar.asked.count(Method.BLOCKS) == 1


@pytest.mark.parametrize("junk", [b"", b"\xff" * 100, b"\x91" * 1000, b"\xdd\xff\xff\xff\xff"])
async def test_bytes_that_are_no_page_are_refused(tmp_path, junk):
    liar, me = Peer(tmp_path / "liar", CHAIN, seed=93), joiner(tmp_path)

    async def answer(_: bytes) -> bytes:
        return junk

    liar.answers[Method.BLOCKS] = answer
    async with network(liar, me):
        liar.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        assert await catchup.advance(position, 6) == position
        assert me.store.height() == 0 and me.log.said("catch-up source refused")


async def test_a_longer_answer_than_asked_for_is_cut_off(tmp_path):
    liar, me = Peer(tmp_path / "liar", CHAIN, seed=93), joiner(tmp_path)

    async def answer(_: bytes) -> bytes:
        return bytes(10 << 20)

    liar.answers[Method.BLOCKS] = answer
    async with network(liar, me):
        liar.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        assert await catchup.advance(position, 6) == position
        assert "longer than" in me.log.said("catch-up source refused")[0]["reason"]


async def test_a_doubted_peer_is_asked_last_and_forgiven_later(tmp_path, monkeypatch):
    them, me = honest(tmp_path), joiner(tmp_path)
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        catchup.sync.doubt(them.key, "it hung up")
        assert catchup.claimed() == 0
        assert (await catchup.advance(position, 6)).state == CHAIN.state  # there is nobody else
        catchup.sync._doubted_until[them.key] -= DOUBT_SECONDS
        assert catchup.claimed() == 6


async def test_wrong_models_are_not_taken(tmp_path):
    """Roots that the chain does not name, heights that it has not, and bytes that are not of the root."""
    liar, them, me = Peer(tmp_path / "liar", CHAIN, heights=6, seed=93), honest(tmp_path), joiner(tmp_path)
    root = CHAIN.states[4].model_root

    async def offers(_: bytes) -> bytes:
        return encode_snapshots([(4, b"\6" * 32), (4, root), (10**9, root), (5, CHAIN.states[4].model_root)])

    liar.answers[Method.SNAPSHOTS] = offers
    # It serves another model's bytes under that root: the leaf hashes are right, the leaves are not.
    liar.blobs.model_root(CHAIN.replicas[4])
    liar.blobs._models[root] = CHAIN.replicas[5]
    async with network(liar, them, me):
        liar.says(6)
        them.says(6)
        await until(lambda: len(me.gossip.statuses) == 2)
        catchup, position = me.catch_up()
        await catchup.sync.extend(6)
        assert set(await catchup._offers(0)) >= {(4, b"\6" * 32), (4, root), (5, root)}
        found = catchup._certified({(4, b"\6" * 32), (4, root), (5, root)}, position)
        assert [state.height for state, _ in found] == [4]
        position = await catchup.advance(position, 6)
        assert position.state == CHAIN.state and same_model(position, 6)
    assert not me.log.said("model taken")


async def test_a_payload_that_nobody_has_stops_the_model_and_not_the_chain(tmp_path):
    them, me = honest(tmp_path), joiner(tmp_path)
    missing = CHAIN.decided[3][0].contributions[0].payload_digest
    them.blobs.drop(missing)
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        position = await catchup.advance(position, 6)
        assert position.state.height == 3 and same_model(position, 3) and catchup.chain.height == 6
        assert me.log.said("payload not found yet")[0]["height"] == 4
        them.blobs.put(CHAIN.payloads[missing])
        position = await catchup.advance(position, 6)
        assert position.state == CHAIN.state


async def test_nobody_to_ask_changes_nothing(tmp_path):
    me = joiner(tmp_path)
    async with network(me):
        catchup, position = me.catch_up()
        assert await catchup.advance(position, 10) == position
        assert catchup.claimed() == 0


# --- from our own disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def stored(tmp_path):
    me = Peer(tmp_path / "stored", CHAIN, heights=6, seed=92)
    async with network(me):
        yield me


async def test_a_restart_begins_at_the_newest_snapshot_and_replays(stored):
    for height in (2, 4):
        stored.blobs.put_snapshot(height, CHAIN.states[height].model_root, CHAIN.replicas[height], keep=2)
    catchup, position = stored.catch_up()
    assert position.state == CHAIN.states[4] and same_model(position, 4) and catchup.chain == CHAIN.state
    position = await catchup.advance(position, 0)
    assert position.state == CHAIN.state and same_model(position, 6)


async def test_a_damaged_snapshot_gives_way_to_the_one_before(stored):
    for height in (2, 4):
        stored.blobs.put_snapshot(height, CHAIN.states[height].model_root, CHAIN.replicas[height], keep=2)
    path = stored.blobs.snapshot_path(4)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0x10
    path.write_bytes(content)
    _, position = stored.catch_up()
    assert position.state == CHAIN.states[2]
    assert stored.log.said("snapshot not usable")


async def test_a_snapshot_of_another_model_is_not_taken_for_ours(stored):
    stored.blobs.put_snapshot(4, CHAIN.states[4].model_root, CHAIN.replicas[5], keep=2)
    _, position = stored.catch_up()
    assert position.state.height == 0
    assert "not those that the chain certifies" in stored.log.said("snapshot not usable")[0]["reason"]


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE blocks SET block = ? WHERE height = 3", (OTHER.decided[2][0].encode(),)),
        ("UPDATE blocks SET block = ? WHERE height = 3", (b"nothing",)),
        ("UPDATE blocks SET certificate = ? WHERE height = 3", (CHAIN.decided[3][1].encode(),)),
        ("UPDATE blocks SET certificate = ? WHERE height = 3", (b"\1" * 50,)),
    ],
)
async def test_a_chain_that_does_not_hold_together_is_one_line_for_the_operator(stored, statement, values):
    stored.store._write(statement, values)
    with pytest.raises(SetUpError, match="the chain file is damaged: block 3") as caught:
        stored.catch_up()
    assert caught.value.hint.startswith("move chain.sqlite*")


async def test_a_model_that_is_not_the_certified_one_is_noticed_where_nobody_contributed(tmp_path):
    """An empty block keeps the root: so the root before it must have been that one."""
    chain = Chain(4).grow(1).grow(1, contributors=())
    them = Peer(tmp_path / "them", chain, heights=2, seed=91)
    me = Peer(tmp_path / "me", chain, heights=2, seed=92)
    them.blobs.model_root(chain.replica)
    async with network(them, me):
        catchup, _ = me.catch_up()
        wrong = Position(replace(chain.states[1], model_root=chain.states[0].model_root), chain.replicas[0], ())
        position = await catchup.advance(wrong, 2)
        assert position.state.height == 2
        assert position.replica.view(0, 99_999) == chain.replica.view(0, 99_999)
        assert me.log.said("diverged")


async def test_when_its_own_payloads_are_gone_a_restart_takes_them_or_the_model_from_peers(tmp_path):
    them, me = honest(tmp_path), Peer(tmp_path / "mine", CHAIN, heights=6, seed=92)
    for digest in CHAIN.payloads:
        me.blobs.drop(digest)
    async with network(them, me):
        them.says(6)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        assert catchup.chain == CHAIN.state and position.state.height == 0, "the chain is ahead of the model"
        position = await catchup.advance(position, 6)
        assert position.state == CHAIN.state and same_model(position, 6)


async def test_when_every_snapshot_is_damaged_a_restart_begins_at_the_first_model(stored):
    for height in (2, 4):
        stored.blobs.put_snapshot(height, CHAIN.states[height].model_root, CHAIN.replicas[height], keep=2)
        path = stored.blobs.snapshot_path(height)
        content = bytearray(path.read_bytes())
        content[-2000 - height] ^= 1
        path.write_bytes(content)
    catchup, position = stored.catch_up()
    assert position.state.height == 0
    position = await catchup.advance(position, 0)
    assert position.state == CHAIN.state and same_model(position, 6)


# --- the judge ---------------------------------------------------------------------------------------------------------------------


def test_every_decided_block_is_accepted_and_no_other():
    for (block, certificate), state in zip(CHAIN.decided, CHAIN.states, strict=False):
        assert decision_problem(block, certificate, state) is None
        assert decision_problem(block, flipped(certificate), state) == "a signature that does not verify"
        assert decision_problem(block, certificate, OTHER.states[0]) is not None
    stranger = identities(9)[-1]
    outside = certify([*CHAIN.founders[:2], stranger], CHAIN.genesis.chain_id, CHAIN.decided[0][0])
    assert decision_problem(CHAIN.decided[0][0], outside, CHAIN.states[0]) == "a signer outside the committee"


def test_who_took_part_lately():
    block = CHAIN.decided[0][0]
    two = frozenset(c.author for c in block.contributions)
    empty = Chain(4).grow(1, contributors=()).decided[0][0]
    assert following((), block) == (two,)
    assert following((frozenset([b"a"]), frozenset([b"b"])), block) == (frozenset([b"b"]), two)
    assert following((two,), empty) == (two,)


def test_a_round_taken_from_others_has_facts_and_no_timings():
    row = round_facts(*CHAIN.decided[2])
    assert row["height"] == 3 and row["contributions"] == 2 and row["seconds"] == {} and row["loss"] is None
    assert all(c.purpose is Purpose.UPDATE for c in CHAIN.decided[2][0].contributions)


def certified(listed):
    """A block that its committee of one signed, whatever it lists."""
    state = LONELY.state
    template = consensus.BlockTemplate(state, state.membership.current.members[0])
    block = consensus.build_block(template, contributions=[listed], model_root=consensus.Digest(b"\4" * 32))
    return block, certify(LONELY.founders, LONELY.genesis.chain_id, block)


LONELY = Chain(1)
RUBBISH = b"\xff" * PAYLOAD_BYTES


@pytest.mark.parametrize(
    "listed",
    [
        contribution(LONELY.founders[0], LONELY.state, RUBBISH),
        contribution(LONELY.founders[0], LONELY.state, payload(1), payload_bytes=2**60),
    ],
)
async def test_a_network_that_certifies_rubbish_is_one_line_and_costs_no_memory(tmp_path, listed):
    them, me = Peer(tmp_path / "them", LONELY, seed=91), Peer(tmp_path / "me", LONELY, seed=92)
    them.store.put_block(*certified(listed), {"height": 1})
    them.blobs.put(RUBBISH)
    async with network(them, me):
        status = Status(height=1, model_root=b"\4" * 32, role=Role.MEMBER, learning=0)
        them.gossip.tell_status(status)
        await until(lambda: me.gossip.statuses)
        catchup, position = me.catch_up()
        with pytest.raises(SetUpError, match="certified a payload at height 1 that is none"):
            await catchup.advance(position, 1)
