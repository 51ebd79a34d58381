"""From where this node stands to where the chain is: after a start, after an absence, and for a joiner. One piece of code for all three.

First the chain (``blocksync``): every block and certificate in order; no skipping, no trust. Then the model: a whole model whose root a
verified block names, where that is less to carry than the payloads, then block by block, each root compared. Nothing a peer says of
itself is believed; it only chooses whom to ask. With a checkpoint, nothing is built on a chain that has not come to it.

Rules for editing: blocks are durable before the model moves, so the chain on disk may be ahead of the model, never behind it.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

import consensus
import transport
from consensus import Purpose
from model import compression
from model.errors import PayloadError, SnapshotError
from model.replica import Replica
from p2pnode.blobs import Blobs
from p2pnode.blocksync import HINT_HOME, BlockSync
from p2pnode.checkpoint import Checkpoint, WrongHistory
from p2pnode.errors import SetUpError
from p2pnode.genesis import Genesis
from p2pnode.gossip import Gossip, decision
from p2pnode.housekeeping import SNAPSHOTS_KEPT
from p2pnode.logs import Logger
from p2pnode.store import Store
from p2pnode.wire import BLOCKS_PER_REQUEST_MAX, HEIGHT_MAX
from transport.machine import in_thread

PATIENCE_SECONDS = 1.0  # a decision reaches everybody within this time; who is behind for longer asks for it
RETRY_SECONDS = 0.25  # until peers that could not help are asked again
FOLLOW_SECONDS = 0.2  # how often a running node looks whether it is behind


@dataclass(frozen=True, slots=True)
class Position:
    """A certified height with its model, and who contributed to its last two rounds."""

    state: consensus.ChainState
    replica: Replica
    recent: tuple[frozenset[bytes], ...]


class Follower(Protocol):
    """Whose position is moved while it runs; ``p2pnode.rounds`` is the real one. ``known_height``: what somebody claimed to prove."""

    known_height: int

    def position(self) -> Position: ...
    def adopt(self, position: Position) -> None: ...


class CatchUp:
    """Moves a position forward. ``sync`` holds the verified chain on disk, at or ahead of the position."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        store: Store,
        blobs: Blobs,
        gossip: Gossip,
        log: Logger,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._genesis = genesis
        self._store = store
        self._blobs = blobs
        self._gossip = gossip
        self._log = log
        self.sync = BlockSync(genesis=genesis, store=store, gossip=gossip, checkpoint=checkpoint, log=log)
        self._doing: Callable[[], str] | None = None

    @property
    def chain(self) -> consensus.ChainState:
        """The tip of the verified chain on disk."""
        return self.sync.chain

    @property
    def doing(self) -> str | None:
        """One line for ``status``; ``None`` when nothing is under way."""
        return None if self._doing is None else self._doing()

    # --- from our own disk -------------------------------------------------------------------------------------------------------

    def load(self, first_model: Replica) -> Position:
        """The chain on disk, and the newest model on disk that it certifies. Blocking; at start only.

        Raises:
            SetUpError: the chain file does not hold one chain, or another one than the checkpoint's (WrongHistory).
        """
        chain, checkpoint = self.chain, self.sync.checkpoint
        snapshots = dict(self._blobs.snapshots())
        certified: list[tuple[consensus.ChainState, tuple[frozenset[bytes], ...]]] = []
        recent: tuple[frozenset[bytes], ...] = ()
        for block, certificate in self._blocks_on_disk(1):
            follows = block.header.previous == chain.block_hash and block.height == chain.height + 1
            if not follows or certificate.block_hash != block.hash:
                raise SetUpError(
                    f"the chain file is damaged: block {block.height} does not follow the one before it",
                    "move chain.sqlite* away and start again: the node fetches the chain anew and keeps its key and its votes",
                )
            if checkpoint is not None and checkpoint.contradicts(block.height, block.hash):
                raise WrongHistory(checkpoint, block.hash, where="of this home's chain", hint=HINT_HOME)
            chain = chain.after(block, certificate)
            recent = following(recent, block)
            if snapshots.get(block.height) == block.header.model_root:
                certified.append((chain, recent))
        self.sync.chain = chain
        for state, recent in reversed(certified):
            replica = self._snapshot(state)
            if replica is not None:
                return Position(state, replica, recent)
        return Position(self._genesis.state(), first_model, ())

    def _snapshot(self, state: consensus.ChainState) -> Replica | None:
        path = self._blobs.snapshot_path(state.height)
        try:
            replica = Replica.load(path)
        except (SnapshotError, OSError) as problem:
            self._log.warning("snapshot not usable", file=path.name, reason=str(problem))
            return None
        if self._blobs.model_root(replica) != state.model_root:
            self._log.warning(
                "snapshot not usable", file=path.name, reason="its bytes are not those that the chain certifies"
            )
            return None
        return replica

    def _blocks_on_disk(self, first: int) -> Iterator[tuple[consensus.Block, consensus.CommitCertificate]]:
        while rows := self._store.block_rows(first, BLOCKS_PER_REQUEST_MAX):
            for encoded, certificate in rows:
                try:
                    yield consensus.Block.decode(encoded), decision(certificate)
                except consensus.Malformed as problem:
                    raise SetUpError(
                        f"the chain file is damaged: block {first} cannot be read ({problem})",
                        "move chain.sqlite* away and start again: the node fetches the chain anew",
                    ) from None
                first += 1

    # --- from peers --------------------------------------------------------------------------------------------------------------

    async def reach(self, position: Position, *, patient: bool) -> Position:
        """At a start: at least the height that our own disk has proven, then, for as long as peers are ahead, to where they are.

        ``patient`` waits first for what peers say: a node that was told of peers is not alone.
        """
        proven, deadline = self.chain.height, trio.current_time() + PATIENCE_SECONDS
        behind_before = HEIGHT_MAX
        while True:
            before = position.state.height
            position = await self.advance(position, max(proven, self.claimed()))
            behind = self.claimed() - position.state.height
            # Where nobody takes us further, no claim does, and where the others are as quick as we are, another pass is like the last:
            # then ``follow`` goes on asking.
            closing = position.state.height > before and 1 < behind < behind_before
            behind_before = behind
            reached = position.state.height >= proven and not closing
            if reached and self.sync.confirmed and (trio.current_time() > deadline or not patient):
                return position
            if not self.sync.confirmed:
                self._doing = self.sync.progress
            await trio.sleep(0.05 if reached else RETRY_SECONDS)

    async def follow(self, follower: Follower) -> None:
        """While running, until cancelled: who is behind for longer than a decision takes to arrive asks for what it lacks."""
        behind_since = None
        while True:
            await trio.sleep(FOLLOW_SECONDS)
            before = follower.position()
            target = max(self.claimed(), follower.known_height)
            if target <= before.state.height:
                behind_since = None
                continue
            behind_since = behind_since or trio.current_time()
            if trio.current_time() - behind_since < PATIENCE_SECONDS:
                continue
            after = await self.advance(before, target)
            await trio.lowlevel.checkpoint_if_cancelled()  # a thread may have kept us past the end of the rounds
            follower.adopt(after)
            if after.state.height == before.state.height:
                follower.known_height = follower.position().state.height  # a claim that nobody could prove is forgotten
                behind_since = None

    async def advance(self, position: Position, target: int) -> Position:
        """As far towards ``target`` as peers can take us now. Returns the position reached (perhaps the same)."""
        if self.chain.height < position.state.height:
            self.sync.chain = position.state
        self.sync.base = position.state.height
        try:
            if self.chain.height < target:
                self._doing = self.sync.progress
                await self.sync.extend(target)
            if position.state.height < self.chain.height and self.sync.confirmed:
                self._doing = lambda: f"catching up: model {position.state.height} of {self.chain.height}"
                position = await self._take_model(position)
                position = await self._replay(position)
        finally:
            self._doing = None
        return position

    def claimed(self) -> int:
        """The highest height that a connected peer says it decided, unless it just failed to show it."""
        return self.sync.claimed()

    def likely_tip(self) -> int:
        """Where the chain probably ends, whatever one liar claims: for people."""
        return self.sync.likely_tip()

    async def _take_model(self, position: Position) -> Position:
        """Jump to a whole certified model, if some peer has one and the payloads up to it would be more to carry."""
        offers = await self._offers(position.state.height)
        if not offers:
            return position
        begun = await in_thread(self._blobs.arriving_begun)
        certified = await in_thread(self._certified, offers, position)
        for state, recent in sorted(certified, key=lambda found: found[0].model_root not in begun):
            holders = offers[state.height, state.model_root]
            replica = await self._gossip.fetch_model(state.model_root, position.replica, holders)
            if replica is not None:
                root = state.model_root.hex()[:16]
                self._log.info("model taken", height=state.height, root=root, bytes=replica.byte_length)
                # A restart could not compute it: the payloads below are not here, and whoever had it may be gone by then.
                keep = partial(self._blobs.put_snapshot, state.height, state.model_root, replica, keep=SNAPSHOTS_KEPT)
                await in_thread(keep)
                return Position(state, replica, recent)
        return position

    async def _offers(self, above: int) -> dict[tuple[int, bytes], list[bytes]]:
        """Whole models above a height that peers say they have, by height and root, and who has each."""
        holders: dict[tuple[int, bytes], list[bytes]] = {}

        async def ask(peer: bytes) -> None:
            for height, root in await self._gossip.fetch_snapshots(peer):
                if above < height <= self.chain.height:
                    holders.setdefault((height, root), []).append(peer)

        async with trio.open_nursery() as nursery:  # all at once: one who never answers costs no more than ten
            for peer in self.sync.sources(above + 1):
                nursery.start_soon(ask, peer)
        return holders

    def _certified(
        self, offers: Collection[tuple[int, bytes]], position: Position
    ) -> list[tuple[consensus.ChainState, tuple[frozenset[bytes], ...]]]:
        """Of the offers those that the verified chain names and that are less to carry than the payloads up to them, newest first."""
        state, recent, payload_bytes = self._genesis.state(), tuple[frozenset[bytes], ...](), 0
        found = []
        for block, certificate in self._blocks_on_disk(1):
            state = state.after(block, certificate)
            recent = following(recent, block)
            if state.height > position.state.height:
                payload_bytes += sum(c.payload_bytes for c in block.contributions)
                if payload_bytes > position.replica.byte_length and (state.height, state.model_root) in offers:
                    found.append((state, recent))
        return found[::-1]

    async def _replay(self, position: Position) -> Position:
        """Block by block on the model, each root compared with the certified one."""
        while position.state.height < self.chain.height:
            rows = await in_thread(self._page, position.state.height + 1)
            for block, certificate in rows:
                here = position.state.height
                self._doing = lambda here=here: f"catching up: model {here} of {self.chain.height}"
                replica = await self._apply(position, block)
                if replica is None:
                    return position
                state = position.state.after(block, certificate)
                position = Position(state, replica, following(position.recent, block))
        return position

    def _page(self, first: int) -> list[tuple[consensus.Block, consensus.CommitCertificate]]:
        rows = self._store.block_rows(first, BLOCKS_PER_REQUEST_MAX)
        return [(consensus.Block.decode(encoded), decision(certificate)) for encoded, certificate in rows]

    async def _apply(self, position: Position, block: consensus.Block) -> Replica | None:
        """M(h) from M(h-1) and the payloads of block h, from our disk or from peers; ``None`` when some cannot be had now."""
        weights = consensus.weights(block.contributions, position.state.membership.current)
        if not any(weights):
            if block.header.model_root == position.state.model_root:
                return position.replica
            return await self._heal(position.replica, block)  # what we have is not what the last block left
        if any(c.payload_bytes != compression.payload_bytes(position.replica.layout) for c in block.contributions):
            raise _dishonest(block)
        payloads = []
        for contribution in block.contributions:
            payload = await in_thread(self._blobs.get, contribution.payload_digest)
            if payload is None:
                holders = [contribution.author, *self._gossip.peers_at(block.height)]
                payload = await self._gossip.fetch_blob(
                    contribution.payload_digest, contribution.payload_bytes, holders
                )
                if payload is None:
                    self._log.info(
                        "payload not found yet", height=block.height, author=transport.short_id(contribution.author)
                    )
                    return None
                await in_thread(self._blobs.put, payload, contribution.payload_digest)
            payloads.append(payload)
        try:
            replica = await in_thread(partial(position.replica.apply, payloads, weights))
        except PayloadError as problem:
            raise _dishonest(block) from problem
        root = await in_thread(self._blobs.model_root, replica)
        return replica if root == block.header.model_root else await self._heal(replica, block)

    async def _heal(self, own: Replica, block: consensus.Block) -> Replica:
        """The certified model, where this machine comes to another."""
        healed, name = await self._gossip.fetch_certified_model(block.header.model_root, own)
        self._log.error(
            "diverged", height=block.height, first_difference=name, certified=block.header.model_root.hex()[:16]
        )
        return healed


def _dishonest(block: consensus.Block) -> SetUpError:
    """More than two thirds, or one that decides alone, put their names to bytes that are no payload: nothing here can follow them."""
    return SetUpError(
        f"this network certified a payload at height {block.height} that is none",
        "its members are dishonest or run another program; another --home joins another network",
    )


def following(recent: tuple[frozenset[bytes], ...], block: consensus.Block) -> tuple[frozenset[bytes], ...]:
    """Who contributed to the last two heights that had contributions, after one more block."""
    listed = frozenset(c.author for c in block.contributions if c.purpose is Purpose.UPDATE)
    return (*recent[-1:], listed) if listed else recent
