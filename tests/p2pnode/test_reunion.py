"""A network whose first node is gone for good, and all of whose other nodes are stopped: their address books bring them together again.

Real processes and sockets. The bootstrap address that everybody was started with, and that the genesis names, is dead.
"""

import signal
from collections.abc import Callable
from pathlib import Path

from tests.p2pnode.machines import Machine, founder, same_at_every_common_height


def test_members_find_one_another_without_the_node_that_brought_them_together(
    machines: Callable[[str], Machine], tmp_path: Path
) -> None:
    first = machines("first")
    address = founder(first, tmp_path)
    others = [machines(name) for name in ("second", "third", "fourth")]
    for node in others:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    for node in others:
        node.until(lambda s: s["role"] == "member" and s["members"] == 4 and s["members_reachable"] == 4)
    for node in others:  # who took the model whole has none of it on disk before the next tenth height
        node.until(lambda s, home=node.home: any(home.snapshots.glob("*")))  # type: ignore[misc]
    where = [node.status()["listen"] for node in others]
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    for node in others:
        node.until(lambda s: s["members_reachable"] == 3)
    ends = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
    for node, how in zip(others, ends, strict=True):  # one is killed: its book is what it kept while it ran
        node.end(how)
    height = 0
    for node, listen in zip(others, where, strict=True):
        node.start("--listen", str(listen), "--bootstrap", address)
    for node in others:
        height = max(height, node.until(lambda s: s["role"] == "member")["height"])
    for node in others:
        status = node.until(lambda s, h=height: s["height"] >= h + 3 and s["members_reachable"] == 3)  # type: ignore[misc]
        assert status["peers"] == 2
    assert same_at_every_common_height(*others) >= height + 3
    for node in others:
        assert node.end(signal.SIGTERM) == 0
