"""Whole networks under faults, one seed each. A failure prints its Options; `world.run(drawn(seed))` replays it.

The parts: p2pnode.simulation's world.py, process.py, attacks.py and lockstep.py.
"""

from dataclasses import replace

import pytest

from p2pnode.simulation import attacks, lockstep, process, world
from p2pnode.simulation.options import ATTACKS, Options, drawn

CHUNK = 50
assert attacks.Traitor and process.Process


@pytest.mark.parametrize("first", range(0, 400, CHUNK))
def test_agreement_and_progress_whatever_happens(first: int) -> None:
    """Agreement, validity, one signature per slot, log before message, no honest node accused; and all decide once healed."""
    for seed in range(first, first + CHUNK):
        world.run(drawn(seed))


@pytest.mark.long
@pytest.mark.parametrize("first", range(1_000, 21_000, 500))
def test_agreement_and_progress_for_long(first: int) -> None:
    for seed in range(first, first + 500):
        world.run(drawn(seed))


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_alone(attack: str) -> None:
    for seed in range(8):
        world.run(Options(seed=seed, attack=attack, loss=0.1, healed_at=10.0))


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7, 10])
def test_every_size_decides_in_view_0_when_nothing_is_wrong(nodes: int) -> None:
    done = world.run(Options(seed=nodes, nodes=nodes, heights=5, wire=True))
    assert done.witness.decided_in_view == [0] * 5


def test_a_blackout_of_all_nodes_at_any_moment() -> None:
    """Without the log rules D2 to D4 a crash of all after COMMIT leaves a lock whose block and certificate nobody has."""
    for seed in range(40):
        world.run(Options(seed=seed, blackout=True, loss=0.1, crash=0.02, healed_at=8.0))


def test_growth_while_everything_else_goes_wrong() -> None:
    for seed in range(12):
        options = Options(
            seed=seed, nodes=4, founders=1, loss=0.1, crash=0.01, partition=True, heights=8, healed_at=8.0
        )
        done = world.run(options)
        sizes = [len(state.membership.current) for state in done.witness.states]
        assert (sizes[0], sizes[-1]) == (1, 4)
        world.run(replace(options, nodes=6, founders=4, attack="equivocate"))


def test_equivocation_is_proven() -> None:
    accused = [bool(world.run(Options(seed=seed, attack="equivocate", loss=0.0)).witness.accused) for seed in range(12)]
    assert sum(accused) >= 10


def test_a_seed_replays_to_the_same_trace() -> None:
    for seed in (1, 2, 3):
        assert world.run(drawn(seed)).trace_hash == world.run(drawn(seed)).trace_hash
    assert world.run(drawn(1)).trace_hash != world.run(drawn(2)).trace_hash


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_lock_step(first: int) -> None:
    """No fork, no broken lock, no vote without its quorum, with the paths that hide mistakes switched off."""
    for seed in range(first, first + 100):
        lockstep.run(seed, nodes=4 if seed % 10 else 7)


@pytest.mark.long
@pytest.mark.parametrize("nodes", [4, 5, 7])
@pytest.mark.parametrize("first", range(10_000, 30_000, 1_000))
def test_lock_step_for_long(first: int, nodes: int) -> None:
    for seed in range(first, first + 1_000):
        lockstep.run(seed, nodes=nodes)


def test_lock_step_scenarios_decide_often_enough_to_mean_something() -> None:
    decided = sum(bool(lockstep.run(seed).done) for seed in range(100))
    assert decided >= 40
