"""Blobs between real nodes: any size, several holders, holders that refuse, lie, fall silent or die."""

from collections.abc import Sequence

import pytest
import trio

from tests.transport.net import Network, Node, Rogue, random_bytes
from transport import limits
from transport.blobs import MemoryBlobs, Refusal
from transport.content import Buffer, digest_of, leaf_hashes, split
from transport.errors import RequestFailed
from transport.fetch import Leaves
from transport.framing import Kind, encode_frame
from transport.limits import LEAF_BYTES
from transport.sharing import group_leaves


class Target:
    """What a fetch fills, leaf by leaf."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)
        self.indices: list[int] = []

    def __call__(self, leaves: Leaves) -> None:
        for index, leaf in leaves:
            self.data[index * LEAF_BYTES : index * LEAF_BYTES + len(leaf)] = leaf
            self.indices.append(index)


async def fetch(node: Node, data: bytes, *holders: Node, **options: object) -> Target:
    target = Target(len(data))
    keys = [holder.key for holder in holders]
    await node.swarm.fetch(digest_of(data), len(data), holders=lambda: keys, sink=target, **options)  # type: ignore[arg-type]
    return target


async def star(net: Network, *sources: MemoryBlobs) -> tuple[Node, list[Node]]:
    """A node connected to one holder for each source."""
    holders = [await net.node(blobs=source) for source in sources]
    centre = await net.node(*holders)
    await net.until(lambda: centre.knows(*holders))
    return centre, holders


@pytest.mark.parametrize("length", [0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 40 * LEAF_BYTES + 7])
async def test_any_size_arrives_whole(net: Network, length: int) -> None:
    data = random_bytes(length)
    source = MemoryBlobs()
    source.add(data)
    centre, holders = await star(net, source)
    target = await fetch(centre, data, *holders)
    assert target.data == data
    assert sorted(target.indices) == list(range(-(-length // LEAF_BYTES)))


async def test_a_list_of_hashes_that_takes_several_frames(net: Network) -> None:
    data = bytes((limits.HASHES_PER_FRAME + 3) * LEAF_BYTES)
    source = MemoryBlobs()
    source.add(data)
    centre, holders = await star(net, source)
    target = await fetch(centre, data, *holders, leaves=[0, limits.HASHES_PER_FRAME + 2])
    assert sorted(target.indices) == [0, limits.HASHES_PER_FRAME + 2]


async def test_several_holders_share_the_work(net: Network) -> None:
    data = random_bytes(200 * LEAF_BYTES)
    served: list[set[int]] = [set(), set(), set()]

    class Counting(MemoryBlobs):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
            served[self.number].add(first)
            return await super().read(digest, first, count)

    sources = [Counting(n) for n in range(3)]
    for source in sources:
        source.add(data)
    centre, holders = await star(net, *sources)
    assert (await fetch(centre, data, *holders)).data == data
    assert all(served)
    assert sum(map(len, served)) == len(set().union(*served)), "no leaf was asked of two"


async def test_only_the_leaves_that_differ(net: Network) -> None:
    data = random_bytes(30 * LEAF_BYTES)
    source = MemoryBlobs()
    source.add(data)
    centre, holders = await star(net, source)
    assert sorted((await fetch(centre, data, *holders, leaves=[4, 29])).indices) == [4, 29]


async def test_who_does_not_hold_it_is_passed_over(net: Network) -> None:
    data = random_bytes(20 * LEAF_BYTES)
    full = MemoryBlobs()
    full.add(data)
    centre, holders = await star(net, MemoryBlobs(), full)
    assert (await fetch(centre, data, *holders)).data == data


async def test_when_nobody_has_it_that_is_said_with_reasons(net: Network) -> None:
    centre, holders = await star(net, MemoryBlobs())
    with pytest.raises(RequestFailed, match="does not hold it"):
        await fetch(centre, b"nobody has this", *holders)
    with pytest.raises(RequestFailed, match="no holder is connected"):
        await fetch(centre, b"nobody has this")


class Broken(MemoryBlobs):
    """Fails in the way that its name says, after some reads."""

    def __init__(self, how: str, reads: int = 0) -> None:
        super().__init__()
        self.how = how
        self.reads = reads

    async def read(self, digest: bytes, first: int, count: int) -> Buffer | None:
        self.reads -= 1
        data = await super().read(digest, first, count)
        if self.reads >= 0 or data is None:
            return data
        match self.how:
            case "lies":
                return bytes(len(memoryview(data)))
            case "is short":
                return memoryview(data)[:-1]
            case "raises":
                raise OSError("disk on fire")
            case "refuses":
                return None
            case _:
                await trio.sleep_forever()
                raise AssertionError


@pytest.mark.parametrize("reads", [0, 2])
@pytest.mark.parametrize("how", ["lies", "is short", "raises", "refuses"])
async def test_a_bad_holder_costs_one_leaf_and_another_goes_on(net: Network, how: str, reads: int) -> None:
    data = random_bytes(60 * LEAF_BYTES + 1)
    bad, good = Broken(how, reads), MemoryBlobs()
    bad.add(data)
    good.add(data)
    centre, holders = await star(net, bad, good)
    target = await fetch(centre, data, *holders)
    assert target.data == data
    assert len(target.indices) == 61, "each leaf is handed over once"
    assert centre.knows(*holders), "a bad blob ends no connection"


async def test_a_liar_is_not_asked_again_for_a_while(net: Network) -> None:
    data, more = random_bytes(3 * LEAF_BYTES), b"something else"
    bad = Broken("lies")
    bad.add(data)
    bad.add(more)
    centre, holders = await star(net, bad)
    with pytest.raises(RequestFailed, match="lied"):
        await fetch(centre, data, *holders)
    assert "do not match their digest" in centre.log.reasons()[0]
    with pytest.raises(RequestFailed, match="no holder is connected"):
        await fetch(centre, more, *holders)


async def test_who_kept_us_waiting_is_asked_last_the_next_time(net: Network) -> None:
    first, second = random_bytes(3 * LEAF_BYTES), random_bytes(LEAF_BYTES)
    bad, good = Broken("hangs"), MemoryBlobs()
    for data in (first, second):
        bad.add(data)
        good.add(data)
    centre, holders = await star(net, bad, good)
    assert (await fetch(centre, first, *holders)).data == first
    asked = bad.reads
    assert (await fetch(centre, second, *holders)).data == second
    assert asked < 0 and bad.reads == asked


async def test_false_hashes_are_found_out_before_any_leaf(net: Network) -> None:
    data = random_bytes(10 * LEAF_BYTES)

    class WrongHashes(MemoryBlobs):
        async def leaf_hashes(self, digest: bytes) -> Sequence[bytes] | None:
            return leaf_hashes(split(bytes(len(data))))

    bad, good = WrongHashes(), MemoryBlobs()
    bad.add(data)
    good.add(data)
    centre, holders = await star(net, bad, good)
    assert (await fetch(centre, data, *holders)).data == data
    assert "do not match their digest" in centre.log.reasons()[0]


async def test_a_holder_that_dies_in_the_middle_is_replaced(net: Network) -> None:
    data = random_bytes(80 * LEAF_BYTES)
    slow, good = Broken("hangs", 3), MemoryBlobs()
    slow.add(data)
    good.add(data)
    centre, (dying, other) = await star(net, slow, good)
    target = Target(len(data))
    holders = [dying.key]

    def sink(leaves: Leaves) -> None:
        target(leaves)
        net.signal.fire()

    async def get() -> None:
        await centre.swarm.fetch(digest_of(data), len(data), holders=lambda: holders, sink=sink)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            await net.until(lambda: len(target.indices) == 3 * group_leaves(80))
            holders.append(other.key)
            await dying.stop()
    assert target.data == data
    assert sorted(target.indices) == list(range(80))


async def test_many_fetches_at_once_from_one_holder(net: Network) -> None:
    blobs = [random_bytes(5 * LEAF_BYTES + n) for n in range(30)]
    source = MemoryBlobs()
    for data in blobs:
        source.add(data)
    centre, holders = await star(net, source)
    results: dict[int, bytes] = {}

    async def get(number: int) -> None:
        results[number] = bytes((await fetch(centre, blobs[number], *holders)).data)

    async with trio.open_nursery() as nursery:
        for number in range(len(blobs)):
            nursery.start_soon(get, number)
    assert [results[n] for n in range(len(blobs))] == blobs


async def test_a_cancelled_fetch_leaves_the_connection_usable(net: Network) -> None:
    data = random_bytes(200 * LEAF_BYTES)
    source = MemoryBlobs()
    source.add(data)
    centre, holders = await star(net, source)
    with trio.CancelScope() as scope:

        def first_leaves(_: Leaves) -> None:
            scope.cancel()

        await centre.swarm.fetch(digest_of(data), len(data), holders=lambda: [holders[0].key], sink=first_leaves)
    assert scope.cancelled_caught
    assert (await fetch(centre, data, *holders)).data == data


async def test_votes_pass_while_bulk_flows(net: Network) -> None:
    data = random_bytes(300 * LEAF_BYTES)
    source = MemoryBlobs()
    source.add(data)
    centre, (holder,) = await star(net, source)
    leaves_before_votes: list[int] = []
    target = Target(len(data))

    def sink(leaves: Leaves) -> None:
        already = len(target.indices)
        target(leaves)
        if already < 20 <= len(target.indices):
            for number in range(10):
                holder.swarm.publish(holder.envelope(number).frame())

    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await net.until(lambda: len(centre.envelopes()) == 10)
            leaves_before_votes.append(len(target.indices))

        nursery.start_soon(watch)
        await centre.swarm.fetch(digest_of(data), len(data), holders=lambda: [holder.key], sink=sink)
    assert leaves_before_votes[0] < 300


# --- Asking the server in ways that no node does --------------------------------------------------------------------


async def wanted(net: Network, kind: Kind, body: bytes) -> tuple[Rogue, Node, bytes]:
    data = random_bytes(3 * LEAF_BYTES)
    source = MemoryBlobs()
    source.add(data)
    node = await net.node(blobs=source)
    rogue = await Rogue.meet(node)
    await rogue.send(encode_frame(kind, body.replace(b"D" * 32, digest_of(data))))
    return rogue, node, data


def number(*values: tuple[int, int]) -> bytes:
    return b"".join(value.to_bytes(width, "big") for value, width in values)


@pytest.mark.parametrize(("first", "count"), [(3, 1), (2, 2), (0, 8), (2**32 - 1, 1)])
async def test_leaves_that_do_not_exist_are_refused(net: Network, first: int, count: int) -> None:
    body = number((9, 4)) + b"D" * 32 + number((first, 4), (count, 2))
    rogue, _, _ = await wanted(net, Kind.LEAVES_WANTED, body)
    assert await rogue.next(Kind.BLOB_REFUSED) == number((9, 4), (Refusal.NO_SUCH_LEAF, 1))
    await rogue.leave()


async def test_what_is_there_is_served_in_order(net: Network) -> None:
    rogue, _, data = await wanted(net, Kind.LEAVES_WANTED, number((9, 4)) + b"D" * 32 + number((1, 4), (2, 2)))
    for index in (1, 2):
        leaf = data[index * LEAF_BYTES : (index + 1) * LEAF_BYTES]
        assert await rogue.next(Kind.LEAF) == number((9, 4), (index, 4)) + leaf
    await rogue.leave()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.LEAVES_WANTED, bytes(41)),
        (Kind.LEAVES_WANTED, bytes(42)),
        (Kind.LEAVES_WANTED, number((9, 4)) + b"D" * 32 + number((0, 4), (9, 2))),
        (Kind.HASHES_WANTED, bytes(44)),
        (Kind.HASHES_WANTED, number((9, 4)) + b"D" * 32 + number((0, 4), (2049, 4))),
        (Kind.HASHES, bytes(5)),
        (Kind.LEAF, bytes(8)),
        (Kind.BLOB_REFUSED, bytes(4)),
    ],
)
async def test_malformed_blob_frames_end_the_connection(net: Network, kind: Kind, body: bytes) -> None:
    rogue, node, _ = await wanted(net, kind, body)
    await rogue.closed()
    await net.until(lambda: len(node.log.named("peer refused")) == 1)
    await rogue.leave()


async def test_pieces_that_nobody_asked_for_cost_nothing(net: Network) -> None:
    rogue, node, _ = await wanted(net, Kind.LEAF, bytes(100))
    await rogue.send(encode_frame(Kind.HASHES, bytes(36)), encode_frame(Kind.BLOB_REFUSED, bytes(5)))
    await rogue.send(encode_frame(0x80, b"still here"))
    await net.until(lambda: node.frames() == [b"still here"])
    await rogue.leave()


async def test_asking_for_everything_at_once_is_a_fault(net: Network) -> None:
    one = encode_frame(Kind.LEAVES_WANTED, number((9, 4)) + bytes(32) + number((0, 4), (1, 2)))
    hanging = Broken("hangs")
    node = await net.node(blobs=hanging)
    hanging.add(b"x")
    first = encode_frame(Kind.LEAVES_WANTED, number((9, 4)) + digest_of(b"x") + number((0, 4), (1, 2)))
    rogue = await Rogue.meet(node)
    await rogue.send(first, *[one] * (limits.BLOB_REQUESTS_QUEUED_MAX + 2))
    await rogue.closed()
    await net.until(lambda: "blob requests waiting" in "".join(node.log.reasons()))
    await rogue.leave()
