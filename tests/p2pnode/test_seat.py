"""A node's seat: what it signs to invite, to join and to leave, and what its owner is told. Real signatures, a real chain."""

from dataclasses import replace
from typing import Any

import pytest
import trio

import consensus
import transport
from consensus.advance import requests_problem
from consensus.limits import GUESTS_PER_INVITER_MAX, INVITATION_HEIGHTS_MAX
from consensus.membership import Guest, Offence, UsedToken
from p2pnode.errors import UserError
from p2pnode.seat import Seat
from p2pnode.tokens import parse_token, token_text
from tests.p2pnode.little import identities, make_genesis, until
from tests.p2pnode.rig import Rig

FOUNDERS = {identity.public_key for identity in identities(4)}
STRANGER, OTHER = [identity for identity in identities(9) if identity.public_key not in FOUNDERS][:2]


def seat_of(rig: Rig, *, identity: transport.Identity | None = None, token: str | None = None) -> Seat:
    return Seat(identity=identity or rig.identity, rounds=rig.rounds, store=rig.store, log=rig.log, token=token)


@pytest.fixture
async def invited(tmp_path):
    """A member of four whose network asks invitations."""
    rig = Rig(tmp_path, genesis=make_genesis(identities(4), policy="invite"), members=4, trains=False)
    yield rig
    rig.close()


def joins(rig: Rig, token: str, identity: transport.Identity = STRANGER) -> tuple[Seat, consensus.Request | None]:
    """What a newcomer with this token would ask of the chain on which ``rig`` stands."""
    seat = seat_of(rig, identity=identity, token=token)
    return seat, seat._request()


def problem(rig: Rig, request: consensus.Request) -> str | None:
    from consensus.advance import request_problem
    from consensus.requests import check_request

    state = rig.rounds.state
    signed = check_request(request, chain_id=state.chain_id, verify=transport.verify)
    return signed or request_problem(request, state.membership, height=state.height + 1, rules=state.rules)


async def test_a_token_becomes_a_join_that_the_chain_takes(invited):
    text, expiry = seat_of(invited).invite(None)
    assert expiry == 10_000
    seat, request = joins(invited, text)
    assert isinstance(request, consensus.Join) and request.author == STRANGER.public_key
    assert problem(invited, request) is None
    assert seat.standing() is None  # this rig's own role is a member's
    other = seat_of(invited, identity=OTHER, token=text)._request()
    assert other is not None and problem(invited, other) is None  # until one of the two is carried out


@pytest.mark.parametrize("lasts", [0, -1, INVITATION_HEIGHTS_MAX + 1])
async def test_an_invitation_lasts_as_long_as_the_chain_remembers(invited, lasts):
    with pytest.raises(UserError, match="an invitation for"):
        seat_of(invited).invite(lasts)


async def test_who_may_not_invite_is_told_why(tmp_path, invited):
    with pytest.raises(UserError, match="only a member"):
        seat_of(invited, identity=STRANGER).invite(None)
    rig = Rig(tmp_path / "open")
    with pytest.raises(UserError, match="policy is open"):
        seat_of(rig).invite(None)
    rig.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expiry_height": 0}, "the invitation expired at height 0"),
        ({"signature": bytes(64)}, "was not signed by"),
        ({"inviter": STRANGER.public_key}, "was not signed by"),
        ({"expiry_height": 999}, "was not signed by"),
    ],
)
async def test_a_token_of_no_use_is_refused_by_its_holder_with_the_reason(invited, change: dict[str, Any], reason):
    text, _ = seat_of(invited).invite(None)
    seat, request = joins(invited, token_text(replace(parse_token(text), **change)))
    assert request is None and reason in (seat.problem or "")
    seat._request()
    assert len(invited.log.said("cannot join")) == 1  # said once


async def test_a_used_token_and_an_inviter_who_is_gone_are_told_apart(invited):
    text, _ = seat_of(invited).invite(None)
    token = parse_token(text)
    state = invited.rounds.state
    once = consensus.PublicKey(transport.Identity(token.seed).public_key)
    used = (UsedToken(once, consensus.PublicKey(token.inviter), token.expiry_height),)
    invited.rounds.state = replace(state, membership=replace(state.membership, tokens=used))
    assert joins(invited, text)[0].problem == "the invitation was used already"
    rest = consensus.Committee.of(set(state.membership.current.members) - {invited.identity.public_key})
    invited.rounds.state = replace(state, membership=replace(state.membership, current=rest))
    assert "is no member any more" in (joins(invited, text)[0].problem or "")
    permitted = tuple(sorted((*state.membership.permitted, consensus.PublicKey(STRANGER.public_key))))
    invited.rounds.state = replace(state, membership=replace(state.membership, permitted=permitted))
    seat, request = joins(invited, text)
    assert request is None and seat.problem is None and invited.log.said("invitation accepted")


