"""Level 2: the event-queue simulation. Virtual time, a bad network, processes that die, traitors, and a witness.

Phase 1 is safety with any faults. At `healed_at` they end for a core of honest nodes that can decide, and for nobody else: phase 2
requires this core to reach every height in bounded virtual time. Then the rest is healed too, and must catch up. Everything is drawn
from the seed in one fixed order, so a seed replays to the same `trace_hash`. `run(options)` raises `Violation`.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter

from consensus import (
    Block,
    BlockReceived,
    CertificateReceived,
    CommitCertificate,
    Event,
    Evidence,
    FetchBlock,
    Malformed,
    MessageReceived,
    PrepareCertificate,
    StartHeight,
    ViewCertificate,
    decode_certificate,
    decode_message,
)
from p2pnode.simulation.changes import Changes, founding
from p2pnode.simulation.faults import Costs, Faults, Network, UnequalDelays, cut_off
from p2pnode.simulation.keys import KeyedSignatures
from p2pnode.simulation.ledger import CHAIN_ID, root_is_right
from p2pnode.simulation.noise import behaviour_named
from p2pnode.simulation.options import Options
from p2pnode.simulation.process import Died, Process
from p2pnode.simulation.trace import Trace
from p2pnode.simulation.traitors import Chain, Conspiracy, Thing, Traitor
from p2pnode.simulation.transitions import Observer
from p2pnode.simulation.witness import Violation, Witness

EVENTS_MAX = 2_000_000


class World:
    """One run. `network` and `costs` are the seed's own delays and nothing, unless somebody brings measured ones."""

    def __init__(
        self,
        options: Options,
        *,
        observer: Observer | None = None,
        network: Network | None = None,
        costs: Costs | None = None,
        keep_trace: bool = False,
    ) -> None:
        self.options = options
        self.observer = observer
        self.now = 0.0
        self.target = options.heights
        self.signatures = KeyedSignatures()
        self.rng = rng = random.Random(f"world {options.seed}")
        self.trace = Trace(keep=keep_trace)
        self.counts: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Process, int | None, int | None, object]] = []
        self._sequence = 0
        self._network = network or UnequalDelays(rng, mean_seconds=options.delay_seconds, spread=options.spread)
        self._costs = costs
        self.genesis, self.everybody_contributes = founding(options)
        members = options.founders or options.nodes
        self.faults = Faults(options, rng)
        liars = rng.sample(range(members), min(options.traitors, members))
        self.processes = [Process(self, i, honest=i not in liars) for i in range(options.nodes)]
        spread = options.clock_spread
        self._rates = [1 + rng.uniform(-spread, spread) for _ in self.processes]
        self.honest = [p for p in self.processes if p.honest]
        self.witness = Witness([p.me for p in self.honest], self.signatures, self.genesis, f=options.tolerated)
        self.plot = Conspiracy(options.seed, options.nodes)
        self.twins = self._corrupt(options.attacks)
        self.changes = Changes(self)
        self._calm_among: frozenset[int] = frozenset()
        self._jumps = "clock-skew" in options.attacks
        self._spare = len([p for p in self.honest if p.index < members]) - self.genesis.membership.current.quorum()
        self._loser = rng.choice(self.honest) if options.lost_log and self._spare > 0 else None
        self._amnesic = self._loser  # it votes again two heights later
        self._verified: set[bytes] = set()  # blocks whose payloads some honest node holds

    def _corrupt(self, attacks: tuple[str, ...]) -> dict[int, Process]:
        """Give every traitor its behaviours, and its twin."""
        names = [name for name in attacks if name not in ("twin", "disk", "links", "too-many")]
        if "too-many" in attacks or (not self.options.tolerated and not names and "twin" not in attacks):
            names += ["equivocating-proposer", "equivocating-prepare", "equivocating-commit", "amnesia"]
        behaviours = [behaviour_named(name) for name in names]
        twins: dict[int, Process] = {}
        for process in self.processes:
            if not process.honest:
                self.plot.members.append(process.me)
                process.traitor = Traitor(process, self.plot, behaviours)
                if "twin" in attacks:
                    twin = twins[process.index] = Process(self, process.index, honest=False, taste=1)
                    twin.traitor = Traitor(twin, self.plot, behaviours)
        return twins

    # -- running --

    def run(self) -> None:
        """Violation if an invariant is broken, or if those who should decide every height do not in time.  (I11)"""
        options = self.options
        self._schedule()
        self._until(options.healed_at, lambda: False)
        core = self._heal_a_core()
        if options.tolerated:
            self._phase("the healed core", core)
            self._heal_everybody()
            self._phase("the laggards", self.honest)
        else:
            self._heal_everybody()
            self._until(self.now + 60.0, lambda: bool(self.witness.forks))
        self._judge()

    def _phase(self, who: str, wanted: list[Process]) -> None:
        def finished() -> bool:
            return all(p.disk.state.height >= self.target for p in wanted)

        self._until(self.now + self.options.progress_seconds, finished)
        if not finished():
            heights = {p.index: p.disk.state.height for p in wanted}
            raise Violation(f"I11: STALL: {who} did not reach height {self.target}: {heights}")

    def _until(self, deadline: float, done: object) -> None:
        assert callable(done)
        queue = self._queue
        while queue and not done():
            if queue[0][0] > deadline:
                break
            self.now, _, process, life, source, event = heapq.heappop(queue)
            self.counts["events"] += 1
            if self.counts["events"] > EVENTS_MAX:
                raise Violation(f"I11: STALL: more than {EVENTS_MAX} events")
            self._arrive(process, life, source, event)
        self.now = max(self.now, min(deadline, queue[0][0] if queue else self.now))

    def _arrive(self, process: Process, life: int | None, source: int | None, event: object) -> None:
        if life is not None and life != process.life:
            return
        if source is not None and self._cut(source, process.index):
            return
        awake = self.faults.paused_until(process.index, self.now) if process.honest else self.now
        if awake > self.now:
            self._push(awake, process, life, event, source=source)
            return
        if self._costs is not None and isinstance(event, MessageReceived | CertificateReceived):
            if process.free_at > self.now:
                self._push(process.free_at, process, life, event, source=source)
                return
            process.free_at = self.now + self._costs.seconds(process.index, event)
        self._happen(process, event)

    def _happen(self, process: Process, event: object) -> None:
        match event:
            case "boot":
                if process.engine is None:
                    process.boot()
            case "kill":
                self._kill(process)
            case "wake":
                process._begin([])
            case "change":
                self.changes.act(process)
            case tuple():
                process.synced(list(event))
            case Evidence():
                process.told(event)
            case _:
                if not process.honest:
                    self.plot.hear(getattr(event, "message", getattr(event, "certificate", None)))
                elif isinstance(event, MessageReceived):
                    self.counts["messages"] += 1
                    self.witness.auditor.saw(event.message)
                elif isinstance(event, StartHeight) and event.height > self.target + 2:
                    return
                process.take(event)  # type: ignore[arg-type]

    def _schedule(self) -> None:
        options, rng = self.options, self.rng
        late = self.processes[-1] if options.late_joiner else None
        for process in [*self.processes, *self.twins.values()]:
            at = options.healed_at if process is late else rng.uniform(0, 0.05)
            self._push(at, process, process.life, "boot")
        for kill in self.faults.kills:
            victim = rng.choice(self.processes) if kill.node is None else self.processes[kill.node]
            self._push(kill.at, victim, None, "kill")
        if self._loser is not None:
            self._push(rng.uniform(0.5, options.healed_at), self._loser, None, "kill")
        for process in self.processes:
            if process.traitor is not None and process.traitor.forgets:
                for _ in range(4):
                    self._push(rng.uniform(0.2, options.healed_at), process, None, "kill")
        for at, process in self.changes.schedule():
            self._push(at, process, None, "change")

    def _judge(self) -> None:
        """When all is over."""
        witness = self.witness
        witness.fork_names_culprits()
        if not witness.forks:
            witness.retrievable(p.disk.chain for p in self.honest)
        for process in self.honest:
            if process.engine is not None:
                witness.memory(process.engine, nodes=self.options.nodes)

    # -- time --

    def after(self, seconds: float, process: Process, event: Event) -> None:
        self._push(self.now + seconds, process, process.life, event)

    def set_timer(self, process: Process, seconds: float, event: Event) -> None:
        rate = self._rates[process.index]
        if process.traitor is not None:
            seconds = process.traitor.timer(seconds)
        elif self._jumps and self._faulty and self.rng.random() < 0.1:
            seconds *= self.rng.choice((0.0, 0.0, 20.0))
        self.after(seconds * rate, process, event)

    def again(self, seconds: float, process: Process) -> None:
        """A node's operator has not got what it asked for and asks again."""
        self._push(self.now + seconds, process, None, "change")

    def wake(self, process: Process) -> None:
        """A node that signed nothing because it lost its log may vote again."""
        self._push(self.now, process, process.life, "wake")

    def _push(self, at: float, process: Process, life: int | None, event: object, *, source: int | None = None) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (at, self._sequence, process, life, source, event))

    # -- faults --

    @property
    def _faulty(self) -> bool:
        return self.now < self.options.healed_at

    def _kill(self, process: Process) -> None:
        if process.engine is not None:
            process.die()
            if process is self._loser:
                process.lose_log()
                self._loser = None
            self._push(self.now + self.rng.uniform(0.1, 2), process, process.life, "boot")

    def may_kill(self, process: Process) -> None:
        """Between any two effects, and while records are written."""
        chosen = self.options.kill_effect
        if chosen is not None and chosen == (process.index, process.effects):
            process.effects += 1
            self._push(self.now + 0.5, process, process.life + 1, "boot")
            raise Died
        if self.options.crash and process.honest and self._faulty and self.rng.random() < self.options.crash:
            self._push(self.now + self.rng.uniform(0.05, 2), process, process.life + 1, "boot")
            raise Died

    def disk_fails(self, process: Process) -> bool:
        """A full disk, or fsync gave an error. Somebody repairs it and starts the node again."""
        if not (self.options.disk and process.honest and self._faulty and self.rng.random() < self.options.disk):
            return False
        self._push(self.now + self.rng.uniform(1, 5), process, None, "kill")
        return True

    def work(self) -> float:
        return self.rng.uniform(0, self.options.check_seconds)

    def verdict(self, process: Process, block: Block) -> bool:
        """Whether this node holds every payload that the block lists, from its proposer or from whoever had them, and gets its root."""
        if not root_is_right(block):
            return False
        if block.hash not in self._verified:
            liar = next((p for p in self.processes if p.traitor is not None and p.me == block.header.proposer), None)
            if liar is not None and liar.traitor is not None and not liar.traitor.favours(process.index, block):
                return False
            if process.honest:
                self._verified.add(block.hash)
        return True

    def _heal_a_core(self) -> list[Process]:
        """Phase 2 begins: as many honest nodes as can decide have no more faults among them; the rest are as badly off as before."""
        rng, honest = self.rng, self.honest
        self.target = max(self.target, max((p.disk.state.height for p in honest), default=0) + 1)
        core = list(honest)
        if not self.changes.expected:
            spare = max(self._spare - int(self._amnesic is not None), 0)
            out = set(rng.sample([p.index for p in honest if p is not self._amnesic], rng.randint(0, spare)))
            core = [p for p in honest if p.index not in out]
        self._calm_among = frozenset(p.index for p in core)
        for process in core:
            if process.mute:
                self._push(self.now, process, None, "kill")
        self._ask_again(core)
        return core

    def _heal_everybody(self) -> None:
        self._calm_among = frozenset(range(self.options.nodes))
        for process in self.honest:
            if process.mute:
                self._push(self.now, process, None, "kill")
        self._ask_again(self.honest)

    def _ask_again(self, processes: list[Process]) -> None:
        """Training goes on: who is idle starts the next height."""
        for process in processes:
            self._push(self.now, process, None, StartHeight(process.disk.state.height + 1))

    # -- network --

    def _calm(self, source: int, target: int) -> bool:
        return source in self._calm_among and target in self._calm_among

    def _cut(self, source: int, target: int) -> bool:
        return not self._calm(source, target) and self.faults.cut(source, target, self.now)

    def _is_lost(self, source: int, target: int) -> bool:
        if self._calm(source, target):
            return False
        if self._faulty:
            loss = self.options.loss
        else:  # the rest of the world, when the core is healed
            honest = self.processes[source].honest and self.processes[target].honest
            loss = max(self.options.loss, 0.6) if honest else 0.0
        return (loss > 0 and self.rng.random() < loss) or self.faults.cut(source, target, self.now)

    def hears(self, node: int, author: int) -> bool:
        """Whether what `author` offers to this height can have reached `node`."""
        return self.processes[author].engine is not None and not self._cut(author, node)

    def send_all(self, source: Process, thing: Thing) -> None:
        for target in self._others(source):
            if source.traitor is None:
                self._send(source, target, thing, 0.0)
            else:
                for tampered, delay in source.traitor.tamper(thing, target.index):
                    self._send(source, target, tampered, delay)

    def _others(self, source: Process) -> list[Process]:
        """A twin shows each of its two faces to half of the others, the halves changing from height to height."""
        others = [p for p in self.processes if p.index != source.index]
        if not self.twins:
            return others
        if source.honest:
            return [*others, *self.twins.values()]
        face, height = int(source is self.twins.get(source.index)), source.disk.state.height
        return [p for p in others if (p.index + height + p.index // 2) % 2 == face]

    def _send(self, source: Process, target: Process, thing: Thing, delay: float) -> None:
        if self._is_lost(source.index, target.index):
            return
        try:
            event = self._event(thing, wire=self.options.wire or not source.honest)
        except Malformed:
            return  # a driver would count it and drop it
        if isinstance(event, MessageReceived) and not source.honest and not self._is_signed(event):
            return  # the transport verifies every message before it is one
        copies = 2 if self.options.duplicate and self.rng.random() < self.options.duplicate else 1
        for _ in range(copies):
            calm = self._calm(source.index, target.index)
            at = self._network.delay_seconds(source.index, target.index, thing, now=self.now, calm=calm)
            self._push(self.now + delay + at, target, None, event, source=source.index)

    def _is_signed(self, event: MessageReceived) -> bool:
        message = event.message
        return self.signatures.verify(message.author, message.statement(CHAIN_ID), message.signature)

    def _event(self, thing: Thing, *, wire: bool) -> object:
        """What arrives; a traitor's objects always pass through their encoding, which is where the format is enforced."""
        match thing:
            case Evidence():
                return Evidence.decode(thing.encode())
            case PrepareCertificate() | CommitCertificate() | ViewCertificate():
                return CertificateReceived(decode_certificate(thing.encode()) if wire else thing)
        if wire:
            thing = decode_message(
                CHAIN_ID,
                author=thing.author,
                signature=thing.signature,
                statement=thing.statement(CHAIN_ID),
                attachment=thing.attachment(),
            )
        return MessageReceived(thing)

    def fetch(self, process: Process, effect: FetchBlock) -> None:
        """Ask every holder; those that are up and have it answer."""
        for target in self.processes:
            if (
                target.me in effect.holders
                and target.engine is not None
                and not self._is_lost(process.index, target.index)
            ):
                block = target.block_named(effect.block_hash)
                if block is not None:
                    self._answer(target, process, BlockReceived(block))

    def sync(self, process: Process) -> None:
        others = [p for p in self.processes if p is not process]
        if not others:
            return
        target = self.rng.choice(others)
        if target.engine is not None and not self._is_lost(process.index, target.index):
            chain: Chain = list(target.chain_from(process.disk.state.height))
            self._answer(target, process, tuple(chain))

    def _answer(self, source: Process, target: Process, event: object) -> None:
        calm = self._calm(source.index, target.index)
        there_and_back = sum(
            self._network.delay_seconds(a, b, event, now=self.now, calm=calm)
            for a, b in ((target.index, source.index), (source.index, target.index))
        )
        self._push(self.now + there_and_back, target, target.life, event, source=source.index)

    # -- what happened --

    def decided(self, process: Process, block: Block, certificate: CommitCertificate) -> None:
        self.counts["decisions"] += 1
        self.witness.decided(process.me, block, certificate, at=self.now)
        self.witness.auditor.saw_certificate(certificate)
        for proof in block.evidence:
            self.witness.accused(proof)
        for group, since in cut_off(self.faults.walls, range(self.options.nodes), self.now):
            if process.index in group and not self._calm_among:
                keys = frozenset(self.processes[i].me for i in group)
                self.witness.with_a_quorum(certificate, group=keys, since=since)

    def note(self, process: Process, effect: object) -> None:
        self.trace.note(self.now, process.index, effect)

    @property
    def trace_hash(self) -> str:
        return self.trace.hash


def run(options: Options, *, observer: Observer | None = None, keep_trace: bool = False) -> World:
    """The finished world; raises Violation, whose text says which invariant and how the run was made."""
    world = World(options, observer=observer, keep_trace=keep_trace)
    try:
        world.run()
    except Exception as fault:
        raise Violation(f"{fault} [{options.words()}]") from fault
    return world


def trace_hash(options: Options) -> str:
    """Of a run, whatever came of it."""
    world = World(options)
    try:
        world.run()
    except Violation as fault:
        return hashlib.sha256((world.trace_hash + str(fault)).encode()).hexdigest()
    return world.trace_hash
