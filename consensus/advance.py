"""How the committee changes: a pure function of committed blocks, effective two heights later.

`advance` gives the membership after a block; `evidence_problem` and `requests_problem` say what a block may carry on top of one.
A block takes people out in this order: whoever it proves guilty, all at once; then one who leaves, or else one who is absent. Then
it lets people in. No step leaves a committee empty.

For editing: everything here is protocol. Integers and sorted tuples only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from consensus.committee import Committee
from consensus.evidence import Evidence, EvidenceKind
from consensus.identifiers import PublicKey
from consensus.limits import (
    ABSENT_HEIGHTS,
    ABSENT_TURNS,
    CANDIDATES_MAX,
    EVIDENCE_AGE_HEIGHTS_MAX,
    GUEST_HEIGHTS,
    GUESTS_PER_INVITER_MAX,
    INVITATION_HEIGHTS_MAX,
    INVITED_MAX,
    REQUEST_AGE_HEIGHTS_MAX,
    TOKENS_PER_INVITER_MAX,
)
from consensus.membership import Guest, Membership, Offence, Presence, UsedToken
from consensus.requests import Join, Leave, Request
from consensus.rules import Rules
from consensus.votes import Contribution, Purpose

COMMITTEE_SIZE_SAFE = 4
"""The smallest committee that tolerates one fault."""


@dataclass(frozen=True, slots=True)
class BlockContent:
    """What one block says about people. `signers`: of the certificate that it carries."""

    height: int
    proposer: PublicKey
    signers: Sequence[PublicKey] = ()
    contributions: Sequence[Contribution] = ()
    evidence: Sequence[Evidence] = ()
    requests: Sequence[Request] = ()


def advance(membership: Membership, content: BlockContent, rules: Rules) -> Membership:
    """The membership after the block with this content, from the one before it.  # rule M1"""
    height = content.height
    authors = tuple(sorted({c.author for c in content.contributions if c.purpose == Purpose.UPDATE}))
    recent = (membership.recent[1], authors)
    presence = _presence(membership, content)
    offences = _offences(membership.offences, height=height, evidence=content.evidence)
    leaver = next((r.author for r in content.requests if isinstance(r, Leave)), None)
    remaining = _remaining(membership.next.members, content=content, presence=presence, leaver=leaver)

    gone = {o.author for o in offences} | ({leaver} if leaver is not None else set())
    counts = dict(membership.accepted)
    for author in authors:
        if author not in membership.next:
            counts[author] = counts.get(author, 0) + 1
    counts = {author: count for author, count in counts.items() if author not in gone}
    permitted = tuple(key for key in membership.permitted if key != leaver)  # rule N3
    guests = _guests(membership.guests, content)
    willing = [*permitted, *(guest.key for guest in guests)] if rules.admission != "open" else _proven(counts, rules)
    steady = set(recent[0]) & set(recent[1])
    ready = sorted(key for key in willing if key in steady and key not in gone and key not in remaining)
    committee = _grown(remaining, ready=ready, rules=rules)
    if rules.admission == "invite":
        permitted = _seated(permitted, committee)
    inviters = set(permitted)
    return Membership(
        previous=membership.current,
        current=membership.next,
        next=membership.next if committee == membership.next.members else Committee(committee, rules.threshold_percent),
        accepted=_bounded(counts, committee),
        recent=recent,
        permitted=permitted,
        guests=tuple(guest for guest in guests if guest.inviter in inviters and guest.key not in inviters),
        tokens=tuple(token for token in _tokens(membership.tokens, content) if token.inviter in inviters),
        answered=_answered(membership.answered, content),
        presence=tuple(presence.get(member) or Presence(member, height) for member in committee),
        offences=offences,
    )


def weights(contributions: Sequence[Contribution], committee: Committee) -> tuple[int, ...]:
    """How much each listed contribution moves the model.  # rule M4"""
    everybody = len(committee) == 1  # who decides alone decides what is listed, and needs company
    return tuple(int(c.purpose == Purpose.UPDATE and (everybody or c.author in committee)) for c in contributions)


