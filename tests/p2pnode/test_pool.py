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
    return Pool(CHAIN.state, members=MEMBERS, payload_bytes=PAYLOAD_BYTES)


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
        {"codec": 7},
    ],
)
def test_what_does_not_fit_this_height_is_refused(pool, changes):
    assert pool.announce(offer(CHAIN.founders[0], **changes)) is not None


def test_strangers_are_few_and_members_always_have_room(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "STRANGERS_MAX", 2)
    offers = [offer(stranger, seed) for seed, stranger in enumerate(STRANGERS[:4])]
    small = Pool(CHAIN.state, members=MEMBERS, payload_bytes=PAYLOAD_BYTES)
    monkeypatch.setattr(pool_module, "STRANGERS_MIN", 2)
    pool = Pool(CHAIN.state, members=MEMBERS, payload_bytes=PAYLOAD_BYTES)
    assert [small.announce(offered) is None for offered in offers] == [True, True, True, False]
    assert [pool.announce(offered) is None for offered in offers] == [True, True, False, False]
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
    monkeypatch.setattr(pool_module, "STRANGERS_MAX", 3)
    pool = Pool(CHAIN.state, members=MEMBERS, payload_bytes=PAYLOAD_BYTES)
    for seed, author in enumerate([*STRANGERS[:5], *CHAIN.founders]):
        pool.hold(Held(offer(author, seed), payload(seed), 0.0))
    listed = [held.contribution for held in pool.listable()]
    assert {c.author for c in listed} >= MEMBERS and len(listed) == 7
    assert [c.author for c in listed] == sorted(c.author for c in listed)
    assert pool.excess(listed) is None
    assert pool.excess([held.contribution for held in pool.held()]) == "more than 3 contributions from non-members"


def test_a_large_model_takes_fewer_strangers_but_always_enough_to_grow():
    assert pool_module.strangers_max(1 << 20) == 64
    assert pool_module.strangers_max(16 << 20) == 16
    assert pool_module.strangers_max(8 << 30) == 3


def test_copies_of_bytes_that_are_here_take_no_place(pool):
    """Keys are free: 64 of them that announce what another has made must not crowd out a newcomer."""
    pool.hold(Held(offer(CHAIN.founders[0], 1), payload(1), 0.0))
    made_up = [key for key in identities(70) if key.public_key not in MEMBERS]
    assert {pool.announce(offer(key, 1)) for key in made_up} == {
        "too many contributions from non-members at this height"
    }
    assert pool.announce(offer(STRANGERS[0], 2)) is None


def test_copies_of_bytes_on_their_way_are_few_and_go_when_the_bytes_are_here(pool):
    newcomer, *made_up = STRANGERS
    original = offer(newcomer, 1)
    assert pool.announce(original) is None
    taken = [key for key in made_up if pool.announce(offer(key, 1)) is None]
    assert len(taken) == pool_module.COPIES_MAX - 1
    pool.hold(Held(original, payload(1), 1.0))
    assert pool.announce(offer(taken[0], 2)) is None  # its slot is free again
    assert pool.announce(offer(CHAIN.founders[0], 1)) is None  # a member is never taken for a copy


def test_bytes_that_nobody_has_leave_nothing_behind(pool):
    """A stranger announces what does not exist, for as long as a height is open: in an idle network, for ever."""
    for seed in range(100):
        made_up = offer(STRANGERS[0], seed)
        assert pool.announce(made_up) is None and pool.names(made_up.payload_digest)
        pool.forget(made_up)
    assert not pool._named and not pool._announced
    wanted = offer(CHAIN.founders[0], 1)
    assert pool.announce(wanted) is None and pool.announce(offer(STRANGERS[0], 1)) is None
    pool.forget(offer(STRANGERS[0], 1))
    assert pool.names(wanted.payload_digest)  # a member's bytes are the same, and are still asked for


def test_among_strangers_a_payload_counts_once_for_the_first(pool):
    late, first = sorted(STRANGERS[:2], key=lambda i: i.public_key)
    member = offer(CHAIN.founders[0], 1)
    pool.hold(Held(offer(first, 1), payload(1), 1.0))
    pool.hold(Held(offer(late, 1), payload(1), 2.0))
    pool.hold(Held(member, payload(1), 3.0))
    listed = [held.contribution for held in pool.listable()]
    assert {c.author for c in listed} == {first.public_key, member.author} and pool.excess(listed) is None
    assert len({id(held.payload) for held in pool.held()}) == 1  # however often it is announced, it is in memory once
    assert pool.excess([offer(late, 1), offer(first, 1)]) == "one payload listed twice for non-members"


def test_a_probe_too_many_is_refused_however_it_comes():
    probed = frozenset([CHAIN.founders[0].public_key])
    pool = Pool(CHAIN.state, members=MEMBERS, payload_bytes=PAYLOAD_BYTES, probed=probed)
    again, other = (offer(founder, purpose=Purpose.PROBE) for founder in CHAIN.founders[:2])
    assert pool.announce(again) == pool.excess([again]) == "its author sent a probe in the last 10 heights"
    assert pool.announce(other) is None and pool.excess([other]) is None
    assert pool.announce(offer(CHAIN.founders[0])) is None
    assert pool.learned() == frozenset()


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
