"""Guests: whoever joined by invitation and has no seat yet. One member's are in nobody else's way, and none stays for ever."""

from dataclasses import replace

import pytest

from consensus import (
    BlockContent,
    ChainState,
    Invitation,
    Join,
    Malformed,
    Membership,
    PublicKey,
    advance,
    invitation_statement,
    token_statement,
)
from consensus.advance import requests_problem
from consensus.limits import (
    BAN_HEIGHTS,
    GUEST_HEIGHTS,
    GUESTS_PER_INVITER_MAX,
    INVITED_MAX,
    PERMITTED_MAX,
    REQUESTS_PER_BLOCK_MAX,
    TOKENS_PER_INVITER_MAX,
)
from consensus.membership import Guest, UsedToken
from consensus.pending import Pending
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.test_advance import double
from tests.consensus.test_requests import INVITE, UNSIGNED, Office

FULL = "its inviter has 16 guests waiting already"


@pytest.fixture
def office() -> Office:
    return Office()


def crowd(
    office: Office, block: int, *, height: int = 1, inviter: int = 0, size: int = REQUESTS_PER_BLOCK_MAX
) -> list[Join]:
    """A block of joins whose keys and tokens nobody has used before."""
    joins = []
    for author in (number.to_bytes(32, "big") for number in range(1000 * (block + 1), 1000 * (block + 1) + size)):
        once = b"token" + author[5:]
        mark = office.signatures.signer(once)(token_statement(CHAIN_ID, author))
        signed = office.signatures.signer(key(inviter))(invitation_statement(CHAIN_ID, once, 90_000))
        joins.append(office.sign(Join(author, height, Invitation(key(inviter), once, 90_000, signed), mark, UNSIGNED)))
    return joins


def problem(joins: list[Join], membership: Membership, *, height: int = 1) -> str | None:
    return requests_problem(joins, membership, height=height, rules=INVITE)


def later(office: Office, membership: Membership, height: int, *contributors: int) -> Membership:
    """After a block of this height, whatever was between."""
    state = replace(office.state, height=height - 1, membership=membership)
    listed = [contribution(office.signatures, i, state) for i in contributors]
    return advance(membership, BlockContent(height, key(0), contributions=listed), INVITE)


def seats(state: ChainState) -> list[PublicKey]:
    return list(state.membership.next.members)


