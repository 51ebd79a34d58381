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
    leaf_count,
    leaf_hash,
    leaf_hashes,
    leaf_length,
    split,
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
