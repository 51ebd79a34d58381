"""Who votes at one height: an immutable sorted set of keys, one vote each, and the thresholds in integers.

Not here: how the set changes (membership.py). For editing: no float, no weight, no state; the proposer is a pure function of
the set, the height and the view, so that nobody can grind it and a node that synced cannot disagree about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from consensus.encoding import digest
from consensus.errors import Malformed
from consensus.identifiers import Digest, PublicKey
from consensus.limits import MEMBERS_MAX


@dataclass(frozen=True, slots=True)
class Committee:
    """`members` strictly ascending by key; never empty. Raises Malformed otherwise."""

    members: tuple[PublicKey, ...]
    _keys: frozenset[PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= MEMBERS_MAX:
            raise Malformed(f"a committee of {len(self.members)}")
        if any(len(key) != 32 for key in self.members):
            raise Malformed("a member whose key is not 32 bytes")
        if any(a >= b for a, b in pairwise(self.members)):
            raise Malformed("a committee's keys must ascend strictly")
        object.__setattr__(self, "_keys", frozenset(self.members))

    @classmethod
    def of(cls, keys: Iterable[PublicKey]) -> "Committee":
        return cls(tuple(sorted(keys)))

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def quorum(self) -> int:
        """Votes that make a certificate: strictly more than two thirds.  # rule Q1"""
        return 2 * len(self.members) // 3 + 1

    def blocking(self) -> int:
        """Votes without which no quorum exists; among as many members one is honest.  # rule Q2"""
        return len(self.members) - self.quorum() + 1

    def faults_tolerated(self) -> int:
        return (len(self.members) - 1) // 3

    def proposer(self, height: int, view: int) -> PublicKey:
        """# rule Q3"""
        return self.members[(height + view) % len(self.members)]

    def encode(self) -> bytes:
        return len(self.members).to_bytes(2, "big") + b"".join(self.members)

    @property
    def hash(self) -> Digest:
        return digest(b"committee", self.encode())
