"""What the chain knows about people after a block: three committees, who may join, who is here, who was caught.

Its hash stands in every header and is over its encoding, so a node that loads a certified snapshot loads the same membership as
everybody else, and whoever gave it the bytes is trusted about nothing. How it follows from blocks is advance.py.

For editing: every field is protocol, bounded, and in the encoding. No wall clock, no local opinion, no iteration over a set.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from consensus.committee import Committee, read_committee
from consensus.encoding import Reader, digest
from consensus.errors import Malformed
from consensus.evidence import EVIDENCE_TAGS, EvidenceKind
from consensus.identifiers import Digest, PublicKey
from consensus.limits import (
    ABSENT_TURNS,
    BAN_HEIGHTS,
    CANDIDATES_MAX,
    CONTRIBUTIONS_PER_BLOCK_MAX,
    EVIDENCE_PER_BLOCK_MAX,
    GUESTS_MAX,
    MEMBERS_MAX,
    PERMITTED_MAX,
    REQUEST_AGE_HEIGHTS_MAX,
    REQUESTS_PER_BLOCK_MAX,
    TOKENS_USED_MAX,
)
from consensus.rules import Rules

EFFECT_HEIGHTS = 2
"""What a block says about people acts so many heights later.  # rule M1"""

OFFENCES_MAX = EVIDENCE_PER_BLOCK_MAX * (BAN_HEIGHTS + EFFECT_HEIGHTS)
ANSWERED_MAX = REQUESTS_PER_BLOCK_MAX * (REQUEST_AGE_HEIGHTS_MAX + 1)
MEMBERSHIP_BYTES_MAX = (
    3 * (3 + 32 * MEMBERS_MAX)
    + 40 * (CANDIDATES_MAX + ANSWERED_MAX)
    + 72 * (GUESTS_MAX + TOKENS_USED_MAX)
    + 32 * (2 * CONTRIBUTIONS_PER_BLOCK_MAX + PERMITTED_MAX + MEMBERS_MAX)
    + 41 * (MEMBERS_MAX + OFFENCES_MAX)
    + 64
)
"""What follows from limits.py: offences that are not forgotten yet, requests that are remembered, and all lists at their longest."""
_TAGGED = {tag: kind for kind, tag in EVIDENCE_TAGS.items()}


@dataclass(frozen=True, slots=True)
class Offence:
    """`author` was proven to have done `kind` in the block of `height`."""

    author: PublicKey
    kind: EvidenceKind
    height: int

    @property
    def ends(self) -> int:
        """The first height at which this is forgotten, and contributions are taken again."""
        return self.height + EFFECT_HEIGHTS + BAN_HEIGHTS


@dataclass(frozen=True, slots=True)
class Presence:
    """When a member's signature was last in a block, and how many of its own turns it has missed since (2: two or more)."""

    member: PublicKey
    seen_height: int
    turns_missed: int = 0


@dataclass(frozen=True, slots=True)
class Guest:
    """Who was invited and has no seat yet. The block of `until_height` ends the invitation."""

    key: PublicKey
    inviter: PublicKey
    until_height: int


@dataclass(frozen=True, slots=True)
class UsedToken:
    """Remembered until the invitation that it belongs to expires."""

    key: PublicKey
    inviter: PublicKey
    expiry_height: int


@dataclass(frozen=True, slots=True)
class Index:
    """What is asked of a membership again and again for one block, so that no answer costs a walk through its tables."""

    permitted: frozenset[PublicKey]  # with the guests
    known: frozenset[PublicKey]
    answered: dict[PublicKey, int]
    tokens: frozenset[PublicKey]
    guests_of: Counter[PublicKey]
    tokens_of: Counter[PublicKey]
    offences_of: dict[PublicKey, tuple[Offence, ...]]

    @classmethod
    def of(cls, membership: "Membership") -> "Index":
        permitted = frozenset((*membership.permitted, *(guest.key for guest in membership.guests)))
        counted = (key for pairs in (membership.accepted, membership.answered) for key, _ in pairs)
        offences: dict[PublicKey, tuple[Offence, ...]] = {}
        for offence in membership.offences:
            offences[offence.author] = (*offences.get(offence.author, ()), offence)
        return cls(
            permitted=permitted,
            known=permitted.union(membership.current.members, membership.next.members, counted),
            answered=dict(membership.answered),
            tokens=frozenset(token.key for token in membership.tokens),
            guests_of=Counter(guest.inviter for guest in membership.guests),
            tokens_of=Counter(token.inviter for token in membership.tokens),
            offences_of=offences,
        )


