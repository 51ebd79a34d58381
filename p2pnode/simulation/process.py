"""One node's driver in a simulated world: carries out the engine's effects, may die between any two of them, and comes back from its
disk, whole or damaged.

For editing: it owes the engine what `consensus` says that a driver owes, and nothing more; what it keeps in memory is gone when it dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from consensus import (
    Begin,
    Behind,
    Block,
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BroadcastCertificate,
    BuildBlock,
    ChainState,
    CheckBlock,
    CommitCertificate,
    Contribution,
    Decide,
    Effect,
    Engine,
    Event,
    EvidenceReceived,
    FetchBlock,
    Forked,
    HeightWanted,
    KeyElsewhere,
    MessageReceived,
    Persist,
    Proposal,
    Record,
    Refused,
    ReportEvidence,
    ReportRequest,
    Request,
    SetTimer,
    StartHeight,
    Synced,
    TimerFired,
    check_block,
    check_certificate,
    contribution_problem,
)
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import block_on, contribution
from p2pnode.simulation.transitions import observed_step
from p2pnode.simulation.witness import require

if TYPE_CHECKING:
    from p2pnode.simulation.traitors import Chain, Traitor
    from p2pnode.simulation.world import World

COLLECT_SECONDS = 0.05  # between a decision and the next height


class Died(Exception):
    """The process was killed between two effects."""


@dataclass(slots=True)
class Disk:
    """What survives: the vote log, the chain, and until which height this node signs nothing because it lost a log."""

    state: ChainState
    log: list[Record] = field(default_factory=list)
    chain: list[tuple[Block, CommitCertificate]] = field(default_factory=list)
    silent_until: int = 0


class Shameless(Engine):
    """A traitor's: that its key signs elsewhere, in its twin or in its forgeries, is no news to it."""

    def _fall_silent(self, reason: str | None) -> None:
        pass


