"""Whole networks under faults, one seed each. A failure prints its options; the same seed replays it.

The parts: p2pnode.simulation's world.py, process.py, traitors.py, lies.py, noise.py, faults.py, changes.py, trace.py.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from p2pnode.simulation import changes, faults, lies, noise, process, trace, traitors, world
from p2pnode.simulation.adversaries import BEHAVIOURS, PLAYED
from p2pnode.simulation.options import Options, Partition, drawn

PARTS = (changes, faults, lies, noise, process, trace, traitors)
CHUNK = 25


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_agreement_and_progress_whatever_happens(first: int) -> None:
    for seed in range(first, first + CHUNK):
        world.run(drawn(seed))


@pytest.mark.parametrize("attack", PLAYED)
def test_each_adversary_alone(attack: str) -> None:
    for seed in range(4):
        world.run(drawn(seed, attacks=(attack,)))
    world.run(Options(seed=1, nodes=7, attacks=(attack,), loss=0.1, healed_at=10.0))


@pytest.mark.parametrize("attack", BEHAVIOURS)
def test_each_adversary_as_twins(attack: str) -> None:
    for seed in range(2):
        world.run(drawn(seed, attacks=("twin", attack)))


@pytest.mark.long
@pytest.mark.parametrize("pair", list(itertools.combinations(BEHAVIOURS, 2)), ids="+".join)
def test_each_pair_of_adversaries(pair: tuple[str, str]) -> None:
    for seed in range(3):
        world.run(drawn(seed, attacks=pair))


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7, 10])
def test_every_size_decides_in_view_0_when_nothing_is_wrong(nodes: int) -> None:
    done = world.run(Options(seed=nodes, nodes=nodes, heights=5, wire=True, healed_at=20.0))
    assert set(done.witness.decided_in_view) == {0}
    assert len(done.witness.decided_in_view) >= 5


def test_a_kill_before_every_single_effect() -> None:
    """And while records are written: what a node says afterwards fits what it said before."""
    usual = world.World(Options(seed=3, heights=2, healed_at=3.0))
    usual.run()
    for node in (0, 1):
        for effect in range(1, usual.processes[node].effects + 1, 3):
            world.run(Options(seed=3, heights=2, healed_at=3.0, kill_effect=(node, effect)))


def test_a_blackout_of_all_nodes_at_any_moment() -> None:
    """Without the log rules D2 to D4 a crash of all after COMMIT leaves a lock whose block and certificate nobody has."""
    for seed in range(30):
        world.run(Options(seed=seed, blackout=True, loss=0.1, crash=0.02, healed_at=8.0))


def test_a_minority_decides_nothing_and_a_majority_goes_on() -> None:
    split = Partition(1.0, 10.0, ((0, 1), (2, 3, 4, 5, 6)))
    done = world.World(Options(seed=5, nodes=7, partitions=(split,), heights=30, healed_at=12.0))
    done.run()
    during = [at for at in done.witness.decided_at if 1.2 < at < 11.0]
    assert len(during) >= 4, "five of seven are a quorum"
    assert done.witness.decided_in_view


def test_disks_fail_and_logs_are_lost() -> None:
    for seed in range(12):
        world.run(Options(seed=seed, nodes=5, disk=0.1, lost_log=True, crash=0.02, healed_at=10.0, heights=5))


@pytest.mark.parametrize("admission", ["open", "invite", "allowlist"])
def test_a_committee_grows_by_every_door(admission: str) -> None:
    for seed in range(4):
        options = Options(
            seed=seed, nodes=6, founders=4, admission=admission, heights=14, loss=0.05, crash=0.005, healed_at=8.0
        )
        done = world.run(options)
        if not done.changes._one_token or admission != "invite":
            assert len(done.witness.states[-1].membership.next) == 6, admission


def test_one_founder_becomes_four_in_one_step() -> None:
    done = world.run(Options(seed=2, nodes=4, founders=1, heights=8, crash=0.01, links=("split",), healed_at=8.0))
    sizes = [len(state.membership.current) for state in done.witness.states]
    assert set(sizes) == {1, 4}


def test_a_member_leaves_and_an_equivocator_is_put_out() -> None:
    options = Options(
        seed=4, nodes=7, byzantine=1, attacks=("equivocating-prepare",), leaves=1, heights=10, healed_at=8.0
    )
    done = world.run(options)
    assert len(done.witness.states[-1].membership.next) == 5
    assert done.witness.reported


def test_an_absentee_is_put_out_after_fifty_heights() -> None:
    far = Partition(0.5, 100.0, ((6,), (0, 1, 2, 3, 4, 5)))
    done = world.run(Options(seed=6, nodes=7, partitions=(far,), heights=60, healed_at=101.0))
    sizes = [len(state.membership.next) for state in done.witness.states]
    assert min(sizes) == 6, "and it may come back"


def test_more_traitors_than_agreement_bears() -> None:
    forks = 0
    for seed in range(40):
        forks += bool(world.run(drawn(seed, nodes=4, founders=None, attacks=("too-many",))).witness.forks)
    assert forks >= 1


def test_a_seed_replays_to_the_same_trace() -> None:
    assert world.trace_hash(drawn(1)) == world.trace_hash(drawn(1)) != world.trace_hash(drawn(2))


def test_a_seed_replays_in_another_process_whatever_its_hash_seed() -> None:
    program = (
        "from p2pnode.simulation import world; from p2pnode.simulation.options import drawn;"
        "print(*[world.trace_hash(drawn(seed)) for seed in range(12)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(printed) == 1
    assert len(printed.pop().split()) == 12


def test_a_trace_is_kept_for_whoever_wants_to_read_it() -> None:
    lines = world.run(replace(drawn(1), heights=1), keep_trace=True).trace.lines
    assert any("Broadcast PREPARE" in line for line in lines)


def test_delays_and_costs_can_be_replaced() -> None:
    class Far:
        def delay_seconds(self, source: int, target: int, thing: object, *, now: float, calm: bool) -> float:
            return 0.5 if (source < 2) != (target < 2) else 0.01

    class Work:
        def seconds(self, node: int, event: object) -> float:
            return 0.001

    near = world.World(Options(seed=1, healed_at=10.0))
    far = world.World(Options(seed=1, healed_at=10.0), network=Far(), costs=Work())
    near.run()
    far.run()
    assert far.witness.decided_at[0] > near.witness.decided_at[0]
