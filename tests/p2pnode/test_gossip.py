"""A node's voice and ears on real connections: what becomes of messages, frames and questions, hostile ones included."""

from dataclasses import replace

import pytest
import trio

import consensus
import transport
from p2pnode.gossip import first_difference, read_page
from p2pnode.wire import FrameKind, Method, Role, Status, encode_blocks, encode_blocks_request
from tests.p2pnode.little import Chain, contribution, identities, payload, sign, until
from tests.p2pnode.rig import Peer, network

CHAIN = Chain(4).grow(3)


def peers(tmp_path, count, heights=3):
    """The founders themselves: the ring is theirs."""
    found = [Peer(tmp_path / f"peer{place}", CHAIN, heights=heights) for place in range(count)]
    for place, peer in enumerate(found):
        peer.identity = CHAIN.founders[place]
    return found


def prepare(author, view=0, block_hash=consensus.NIL):
    vote = consensus.Prepare(consensus.PublicKey(author.public_key), 4, view, block_hash, -1, consensus.Signature(b""))
    return sign(author, CHAIN.genesis.chain_id, vote)


async def test_a_message_is_heard_by_everybody_and_by_the_engine(tmp_path):
    one, two, three = peers(tmp_path, 3)
    offered = contribution(one.identity, CHAIN.state, payload(1))
    async with network(one, two, three):
        one.gossip.broadcast(offered)
        await until(lambda: two.heard and three.heard)
        assert two.heard[0] == offered and two.events[0] == consensus.MessageReceived(offered)


async def test_a_vote_that_only_one_was_shown_goes_on_along_the_ring(tmp_path):
    """The traitor's two votes meet at a neighbour, who holds the proof then."""
    a, b, c, traitor = peers(tmp_path, 4)
    async with network(a, b, c, traitor):
        traitor.gossip.send([a.key], prepare(traitor.identity))
        traitor.gossip.send([b.key], prepare(traitor.identity, block_hash=consensus.Digest(b"\1" * 32)))
        await until(lambda: len(b.heard) == 2)
        assert {m.block_hash for m in b.heard} == {consensus.NIL, b"\1" * 32}
        await until(lambda: c.heard)  # and b's goes on to c


async def test_an_observer_passes_nothing_on(tmp_path):
    a, b = peers(tmp_path, 2)
    stranger = Peer(tmp_path / "stranger", CHAIN, seed=77)
    async with network(a, b, stranger):
        a.gossip.send([stranger.key], prepare(a.identity))
        await until(lambda: stranger.heard)
        b.gossip.tell_status(Status(height=1, model_root=bytes(32), role=Role.MEMBER, learning=0))
        await until(lambda: b.key in a.gossip.statuses)
        assert not b.heard


async def test_statuses_are_told_once_and_to_whoever_comes_later(tmp_path):
    one, two = peers(tmp_path, 2)
    status = Status(height=3, model_root=CHAIN.state.model_root, role=Role.MEMBER, learning=4)
    async with network(one):
        one.gossip.tell_status(status)
        one.gossip.tell_status(status)
        offered = contribution(one.identity, CHAIN.state, payload(1))
        one.gossip.broadcast(offered)
        came = []
        one.gossip.on_peer = came.append
        async with trio.open_nursery() as nursery:
            await nursery.start(two.run, (one.address,))
            await until(lambda: two.gossip.statuses and two.heard)
            assert two.gossip.statuses == {one.key: status} and two.heard == [offered]
            assert two.gossip.peers_at(3) == [one.key] and two.gossip.peers_at(4) == []
            assert came == [two.key]
            one.gossip.statuses[two.key] = status
            nursery.cancel_scope.cancel()
        await until(lambda: two.key not in one.gossip.statuses)  # who is gone says nothing


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FrameKind.STATUS, b"\xff"),
        (FrameKind.STATUS, b""),
        (FrameKind.CERTIFICATE, b"\2" * 40),
        (FrameKind.EVIDENCE, bytes(200)),
        (0xEE, b"what is this"),
    ],
)
async def test_a_bad_frame_is_one_line_in_the_log(tmp_path, kind, body):
    one, two = peers(tmp_path, 2)
    async with network(one, two):
        one.swarm.publish(transport.encode_frame(kind, body))
        await until(lambda: two.log.said("frame refused"))
        assert two.log.said("frame refused")[0]["peer"] == transport.short_id(one.key)
        one.gossip.broadcast_certificate(CHAIN.decided[2][1])  # the connection is as good as before
        await until(lambda: two.events)
        assert two.events == [consensus.CertificateReceived(CHAIN.decided[2][1])]


