"""Level 1: lock-step scenarios. Who hears what in each view is drawn from the seed; timers fire when the script says.

The paths that carry locks for liveness (view statuses, the repetition) are off, because they hide safety mistakes: a mutant that
forgets its lock is saved by them. The traitors (one of four, two of seven) say anything they can sign to each honest engine separately,
and re-propose with every certificate that the votes of the run can make. Honest nodes die between any two effects and come back.

Most scenarios are one height of a few views; some go on for several heights, and in some certificates fly, good and bad. With more than
f traitors agreement is not promised, but then every fork must name its culprits.

For editing: this is the work-horse, and its worth is scenarios a second. What a scenario shares with others is made once (keys.py,
ledger.py, forgery.py).
"""

import random
from collections.abc import Callable
from typing import Any

from consensus import (
    Begin,
    Block,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockTemplate,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    Certificate,
    CertificateReceived,
    ChainState,
    CheckBlock,
    Commit,
    CommitCertificate,
    Decide,
    Engine,
    Event,
    FetchBlock,
    MessageReceived,
    Persist,
    Prepare,
    Proposal,
    Record,
    ReportEvidence,
    StartHeight,
    Timer,
    TimerFired,
    TimerKind,
    ViewStatus,
)
from p2pnode.simulation.forgery import Hand
from p2pnode.simulation.keys import KeyedSignatures, key
from p2pnode.simulation.ledger import block_on, contribution, genesis, root_is_right
from p2pnode.simulation.transitions import Observer, observed_step
from p2pnode.simulation.witness import Violation, Witness

VIEWS = (2, 3, 3, 4)
HEIGHTS = (*(1,) * 12, 2, 3)
SIGNATURES = KeyedSignatures()
PHASE_OF = {TimerKind.PROPOSE: "propose", TimerKind.PREPARE: "prepare"}


