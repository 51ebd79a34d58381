"""Simulated runs, replayed beside the model: lock-step scenarios, event-queue runs, and a node that others leave behind.

`python -m tests.proof.replay` prints how often each action was taken. twin.py judges each step; test_refinement.py says what is enough.
"""

import sys
from collections import Counter

from consensus import (
    NIL,
    CertificateReceived,
    Commit,
    Committee,
    Engine,
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
from p2pnode.simulation.options import drawn
from p2pnode.simulation.transitions import Transition, observed_step
from tests.proof.model import ACTIONS
from tests.proof.twin import Shadow


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

    def _committee(self, height: int) -> Committee:
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


def replay_all(*, lock_step_seeds: int, world_seeds: int) -> Counter[str]:
    counts = replay_lock_step(range(lock_step_seeds)) + replay_lock_step(range(lock_step_seeds // 4), nodes=7)
    return counts + replay_world(range(world_seeds)) + replay_laggard(range(1, 21))


if __name__ == "__main__":
    taken = replay_all(lock_step_seeds=600, world_seeds=40)
    lines = [f"{taken[name]:8d}  {name}" for name in (*ACTIONS, "synced", "compared", "steps")]
    sys.stdout.write("\n".join(lines) + "\n")
