"""The contributions of one height: what is taken note of, what is refused, and that nobody can make it grow."""

import pytest

from consensus import Purpose
from p2pnode import pool as pool_module
from p2pnode.errors import LocalFault
from p2pnode.pool import Held, Pool
from tests.p2pnode.little import PAYLOAD_BYTES, Chain, contribution, identities, payload

CHAIN = Chain(4)
MEMBERS = frozenset(i.public_key for i in CHAIN.founders)
STRANGERS = [i for i in identities(12) if i.public_key not in MEMBERS]


@pytest.fixture
def pool() -> Pool:
    return Pool(height=1, base_root=CHAIN.state.model_root, members=MEMBERS, payload_bytes=PAYLOAD_BYTES)


def offer(author, seed: int = 1, **changes):
    return contribution(author, CHAIN.state, payload(seed), **changes)


def test_an_announcement_is_taken_once_a_slot(pool):
    first = offer(CHAIN.founders[0])
    assert pool.announce(first) is None
    assert pool.announce(first) == "its author announced one already"
    assert pool.announce(offer(CHAIN.founders[0], 2)) == "its author announced one already"
    assert pool.announce(offer(CHAIN.founders[0], 2, purpose=Purpose.PROBE)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 2},
        {"base_root": b"\1" * 32},
        {"payload_bytes": 0},
        {"payload_bytes": 2**64 - 1},
        {"payload_bytes": 1},
    ],
)
def test_what_does_not_fit_this_height_is_refused(pool, changes):
    assert pool.announce(offer(CHAIN.founders[0], **changes)) is not None


def test_strangers_are_few_and_members_always_have_room(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "STRANGERS_MAX", 2)
    assert [pool.announce(offer(stranger)) is None for stranger in STRANGERS[:4]] == [True, True, False, False]
    assert all(pool.announce(offer(member)) is None for member in CHAIN.founders)


def test_what_is_held_is_found_by_its_exact_bytes_only(pool):
    mine, other = offer(CHAIN.founders[0], 1), offer(CHAIN.founders[0], 2)
    pool.hold(Held(mine, payload(1), 5.0))
    assert pool.find(mine).payload == payload(1) and pool.find(other) is None
    assert pool.own(CHAIN.founders[0].public_key, Purpose.UPDATE).contribution == mine
    assert pool.own(CHAIN.founders[0].public_key, Purpose.PROBE) is None
    assert pool.arrivals() == {CHAIN.founders[0].public_key: 5.0}


def test_a_contribution_of_another_height_never_gets_in(pool):
    """It would make the next block of ours one that cannot exist."""
    with pytest.raises(LocalFault, match="height 2"):
        pool.hold(Held(offer(CHAIN.founders[0], height=2), payload(1), 0.0))


def test_held_is_in_the_order_of_a_block(pool):
    for author, purpose in [(3, Purpose.UPDATE), (0, Purpose.PROBE), (0, Purpose.UPDATE), (2, Purpose.UPDATE)]:
        pool.hold(Held(offer(CHAIN.founders[author], purpose=purpose), payload(1), 0.0))
    slots = [(h.contribution.author, h.contribution.purpose) for h in pool.held()]
    assert slots == sorted(slots) and len(slots) == 4


def test_a_block_lists_no_more_strangers_than_a_block_may(pool, monkeypatch):
    """Bytes fetched for other people's proposals are held, too, and must not make ours one that is refused."""
    monkeypatch.setattr(pool_module, "STRANGERS_MAX", 2)
    for author in [*STRANGERS[:5], *CHAIN.founders]:
        pool.hold(Held(offer(author), payload(1), 0.0))
    listed = [held.contribution for held in pool.listable()]
    assert {c.author for c in listed} >= MEMBERS and len(listed) == 6
    assert [c.author for c in listed] == sorted(c.author for c in listed)
    assert pool.excess(listed) is None
    assert pool.excess([held.contribution for held in pool.held()]) == "more than 2 contributions from non-members"


@pytest.mark.parametrize("size", [0, PAYLOAD_BYTES - 1, 2**40, 2**64 - 1])
def test_a_block_with_a_payload_of_another_size_is_refused_unfetched(pool, size):
    assert (
        pool.excess([offer(CHAIN.founders[0], payload_bytes=size)])
        == f"a listed payload is not of {PAYLOAD_BYTES} bytes"
    )


def test_bad_bytes_are_remembered(pool):
    bad = offer(CHAIN.founders[0])
    assert not pool.rejected(bad.payload_digest)
    pool.reject(bad)
    assert pool.rejected(bad.payload_digest)
