"""How one large payload reaches a whole committee: each piece goes to one member, who passes it on to all the others.

The author's uplink carries the payload about once, not once for every member, and every member's uplink carries its share. Sans-IO: who
passes on what; sessions carry it out. Whoever gets nothing from a relay fetches the piece as ever (fetch.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=bytes)


def relays(others: Sequence[Key], leaf_count: int) -> list[Key]:
    """Which of the others passes each leaf on: spread evenly, so that no uplink carries more than its share."""
    return [others[leaf * len(others) // leaf_count % len(others)] for leaf in range(leaf_count)]
