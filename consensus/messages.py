"""The signed messages, and their one way in from the wire: `decode_message`.

A message is a signed statement plus an attachment that nobody signed. An attachment proves itself (a block by its hash, a
certificate by its signatures), so a relay that swaps it can spoil a copy of the message but cannot blame the author for it.

Contribution, Prepare and Commit live in votes.py, Leave and Join in requests.py, because blocks and certificates are made of them.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from consensus.block import Block
from consensus.certificate import Certificate, PrepareCertificate, ViewCertificate, decode_certificate
from consensus.encoding import BODIES, Kind, Reader, prefix, sized, split_statement
from consensus.errors import Malformed
from consensus.identifiers import NIL, Digest, PublicKey, Signature
from consensus.limits import ATTACHMENT_BYTES_MAX
from consensus.requests import Join, Leave, parse_request
from consensus.votes import (
    NO_VIEW,
    Commit,
    Contribution,
    Prepare,
    check_valid_view,
    check_view,
    parse_commit,
    parse_contribution,
    parse_prepare,
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The block of this view. `certificate` justifies re-proposing one that was prepared in `valid_view`; else both are absent."""

    kind: ClassVar[Kind] = Kind.PROPOSAL
    author: PublicKey
    height: int
    view: int
    block: Block
    certificate: PrepareCertificate | None
    signature: Signature

    @property
    def block_hash(self) -> Digest:
        return self.block.hash

    @property
    def valid_view(self) -> int:
        return NO_VIEW if self.certificate is None else self.certificate.view

    def signed(self, signature: Signature) -> "Proposal":
        return Proposal(self.author, self.height, self.view, self.block, self.certificate, signature)

    def statement(self, chain_id: Digest) -> bytes:
        return proposal_statement(chain_id, self.height, self.view, self.block_hash, self.valid_view)

    def attachment(self) -> bytes:
        return sized(self.block.encode()) + sized(_encode_optional(self.certificate))


@dataclass(frozen=True, slots=True)
class ViewStatus:
    """ "I entered this view; this is the highest block that I know to be prepared, and why this view may be entered"."""

    kind: ClassVar[Kind] = Kind.VIEW_STATUS
    author: PublicKey
    height: int
    view: int
    prepared: PrepareCertificate | None
    view_certificate: ViewCertificate | None
    signature: Signature

    def signed(self, signature: Signature) -> "ViewStatus":
        return ViewStatus(self.author, self.height, self.view, self.prepared, self.view_certificate, signature)

    def statement(self, chain_id: Digest) -> bytes:
        return view_status_statement(chain_id, self.height, self.view, self.prepared)

    def attachment(self) -> bytes:
        return sized(_encode_optional(self.prepared)) + sized(_encode_optional(self.view_certificate))


__all__ = ["Commit", "Contribution", "Join", "Leave", "Message", "Prepare", "Proposal", "ViewStatus", "decode_message"]

Message: TypeAlias = Contribution | Leave | Join | Proposal | Prepare | Commit | ViewStatus


def proposal_statement(chain_id: Digest, height: int, view: int, block_hash: Digest, valid_view: int) -> bytes:
    return prefix(Kind.PROPOSAL, chain_id, height, view) + BODIES[Kind.PROPOSAL].pack(block_hash, valid_view)


def view_status_statement(chain_id: Digest, height: int, view: int, prepared: PrepareCertificate | None) -> bytes:
    shown = (NO_VIEW, NIL) if prepared is None else (prepared.view, prepared.block_hash)
    return prefix(Kind.VIEW_STATUS, chain_id, height, view) + BODIES[Kind.VIEW_STATUS].pack(*shown)


def decode_message(
    chain_id: Digest, *, author: PublicKey, signature: Signature, statement: bytes, attachment: bytes
) -> Message:
    """What the statement and its attachment say; raises Malformed. The signature is the caller's to verify."""
    kind, height, view, body = split_statement(chain_id, statement)
    check_view(view)
    if height == 0:
        raise Malformed("a message for the genesis")
    if attachment and kind not in (Kind.PROPOSAL, Kind.VIEW_STATUS):
        raise Malformed(f"{kind.name} with an attachment")
    if view != 0 and kind in (Kind.CONTRIBUTION, Kind.LEAVE, Kind.JOIN):
        raise Malformed(f"{kind.name} in a view")
    match kind:
        case Kind.CONTRIBUTION:
            return parse_contribution(author, signature, height, body)
        case Kind.LEAVE | Kind.JOIN:
            return parse_request(kind, author, signature, height, body)
        case Kind.INVITATION | Kind.TOKEN:
            raise Malformed(f"{kind.name} outside a JOIN")
        case Kind.PROPOSAL:
            message = _parse_proposal(author, signature, height, view, attachment)
        case Kind.PREPARE:
            return parse_prepare(author, signature, height, view, body)
        case Kind.COMMIT:
            return parse_commit(author, signature, height, view, body)
        case Kind.VIEW_STATUS:
            message = _parse_view_status(author, signature, height, view, attachment)
    if message.statement(chain_id) != statement:
        raise Malformed(f"{kind.name} whose attachment is not what was signed")
    return message


def _parse_proposal(
    author: PublicKey, signature: Signature, height: int, view: int, attachment: bytes
) -> "Proposal | ViewStatus":
    reader = Reader(attachment, what="proposal", bytes_max=ATTACHMENT_BYTES_MAX)
    block, certificate = Block.decode(reader.sized()), _decode_optional(reader.sized())
    reader.end()
    if certificate is not None and not isinstance(certificate, PrepareCertificate):
        raise Malformed("a proposal is justified by a prepare certificate only")
    if block.height != height:
        raise Malformed("a proposal of a block of another height")
    if certificate is not None:
        check_valid_view(view, certificate.view)
        if (certificate.height, certificate.block_hash) != (height, block.hash):
            raise Malformed("a proposal justified by another block's certificate")
    return Proposal(author, height, view, block, certificate, signature)


def _parse_view_status(
    author: PublicKey, signature: Signature, height: int, view: int, attachment: bytes
) -> "Proposal | ViewStatus":
    reader = Reader(attachment, what="view status", bytes_max=ATTACHMENT_BYTES_MAX)
    prepared, entered = _decode_optional(reader.sized()), _decode_optional(reader.sized())
    reader.end()
    if prepared is not None and not isinstance(prepared, PrepareCertificate):
        raise Malformed("a view status shows a prepare certificate first")
    if entered is not None and not isinstance(entered, ViewCertificate):
        raise Malformed("a view status shows a view certificate second")
    if any(shown is not None and shown.height != height for shown in (prepared, entered)):
        raise Malformed("a view status with a certificate of another height")
    return ViewStatus(author, height, view, prepared, entered, signature)


def _encode_optional(certificate: Certificate | None) -> bytes:
    return b"" if certificate is None else certificate.encode()


def _decode_optional(data: bytes) -> Certificate | None:
    return decode_certificate(data) if data else None
