"""How late the event loop is: the time between when a task wanted to run and when it did.

The figure behind "training never holds up the event loop": while it is small, a vote waits for nothing but the wire.
"""

from collections import deque

import trio

from p2pnode.delays import percentile_99

PERIOD_SECONDS = 0.05  # each look wakes the process: two hundred nodes on one machine must not live on that
SAMPLES_MAX = 1200  # the last minute


class Lag:
    """Run ``watch`` in the loop to be watched."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES_MAX)

    async def watch(self) -> None:
        while True:
            due = trio.current_time() + PERIOD_SECONDS
            await trio.sleep_until(due)
            self._samples.append(max(0.0, trio.current_time() - due))

    def longest(self) -> float | None:
        return max(self._samples, default=None)

    def p99(self) -> float | None:
        return percentile_99(self._samples) if self._samples else None
