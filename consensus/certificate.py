"""Certificates: what a quorum signed, in a form that convinces somebody who saw none of the votes.

Three kinds: PREPAREs for one block (a lock's justification), COMMITs for one block (the decision), and COMMITs of one view
for anything (the proof that the view may end). `check_certificate` is strict: every listed signature is verified, and one bad,
foreign, repeated, unsorted or NIL entry rejects the whole.  # rule C1

For editing: nothing may be derived from a certificate before it was checked against the committee of ITS height.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeAlias

from consensus.committee import Committee
from consensus.encoding import Reader, digest
from consensus.errors import Malformed
from consensus.identifiers import NIL, Digest, PublicKey, Signature, Verify
from consensus.limits import CERTIFICATE_BYTES_MAX, MEMBERS_MAX
from consensus.votes import check_valid_view, check_view, commit_statement, prepare_statement

Signers: TypeAlias = tuple[tuple[PublicKey, Signature], ...]
"""(member, signature), strictly ascending by member."""


@dataclass(frozen=True, slots=True)
class PrepareCertificate:
    """A quorum prepared `block_hash` with this `valid_view` in this view."""

    tag: ClassVar[int] = 1
    height: int
    view: int
    block_hash: Digest
    valid_view: int
    signers: Signers

    def authors(self) -> tuple[PublicKey, ...]:
        return tuple(author for author, _ in self.signers)

    def encode(self) -> bytes:
        head = _head(self.tag, self.height, self.view) + self.block_hash
        return head + self.valid_view.to_bytes(4, "big", signed=True) + _encode_signers(self.signers)


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """A quorum committed `block_hash`: the block is decided, for ever."""

    tag: ClassVar[int] = 2
    height: int
    view: int
    block_hash: Digest
    signers: Signers

    def authors(self) -> tuple[PublicKey, ...]:
        return tuple(author for author, _ in self.signers)

    def encode(self) -> bytes:
        return _head(self.tag, self.height, self.view) + self.block_hash + _encode_signers(self.signers)

    @property
    def hash(self) -> Digest:
        return digest(b"certificate", self.encode())


@dataclass(frozen=True, slots=True)
class ViewCertificate:
    """A quorum sent some COMMIT in this view, NIL included: whoever is behind may follow here.  # rule W1"""

    tag: ClassVar[int] = 3
    height: int
    view: int
    entries: tuple[tuple[PublicKey, Digest, Signature], ...]

    def authors(self) -> tuple[PublicKey, ...]:
        return tuple(author for author, _, _ in self.entries)

    def encode(self) -> bytes:
        body = b"".join(author + value + signature for author, value, signature in self.entries)
        return _head(self.tag, self.height, self.view) + len(self.entries).to_bytes(2, "big") + body


Certificate: TypeAlias = PrepareCertificate | CommitCertificate | ViewCertificate


def decode_certificate(data: bytes) -> Certificate:
    """Strict; raises Malformed. Says nothing about signatures."""
    reader = Reader(data, what="certificate", bytes_max=CERTIFICATE_BYTES_MAX)
    tag, height, view = reader.unsigned(1), reader.unsigned(8), reader.unsigned(4)
    check_view(view)
    certificate: Certificate
    if tag == PrepareCertificate.tag:
        block_hash, valid_view = reader.digest(), reader.signed(4)
        check_valid_view(view, valid_view)
        certificate = PrepareCertificate(height, view, block_hash, valid_view, _read_signers(reader))
    elif tag == CommitCertificate.tag:
        certificate = CommitCertificate(height, view, reader.digest(), _read_signers(reader))
    elif tag == ViewCertificate.tag:
        count = reader.count(2, MEMBERS_MAX)
        entries = tuple((reader.key(), reader.digest(), reader.signature()) for _ in range(count))
        certificate = ViewCertificate(height, view, entries)
    else:
        raise Malformed(f"certificate of kind {tag}")
    reader.end()
    return certificate


def check_certificate(
    certificate: Certificate, committee: Committee, *, chain_id: Digest, verify: Verify
) -> str | None:
    """Why this certificate proves nothing to the committee of its height, or None if it holds.  # rule C1"""
    authors = certificate.authors()
    if any(a >= b for a, b in pairwise(authors)):
        return "signers repeated or out of order"
    if any(author not in committee for author in authors):
        return "a signer outside the committee"
    if len(authors) < committee.quorum():
        return f"{len(authors)} signers, {committee.quorum()} needed"
    if not isinstance(certificate, ViewCertificate) and certificate.block_hash == NIL:
        return "a certificate for NIL"
    if isinstance(certificate, PrepareCertificate) and not -1 <= certificate.valid_view < max(certificate.view, 0):
        return "a valid view that is not earlier"
    for author, statement, signature in signed_statements(certificate, chain_id):
        if not verify(author, statement, signature):
            return "a signature that does not verify"
    return None


def signed_statements(certificate: Certificate, chain_id: Digest) -> list[tuple[PublicKey, bytes, Signature]]:
    """What each signer signed; a prepare or commit certificate has one statement for all."""
    if isinstance(certificate, ViewCertificate):
        height, view = certificate.height, certificate.view
        return [(a, commit_statement(chain_id, height, view, value), s) for a, value, s in certificate.entries]
    shared = _shared_statement(certificate, chain_id)
    return [(author, shared, signature) for author, signature in certificate.signers]


def own_entry(certificate: Certificate, author: PublicKey, *, chain_id: Digest) -> tuple[bytes, Signature] | None:
    """What this certificate says that `author` signed, or None; nothing is verified."""
    if isinstance(certificate, ViewCertificate):
        for signer, value, signature in certificate.entries:
            if signer == author:
                return commit_statement(chain_id, certificate.height, certificate.view, value), signature
        return None
    found = next((signature for signer, signature in certificate.signers if signer == author), None)
    return None if found is None else (_shared_statement(certificate, chain_id), found)


def _shared_statement(certificate: PrepareCertificate | CommitCertificate, chain_id: Digest) -> bytes:
    height, view, name = certificate.height, certificate.view, certificate.block_hash
    if isinstance(certificate, PrepareCertificate):
        return prepare_statement(chain_id, height, view, name, certificate.valid_view)
    return commit_statement(chain_id, height, view, name)


def _head(tag: int, height: int, view: int) -> bytes:
    return tag.to_bytes(1, "big") + height.to_bytes(8, "big") + view.to_bytes(4, "big")


def _encode_signers(signers: Signers) -> bytes:
    return len(signers).to_bytes(2, "big") + b"".join(author + signature for author, signature in signers)


def _read_signers(reader: Reader) -> Signers:
    return tuple((reader.key(), reader.signature()) for _ in range(reader.count(2, MEMBERS_MAX)))
