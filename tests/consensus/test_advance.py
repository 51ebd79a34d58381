"""How committees change, whatever blocks say: properties over random chains, and each rule alone."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import (
    Block,
    CertificateReceived,
    ChainState,
    Committee,
    Decide,
    Evidence,
    Malformed,
    Membership,
    Purpose,
    Refused,
    Rules,
    check_block,
    check_certificate,
)
from consensus.advance import evidence_problem, request_problem, requests_problem
from consensus.evidence import evidence_of
from consensus.limits import ABSENT_HEIGHTS, BAN_HEIGHTS, EVIDENCE_AGE_HEIGHTS_MAX
from consensus.membership import MEMBERSHIP_BYTES_MAX, Presence
from consensus.requests import Request
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, contribution
from tests.consensus.bench import of
from tests.consensus.test_requests import INVITE, Office

PEOPLE = 9


@dataclass(frozen=True)
class Step:
    """What one drawn block tries to do; what the rules refuse is left out of it."""

    contributors: frozenset[int]
    guilty: frozenset[int]
    leaver: int | None
    joiner: int | None
    silent: frozenset[int]


STEPS = st.lists(
    st.builds(
        Step,
        contributors=st.frozensets(st.integers(0, PEOPLE - 1)),
        guilty=st.one_of(st.just(frozenset()), st.frozensets(st.integers(0, PEOPLE - 1), max_size=4)),
        leaver=st.one_of(st.none(), st.integers(0, PEOPLE - 1)),
        joiner=st.one_of(st.none(), st.integers(0, PEOPLE - 1)),
        silent=st.frozensets(st.integers(0, PEOPLE - 1), max_size=3),
    ),
    min_size=1,
    max_size=14,
)
RULES = st.sampled_from(
    [
        Rules(probation_contributions=1),
        Rules(probation_contributions=2, members_max=5, threshold_percent=75),
        INVITE,
        Rules(admission="allowlist", allowlist=tuple(key(i) for i in range(4, 8))),
    ]
)


def double(office: Office, author: int, height: int) -> Evidence:
    votes = [office.commit(author, 0, block, height) for block in (office.block(1), None)]
    return evidence_of(key(author), *((vote.statement(CHAIN_ID), vote.signature) for vote in votes))


def drawn(office: Office, state: ChainState, step: Step) -> Block:
    """A block that does as much of `step` as is allowed, and passes check_block."""
    height, membership = state.height + 1, state.membership
    proofs = [double(office, author, height) for author in sorted(step.guilty)]
    evidence = tuple(e for e in proofs if evidence_problem(e, membership, height=height) is None)
    asked: list[Request] = []
    if step.leaver is not None:
        asked.append(office.leave(step.leaver, height))
    if step.joiner is not None:
        inviter = next(i for i in range(PEOPLE) if key(i) in membership.current)
        asked.append(office.join(step.joiner, height, inviter=inviter, token=60 + height, expiry=height + 3))
    asked = [r for r in asked if request_problem(r, membership, height=height, rules=state.rules) is None]
    asked.sort(key=lambda r: (r.author, r.kind))
    assert requests_problem(asked, membership, height=height, rules=state.rules) is None
    who = [i for i in sorted(step.contributors - step.silent) if not membership.banned(key(i), height=height)]
    block = office.block_on(state, *who, evidence=evidence, requests=tuple(asked))
    assert check_block(block, state, office.signatures.verify) is None
    return block


def chain(office: Office, steps: list[Step]) -> list[tuple[ChainState, Block, ChainState]]:
    """(before, block, after) of each step."""
    state, links = office.state, []
    for step in steps:
        block = drawn(office, state, step)
        members = [i for i in range(PEOPLE) if key(i) in state.membership.current]
        silent = [i for i in members if i in step.silent][: len(members) - state.membership.current.quorum()]
        after = state.after(block, office.committed(0, block, [i for i in members if i not in silent]))
        links.append((state, block, after))
        state = after
    return links


@settings(max_examples=150, deadline=None, derandomize=True)
@given(founders=st.integers(1, 6), rules=RULES, steps=STEPS)
def test_whatever_blocks_say(founders: int, rules: Rules, steps: list[Step]) -> None:
    office = Office(founders, rules)
    seen: dict[bytes, bytes] = {}
    for before, block, after in chain(office, steps):
        old, new = before.membership, after.membership
        # effective at h+2 exactly, and the header names what is known of h and h+1
        assert (new.previous, new.current) == (old.current, old.next)
        assert block.header.committee_hash == old.current.hash and block.header.next_committee_hash == old.next.hash
        # never empty, never beyond the limit, always under the genesis' threshold
        members, left = set(old.next.members), set(old.next.members) - set(new.next.members)
        assert 1 <= len(new.next) <= max(rules.members_max, len(old.next))
        assert new.next.threshold_percent == rules.threshold_percent
        # who goes is guilty, or alone in going; from four on that is less than a third
        guilty = {proof.author for proof in block.evidence}
        assert len(left - guilty) <= 1
        if len(members) >= 4:
            assert 3 * len(left - guilty) < len(members)
        assert guilty & members <= left or left | {min(members)} == members
        # nobody comes in who may not, is banned, or was not there twice
        for newcomer in set(new.next.members) - members:
            assert newcomer in set(new.recent[0]) & set(new.recent[1])
            assert newcomer in new.permitted or rules.admission == "open"
            assert old.permits(newcomer) or newcomer in {r.author for r in block.requests} or rules.admission == "open"
            assert not any(offence.author == newcomer for offence in new.offences)
        assert len(set(new.next.members) - members) <= (1 if len(members) - len(left) >= 4 else PEOPLE)
        assert len(new.next) >= 4 or set(new.next.members) <= members
        # a guest is somebody else than a member, and was let in by somebody who may be one
        guests = {guest.key for guest in new.guests}
        assert not guests & {*new.permitted, *new.next.members} and len(guests) == len(new.guests)
        assert {entry.inviter for entry in (*new.guests, *new.tokens)} <= set(new.permitted)
        assert all(new.knows(guest) and new.permits(guest) for guest in guests)
        # the bytes are the membership, and their hash is in the header
        data = new.encode()
        assert Membership.decode(data) == new and len(data) <= MEMBERSHIP_BYTES_MAX
        assert block.header.membership_hash == new.hash == Membership.decode(data).hash
        assert seen.setdefault(new.hash, data) == data
        assert [p.member for p in new.presence] == list(new.next.members)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(founders=st.integers(4, 6), steps=STEPS, change=st.data())
def test_equal_bytes_are_equal_memberships(founders: int, steps: list[Step], change: st.DataObject) -> None:
    """Flipping any bit of an encoding gives another membership or none, never the same one."""
    membership = chain(Office(founders), steps)[-1][2].membership
    data = bytearray(membership.encode())
    bit = change.draw(st.integers(0, 8 * len(data) - 1))
    data[bit // 8] ^= 1 << (bit % 8)
    try:
        other = Membership.decode(bytes(data))
    except Malformed:
        return
    assert other != membership and other.hash != membership.hash and other.encode() == bytes(data)


def test_a_decision_is_checked_with_the_committee_of_its_own_height() -> None:
    """A certificate by the committee before, or after, a change proves nothing about this height."""
    office = Office(7)
    state = office.after(office.leave(3))
    for height in (2, 3, 4):
        committee = state.membership.current
        assert (key(3) in committee) == (height < 3)
        block = office.block_on(state)
        good = [i for i in range(7) if key(i) in committee]
        for signers, right in ((good, True), ([1, 2, 3, 4, 5], height < 3), (good[:3], False)):
            certificate = office.committed(0, block, signers)
            problem = check_certificate(certificate, committee, chain_id=CHAIN_ID, verify=office.signatures.verify)
            assert (problem is None) == right
        state = state.after(block, office.committed(0, block, good))


def test_a_removed_member_that_goes_on_voting_counts_nowhere() -> None:
    office = Office(5)
    state = office.after(evidence_state := office.leave(3))
    state = office.after(state=state)
    assert evidence_state.author not in state.membership.current and len(state.membership.current) == 4
    late = Office(5, me=0)
    late.signatures = office.signatures
    late.state = state
    late.boot(0, [])
    late.begin(3)
    block = late.block_on(state)
    proposer = next(i for i in range(5) if key(i) == block.header.proposer)
    voted = late.accept(late.proposal(proposer, 0, block), late.commit(3, 0, block, 3), late.commit(4, 0, block, 3))
    assert any("outside the committee" in refused.reason for refused in of(Refused, voted))
    stale = late.committed(0, block, (1, 3, 4))
    assert [r.reason for r in of(Refused, late.step(CertificateReceived(stale)))] == ["a signer outside the committee"]
    assert not of(Decide, late.accept(late.commit(1, 0, block, 3)))
    assert of(Decide, late.accept(late.commit(2, 0, block, 3)))


class TestLeaving:
    def test_out_two_heights_later_with_permission_and_count(self) -> None:
        office = Office(5)
        state = office.after(office.leave(2))
        sizes = []
        for _ in range(2):
            sizes.append((len(state.membership.current), len(state.membership.next)))
            state = office.after(state=state, contributors=(2,))
        assert sizes == [(5, 4), (4, 4)]
        assert key(2) not in state.membership.permitted and key(2) not in state.membership.next

    def test_whoever_leaves_is_banned_all_the_same(self) -> None:
        office = Office(5, Rules())
        proof, state = double(office, 2, 1), office.after(office.leave(2))
        for _ in range(8):
            state = office.after(state=state)
        assert key(2) not in state.membership.current
        block = office.block_on(state, evidence=(proof,))
        assert check_block(block, state, office.signatures.verify) is None
        after = state.after(block, office.committed(0, block, (0, 1, 3, 4)))
        assert after.membership.banned(key(2), height=after.height + 2)

    def test_below_four_too_but_never_the_last(self) -> None:
        office = Office(3, Rules())
        state = office.state
        for author in (2, 0):
            state = office.after(office.leave(author, state.height + 1), state=state)
        assert state.membership.next.members == (key(1),)
        assert office.problem(office.leave(1, 3), state) == "a leave of the last member"

    def test_a_leaver_and_a_culprit_are_not_more_than_everybody(self) -> None:
        office = Office(2, Rules())
        block = office.block_on(office.state, evidence=(double(office, 0, 1),), requests=(office.leave(1),))
        assert check_block(block, office.state, office.signatures.verify) is None
        after = office.state.after(block, office.committed(0, block, (0, 1)))
        assert after.membership.next.members == (key(1),)


class TestGuilt:
    def test_all_culprits_of_a_block_at_once_and_never_everybody(self) -> None:
        office = Office(4)
        for guilty, left in (((3,), (0, 1, 2)), ((1, 2, 3), (0,)), ((0, 1, 2, 3), (0,))):
            block = office.block_on(office.state, evidence=tuple(double(office, i, 1) for i in guilty))
            after = office.state.after(block, office.committed(0, block, (0, 1, 2)))
            assert after.membership.next.members == tuple(key(i) for i in left)
            assert after.membership.current.members == tuple(key(i) for i in range(4))

    def test_a_ban_begins_at_h_plus_2_and_lasts_its_heights(self) -> None:
        office = Office(5)
        block = office.block_on(office.state, evidence=(double(office, 3, 1),))
        membership = office.state.after(block, office.committed(0, block, (0, 1, 2, 4))).membership
        banned = [height for height in range(1, BAN_HEIGHTS + 9) if membership.banned(key(3), height=height)]
        assert (banned[0], banned[-1], len(banned)) == (3, BAN_HEIGHTS + 2, BAN_HEIGHTS)
        assert BAN_HEIGHTS >= EVIDENCE_AGE_HEIGHTS_MAX  # so that no proof is taken twice

    def test_contributions_of_the_banned_make_a_block_invalid(self) -> None:
        office = Office(5)
        block = office.block_on(office.state, evidence=(double(office, 3, 1),))
        state = office.state.after(block, office.committed(0, block, (0, 1, 2, 4)))
        told = []
        for height in (2, 3):
            told.append(check_block(office.block_on(state, 3, 4), state, office.signatures.verify))
            state = office.after(state=state)
            assert state.height == height
        assert told == [None, "a contribution of somebody who was caught"]

    def test_a_candidate_on_probation_is_banned_and_not_admitted(self) -> None:
        office = Office(4, Rules(probation_contributions=1))
        state = office.after(contributors=(7,))
        block = office.block_on(state, 7, evidence=(double(office, 7, 2),))
        assert check_block(block, state, office.signatures.verify) is None
        after = state.after(block, office.committed(0, block, (0, 1, 2)))
        assert key(7) not in after.membership.next and after.membership.accepted == ()
        assert [offence.author for offence in after.membership.offences] == [key(7)]

    def test_after_the_ban_the_policy_decides_again(self) -> None:
        office = Office(5)
        block = office.block_on(office.state, evidence=(double(office, 3, 1),))
        state = office.state.after(block, office.committed(0, block, (0, 1, 2, 4)))
        assert key(3) in state.membership.permitted
        sizes = []
        for height in range(BAN_HEIGHTS, BAN_HEIGHTS + 6):
            state = replace(state, height=height - 1)
            listed = [contribution(office.signatures, 3, state)]
            state = replace(state, membership=office.advanced(state, listed))
            sizes.append((len(state.membership.offences), len(state.membership.next)))
        assert sizes == [(1, 4), (1, 4), (0, 5), (0, 5), (0, 5), (0, 5)]


class TestAbsence:
    def run(self, members: int, silent: tuple[int, ...], heights: int, **rules: object) -> list[int]:
        """The size of the newest committee after each height; the silent sign nothing."""
        office = Office(members, Rules(**rules))  # type: ignore[arg-type]
        state, sizes = office.state, []
        for _ in range(heights):
            committee = state.membership.current
            present = [i for i in range(members) if key(i) in committee and i not in silent]
            view = next(v for v in range(9) if committee.proposer(state.height + 1, v) in map(key, present))
            proposer = committee.proposer(state.height + 1, view)
            block = office.block_on(state)
            if block.header.proposer != proposer:
                block = office.block_of(state, proposer)
            state = state.after(block, office.committed(view, block, present))
            sizes.append(len(state.membership.next))
        return sizes

    def test_an_absent_member_is_let_go_after_its_time(self) -> None:
        sizes = self.run(5, (4,), ABSENT_HEIGHTS + 5)
        assert sizes == [5] * (ABSENT_HEIGHTS - 1) + [4] * 6

    def test_one_a_block_and_never_below_four(self) -> None:
        sizes = self.run(7, (5, 6), ABSENT_HEIGHTS + 5)
        assert sizes == [7] * (ABSENT_HEIGHTS - 1) + [6] + [5] * 5
        assert self.run(4, (3,), 3 * ABSENT_HEIGHTS) == [4] * 3 * ABSENT_HEIGHTS

    def test_two_own_turns_are_missed_first(self) -> None:
        """Of forty members each has a turn in forty heights: fifty are too few to miss two."""
        sizes = self.run(40, (39,), 2 * ABSENT_HEIGHTS)
        assert sizes.index(39) > ABSENT_HEIGHTS and sizes[-1] == 39

    def test_any_signature_is_presence(self) -> None:
        office = Office(5, Rules())
        for kind in ("signer", "contribution", "probe", "proposer"):
            old = replace(
                office.state.membership,
                presence=tuple(Presence(key(i), -ABSENT_HEIGHTS, 2 if i == 4 else 0) for i in range(5)),
            )
            state = replace(office.state, membership=old, height=3 if kind == "proposer" else 0)
            purpose = Purpose.PROBE if kind == "probe" else Purpose.UPDATE
            listed = [contribution(office.signatures, 4, state, purpose=purpose)]
            last = office.committed(0, office.block(1), (1, 2, 3, 4))
            if kind == "signer":
                state = replace(state, last_certificate=last)
            after = office.advanced(state, listed if kind in ("contribution", "probe") else [])
            assert (len(after.next), after.presence[4].turns_missed) == (5, 0), kind
        gone = office.advanced(replace(office.state, membership=old), [])
        assert len(gone.next) == 4

    def test_an_absentee_keeps_its_permission(self) -> None:
        office = Office(5)
        presence = tuple(Presence(key(i), 0 if i == 4 else ABSENT_HEIGHTS, 2) for i in range(5))
        membership = replace(office.state.membership, presence=presence)
        state = replace(office.state, height=ABSENT_HEIGHTS - 1, membership=membership)
        after = office.advanced(state, [])
        assert key(4) not in after.next and key(4) in after.permitted
        for _ in range(2):
            state = replace(state, height=state.height + 1, membership=after)
            after = office.advanced(state, [contribution(office.signatures, 4, state)])
        assert key(4) in after.next


class TestAdmission:
    def test_by_invitation_after_two_blocks(self) -> None:
        office = Office(4)
        state = office.after(office.join(5), contributors=(5,))
        sizes = [len(state.membership.next)]
        for _ in range(2):
            state = office.after(state=state, contributors=(5,))
            sizes.append(len(state.membership.next))
        assert sizes == [4, 5, 5]
        assert office.after(contributors=(6,), state=state).membership.permitted[-1] != key(6)

    def test_the_allowlist_and_nobody_else(self) -> None:
        office = Office(4, Rules(admission="allowlist", allowlist=(key(6),)))
        state = office.state
        for _ in range(6):
            state = office.after(state=state, contributors=(5, 6))
        assert state.membership.next.members == tuple(key(i) for i in (0, 1, 2, 3, 6))

    def test_one_to_four_by_invitation(self) -> None:
        office = Office(1)
        state = office.after(*[office.join(i, token=200 + i) for i in (1, 2, 3)])
        sizes = []
        for _ in range(4):
            state = office.after(state=state, contributors=(0, 1, 2, 3))
            sizes.append((len(state.membership.current), len(state.membership.next)))
        assert sizes == [(1, 1), (1, 4), (4, 4), (4, 4)]


@pytest.mark.parametrize("percent", [0, 67, 75, 90, 100])
@pytest.mark.parametrize("n", [1, 3, 4, 7, 64, 100, 128])
def test_a_threshold_only_raises_the_quorum(n: int, percent: int) -> None:
    plain, raised = Committee.of(key(i) for i in range(n)), Committee.of((key(i) for i in range(n)), percent)
    q = raised.quorum()
    assert max(plain.quorum(), q) == q <= n and 100 * q >= percent * n
    assert q == plain.quorum() or 100 * (q - 1) < percent * n
    assert raised.blocking() == plain.blocking() and n - raised.blocking() < q
    assert percent == 0 or raised.hash != plain.hash
    for wrong in (1, 66, 101, 255):
        with pytest.raises(Malformed):
            Committee.of(plain.members, wrong)
