"""Frames: kind u8 | length u32 big-endian | body. Nothing of a body is looked at before its length passed its cap.

Sans-IO: bytes in, frames out. Rule for editing: a new kind gets a cap and a priority here, in the same commit, and a
line in docs/wire-format.md.
"""

from __future__ import annotations

import enum
import mmap
import struct
from collections.abc import Iterator
from typing import Final

from transport.content import Buffer
from transport.errors import Malformed
from transport.limits import (
    APPLICATION_FRAME_BYTES_MAX,
    BLOB_BYTES_MAX,
    BYE_TEXT_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    HASHES_PER_FRAME,
    HELLO_BYTES_MAX,
    LEAF_BYTES,
    LEAVES_PER_REQUEST,
    READ_BYTES,
    RECORD_BYTES,
    RECORDS_PER_RESPONSE_MAX,
    REQUEST_BYTES_MAX,
    RESPONSE_PART_BYTES_MAX,
)


class Kind(enum.IntEnum):
    HELLO = 0x01
    ACK = 0x02
    BYE = 0x03
    PING = 0x04
    PONG = 0x05
    TWIN = 0x06
    PART = 0x07
    PEX_NEWS = 0x10
    PEX_REQUEST = 0x11
    PEX_RESPONSE = 0x12
    DIAL_BACK = 0x13
    DIALED_BACK = 0x14
    ENVELOPE = 0x20
    REQUEST = 0x30
    RESPONSE = 0x31
    HASHES_WANTED = 0x40
    HASHES = 0x41
    LEAVES_WANTED = 0x42
    LEAF = 0x43
    BLOB_REFUSED = 0x44
    HELD_WANTED = 0x45
    HELD = 0x46


# Kinds from here up belong to the node; the transport carries their bodies unread.
APPLICATION_KIND_MIN: Final = 0x80

