"""Blobs that are still on their way here, served to others who fetch them too: so many receivers cost their source little more than one.

What it is: the node's blobs, and beside them, for each fetch, what of it has come and was verified. Who asks what is held of a blob is a
fellow in fetching it, and is asked in turn. Sans-IO but for waiting; fetch.py fills it, blobs.py serves from it.
What it is not: a store. What has come whole is served for a moment longer, until its owner has put it in its place.

Holdings are told in groups of leaves (`group_leaves`), one bit each. Nothing rests on what a peer says it holds: leaves prove themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from transport import limits
from transport.content import Buffer
from transport.identity import PublicKey

Read = Callable[[int, int], Awaitable[Buffer | None]]


class BlobSource(Protocol):
    """Where the blobs come from that we serve. Slow reads belong in a worker thread (trio.to_thread)."""

    async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
        """All leaf hashes of the blob, or None where it is not held."""

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        """The bytes of leaves first .. first + count - 1, contiguous; None where it is not held.

        `count` is at most LEAVES_PER_REQUEST. Leaves beyond the end are simply not there.
        """


def group_leaves(leaf_count: int) -> int:
    """How many leaves are told, and asked for, together: few where a blob has few, so that all receivers have something to give."""
    size = limits.LEAVES_PER_REQUEST
    if leaf_count >= limits.SHARED_LEAVES_MIN:
        while size > 1 and leaf_count < size * limits.GROUPS_MIN:
            size //= 2
    return size


@dataclass(frozen=True, slots=True)
class Held:
    """What somebody holds of a blob: so many groups, those whose bits are set, the first group lowest; or everything.

    `coming`: groups that it has asked a holder of everything for, so that others need not.
    """

    groups: int = 0
    count: int = 0
    coming: int = 0
    is_whole: bool = False


WHOLE = Held(is_whole=True)


@dataclass(slots=True)
class Shared:
    """One blob on its way. `read` gives leaves that are held."""

    read: Read
    on_fellow: Callable[[PublicKey], None]
    hashes: Sequence[bytes] | None = None
    held: Held = field(default_factory=Held)
    fellows: dict[PublicKey, None] = field(default_factory=dict)  # in the order of asking

    def holds(self, first: int, count: int) -> bool:
        """Whether all of these leaves have come. What `read` gives of others may be whatever stands in a file."""
        if self.held.is_whole:
            return True
        if self.hashes is None:
            return False
        size, end = group_leaves(len(self.hashes)), min(first + count, len(self.hashes))
        return all(self.held.groups >> group & 1 for group in range(first // size, -(-end // size)))

    def met(self, key: PublicKey) -> None:
        """It fetches the same."""
        if key not in self.fellows and len(self.fellows) < limits.FELLOWS_MAX:
            self.fellows[key] = None
            self.on_fellow(key)


class Sharing:
    """A BlobSource: what the node holds, and what is on its way to it."""

    def __init__(self, owned: BlobSource) -> None:
        self.changed = trio.Event()  # set, and replaced, when more is held of anything
        self._owned = owned
        self._shared: dict[bytes, Shared] = {}

    def begin(self, digest: bytes, shared: Shared) -> bool:
        """Serve it from now on; not where the same is on its way already."""
        return self._shared.setdefault(digest, shared) is shared

    def end(self, digest: bytes, shared: Shared) -> None:
        if self._shared.get(digest) is shared:
            del self._shared[digest]
            self._fire()

    async def linger(self, digest: bytes, shared: Shared) -> None:
        """End it in a moment."""
        await trio.sleep(limits.LINGER_SECONDS)
        self.end(digest, shared)

    def grew(self, shared: Shared, held: Held) -> None:
        shared.held = held
        self._fire()

    async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
        shared = self._shared.get(digest)
        if shared is not None and shared.hashes is not None:
            return shared.hashes
        return await self._owned.leaf_hashes(digest)

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        shared = self._shared.get(digest)
        # Who has not heard yet what is here may ask for what is not: a hole in a file would make us a liar.
        data = None if shared is None or not shared.holds(first, count) else await shared.read(first, count)
        return await self._owned.read(digest, first, count) if data is None else data

    async def held(self, digest: bytes, asker: PublicKey) -> Held | None:
        """What is here of it; None for nothing, and no prospect of any."""
        shared = self._shared.get(digest)
        if shared is None:
            return None if await self._owned.leaf_hashes(digest) is None else WHOLE
        shared.met(asker)
        return shared.held

    def _fire(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
