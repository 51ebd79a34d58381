"""How long to wait, from what was measured. The only numbers here that are not integers, and none of them reaches a vote.

Delta is the p99 one-way delay, F what fetching and recomputing a block takes. F belongs in all three: while slow honest nodes
still recompute, the votes of f faulty and f+1 fast ones already start the timers of the others.
"""

import math

from consensus.errors import LocalFault
from consensus.events import TimerKind
from consensus.limits import (
    CHECK_SECONDS_DEFAULT,
    CHECK_SECONDS_MAX,
    CHECK_SECONDS_MIN,
    DELAY_SECONDS_DEFAULT,
    DELAY_SECONDS_MAX,
    DELAY_SECONDS_MIN,
    TIMEOUT_CARRIED_MAX,
    TIMEOUT_EXPONENT_MAX,
    TIMEOUT_GROWTH,
)


class Timeouts:
    """Durations for the views of the running height."""

    def __init__(self) -> None:
        self._delay_seconds = DELAY_SECONDS_DEFAULT
        self._check_seconds = CHECK_SECONDS_DEFAULT
        self._carried = 0  # exponent with which the running height begins

    def measured(self, *, delay_seconds: float, check_seconds: float) -> None:
        """Later timers use these, clamped to their bounds."""
        if not all(math.isfinite(value) and value >= 0 for value in (delay_seconds, check_seconds)):
            raise LocalFault(f"measured delays of {delay_seconds} and {check_seconds} seconds")
        self._delay_seconds = min(max(delay_seconds, DELAY_SECONDS_MIN), DELAY_SECONDS_MAX)
        self._check_seconds = min(max(check_seconds, CHECK_SECONDS_MIN), CHECK_SECONDS_MAX)

    def seconds(self, kind: TimerKind, view: int) -> float:
        """# rule T1"""
        delay, check = self._delay_seconds, self._check_seconds
        match kind:
            case TimerKind.SYNC:
                base = 2 * delay
            case TimerKind.PROPOSE:
                base = 4 * delay + check + (2 * delay if view > 0 else 0)
            case TimerKind.PREPARE | TimerKind.COMMIT:
                base = 3 * delay + check
            case TimerKind.REBROADCAST:
                raise LocalFault("the rebroadcast does not depend on the view")
        return float(base * TIMEOUT_GROWTH ** min(self._carried + view, TIMEOUT_EXPONENT_MAX))

    def decided_in(self, view: int) -> None:
        """What succeeded is where the next height begins; a success at once earns one step back.  # rule T2"""
        self._carried = min(self._carried + view, TIMEOUT_CARRIED_MAX) if view > 0 else max(self._carried - 1, 0)
