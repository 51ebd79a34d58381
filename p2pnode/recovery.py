"""What this node signed before it was stopped, taken up again: from the vote log on disk to an engine that may go on.

What it is: the decision, made once at a start, whether the log can be trusted, and what is said again. What it is not: the file
(``wal``), its records (``vote_records``), or the loop that appends to it (``driver``).

Rules for editing: a node that may have signed what it no longer knows signs nothing. Any doubt about the log ends in a ``Revival``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import consensus
import transport
from p2pnode.driver import Revival
from p2pnode.gossip import Gossip, message_of
from p2pnode.logs import Logger
from p2pnode.store import Store
from p2pnode.timings import round_facts
from p2pnode.vote_records import Announced, Decided, Moved, Signed, Silent, VoteRecord, decode, encode
from p2pnode.wal import Recovered, VoteLog, recover
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX


@dataclass(frozen=True, slots=True)
class Recovery:
    """An open vote log with the engine that goes on from it: one that votes, or one that observes until ``revival``.

    ``observer()`` takes its place should the log fail.
    """

    vote_log: VoteLog
    engine: consensus.Engine
    observer: Callable[[], consensus.Engine]
    revival: Revival | None
    records: tuple[VoteRecord, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the node is when it takes up its log again; ``state`` may move on before an engine is revived.

    ``height_seen`` is the highest that anybody is known to have decided; ``lost`` says that there must have been a log, and is none.
    """

    me: consensus.PublicKey
    state: Callable[[], consensus.ChainState]
    height_seen: int
    lost: bool


def read_records(recovered: Recovered) -> tuple[tuple[VoteRecord, ...], str | None]:
    """The records of a log up to the first that is none, and what is wrong with the log, if anything is."""
    records: list[VoteRecord] = []
    for number, data in enumerate(recovered.records, start=1):
        try:
            records.append(decode(data))
        except consensus.Malformed as problem:
            return tuple(records), f"record {number} is none: {problem}"
    return tuple(records), recovered.damage


def take_up(path: Path, standing: Standing, *, gossip: Gossip, log: Logger) -> Recovery:
    """Open the log at ``path``, and make the engine with what it remembers. Blocking."""
    recovered = recover(path)
    records, damage = read_records(recovered)
    if recovered.torn_bytes and damage is None:
        log.info("vote log: torn tail cut", bytes=recovered.torn_bytes)

    def engine(*, voting: bool = True) -> consensus.Engine:
        return consensus.Engine(
            me=standing.me if voting else None,
            sign=gossip.sign,
            verify=transport.verify,
            state=standing.state(),
            records=[record.record for record in records if isinstance(record, Signed)],
        )

    problem = _problem(records, damage, standing, lost=standing.lost or recovered.lost)
    revival = _revival(records, problem, standing, engine, log)
    anew = None if damage is None else [encode(record) for record in records]
    if revival is not None:
        anew = [encode(Silent(revival.height))]
        hint = f"observing until height {revival.height} is decided, then voting again"
        log.error("vote log not usable", reason=revival.why, hint=hint)
    elif problem is None:  # else this node decides alone, and has said so
        revival = _arrival(records, standing, engine)
    return Recovery(
        VoteLog(path, anew=anew), engine(voting=revival is None), partial(engine, voting=False), revival, records
    )


def _problem(records: Iterable[VoteRecord], damage: str | None, standing: Standing, *, lost: bool) -> str | None:
    """Why this node cannot know what it signed, or ``None`` where it does."""
    if lost:
        return "it is missing, though this node has kept one"
    if _silence(records, standing.state().height):
        return "an earlier one was lost"
    return damage


def _silence(records: Iterable[VoteRecord], height: int) -> int:
    """The height until whose decision an earlier start promised silence, 0 where that is over."""
    return max((r.height for r in records if isinstance(r, Silent) and r.height > height), default=0)


def _height_moved(records: Iterable[VoteRecord]) -> int:
    """What was decided where this key came from, 0 where it never moved or that is long ago."""
    return max((r.height for r in records if isinstance(r, Moved)), default=0)


def _revival(
    records: Iterable[VoteRecord],
    problem: str | None,
    standing: Standing,
    engine: Callable[[], consensus.Engine],
    log: Logger,
) -> Revival | None:
    """From when on this node signs again: two heights beyond any that it can have signed in.

    A node that decides alone waits for nobody, because nobody would ever decide that height: it goes on from its chain.
    """
    if problem is None:
        return None
    state = standing.state()
    if state.membership.current.members == (standing.me,):
        log.error("vote log not usable", reason=problem, hint="this node decides alone and goes on from its chain")
        return None
    height = _silence(records, state.height) or max(standing.height_seen, _height_moved(records)) + 2
    return Revival(height, engine, f"the vote log cannot be trusted: {problem}")


def _arrival(
    records: Iterable[VoteRecord], standing: Standing, engine: Callable[[], consensus.Engine]
) -> Revival | None:
    """A key from another home signs nothing before this one has decided as far: the log that came with it is whole above that alone.

    Also where the committee of our height is this node alone: the chain that it began may have gone on without this home.
    """
    height = _height_moved(records)
    if height <= standing.state().height:
        return None
    return Revival(height, engine, "this key came from another home, whose chain went on to there")


def restore_decisions(path: Path, store: Store, chain_id: consensus.Digest) -> int:
    """Put into the chain file what was decided and stands only in the log, because the power went before the chain was durable.

    Blocking, before anything reads the chain. Returns how many heights came back. What does not follow the chain's tip stays out: then
    this home's chain was put back from a copy, and the heights between come from peers.
    """
    restored = 0
    for record in read_records(recover(path))[0]:
        if isinstance(record, Decided) and record.height == store.height() + 1:
            header = record.block.header
            tip = store.block_rows(record.height - 1, 1)
            previous = consensus.Block.decode(tip[0][0]).hash if tip else header.previous
            if header.chain_id == chain_id and header.previous == previous:
                store.put_block(record.block, record.certificate, round_facts(record.block, record.certificate))
                restored += 1
    return restored


def chain_shows(store: Store, me: consensus.PublicKey) -> bool:
    """Whether a block holds a signature of ours: then there has been a log, whatever this home remembers of it.

    So a key that was put into a new home, with neither chain nor log nor marker, is known for an old one once the chain is here. Blocking.
    """
    first = 1
    while rows := store.block_rows(first, BLOCKS_PER_REQUEST_MAX):
        for encoded, _ in rows:
            block = consensus.Block.decode(encoded)
            signers = () if block.last_certificate is None else block.last_certificate.authors()
            if me in signers or me == block.header.proposer or any(c.author == me for c in block.contributions):
                return True
        first += len(rows)
    return False


def logged_contributions(
    records: Sequence[VoteRecord], chain_id: consensus.Digest, *, first: int
) -> Iterator[consensus.Contribution]:
    """What this node announced to the height ``first`` and later ones, as it was signed; nothing else may be announced in its place."""
    for record in records:
        if isinstance(record, Announced) and record.height >= first:
            message = message_of(chain_id, record.envelope)
            if isinstance(message, consensus.Contribution):
                yield message
