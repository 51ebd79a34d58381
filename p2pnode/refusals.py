"""What peers send and this node refuses, said in the log: a few lines at once, then one a second, and how many were left out.

Whoever sends rubbish can send thousands of pieces a second; a line for each would hide what the operator must see, and cost more than the
refusal itself. Not here: counting (``driver``), and consequences (there are none for what is merely wrong).
"""

import math

import trio

import transport
from p2pnode.logs import Logger

LINES_AT_ONCE = 20  # enough to see one node's whole misfortune
LINES_PER_SECOND = 1.0  # a day of them is some 20 MB, of which the log keeps the newest


class Refusals:
    """Lines of one kind, all peers together: names are free, so a share for each name would be no bound."""

    def __init__(self, log: Logger, event: str) -> None:
        self._log = log
        self._event = event
        self._lines = float(LINES_AT_ONCE)
        self._at = -math.inf
        self._left_out = 0

    def say(self, peer: bytes | None, reason: str) -> None:
        """A line in the log, if there is room for one."""
        now = trio.current_time()
        self._lines = min(self._lines + (now - self._at) * LINES_PER_SECOND, LINES_AT_ONCE)
        self._at = now
        if self._lines < 1:
            self._left_out += 1
            return
        self._lines -= 1
        left_out, self._left_out = self._left_out, 0
        more = {"left_out": left_out} if left_out else {}
        self._log.warning(self._event, peer=transport.short_id(peer) if peer else "", reason=reason, **more)
