"""This node's seat in the committee: inviting others to one, asking for one by invitation, and leaving it for good.

What it is: the requests that this node signs in its own name (SPEC.md, N1 to N7), said again until the chain has answered them. What it is
not: the judge of a request, which every node is with the blocks that it has.

Rules for editing: a request is no vote, so signing it again for a later height is no offence. What the operator asked for is on the disk
before it is said, so that a restart goes on with it. Nothing here waits for the chain inside an answer to the operator.
"""

from dataclasses import dataclass, replace

import trio

import consensus
import transport
from consensus.limits import INVITATION_HEIGHTS_MAX
from p2pnode.errors import UserError
from p2pnode.logs import Logger
from p2pnode.rounds import Rounds
from p2pnode.store import Store
from p2pnode.tokens import Token, parse_token, token_text
from p2pnode.wakeup import Signal
from p2pnode.wire import Role
from transport.machine import in_thread, random_bytes

OFFER_SECONDS = 5.0  # until a request that no block carries yet is said again: whoever has it passes it on only once
INVITATION_HEIGHTS = 10_000  # a week of one-minute rounds
_LEFT, _TOKEN = "left", "invitation"  # notes in the chain file


@dataclass(frozen=True, slots=True)
class Parting:
    """What is left of a committee of ``members`` when one of them goes."""

    members: int
    needed: int
    faults_tolerated: int

    @property
    def line(self) -> str:
        """As the operator is asked before it is done."""
        tolerated = {0: "no fault", 1: "one fault"}.get(self.faults_tolerated, f"{self.faults_tolerated} faults")
        return f"{self.members - 1} of {self.members} members remain, {self.needed} needed: {tolerated} tolerated"


