"""Lock-step scenarios (lockstep.py, forgery.py): no fork, no broken lock, with the paths that hide mistakes switched off."""

from itertools import pairwise

import pytest

from p2pnode.simulation import forgery, lockstep
from p2pnode.simulation.transitions import Transition


@pytest.mark.parametrize("nodes", [4, 5, 6, 7])
def test_agreement(nodes: int) -> None:
    for seed in range(150):
        lockstep.run(seed, nodes=nodes)


def test_scenarios_decide_often_enough_to_mean_something() -> None:
    done = [lockstep.run(seed) for seed in range(200)]
    assert sum(bool(run.decided_heights) for run in done) >= 80
    assert any(run.height > 1 for run in done), "some go on for several heights"


@pytest.mark.parametrize(("nodes", "byzantine"), [(4, 2), (7, 3), (7, 4)])
def test_more_traitors_than_agreement_bears_are_named(nodes: int, byzantine: int) -> None:
    """Forks happen, and each names f + 1 culprits or more, by the auditor and by the engines, none of them honest."""
    forks = sum(bool(lockstep.run(seed, nodes=nodes, byzantine=byzantine).witness.forks) for seed in range(300))
    assert forks >= 2


def test_an_observer_sees_every_step_and_changes_none() -> None:
    seen: list[Transition] = []
    watched, unwatched = lockstep.run(7, observer=seen.append), lockstep.run(7)
    assert watched.messages == unwatched.messages
    assert watched.witness.states[-1].block_hash == unwatched.witness.states[-1].block_hash
    assert any(t.effects for t in seen)
    for before, after in pairwise(seen):
        if before.node == after.node and after.records is None:
            assert before.after == after.before


def test_traitors_forge_no_signature_but_their_own() -> None:
    scenario = lockstep.LockStep(1)
    traitor = scenario.traitors[0]
    vote = forgery.prepare(traitor, 1, 0, next(iter(scenario.hand.blocks)), -1)
    assert forgery.SIGNATURES.verify(vote.author, vote.statement(scenario.state.chain_id), vote.signature)
    assert not forgery.SIGNATURES.verify(
        scenario.state.membership.current.members[scenario.honest[0]],
        vote.statement(scenario.state.chain_id),
        vote.signature,
    )
