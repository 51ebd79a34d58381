"""The trace of a run: one line per effect, hashed; kept only when somebody wants to read it."""

import hashlib

from consensus import Broadcast, Persist


class Trace:
    """Invariant I14: equal options give an equal `hash`, in any process."""

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        self._keep = keep
        self._hash = hashlib.sha256()

    def note(self, now: float, node: int, effect: object) -> None:
        line = f"{now:.6f} n{node} {describe(effect)}"
        self._hash.update(line.encode())
        if self._keep:
            self.lines.append(line)

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()


def describe(effect: object) -> str:
    name = type(effect).__name__
    match effect:
        case Broadcast(message):
            return f"{name} {message.kind.name} {message.height}/{message.view} {message.signature.hex()[:8]}"
        case Persist(record):
            digest = hashlib.sha256(record.data).hexdigest()[:8]
            return f"{name} {record.kind.name} {record.height}/{record.view} {digest}"
    shown = [f"{getattr(effect, a)}" for a in ("height", "view", "timer", "reason") if hasattr(effect, a)]
    return " ".join([name, *shown])
