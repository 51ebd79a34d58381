"""What the traitors of a lock-step scenario can sign and assemble: their hand of cards.

They know every vote and block of the run, share their keys with one another, and forge nobody else's signature.
"""

import random
from functools import lru_cache

from consensus import (
    NIL,
    Block,
    BlockTemplate,
    Certificate,
    ChainState,
    Commit,
    CommitCertificate,
    Digest,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    Signature,
    ViewCertificate,
)
from consensus.certificate import Signers
from consensus.messages import proposal_statement
from consensus.votes import commit_statement, prepare_statement
from p2pnode.simulation.keys import KeyedSignatures, key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution, wrong_root

SIGNATURES = KeyedSignatures()
Slot = tuple[int, Digest, int]  # view, block, valid view


@lru_cache(maxsize=65536)
def prepare(index: int, height: int, view: int, block_hash: Digest, valid_view: int) -> Prepare:
    statement = prepare_statement(CHAIN_ID, height, view, block_hash, valid_view)
    return Prepare(key(index), height, view, block_hash, valid_view, SIGNATURES.signer(key(index))(statement))


@lru_cache(maxsize=65536)
def commit(index: int, height: int, view: int, block_hash: Digest) -> Commit:
    statement = commit_statement(CHAIN_ID, height, view, block_hash)
    return Commit(key(index), height, view, block_hash, SIGNATURES.signer(key(index))(statement))


def proposal(index: int, view: int, block: Block, certificate: PrepareCertificate | None) -> Proposal:
    valid_view = -1 if certificate is None else certificate.view
    statement = proposal_statement(CHAIN_ID, block.height, view, block.hash, valid_view)
    signature = SIGNATURES.signer(key(index))(statement)
    return Proposal(key(index), block.height, view, block, certificate, signature)


def forget() -> None:
    prepare.cache_clear()
    commit.cache_clear()


