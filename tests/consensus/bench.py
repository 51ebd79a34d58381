"""One engine on a bench: signed statements of any node in one line each, for tests of single rules."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from consensus import (
    NIL,
    Begin,
    Block,
    BlockBuilt,
    BlockChecked,
    BlockTemplate,
    Broadcast,
    BuildBlock,
    CertificateReceived,
    ChainState,
    CheckBlock,
    Commit,
    CommitCertificate,
    Contribution,
    Effect,
    Engine,
    Event,
    Join,
    Leave,
    Message,
    MessageReceived,
    Persist,
    Prepare,
    PrepareCertificate,
    Proposal,
    Record,
    StartHeight,
    ViewCertificate,
    ViewStatus,
)
from consensus.votes import commit_statement, prepare_statement
from p2pnode.simulation.keys import IssuedSignatures, key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, contribution, genesis

T = TypeVar("T")
MESSAGES = (Contribution, Leave, Join, Proposal, Prepare, Commit, ViewStatus)


class Bench:
    """`engine` is node `me` of `nodes`; every other node says what the test makes it say."""

    def __init__(
        self, me: int | None = 0, nodes: int = 4, records: Iterable[Record] = (), state: ChainState | None = None
    ):
        self.signatures = IssuedSignatures()
        self.state = state or genesis(nodes)
        self.nodes = nodes
        self.records = list(records)
        self.engine = self.boot(me, self.records)

    def boot(self, me: int | None, records: Iterable[Record]) -> Engine:
        self.me = me
        author = key(me) if me is not None else key(99)
        self.engine = Engine(
            me=None if me is None else author,
            sign=self.signatures.signer(author),
            verify=self.signatures.verify,
            state=self.state,
            records=list(records),
        )
        return self.engine

    def begin(self, height: int = 1) -> list[Effect]:
        return self.step(Begin(), StartHeight(height))

    def step(self, *events: Event | Message) -> list[Effect]:
        """Step each; messages are wrapped. Gives all effects."""
        effects: list[Effect] = []
        for event in events:
            effects += self.engine.step(MessageReceived(event) if isinstance(event, MESSAGES) else event)  # type: ignore[arg-type]
        self.records += [effect.record for effect in effects if isinstance(effect, Persist)]
        return effects

    def accept(self, *events: Event | Message) -> list[Effect]:
        """Step each, and answer every CheckBlock with yes and every BuildBlock with `block()`."""
        effects = self.step(*events)
        for effect in effects:
            if isinstance(effect, CheckBlock):
                effects += self.step(BlockChecked(effect.block.hash, True))
            if isinstance(effect, BuildBlock):
                effects += self.step(BlockBuilt(effect.height, effect.view, block_on(effect.template, [])))
        return effects

    # -- what others say --

    def sign(self, message: T) -> T:
        signature = self.signatures.signer(message.author)(message.statement(CHAIN_ID))  # type: ignore[attr-defined]
        return replace(message, signature=signature)  # type: ignore[type-var]

    def block(self, proposer: int, *contributors: int) -> Block:
        listed = [contribution(self.signatures, i, self.state) for i in contributors]
        return block_on(BlockTemplate(self.state, key(proposer)), listed)

    def block_on(self, state: ChainState, *contributors: int, **template: object) -> Block:
        """The block of view 0 that follows any state."""
        height = state.height + 1
        listed = [contribution(self.signatures, i, state) for i in contributors]
        proposer = state.membership.current.proposer(height, 0)
        return block_on(BlockTemplate(state, proposer, **template), listed)  # type: ignore[arg-type]

    def proposal(self, author: int, view: int, block: Block, certificate: PrepareCertificate | None = None) -> Proposal:
        return self.sign(Proposal(key(author), block.height, view, block, certificate, b""))

    def prepare(self, author: int, view: int, block: Block | None, valid_view: int = -1, height: int = 1) -> Prepare:
        return self.sign(Prepare(key(author), height, view, block.hash if block else NIL, valid_view, b""))

    def commit(self, author: int, view: int, block: Block | None, height: int = 1) -> Commit:
        return self.sign(Commit(key(author), height, view, block.hash if block else NIL, b""))

    def status(self, author: int, view: int, prepared: PrepareCertificate | None = None) -> ViewStatus:
        return self.sign(ViewStatus(key(author), 1, view, prepared, None, b""))

    def prepared(self, view: int, block: Block, authors: Iterable[int], valid_view: int = -1) -> PrepareCertificate:
        statement = prepare_statement(CHAIN_ID, block.height, view, block.hash, valid_view)
        signers = tuple((key(i), self.signatures.signer(key(i))(statement)) for i in authors)
        return PrepareCertificate(block.height, view, block.hash, valid_view, signers)

    def committed(self, view: int, block: Block, authors: Iterable[int]) -> CommitCertificate:
        statement = commit_statement(CHAIN_ID, block.height, view, block.hash)
        signers = tuple((key(i), self.signatures.signer(key(i))(statement)) for i in authors)
        return CommitCertificate(block.height, view, block.hash, signers)

    def view_ends(
        self, view: int, authors: Iterable[int], height: int = 1, votes: Iterable[Commit] = ()
    ) -> ViewCertificate:
        """Of NIL votes, or of those given."""
        votes = [*votes] or [self.commit(i, view, None, height) for i in authors]
        return ViewCertificate(height, view, tuple((v.author, v.block_hash, v.signature) for v in votes))

    def show(self, certificate: PrepareCertificate | CommitCertificate | ViewCertificate) -> list[Effect]:
        return self.accept(CertificateReceived(certificate))


def of(kind: type[T], effects: Iterable[object]) -> list[T]:
    return [effect for effect in effects if isinstance(effect, kind)]


def said(kind: type[T], effects: Iterable[object]) -> list[T]:
    """The messages of this kind that the engine broadcast."""
    return [e.message for e in of(Broadcast, effects) if isinstance(e.message, kind)]
