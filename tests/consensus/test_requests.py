"""Leave and join: their bytes, what a block may carry, and what the engine does with one that arrives."""

from dataclasses import replace

import pytest

from consensus import (
    Begin,
    Block,
    BlockBuilt,
    BlockContent,
    BlockTemplate,
    BuildBlock,
    ChainState,
    Contribution,
    Decide,
    Invitation,
    Join,
    Kind,
    Leave,
    Malformed,
    Membership,
    MessageReceived,
    PublicKey,
    Refused,
    ReportRequest,
    Request,
    Rules,
    StartHeight,
    advance,
    check_block,
    decode_message,
    invitation_statement,
    token_statement,
)
from consensus.advance import request_problem, requests_problem
from consensus.limits import (
    GUESTS_PER_INVITER_MAX,
    INVITATION_HEIGHTS_MAX,
    REQUEST_AGE_HEIGHTS_MAX,
    REQUESTS_PER_BLOCK_MAX,
)
from consensus.membership import Guest
from consensus.pending import Pending
from consensus.requests import INVITATION_BYTES, check_request, encode_request, read_request
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, block_on, genesis
from tests.consensus.bench import Bench, of

INVITE = Rules(admission="invite")
UNSIGNED = bytes(64)
TOKEN = 200  # tokens have the keys of nodes that do not exist


class Office(Bench):
    """A bench that also writes requests."""

    def __init__(self, nodes: int = 4, rules: Rules = INVITE, **more: object) -> None:
        super().__init__(nodes=nodes, state=genesis(nodes, rules), **more)  # type: ignore[arg-type]

    def leave(self, author: int, height: int = 1) -> Leave:
        return self.sign(Leave(key(author), height, UNSIGNED))

    def join(self, author: int, height: int = 1, *, inviter: int = 0, token: int = TOKEN, expiry: int = 50) -> Join:
        signed = self.signatures.signer(key(inviter))(invitation_statement(CHAIN_ID, key(token), expiry))
        mark = self.signatures.signer(key(token))(token_statement(CHAIN_ID, key(author)))
        return self.sign(
            Join(key(author), height, Invitation(key(inviter), key(token), expiry, signed), mark, UNSIGNED)
        )

    def problem(self, request: Request, state: ChainState | None = None, height: int | None = None) -> str | None:
        state = state or self.state
        return request_problem(request, state.membership, height=height or state.height + 1, rules=state.rules)

    def after(
        self, *requests: Request, state: ChainState | None = None, contributors: tuple[int, ...] = ()
    ) -> ChainState:
        """The state after a block with these requests, which is checked."""
        state = state or self.state
        block = self.block_on(state, *contributors, requests=tuple(sorted(requests, key=lambda r: (r.author, r.kind))))
        assert check_block(block, state, self.signatures.verify) is None
        signers = [i for i in range(10) if key(i) in state.membership.current]
        return state.after(block, self.committed(0, block, signers))

    def block_of(self, state: ChainState, proposer: PublicKey) -> Block:
        return block_on(BlockTemplate(state, proposer), [])

    def advanced(self, state: ChainState, listed: list[Contribution]) -> Membership:
        """What a block of view 0 with these contributions makes of the membership, checked or not."""
        height, certificate = state.height + 1, state.last_certificate
        proposer = state.membership.current.proposer(height, 0)
        signers = () if certificate is None else certificate.authors()
        return advance(state.membership, BlockContent(height, proposer, signers, listed), state.rules)


@pytest.fixture
def office() -> Office:
    return Office()


def test_requests_survive_the_wire_and_a_block(office: Office) -> None:
    for request in (office.leave(2, 7), office.join(5, 9)):
        statement = request.statement(CHAIN_ID)
        heard = decode_message(
            CHAIN_ID, author=request.author, signature=request.signature, statement=statement, attachment=b""
        )
        assert heard == request and request.attachment() == b""
        assert check_request(request, chain_id=CHAIN_ID, verify=office.signatures.verify) is None
    block = office.block_on(office.state, requests=(office.leave(1), office.join(5)))
    assert check_block(block, office.state, office.signatures.verify) is None
    assert Block.decode(block.encode()) == block
    invitation = office.join(5).invitation
    assert Invitation.decode(invitation.encode()) == invitation and len(invitation.encode()) == INVITATION_BYTES


def test_what_is_no_request_is_malformed(office: Office) -> None:
    join, prefix = office.join(5), 16 + 1 + 32

    def decode(statement: bytes, attachment: bytes = b"") -> None:
        decode_message(
            CHAIN_ID, author=join.author, signature=join.signature, statement=statement, attachment=attachment
        )

    statement = join.statement(CHAIN_ID)
    in_a_view = statement[: prefix + 8] + b"\0\0\0\1" + statement[prefix + 12 :]
    genesis_height = statement[:prefix] + bytes(8) + statement[prefix + 8 :]
    for wrong in (statement[:-1], statement + b"\0", in_a_view, genesis_height):
        with pytest.raises(Malformed):
            decode(wrong)
    with pytest.raises(Malformed):
        decode(statement, b"attached")
    for inner in (join.invitation.statement(CHAIN_ID), token_statement(CHAIN_ID, join.author)):
        with pytest.raises(Malformed):
            decode(inner)
    with pytest.raises(Malformed):
        Invitation.decode(join.invitation.encode()[:-1])


