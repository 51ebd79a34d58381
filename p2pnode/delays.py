"""How long messages and checks take here, measured, so that no timeout is a guess (SPEC.md, T1).

The engine gets two figures: Delta, the 99th percentile of one-way delay with queueing, and F, what fetching and recomputing a block takes.
Both are local opinions; they change when a timer rings, never what a vote says.

Neither may be in the hands of a few, or they could teach everybody to wait for minutes. Of each look at the members' round trips only the one
counts that completes a quorum. Of the checks, which a proposer can slow down by serving slowly, twice what two thirds of them took.
"""

from collections import deque
from collections.abc import Iterable

import consensus

SAMPLES_MAX = 128  # about two minutes of rounds of a second: old enough to be calm, young enough to follow


class Delays:
    """Sliding windows of the newest samples."""

    def __init__(self) -> None:
        self._checks: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._one_way: deque[float] = deque(maxlen=SAMPLES_MAX)

    def note_check(self, seconds: float) -> None:
        self._checks.append(seconds)

    def note_round_trips(self, seconds: Iterable[float], *, needed: int, steps: int = 1) -> None:
        """One look at the other members' round trips; ``needed`` of them make a quorum with this node.

        Where members are linked in part they do not: a quorum is ``steps`` links away, each as long as those that we can measure, the
        slowest third of them left out.
        """
        trips = sorted(seconds)
        if steps > 1:
            needed = -(-2 * len(trips) // 3)
        if 0 < needed <= len(trips):
            self._one_way.append(steps * trips[needed - 1] / 2)

    def measured(self) -> consensus.DelaysMeasured | None:
        """The figures for the engine, or ``None`` while there is nothing to go by."""
        if not self._checks or not self._one_way:
            return None
        checks = sorted(self._checks)
        return consensus.DelaysMeasured(
            delay_seconds=percentile_99(self._one_way), check_seconds=2 * checks[-(-2 * len(checks) // 3) - 1]
        )


def percentile_99(samples: Iterable[float]) -> float:
    """The smallest sample that at least 99 % do not exceed."""
    ordered = sorted(samples)
    return ordered[-(-99 * len(ordered) // 100) - 1]
