"""Frames on their way to one peer: two bounded queues, consensus before bulk.

Urgent frames are never waited for: their producer must not block, so overflow means that the peer is seconds behind
and is dropped. Bulk frames make their producer wait. The queues belong to the peer and not to a connection, so a
duplicate connection can be closed without losing a frame (session.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from transport.content import Buffer
from transport.limits import BULK_BYTES_MAX, SEND_BYTES, URGENT_BYTES_MAX, URGENT_FRAMES_MAX


class Outbox:
    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[tuple[Sequence[Buffer], int]] = deque()
        self._urgent_bytes = 0
        self._bulk_bytes = 0
        self._writers = trio.lowlevel.ParkingLot()
        self._producers = trio.lowlevel.ParkingLot()
        self.is_overflown = False

    def push(self, frame: bytes) -> None:
        """Queue an urgent frame. Too many set `is_overflown`, at which the writer drops the peer."""
        if self._urgent_bytes + len(frame) > URGENT_BYTES_MAX or len(self._urgent) >= URGENT_FRAMES_MAX:
            self.is_overflown = True
        else:
            self._urgent.append(frame)
            self._urgent_bytes += len(frame)
        if self._writers:
            self._writers.unpark_all()

    async def push_bulk(self, *frame: Buffer) -> None:
        """Queue a bulk frame, whole or in pieces that must not change, once there is room. Cancelled, it has queued nothing."""
        size = sum(map(len, frame))
        while self._bulk_bytes + size > BULK_BYTES_MAX:
            await self._producers.park()
        self._queue_bulk(frame, size)

    def offer_bulk(self, *frame: Buffer) -> bool:
        """The same where there is room at once; otherwise it is not sent. For what its receiver can have in another way."""
        size = sum(map(len, frame))
        if self._bulk_bytes + size > BULK_BYTES_MAX:
            return False
        self._queue_bulk(frame, size)
        return True

    def gather(self) -> bytes:
        """Up to SEND_BYTES of frames, the urgent ones first, as one buffer; empty if there are none."""
        frames: list[Buffer] = []
        size = 0
        while self._urgent and (not frames or size + len(self._urgent[0]) <= SEND_BYTES):
            frame = self._urgent.popleft()
            frames.append(frame)
            size += len(frame)
        self._urgent_bytes -= size
        urgent_size = size
        while self._bulk and (not frames or size + self._bulk[0][1] <= SEND_BYTES):
            pieces, length = self._bulk.popleft()
            frames += pieces
            size += length
        if size > urgent_size:
            self._bulk_bytes -= size - urgent_size
            self._producers.unpark_all()
        return b"".join(frames)

    async def wait(self) -> None:
        """Until something is queued, or wake is called."""
        if not (self._urgent or self._bulk or self.is_overflown):
            await self._writers.park()

    def wake(self) -> None:
        """Make writers look again: one of them was told to stop."""
        self._writers.unpark_all()

    def _queue_bulk(self, frame: Sequence[Buffer], size: int) -> None:
        self._bulk.append((frame, size))
        self._bulk_bytes += size
        if self._writers:
            self._writers.unpark_all()
