"""One round as a story, from the batch to the new model; read it from top to bottom (the README's table has the same steps).

    learn      H local steps from M(h-1) in the worker thread                      Offering.learn_forever
    announce   payload durable, CONTRIBUTION logged, then signed and sent         Offering
    collect    fetch what others announce; start the height when it is time        heard, collect_forever
    propose    list what is held, aggregate, name the root                        build
    prepare    hold every listed byte, recompute, compare the root                check
    commit     the engine's; before it, the listed payloads are on the disk       make_payloads_durable
    decide     block and certificate durable                                      decided
    apply      M(h) replaces M(h-1) at once; the next height opens                _open

What it is not: rules of agreement (``consensus``), sockets (``gossip``), arithmetic (``model``). All state changes on the event loop's
thread; whatever takes long runs in a thread and returns bytes, digests or a new, complete model.
"""

import contextlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

import consensus
import transport
from consensus import Purpose
from model import compression
from model.errors import PayloadError
from model.layout import Layout
from model.replica import Replica
from model.trainer import Trainer
from p2pnode.arrivals import Arrivals
from p2pnode.blobs import Blobs
from p2pnode.candidates import Candidates
from p2pnode.catchup import Position, following
from p2pnode.collect import Collecting, is_waited_for, overdue, start_moment
from p2pnode.delays import Delays
from p2pnode.driver import Driver
from p2pnode.genesis import Genesis
from p2pnode.gossip import Gossip
from p2pnode.housekeeping import Housekeeping
from p2pnode.logs import Logger
from p2pnode.offering import Offering
from p2pnode.people import changes
from p2pnode.pool import STRANGERS_MAX, Held, Pool
from p2pnode.probes import Probes
from p2pnode.store import Store
from p2pnode.timings import Timings
from p2pnode.training import Training
from p2pnode.wakeup import Signal
from p2pnode.wire import Role, Status
from p2pnode.worker import Worker
from p2pnode.writing import Writing
from transport.machine import in_thread

LISTED_HEIGHTS = 20  # a peer's score is the share of so many last rounds that list a contribution of it
RETRY_SECONDS = 1.0  # until a member's bytes that could not be had are asked for again


@dataclass(slots=True)
class Parts:
    """What a round works with; built once by ``node``."""

    genesis: Genesis
    me: bytes
    trainer: Trainer
    store: Store
    blobs: Blobs
    gossip: Gossip
    worker: Worker
    delays: Delays
    log: Logger
    layout: Layout
    trainer_file: Path


