"""The engine with one rule broken, one at a time: a simulation that does not notice is no test of that rule.

Each mutant patches the running code, is named after what it forgets, and says which rule of consensus/SPEC.md that is, and at which level
it falls. Rules of votes, locks, certificates and the log stand here; those of blocks and people in mutants_blocks.py. UNNEEDED explains
the rules that no scenario needs. Never import this outside the gate and the tests.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import consensus.facts
from consensus import NIL, Digest, Persist, PrepareCertificate
from consensus.committee import Committee
from consensus.encoding import PREFIX, Kind
from consensus.engine import Engine
from consensus.facts import Facts
from consensus.height import Height
from consensus.journal import Journal
from consensus.tally import Poll
from consensus.votes import NO_VIEW
from p2pnode.simulation import forgery, ledger, witness

LOCKSTEP, EXCESS, EVENTS = "lock-step", "lock-step, f+1", "events"


class Patch:
    """Sets attributes and puts them back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        self._undo.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        while self._undo:
            setattr(*self._undo.pop())


@dataclass(frozen=True, slots=True)
class Mutant:
    """`budget`: scenarios or seeds of `level` within which it must fall. `fixed`: options of its event-queue runs."""

    name: str
    rule: str
    apply: Callable[[Patch], None]
    level: str = LOCKSTEP
    budget: int = 2000
    fixed: dict[str, Any] = field(default_factory=dict)


MUTANTS: dict[str, Mutant] = {}

UNNEEDED = {
    "Q2 Q3": "a smaller blocking set or another proposer only changes who speaks when; the proposer is compared in every proposal (P3)",
    "Q4": "ceil(67 n / 100) is never below 2n // 3 + 1, so a threshold cannot lower a quorum; the arithmetic is proven for every n",
    "P1 P2 P4": "liveness: what a proposer proposes is judged by those who vote",
    "P3": "whose turn it is decides who is heard, not what is safe: votes and locks judge the block whoever shows it. The embedded "
    "certificate is a mutant of V3",
    "V4 L3 L4": "liveness: NIL votes and timers bind nobody",
    "V5, last vote wins": "a table that moves a member's vote to its newest value counts it once, too: two quorums still share an honest "
    "member. What it costs is evidence (E1) and progress",
    "V6": "memory: a vote that is dropped is a vote that was lost; I10 watches the bound",
    "C2 C3": "knowledge that comes late or from any view cannot forge a quorum; leaving it out stalls",
    "L5 W1 W2 W3 W4 W5 R1 R2 T1 T2 T3": "liveness: views, repetition and timeouts; switched off they stall and never fork",
    "D4": "liveness: a view certificate that is lost costs a repetition; nobody is bound by it",
    "X1 X2": "the same bytes again or nothing: a restart that forgets them is a mutant of D5, X3 or of the log",
    "B5 H1 H2 H3 H4": "liveness: when a height starts, and who fetches what",
    "M3 M5": "protocol: how fast a committee grows and how many candidates are remembered; agreement follows from B2, which compares them",
    "N6 E4": "what an honest proposer offers; nobody can be made to accept more",
    "B1": "bytes: a traitor's block passes through Block.decode here as well, and one that does not match its header cannot be made",
    "B3 M4": "the cheap half of what every node recomputes anyway; not recomputing is a mutant of V1",
    "E3 E5 N2": "bounds of what a block may hold, and what is never evidence: nothing happens that could be wrong",
    "N4": "takes a member that left, came back, and an old leave shown again: tests/consensus/test_requests.py has that story",
    "N7": "takes seventeen guests of one member, more than a small network has: tests/consensus/test_guests.py",
    "X4": "takes a chain file older than the log: tests/consensus/test_engine.py",
    "X5 X6": "takes a second engine with an honest key, which is outside the model: tests/consensus/test_own_key.py. Honest nodes that are told "
    "so by mistake break I13",
    "vv < view": "not needed for safety (the proof says so); kept for accountability",
}


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The mutant instead of the rule, and nothing remembered from before or after."""
    patch = Patch()
    try:
        forget()
        mutant.apply(patch)
        yield
    finally:
        patch.undo()
        forget()


def forget() -> None:
    for module in (ledger, witness, forgery):
        module.forget()


def mutant(
    rule: str, *, level: str = LOCKSTEP, budget: int = 2000, **fixed: Any
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = apply.__name__.replace("_", " ")
        MUTANTS[name] = Mutant(name, rule, apply, level, budget, fixed)
        return apply

    return register


# --- quorums -------------------------------------------------------------------------------------------------------------------


@mutant("Q1")
def quorum_of_two_thirds_rounded_down(patch: Patch) -> None:
    patch.set(Committee, "quorum", lambda self: max(1, 2 * len(self.members) // 3))


@mutant("Q1")
def quorum_of_067_as_a_float(patch: Patch) -> None:
    patch.set(Committee, "quorum", lambda self: max(1, int(0.67 * len(self.members))))


@mutant("L1")
def one_prepare_fewer_than_a_quorum(patch: Patch) -> None:
    _one_vote_fewer(patch, "prepares")


@mutant("C2")
def one_commit_fewer_than_a_quorum(patch: Patch) -> None:
    _one_vote_fewer(patch, "commits")


def _one_vote_fewer(patch: Patch, poll: str) -> None:
    init = Height.__init__

    def hasty(self: Any, **given: Any) -> None:
        init(self, **given)
        of_view = self.facts.of_view

        def lowered(view: int) -> Any:
            facts = of_view(view)
            getattr(facts, poll)._quorum = self.facts._quorum - 1
            return facts

        self.facts.of_view = lowered

    patch.set(Height, "__init__", hasty)


@mutant("V5")
def votes_counted_twice(patch: Patch) -> None:
    """The same vote delivered again counts again."""
    add = Poll.add

    def again(self: Any, author: Any, value: Any, signature: Any, *, certified: bool = False) -> Any:
        held = self._votes.get(value)
        if held is not None and author in held and len(held) == self._quorum - 1 and value not in self._won:
            self._won.append(value)
        return add(self, author, value, signature, certified=certified)

    patch.set(Poll, "has", lambda self, author, value: False)
    patch.set(Poll, "add", again)


@mutant("L1, C2")
def nil_counts_for_the_block(patch: Patch) -> None:
    add = Poll.add

    def count(self: Any, author: Any, value: Any, signature: Any, *, certified: bool = False) -> Any:
        named = [other for other in self._votes if other[0] != NIL]
        return add(self, author, named[0] if value[0] == NIL and named else value, signature, certified=certified)

    patch.set(Poll, "add", count)


# --- locks ---------------------------------------------------------------------------------------------------------------------


@mutant("V2")
def ignore_the_lock_for_fresh_proposals(patch: Patch) -> None:
    allows = Height._lock_allows
    patch.set(Height, "_lock_allows", lambda self, p: p.valid_view == NO_VIEW or allows(self, p))


@mutant("V2", budget=20_000)
def ignore_the_locks_view_for_reproposals(patch: Patch) -> None:
    allows = Height._lock_allows
    patch.set(Height, "_lock_allows", lambda self, p: p.valid_view != NO_VIEW or allows(self, p))


@mutant("V2")
def prepare_the_locked_block_whatever_justifies_it(patch: Patch) -> None:
    """The paper's rule: safe, and it lets an honest node sign what reads as amnesia."""
    allows = Height._lock_allows
    patch.set(
        Height,
        "_lock_allows",
        lambda self, p: (self.lock is not None and p.block_hash == self.lock[1]) or allows(self, p),
    )


