"""The fetch plan: everything is fetched once, nothing false is taken, and nothing is lost when holders fail."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from transport.content import digest_of, leaf_hashes, split
from transport.limits import BLOB_BYTES_MAX, LEAF_BYTES, LEAVES_PER_REQUEST
from transport.transfer import FetchPlan

LENGTHS = [1, LEAF_BYTES, LEAF_BYTES + 1, 20 * LEAF_BYTES + 5]


def blob(length: int) -> tuple[bytes, list[bytes], bytes]:
    data = Random(length).randbytes(length)
    leaves = [bytes(leaf) for leaf in split(data)]
    return data, leaves, b"".join(leaf_hashes(leaves))


def ready(length: int, **options: object) -> tuple[FetchPlan, list[bytes]]:
    data, leaves, joined = blob(length)
    plan = FetchPlan(digest_of(data), length, **options)  # type: ignore[arg-type]
    assert plan.accept_hashes(joined)
    return plan, leaves


@pytest.mark.parametrize("length", LENGTHS)
def test_all_leaves_are_asked_for_once(length: int) -> None:
    plan, leaves = ready(length)
    asked: list[int] = []
    while (wanted := plan.take()) is not None:
        assert 1 <= wanted.count <= LEAVES_PER_REQUEST
        asked += range(wanted.first, wanted.first + wanted.count)
    assert asked == list(range(len(leaves)))
    for index, leaf in enumerate(leaves):
        assert not plan.is_done
        assert plan.accept_leaf(index, leaf)
    assert plan.is_done


def test_an_empty_blob_needs_nobody() -> None:
    plan = FetchPlan(digest_of(b""), 0)
    assert plan.accept_hashes(b"")
    assert plan.is_done
    assert plan.take() is None


def test_false_hashes_are_refused() -> None:
    data, _, joined = blob(3 * LEAF_BYTES)
    plan = FetchPlan(digest_of(data), len(data))
    assert not plan.accept_hashes(joined[:-32])
    assert not plan.accept_hashes(joined + bytes(32))
    assert not plan.accept_hashes(joined[32:] + joined[:32])
    assert plan.hashes is None


def test_false_leaves_are_refused() -> None:
    plan, leaves = ready(2 * LEAF_BYTES + 9)
    assert not plan.accept_leaf(0, leaves[1])
    assert not plan.accept_leaf(2, leaves[2] + b"\0")
    assert not plan.accept_leaf(2, leaves[2][:-1])
    assert not plan.accept_leaf(3, leaves[0])
    assert not plan.accept_leaf(-1, leaves[0])
    assert plan.accept_leaf(2, leaves[2])


def test_leaves_before_hashes_prove_nothing() -> None:
    data, leaves, _ = blob(LEAF_BYTES)
    assert not FetchPlan(digest_of(data), len(data)).accept_leaf(0, leaves[0])


def test_only_what_is_wanted_is_asked_for() -> None:
    plan, leaves = ready(20 * LEAF_BYTES, leaves=[3, 4, 5, 17, 4])
    ranges = []
    while (wanted := plan.take()) is not None:
        ranges.append((wanted.first, wanted.count))
    assert ranges == [(3, 3), (17, 1)]
    for index in (3, 4, 5, 17):
        assert plan.accept_leaf(index, leaves[index])
    assert plan.is_done


def test_impossible_lengths() -> None:
    for length in (-1, BLOB_BYTES_MAX + 1):
        with pytest.raises(ValueError, match="a blob of"):
            FetchPlan(bytes(32), length)


class Leaves(FetchPlan):
    """A plan whose leaves are all true, so that a thousand fetches need no hashing."""

    def accept_leaf(self, index: int, leaf: bytes) -> bool:
        assert self.is_missing(index), "a leaf was asked for twice"
        self._missing.discard(index)
        return True


@given(some.randoms(use_true_random=False), some.integers(1, 40))
def test_whoever_fails_and_whenever_nothing_is_lost(random: Random, count: int) -> None:
    """Holders deliver a part of what they were asked for and fail; in the end every leaf was taken exactly once."""
    plan = Leaves(bytes(32), count * LEAF_BYTES)
    failures = 5 * count
    while (wanted := plan.take()) is not None:
        delivers = wanted.count
        if failures and random.random() < 0.7:
            failures -= 1
            delivers = random.randint(0, wanted.count)
        for index in range(wanted.first, wanted.first + delivers):
            plan.accept_leaf(index, b"")
        plan.give_back(wanted)
    assert not any(plan.is_missing(index) for index in range(count))
