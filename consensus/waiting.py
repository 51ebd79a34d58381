"""What arrived for heights that this node has not started: kept for the next one within bounds, otherwise only a hint.

Hints never move anything by themselves: they lead to HeightWanted (start the next height) or Behind (ask for blocks).
"""

from collections.abc import Iterator

from consensus.block import Block
from consensus.certificate import Certificate, CommitCertificate, check_certificate, signed_statements
from consensus.chain import ChainState, check_block
from consensus.committee import Committee
from consensus.identifiers import PublicKey, Verify
from consensus.limits import WAITING_PER_MEMBER_MAX
from consensus.messages import Message, Proposal


class Waiting:
    """Holds messages of the two heights whose committees are known: the one that runs or is next, and the one after it."""

    def __init__(self) -> None:
        self._messages: dict[int, dict[PublicKey, list[Message]]] = {}
        self._decision: CommitCertificate | None = None  # verified, of the next height
        self._claims: dict[PublicKey, int] = {}  # the highest height in which a member was heard
        self._proposed: Block | None = None  # of the highest height for which a good proposal came, the first
        self.certified_height = 0

    def add(self, message: Message, state: ChainState, *, verify: Verify) -> None:
        """Keep a member's message of height +1 or +2; of a later one, the height only."""
        committee = _committee(state, message.height) or state.membership.next
        if message.author not in committee:
            return
        self._claims[message.author] = max(self._claims.get(message.author, 0), message.height)
        if message.height <= state.height + 2:
            held = self._messages.setdefault(message.height, {}).setdefault(message.author, [])
            alike = [other for other in held if other.kind == message.kind]
            if len(alike) < WAITING_PER_MEMBER_MAX and message not in alike:
                held.append(message)
                self._look_at(message, state, verify)

    def _look_at(self, message: Message, state: ChainState, verify: Verify) -> None:
        """Only the first view's proposal, so that what is examined before the height starts is bounded like what is kept."""
        known = 0 if self._proposed is None else self._proposed.height
        if (
            isinstance(message, Proposal)
            and known < message.height == state.height + 1
            and _is_good(message, state, verify)
        ):
            self._proposed = message.block

    def add_certificate(self, certificate: Certificate, state: ChainState, *, verify: Verify) -> bool:
        """True if it proves, or for unknown committees makes likely, that others are further than this node."""
        committee = _committee(state, certificate.height)
        if committee is not None:
            if check_certificate(certificate, committee, chain_id=state.chain_id, verify=verify) is not None:
                return False
            if certificate.height == state.height + 1 and isinstance(certificate, CommitCertificate):
                self._decision = certificate
        elif not _signed_by_some_honest(certificate, state, verify):
            return False
        shown = certificate.height + int(isinstance(certificate, CommitCertificate))
        self.certified_height = max(self.certified_height, shown)
        return True

    def take(self, height: int) -> Iterator[Message | Certificate]:
        """Everything kept for this height, in a fixed order."""
        held = self._messages.pop(height, {})
        decision, self._decision = self._decision, None
        if decision is not None and decision.height == height:
            yield decision
        for author in sorted(held):
            yield from held[author]

    def wants(self, state: ChainState) -> bool:
        """Others are deciding the next height: a decision, or messages of members of whom one is honest.  # rule H3"""
        if self._decision is not None:
            return True
        committee = state.membership.current
        held = self._messages.get(state.height + 1, {})
        return sum(1 for author in held if author in committee) >= committee.blocking()

    def proposed(self, state: ChainState) -> Block | None:
        """The block of a good proposal for the next height, by whoever's turn it is.  # rule H3"""
        block = self._proposed
        return block if block is not None and block.height == state.height + 1 else None

    def height_shown(self, state: ChainState) -> int:
        """The highest height in which an honest member was heard, if that is later than the next.  # rule H4"""
        committee = state.membership.next
        claims = sorted((h for author, h in self._claims.items() if author in committee), reverse=True)
        spoken = claims[committee.blocking() - 1] if len(claims) >= committee.blocking() else 0
        return max(spoken, self.certified_height)

    def moved_to(self, state: ChainState, *, verify: Verify) -> None:
        self._messages = {height: held for height, held in self._messages.items() if height > state.height}
        self._claims = {author: h for author, h in self._claims.items() if h > state.height + 1}
        if self._decision is not None and self._decision.height <= state.height:
            self._decision = None
        for held in self._messages.get(state.height + 1, {}).values():
            for message in held:
                self._look_at(message, state, verify)


def _committee(state: ChainState, height: int) -> Committee | None:
    if height == state.height + 1:
        return state.membership.current
    return state.membership.next if height == state.height + 2 else None


def _is_good(message: Proposal, state: ChainState, verify: Verify) -> bool:
    if message.view != 0:
        return False
    right = message.author == state.membership.current.proposer(message.height, message.view)
    return right and check_block(message.block, state, verify) is None


def _signed_by_some_honest(certificate: Certificate, state: ChainState, verify: Verify) -> bool:
    """Of a committee that we cannot know yet: enough members of the last known one signed that one is honest; one bad entry rejects it."""
    committee, good = state.membership.next, set()
    for author, statement, signature in signed_statements(certificate, state.chain_id):
        if author in committee and author not in good:
            if not verify(author, statement, signature):
                return False
            good.add(author)
            if len(good) >= committee.blocking():
                return True
    return False
