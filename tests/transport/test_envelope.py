"""Envelopes: strict decoding, signatures over the very bytes that travel, and copies that cost nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport import limits
from transport.envelope import Envelope, SeenCache
from transport.errors import Malformed
from transport.framing import FrameDecoder, Kind
from transport.identity import Identity
from transport.statement import DOMAIN, HEADER_BYTES, TRANSPORT_KINDS, make_statement, parse

ALICE = Identity(bytes(32))
CHAIN = bytes(range(32))


def signed(kind: int = 0x11, body: bytes = b"body", attachment: bytes = b"more") -> Envelope:
    statement = make_statement(kind, CHAIN, body)
    return Envelope(ALICE.public_key, ALICE.sign(statement), statement, attachment)


@given(some.binary(max_size=400), some.binary(max_size=2000))
def test_there_and_back(body: bytes, attachment: bytes) -> None:
    envelope = signed(body=body, attachment=attachment)
    decoded = Envelope.decode(envelope.encode())
    assert decoded == envelope
    assert decoded.is_authentic()
    assert (decoded.kind, decoded.chain_id()) == (0x11, CHAIN)


def test_the_frame_is_one_of_kind_envelope() -> None:
    decoder = FrameDecoder()
    decoder.feed(signed().frame())
    assert decoder.next() == (Kind.ENVELOPE, signed().encode())


def test_the_attachment_is_not_signed_and_everything_else_is() -> None:
    envelope = signed()
    assert replace(envelope, attachment=b"other").is_authentic()
    assert not replace(envelope, statement=envelope.statement + b"\0").is_authentic()
    assert not replace(envelope, author=Identity.generate().public_key).is_authentic()


@pytest.mark.parametrize("kind", [TRANSPORT_KINDS[0], 0x30, TRANSPORT_KINDS[-1]])
def test_the_transports_own_kinds_do_not_travel_in_envelopes(kind: int) -> None:
    with pytest.raises(Malformed, match="own kind"):
        Envelope.decode(signed(kind=kind).encode())


def test_widths_are_checked() -> None:
    data = signed().encode()
    for end in range(96 + 2 + HEADER_BYTES):
        with pytest.raises(Malformed):
            Envelope.decode(data[:end])
    with pytest.raises(Malformed, match="statement of 513 bytes"):
        Envelope.decode(signed(body=bytes(limits.STATEMENT_BYTES_MAX - HEADER_BYTES + 1)).encode())
    with pytest.raises(Malformed, match="an envelope of"):
        Envelope.decode(signed(attachment=bytes(limits.ENVELOPE_BYTES_MAX)).encode())


def test_another_domain_is_malformed() -> None:
    data = bytearray(signed().encode())
    data[data.index(DOMAIN)] ^= 1
    with pytest.raises(Malformed, match="another domain"):
        Envelope.decode(bytes(data))


@given(some.binary(max_size=700))
def test_garbage_is_malformed_or_encodes_to_itself(data: bytes) -> None:
    try:
        assert Envelope.decode(data).encode() == data
    except Malformed:
        pass


@given(some.binary(max_size=200))
def test_statements_parse_strictly(data: bytes) -> None:
    try:
        kind, chain_id, body = parse(data)
    except Malformed:
        return
    assert make_statement(kind, chain_id, body) == data


def test_a_copy_soon_after_is_an_echo_and_a_later_one_a_retransmission() -> None:
    seen = SeenCache()
    assert not seen.is_echo(b"a", 0.0)
    seen.remember(b"a", 0.0)
    assert seen.is_echo(b"a", limits.SEEN_SECONDS / 2)
    assert not seen.is_echo(b"a", limits.SEEN_SECONDS)
    assert seen.is_known(b"a")
    assert not seen.is_known(b"b")


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    seen = SeenCache()
    for number in range(limits.SEEN_ENTRIES_MAX + 10):
        seen.remember(number.to_bytes(4, "big"), 0.0)
    assert len(seen) == limits.SEEN_ENTRIES_MAX
    assert not seen.is_known((9).to_bytes(4, "big"))
    assert seen.is_known((10).to_bytes(4, "big"))
