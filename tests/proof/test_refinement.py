"""Every step of every honest engine is an action of the model whose guard holds, and leads where the action leads.

What is replayed: lock-step scenarios and event-queue runs, with traitors, loss and restarts (replay.py). What is compared: twin.py's
guards, from statements heard and signed; then view, step and lock. docs/proof.md says what this does not show.
"""

import inspect

import pytest

from consensus import Commit, CommitCertificate, Committee, Prepare, Proposal, PublicKey
from p2pnode.simulation.mutants import MUTANTS, applied
from p2pnode.simulation.witness import Violation
from tests.proof.model import ACTIONS, any_state
from tests.proof.replay import replay_all, replay_lock_step
from tests.proof.twin import NotAllowed, Twin

TIMES_MIN = 20
"""How often every action must have been taken, at least."""

NOT_AN_ENGINES = {"byzantine"}


def test_every_condition_of_every_guard_has_its_twin() -> None:
    guards = {name: set(action(any_state()).guard) for name, action in ACTIONS.items() if name not in NOT_AN_ENGINES}
    for name, conditions in guards.items():
        assert conditions == _conditions(name), name


def test_every_step_is_an_action_that_is_allowed() -> None:
    counts = replay_all(lock_step_seeds=160, world_seeds=12)
    assert {name: counts[name] for name in ACTIONS if counts[name] < TIMES_MIN and name not in NOT_AN_ENGINES} == {}
    assert counts["compared"] > 10_000


@pytest.mark.long
def test_every_step_of_many_more() -> None:
    counts = replay_all(lock_step_seeds=4000, world_seeds=200)
    assert counts["compared"] > 300_000


@pytest.mark.parametrize(
    "name",
    [
        "ignore the lock for fresh proposals",
        "one prepare fewer than a quorum",
        "one commit fewer than a quorum",
        "unlock on nil",
        "never lock",
        "believe any justification",
        "commit what was not checked",
        "lock lost at restart",
    ],
)
def test_an_engine_with_a_broken_rule_is_noticed(name: str) -> None:
    with applied(MUTANTS[name]), pytest.raises((NotAllowed, Violation)) as noticed:
        for seed in range(400):
            replay_lock_step(range(seed, seed + 1))
    assert noticed.type is NotAllowed, f"the simulation's own witness was first: {noticed.value}"


def _conditions(name: str) -> set[str]:
    """The names in the twin's guard, evaluated on a node that has heard and said nothing."""
    blank = Twin(me=PublicKey(bytes(32)), height=1, committee=Committee((PublicKey(bytes(32)),)))
    guard = getattr(blank, name)
    wanted = next(iter(inspect.signature(guard).parameters.values())).annotation
    fields = {"author": blank.me, "height": 1, "view": 0, "block_hash": bytes(32), "signature": bytes(64)}
    match wanted:
        case type() if wanted is int:
            return set(guard(0))
        case type() if wanted is Prepare:
            return set(guard(Prepare(**fields, valid_view=-1)))
        case type() if wanted is Commit:
            return set(guard(Commit(**fields)))
        case type() if wanted is CommitCertificate:
            return set(guard(CommitCertificate(1, 0, bytes(32), ())))
        case type() if wanted is Proposal:
            return set(guard(_Named(**fields, valid_view=-1)))
    raise AssertionError(wanted)


class _Named:
    """Enough of a proposal to ask about."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)
