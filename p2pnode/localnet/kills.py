"""Which node is killed when: the seeded plan, and the moment that it names.

What it is: pure. What it is not: the killing; ``harness.py`` reads the phases and ``processes.py`` sends the signals.

For editors: a plan depends on the seed and the options alone, so that a run that failed can be asked for again. The
phases are drawn with equal chances although a node spends most of its time learning: the short ones are where a crash
hurts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from p2pnode.localnet.readings import ROUND_PHASES, Status

SECONDS_DOWN_MIN = 0.2
SECONDS_DOWN_MAX = 2.0
# The last share of a run is left to the last victim for coming back.
PLANNED_SHARE = 0.7
# A phase that lasts milliseconds is easily missed; after so many heights any phase in mid-round will do.
HEIGHTS_OF_PATIENCE = 1


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """Kill node ``index`` while ``height`` is undecided there and the node is in ``phase``; while it learns, after
    ``share`` of its steps. Restart it ``seconds_down`` later."""

    index: int
    height: int
    phase: str
    share: float
    seconds_down: float


def plan_kills(*, seed: int, kills: int, candidates: Sequence[int], rounds: int) -> tuple[PlannedKill, ...]:
    """Spread ``kills`` over the run, every candidate once before any of them twice. Ascending heights, from 1 to
    ``rounds``."""
    chance = random.Random(f"p2pnode-localnet-kills-{seed}")  # noqa: S311 - a test plan, no secret
    victims = _shuffled_rounds(chance, candidates, kills)
    first, last = min(2, rounds), max(1, round(PLANNED_SHARE * rounds))
    width = (last - first + 1) / max(kills, 1)
    return tuple(
        PlannedKill(
            index=victim,
            height=max(1, int(first + width * (place + chance.random()))),
            phase=chance.choice(ROUND_PHASES),
            share=chance.random(),
            seconds_down=chance.uniform(SECONDS_DOWN_MIN, SECONDS_DOWN_MAX),
        )
        for place, victim in enumerate(victims)
    )


def is_the_moment(planned: PlannedKill, status: Status) -> bool:
    """Whether a node that says ``status`` is to be killed now."""
    if status.phase not in ROUND_PHASES or status.undecided_height < planned.height:
        return False
    if status.undecided_height > planned.height + HEIGHTS_OF_PATIENCE:
        return True
    if status.phase != planned.phase:
        return False
    return status.phase != "learn" or status.step >= planned.share * status.steps


def _shuffled_rounds(chance: random.Random, candidates: Sequence[int], count: int) -> list[int]:
    victims: list[int] = []
    while len(victims) < count:
        victims += chance.sample(candidates, min(len(candidates), count - len(victims)))
    return victims
