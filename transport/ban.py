"""Keys that have lost something for a while, on proof. Bounded and short: a new key costs a liar nothing. Sans-IO."""

from __future__ import annotations

from transport import limits


class Ban:
    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def add(self, key: bytes, now: float) -> None:
        """For BAN_SECONDS from now; the oldest entry makes room."""
        self._until.pop(key, None)
        self._until[key] = now + limits.BAN_SECONDS
        if len(self._until) > limits.BANS_MAX:
            del self._until[next(iter(self._until))]

    def holds(self, key: bytes, now: float) -> bool:
        return self._until.get(key, now) > now
