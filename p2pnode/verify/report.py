"""What ``verify`` found: faults with their places, notes on what was not checked, counts, and one verdict.

Rules for editing: the verdict is one line; a fault is one line; whatever is counted was checked, not merely seen.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """``byte``: where in the file it begins, as far as that can be told."""

    file: str
    what: str
    height: int | None = None
    field: str | None = None
    byte: int | None = None

    def line(self) -> str:
        places = [
            self.file,
            f"height {self.height}" if self.height is not None else "",
            self.field or "",
            f"byte {self.byte}" if self.byte is not None else "",
        ]
        return f"{', '.join(place for place in places if place)}: {self.what}"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}


@dataclass(slots=True)
class Report:
    """Filled by the checks. ``heights`` are the verified ones, from 1 on without a gap."""

    path: str
    network: bytes | None = None
    heights: int = 0
    signatures: int = 0
    members: int = 0
    snapshots: int = 0
    payloads: int = 0
    statements: int = 0
    model_root: bytes | None = None
    replayed: list[tuple[int, int]] | None = None
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(
        self, file: str, what: str, *, height: int | None = None, field: str | None = None, byte: int | None = None
    ) -> None:
        self.faults.append(Fault(file, what, height, field, byte))

    def note(self, line: str) -> None:
        self.notes.append(line)

    @property
    def sound(self) -> bool:
        return not self.faults

    def verdict(self) -> str:
        if self.faults:
            more = f" and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            return f"NOT SOUND: {self.faults[0].line()}{more}"
        network = self.network.hex()[:16] if self.network else "?"
        counts = [
            f"{self.heights} heights",
            f"{self.signatures} signatures",
            f"{self.statements} logged statements",
            f"{self.snapshots} snapshots",
            f"{self.payloads} payloads",
        ]
        replayed = "" if self.replayed is None else f"; {self._replayed_line()}"
        return f"sound: network {network}, {', '.join(counts)}{replayed}"

    def _replayed_line(self) -> str:
        ranges = [f"{first} to {last}" for first, last in self.replayed or []]
        return f"replayed {' and '.join(ranges) or 'none'} of {self.heights}"

    def text(self) -> str:
        """The verdict, then every further fault and note, one a line."""
        faults = [f"fault: {fault.line()}" for fault in self.faults[1:]]
        return "\n".join([self.verdict(), *faults, *(f"note: {line}" for line in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": "sound" if self.sound else "not sound",
            "path": self.path,
            "network": self.network.hex() if self.network else None,
            "heights": self.heights,
            "members": self.members,
            "model_root": self.model_root.hex() if self.model_root else None,
            "signatures": self.signatures,
            "statements": self.statements,
            "snapshots": self.snapshots,
            "payloads": self.payloads,
            "replayed": self.replayed,
            "faults": [fault.to_dict() for fault in self.faults],
            "notes": self.notes,
        }
