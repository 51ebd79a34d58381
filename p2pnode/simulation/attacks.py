"""What a traitor does to what its own, honest engine wants to say. It has its own key and everything that it has heard.

`tamper(thing, to)` gives what is sent to node `to` in its place, each with an extra delay. A traitor may sign anything in its
own name and may keep anything back; it cannot forge other people's signatures.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from consensus import (
    NIL,
    Block,
    BlockTemplate,
    Commit,
    CommitCertificate,
    Digest,
    Evidence,
    Message,
    Prepare,
    PrepareCertificate,
    Proposal,
    ViewCertificate,
    ViewStatus,
)
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution

if TYPE_CHECKING:
    from p2pnode.simulation.process import Process

Thing = Message | PrepareCertificate | CommitCertificate | ViewCertificate | Evidence
Sent = Iterable[tuple[Thing, float]]


class Traitor:
    """Knows the blocks and certificates that were ever sent by itself, and draws from the seed."""

    def __init__(self, process: Process, attack: str, nodes: int) -> None:
        self._process = process
        self._attack = attack
        self._nodes = nodes
        self._rng = random.Random(f"traitor {process.world.options.seed}")
        self._blocks: dict[int, list[Block]] = {}
        self._certificates: dict[int, list[PrepareCertificate]] = {}

    def tamper(self, thing: Thing, to: int) -> Sent:
        if isinstance(thing, Proposal) and thing.block not in self._blocks.setdefault(thing.height, []):
            self._blocks[thing.height].append(thing.block)
        if isinstance(thing, Prepare | Commit):
            self._learn(thing)
        if isinstance(thing, PrepareCertificate):
            self._certificates.setdefault(thing.height, []).append(thing)
        return list(getattr(self, f"_{self._attack}")(thing, to))

    # -- attacks --

    def _none(self, thing: Thing, to: int) -> Sent:
        yield thing, 0

    _twin = _none  # two engines with one key: world.py

    def _silent(self, thing: Thing, to: int) -> Sent:
        return ()

    def _equivocate(self, thing: Thing, to: int) -> Sent:
        """One value to half of the nodes, another to the rest, and sometimes both to somebody."""
        other = self._other(thing)
        if self._rng.random() < 0.1:
            yield from ((thing, 0), (other, 0))
        else:
            yield (thing if (to + _view(thing)) % 2 else other), 0

    def _withhold(self, thing: Thing, to: int) -> Sent:
        """Hidden locks: a vote that completes a quorum reaches one node only, and no certificate is passed on."""
        if isinstance(thing, Prepare | Commit):
            if to == (thing.height + thing.view) % self._nodes:
                yield thing, 0
        elif isinstance(thing, Proposal):
            yield thing, 0
        elif isinstance(thing, ViewStatus):
            yield self._signed(replace(thing, prepared=None)), 0

    def _late(self, thing: Thing, to: int) -> Sent:
        """Old votes, and votes for other values, released when the views have moved on."""
        for candidate in (thing, self._other(thing)):
            if self._rng.random() < 0.6:
                yield candidate, self._rng.choice((0, 0.1, 1, 4, 10))

    def _forge(self, thing: Thing, to: int) -> Sent:
        """Votes with an invented valid view; proposals justified by nothing, or by another view's certificate."""
        if isinstance(thing, Prepare) and thing.view > 0:
            blocks = self._blocks.get(thing.height, [])
            block_hash = self._rng.choice(blocks).hash if blocks else thing.block_hash
            valid_view = self._rng.randrange(-1, thing.view) if block_hash != NIL else -1
            yield self._signed(replace(thing, block_hash=block_hash, valid_view=valid_view)), 0
        elif isinstance(thing, Proposal) and thing.view > 0:
            yield self._forged_proposal(thing), 0
        else:
            yield thing, 0

    def _garbage(self, thing: Thing, to: int) -> Sent:
        """Certificates with repeated, foreign, bad or missing entries next to honest behaviour."""
        yield thing, 0
        if isinstance(thing, PrepareCertificate | CommitCertificate):
            signers = thing.signers
            broken = self._rng.choice(
                (
                    signers[:-1],
                    (*signers, signers[-1]),
                    tuple(reversed(signers)),
                    ((signers[0][0], signers[1][1]), *signers[1:]),
                    ((self._process.me[::-1], signers[0][1]), *signers[1:]),
                )
            )
            yield replace(thing, signers=broken), 0
            yield replace(thing, view=thing.view + 1), 0
            yield replace(thing, block_hash=NIL), 0
            yield replace(thing, height=thing.height + self._rng.choice((1, 2, 7))), 0

    def _wrong_root(self, thing: Thing, to: int) -> Sent:
        """Proposes a result that nobody can reproduce, and votes for it."""
        if isinstance(thing, Proposal) and thing.certificate is None:
            thing = self._signed(replace(thing, block=self._wrong(thing.block)))
        if isinstance(thing, Prepare) and thing.block_hash != NIL and thing.valid_view < 0:
            wrong = [self._wrong(b) for b in self._blocks.get(thing.height, []) if b.hash == thing.block_hash]
            thing = self._signed(replace(thing, block_hash=wrong[0].hash)) if wrong else thing
        yield thing, 0

    # -- parts --

    def _wrong(self, block: Block) -> Block:
        root = Digest(block.header.model_root[::-1])
        header = replace(block.header, model_root=root)
        return Block(header, block.contributions, block.evidence, block.requests, block.last_certificate)

    def _learn(self, vote: Prepare | Commit) -> None:
        """Any block its own process has seen may be voted for."""
        for block in self._process.known_blocks():
            if block.height == vote.height and block not in self._blocks.setdefault(vote.height, []):
                self._blocks[vote.height].append(block)

    def _other(self, thing: Thing) -> Thing:
        """A different statement for the same slot."""
        if isinstance(thing, Proposal):
            return self._other_proposal(thing)
        if isinstance(thing, Prepare | Commit):
            names = [NIL, *(b.hash for b in self._blocks.get(thing.height, []))]
            others = [name for name in names if name != thing.block_hash] or [Digest(b"\1" * 32)]
            changed = replace(thing, block_hash=self._rng.choice(others))
            if isinstance(changed, Prepare) and changed.block_hash == NIL:
                changed = replace(changed, valid_view=-1)
            return self._signed(changed)
        return thing

    def _other_proposal(self, proposal: Proposal) -> Proposal:
        state = self._process.disk.state
        if state.height + 1 != proposal.height:
            return proposal
        template = BlockTemplate(state, self._process.me)
        chosen = self._rng.randrange(self._nodes)
        block = block_on(template, [contribution(self._process.world.signatures, chosen, state)])
        return self._signed(replace(proposal, block=block, certificate=None))

    def _forged_proposal(self, proposal: Proposal) -> Proposal:
        certificates = self._certificates.get(proposal.height, [])
        if not certificates:
            return self._other_proposal(proposal)
        certificate = replace(self._rng.choice(certificates), block_hash=proposal.block_hash)
        if self._rng.random() < 0.5:
            certificate = replace(certificate, view=proposal.view - 1)
        return self._signed(replace(proposal, certificate=certificate))

    def _signed(self, message: Message) -> Message:
        sign = self._process.world.signatures.signer(self._process.me)
        return replace(message, signature=sign(message.statement(CHAIN_ID)))


def _view(thing: Thing) -> int:
    return int(thing.view)
