"""A network whose first node is gone for good, and all of whose other nodes are stopped: their address books bring them together again.

Real processes and sockets. The bootstrap address that everybody was started with, and that the genesis names, is dead. And what a node
does with its book at its end and at its beginning.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.config import Endpoint
from p2pnode.store import Store
from tests.p2pnode.little import identities, make_genesis, until
from tests.p2pnode.machines import Machine, founder, same_at_every_common_height
from tests.p2pnode.test_node import living, make_home, make_node, ready
from transport import PeerBook


@pytest.mark.long
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


async def test_the_book_is_kept_at_the_end_and_one_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    founders = identities(2)
    genesis = make_genesis(founders)
    homes = [make_home(tmp_path / str(place), founders[place], genesis) for place in (0, 1)]
    first = make_node(homes[0])
    async with living(first):
        await until(lambda: first.bound is not None)
        second = make_node(homes[1], bootstrap=(Endpoint("127.0.0.1", first.bound.port),))
        async with living(second):
            await until(lambda: ready(first) and ready(second) and second.swarm.is_connected(founders[0].public_key))
    store = Store(homes[1].chain, genesis.chain_id)
    saved = store.note("peers")
    assert saved is not None
    assert [entry.record.key for entry in PeerBook.load(saved)] == [founders[0].public_key]
    store.put_note("peers", saved[:-1])
    store.close()
    again = make_node(homes[1])
    async with living(again):
        await until(lambda: again.bound is not None)
        assert len(again.swarm.book) == 0
