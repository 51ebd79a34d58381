"""The wire form: one way to write each statement, and nothing else is read."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import (
    NIL,
    Block,
    Contribution,
    Digest,
    Evidence,
    Kind,
    Malformed,
    Message,
    Purpose,
    Record,
    decode_certificate,
    decode_message,
)
from consensus.encoding import DOMAIN
from consensus.record import content_of, record_of_block, record_of_certificate, record_of_vote
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import Bench

BENCH = Bench()
BLOCK = BENCH.block(1, 0, 1, 2)
PREPARED = BENCH.prepared(0, BLOCK, (1, 2, 3))
MESSAGES: list[Message] = [
    contribution(BENCH.signatures, 1, BENCH.state),
    contribution(BENCH.signatures, 1, BENCH.state, purpose=Purpose.PROBE),
    BENCH.proposal(1, 0, BLOCK),
    BENCH.proposal(2, 1, BLOCK, PREPARED),
    BENCH.prepare(1, 0, BLOCK),
    BENCH.prepare(1, 3, BLOCK, 2),
    BENCH.prepare(1, 0, None),
    BENCH.commit(1, 0, BLOCK),
    BENCH.commit(1, 0, None),
    BENCH.status(1, 1),
    replace(BENCH.status(1, 2, PREPARED), view_certificate=BENCH.view_ends(1, (0, 1, 2))),
]
NAMES = [f"{m.kind.name}-{i}" for i, m in enumerate(MESSAGES)]


def decode(message: Message, *, statement: bytes | None = None, attachment: bytes | None = None) -> Message:
    return decode_message(
        CHAIN_ID,
        author=message.author,
        signature=message.signature,
        statement=message.statement(CHAIN_ID) if statement is None else statement,
        attachment=message.attachment() if attachment is None else attachment,
    )


@pytest.mark.parametrize("message", MESSAGES, ids=NAMES)
def test_round_trip(message: Message) -> None:
    assert decode(message) == message


@pytest.mark.parametrize("message", MESSAGES, ids=NAMES)
def test_every_statement_is_fixed_in_width_and_under_512_bytes(message: Message) -> None:
    statement = message.statement(CHAIN_ID)
    assert statement.startswith(DOMAIN) and statement[16] == message.kind and len(statement) <= 512
    for wrong in (statement[:-1], statement + b"\0", b"", statement[:40]):
        with pytest.raises(Malformed):
            decode(message, statement=wrong)


@pytest.mark.parametrize("message", MESSAGES, ids=NAMES)
def test_other_domains_chains_kinds_and_attachments_are_refused(message: Message) -> None:
    statement = message.statement(CHAIN_ID)
    others = {Kind.PREPARE: Kind.PROPOSAL, Kind.PROPOSAL: Kind.PREPARE}
    for wrong in (
        b"another-protocol" + statement[16:],
        message.statement(Digest(b"\7" * 32)),
        statement[:16] + b"\x20" + statement[17:],
        statement[:16] + bytes([others.get(message.kind, Kind.PREPARE)]) + statement[17:],
    ):
        with pytest.raises(Malformed):
            decode(message, statement=wrong)
    with pytest.raises(Malformed):
        decode(message, attachment=message.attachment() + b"\0")


def test_no_statement_serves_as_another() -> None:
    statements = [m.statement(CHAIN_ID) for m in MESSAGES]
    assert len(set(statements)) == len(statements)


def test_fields_that_no_honest_node_signs_are_refused() -> None:
    bad = [
        BENCH.sign(replace(BENCH.prepare(1, 3, BLOCK), valid_view=3)),
        BENCH.sign(replace(BENCH.prepare(1, 3, BLOCK), valid_view=-2)),
        BENCH.sign(replace(BENCH.prepare(1, 3, None), valid_view=1)),
        BENCH.sign(replace(BENCH.commit(1, 0, None), height=0)),
        BENCH.sign(replace(BENCH.commit(1, 0, None), view=2**31)),
        BENCH.sign(replace(contribution(BENCH.signatures, 1, BENCH.state), payload_bytes=0)),
        BENCH.sign(replace(contribution(BENCH.signatures, 1, BENCH.state), purpose=7)),
    ]
    for message in bad:
        with pytest.raises(Malformed):
            decode(message)


def test_a_contribution_has_no_view() -> None:
    message = contribution(BENCH.signatures, 1, BENCH.state)
    statement = bytearray(message.statement(CHAIN_ID))
    statement[60] = 1
    with pytest.raises(Malformed, match="in a view"):
        decode(message, statement=bytes(statement))


def test_an_attachment_must_be_what_was_signed() -> None:
    offer, other = BENCH.proposal(1, 0, BLOCK), BENCH.proposal(1, 0, BENCH.block(1, 3))
    for wrong in (other.attachment(), BENCH.proposal(2, 1, BLOCK, PREPARED).attachment(), b""):
        with pytest.raises(Malformed):
            decode(offer, attachment=wrong)
    stripped = BENCH.proposal(1, 0, BLOCK).attachment()
    with pytest.raises(Malformed, match="not what was signed"):
        decode(BENCH.proposal(2, 1, BLOCK, PREPARED), attachment=stripped)


def test_a_proposal_is_justified_by_an_earlier_certificate_of_its_own_block() -> None:
    other = BENCH.prepared(0, BENCH.block(1, 3), (1, 2, 3))
    for wrong in (other, replace(PREPARED, view=1), replace(PREPARED, height=2)):
        with pytest.raises(Malformed):
            decode(BENCH.sign(replace(BENCH.proposal(2, 1, BLOCK), certificate=wrong)))
    committed = BENCH.committed(0, BLOCK, (1, 2, 3))
    with pytest.raises(Malformed):
        decode(BENCH.sign(replace(BENCH.proposal(2, 1, BLOCK), certificate=committed)))  # type: ignore[arg-type]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_make_anything_but_malformed(statement: bytes, attachment: bytes) -> None:
    for wrong in (statement, MESSAGES[2].statement(CHAIN_ID)):
        with pytest.raises(Malformed):
            decode(MESSAGES[2], statement=wrong, attachment=attachment)


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=255))
def test_a_flipped_byte_never_gives_back_the_same_message(position: int, change: int) -> None:
    message = MESSAGES[3]
    attachment = bytearray(message.attachment())
    attachment[position % len(attachment)] ^= change
    try:
        assert decode(message, attachment=bytes(attachment)) != message
    except Malformed:
        pass


@given(st.binary(max_size=400))
def test_blocks_certificates_evidence_and_records_from_any_bytes(data: bytes) -> None:
    for read in (Block.decode, decode_certificate, Evidence.decode):
        with pytest.raises(Malformed):
            read(data)
    try:
        record = Record.decode(data)
        content_of(record, chain_id=CHAIN_ID)
    except Malformed:
        pass


def test_records_hold_what_is_needed_to_say_it_again() -> None:
    for vote in (MESSAGES[2], MESSAGES[3], MESSAGES[4], MESSAGES[7]):
        record = record_of_vote(vote, chain_id=CHAIN_ID)  # type: ignore[arg-type]
        assert content_of(Record.decode(record.encode()), chain_id=CHAIN_ID) == vote
    for made, thing in ((record_of_block(BLOCK, view=3), BLOCK), (record_of_certificate(PREPARED), PREPARED)):
        assert content_of(Record.decode(made.encode()), chain_id=CHAIN_ID) == thing
    with pytest.raises(Malformed):
        content_of(replace(record, data=record.data[1:]), chain_id=CHAIN_ID)


def test_keys_are_not_confused_with_contents() -> None:
    """The author stands outside of the statement: swapping it changes whose signature is checked, never what was said."""
    vote = BENCH.prepare(1, 0, None)
    swapped = decode_message(
        CHAIN_ID, author=key(2), signature=vote.signature, statement=vote.statement(CHAIN_ID), attachment=b""
    )
    assert not isinstance(swapped, Contribution) and swapped.author == key(2)
    assert not BENCH.signatures.verify(key(2), swapped.statement(CHAIN_ID), swapped.signature)
    assert vote.block_hash == NIL
