"""The only loop around the consensus engine: events in, effects out, strictly in order.

What it is: the embedding that ``consensus`` asks for. It owns time (timers), durability (the vote log before any message leaves) and the
engine's questions (build a block, check a block, fetch a block), which the rounds answer. What it is not: it knows no tensors, no
sockets and no rules of agreement.

Rules for editing: one task runs ``step`` and carries out what it returns, so no effect overtakes another. Whatever takes long is started
beside it and comes back as an event.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import trio

import consensus
import transport
from p2pnode.delays import Delays
from p2pnode.logs import Logger
from p2pnode.vote_records import Decided, Signed, VoteRecord, decode, encode
from p2pnode.wakeup import Signal
from p2pnode.wal import VoteLog, VoteLogFault
from transport.machine import in_thread, on_loop

ELSEWHERE_HINT = "stop the other process, or give it a key of its own; then restart this one. Two votes for one slot cost the membership"
FORK_HINT = "more than a third of the members lied: compare chains with the others, and found the network anew without the culprits"
REMOTE_EVENTS_MAX = 2048  # what peers may have waiting here; beyond it their connections are read no further


@dataclass(frozen=True, slots=True)
class Revival:
    """From the decision of ``height`` on, ``engine()`` replaces the observing engine; until then nothing is signed, and ``why``."""

    height: int
    engine: Callable[[], consensus.Engine]
    why: str


class Voice(Protocol):
    """How the driver speaks; ``p2pnode.gossip`` is the real one. None of these block."""

    def broadcast(self, message: consensus.Message) -> None: ...
    def broadcast_certificate(self, certificate: consensus.Certificate) -> None: ...
    def broadcast_evidence(self, evidence: consensus.Evidence) -> None: ...
    def tell(self, peer: bytes, things: Sequence[consensus.Message | consensus.Certificate]) -> None: ...
    def tell_evidence(self, peer: bytes, evidence: consensus.Evidence) -> None: ...
    async def fetch_block(self, block_hash: bytes, holders: Sequence[bytes]) -> consensus.Block | None: ...


class Duties(Protocol):
    """What the engine needs from a round; ``p2pnode.rounds`` is the real one."""

    async def build(self, request: consensus.BuildBlock) -> consensus.Block | None: ...
    async def check(self, block: consensus.Block) -> tuple[bool, str]: ...
    async def make_payloads_durable(self, block_hash: bytes) -> None: ...
    async def decided(self, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
        """Calls ``Driver.kept`` once the decision survives a loss of power, now or later."""

    def wanted(self, height: int, proposed: consensus.Block | None) -> None: ...
    def behind(self, height: int) -> None: ...
    def accused(self, evidence: consensus.Evidence) -> None: ...
    def requested(self, request: consensus.Request) -> None: ...


@dataclass(slots=True)
class PhaseTimes:
    """When the phases of the current height began here (monotonic seconds); for ``trace`` and the figures, never for a rule."""

    started: float = 0.0
    proposed: float = 0.0
    checked: float = 0.0
    committed: float = 0.0
    decided: float = 0.0


@dataclass(slots=True)
class Counters:
    """What was refused, by reason, and how often the height changed its view."""

    refused: int = 0
    last_refusal: str = ""
    evidence: int = 0
    view: int = 0
    phase: str = "learn"
    times: PhaseTimes = field(default_factory=PhaseTimes)


class Driver:
    """Runs one engine.

    A node whose vote log is damaged or lost cannot know what it signed, so it begins as an observer; ``revival`` says from which height
    on it votes again, and makes the engine that does. One whose log fails later goes on with ``observer()``.
    """

    def __init__(
        self,
        *,
        engine: consensus.Engine,
        observer: Callable[[], consensus.Engine],
        vote_log: VoteLog,
        voice: Voice,
        duties: Duties,
        delays: Delays,
        log: Logger,
        revival: Revival | None = None,
    ) -> None:
        self.engine = engine
        self.counters = Counters()
        self.cannot_vote: str | None = None
        self.elsewhere: str | None = None  # why we believe that another process has our key
        self.forked: str | None = None
        self._forked: str | None = None
        self._observer = observer
        self._vote_log = vote_log
        self._voice = voice
        self._duties = duties
        self._delays = delays
        self._log = log
        self._refusals = transport.Refusals(log, "refused")
        self._revival = revival
        self._kept_height = engine.state.height
        self._unkept: list[Decided] = []
        self._inbox: deque[consensus.Event] = deque()
        self._newcomers: deque[bytes] = deque()
        self._arrived = Signal()
        self._drained = Signal()
        self._applying = False
        self._nursery: trio.Nursery

    @property
    def silent(self) -> str | None:
        """Why this node signs nothing now, or ``None``."""
        if self.cannot_vote is None and self._revival is not None:
            return f"{self._revival.why}; observing until height {self._revival.height} is decided"
        return self.cannot_vote

    def deliver(self, event: consensus.Event) -> None:
        """Hand the engine an event of our own making."""
        self._inbox.append(event)
        self._arrived.fire()

    async def deliver_remote(self, event: consensus.Event) -> None:
        """Hand the engine an event that a peer caused; waits while too many are unread.

        While a decision is applied, which may take the bytes of a payload from these very peers, waiting would keep the bytes from
        arriving: what is too much then is dropped, and repeated by its sender.
        """
        while len(self._inbox) >= REMOTE_EVENTS_MAX:
            if self._applying:
                return
            await self._drained.wait()
        self.deliver(event)

    def greet(self, peer: bytes) -> None:
        """A peer has just come: between two steps, so that nothing is shown before it is durable, it is told what it may have missed."""
        self._newcomers.append(peer)
        self._arrived.fire()

    def _greet(self) -> None:
        while self._newcomers:
            peer = self._newcomers.popleft()
            if self.cannot_vote is None:
                self._voice.tell(peer, self.engine.greeting())
            for evidence in self.engine.pending_evidence:
                self._voice.tell_evidence(peer, evidence)

    def block(self, block_hash: bytes) -> consensus.Block | None:
        """An undecided block that this node has seen, for peers who lack it."""
        return self.engine.block(consensus.Digest(block_hash))

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._inbox.appendleft(consensus.Begin())
            while True:
                self._greet()
                if not self._inbox:
                    await self._arrived.wait()
                    continue
                event = self._inbox.popleft()
                self._drained.fire()
                await self._carry_out_all(self.engine.step(event))

    async def append(self, *records: VoteRecord) -> bool:
        """Make records durable; False where this node signs nothing (any more).

        The engine takes no step before they are. On a disk that flushes in a fraction of a millisecond the way to a thread and back is
        most of that wait, so there it is done on the loop.

        A decision that the chain file does not hold for good yet goes with them, in the same flush, which counts whole or not at all. So
        the disk never shows a statement of a height without the decision below it, from which alone a restart could go on signing
        (rule X4), and no height waits for SQLite. Should the power go before either has it, this node signed nothing above, and the
        decision comes again from the COMMITs that a quorum has on its disks.
        """
        if self.silent is not None:
            return False
        unkept = tuple(self._unkept)
        try:
            way = on_loop if self._vote_log.is_quick else in_thread
            await way(self._vote_log.append, *map(encode, (*unkept, *records)))
        except VoteLogFault as fault:
            self._stop_voting(fault)
            return False
        self._unkept = [decision for decision in self._unkept if decision not in unkept]
        return True

    def kept(self, height: int) -> None:
        """The chain file holds every decision up to here, and would after a loss of power."""
        self._kept_height = max(self._kept_height, height)
        self._unkept = [decision for decision in self._unkept if decision.height > self._kept_height]

    def _stop_voting(self, fault: VoteLogFault) -> None:
        self.cannot_vote = str(fault)
        self._log.error(
            "voting stopped", reason=str(fault), hint="free the disk or replace it, then restart; nothing is lost"
        )

    async def _carry_out_all(self, effects: Sequence[consensus.Effect]) -> None:
        """In order, but for the records of the step, which share one flush before anything else is carried out.

        Earlier than it must be is still before it is said (rule D5), and what a crash leaves is what it would leave between two effects:
        statements that are logged and not sent, which a restart sends. A proposer's own PREPARE costs no flush of its own that way.
        The payloads that a COMMIT answers for are on the disk before its record is, because a restart sends again what it finds there.
        A step whose records the disk refuses has not happened: none of its effects is carried out, no decision that counts our vote
        least of all, and an engine that has no vote of ours follows from here on.
        """
        for effect in effects:
            if isinstance(effect, consensus.Broadcast) and isinstance(effect.message, consensus.Commit):
                await self._duties.make_payloads_durable(effect.message.block_hash)
        records = [Signed(effect.record) for effect in effects if isinstance(effect, consensus.Persist)]
        if records and not await self.append(*records):
            self._only_observe()
            return
        for effect in effects:
            if not isinstance(effect, consensus.Persist):
                await self._carry_out(effect)
        if self._forked is not None and self.forked is None:
            self.forked = self.cannot_vote = self._forked

    def _only_observe(self) -> None:
        before, engine = self.engine, self._observer()
        self.engine = engine
        self.deliver(consensus.Begin())
        if not before.idle or before.height > engine.height:  # with its own vote it may have decided the height
            self.deliver(consensus.StartHeight(engine.height))

    def _broadcast(self, message: consensus.Message) -> None:
        """A vote leaves only when its record is on the disk."""
        if self.cannot_vote is None:
            self._note_sent(message)
            self._voice.broadcast(message)

    async def _carry_out(self, effect: consensus.Effect) -> None:
        """One flat table of effects: splitting it would hide the order."""
        match effect:
            case consensus.Persist():
                raise consensus.LocalFault("records are made durable in _carry_out_all")
            case consensus.Broadcast(message=message):
                self._broadcast(message)
            case consensus.BroadcastCertificate(certificate=certificate):
                if self.cannot_vote is None:  # it may hold a vote of ours that is not on the disk
                    self._voice.broadcast_certificate(certificate)
            case consensus.SetTimer(timer=timer, seconds=seconds):
                self._nursery.start_soon(self._ring, timer, seconds)
            case consensus.BuildBlock():
                self._nursery.start_soon(self._build, effect)
            case consensus.CheckBlock(block=block):
                self._nursery.start_soon(self._check, block)
            case consensus.FetchBlock():
                self._nursery.start_soon(self._fetch, effect)
            case consensus.HeightWanted(height=height, proposed=proposed):
                self._duties.wanted(height, proposed)
            case consensus.Behind(height=height):
                self._duties.behind(height)
            case consensus.Decide(block=block, certificate=certificate):
                await self._decide(block, certificate)
            case consensus.ReportEvidence(evidence=evidence):
                self.counters.evidence += 1
                self._duties.accused(evidence)
                self._voice.broadcast_evidence(evidence)
            case consensus.ReportRequest(request=request):
                self._duties.requested(request)
                self._voice.broadcast(request)
            case consensus.KeyElsewhere(reason=reason):
                self.key_elsewhere(reason)
            case consensus.Forked(height=height, certificate=certificate):
                self._fork(height, certificate.block_hash)
            case consensus.Refused(peer=peer, reason=reason):
                self._refused(peer, reason)
            case _:
                assert_never(effect)

    def key_elsewhere(self, reason: str) -> None:
        """Somebody else signs with our key: say nothing more in agreement until an operator has looked."""
        if self.elsewhere is None:
            self.elsewhere = reason
            self.cannot_vote = self.cannot_vote or f"this key votes elsewhere: {reason}"
            self._log.error("voting stopped", reason=self.cannot_vote, hint=ELSEWHERE_HINT)

    def _fork(self, height: int, other: bytes) -> None:
        """More than a third of a committee lied, so no certificate can be trusted, and nothing is signed on top of this one.

        What this node holds of the height still goes out, with what else this step says: it names the culprits.
        """
        self._log.error("fork", height=height, other=other.hex()[:16], hint=FORK_HINT)
        self._forked = (
            self._forked or f"fork: height {height} has two certified blocks, the other is {other.hex()[:16]}"
        )

    async def _ring(self, timer: consensus.Timer, seconds: float) -> None:
        await trio.sleep(seconds)
        self.deliver(consensus.TimerFired(timer))

    async def _build(self, request: consensus.BuildBlock) -> None:
        block = await self._duties.build(request)
        if block is not None:
            self.deliver(consensus.BlockBuilt(height=request.height, view=request.view, block=block))

    async def _check(self, block: consensus.Block) -> None:
        began = trio.current_time()
        if not self.counters.times.proposed:
            self.counters.times.proposed = began
        self._enter("prepare")
        ok, reason = await self._duties.check(block)
        self.counters.times.checked = trio.current_time()
        if ok:  # a proposer who lists what cannot be had must not teach us patience
            self._delays.note_check(trio.current_time() - began)
        if not ok and block.height > self.engine.state.height:  # else it was decided meanwhile, and nobody is to blame
            self._refused(block.header.proposer, f"proposal for height {block.height}: {reason}")
        self.deliver(consensus.BlockChecked(block_hash=block.hash, ok=ok, reason=reason))

    def _refused(self, peer: bytes | None, reason: str) -> None:
        """Counted and logged; what is merely wrong is never evidence."""
        self.counters.refused += 1
        self.counters.last_refusal = reason
        self._refusals.say(transport.short_id(peer) if peer else "", reason)

    async def _fetch(self, request: consensus.FetchBlock) -> None:
        block = await self._voice.fetch_block(request.block_hash, request.holders)
        if block is not None:
            self.deliver(consensus.BlockReceived(block))

    async def _decide(self, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
        self.counters.times.decided = trio.current_time()
        self._enter("apply")
        self._applying = True
        if block.height > self._kept_height:
            self._unkept.append(Decided(block, certificate))
        await self._duties.decided(block, certificate)
        self._applying = False
        if self.cannot_vote is None and self._vote_log.needs_care:
            self._nursery.start_soon(in_thread, self._prune, self._kept_height)
        if self._revival is not None and block.height >= self._revival.height:
            self.engine, self._revival = self._revival.engine(), None
            self._log.info("voting again", height=block.height)
            self.deliver(consensus.Begin())

    def _prune(self, height: int) -> None:
        try:  # the newest stay: where the chain on this disk is put back, they show how far this node has signed
            self._vote_log.prune(lambda data: decode(data).height >= height)
        except VoteLogFault as fault:
            self._stop_voting(fault)

    def started(self) -> None:
        """A height starts: the clock of its phases is wound."""
        self.counters.times = PhaseTimes(started=trio.current_time())
        self._enter("propose")

    def _enter(self, phase: str) -> None:
        self.counters.phase = phase

    def _note_sent(self, message: consensus.Message) -> None:
        """Our own votes mark where the round stands."""
        times = self.counters.times
        self.counters.view = getattr(message, "view", 0)
        if isinstance(message, consensus.Proposal) and not times.proposed:
            times.proposed = times.checked = trio.current_time()
        elif isinstance(message, consensus.Commit) and not times.committed:
            times.committed = trio.current_time()
            self._enter("commit")
