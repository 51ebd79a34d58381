"""HELLO and ACK without sockets: two ends that talk through lists of bytes, and everything that must be refused."""

import dataclasses
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport import statement as st
from transport.address import Address
from transport.framing import FrameDecoder, Kind
from transport.handshake import PROTOCOL_VERSION, Bye, Handshake, Refused, decode_bye, encode_bye
from transport.identity import Identity
from transport.peerbook import PeerRecord
from transport.statement import ChainId
from transport.tls import TlsPeer

ALICE, BOB, EVE = (Identity(bytes((n,)) * 32) for n in (1, 2, 3))
LEAF = {i.public_key: hashlib.sha256(i.public_key).digest() for i in (ALICE, BOB, EVE)}
CHAIN, OTHER = ChainId(b"\x11" * 32), ChainId(b"\x22" * 32)


def end(me: Identity, other: Identity, *, is_client: bool, **changes: object) -> Handshake:
    options: dict[str, object] = {
        "identity": me,
        "leaf_hash": LEAF[me.public_key],
        "remote": TlsPeer(other.public_key, LEAF[other.public_key]),
        "is_client": is_client,
        "chain_id": CHAIN,
        "record": None,
        "nonce": bytes(32),
    }
    return Handshake(**(options | changes))  # type: ignore[arg-type]


def talk(client: Handshake, server: Handshake) -> None:
    """Carry frames both ways until nobody has anything to say."""
    to_server, to_client = [client.start()], [server.start()]
    while to_server or to_client:
        for inbox, receiver, outbox in ((to_server, server, to_client), (to_client, client, to_server)):
            decoder = FrameDecoder()
            decoder.feed(b"".join(inbox))
            inbox.clear()
            outbox.extend(answer for frame in decoder if (answer := receiver.receive(*frame)))


def hello(handshake: Handshake) -> bytes:
    return handshake.start()[5:]


def refused(handshake: Handshake, kind: int, body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        handshake.receive(kind, body)
    return caught.value


def test_both_accept_and_learn_each_others_record() -> None:
    record = PeerRecord.sign(ALICE, CHAIN, sequence=1, address=Address("127.0.0.1", 7337))
    client, server = end(ALICE, BOB, is_client=True, record=record), end(BOB, ALICE, is_client=False)
    talk(client, server)
    assert server.peer is not None
    assert server.peer.record == record
    assert server.peer.chain_id == CHAIN
    assert client.peer is not None
    assert client.peer.record is None


def test_nobody_is_accepted_before_the_ack() -> None:
    client, server = end(ALICE, BOB, is_client=True), end(BOB, ALICE, is_client=False)
    server.receive(Kind.HELLO, hello(client))
    assert server.peer is None


@pytest.mark.parametrize(("mine", "theirs"), [(None, CHAIN), (CHAIN, None), (None, None)])
def test_a_joiner_that_knows_no_network_is_let_in(mine: ChainId | None, theirs: ChainId | None) -> None:
    client, server = end(ALICE, BOB, is_client=True, chain_id=mine), end(BOB, ALICE, is_client=False, chain_id=theirs)
    talk(client, server)
    assert client.peer is not None
    assert server.peer is not None
    assert (client.peer.chain_id, server.peer.chain_id) == (theirs, mine)


def test_each_learns_from_where_the_other_sees_it_and_whether_it_is_a_probe() -> None:
    client = end(ALICE, BOB, is_client=True, seen=Address("192.0.2.7", 7337), is_probe=True)
    server = end(BOB, ALICE, is_client=False, seen=Address("2001:db8::9", 40000))
    talk(client, server)
    assert server.peer is not None
    assert client.peer is not None
    assert (server.peer.seen, server.peer.is_probe) == (Address("192.0.2.7", 7337), True)
    assert (client.peer.seen, client.peer.is_probe) == (Address("2001:db8::9", 40000), False)


def test_an_address_that_nobody_has_is_not_seen() -> None:
    client, server = end(ALICE, BOB, is_client=True), end(BOB, ALICE, is_client=False)
    talk(client, server)
    assert server.peer is not None
    assert server.peer.seen is None
    nobody = end(ALICE, BOB, is_client=True, seen=Address("224.0.0.1", 7337))
    assert "cannot be dialed" in refused(end(BOB, ALICE, is_client=False), Kind.HELLO, hello(nobody)).reason


def test_another_network_is_refused_with_both_shown() -> None:
    refusal = refused(
        end(BOB, ALICE, is_client=False), Kind.HELLO, hello(end(ALICE, BOB, is_client=True, chain_id=OTHER))
    )
    assert refusal.code is Bye.WRONG_NETWORK
    assert CHAIN.hex()[:12] in refusal.reason
    assert OTHER.hex()[:12] in refusal.reason


def test_another_version_is_refused_with_both_shown_whatever_else_it_says() -> None:
    newer = hello(end(ALICE, BOB, is_client=True, version=7)) + b"fields that we cannot know"
    refusal = refused(end(BOB, ALICE, is_client=False), Kind.HELLO, newer)
    assert refusal.code is Bye.INCOMPATIBLE_VERSION
    assert "version 7" in refusal.reason
    assert str(PROTOCOL_VERSION) in refusal.reason


def test_a_hello_signed_by_another_key_than_the_certificates() -> None:
    for_bob = end(EVE, BOB, is_client=True)
    assert "certificate" in refused(end(BOB, ALICE, is_client=False), Kind.HELLO, hello(for_bob)).reason


@pytest.mark.parametrize("leaf", ["mine", "yours"])
def test_a_hello_from_another_tls_connection_does_not_count(leaf: str) -> None:
    if leaf == "mine":
        moved = end(ALICE, BOB, is_client=True, leaf_hash=LEAF[EVE.public_key])
    else:
        moved = end(ALICE, BOB, is_client=True, remote=TlsPeer(BOB.public_key, LEAF[EVE.public_key]))
    assert "another TLS connection" in refused(end(BOB, ALICE, is_client=False), Kind.HELLO, hello(moved)).reason


def test_every_flipped_bit_is_refused() -> None:
    good = hello(end(ALICE, BOB, is_client=True))
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        refused(end(BOB, ALICE, is_client=False), Kind.HELLO, bytes(bad))


@given(some.binary(max_size=600))
def test_garbage_is_refused_and_raises_nothing_else(body: bytes) -> None:
    refused(end(BOB, ALICE, is_client=False), Kind.HELLO, body)


def test_anothers_record_is_refused() -> None:
    record = PeerRecord.sign(EVE, CHAIN, sequence=1, address=Address("127.0.0.1", 7337))
    bad = end(ALICE, BOB, is_client=True, record=record)
    assert "another node's record" in refused(end(BOB, ALICE, is_client=False), Kind.HELLO, hello(bad)).reason


def test_a_broken_record_is_refused() -> None:
    good = hello(end(ALICE, BOB, is_client=True))
    assert "carries" in refused(end(BOB, ALICE, is_client=False), Kind.HELLO, good + bytes(171)).reason


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.PING, Kind.ENVELOPE, 0x80])
def test_nothing_but_hello_comes_first(kind: int) -> None:
    assert refused(end(BOB, ALICE, is_client=False), kind, bytes(32)).code is Bye.PROTOCOL


