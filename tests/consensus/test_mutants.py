"""Every broken rule (in height.py, journal.py, tally.py and others) is noticed by the lock-step scenarios; those that need time or
certificates, by the simulation.
"""

import pytest

from consensus.engine import Engine
from consensus.facts import Facts
from p2pnode.simulation import lockstep, world
from p2pnode.simulation.mutants import MUTANTS
from p2pnode.simulation.options import drawn
from p2pnode.simulation.witness import Violation

BUDGET = 300


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_lock_step_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(Violation):
        for seed in range(BUDGET):
            lockstep.run(seed)


TIMED = [
    "quorum_of_two_thirds_rounded_down",
    "one_prepare_fewer_than_a_quorum",
    "accept_votes_of_strangers_in_certificates",
    "any_check_is_good",
    "log_lost_at_restart",
    "broadcast_before_persist",
]


@pytest.mark.parametrize("name", TIMED)
def test_the_simulation_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(Violation):
        for seed in range(BUDGET):
            world.run(drawn(seed))


@pytest.mark.parametrize("silenced", ["repetition", "prepared blocks"])
def test_what_liveness_rests_on(silenced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the repetition runs stall; without any path that carries locks (embedded, status, repetition) they do too."""
    if silenced == "repetition":
        monkeypatch.setattr(Engine, "_repeat", lambda self: None)
    else:
        monkeypatch.setattr(
            Facts, "prepared", property(lambda self: None, lambda self, certificate: None), raising=False
        )
    with pytest.raises(Violation, match="STALL"):
        for seed in range(BUDGET):
            world.run(drawn(seed, nodes=4, founders=None, deadline=150.0))
