"""What a round cost, as this node saw it: the figures behind ``rounds``, ``trace`` and ``localnet --json``.

Seconds between moments of one monotonic clock. Talk, not agreement: nothing here is signed or compared.
"""

import time
from typing import Any

import consensus
from consensus import Purpose
from p2pnode.driver import PhaseTimes
from transport import node_id


class Timings:
    """Collects the moments of the open height and turns them into one row when it is decided."""

    def __init__(self) -> None:
        self.opened = time.monotonic()
        self.first_step: float | None = None
        self.last_decision: float | None = None
        self._height = 0
        self._learning: float | None = None
        self._learned: float | None = None
        self._loss: float | None = None
        self._decided = 0.0

    def open(self, height: int) -> None:
        """A new height is open from now on."""
        self.opened = time.monotonic()
        self._height = height
        self._learning = self._learned = self._loss = None

    def learning(self, height: int, moment: float) -> None:
        self._height, self._learning = height, moment
        self.first_step = self.first_step or moment

    def learned(self, height: int, moment: float, loss: float) -> None:
        if height == self._height:
            self._learned, self._loss = moment, loss

    def decided(
        self, block: consensus.Block, certificate: consensus.CommitCertificate, times: PhaseTimes, *, me: bytes
    ) -> dict[str, Any]:
        """The row of a round at the moment of its decision."""
        header = block.header
        self._decided = now = times.decided or time.monotonic()
        self.last_decision = now
        updates = [c for c in block.contributions if c.purpose is Purpose.UPDATE]
        learn = (self._learned or self._learning or self.opened) - (self._learning or self.opened)
        started = times.started or now
        listed = any(c.author == me for c in updates)
        return {
            "height": block.height,
            "view": certificate.view,
            "model_root": header.model_root.hex(),
            "block": block.hash.hex(),
            "proposer": node_id(header.proposer),
            "contributions": len(updates),
            "probes": len(block.contributions) - len(updates),
            "contributors": [node_id(c.author) for c in updates],
            "payload_bytes": sum(c.payload_bytes for c in updates),
            "listed": listed,
            "loss": self._loss,
            "seconds": {
                "learn": learn,
                "collect": max(0.0, started - (self._learned or self.opened)),
                "propose": _between(started, times.proposed),
                "fetch_and_check": _between(times.proposed, times.checked),
                "prepare": _between(times.prepared, times.committed),
                "commit": _between(times.committed, now),
                "agree": now - started,
                "apply": 0.0,
                "total": now - self.opened,
            },
        }

    def applied(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same row once the new model stands."""
        seconds = {**row["seconds"], "apply": time.monotonic() - self._decided}
        return {**row, "seconds": seconds}


def _between(earlier: float, later: float) -> float:
    return max(0.0, later - earlier) if earlier and later else 0.0
