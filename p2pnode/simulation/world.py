"""The event-queue simulation: virtual time, a lossy network, processes that die, one traitor, and a witness.

Everything is drawn from the seed in one fixed order, so a seed replays to the same `trace_hash`. `run(options)` raises
`Violation` with the seed in its text.
"""

from __future__ import annotations

import hashlib
import heapq
import random

from consensus import (
    BlockReceived,
    Broadcast,
    CertificateReceived,
    CommitCertificate,
    Engine,
    Event,
    Evidence,
    FetchBlock,
    Malformed,
    MessageReceived,
    Persist,
    PrepareCertificate,
    Rules,
    ViewCertificate,
    decode_certificate,
    decode_message,
)
from p2pnode.simulation.attacks import Thing, Traitor
from p2pnode.simulation.keys import IssuedSignatures
from p2pnode.simulation.ledger import CHAIN_ID, genesis
from p2pnode.simulation.options import Options
from p2pnode.simulation.process import Died, Process
from p2pnode.simulation.witness import Violation, Witness


class World:
    def __init__(self, options: Options, *, engine_class: type[Engine] = Engine) -> None:
        self.options = options
        self.engine_class = engine_class
        self.now = 0.0
        self.signatures = IssuedSignatures()
        self.genesis = genesis(options.founders or options.nodes, Rules(probation_contributions=2))
        self.lines: list[str] = []
        self._rng = random.Random(f"world {options.seed}")
        self._queue: list[tuple[float, int, Process, int, object]] = []
        self._sequence = 0
        self._trace = hashlib.sha256()
        traitor = options.byzantine
        self.processes = [Process(self, i, honest=i != traitor) for i in range(options.nodes)]
        self._rates = [1 + self._rng.uniform(-0.02, 0.02) for _ in self.processes]
        self._traitor = None if traitor is None else Traitor(self.processes[traitor], options.attack, options.nodes)
        self._twin = None
        if options.attack == "twin" and traitor is not None:
            self._twin = Process(self, traitor, honest=False, taste=1)
        honest = {p.me for p in self.processes if p.honest}
        self.witness = Witness(honest, self.signatures, self.genesis)
        self._sides = [self._rng.random() < 0.5 for _ in range(options.nodes)]
        self._split = (self._rng.uniform(0, 2), self._rng.uniform(3, options.healed_at))

    # -- running --

    def run(self) -> None:
        """Until every honest process has decided every height; Violation if that does not happen in time."""
        late = len(self.processes) - 1 if self.options.late_joiner else None
        for process in [*self.processes, *([self._twin] if self._twin else [])]:
            at = self.options.healed_at if process.index == late else self._rng.uniform(0, 0.05)
            self._push(at, process, process.life, "boot")
        if self.options.blackout:
            at = self._rng.uniform(0, 2)
            for process in self.processes:
                self._push(at, process, None, "kill")
        while self._queue and not self._finished():
            self.now, _, process, life, event = heapq.heappop(self._queue)
            if self.now > self.options.deadline:
                raise Violation(f"STALL: {[p.disk.state.height for p in self.processes]}")
            if life is None or life == process.life:
                self._happen(process, event)
        if not self._finished():
            raise Violation("STALL: nothing left to happen")

    def _finished(self) -> bool:
        return all(p.disk.state.height >= self.options.heights for p in self.processes if p.honest)

    def _happen(self, process: Process, event: object) -> None:
        if event == "boot":
            process.boot()
        elif event == "kill":
            if process.engine is not None:
                process.die()
                self._push(self.now + self._rng.uniform(0.1, 2), process, process.life, "boot")
        elif isinstance(event, tuple):
            process.synced(event[0])
        elif isinstance(event, Evidence):
            process.told(event)
        else:
            process.take(event)  # type: ignore[arg-type]

    def after(self, seconds: float, process: Process, event: Event) -> None:
        self._push(self.now + seconds, process, process.life, event)

    def _push(self, at: float, process: Process, life: int | None, event: object) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (at, self._sequence, process, life, event))  # type: ignore[arg-type]

    # -- faults --

    @property
    def _faulty(self) -> bool:
        return self.now < self.options.healed_at

    def may_kill(self, process: Process) -> None:
        if process.honest and self._faulty and self._rng.random() < self.options.crash:
            self._push(self.now + self._rng.uniform(0.05, 2), process, process.life + 1, "boot")
            raise Died

    def clock_rate(self, process: Process) -> float:
        return self._rates[process.index]

    def work(self) -> float:
        return self._rng.uniform(0, self.options.check_seconds)

    def _lost(self, source: Process, target: Process) -> bool:
        if not self._faulty:
            return False
        begin, end = self._split
        apart = self.options.partition and self._sides[source.index] != self._sides[target.index]
        return (apart and begin < self.now < end) or self._rng.random() < self.options.loss

    def _delay(self) -> float:
        mean, spread = self.options.delay_seconds, self.options.spread if self._faulty else 1.0
        return mean * (1 + self._rng.random() * spread) if self._rng.random() < 0.95 else mean * (1 + 5 * spread)

    # -- network --

    def send_all(self, source: Process, thing: Thing) -> None:
        for target in self._others(source):
            if source.honest or self._traitor is None:
                self._send(source, target, thing, 0)
            else:
                for tampered, delay in self._traitor.tamper(thing, target.index):
                    self._send(source, target, tampered, delay)

    def _others(self, source: Process) -> list[Process]:
        """A twin shows each of its two faces to half of the others, the halves changing from height to height."""
        if self._twin is None:
            return [p for p in self.processes if p is not source]
        if not source.honest:
            face = int(source is self._twin)
            height = source.disk.state.height
            return [p for p in self.processes if p.honest and (p.index + height + p.index // 2) % 2 == face]
        return [*[p for p in self.processes if p is not source], self._twin]

    def _send(self, source: Process, target: Process, thing: Thing, delay: float) -> None:
        if self._lost(source, target):
            return
        at = self.now + delay + self._delay()
        try:
            event = self._event(thing, wire=self.options.wire or not source.honest)
        except Malformed:
            return  # a driver would count it and drop it
        self._push(at, target, None, event)

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
            if target.me in effect.holders and not self._lost(process, target):
                block = target.block_named(effect.block_hash) if target.engine or target.honest else None
                if block is not None and target.engine is not None:
                    self.after(2 * self._delay(), process, BlockReceived(block))

    def sync(self, process: Process) -> None:
        target = self._rng.choice([p for p in self.processes if p is not process])
        if target.engine is not None and not self._lost(process, target):
            chain = target.disk.chain[process.disk.state.height :]
            self._push(self.now + 2 * self._delay(), process, process.life, (chain,))

    # -- trace --

    def note(self, process: Process, effect: object) -> None:
        """One line per effect, into the hash; kept only when somebody wants to read them."""
        line = f"{self.now:.6f} n{process.index} {describe(effect)}"
        self._trace.update(line.encode())
        self.lines.append(line)

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()


def describe(effect: object) -> str:
    name = type(effect).__name__
    match effect:
        case Broadcast(message):
            return f"{name} {message.kind.name} {message.height}/{message.view} {message.signature.hex()[:8]}"
        case Persist(record):
            return (
                f"{name} {record.kind.name} {record.height}/{record.view} {hashlib.sha256(record.data).hexdigest()[:8]}"
            )
    shown = [f"{getattr(effect, a)}" for a in ("height", "view", "timer", "reason") if hasattr(effect, a)]
    return " ".join([name, *shown])


def run(options: Options, *, engine_class: type[Engine] = Engine) -> World:
    world = World(options, engine_class=engine_class)
    try:
        world.run()
    except Exception as fault:
        raise Violation(f"{fault} in {options}") from fault
    return world