FRAME_BYTES_MAX: Final[dict[int, int]] = {
    Kind.HELLO: HELLO_BYTES_MAX,
    Kind.ACK: 32,
    Kind.BYE: 1 + BYE_TEXT_BYTES_MAX,
    Kind.PING: 8,
    Kind.PONG: 8,
    Kind.TWIN: BYE_TEXT_BYTES_MAX,
    Kind.PART: 8 + LEAF_BYTES,
    Kind.PEX_NEWS: 0,
    Kind.PEX_REQUEST: 9,
    Kind.PEX_RESPONSE: 9 + RECORDS_PER_RESPONSE_MAX * 171,
    Kind.DIAL_BACK: 10,
    Kind.DIALED_BACK: 17,
    Kind.ENVELOPE: ENVELOPE_BYTES_MAX,
    Kind.REQUEST: 6 + REQUEST_BYTES_MAX,
    Kind.RESPONSE: 5 + RESPONSE_PART_BYTES_MAX,
    Kind.HASHES_WANTED: 44,
    Kind.HASHES: 4 + 32 * HASHES_PER_FRAME,
    Kind.LEAVES_WANTED: 42,
    Kind.LEAF: 8 + LEAF_BYTES,
    Kind.BLOB_REFUSED: 5,
    Kind.HELD_WANTED: 40,
    Kind.HELD: 4 + 2 * (BLOB_BYTES_MAX // LEAF_BYTES // LEAVES_PER_REQUEST // 8),
    **dict.fromkeys(range(APPLICATION_KIND_MIN, 0x100), APPLICATION_FRAME_BYTES_MAX),
}

# Answers that were asked for. They wait behind everything else and are not counted as traffic that a peer pushes.
BULK_KINDS: Final = frozenset({Kind.RESPONSE, Kind.HASHES, Kind.LEAF, Kind.BLOB_REFUSED, Kind.HELD})

_HEADER: Final = struct.Struct(">BI")
_PART: Final = struct.Struct(">II")
HEADER_BYTES: Final = _HEADER.size
_BUFFER_BYTES: Final = READ_BYTES + 2 * max(
    FRAME_BYTES_MAX.values()
)  # an incomplete frame, and what one reading brings


def encode_frame(kind: int, *parts: Buffer) -> bytes:
    """One frame; its body is the parts in order. Raises ValueError for a body above the kind's cap."""
    return b"".join(frame_pieces(kind, *parts))


def frame_pieces(kind: int, *parts: Buffer) -> tuple[Buffer, ...]:
    """The same frame, not joined: what is large is copied once, when it is written."""
    length = sum(map(len, parts))
    if length > FRAME_BYTES_MAX[kind]:
        raise ValueError(f"a frame of kind 0x{kind:02x} with {length} bytes")
    return (_HEADER.pack(kind, length), *parts)


def cut(frame: bytes, *, number: int, bytes_max: int) -> Iterator[bytes]:
    """A long frame as several short ones, so that others may go between: PART with number u32 | offset u32 | bytes."""
    step = min(bytes_max - HEADER_BYTES - _PART.size, LEAF_BYTES)
    for offset in range(0, len(frame), step):
        yield encode_frame(Kind.PART, _PART.pack(number, offset), memoryview(frame)[offset : offset + step])


class FrameJoiner:
    """Puts parts together again, one frame at a time. What does not go on where it left off is dropped: a connection was lost."""

    __slots__ = ("_number", "_parts")

    def __init__(self) -> None:
        self._number = 0
        self._parts = bytearray()

    def take(self, body: bytes) -> tuple[int, bytes] | None:
        """The frame, where this part is its last. Raises Malformed for a frame that may not be cut, or breaks its cap."""
        if len(body) <= _PART.size:
            raise Malformed(f"a part in {len(body)} bytes")
        number, offset = _PART.unpack_from(body)
        if offset == 0:
            self._number = number
            self._parts.clear()
        elif number != self._number or offset != len(self._parts):
            self._parts.clear()
            return None
        self._parts += memoryview(body)[_PART.size :]
        if len(self._parts) < HEADER_BYTES:
            raise Malformed("a part without the head of its frame")
        kind, length = _HEADER.unpack_from(self._parts)
        if kind not in BULK_KINDS and kind < APPLICATION_KIND_MIN:
            raise Malformed(f"parts of a frame of kind 0x{kind:02x}")
        if max(length, len(self._parts) - HEADER_BYTES) > FRAME_BYTES_MAX.get(kind, 0):
            raise Malformed(f"parts of a frame of kind 0x{kind:02x} with {length} bytes")
        if len(self._parts) < HEADER_BYTES + length:
            return None
        if len(self._parts) > HEADER_BYTES + length:
            raise Malformed("parts longer than their frame")
        frame = kind, bytes(self._parts[HEADER_BYTES:])
        self._parts.clear()
        return frame


class FrameDecoder:
    """Turns a byte stream into frames. Holds at most one incomplete frame and what arrived last."""

    __slots__ = ("_buffer", "_end", "_start", "_view")

    def __init__(self) -> None:
        self._allocate(_BUFFER_BYTES)
        self._start = self._end = 0

    def feed(self, data: Buffer) -> None:
        """Take in what arrived. Frames are then read off by iterating."""
        held = self._end - self._start
        if held + len(data) > len(self._buffer):  # more at once than a connection ever reads
            kept = bytes(self._view[self._start : self._end])
            self._allocate(2 * (held + len(data)))
            self._buffer[:held] = kept
            self._start, self._end = 0, held
        elif self._end + len(data) > len(self._buffer) or not held:
            self._move_down()
        self._view[self._end : self._end + len(data)] = data
        self._end += len(data)

    def room(self) -> memoryview:
        """Where to put what arrives next, RECORD_BYTES at least; then say `put`."""
        if self._end + RECORD_BYTES > len(self._buffer) or self._start == self._end:
            self._move_down()
        return self._view[self._end :]

    def put(self, count: int) -> None:
        """So many bytes were written to `room`."""
        self._end += count

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Complete frames as (kind, body); raises Malformed at a header that breaks a cap."""
        while (frame := self.next()) is not None:
            yield frame

    def next(self) -> tuple[int, bytes] | None:
        """The next complete frame, or None until more has come."""
        start = self._start + HEADER_BYTES
        if self._end < start:
            return None
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        cap = FRAME_BYTES_MAX.get(kind)
        if cap is None:
            raise Malformed(f"a frame of unknown kind 0x{kind:02x}")
        if length > cap:
            raise Malformed(f"a frame of kind 0x{kind:02x} with {length} bytes, at most {cap}")
        end = start + length
        if self._end < end:
            return None
        self._start = end
        return kind, bytes(self._view[start:end])

    def _allocate(self, size: int) -> None:
        self._buffer = mmap.mmap(-1, size)  # its pages cost nothing until they are written; a bytearray's would
        self._view = memoryview(self._buffer)

    def _move_down(self) -> None:
        held = self._end - self._start
        if held:
            self._view[:held] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, held
