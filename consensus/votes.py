"""The signed statements that stand alone: CONTRIBUTION, PREPARE and COMMIT.

Immutable facts with an author and a signature; whether the signature is good is not known here. `parse_vote` accepts exactly
what an honest node could have signed, field by field, and nothing about committees or the current height.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from consensus.encoding import BODIES, Kind, prefix
from consensus.errors import Malformed
from consensus.identifiers import NIL, Digest, PublicKey, Signature
from consensus.limits import VIEW_MAX

NO_VIEW = -1
"""valid_view of a fresh block, and of every vote for NIL."""


class Purpose(IntEnum):
    """Why a contribution was announced: to be learned from, or to time the path without changing the model."""

    UPDATE = 0
    PROBE = 1


class NoAttachment:
    __slots__ = ()

    def attachment(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Contribution(NoAttachment):
    """`author` offers the payload of this digest, computed from the model of root `base_root`, to height `height`."""

    kind: ClassVar[Kind] = Kind.CONTRIBUTION
    view: ClassVar[int] = 0
    author: PublicKey
    height: int
    base_root: Digest
    payload_digest: Digest
    payload_bytes: int
    codec: int
    purpose: Purpose
    signature: Signature

    def statement(self, chain_id: Digest) -> bytes:
        return prefix(Kind.CONTRIBUTION, chain_id, self.height, 0) + self.body()

    def body(self) -> bytes:
        fields = (self.base_root, self.payload_digest, self.payload_bytes, self.codec, self.purpose)
        return BODIES[Kind.CONTRIBUTION].pack(*fields)


@dataclass(frozen=True, slots=True)
class Prepare(NoAttachment):
    """First vote of a view: for the block that the view's proposal names, justified by `valid_view`, or for NIL."""

    kind: ClassVar[Kind] = Kind.PREPARE
    author: PublicKey
    height: int
    view: int
    block_hash: Digest
    valid_view: int
    signature: Signature

    def signed(self, signature: Signature) -> "Prepare":
        return Prepare(self.author, self.height, self.view, self.block_hash, self.valid_view, signature)

    def statement(self, chain_id: Digest) -> bytes:
        return prepare_statement(chain_id, self.height, self.view, self.block_hash, self.valid_view)


@dataclass(frozen=True, slots=True)
class Commit(NoAttachment):
    """Second vote of a view: for the block that a quorum prepared (the author is then locked on it), or for NIL."""

    kind: ClassVar[Kind] = Kind.COMMIT
    author: PublicKey
    height: int
    view: int
    block_hash: Digest
    signature: Signature

    def signed(self, signature: Signature) -> "Commit":
        return Commit(self.author, self.height, self.view, self.block_hash, signature)

    def statement(self, chain_id: Digest) -> bytes:
        return commit_statement(chain_id, self.height, self.view, self.block_hash)


def prepare_statement(chain_id: Digest, height: int, view: int, block_hash: Digest, valid_view: int) -> bytes:
    return prefix(Kind.PREPARE, chain_id, height, view) + BODIES[Kind.PREPARE].pack(block_hash, valid_view)


def commit_statement(chain_id: Digest, height: int, view: int, block_hash: Digest) -> bytes:
    return prefix(Kind.COMMIT, chain_id, height, view) + block_hash


def parse_contribution(author: PublicKey, signature: Signature, height: int, body: bytes) -> Contribution:
    base_root, payload_digest, payload_bytes, codec, purpose = BODIES[Kind.CONTRIBUTION].unpack(body)
    if purpose not in (Purpose.UPDATE, Purpose.PROBE):
        raise Malformed(f"contribution of purpose {purpose}")
    if payload_bytes == 0:
        raise Malformed("contribution without a payload")
    return Contribution(
        author=author,
        height=height,
        base_root=Digest(base_root),
        payload_digest=Digest(payload_digest),
        payload_bytes=payload_bytes,
        codec=codec,
        purpose=Purpose(purpose),
        signature=signature,
    )


def parse_prepare(author: PublicKey, signature: Signature, height: int, view: int, body: bytes) -> Prepare:
    block_hash, valid_view = BODIES[Kind.PREPARE].unpack(body)
    check_valid_view(view, valid_view)
    if block_hash == NIL and valid_view != NO_VIEW:
        raise Malformed("a PREPARE for NIL names a valid view")
    return Prepare(author, height, view, Digest(block_hash), valid_view, signature)


def parse_commit(author: PublicKey, signature: Signature, height: int, view: int, body: bytes) -> Commit:
    return Commit(author, height, view, Digest(body), signature)


def check_view(view: int) -> None:
    if view > VIEW_MAX:
        raise Malformed(f"view {view}")


def check_valid_view(view: int, valid_view: int) -> None:
    if not NO_VIEW <= valid_view < view and valid_view != NO_VIEW:
        raise Malformed(f"valid view {valid_view} in view {view}")
