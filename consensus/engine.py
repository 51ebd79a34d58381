"""The engine: one height after another, and everything that is not part of a height. Read the package's docstring first.

`step(event)` gives effects and nothing else happens: no clock, no randomness, no network, no disk, no await. Equal events give
equal effects. Here: starting and ending heights, messages for the next height, hints that others are ahead, evidence, requests,
our key elsewhere, forks, the rebroadcast. The rules of agreement stand in height.py.
"""

import hashlib
from collections.abc import Sequence
from typing import assert_never

from consensus.block import Block
from consensus.certificate import (
    Certificate,
    CommitCertificate,
    PrepareCertificate,
    ViewCertificate,
)
from consensus.chain import BlockTemplate, ChainState
from consensus.effects import (
    Behind,
    Decide,
    Effect,
    Forked,
    HeightWanted,
    KeyElsewhere,
    Refused,
    ReportEvidence,
    ReportRequest,
    SetTimer,
    to_all,
)
from consensus.errors import LocalFault, Malformed
from consensus.events import (
    Begin,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    CertificateReceived,
    DelaysMeasured,
    Event,
    EvidenceReceived,
    MessageReceived,
    StartHeight,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
)
from consensus.evidence import Evidence, Signed, check_evidence, evidence_of
from consensus.facts import Facts
from consensus.forks import Decisions
from consensus.height import Height
from consensus.identifiers import Digest, PublicKey, Sign, Verify
from consensus.journal import Journal
from consensus.limits import REBROADCAST_JITTER, REBROADCAST_SECONDS
from consensus.messages import Commit, Message, Prepare, Proposal, ViewStatus
from consensus.own_key import OwnKey
from consensus.pending import Pending
from consensus.record import Record, Vote, content_of
from consensus.requests import Join, Leave, Request
from consensus.suspicion import Suspicion
from consensus.timeouts import Timeouts
from consensus.verified import VerifiedSignatures
from consensus.votes import Contribution
from consensus.waiting import Waiting