async def test_a_join_is_offered_until_its_inviter_has_a_place_and_makes_a_guest(invited):
    text, _ = seat_of(invited).invite(None)
    state, inviter = invited.rounds.state, consensus.PublicKey(parse_token(text).inviter)
    crowd = [Guest(consensus.PublicKey(bytes([i]) * 32), inviter, 10_001) for i in range(GUESTS_PER_INVITER_MAX)]
    invited.rounds.state = replace(state, membership=replace(state.membership, guests=tuple(crowd)))
    seat, request = joins(invited, text)
    assert request is not None and seat.problem is None
    waits = requests_problem([request], invited.rounds.state.membership, height=1, rules=state.rules)
    assert waits == "its inviter has 16 guests waiting already" and seat._request() is not None
    guest = Guest(consensus.PublicKey(STRANGER.public_key), inviter, 10_001)
    invited.rounds.state = replace(state, membership=replace(state.membership, guests=(guest,)))
    assert seat._request() is None and invited.log.said("invitation accepted")
    invited.rounds.parts.me = STRANGER.public_key
    invited.rounds.training.on = True
    assert seat.standing() is None
    invited.rounds.training.on = False
    assert seat.standing() == "observer: invited until height 10001; p2pnode train gets it its seat"
    invited.rounds.state = state
    assert seat.standing() == "observer: needs an invitation"


async def test_what_keeps_a_node_out_is_said(tmp_path, invited):
    rounds, state = invited.rounds, invited.rounds.state
    rounds.parts.me = STRANGER.public_key  # this node is nobody yet
    assert seat_of(invited, identity=STRANGER).standing() == "observer: needs an invitation"
    rounds.training.on = True
    assert seat_of(invited, identity=STRANGER).standing() == "contributor: needs an invitation"
    offence = Offence(consensus.PublicKey(STRANGER.public_key), consensus.EvidenceKind.DOUBLE_PREPARE, 7)
    rounds.state = replace(state, membership=replace(state.membership, offences=(offence,)))
    said = seat_of(invited, identity=STRANGER).standing()
    assert said == "contributor: evicted for double_prepare, banned until height 1009"
    rounds.state = replace(state, rules=replace(state.rules, admission="allowlist"))
    assert "allowlist" in (seat_of(invited, identity=STRANGER).standing() or "")


async def test_leaving_is_asked_until_it_is_agreed_and_outlives_a_restart(tmp_path):
    rig = Rig(tmp_path, members=4)
    async with rig.running():
        seat = seat_of(rig)
        parting = await seat.leave()
        assert parting.line == "3 of 4 members remain, 3 needed: no fault tolerated"
        assert not rig.rounds.training.on and seat.is_leaving and seat.standing() == "member: leaving"
        with pytest.raises(UserError, match="is leaving"):
            await seat.come_back()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seat.run)
            await until(lambda: rig.driver.engine.pending_requests)
            nursery.cancel_scope.cancel()
        (request,) = set(rig.said(consensus.Leave))
        assert problem(rig, request) is None
        assert rig.rounds._start_moment() is not None  # rule (e)
    again = Rig(tmp_path, members=4)
    seat = seat_of(again)
    assert seat.has_left and isinstance(seat._request(), consensus.Leave)
    state = again.rounds.state
    rest = consensus.Committee.of(state.membership.next.members[1:])
    again.rounds.state = replace(state, membership=replace(state.membership, current=rest, next=rest))
    assert seat._request() is None and seat.has_left and not seat.is_leaving
    again.rounds.training.on = False
    assert seat.standing() == "observer: left the committee; p2pnode train contributes again"
    await seat.come_back()
    assert not seat_of(again).has_left
    again.close()


async def test_a_higher_threshold_tolerates_fewer(tmp_path):
    rig = Rig(tmp_path, members=5)
    state = rig.rounds.state
    assert seat_of(rig).parting().line == "4 of 5 members remain, 3 needed: one fault tolerated"
    strict = consensus.Committee(state.membership.next.members, threshold_percent=100)
    rig.rounds.state = replace(state, membership=replace(state.membership, next=strict))
    assert seat_of(rig).parting().line == "4 of 5 members remain, 4 needed: no fault tolerated"
    rig.close()


async def test_the_last_member_stays(tmp_path):
    rig = Rig(tmp_path, trains=False)
    with pytest.raises(UserError, match="the only member"):
        await seat_of(rig).leave()
    with pytest.raises(UserError, match="no member"):
        seat_of(rig, identity=STRANGER).parting()
    assert not seat_of(rig).has_left
    rig.close()
