"""How the committee grows: a pure function of committed blocks, effective two heights later.

`Membership` is what the chain knows about people after a block: three committees, who is earning a seat, who was caught. Its
hash stands in every header, so a node that loads a certified snapshot loads the same memberships as everybody else.

For editing: every field is protocol. No wall clock, no local opinion, no iteration over a set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from consensus.committee import Committee
from consensus.encoding import digest
from consensus.evidence import Evidence, EvidenceKind
from consensus.identifiers import Digest, PublicKey
from consensus.limits import CANDIDATES_MAX, EVIDENCE_AGE_HEIGHTS_MAX, MEMBERS_MAX
from consensus.votes import Contribution, Purpose

COMMITTEE_SIZE_SAFE = 4
"""The smallest committee that tolerates one fault."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the genesis says about membership. Under "invite" nobody is admitted yet."""

    admission: Literal["open", "invite"] = "open"
    probation_contributions: int = 3
    members_max: int = 64

    def __post_init__(self) -> None:
        if self.admission not in ("open", "invite"):
            raise ValueError(f"admission policy {self.admission!r}")
        if self.probation_contributions < 1 or not 1 <= self.members_max <= MEMBERS_MAX:
            raise ValueError("probation_contributions is at least 1, members_max between 1 and MEMBERS_MAX")


@dataclass(frozen=True, slots=True)
class Offence:
    """`author` was proven to have done `kind` in the block of `height`."""

    author: PublicKey
    kind: EvidenceKind
    height: int


@dataclass(frozen=True, slots=True)
class Membership:
    """After the block of height h: who decided h, who decides h+1 and h+2, and what growth and evidence depend on."""

    previous: Committee  # of h: checks the certificate that block h+1 carries
    current: Committee  # of h+1
    next: Committee  # of h+2
    accepted: tuple[tuple[PublicKey, int], ...] = ()  # non-members' accepted contributions, ascending by key
    recent: tuple[tuple[PublicKey, ...], tuple[PublicKey, ...]] = ((), ())  # contributors of h-1 and of h, ascending
    offences: tuple[Offence, ...] = ()  # ascending by (author, kind), not older than the evidence window

    @classmethod
    def founding(cls, founders: Iterable[PublicKey]) -> "Membership":
        committee = Committee.of(founders)
        return cls(previous=committee, current=committee, next=committee)

    @property
    def hash(self) -> Digest:
        return digest(b"membership", *self._parts())

    def _parts(self) -> Iterable[bytes]:
        for committee in (self.previous, self.current, self.next):
            yield committee.encode()
        yield len(self.accepted).to_bytes(4, "big")
        for key, count in self.accepted:
            yield key + count.to_bytes(8, "big")
        for keys in self.recent:
            yield len(keys).to_bytes(4, "big") + b"".join(keys)
        for offence in self.offences:
            yield offence.author + offence.kind.encode().ljust(32, b"\0") + offence.height.to_bytes(8, "big")

    def knows(self, author: PublicKey) -> bool:
        """Members, and candidates with an accepted contribution: whose evidence a block may carry."""
        return author in self.current or author in self.next or any(key == author for key, _ in self.accepted)


def advance(
    membership: Membership,
    *,
    height: int,
    contributions: Sequence[Contribution],
    evidence: Sequence[Evidence],
    rules: Rules,
) -> Membership:
    """The membership after the block of `height`, from the one before it.  # rule M1"""
    authors = sorted({c.author for c in contributions if c.purpose == Purpose.UPDATE})
    recent = (membership.recent[1], tuple(authors))
    counts = dict(membership.accepted)
    for author in authors:
        if author not in membership.next:
            counts[author] = counts.get(author, 0) + 1
    committee = _grown(membership.next, counts=counts, recent=recent, rules=rules)
    return Membership(
        previous=membership.current,
        current=membership.next,
        next=committee,
        accepted=_bounded(counts, committee),
        recent=recent,
        offences=_offences(membership.offences, height=height, evidence=evidence),
    )


def weights(contributions: Sequence[Contribution], committee: Committee) -> tuple[int, ...]:
    """How much each listed contribution moves the model.  # rule M4"""
    everybody = len(committee) < COMMITTEE_SIZE_SAFE
    return tuple(int(c.purpose == Purpose.UPDATE and (everybody or c.author in committee)) for c in contributions)


def evidence_problem(evidence: Evidence, membership: Membership, *, height: int) -> str | None:
    """Why the block of `height` may not carry this proof (its signatures apart), or None.  # rule E3"""
    if not 0 <= height - evidence.height <= EVIDENCE_AGE_HEIGHTS_MAX:
        return "evidence too old, or from the future"
    if not membership.knows(evidence.author):
        return "evidence against a stranger"
    for offence in membership.offences:
        if (offence.author, offence.kind) == evidence.order and height - offence.height <= EVIDENCE_AGE_HEIGHTS_MAX:
            return "evidence that the chain already holds"
    return None


def _grown(
    committee: Committee, *, counts: dict[PublicKey, int], recent: tuple[tuple[PublicKey, ...], ...], rules: Rules
) -> Committee:
    """The committee two heights on. Two and three members tolerate nothing, so nobody stops there.  # rule M2, M3"""
    room = rules.members_max - len(committee)
    if rules.admission != "open" or room <= 0:
        return committee
    steady = set(recent[0]) & set(recent[1])
    ready = sorted(key for key, n in counts.items() if n >= rules.probation_contributions and key in steady)
    if len(committee) >= COMMITTEE_SIZE_SAFE:
        return Committee.of((*committee.members, *ready[:1]))  # rule M3
    admitted = ready[:room]
    if len(committee) + len(admitted) >= COMMITTEE_SIZE_SAFE:
        return Committee.of((*committee.members, *admitted))  # rule M2
    return committee


def _bounded(counts: dict[PublicKey, int], committee: Committee) -> tuple[tuple[PublicKey, int], ...]:
    """Members need no count; of too many candidates those with the fewest contributions are forgotten.  # rule M5"""
    candidates = [(key, n) for key, n in counts.items() if key not in committee]
    if len(candidates) > CANDIDATES_MAX:
        candidates = sorted(candidates, key=lambda entry: (-entry[1], entry[0]))[:CANDIDATES_MAX]
    return tuple(sorted(candidates))


def _offences(held: tuple[Offence, ...], *, height: int, evidence: Sequence[Evidence]) -> tuple[Offence, ...]:
    kept = {(o.author, o.kind): o for o in held if height - o.height < EVIDENCE_AGE_HEIGHTS_MAX}
    for proof in evidence:
        kept[proof.order] = Offence(proof.author, proof.kind, height)
    return tuple(kept[key] for key in sorted(kept))
