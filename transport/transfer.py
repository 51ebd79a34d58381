"""The plan of one fetch: which leaves are missing, who is asked for which, and whether what came is true.

Sans-IO. First the leaf hashes, checked as a whole against the digest, then leaves in ranges, each checked on arrival,
so a lie is found at the first leaf and costs the time of one. Not here: sockets, timeouts, the choice of holders
(fetch.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from transport.content import DIGEST_BYTES, digest_of_hashes, leaf_count, leaf_hash, leaf_length
from transport.limits import BLOB_BYTES_MAX, LEAVES_PER_REQUEST


@dataclass(frozen=True, slots=True)
class Range:
    """Leaves first, first + 1, ... of a blob."""

    first: int
    count: int


class FetchPlan:
    def __init__(self, digest: bytes, length: int, *, leaves: Iterable[int] | None = None) -> None:
        """`leaves` are those wanted, all by default. Raises ValueError for a length that no blob has."""
        if not 0 <= length <= BLOB_BYTES_MAX:
            raise ValueError(f"a blob of {length} bytes")
        self.digest = digest
        self.length = length
        self.leaf_count = leaf_count(length)
        self.hashes: list[bytes] | None = None
        wanted = range(self.leaf_count) if leaves is None else sorted(set(leaves))
        self._ranges: deque[Range] = deque(_ranges(wanted))
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

    def take(self) -> Range | None:
        """The next range to ask somebody for."""
        return self._ranges.popleft() if self._ranges else None

    def give_back(self, wanted: Range) -> None:
        """Somebody did not deliver: what is missing of it goes to the front."""
        indices = [i for i in range(wanted.first, wanted.first + wanted.count) if i in self._missing]
        self._ranges.extendleft(reversed(list(_ranges(indices))))

    def accept_leaf(self, index: int, leaf: bytes) -> bool:
        """Whether it is the leaf of that index; then it counts as held."""
        if self.hashes is None or not 0 <= index < self.leaf_count or len(leaf) != leaf_length(index, self.length):
            return False
        if leaf_hash(leaf) != self.hashes[index]:
            return False
        self._missing.discard(index)
        return True

    def is_missing(self, index: int) -> bool:
        return index in self._missing


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
