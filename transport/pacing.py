"""The budget of one node's uplink: bulk of all connections takes turns in it, and consensus never waits for it.

Sans-IO: moments are passed in. A connection books the moment of its next piece of bulk, one piece at a time, so whoever has bulk for many
receivers serves them in turn, and none gets more than its share. Urgent frames are only counted: what they take is taken from bulk.
What it is not: a limit on consensus, or a measure of the link (window.py has that).
"""

from __future__ import annotations

import math

from transport.limits import AGREEMENT_SECONDS, PACE_LATE_SECONDS_MAX, PIECE_BYTES_MIN, PIECE_SECONDS, SEND_BYTES


class Pacer:
    __slots__ = ("_agreed_at", "_bytes_per_second", "_free_at")

    def __init__(self, bytes_per_second: float = math.inf) -> None:
        """Of frames, all connections together."""
        self._bytes_per_second = bytes_per_second
        self._free_at = -math.inf
        self._agreed_at = -math.inf

    @property
    def piece_bytes(self) -> float:
        """How much bulk may stand before a vote that comes just after it."""
        return min(max(self._bytes_per_second * PIECE_SECONDS, PIECE_BYTES_MIN), SEND_BYTES)

    def book(self, count: int, now: float) -> float:
        """When so many bytes of bulk may be written; the time that they take on the link is booked with it."""
        at = max(self._free_at, now - PACE_LATE_SECONDS_MAX)
        self._free_at = at + count / self._bytes_per_second
        return at

    def spend(self, count: int, now: float) -> None:
        """Urgent bytes are written now, whatever is booked."""
        self.book(count, now)

    def agrees(self, now: float) -> None:
        """A message of agreement is being sent."""
        self._agreed_at = now

    def is_agreeing(self, now: float) -> bool:
        """Whether one was a moment ago: bulk then keeps out of the way."""
        return now - self._agreed_at < AGREEMENT_SECONDS
