"""Evidence: two different statements that one author signed for one slot. Anybody can check it, for ever.

A slot is (kind, height, view), and for contributions the purpose too. An honest node signs each slot once, across crashes,
so no honest node can appear here; whether the author was a member, and what follows from it, is decided elsewhere.
A wrong model root is never evidence: a faulty processor would frame its owner. Nor are two VIEW_STATUS of one view.
"""

from dataclasses import dataclass
from enum import StrEnum

from consensus.encoding import PREFIX, Kind, Reader, split_statement
from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey, Signature, Verify

EVIDENCE_BYTES_MAX = 32 + 2 * 64 + 1 + 2 * 255


class EvidenceKind(StrEnum):
    DOUBLE_CONTRIBUTION = "double_contribution"
    DOUBLE_PROPOSAL = "double_proposal"
    DOUBLE_PREPARE = "double_prepare"
    DOUBLE_COMMIT = "double_commit"


_KINDS = {
    Kind.CONTRIBUTION: EvidenceKind.DOUBLE_CONTRIBUTION,
    Kind.PROPOSAL: EvidenceKind.DOUBLE_PROPOSAL,
    Kind.PREPARE: EvidenceKind.DOUBLE_PREPARE,
    Kind.COMMIT: EvidenceKind.DOUBLE_COMMIT,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """`first` < `second` as bytes, so that one offence has one form. Build it with `evidence_of`.

    An object of this class is well-formed (one kind, one slot, two statements); its signatures are `check_evidence`'s.
    """

    author: PublicKey
    first: bytes
    first_signature: Signature
    second: bytes
    second_signature: Signature

    def __post_init__(self) -> None:
        if not PREFIX.size <= len(self.first) <= 255 or len(self.first) != len(self.second):
            raise Malformed("evidence whose statements have no common width")
        if self.first >= self.second:
            raise Malformed("evidence out of order, or of one statement only")
        if self.first[: PREFIX.size] != self.second[: PREFIX.size]:
            raise Malformed("evidence of two different slots")
        if self.first[16] not in _KINDS:
            raise Malformed("evidence of a kind that may be signed twice")
        if self.first[16] == Kind.CONTRIBUTION and self.first[-1] != self.second[-1]:
            raise Malformed("evidence of two purposes")

    @property
    def kind(self) -> EvidenceKind:
        return _KINDS[Kind(self.first[16])]

    @property
    def height(self) -> int:
        return int(PREFIX.unpack_from(self.first)[3])

    @property
    def view(self) -> int:
        return int(PREFIX.unpack_from(self.first)[4])

    @property
    def order(self) -> tuple[PublicKey, EvidenceKind]:
        """The key by which a block sorts evidence; one proof per author and kind says all.  # rule E3"""
        return self.author, self.kind

    def encode(self) -> bytes:
        width = len(self.first).to_bytes(1, "big")
        return self.author + self.first_signature + self.second_signature + width + self.first + self.second

    @classmethod
    def decode(cls, data: bytes) -> "Evidence":
        reader = Reader(data, what="evidence", bytes_max=EVIDENCE_BYTES_MAX)
        evidence = read_evidence(reader)
        reader.end()
        return evidence


def read_evidence(reader: Reader) -> Evidence:
    author, first_signature, second_signature = reader.key(), reader.signature(), reader.signature()
    width = reader.unsigned(1)
    return Evidence(author, reader.take(width), first_signature, reader.take(width), second_signature)


def evidence_of(author: PublicKey, one: tuple[bytes, Signature], other: tuple[bytes, Signature]) -> Evidence:
    """From two (statement, signature) in any order; raises Malformed when they do not conflict."""
    (first, first_signature), (second, second_signature) = sorted((one, other))
    return Evidence(author, first, first_signature, second, second_signature)


def check_evidence(evidence: Evidence, *, chain_id: Digest, verify: Verify) -> str | None:
    """Why it proves nothing on this chain, or None. Nothing in it is taken on trust.  # rule E2"""
    try:
        split_statement(chain_id, evidence.first)
        split_statement(chain_id, evidence.second)
    except Malformed as fault:
        return fault.reason
    pairs = ((evidence.first, evidence.first_signature), (evidence.second, evidence.second_signature))
    if not all(verify(evidence.author, statement, signature) for statement, signature in pairs):
        return "evidence with a signature that does not verify"
    return None