class LockStep:
    """One scenario. `run()` raises Violation; `done` are the nodes that decided the height at hand."""

    def __init__(
        self, seed: int, *, nodes: int = 4, byzantine: int | None = None, observer: Observer | None = None
    ) -> None:
        self.rng = random.Random(f"lock-step {seed}")
        f = (nodes - 1) // 3
        self.tolerated = byzantine is None or byzantine <= f
        self.traitors = self.rng.sample(range(nodes), f if byzantine is None else byzantine)
        self.honest = [i for i in range(nodes) if i not in self.traitors]
        self.heights = self.rng.choice(HEIGHTS)
        self.certificates_fly = self.rng.random() < 0.2
        self.nodes = nodes
        self.decided_heights = 0
        self.messages = 0
        self.state = genesis(nodes)
        self.witness = Witness([key(i) for i in self.honest], SIGNATURES, self.state, f=self.tolerated)
        self.audit = not self.tolerated or seed % 16 == 0
        self.observer = observer
        self.logs: dict[int, list[Record]] = {i: [] for i in self.honest}
        self.tails: dict[int, list[Record]] = {i: [] for i in self.honest}
        self.states = dict.fromkeys(self.honest, self.state)
        plan = "random" if self.tolerated else self.rng.choice(("careful", "two-faced"))
        self.hand = Hand(self.rng, self.traitors, self.state, plan=plan)
        self.sent: dict[type, list[tuple[int, Any]]] = {Proposal: [], Prepare: [], Commit: []}
        self.late: list[tuple[int, Any]] = []  # what some node has not heard
        self.answers: list[Event] = []
        self.done: set[int] = set()
        self.shown: list[Certificate] | None = None
        self.decisions: list[tuple[Block, CommitCertificate]] = []
        self.dies_in = self.rng.randrange(1, 60) if self.rng.random() < 0.15 else 0  # effects until somebody is killed
        self._carry: dict[type, Callable[[int, Any], None]] = {
            Persist: self._persist,
            Broadcast: self._broadcast,
            BroadcastCertificate: self._show,
            BuildBlock: self._build,
            CheckBlock: self._check,
            FetchBlock: self._fetch,
            Decide: self._decide,
            ReportEvidence: self._report,
        }
        self.engines: dict[int, Engine | None] = {i: self._engine(i) for i in self.honest}

    def _engine(self, index: int) -> Engine:
        return Engine(
            me=key(index),
            sign=SIGNATURES.signer(key(index)),
            verify=SIGNATURES.verify,
            state=self.states[index],
            records=self.logs[index],
        )

    def run(self) -> None:
        for height in range(1, self.heights + 1):
            self.height = height
            for i in self.honest:
                self.step(i, StartHeight(height))
            for view in range(self.rng.choice(VIEWS)):
                self._view(view)
                if len(self.done) == len(self.honest):
                    break
            if not self._next_height():
                break
        if self.witness.forks:
            self._reveal()
        if self.audit:
            self.witness.fork_names_culprits()

    def _reveal(self) -> None:
        """After a fork everybody shows everybody its decision, and then whatever the engines want to be seen.  (I9)"""
        self.done = set()
        self.shown = [certificate for _, certificate in self.decisions]
        for certificate in self.shown:  # grows while it is read
            for i in self.honest:
                if self.engines[i] is not None:
                    self.step(i, CertificateReceived(certificate))
        self.witness.engines_name_culprits()

    def _view(self, view: int) -> None:
        self._propose(view)
        self._fire(TimerKind.PROPOSE, view)
        self._spread(view, Prepare)
        self._fire(TimerKind.PREPARE, view)
        self._spread(view, Commit)
        self._restart(view)
        self._fire(TimerKind.COMMIT, view)

    def _next_height(self) -> bool:
        """Everybody learns the decision, if there is one and one only."""
        if not self.done or self.witness.forks or self.height == self.heights:
            return False
        decision = next(d for d in self.decisions if d[0].height == self.height)
        for i in self.honest:
            if self.engines[i] is None:
                self._boot(i, view=0)
            if i not in self.done:
                self.step(i, CertificateReceived(decision[1]))
                self.step(i, BlockReceived(decision[0]))
        self.state = self.state.after(*decision)
        self.done = set()
        self.hand.next_height(self.state)
        for waiting in self.sent.values():
            waiting.clear()
        return all(self.states[i].height == self.height for i in self.honest)

    # -- phases --

    def _propose(self, view: int) -> None:
        proposer = self.state.membership.current.proposer(self.height, view)
        traitor = next((i for i in self.traitors if key(i) == proposer), None)
        if traitor is not None:
            for i in self.honest:
                proposal = self.hand.proposal(traitor, view, to=i)
                if proposal is not None:
                    self.hear(i, proposal)
        else:
            index = next(i for i in self.honest if key(i) == proposer)
            self.step(index, TimerFired(Timer(TimerKind.SYNC, self.height, view)))
            self._deliver(Proposal)

    def _spread(self, view: int, kind: type[Prepare] | type[Commit]) -> None:
        self._deliver(kind)
        for i in self.honest:
            if i not in self.done:
                for traitor in self.traitors:
                    for vote in self.hand.votes(traitor, view, kind, to=i):
                        self.hear(i, vote)
                        if self.rng.random() < 0.05:
                            self.hear(i, vote)
                if self.certificates_fly and self.rng.random() < 0.3:
                    certificate = self.hand.certificate(view)
                    if certificate is not None:
                        if self.audit:
                            self.witness.auditor.saw_certificate(certificate)
                        self.step(i, CertificateReceived(certificate))
        for author, message in self.late:
            if self.rng.random() < 0.1:
                i = self.rng.choice(self.honest)
                if i != author:
                    self.hear(i, message)
        self._deliver(kind)

    def _deliver(self, kind: type) -> None:
        """Each receiver hears everybody, or loses some; what is lost may turn up later."""
        batch = self.sent[kind]
        if not batch:
            return
        self.sent[kind] = []
        loss = self.rng.choice((0.0, 0.2, 0.5))
        draw = self.rng.random
        for i in self.honest:
            for author, message in batch:
                if author != i:
                    if loss and draw() < loss:
                        self.late.append((author, message))
                    else:
                        self.hear(i, message)

    def _fire(self, kind: TimerKind, view: int) -> None:
        """Alarms that mean nothing any more go off now and then only: they cost time and change nothing."""
        for i in self.honest:
            engine = self.engines[i]
            if engine is None or i in self.done:
                continue
            stale = engine.view != view or PHASE_OF.get(kind, engine.phase) != engine.phase
            if not stale or self.rng.random() < 0.05:
                self.step(i, TimerFired(Timer(kind, self.height, view)))

    def _restart(self, view: int) -> None:
        for i in self.honest:
            if self.engines[i] is None:
                self._boot(i, view=view)
        if self.rng.random() < 0.15:
            i = self.rng.choice(self.honest)
            if i not in self.done:
                self._boot(i, view=view)

    def _boot(self, i: int, *, view: int) -> None:
        """From the log; of what was not yet synced a part survives."""
        tail, self.tails[i] = self.tails[i], []
        self.logs[i] += tail[: self.rng.randrange(len(tail) + 1)] if tail else []
        self.witness.survived(key(i), self.logs[i])
        engine = self.engines[i] = self._engine(i)
        self.step(i, Begin(), booted=True)
        self.witness.restarted(key(i), engine)
        self.step(i, StartHeight(self.height))
        for old in range(engine.view, view):
            self.step(i, TimerFired(Timer(TimerKind.COMMIT, self.height, old)))

    # -- the driver --

    def hear(self, i: int, message: Any) -> None:
        self.messages += 1
        if self.audit:
            self.witness.auditor.saw(message)
        self.step(i, MessageReceived(message))

    def step(self, i: int, event: Event, *, booted: bool = False) -> None:
        """Answers wait until the effects before them are carried out."""
        answers = self.answers
        while True:
            engine = self.engines[i]
            if engine is None or i in self.done:
                answers.clear()
                return
            if self.observer is None:
                effects = engine.step(event)
            else:
                records = tuple(self.logs[i]) if booted else None
                effects = observed_step(self.observer, key(i), engine, event, records=records)
                booted = False
            for effect in effects:
                if self.dies_in and self._dies(i):
                    break
                act = self._carry.get(type(effect))
                if act is not None:
                    if self.tails[i] and type(effect) is not Persist:
                        self._sync(i)
                    act(i, effect)
            if self.tails[i] and self.engines[i] is not None:
                self._sync(i)
            if not answers:
                return
            event = answers.pop(0)

    def _dies(self, i: int) -> bool:
        self.dies_in -= 1
        if self.dies_in == 0:
            self.engines[i] = None
        return self.dies_in == 0

    def _persist(self, i: int, effect: Persist) -> None:
        self.tails[i].append(effect.record)

    def _sync(self, i: int) -> None:
        for record in self.tails[i]:
            self.logs[i].append(record)
            self.witness.logged(key(i), record)
        self.tails[i] = []

    def _broadcast(self, i: int, effect: Broadcast) -> None:
        message = effect.message
        if isinstance(message, ViewStatus):
            return
        self.witness.said(key(i), message)
        if self.audit:
            self.witness.auditor.saw(message)
        if isinstance(message, Proposal | Prepare | Commit):
            self.sent[type(message)].append((i, message))
            self.hand.overhear(message)

    def _show(self, i: int, effect: BroadcastCertificate) -> None:
        if self.shown is not None and effect.certificate not in self.shown:
            self.shown.append(effect.certificate)

    def _build(self, i: int, effect: BuildBlock) -> None:
        state: ChainState = effect.template.state
        listed = [contribution(SIGNATURES, j, state) for j in (i, (i + 1) % self.nodes)]
        template: BlockTemplate = effect.template
        self.answers.append(BlockBuilt(effect.height, effect.view, block_on(template, listed)))

    def _check(self, i: int, effect: CheckBlock) -> None:
        self.answers.append(BlockChecked(effect.block.hash, root_is_right(effect.block)))

    def _fetch(self, i: int, effect: FetchBlock) -> None:
        block = self.hand.blocks.get(effect.block_hash)
        if block is not None:
            self.answers.append(BlockReceived(block))

    def _decide(self, i: int, effect: Decide) -> None:
        self.done.add(i)
        self.decided_heights += 1
        self.decisions.append((effect.block, effect.certificate))
        self.witness.decided(key(i), effect.block, effect.certificate)
        if self.audit:
            self.witness.auditor.saw_certificate(effect.certificate)
        self.states[i] = self.states[i].after(effect.block, effect.certificate)
        self.witness.same_state(self.states[i])
        self.logs[i] = [record for record in self.logs[i] if record.height > effect.block.height]

    def _report(self, i: int, effect: ReportEvidence) -> None:
        self.witness.accused(effect.evidence)


def run(seed: int, *, nodes: int = 4, byzantine: int | None = None, observer: Observer | None = None) -> LockStep:
    scenario = LockStep(seed, nodes=nodes, byzantine=byzantine, observer=observer)
    try:
        scenario.run()
    except Exception as fault:
        raise Violation(f"{fault} in lock-step seed {seed}, {nodes} nodes") from fault
    return scenario
