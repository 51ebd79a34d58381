"""A traitor: an honest engine whose mouth, answers and memory are tampered with by one or several behaviours.

All traitors of a world share one `Conspiracy`: what any of them heard, and their keys. They may sign anything in their own names and
may keep anything back; they cannot forge other people's signatures. `lies.py` and `noise.py` have the behaviours, each a subclass of
`Behaviour` that overrides what it lies about; several on one traitor tamper in turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from consensus import (
    Block,
    Certificate,
    Commit,
    CommitCertificate,
    Evidence,
    Message,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    ViewCertificate,
    ViewStatus,
)
from p2pnode.simulation.ledger import CHAIN_ID

if TYPE_CHECKING:
    from p2pnode.simulation.process import Process

Thing: TypeAlias = Message | Certificate | Evidence
Sent: TypeAlias = Iterable[tuple[Thing, float]]
Chain: TypeAlias = list[tuple[Block, CommitCertificate]]
M = TypeVar("M", bound=Message)

HEARD_MAX = 400
CERTIFICATES = (PrepareCertificate, CommitCertificate, ViewCertificate)


class Conspiracy:
    """What the traitors know together. `rng` is theirs alone, so that they never change the draws of the rest of the world."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.rng = random.Random(f"traitors {seed}")
        self.nodes = nodes
        self.members: list[PublicKey] = []
        self.blocks: dict[int, list[Block]] = {}
        self.certificates: dict[int, list[PrepareCertificate | CommitCertificate]] = {}
        self.heard: list[Thing] = []
        self.released: dict[str, object] = {}

    def hear(self, thing: object) -> None:
        match thing:
            case PrepareCertificate() | CommitCertificate():
                self._learn_certificate(thing)
            case Proposal():
                self._learn_block(thing.block)
                if thing.certificate is not None:
                    self._learn_certificate(thing.certificate)
            case ViewStatus() if thing.prepared is not None:
                self._learn_certificate(thing.prepared)
            case _:
                pass
        if isinstance(thing, Prepare | Commit | Proposal | ViewStatus | Evidence | ViewCertificate):
            if len(self.heard) >= HEARD_MAX:
                self.heard[self.rng.randrange(HEARD_MAX)] = thing
            else:
                self.heard.append(thing)

    def _learn_block(self, block: Block) -> None:
        known = self.blocks.setdefault(block.height, [])
        if len(known) < 16 and all(block.hash != other.hash for other in known):
            known.append(block)

    def _learn_certificate(self, certificate: PrepareCertificate | CommitCertificate) -> None:
        known = self.certificates.setdefault(certificate.height, [])
        if len(known) < 16 and certificate not in known:
            known.append(certificate)


class Behaviour:
    """Honest in everything that a subclass does not override."""

    forgets = False  # restarts without its log, now and then

    def __init__(self, traitor: Traitor) -> None:
        self.traitor = traitor
        self.plot = traitor.plot
        self.rng = traitor.plot.rng

    def tamper(self, thing: Thing, to: int) -> Sent:
        """What is sent to node `to` in place of `thing`, each with an extra delay."""
        yield thing, 0.0

    def spam(self, to: int) -> Iterable[Thing]:
        """Said to node `to` besides."""
        return ()

    def block(self, block: Block | None) -> Block | None:
        """The answer to somebody's FetchBlock."""
        return block

    def chain(self, chain: Chain) -> Chain:
        """The answer to somebody who is behind."""
        return chain

    def timer(self, seconds: float) -> float:
        return seconds

    def favours(self, node: int, block: Block) -> bool:
        """Whether `node` may have the payloads that this block of ours lists."""
        return True

    def contributes(self) -> tuple[bytes, ...]:
        """Salts of the contributions that our own proposals list."""
        return (b"",)


class Traitor:
    """The behaviours of one traitor, applied in turn."""

    def __init__(self, process: Process, plot: Conspiracy, behaviours: Iterable[type[Behaviour]]) -> None:
        self.process = process
        self.plot = plot
        self.behaviours = [behaviour(self) for behaviour in behaviours]
        self.forgets = any(behaviour.forgets for behaviour in self.behaviours)

    def tamper(self, thing: Thing, to: int) -> list[tuple[Thing, float]]:
        self.plot.hear(thing)
        sent: list[tuple[Thing, float]] = [(thing, 0.0)]
        for behaviour in self.behaviours:
            sent = [(changed, delay + more) for given, delay in sent for changed, more in behaviour.tamper(given, to)]
        if self.plot.rng.random() < 0.3:
            sent += [(extra, 0.0) for behaviour in self.behaviours for extra in behaviour.spam(to)]
        return sent

    def block(self, block: Block | None) -> Block | None:
        for behaviour in self.behaviours:
            block = behaviour.block(block)
        return block

    def chain(self, chain: Chain) -> Chain:
        for behaviour in self.behaviours:
            chain = behaviour.chain(chain)
        return chain

    def timer(self, seconds: float) -> float:
        for behaviour in self.behaviours:
            seconds = behaviour.timer(seconds)
        return seconds

    def favours(self, node: int, block: Block) -> bool:
        return all(behaviour.favours(node, block) for behaviour in self.behaviours)

    def contributes(self) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys(salt for b in self.behaviours for salt in b.contributes())) or (b"",)

    # -- parts for behaviours --

    @property
    def me(self) -> PublicKey:
        return self.process.me

    @property
    def height(self) -> int:
        return self.process.disk.state.height + 1

    @property
    def view(self) -> int:
        return 0 if self.process.engine is None else self.process.engine.view

    def signed(self, message: M) -> M:
        """In our own name, whatever it says."""
        mine = replace(message, author=self.me)
        sign = self.process.world.signatures.signer(self.me)
        return replace(mine, signature=sign(mine.statement(CHAIN_ID)))
