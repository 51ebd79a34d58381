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
SNAPSHOTS_KEPT = 2


class Housekeeping:
    """Of one home. ``swept``: the height up to which the payloads of blocks are gone."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self.swept = 0

    def keep_snapshot(self, height: int, root: bytes, replica: Replica) -> bool:
        """Write the model where its height is due for it. Returns whether it was."""
        due = height % SNAPSHOT_INTERVAL == 0
        if due:
            self._blobs.put_snapshot(height, root, replica, keep=SNAPSHOTS_KEPT)
        return due

    def sweep(
        self, tip: int, unlisted: Iterable[bytes] = (), *, is_open: Callable[[bytes], bool] = lambda _: False
    ) -> None:
        """Drop the payloads of blocks older than those kept below ``tip``, and ``unlisted`` ones that no kept block names.

        Not those that the open height may need: what we commit to must stay.
        """
        oldest_kept = tip - PAYLOAD_HEIGHTS_KEPT + 1
        kept = self._named(max(1, oldest_kept), tip)
        going = set(unlisted)
        if oldest_kept - 1 > self.swept:
            going |= self._named(self.swept + 1, oldest_kept - 1)
            self.swept = oldest_kept - 1
        for digest in going - kept:
            if not is_open(digest):
                self._blobs.drop(digest)

    def _named(self, first: int, last: int) -> set[bytes]:
        """The payloads that the blocks of these heights list."""
        digests: set[bytes] = set()
        while first <= last:
            rows = self._store.block_rows(first, min(BLOCKS_PER_REQUEST_MAX, last - first + 1))
            if not rows:
                break
            for encoded, _ in rows:
                digests |= {c.payload_digest for c in consensus.Block.decode(encoded).contributions}
            first += len(rows)
        return digests
