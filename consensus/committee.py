"""Who votes at one height: an immutable sorted set of keys, one vote each, and the thresholds in integers.

Not here: how the set changes (membership.py). For editing: no float, no weight, no state; the proposer is a pure function of
the set, the height and the view, so that nobody can grind it and a node that synced cannot disagree about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from consensus.encoding import Reader, digest
from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey
from consensus.limits import MEMBERS_MAX


@dataclass(frozen=True, slots=True)
class Committee:
    """`members` strictly ascending by key; never empty. Raises Malformed otherwise.

    `threshold_percent`: what the genesis asks of a quorum beyond more than two thirds; 0, or 67 to 100.
    """

    members: tuple[PublicKey, ...]
    threshold_percent: int = 0
    hash: Digest = field(init=False, repr=False, compare=False)
    _keys: frozenset[PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= MEMBERS_MAX:
            raise Malformed(f"a committee of {len(self.members)}")
        if any(len(key) != 32 for key in self.members):
            raise Malformed("a member whose key is not 32 bytes")
        if any(a >= b for a, b in pairwise(self.members)):
            raise Malformed("a committee's keys must ascend strictly")
        if not is_threshold(self.threshold_percent):
            raise Malformed(f"a threshold of {self.threshold_percent} %")
        object.__setattr__(self, "_keys", frozenset(self.members))
        object.__setattr__(self, "hash", digest(b"committee", self.encode()))

    @classmethod
    def of(cls, keys: Iterable[PublicKey], threshold_percent: int = 0) -> "Committee":
        return cls(tuple(sorted(keys)), threshold_percent)

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def quorum(self) -> int:
        """Votes that make a certificate: strictly more than two thirds, or the threshold where that is more.  # rule Q1, Q4"""
        members = len(self.members)
        return max(2 * members // 3 + 1, -(-members * self.threshold_percent // 100))

    def blocking(self) -> int:
        """Votes without which no quorum exists; among as many members one is honest.  # rule Q2"""
        return self.faults_tolerated() + 1

    def faults_tolerated(self) -> int:
        return (len(self.members) - 1) // 3

    def proposer(self, height: int, view: int) -> PublicKey:
        """# rule Q3"""
        return self.members[(height + view) % len(self.members)]

    def encode(self) -> bytes:
        head = len(self.members).to_bytes(2, "big") + self.threshold_percent.to_bytes(1, "big")
        return head + b"".join(self.members)


def is_threshold(percent: int) -> bool:
    """0 is the default; 67 asks one vote more of 103 members, and of some more; nothing lowers a quorum.  # rule Q4"""
    return percent == 0 or 67 <= percent <= 100


def read_committee(reader: Reader) -> Committee:
    count, threshold_percent = reader.count(2, MEMBERS_MAX), reader.unsigned(1)
    return Committee(tuple(reader.key() for _ in range(count)), threshold_percent)
