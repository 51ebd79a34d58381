"""What nodes say to one another beyond signed statements: frame kinds, request methods, and their bodies.

Statuses are talk (unsigned, believed only as hints: whom to ask, whom to wait for); blocks, certificates and evidence carry their own
signatures. Everything here is bounded and strict: a body that is not exactly of its form raises ``Malformed``.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

Height = NewType("Height", int)


class FrameKind(IntEnum):
    """Kinds of application frames; the transport's own are below 0x80."""

    STATUS = 0x80
    CERTIFICATE = 0x81
    EVIDENCE = 0x82


class Method(IntEnum):
    """Request methods; the transport's own are below 0x40."""

    GENESIS = 0x40
    BLOCKS = 0x41
    BLOCK = 0x42
    SNAPSHOTS = 0x43


class Role(IntEnum):
    """What a node is to its network (DESIGN section 3)."""

    OBSERVER = 0
    CONTRIBUTOR = 1
    MEMBER = 2


class Malformed(ValueError):
    """The bytes are not of the form that they claim to be."""


BLOCKS_PER_REQUEST_MAX = 64
BLOCKS_RESPONSE_BYTES_MAX = 8 << 20  # a page ends early rather than pass this
BLOCK_BYTES_MAX = 1 << 20  # 256 contributions and certificates of 256 signatures stay below 200 KiB
SNAPSHOTS_MAX = 8
_STATUS = struct.Struct(">QQB32s")
_BLOCKS = struct.Struct(">QH")
_SNAPSHOT = struct.Struct(">Q32s")
_LENGTHS = struct.Struct(">II")
SNAPSHOTS_BYTES_MAX = SNAPSHOTS_MAX * _SNAPSHOT.size


@dataclass(frozen=True, slots=True)
class Status:
    """What a peer says of itself: decided height, model root, role, and the height it is learning (0 when it is not)."""

    height: int
    model_root: bytes
    role: Role
    learning: int

    def encode(self) -> bytes:
        return _STATUS.pack(self.height, self.learning, self.role, self.model_root)

    @classmethod
    def decode(cls, body: bytes) -> "Status":
        if len(body) != _STATUS.size:
            raise Malformed(f"a status of {len(body)} bytes, {_STATUS.size} expected")
        height, learning, role, root = _STATUS.unpack(body)
        if role not in Role.__members__.values():
            raise Malformed(f"unknown role {role}")
        return cls(height=height, model_root=root, role=Role(role), learning=learning)


def encode_blocks_request(first: int, count: int) -> bytes:
    return _BLOCKS.pack(first, count)


def decode_blocks_request(body: bytes) -> tuple[int, int]:
    """The first height asked for and how many; the count is cut to what one page holds."""
    if len(body) != _BLOCKS.size:
        raise Malformed("a blocks request has the wrong length")
    first, count = _BLOCKS.unpack(body)
    return first, min(count, BLOCKS_PER_REQUEST_MAX)


def encode_blocks(rows: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A page of encoded (block, certificate) pairs, as many as fit."""
    parts: list[bytes] = []
    size = 0
    for block, certificate in rows:
        size += _LENGTHS.size + len(block) + len(certificate)
        if size > BLOCKS_RESPONSE_BYTES_MAX:
            break
        parts += [_LENGTHS.pack(len(block), len(certificate)), block, certificate]
    return b"".join(parts)


def decode_blocks(body: bytes) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    offset = 0
    while offset < len(body):
        if offset + _LENGTHS.size > len(body) or len(rows) == BLOCKS_PER_REQUEST_MAX:
            raise Malformed("a page of blocks has the wrong length")
        block_bytes, certificate_bytes = _LENGTHS.unpack_from(body, offset)
        offset += _LENGTHS.size
        end = offset + block_bytes + certificate_bytes
        if block_bytes > BLOCK_BYTES_MAX or end > len(body):
            raise Malformed("a page of blocks has the wrong length")
        rows.append((body[offset : offset + block_bytes], body[offset + block_bytes : end]))
        offset = end
    return rows


def encode_snapshots(snapshots: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(_SNAPSHOT.pack(height, root) for height, root in snapshots[:SNAPSHOTS_MAX])


def decode_snapshots(body: bytes) -> list[tuple[int, bytes]]:
    """(height, model root) of the models that a peer can serve whole."""
    if len(body) % _SNAPSHOT.size or len(body) > SNAPSHOTS_MAX * _SNAPSHOT.size:
        raise Malformed("a list of snapshots has the wrong length")
    return [_SNAPSHOT.unpack_from(body, offset) for offset in range(0, len(body), _SNAPSHOT.size)]
