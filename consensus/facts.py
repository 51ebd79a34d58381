"""What this node has seen of one height: proposals, votes, certificates, blocks. Knowledge only grows.

Facts are about any view, whatever the node itself is doing: a certificate of an old view still decides.  # rule C2
Here messages are checked against the committee and for conflicts; nothing here votes, waits or sends (height.py).

For editing: every collection has a bound, and a bound may never drop what a verified certificate names, or may name later.
"""

from typing import Protocol

from consensus.block import Block
from consensus.certificate import (
    Certificate,
    CommitCertificate,
    PrepareCertificate,
    ViewCertificate,
    check_certificate,
)
from consensus.chain import ChainState, check_block
from consensus.encoding import Kind
from consensus.evidence import EvidenceKind, Signed, is_amnesia
from consensus.identifiers import NIL, Digest, PublicKey, Signature
from consensus.limits import BLOCKS_PER_HEIGHT_MAX, VIEWS_AHEAD_MAX, VIEWS_KEPT_MAX
from consensus.messages import Commit, Prepare, Proposal, ViewStatus
from consensus.tally import Poll, Value
from consensus.verified import VerifiedSignatures
from consensus.votes import NO_VIEW, commit_statement, prepare_statement

_DOUBLE = {Kind.PREPARE: EvidenceKind.DOUBLE_PREPARE, Kind.COMMIT: EvidenceKind.DOUBLE_COMMIT}


class Observer(Protocol):
    """Who hears about what is wrong with other people's messages."""

    def suspect(self, author: PublicKey, *signed: Signed) -> None: ...

    def refuse(self, peer: PublicKey | None, reason: str) -> None: ...

    def notice(self, block: Block) -> None: ...


class ViewFacts:
    """One view. At most two proposals are kept: the first, and one that proves the proposer's equivocation."""

    __slots__ = ("certificate", "commits", "prepares", "proposals", "statuses")

    def __init__(self, quorum: int) -> None:
        self.proposals: list[Proposal] = []
        self.prepares = Poll(quorum)
        self.commits = Poll(quorum)
        self.statuses: set[PublicKey] = set()
        self.certificate: PrepareCertificate | None = None