@mutant("V3")
def believe_any_justification(patch: Patch) -> None:
    add = Facts.add_certificate

    def believe(self: Any, certificate: Any) -> Any:
        problem = add(self, certificate)
        return None if isinstance(certificate, PrepareCertificate) else problem

    patch.set(Facts, "add_certificate", believe)


@mutant("L1")
def never_lock(patch: Patch) -> None:
    rule = Height._rule_lock

    def forgetful(self: Any, current: Any) -> bool:
        acted = rule(self, current)
        self.lock = None
        return acted

    patch.set(Height, "_rule_lock", forgetful)


@mutant("L2")
def unlock_on_nil(patch: Patch) -> None:
    rule = Height._rule_nothing

    def unlock(self: Any, current: Any) -> bool:
        if (NIL, NO_VIEW) in current.prepares.won:
            self.lock = None
        return rule(self, current)

    patch.set(Height, "_rule_nothing", unlock)


@mutant("V1")
def prepare_what_no_check_found_good(patch: Patch) -> None:
    checked = Height.checked
    patch.set(Height, "checked", lambda self, block_hash, ok: checked(self, block_hash, True))


@mutant("L1")
def commit_what_was_not_checked(patch: Patch) -> None:
    patch.set(Height, "_check", lambda self, block: True)


# --- certificates --------------------------------------------------------------------------------------------------------------


def _lenient(patch: Patch, forgiven: str) -> None:
    """check_certificate without the check that gives this reason, the others kept."""
    check = vars(consensus.facts)["check_certificate"]

    def forgiving(certificate: Any, committee: Any, **given: Any) -> Any:
        problem = check(certificate, committee, **given)
        return None if problem is not None and forgiven in problem else problem

    patch.set(consensus.facts, "check_certificate", forgiving)


@mutant("C1")
def certificates_with_repeated_signers(patch: Patch) -> None:
    _lenient(patch, "repeated")


