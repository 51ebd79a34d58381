"""What this node signed before it was stopped, taken up again: from the vote log on disk to an engine that may go on.

What it is: the decision, made once at a start, whether the log can be trusted, and what is said again. What it is not: the file
(``wal``), the meaning of the engine's own records (``consensus``), or the loop that appends to it (``driver``).

Rules for editing: a node that may have signed what it no longer knows signs nothing. Any doubt about the log ends in a ``Revival``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import consensus
import transport
from p2pnode.driver import CONTRIBUTION_RECORD, SILENCE_RECORD, VOTE_RECORD, Revival
from p2pnode.gossip import Gossip, message_of
from p2pnode.logs import Logger
from p2pnode.wal import Recovered, VoteLog, recover


@dataclass(frozen=True, slots=True)
class Recovery:
    """An open vote log with the engine that goes on from it: one that votes, or one that observes until ``revival``."""

    vote_log: VoteLog
    engine: consensus.Engine
    revival: Revival | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the node is when it takes up its log again; ``state`` may move on before an engine is revived.

    ``height_seen`` is the highest that anybody is known to have decided; ``lost`` says that there must have been a log, and is none.
    """

    me: consensus.PublicKey
    state: Callable[[], consensus.ChainState]
    height_seen: int
    lost: bool


def take_up(path: Path, standing: Standing, *, gossip: Gossip, log: Logger) -> Recovery:
    """Open the log at ``path``, and make the engine with what it remembers. Blocking."""
    recovered = recover(path)
    if recovered.torn_bytes:
        log.info("vote log: torn tail cut", bytes=recovered.torn_bytes)

    def engine(*, voting: bool = True) -> consensus.Engine:
        return consensus.Engine(
            me=standing.me if voting else None,
            sign=gossip.sign,
            verify=transport.verify,
            state=standing.state(),
            records=[consensus.Record.decode(data[1:]) for data in recovered.records if data[:1] == VOTE_RECORD],
        )

    anew, revival = None, _revival(recovered, standing, engine, log)
    if revival is not None:
        anew = [SILENCE_RECORD + revival.height.to_bytes(8, "big")]
        hint = f"observing until height {revival.height} is decided, then voting again"
        log.error("vote log not usable", reason=revival.why, hint=hint)
    return Recovery(VoteLog(path, anew=anew), engine(voting=revival is None), revival)


def _revival(
    recovered: Recovered, standing: Standing, engine: Callable[[], consensus.Engine], log: Logger
) -> Revival | None:
    """Where this node cannot know what it signed: from when on it signs again, two heights beyond any that it can have signed in.

    A node that decides alone waits for nobody, because nobody would ever decide that height: it goes on from its chain.
    """
    state = standing.state()
    problem, height = recovered.damage, 0
    for data in recovered.records:
        if data[:1] == SILENCE_RECORD and int.from_bytes(data[1:9], "big") > state.height:
            problem, height = "an earlier one was lost", int.from_bytes(data[1:9], "big")
    if standing.lost:
        problem = "it is missing, though this home has a chain"
    if problem is None:
        return None
    if state.membership.current.members == (standing.me,):
        log.error("vote log not usable", reason=problem, hint="this node decides alone and goes on from its chain")
        return None
    return Revival(height or standing.height_seen + 2, engine, f"the vote log cannot be trusted: {problem}")


def logged_contributions(
    recovered: Recovered, chain_id: consensus.Digest, *, first: int
) -> Iterator[consensus.Contribution]:
    """What this node announced to the height ``first`` and later ones, as it was signed; nothing else may be announced in its place."""
    for data in recovered.records:
        if data[:1] == CONTRIBUTION_RECORD and int.from_bytes(data[1:9], "big") >= first:
            message = message_of(chain_id, transport.Envelope.decode(data[9:]))
            if isinstance(message, consensus.Contribution):
                yield message