class Process:
    """Node `index`. `honest` ones are watched; a traitor's run the same code with a tampered mouth."""

    def __init__(self, world: World, index: int, *, honest: bool = True, taste: int = 0) -> None:
        self.world = world
        self.index = index
        self.me = key(index)
        self.honest = honest
        self.taste = taste  # which contributions it lists; a twin's differs
        self.traitor: Traitor | None = None
        self.disk = Disk(world.genesis)
        self.engine: Engine | None = None
        self.life = 0
        self.mute = False  # its disk failed: it signs nothing more until it is started again
        self.effects = 0  # carried out so far
        self.free_at = 0.0  # its core is busy until then
        self._tail: list[Record] = []  # written, not synced
        self._blocks: dict[bytes, Block] = {}
        self._steps = 0

    @property
    def voting(self) -> bool:
        return self.engine is not None and not self.mute and not self.disk.silent_until

    # -- life --

    def boot(self) -> None:
        """Start, or start again, from the disk. Records pass through their encoding."""
        self.life += 1
        self.mute = False
        self._blocks = {}
        if self.traitor is not None and self.traitor.forgets:
            self.disk.log = []
        if self.honest:
            self.world.witness.survived(self.me, self.disk.log)
            self.world.witness.same_state(self.disk.state)
        self._begin([Record.decode(record.encode()) for record in self.disk.log])

    def _begin(self, records: list[Record]) -> None:
        signatures = self.world.signatures
        self.engine = engine = (Engine if self.honest else Shameless)(
            me=None if self.disk.silent_until else self.me,
            sign=signatures.signer(self.me),
            verify=signatures.verify,
            state=self.disk.state,
            records=records,
        )
        self.take(Begin(), records=tuple(records))
        if self.engine is engine and self.honest and self.disk.silent_until == 0:
            self.world.witness.restarted(self.me, engine)
        self.world.after(COLLECT_SECONDS, self, StartHeight(self.disk.state.height + 1))

    def die(self) -> None:
        """Of what was written and not synced a part survives, and the last record of it may be torn, which cuts it off."""
        if self._tail:
            self.disk.log += self._tail[: self.world.rng.randrange(len(self._tail) + 1)]
            self._tail = []
        self.engine = None
        self.life += 1

    def lose_log(self) -> None:
        """The log is gone, the key is not: nothing is signed until two heights beyond the highest seen are decided."""
        self.disk.log = []
        self.disk.silent_until = self.disk.state.height + 2

    def take(self, event: Event, *, records: tuple[Record, ...] | None = None) -> None:
        engine, world = self.engine, self.world
        if engine is None:
            return
        if world.observer is not None and self.honest:
            effects = observed_step(world.observer, self.me, engine, event, records=records)
        else:
            effects = engine.step(event)
        try:
            for effect in effects:
                self.effects += 1
                world.may_kill(self)
                if self._tail and not isinstance(effect, Persist):
                    self._sync()
                self._carry_out(effect)
            if self._tail:
                self._sync()
        except Died:
            self.die()
            return
        self._steps += 1
        if self.honest and self._steps % 64 == 0:
            world.witness.memory(engine, nodes=world.options.nodes)

    # -- effects --

    def _sync(self) -> None:
        """Durable, unless the disk refuses: then nothing more is signed. Killed in here, anything between nothing and all is on it."""
        self.world.may_kill(self)
        tail, self._tail = self._tail, []
        if self.world.disk_fails(self):
            self.mute = True
            self.disk.log += tail[: self.world.rng.randrange(len(tail) + 1)]
            return
        self.disk.log += tail
        if self.honest:
            for record in tail:
                self.world.witness.logged(self.me, record)

    def _carry_out(self, effect: Effect) -> None:  # one flat table
        world = self.world
        world.note(self, effect)
        match effect:
            case Persist():
                if not self.mute:
                    self._tail.append(effect.record)
            case Broadcast():
                self._say(effect)
            case BroadcastCertificate():
                if not self.mute:
                    world.send_all(self, effect.certificate)
            case SetTimer():
                world.set_timer(self, effect.seconds, TimerFired(effect.timer))
            case BuildBlock():
                self._build(effect)
            case CheckBlock():
                self._blocks[effect.block.hash] = effect.block
                world.after(world.work(), self, BlockChecked(effect.block.hash, world.verdict(self, effect.block)))
            case FetchBlock():
                world.fetch(self, effect)
            case Decide():
                self._decide(effect)
            case HeightWanted():
                world.after(0, self, StartHeight(effect.height))
            case Behind():
                world.sync(self)
            case ReportEvidence():
                if self.honest:
                    world.witness.accused(effect.evidence)
                world.send_all(self, effect.evidence)
            case ReportRequest():
                world.send_all(self, effect.request)
            case KeyElsewhere():
                require(
                    not self.honest, f"I13: an honest node was told that its key is used elsewhere: {effect.reason}"
                )
            case Forked():
                require(not (self.honest and world.options.tolerated), f"I1: a fork at height {effect.height} was seen")
            case Refused():
                if self.honest:
                    world.witness.nobody_honest_shunned(effect.peer, effect.reason)
            case _:
                assert_never(effect)

    def _say(self, effect: Broadcast) -> None:
        message = effect.message
        if isinstance(message, Proposal):
            self._blocks[message.block.hash] = message.block
        if self.mute:
            return
        if self.honest:
            self.world.witness.said(self.me, message, at=self.world.now)
            self.world.witness.auditor.saw(message)
        self.world.send_all(self, message)

    def _build(self, effect: BuildBlock) -> None:
        world, state = self.world, effect.template.state
        salts = self.traitor.contributes() if self.traitor is not None else (b"",)
        offered: list[Contribution] = []
        for i in range(world.options.nodes):
            chosen = (i + effect.height + self.taste) % 3 or world.everybody_contributes
            if i == self.index or (chosen and world.hears(self.index, i)):
                salt = max(salts, key=len) if i == self.index else b""
                offered.append(contribution(world.signatures, i, state, salt=salt))
        listed = [c for c in offered if contribution_problem(c, state) is None]
        block = block_on(effect.template, listed)
        world.after(world.work(), self, BlockBuilt(effect.height, effect.view, block))

    def _decide(self, effect: Decide) -> None:
        self._store(effect.block, effect.certificate)
        if effect.block.height < self.world.target + 2:
            self.world.after(COLLECT_SECONDS, self, StartHeight(effect.block.height + 1))
        if self.disk.silent_until and self.disk.state.height >= self.disk.silent_until:
            self.disk.silent_until = 0
            self.disk.log = []
            self.world.wake(self)

    def _store(self, block: Block, certificate: CommitCertificate) -> None:
        if self.honest:
            self.world.decided(self, block, certificate)
        self.disk.chain.append((block, certificate))
        self.disk.state = self.disk.state.after(block, certificate)
        self.disk.log = [record for record in self.disk.log if record.height > block.height]
        if self.honest:
            self.world.witness.same_state(self.disk.state)

    # -- serving others --

    def block_named(self, block_hash: bytes) -> Block | None:
        held = next((block for block, _ in reversed(self.disk.chain) if block.hash == block_hash), None)
        held = held or self._blocks.get(block_hash)
        return held if self.traitor is None else self.traitor.block(held)

    def chain_from(self, height: int) -> Sequence[tuple[Block, CommitCertificate]]:
        chain = self.disk.chain[height:]
        return chain if self.traitor is None else self.traitor.chain(chain)

    def synced(self, chain: Chain) -> None:
        """Block sync: check everything in order, store it, move on; one bad block ends it there."""
        if self.engine is None:
            return
        verify, before = self.world.signatures.verify, self.disk.state.height
        for block, certificate in chain:
            state = self.disk.state
            if block.height != state.height + 1 or certificate.block_hash != block.hash:
                continue
            committee = state.membership.current
            if check_certificate(certificate, committee, chain_id=state.chain_id, verify=verify) is not None:
                break
            if certificate.height != block.height or check_block(block, state, verify) is not None:
                break
            self._store(block, certificate)
        if self.disk.state.height > before:
            self.take(Synced(self.disk.state))
            self.world.after(0.01, self, StartHeight(self.disk.state.height + 1))
            if self.disk.silent_until and self.disk.state.height >= self.disk.silent_until:
                self.disk.silent_until = 0
                self.world.wake(self)

    def ask(self, request: Request) -> None:
        """This node's own operator wants to join or to leave."""
        self.take(MessageReceived(request))
        self.world.send_all(self, request)

    def told(self, thing: object) -> None:
        """Something from the network that is no message and no certificate."""
        self.take(EvidenceReceived(thing))  # type: ignore[arg-type]
