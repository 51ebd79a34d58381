"""Mutants of the rules about blocks, members, evidence and requests; see mutants.py."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import consensus.chain
import consensus.suspicion
from consensus import Membership
from consensus.facts import Facts
from p2pnode.simulation.mutants import EVENTS, Patch, mutant

advancing = import_module("consensus.advance")  # the package exports a function of this name
GROWTH = {"nodes": 6, "founders": 4, "heights": 8, "attacks": (), "leaves": 0, "threshold_percent": 0}
CAUGHT = {
    "nodes": 4,
    "founders": None,
    "attacks": ("equivocating-proposer", "equivocating-prepare", "equivocating-commit"),
    "heights": 7,
    "leaves": 0,
    "admission": "open",
}
INVITED = {**GROWTH, "admission": "invite"}


def _forgive(patch: Patch, name: str, forgiven: str) -> None:
    """One of check_block's parts without the check that gives this reason."""
    check = getattr(consensus.chain, name)

    def forgiving(*given: Any, **more: Any) -> Any:
        problem = check(*given, **more)
        return None if problem is not None and forgiven in problem else problem

    patch.set(consensus.chain, name, forgiving)


@mutant("B2", level=EVENTS, budget=100, attacks=("lunatic",), heights=5)
def membership_hash_unchecked(patch: Patch) -> None:
    _forgive(patch, "_check_body", "another membership")


@mutant("B2", level=EVENTS, budget=100, attacks=("lunatic",), heights=5)
def committees_unchecked(patch: Patch) -> None:
    _forgive(patch, "_check_links", "another committee")


@mutant("B2", level=EVENTS, budget=100, attacks=("lunatic",), heights=5)
def block_of_another_chain(patch: Patch) -> None:
    _forgive(patch, "_check_links", "another chain")


@mutant("B2", level=EVENTS, budget=100, attacks=("lunatic",), heights=5)
def block_that_does_not_follow(patch: Patch) -> None:
    _forgive(patch, "_check_links", "does not follow")


@mutant("B2", level=EVENTS, budget=100, attacks=("lunatic",), heights=4)
def contributions_nobody_signed(patch: Patch) -> None:
    _forgive(patch, "_check_signatures", "did not sign")


@mutant("B4", level=EVENTS, budget=100, attacks=("lunatic",), heights=5)
def last_certificate_unchecked(patch: Patch) -> None:
    patch.set(consensus.chain, "_check_last_certificate", lambda *given: None)


@mutant("B4, C1", level=EVENTS, budget=60, **GROWTH)
def certificates_checked_with_the_stale_committee(patch: Patch) -> None:
    init = Facts.__init__

    def stale(self: Any, state: Any, **given: Any) -> None:
        previous = replace(state.membership, current=state.membership.previous)
        init(self, replace(state, membership=previous), **given)
        self.state = state

    patch.set(Facts, "__init__", stale)


@mutant("M1", level=EVENTS, budget=60, **CAUGHT)
def evidence_acts_at_once(patch: Patch) -> None:
    advance: Any = vars(consensus.chain)["advance"]

    def hasty(membership: Membership, content: Any, rules: Any) -> Any:
        after = advance(membership, content, rules)
        return replace(after, current=after.next) if content.evidence else after

    patch.set(consensus.chain, "advance", hasty)


@mutant("M6", level=EVENTS, budget=60, **CAUGHT)
def evidence_never_acts(patch: Patch) -> None:
    remaining = advancing._remaining

    def lenient(members: Any, *, content: Any, presence: Any, leaver: Any) -> Any:
        return remaining(members, content=replace(content, evidence=()), presence=presence, leaver=leaver)

    patch.set(advancing, "_remaining", lenient)


@mutant("M8", level=EVENTS, budget=60, **{**CAUGHT, "heights": 9, "nodes": 5, "founders": 4})
def banned_contribution_listed(patch: Patch) -> None:
    patch.set(Membership, "banned", lambda self, author, *, height: False)


@mutant("M8", level=EVENTS, budget=60, **{**CAUGHT, "heights": 11, "nodes": 5, "founders": 4})
def convict_admitted_again(patch: Patch) -> None:
    patch.set(Membership, "banned", lambda self, author, *, height: False)
    patch.set(advancing, "_offences", lambda held, **given: ())


@mutant("M2", level=EVENTS, budget=60, **INVITED)
def everybody_is_permitted(patch: Patch) -> None:
    """Whoever contributes is admitted, before its time."""
    patch.set(advancing, "_proven", lambda counts, rules: list(counts))
    advance: Any = vars(consensus.chain)["advance"]

    def open_to_all(membership: Membership, content: Any, rules: Any) -> Any:
        return advance(membership, content, replace(rules, admission="open", allowlist=()))

    patch.set(consensus.chain, "advance", open_to_all)


@mutant("N5", level=EVENTS, budget=100, **INVITED)
def token_accepted_twice(patch: Patch) -> None:
    _forgive_join(patch, "was used")


@mutant(
    "N3",
    level=EVENTS,
    budget=60,
    nodes=7,
    founders=None,
    attacks=(),
    byzantine=0,
    leaves=1,
    heights=8,
    admission="open",
)
def leave_does_nothing(patch: Patch) -> None:
    remaining = advancing._remaining

    def stay(members: Any, *, content: Any, presence: Any, leaver: Any) -> Any:
        return remaining(members, content=content, presence=presence, leaver=None)

    patch.set(advancing, "_remaining", stay)


def _forgive_join(patch: Patch, forgiven: str) -> None:
    check = advancing._join_problem

    def forgiving(join: Any, membership: Any, **given: Any) -> Any:
        problem = check(join, membership, **given)
        return None if problem is not None and forgiven in problem else problem

    patch.set(advancing, "_join_problem", forgiving)


@mutant("N1", level=EVENTS, budget=100, attacks=("lunatic",), heights=6)
def requests_nobody_signed(patch: Patch) -> None:
    patch.set(consensus.chain, "check_request", lambda request, **given: None)


@mutant("M7", level=EVENTS, budget=60, nodes=7, founders=None, attacks=(), heights=40, late_joiner=True, healed_at=20.0)
def absent_after_two_heights(patch: Patch) -> None:
    patch.set(advancing, "ABSENT_HEIGHTS", 2)
    patch.set(advancing, "ABSENT_TURNS", 1)


@mutant("E6", level=EVENTS, budget=60, attacks=("framing",), heights=5)
def a_proposal_in_turn_is_an_offence(patch: Patch) -> None:
    for module in (consensus.chain, consensus.suspicion):
        check = vars(module)["evidence_problem"]

        def forgiving(*given: Any, check: Any = check, **more: Any) -> Any:
            problem = check(*given, **more)
            return None if problem == "evidence of a proposal in turn" else problem

        patch.set(module, "evidence_problem", forgiving)
