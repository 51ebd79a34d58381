"""The window of bulk on a simulated link: it fills the link, holds votes up little, gives way to them, and never comes to a stop."""

import heapq
from dataclasses import dataclass, field
from random import Random

import pytest

from transport import limits
from transport.window import BulkWindow

MBIT = 125_000.0


@dataclass
class Link:
    """A queue without end before a bottleneck, then a delay; the way back is as long, and free.

    `run` sends as much as the window allows for so many seconds, one piece after the other, and notes what a vote would have waited.
    """

    mbit: float
    one_way_seconds: float
    jitter_seconds: float = 0.0
    window: BulkWindow = field(default_factory=BulkWindow)
    now: float = 0.0
    free_at: float = 0.0
    delivered: int = 0
    probes: int = 0
    rng: Random = field(default_factory=lambda: Random(7))
    events: list[tuple[float, int, float]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """A connection begins with a PING."""
        self.window.probed(0)
        self.window.answered(0, seconds=2 * self.one_way_seconds, now=self.now, is_urgent=False)

    def run(self, seconds: float, *, is_urgent: bool = False) -> float:
        """The share of what the link could carry meanwhile."""
        before, until = self.delivered, self.now + seconds
        self.fill()
        while self.events and self.events[0][0] <= until:
            self.now, number, sent_at = heapq.heappop(self.events)
            self.window.answered(number, seconds=self.now - sent_at, now=self.now, is_urgent=is_urgent)
            if self.window.is_probe_due:
                self.probe()
            self.fill()
        self.now = until
        return (self.delivered - before) / (seconds * self.mbit * MBIT)

    def fill(self) -> None:
        while self.window.has_room(size := int(self.window.piece_bytes)):
            self.window.sent(size)
            self.free_at = max(self.free_at, self.now) + size / (self.mbit * MBIT)
            self.delivered += size
            self.waits.append(self.free_at - self.now)
            if self.window.is_probe_due:
                self.probe()

    def probe(self) -> None:
        self.probes += 1
        self.window.probed(self.probes)
        there = max(self.free_at, self.now) + self.one_way_seconds
        back = there + self.one_way_seconds + self.rng.uniform(0, self.jitter_seconds)
        heapq.heappush(self.events, (back, self.probes, self.now))


@pytest.mark.parametrize("mbit", [10, 100, 1000])
@pytest.mark.parametrize("one_way_seconds", [0.0002, 0.005, 0.02])
def test_the_link_is_filled_and_its_queue_is_short(mbit: int, one_way_seconds: float) -> None:
    link = Link(mbit, one_way_seconds)
    assert link.run(3.0) > 0.9, "within a few round trips"
    link.run(10.0)
    link.waits.clear()
    assert link.run(10.0) > 0.95
    trip = 2 * one_way_seconds
    burst = max(link.window.bytes / 4, limits.WINDOW_BYTES_MIN) / (mbit * MBIT)  # that an answer allows at once
    assert max(link.waits) < limits.DELAY_SECONDS + trip / 4 + burst + 0.01


@pytest.mark.parametrize("one_way_seconds", [0.0002, 0.005])
def test_while_votes_are_on_their_way_bulk_keeps_out_of_it(one_way_seconds: float) -> None:
    link = Link(100, one_way_seconds)
    link.run(10.0)
    before = max(link.waits[-100:])
    link.run(1.0, is_urgent=True)
    link.waits.clear()
    assert link.run(5.0, is_urgent=True) > 0.8
    assert max(link.waits) < before / 3
    burst = max(link.window.bytes / 4, limits.WINDOW_BYTES_MIN) / (100 * MBIT)
    assert max(link.waits) < limits.DELAY_URGENT_SECONDS + one_way_seconds / 2 + burst + 0.004
    link.run(5.0)
    assert link.run(5.0) > 0.95, "and it comes back"


def test_it_never_comes_to_a_stop() -> None:
    """On a path that varies by far more than any target, a leaf goes in each round trip all the same."""
    link = Link(100, 0.02, jitter_seconds=0.5)
    link.run(10.0)
    before = link.delivered
    link.run(60.0, is_urgent=True)
    assert (link.delivered - before) / 60 > limits.WINDOW_BYTES_MIN / 2 / 0.6
    assert link.window.bytes >= limits.WINDOW_BYTES_MIN


def test_a_route_that_became_longer_is_no_queue_for_ever() -> None:
    link = Link(100, 0.005)
    link.run(10.0)
    link.one_way_seconds = 0.2
    link.run(2 * limits.BASE_SECONDS)
    assert link.run(10.0) > 0.8


def test_who_has_little_to_send_opens_no_window() -> None:
    window = BulkWindow()
    for number in range(100):
        window.sent(1000)
        window.probed(number)
        window.answered(number, seconds=0.01, now=0.0, is_urgent=False)
    assert window.bytes == limits.WINDOW_BYTES_START


def test_an_answer_to_nothing_opens_nothing() -> None:
    window = BulkWindow()
    while window.has_room(limits.LEAF_BYTES):
        window.sent(limits.LEAF_BYTES)
    for number in range(100):
        window.answered(number, seconds=0.0001, now=0.0, is_urgent=False)
    assert not window.has_room(limits.LEAF_BYTES) and window.bytes == limits.WINDOW_BYTES_START


def test_probes_on_their_way_are_few() -> None:
    window, most = BulkWindow(), 0
    for number in range(1000):
        if window.has_room(limits.PIECE_BYTES_MIN):
            window.sent(limits.PIECE_BYTES_MIN)
        if window.is_probe_due:
            window.probed(number)
            most += 1
    assert 1 <= most <= 9


def test_the_window_is_bounded() -> None:
    link = Link(1_000_000, 0.5)
    link.run(120.0)
    assert link.window.bytes == limits.WINDOW_BYTES_MAX
