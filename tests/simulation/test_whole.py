"""Whole nodes in virtual time: partitions, deaths at every moment, disks that refuse, and runs drawn from seeds.

No second here is a real one, so the bounds are exact: what they bound follows from the seed alone. Streams, disk, machine, cluster and
watch are the simulation's own modules (`streams.py`, `disk.py`, `machine.py`, `cluster.py`, `watch.py`) and are tested by what they show.
"""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import consensus
from p2pnode.errors import user_error
from p2pnode.simulation import whole
from p2pnode.simulation.cluster import Cluster, Member
from p2pnode.simulation.disk import Faults, flip
from p2pnode.simulation.options import Kill, Partition
from p2pnode.simulation.watch import Violation
from p2pnode.simulation.whole import Options, check_home, drawn, running, virtually
from p2pnode.wal import VoteLog

REBROADCAST_SECONDS = consensus.limits.REBROADCAST_SECONDS
START_SECONDS_MAX = 10.0  # from nothing to a few heights


def play(scenario: Callable[[Cluster], Awaitable[None]], *, seed: int = 1, **settings: Any) -> Cluster:
    """Run one scenario from the start of all founders to its end, and check every honest home."""

    async def main() -> Cluster:
        cluster = Cluster(directory, seed=seed, **settings)
        async with running(cluster):
            await scenario(cluster)
            for member in cluster.honest:
                if member.lives:
                    check_home(cluster, member)
        return cluster

    with whole.scratch() as directory:
        return virtually(main, seed=seed)


async def begin(cluster: Cluster, *, height: int = 2) -> None:
    cluster.start(*cluster.members)
    await cluster.reach(height, seconds=START_SECONDS_MAX)


def hosts(members: list[Member]) -> list[str]:
    return [member.host for member in members]


def tip(cluster: Cluster) -> int:
    return max(cluster.watch.blocks, default=0)


# --- partitions --------------------------------------------------------------------------------------------------------------


def test_of_five_the_four_go_on_and_the_one_says_why_it_waits_and_is_at_the_tip_after_healing():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        one, four = cluster.members[:1], cluster.members[1:]
        cluster.network.part(hosts(one), hosts(four))
        await trio.sleep(12)
        stood = one[0].height
        assert one[0].status["reason"] == "no quorum: 1 of 5 members reachable, 4 needed"
        assert one[0].status["verdict"] == "halted"
        assert min(member.height for member in four) > stood + 3  # the side with a quorum did not wait
        await trio.sleep(5)
        assert one[0].height == stood
        cluster.network.heal()
        await cluster.until(lambda: one[0].height >= tip(cluster), seconds=2 * REBROADCAST_SECONDS + 2, what="the tip")

    play(scenario, founders=5)


def test_three_against_two_of_five_is_no_quorum_anywhere_and_all_recover_by_themselves():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        two, three = cluster.members[:2], cluster.members[2:]
        cluster.network.part(hosts(two), hosts(three))
        await trio.sleep(12)
        height = tip(cluster)
        assert two[0].status["reason"] == "no quorum: 2 of 5 members reachable, 4 needed"
        assert three[0].status["reason"] == "no quorum: 3 of 5 members reachable, 4 needed"
        await trio.sleep(10)
        assert tip(cluster) == height
        cluster.network.heal()
        await cluster.reach(height + 2, seconds=20)

    play(scenario, founders=5)


@pytest.mark.parametrize("seconds", [5.0, 30.0])
def test_two_against_two_decide_nothing_and_decide_within_two_seconds_of_healing(seconds):
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        cluster.network.part(hosts(cluster.members[:2]), hosts(cluster.members[2:]))
        await trio.sleep(1)  # what was on its way has arrived
        height = tip(cluster)
        await trio.sleep(seconds)
        assert tip(cluster) == height
        cluster.network.heal()
        await cluster.until(lambda: tip(cluster) > height, seconds=2.0, what="the first decision")

    play(scenario)


def test_a_node_that_is_heard_and_hears_nothing_costs_the_others_no_height():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        deaf, others = cluster.members[0], cluster.members[1:]
        for other in others:
            cluster.network.block(other.host, deaf.host)
        height = tip(cluster)
        await cluster.reach(height + 4, members=others, seconds=30)
        cluster.network.heal()
        await cluster.reach(tip(cluster) + 1, seconds=10)

    play(scenario)


def test_connections_that_break_all_the_time_cost_no_height_for_good():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        names = hosts(cluster.members)
        for turn in range(40):
            one, other = names[turn % 4], names[(turn * 3 + 1) % 4]
            if one != other:
                cluster.network.cut(one, other)
            await trio.sleep(0.25)
        await cluster.reach(tip(cluster) + 2, seconds=15)

    play(scenario)


# --- deaths ------------------------------------------------------------------------------------------------------------------


def test_all_killed_at_once_go_on_from_their_disks():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        for _ in range(3):
            await cluster.kill(*cluster.members)
            cluster.start(*cluster.members)
            await cluster.reach(tip(cluster) + 1, seconds=15)

    play(scenario)


def test_a_machine_that_vanishes_without_a_word_is_missed_and_comes_back():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        gone, others = cluster.members[0], cluster.members[1:]
        cluster.network.die(gone.host, silently=True)
        await cluster.kill(gone)
        await cluster.reach(tip(cluster) + 4, members=others, seconds=40)
        cluster.start(gone)
        await cluster.reach(tip(cluster) + 1, seconds=15)

    play(scenario)


