"""What must hold whatever happens: checked at every effect of an honest node. A slow, obvious second opinion on the engine.

Every check looks at what left a node (statements, decisions, evidence) and at its log, never at the engine's own bookkeeping.
"""

from consensus import (
    NIL,
    Block,
    Broadcast,
    ChainState,
    Commit,
    CommitCertificate,
    Contribution,
    Decide,
    Evidence,
    Prepare,
    Proposal,
    PublicKey,
    Record,
    ViewStatus,
    check_block,
    check_certificate,
    check_evidence,
)
from consensus.record import content_of
from p2pnode.simulation.keys import IssuedSignatures
from p2pnode.simulation.ledger import CHAIN_ID, root_is_right


class Violation(AssertionError):
    """An invariant is broken; the text says which."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


class Witness:
    def __init__(self, honest: set[PublicKey], signatures: IssuedSignatures, state: ChainState) -> None:
        self.honest = honest
        self._signatures = signatures
        self.states = [state]  # by height, from the first decision of each
        self._said: dict[tuple[PublicKey, int, int, int], bytes] = {}
        self._locks: dict[tuple[PublicKey, int], tuple[int, bytes]] = {}
        self.decided_in_view: list[int] = []
        self.accused: set[PublicKey] = set()
        self._contents: dict[Record, object] = {}
        self._prepares: dict[tuple[int, int, bytes], dict[int, set[PublicKey]]] = {}  # honest ones, by valid view

    def broadcast(self, author: PublicKey, effect: Broadcast, log: list[Record]) -> None:
        message = effect.message
        require(message.author == author, "a message in somebody else's name")
        statement = message.statement(CHAIN_ID)
        require(self._signatures.verify(author, statement, message.signature), "a broadcast that was not signed")
        if isinstance(message, ViewStatus | Contribution):
            return
        committee = self.states[message.height - 1].membership.current
        require(author in committee, "a vote by somebody who has none")
        slot = (author, message.kind, message.height, message.view)
        require(self._said.setdefault(slot, statement) == statement, f"signed twice: {slot}")
        held = [self._content(record) for record in log if record.height == message.height]
        require(message in held, "a vote left before its record was durable")
        self._durable_first(message, held)
        self._lock(message)
        self._backed(message)

    def _content(self, record: Record) -> object:
        if record not in self._contents:
            self._contents[record] = content_of(record, chain_id=CHAIN_ID)
        return self._contents[record]

    def _durable_first(self, vote: Proposal | Prepare | Commit, held: list) -> None:
        """What a vote rests on is in the log before it."""
        if isinstance(vote, Prepare) and vote.block_hash != NIL:
            blocks = [t if isinstance(t, Block) else t.block for t in held if isinstance(t, Block | Proposal)]
            require(any(b.hash == vote.block_hash for b in blocks), "PREPARE of a block that is not durable")
        if isinstance(vote, Commit) and vote.block_hash != NIL:
            names = [(c.view, c.block_hash) for c in held if type(c).__name__ == "PrepareCertificate"]
            require((vote.view, vote.block_hash) in names, "COMMIT without a durable prepare certificate")

    def _lock(self, vote: Proposal | Prepare | Commit) -> None:
        """The paper's lock, from the statements alone: it only rises, and binds every later PREPARE."""
        key = (vote.author, vote.height)
        lock = self._locks.get(key)
        if isinstance(vote, Commit) and vote.block_hash != NIL:
            require(lock is None or lock[0] <= vote.view, "a lock that went back")
            self._locks[key] = (vote.view, vote.block_hash)
        if isinstance(vote, Prepare) and vote.block_hash != NIL and lock is not None and vote.view > lock[0]:
            free = vote.block_hash == lock[1] or vote.valid_view >= lock[0]
            require(free, f"PREPARE against the lock of view {lock[0]}, in view {vote.view}")

    def _backed(self, vote: Proposal | Prepare | Commit) -> None:
        """A COMMIT, and a vote for something prepared earlier, rests on a quorum, the traitors helping."""
        if vote.block_hash == NIL:
            return
        if isinstance(vote, Prepare):
            slot = (vote.height, vote.view, vote.block_hash)
            self._prepares.setdefault(slot, {}).setdefault(vote.valid_view, set()).add(vote.author)
        view = vote.view if isinstance(vote, Commit) else vote.valid_view
        if view >= 0:
            honest = self._prepares.get((vote.height, view, vote.block_hash), {}).values()
            most = max((len(authors) for authors in honest), default=0)
            members = self.states[vote.height - 1].membership.current.members
            possible = most + sum(1 for member in members if member not in self.honest)
            require(3 * possible > 2 * len(members), f"{vote.kind.name} that rests on no quorum")

    def decided(self, effect: Decide) -> None:
        block, certificate = effect.block, effect.certificate
        require(block.height <= len(self.states), "a height decided before the one below it")
        before = self.states[block.height - 1]
        problem = check_block(block, before, self._signatures.verify) or self._certificate(certificate, before)
        require(problem is None, f"decided what does not hold: {problem}")
        require(3 * len(certificate.signers) > 2 * len(before.membership.current), "decided by two thirds or less")
        require(certificate.block_hash == block.hash, "a certificate of another block")
        require(root_is_right(block), "decided a root that nobody can reproduce")
        if block.height == len(self.states):
            self.states.append(before.after(block, certificate))
            self.decided_in_view.append(certificate.view)
        require(self.states[block.height].block_hash == block.hash, f"FORK at height {block.height}")

    def _certificate(self, certificate: CommitCertificate, before: ChainState) -> str | None:
        committee = before.membership.current
        return check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=self._signatures.verify)

    def evidence(self, evidence: Evidence) -> None:
        require(evidence.author not in self.honest, f"an honest node was accused of {evidence.kind}")
        problem = check_evidence(evidence, chain_id=CHAIN_ID, verify=self._signatures.verify)
        require(problem is None, f"evidence that proves nothing: {problem}")
        self.accused.add(evidence.author)
