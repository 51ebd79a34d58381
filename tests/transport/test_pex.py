"""Peer exchange and token buckets without sockets: who may ask when, and which answers are answers."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport import limits
from transport.address import Address
from transport.errors import Malformed
from transport.framing import FrameDecoder, Kind
from transport.identity import Identity
from transport.peerbook import PeerRecord
from transport.pex import PexExchange, encode_response
from transport.ratelimit import TokenBucket

RECORDS = [
    PeerRecord.sign(Identity(bytes((n,)) * 32), None, sequence=n, address=Address("127.0.0.1", n + 1)) for n in range(3)
]


def body(frame: bytes | None) -> bytes:
    assert frame is not None
    decoder = FrameDecoder()
    decoder.feed(frame)
    found = decoder.next()
    assert found is not None
    return found[1]


def test_question_and_answer() -> None:
    alice, bob = PexExchange(now=0.0), PexExchange(now=0.0)
    nonce, count = bob.on_request(body(alice.ask()), 0.0)
    assert count == limits.RECORDS_PER_RESPONSE_MAX
    assert alice.on_response(body(encode_response(nonce, RECORDS))) == RECORDS


def test_one_question_at_a_time_and_news_in_between_are_not_lost() -> None:
    alice, bob = PexExchange(now=0.0), PexExchange(now=0.0)
    nonce, _ = bob.on_request(body(alice.ask()), 0.0)
    assert alice.ask() is None
    assert not alice.wants_more
    alice.on_response(body(encode_response(nonce, [])))
    assert alice.wants_more
    assert alice.ask() is not None
    assert not alice.wants_more


def test_answers_that_nobody_asked_for_are_faults() -> None:
    alice = PexExchange(now=0.0)
    with pytest.raises(Malformed, match="not asked for"):
        alice.on_response(body(encode_response(1, RECORDS)))
    alice.ask()
    with pytest.raises(Malformed, match="not asked for"):
        alice.on_response(body(encode_response(99, RECORDS)))
    alice.on_response(body(encode_response(1, RECORDS)))
    with pytest.raises(Malformed, match="not asked for"):
        alice.on_response(body(encode_response(1, RECORDS)))


@pytest.mark.parametrize("count", [2, 4, 200])
def test_the_count_must_fit_the_bytes(count: int) -> None:
    alice = PexExchange(now=0.0)
    alice.ask()
    lie = struct.pack(">QB", 1, count) + b"".join(r.encode() for r in RECORDS)
    with pytest.raises(Malformed, match="records in"):
        alice.on_response(lie)


def test_asking_too_often_is_a_fault_and_news_entitle_to_more() -> None:
    bob = PexExchange(now=0.0)
    question = struct.pack(">QB", 1, 64)
    for _ in range(limits.PEX_FREE_REQUESTS):
        bob.on_request(question, 0.0)
    with pytest.raises(Malformed, match="too often"):
        bob.on_request(question, 0.0)
    assert body(bob.news()) == b""
    bob.on_request(question, 0.0)
    with pytest.raises(Malformed, match="too often"):
        bob.on_request(question, limits.PEX_SECONDS / 2)
    bob.on_request(question, limits.PEX_SECONDS * 1.01)


def test_a_source_tells_only_so_many() -> None:
    alice = PexExchange(now=0.0)
    burst = int(limits.RECORDS_PER_SOURCE_BURST)
    assert sum(alice.may_tell(0.0) for _ in range(2 * burst)) == burst
    assert sum(alice.may_tell(10.0) for _ in range(burst)) == 10 * limits.RECORDS_PER_SOURCE_PER_SECOND


@given(some.binary(max_size=400))
def test_garbage_is_malformed(data: bytes) -> None:
    alice = PexExchange(now=0.0)
    alice.ask()
    for take in (alice.on_response, lambda data: alice.on_request(data, 0.0)):
        try:
            take(data)
        except Malformed:
            pass


def test_the_largest_answer_fits_its_frame() -> None:
    assert len(encode_response(1, RECORDS[:1] * 64)) == 5 + 9 + 64 * 171
    assert Kind.PEX_RESPONSE == 0x12


@given(some.lists(some.floats(min_value=0.0, max_value=5.0), max_size=50))
def test_a_bucket_never_gives_more_than_burst_and_rate_allow(gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(per_second=2.0, burst=3.0, now=0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
        assert taken <= 3.0 + 2.0 * now + 1e-6


def test_a_bucket_says_how_long_to_wait() -> None:
    bucket = TokenBucket(per_second=4.0, burst=1.0, now=0.0)
    assert bucket.charge(0.0) == 0.0
    assert bucket.charge(0.0) == 0.25
    assert bucket.charge(0.0) == 0.5
    assert not bucket.take(0.5)
    assert bucket.take(0.75)
    bucket.grant(100.0)
    assert bucket.take(0.75)
    assert not bucket.take(0.75)


def test_what_waits_for_each_token_keeps_to_the_rate() -> None:
    """A fraction that rounds the wrong way must not let a frame through for nothing, and then every one after it."""
    bucket, now = TokenBucket(per_second=5000.0, burst=1.0, now=0.1), 0.1
    for _ in range(5001):
        now += bucket.charge(now)
    assert abs(now - 1.1) < 1e-6


def test_what_was_on_a_connection_is_not_told_again_for_a_while() -> None:
    alice = PexExchange(now=0.0)
    assert alice.unseen(RECORDS, 0.0) == RECORDS
    alice.show(RECORDS[:2], 0.0)
    assert alice.unseen(RECORDS, limits.PEX_TOLD_SECONDS / 2) == RECORDS[2:]
    assert alice.unseen(RECORDS, limits.PEX_TOLD_SECONDS) == RECORDS


def test_what_is_remembered_as_told_is_bounded() -> None:
    alice = PexExchange(now=0.0)
    records = [
        replace(RECORDS[0], signature=number.to_bytes(64, "big")) for number in range(limits.SHOWN_RECORDS_MAX + 9)
    ]
    alice.show(records, 0.0)
    assert alice.unseen(records, 0.0) == records[:9]
