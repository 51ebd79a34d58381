"""What rounds leave on this disk, and when it goes: snapshots every tenth height, payloads for twenty.

Blocking; called off the event loop. A payload goes when no block that is kept names it: its own block is old enough, or it was
announced and no block ever listed it (else strangers could fill the disk). A digest may stand in several blocks, because anybody can
announce another node's bytes again; the newest one counts, and so does the open height (else a stranger could have them deleted).
"""

from collections.abc import Callable, Iterable

import consensus
from model.replica import Replica
from p2pnode.blobs import Blobs
from p2pnode.store import Store
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX

PAYLOAD_HEIGHTS_KEPT = 20  # a node that was away this long replays blocks; longer, it takes a snapshot
SNAPSHOT_INTERVAL = 10
SNAPSHOTS_KEPT = 2  # one may be on its way to a joiner while the next is written


class Housekeeping:
    """Of one home. ``swept``: the height up to which the payloads of blocks are gone; ``None`` until the first sweep, which looks at
    every file that an earlier run left: what a crash orphaned goes with the rest."""

    def __init__(self, store: Store, blobs: Blobs, *, kept: frozenset[bytes] = frozenset()) -> None:
        self._store = store
        self._blobs = blobs
        self._leftovers = blobs.listed() - kept  # what stands here from an earlier run, wanted or orphaned
        self._listed: dict[int, frozenset[bytes]] = {}  # of heights whose payloads are kept
        self.swept: int | None = None

    @staticmethod
    def is_due(height: int) -> bool:
        """Whether the model of this height is to be written."""
        return height % SNAPSHOT_INTERVAL == 0

    def keep_snapshot(self, height: int, root: bytes, replica: Replica) -> None:
        self._blobs.put_snapshot(height, root, replica, keep=SNAPSHOTS_KEPT)

    def sweep(
        self, tip: int, unlisted: Iterable[bytes] = (), *, is_open: Callable[[bytes], bool] = lambda _: False
    ) -> None:
        """Drop the payloads of blocks older than those kept below ``tip``, and ``unlisted`` ones that no kept block names.

        Not those that the open height may need: what we commit to must stay.
        """
        oldest_kept = tip - PAYLOAD_HEIGHTS_KEPT + 1
        kept = self._named(max(1, oldest_kept), tip if self.swept is not None else self._store.height())
        going = set(unlisted) | self._leftovers
        if self.swept is not None and oldest_kept - 1 > self.swept:
            going |= self._named(self.swept + 1, oldest_kept - 1)
        self.swept = max(0, oldest_kept - 1)
        self._leftovers = set()
        self._listed = {height: digests for height, digests in self._listed.items() if oldest_kept <= height <= tip}
        for digest in going - kept:
            if not is_open(digest):
                self._blobs.drop(digest)

    def _named(self, first: int, last: int) -> set[bytes]:
        """The payloads that the blocks of these heights list."""
        digests: set[bytes] = set()
        while first <= last:
            if first not in self._listed and not self._read(first, min(BLOCKS_PER_REQUEST_MAX, last - first + 1)):
                break
            digests |= self._listed[first]
            first += 1
        return digests

    def _read(self, first: int, count: int) -> bool:
        """Whether there is a block of the first of these heights."""
        rows = self._store.block_rows(first, count)
        for height, (encoded, _) in enumerate(rows, start=first):
            contributions = consensus.Block.decode(encoded).contributions
            self._listed[height] = frozenset(contribution.payload_digest for contribution in contributions)
        return bool(rows)
