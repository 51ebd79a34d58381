"""The committee of a simulated world changes: who founds it, who joins and leaves and when. What must come of it is people.py's.

Joining by contributions, by invitation and by the list of the genesis; leaving; being voted out by evidence. Absence takes fifty heights
and has runs of its own in the tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from consensus import (
    ChainState,
    Invitation,
    Join,
    Leave,
    Rules,
    Signature,
    invitation_statement,
    token_statement,
)
from consensus.rules import Admission
from p2pnode.simulation.keys import key
from p2pnode.simulation.ledger import CHAIN_ID, genesis
from p2pnode.simulation.options import Options

if TYPE_CHECKING:
    from p2pnode.simulation.process import Process
    from p2pnode.simulation.world import World

UNSIGNED = Signature(bytes(64))
ASK_AGAIN_SECONDS = 3.0
TOKENS_FROM = 200  # indices of the keys of one-time tokens


def founding(options: Options) -> tuple[ChainState, bool]:
    """The state before the first block, and whether everybody contributes to every height, as candidates must."""
    founders = options.founders or options.nodes
    strangers = tuple(key(i) for i in range(founders, options.nodes))
    rules = Rules(
        admission=cast(Admission, options.admission),
        probation_contributions=2,
        threshold_percent=options.threshold_percent,
        allowlist=strangers if options.admission == "allowlist" else (),
    )
    return genesis(founders, rules), founders < options.nodes


class Changes:
    """Who asks for what, again and again until the chain has it, as a driver does."""

    def __init__(self, world: World) -> None:
        self._world = world
        options = world.options
        founders = options.founders or options.nodes
        self._joiners = list(world.processes[founders:]) if options.admission == "invite" else []
        members = [p for p in world.processes[:founders] if p.honest]
        self._leavers = world.rng.sample(members, min(options.leaves, len(members)))
        self._one_token = world.rng.random() < 0.3  # somebody shows a token that was meant for another
        self.expected = founders < options.nodes or bool(self._leavers)

    def schedule(self) -> list[tuple[float, Process]]:
        rng = self._world.rng
        return [(rng.uniform(0.5, 3), process) for process in (*self._joiners, *self._leavers)]

    def act(self, process: Process) -> None:
        world, state = self._world, process.disk.state
        membership = state.membership
        if process in self._leavers:
            if process.me not in membership.next:
                return
            if process.engine is not None and not process.mute:
                process.ask(self._signed(Leave(process.me, state.height + 1, UNSIGNED)))
        else:
            if membership.permits(process.me):
                return
            if process.engine is not None:
                process.ask(self._join(process))
        world.again(ASK_AGAIN_SECONDS, process)

    def _signed(self, request: Leave | Join) -> Leave | Join:
        sign = self._world.signatures.signer(request.author)
        return replace(request, signature=sign(request.statement(CHAIN_ID)))

    def _join(self, process: Process) -> Join:
        signer = self._world.signatures.signer
        inviter, token = key(self._world.honest[0].index), key(TOKENS_FROM + (0 if self._one_token else process.index))
        expiry = 1000
        signed = signer(inviter)(invitation_statement(CHAIN_ID, token, expiry))
        answer = signer(token)(token_statement(CHAIN_ID, process.me))
        height = process.disk.state.height + 1
        join = self._signed(Join(process.me, height, Invitation(inviter, token, expiry, signed), answer, UNSIGNED))
        assert isinstance(join, Join)
        return join