@dataclass(frozen=True, slots=True)
class Membership:
    """After the block of height h: who decided h, who decides h+1 and h+2, and what later committees depend on."""

    previous: Committee  # of h: checks the certificate that block h+1 carries
    current: Committee  # of h+1
    next: Committee  # of h+2
    accepted: tuple[tuple[PublicKey, int], ...] = ()  # non-members' accepted contributions, ascending by key
    recent: tuple[tuple[PublicKey, ...], tuple[PublicKey, ...]] = ((), ())  # contributors of h-1 and of h, ascending
    permitted: tuple[PublicKey, ...] = ()  # who may be a member under "invite" and "allowlist", ascending
    guests: tuple[Guest, ...] = ()  # who may become one by a member's invitation, ascending by key
    tokens: tuple[UsedToken, ...] = ()  # ascending by key
    answered: tuple[tuple[PublicKey, int], ...] = ()  # author and height of the newest request carried out, ascending
    presence: tuple[Presence, ...] = ()  # of the members of `next`, in their order
    offences: tuple[Offence, ...] = ()  # ascending by (author, kind), while their ban lasts
    _hash: Digest | None = field(default=None, init=False, repr=False, compare=False)
    _index: Index | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def founding(cls, founders: Iterable[PublicKey], rules: Rules | None = None) -> "Membership":
        rules = rules or Rules()
        committee = Committee.of(founders, rules.threshold_percent)
        listed = {"open": (), "invite": committee.members, "allowlist": (*rules.allowlist, *committee.members)}
        return cls(
            previous=committee,
            current=committee,
            next=committee,
            permitted=tuple(sorted(set(listed[rules.admission]))),
            presence=tuple(Presence(member, 0) for member in committee.members),
        )

    @property
    def hash(self) -> Digest:
        known = self._hash
        if known is None:
            known = digest(b"membership", self.encode())
            object.__setattr__(self, "_hash", known)
        return known

    @property
    def index(self) -> Index:
        known = self._index
        if known is None:
            known = Index.of(self)
            object.__setattr__(self, "_index", known)
        return known

    def encode(self) -> bytes:
        """Canonical: equal memberships and no others have equal bytes."""
        counted = [(key, count) for pairs in (self.accepted, self.answered) for key, count in pairs]
        invited = [(guest.key, guest.inviter, guest.until_height) for guest in self.guests]
        invited += [(token.key, token.inviter, token.expiry_height) for token in self.tokens]
        return b"".join(
            (
                *(committee.encode() for committee in (self.previous, self.current, self.next)),
                *(_count(part) for part in (*self.recent, self.permitted, self.presence, self.offences)),
                *(_count(part) for part in (self.accepted, self.answered, self.guests, self.tokens)),
                *(key for keys in (*self.recent, self.permitted) for key in keys),
                *(
                    p.member + p.seen_height.to_bytes(8, "big") + p.turns_missed.to_bytes(1, "big")
                    for p in self.presence
                ),
                *(
                    o.author + EVIDENCE_TAGS[o.kind].to_bytes(1, "big") + o.height.to_bytes(8, "big")
                    for o in self.offences
                ),
                *(key + count.to_bytes(8, "big") for key, count in counted),
                *(key + inviter + height.to_bytes(8, "big") for key, inviter, height in invited),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "Membership":
        """Strict; raises Malformed. That it is the chain's is for the caller to see by its hash."""
        reader = Reader(data, what="membership", bytes_max=MEMBERSHIP_BYTES_MAX)
        previous, current, following = (read_committee(reader) for _ in range(3))
        keys_max = (CONTRIBUTIONS_PER_BLOCK_MAX, CONTRIBUTIONS_PER_BLOCK_MAX, PERMITTED_MAX + MEMBERS_MAX)
        keys = [reader.count(4, most) for most in keys_max]
        present, caught = reader.count(4, MEMBERS_MAX), reader.count(4, OFFENCES_MAX)
        counts = [reader.count(4, most) for most in (CANDIDATES_MAX, ANSWERED_MAX)]
        guests_count, tokens_count = reader.count(4, GUESTS_MAX), reader.count(4, TOKENS_USED_MAX)
        before, latest, permitted = (tuple(reader.key() for _ in range(count)) for count in keys)
        presence = tuple(
            Presence(reader.key(), reader.unsigned(8), reader.count(1, ABSENT_TURNS)) for _ in range(present)
        )
        offences = tuple(_read_offence(reader) for _ in range(caught))
        accepted, answered = (tuple((reader.key(), reader.unsigned(8)) for _ in range(count)) for count in counts)
        guests = tuple(Guest(reader.key(), reader.key(), reader.unsigned(8)) for _ in range(guests_count))
        tokens = tuple(UsedToken(reader.key(), reader.key(), reader.unsigned(8)) for _ in range(tokens_count))
        reader.end()
        for ordered in (before, latest, permitted, *([key for key, _ in pairs] for pairs in (accepted, answered))):
            _ascend(ordered)
        for invited in (guests, tokens):
            _ascend([entry.key for entry in invited])
        _ascend([(o.author, o.kind) for o in offences])
        if tuple(p.member for p in presence) != following.members:
            raise Malformed("a membership whose presence is not its members'")
        return cls(
            previous=previous,
            current=current,
            next=following,
            accepted=accepted,
            recent=(before, latest),
            permitted=permitted,
            guests=guests,
            tokens=tokens,
            answered=answered,
            presence=presence,
            offences=offences,
        )

    def permits(self, author: PublicKey) -> bool:
        """Whether it may be a member under "invite" and "allowlist": a guest may as well."""
        return author in self.index.permitted

    def guest(self, author: PublicKey) -> Guest | None:
        return next((guest for guest in self.guests if guest.key == author), None)

    def knows(self, author: PublicKey) -> bool:
        """Members, the permitted, guests, candidates with an accepted contribution, and who left lately: whose evidence a block may carry."""
        return author in self.index.known

    def offences_of(self, author: PublicKey) -> tuple[Offence, ...]:
        return self.index.offences_of.get(author, ())

    def banned(self, author: PublicKey, *, height: int) -> bool:
        """Whether the block of `height` refuses what this author contributes.  # rule M8"""
        return any(o.height + EFFECT_HEIGHTS <= height < o.ends for o in self.offences_of(author))


def _count(part: tuple[Any, ...]) -> bytes:
    return len(part).to_bytes(4, "big")


def _ascend(keys: Any) -> None:
    if any(a >= b for a, b in pairwise(keys)):
        raise Malformed("a membership out of order")


def _read_offence(reader: Reader) -> Offence:
    author, tag, height = reader.key(), reader.unsigned(1), reader.unsigned(8)
    if tag not in _TAGGED:
        raise Malformed(f"an offence of kind {tag}")
    return Offence(author, _TAGGED[tag], height)