class Engine:
    """`me` is None for a node without a key to vote with; a key outside the committee follows in the same way."""

    def __init__(
        self, *, me: PublicKey | None, sign: Sign, verify: Verify, state: ChainState, records: Sequence[Record] = ()
    ) -> None:
        self.state = state
        self._me = me
        self._sign = sign
        self._verify = VerifiedSignatures(verify)
        self._records = [record for record in records if record.height > state.height]
        self._signed_height_max = max((record.height for record in self._records), default=0)
        self._timeouts = Timeouts()
        self._suspicion = Suspicion()
        self._pending = Pending()
        self._waiting = Waiting()
        self._own = OwnKey(me, chain_id=state.chain_id, verify=self._verify)
        self._silent = False  # somebody else signs with our key
        self._decisions = Decisions()
        self._running: Height | None = None
        self._ended: Facts | None = None  # of the height decided last: what still arrives may prove something
        self._repeated: int | None = None  # rebroadcasts so far; None before the first event
        self._wanted_told = 0  # 1: a proposal was shown, 2: the height was asked for
        self._behind_told = 0
        self._height_at_repetition = 0
        self._effects: list[Effect] = []

    # -- for the driver to read --

    @property
    def idle(self) -> bool:
        return self._running is None

    @property
    def height(self) -> int:
        """The height that runs, or is next."""
        return self.state.height + 1

    @property
    def view(self) -> int:
        return 0 if self._running is None else self._running.view

    @property
    def phase(self) -> str:
        """idle, propose, prepare or commit."""
        return "idle" if self._running is None else self._running.step.name.lower()

    @property
    def lock(self) -> tuple[int, bytes] | None:
        """(view, block hash) that our last COMMIT for a block binds us to at this height."""
        return None if self._running is None else self._running.lock

    @property
    def pending_evidence(self) -> tuple[Evidence, ...]:
        """Proofs that no block holds yet."""
        return self._suspicion.pending()

    @property
    def pending_requests(self) -> tuple[Request, ...]:
        """Requests that no block holds yet, and that one may: rule (e) of "collect, then agree" starts a height for them."""
        return self._pending.all()

    def block(self, block_hash: Digest) -> Block | None:
        """A block of the running height or of the one decided last, to serve somebody's FetchBlock."""
        facts = [self._ended, None if self._running is None else self._running.facts]
        return next((block for f in facts if f is not None and (block := f.block(block_hash)) is not None), None)

    def greeting(self) -> list[Message | Certificate]:
        """What a peer that has just connected should hear without waiting for the repetition; the same things.  # rule R1"""
        member = self._me is not None and not self._silent and self._me in self.state.membership.previous
        last = self.state.last_certificate if member else None
        return [*([last] if last else []), *(self._running.to_repeat() if self._running is not None else [])]

    # -- the one way in --

    def step(self, event: Event) -> list[Effect]:
        """Take one event; carry the effects out in order before stepping again with what they lead to."""
        effects: list[Effect] = []
        self._effects = effects
        if self._repeated is None:
            self._begin()
        self._take(event)
        self._settle()
        return effects

    def _take(self, event: Event) -> None:
        running = self._running
        match event:
            case Begin():
                pass
            case StartHeight():
                if event.height == self.height and running is None:
                    self._start()
            case MessageReceived():
                self._on_message(event.message)
            case CertificateReceived():
                self._on_certificate(event.certificate)
            case BlockReceived():
                if running is not None:
                    running.receive_block(event.block)
            case TimerFired():
                self._on_timer(event.timer)
            case BlockBuilt():
                if running is not None and event.height == running.height:
                    running.built(event.view, event.block)
            case BlockChecked():
                if running is not None:
                    running.checked(event.block_hash, event.ok)
            case Synced():
                if event.state.height > self.state.height:
                    self._move_to(event.state)
                    self._own.begins(self.height)
            case DelaysMeasured():
                self._timeouts.measured(delay_seconds=event.delay_seconds, check_seconds=event.check_seconds)
            case EvidenceReceived():
                self._on_evidence(event.evidence)
            case _:
                assert_never(event)

    # -- heights --

    def _begin(self) -> None:
        """Arm the rebroadcast, and go on with the height that our log says we were in.  # rule X2"""
        self._repeated = 0
        self._decisions.add(self.state, ())
        self._own.restore(self._records, height=self.height)
        self._arm_repetition()
        if any(record.height == self.height for record in self._records):
            self._start()

    def _start(self) -> None:
        """# rule H1"""
        facts = Facts(self.state, verify=self._verify, observer=self)
        journal = Journal(
            me=self._voter(),
            chain_id=self.state.chain_id,
            sign=self._sign,
            emit=self._effects_append,
            signed=self._own.signed(self.height),
        )
        self._running = Height(
            facts=facts,
            journal=journal,
            timeouts=self._timeouts,
            emit=self._effects_append,
            template=self._template,
        )
        self._running.resume(self._kept())
        for thing in self._waiting.take(self.height):
            if self._running.decided is None:
                self._deliver(self._running, thing)

    def _template(self, proposer: PublicKey) -> BlockTemplate:
        """# rule E4, N6"""
        state = self.state
        return BlockTemplate(
            state, proposer, self._suspicion.for_next_block(state), self._pending.for_next_block(state)
        )

    def _kept(self) -> list[Block | PrepareCertificate | ViewCertificate | Vote]:
        """What our log holds of the height that begins. Damage here could cost a second signature, so it is loud."""
        try:
            things = [content_of(r, chain_id=self.state.chain_id) for r in self._records if r.height == self.height]
        except Malformed as fault:
            raise LocalFault(f"the vote log is damaged at height {self.height}: {fault.reason}") from fault
        return [thing for thing in things if not isinstance(thing, CommitCertificate)]

    def _voter(self) -> PublicKey | None:
        """Our key, where it has a vote: in the committee, and not below a height that we signed in before.  # rule X4"""
        member = self._me is not None and not self._silent and self._me in self.state.membership.current
        return self._me if member and self.height >= self._signed_height_max else None

    def _settle(self) -> None:
        """If the running height decided, end it.  # rule H2"""
        running = self._running
        if running is not None and running.decided is not None:
            block, certificate = running.decided
            self._effects.append(Decide(block, certificate))
            self._move_to(self.state.after(block, certificate), held=running.facts.certificates())
            self._ended = running.facts

    def _move_to(self, state: ChainState, *, held: Sequence[PrepareCertificate | CommitCertificate] = ()) -> None:
        self.state = state
        self._running = self._ended = None
        self._records = [record for record in self._records if record.height > state.height]
        self._own.moved_to(self.height)
        self._decisions.add(state, held)
        self._suspicion.moved_to(state)
        self._pending.moved_to(state)
        self._waiting.moved_to(state, verify=self._verify)
        self._wanted_told = 0
        self._want()

    # -- what arrives --

    def _on_message(self, message: Message) -> None:
        statement = message.statement(self.state.chain_id)
        self._verify.remember(message.author, statement, message.signature)
        self._fall_silent(self._own.message_elsewhere(message, statement))
        if isinstance(message, Contribution):
            self._watch(message)
        elif isinstance(message, Leave | Join):
            self._on_request(message)
        elif message.author == self._me:
            return  # ours come from the log, not from the network  # rule X5
        elif self._running is not None and message.height == self.height:
            self._running.receive(message)
        elif message.height == self.state.height and self._ended is not None:
            self._look_back(self._ended, message)
        elif message.height > self.state.height:
            self._waiting.add(message, self.state, verify=self._verify)
            self._want()

    def _on_certificate(self, certificate: Certificate) -> None:
        self._fall_silent(self._own.certificate_elsewhere(certificate))
        if certificate.height <= self.state.height:
            if self._ended is not None and certificate.height == self._ended.height:
                self._ended.add_certificate(certificate)
            self._look_for_fork(certificate)
            return
        if self._running is not None and certificate.height == self.height:
            problem = self._running.receive_certificate(certificate)
            if problem is not None:
                self.refuse(None, problem)
            return
        if self._waiting.add_certificate(certificate, self.state, verify=self._verify):
            self._want()
            if self._waiting.certified_height > self.height + 1:
                self._tell_behind(self._waiting.certified_height)

    def _look_back(self, ended: Facts, message: Message) -> None:
        """The height is decided; a second statement for one of its slots is still evidence.  # rule E1"""
        match message:
            case Proposal():
                ended.add_proposal(message)
            case Prepare() | Commit():
                ended.add_vote(message)
            case ViewStatus():
                ended.add_status(message)

    def _deliver(self, running: Height, thing: Message | Certificate) -> None:
        match thing:
            case PrepareCertificate() | CommitCertificate() | ViewCertificate():
                running.receive_certificate(thing)
            case Contribution() | Leave() | Join():
                pass
            case _:
                running.receive(thing)

    def _on_request(self, request: Request) -> None:
        """Checked, kept for our own next block, and passed on once.  # rule N6"""
        kept = self._pending.add(request, self.state, verify=self._verify)
        if kept is True:
            self._effects.append(ReportRequest(request))
        elif isinstance(kept, str):
            self.refuse(None, kept)

    def _on_timer(self, timer: Timer) -> None:
        if timer.kind == TimerKind.REBROADCAST:
            if timer.view == self._repeated:
                self._repeated += 1
                self._repeat()
                self._arm_repetition()
        elif self._running is not None and timer.height == self._running.height:
            self._running.timer(timer.kind, timer.view)

    def _on_evidence(self, evidence: Evidence) -> None:
        """Somebody else's proof, checked before it is believed.  # rule E2"""
        problem = check_evidence(evidence, chain_id=self.state.chain_id, verify=self._verify)
        if problem is not None:
            self.refuse(None, problem)
            return
        self._fall_silent(self._own.proof_elsewhere(evidence, self.state))
        self._accuse(evidence)

    # -- what should never happen --

    def _fall_silent(self, reason: str | None) -> None:
        """Our key signs elsewhere, so here it signs nothing any more.  # rule X6"""
        if reason is not None and not self._silent:
            self._silent = True
            if self._running is not None:
                self._running.silence()
            self._effects.append(KeyElsewhere(reason))

    def _look_for_fork(self, other: Certificate) -> None:
        """A valid decision of another block: say so once, name who signed for both, show what names the rest.  # rule A1, A3"""
        if isinstance(other, ViewCertificate):
            return
        chain_id, height = self.state.chain_id, other.height
        first = self._decisions.hear(other, chain_id=chain_id, verify=self._verify)
        if first is None:
            return
        for author, ours, theirs in self._decisions.offences(other, chain_id=chain_id):
            self.suspect(author, ours, theirs)
        if first and isinstance(other, CommitCertificate):
            self._effects.append(Forked(height, other))
            ended = self._ended if self._ended is not None and self._ended.height == height else None
            for certificate in self._decisions.held(height) if ended is None else ended.certificates():
                self._effects.append(to_all(certificate))

    # -- repetition and hints --

    def _repeat(self) -> None:
        """# rule R1"""
        for thing in self.greeting():
            self._effects.append(to_all(thing))
        if self._running is not None:
            self._running.fetch_again()
        self._behind_told = 0
        self._wanted_told = 0
        self._want()
        if self._height_at_repetition == self.height:
            self._tell_behind(self._waiting.height_shown(self.state))
        self._height_at_repetition = self.height

    def _arm_repetition(self) -> None:
        """About a second, spread by our key and the count: no randomness, and no two nodes in step.  # rule R2"""
        assert self._repeated is not None
        spread = hashlib.sha256((self._me or b"") + self._repeated.to_bytes(8, "big")).digest()
        share = int.from_bytes(spread[:4], "big") / 2**32
        seconds = REBROADCAST_SECONDS * (1 - REBROADCAST_JITTER + 2 * REBROADCAST_JITTER * share)
        self._effects.append(SetTimer(Timer(TimerKind.REBROADCAST, 0, self._repeated), seconds))

    def _want(self) -> None:
        """# rule H3"""
        if self._running is not None:
            return
        proposed = self._waiting.proposed(self.state)
        if self._wanted_told < 2 and self._waiting.wants(self.state):
            self._wanted_told = 2
            self._effects.append(HeightWanted(self.height))
        elif self._wanted_told < 1 and proposed is not None:
            self._wanted_told = 1
            self._effects.append(HeightWanted(self.height, proposed))

    def _tell_behind(self, height: int) -> None:
        """Two decisions missing, or one for a whole repetition: no message on its way will bring them.  # rule H4"""
        if height > self.height and height > self._behind_told:
            self._behind_told = height
            self._effects.append(Behind(height))

    # -- what facts.py observes --

    def suspect(self, author: PublicKey, *signed: Signed) -> None:
        """Statements that are an offence. In our name they show that our key is elsewhere.  # rule E1, E6, A2, X6"""
        evidence = evidence_of(author, *signed)
        if author == self._me:
            self._fall_silent(f"a proof of {evidence.kind} names our key")
        else:
            self._accuse(evidence)

    def refuse(self, peer: PublicKey | None, reason: str) -> None:
        self._effects.append(Refused(peer, reason))

    def notice(self, block: Block) -> None:
        """A block shows contributions and votes that may conflict with those that came to us.  # rule E1"""
        if self._ended is not None and block.last_certificate is not None and block.height == self.height:
            self._ended.add_certificate(block.last_certificate)
        for contribution in block.contributions:
            self._watch(contribution)

    def _watch(self, contribution: Contribution) -> None:
        evidence = self._suspicion.watch(contribution, self.state)
        if evidence is None:
            return
        if contribution.author == self._me:
            self._fall_silent(f"two contributions of height {contribution.height} have our signature")
        else:
            self._accuse(evidence)

    def _accuse(self, evidence: Evidence) -> None:
        if self._suspicion.add(evidence, self.state):
            self._effects.append(ReportEvidence(evidence))

    def _effects_append(self, effect: Effect) -> None:
        self._effects.append(effect)
