"""Carrying out a fetch: leaf by leaf from several holders at once, until all is here or nobody is left to ask.

A holder that refuses, lies or falls silent is left aside for this fetch, and its leaves go to the next one. The first
holder is asked for the leaf hashes and for leaves in the same breath, so a small blob takes one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from transport import limits
from transport.blobs import BlobClient, Expected
from transport.errors import RequestFailed
from transport.identity import PublicKey, short_id
from transport.log import Log
from transport.machine import in_thread
from transport.transfer import FetchPlan, Range

Sink = Callable[[int, bytes], None]
LIE = "lied: what it sent does not match the digest"


class Holder(Protocol):
    """A connected peer, as far as a fetch is concerned."""

    @property
    def key(self) -> PublicKey: ...
    @property
    def blobs(self) -> BlobClient: ...


@dataclass(slots=True)
class _Source:
    """One holder in one fetch."""

    holder: Holder
    heard_at: float
    failure: str | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Fetch:
    """One blob on its way. `lied` is called with the key of a holder that is proven to have lied."""

    def __init__(
        self,
        plan: FetchPlan,
        *,
        holders: Callable[[], Sequence[Holder]],
        sink: Sink,
        lied: Callable[[PublicKey], None],
        log: Log,
    ) -> None:
        self._plan = plan
        self._holders = holders
        self._sink = sink
        self._lied = lied
        self._log = log
        self._failed: dict[PublicKey, str] = {}
        self._active: dict[PublicKey, _Source] = {}
        self._changed = trio.Event()

    async def run(self) -> None:
        """Raises RequestFailed once every holder was asked in vain. Cancellable everywhere."""
        plan = self._plan
        if plan.leaf_count == 0 and not plan.accept_hashes(b""):
            raise RequestFailed("an empty blob has another digest")
        async with trio.open_nursery() as nursery:
            while not plan.is_done:
                self._changed = trio.Event()
                self._recruit(nursery)
                if not self._active:
                    break
                await self._changed.wait()
            nursery.cancel_scope.cancel()
        if not plan.is_done:
            tried = ", ".join(f"{short_id(key)} {why}" for key, why in self._failed.items())
            raise RequestFailed(
                f"nobody left to ask for {plan.digest.hex()[:12]} ({tried or 'no holder is connected'})"
            )

    def _recruit(self, nursery: trio.Nursery) -> None:
        """Ask further holders while there is work: one until the hashes are known, then several."""
        most = 1 if self._plan.hashes is None else limits.HOLDERS_AT_ONCE
        if len(self._active) >= most or (self._plan.hashes is not None and not self._plan.has_work):
            return
        for holder in self._holders():
            if len(self._active) >= most:
                return
            if holder.key not in self._failed and holder.key not in self._active:
                source = _Source(holder, trio.current_time())
                self._active[holder.key] = source
                nursery.start_soon(self._draw, source)

    async def _draw(self, source: _Source) -> None:
        """Everything with one holder: the hashes if nobody has them yet, and ranges, several in flight."""
        with source.scope:
            await self._draw_all(source)
        del self._active[source.holder.key]
        if source.failure is not None:
            self._failed[source.holder.key] = source.failure
            self._log.info("fetch source failed", peer=short_id(source.holder.key), reason=source.failure)
        self._changed.set()

    async def _draw_all(self, source: _Source) -> None:
        async with trio.open_nursery() as nursery:
            if self._plan.hashes is None:
                if self._plan.leaf_count > limits.HASHES_ON_LOOP_MAX:
                    await self._many_hashes(source)
                else:
                    await nursery.start(self._few_hashes, source)
            for _ in range(limits.REQUESTS_PER_HOLDER):
                if (wanted := self._plan.take()) is None:
                    break
                nursery.start_soon(self._leaves, source, wanted)

    async def _few_hashes(self, source: _Source, *, task_status: trio.TaskStatus[None]) -> None:
        """Started once asked. The answer is checked as it arrives, so before the leaves that follow it."""

        def take(_: int, joined: bytes) -> str | None:
            if not self._plan.accept_hashes(joined):
                return LIE
            self._changed.set()
            return None

        async with source.holder.blobs.slots:
            whole = Range(0, self._plan.leaf_count)
            with source.holder.blobs.hashes(self._plan.digest, whole, take) as expected:
                task_status.started()
                await self._finish(source, expected)

    async def _many_hashes(self, source: _Source) -> None:
        """A list of several frames, checked in a worker thread."""
        joined = bytearray()

        def take(_: int, part: bytes) -> str | None:
            source.heard_at = trio.current_time()
            joined.extend(part)
            return None

        for first in range(0, self._plan.leaf_count, limits.HASHES_PER_FRAME):
            wanted = Range(first, min(limits.HASHES_PER_FRAME, self._plan.leaf_count - first))
            async with source.holder.blobs.slots:
                with source.holder.blobs.hashes(self._plan.digest, wanted, take) as expected:
                    await self._finish(source, expected)
        if not await in_thread(self._plan.accept_hashes, bytes(joined)):
            source.failure = LIE
            source.scope.cancel()
            self._lied(source.holder.key)
        self._changed.set()

    async def _leaves(self, source: _Source, first: Range) -> None:
        """One of the requests in flight: range after range while there are any."""

        def take(index: int, leaf: bytes) -> str | None:
            if self._plan.hashes is None:
                return "sent leaves before their hashes"  # a swap of connections can do that: no lie
            if not self._plan.is_missing(index):
                return None
            if not self._plan.accept_leaf(index, leaf):
                return LIE
            source.heard_at = trio.current_time()
            self._sink(index, leaf)
            return None

        wanted: Range | None = first
        while wanted is not None:
            try:
                async with source.holder.blobs.slots:
                    with source.holder.blobs.leaves(self._plan.digest, wanted, take) as expected:
                        await self._finish(source, expected)
            finally:
                self._plan.give_back(wanted)
            wanted = self._plan.take()
        if self._plan.is_done:
            self._changed.set()

    async def _finish(self, source: _Source, expected: Expected) -> None:
        """Wait for the answer, for as long as this holder is heard of; a failure ends all of its requests."""
        source.heard_at = trio.current_time()
        while not expected.done.is_set():
            deadline = source.heard_at + limits.HOLDER_SECONDS_MAX
            if trio.current_time() >= deadline:
                expected.fail(f"fell silent for {limits.HOLDER_SECONDS_MAX:g} s")
                break
            with trio.move_on_at(deadline):
                await expected.done.wait()
        if expected.failure is not None and source.failure is None:
            source.failure = expected.failure
            source.scope.cancel()
            if source.failure == LIE:
                self._lied(source.holder.key)
