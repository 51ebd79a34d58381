"""What must be durable: one record per own statement, block or certificate, in the order in which they were made.

A record of an own statement holds the whole signed message, so that a restarted node sends the same bytes again. The lock has
no record of its own: the COMMIT for a block IS the lock, and the highest prepare certificate IS the valid view, so what was
signed and what it obliges to can never be lost apart.  # rule D1

The driver writes `encode()` to an append-only log and hands the decoded records of undecided heights back at start.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from consensus.block import Block
from consensus.certificate import Certificate, decode_certificate
from consensus.encoding import Reader, sized
from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey, Signature
from consensus.limits import ATTACHMENT_BYTES_MAX
from consensus.messages import Commit, Prepare, Proposal, decode_message

RECORD_BYTES_MAX = ATTACHMENT_BYTES_MAX + 1024
Vote: TypeAlias = Proposal | Prepare | Commit
"""The statements that may be made once per view, in this order: PROPOSAL, PREPARE, COMMIT."""


class RecordKind(IntEnum):
    BLOCK = 1
    CERTIFICATE = 2
    VOTE = 3


@dataclass(frozen=True, slots=True)
class Record:
    """`data`: an encoded block, an encoded certificate, or author | signature | statement | attachment."""

    kind: RecordKind
    height: int
    view: int
    data: bytes

    def encode(self) -> bytes:
        return self.kind.to_bytes(1, "big") + self.height.to_bytes(8, "big") + self.view.to_bytes(4, "big") + self.data

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        reader = Reader(data, what="record", bytes_max=RECORD_BYTES_MAX)
        tag, height, view = reader.unsigned(1), reader.unsigned(8), reader.unsigned(4)
        try:
            kind = RecordKind(tag)
        except ValueError:
            raise Malformed(f"a record of kind {tag}") from None
        return cls(kind, height, view, data[13:])


def record_of_block(block: Block, *, view: int) -> Record:
    return Record(RecordKind.BLOCK, block.height, view, block.encode())


def record_of_certificate(certificate: Certificate) -> Record:
    return Record(RecordKind.CERTIFICATE, certificate.height, certificate.view, certificate.encode())


def record_of_vote(vote: Vote, *, chain_id: Digest) -> Record:
    parts = (vote.author, vote.signature, sized(vote.statement(chain_id)), sized(vote.attachment()))
    return Record(RecordKind.VOTE, vote.height, vote.view, b"".join(parts))


def content_of(record: Record, *, chain_id: Digest) -> Block | Certificate | Vote:
    """What the record holds; raises Malformed, which here means a damaged log."""
    match record.kind:
        case RecordKind.BLOCK:
            return Block.decode(record.data)
        case RecordKind.CERTIFICATE:
            return decode_certificate(record.data)
        case RecordKind.VOTE:
            return _read_vote(record.data, chain_id)


def statement_of(record: Record) -> bytes:
    """What was signed, of a record of kind VOTE; raises Malformed."""
    reader = Reader(record.data, what="record", bytes_max=RECORD_BYTES_MAX)
    reader.take(32 + 64)
    return reader.sized()


def _read_vote(data: bytes, chain_id: Digest) -> Vote:
    reader = Reader(data, what="record", bytes_max=RECORD_BYTES_MAX)
    author, signature = PublicKey(reader.take(32)), Signature(reader.take(64))
    statement, attachment = reader.sized(), reader.sized()
    reader.end()
    message = decode_message(chain_id, author=author, signature=signature, statement=statement, attachment=attachment)
    if not isinstance(message, Proposal | Prepare | Commit):
        raise Malformed(f"a record of a {type(message).__name__}")
    return message
