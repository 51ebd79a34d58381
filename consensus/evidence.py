"""Evidence: what one author signed and no honest node ever signs. Anybody can check it, for ever.

Three shapes. Two different statements for one slot, which is (kind, height, view) and for contributions the purpose too: an
honest node signs each slot once, across crashes. A COMMIT for a block and a later PREPARE against it that nothing newer
justifies (amnesia): an honest node is locked. One PROPOSAL of a view whose proposer is somebody else. No honest node can appear
here; whether the author was a member, and what follows from it, is decided in advance.py.

Never evidence: a wrong model root or a bad payload (a faulty processor or disk would frame its owner), nor two VIEW_STATUS of
one view.  # rule E5
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from consensus.encoding import BODIES, PREFIX, Kind, Reader, split_statement
from consensus.errors import Malformed
from consensus.identifiers import NIL, Digest, PublicKey, Signature, Verify

_STATEMENT_BYTES_MAX = 255
EVIDENCE_BYTES_MAX = 32 + 1 + 2 * (64 + 1 + _STATEMENT_BYTES_MAX)

Signed: TypeAlias = tuple[bytes, Signature]
"""(statement, signature) of an author named elsewhere."""


class EvidenceKind(StrEnum):
    DOUBLE_CONTRIBUTION = "double_contribution"
    DOUBLE_PROPOSAL = "double_proposal"
    DOUBLE_PREPARE = "double_prepare"
    DOUBLE_COMMIT = "double_commit"
    WRONG_PROPOSER = "wrong_proposer"
    AMNESIA = "amnesia"


EVIDENCE_TAGS = {kind: tag for tag, kind in enumerate(EvidenceKind, start=1)}
"""How each kind is written where a number is needed; protocol."""

_DOUBLES = {
    Kind.CONTRIBUTION: EvidenceKind.DOUBLE_CONTRIBUTION,
    Kind.PROPOSAL: EvidenceKind.DOUBLE_PROPOSAL,
    Kind.PREPARE: EvidenceKind.DOUBLE_PREPARE,
    Kind.COMMIT: EvidenceKind.DOUBLE_COMMIT,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """`signed` ascends as bytes, so that one offence has one form. Build it with `evidence_of`.

    An object of this class is well-formed: its statements cannot both, or not at all, be an honest node's. Its signatures are
    `check_evidence`'s, and who should have proposed is `evidence_problem`'s.
    """

    author: PublicKey
    signed: tuple[Signed, ...]
    kind: EvidenceKind = field(init=False, compare=False)

    def __post_init__(self) -> None:
        statements = [statement for statement, _ in self.signed]
        if not 1 <= len(statements) <= 2:
            raise Malformed(f"evidence of {len(statements)} statements")
        if not all(PREFIX.size <= len(statement) <= _STATEMENT_BYTES_MAX for statement in statements):
            raise Malformed("evidence with a statement of no known width")
        if len(statements) == 2 and statements[0] >= statements[1]:
            raise Malformed("evidence out of order, or of one statement twice")
        object.__setattr__(self, "kind", _kind_of(statements))

    @property
    def height(self) -> int:
        return int(PREFIX.unpack_from(self.signed[0][0])[3])

    @property
    def view(self) -> int:
        """Of the later statement, where there are two views."""
        return max(int(PREFIX.unpack_from(statement)[4]) for statement, _ in self.signed)

    @property
    def order(self) -> tuple[PublicKey, EvidenceKind]:
        """The key by which a block sorts evidence; one proof per author and kind says all.  # rule E3"""
        return self.author, self.kind

    def encode(self) -> bytes:
        pieces = [self.author, len(self.signed).to_bytes(1, "big")]
        for statement, signature in self.signed:
            pieces += (signature, len(statement).to_bytes(1, "big"), statement)
        return b"".join(pieces)

    @classmethod
    def decode(cls, data: bytes) -> "Evidence":
        reader = Reader(data, what="evidence", bytes_max=EVIDENCE_BYTES_MAX)
        evidence = read_evidence(reader)
        reader.end()
        return evidence


def read_evidence(reader: Reader) -> Evidence:
    author, signed = reader.key(), []
    for _ in range(reader.count(1, 2)):
        signature = reader.signature()
        signed.append((reader.take(reader.unsigned(1)), signature))
    return Evidence(author, tuple(signed))


def evidence_of(author: PublicKey, *signed: Signed) -> Evidence:
    """From one or two (statement, signature) in any order; raises Malformed when they are no offence."""
    return Evidence(author, tuple(sorted(signed)))


def check_evidence(evidence: Evidence, *, chain_id: Digest, verify: Verify) -> str | None:
    """Why it proves nothing on this chain, or None. Nothing in it is taken on trust.  # rule E2"""
    try:
        for statement, _ in evidence.signed:
            split_statement(chain_id, statement)
    except Malformed as fault:
        return fault.reason
    if not all(verify(evidence.author, statement, signature) for statement, signature in evidence.signed):
        return "evidence with a signature that does not verify"
    return None


def is_amnesia(commit: tuple[int, Digest], prepare: tuple[int, Digest, int]) -> bool:
    """COMMIT (view, block) and PREPARE (view, block, valid view) of one author and height: the lock was forgotten.  # rule A2"""
    (locked, block), (view, other, valid_view) = commit, prepare
    return NIL not in (block, other) and block != other and valid_view < locked < view


def _kind_of(statements: list[bytes]) -> EvidenceKind:
    """The offence that these statements of one author are; raises Malformed if they are none.  # rule E1"""
    slots = [PREFIX.unpack_from(statement) for statement in statements]
    kinds = [slot[1] for slot in slots]
    if kinds == [Kind.PROPOSAL]:
        return EvidenceKind.WRONG_PROPOSER
    if len(statements) == 1:
        raise Malformed("one statement that anybody may sign")
    if slots[0] == slots[1]:
        first, second = statements
        if kinds[0] not in _DOUBLES or len(first) != len(second):
            raise Malformed("evidence of a kind that may be signed twice")
        if kinds[0] == Kind.CONTRIBUTION and first[-1] != second[-1]:
            raise Malformed("evidence of two purposes")
        return _DOUBLES[kinds[0]]
    if kinds == [Kind.PREPARE, Kind.COMMIT] and slots[0][2:4] == slots[1][2:4] and _forgets(*statements):
        return EvidenceKind.AMNESIA
    raise Malformed("evidence of two slots")


def _forgets(prepare: bytes, commit: bytes) -> bool:
    body = prepare[PREFIX.size :]
    if len(body) != BODIES[Kind.PREPARE].size or len(commit) != PREFIX.size + BODIES[Kind.COMMIT].size:
        raise Malformed("evidence with a statement of no known width")
    block_hash, valid_view = BODIES[Kind.PREPARE].unpack(body)
    locked, view = PREFIX.unpack_from(commit)[4], PREFIX.unpack_from(prepare)[4]
    return is_amnesia((locked, Digest(commit[PREFIX.size :])), (view, block_hash, valid_view))