class Rounds:
    """The agreed state, the open height, and every duty of a node in it."""

    def __init__(self, parts: Parts, *, position: Position, training: Training) -> None:
        self.parts = parts
        self.state = position.state
        self.replica = position.replica
        self.recent = position.recent
        self.listed: deque[frozenset[bytes]] = deque(position.recent, maxlen=LISTED_HEIGHTS)
        self.training = training
        self.changed = Signal()
        self.synced = False
        self.diverged: str | None = None
        self.known_height = self.state.height
        self.timings = Timings()
        self.arrivals = Arrivals()
        self.driver: Driver
        self.probes = Probes(parts.store)
        self._house = Housekeeping(parts.store, parts.blobs, kept=parts.genesis.blobs)
        self._candidates = Candidates(parts.blobs, self.state, self.replica)
        self._writing = Writing(parts.blobs, lambda: self.pool, self.changed)
        self._started = 0
        self._wanted = 0
        self._pending_since: float | None = None
        self._fetching: trio.Nursery
        self._later: dict[tuple[bytes, Purpose], consensus.Contribution] = {}
        self._underway: set[trio.CancelScope] = set()
        self._wasteful: set[bytes] = set()  # blocks that were refused once because they list nobody's learning
        self.claims: dict[bytes, int] = {}  # heights that a node said it is learning without delivering
        self.pool = self._new_pool()
        self.offering = Offering(self)

    # --- collect ------------------------------------------------------------------------------------------------------------------

    def heard(self, contribution: consensus.Contribution) -> None:
        """A signed announcement arrived. Its bytes are fetched beside everything else."""
        if contribution.author == self.parts.me:
            if contribution.height == self.pool.height and self.synced and self.offering.disowns(contribution):
                self.driver.key_elsewhere(
                    f"an announcement for height {contribution.height} has our signature and is not ours"
                )
            return
        ahead = contribution.height == self.state.height + 2
        if ahead or not self.synced:  # its author is a decision ahead of us, or we are still starting
            self._keep_for_later(contribution)
        elif contribution.height == self.pool.height and self.pool.announce(contribution) is None:
            self.parts.gossip.spreading.expect(contribution)
            self._fetching.start_soon(self._bring, self.pool, contribution)

    def _keep_for_later(self, contribution: consensus.Contribution) -> None:
        self._later[contribution.author, contribution.purpose] = contribution
        members = self.pool_members()
        strangers = [slot for slot in self._later if slot[0] not in members]
        if len(strangers) > STRANGERS_MAX:
            del self._later[strangers[0]]

    def begin(self) -> None:
        """This node knows where the chain is: it has a part in it from now on."""
        self.synced = True
        self._hear_later()
        self.tell_status()
        self.changed.fire()

    def _hear_later(self) -> None:
        later, self._later = self._later, {}
        for contribution in later.values():
            self.heard(contribution)

    async def _bring(self, pool: Pool, contribution: consensus.Contribution) -> None:
        """What was announced, from its author or whoever has it by now."""
        while not await self._fetch(pool, contribution, (contribution.author,)):
            if pool is not self.pool or pool.rejected(contribution.payload_digest):
                return
            if contribution.author not in self.pool_members():
                pool.forget(contribution)
                return
            await trio.sleep(RETRY_SECONDS)

    async def _fetch(
        self, pool: Pool, contribution: consensus.Contribution, holders: Sequence[bytes], *, hurry: bool = False
    ) -> bool:
        """Bring the bytes of one contribution into the pool. False when nobody has them, they are no payload, or the height is over."""
        with trio.CancelScope() as scope:
            if pool is not self.pool:
                return False
            self._underway.add(scope)
            try:
                payload = await self.parts.gossip.fetch_payload(
                    contribution.payload_digest, contribution.payload_bytes, holders, hurry=hurry
                )
            finally:
                self._underway.discard(scope)
            return payload is not None and await self._examine(pool, contribution, payload)
        return False

    async def _examine(self, pool: Pool, contribution: consensus.Contribution, payload: bytes) -> bool:
        if pool is not self.pool:
            return False  # decided meanwhile: nobody will ask for these bytes

        def keep() -> None:
            compression.check(payload, self.parts.layout)
            self.parts.blobs.put(payload, contribution.payload_digest)

        try:
            await in_thread(keep)
        except PayloadError as problem:
            pool.reject(contribution)
            self.parts.log.warning("payload refused", peer=transport.short_id(contribution.author), reason=str(problem))
            return False
        pool.hold(Held(contribution, payload, trio.current_time()))
        self.parts.gossip.tell_held(contribution)
        self.changed.fire()
        return True

    def hold(self, contribution: consensus.Contribution, payload: bytes) -> None:
        self.pool.hold(Held(contribution, payload, trio.current_time()))
        self.changed.fire()

    async def collect_forever(self) -> None:
        """Start each height at the moment that ``collect`` names."""
        while True:
            moment = self._start_moment()
            if moment is not None and moment <= trio.current_time():
                self._start(self.pool.height)
                continue
            with trio.move_on_after(math.inf if moment is None else max(0.0, moment - trio.current_time())):
                await self.changed.wait()

    def _start_moment(self) -> float | None:
        height = self.pool.height
        if not self.synced or self._started >= height:
            return None
        if self._wanted >= height:
            return 0.0
        return start_moment(self._collecting())

    def _collecting(self) -> Collecting:
        expected = self._expected()
        return Collecting(
            expected=expected,
            proven=self._proven(expected),
            held=self.pool.arrivals(),
            opened=self.timings.opened,
            pending_since=self._pending_since,
            round_seconds_max=self.parts.genesis.round_seconds_max,
            usual=self.arrivals.usual(expected),
        )

    def _start(self, height: int) -> None:
        self._started = height
        self.driver.started()
        measured = self.parts.delays.measured()
        if measured is not None:
            self.driver.deliver(measured)
        self.driver.deliver(consensus.StartHeight(height))
        if self._wanted < height:  # else a proposal is here, which says what to compute
            self._fetching.start_soon(self._foresee)

    async def _foresee(self) -> None:
        """Who proposes holds what we hold, most likely: so the model that results can be ready when the proposal is here."""
        held = self.pool.listable()
        with contextlib.suppress(PayloadError):
            await self._candidates.of([e.contribution for e in held], [e.payload for e in held])

    def _expected(self) -> frozenset[bytes]:
        """Whom to wait for: see ``collect``. What connected peers say of themselves refines what the chain says."""
        expected: set[bytes] = set(self.state.membership.current.members)
        if self.recent:
            expected = set(frozenset[bytes]().union(*self.recent))
        members = self.pool_members()
        for peer, status in self.parts.gossip.standings().items():
            if status.learning == self.pool.height:
                if is_waited_for(self.claims.get(peer, 0), is_member=peer in members):
                    expected.add(peer)
            elif status.learning == 0 and status.height == self.state.height:
                expected.discard(peer)
        if self.training.wants(self.pool.height):
            expected.add(self.parts.me)
        else:
            expected.discard(self.parts.me)
        return frozenset(expected)

    def _proven(self, expected: frozenset[bytes]) -> frozenset[bytes]:
        """Of those expected the ones whose word is not all that we have: members, or where none trains, the last contributors."""
        contributors = frozenset[bytes]().union(*self.recent)
        return expected & self.pool_members() or expected & contributors

    def wanted(self, height: int, proposed: consensus.Block | None = None) -> None:
        """Rule (d): the engine holds a proposal, or votes of f+1 members, for the open height.

        A proposal alone that throws away what members are learning is not followed; it is shown again with every repetition.
        """
        if proposed is not None and not _lists(proposed, self.pool_members()):
            collecting = self._collecting()
            if collecting.expected & self.pool_members() and not overdue(collecting, trio.current_time()):
                return
        self._wanted = max(self._wanted, height)
        self.changed.fire()

    def accused(self, evidence: consensus.Evidence) -> None:
        """Evidence is pending until a block carries it (rule e)."""
        self.parts.log.warning(
            "evidence", node=transport.short_id(evidence.author), kind=str(evidence.kind), height=evidence.height
        )
        self._pending_since = self._pending_since or trio.current_time()
        self._fetching.start_soon(partial(in_thread, self.parts.store.put_evidence, [evidence]))
        self.changed.fire()

    def _is_pending(self) -> bool:
        """Whether a block is wanted though nobody trains: for what no block holds yet, or for a committee that has not begun."""
        engine, membership = self.driver.engine, self.state.membership
        return bool(engine.pending_evidence or engine.pending_requests) or membership.next != membership.current

    def requested(self, request: consensus.Request) -> None:
        """Somebody asks to join or to leave, and a block may carry it (rule e)."""
        kind = request.kind.name.lower()
        self.parts.log.info("request", node=transport.short_id(request.author), kind=kind, height=request.height)
        self._pending_since = self._pending_since or trio.current_time()
        self.changed.fire()

    # --- propose and prepare --------------------------------------------------------------------------------------------------------

    async def build(self, request: consensus.BuildBlock) -> consensus.Block | None:
        """This view is ours: list what is held, and name the model that results."""
        if request.height != self.pool.height:
            return None
        held = self.pool.listable()
        contributions = tuple(entry.contribution for entry in held)
        candidate = await self._candidates.of(contributions, [entry.payload for entry in held])
        if request.height != self.pool.height:
            return None
        await self._writing.finish(held)
        root = consensus.Digest(candidate.root)
        return consensus.build_block(request.template, contributions=contributions, model_root=root)

    async def check(self, block: consensus.Block) -> tuple[bool, str]:
        """Whether this node can reproduce what the block claims: every listed byte held, of the right form, and the same root."""
        pool, header = self.pool, block.header
        if header.height != pool.height:
            return False, "it is for another height"
        problem = pool.excess(block.contributions) or self._waste(block)
        if problem is not None:
            return False, problem
        payloads = await self._payloads(pool, block.contributions, header.proposer)
        if payloads is None:
            return False, "a listed payload cannot be had or is no payload"
        try:
            candidate = await self._candidates.of(block.contributions, payloads)
        except PayloadError as problem:
            return False, str(problem)
        if candidate.root != header.model_root:
            return False, f"model root {header.model_root.hex()[:16]} claimed, {candidate.root.hex()[:16]} recomputed"
        return True, ""

    def _waste(self, block: consensus.Block) -> str | None:
        """Why a block that lists no member's learning is refused while that of some honest member is here, or ``None``.

        Once for each block: where it comes again, it comes with a certificate (or N views later), and whoever is locked on it can
        decide nothing else.
        """
        members = self.pool_members()
        learned = self.pool.learned() & members
        if _lists(block, members) or len(learned) <= self.state.membership.current.faults_tolerated():
            return None
        if block.hash in self._wasteful or overdue(self._collecting(), trio.current_time()):
            return None
        self._wasteful.add(block.hash)
        return f"it lists no member's update, and those of {len(learned)} members are here"

    async def _payloads(
        self, pool: Pool, contributions: Sequence[consensus.Contribution], proposer: bytes
    ) -> list[bytes] | None:
        """The listed bytes in the block's order, fetched where missing; ``None`` if one cannot be had."""

        async def bring(contribution: consensus.Contribution) -> None:
            if pool.find(contribution) is None and not pool.rejected(contribution.payload_digest):
                pool.announce(contribution)
                await self._fetch(pool, contribution, (proposer, contribution.author), hurry=True)

        async with trio.open_nursery() as nursery:
            for contribution in contributions:
                nursery.start_soon(bring, contribution)
        found = [pool.find(contribution) for contribution in contributions]
        return None if None in found else [entry.payload for entry in found if entry is not None]

    # --- commit, decide, apply ---------------------------------------------------------------------------------------------------------

    async def make_payloads_durable(self, block_hash: bytes) -> None:
        """Before a COMMIT leaves: whoever counts on this vote can count on the bytes."""
        block = self.driver.block(block_hash)
        if block is not None:
            held = [self.pool.find(contribution) for contribution in block.contributions]
            await self._writing.finish([entry for entry in held if entry is not None])

    async def decided(self, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
        """More than two thirds committed this block: write it down, then become the model that it names.

        It is durable a little later, beside what comes next; until then the vote log carries it (``Driver.append``).
        """
        if block.height != self.state.height + 1:
            return
        state = self.state.after(block, certificate)
        round_ = self.timings.decided(block, certificate, self.driver.counters.times, me=self.parts.me)
        round_ |= changes(self.state.membership, state.membership, block)
        await in_thread(partial(self.parts.store.put_block, block, certificate, round_, durable=False))
        replica = await self._reproduce(block)
        if replica is None:
            return  # catch-up was quicker than the payloads
        # Threads end their work before we leave; then nothing may be started any more.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._fetching.start_soon(self._keep, block.height, self.timings.applied(round_))
        if self.state.height < block.height:  # catch-up may have been quicker while we waited
            self._close(block)
            self._become(Position(state, replica, following(self.recent, block)))

    async def _keep(self, height: int, round_: dict[str, Any]) -> None:
        def keep() -> None:
            self.parts.store.amend_round(height, round_)
            self.parts.store.make_durable()

        await in_thread(keep)
        self.driver.kept(height)

    async def _reproduce(self, block: consensus.Block) -> Replica | None:
        """The certified model. A node that cannot reproduce it stops voting and takes it from its peers."""
        payloads: list[bytes] | None = None
        while payloads is None:  # the certificate says that more than a third of honest members hold them
            if self.state.height >= block.height:
                return None
            payloads = await self._payloads(self.pool, block.contributions, block.header.proposer)
            if payloads is None:
                await trio.sleep(1)
        candidate = await self._candidates.of(block.contributions, payloads)
        replica, root = candidate.replica, candidate.root
        if root == block.header.model_root or self.state.height >= block.height:
            return replica
        self.diverged = f"this machine computes another model than the certified one at height {block.height}"
        self.parts.log.error(
            "diverged", height=block.height, certified=block.header.model_root.hex()[:16], own=root.hex()[:16]
        )
        healed, name = await self.parts.gossip.fetch_certified_model(block.header.model_root, replica)
        self.parts.log.warning("certified model taken from peers", height=block.height, first_difference=name)
        self.diverged = None
        return healed

    def position(self) -> Position:
        return Position(self.state, self.replica, self.recent)

    def adopt(self, position: Position) -> None:
        """Catch-up moved us on: jump to a later certified state."""
        if position.state.height > self.state.height:
            self.offering.closed(self.pool.height, ())
            self._become(position)
            self.driver.kept(position.state.height)  # catch-up writes blocks before it applies them
            self.driver.deliver(consensus.Synced(position.state))

    def _close(self, block: consensus.Block) -> None:
        """What a decided block says about who took part."""
        listed = frozenset(c.author for c in block.contributions if c.purpose is Purpose.UPDATE)
        until = self.driver.counters.times.started or trio.current_time()
        self.arrivals.note(self.pool.arrivals(), opened=self.timings.opened, missed=self._expected(), until=until)
        self._count_claims(listed)
        self.probes.note(block)
        if listed:
            self.listed.append(listed)
        self.offering.closed(block.height, block.contributions)

    def _become(self, position: Position) -> None:
        """The one place where the agreed state changes: height, model and pool together, without awaiting in between."""
        state, replica = position.state, position.replica
        height = state.height
        self.state, self.replica, self.recent = state, replica, position.recent
        self.known_height = max(self.known_height, height)
        self._candidates = Candidates(self.parts.blobs, state, replica)
        self.parts.blobs.keep_model(state.model_root, replica)
        self.offering.opened()
        self._pending_since = trio.current_time() if self._is_pending() else None
        self._wasteful.clear()
        closed, self.pool = self.pool, self._new_pool()
        for fetch in self._underway:
            fetch.cancel()  # whoever announced it may never answer, and nobody will ask for these bytes
        self.timings.open(height + 1)
        self.parts.gossip.spreading.opened(height + 1)
        self._hear_later()
        self.tell_status()
        self.changed.fire()
        self._fetching.start_soon(self._keep_house, position, closed)

    async def _keep_house(self, position: Position, closed: Pool) -> None:
        """What a height leaves on disk, and what goes: see ``housekeeping``."""
        state, parts = position.state, self.parts
        if self._house.is_due(state.height):
            await in_thread(self._house.keep_snapshot, state.height, state.model_root, position.replica)
            await parts.worker.run(partial(parts.trainer.save, parts.trainer_file))
        held = [entry.contribution.payload_digest for entry in closed.held()]

        def may_be_needed(digest: bytes) -> bool:
            return self.pool.names(digest)  # the pool of that moment

        await in_thread(partial(self._house.sweep, state.height, held, is_open=may_be_needed))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The tasks of a round, until cancelled.

        The driver among them: what it is carrying out when the end comes may start tasks here, so it must not outlive this nursery.
        """
        async with trio.open_nursery() as nursery:
            self._fetching = nursery
            task_status.started()
            nursery.start_soon(self.driver.run)
            nursery.start_soon(self.offering.learn_forever)
            nursery.start_soon(self._writing.run)
            nursery.start_soon(self.collect_forever)

    # --- what others are told, and what the rest of the node asks ------------------------------------------------------------------------

    def role(self) -> Role:
        if self.parts.me in self.state.membership.current.members:
            return Role.MEMBER
        return Role.CONTRIBUTOR if self.training.wants(self.state.height + 1) else Role.OBSERVER

    def status(self) -> Status:
        height = self.state.height + 1
        learning = height if self.synced and self.training.wants(height) else 0
        return Status(height=self.state.height, model_root=self.state.model_root, role=self.role(), learning=learning)

    def tell_status(self) -> None:
        self.parts.gossip.tell_status(self.status())

    def pool_members(self) -> frozenset[bytes]:
        return frozenset(self.state.membership.current.members)

    def _count_claims(self, listed: frozenset[bytes]) -> None:
        claims, statuses = self.claims, self.parts.gossip.standings()
        for gone in claims.keys() - statuses.keys():
            del claims[gone]
        for peer, status in statuses.items():
            if peer in listed or status.learning == 0:
                claims.pop(peer, None)
            elif status.learning == self.pool.height:
                claims[peer] = claims.get(peer, 0) + 1

    def behind(self, height: int) -> None:
        """Somebody proves a later height than ours: catch-up looks at it."""
        self.known_height = max(self.known_height, height)
        self.changed.fire()

    @property
    def pool_payload_bytes(self) -> int:
        """The size of every payload of this model."""
        return compression.payload_bytes(self.parts.layout)

    def _new_pool(self) -> Pool:
        return Pool(
            self.state,
            members=self.pool_members() | {self.parts.me},  # strangers' announcements cannot crowd out our own
            payload_bytes=self.pool_payload_bytes,
            probed=self.probes.recent(self.state.height + 1),
        )


def _lists(block: consensus.Block, members: frozenset[bytes]) -> bool:
    """Whether it lists an update of one of these."""
    return any(c.purpose is Purpose.UPDATE and c.author in members for c in block.contributions)
