"""A token bucket. Sans-IO: time is passed in."""

from __future__ import annotations


class TokenBucket:
    __slots__ = ("_at", "_burst", "_per_second", "_tokens")

    def __init__(self, *, per_second: float, burst: float, now: float, tokens: float | None = None) -> None:
        """It starts full, or with `tokens`."""
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst if tokens is None else tokens
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def grant(self, tokens: float) -> None:
        """Add tokens, up to the burst."""
        self._tokens = min(self._burst, self._tokens + tokens)

    def charge(self, now: float) -> float:
        """Take one token that may not be there yet; how long to wait for it. What is owed delays whatever comes next."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self._per_second)
