"""Behaviours that lie with certificates, floods, false answers and false accusations. See traitors.py for what a behaviour is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from consensus import (
    NIL,
    Block,
    BlockTemplate,
    Commit,
    CommitCertificate,
    Digest,
    Evidence,
    Malformed,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    Signature,
    ViewCertificate,
)
from consensus.evidence import evidence_of
from consensus.votes import commit_statement
from p2pnode.simulation.adversaries import BEHAVIOURS
from p2pnode.simulation.forgery import spoil
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution
from p2pnode.simulation.lies import (
    Amnesia,
    BadPayload,
    ClockSkew,
    Equivocating,
    EquivocatingCommit,
    EquivocatingPrepare,
    EquivocatingProposer,
    ForgedValidView,
    LateRelease,
    Lunatic,
    Silent,
    SilentProposer,
    SlowProposer,
    TwoPayloads,
    Unjustified,
    Withhold,
    WithholdData,
    WrongAggregate,
    WrongRoot,
)
from p2pnode.simulation.traitors import Behaviour, Chain, Sent, Thing, Traitor

UNSIGNED = Signature(bytes(64))


class BadCertificates(Behaviour):
    def tamper(self, thing: Thing, to: int) -> Sent:
        yield thing, 0.0
        if isinstance(thing, PrepareCertificate | CommitCertificate):
            yield replace(thing, signers=spoil(self.rng, thing.signers)), 0.0
            yield replace(thing, block_hash=NIL), 0.0
        elif isinstance(thing, ViewCertificate) and len(thing.entries) > 1:
            yield replace(thing, entries=(*thing.entries[1:], thing.entries[-1])), 0.0

    def spam(self, to: int) -> Iterable[Thing]:
        known = self.plot.certificates.get(self.traitor.height, [])
        if known:
            chosen = self.rng.choice(known)
            yield replace(chosen, signers=spoil(self.rng, chosen.signers))


class StaleCommittee(Behaviour):
    """Signers that are or were members, as many as a quorum, of whom only the traitors signed this."""

    def spam(self, to: int) -> Iterable[Thing]:
        blocks = self.plot.blocks.get(self.traitor.height, [])
        if not blocks:
            return
        name = self.rng.choice(blocks).hash
        old = self.traitor.process.disk.chain[0][1].signers if self.traitor.process.disk.chain else ()
        view = self.rng.randrange(self.traitor.view + 1)
        statement = commit_statement(CHAIN_ID, self.traitor.height, view, name)
        sign = self.traitor.process.world.signatures.signer
        mine = {member: sign(member)(statement) for member in self.plot.members}
        yield CommitCertificate(self.traitor.height, view, name, tuple(sorted({**dict(old), **mine}.items())))


class Replay(Behaviour):
    def spam(self, to: int) -> Iterable[Thing]:
        if self.plot.heard:
            yield self.rng.choice(self.plot.heard)
        heights = sorted(self.plot.certificates)
        if heights:
            chosen = self.rng.choice(self.plot.certificates[self.rng.choice(heights)])
            yield chosen
            yield replace(chosen, height=self.traitor.height)
            yield replace(chosen, height=chosen.height + self.rng.choice((1, 2, 7)))
            yield replace(chosen, view=chosen.view + 1)


class Flood(Behaviour):
    def spam(self, to: int) -> Iterable[Thing]:
        height, view, draw = self.traitor.height, self.traitor.view, self.rng.randrange
        for _ in range(4):
            name = Digest(self.rng.randbytes(32))
            yield self.traitor.signed(Prepare(self.traitor.me, height, view + draw(1000), name, -1, UNSIGNED))
            yield self.traitor.signed(Commit(self.traitor.me, height + draw(1000), draw(50), name, UNSIGNED))
            yield self.traitor.signed(Commit(self.traitor.me, height + draw(3), view + draw(2), name, UNSIGNED))


class LyingHeight(Behaviour):
    def spam(self, to: int) -> Iterable[Thing]:
        far = self.traitor.height + self.rng.choice((2, 3, 50, 10_000))
        yield self.traitor.signed(Commit(self.traitor.me, far, 0, NIL, UNSIGNED))
        known = self.plot.certificates.get(self.traitor.height - 1, [])
        if known:
            yield replace(known[0], height=far)

    def chain(self, chain: Chain) -> Chain:
        return []


class WrongBlock(Behaviour):
    def block(self, block: Block | None) -> Block | None:
        known = [b for blocks in self.plot.blocks.values() for b in blocks]
        return self.rng.choice(known) if known and self.rng.random() < 0.8 else block


class BadDonor(Behaviour):
    def chain(self, chain: Chain) -> Chain:
        if not chain or self.rng.random() < 0.3:
            return chain[:-1]
        *good, (block, certificate) = chain
        header = replace(block.header, model_root=Digest(block.header.model_root[::-1]))
        spoiled = replace(block, header=header)
        forged = replace(certificate, block_hash=spoiled.hash)
        return [*good, self.rng.choice(((spoiled, certificate), (spoiled, forged), (block, forged)))]


class LongRange(Behaviour):
    """Another history from the genesis on, decided by nobody but the traitors."""

    def chain(self, chain: Chain) -> Chain:
        process = self.traitor.process
        state, told = process.world.genesis, []
        sign = process.world.signatures.signer
        for _ in range(3):
            template = BlockTemplate(state, self.traitor.me)
            block = block_on(template, [contribution(process.world.signatures, process.index, state, salt=b"history")])
            statement = commit_statement(CHAIN_ID, block.height, 0, block.hash)
            signers = tuple(sorted((member, sign(member)(statement)) for member in self.plot.members))
            certificate = CommitCertificate(block.height, 0, block.hash, signers)
            told.append((block, certificate))
            state = state.after(block, certificate)
        return told if self.rng.random() < 0.7 else chain


class Framing(Behaviour):
    """True statements under another key, swapped signatures, and proofs about nothing."""

    def spam(self, to: int) -> Iterable[Thing]:
        victim = key(self.rng.randrange(self.plot.nodes))
        proposals = [m for m in self.plot.heard if isinstance(m, Proposal)]
        if proposals:  # as if it had been out of turn
            shown = self.rng.choice(proposals)
            yield evidence_of(shown.author, (shown.statement(CHAIN_ID), shown.signature))
        heard = [m for m in self.plot.heard if isinstance(m, Prepare | Commit)]
        if len(heard) < 2:
            return
        one, two = self.rng.choice(heard), self.rng.choice(heard)
        mine = self.traitor.signed(Commit(self.traitor.me, self.traitor.height, 0, Digest(b"\1" * 32), UNSIGNED))
        for author, first, second in ((victim, one, two), (one.author, one, mine), (victim, mine, one)):
            evidence = _accusation(author, first, second)
            if evidence is not None:
                yield evidence


class Collusion(Behaviour):
    """Something else at every height."""

    def __init__(self, traitor: Traitor) -> None:
        super().__init__(traitor)
        self._acts: dict[int, Behaviour] = {}

    def _act(self) -> Behaviour:
        height = self.traitor.height
        if height not in self._acts:
            names = [name for name in BEHAVIOURS if name not in ("collusion", "amnesia")]
            self._acts = {height: behaviour_named(self.rng.choice(names))(self.traitor)}
        return self._acts[height]

    def tamper(self, thing: Thing, to: int) -> Sent:
        return self._act().tamper(thing, to)

    def spam(self, to: int) -> Iterable[Thing]:
        return self._act().spam(to)

    def block(self, block: Block | None) -> Block | None:
        return self._act().block(block)

    def chain(self, chain: Chain) -> Chain:
        return self._act().chain(chain)


class RemovedVoter(Equivocating):
    """Gets itself voted out, and goes on as if nothing had happened."""

    def spam(self, to: int) -> Iterable[Thing]:
        process = self.traitor.process
        height, blocks = self.traitor.height, self.plot.blocks.get(self.traitor.height, [])
        name = self.rng.choice(blocks).hash if blocks else NIL
        for view in (0, 1):
            yield self.traitor.signed(Prepare(self.traitor.me, height, view, name, -1, UNSIGNED))
            yield self.traitor.signed(Commit(self.traitor.me, height, view, name, UNSIGNED))
        state = process.disk.state
        block = block_on(BlockTemplate(state, self.traitor.me), [contribution(process.world.signatures, to, state)])
        yield self.traitor.signed(Proposal(self.traitor.me, height, 0, block, None, UNSIGNED))


def _accusation(author: bytes, first: Prepare | Commit, second: Prepare | Commit) -> Evidence | None:
    pairs = [(m.statement(CHAIN_ID), m.signature) for m in (first, second)]
    try:
        return evidence_of(PublicKey(author), pairs[0], pairs[1])
    except Malformed:
        return None


_BEHAVIOURS: dict[str, type[Behaviour]] = {
    "equivocating-proposer": EquivocatingProposer,
    "equivocating-prepare": EquivocatingPrepare,
    "equivocating-commit": EquivocatingCommit,
    "forged-valid-view": ForgedValidView,
    "unjustified": Unjustified,
    "withhold": Withhold,
    "late-release": LateRelease,
    "amnesia": Amnesia,
    "silent-proposer": SilentProposer,
    "silent": Silent,
    "slow-proposer": SlowProposer,
    "wrong-aggregate": WrongAggregate,
    "wrong-root": WrongRoot,
    "withhold-data": WithholdData,
    "two-payloads": TwoPayloads,
    "bad-payload": BadPayload,
    "bad-certificates": BadCertificates,
    "stale-committee": StaleCommittee,
    "replay": Replay,
    "flood": Flood,
    "lying-height": LyingHeight,
    "wrong-block": WrongBlock,
    "bad-donor": BadDonor,
    "long-range": LongRange,
    "lunatic": Lunatic,
    "framing": Framing,
    "clock-skew": ClockSkew,
    "collusion": Collusion,
    "removed-voter": RemovedVoter,
}


def behaviour_named(name: str) -> type[Behaviour]:
    return _BEHAVIOURS[name]
