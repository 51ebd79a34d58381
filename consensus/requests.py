"""What somebody asks of the chain in its own name: to leave the committee, or to join on a member's invitation.

A request is a signed statement that travels like a vote and that a block may carry; what it leads to is decided in advance.py.
An invitation is made in two halves: a member signs a one-time public key and a height at which it expires, and whoever holds the
private half signs its own key with it. Whoever watches the second half on the wire cannot use it for another joiner.

Not here: who may ask, and whether it was asked before. For editing: fixed width, no optional field.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from consensus.encoding import BODIES, Kind, Reader, prefix
from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey, Signature, Verify
from consensus.votes import NoAttachment

INVITATION_BYTES = 32 + 32 + 8 + 64


@dataclass(frozen=True, slots=True)
class Invitation:
    """`inviter` lets whoever holds the private half of `token_key` join until the block of `expiry_height`."""

    inviter: PublicKey
    token_key: PublicKey
    expiry_height: int
    signature: Signature

    def statement(self, chain_id: Digest) -> bytes:
        return invitation_statement(chain_id, self.token_key, self.expiry_height)

    def encode(self) -> bytes:
        return self.inviter + self.token_key + self.expiry_height.to_bytes(8, "big") + self.signature

    @classmethod
    def decode(cls, data: bytes) -> "Invitation":
        reader = Reader(data, what="invitation", bytes_max=INVITATION_BYTES)
        invitation = cls(reader.key(), reader.key(), reader.unsigned(8), reader.signature())
        reader.end()
        return invitation


@dataclass(frozen=True, slots=True)
class Leave(NoAttachment):
    """`author` wants to be a member no longer. `height`: the one that it saw as the next."""

    kind: ClassVar[Kind] = Kind.LEAVE
    view: ClassVar[int] = 0
    author: PublicKey
    height: int
    signature: Signature

    def statement(self, chain_id: Digest) -> bytes:
        return prefix(Kind.LEAVE, chain_id, self.height, 0)

    def body(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Join(NoAttachment):
    """`author` was invited. `token_signature` is the token's, over `token_statement` of this author."""

    kind: ClassVar[Kind] = Kind.JOIN
    view: ClassVar[int] = 0
    author: PublicKey
    height: int
    invitation: Invitation
    token_signature: Signature
    signature: Signature

    def statement(self, chain_id: Digest) -> bytes:
        return prefix(Kind.JOIN, chain_id, self.height, 0) + self.body()

    def body(self) -> bytes:
        seen = self.invitation
        fields = (seen.inviter, seen.token_key, seen.expiry_height, seen.signature, self.token_signature)
        return BODIES[Kind.JOIN].pack(*fields)


Request: TypeAlias = Leave | Join


def invitation_statement(chain_id: Digest, token_key: PublicKey, expiry_height: int) -> bytes:
    """What the inviter signs."""
    return prefix(Kind.INVITATION, chain_id, expiry_height, 0) + token_key


def token_statement(chain_id: Digest, joiner: PublicKey) -> bytes:
    """What the token's private half signs, once it is known who joins with it."""
    return prefix(Kind.TOKEN, chain_id, 0, 0) + joiner


def check_request(request: Request, *, chain_id: Digest, verify: Verify) -> str | None:
    """Why this request is not what its author signed, or one of its signatures is not good, or None.  # rule N1"""
    if not verify(request.author, request.statement(chain_id), request.signature):
        return "a request that its author did not sign"
    if isinstance(request, Leave):
        return None
    seen = request.invitation
    if not verify(seen.inviter, seen.statement(chain_id), seen.signature):
        return "an invitation that its member did not sign"
    if not verify(seen.token_key, token_statement(chain_id, request.author), request.token_signature):
        return "a join that its token did not sign"
    return None


def parse_request(kind: Kind, author: PublicKey, signature: Signature, height: int, body: bytes) -> Request:
    """`body` has the width of its kind."""
    if kind == Kind.LEAVE:
        return Leave(author, height, signature)
    inviter, token_key, expiry_height, signed, token_signature = BODIES[Kind.JOIN].unpack(body)
    invitation = Invitation(PublicKey(inviter), PublicKey(token_key), expiry_height, Signature(signed))
    return Join(author, height, invitation, Signature(token_signature), signature)


def encode_request(request: Request) -> bytes:
    """As a block carries it: kind, author, signature, height, body."""
    head = request.kind.to_bytes(1, "big") + request.author + request.signature
    return head + request.height.to_bytes(8, "big") + request.body()


def read_request(reader: Reader) -> Request:
    tag, author, signature, height = reader.unsigned(1), reader.key(), reader.signature(), reader.unsigned(8)
    if tag not in (Kind.LEAVE, Kind.JOIN):
        raise Malformed(f"a request of kind 0x{tag:02x}")
    kind = Kind(tag)
    return parse_request(kind, author, signature, height, reader.take(BODIES[kind].size))
