"""The plan of one fetch: which leaves are missing, who is asked for which, and whether what came is true.

Sans-IO. First the leaf hashes, checked as a whole against the digest, then leaves in ranges, each checked by itself,
so a lie is found at the first leaf, or with its range, and costs the time of that. At the end a range that somebody
keeps us waiting for is asked of a second holder. Not here: sockets, timeouts, the choice of holders (fetch.py).

Where others fetch the same (fellows, sharing.py), whoever holds everything is asked first for what no fellow holds, and for a
section of the blob that is ours: all fellows count themselves in the order of their keys, and each begins at its own place. What a
fellow holds is asked of the fellow. So a source sends most of a blob only once, and nobody has to agree on anything.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transport.content import DIGEST_BYTES, Buffer, digest_of_hashes, leaf_count, leaf_hash, leaf_length
from transport.limits import ASKERS_PER_LEAF_MAX, BLOB_BYTES_MAX, SHARED_LEAVES_MIN
from transport.sharing import WHOLE, Held, group_leaves


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
        self.group_leaves = group_leaves(self.leaf_count)
        self._groups = -(-self.leaf_count // self.group_leaves)
        self._unasked: dict[int, deque[Range]] = {}  # by group
        for found in self._ranges(wanted):
            self._unasked.setdefault(found.first // self.group_leaves, deque()).append(found)
        self._asked: dict[Range, _Asked] = {}
        self._missing = set(wanted)
        self._lacking = Counter(index // self.group_leaves for index in self._missing)  # leaves, by group
        self._own = 0  # groups that are here, as bits
        for group in range(self._groups):
            if group not in self._lacking:
                self._own |= 1 << group
        self._rare = deque(
            self._unasked
        )  # groups in the order in which to ask for them; those asked for drop out later
        self._common: deque[int] = deque()  # those of them that a fellow holds
        self._copies: Counter[int] = Counter()  # fellows that hold a group
        self._held: dict[bytes, int] = {}  # of each fellow, the groups that it holds, as bits
        self._coming: dict[bytes, int] = {}  # and those that it is about to have
        self._claims: Counter[int] = Counter()  # fellows that are about to have a group
        self._offers: dict[bytes, deque[int]] = {}  # of each holder that does not hold everything
        self._me = b""
        self._fellows: set[bytes] = set()
        self._section = range(self._groups)  # ours to ask for

    @property
    def is_done(self) -> bool:
        return self.hashes is not None and not self._missing

    @property
    def has_work(self) -> bool:
        """Whether a range is left that nobody was asked for."""
        return bool(self._unasked)

    @property
    def is_shared(self) -> bool:
        """Whether it is long enough to ask others which parts of it they hold."""
        return self.leaf_count >= SHARED_LEAVES_MIN

    def held(self) -> Held:
        """What is here of it, in whole groups."""
        if not self._missing:
            return WHOLE
        coming = 0
        for wanted, asked in self._asked.items():
            if not asked.askers.issubset(self._offers):
                coming |= 1 << wanted.first // self.group_leaves
        return Held(self._own, self._groups - len(self._lacking), coming & ~self._own)

    # --- who has what -------------------------------------------------------------------------------------------------

    def share(self, me: bytes) -> None:
        """Others may fetch it, too: this is how we are called among them."""
        self._me = me
        self._place()

    def met(self, fellow: bytes) -> None:
        """It fetches the same."""
        if self._me and fellow not in self._fellows:
            self._fellows.add(fellow)
            self._place()

    def _place(self) -> None:
        """Ask for our section first, and then for what lies before it: whoever has that section works towards us."""
        if len(keys := sorted({self._me, *self._fellows})) == 1:
            # Nobody is known: begin anywhere, so that those who begin at the same time do not ask for the same.
            place = int.from_bytes(hashlib.sha256(self.digest + self._me).digest()[:8], "big") % max(1, self._groups)
            order = [*range(place, self._groups), *range(place)]
            self._section = range(self._groups)
        else:
            rank = keys.index(self._me)
            first, end = rank * self._groups // len(keys), (rank + 1) * self._groups // len(keys)
            order = [*range(first, end), *range(first - 1, -1, -1), *range(self._groups - 1, end - 1, -1)]
            self._section = range(first, end)
        self._rare = deque(group for group in order if group in self._unasked)
        self._common.clear()

    def holds(self, holder: bytes, held: Held) -> bool:
        """This is what a fellow holds by now; whether there is something new in it."""
        if held.is_whole:
            self._leave(holder)
            self._claim(holder, 0)
            return self._offers.pop(holder, None) is not None
        offers = self._offers.setdefault(holder, deque())
        before = self._held.get(holder, 0)
        everything = (1 << self._groups) - 1
        new = held.groups & everything & ~before
        self._held[holder] = before | new
        self._claim(holder, held.coming & everything)
        for group in _bits(new):
            self._copies[group] += 1
            if group in self._unasked:
                offers.append(group)
        return bool(new)

    def _claim(self, holder: bytes, coming: int) -> None:
        before = self._coming.get(holder, 0)
        self._coming[holder] = coming
        self._claims.update(_bits(coming & ~before))
        self._claims.subtract(_bits(before & ~coming))

    def lost(self, holder: bytes) -> None:
        """It is asked no more: what it held counts as rare again."""
        self._leave(holder)
        self._offers.pop(holder, None)
        self._claim(holder, 0)
        for group in _bits(self._held.pop(holder, 0)):
            self._copies[group] -= 1
            if group in self._unasked and not self._copies[group]:
                self._rare.append(group)

    def _leave(self, fellow: bytes) -> None:
        if fellow in self._fellows:
            self._fellows.remove(fellow)
            self._place()

    def _pick(self, asker: bytes) -> int | None:
        """The group to ask for next."""
        if asker in self._offers:
            return self._first(self._offers[asker])
        while (group := self._first(self._rare)) is not None and (self._copies[group] or self._claims[group]):
            self._common.append(self._rare.popleft())
        if group is None:
            group = self._first(self._common)
            is_ours = False
        else:
            is_ours = group in self._section
        # One at a time of what others are to ask for, or hold: by then they may have it, and the source is spared.
        return group if group is None or is_ours or not self._asked_for_others(asker) else None

    def _first(self, queue: deque[int]) -> int | None:
        while queue and queue[0] not in self._unasked:
            queue.popleft()
        return queue[0] if queue else None

    def _asked_for_others(self, asker: bytes) -> bool:
        for wanted, asked in self._asked.items():
            group = wanted.first // self.group_leaves
            if asker in asked.askers and (group not in self._section or self._copies[group] or self._claims[group]):
                return True
        return False

    # --- asking -------------------------------------------------------------------------------------------------------

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
        group = self._pick(asker)
        if group is not None:
            wanted = self._unasked[group].popleft()
            if not self._unasked[group]:
                del self._unasked[group]
            self._asked[wanted] = _Asked(now, {asker})
            return wanted
        overdue = self._others(asker) if not self._unasked else ()
        if not overdue or self._asked[overdue[0]].since + patience_seconds > now:
            return None
        self._asked[overdue[0]].askers.add(asker)
        return overdue[0]

    def overdue_at(self, asker: bytes, *, patience_seconds: float) -> float | None:
        """When `take` will have something for `asker`, if nothing changes until then."""
        others = self._others(asker) if not self._unasked else ()
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
            if indices:
                group = wanted.first // self.group_leaves
                self._unasked.setdefault(group, deque()).extendleft(reversed(list(self._ranges(indices))))
                self._rare.appendleft(group)
                for fellow, offers in self._offers.items():
                    if self._held[fellow] >> group & 1:
                        offers.appendleft(group)

    def is_leaf(self, index: int, leaf: Buffer) -> bool:
        """Whether it is the leaf of that index. Changes nothing, so a worker thread may ask."""
        if self.hashes is None or not 0 <= index < self.leaf_count or len(leaf) != leaf_length(index, self.length):
            return False
        return leaf_hash(leaf) == self.hashes[index]

    def hold(self, index: int) -> None:
        """It has come: it is missing no more."""
        if index in self._missing:
            self._missing.remove(index)
            group = index // self.group_leaves
            self._lacking[group] -= 1
            if not self._lacking[group]:
                del self._lacking[group]
                self._own |= 1 << group

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
            if asker not in asked.askers
            and len(asked.askers) < ASKERS_PER_LEAF_MAX
            and self._lacks(wanted)
            and (asker not in self._offers or self._held[asker] >> (wanted.first // self.group_leaves) & 1)
        ]
        return [wanted for _, _, wanted in sorted(found, key=lambda entry: entry[:2])]

    def _lacks(self, wanted: Range) -> bool:
        return any(index in self._missing for index in range(wanted.first, wanted.first + wanted.count))

    def _ranges(self, indices: Iterable[int]) -> Iterator[Range]:
        """Ascending indices as runs within a group."""
        first = count = 0
        for index in indices:
            if count and index == first + count and index % self.group_leaves:
                count += 1
            else:
                if count:
                    yield Range(first, count)
                first, count = index, 1
        if count:
            yield Range(first, count)


def _bits(groups: int) -> Iterator[int]:
    """The places of the bits that are set. Over bytes, because a shift of a long number costs its length."""
    for place, byte in enumerate(groups.to_bytes((groups.bit_length() + 7) // 8, "little")):
        for bit in range(8):
            if byte >> bit & 1:
                yield 8 * place + bit
