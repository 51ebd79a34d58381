"""Proofs of offences that wait for a block, and the contributions remembered to notice a second one.

One proof per author and kind: a second adds nothing to what the committee can do about it.  # rule E3
"""

from consensus.advance import evidence_problem
from consensus.chain import ChainState
from consensus.evidence import Evidence, EvidenceKind, evidence_of
from consensus.identifiers import PublicKey
from consensus.limits import CONTRIBUTIONS_WATCHED_MAX, EVIDENCE_PENDING_MAX, EVIDENCE_PER_BLOCK_MAX
from consensus.votes import Contribution, Purpose


class Suspicion:
    def __init__(self) -> None:
        self._pending: dict[tuple[PublicKey, EvidenceKind], Evidence] = {}
        self._watched: dict[int, dict[tuple[PublicKey, Purpose], Contribution]] = {}

    def add(self, evidence: Evidence, state: ChainState) -> bool:
        """True if this proof is new and of use to the next block or a later one."""
        ahead_max = (
            1 if evidence.kind == EvidenceKind.WRONG_PROPOSER else 2
        )  # whose turn it is depends on the committee
        if evidence.order in self._pending or evidence.height > state.height + ahead_max:
            return False
        height = max(state.height + 1, evidence.height)
        if evidence_problem(evidence, state.membership, height=height) is not None:
            return False
        if len(self._pending) >= EVIDENCE_PENDING_MAX and not self._make_room(evidence, state):
            return False
        self._pending[evidence.order] = evidence
        return True

    def _make_room(self, evidence: Evidence, state: ChainState) -> bool:
        """Keys are free to whoever is no member, so a member's offence takes the place of a stranger's."""
        strangers = [order for order, held in self._pending.items() if not _is_member(held, state)]
        if not strangers or not _is_member(evidence, state):
            return False
        del self._pending[strangers[0]]
        return True

    def for_next_block(self, state: ChainState) -> tuple[Evidence, ...]:
        """What a block on top of `state` may carry, members first where there is too much; ascending.  # rule E4"""
        height = state.height + 1
        usable = [e for e in self._pending.values() if evidence_problem(e, state.membership, height=height) is None]
        chosen = sorted(usable, key=lambda e: (not _is_member(e, state), e.order))[:EVIDENCE_PER_BLOCK_MAX]
        return tuple(sorted(chosen, key=lambda e: e.order))

    def pending(self) -> tuple[Evidence, ...]:
        return tuple(self._pending.values())

    def moved_to(self, state: ChainState) -> None:
        """Forget what the chain now holds, what has expired, and contributions of the past."""
        height = state.height + 1
        self._pending = {
            key: e
            for key, e in self._pending.items()
            if evidence_problem(e, state.membership, height=max(height, e.height)) is None
        }
        self._watched = {at: seen for at, seen in self._watched.items() if at >= height}

    def watch(self, contribution: Contribution, state: ChainState) -> Evidence | None:
        """The proof, if this author already offered something else for this height and purpose.  # rule E1"""
        if contribution.height not in (state.height + 1, state.height + 2):
            return None
        seen = self._watched.setdefault(contribution.height, {})
        slot = (contribution.author, contribution.purpose)
        first = seen.get(slot)
        if first is None:
            if len(seen) < CONTRIBUTIONS_WATCHED_MAX or state.membership.knows(contribution.author):
                seen[slot] = contribution
            return None
        one, other = first.statement(state.chain_id), contribution.statement(state.chain_id)
        if one == other:
            return None
        return evidence_of(contribution.author, (one, first.signature), (other, contribution.signature))


def _is_member(evidence: Evidence, state: ChainState) -> bool:
    return evidence.author in state.membership.next or evidence.author in state.membership.current
