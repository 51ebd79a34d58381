"""Payloads on their way to the disk: as early as possible, and at the latest before a COMMIT answers for them.

What it is: when bytes are flushed. What it is not: where they lie (``blobs``) or which are wanted (``rounds``).
"""

from collections.abc import Callable, Sequence

from p2pnode.blobs import Blobs
from p2pnode.pool import Held, Pool
from p2pnode.wakeup import Signal
from transport.machine import in_thread


class Writing:
    """Of the open pool; ``changed`` tells when it holds more."""

    def __init__(self, blobs: Blobs, pool: Callable[[], Pool], changed: Signal) -> None:
        self._blobs = blobs
        self._pool = pool
        self._changed = changed

    async def run(self) -> None:
        """All listed bytes must be on the disk before our COMMIT, so the disk begins while we still collect. Until cancelled."""
        flushed: set[bytes] = (
            set()
        )  # of the open pool; whether they are still there is asked once more before our COMMIT
        while True:
            held = [entry.contribution.payload_digest for entry in self._pool().held()]
            flushed = {digest for digest in held if digest in flushed or self._blobs.is_durable(digest)}
            if fresh := [digest for digest in held if digest not in flushed]:
                try:
                    await in_thread(self._blobs.make_durable, fresh)
                    continue
                except FileNotFoundError:
                    pass  # a sweep took the same bytes away: they are written again before our COMMIT
            await self._changed.wait()

    async def finish(self, held: Sequence[Held]) -> None:
        """Return when all of these survive a loss of power. Written again where a sweep took them away: they are here in memory."""
        blobs = self._blobs
        payloads = {entry.contribution.payload_digest: entry.payload for entry in held}
        missing = {digest: payload for digest, payload in payloads.items() if not blobs.is_durable(digest)}

        def write() -> None:
            for digest, payload in missing.items():
                blobs.put(payload, digest)
            blobs.make_durable(list(missing))

        if missing:
            await in_thread(write)
