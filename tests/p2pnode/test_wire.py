"""What nodes say to one another: round trips, bounds, and bytes that strangers made up."""

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode import wire
from p2pnode.wire import Malformed, Role, Status

HEIGHTS = st.integers(0, wire.HEIGHT_MAX)
ROOTS = st.binary(min_size=32, max_size=32)
DECODERS = [Status.decode, wire.decode_blocks_request, wire.decode_blocks, wire.decode_snapshots]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 9), inner, max_size=3),
    max_leaves=20,
)


@given(HEIGHTS, ROOTS, st.sampled_from(Role), HEIGHTS)
def test_a_status_comes_back_as_it_was(height, root, role, learning):
    status = Status(height=height, model_root=root, role=role, learning=learning)
    assert Status.decode(status.encode()) == status


@given(HEIGHTS, st.integers(0, 2**31))
def test_a_request_for_blocks_is_cut_to_a_page(first, count):
    decoded = wire.decode_blocks_request(wire.encode_blocks_request(first, count))
    assert decoded == (first, min(count, wire.BLOCKS_PER_REQUEST_MAX))


@given(st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=50)), max_size=wire.BLOCKS_PER_REQUEST_MAX))
def test_a_page_of_blocks_comes_back_as_it_was(rows):
    assert wire.decode_blocks(wire.encode_blocks(rows)) == rows


@given(st.lists(st.tuples(HEIGHTS, ROOTS), max_size=20))
def test_a_list_of_snapshots_is_cut_and_comes_back(snapshots):
    encoded = wire.encode_snapshots(snapshots)
    assert len(encoded) <= wire.SNAPSHOTS_BYTES_MAX
    assert wire.decode_snapshots(encoded) == snapshots[: wire.SNAPSHOTS_MAX]


def test_a_page_ends_with_the_block_that_makes_it_long_enough():
    """So a shorter one is all that there is, and one block always fits."""
    page = wire.encode_blocks([(b"b" * 200_000, b"c" * 100_000)] * 10)
    assert len(wire.decode_blocks(page)) == 2 and len(page) >= wire.PAGE_BYTES
    longest = wire.encode_blocks([(b"b" * 1000, b"c"), (bytes(wire.BLOCK_BYTES_MAX), bytes(200_000))])
    assert len(wire.decode_blocks(longest)) == 2
    assert wire.PAGE_BYTES + wire.BLOCK_BYTES_MAX + 200_000 < wire.BLOCKS_RESPONSE_BYTES_MAX


@pytest.mark.parametrize("decode", DECODERS)
@given(body=st.binary(max_size=300) | ANYTHING.map(msgpack.packb))
def test_whatever_a_stranger_sends_is_taken_or_malformed(decode, body):
    try:
        decode(body)
    except Malformed:
        pass


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90\x90",  # something after the value
        msgpack.packb([-1, -1]),
        msgpack.packb([2**63, 1]),
        msgpack.packb([1, 1, 9, bytes(32)]),
        msgpack.packb([[1, bytes(31)]]),
        msgpack.packb([True, False]),  # no numbers, though Python counts with them
        msgpack.packb([1, True, 1, bytes(32)]),
        msgpack.packb([[True, bytes(32)]]),
        msgpack.packb([[b"block"]]),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
    ],
)
def test_the_bounds_hold(decode, body):
    with pytest.raises(Malformed):
        decode(body)


@pytest.mark.parametrize(
    ("body", "reason"), [(b"\x91" * 5000, "StackError"), (b"\xc1", "FormatError"), (b"", "incomplete")]
)
def test_what_is_no_msgpack_is_refused_with_a_reason(body, reason):
    with pytest.raises(Malformed, match=f"a status that is not msgpack: .*{reason}"):
        Status.decode(body)


def test_a_short_body_cannot_ask_for_much_memory():
    """A list claims its length in five bytes, and lists nest."""
    body = b"\xdd\x00\x03\xff\xff" * 50_000
    tracemalloc.start()
    with pytest.raises(Malformed):
        Status.decode(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(body)


def test_a_block_longer_than_any_is_refused():
    with pytest.raises(Malformed):
        wire.decode_blocks(wire.encode_blocks([(bytes(wire.BLOCK_BYTES_MAX + 1), b"")]))
