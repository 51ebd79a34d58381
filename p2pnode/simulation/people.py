"""Who may be in a committee, kept by hand: a slow, obvious second opinion on the rules of membership, evidence and requests.

It reads decided blocks one after another and shares no code with `consensus.advance`. What it checks is what a person can say in one
sentence each; the text of a violation names the rule.
"""

from consensus import Block, ChainState, Committee, Join, Leave, PublicKey, Verify
from consensus.certificate import signed_statements
from consensus.limits import BAN_HEIGHTS, GUEST_HEIGHTS, GUESTS_PER_INVITER_MAX

EFFECT_HEIGHTS = 2


class People:
    def __init__(self, genesis: ChainState, verify: Verify) -> None:
        self._chain_id = genesis.chain_id
        self._verify = verify
        self._rules = genesis.rules
        self._committees: dict[int, Committee] = {}
        self._guilty: dict[PublicKey, int] = {}  # height of the newest proof
        self._accepted: dict[PublicKey, int] = {}
        self._tokens: set[PublicKey] = set()
        self._permitted = {*genesis.rules.allowlist, *genesis.membership.next.members}
        self._guests: dict[PublicKey, tuple[PublicKey, int]] = {}  # inviter, and the height that ends the invitation
        self._left: dict[PublicKey, int] = {}

    def problem(self, block: Block, before: ChainState, after: ChainState) -> str | None:
        """Why these two states cannot stand around this decided block, or None. Call it once a height, in order."""
        return (
            self._links(block, before, after)
            or self._contributions(block)
            or self._requests(block, before)
            or self._committee(block, before, after)
        )

    def _links(self, block: Block, before: ChainState, after: ChainState) -> str | None:
        header = block.header
        if after.membership.current != before.membership.next or after.membership.previous != before.membership.current:
            return "M1: a block changed the committee of the next height"
        named = (header.committee_hash, header.next_committee_hash, header.membership_hash)
        if named != (before.membership.current.hash, before.membership.next.hash, after.membership.hash):
            return "M1: a header that names other committees"
        if header.proposer not in before.membership.current:
            return "V1: a block proposed by nobody who may"
        if block.height > 1 and block.last_certificate is not None:
            signers, committee = block.last_certificate.authors(), before.membership.previous
            if len(set(signers)) < committee.quorum() or any(author not in committee for author in signers):
                return "B4: a block whose predecessor its committee did not decide"
            if not all(self._verify(*entry) for entry in signed_statements(block.last_certificate, self._chain_id)):
                return "B4: a block whose predecessor's certificate nobody signed"
        if (header.chain_id, header.previous) != (self._chain_id, before.block_hash):
            return "B2: a block of another chain or past"
        return None

    def _contributions(self, block: Block) -> str | None:
        for contribution in block.contributions:
            proven = self._guilty.get(contribution.author)
            if proven is not None and proven + EFFECT_HEIGHTS <= block.height < proven + EFFECT_HEIGHTS + BAN_HEIGHTS:
                return "M8: a contribution of somebody who was caught"
            if contribution.codec != self._rules.codec:
                return "B2: a contribution in another codec"
            statement = contribution.statement(self._chain_id)
            if not self._verify(contribution.author, statement, contribution.signature):
                return "B2: a contribution that its author did not sign"
        for author in {c.author for c in block.contributions if c.purpose == 0}:
            self._accepted[author] = self._accepted.get(author, 0) + 1
        return None

    def _requests(self, block: Block, before: ChainState) -> str | None:
        for request in block.requests:
            if not self._verify(request.author, request.statement(self._chain_id), request.signature):
                return "N1: a request that its author did not sign"
            if not 0 <= block.height - request.height <= 100:
                return "N2: a request too old or too new"
            match request:
                case Leave():
                    if request.author not in before.membership.next:
                        return "N3: a leave of somebody who is no member"
                    self._left[request.author] = block.height
                    self._permitted.discard(request.author)
                    self._accepted.pop(request.author, None)
                case Join():
                    token = request.invitation.token_key
                    if token in self._tokens:
                        return "N5: a token that served twice"
                    if request.invitation.inviter not in before.membership.current:
                        return "N5: an invitation by somebody who is no member"
                    if request.invitation.expiry_height < block.height:
                        return "N5: an invitation that has expired"
                    self._tokens.add(token)
                    self._guests[request.author] = (request.invitation.inviter, block.height + GUEST_HEIGHTS)
        inviters = [inviter for inviter, _ in self._guests.values()]
        if any(inviters.count(inviter) > GUESTS_PER_INVITER_MAX for inviter in inviters):
            return "N7: a member with too many guests"
        self._guests = {guest: (by, until) for guest, (by, until) in self._guests.items() if block.height < until}
        return None

    def _committee(self, block: Block, before: ChainState, after: ChainState) -> str | None:
        """Who is in at h + 2 and was not, and who is not and was."""
        old, new = before.membership.next, after.membership.next
        convicts = {proof.author for proof in block.evidence}
        for proof in block.evidence:
            self._guilty[proof.author] = block.height
            self._accepted.pop(proof.author, None)
            if proof.author in new and not set(old.members) <= convicts:  # somebody must stay
                return "M6: a convict sits in the committee two heights later"
        leavers = {request.author for request in block.requests if isinstance(request, Leave)}
        if len(new) > 1 and leavers & set(new.members):
            return "N3: somebody who left sits in the committee two heights later"
        for joined in [member for member in new.members if member not in old]:
            proven = self._guilty.get(joined)
            if proven is not None and block.height < proven + BAN_HEIGHTS:
                return "M8: somebody who was caught was admitted"
            if self._rules.admission == "open" and self._accepted.get(joined, 0) < self._rules.probation_contributions:
                return "M2: somebody was admitted before its time"
            if self._rules.admission != "open" and joined not in self._permitted and joined not in self._guests:
                return "M2: somebody was admitted without permission"
        gone = [member for member in old.members if member not in new]
        excused = leavers | convicts
        absent = [member for member in gone if member not in excused]
        if len(absent) > 1 or (absent and block.height < 50):
            return "M7: somebody was put out who did nothing"
        self._permitted.update(new.members)
        self._guests = {
            guest: (by, until)
            for guest, (by, until) in self._guests.items()
            if guest not in new and by in self._permitted
        }
        return None