def operations_of_a_height() -> int:
    """How many effects on the outside one node has while a height goes by, measured."""
    counts: list[int] = []

    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        victim = cluster.members[0]
        before = victim.machine.operations
        await cluster.reach(tip(cluster) + 1, seconds=10)
        counts.append(victim.machine.operations - before)

    play(scenario)
    return counts[0]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_effect_of_a_height_a_node_votes_once_and_comes_back_to_the_same_root(step):
    """The watch sees every statement of both lives of the node; the disk loses and tears what was not synced."""
    count = operations_of_a_height()
    assert count > 10

    async def killed_at(cluster: Cluster, operation: int) -> None:
        victim = cluster.members[0]
        victim.machine.kill_at = victim.machine.operations + operation
        await cluster.until(lambda: not victim.lives, seconds=10, what=f"death at operation {operation}")
        await victim.done.wait()
        cluster.start(victim)
        await cluster.reach(tip(cluster) + 1, seconds=15)
        await cluster.until(lambda: victim.node.driver is not None, seconds=5, what="a voice")
        assert victim.problem is None and victim.node.driver.silent is None

    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        for operation in range(1, count + 1, step):
            await killed_at(cluster, operation)

    play(scenario)


def test_a_vote_log_that_keeps_nothing_is_found_out(monkeypatch):
    """The watch itself is watched: without the log, a restart signs again what was signed before."""

    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        announced = f"n0 Contribution {tip(cluster) + 1} "
        await cluster.until(lambda: any(announced in line for line in cluster.watch.lines), seconds=10, what="a word")
        await cluster.kill(*cluster.members)
        cluster.start(*cluster.members)
        await cluster.reach(tip(cluster) + 1, seconds=15)

    play(scenario)  # with a log that keeps
    monkeypatch.setattr(VoteLog, "append", lambda log, *records: None)
    with pytest.raises(ExceptionGroup) as caught:
        play(scenario)
    assert caught.value.subgroup(lambda problem: isinstance(problem, Violation) and "signed two" in str(problem))


# --- disks -------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_in_one_line_or_a_silent_node_and_costs_the_others_nothing():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        full, others = cluster.members[0], cluster.members[1:]
        full.disk.faults.room_bytes = 700
        await cluster.reach(tip(cluster) + 4, members=others, seconds=60)
        if full.lives:
            assert full.node.driver.cannot_vote is not None
            await cluster.kill(full)
        else:
            assert user_error(full.problem) is not None
        full.disk.faults, full.problem = Faults(), None
        cluster.start(full)
        await cluster.reach(tip(cluster) + 1, seconds=15)

    play(scenario)


def test_a_disk_that_cannot_sync_silences_the_node_until_it_starts_again():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        bad, others = cluster.members[0], cluster.members[1:]
        bad.disk.faults.syncs_fail = True
        await cluster.reach(tip(cluster) + 3, members=others, seconds=60)
        assert not bad.lives or bad.node.driver.cannot_vote is not None
        await cluster.kill(bad)
        bad.disk.faults, bad.problem = Faults(), None
        cluster.start(bad)
        await cluster.reach(tip(cluster) + 1, seconds=15)

    play(scenario)


def test_a_flipped_bit_in_the_vote_log_makes_an_observer_for_two_heights():
    async def scenario(cluster: Cluster) -> None:
        await begin(cluster)
        victim = cluster.members[0]
        await cluster.kill(victim)
        flip(victim.home.votes, cluster.network._rng)
        cluster.start(victim)
        await cluster.until(lambda: victim.height >= 0 and victim.node.driver is not None, seconds=10, what="a start")
        assert victim.node.driver.silent is not None
        await cluster.reach(tip(cluster) + 4, seconds=30)
        assert victim.node.driver.silent is None

    play(scenario)


# --- joining -----------------------------------------------------------------------------------------------------------------


def test_a_latecomer_joins_and_becomes_a_member():
    async def scenario(cluster: Cluster) -> None:
        cluster.start(*cluster.members[:4])
        await cluster.reach(3, members=cluster.members[:4], seconds=START_SECONDS_MAX)
        late = cluster.members[4]
        cluster.start(late)
        await cluster.until(lambda: late.height >= 0 and late.status["members"] == 5, seconds=30, what="a fifth member")

    play(scenario, joiners=1)


# --- seeds -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_run_holds(seed):
    assert whole.run(drawn(seed)).height > 0


def test_a_planned_run_does_what_it_says():
    partition, kill = Partition(1.0, 4.0, ((0, 1), (2, 3))), Kill(2.0, node=0)
    result = whole.run(Options(seed=5, partitions=(partition,), kills=(kill,), heights=3))
    assert any("n0 killed" in line for line in result.lines)
    decided = [float(line.split()[0]) for line in result.lines if " decides " in line]
    assert not [moment for moment in decided if 1.5 < moment < 5.0] and max(decided) > 5.0


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed_of_the_interpreter():
    program = "from p2pnode.simulation.whole import *; print(run(drawn(9)).trace_hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_another_seed_is_another_run():
    options = Options(seed=1, events=1)
    assert whole.run(options).trace_hash != whole.run(Options(seed=2, events=1)).trace_hash
