"""Frames on their way to one peer: two bounded queues, consensus before bulk.

Urgent frames are never waited for: their producer must not block, so overflow means that the peer is seconds behind
and is dropped. Those that may come a moment later go along with the next one, because a write of its own costs both ends
more than the frame. Bulk frames make their producer wait, and are written piece by piece as the uplink's budget (pacing.py)
and the window of the connection (window.py) allow, each piece no longer than a vote may wait for it: longer frames are cut
(framing.py). The queues belong to the peer and not to a connection, so a duplicate connection can be closed without losing a
frame (session.py).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import trio

from transport.content import Buffer
from transport.framing import Kind, cut
from transport.limits import (
    ALONG_SECONDS_MAX,
    BULK_BYTES_MAX,
    SEND_BYTES,
    URGENT_BYTES_MAX,
    URGENT_FRAMES_MAX,
)
from transport.pacing import Pacer
from transport.window import BulkWindow


class Outbox:
    def __init__(self, pacer: Pacer | None = None) -> None:
        """`pacer`: of the whole node; without one there is no budget."""
        self.pacer = Pacer() if pacer is None else pacer
        self.window: BulkWindow | None = None  # of the connection that writes
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[tuple[Sequence[Buffer], int]] = deque()
        self._urgent_bytes = 0
        self._urgent_due = math.inf  # when to write them
        self._bulk_bytes = 0
        self._booked: tuple[float, int] | None = None  # when the next piece of bulk may be written, and its size
        self._cuts = 0
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
        now = trio.current_time()
        if frame[0] == Kind.ENVELOPE:
            self.pacer.agrees(now)
        due = now + ALONG_SECONDS_MAX if along else -math.inf
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
        """Up to SEND_BYTES of urgent frames and a piece of bulk, as one buffer; empty if there is none to be written yet."""
        now = trio.current_time()
        if self._due() > now:
            return b""
        frames: list[Buffer] = []
        size = 0
        while self._urgent and (not frames or size + len(self._urgent[0]) <= SEND_BYTES):
            frame = self._urgent.popleft()
            frames.append(frame)
            size += len(frame)
        if size:
            self._urgent_bytes -= size
            self.pacer.spend(size, now)
        if not self._urgent:
            self._urgent_due = math.inf
        if not self._urgent and self._bulk_due() <= now:
            frames += self._take_piece()
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

    @property
    def _piece_bytes(self) -> int:
        window_bytes = SEND_BYTES if self.window is None else self.window.piece_bytes
        return int(min(window_bytes, self.pacer.piece_bytes))

    def _due(self) -> float:
        return -math.inf if self.is_overflown else min(self._urgent_due, self._bulk_due())

    def _bulk_due(self) -> float:
        """When the next piece may be written. It is booked once, in the order in which peers have one to write."""
        if not self._bulk:
            return math.inf
        if self._booked is None:
            size, most = 0, self._piece_bytes
            for _, length in self._bulk:
                if size and size + length > most:
                    break
                size += length
            if self.window is not None and not self.window.has_room(size):
                return math.inf
            self._booked = self.pacer.book(size, trio.current_time()), size
        return self._booked[0]

    def _take_piece(self) -> list[Buffer]:
        """What was booked."""
        assert self._booked is not None
        left = self._booked[1]
        if self.window is not None:
            self.window.sent(left)
        taken: list[Buffer] = []
        while left > 0:
            pieces, length = self._bulk.popleft()
            taken += pieces
            left -= length
            self._bulk_bytes -= length
        self._booked = None
        self._producers.unpark_all()
        return taken

    def _queue_bulk(self, frame: Sequence[Buffer], size: int) -> None:
        if size > self._piece_bytes:
            self._cuts = (self._cuts + 1) % 2**32
            for part in cut(b"".join(frame), number=self._cuts, bytes_max=self._piece_bytes):
                self._bulk.append(((part,), len(part)))
                self._bulk_bytes += len(part)
        else:
            self._bulk.append((frame, size))
            self._bulk_bytes += size
        if self._writers:
            self._writers.unpark_all()
