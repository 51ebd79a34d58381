"""Lock-step scenarios of one height: who hears what in each view is drawn from the seed, timers fire when the script says.

The paths that carry locks for liveness (view statuses, repeated certificates) are off, because they hide safety mistakes: a
mutant that forgets its lock is saved by them. The traitors (one of four, two of seven) say anything they can sign to each honest
engine separately, and re-propose with every certificate that the votes of the run can make.
"""

import random
from dataclasses import replace

from consensus import (
    NIL,
    Begin,
    Block,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockTemplate,
    Broadcast,
    BuildBlock,
    CheckBlock,
    Commit,
    Decide,
    Engine,
    Event,
    FetchBlock,
    MessageReceived,
    Persist,
    Prepare,
    PrepareCertificate,
    Proposal,
    Record,
    ReportEvidence,
    StartHeight,
    Timer,
    TimerFired,
    TimerKind,
    ViewStatus,
)
from p2pnode.simulation.keys import IssuedSignatures, key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution, genesis, root_is_right, wrong_root
from p2pnode.simulation.witness import Violation, Witness

VIEWS = 4


class LockStep:
    def __init__(
        self, seed: int, *, nodes: int = 4, engine_class: type[Engine] = Engine, forgetful: bool = False
    ) -> None:
        self.rng = random.Random(f"lock-step {seed}")
        self.signatures = IssuedSignatures()
        self.state = genesis(nodes)
        self.engine_class = engine_class
        self.forgetful = forgetful  # a mutant: restarts without its log
        self.traitors = self.rng.sample(range(nodes), (nodes - 1) // 3)
        self.honest = [i for i in range(nodes) if i not in self.traitors]
        self.logs: dict[int, list[Record]] = {i: [] for i in self.honest}
        self.witness = Witness({key(i) for i in self.honest}, self.signatures, self.state)
        self.engines = {i: self._engine(i) for i in self.honest}
        self.sent: list[tuple[int, object]] = []  # (author, message) of this phase
        self.late: list[tuple[int, object]] = []  # what some node has not heard
        self.prepares: dict[tuple[int, bytes, int], dict[bytes, Prepare]] = {}
        self.blocks: list[Block] = []
        self.answers: list[Event] = []
        self.done: set[int] = set()
        for salt in (b"a", b"b"):
            listed = [contribution(self.signatures, self.traitors[0], self.state, salt=salt)]
            self.blocks.append(block_on(BlockTemplate(self.state, key(self.traitors[0])), listed))
        self.blocks.append(wrong_root(BlockTemplate(self.state, key(self.traitors[0])), listed))

    def _engine(self, index: int) -> Engine:
        return self.engine_class(
            me=key(index),
            sign=self.signatures.signer(key(index)),
            verify=self.signatures.verify,
            state=self.state,
            records=[] if self.forgetful else self.logs[index],
        )

    def run(self) -> None:
        for i in self.honest:
            self.step(i, StartHeight(1))
        for view in range(VIEWS):
            self._propose(view)
            self._fire(TimerKind.PROPOSE, view)
            self._spread(view, Prepare)
            self._fire(TimerKind.PREPARE, view)
            self._spread(view, Commit)
            self._restart()
            self._fire(TimerKind.COMMIT, view)

    # -- phases --

    def _propose(self, view: int) -> None:
        proposer = self.state.membership.current.proposer(1, view)
        traitor = next((i for i in self.traitors if key(i) == proposer), None)
        if traitor is not None:
            for i in self.honest:
                proposal = self._traitors_proposal(traitor, view)
                if proposal is not None:
                    self.step(i, MessageReceived(proposal))
        else:
            index = next(i for i in self.honest if key(i) == proposer)
            self.step(index, TimerFired(Timer(TimerKind.SYNC, 1, view)))
            self._deliver(Proposal)

    def _spread(self, view: int, kind: type) -> None:
        self._deliver(kind)
        for i in self.honest:
            for traitor in self.traitors:
                for vote in self._traitors_votes(traitor, view, kind):
                    self.step(i, MessageReceived(vote))
        for author, message in self.late:
            if self.rng.random() < 0.1:
                self.step(self.rng.choice([i for i in self.honest if i != author]), MessageReceived(message))
        self._deliver(kind)

    def _deliver(self, kind: type) -> None:
        """Each receiver hears everybody, or loses some; what is lost may turn up later."""
        batch = [(author, message) for author, message in self.sent if isinstance(message, kind)]
        self.sent = [(author, message) for author, message in self.sent if not isinstance(message, kind)]
        loss = self.rng.choice((0.0, 0.2, 0.5))
        for i in self.honest:
            for author, message in batch:
                if author != i:
                    if self.rng.random() < loss:
                        self.late.append((author, message))
                    else:
                        self.step(i, MessageReceived(message))

    def _fire(self, kind: TimerKind, view: int) -> None:
        for i in self.honest:
            self.step(i, TimerFired(Timer(kind, 1, view)))

    def _restart(self) -> None:
        if self.rng.random() < 0.15:
            i = self.rng.choice(self.honest)
            if i not in self.done:
                view = self.engines[i].view
                self.engines[i] = self._engine(i)
                self.step(i, Begin())
                self.step(i, StartHeight(1))
                for old in range(view):
                    self.step(i, TimerFired(Timer(TimerKind.COMMIT, 1, old)))

    # -- the traitor --

    def _certificates(self) -> list[PrepareCertificate]:
        made = []
        for (view, block_hash, valid_view), votes in sorted(self.prepares.items()):
            signers = {author: vote.signature for author, vote in votes.items()}
            for traitor in self.traitors:
                own = self._sign(Prepare(key(traitor), 1, view, block_hash, valid_view, b""))
                signers[own.author] = own.signature
            made.append(PrepareCertificate(1, view, block_hash, valid_view, tuple(sorted(signers.items()))))
        return made

    def _traitors_proposal(self, traitor: int, view: int) -> Proposal | None:
        choices = [Proposal(key(traitor), 1, view, block, None, b"") for block in self.blocks]
        named = {block.hash: block for block in self.blocks}
        for certificate in self._certificates():
            if certificate.view < view and certificate.block_hash in named:
                block = named[certificate.block_hash]
                choices.append(Proposal(key(traitor), 1, view, block, certificate, b""))
        if self.rng.random() < 0.1:
            return None
        return self._sign(self.rng.choice(choices))

    def _traitors_votes(self, traitor: int, view: int, kind: type) -> list[Prepare | Commit]:
        names = [NIL, *(block.hash for block in self.blocks)]
        votes = []
        for name in self.rng.sample(names, k=self.rng.choice((1, 1, 2))):
            if kind is Commit:
                votes.append(self._sign(Commit(key(traitor), 1, view, name, b"")))
            else:
                valid = self.rng.randrange(-1, view) if name != NIL and view and self.rng.random() < 0.5 else -1
                votes.append(self._sign(Prepare(key(traitor), 1, view, name, valid, b"")))
        return votes

    def _sign(self, message):
        return replace(message, signature=self.signatures.signer(message.author)(message.statement(CHAIN_ID)))

    # -- the driver --

    def step(self, i: int, event: Event) -> None:
        """Answers wait until the effects before them are carried out."""
        self.answers.append(event)
        while self.answers:
            event = self.answers.pop(0)
            if i not in self.done:
                for effect in self.engines[i].step(event):
                    self._carry_out(i, effect)

    def _carry_out(self, i: int, effect: object) -> None:
        match effect:
            case Persist():
                self.logs[i].append(effect.record)
            case Broadcast(message) if not isinstance(message, ViewStatus):
                self.witness.broadcast(key(i), effect, self.logs[i])
                self.sent.append((i, message))
                if isinstance(message, Prepare) and message.block_hash != NIL:
                    slot = (message.view, message.block_hash, message.valid_view)
                    self.prepares.setdefault(slot, {})[message.author] = message
                if isinstance(message, Proposal) and message.block not in self.blocks:
                    self.blocks.append(message.block)
            case BuildBlock():
                listed = [contribution(self.signatures, j, self.state) for j in (i, (i + 1) % 4)]
                self.answers.append(BlockBuilt(1, effect.view, block_on(effect.template, listed)))
            case CheckBlock():
                self.answers.append(BlockChecked(effect.block.hash, root_is_right(effect.block)))
            case FetchBlock():
                for block in self.blocks:
                    if block.hash == effect.block_hash:
                        self.answers.append(BlockReceived(block))
            case Decide():
                self.done.add(i)
                self.witness.decided(effect)
            case ReportEvidence():
                self.witness.evidence(effect.evidence)


def run(seed: int, *, nodes: int = 4, engine_class: type[Engine] = Engine, forgetful: bool = False) -> LockStep:
    scenario = LockStep(seed, nodes=nodes, engine_class=engine_class, forgetful=forgetful)
    try:
        scenario.run()
    except Exception as fault:
        raise Violation(f"{fault} in lock-step seed {seed}, {nodes} nodes") from fault
    return scenario
