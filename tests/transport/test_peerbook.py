"""Records and the book: only a node itself can move its address, and nobody is told what is not theirs to know."""

import hashlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from transport import limits
from transport.address import Address, Scope
from transport.errors import Malformed
from transport.identity import Identity
from transport.peerbook import RECORD_BYTES, PeerBook, PeerRecord
from transport.statement import ChainId

CHAIN, OTHER = ChainId(b"\x11" * 32), ChainId(b"\x22" * 32)
ALICE, BOB = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
HOME = Address("127.0.0.1", 7337)
NOW = 1_000_000.0
SEQUENCE = int(NOW * 1000)


def record(
    who: Identity = ALICE, *, sequence: int = SEQUENCE, address: Address = HOME, chain: bytes | None = CHAIN
) -> PeerRecord:
    return PeerRecord.sign(who, chain, sequence=sequence, address=address)


def add(book: PeerBook, new: PeerRecord, *, chain_id: bytes | None = CHAIN) -> bool:
    return book.add(new, source=HOME, chain_id=chain_id, now=NOW)


def told(book: PeerBook, *, scope: Scope = Scope.LOOPBACK, connected: set[bytes] | None = None) -> set[bytes]:
    return {r.key for r in book.alive(scope=scope, connected=connected or set())}


def test_there_and_back() -> None:
    encoded = record().encode()
    assert len(encoded) == RECORD_BYTES == 171
    assert PeerRecord.decode(encoded) == record()
    assert record().is_authentic()


def test_the_layout_is_what_the_document_says() -> None:
    key, signature, _, kind, chain, sequence, ip, port = struct.unpack(">32s64s16sB32sQ16sH", record().encode())
    assert (key, kind, chain, sequence, port) == (ALICE.public_key, 0x20, CHAIN, SEQUENCE, 7337)
    assert ip == bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
    assert signature == ALICE.sign(record().encode()[96:])


@given(some.binary(min_size=RECORD_BYTES - 1, max_size=RECORD_BYTES + 1))
def test_garbage_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        PeerRecord.decode(data)


def test_every_flipped_bit_is_malformed_or_not_authentic() -> None:
    good = record().encode()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        try:
            assert not PeerRecord.decode(bytes(bad)).is_authentic()
        except Malformed:
            pass


def test_a_wrong_signature_is_the_one_thing_that_is_a_fault() -> None:
    forged = PeerRecord(ALICE.public_key, BOB.sign(b"x"), CHAIN, SEQUENCE, HOME)
    with pytest.raises(Malformed, match="wrong signature"):
        add(PeerBook(), forged)


def test_a_higher_sequence_replaces_and_a_lower_one_does_not() -> None:
    book = PeerBook()
    assert add(book, record())
    assert not add(book, record())
    assert not add(book, record(sequence=SEQUENCE - 1, address=Address("127.0.0.1", 1)))
    assert book.addresses(ALICE.public_key) == [HOME]
    assert add(book, record(sequence=SEQUENCE + 1, address=Address("127.0.0.1", 2)))
    assert book.addresses(ALICE.public_key) == [Address("127.0.0.1", 2)]


def test_a_newer_record_of_the_same_address_is_no_news_and_keeps_what_is_known() -> None:
    book = PeerBook()
    add(book, record())
    book.succeeded(ALICE.public_key, HOME, now=NOW)
    assert not add(book, record(sequence=SEQUENCE + 1))
    entry = book.get(ALICE.public_key, Scope.LOOPBACK)
    assert entry is not None
    assert (entry.succeeded_at, entry.record.sequence) == (NOW, SEQUENCE + 1)


def test_one_entry_for_each_scope() -> None:
    book = PeerBook()
    for host in ("127.0.0.1", "192.168.0.7", "8.8.8.8"):
        assert add(book, record(address=Address(host, 1)))
    assert len(book) == 3
    assert [a.host for a in book.addresses(ALICE.public_key)] == ["127.0.0.1", "192.168.0.7", "8.8.8.8"]


def test_other_networks_stay_out_once_one_is_known() -> None:
    book = PeerBook()
    assert not add(book, record(chain=OTHER))
    assert add(book, record(BOB, chain=None))
    assert add(book, record(chain=OTHER), chain_id=None)
    book.keep_only(CHAIN)
    assert [e.record.key for e in book] == [BOB.public_key]


def test_a_sequence_from_the_far_future_squats_nothing() -> None:
    book = PeerBook()
    late = SEQUENCE + int(limits.RECORD_FUTURE_SECONDS_MAX * 1000)
    assert not add(book, record(sequence=late + 1000))
    assert add(book, record(sequence=late))


def test_only_the_living_are_told_of() -> None:
    book = PeerBook()
    add(book, record())
    add(book, record(BOB, address=Address("127.0.0.1", 2)))
    assert told(book) == set()
    assert told(book, connected={ALICE.public_key}) == {ALICE.public_key}
    book.succeeded(BOB.public_key, Address("127.0.0.1", 2), now=NOW)
    assert told(book) == {BOB.public_key}
    book.failed(BOB.public_key, Address("127.0.0.1", 2), now=NOW)
    assert told(book) == set()


def test_scopes_decide_who_is_told() -> None:
    book = PeerBook()
    keys: dict[Scope, bytes] = {}
    for number, host in enumerate(("127.0.0.1", "10.0.0.1", "8.8.8.8")):
        who = Identity(bytes((number + 9,)) * 32)
        add(book, record(who, address=Address(host, 1)))
        keys[Address(host, 1).scope] = who.public_key
    everybody = set(keys.values())
    assert told(book, scope=Scope.LOOPBACK, connected=everybody) == everybody
    assert told(book, scope=Scope.PRIVATE, connected=everybody) == {keys[Scope.PRIVATE], keys[Scope.GLOBAL]}
    assert told(book, scope=Scope.GLOBAL, connected=everybody) == {keys[Scope.GLOBAL]}


def test_it_is_kept_as_bytes() -> None:
    book = PeerBook()
    add(book, record())
    add(book, record(BOB, address=Address("8.8.8.8", 2)))
    book.succeeded(ALICE.public_key, HOME, now=NOW)
    book.failed(BOB.public_key, Address("8.8.8.8", 2), now=NOW)
    book.anchors = ((ALICE.public_key, Scope.LOOPBACK),)
    again = PeerBook.load(book.dump())
    assert list(again) == list(book)
    assert (again.anchors, again.tried, again.dump()) == (book.anchors, 1, book.dump())
    book.forget(ALICE.public_key, HOME)
    assert [e.record.key for e in book] == [BOB.public_key]


@given(some.binary(max_size=400))
@example(bytes(33))
def test_what_is_no_book_is_malformed(data: bytes) -> None:
    for start in (b"", b"p2pnode-book-2\n"):
        with pytest.raises(Malformed):
            PeerBook.load(start + data)
        try:
            book = PeerBook.load(start + data + hashlib.sha256(start + data).digest())
        except Malformed:
            continue
        assert start and book.dump()[len(start) :].startswith(data[:32])  # 33 zeros are an empty one, with a poor key


def test_every_flipped_bit_of_a_file_is_noticed() -> None:
    book = PeerBook()
    add(book, record())
    data = book.dump()
    for position in range(len(data)):
        with pytest.raises(Malformed):
            PeerBook.load(data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :])
