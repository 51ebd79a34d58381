"""Who passes on which leaf, and what is taken of what comes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.transport.net import random_bytes
from transport import limits, spread
from transport.content import digest_of, inclusion_path, leaf_hashes, levels, split
from transport.limits import LEAF_BYTES
from transport.spread import Piece, Spread

ALICE, BOB = b"a" * 32, b"b" * 32
DATA = random_bytes(5 * LEAF_BYTES - 100)
DIGEST = digest_of(DATA)
TREE = levels(leaf_hashes(split(DATA)))


def everybody(_: bytes) -> bool:
    return True


def piece(index: int, /, **changes: object) -> Piece:
    made = Piece(DIGEST, index, inclusion_path(TREE, index), split(DATA)[index], pass_on=False)
    return replace(made, **changes)  # type: ignore[arg-type]


def body(index: int, /, **changes: object) -> bytes:
    return b"".join(piece(index, **changes).encode())


def fresh() -> Spread:
    return Spread(DIGEST, len(DATA))


def test_every_leaf_has_a_relay_and_no_relay_more_than_its_share() -> None:
    others = [bytes([i]) for i in range(99)]
    chosen = spread.relays(others, 16, linked=everybody)
    assert len(chosen) == len(set(chosen)) == 16
    few = spread.relays(others[:3], 16, linked=everybody)
    assert {few.count(key) for key in others[:3]} <= {5, 6}
    assert spread.relays(others, 0, linked=everybody) == []


def test_the_relays_of_different_authors_are_different_members() -> None:
    members = [bytes([i]) for i in range(20)]
    load = dict.fromkeys(members, 0)
    for author in members:
        others = spread.ring(members, author)
        assert sorted(others) == [member for member in members if member != author]
        for relay in spread.relays(others, 7, linked=everybody):
            assert relay is not None
            load[relay] += 1
    assert set(load.values()) == {7}


@given(some.integers(1, 40), some.integers(1, 200), some.data())
def test_whom_an_author_chooses_is_named_for_it(members: int, count: int, draw: some.DataObject) -> None:
    others = [bytes([i]) for i in range(members)]
    linked = draw.draw(some.sets(some.sampled_from(others)))
    load = dict.fromkeys(others, 0)
    for leaf, relay in enumerate(spread.relays(others, count, linked=linked.__contains__)):
        named = spread.named(others, leaf, count)
        assert len(set(named)) == len(named) <= limits.RELAYS_PER_LEAF_MAX
        if relay is None:
            assert linked.isdisjoint(named)
        else:
            assert relay in named
            assert relay in linked
            load[relay] += 1
    assert max(load.values()) <= limits.RELAYS_PER_LEAF_MAX * -(-count // members)


def test_small_committees_and_small_payloads_are_fetched() -> None:
    assert spread.is_worth_it(8, LEAF_BYTES + 1)
    assert not spread.is_worth_it(7, 100 * LEAF_BYTES)
    assert not spread.is_worth_it(100, LEAF_BYTES)


async def test_leaves_in_any_order_are_the_payload() -> None:
    target = fresh()
    for index in (3, 0, 4, 1):
        sent = body(index)
        assert len(sent) == spread.frame_bytes(index, len(DATA))
        assert spread.head(sent) == (DIGEST, index, False)
        taken = target.take(ALICE, sent)
        assert taken is not None
        assert b"".join(taken.encode()) == sent
    assert target.missing() == [2]
    assert not target.whole.is_set()
    target.sink([(2, split(DATA)[2])])
    assert target.whole.is_set()
    assert target.data() == DATA
    assert target.missing() == []
    assert target.take(ALICE, body(1)) is not None  # to be passed on, perhaps
    assert target.data() == DATA


def test_the_mark_to_pass_on_is_the_authors() -> None:
    marked = body(2, pass_on=True)
    assert spread.head(marked) == (DIGEST, 2, True)
    taken = fresh().take(ALICE, marked)
    assert taken is not None
    assert taken.pass_on
    assert b"".join(taken.passed().encode()) == body(2)


LIES = {
    "too short for a head": body(1)[:36],
    "no leaf": body(1)[:37],
    "a leaf that is cut": body(1)[:-1],
    "a leaf that is too long": body(1) + b"x",
    "an index that there is not": body(1, index=5),
    "a huge index": body(1, index=2**32 - 1),
    "another index": body(1, index=2),
    "another leaf": body(1, leaf=bytes(LEAF_BYTES)),
    "another path": body(1, path=inclusion_path(TREE, 2)),
    "a short path": body(1, path=inclusion_path(TREE, 1)[1:]),
    "a mark that means nothing": body(1)[:36] + b"\2" + body(1)[37:],
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_not_held_and_its_teller_is_known(name: str) -> None:
    target = fresh()
    assert target.take(ALICE, LIES[name]) is None
    assert target.distrusts(ALICE)
    assert not target.distrusts(BOB)
    assert target.missing() == [0, 1, 2, 3, 4]


@given(some.binary(max_size=200))
def test_no_bytes_are_taken_for_a_leaf(rubbish: bytes) -> None:
    target = fresh()
    spread.head(rubbish)
    assert target.take(ALICE, DIGEST + rubbish) is None
    assert target.missing() == [0, 1, 2, 3, 4]