def evidence_problem(evidence: Evidence, membership: Membership, *, height: int) -> str | None:
    """Why the block of `height`, which builds on this membership, may not carry this proof (its signatures apart), or None.  # rule E3"""
    if not 0 <= height - evidence.height <= EVIDENCE_AGE_HEIGHTS_MAX:
        return "evidence too old, or from the future"
    if not membership.knows(evidence.author):
        return "evidence against a stranger"
    if any(offence.kind == evidence.kind for offence in membership.offences_of(evidence.author)):
        return "evidence that the chain already holds"
    if evidence.kind == EvidenceKind.WRONG_PROPOSER:
        known = {height: membership.current, height - 1: membership.previous}.get(evidence.height)
        if known is None:
            return "evidence about a turn of a committee that is not known any more"  # rule E6
        if known.proposer(evidence.height, evidence.view) == evidence.author:
            return "evidence of a proposal in turn"
    return None


def requests_problem(requests: Sequence[Request], membership: Membership, *, height: int, rules: Rules) -> str | None:
    """Why the block of `height`, which builds on this membership, may not carry these (their signatures apart), or None.  # rule N2"""
    if sum(1 for request in requests if isinstance(request, Leave)) > 1:
        return "more than one leave"  # rule N3
    invitations = [request.invitation for request in requests if isinstance(request, Join)]
    if len({invitation.token_key for invitation in invitations}) < len(invitations):
        return "two joins with one token"
    for inviter, joins in Counter(invitation.inviter for invitation in invitations).items():  # rule N7
        if membership.index.guests_of[inviter] + joins > GUESTS_PER_INVITER_MAX:
            return f"its inviter has {GUESTS_PER_INVITER_MAX} guests waiting already"
        if membership.index.tokens_of[inviter] + joins > TOKENS_PER_INVITER_MAX:
            return f"its inviter has {TOKENS_PER_INVITER_MAX} used invitations that have not expired"
    problems = (request_problem(request, membership, height=height, rules=rules) for request in requests)
    return next((problem for problem in problems if problem is not None), None)


def request_problem(request: Request, membership: Membership, *, height: int, rules: Rules) -> str | None:
    """Why the block of `height` may not carry this request (its signatures apart), or None.  # rule N2"""
    if not 0 <= height - request.height <= REQUEST_AGE_HEIGHTS_MAX:
        return "a request too old, or from the future"
    if request.height <= membership.index.answered.get(request.author, -1):
        return "a request older than one that was carried out"  # rule N4
    if isinstance(request, Leave):
        if request.author not in membership.next:
            return "a leave of somebody who is no member"
        return "a leave of the last member" if len(membership.next) == 1 else None
    return _join_problem(request, membership, height=height, rules=rules)


def _join_problem(join: Join, membership: Membership, *, height: int, rules: Rules) -> str | None:
    """# rule N5"""
    invitation = join.invitation
    if rules.admission != "invite":
        return "a join where nobody is invited"
    if membership.permits(join.author):
        return "a join of somebody who may be a member already"
    if invitation.inviter not in membership.current or invitation.inviter not in membership.permitted:
        return "an invitation by somebody who is no member"
    if not height <= invitation.expiry_height <= height + INVITATION_HEIGHTS_MAX:
        return "an invitation that has expired, or lasts too long"
    if invitation.token_key in membership.index.tokens:
        return "an invitation that was used"
    return None


def _remaining(
    members: tuple[PublicKey, ...],
    *,
    content: BlockContent,
    presence: dict[PublicKey, Presence],
    leaver: PublicKey | None,
) -> tuple[PublicKey, ...]:
    """Who is left of the newest committee after this block."""
    guilty = {proof.author for proof in content.evidence}
    left = tuple(member for member in members if member not in guilty) or members[:1]  # rule M6
    if leaver is not None:
        return tuple(member for member in left if member != leaver) or left  # rule N3
    if len(left) <= COMMITTEE_SIZE_SAFE:
        return left
    absent = [
        (presence[member].seen_height, member)
        for member in left
        if content.height - presence[member].seen_height >= ABSENT_HEIGHTS
        and presence[member].turns_missed >= ABSENT_TURNS
    ]
    return tuple(member for member in left if member != min(absent)[1]) if absent else left  # rule M7


