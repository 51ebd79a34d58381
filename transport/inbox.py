"""Events on their way to the node: one bounded queue for each peer, taken in turn.

A peer that floods fills its own queue, and then is not read any more; it delays nobody else's events. The order of one
peer's events is kept. Not here: what the events mean.
"""

from __future__ import annotations

from collections import deque

import trio

from transport.events import SwarmEvent
from transport.limits import INBOX_BYTES_PER_PEER_MAX, INBOX_EVENTS_PER_PEER_MAX


class _Queue:
    __slots__ = ("bytes", "events", "lot")

    def __init__(self) -> None:
        self.events: deque[tuple[SwarmEvent, int]] = deque()
        self.bytes = 0
        self.lot = trio.lowlevel.ParkingLot()


class Inbox:
    """Iterate over it, or call receive; it ends when the swarm has ended and everything was taken."""

    def __init__(self) -> None:
        self._queues: dict[bytes, _Queue] = {}
        self._turns: deque[bytes] = deque()
        self._takers = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def put_nowait(self, source: bytes, event: SwarmEvent) -> None:
        """For our own news of a peer (connected, gone), which is bounded by the number of connections."""
        self._append(source, event, 0)

    async def put(self, source: bytes, event: SwarmEvent, *, size_bytes: int) -> None:
        """Waits while this peer's share is full. Not a checkpoint otherwise."""
        while (queue := self._queues.get(source)) is not None and (
            len(queue.events) >= INBOX_EVENTS_PER_PEER_MAX or queue.bytes >= INBOX_BYTES_PER_PEER_MAX
        ):
            await queue.lot.park()
        self._append(source, event, size_bytes)

    def receive_nowait(self) -> SwarmEvent:
        """The next event; raises trio.WouldBlock or, at the end, trio.EndOfChannel."""
        if not self._turns:
            raise trio.EndOfChannel if self._is_closed else trio.WouldBlock
        source = self._turns.popleft()
        queue = self._queues[source]
        event, size_bytes = queue.events.popleft()
        queue.bytes -= size_bytes
        if queue.events:
            self._turns.append(source)
        elif not queue.lot:
            del self._queues[source]
        if queue.lot:
            queue.lot.unpark()
        return event

    async def receive(self) -> SwarmEvent:
        """Like receive_nowait, but waits. Cancelled, it has taken nothing."""
        if self._turns:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._takers.park()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> SwarmEvent:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self._is_closed = True
        self._takers.unpark_all()

    def _append(self, source: bytes, event: SwarmEvent, size_bytes: int) -> None:
        queue = self._queues.get(source)
        if queue is None:
            queue = self._queues[source] = _Queue()
        if not queue.events:
            self._turns.append(source)
        queue.events.append((event, size_bytes))
        queue.bytes += size_bytes
        if self._takers:
            self._takers.unpark()
