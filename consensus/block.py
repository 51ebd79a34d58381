"""A block: which contributions were aggregated, and the root of the model that results.

The header is fixed-width and commits to everything else by hash; the block hash is the header's. An object of `Block` always
matches its header: the constructor checks it, so a body cannot be swapped under a hash that people voted for.  # rule B1

`check_block` is all of "valid" that can be known without the payloads: links, committees, signatures. The bytes and the root
are the driver's (CheckBlock). For editing: a field of the header is protocol; bump VERSION.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from consensus.certificate import CommitCertificate, decode_certificate
from consensus.encoding import BODIES, Kind, Reader, digest
from consensus.errors import Malformed
from consensus.evidence import Evidence, EvidenceKind, read_evidence
from consensus.identifiers import Digest, PublicKey
from consensus.limits import (
    BLOCK_BYTES_MAX,
    CONTRIBUTIONS_PER_BLOCK_MAX,
    EVIDENCE_PER_BLOCK_MAX,
    REQUESTS_PER_BLOCK_MAX,
)
from consensus.requests import Request, encode_request, read_request
from consensus.votes import Contribution, Purpose, parse_contribution

VERSION = 2
NO_CERTIFICATE = Digest(bytes(32))
"""last_certificate_hash of the first block, which has no predecessor to certify."""

_HEADER = struct.Struct(">H32sQ" + "32s" * 11)


@dataclass(frozen=True, slots=True)
class BlockHeader:
    version: int
    chain_id: Digest
    height: int
    previous: Digest
    proposer: PublicKey
    committee_hash: Digest  # of the committee of this height
    next_committee_hash: Digest  # of the committee of the next height
    membership_hash: Digest  # of the membership after this block
    last_certificate_hash: Digest
    contributions_hash: Digest
    evidence_hash: Digest
    requests_hash: Digest
    previous_root: Digest
    model_root: Digest  # of the model after this block

    def encode(self) -> bytes:
        return _HEADER.pack(
            self.version,
            self.chain_id,
            self.height,
            self.previous,
            self.proposer,
            self.committee_hash,
            self.next_committee_hash,
            self.membership_hash,
            self.last_certificate_hash,
            self.contributions_hash,
            self.evidence_hash,
            self.requests_hash,
            self.previous_root,
            self.model_root,
        )

    @classmethod
    def decode(cls, data: bytes) -> "BlockHeader":
        if len(data) != _HEADER.size:
            raise Malformed("a header of the wrong width")
        return cls(*_HEADER.unpack(data))


@dataclass(frozen=True, slots=True)
class Block:
    """Contributions strictly ascending by (author, purpose), evidence and requests strictly ascending by (author, kind)."""

    header: BlockHeader
    contributions: tuple[Contribution, ...]
    evidence: tuple[Evidence, ...]
    requests: tuple[Request, ...]
    last_certificate: CommitCertificate | None
    hash: Digest = field(init=False, compare=False)

    def __post_init__(self) -> None:
        header = self.header
        if len(self.contributions) > CONTRIBUTIONS_PER_BLOCK_MAX or len(self.evidence) > EVIDENCE_PER_BLOCK_MAX:
            raise Malformed("a block with too many entries")
        if len(self.requests) > REQUESTS_PER_BLOCK_MAX:
            raise Malformed("a block with too many requests")
        if not _ascending([(c.author, c.purpose) for c in self.contributions]):
            raise Malformed("contributions repeated or out of order")
        if any(c.height != header.height for c in self.contributions):
            raise Malformed("a contribution for another height")
        if not _ascending([e.order for e in self.evidence]):
            raise Malformed("evidence repeated or out of order")
        if not _ascending([(r.author, r.kind) for r in self.requests]):
            raise Malformed("requests repeated or out of order")
        if header.contributions_hash != contributions_hash(self.contributions):
            raise Malformed("contributions that the header does not name")
        if header.evidence_hash != evidence_hash(self.evidence):
            raise Malformed("evidence that the header does not name")
        if header.requests_hash != requests_hash(self.requests):
            raise Malformed("requests that the header does not name")
        if header.last_certificate_hash != certificate_hash(self.last_certificate):
            raise Malformed("a certificate that the header does not name")
        object.__setattr__(self, "hash", digest(b"block", header.encode()))

    @property
    def height(self) -> int:
        return self.header.height

    def encode(self) -> bytes:
        certificate = b"" if self.last_certificate is None else self.last_certificate.encode()
        return b"".join(
            (
                self.header.encode(),
                len(self.contributions).to_bytes(2, "big"),
                *(_encode_contribution(c) for c in self.contributions),
                len(self.evidence).to_bytes(1, "big"),
                *(e.encode() for e in self.evidence),
                len(self.requests).to_bytes(1, "big"),
                *(encode_request(r) for r in self.requests),
                len(certificate).to_bytes(4, "big"),
                certificate,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "Block":
        """Strict; raises Malformed."""
        reader = Reader(data, what="block", bytes_max=BLOCK_BYTES_MAX)
        header = BlockHeader.decode(reader.take(_HEADER.size))
        count = reader.count(2, CONTRIBUTIONS_PER_BLOCK_MAX)
        contributions = tuple(_read_contribution(reader, header.height) for _ in range(count))
        evidence = tuple(read_evidence(reader) for _ in range(reader.count(1, EVIDENCE_PER_BLOCK_MAX)))
        requests = tuple(read_request(reader) for _ in range(reader.count(1, REQUESTS_PER_BLOCK_MAX)))
        encoded = reader.sized()
        reader.end()
        certificate = decode_certificate(encoded) if encoded else None
        if certificate is not None and not isinstance(certificate, CommitCertificate):
            raise Malformed("a block's certificate must be of commits")
        return cls(header, contributions, evidence, requests, certificate)


def contributions_hash(contributions: tuple[Contribution, ...]) -> Digest:
    return digest(b"contributions", *(_encode_contribution(c) for c in contributions))


def evidence_hash(evidence: tuple[Evidence, ...]) -> Digest:
    return digest(b"evidence", *(e.encode() for e in evidence))


def requests_hash(requests: tuple[Request, ...]) -> Digest:
    return digest(b"requests", *(encode_request(r) for r in requests))


def certificate_hash(certificate: CommitCertificate | None) -> Digest:
    return NO_CERTIFICATE if certificate is None else certificate.hash


def _encode_contribution(contribution: Contribution) -> bytes:
    return contribution.author + contribution.signature + contribution.body()


def _read_contribution(reader: Reader, height: int) -> Contribution:
    author, signature = reader.key(), reader.signature()
    return parse_contribution(author, signature, height, reader.take(BODIES[Kind.CONTRIBUTION].size))


def _ascending(keys: Sequence[tuple[PublicKey, Purpose | EvidenceKind | Kind]]) -> bool:
    return all(a < b for a, b in pairwise(keys))  # one kind of key in each list
