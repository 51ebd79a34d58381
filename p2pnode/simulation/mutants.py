"""The engine with one rule broken, one at a time: a simulation that does not notice is no test of that rule.

Each mutant patches the running code, named after what it forgets. Never import this outside the tests.
"""

from collections.abc import Callable
from typing import Any

from consensus import NIL, Persist
from consensus.certificate import PrepareCertificate
from consensus.committee import Committee
from consensus.encoding import Kind
from consensus.engine import Engine
from consensus.facts import Facts
from consensus.height import Height
from consensus.journal import Journal
from consensus.tally import Poll
from consensus.votes import NO_VIEW

Mutant = Callable[[Any], None]
MUTANTS: dict[str, Mutant] = {}


def mutant(function: Mutant) -> Mutant:
    MUTANTS[function.__name__] = function
    return function


@mutant
def ignore_the_lock_for_fresh_proposals(patch):
    allows = Height._lock_allows
    patch.setattr(Height, "_lock_allows", lambda self, p: p.valid_view == NO_VIEW or allows(self, p))


@mutant
def ignore_the_locks_view_for_reproposals(patch):
    allows = Height._lock_allows
    patch.setattr(Height, "_lock_allows", lambda self, p: p.valid_view != NO_VIEW or allows(self, p))


@mutant
def never_lock(patch):
    rule = Height._rule_lock

    def forget(self, current):
        acted = rule(self, current)
        self.lock = None
        return acted

    patch.setattr(Height, "_rule_lock", forget)


@mutant
def unlock_on_nil(patch):
    rule = Height._rule_nothing

    def unlock(self, current):
        if (NIL, NO_VIEW) in current.prepares.won:
            self.lock = None
        return rule(self, current)

    patch.setattr(Height, "_rule_nothing", unlock)


@mutant
def quorum_of_two_thirds_rounded_down(patch):
    patch.setattr(Committee, "quorum", lambda self: max(1, 2 * len(self.members) // 3))


@mutant
def quorum_of_67_percent_as_a_float(patch):
    patch.setattr(Committee, "quorum", lambda self: max(1, int(0.67 * len(self.members))))


@mutant
def believe_any_justification(patch):
    add = Facts.add_certificate

    def believe(self, certificate):
        problem = add(self, certificate)
        return None if isinstance(certificate, PrepareCertificate) else problem

    patch.setattr(Facts, "add_certificate", believe)


@mutant
def lock_lost_at_restart(patch):
    resume = Height.resume

    def amnesia(self, kept):
        run, self._run = self._run, lambda: None
        resume(self, kept)
        self.lock, self._run = None, run
        run()

    patch.setattr(Height, "__slots__", (), raising=False)
    patch.setattr(Height, "resume", amnesia)


@mutant
def log_lost_at_restart(patch):
    init = Engine.__init__
    patch.setattr(Engine, "__init__", lambda self, **given: init(self, **{**given, "records": ()}))


@mutant
def proposal_is_not_logged(patch):
    patch.setattr(Engine, "step", _without(Engine.step, lambda e: isinstance(e, Persist) and _holds_proposal(e)))


@mutant
def broadcast_before_persist(patch):
    step = Engine.step

    def swapped(self, event):
        return sorted(step(self, event), key=lambda e: isinstance(e, Persist))

    patch.setattr(Engine, "step", swapped)


@mutant
def block_is_not_durable_before_prepare(patch):
    keep = Journal.keep
    patch.setattr(Journal, "keep", lambda self, t, *, view: None if hasattr(t, "header") else keep(self, t, view=view))


@mutant
def certificate_is_not_durable_before_commit(patch):
    keep = Journal.keep
    patch.setattr(Journal, "keep", lambda self, t, *, view: keep(self, t, view=view) if hasattr(t, "header") else None)


@mutant
def nil_counts_for_the_block(patch):
    add = Poll.add

    def count(self, author, value, signature, *, certified=False):
        named = [other for other in self._votes if other[0] != NIL]
        return add(self, author, named[0] if value[0] == NIL and named else value, signature, certified=certified)

    patch.setattr(Poll, "add", count)


@mutant
def one_prepare_fewer_than_a_quorum(patch):
    init = Height.__init__

    def hasty(self, **given):
        init(self, **given)
        of_view = self.facts.of_view

        def lowered(view):
            facts = of_view(view)
            facts.prepares._quorum = self.facts._quorum - 1
            return facts

        self.facts.of_view = lowered

    patch.setattr(Height, "__init__", hasty)


@mutant
def forget_commits_after_restart(patch):
    """Resume at the PREPARE and perhaps COMMIT something else."""
    votes = Journal.votes
    resume = Height.resume

    def again(self, kept):
        resume(self, [t for t in kept if getattr(t, "kind", None) != Kind.COMMIT])

    patch.setattr(Height, "resume", again)
    assert votes


@mutant
def accept_votes_of_strangers_in_certificates(patch):
    patch.setattr("consensus.facts.check_certificate", lambda certificate, committee, **_: None)


@mutant
def any_check_is_good(patch):
    checked = Height.checked
    patch.setattr(Height, "checked", lambda self, block_hash, ok: checked(self, block_hash, True))


@mutant
def commit_what_was_not_checked(patch):
    """PREPARE and COMMIT without waiting for the driver's verdict."""
    patch.setattr(Height, "_check", lambda self, block: True)


def _without(step, unwanted):
    return lambda self, event: [effect for effect in step(self, event) if not unwanted(effect)]


def _holds_proposal(effect: Persist) -> bool:
    return effect.record.kind == 3 and effect.record.data[100 + 16] == Kind.PROPOSAL