async def test_a_signed_message_that_means_nothing_is_one_line_in_the_log(tmp_path):
    one, two = peers(tmp_path, 2)
    vote = prepare(one.identity)
    async with network(one, two):
        envelope = replace(one.gossip.envelope(vote), attachment=b"something that no prepare carries")
        one.swarm.publish(envelope.frame())
        await until(lambda: two.log.said("message refused"))
        one.gossip.broadcast(prepare(one.identity, view=1))
        await until(lambda: two.heard)
        assert len(two.heard) == 1


async def test_evidence_travels(tmp_path):
    one, two = peers(tmp_path, 2)
    chain_id = consensus.Digest(CHAIN.genesis.chain_id)
    votes = [prepare(CHAIN.founders[3]), prepare(CHAIN.founders[3], block_hash=consensus.Digest(b"\1" * 32))]
    pairs = sorted((vote.statement(chain_id), vote.signature) for vote in votes)
    proof = consensus.Evidence(votes[0].author, tuple(pairs))
    async with network(one, two):
        one.gossip.broadcast_evidence(proof)
        await until(lambda: two.events)
        assert two.events == [consensus.EvidenceReceived(proof)]


async def test_a_newcomer_is_told_what_it_may_have_missed(tmp_path):
    one, two = peers(tmp_path, 2)
    certificate, vote = CHAIN.decided[2][1], prepare(one.identity)
    async with network(one, two):
        one.gossip.tell(two.key, [certificate, vote])
        await until(lambda: len(two.events) == 2)
        assert two.events == [consensus.CertificateReceived(certificate), consensus.MessageReceived(vote)]


# --- questions ----------------------------------------------------------------------------------------------------------------------


async def test_blocks_are_had_by_height_and_by_hash(tmp_path):
    one, two = peers(tmp_path, 2)
    undecided, _ = CHAIN.next_block()
    async with network(one, two):
        one.gossip.undecided_block = {undecided.hash: undecided}.get
        blocks, size = await two.gossip.fetch_blocks(one.key, 2, 64)
        assert blocks == CHAIN.decided[1:] and size > 1000
        assert (await two.gossip.fetch_blocks(one.key, 2, 1))[0] == CHAIN.decided[1:2]
        assert (await two.gossip.fetch_blocks(one.key, 4, 64))[0] == []
        for block in (undecided, CHAIN.decided[0][0]):
            assert await two.gossip.fetch_block(block.hash, [bytes(32), one.key]) == block
        assert await two.gossip.fetch_block(b"\1" * 32, [one.key]) is None
        assert await two.gossip.fetch_snapshots(one.key) == []


async def test_another_block_than_the_one_asked_for_is_not_taken(tmp_path):
    liar, honest, me = peers(tmp_path, 3)
    wanted, other = CHAIN.decided[0][0], CHAIN.decided[1][0]

    async def lie(_: bytes) -> bytes:
        return other.encode()

    liar.answers[Method.BLOCK] = lie
    async with network(liar, honest, me):
        assert await me.gossip.fetch_block(b"\1" * 32, [liar.key]) is None
        assert await me.gossip.fetch_block(wanted.hash, [liar.key]) == wanted  # another member is asked next


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (Method.BLOCKS, b""),
        (Method.BLOCKS, b"\x92\xcf" + b"\xff" * 8 + b"\x01"),
        (Method.BLOCKS, bytes(60_000)),
        (Method.BLOCK, b""),
        (Method.BLOCK, bytes(60_000)),
        (0x7777, b"?"),
    ],
)
async def test_a_bad_question_is_refused_in_words_and_is_no_fault_of_ours(tmp_path, method, body):
    one, two = peers(tmp_path, 2)
    async with network(one, two):
        with pytest.raises(transport.RequestFailed, match="refused: ") as caught:
            await two.swarm.request(one.key, method, body, timeout_seconds=5, response_bytes_max=100)
        assert "internal error" not in str(caught.value)
        genesis = await two.swarm.request(one.key, Method.GENESIS, b"", timeout_seconds=5, response_bytes_max=1 << 16)
        assert genesis == CHAIN.genesis.to_bytes()