def test_every_signature_of_a_request_counts(office: Office) -> None:
    join, leave = office.join(5), office.leave(1)

    def problem(request: Request) -> str | None:
        return check_request(request, chain_id=CHAIN_ID, verify=office.signatures.verify)

    assert problem(replace(leave, author=key(2))) == "a request that its author did not sign"
    assert problem(office.sign(replace(join, author=key(6)))) == "a join that its token did not sign"
    assert problem(office.sign(replace(join, token_signature=join.signature))) == "a join that its token did not sign"
    stolen = replace(join.invitation, inviter=key(1))
    assert problem(office.sign(replace(join, invitation=stolen))) == "an invitation that its member did not sign"


def test_what_a_block_may_carry(office: Office) -> None:
    far = 1 + INVITATION_HEIGHTS_MAX
    assert [office.problem(office.join(5, expiry=at)) for at in (1, far)] == [None, None]
    problems = {
        "a request too old, or from the future": office.join(5, 2),
        "a leave of somebody who is no member": office.leave(5),
        "a join of somebody who may be a member already": office.join(2),
        "an invitation by somebody who is no member": office.join(5, inviter=6),
        "an invitation that has expired, or lasts too long": office.join(5, expiry=far + 1),
    }
    assert {office.problem(request) for request in problems.values()} == set(problems)
    assert office.problem(office.join(5, expiry=0)) == "an invitation that has expired, or lasts too long"
    assert office.problem(office.leave(1), height=1 + REQUEST_AGE_HEIGHTS_MAX) is None
    assert "too old" in str(office.problem(office.leave(1), height=2 + REQUEST_AGE_HEIGHTS_MAX))
    for rules in (Rules(), Rules(admission="allowlist")):
        other = Office(rules=rules)
        assert other.problem(other.join(5)) == "a join where nobody is invited"
        assert other.problem(other.leave(1)) is None
    alone = Office(1)
    assert alone.problem(alone.leave(0)) == "a leave of the last member"


def test_one_leave_a_block_and_one_join_a_token(office: Office) -> None:
    def problem(*requests: Request) -> str | None:
        return requests_problem(requests, office.state.membership, height=1, rules=INVITE)

    assert problem(office.leave(1), office.join(5), office.join(6, token=201)) is None
    assert problem(office.leave(1), office.leave(2)) == "more than one leave"
    assert problem(office.join(5), office.join(6)) == "two joins with one token"


def test_a_block_with_a_bad_request_is_invalid(office: Office) -> None:
    def problem(*requests: Request) -> str | None:
        block = office.block_on(office.state, requests=requests)
        return check_block(block, office.state, office.signatures.verify)

    assert problem(office.leave(1), office.leave(2)) == "more than one leave"
    assert problem(office.leave(5)) == "a leave of somebody who is no member"
    assert problem(replace(office.leave(1), author=key(2))) == "a request that its author did not sign"
    with pytest.raises(Malformed):
        problem(office.join(5), office.leave(1))
    with pytest.raises(Malformed):
        problem(*[office.join(i, token=200 + i) for i in range(5, 6 + REQUESTS_PER_BLOCK_MAX)])


def test_an_old_leave_is_not_carried_out_twice(office: Office) -> None:
    leave = office.leave(1)
    state = office.after(leave)
    assert key(1) not in state.membership.next
    state = office.after(office.join(1, 2), state=state)
    assert state.membership.permits(key(1)) and key(1) not in state.membership.permitted
    for _ in range(3):
        state = office.after(state=state, contributors=(0, 1))
    assert key(1) in state.membership.next
    assert office.problem(leave, state) == "a request older than one that was carried out"
    assert office.problem(office.leave(1, state.height + 1), state) is None
    for _ in range(REQUEST_AGE_HEIGHTS_MAX):
        state = office.after(state=state)
    assert state.membership.answered == () and "too old" in str(office.problem(leave, state))


def test_a_leave_is_remembered_for_as_long_as_it_could_be_shown_again() -> None:
    office = Office(5, Rules(probation_contributions=1))
    leave = office.leave(1)
    state = office.after(leave)
    for _ in range(3):
        state = office.after(state=state, contributors=(1,))
    assert key(1) in state.membership.next
    while state.height < leave.height + REQUEST_AGE_HEIGHTS_MAX:
        assert office.problem(leave, state) == "a request older than one that was carried out"
        state = office.after(state=state)
    assert office.problem(leave, state) == "a request too old, or from the future"


