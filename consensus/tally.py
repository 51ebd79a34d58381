"""Counts one kind of vote in one view: O(1) per vote, and the certificate's contents when a quorum is there.

Per member the first vote and one conflicting vote are kept, each counting for its own value; more only from inside verified
certificates of a quorum for one value, which are taken whole.  # rule V5

Counting both is safe, since a Byzantine member may stand in both quorums anyway, and needed: a table of first votes only can
never assemble a quorum that others saw. Not here: signatures, membership, what a quorum means.
"""

from consensus.certificate import Signers
from consensus.identifiers import NIL, Digest, PublicKey, Signature

Value = tuple[Digest, int]
"""(block hash or NIL, valid view); the valid view of a COMMIT is NO_VIEW."""


class Poll:
    def __init__(self, quorum: int) -> None:
        self._quorum = quorum
        self._first: dict[PublicKey, tuple[Value, Signature]] = {}
        self._second: set[PublicKey] = set()
        self._votes: dict[Value, dict[PublicKey, Signature]] = {}
        self._won: list[Value] = []

    def add(
        self, author: PublicKey, value: Value, signature: Signature, *, certified: bool = False
    ) -> tuple[Value, Signature] | None:
        """Count a vote; gives the author's first vote back if this one conflicts with it."""
        votes = self._votes.get(value)
        if votes is not None and author in votes:
            return None  # the same vote again counts once
        first = self._first.get(author)
        if first is None:
            self._first[author] = (value, signature)
        elif author in self._second and not certified:
            return None
        else:
            self._second.add(author)
        if votes is None:
            votes = self._votes[value] = {}
        votes[author] = signature
        if len(votes) == self._quorum:
            self._won.append(value)
        return first

    @property
    def quorum_of_anything(self) -> bool:
        return len(self._first) >= self._quorum

    @property
    def won(self) -> list[Value]:
        """Values with a quorum, in the order in which they got there; more than one only if more than f are faulty."""
        return self._won

    def is_lost(self, members: int) -> bool:
        """Whether no block can gain a quorum any more, whatever is on its way: from who is silent, or a second vote of the faulty."""
        most = max((len(votes) for (block_hash, _), votes in self._votes.items() if block_hash != NIL), default=0)
        silent, faulty = members - len(self._first), members - self._quorum
        return most + silent + faulty < self._quorum

    def signers(self, value: Value) -> Signers:
        return tuple(sorted(self._votes[value].items()))

    def firsts(self) -> tuple[tuple[PublicKey, Digest, Signature], ...]:
        """One vote of every voter: (author, block hash or NIL, signature), ascending by author."""
        return tuple((author, value[0], signature) for author, (value, signature) in sorted(self._first.items()))

    def has(self, author: PublicKey, value: Value) -> bool:
        return author in self._votes.get(value, ())

    def of(self, author: PublicKey) -> list[tuple[Value, Signature]]:
        """Every vote of this author that is kept."""
        return [(value, votes[author]) for value, votes in self._votes.items() if author in votes]
