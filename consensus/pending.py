"""Requests that wait for a block: verified, one per author and kind, and only such as the next block may carry.

Like suspicion.py for proofs. A newer request of one author and kind replaces the older; when there is no room, it is dropped, and
its author says it again.
"""

from consensus.advance import requests_problem
from consensus.chain import ChainState
from consensus.encoding import Kind
from consensus.identifiers import PublicKey, Verify
from consensus.limits import GUESTS_PER_INVITER_MAX, REQUESTS_PENDING_MAX, REQUESTS_PER_BLOCK_MAX
from consensus.requests import Join, Leave, Request, check_request


class Pending:
    def __init__(self) -> None:
        self._held: dict[tuple[PublicKey, Kind], Request] = {}

    def add(self, request: Request, state: ChainState, *, verify: Verify) -> bool | str:
        """True if it is new and of use, False if it is known already, or why it is refused.  # rule N1, N6"""
        name = (request.author, request.kind)
        held = self._held.get(name)
        if held is not None and held.height >= request.height:
            return False
        problem = _problem(request, state) or check_request(request, chain_id=state.chain_id, verify=verify)
        if problem is not None:
            return problem
        if held is None and self._crowded(request):
            return "a join of which no block could carry as many"
        if held is None and len(self._held) >= REQUESTS_PENDING_MAX and not self._make_room(request):
            return "a request for which there is no room"
        self._held[name] = request
        return True

    def _crowded(self, request: Request) -> bool:
        """One member signs as many invitations as it likes, and must not keep another's out."""
        if isinstance(request, Leave):
            return False
        inviter = request.invitation.inviter
        waiting = sum(1 for r in self._held.values() if isinstance(r, Join) and r.invitation.inviter == inviter)
        return waiting >= GUESTS_PER_INVITER_MAX

    def _make_room(self, request: Request) -> bool:
        """Those who want to join must not keep others from leaving."""
        joins = [name for name in self._held if name[1] == Kind.JOIN]
        if not joins or not isinstance(request, Leave):
            return False
        del self._held[joins[-1]]
        return True

    def for_next_block(self, state: ChainState) -> tuple[Request, ...]:
        """What a block on top of `state` may carry, ascending; of those who leave, the oldest request.  # rule N3, N6"""
        chosen: list[Request] = []
        height, rules = state.height + 1, state.rules
        leaving = [(r.height, r.author) for r in self._held.values() if isinstance(r, Leave)]
        for request in sorted(self._held.values(), key=lambda r: (r.kind, r.height, r.author)):
            if isinstance(request, Leave) and (request.height, request.author) != min(leaving):
                continue
            if len(chosen) == REQUESTS_PER_BLOCK_MAX:
                break
            if requests_problem([*chosen, request], state.membership, height=height, rules=rules) is None:
                chosen.append(request)
        return tuple(sorted(chosen, key=lambda r: (r.author, r.kind)))

    def all(self) -> tuple[Request, ...]:
        return tuple(self._held.values())

    def moved_to(self, state: ChainState) -> None:
        """Forget what was carried out, and what no block may carry any more."""
        self._held = {name: request for name, request in self._held.items() if _problem(request, state) is None}


def _problem(request: Request, state: ChainState) -> str | None:
    """Somebody who is a height ahead may have asked; nobody is two ahead of what is decided."""
    if request.height > state.height + 2:
        return "a request from the future"
    height = max(state.height + 1, request.height)
    return requests_problem((request,), state.membership, height=height, rules=state.rules)
