"""What one simulated run is made of, drawn from its seed alone, so that a seed printed by a failure replays the failure."""

import random
from dataclasses import dataclass, replace

ATTACKS = ("none", "silent", "equivocate", "withhold", "late", "forge", "twin", "garbage", "wrong_root")


@dataclass(frozen=True)
class Options:
    seed: int
    nodes: int = 4
    founders: int | None = None  # the others observe until they are admitted
    attack: str = "none"
    heights: int = 3
    delay_seconds: float = 0.02  # mean one-way delay
    spread: float = 1.0  # how unequal the delays are: 0 none, 1 up to twice the mean
    loss: float = 0.0
    crash: float = 0.0  # per effect carried out
    blackout: bool = False  # all nodes crash at one moment
    partition: bool = False
    check_seconds: float = 0.05
    healed_at: float = 15.0  # no loss, partition or crash from then on
    deadline: float = 300.0  # every honest node must have decided every height by then
    wire: bool = False  # encode and decode everything on its way
    late_joiner: bool = False  # one node begins only when the faults are over

    @property
    def byzantine(self) -> int | None:
        """Which node is the traitor."""
        return None if self.attack == "none" else self.seed % (self.founders or self.nodes)


def drawn(seed: int, **fixed: object) -> Options:
    """Faults are switched on in random combinations, as different runs find different things."""
    rng = random.Random(f"options {seed}")
    growth = rng.random() < 0.15
    options = Options(
        seed=seed,
        nodes=rng.choice((4, 4, 4, 4, 5, 7)),
        attack=rng.choice(ATTACKS),
        delay_seconds=rng.choice((0.005, 0.02, 0.08)),
        spread=rng.choice((0.2, 1.0, 1.0, 3.0)),
        loss=rng.choice((0.0, 0.0, 0.05, 0.2, 0.4)),
        crash=rng.choice((0.0, 0.0, 0.005, 0.02)),
        blackout=rng.random() < 0.2,
        partition=rng.random() < 0.4,
        check_seconds=rng.choice((0.0, 0.05, 0.5)),
        healed_at=rng.choice((5.0, 15.0, 30.0)),
        wire=rng.random() < 0.1,
        late_joiner=rng.random() < 0.1,
    )
    if growth:
        nodes, founders = rng.choice(((4, 1), (5, 1), (6, 4), (7, 5)))
        attack = "none" if founders == 1 else options.attack
        options = replace(options, nodes=nodes, founders=founders, attack=attack, heights=7)
    return replace(options, **fixed)  # type: ignore[arg-type]
