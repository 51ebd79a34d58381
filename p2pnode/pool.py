"""The contributions of one open height: who announced what, and whose bytes are held.

A plain table without awaiting anything. What it is not: a judge of payloads (``model`` checks them) or of membership (the block's rules
do). Bounded by construction: one update and one probe an author, and a limited number of payloads from authors who are no members.

Keys are free, so anybody can announce under many of them what somebody else has made. Among strangers a payload counts once, for the
one whose bytes were here first; a member's announcement is never set aside, because a stranger could otherwise silence a member.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import consensus
from p2pnode.errors import LocalFault

STRANGERS_MAX = 64  # payloads a height from keys that are no members
STRANGERS_MIN = 3  # however large a model is: one member grows to four by three strangers in one block (SPEC.md, M2)
STRANGER_BYTES_MAX = 256 << 20  # of strangers' payloads held at once, where that is more than three
COPIES_MAX = 4  # announcements of strangers for each payload of theirs; beyond it somebody makes up keys

PROBE_HEIGHTS = (
    10  # an author's probes are at least so many heights apart: each costs everybody a payload and teaches nobody
)
PROBED = f"its author sent a probe in the last {PROBE_HEIGHTS} heights"

Slot = tuple[bytes, consensus.Purpose]


@dataclass(frozen=True, slots=True)
class Held:
    """A contribution with its bytes, and when they were complete (monotonic seconds)."""

    contribution: consensus.Contribution
    payload: bytes
    moment: float


def strangers_max(payload_bytes: int) -> int:
    """How many payloads of strangers a height takes; the same for every node of a network, because all payloads have one size."""
    return max(STRANGERS_MIN, min(STRANGERS_MAX, STRANGER_BYTES_MAX // payload_bytes))


class Pool:
    """Contributions to the height after ``state``. ``probed``: whose last probe is too recent for another."""

    def __init__(
        self,
        state: consensus.ChainState,
        *,
        members: frozenset[bytes],
        payload_bytes: int,
        probed: frozenset[bytes] = frozenset(),
    ) -> None:
        self.height = state.height + 1
        self._state = state
        self._members = members
        self._payload_bytes = payload_bytes
        self._probed = probed
        self._strangers_max = strangers_max(payload_bytes)
        self._announced: dict[Slot, consensus.Contribution] = {}
        self._held: dict[Slot, Held] = {}
        self._bad: set[bytes] = set()
        self._named: set[bytes] = set()

    def announce(self, contribution: consensus.Contribution) -> str | None:
        """Take note of a signed announcement. Returns why it is refused, or ``None``: then its bytes are wanted.

        A second, different announcement for the same slot is refused here and is evidence elsewhere.
        """
        slot = (contribution.author, contribution.purpose)
        problem = consensus.contribution_problem(contribution, self._state)
        if problem is not None:
            return problem
        if contribution.payload_bytes != self._payload_bytes:
            return f"{contribution.payload_bytes} bytes of payload, this network's have {self._payload_bytes}"
        if slot in self._announced:
            return "its author announced one already"
        if contribution.purpose is consensus.Purpose.PROBE and contribution.author in self._probed:
            return PROBED
        if contribution.author not in self._members and not self._has_room_for(contribution.payload_digest):
            return "too many contributions from non-members at this height"
        self._announced[slot] = contribution
        self._named.add(contribution.payload_digest)
        return None

    def forget(self, contribution: consensus.Contribution) -> None:
        """Nobody has its bytes now: announced again, it is asked for again, and meanwhile it takes nobody's place."""
        slot, digest = (contribution.author, contribution.purpose), contribution.payload_digest
        if slot not in self._held and self._announced.get(slot) == contribution:
            del self._announced[slot]
            wanted = [*self._announced.values(), *(held.contribution for held in self._held.values())]
            if all(other.payload_digest != digest for other in wanted):
                self._named.discard(digest)  # else names grow for as long as nobody decides this height

    def hold(self, held: Held) -> None:
        """The bytes of an announced contribution are here and of the right form."""
        if held.contribution.height != self.height:
            raise LocalFault(f"a contribution to height {held.contribution.height} in the pool of {self.height}")
        digest = held.contribution.payload_digest
        same = (other.payload for other in self._held.values() if other.contribution.payload_digest == digest)
        self._held[(held.contribution.author, held.contribution.purpose)] = replace(
            held, payload=next(same, held.payload)
        )
        self._named.add(digest)
        self._drop_copies(digest)

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
        """What a block may list of it, in the same order: every member's, and strangers' payloads once each, the first first."""
        by_arrival = sorted(self.held(), key=lambda held: held.moment)
        seen: set[bytes] = set()
        chosen: set[int] = set()
        strangers = 0
        for held in by_arrival:
            digest = held.contribution.payload_digest
            if held.contribution.author in self._members:
                chosen.add(id(held))
            elif digest not in seen and strangers < self._strangers_max:
                chosen.add(id(held))
                strangers += 1
            seen.add(digest)
        return [held for held in self.held() if id(held) in chosen]

    def excess(self, contributions: Sequence[consensus.Contribution]) -> str | None:
        """Why a block that lists these asks for more than a height may cost, or ``None``. Says so before any byte is fetched.

        All of it follows from the block and the chain before it, so that every honest node says the same.
        """
        if any(c.payload_bytes != self._payload_bytes for c in contributions):
            return f"a listed payload is not of {self._payload_bytes} bytes"
        if any(c.purpose is consensus.Purpose.PROBE and c.author in self._probed for c in contributions):
            return PROBED
        strangers = [c.payload_digest for c in contributions if c.author not in self._members]
        if len(strangers) > self._strangers_max:
            return f"more than {self._strangers_max} contributions from non-members"
        if len(set(strangers)) < len(strangers):
            return "one payload listed twice for non-members"
        return None

    def arrivals(self) -> dict[bytes, float]:
        """When each author's bytes were complete."""
        return {author: held.moment for (author, _), held in self._held.items()}

    def learned(self) -> frozenset[bytes]:
        """Whose updates are held."""
        return frozenset(author for author, purpose in self._held if purpose is consensus.Purpose.UPDATE)

    def own(self, author: bytes, purpose: consensus.Purpose) -> Held | None:
        return self._held.get((author, purpose))

    def _has_room_for(self, digest: consensus.Digest) -> bool:
        """Whether one more stranger may announce these bytes: none that are here already, nor too many of them or of others."""
        if any(held.contribution.payload_digest == digest for held in self._held.values()):
            return False
        announced = [c.payload_digest for (author, _), c in self._announced.items() if author not in self._members]
        if digest in announced:
            return announced.count(digest) < COPIES_MAX
        return len(set(announced)) < self._strangers_max

    def _drop_copies(self, digest: bytes) -> None:
        """The bytes are here for somebody: what other strangers announced of them takes no place any more."""
        for slot, contribution in list(self._announced.items()):
            if contribution.payload_digest == digest and slot[0] not in self._members and slot not in self._held:
                del self._announced[slot]
