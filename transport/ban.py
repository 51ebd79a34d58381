"""Keys, or IP groups, that have lost something for a while, on proof. Bounded and short: a new key costs a liar nothing. Sans-IO."""

from __future__ import annotations

from transport import limits


class Ban:
    """Of what is named by bytes, for `seconds` each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[bytes, float] = {}

    def add(self, name: bytes, now: float) -> None:
        """From now on; the oldest entry makes room."""
        self._until.pop(name, None)
        self._until[name] = now + self._seconds
        if len(self._until) > limits.BANS_MAX:
            del self._until[next(iter(self._until))]

    def holds(self, name: bytes, now: float) -> bool:
        return self._until.get(name, now) > now