class Seat:
    """Of the node whose key is ``identity``. ``problem``: why its invitation admits it to nothing now, if it has one."""

    def __init__(
        self, *, identity: transport.Identity, rounds: Rounds, store: Store, log: Logger, token: str | None
    ) -> None:
        self._identity = identity
        self._me = consensus.PublicKey(identity.public_key)
        self._rounds = rounds
        self._store = store
        self._log = log
        self._asked = Signal()
        saved = (store.note(_TOKEN) or b"").decode("ascii", "replace")
        self._token = parse_token(token or saved) if token or saved else None
        self._token_is_saved = token is None
        self._leaves = store.note(_LEFT) == b"1"
        self.problem: str | None = None

    # --- what the operator asks ----------------------------------------------------------------------------------------------------

    def invite(self, heights: int | None) -> tuple[str, int]:
        """A token that admits one newcomer, and the last height at which a block may carry it.

        Raises:
            UserError: this network asks no invitations, or takes none from this node.
        """
        state = self._rounds.state
        if state.rules.admission != "invite":
            raise UserError(f"this network's policy is {state.rules.admission}: it asks no invitation", _POLICY_HINT)
        if not _invites(self._me, state):
            raise UserError("only a member can invite, and this node is none", "ask a member: p2pnode invite")
        lasts = INVITATION_HEIGHTS if heights is None else heights
        if not 1 <= lasts <= INVITATION_HEIGHTS_MAX:
            raise UserError(
                f"an invitation for {lasts} heights", f"--expires takes a number from 1 to {INVITATION_HEIGHTS_MAX}"
            )
        seed = random_bytes(32)
        once = transport.Identity(seed)
        expiry = state.height + lasts
        statement = consensus.invitation_statement(state.chain_id, consensus.PublicKey(once.public_key), expiry)
        token = Token(state.chain_id, self._me, expiry, seed, self._identity.sign(statement))
        return token_text(token), expiry

    def parting(self) -> Parting:
        """What this node's leaving would leave behind.

        Raises:
            UserError: it is no member, or the last one.
        """
        newest = self._rounds.state.membership.next
        if self._me not in newest:
            raise UserError("this node is no member: there is nothing to leave", "p2pnode stop ends it")
        if len(newest) == 1:
            raise UserError(
                "this node is the only member: nobody would be left to decide anything",
                "p2pnode stop ends it; others join with the line that p2pnode status shows",
            )
        rest = consensus.Committee.of(set(newest.members) - {self._me}, newest.threshold_percent)
        silent_max = len(rest) - rest.quorum()  # a threshold above two thirds stops with fewer
        return Parting(len(newest), rest.quorum(), min(rest.faults_tolerated(), silent_max))

    async def leave(self) -> Parting:
        """Ask the chain to let this node go. It trains no more, and votes until it is gone. Raises UserError as ``parting`` does."""
        parting = self.parting()
        await in_thread(self._store.put_note, _LEFT, b"1")
        await in_thread(self._store.put_note, _TOKEN, b"")  # it admits nobody twice
        self._leaves, self._token = True, None
        self._rounds.training.on = False
        self._rounds.tell_status()
        self._rounds.changed.fire()
        self._asked.fire()
        return parting

    async def come_back(self) -> None:
        """The operator wants this node to train: then it has not left for good. Raises UserError while it is still leaving."""
        if not self._leaves:
            return
        if self.is_leaving:
            raise UserError("this node is leaving", "once it is gone, p2pnode train makes it contribute again")
        await in_thread(self._store.put_note, _LEFT, b"")
        self._leaves = False

    @property
    def has_left(self) -> bool:
        """Whether the operator made it leave, and has not told it to train since."""
        return self._leaves

    @property
    def is_leaving(self) -> bool:
        """Asked, and not yet agreed."""
        return self._leaves and self._me in self._rounds.state.membership.next

    # --- what the chain is asked -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Say what this node asks for until the chain has answered; until cancelled."""
        if self._token is not None and not self._token_is_saved:
            await in_thread(self._store.put_note, _TOKEN, token_text(self._token).encode())
        while True:
            request = self._request()
            if request is not None:
                self._rounds.driver.deliver(consensus.MessageReceived(request))
                self._rounds.parts.gossip.broadcast(request)
            with trio.move_on_after(OFFER_SECONDS):
                await self._asked.wait()

    def _request(self) -> consensus.Request | None:
        if self._rounds.driver.silent is not None:
            return None
        if self.is_leaving:
            return self._leave()
        return self._join(self._token) if self._token is not None else None

    def _leave(self) -> consensus.Leave:
        state = self._rounds.state
        unsigned = consensus.Leave(self._me, state.height + 1, consensus.Signature(b""))
        return replace(unsigned, signature=self._sign(unsigned.statement(state.chain_id)))

    def _join(self, token: Token) -> consensus.Join | None:
        """The token's second half, over our own key; ``None`` where it is of no use (any more)."""
        state = self._rounds.state
        membership = state.membership
        if membership.permits(self._me):
            if self.problem is not None or self._token is not None:
                self._log.info("invitation accepted", height=state.height)
            self.problem = self._token = None
            return None
        once = transport.Identity(token.seed)
        invitation = consensus.Invitation(
            consensus.PublicKey(token.inviter),
            consensus.PublicKey(once.public_key),
            token.expiry_height,
            consensus.Signature(token.signature),
        )
        problem = _invitation_problem(invitation, state)
        if problem != self.problem and problem is not None:
            self._log.error("cannot join", reason=problem, hint="ask a member for another: p2pnode invite")
        self.problem = problem
        if problem is not None:
            return None
        half = consensus.Signature(once.sign(consensus.token_statement(state.chain_id, self._me)))
        unsigned = consensus.Join(self._me, state.height + 1, invitation, half, consensus.Signature(b""))
        return replace(unsigned, signature=self._sign(unsigned.statement(state.chain_id)))

    def _sign(self, statement: bytes) -> consensus.Signature:
        return consensus.Signature(self._identity.sign(statement))

    # --- what the operator is told -----------------------------------------------------------------------------------------------------

    def standing(self) -> str | None:
        """What keeps this node from being a member, in a few words; ``None`` where nothing but time does, or it is one."""
        state, role = self._rounds.state, self._rounds.role()
        membership, rules = state.membership, state.rules
        if role is Role.MEMBER:
            return "member: leaving" if self._leaves else None
        name = role.name.lower()
        banned = [offence for offence in membership.offences if offence.author == self._me]
        if banned:
            last = max(banned, key=lambda offence: offence.ends)
            return f"{name}: evicted for {last.kind}, banned until height {last.ends}"
        if self._leaves:
            return f"{name}: left the committee; p2pnode train contributes again"
        guest = membership.guest(self._me)
        if guest is not None and role is Role.OBSERVER:
            return f"{name}: invited until height {guest.until_height}; p2pnode train gets it its seat"
        if rules.admission == "open" or membership.permits(self._me):
            return None
        if rules.admission == "allowlist":
            return f"{name}: not on the network's allowlist, so it gets no vote"
        if self.problem is not None:
            return f"{name}: cannot join: {self.problem}"
        return f"{name}: {'needs an invitation' if self._token is None else 'asks to join with its invitation'}"


_POLICY_HINT = "under open whoever contributes is admitted, under allowlist the genesis has decided"


def _invites(author: consensus.PublicKey, state: consensus.ChainState) -> bool:
    """A member that has asked to leave sits for one more height, and invites nobody."""
    return author in state.membership.current and author in state.membership.permitted


def _invitation_problem(invitation: consensus.Invitation, state: consensus.ChainState) -> str | None:
    """Why no block on top of ``state`` would take a join with this invitation, as its holder can act on it."""
    membership, height = state.membership, state.height + 1
    if invitation.expiry_height < height:
        return f"the invitation expired at height {invitation.expiry_height}"
    if any(token.key == invitation.token_key for token in membership.tokens):
        return "the invitation was used already"
    inviter = transport.short_id(transport.PublicKey(invitation.inviter))
    if not transport.verify(invitation.inviter, invitation.statement(state.chain_id), invitation.signature):
        return f"the invitation was not signed by {inviter}, whom it names"
    if not _invites(invitation.inviter, state):
        return f"{inviter}, who gave the invitation, is no member any more"
    return None