def test_one_inviter_closes_the_network_to_nobody_else(office: Office) -> None:
    """More blocks full of joins with made-up keys than there would be permissions, in the name of one member."""
    state, refused = office.state, 0
    for block in range(PERMITTED_MAX // REQUESTS_PER_BLOCK_MAX + 3):
        joins = crowd(office, block, height=state.height + 1)
        told = problem(joins, state.membership, height=state.height + 1)
        assert told in (None, FULL)
        refused += told is not None
        state = office.after(*(joins if told is None else ()), state=state)
    assert refused == PERMITTED_MAX // REQUESTS_PER_BLOCK_MAX + 2
    assert len(state.membership.guests) == GUESTS_PER_INVITER_MAX and len(state.membership.permitted) == 4
    height = state.height + 1
    for inviter in (1, 2, 3):
        assert (
            problem(crowd(office, 900 + inviter, height=height, inviter=inviter), state.membership, height=height)
            is None
        )
    state = office.after(office.join(5, height, inviter=1, expiry=height), state=state, contributors=(5,))
    state = office.after(state=state, contributors=(5,))
    assert key(5) in state.membership.next


def test_one_inviters_tokens_are_in_nobody_elses_way(office: Office) -> None:
    used = tuple(UsedToken(i.to_bytes(32, "big"), key(0), 90_000) for i in range(TOKENS_PER_INVITER_MAX))
    membership = replace(office.state.membership, tokens=used)
    assert problem([office.join(5)], membership) == "its inviter has 64 used invitations that have not expired"
    assert problem([office.join(5, inviter=1)], membership) is None
    assert problem([office.join(5)], replace(membership, tokens=used[1:])) is None
    assert problem(crowd(office, 0, size=2), replace(membership, tokens=used[1:])) is not None


def test_a_block_is_no_way_around_the_bound(office: Office) -> None:
    taken = tuple(Guest(i.to_bytes(32, "big"), key(0), 99) for i in range(GUESTS_PER_INVITER_MAX - 1))
    membership = replace(office.state.membership, guests=taken)
    assert problem(crowd(office, 0, size=1), membership) is None
    assert problem(crowd(office, 0, size=2), membership) == FULL
    mixed = [*crowd(office, 0, size=1), *crowd(office, 1, inviter=1, size=5)]
    assert problem(sorted(mixed, key=lambda join: join.author), membership) is None


def test_a_guest_lapses_at_its_height_and_not_before(office: Office) -> None:
    membership = office.after(office.join(5)).membership
    until = 1 + GUEST_HEIGHTS
    assert membership.guests == (Guest(key(5), key(0), until),) == (membership.guest(key(5)),)
    before = later(office, membership, until - 1)
    assert before.permits(key(5)) and before.knows(key(5))
    gone = later(office, before, until)
    assert gone.guests == () and not gone.permits(key(5)) and gone.guest(key(5)) is None
    again = office.join(5, until + 1, token=201, expiry=until + 1)
    assert problem([again], gone, height=until + 1) is None

    first, last = (later(office, membership, height, 5) for height in (until - 2, until - 1))
    assert key(5) in later(office, first, until - 1, 5).next
    assert key(5) not in later(office, last, until, 5).next


def test_a_guest_with_a_seat_is_permitted_and_its_place_is_free(office: Office) -> None:
    newcomer = 20
    state = office.after(*(office.join(newcomer + i, token=100 + i) for i in range(GUESTS_PER_INVITER_MAX)))
    assert problem([office.join(5, 2)], state.membership, height=2) == FULL
    membership = state.membership
    for height in (2, 3):
        membership = later(office, membership, height, newcomer)
    assert key(newcomer) in membership.next and key(newcomer) in membership.permitted
    assert membership.guest(key(newcomer)) is None and len(membership.guests) == GUESTS_PER_INVITER_MAX - 1
    assert problem([office.join(5, 4)], membership, height=4) is None
    long_after = later(office, membership, 2 * GUEST_HEIGHTS)
    assert key(newcomer) in long_after.next and key(newcomer) in long_after.permitted and not long_after.guests


def test_guests_and_tokens_go_with_their_inviters_permission() -> None:
    office = Office(5)
    state = office.after(office.join(6, inviter=4), office.join(7, inviter=1, token=201))
    state = office.after(office.leave(4, 2), state=state)
    assert [guest.key for guest in state.membership.guests] == [key(7)]
    assert [token.key for token in state.membership.tokens] == [key(201)]
    assert key(4) in state.membership.current  # for one more height
    told = problem([office.join(8, 3, inviter=4, token=202)], state.membership, height=3)
    assert told == "an invitation by somebody who is no member"


def test_a_banned_guest_is_not_admitted_before_its_ban_ends(office: Office) -> None:
    state = office.after(office.join(5))
    block = office.block_on(state, evidence=(double(office, 5, 2),))
    membership = state.after(block, office.committed(0, block, (0, 1, 2))).membership
    assert [guest.key for guest in membership.guests] == [key(5)]
    for height in (BAN_HEIGHTS, BAN_HEIGHTS + 1):
        assert key(5) not in later(office, later(office, membership, height, 5), height + 1, 5).next
    ended = later(office, membership, BAN_HEIGHTS + 4, 5)
    assert key(5) in later(office, ended, BAN_HEIGHTS + 5, 5).next


def test_an_evicted_member_that_was_a_guest_keeps_its_permission(office: Office) -> None:
    state = office.after(office.join(5), contributors=(5,))
    state = office.after(state=state, contributors=(5,))
    block = office.block_on(state, evidence=(double(office, 5, 3),))
    membership = state.after(block, office.committed(0, block, (0, 1, 2, 3))).membership
    assert key(5) not in membership.next and key(5) in membership.permitted and membership.guests == ()


def test_permission_without_a_seat_is_forgotten_and_never_in_the_way(office: Office) -> None:
    """Members that come and vanish leave a permission behind each."""
    vanished = [(2000 + i).to_bytes(32, "big") for i in range(INVITED_MAX)]
    members = office.state.membership.permitted
    membership = later(office, replace(office.state.membership, permitted=tuple(sorted([*vanished, *members]))), 1)
    assert len(membership.permitted) == INVITED_MAX and set(members) <= set(membership.permitted)
    assert set(vanished) - set(membership.permitted) == set(vanished[: len(members)])
    assert problem(crowd(office, 0, height=2), membership, height=2) is None


def test_the_last_member_can_invite_whatever_it_asked_for() -> None:
    """It asked to leave in the block that takes out the other one, so that it stays."""
    office = Office(2)
    block = office.block_on(office.state, evidence=(double(office, 0, 1),), requests=(office.leave(1),))
    state = office.state.after(block, office.committed(0, block, (0, 1)))
    assert seats(state) == [key(1)]
    assert problem([office.join(5, 2, inviter=1)], state.membership, height=2) is None


def test_joins_that_wait_leave_room_for_another_inviters(office: Office) -> None:
    pending, state = Pending(), office.state
    told = [pending.add(join, state, verify=office.signatures.verify) for join in crowd(office, 0, size=20)]
    assert told == [True] * GUESTS_PER_INVITER_MAX + ["a join of which no block could carry as many"] * 4
    assert pending.add(office.join(5, inviter=1), state, verify=office.signatures.verify) is True
    state = office.after(*pending.for_next_block(state), state=state)
    pending.moved_to(state)
    assert [join.author for join in pending.for_next_block(state)] == [key(5)]


def test_bytes_of_guests_and_tokens_are_canonical(office: Office) -> None:
    membership = office.after(*crowd(office, 0, size=3)).membership
    assert Membership.decode(membership.encode()) == membership and len(membership.guests) == 3
    for wrong in (
        replace(membership, guests=membership.guests[::-1]),
        replace(membership, tokens=membership.tokens[::-1]),
        replace(membership, guests=(membership.guests[0],) * 2),
        replace(membership, tokens=(membership.tokens[0],) * 2),
    ):
        with pytest.raises(Malformed, match="out of order"):
            Membership.decode(wrong.encode())