def _presence(membership: Membership, content: BlockContent) -> dict[PublicKey, Presence]:
    """Who has signed something in this block, and whose turn it was.  # rule M7"""
    seen = {content.proposer, *content.signers, *(c.author for c in content.contributions)}
    turn = membership.current.proposer(content.height, 0)
    after = {}
    for known in membership.presence:
        member, missed = known.member, known.turns_missed
        if member in seen:
            after[member] = Presence(member, content.height)
        elif member == turn and missed < ABSENT_TURNS:
            after[member] = Presence(member, known.seen_height, missed + 1)
        else:
            after[member] = known
    return after


def _proven(counts: dict[PublicKey, int], rules: Rules) -> list[PublicKey]:
    return [key for key, count in counts.items() if count >= rules.probation_contributions]


def _guests(held: tuple[Guest, ...], content: BlockContent) -> list[Guest]:
    """A join makes its author a guest, and a guest's time runs out.  # rule N5"""
    until_height = content.height + GUEST_HEIGHTS
    came = [Guest(r.author, r.invitation.inviter, until_height) for r in content.requests if isinstance(r, Join)]
    kept = [guest for guest in held if guest.until_height > content.height]
    return sorted(kept + came, key=lambda guest: guest.key)


def _seated(permitted: tuple[PublicKey, ...], committee: tuple[PublicKey, ...]) -> tuple[PublicKey, ...]:
    """Whoever has a seat is permitted; of too many who have none any more, the smallest keys are forgotten.  # rule N7"""
    without = [key for key in permitted if key not in committee]
    return tuple(sorted((*committee, *without[max(len(committee) + len(without) - INVITED_MAX, 0) :])))


def _grown(members: tuple[PublicKey, ...], *, ready: list[PublicKey], rules: Rules) -> tuple[PublicKey, ...]:
    """The committee two heights on. Two and three members tolerate nothing, so nobody stops there.  # rule M2, M3"""
    room = max(rules.members_max - len(members), 0)
    admitted = ready[: min(room, 1)] if len(members) >= COMMITTEE_SIZE_SAFE else ready[:room]  # rule M3
    if len(members) + len(admitted) < COMMITTEE_SIZE_SAFE:
        return members
    return tuple(sorted((*members, *admitted)))  # rule M2


def _bounded(counts: dict[PublicKey, int], committee: tuple[PublicKey, ...]) -> tuple[tuple[PublicKey, int], ...]:
    """Members need no count; of too many candidates those with the fewest contributions are forgotten.  # rule M5"""
    candidates = [(key, n) for key, n in counts.items() if key not in committee]
    if len(candidates) > CANDIDATES_MAX:
        candidates = sorted(candidates, key=lambda entry: (-entry[1], entry[0]))[:CANDIDATES_MAX]
    return tuple(sorted(candidates))


def _tokens(held: tuple[UsedToken, ...], content: BlockContent) -> tuple[UsedToken, ...]:
    """A used token is remembered as long as its invitation could be shown again.  # rule N5"""
    shown = [request.invitation for request in content.requests if isinstance(request, Join)]
    used = [*held, *(UsedToken(seen.token_key, seen.inviter, seen.expiry_height) for seen in shown)]
    return tuple(sorted((t for t in used if t.expiry_height > content.height), key=lambda token: token.key))


def _answered(held: tuple[tuple[PublicKey, int], ...], content: BlockContent) -> tuple[tuple[PublicKey, int], ...]:
    """# rule N4"""
    newest = {author: at for author, at in held if content.height - at < REQUEST_AGE_HEIGHTS_MAX}
    for request in content.requests:
        newest[request.author] = max(newest.get(request.author, 0), request.height)
    return tuple(sorted(newest.items()))


def _offences(held: tuple[Offence, ...], *, height: int, evidence: Sequence[Evidence]) -> tuple[Offence, ...]:
    """Kept while the ban lasts, which is longer than the proof could be shown again.  # rule M8"""
    if not held and not evidence:
        return held
    kept = {(o.author, o.kind): o for o in held if height + 1 < o.ends}
    for proof in evidence:
        kept[proof.order] = Offence(proof.author, proof.kind, height)
    return tuple(kept[key] for key in sorted(kept))