@mutant("C1")
def certificates_with_strangers(patch: Patch) -> None:
    _lenient(patch, "outside the committee")


@mutant("C1")
def certificates_with_bad_signatures(patch: Patch) -> None:
    _lenient(patch, "does not verify")


@mutant("C1")
def certificates_with_too_few_signers(patch: Patch) -> None:
    _lenient(patch, "needed")


@mutant("C1")
def certificates_of_nil(patch: Patch) -> None:
    """A vote for NIL decides as any other, where it comes in a certificate."""
    check = vars(consensus.facts)["check_certificate"]

    def nil_too(certificate: Any, committee: Any, **given: Any) -> Any:
        problem = check(certificate, committee, **given)
        return None if problem == "a certificate for NIL" else problem

    patch.set(consensus.facts, "check_certificate", nil_too)
    count = Facts._count

    def counted(self: Any, *given: Any, **more: Any) -> None:
        kind, view, author, value, signature = given
        if kind == Kind.COMMIT and value[0] == NIL and self._blocks:
            value = (Digest(min(self._blocks)), NO_VIEW)
        count(self, kind, view, author, value, signature, **more)

    patch.set(Facts, "_count", counted)


# --- the log -------------------------------------------------------------------------------------------------------------------


@mutant("X3")
def lock_lost_at_restart(patch: Patch) -> None:
    resume = Height.resume

    def amnesia(self: Any, kept: Any) -> None:
        run, self._run = self._run, lambda: None
        resume(self, kept)
        self.lock, self._run = None, run
        run()

    patch.set(Height, "resume", amnesia)


@mutant("D1")
def log_lost_at_restart(patch: Patch) -> None:
    init = Engine.__init__
    patch.set(Engine, "__init__", lambda self, **given: init(self, **{**given, "records": ()}))


@mutant("D5")
def forget_commits_after_restart(patch: Patch) -> None:
    """Resume at the PREPARE and perhaps COMMIT something else."""
    resume = Height.resume

    def again(self: Any, kept: Any) -> None:
        resume(self, [t for t in kept if getattr(t, "kind", None) != Kind.COMMIT])

    patch.set(Height, "resume", again)


@mutant("D5")
def broadcast_before_persist(patch: Patch) -> None:
    step = Engine.step
    patch.set(Engine, "step", lambda self, event: sorted(step(self, event), key=lambda e: isinstance(e, Persist)))


@mutant("D5")
def proposal_is_not_logged(patch: Patch) -> None:
    step = Engine.step

    def unlogged(self: Any, event: Any) -> Any:
        return [effect for effect in step(self, event) if not (isinstance(effect, Persist) and _is_proposal(effect))]

    patch.set(Engine, "step", unlogged)


def _is_proposal(effect: Persist) -> bool:
    return effect.record.kind == 3 and effect.record.data[100 + 16] == Kind.PROPOSAL


@mutant("D2")
def block_is_not_durable_before_prepare(patch: Patch) -> None:
    keep = Journal.keep
    patch.set(Journal, "keep", lambda self, t, *, view: None if hasattr(t, "header") else keep(self, t, view=view))


@mutant("D3")
def certificate_is_not_durable_before_commit(patch: Patch) -> None:
    keep = Journal.keep
    patch.set(Journal, "keep", lambda self, t, *, view: keep(self, t, view=view) if hasattr(t, "header") else None)


# --- accountability ------------------------------------------------------------------------------------------------------------


@mutant("A2", level=EXCESS, budget=3000)
def amnesia_is_not_noticed(patch: Patch) -> None:
    suspect = Engine.suspect

    def blind(self: Any, author: Any, *signed: Any) -> None:
        if len({statement[: PREFIX.size] for statement, _ in signed}) == 1:
            suspect(self, author, *signed)

    patch.set(Engine, "suspect", blind)


@mutant("E1", level=EXCESS, budget=3000)
def two_statements_of_a_slot_are_not_noticed(patch: Patch) -> None:
    suspect = Engine.suspect

    def blind(self: Any, author: Any, *signed: Any) -> None:
        if len({statement[: PREFIX.size] for statement, _ in signed}) == len(signed):
            suspect(self, author, *signed)

    patch.set(Engine, "suspect", blind)


@mutant("A1, A3", level=EXCESS, budget=3000)
def forks_are_not_noticed(patch: Patch) -> None:
    patch.set(Engine, "_look_for_fork", lambda self, other: None)


@mutant("E2", level=EVENTS, budget=60, attacks=("framing",), heights=4)
def evidence_is_believed_unverified(patch: Patch) -> None:
    import consensus.engine

    patch.set(consensus.engine, "check_evidence", lambda evidence, **given: None)


from p2pnode.simulation import mutants_blocks  # noqa: E402, F401  (registers the rest)
