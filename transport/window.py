"""How much bulk may be on its way to one peer: so much that a vote which comes behind it is hardly held up.

What it is: delay-based congestion control in the manner of LEDBAT (RFC 6817), sans-IO. A PING goes behind the bulk that was written, and its
PONG comes when the peer has taken all of that: it waited in our system's buffers, in the queue of the slowest link on the path (a home
router's may hold seconds), and for the peer itself. What it took beyond the shortest round trip of late is the time that a vote would have
waited, too. Below the target the window grows, up to twofold in a round trip; above it, it shrinks, down to half. The target is low while votes
are on their way, and otherwise what keeps a link filled whose round trips vary by some milliseconds.

What it is not: fairness among strangers' streams (TCP has that), a budget (pacing.py), or a bound on votes: these never wait for it.
Each connection of a node has one, and connections that share an uplink see the same queue, so they share it without being told.
"""

from __future__ import annotations

from transport import limits

GAIN = 0.25  # of the growth later on: what is done now shows in a round trip only


class BulkWindow:
    __slots__ = (
        "_base",
        "_base_before",
        "_base_since",
        "_bytes",
        "_heard",
        "_is_new",
        "_is_used",
        "_marked",
        "_probes",
        "_sent",
    )

    def __init__(self) -> None:
        self._bytes = float(limits.WINDOW_BYTES_START)
        self._sent = 0  # bytes of bulk that were written, ever
        self._heard = 0  # of these, how many the peer has taken
        self._marked = 0  # and how many stand before the last probe
        self._probes: dict[int, int] = {}  # number of a PING, and what stands before it
        self._is_new = True  # the link was never seen to be full: twofold in a round trip, as TCP begins
        self._is_used = False  # bulk was kept waiting, so that a larger window would be of use
        self._base = self._base_before = float("inf")  # the shortest round trip since then, and in the time before
        self._base_since = float("-inf")

    @property
    def bytes(self) -> float:
        return self._bytes

    @property
    def piece_bytes(self) -> float:
        """How much bulk to write at a time."""
        return min(max(self._bytes / 4, limits.PIECE_BYTES_MIN), limits.SEND_BYTES)

    @property
    def is_probe_due(self) -> bool:
        """Whether a PING should follow what was written; where all was taken, there is nothing to learn."""
        return self._sent > self._marked and (not self._probes or self._sent - self._marked >= self._bytes / 8)

    def has_room(self, count: int) -> bool:
        """For so many bytes; for anything, where nothing is on its way."""
        on_the_way = self._sent - self._heard
        has_room = not on_the_way or on_the_way + count <= self._bytes
        self._is_used |= not has_room
        return has_room

    def sent(self, count: int) -> None:
        """So many bytes of bulk were written."""
        self._sent += count

    def probed(self, number: int) -> None:
        """A PING of that number was put behind everything that was written."""
        if self._sent > self._marked or not self._probes:
            self._probes[number] = self._marked = self._sent

    def answered(self, number: int, *, seconds: float, now: float, is_urgent: bool) -> None:
        """Its PONG has come after so many seconds; `is_urgent`: votes are on their way."""
        base = self._base_of(seconds, now)
        heard = self._probes.pop(number, 0)
        self._probes = {later: place for later, place in self._probes.items() if place > heard}
        taken, self._heard = max(0, heard - self._heard), max(heard, self._heard)
        target = base / 4 + (limits.DELAY_URGENT_SECONDS if is_urgent else limits.DELAY_SECONDS)
        off = max((target - (seconds - base)) / target, -1.0)
        self._is_new &= off > 0.25
        if off < 0:
            self._bytes = max(self._bytes + off / 2 * min(taken, self._bytes), limits.WINDOW_BYTES_MIN)
        elif self._is_used:
            self._bytes = min(self._bytes + off * taken * (1.0 if self._is_new else GAIN), limits.WINDOW_BYTES_MAX)
        self._is_used = False

    def _base_of(self, seconds: float, now: float) -> float:
        """The shortest round trip of the last one or two stretches: a path may change."""
        if now - self._base_since >= limits.BASE_SECONDS:
            self._base_before, self._base, self._base_since = self._base, seconds, now
        self._base = min(self._base, seconds)
        return min(self._base, self._base_before)