def test_a_token_is_used_once_and_remembered_until_it_expires(office: Office) -> None:
    state = office.after(office.join(5, expiry=4))
    assert office.problem(office.join(6, 2, expiry=4), state) == "an invitation that was used"
    assert office.problem(office.join(6, 2, token=201, expiry=4), state) is None
    tokens = []
    for _ in range(4):
        tokens.append(len(state.membership.tokens))
        state = office.after(state=state)
    assert tokens == [1, 1, 1, 0]  # after heights 1 to 4; the block of height 4 was the last that might have used it


class TestEngine:
    def test_a_request_is_checked_kept_and_passed_on_once(self) -> None:
        office = Office()
        office.step(Begin())
        join = office.join(5)
        assert [e.request for e in of(ReportRequest, office.step(join, join))] == [join]
        assert office.engine.pending_requests == (join,)
        assert of(Refused, office.step(office.join(6, inviter=7, token=201)))
        assert of(Refused, office.step(office.sign(replace(office.join(6, token=201), token_signature=join.signature))))
        assert of(Refused, office.step(office.leave(1, height=9)))

    def test_a_newer_request_replaces_the_older(self) -> None:
        office = Office()
        office.step(Begin(), office.leave(1))
        newer = office.leave(1, height=2)
        assert of(ReportRequest, office.step(newer)) and office.engine.pending_requests == (newer,)
        assert not of(ReportRequest, office.step(office.leave(1)))

    def test_own_blocks_carry_what_waits_and_a_decided_block_ends_the_wait(self) -> None:
        office = Office(me=1)
        requests = (office.leave(0), office.leave(2), office.join(5))
        office.step(Begin(), *requests)
        (asked,) = of(BuildBlock, office.step(StartHeight(1)))
        assert [(r.kind, r.author) for r in asked.template.requests] == [(Kind.LEAVE, key(0)), (Kind.JOIN, key(5))]
        block = block_on(asked.template, [])
        effects = office.accept(BlockBuilt(1, 0, block), *[office.commit(i, 0, block) for i in (0, 2, 3)])
        assert of(Decide, effects)[0].block.requests == asked.template.requests
        assert office.engine.pending_requests == (office.leave(2),)

    def test_everybody_who_leaves_gets_a_turn(self) -> None:
        office, state = Office(), Office().state
        pending = Pending()
        for author in (3, 2, 1):
            assert pending.add(office.leave(author), state, verify=office.signatures.verify) is True
        left = []
        for _ in range(3):
            chosen = pending.for_next_block(state)
            left += [request.author for request in chosen]
            state = office.after(*chosen, state=state)
            pending.moved_to(state)
        assert left == [key(1), key(2), key(3)] and pending.all() == ()
        assert state.membership.next.members == (key(0),)

    def test_what_waits_is_bounded(self) -> None:
        from consensus.limits import REQUESTS_PENDING_MAX

        office = Office(20)
        office.step(Begin())
        for i in range(REQUESTS_PENDING_MAX + 9):
            inviter = key(i % 20)
            author = (1000 + i).to_bytes(32, "big")
            mark = office.signatures.signer(author)(token_statement(CHAIN_ID, author))
            signed = office.signatures.signer(inviter)(invitation_statement(CHAIN_ID, author, 9))
            join = office.sign(Join(author, 1, Invitation(inviter, author, 9, signed), mark, UNSIGNED))
            office.step(MessageReceived(join))
        assert len(office.engine.pending_requests) == REQUESTS_PENDING_MAX
        assert of(ReportRequest, office.step(office.leave(3)))  # a crowd of joins keeps nobody from leaving
        assert len(office.engine.pending_requests) == REQUESTS_PENDING_MAX
        template = office.engine._template(key(1))
        assert len(template.requests) == REQUESTS_PER_BLOCK_MAX and office.leave(3) in template.requests
        block = block_on(template, [])
        assert check_block(block, office.state, office.signatures.verify) is None

    def test_a_join_without_room_does_not_wait(self) -> None:
        """What waits asks for a height; what no block may carry must not."""
        office, state = Office(), Office().state
        crowd = tuple(Guest((1000 + i).to_bytes(32, "big"), key(0), 9) for i in range(GUESTS_PER_INVITER_MAX))
        full = replace(state, membership=replace(state.membership, guests=crowd))
        kept = Pending().add(office.join(5), full, verify=office.signatures.verify)
        assert kept == "its inviter has 16 guests waiting already"
        assert Pending().add(office.join(5, inviter=1), full, verify=office.signatures.verify) is True

    def test_a_request_is_of_no_use_to_a_node_that_votes(self) -> None:
        """It is counted, kept and no more: no vote, no timer."""
        office = Office()
        office.begin()
        assert {type(effect) for effect in office.step(office.leave(1))} == {ReportRequest}


def test_encodings_are_strict(office: Office) -> None:
    from consensus.encoding import Reader

    data = encode_request(office.join(5))
    assert read_request(Reader(data, what="request", bytes_max=1000)) == office.join(5)
    for wrong in (data[:-1], b"\1" + data[1:], b"\4" + data[1:]):
        with pytest.raises(Malformed):
            read_request(Reader(wrong, what="request", bytes_max=1000))