async def test_payloads_come_from_our_disk_or_from_whoever_has_them(tmp_path):
    one, two = peers(tmp_path, 2)
    data = payload(77)
    digest = one.blobs.put(data)
    async with network(one, two):
        stranger = identities(9)[-1].public_key
        assert await two.gossip.fetch_payload(digest, len(data), [stranger]) == data
        assert two.blobs.get(digest) is None  # keeping it is the round's business
        assert await two.gossip.fetch_payload(digest, len(data) + 1, [one.key]) is None
        assert await two.gossip.fetch_payload(bytes(32), 100, [one.key]) is None
        two.blobs.put(data)
        assert await two.gossip.fetch_payload(digest, 0, []) == data


async def test_who_announces_for_an_author_that_is_not_heard_is_asked_first(tmp_path):
    """Most of the others have not got its payload yet, and each would cost a round trip to find out."""
    asker, author, bystander, teller = peers(tmp_path, 4)
    offered = contribution(author.identity, CHAIN.state, payload(1))
    teller.blobs.put(payload(1))
    stranger = Peer(tmp_path / "stranger", CHAIN, seed=77)
    async with network(asker, stranger, bystander, teller):  # the author is not there
        order = asker.gossip._order([author.key], offered.payload_digest)
        assert set(order()) == {stranger.key, bystander.key, teller.key}
        stranger.gossip.send([asker.key], contribution(author.identity, CHAIN.state, payload(99)))
        await until(lambda: asker.heard)
        assert not asker.gossip._tellers, "who is no member passes nothing on"
        asker.heard.clear()
        teller.gossip.send([asker.key], offered)
        await until(lambda: asker.heard)
        assert order()[0] == teller.key and set(order()) == {stranger.key, bystander.key, teller.key}
        data = await asker.gossip.fetch_payload(offered.payload_digest, offered.payload_bytes, [author.key])
        assert data == payload(1)
        for number in range(2, 9):  # of one author the newest counts, and of one height the first
            other = contribution(author.identity, CHAIN.state, payload(number))
            teller.gossip.send([asker.key], other)
            await until(lambda count=number: len(asker.heard) == count)
        assert order()[0] == teller.key and len(asker.gossip._tellers) == 1


async def test_the_certified_model_comes_with_the_name_of_what_differs(tmp_path):
    one, two = peers(tmp_path, 2)
    certified = CHAIN.replicas[3]
    root = one.blobs.model_root(certified)
    async with network(one, two):
        healed, name = await two.gossip.fetch_certified_model(root, CHAIN.replicas[2])
    assert healed.read(0, healed.byte_length) == certified.read(0, certified.byte_length)
    assert name == first_difference(CHAIN.replicas[2], certified) and "weight" in name


def test_a_page_is_read_whole_or_not_at_all():
    rows = [(block.encode(), certificate.encode()) for block, certificate in CHAIN.decided]
    assert read_page(encode_blocks(rows)) == CHAIN.decided
    prepared = consensus.PrepareCertificate(1, 0, CHAIN.decided[0][0].hash, -1, CHAIN.decided[0][1].signers)
    with pytest.raises(consensus.Malformed, match="not a commit certificate"):
        read_page(encode_blocks([(rows[0][0], prepared.encode())]))
    with pytest.raises(consensus.Malformed):
        read_page(encode_blocks([rows[0], (b"x", rows[1][1])]))
    assert encode_blocks_request(1, 2)