def test_hello_comes_once_and_the_ack_must_fit() -> None:
    server = end(BOB, ALICE, is_client=False)
    server.receive(Kind.HELLO, hello(end(ALICE, BOB, is_client=True)))
    assert "ACK" in refused(server, Kind.ACK, bytes(32)).reason
    assert "in place of" in refused(server, Kind.HELLO, hello(end(ALICE, BOB, is_client=True))).reason


def test_being_told_no_is_understood_and_not_answered() -> None:
    refusal = refused(end(BOB, ALICE, is_client=False), Kind.BYE, encode_bye(Bye.FULL, "no room")[5:])
    assert (refusal.code, refusal.reason, refusal.told) == (Bye.FULL, "no room", True)


@given(some.binary(max_size=161))
def test_any_bye_reads_as_one_printable_line(body: bytes) -> None:
    code, text = decode_bye(body)
    assert isinstance(code, Bye)
    assert text.isprintable()


def test_long_texts_are_cut() -> None:
    frame = encode_bye(Bye.PROTOCOL, "ä" * 1000)
    assert len(decode_bye(frame[5:])[1]) <= 160


def test_the_layout_is_what_the_document_says() -> None:
    """docs/wire-format.md: key, signature, domain, kind, chain, version, nonce, two leaf hashes, suspected, seen, probe."""
    body = hello(end(ALICE, BOB, is_client=True, nonce=b"n" * 32, seen=Address("192.0.2.7", 7337), is_probe=True))
    layout = struct.Struct(">32s64s16sB32sH32s32s32s32s18sB")
    key, signature, domain, kind, chain, version, nonce, mine, yours, suspected, seen, probe = layout.unpack(body)
    assert (key, domain, kind, chain) == (ALICE.public_key, b"p2pnode-sig-v1\0\0", 0x30, CHAIN)
    assert (version, nonce, suspected) == (3, b"n" * 32, bytes(32))
    assert (seen, probe) == (bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7)) + (7337).to_bytes(2, "big"), 1)
    assert (mine, yours) == (LEAF[ALICE.public_key], LEAF[BOB.public_key])
    assert signature == ALICE.sign(body[96:])
    assert st.HELLO == 0x30


def test_what_was_said_cannot_be_changed() -> None:
    client, server = end(ALICE, BOB, is_client=True), end(BOB, ALICE, is_client=False)
    talk(client, server)
    assert server.peer is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        server.peer.chain_id = None  # type: ignore[misc]
