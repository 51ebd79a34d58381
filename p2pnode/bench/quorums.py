"""The physical limit of a height: three message delays, each waited for until a quorum has spoken.

What it is: the delays of a wide-area network drawn from a seed, and the moment at which the last member could decide if messages cost
nothing but their way. What it is not: a simulation; nothing here sends, computes or fails.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

DELAY_SECONDS_MIN = 0.001


@dataclass(frozen=True, slots=True)
class Wan:
    """One-way delays: a normal distribution, cut off at a millisecond, the same in both directions of a link."""

    mean_seconds: float
    deviation_seconds: float

    def draw(self, nodes: int, seed: int) -> list[list[float]]:
        """``[from][to]``."""
        rng = random.Random(f"links {nodes} {seed}")  # noqa: S311 - repeatable on purpose
        delays = [[0.0] * nodes for _ in range(nodes)]
        for one in range(nodes):
            for other in range(one):
                drawn = max(DELAY_SECONDS_MIN, rng.gauss(self.mean_seconds, self.deviation_seconds))
                delays[one][other] = delays[other][one] = drawn
        return delays


def decided_last(delays: Sequence[Sequence[float]], *, proposer: int, quorum: int) -> float:
    """Seconds from the proposal until every member has decided: proposal, a quorum of PREPAREs, a quorum of COMMITs."""
    members = range(len(delays))
    moments = [delays[proposer][i] for i in members]
    for _ in ("PREPARE", "COMMIT"):
        moments = [sorted(moments[j] + delays[j][i] for j in members)[quorum - 1] for i in members]
    return max(moments)
