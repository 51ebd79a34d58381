"""What nodes say to one another beyond signed statements: frame kinds, request methods, and their bodies.

Statuses are talk (unsigned, believed only as hints: whom to ask, whom to wait for); blocks, certificates and evidence carry their own
signatures. Everything here is bounded and strict: a body that is not of its form raises ``Malformed``. It is msgpack, which has many forms for
one value: right for talk, and never signed or hashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import msgpack


class FrameKind(IntEnum):
    """Kinds of application frames; the transport's own are below 0x80."""

    STATUS = 0x80
    CERTIFICATE = 0x81
    EVIDENCE = 0x82
    SPREAD = 0x83


class Method(IntEnum):
    """Request methods; the transport's own are below 0x40."""

    GENESIS = 0x40
    BLOCKS = 0x41
    BLOCK = 0x42
    SNAPSHOTS = 0x43
    SPOKEN = 0x44


class Role(IntEnum):
    """What a node is to its network."""

    OBSERVER = 0
    CONTRIBUTOR = 1
    MEMBER = 2


class Malformed(ValueError):
    """The bytes are not of the form that they claim to be."""


BLOCKS_PER_REQUEST_MAX = 64  # a page of full blocks is longer than PAGE_BYTES in any case
HEIGHT_MAX = 2**62  # what SQLite and arithmetic hold with room to spare
PAGE_BYTES = 512 << 10  # a page ends with the block that reaches this: a shorter one is all that there is
BLOCK_BYTES_MAX = 1 << 20  # 256 contributions and certificates of 256 signatures stay below 200 KiB
BLOCKS_RESPONSE_BYTES_MAX = (
    PAGE_BYTES + BLOCK_BYTES_MAX + (256 << 10)
)  # with the longest block last, and its certificate
SPOKEN_MAX = 16  # of one author: the two votes of each of eight views
SPOKEN_BYTES_MAX = SPOKEN_MAX * 320  # a vote's envelope has less than 250 bytes
SNAPSHOTS_MAX = 8  # the newest model, two snapshots, and room for a later version to keep more
SNAPSHOTS_BYTES_MAX = 1024  # eight pairs of a height and a root, three times over


@dataclass(frozen=True, slots=True)
class Status:
    """What a peer says of itself: decided height, model root, role, and the height it is learning (0 when it is not)."""

    height: int
    model_root: bytes
    role: Role
    learning: int

    def encode(self) -> bytes:
        return _pack((self.height, self.learning, int(self.role), self.model_root))

    @classmethod
    def decode(cls, body: bytes) -> "Status":
        match _unpack(body, what="status"):
            case [int(height), int(learning), int(role), bytes(root)] if (
                _are_numbers(height, learning, role) and len(root) == 32 and role in _ROLES
            ):
                return cls(height=_height(height), model_root=root, role=Role(role), learning=_height(learning))
            case _:
                raise Malformed("a status that is not [height, learning, role, root]")


def encode_blocks_request(first: int, count: int) -> bytes:
    return _pack((first, count))


def decode_blocks_request(body: bytes) -> tuple[int, int]:
    """The first height asked for and how many; the count is cut to what one page holds."""
    match _unpack(body, what="blocks request"):
        case [int(first), int(count)] if _are_numbers(first, count) and count >= 0:
            return _height(first), min(count, BLOCKS_PER_REQUEST_MAX)
        case _:
            raise Malformed("a blocks request that is not [first, count]")


def encode_blocks(rows: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A page of encoded (block, certificate) pairs, up to the one that makes it long enough."""
    page, size = [], 0
    for block, certificate in rows:
        page.append((block, certificate))
        size += len(block) + len(certificate)
        if size >= PAGE_BYTES:
            break
    return _pack(page)


def decode_blocks(body: bytes) -> list[tuple[bytes, bytes]]:
    """Encoded (block, certificate) pairs, neither of them looked into."""
    page = _unpack(body, what="page of blocks")
    if not isinstance(page, list) or len(page) > BLOCKS_PER_REQUEST_MAX:
        raise Malformed("a page of blocks that is no short list")
    rows = []
    for row in page:
        match row:
            case [bytes(block), bytes(certificate)] if len(block) <= BLOCK_BYTES_MAX:
                rows.append((block, certificate))
            case _:
                raise Malformed("a page of blocks that does not consist of [block, certificate]")
    return rows


def encode_spoken(envelopes: Sequence[bytes]) -> bytes:
    return _pack(list(envelopes[-SPOKEN_MAX:]))


def decode_spoken(body: bytes) -> list[bytes]:
    """Encoded envelopes, not looked into: the asker's own votes, as a peer holds them."""
    listed = _unpack(body, what="list of votes")
    if not isinstance(listed, list) or len(listed) > SPOKEN_MAX or not all(isinstance(each, bytes) for each in listed):
        raise Malformed("a list of votes that is no short list of envelopes")
    return listed


def encode_snapshots(snapshots: Sequence[tuple[int, bytes]]) -> bytes:
    return _pack(list(snapshots[:SNAPSHOTS_MAX]))


def decode_snapshots(body: bytes) -> list[tuple[int, bytes]]:
    """(height, model root) of the models that a peer can serve whole."""
    listed = _unpack(body, what="list of snapshots")
    if not isinstance(listed, list) or len(listed) > SNAPSHOTS_MAX:
        raise Malformed("a list of snapshots that is no short list")
    snapshots = []
    for entry in listed:
        match entry:
            case [int(height), bytes(root)] if _are_numbers(height) and len(root) == 32:
                snapshots.append((_height(height), root))
            case _:
                raise Malformed("a list of snapshots that does not consist of [height, root]")
    return snapshots


_ROLES = frozenset(int(role) for role in Role)


def _are_numbers(*values: int) -> bool:
    """Python counts with truths, msgpack has them apart."""
    return not any(isinstance(value, bool) for value in values)


def _height(value: int) -> int:
    if not 0 <= value <= HEIGHT_MAX:
        raise Malformed(f"a height of {value}")
    return value


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(body: bytes, *, what: str) -> object:
    """One msgpack value of lists, integers and bytes.

    The transport has bounded the body. msgpack makes room for a list as soon as it reads how long it claims to be, and lists nest: the
    longest that there is, a page of blocks, is the limit for all of them.
    """
    try:
        return msgpack.unpackb(
            body, max_str_len=0, max_map_len=0, max_ext_len=0, max_array_len=BLOCKS_PER_REQUEST_MAX, strict_map_key=True
        )
    except (ValueError, msgpack.UnpackException) as problem:
        why = str(problem) or type(problem).__name__  # some of its errors are a name only
        raise Malformed(f"a {what} that is not msgpack: {why}") from None
