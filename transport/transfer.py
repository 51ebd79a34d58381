"""The plan of one fetch: which leaves are missing, who is asked for which, and whether what came is true.

Sans-IO. First the leaf hashes, checked as a whole against the digest, then leaves in ranges, each checked by itself,
so a lie is found at the first leaf, or with its range, and costs the time of that. At the end a range that somebody
keeps us waiting for is asked of a second holder. Not here: sockets, timeouts, the choice of holders (fetch.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transport.content import DIGEST_BYTES, Buffer, digest_of_hashes, leaf_count, leaf_hash, leaf_length
from transport.limits import ASKERS_PER_LEAF_MAX, BLOB_BYTES_MAX, LEAVES_PER_REQUEST


@dataclass(frozen=True, slots=True)
class Range:
    """Leaves first, first + 1, ... of a blob."""

    first: int
    count: int

    def __contains__(self, index: int) -> bool:
        return self.first <= index < self.first + self.count


@dataclass(slots=True)
class _Asked:
    """Who was asked for a range, and since when somebody has been."""

    since: float
    askers: set[bytes]


class FetchPlan:
    def __init__(
        self,
        digest: bytes,
        length: int,
        *,
        leaves: Iterable[int] | None = None,
        hashes: Sequence[bytes] | None = None,
    ) -> None:
        """`leaves` are those wanted, all by default; `hashes`, where an earlier plan has checked them.

        Raises ValueError for a length that no blob has.
        """
        if not 0 <= length <= BLOB_BYTES_MAX:
            raise ValueError(f"a blob of {length} bytes")
        self.digest = digest
        self.length = length
        self.leaf_count = leaf_count(length)
        self.hashes: Sequence[bytes] | None = hashes
        wanted = range(self.leaf_count) if leaves is None else sorted(set(leaves))
        self._ranges: deque[Range] = deque(_ranges(wanted))
        self._asked: dict[Range, _Asked] = {}
        self._missing = set(wanted)

    @property
    def is_done(self) -> bool:
        return self.hashes is not None and not self._missing

    @property
    def has_work(self) -> bool:
        """Whether a range is left that nobody was asked for."""
        return bool(self._ranges)

    def accept_hashes(self, joined: bytes) -> bool:
        """Take the leaf hashes (32 bytes each) if they give the digest. Costs 1 us a leaf: mind the thread."""
        if len(joined) != self.leaf_count * DIGEST_BYTES:
            return False
        hashes = [joined[i : i + DIGEST_BYTES] for i in range(0, len(joined), DIGEST_BYTES)]
        if digest_of_hashes(hashes, self.length) != self.digest:
            return False
        self.hashes = hashes
        return True

    def take(self, asker: bytes, *, now: float, patience_seconds: float) -> Range | None:
        """What to ask `asker` for: a range that nobody was asked for; else, at the end, the most overdue of another's."""
        if self._ranges:
            wanted = self._ranges.popleft()
            self._asked[wanted] = _Asked(now, {asker})
            return wanted
        overdue = self._others(asker)
        if not overdue or self._asked[overdue[0]].since + patience_seconds > now:
            return None
        self._asked[overdue[0]].askers.add(asker)
        return overdue[0]

    def overdue_at(self, asker: bytes, *, patience_seconds: float) -> float | None:
        """When `take` will have something for `asker`, if nothing changes until then."""
        others = self._others(asker)
        return self._asked[others[0]].since + patience_seconds if others else None

    def give_back(self, wanted: Range, asker: bytes) -> None:
        """`asker` is not waited for any more: what nobody else is asked for and is still missing goes to the front."""
        asked = self._asked.get(wanted)
        if asked is None:
            return
        asked.askers.discard(asker)
        if not asked.askers:
            del self._asked[wanted]
            indices = [i for i in range(wanted.first, wanted.first + wanted.count) if i in self._missing]
            self._ranges.extendleft(reversed(list(_ranges(indices))))

    def is_leaf(self, index: int, leaf: Buffer) -> bool:
        """Whether it is the leaf of that index. Changes nothing, so a worker thread may ask."""
        if self.hashes is None or not 0 <= index < self.leaf_count or len(leaf) != leaf_length(index, self.length):
            return False
        return leaf_hash(leaf) == self.hashes[index]

    def hold(self, index: int) -> None:
        """It has come: it is missing no more."""
        self._missing.discard(index)

    def accept_leaf(self, index: int, leaf: Buffer) -> bool:
        """Whether it is the leaf of that index; then it counts as held."""
        if not self.is_leaf(index, leaf):
            return False
        self.hold(index)
        return True

    def is_missing(self, index: int) -> bool:
        return index in self._missing

    def _others(self, asker: bytes) -> list[Range]:
        """Ranges that others are waited for and `asker` may be asked for too, the one that is waited for longest first."""
        found = [
            (asked.since, wanted.first, wanted)
            for wanted, asked in self._asked.items()
            if asker not in asked.askers and len(asked.askers) < ASKERS_PER_LEAF_MAX and self._lacks(wanted)
        ]
        return [wanted for _, _, wanted in sorted(found, key=lambda entry: entry[:2])]

    def _lacks(self, wanted: Range) -> bool:
        return any(index in self._missing for index in range(wanted.first, wanted.first + wanted.count))


def _ranges(indices: Iterable[int]) -> Iterable[Range]:
    """Ascending indices as runs of at most LEAVES_PER_REQUEST."""
    first = count = 0
    for index in indices:
        if count and index == first + count and count < LEAVES_PER_REQUEST:
            count += 1
        else:
            if count:
                yield Range(first, count)
            first, count = index, 1
    if count:
        yield Range(first, count)
