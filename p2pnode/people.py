"""What the chain says about people, as an operator reads it: who came, who went and why, who is absent, who is banned.

Pure functions of memberships and blocks (SPEC.md, M). What it is not: a rule; nothing here decides anything.
"""

from collections.abc import Mapping
from typing import Any

import consensus
from consensus.limits import ABSENT_HEIGHTS
from consensus.membership import Presence
from transport import node_id

Answer = Mapping[str, Any]

ABSENT_SHOWN_HEIGHTS = ABSENT_HEIGHTS // 5  # sooner, a member that only waits its turn would look ill


def changes(before: consensus.Membership, after: consensus.Membership, block: consensus.Block) -> dict[str, Any]:
    """What this block does to the committee of two heights on: ids of who joined, and who left and why."""
    was, becomes = set(before.next.members), set(after.next.members)
    return {
        "joined": [node_id(key) for key in sorted(becomes - was)],
        "left": [{"node": node_id(key), "why": _why(key, block)} for key in sorted(was - becomes)],
    }


def _why(key: bytes, block: consensus.Block) -> str:
    if any(proof.author == key for proof in block.evidence):
        return "evidence"
    asked = any(request.author == key and isinstance(request, consensus.Leave) for request in block.requests)
    return "left" if asked else "absent"


def absent(state: consensus.ChainState) -> list[Answer]:
    """Members of whom no block has held a signature for a while, and since when."""
    membership = state.membership
    return [
        {"node": node_id(each.member), "since_height": each.seen_height}
        for each in membership.presence
        if each.member in membership.current and _is_absent(each, state.height)
    ]


def _is_absent(presence: Presence, height: int) -> bool:
    return height - presence.seen_height >= ABSENT_SHOWN_HEIGHTS


def banned_until(membership: consensus.Membership, key: bytes) -> int | None:
    """The height from which on this key's contributions are taken again; ``None`` where they are taken now."""
    return max((offence.ends for offence in membership.offences if offence.author == key), default=None)


def banned(membership: consensus.Membership) -> list[Answer]:
    """Who was caught, for what, and until when nobody takes their contributions."""
    return [
        {"node": node_id(o.author), "kind": str(o.kind), "height": o.height, "until_height": o.ends}
        for o in membership.offences
    ]
