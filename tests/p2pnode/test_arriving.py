"""A large blob on its way into a file: from several strangers at once, across restarts, and past everything that they may do wrong."""

import tracemalloc
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random

import pytest
import trio

from p2pnode.arriving import Arriving, begun, runs
from p2pnode.blobs import Blobs, Served
from p2pnode.files import FILES
from p2pnode.simulation.disk import Disk, Faults
from tests.p2pnode.little import Chain, until
from tests.p2pnode.rig import Peer, network
from transport import content
from transport.content import Buffer
from transport.limits import LEAF_BYTES, LEAVES_PER_REQUEST

CHAIN = Chain(4)
LEAVES = 100
DATA = Random(1).randbytes(LEAVES * LEAF_BYTES - 1000)
DIGEST = content.digest_of(DATA)
HASHES = content.leaf_hashes(content.split(DATA))


class Counting(Served):
    """Says what was read of it."""

    def __init__(self, blobs: Blobs) -> None:
        super().__init__(blobs)
        self.read_leaves: list[int] = []

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        self.read_leaves += range(first, min(first + count, LEAVES))
        return await super().read(digest, first, count)


class Stalling(Counting):
    """Never comes out with the last leaves, whichever those are."""

    last = LEAVES - 20

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        if len(self.read_leaves) + count > self.last:
            await trio.sleep_forever()
        return await super().read(digest, first, count)


class WrongLeaf(Counting):
    """One bit of a leaf in the middle is another."""

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        leaves = await super().read(digest, first, count)
        return bytes([leaves[0] ^ 1]) + bytes(leaves[1:]) if leaves and first <= 50 < first + count else leaves


class WrongList(Counting):
    async def leaf_hashes(self, digest: bytes) -> list[bytes] | None:
        return [HASHES[1], *HASHES[1:]]


class ShortList(Counting):
    async def leaf_hashes(self, digest: bytes) -> list[bytes] | None:
        return HASHES[:-1]


class Truncated(Counting):
    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        leaves = await super().read(digest, first, count)
        return None if leaves is None else leaves[:-1]


def donor(tmp_path: Path, seed: int, serves: Callable[[Blobs], Served] = Counting) -> Peer:
    peer = Peer(tmp_path / f"donor{seed}", CHAIN, seed=seed)
    peer.blobs.put(DATA)
    peer.source = serves(peer.blobs)
    return peer


def joiner(tmp_path: Path, name: str = "joiner") -> Peer:
    return Peer(tmp_path / name, CHAIN, seed=92)


async def fetch(me: Peer, *donors: Peer) -> bool:
    blob = me.blobs.arriving(DIGEST, len(DATA))
    blob.open()
    try:
        return await me.gossip.fetch_file(blob, [each.key for each in donors])
    finally:
        blob.close()


def arrived(me: Peer) -> bytes:
    return me.blobs.arriving(DIGEST, len(DATA)).path.read_bytes()


async def test_several_donors_share_the_work(tmp_path: Path) -> None:
    donors, me = [donor(tmp_path, seed) for seed in (93, 94, 95)], joiner(tmp_path)
    async with network(*donors, me):
        assert await fetch(me, *donors)
    assert arrived(me) == DATA
    read = [each.source.read_leaves for each in donors]
    assert all(read) and sorted(chain.from_iterable(read)) == list(range(LEAVES))


@pytest.mark.parametrize("lies", [WrongLeaf, WrongList, ShortList, Truncated, Stalling])
async def test_one_bad_donor_costs_its_own_leaves_and_no_more(tmp_path: Path, lies: type[Served]) -> None:
    bad, good, me = donor(tmp_path, 93, lies), donor(tmp_path, 94), joiner(tmp_path)
    async with network(bad, good, me):
        with trio.fail_after(10):
            assert await fetch(me, bad, good)
    assert arrived(me) == DATA
    twice = len(good.source.read_leaves) + len(set(bad.source.read_leaves)) - LEAVES
    assert twice <= 4 * LEAVES_PER_REQUEST, "what was on its way from the bad one"


async def test_when_all_are_bad_that_is_no_model_and_no_crash(tmp_path: Path) -> None:
    donors, me = [donor(tmp_path, 93, WrongList), donor(tmp_path, 94, Truncated)], joiner(tmp_path)
    async with network(*donors, me):
        assert not await fetch(me, *donors)


