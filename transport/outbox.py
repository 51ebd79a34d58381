"""Frames on their way to one peer: two bounded queues, consensus before bulk.

Urgent frames are never waited for: their producer must not block, so overflow means that the peer is seconds behind
and is dropped. Those that may come a moment later go along with the next one, because a write of its own costs both ends
more than the frame. Bulk frames make their producer wait. The queues belong to the peer and not to a connection, so a
duplicate connection can be closed without losing a frame (session.py).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import trio

from transport.content import Buffer
from transport.limits import ALONG_SECONDS_MAX, BULK_BYTES_MAX, SEND_BYTES, URGENT_BYTES_MAX, URGENT_FRAMES_MAX


class Outbox:
    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[tuple[Sequence[Buffer], int]] = deque()
        self._urgent_bytes = 0
        self._urgent_due = math.inf  # when to write them
        self._bulk_bytes = 0
        self._writers = trio.lowlevel.ParkingLot()
        self._producers = trio.lowlevel.ParkingLot()
        self.is_overflown = False

    def push(self, frame: bytes, *, along: bool = False) -> None:
        """Queue an urgent frame; `along`: with the next one, or after ALONG_SECONDS_MAX.

        Too many set `is_overflown`, at which the writer drops the peer.
        """
        if self._urgent_bytes + len(frame) > URGENT_BYTES_MAX or len(self._urgent) >= URGENT_FRAMES_MAX:
            self.is_overflown = True
        else:
            self._urgent.append(frame)
            self._urgent_bytes += len(frame)
        due = trio.current_time() + ALONG_SECONDS_MAX if along else -math.inf
        if due < self._urgent_due or self.is_overflown:
            self._urgent_due = due
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
        """Up to SEND_BYTES of frames, the urgent ones first, as one buffer; empty if there are none to be written yet."""
        if self._due() > trio.current_time():
            return b""
        frames: list[Buffer] = []
        size = 0
        while self._urgent and (not frames or size + len(self._urgent[0]) <= SEND_BYTES):
            frame = self._urgent.popleft()
            frames.append(frame)
            size += len(frame)
        self._urgent_bytes -= size
        if not self._urgent:
            self._urgent_due = math.inf
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
        """Until there is something to write or a reason to look again."""
        due = self._due()
        if due == math.inf:
            await self._writers.park()
        elif due > trio.current_time():
            with trio.move_on_at(due):
                await self._writers.park()
        else:
            await trio.lowlevel.checkpoint()  # a write need not be one

    def wake(self) -> None:
        """Make writers look again: one of them was told to stop."""
        self._writers.unpark_all()

    def _due(self) -> float:
        return -math.inf if self._bulk or self.is_overflown else self._urgent_due

    def _queue_bulk(self, frame: Sequence[Buffer], size: int) -> None:
        self._bulk.append((frame, size))
        self._bulk_bytes += size
        if self._writers:
            self._writers.unpark_all()
