"""One height, as one node lives it: views, steps, the lock, and what to say when. Tendermint's rules with certificates.

Every branch cites its rule in SPEC.md, and the table there leads on to the lines of the paper ("The latest gossip on BFT
consensus", algorithm 1). Knowledge stands in facts.py, signatures in journal.py, heights and buffers in engine.py.

An observer runs the same steps with a journal that signs nothing: it follows views, asks for blocks and decides.

For editing: `_rules` is evaluated after every event until nothing changes; a rule is a method that gives True if it acted.
Rules of step and lock act in the current view only; deciding and certificates act in any view.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum

from consensus.block import Block
from consensus.certificate import CommitCertificate, PrepareCertificate, ViewCertificate
from consensus.chain import BlockTemplate
from consensus.effects import BroadcastCertificate, BuildBlock, CheckBlock, Effect, FetchBlock, SetTimer, to_all
from consensus.encoding import Kind
from consensus.events import Timer, TimerKind
from consensus.facts import Facts, ViewFacts
from consensus.identifiers import NIL, Digest, PublicKey
from consensus.journal import UNSIGNED, Journal
from consensus.messages import Commit, Prepare, Proposal, ViewStatus
from consensus.record import Vote
from consensus.timeouts import Timeouts
from consensus.votes import NO_VIEW


class Step(IntEnum):
    """What the node waits for in its view. The step only goes forward."""

    PROPOSE = 0
    PREPARE = 1
    COMMIT = 2


class Height:
    """`decided` is set once and ends it."""

    def __init__(
        self,
        *,
        facts: Facts,
        journal: Journal,
        timeouts: Timeouts,
        emit: Callable[[Effect], None],
        template: Callable[[PublicKey], BlockTemplate],
    ) -> None:
        self.facts = facts
        self.height = facts.height
        self.view = 0
        self.step = Step.PROPOSE
        self.lock: tuple[int, Digest] | None = None  # (view, block hash) of our last COMMIT for a block
        self.decided: tuple[Block, CommitCertificate] | None = None
        self._journal = journal
        self._timeouts = timeouts
        self._emit = emit
        self._template = template
        self._checks: dict[Digest, bool | None] = {}  # None: asked and not answered
        self._checked_in: dict[Digest, int] = {}  # the view in which it was asked
        self._done: set[tuple[str, int]] = set()  # things done once per view
        self._fetching: set[Digest] = set()

    # -- begin --

    def start(self) -> None:
        self._enter(0)
        self._run()

    def resume(self, kept: Sequence[Block | PrepareCertificate | ViewCertificate | Vote]) -> None:
        """Go on at the highest view with a durable vote, at that vote's step.  # rule X2"""
        facts, journal = self.facts, self._journal
        journal.restore(kept)
        for thing in kept:
            match thing:
                case Block():
                    facts.restore_block(thing)
                case PrepareCertificate() | ViewCertificate():
                    facts.add_certificate(thing)
                case Proposal():
                    facts.restore_block(thing.block)
        votes = journal.votes()
        if not votes:
            self.start()
            return
        last = votes[-1]
        self.view = last.view
        facts.move_to(last.view)
        for vote in votes:
            self._count_own(vote)
            if vote.kind == Kind.COMMIT and vote.block_hash != NIL:
                self.lock = (vote.view, vote.block_hash)  # rule X3
        self.step = {Kind.PROPOSAL: Step.PROPOSE, Kind.PREPARE: Step.PREPARE, Kind.COMMIT: Step.COMMIT}[last.kind]
        self._tell_status()
        self._arm(TimerKind.PROPOSE)
        for said in self.to_repeat():
            self._emit(to_all(said))
        self._run()

    # -- events --

    def receive(self, message: Proposal | Prepare | Commit | ViewStatus) -> None:
        match message:
            case Proposal():
                self.facts.add_proposal(message)
            case Prepare() | Commit():
                self.facts.add_vote(message)
            case ViewStatus():
                self.facts.add_status(message)
        self._run()

    def receive_certificate(self, certificate: PrepareCertificate | CommitCertificate | ViewCertificate) -> str | None:
        problem = self.facts.add_certificate(certificate)
        self._run()
        return problem

    def receive_block(self, block: Block) -> None:
        """Only blocks that a certificate names are taken this way.  # rule B5"""
        if any(c.block_hash == block.hash for c in self.facts.missing()):
            self.facts.add_block(block, sender=None)
            self._run()

    def built(self, view: int, block: Block) -> None:
        """The driver's block for our proposal; too late if the view moved on or a prepared block turned up.  # rule P2"""
        stale = view != self.view or not self._may_propose() or self.facts.prepared is not None
        if stale or ("ask", view) not in self._done:
            return
        self.facts.add_block(block, sender=self._journal.me)
        if (
            self.facts.block(block.hash) is not None and self._may_propose()
        ):  # the block may have shown that our key is elsewhere
            self._checks[block.hash] = True
            self._send_proposal(block, None)
        self._run()

    def checked(self, block_hash: Digest, ok: bool) -> None:
        if block_hash in self._checks and self._checks[block_hash] is None:
            self._checks[block_hash] = ok
            self._run()

    def timer(self, kind: TimerKind, view: int) -> None:
        """Alarms of another view, or of a step that is over, mean nothing.  # rule T3"""
        if view != self.view or self.decided is not None:
            return
        match kind:
            case TimerKind.SYNC:
                self._done.add(("synced", view))
            case TimerKind.PROPOSE if self.step == Step.PROPOSE:
                self._prepare(NIL, NO_VIEW)  # rule V4 (L57)
            case TimerKind.PREPARE if self.step == Step.PREPARE:
                self._commit(NIL)  # rule L4 (L61)
            case TimerKind.COMMIT if self.facts.decision is None:
                self._enter(view + 1)  # rule W3 (L65)
            case _:
                return
        self._run()

    def to_repeat(self) -> list[Vote | PrepareCertificate | ViewCertificate | CommitCertificate]:
        """What a lost message may have hidden from others.  # rule R1"""
        if self._journal.me is None:
            return []
        shown = (self.facts.prepared, self.facts.view_certificate, self.facts.decision)
        return [*self._journal.of_view(self.view), *(c for c in shown if c is not None)]

    def silence(self) -> None:
        """Follow and decide like an observer from now on.  # rule X6"""
        self._journal.silence()

    def fetch_again(self) -> None:
        self._fetching.clear()
        self._fetch()

    # -- rules --

    def _run(self) -> None:
        while self.decided is None and self._rules():
            pass

    def _rules(self) -> bool:
        self._fetch()
        if self.facts.decision is not None:
            return self._rule_decide()
        current = self.facts.of_view(self.view)
        return (
            self._rule_follow()
            or (self.step == Step.PROPOSE and (self._rule_propose(current) or self._rule_vote(current)))
            or (self.step == Step.PREPARE and (self._rule_lock(current) or self._rule_nothing(current)))
            or self._rule_view_ends(current)
        )

    def _rule_decide(self) -> bool:
        """A quorum of COMMITs in any view, and the block.  # rule C2 (L49)"""
        decision = self.facts.decision
        assert decision is not None
        block = self.facts.block(decision.block_hash)
        if block is not None:
            self.decided = (block, decision)
            self._timeouts.decided_in(decision.view)
        return False

    def _rule_follow(self) -> bool:
        """A view certificate of a later view takes us there, and no further.  # rule W4"""
        certificate = self.facts.view_certificate
        if certificate is None or certificate.view <= self.view:
            return False
        self._enter(certificate.view)
        return True

    def _rule_propose(self, current: ViewFacts) -> bool:
        """Re-propose the highest prepared block with its certificate, or ask for a new one.  # rule P1, P2 (L11)"""
        if not self._may_propose() or not self._may_propose_yet(current):
            return False
        prepared = self.facts.prepared
        if prepared is not None and prepared.view >= self.view:
            return False  # a quorum is past this proposal; what it prepared cannot justify it here
        if prepared is not None:
            block = self.facts.block(prepared.block_hash)
            if block is None:
                return False
            self._send_proposal(block, prepared)
            return True
        if self._once("ask"):
            proposer = self.facts.committee.proposer(self.height, self.view)
            self._emit(BuildBlock(self.height, self.view, self._template(proposer)))
        return False

    def _rule_vote(self, current: ViewFacts) -> bool:
        """Vote on this view's first proposal.  # rule V1, V2, V3 (L22, L28)"""
        if not current.proposals:
            return False
        proposal = current.proposals[0]
        fresh = proposal.valid_view == NO_VIEW
        foreign = fresh and proposal.block.header.proposer != proposal.author
        unfit = self.facts.block(proposal.block_hash) is None
        if foreign or unfit or not self._lock_allows(proposal):
            self._prepare(NIL, NO_VIEW)
            return True
        ok = self._check(proposal.block)
        if ok is None:
            return False
        if ok:
            self._journal.keep(proposal.block, view=self.view)  # rule D2
            self._prepare(proposal.block_hash, proposal.valid_view)
        else:
            self._prepare(NIL, NO_VIEW)
        return True

    def _rule_lock(self, current: ViewFacts) -> bool:
        """A quorum prepared a block that we checked: lock it and COMMIT.  # rule L1 (L36)"""
        certificate = current.certificate
        block = None if certificate is None else self.facts.block(certificate.block_hash)
        if certificate is None or block is None or not self._check(block):
            return False
        self._journal.keep(block, view=self.view)  # rule D2
        self._journal.keep(certificate, view=self.view)  # rule D3
        self.lock = (self.view, block.hash)
        self._commit(block.hash)
        return True

    def _rule_nothing(self, current: ViewFacts) -> bool:
        """A quorum prepared NIL: COMMIT NIL and keep the lock. A quorum of anything: do not wait for ever.  # rule L2, L3 (L44, L34)"""
        is_lost = current.prepares.quorum_of_anything and current.prepares.is_lost(len(self.facts.committee))
        if (NIL, NO_VIEW) in current.prepares.won or is_lost:  # rule L5
            self._commit(NIL)
            return True
        if current.prepares.quorum_of_anything and self._once("prepare timer"):
            self._arm(TimerKind.PREPARE)
        return False

    def _rule_view_ends(self, current: ViewFacts) -> bool:
        """A quorum sent COMMITs without a decision: tell everybody, and leave soon.  # rule W1 (L47)"""
        if not current.commits.quorum_of_anything:
            return False
        if self._once("commit timer"):
            certificate = ViewCertificate(self.height, self.view, current.commits.firsts())
            self.facts.add_certificate(certificate)
            self._emit(BroadcastCertificate(certificate))
            self._arm(TimerKind.COMMIT)
        if current.commits.is_lost(len(self.facts.committee)):
            self._enter(self.view + 1)  # rule W5
            return True
        return False

    # -- parts of rules --

    def _lock_allows(self, proposal: Proposal) -> bool:
        """Unlocked, or justified by something prepared no earlier than the lock.  # rule V2, V3"""
        return self.lock is None or proposal.valid_view >= self.lock[0]

    def _may_propose(self) -> bool:
        """Our turn, and nothing said yet in this view."""
        me = self._journal.me
        mine = me is not None and me == self.facts.committee.proposer(self.height, self.view)
        return mine and self.step == Step.PROPOSE and not self._journal.of_view(self.view)

    def _may_propose_yet(self, current: ViewFacts) -> bool:
        """After a view change, first learn every honest node's lock, unless the last view's certificate is here.  # rule P4"""
        if self.view == 0 or ("synced", self.view) in self._done:
            return True
        prepared = self.facts.prepared
        if prepared is not None and prepared.view == self.view - 1:
            return self.facts.block(prepared.block_hash) is not None
        return len(current.statuses) == len(self.facts.committee)

    def _check(self, block: Block) -> bool | None:
        """The driver's verdict on the payloads and the root, asked for once, and once more per view after a refusal."""
        verdict = self._checks.get(block.hash)
        asked_in = self._checked_in.get(block.hash)
        if verdict is True or (asked_in is not None and (verdict is None or asked_in == self.view)):
            return verdict
        self._checks[block.hash] = None
        self._checked_in[block.hash] = self.view
        self._emit(CheckBlock(block))
        return None

    def _send_proposal(self, block: Block, certificate: PrepareCertificate | None) -> None:
        assert self._journal.me is not None
        self._before_first_vote()
        self._say(Proposal(self._journal.me, self.height, self.view, block, certificate, UNSIGNED))

    def _prepare(self, block_hash: Digest, valid_view: int) -> None:
        self.step = Step.PREPARE
        self._before_first_vote()
        if self._journal.me is not None:
            self._say(Prepare(self._journal.me, self.height, self.view, block_hash, valid_view, UNSIGNED))

    def _commit(self, block_hash: Digest) -> None:
        self.step = Step.COMMIT
        if self._journal.me is not None:
            self._say(Commit(self._journal.me, self.height, self.view, block_hash, UNSIGNED))

    def _before_first_vote(self) -> None:
        """Why this view may be entered is durable before anything is signed in it.  # rule D4"""
        if self.facts.view_certificate is not None:
            self._journal.keep(self.facts.view_certificate, view=self.view)

    def _say(self, unsigned: Vote) -> None:
        vote = self._journal.cast(unsigned)
        if vote is not None:
            self._count_own(vote)

    def _count_own(self, vote: Vote) -> None:
        """Our own statements count like anybody's, once they are in the log.  # rule D5"""
        match vote:
            case Proposal():
                self.facts.add_proposal(vote)
            case Prepare() | Commit():
                self.facts.add_vote(vote)
                self.facts.vouch(vote.block_hash)

    def _enter(self, view: int) -> None:
        """# rule W3, W4 (L11)"""
        self.view = view
        self.step = Step.PROPOSE
        self.facts.move_to(view)
        self._done = {done for done in self._done if done[1] >= view}
        self._tell_status()
        self._arm(TimerKind.PROPOSE)

    def _tell_status(self) -> None:
        """Show everybody our highest prepared block, so that the proposer knows every lock.  # rule W2"""
        if self.view == 0 or self._journal.me is None:
            return
        facts = self.facts
        status = ViewStatus(self._journal.me, self.height, self.view, facts.prepared, facts.view_certificate, UNSIGNED)
        told = self._journal.tell(status)
        if told is not None:
            facts.of_view(self.view).statuses.add(told.author)
        if self._may_propose():
            self._arm(TimerKind.SYNC)

    def _fetch(self) -> None:
        """Ask for blocks that certificates name, once per repetition.  # rule B5"""
        for certificate in self.facts.missing():
            if certificate.block_hash not in self._fetching:
                self._fetching.add(certificate.block_hash)
                holders = tuple(author for author in certificate.authors() if author != self._journal.me)
                self._emit(FetchBlock(certificate.block_hash, self.height, holders))

    def _arm(self, kind: TimerKind) -> None:
        self._emit(SetTimer(Timer(kind, self.height, self.view), self._timeouts.seconds(kind, self.view)))

    def _once(self, what: str) -> bool:
        if (what, self.view) in self._done:
            return False
        self._done.add((what, self.view))
        return True
