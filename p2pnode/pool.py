"""The contributions of one open height: who announced what, and whose bytes are held.

A plain table without awaiting anything. What it is not: a judge of payloads (``model`` checks them) or of membership (the block's rules
do). Bounded by construction: one update and one probe an author, and a limited number of authors who are no members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import consensus
from p2pnode.errors import LocalFault

STRANGERS_MAX = 64  # contributions a height from keys that are no members; each may cost a payload's bytes

Slot = tuple[bytes, consensus.Purpose]


@dataclass(frozen=True, slots=True)
class Held:
    """A contribution with its bytes, and when they were complete (monotonic seconds)."""

    contribution: consensus.Contribution
    payload: bytes
    moment: float


class Pool:
    """Contributions to height ``height`` on the base model ``base_root``."""

    def __init__(self, *, height: int, base_root: bytes, members: frozenset[bytes], payload_bytes: int) -> None:
        self.height = height
        self._base_root = base_root
        self._members = members
        self._payload_bytes = payload_bytes
        self._announced: dict[Slot, consensus.Contribution] = {}
        self._held: dict[Slot, Held] = {}
        self._bad: set[bytes] = set()
        self._named: set[bytes] = set()

    def announce(self, contribution: consensus.Contribution) -> str | None:
        """Take note of a signed announcement. Returns why it is refused, or ``None``: then its bytes are wanted.

        A second, different announcement for the same slot is refused here and is evidence elsewhere.
        """
        slot = (contribution.author, contribution.purpose)
        if contribution.height != self.height:
            return f"it is for height {contribution.height}, the open one is {self.height}"
        if contribution.base_root != self._base_root:
            return "it was learned from another model"
        if contribution.payload_bytes != self._payload_bytes:
            return f"{contribution.payload_bytes} bytes of payload, this network's have {self._payload_bytes}"
        if slot in self._announced:
            return "its author announced one already"
        if contribution.author not in self._members and self._strangers() >= STRANGERS_MAX:
            return "too many contributions from non-members at this height"
        self._announced[slot] = contribution
        self._named.add(contribution.payload_digest)
        return None

    def forget(self, contribution: consensus.Contribution) -> None:
        """Nobody has its bytes now: announced again, it is asked for again, and meanwhile it takes nobody's place."""
        slot = (contribution.author, contribution.purpose)
        if slot not in self._held and self._announced.get(slot) == contribution:
            del self._announced[slot]

    def hold(self, held: Held) -> None:
        """The bytes of an announced contribution are here and of the right form."""
        if held.contribution.height != self.height:
            raise LocalFault(f"a contribution to height {held.contribution.height} in the pool of {self.height}")
        self._held[(held.contribution.author, held.contribution.purpose)] = held
        self._named.add(held.contribution.payload_digest)

    def names(self, digest: bytes) -> bool:
        """Whether this height may need these bytes. Safe to ask from any thread."""
        return digest in self._named

    def reject(self, contribution: consensus.Contribution) -> None:
        """Its bytes are not what a payload is: they will not be fetched again."""
        self._bad.add(contribution.payload_digest)

    def rejected(self, digest: bytes) -> bool:
        return digest in self._bad

    def find(self, contribution: consensus.Contribution) -> Held | None:
        """The held bytes of exactly this contribution."""
        held = self._held.get((contribution.author, contribution.purpose))
        if held is not None and held.contribution.payload_digest == contribution.payload_digest:
            return held
        return None

    def held(self) -> list[Held]:
        """Everything held, ascending by (author, purpose): the order of a block."""
        return [self._held[slot] for slot in sorted(self._held)]

    def listable(self) -> list[Held]:
        """What a block may list of it, in the same order."""
        strangers = [held for held in self.held() if held.contribution.author not in self._members]
        beyond = {id(held) for held in strangers[STRANGERS_MAX:]}
        return [held for held in self.held() if id(held) not in beyond]

    def excess(self, contributions: Sequence[consensus.Contribution]) -> str | None:
        """Why a block that lists these asks for more than a height may cost, or ``None``. Says so before any byte is fetched."""
        if any(c.payload_bytes != self._payload_bytes for c in contributions):
            return f"a listed payload is not of {self._payload_bytes} bytes"
        if sum(c.author not in self._members for c in contributions) > STRANGERS_MAX:
            return f"more than {STRANGERS_MAX} contributions from non-members"
        return None

    def arrivals(self) -> dict[bytes, float]:
        """When each author's bytes were complete."""
        return {author: held.moment for (author, _), held in self._held.items()}

    def own(self, author: bytes, purpose: consensus.Purpose) -> Held | None:
        return self._held.get((author, purpose))

    def _strangers(self) -> int:
        return sum(author not in self._members for author, _ in self._announced)