class Facts:
    """Of the height after `state`. `view` is the window's centre; `move_to` keeps it where the node is."""

    def __init__(self, state: ChainState, *, verify: VerifiedSignatures, observer: Observer) -> None:
        self.state = state
        self.height = state.height + 1
        self.committee = state.membership.current
        self.prepared: PrepareCertificate | None = None  # the highest of any view: the paper's valid value
        self.view_certificate: ViewCertificate | None = None  # the highest
        self.decision: CommitCertificate | None = None
        self._quorum = self.committee.quorum()
        self._verify = verify
        self._observer = observer
        self._view = 0
        self._views: dict[int, ViewFacts] = {}
        self._blocks: dict[Digest, Block] = {}
        self._unfit: dict[Digest, str] = {}
        self._vouched: set[Digest] = set()
        self._accepted: set[tuple[int, int, Digest, int]] = set()
        self._suspected: set[tuple[PublicKey, EvidenceKind]] = set()

    # -- what is known --

    def of_view(self, view: int) -> ViewFacts:
        facts = self._views.get(view)
        if facts is None:
            facts = self._views[view] = ViewFacts(self._quorum)
        return facts

    def block(self, block_hash: Digest) -> Block | None:
        """A block that passed `check_block`."""
        return self._blocks.get(block_hash)

    def missing(self) -> list[CommitCertificate | PrepareCertificate]:
        """Certificates whose block is not held; their signers hold it."""
        if self.decision is None and self.prepared is None:
            return []
        named = [certificate for certificate in (self.decision, self.prepared) if certificate is not None]
        return [c for c in named if c.block_hash not in self._blocks and c.block_hash not in self._unfit]

    def certificates(self) -> list[PrepareCertificate | CommitCertificate]:
        """Everything that a quorum stands behind, in whatever view: what shows others who is to blame for a fork.  # rule A3"""
        shown: list[PrepareCertificate | CommitCertificate] = []
        for view, facts in sorted(self._views.items()):
            for name, valid_view in (value for value in facts.prepares.won if value[0] != NIL):
                signers = facts.prepares.signers((name, valid_view))
                shown.append(PrepareCertificate(self.height, view, name, valid_view, signers))
            for name, none in (value for value in facts.commits.won if value[0] != NIL):
                shown.append(CommitCertificate(self.height, view, name, facts.commits.signers((name, none))))
        return shown

    # -- what arrives --

    def add_proposal(self, proposal: Proposal) -> None:
        """Keep a proposal of the right proposer whose justification holds; else as if it never came.  # rule P3"""
        if proposal.author != self.committee.proposer(self.height, proposal.view):
            known = self.state.membership.knows(proposal.author)  # other keys are free, and must leave nothing here
            if known and self._suspects(proposal.author, EvidenceKind.WRONG_PROPOSER):
                self._observer.suspect(proposal.author, self._signed(proposal))  # rule E6
            self._observer.refuse(proposal.author, "a proposal out of turn")
            return
        if not self._within(proposal.view):
            return
        seen = self.of_view(proposal.view).proposals
        if any(_same_proposal(proposal, other) for other in seen):
            return
        if proposal.certificate is not None:
            problem = self.add_certificate(proposal.certificate)
            if problem is not None:
                self._observer.refuse(proposal.author, f"a proposal whose justification fails: {problem}")
                return
        if seen and self._suspects(proposal.author, EvidenceKind.DOUBLE_PROPOSAL):
            self._observer.suspect(proposal.author, self._signed(seen[0]), self._signed(proposal))  # rule E1
        if len(seen) < 2:
            seen.append(proposal)
            self.add_block(proposal.block, sender=proposal.author)

    def add_vote(self, vote: Prepare | Commit) -> None:
        if vote.author not in self.committee:
            self._observer.refuse(vote.author, "a vote from outside the committee")
        elif self._within(vote.view):
            value = (vote.block_hash, vote.valid_view if isinstance(vote, Prepare) else NO_VIEW)
            self._count(vote.kind, vote.view, vote.author, value, vote.signature)

    def add_status(self, status: ViewStatus) -> None:
        """A status counts once its certificates hold.  # rule W2"""
        if status.author not in self.committee:
            self._observer.refuse(status.author, "a view status from outside the committee")
            return
        for shown in (status.prepared, status.view_certificate):
            problem = None if shown is None else self.add_certificate(shown)
            if problem is not None:
                self._observer.refuse(status.author, f"a view status whose certificate fails: {problem}")
                return
        if self._within(status.view):
            self.of_view(status.view).statuses.add(status.author)

    def add_certificate(self, certificate: Certificate) -> str | None:
        """Verify and take it whole, whatever its view; gives the reason if it fails.  # rule C1, C2"""
        if certificate.height != self.height:
            return "a certificate of another height"
        match certificate:
            case ViewCertificate():
                name = (certificate.tag, certificate.view, NIL, NO_VIEW)
            case PrepareCertificate():
                name = (certificate.tag, certificate.view, certificate.block_hash, certificate.valid_view)
            case CommitCertificate():
                name = (certificate.tag, certificate.view, certificate.block_hash, NO_VIEW)
        if name in self._accepted and self._knows_votes_of(certificate):
            return None
        if isinstance(certificate, ViewCertificate) and certificate.view < self._view:
            return None  # it opens nothing any more, so it is not worth verifying
        problem = check_certificate(certificate, self.committee, chain_id=self.state.chain_id, verify=self._verify)
        if problem is None:
            self._accepted.add(name)
            self._take(certificate)
        return problem

    def add_block(self, block: Block, *, sender: PublicKey | None) -> None:
        """Hold a block of this height if it is one that may follow, and if there is room or a certificate names it."""
        named = any(c.block_hash == block.hash for c in self.missing())
        if block.hash in self._blocks or block.hash in self._unfit:
            return
        if not named and self._unneeded() >= BLOCKS_PER_HEIGHT_MAX:
            return
        problem = check_block(block, self.state, self._verify)
        if problem is not None:
            self._unfit[block.hash] = problem
            self._observer.refuse(sender, problem)
            return
        self._blocks[block.hash] = block
        self._observer.notice(block)

    def restore_block(self, block: Block) -> None:
        """From our own log, checked before it was written."""
        self._blocks[block.hash] = block

    def vouch(self, block_hash: Digest) -> None:
        """We voted for it, so a certificate may name it at any time, and then others ask us for it."""
        self._vouched.add(block_hash)

    def move_to(self, view: int) -> None:
        """The node entered `view`: forget views long past, and blocks that nothing names any more.  # rule V6"""
        self._view = view
        for old in [v for v in self._views if v < view - VIEWS_KEPT_MAX]:
            del self._views[old]
        if self._unneeded() >= BLOCKS_PER_HEIGHT_MAX // 2:
            named = {c.block_hash for c in (self.prepared, self.decision) if c is not None} | self._vouched
            named |= {p.block_hash for v, f in self._views.items() if v >= view for p in f.proposals}
            self._blocks = {name: block for name, block in self._blocks.items() if name in named}
            self._unfit = {name: reason for name, reason in self._unfit.items() if name in named}

    # -- helpers --

    def _unneeded(self) -> int:
        """Blocks held that we did not vote for: those are one per view at most, and views get longer."""
        return len(self._blocks.keys() - self._vouched) + len(self._unfit)

    def _knows_votes_of(self, certificate: Certificate) -> bool:
        """Nothing in it is new. Otherwise it may show a vote that conflicts with one seen here.  # rule E1"""
        facts = self.of_view(certificate.view)
        match certificate:
            case PrepareCertificate():
                value = (certificate.block_hash, certificate.valid_view)
                return all(facts.prepares.has(author, value) for author, _ in certificate.signers)
            case CommitCertificate():
                return all(
                    facts.commits.has(author, (certificate.block_hash, NO_VIEW)) for author, _ in certificate.signers
                )
            case ViewCertificate():
                return all(facts.commits.has(author, (name, NO_VIEW)) for author, name, _ in certificate.entries)

    def _within(self, view: int) -> bool:
        return self._view - VIEWS_KEPT_MAX <= view <= self._view + VIEWS_AHEAD_MAX

    def _take(self, certificate: Certificate) -> None:
        """Every vote inside counts as if it had come alone, and where a quorum agrees exempt from the cap on conflicting votes.

        Not in a view certificate: of honest COMMITs and a third or hundredth of its own, a traitor makes as many as it likes.  # rule V5
        """
        view = certificate.view
        match certificate:
            case PrepareCertificate():
                value = (certificate.block_hash, certificate.valid_view)
                for author, signature in certificate.signers:
                    self._count(Kind.PREPARE, view, author, value, signature, certified=True)
            case CommitCertificate():
                for author, signature in certificate.signers:
                    self._count(Kind.COMMIT, view, author, (certificate.block_hash, NO_VIEW), signature, certified=True)
            case ViewCertificate():
                for author, block_hash, signature in certificate.entries:
                    self._count(Kind.COMMIT, view, author, (block_hash, NO_VIEW), signature)
                if self.view_certificate is None or view > self.view_certificate.view:
                    self.view_certificate = certificate

    def _count(
        self, kind: Kind, view: int, author: PublicKey, value: Value, signature: Signature, *, certified: bool = False
    ) -> None:
        facts = self.of_view(view)
        poll = facts.prepares if kind == Kind.PREPARE else facts.commits
        if poll.has(author, value):
            return  # the same vote again counts once
        first = poll.add(author, value, signature, certified=certified)
        if first is not None and self._suspects(author, _DOUBLE[kind]):
            one, other = (self._statement(kind, view, v) for v in (first[0], value))
            self._observer.suspect(author, (one, first[1]), (other, signature))  # rule E1
        kept = poll.has(author, value)  # else one too many, of an author who is known for it
        if kept and value[0] != NIL and len(self._views) > 1:
            self._look_for_amnesia(kind, view, author, value, signature)
        if poll.won and poll.won[-1] == value and value[0] != NIL:
            self._certify(kind, view, value, poll, facts)

    def _look_for_amnesia(self, kind: Kind, view: int, author: PublicKey, value: Value, signature: Signature) -> None:
        """A COMMIT and a later PREPARE of one author may prove that it forgot its lock, whichever comes first.  # rule A2"""
        for at, facts in self._views.items():
            later = at > view
            if at == view or later != (kind == Kind.COMMIT):
                continue
            for other, other_signature in (facts.prepares if later else facts.commits).of(author):
                commit, prepare = ((view, value), (at, other)) if later else ((at, other), (view, value))
                forgot = is_amnesia((commit[0], commit[1][0]), (prepare[0], *prepare[1]))
                if forgot and self._suspects(author, EvidenceKind.AMNESIA):
                    first = (self._statement(Kind.COMMIT, *commit), signature if later else other_signature)
                    second = (self._statement(Kind.PREPARE, *prepare), other_signature if later else signature)
                    self._observer.suspect(author, first, second)

    def _certify(self, kind: Kind, view: int, value: Value, poll: Poll, facts: ViewFacts) -> None:
        """A quorum for a block: a decision, or something prepared. Taken from the votes, never from a proposal.  # rule C3"""
        if kind == Kind.COMMIT:
            if self.decision is None:
                self.decision = CommitCertificate(self.height, view, value[0], poll.signers(value))
        elif facts.certificate is None:
            facts.certificate = PrepareCertificate(self.height, view, value[0], value[1], poll.signers(value))
            if self.prepared is None or view > self.prepared.view:
                self.prepared = facts.certificate

    def _statement(self, kind: Kind, view: int, value: Value) -> bytes:
        if kind == Kind.PREPARE:
            return prepare_statement(self.state.chain_id, self.height, view, value[0], value[1])
        return commit_statement(self.state.chain_id, self.height, view, value[0])

    def _suspects(self, author: PublicKey, kind: EvidenceKind) -> bool:
        """The first reason at this height to say so; one proof per author and kind says all.  # rule E3"""
        known = len(self._suspected)
        self._suspected.add((author, kind))
        return len(self._suspected) > known

    def _signed(self, proposal: Proposal) -> Signed:
        return proposal.statement(self.state.chain_id), proposal.signature


def _same_proposal(one: Proposal, other: Proposal) -> bool:
    return (one.block_hash, one.valid_view) == (other.block_hash, other.valid_view)
