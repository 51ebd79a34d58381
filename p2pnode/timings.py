"""What a round cost, as this node saw it: the figures behind ``rounds``, ``trace`` and ``localnet --json``.

Seconds between moments of the event loop's clock. Talk, not agreement: nothing here is signed or compared. ``seconds`` of a row:

    learn            from the moment M(h-1) stood here until our own update was ready
    collect          until this node started the height (``collect``), our announcement included
    propose          until a proposal was here; where we propose: until ours was sent
    fetch_and_check  until the listed bytes were here and the root recomputed
    prepare          until our COMMIT was sent
    commit           until the decision
    apply            until block and certificate were durable and M(h) stood here
    total            the sum of these; of rounds that follow one another, the time from one model to the next
    agree            from the proposal to the decision: fetch_and_check, prepare and commit

What did not happen here (a node that was behind votes on nothing) takes no time, and what was under way then ends with it.
"""

from itertools import pairwise
from typing import Any

import trio

import consensus
from consensus import Purpose
from p2pnode.driver import PhaseTimes
from transport import node_id

PARTS = ("learn", "collect", "propose", "fetch_and_check", "prepare", "commit")


class Timings:
    """Collects the moments of the open height and turns them into one row when it is decided."""

    def __init__(self) -> None:
        self.opened = trio.current_time()
        self.first_step: float | None = None
        self.last_decision: float | None = None
        self._height = 0
        self._learning: float | None = None
        self._learned: float | None = None
        self._loss: float | None = None
        self._decided = 0.0

    def open(self, height: int) -> None:
        """A new height is open from now on."""
        self.opened = trio.current_time()
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
        self._decided = now = times.decided or trio.current_time()
        self.last_decision = now
        listed = any(c.author == me and c.purpose is Purpose.UPDATE for c in block.contributions)
        row = round_facts(block, certificate)
        return {**row, "listed": listed, "loss": self._loss, "seconds": self._seconds(times, now)}

    def applied(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same row once the new model stands."""
        now = trio.current_time()
        return {**row, "seconds": {**row["seconds"], "apply": now - self._decided, "total": now - self.opened}}

    def _seconds(self, times: PhaseTimes, decided: float) -> dict[str, float]:
        """Each part ends where the next begins, so that they add up."""
        learned = self.opened if self._learning is None else self._learned or 0.0
        ends = [learned, times.started, times.proposed, times.checked, times.committed, decided]
        for index in reversed(range(len(ends) - 1)):
            within = self.opened <= ends[index] <= ends[index + 1]
            ends[index] = ends[index] if within else ends[index + 1]
        lengths = [end - begin for begin, end in pairwise([self.opened, *ends])]
        parts = dict(zip(PARTS, lengths, strict=True))
        agree = parts["fetch_and_check"] + parts["prepare"] + parts["commit"]
        return {**parts, "apply": 0.0, "total": decided - self.opened, "agree": agree}


def round_facts(block: consensus.Block, certificate: consensus.CommitCertificate) -> dict[str, Any]:
    """The row of a round as everybody has it; of one that this node took from others, all that it knows.

    ``joined`` and ``left`` are for whoever knows the memberships around it (``people.changes``).
    """
    updates = [c for c in block.contributions if c.purpose is Purpose.UPDATE]
    return {
        "height": block.height,
        "view": certificate.view,
        "model_root": block.header.model_root.hex(),
        "block": block.hash.hex(),
        "proposer": node_id(block.header.proposer),
        "contributions": len(updates),
        "probes": len(block.contributions) - len(updates),
        "contributors": [node_id(c.author) for c in updates],
        "payload_bytes": sum(c.payload_bytes for c in updates),
        "joined": [],
        "left": [],
        "listed": False,
        "loss": None,
        "seconds": {},
    }
