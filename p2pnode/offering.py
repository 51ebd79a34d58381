"""What this node offers to the open height: it learns, and announces what it learned.

    learn      H local steps from M(h-1) in the worker thread                      _learn
    announce   payload durable, CONTRIBUTION logged, then signed and sent         _announce

What it is not: what others offer, or what is done with all of it (``rounds``).

Rules for editing: one contribution a slot, ever. What was signed is remembered until its height is decided, in memory and in the vote log;
where either may lack something, nothing is signed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

import consensus
from consensus import Purpose
from model import compression
from model.config import CODECS
from model.errors import NonFiniteError
from model.trainer import Update
from p2pnode.vote_records import Announced
from transport.machine import in_thread

if TYPE_CHECKING:
    from p2pnode.rounds import Rounds


class Offering:
    """The contributions of one node, a height at a time. It speaks for ``rounds``, whose state it reads and never changes."""

    def __init__(self, rounds: "Rounds") -> None:
        self._rounds = rounds
        self._parts = rounds.parts
        self._signed: set[Purpose] = set()  # what this node has put its name to at the open height
        self._announced_until = 0  # up to this height we may have announced what we no longer know
        self._settled: tuple[int, bool] | None = None
        self._given_up = 0
        self._learning = 0  # the newest height that was begun
        self._announced_at: float | None = None  # our update of the open height

    async def learn_forever(self) -> None:
        """Learn every height that this node is to contribute to, one at a time."""
        while True:
            height = self._rounds.state.height + 1
            if not self._due(height):
                await self._rounds.changed.wait()
                continue
            update = await self._learn(height)
            if update is not None and self._rounds.state.height + 1 == height:
                await self._announce(height, update.payload, Purpose.UPDATE)

    async def probe(self) -> int:
        """Announce a payload of the model's size that changes nothing (``test``). Returns the height that carries it."""
        height = self._rounds.state.height + 1
        seed = height ^ int.from_bytes(self._parts.me[:4], "big")  # so that different nodes send different bytes
        payload = await in_thread(compression.probe, self._parts.layout, seed)
        await self._announce(height, payload, Purpose.PROBE)
        return height

    async def restore(self, contribution: consensus.Contribution) -> None:
        """After a restart: what was logged for the open height is said again, or nothing is."""
        if contribution.height != self._rounds.pool.height:
            # The chain on this disk is older than the log. What was signed in between may have left the log since.
            self._announced_until = max(self._announced_until, contribution.height)
            return
        self._signed.add(contribution.purpose)
        payload = await in_thread(self._parts.blobs.get, contribution.payload_digest)
        if payload is None or self._rounds.pool.announce(contribution) is not None:
            return
        self._announced_at = trio.current_time()
        self._rounds.hold(contribution, payload)
        self._parts.gossip.broadcast(contribution)

    def disowns(self, contribution: consensus.Contribution) -> bool:
        """In our name, for the open height, and not by us; a node that may have forgotten what it signed cannot tell."""
        if self._rounds.driver.silent is not None or contribution.height <= self._announced_until:
            return False
        own = self._rounds.pool.own(self._parts.me, contribution.purpose)
        return own.contribution != contribution if own is not None else contribution.purpose not in self._signed

    def closed(self, height: int, listed: Sequence[consensus.Contribution]) -> None:
        """The height ends with a block that lists these; ours goes back into the error feedback unless it is among them."""
        own = self._rounds.pool.own(self._parts.me, Purpose.UPDATE)
        if own is not None:
            self._settled = (height, own.contribution in listed)
        if own is not None and own.contribution in listed:
            self._rounds.training.left_out = None
        elif listed and (own is not None or (self._learning == height and self._rounds.training.wants(height))):
            self._left_out(height)

    def _left_out(self, height: int) -> None:
        """Say why, to whoever asks and in the log; the next height is learned from the model that all have."""
        rounds, training = self._rounds, self._rounds.training
        took = trio.current_time() - rounds.timings.opened
        if self._announced_at is None:
            steps = self._parts.genesis.training.local_steps
            why = f"this node was still learning (step {training.step} of {steps})"
        else:
            said = self._announced_at - rounds.timings.opened
            why = f"its update was announced after {said:.1f} s, and its bytes did not reach the proposer in time"
        training.left_out = f"left out of height {height}, decided after {took:.1f} s: {why}"
        self._parts.log.warning("left out", height=height, reason=training.left_out, hint="it takes part in the next")

    def opened(self) -> None:
        """The next height is open, with every slot of it free."""
        self._signed.clear()
        self._announced_at = None

    def _due(self, height: int) -> bool:
        own = self._rounds.pool.own(self._parts.me, Purpose.UPDATE)
        free = (
            own is None and Purpose.UPDATE not in self._signed and max(self._given_up, self._announced_until) < height
        )
        able = self._rounds.synced and self._rounds.diverged is None and self._rounds.driver.silent is None
        return able and free and self._rounds.training.wants(height)

    async def _learn(self, height: int) -> Update | None:
        """H local steps from the agreed model; ``None`` when the height was decided without us or training was paused."""
        training, base = self._rounds.training, self._rounds.replica
        began = trio.current_time()
        self._learning = height
        self._rounds.timings.learning(height, began)

        def stop() -> bool:
            return self._rounds.state.height + 1 != height or not training.wants(height)

        def progress(step: int, _: float) -> None:
            training.step = step

        self._rounds.tell_status()
        settled, self._settled = self._settled, None

        def learn() -> Update | None:
            if settled is not None:
                self._parts.trainer.settle(*settled)
            return self._parts.trainer.learn(base, height, should_stop=stop, progress=progress)

        try:
            update = await self._parts.worker.run(learn)
        except NonFiniteError as problem:
            self._parts.log.error(
                "training diverged",
                height=height,
                reason=str(problem),
                hint="moments start anew; the round goes on without us",
            )
            self._given_up = height
            return None
        training.step = 0
        training.seconds += trio.current_time() - began
        if update is not None:
            training.tokens += update.tokens
            training.tokens_per_second, training.utilization = update.tokens_per_second, update.utilization
            training.compilation = update.compilation
            training.loss, training.loss_height = update.loss, height
            self._rounds.timings.learned(height, trio.current_time(), update.loss)
        return update

    async def _announce(self, height: int, payload: bytes, purpose: Purpose) -> None:
        """Bytes durable, then the signature durable, then the announcement: a restart never signs a second one for this height."""
        digest = await in_thread(self._parts.blobs.put_durably, payload)
        pool = self._rounds.pool
        if pool.height != height or height <= self._announced_until or purpose in self._signed:
            return
        if pool.own(self._parts.me, purpose) is not None:
            return
        self._signed.add(purpose)
        contribution = self._parts.gossip.sign_contribution(
            height=height,
            base_root=self._rounds.state.model_root,
            payload_digest=digest,
            payload_bytes=len(payload),
            codec=CODECS[self._parts.genesis.training.codec],
            purpose=purpose,
        )
        if pool.announce(contribution) is not None:
            return
        durable = await self._rounds.driver.append(Announced(height, self._parts.gossip.envelope(contribution)))
        if not durable or pool is not self._rounds.pool:
            return  # unsaid, or decided meanwhile without us
        if purpose is Purpose.UPDATE:
            self._announced_at = trio.current_time()
        self._rounds.hold(contribution, payload)
        self._parts.gossip.broadcast(contribution)
        await self._parts.gossip.spread(contribution, payload)