async def test_an_attempt_that_was_cut_off_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    stalls, me = donor(tmp_path, 93, Stalling), joiner(tmp_path)
    async with network(stalls, me), trio.open_nursery() as nursery:
        nursery.start_soon(fetch, me, stalls)
        await until(lambda: len(stalls.source.read_leaves) >= Stalling.last - LEAVES_PER_REQUEST and held(me) >= 70)
        nursery.cancel_scope.cancel()
    before = held(me)
    assert 70 <= before < LEAVES
    again, whole = Peer(tmp_path / "joiner", CHAIN, seed=92, fresh=False), donor(tmp_path, 94)
    assert again.blobs.arriving_begun() == {DIGEST}
    async with network(whole, again):
        assert await fetch(again, whole)
    assert arrived(again) == DATA and len(whole.source.read_leaves) == LEAVES - before


def held(me: Peer) -> int:
    path = me.blobs.arriving(DIGEST, len(DATA)).path
    return LEAVES - len(Arriving(path.parent, DIGEST, len(DATA)).missing(HASHES)) if path.exists() else 0


async def test_a_damaged_leaf_is_found_and_fetched_again(tmp_path: Path) -> None:
    """Whatever a crash left of it: a torn write, a lost block, one bit."""
    me, whole = joiner(tmp_path), donor(tmp_path, 94)
    damaged = bytearray(DATA[: 90 * LEAF_BYTES + 5])
    damaged[7 * LEAF_BYTES + 9] ^= 4
    damaged[30 * LEAF_BYTES : 31 * LEAF_BYTES] = bytes(LEAF_BYTES)
    me.blobs.arriving(DIGEST, len(DATA)).path.write_bytes(damaged)
    async with network(whole, me):
        assert await fetch(me, whole)
    assert arrived(me) == DATA
    assert sorted(whole.source.read_leaves) == [7, 30, *range(90, LEAVES)]


async def test_a_large_blob_is_never_held_in_memory(tmp_path: Path) -> None:
    """Neither here nor at the donor, whose bytes are in memory once, before the count begins."""
    whole, me = Peer(tmp_path / "donor", CHAIN, seed=94), joiner(tmp_path)
    data = bytes(512 * LEAF_BYTES)
    blob = me.blobs.arriving(whole.blobs.put(data), len(data))
    blob.open()
    async with network(whole, me):
        tracemalloc.start()
        try:
            assert await me.gossip.fetch_file(blob, [whole.key])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    blob.close()
    assert peak < len(data) / 4, f"{peak} bytes for {len(data)}"


async def test_a_full_disk_is_an_error_in_the_log_and_leaves_nothing_behind(tmp_path: Path) -> None:
    root = CHAIN.states[0].model_root
    whole, me = Peer(tmp_path / "donor", CHAIN, seed=93), joiner(tmp_path)
    whole.blobs.model_root(CHAIN.replica)
    disk = Disk(Random(1))
    disk.faults = Faults(room_bytes=1000)
    async with network(whole, me):
        token = FILES.set(disk)
        try:
            assert await me.gossip.fetch_model(root, CHAIN.replica, [whole.key]) is None
        finally:
            FILES.reset(token)
        assert me.log.said("model not taken")
        assert not me.blobs.arriving_begun()
        again = await me.gossip.fetch_model(root, CHAIN.replica, [whole.key])
        assert again is not None and again.view(0, again.byte_length) == CHAIN.replica.view(0, again.byte_length)


async def test_of_a_certified_model_only_the_leaves_that_differ_travel(tmp_path: Path) -> None:
    certified = Chain(4).grow(1).replica
    whole, me = Peer(tmp_path / "donor", CHAIN, seed=93), joiner(tmp_path)
    whole.source = Counting(whole.blobs)
    root = whole.blobs.model_root(certified)
    mine, theirs = (content.leaf_hashes(replica.leaves()) for replica in (CHAIN.replica, certified))
    async with network(whole, me):
        healed, _ = await me.gossip.fetch_certified_model(root, CHAIN.replica)
    assert healed.view(0, healed.byte_length) == certified.view(0, certified.byte_length)
    differing = [index for index, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]]
    assert set(differing) <= set(whole.source.read_leaves)


def test_leaves_that_follow_one_another_are_written_together() -> None:
    leaves = [(3, b"a"), (4, b"b"), (7, b"c"), (2, b"d")]
    assert runs(leaves) == [(3, [b"a", b"b"]), (7, [b"c"]), (2, [b"d"])]


def test_one_model_at_a_time(tmp_path: Path) -> None:
    first, second = (Arriving(tmp_path, bytes([number]) * 32, 10) for number in (1, 2))
    first.open()
    first.close()
    assert begun(tmp_path) == {bytes([1]) * 32}
    second.open()
    second.close()
    assert begun(tmp_path) == {bytes([2]) * 32}
    second.remove()
    assert begun(tmp_path) == set()
