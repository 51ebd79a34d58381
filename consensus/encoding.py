"""Fixed-width bytes: the signed statements, and a strict reader for everything unsigned.

A statement is DOMAIN | kind | chain_id | height | view | body, big-endian, one width per kind. The sign bytes ARE the wire
form: there is one way to write a statement, so two nodes never disagree about what was signed, and the kind and the chain
inside keep a signature from meaning anything elsewhere. Not here: what the fields mean (votes.py, messages.py).

For editing: no optional field, no variable width, no default. A new field is a new kind.
"""

import hashlib
import struct
from enum import IntEnum

from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey, Signature

DOMAIN = b"p2pnode-sig-v1\0\0"


class Kind(IntEnum):
    """What a signature is for. The transport's kinds (0x20, 0x30) never reach this package."""

    CONTRIBUTION = 0x01
    LEAVE = 0x02
    JOIN = 0x03
    INVITATION = 0x04  # inside a JOIN, never a message of its own
    TOKEN = 0x05  # the same
    PROPOSAL = 0x10
    PREPARE = 0x11
    COMMIT = 0x12
    VIEW_STATUS = 0x13


PREFIX = struct.Struct(">16sB32sQI")
"""DOMAIN 16 | kind u8 | chain_id 32 | height u64 | view u32."""

BODIES = {
    Kind.CONTRIBUTION: struct.Struct(">32s32sQHB"),  # base_root, payload_digest, payload_bytes, codec, purpose
    Kind.LEAVE: struct.Struct(">"),
    Kind.JOIN: struct.Struct(">32s32sQ64s64s"),  # inviter, token_key, expiry_height, invitation's and token's signature
    Kind.INVITATION: struct.Struct(">32s"),  # token_key; the statement's height is the expiry
    Kind.TOKEN: struct.Struct(">32s"),  # joiner
    Kind.PROPOSAL: struct.Struct(">32si"),  # block_hash, valid_view
    Kind.PREPARE: struct.Struct(">32si"),  # block_hash, valid_view
    Kind.COMMIT: struct.Struct(">32s"),  # block_hash
    Kind.VIEW_STATUS: struct.Struct(">i32s"),  # prepared_view, prepared_hash
}


def prefix(kind: Kind, chain_id: Digest, height: int, view: int) -> bytes:
    return PREFIX.pack(DOMAIN, kind, chain_id, height, view)


def split_statement(chain_id: Digest, statement: bytes) -> tuple[Kind, int, int, bytes]:
    """(kind, height, view, body) of a statement of this chain; raises Malformed."""
    if len(statement) < PREFIX.size:
        raise Malformed("statement too short")
    domain, tag, chain, height, view = PREFIX.unpack_from(statement)
    if domain != DOMAIN:
        raise Malformed("statement of another protocol")
    if chain != chain_id:
        raise Malformed("statement of another chain")
    try:
        kind = Kind(tag)
    except ValueError:
        raise Malformed(f"unknown kind of statement 0x{tag:02x}") from None
    body = statement[PREFIX.size :]
    if len(body) != BODIES[kind].size:
        raise Malformed(f"{kind.name} statement of {len(statement)} bytes")
    return kind, height, view, body


def digest(tag: bytes, *parts: bytes) -> Digest:
    """SHA-256 with a purpose in front, so that no two things that we hash can be mistaken for one another."""
    state = hashlib.sha256(b"p2pnode-" + tag + b"\0")
    for part in parts:
        state.update(part)
    return Digest(state.digest())


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Reader:
    """Reads a byte string once, front to back; every shortage and every byte left over is Malformed."""

    def __init__(self, data: bytes, *, what: str, bytes_max: int) -> None:
        if len(data) > bytes_max:
            raise Malformed(f"{what} of {len(data)} bytes, at most {bytes_max} allowed")
        self._data = data
        self._at = 0
        self._what = what

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Malformed(f"{self._what} cut short")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def signed(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big", signed=True)

    def flag(self) -> bool:
        value = self.unsigned(1)
        if value > 1:
            raise Malformed(f"{self._what}: a flag of {value}")
        return value == 1

    def count(self, width: int, count_max: int) -> int:
        value = self.unsigned(width)
        if value > count_max:
            raise Malformed(f"{self._what}: {value} entries, at most {count_max} allowed")
        return value

    def sized(self) -> bytes:
        return self.take(self.unsigned(4))

    def key(self) -> PublicKey:
        return PublicKey(self.take(32))

    def digest(self) -> Digest:
        return Digest(self.take(32))

    def signature(self) -> Signature:
        return Signature(self.take(64))

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"{self._what}: {len(self._data) - self._at} bytes left over")
