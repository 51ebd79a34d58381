"""The guards of model.py once more, in plain Python, over what one real engine heard and said.

A `Twin` stands beside an engine. It knows the events that went in and the effects that came out, and keeps from them what the model keeps:
statements heard and signed, the view, the log. It never looks at the engine's own bookkeeping, except to compare. Each guard has the
conditions of the action of the same name, under the same names (test_refinement.py compares the two lists).

For editing: no cleverness. Count again, from the beginning, every time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus import (
    NIL,
    BlockBuilt,
    BlockChecked,
    Broadcast,
    Commit,
    CommitCertificate,
    Committee,
    Decide,
    KeyElsewhere,
    MessageReceived,
    Prepare,
    PrepareCertificate,
    Proposal,
    PublicKey,
    SetTimer,
    Synced,
    TimerFired,
    TimerKind,
    ViewCertificate,
    ViewStatus,
)
from consensus.certificate import Certificate
from consensus.events import CertificateReceived
from consensus.record import content_of
from consensus.votes import NO_VIEW
from p2pnode.simulation.ledger import CHAIN_ID
from p2pnode.simulation.transitions import Transition

Conditions = dict[str, bool]
Vote = Proposal | Prepare | Commit


class NotAllowed(AssertionError):
    """The engine did what no action of the model allows."""


@dataclass
class Twin:
    """One node at one height. `heard` and `said` are statements; all else is worked out from them when it is asked for."""

    me: PublicKey
    height: int
    committee: Committee
    view: int | None = None  # None: the height has not begun
    said: list[Vote] = field(default_factory=list)
    heard: set[Proposal | Prepare | Commit] = field(default_factory=set)
    checked: set[bytes] = field(default_factory=set)

    @property
    def votes(self) -> bool:
        return self.me in self.committee

    # -- the model's relations --

    def has_said(self, kind: type[Vote], view: int) -> bool:
        return any(isinstance(vote, kind) and vote.view == view for vote in self.said)

    def phase(self) -> str:
        assert self.view is not None
        if self.has_said(Commit, self.view):
            return "commit"
        return "prepare" if self.has_said(Prepare, self.view) else "propose"

    def lock(self) -> tuple[int, bytes] | None:
        commits = [vote for vote in self.said if isinstance(vote, Commit) and vote.block_hash != NIL]
        return max(((vote.view, vote.block_hash) for vote in commits), default=None)

    def quorum(self, authors: set[PublicKey]) -> bool:
        votes, members, percent = (
            len(authors & set(self.committee.members)),
            len(self.committee),
            self.committee.threshold_percent,
        )
        return 3 * votes > 2 * members and 100 * votes >= members * percent

    def prepared(self, view: int, block_hash: bytes, valid_view: int | None = None) -> bool:
        """A PREPARE certificate could be made of what was heard: one valid_view, the given one if there is one."""
        votes = [v for v in self.heard if isinstance(v, Prepare) and (v.view, v.block_hash) == (view, block_hash)]
        named = {v.valid_view for v in votes} if valid_view is None else {valid_view}
        return any(self.quorum({v.author for v in votes if v.valid_view == one}) for one in named)

    def committed(self, view: int, block_hash: bytes | None = None) -> bool:
        votes = [v for v in self.heard if isinstance(v, Commit) and v.view == view]
        return self.quorum({v.author for v in votes if block_hash is None or v.block_hash == block_hash})

    def prepared_anything(self, view: int) -> bool:
        return self.quorum({v.author for v in self.heard if isinstance(v, Prepare) and v.view == view})

    # -- guards: one per action that an engine may take, in the words of model.py --

    def p1_repropose(self, vote: Proposal) -> Conditions:
        return {
            **self._my_turn(vote),
            "a block": vote.block_hash != NIL,
            "valid view is earlier": NO_VIEW < vote.valid_view < vote.view,
            "certificate": self.prepared(vote.valid_view, vote.block_hash),
        }

    def p2_propose_fresh(self, vote: Proposal) -> Conditions:
        return {**self._my_turn(vote), "a block": vote.block_hash != NIL}

    def v2_prepare_fresh(self, vote: Prepare) -> Conditions:
        return {
            **self._step_propose(vote),
            "a proposal in turn": self._offered(vote),
            "lock allows": self.lock() is None,
            "checked": vote.block_hash in self.checked,
        }

    def v3_prepare_reproposed(self, vote: Prepare) -> Conditions:
        lock = self.lock()
        return {
            **self._step_propose(vote),
            "a proposal in turn": self._offered(vote),
            "valid view is earlier": NO_VIEW < vote.valid_view < vote.view,
            "certificate": self.prepared(vote.valid_view, vote.block_hash),
            "lock allows": lock is None or lock[0] <= vote.valid_view,
            "checked": vote.block_hash in self.checked,
        }

    def v1_prepare_nil(self, vote: Prepare) -> Conditions:
        return {**self._step_propose(vote), "a proposal in turn": bool(self._proposals(vote.view))}

    def v4_prepare_nil_timeout(self, vote: Prepare) -> Conditions:
        return self._step_propose(vote)

    def l1_lock_and_commit(self, vote: Commit) -> Conditions:
        return {
            **self._step_prepare(vote),
            "a block": vote.block_hash != NIL,
            "certificate": self.prepared(vote.view, vote.block_hash),
            "checked": vote.block_hash in self.checked,
        }

    def l2_commit_nil(self, vote: Commit) -> Conditions:
        return {**self._step_prepare(vote), "certificate": self.prepared(vote.view, NIL, NO_VIEW)}

    def l4_commit_nil_timeout(self, vote: Commit) -> Conditions:
        return self._step_prepare(vote)

    def l5_commit_nil_hopeless(self, vote: Commit) -> Conditions:
        return {
            **self._step_prepare(vote),
            "a quorum has prepared something": self.prepared_anything(vote.view),
        }

    def w3_next_view(self, view: int) -> Conditions:
        return {"honest": True, "in the view before": self.view is not None, "the next view": self.view == view - 1}

    def w5_next_view_hopeless(self, view: int) -> Conditions:
        return {
            **self.w3_next_view(view),
            "certificate of the view before": self.committed(view - 1),
        }

    def w4_follow(self, view: int) -> Conditions:
        return {
            "honest": True,
            "in an earlier view": self.view is not None and self.view < view,
            "certificate": self.committed(view),
        }

    def c2_decide(self, decision: CommitCertificate) -> Conditions:
        return {
            "honest": True,
            "a block": decision.block_hash != NIL,
            "certificate": self.committed(decision.view, decision.block_hash),
        }

    def x2_restart(self, view: int) -> Conditions:
        logged = {vote.view for vote in self.said}
        return {
            "honest": True,
            "nothing later is logged": not any(other > view for other in logged),
            "the view of the last statement": view in logged or view == 0,
        }

    # -- parts --

    def _my_turn(self, vote: Proposal) -> Conditions:
        return {
            **self._step_propose(vote),
            "my turn": self._proposer(vote.view) == self.me,
            "not proposed yet": not self.has_said(Proposal, vote.view),
        }

    def _step_propose(self, vote: Vote) -> Conditions:
        said = self.has_said(Prepare, vote.view) or self.has_said(Commit, vote.view)
        return {"honest": vote.author == self.me, "in this view": vote.view == self.view, "step propose": not said}

    def _step_prepare(self, vote: Vote) -> Conditions:
        said = self.has_said(Prepare, vote.view) and not self.has_said(Commit, vote.view)
        return {"honest": vote.author == self.me, "in this view": vote.view == self.view, "step prepare": said}

    def _proposer(self, view: int) -> PublicKey:
        return self.committee.members[(self.height + view) % len(self.committee)]

    def _proposals(self, view: int) -> list[Proposal]:
        proposals = [p for p in self.heard if isinstance(p, Proposal) and p.view == view]
        return [p for p in proposals if p.author == self._proposer(view)]

    def _offered(self, vote: Prepare) -> bool:
        named = (vote.block_hash, vote.valid_view)
        return any((p.block_hash, p.valid_view) == named for p in self._proposals(vote.view))


class Shadow:
    """The twins of one node, height after height; `saw` takes each step of its engine. Raises NotAllowed."""

    def __init__(self, me: PublicKey, verify: Callable[..., bool], committee_of: Callable[[int], Committee]) -> None:
        self._me = me
        self._verify = verify
        self._committee_of = committee_of
        self._heard: dict[int, set[Vote]] = {}
        self._checked: set[bytes] = set()
        self._silent = False
        self._born = False
        self.twin: Twin | None = None
        self.counts: Counter[str] = Counter()

    def saw(self, step: Transition) -> None:
        if step.records is not None or not self._born:
            self._restart(step)
        self._hear(step.event)
        for effect in step.effects:
            twin = self._at(step.before.height)
            match effect:
                case Broadcast(Proposal() | Prepare() | Commit() as vote) if vote not in twin.said:
                    self._allowed(twin, _action_of(vote, step, twin), vote)
                    twin.said.append(vote)
                    twin.heard.add(vote)
                case SetTimer(timer) if timer.kind == TimerKind.PROPOSE:
                    self._enter(twin, timer.view, step)
                case Decide(_, decision):
                    self._allowed(twin, "c2_decide", decision)
                case KeyElsewhere():
                    self._silent = True
                case _:
                    pass
        self._compare(step)

    # -- what goes in --

    def _restart(self, step: Transition) -> None:
        """Memory is gone: what this node said and heard is what its log holds."""
        records = [r for r in step.records or () if r.height >= step.before.height]
        contents = [content_of(record, chain_id=CHAIN_ID) for record in records]
        again, self._born, self._silent = self._born, True, False
        self._heard, self._checked, self.twin = {}, set(), None
        for thing in contents:
            self._learn(thing)
        twin = self._at(step.before.height)
        twin.said = [v for v in contents if isinstance(v, Proposal | Prepare | Commit) and v.height == twin.height]
        if again and twin.said:
            self._allowed(twin, "x2_restart", twin.said[-1].view)
            twin.view = twin.said[-1].view

    def _hear(self, event: object) -> None:
        match event:
            case MessageReceived(message) if message.author != self._me:
                self._learn(message)
            case CertificateReceived(certificate):
                self._learn(certificate)
            case BlockChecked(block_hash, True):
                self._checked.add(block_hash)
            case BlockBuilt(block=block):
                self._checked.add(block.hash)
            case Synced():
                self.counts["synced"] += 1

    def _learn(self, thing: object) -> None:
        """Each statement by itself, wherever it stands, if its signature is good."""
        match thing:
            case Proposal():
                self._add(thing)
                self._learn(thing.certificate)
            case Prepare() | Commit():
                self._add(thing)
            case ViewStatus():
                self._learn(thing.prepared)
                self._learn(thing.view_certificate)
            case PrepareCertificate() | CommitCertificate() | ViewCertificate():
                for vote in _votes_in(thing):
                    self._add(vote)

    def _add(self, vote: Vote) -> None:
        if self._verify(vote.author, vote.statement(CHAIN_ID), vote.signature):
            self._heard.setdefault(vote.height, set()).add(vote)

    def _at(self, height: int) -> Twin:
        if self.twin is None or self.twin.height != height:
            heard = self._heard.setdefault(height, set())
            self.twin = Twin(self._me, height, self._committee_of(height), heard=heard, checked=self._checked)
        return self.twin

    # -- what comes out --

    def _enter(self, twin: Twin, view: int, step: Transition) -> None:
        if twin.view is None:
            self._require(view == 0, f"the height begins in view {view}")
            twin.view = 0
        elif view != twin.view:
            timed = isinstance(step.event, TimerFired) and step.event.timer.kind == TimerKind.COMMIT
            by_timer = timed and view == twin.view + 1 and step.event.timer.view == twin.view
            hopeless = "w4_follow" if twin.committed(view) else "w5_next_view_hopeless"
            self._allowed(twin, "w3_next_view" if by_timer else hopeless, view)
            twin.view = view

    def _allowed(self, twin: Twin, action: str, what: object) -> None:
        conditions: Conditions = getattr(twin, action)(what)
        broken = [name for name, holds in conditions.items() if not holds]
        self._require(not broken, f"{action} without: {', '.join(broken)}")
        self.counts[action] += 1

    def _compare(self, step: Transition) -> None:
        """The model's state after the step is the engine's."""
        twin = self.twin
        if twin is None or step.after.height != twin.height or step.after.phase == "idle":
            return
        self._require(step.after.view == twin.view, f"in view {step.after.view}, not {twin.view}")
        if twin.votes and not self._silent:
            self._require(step.after.phase == twin.phase(), f"at step {step.after.phase}, not {twin.phase()}")
            self._require(step.after.lock == twin.lock(), f"locked on {step.after.lock}, not {twin.lock()}")
        self.counts["compared"] += 1

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise NotAllowed(what)


def _action_of(vote: Vote, step: Transition, twin: Twin) -> str:
    """What the engine claims to do, by what it says and what woke it."""
    timer = step.event.timer.kind if isinstance(step.event, TimerFired) else None
    fresh = isinstance(vote, Proposal | Prepare) and vote.valid_view == NO_VIEW
    match vote:
        case Proposal():
            return "p2_propose_fresh" if fresh else "p1_repropose"
        case Prepare() if vote.block_hash == NIL:
            return "v4_prepare_nil_timeout" if timer == TimerKind.PROPOSE else "v1_prepare_nil"
        case Prepare():
            return "v2_prepare_fresh" if fresh else "v3_prepare_reproposed"
        case Commit() if vote.block_hash != NIL:
            return "l1_lock_and_commit"
        case _:
            reason = "l2_commit_nil" if twin.prepared(vote.view, NIL, NO_VIEW) else "l5_commit_nil_hopeless"
            return "l4_commit_nil_timeout" if timer == TimerKind.PREPARE else reason


def _votes_in(certificate: Certificate) -> list[Prepare | Commit]:
    height, view = certificate.height, certificate.view
    match certificate:
        case PrepareCertificate():
            named = (certificate.block_hash, certificate.valid_view)
            return [Prepare(a, height, view, *named, s) for a, s in certificate.signers]
        case CommitCertificate():
            return [Commit(a, height, view, certificate.block_hash, s) for a, s in certificate.signers]
        case ViewCertificate():
            return [Commit(a, height, view, name, s) for a, name, s in certificate.entries]
