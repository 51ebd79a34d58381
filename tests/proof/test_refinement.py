"""Every step of every honest engine is an action of the model whose guard holds, and leads where the action leads.

What is replayed: lock-step scenarios and event-queue runs, with traitors, loss and restarts. What is compared: twin.py's guards, from
statements heard and signed; then view, step and lock. docs/proof.md says what this does not show.
"""

import inspect
from collections import Counter

import pytest

from consensus import (
    NIL,
    CertificateReceived,
    Commit,
    CommitCertificate,
    Committee,
    Engine,
    Prepare,
    Proposal,
    PublicKey,
    Signature,
    StartHeight,
    Timer,
    TimerFired,
    TimerKind,
    ViewCertificate,
)
from p2pnode.simulation import lockstep, world
from p2pnode.simulation.keys import KeyedSignatures, key
from p2pnode.simulation.ledger import CHAIN_ID, genesis
from p2pnode.simulation.mutants import MUTANTS, applied
from p2pnode.simulation.options import drawn
from p2pnode.simulation.transitions import Transition, observed_step
from p2pnode.simulation.witness import Violation
from tests.proof.model import ACTIONS, any_state
from tests.proof.twin import NotAllowed, Shadow, Twin

LOCK_STEP_SEEDS = 150
WORLD_SEEDS = 12
TIMES_MIN = 20
"""How often every action must have been taken, at least."""

NOT_AN_ENGINES = {"byzantine"}


class Shadows:
    """One per honest node of a run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.run: lockstep.LockStep | world.World | None = None
        self._shadows: dict[PublicKey, Shadow] = {}

    def saw(self, step: Transition) -> None:
        if step.node not in self._shadows:
            self._shadows[step.node] = Shadow(step.node, KeyedSignatures().verify, self._committee)
            self._shadows[step.node].counts = self.counts
        self._shadows[step.node].saw(step)
        self.counts["steps"] += 1

    def _committee(self, height: int):
        assert self.run is not None
        return self.run.witness.states[height - 1].membership.current


def replay_lock_step(seeds: range, *, nodes: int = 4) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        shadows = Shadows()
        shadows.run = lockstep.LockStep(seed, nodes=nodes, observer=shadows.saw)
        shadows.run.run()
        counts += shadows.counts
    return counts


def replay_world(seeds: range) -> Counter[str]:
    """Nodes that lose their log or their disk sign nothing, which is another matter."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        shadows = Shadows()
        shadows.run = world.World(drawn(seed, disk=0.0, lost_log=False), observer=shadows.saw)
        shadows.run.run()
        counts += shadows.counts
    return counts


def replay_laggard(views: range) -> Counter[str]:
    """One engine that others leave behind and show their ViewCertificates, which simulated networks do too rarely to count on."""
    counts: Counter[str] = Counter()
    signatures, state = KeyedSignatures(), genesis(4)
    for view in views:
        me, others = key(view % 4), [key(i) for i in range(4) if i != view % 4]
        commits = [Commit(author, 1, view, NIL, Signature(bytes(64))) for author in sorted(others)]
        entries = [(c.author, c.block_hash, signatures.signer(c.author)(c.statement(CHAIN_ID))) for c in commits]
        shadow = Shadow(me, signatures.verify, lambda height: state.membership.current)
        engine = Engine(me=me, sign=signatures.signer(me), verify=signatures.verify, state=state)
        for event in (
            StartHeight(1),
            TimerFired(Timer(TimerKind.PROPOSE, 1, 0)),
            CertificateReceived(ViewCertificate(1, view, tuple(entries))),
            TimerFired(Timer(TimerKind.PROPOSE, 1, view)),
        ):
            observed_step(shadow.saw, me, engine, event)
        assert engine.view > 0
        counts += shadow.counts
    return counts


def test_every_condition_of_every_guard_has_its_twin() -> None:
    guards = {name: set(action(any_state()).guard) for name, action in ACTIONS.items() if name not in NOT_AN_ENGINES}
    for name, conditions in guards.items():
        assert conditions == _conditions(name), name


def test_every_step_is_an_action_that_is_allowed() -> None:
    counts = replay_lock_step(range(LOCK_STEP_SEEDS)) + replay_lock_step(range(40), nodes=7)
    counts += replay_world(range(WORLD_SEEDS)) + replay_laggard(range(1, TIMES_MIN + 1))
    assert {name: counts[name] for name in ACTIONS if counts[name] < TIMES_MIN and name not in NOT_AN_ENGINES} == {}
    assert counts["compared"] > 10_000


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