class Hand:
    """Everything follows from `rng`, which is the scenario's own."""

    def __init__(self, rng: random.Random, traitors: list[int], state: ChainState, *, plan: str = "random") -> None:
        self._rng = rng
        # "careful" traitors contradict themselves in no slot and agree on what to vote for: only amnesia convicts them. "two-faced" ones
        # tell one half of the nodes one consistent story and the rest another.
        self._plan = plan
        self._traitors = traitors
        self.next_height(state)

    def next_height(self, state: ChainState) -> None:
        self._height = state.height + 1
        self._prepares: dict[Slot, dict[PublicKey, Signature]] = {}
        self._commits: dict[tuple[int, Digest], dict[PublicKey, Signature]] = {}
        self.blocks: dict[bytes, Block] = {}
        self._proposed: dict[tuple[int, int], tuple[Digest, int]] = {}  # by (view, face): (block, valid view)
        self._agreed: dict[tuple[int, int, type], tuple[Digest, int]] = {}
        self._told: dict[tuple[int, int, type], bool] = {}
        if self._traitors:
            template = BlockTemplate(state, key(self._traitors[0]))
            for salt in (b"a", b"b"):
                listed = [contribution(SIGNATURES, self._traitors[0], state, salt=salt)]
                self._add(block_on(template, listed))
            self._add(wrong_root(template, listed))

    def overhear(self, message: Proposal | Prepare | Commit) -> None:
        if isinstance(message, Proposal):
            self._add(message.block)
            for face in (0, 1):
                self._proposed[message.view, face] = (message.block_hash, message.valid_view)
        elif message.block_hash != NIL:
            if isinstance(message, Prepare):
                slot = (message.view, message.block_hash, message.valid_view)
                self._prepares.setdefault(slot, {})[message.author] = message.signature
            else:
                self._commits.setdefault((message.view, message.block_hash), {})[message.author] = message.signature

    def _add(self, block: Block) -> None:
        if block.height == self._height:
            self.blocks[block.hash] = block

    # -- what they say --

    def proposal(self, traitor: int, view: int, *, to: int) -> Proposal | None:
        """Any block, fresh, or any block that ever was prepared, with whatever certificate its votes make, full or not."""
        certificates: list[PrepareCertificate | None] = [None] * len(self.blocks)
        named = list(self.blocks.values())
        for slot in sorted(self._prepares):
            if slot[0] < view and slot[1] in self.blocks:
                certificates.append(self._prepared(slot))
                named.append(self.blocks[slot[1]])
        choice = self._rng.randrange(len(named) + 1)
        if choice == len(named) and self._rng.random() < 0.5:
            return None
        choice = min(choice, len(named) - 1)
        if self._plan != "random":
            told_to = (view, self._face(to))
            if told_to in self._proposed:
                told = self._proposed[told_to]
                choice = next(i for i, b in enumerate(named) if b.hash == told[0])
                if self._plan == "careful" or told[1] != -1:
                    return None  # said once; who did not get it did not get it
            certificate = certificates[choice]
            self._proposed[told_to] = (named[choice].hash, -1 if certificate is None else certificate.view)
        return proposal(traitor, view, named[choice], certificates[choice])

    def votes(self, traitor: int, view: int, kind: type[Prepare] | type[Commit], *, to: int) -> list[Prepare | Commit]:
        if self._plan != "random":
            return self._planned_vote(traitor, view, kind, to=to)
        names = [NIL, *self.blocks]
        votes: list[Prepare | Commit] = []
        draw = self._rng.random
        for _ in range(1 if draw() < 0.8 else 2):
            name = Digest(names[int(draw() * len(names))])
            if kind is Commit:
                votes.append(commit(traitor, self._height, view, name))
            else:
                valid = int(draw() * (view + 1)) - 1 if name != NIL and view and draw() < 0.5 else -1
                votes.append(prepare(traitor, self._height, view, name, valid))
        return votes

    def _face(self, to: int) -> int:
        return to % 2 if self._plan == "two-faced" else 0

    def _planned_vote(
        self, traitor: int, view: int, kind: type[Prepare] | type[Commit], *, to: int
    ) -> list[Prepare | Commit]:
        """What all of them say in this view, to whom they like: mostly for the block that was proposed, whatever they committed before."""
        face = self._face(to)
        agreed = self._agreed.get((view, face, kind))
        if agreed is None:
            agreed = self._proposed.get((view, face), (NIL, -1)) if self._rng.random() < 0.8 else (NIL, -1)
            self._agreed[view, face, kind] = agreed
        told = self._told.get((view, to, kind))
        if told is None:
            told = self._told[view, to, kind] = self._rng.random() < 0.75
        if not told:
            return []
        name, valid_view = agreed
        if kind is Commit:
            return [commit(traitor, self._height, view, name)]
        return [prepare(traitor, self._height, view, name, valid_view)]

    def certificate(self, view: int) -> Certificate | None:
        """Of votes that exist, now and then spoiled in one of the ways that a careless check overlooks."""
        made: list[Certificate] = [self._prepared(slot) for slot in sorted(self._prepares)]
        for past, name in sorted(self._commits):
            signers = dict(self._commits[past, name])
            own_words = self._plan != "careful" or self._agreed.get((past, 0, Commit), (NIL, -1))[0] == name
            for traitor in self._traitors if own_words else ():
                signers[key(traitor)] = commit(traitor, self._height, past, name).signature
            made.append(CommitCertificate(self._height, past, name, tuple(sorted(signers.items()))))
        if not made:
            return None
        chosen = self._rng.choice(made)
        return chosen if self._rng.random() < 0.4 else self._spoiled(chosen)

    def _prepared(self, slot: Slot) -> PrepareCertificate:
        view, block_hash, valid_view = slot
        signers = dict(self._prepares[slot])
        own_words = self._plan != "careful" or self._agreed.get((view, 0, Prepare)) == (block_hash, valid_view)
        for traitor in self._traitors if own_words else ():
            own = prepare(traitor, self._height, view, block_hash, valid_view)
            signers[own.author] = own.signature
        return PrepareCertificate(self._height, view, block_hash, valid_view, tuple(sorted(signers.items())))

    def _spoiled(self, certificate: Certificate) -> Certificate:
        assert not isinstance(certificate, ViewCertificate)
        signers = spoil(self._rng, certificate.signers)
        if isinstance(certificate, CommitCertificate):
            block_hash = certificate.block_hash if self._rng.random() < 0.8 else NIL
            return CommitCertificate(certificate.height, certificate.view, block_hash, signers)
        view = certificate.view if self._rng.random() < 0.8 else certificate.view + 1
        return PrepareCertificate(certificate.height, view, certificate.block_hash, certificate.valid_view, signers)


def spoil(rng: random.Random, signers: Signers) -> Signers:
    """Entries repeated, foreign, badly signed, out of order or missing, as many as would make a quorum."""
    (author, signature), last = signers[0], signers[-1]
    match rng.randrange(5):
        case 0:
            return (*signers, last, last)
        case 1:
            strangers = tuple((key(100 + i), signature) for i in range(3))
            return (*signers, *strangers)
        case 2:
            bad = tuple((key(i), Signature(bytes(64))) for i in range(7) if key(i) not in dict(signers))
            return tuple(sorted((*signers, *bad)))
        case 3:
            return tuple(reversed(signers))
        case _:
            return ((author, last[1]), *signers[1:])
