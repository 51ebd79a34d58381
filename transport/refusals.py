"""What peers send and this node refuses, said in the log: a few lines at once, then one a second, and how many were left out.

Whoever sends rubbish, or only connects, can do so thousands of times a second; a line for each would hide what the operator must see, and
cost more than the refusal itself. Not here: counting (swarm.py, and the node), and consequences.
"""

from __future__ import annotations

import trio

from transport import limits
from transport.log import Log
from transport.ratelimit import TokenBucket


class Refusals:
    """Lines of one kind, all peers together: names are free, so a share for each name would be no bound."""

    def __init__(self, log: Log, event: str) -> None:
        self._log = log
        self._event = event
        self._lines = TokenBucket(
            per_second=limits.REFUSAL_LINES_PER_SECOND, burst=limits.REFUSAL_LINES_AT_ONCE, now=0.0
        )
        self._left_out = 0

    def say(self, peer: str, reason: str) -> None:
        """A line in the log, if there is room for one."""
        if not self._lines.take(trio.current_time()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        more = {"left_out": left_out} if left_out else {}
        self._log.warning(self._event, peer=peer, reason=reason, **more)
