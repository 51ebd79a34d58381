"""Who sent a probe lately (``p2pnode test``): read off the chain, so that every node refuses the same ones.

What it is: a window over the newest blocks, remembered as they are decided and read from the disk where they were not seen. What it is
not: a rule of agreement; a block with a probe too many is refused before PREPARE, like one with a wrong root (``pool``).
"""

import consensus
from consensus import Purpose
from p2pnode.pool import PROBE_HEIGHTS
from p2pnode.store import Store


class Probes:
    """The authors of the probes that each of the last heights lists."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_height: dict[int, frozenset[bytes]] = {}

    def note(self, block: consensus.Block) -> None:
        """This block is decided."""
        self._by_height = {h: who for h, who in self._by_height.items() if h > block.height - PROBE_HEIGHTS}
        self._by_height[block.height] = _authors(block)

    def at(self, height: int) -> frozenset[bytes]:
        """Whose probes the block of this height lists."""
        if height not in self._by_height:
            for encoded, _ in self._store.block_rows(height, 1):
                self._by_height[height] = _authors(consensus.Block.decode(encoded))
        return self._by_height.get(height, frozenset())

    def recent(self, height: int) -> frozenset[bytes]:
        """Who may have no probe at this height."""
        return frozenset[bytes]().union(*map(self.at, _window(height)))

    def last(self, author: bytes, height: int) -> int | None:
        """The height of the probe for which this author may have none at ``height``."""
        return next((h for h in reversed(_window(height)) if author in self.at(h)), None)


def _window(height: int) -> range:
    return range(max(1, height - PROBE_HEIGHTS + 1), height)


def _authors(block: consensus.Block) -> frozenset[bytes]:
    return frozenset(c.author for c in block.contributions if c.purpose is Purpose.PROBE)
