"""The content address: RFC 6962's tree, checked against the recursive definition."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport.content import (
    content_digest,
    digest_of,
    digest_of_hashes,
    inclusion_path,
    leaf_count,
    leaf_hash,
    leaf_hashes,
    leaf_length,
    levels,
    path_length,
    split,
    verify_leaf,
)
from transport.limits import LEAF_BYTES


def rfc6962(hashes: list[bytes]) -> bytes:
    """The definition as the RFC writes it, slow and obvious."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + rfc6962(hashes[:k]) + rfc6962(hashes[k:])).digest()


@pytest.mark.parametrize("count", [*range(20), 31, 32, 33, 100])
def test_the_tree_is_the_one_of_the_rfc(count: int) -> None:
    hashes = [hashlib.sha256(bytes((i,))).digest() for i in range(count)]
    length = count * LEAF_BYTES
    expected = hashlib.sha256(b"\x02" + length.to_bytes(8, "big") + rfc6962(hashes)).digest()
    assert digest_of_hashes(hashes, length) == expected


def test_known_answers() -> None:
    """Fixed for ever: another implementation must give the same."""
    assert digest_of(b"").hex() == hashlib.sha256(b"\x02" + bytes(8) + hashlib.sha256(b"").digest()).hexdigest()
    one = hashlib.sha256(b"\x00abc").digest()
    assert digest_of(b"abc") == hashlib.sha256(b"\x02" + (3).to_bytes(8, "big") + one).digest()


@given(some.integers(min_value=0, max_value=5 * LEAF_BYTES))
def test_leaves_cover_every_byte_once(length: int) -> None:
    leaves = split(bytes(length))
    assert len(leaves) == leaf_count(length)
    assert [len(leaf) for leaf in leaves] == [leaf_length(i, length) for i in range(len(leaves))]
    assert sum(map(len, leaves)) == length


@pytest.mark.parametrize("length", [1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 3 * LEAF_BYTES])
def test_every_change_changes_the_digest(length: int) -> None:
    data = bytes(length)
    changed = bytearray(data)
    changed[length // 2] = 1
    digests = {digest_of(data), digest_of(changed), digest_of(data + b"\0"), digest_of(data[:-1])}
    assert len(digests) == 4


def test_a_node_is_no_leaf() -> None:
    hashes = leaf_hashes(split(bytes(2 * LEAF_BYTES)))
    assert leaf_hash(b"".join(hashes)) != hashlib.sha256(b"\x01" + b"".join(hashes)).digest()


def test_the_number_of_hashes_must_fit_the_length() -> None:
    for wrong, _ in pairwise([0, 1, 3, 4]):
        with pytest.raises(ValueError, match="leaf hashes"):
            digest_of_hashes([bytes(32)] * wrong, 2 * LEAF_BYTES)


def test_leaf_by_leaf_is_the_same_as_at_once() -> None:
    data = bytes(range(256)) * 1000
    assert content_digest(iter(split(data)), len(data)) == digest_of(memoryview(data))


def proof(data: bytes, index: int) -> list[bytes]:
    return inclusion_path(levels(leaf_hashes(split(data))), index)


@pytest.mark.parametrize("count", [*range(1, 18), 31, 33])
def test_every_leaf_proves_itself(count: int) -> None:
    data = b"".join(bytes((i,)) * LEAF_BYTES for i in range(count))[:-7]
    digest, leaves = digest_of(data), split(data)
    for index, leaf in enumerate(leaves):
        path = proof(data, index)
        assert len(path) == path_length(index, len(data))
        assert verify_leaf(digest, len(data), index, leaf, path)


@given(some.data(), some.integers(min_value=1, max_value=9), some.integers(min_value=0, max_value=LEAF_BYTES - 1))
def test_nothing_else_passes_for_a_leaf(draw: some.DataObject, count: int, short: int) -> None:
    """Another index, length or path, or another leaf."""
    data = b"".join(bytes((i,)) * LEAF_BYTES for i in range(count))[: count * LEAF_BYTES - short]
    digest, leaves = digest_of(data), split(data)
    index = draw.draw(some.integers(min_value=0, max_value=count - 1))
    leaf, path = bytes(leaves[index]), proof(data, index)

    other = draw.draw(some.integers(min_value=-2, max_value=count + 2).filter(lambda i: i != index))
    assert not verify_leaf(digest, len(data), other, leaf, path)

    length = draw.draw(some.integers(min_value=0, max_value=count * LEAF_BYTES * 2).filter(lambda n: n != len(data)))
    assert not verify_leaf(digest, length, index, leaf, path)

    assert not verify_leaf(digest, len(data), index, leaf, [*path, bytes(32)])
    assert not verify_leaf(digest, len(data), index, leaf, [*path, b""])
    if path:
        place = draw.draw(some.integers(min_value=0, max_value=len(path) - 1))
        assert not verify_leaf(digest, len(data), index, leaf, path[:place] + path[place + 1 :])
        wrong = bytearray(path[place])
        wrong[draw.draw(some.integers(min_value=0, max_value=31))] ^= 1
        assert not verify_leaf(digest, len(data), index, leaf, [*path[:place], bytes(wrong), *path[place + 1 :]])

    changed = bytearray(leaf)
    changed[draw.draw(some.integers(min_value=0, max_value=len(leaf) - 1))] ^= 1
    assert not verify_leaf(digest, len(data), index, changed, path)
    assert not verify_leaf(digest, len(data), index, leaf[:-1], path)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    data = bytes(2 * LEAF_BYTES)
    assert not verify_leaf(digest_of(data), 64, 0, b"".join(leaf_hashes(split(data))), [])
