"""One node's driver: carries out the engine's effects, may die between any two of them, and comes back from its log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    Decide,
    Effect,
    Engine,
    Event,
    EvidenceReceived,
    FetchBlock,
    HeightWanted,
    Persist,
    Proposal,
    Record,
    Refused,
    ReportEvidence,
    SetTimer,
    StartHeight,
    Synced,
    TimerFired,
    check_block,
    check_certificate,
)
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import block_on, contribution, root_is_right

if TYPE_CHECKING:
    from p2pnode.simulation.world import World


class Died(Exception):
    """The process was killed between two effects."""


@dataclass
class Disk:
    """What survives: the vote log and the chain."""

    state: ChainState
    log: list[Record] = field(default_factory=list)
    chain: list[tuple[Block, CommitCertificate]] = field(default_factory=list)


class Process:
    """Node `index`. `honest` processes are watched; a traitor's run the same code with a tampered mouth (attacks.py)."""

    def __init__(self, world: World, index: int, *, honest: bool = True, taste: int = 0) -> None:
        self.world = world
        self.index = index
        self.me = key(index)
        self.honest = honest
        self.taste = taste  # which contributions it lists; a twin's differs
        self.disk = Disk(world.genesis)
        self.engine: Engine | None = None
        self.life = 0
        self._blocks: dict[bytes, Block] = {}

    # -- life --

    def boot(self) -> None:
        """Start, or start again, from the disk. Records pass through their encoding."""
        self.life += 1
        self._blocks = {}
        records = [Record.decode(record.encode()) for record in self.disk.log]
        signatures = self.world.signatures
        self.engine = self.world.engine_class(
            me=self.me,
            sign=signatures.signer(self.me),
            verify=signatures.verify,
            state=self.disk.state,
            records=records,
        )
        self.take(Begin())
        self.world.after(0.05, self, StartHeight(self.disk.state.height + 1))

    def die(self) -> None:
        self.engine = None
        self.life += 1

    def take(self, event: Event) -> None:
        if self.engine is None:
            return
        try:
            for effect in self.engine.step(event):
                self.world.may_kill(self)
                self._carry_out(effect)
        except Died:
            self.die()

    # -- effects --

    def _carry_out(self, effect: Effect) -> None:
        world = self.world
        world.note(self, effect)
        match effect:
            case Persist():
                self.disk.log.append(effect.record)
            case Broadcast():
                if self.honest:
                    world.witness.broadcast(self.me, effect, self.disk.log)
                if isinstance(effect.message, Proposal):
                    self._blocks[effect.message.block.hash] = effect.message.block
                world.send_all(self, effect.message)
            case BroadcastCertificate():
                world.send_all(self, effect.certificate)
            case SetTimer():
                world.after(effect.seconds * world.clock_rate(self), self, TimerFired(effect.timer))
            case BuildBlock():
                offered = [
                    contribution(world.signatures, i, effect.template.state)
                    for i in range(world.options.nodes)
                    if (i + effect.height + self.taste) % 3 or i == self.index or world.options.founders
                ]
                block = block_on(effect.template, offered)
                world.after(world.work(), self, BlockBuilt(effect.height, effect.view, block))
            case CheckBlock():
                self._blocks[effect.block.hash] = effect.block
                world.after(world.work(), self, BlockChecked(effect.block.hash, root_is_right(effect.block)))
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
                    world.witness.evidence(effect.evidence)
                world.send_all(self, effect.evidence)
            case Refused():
                pass

    def _decide(self, effect: Decide) -> None:
        if self.honest:
            self.world.witness.decided(effect)
        self.disk.chain.append((effect.block, effect.certificate))
        self.disk.state = self.disk.state.after(effect.block, effect.certificate)
        self.disk.log = [record for record in self.disk.log if record.height > effect.block.height]
        if effect.block.height < self.world.options.heights:
            self.world.after(0.05, self, StartHeight(effect.block.height + 1))

    # -- serving others --

    def block_named(self, block_hash: bytes) -> Block | None:
        for block, _ in self.disk.chain:
            if block.hash == block_hash:
                return block
        return self._blocks.get(block_hash)

    def known_blocks(self) -> list[Block]:
        return list(self._blocks.values())

    def synced(self, chain: list[tuple[Block, CommitCertificate]]) -> None:
        """Block sync: check everything in order, store it, move on."""
        verify, state = self.world.signatures.verify, self.disk.state
        for block, certificate in chain:
            committee = state.membership.current
            if block.height != state.height + 1 or certificate.block_hash != block.hash:
                continue
            if check_certificate(certificate, committee, chain_id=state.chain_id, verify=verify) is not None:
                return
            if check_block(block, state, verify) is not None:
                return
            state = state.after(block, certificate)
            self.disk.chain.append((block, certificate))
            if self.honest:
                self.world.witness.decided(Decide(block, certificate))
        if state.height > self.disk.state.height:
            self.disk.state = state
            self.disk.log = [record for record in self.disk.log if record.height > state.height]
            self.take(Synced(state))
            self.world.after(0.01, self, StartHeight(state.height + 1))

    def told(self, thing: object) -> None:
        """Something from the network that is no message and no certificate."""
        self.take(EvidenceReceived(thing))  # type: ignore[arg-type]
