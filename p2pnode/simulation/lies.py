"""Behaviours that lie about votes and proposals. See traitors.py for what a behaviour is, adversaries.py for the list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from consensus import (
    NIL,
    Block,
    BlockTemplate,
    ChainState,
    Commit,
    Committee,
    Contribution,
    Digest,
    Leave,
    Prepare,
    PrepareCertificate,
    Proposal,
    Signature,
    ViewStatus,
)
from consensus.block import certificate_hash, contributions_hash
from p2pnode.simulation.ledger import BAD_PAYLOAD, block_on, contribution, model_root
from p2pnode.simulation.traitors import CERTIFICATES, Behaviour, Sent, Thing, Traitor

UNSIGNED = Signature(bytes(64))


class Equivocating(Behaviour):
    """One value to half of the nodes, another to the rest, and sometimes both to somebody."""

    kinds: tuple[type, ...] = (Proposal, Prepare, Commit)

    def tamper(self, thing: Thing, to: int) -> Sent:
        if not isinstance(thing, self.kinds):
            yield thing, 0.0
            return
        assert isinstance(thing, Proposal | Prepare | Commit)
        changed = other(self.traitor, thing)
        if self.rng.random() < 0.1:
            yield from ((thing, 0.0), (changed, 0.0))
        else:
            yield (thing if (to + thing.view) % 2 else changed), 0.0


class EquivocatingProposer(Equivocating):
    kinds = (Proposal,)


class EquivocatingPrepare(Equivocating):
    kinds = (Prepare,)


class EquivocatingCommit(Equivocating):
    kinds = (Commit,)


class ForgedValidView(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        if not isinstance(thing, Prepare) or thing.view == 0:
            yield thing, 0.0
            return
        blocks = self.plot.blocks.get(thing.height, [])
        block_hash = self.rng.choice(blocks).hash if blocks else thing.block_hash
        valid_view = self.rng.randrange(-1, thing.view) if block_hash != NIL else -1
        yield self.traitor.signed(replace(thing, block_hash=block_hash, valid_view=valid_view)), 0.0


class Unjustified(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        if not isinstance(thing, Proposal) or thing.view == 0:
            yield thing, 0.0
            return
        held = [c for c in self.plot.certificates.get(thing.height, []) if isinstance(c, PrepareCertificate)]
        blocks = self.plot.blocks.get(thing.height, [])
        block = self.rng.choice(blocks) if blocks else thing.block
        if not held or self.rng.random() < 0.3:
            yield self.traitor.signed(replace(thing, block=block, certificate=None)), 0.0
            return
        certificate = replace(self.rng.choice(held), block_hash=block.hash)
        if self.rng.random() < 0.5:
            certificate = replace(certificate, view=thing.view - 1, valid_view=-1)
        yield self.traitor.signed(replace(thing, block=block, certificate=certificate)), 0.0


class Withhold(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        if isinstance(thing, Prepare | Commit):
            if to == (thing.height + thing.view) % self.plot.nodes:
                yield thing, 0.0
        elif isinstance(thing, ViewStatus):
            yield self.traitor.signed(replace(thing, prepared=None)), 0.0
        elif not isinstance(thing, CERTIFICATES):
            yield thing, 0.0


class LateRelease(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        candidates = [thing]
        if isinstance(thing, Proposal | Prepare | Commit):
            candidates.append(other(self.traitor, thing))
        for candidate in candidates:
            if self.rng.random() < 0.6:
                yield candidate, self.rng.choice((0.0, 0.1, 1.0, 4.0, 10.0))


class Amnesia(Behaviour):
    """Prepares whatever is proposed, whatever it committed before; its process is killed and comes back without its log."""

    forgets = True

    def tamper(self, thing: Thing, to: int) -> Sent:
        if isinstance(thing, Prepare) and thing.block_hash == NIL:
            proposals = [p for p in self.plot.heard if isinstance(p, Proposal)]
            fitting = [p for p in proposals if (p.height, p.view) == (thing.height, thing.view)]
            if fitting:
                chosen = fitting[-1]
                yield (
                    self.traitor.signed(replace(thing, block_hash=chosen.block_hash, valid_view=chosen.valid_view)),
                    0.0,
                )
                return
        yield thing, 0.0


class SilentProposer(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        if not isinstance(thing, Proposal):
            yield thing, 0.0


class Silent(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        return ()


class SlowProposer(Behaviour):
    """T_propose is 1.4 s and grows by a quarter per view."""

    def tamper(self, thing: Thing, to: int) -> Sent:
        slow = isinstance(thing, Proposal)
        yield thing, (1.4 * 1.25 ** min(thing.view, 12) * self.rng.uniform(0.8, 1.05) if slow else 0.0)


class WrongRoot(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        if isinstance(thing, Proposal) and thing.certificate is None:
            thing = self.traitor.signed(replace(thing, block=self._wrong(thing.block)))
        elif isinstance(thing, Prepare) and thing.block_hash != NIL and thing.valid_view < 0:
            right = [b for b in self.plot.blocks.get(thing.height, []) if b.hash == thing.block_hash]
            if right:
                thing = self.traitor.signed(replace(thing, block_hash=self._wrong(right[0]).hash))
        yield thing, 0.0

    def _wrong(self, block: Block) -> Block:
        root = Digest(block.header.model_root[::-1])
        return replace(block, header=replace(block.header, model_root=root))


class WrongAggregate(WrongRoot):
    def _wrong(self, block: Block) -> Block:
        """The root that fewer contributions lead to."""
        root = model_root(block.header.previous_root, block.contributions[1:])
        return replace(block, header=replace(block.header, model_root=root))


class WithholdData(Behaviour):
    def favours(self, node: int, block: Block) -> bool:
        return (node + block.height) % 2 == 0


class TwoPayloads(Behaviour):
    def spam(self, to: int) -> Iterable[Thing]:
        world, state = self.traitor.process.world, self.traitor.process.disk.state
        yield self._offered(state, b"" if to % 2 else b"another")
        if self.rng.random() < 0.2:
            yield self._offered(state, b"another" if to % 2 else b"")
        assert world

    def _offered(self, state: ChainState, salt: bytes) -> Contribution:
        return contribution(self.traitor.process.world.signatures, self.traitor.process.index, state, salt=salt)


class BadPayload(Behaviour):
    def contributes(self) -> tuple[bytes, ...]:
        return (BAD_PAYLOAD,)


class Lunatic(Behaviour):
    """Blocks that name another committee, chain or past, or carry what nobody signed."""

    def tamper(self, thing: Thing, to: int) -> Sent:
        if isinstance(thing, Proposal) and thing.certificate is None:
            thing = self.traitor.signed(replace(thing, block=self._odd(thing.block)))
        elif isinstance(thing, Prepare) and thing.valid_view < 0:
            odd = [b for b in self.plot.blocks.get(thing.height, []) if b.header.proposer == self.traitor.me]
            if odd and self.rng.random() < 0.5:
                thing = self.traitor.signed(replace(thing, block_hash=odd[-1].hash))
        yield thing, 0.0

    def _odd(self, block: Block) -> Block:
        """The same one for everybody, so that it could be decided."""
        alone, header = Committee.of([self.traitor.me]), block.header
        turned = (
            replace(block, header=replace(header, next_committee_hash=alone.hash)),
            replace(block, header=replace(header, committee_hash=alone.hash)),
            replace(block, header=replace(header, membership_hash=Digest(header.membership_hash[::-1]))),
            replace(block, header=replace(header, chain_id=Digest(header.chain_id[::-1]))),
            replace(block, header=replace(header, previous=Digest(header.previous[::-1]))),
            self._unsigned_contribution(block),
            self._unsigned_certificate(block),
            self._forged_leave(block),
        )
        odd = turned[header.model_root[0] % len(turned)]
        self.plot.hear(Proposal(self.traitor.me, odd.height, 0, odd, None, UNSIGNED))
        return odd

    def _unsigned_contribution(self, block: Block) -> Block:
        listed = tuple(replace(c, signature=UNSIGNED) for c in block.contributions)
        return replace(
            block, header=replace(block.header, contributions_hash=contributions_hash(listed)), contributions=listed
        )

    def _forged_leave(self, block: Block) -> Block:
        """Somebody else is said to want to go."""
        state = self.traitor.process.disk.state
        victims = [member for member in state.membership.next.members if member != self.traitor.me]
        if state.height + 1 != block.height or not victims:
            return block
        forged = Leave(victims[0], block.height, UNSIGNED)
        return block_on(BlockTemplate(state, self.traitor.me, requests=(forged,)), block.contributions)

    def _unsigned_certificate(self, block: Block) -> Block:
        if block.last_certificate is None:
            return block
        signers = tuple((author, UNSIGNED) for author, _ in block.last_certificate.signers)
        forged = replace(block.last_certificate, signers=signers)
        header = replace(block.header, last_certificate_hash=certificate_hash(forged))
        return replace(block, header=header, last_certificate=forged)


class ClockSkew(Behaviour):
    def timer(self, seconds: float) -> float:
        return seconds * self.rng.choice((0.01, 0.5, 1.0, 2.0, 100.0))


def other(traitor: Traitor, thing: Proposal | Prepare | Commit) -> Proposal | Prepare | Commit:
    """A different statement for the same slot."""
    rng, plot = traitor.plot.rng, traitor.plot
    if isinstance(thing, Proposal):
        return other_proposal(traitor, thing)
    names = [NIL, *(b.hash for b in plot.blocks.get(thing.height, []))]
    others = [name for name in names if name != thing.block_hash] or [Digest(b"\1" * 32)]
    changed = replace(thing, block_hash=rng.choice(others))
    if isinstance(changed, Prepare) and changed.block_hash == NIL:
        changed = replace(changed, valid_view=-1)
    return traitor.signed(changed)


def other_proposal(traitor: Traitor, proposal: Proposal) -> Proposal:
    process = traitor.process
    state = process.disk.state
    if state.height + 1 != proposal.height:
        return proposal
    template = BlockTemplate(state, traitor.me)
    chosen = traitor.plot.rng.randrange(traitor.plot.nodes)
    block = block_on(template, [contribution(process.world.signatures, chosen, state)])
    traitor.plot.hear(replace(proposal, block=block, certificate=None))
    return traitor.signed(replace(proposal, block=block, certificate=None))
