"""Carrying out a fetch: range by range from several holders at once, until all is here or nobody is left to ask.

A holder that refuses, lies or falls silent is left aside for this fetch, and its leaves go to the next one; so does one
that is slower than a modem, for as long as there is another to try. Who kept us waiting is asked last by the fetches of the next minute, so
that a member that answers nobody delays one payload, and not each. At the end, leaves that somebody keeps us waiting
for are asked of a second holder, so nobody can stall a fetch by dripping the last of it. The first holder is asked for
the leaf hashes and for leaves in the same breath, so a small blob takes one round trip.

Of a long blob others may hold parts, because they fetch it too (sharing.py). The first holder is taken to hold everything until it says
otherwise; whoever comes later is asked what it holds, again and again until that is everything. Whoever asks us is asked as well.

What is kept in memory is verified leaf by leaf as it comes. What goes into a file is verified in the thread that writes it,
one request's leaves at a time: hashing takes as long as decrypting, and a large blob keeps two cores busy that way.

Rule for editing: what is in memory at any moment is what a few holders were asked for, whatever the length of the blob.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from transport import limits
from transport.blobs import NOT_HELD, BlobClient, Expected, decode_held
from transport.content import Buffer
from transport.errors import RequestFailed
from transport.identity import PublicKey, short_id
from transport.log import Log
from transport.machine import in_thread
from transport.sharing import Held, Read, Shared, Sharing
from transport.transfer import FetchPlan, Range

Leaves = list[tuple[int, Buffer]]
Sink = Callable[[Leaves], None]
LIE = "lied: what it sent does not match the digest"
SILENT = f"fell silent for {limits.HOLDER_SECONDS_MAX:g} s"
SLOW = f"slower than {limits.HOLDER_BYTES_PER_SECOND_MIN // limits.KIB} KiB/s"


class Holder(Protocol):
    """A connected peer, as far as a fetch is concerned."""

    @property
    def key(self) -> PublicKey: ...
    @property
    def blobs(self) -> BlobClient: ...


@dataclass(slots=True)
class _Source:
    """One holder in one fetch. Its speed is measured over stretches of RATE_SECONDS."""

    holder: Holder
    heard_at: float
    stretch_began: float
    stretch_bytes: int = 0
    range_seconds: float | None = None
    in_flight: int = 0  # requests for leaves
    owed: set[Expected] = field(default_factory=set)
    failure: str | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def heard(self, piece: Buffer) -> None:
        self.heard_at = trio.current_time()
        self.stretch_bytes += len(piece)

    def took(self, seconds: float) -> None:
        """For one range, on average: the older a measurement, the less it counts."""
        self.range_seconds = seconds if self.range_seconds is None else 0.75 * self.range_seconds + 0.25 * seconds

    @property
    def patience_seconds(self) -> float:
        """How long another may keep a range before this holder is asked for it too: twice what this one would take."""
        if self.range_seconds is None:
            return limits.PATIENCE_SECONDS_MAX
        return min(max(2 * self.range_seconds, limits.PATIENCE_SECONDS_MIN), limits.PATIENCE_SECONDS_MAX)


class Fetch:
    """One blob on its way. `lied` is called with the key of a holder that is proven to have lied, `stalled` of one that kept us waiting.

    `sink` gets verified leaves; where it is `blocking`, in a worker thread.
    """

    def __init__(
        self,
        plan: FetchPlan,
        *,
        holders: Callable[[], Sequence[Holder]],
        sink: Sink,
        blocking: bool = False,
        lied: Callable[[PublicKey], None],
        stalled: Callable[[PublicKey], None],
        log: Log,
    ) -> None:
        self._plan = plan
        self._holders = holders
        self._sink = sink
        self._blocking = blocking
        self._lied = lied
        self._stalled = stalled
        self._log = log
        self._failed: dict[PublicKey, str] = {}
        self._slow: set[PublicKey] = set()
        self._active: dict[PublicKey, _Source] = {}
        self._broken: Exception | None = None
        self._changed = trio.Event()
        self._sharing: Sharing | None = None
        self._shared: Shared | None = None

    def share(self, sharing: Sharing, read: Read, *, me: bytes) -> Shared | None:
        """Serve what has come to others who fetch it; None where another fetch does that already. Said before `run`."""
        shared = Shared(read, on_fellow=self._met, hashes=self._plan.hashes, held=self._plan.held())
        if not sharing.begin(self._plan.digest, shared):
            return None
        self._sharing, self._shared = sharing, shared
        self._plan.share(me)
        return shared

    @property
    def fellows(self) -> Sequence[PublicKey]:
        """Who fetches the same."""
        return () if self._shared is None else tuple(self._shared.fellows)

    def _met(self, key: PublicKey) -> None:
        """Another fellow: it holds something, or soon will."""
        self._plan.met(key)
        if self._failed.get(key) == NOT_HELD:
            del self._failed[key]
        self._fire()

    def _grew(self) -> None:
        """Verified leaves have reached the sink."""
        if self._shared is not None and self._sharing is not None:
            self._shared.hashes = self._plan.hashes
            self._sharing.grew(self._shared, self._plan.held())

    async def run(self) -> None:
        """Raises RequestFailed once every holder was asked in vain, and what the sink raises. Cancellable everywhere."""
        plan = self._plan
        if plan.leaf_count == 0 and not plan.accept_hashes(b""):
            raise RequestFailed("an empty blob has another digest")
        async with trio.open_nursery() as nursery:
            while not plan.is_done and self._broken is None:
                self._recruit(nursery)
                if not self._active:
                    break
                changed = self._changed
                with trio.move_on_at(self._silent_at()):
                    await changed.wait()
                self._watch()
            self._name_the_late()
            nursery.cancel_scope.cancel()
        if self._broken is not None:
            raise self._broken
        if not plan.is_done:
            tried = ", ".join(f"{short_id(key)} {why}" for key, why in self._failed.items())
            raise RequestFailed(
                f"nobody left to ask for {plan.digest.hex()[:12]} ({tried or 'no holder is connected'})"
            )

    def _silent_at(self) -> float:
        """When to look after the holders again."""
        now = trio.current_time()
        silent = (each.heard_at + limits.HOLDER_SECONDS_MAX for each in self._active.values() if each.owed)
        return min(now + limits.RATE_SECONDS / 4, *silent, now + limits.HOLDER_SECONDS_MAX)

    def _watch(self) -> None:
        """Whoever owes something and was not heard of for too long has failed."""
        now = trio.current_time()
        for source in self._active.values():
            if source.owed and now >= source.heard_at + limits.HOLDER_SECONDS_MAX:
                for expected in tuple(source.owed):
                    expected.fail(SILENT)
        if not any(each.owed for each in self._active.values()):
            for source in self._active.values():
                if now >= source.heard_at + limits.FELLOW_SECONDS_MAX:
                    source.failure = source.failure or f"had nothing more for {limits.FELLOW_SECONDS_MAX:g} s"
                    source.scope.cancel()

    def _name_the_late(self) -> None:
        """At the end of it: who owes something still that others have brought."""
        now = trio.current_time()
        for key, source in self._active.items():
            if source.owed and now >= source.heard_at + limits.PATIENCE_SECONDS_MIN:
                self._stalled(key)

    def _fire(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- whom to ask --------------------------------------------------------------------------------------------------

    def _recruit(self, nursery: trio.Nursery) -> None:
        """Ask further holders: one until the hashes are known, then several."""
        most = 1 if self._plan.hashes is None else limits.HOLDERS_AT_ONCE
        fresh = self._fresh()
        if fresh:
            self._set_aside_the_slow()
        elif not self._active and self._slow:  # better slow than not at all
            self._slow.clear()
            fresh = self._fresh()
        if self._plan.hashes is not None and not self._plan.has_work and self._active:
            return
        now = trio.current_time()
        for holder in fresh[: max(0, most - len(self._active))]:
            source = _Source(holder, heard_at=now, stretch_began=now)
            if self._plan.is_shared and self._active:
                self._plan.holds(holder.key, Held())
            self._active[holder.key] = source
            nursery.start_soon(self._draw, source)

    def _fresh(self) -> list[Holder]:
        """Holders that may be asked and are not, each once, however often it was named."""
        left = [self._failed, self._slow, self._active]
        each = {holder.key: holder for holder in self._holders()}
        return [holder for holder in each.values() if not any(holder.key in those for those in left)]

    def _set_aside_the_slow(self) -> None:
        """Whoever delivers less than the least rate makes room for one that was not tried yet."""
        now = trio.current_time()
        for source in self._active.values():
            elapsed = now - source.stretch_began
            if elapsed < limits.RATE_SECONDS:
                continue
            if source.stretch_bytes < elapsed * limits.HOLDER_BYTES_PER_SECOND_MIN:
                source.failure = source.failure or SLOW
                source.scope.cancel()
            source.stretch_began, source.stretch_bytes = now, 0

    async def _draw(self, source: _Source) -> None:
        """Everything with one holder: the hashes if nobody has them yet, and ranges, several in flight."""
        with source.scope:
            await self._draw_all(source)
        key = source.holder.key
        del self._active[key]
        self._plan.lost(key)
        if source.failure == SLOW:
            self._slow.add(key)
        elif source.failure is not None:
            self._failed[key] = source.failure
        if source.failure in (SILENT, SLOW):
            self._stalled(key)
        if source.failure is not None:
            self._log.info("fetch source failed", peer=short_id(key), reason=source.failure)
        self._fire()

    async def _draw_all(self, source: _Source) -> None:
        async with trio.open_nursery() as nursery:
            if self._plan.hashes is None:
                if self._plan.leaf_count > limits.HASHES_ON_LOOP_MAX:
                    await self._many_hashes(source)
                else:
                    await nursery.start(self._few_hashes, source)
            if self._plan.is_shared:
                nursery.start_soon(self._follow, source)
            await self._leaves_in_turn(source, nursery)

    async def _follow(self, source: _Source) -> None:
        """Ask what it holds, until that is everything."""
        key, known = source.holder.key, 0
        said = Held()

        def take(_: int, bits: Buffer) -> str | None:
            nonlocal said
            said = decode_held(bits)
            return None

        while not said.is_whole:
            with source.holder.blobs.held(self._plan.digest, known, take) as expected:
                await expected.done.wait()
            if expected.failure is not None:
                source.failure = source.failure or expected.failure
                source.scope.cancel()
                return
            known = max(known + 1, said.count)
            if not said.is_whole and self._shared is not None:
                self._shared.met(key)
            if self._plan.holds(key, said):
                source.heard_at = trio.current_time()
                self._fire()

    # --- hashes -------------------------------------------------------------------------------------------------------

    async def _few_hashes(self, source: _Source, *, task_status: trio.TaskStatus[None]) -> None:
        """Started once asked. The answer is checked as it arrives, so before the leaves that follow it."""

        def take(_: int, joined: Buffer) -> str | None:
            source.heard(joined)
            if not self._plan.accept_hashes(bytes(joined)):
                return LIE
            self._fire()
            return None

        async with source.holder.blobs.slots:
            whole = Range(0, self._plan.leaf_count)
            with source.holder.blobs.hashes(self._plan.digest, whole, take) as expected:
                task_status.started()
                await self._finish(source, expected)

    async def _many_hashes(self, source: _Source) -> None:
        """A list of several frames, checked in a worker thread."""
        joined = bytearray()

        def take(_: int, part: Buffer) -> str | None:
            source.heard(part)
            joined.extend(part)
            return None

        for first in range(0, self._plan.leaf_count, limits.HASHES_PER_FRAME):
            wanted = Range(first, min(limits.HASHES_PER_FRAME, self._plan.leaf_count - first))
            async with source.holder.blobs.slots:
                with source.holder.blobs.hashes(self._plan.digest, wanted, take) as expected:
                    await self._finish(source, expected)
        if not await in_thread(self._plan.accept_hashes, bytes(joined)):
            self._caught(source)
        self._fire()

    # --- leaves -------------------------------------------------------------------------------------------------------

    async def _leaves_in_turn(self, source: _Source, nursery: trio.Nursery) -> None:
        """Request after request, several in flight, until all is here."""
        plan, key = self._plan, source.holder.key
        while not plan.is_done:
            now, patience = trio.current_time(), source.patience_seconds
            has_room = source.in_flight < self._requests(source)
            wanted = plan.take(key, now=now, patience_seconds=patience) if has_room else None
            if wanted is not None:
                source.in_flight += 1
                nursery.start_soon(self._request, source, wanted)
                continue
            changed = self._changed
            overdue_at = plan.overdue_at(key, patience_seconds=patience) if has_room else None
            with trio.move_on_at(now + 3600 if overdue_at is None else overdue_at):
                await changed.wait()

    def _requests(self, source: _Source) -> int:
        """How many at once. Of a blob that others fetch too, no more than it takes: what is asked of one could come from another."""
        if not self._plan.is_shared:
            return limits.REQUESTS_PER_HOLDER
        most = limits.REQUESTS_PER_HOLDER * (1 if self._plan.group_leaves == limits.LEAVES_PER_REQUEST else 2)
        if source.range_seconds is None:
            return limits.REQUESTS_MIN
        return max(limits.REQUESTS_MIN, min(most, int(most * limits.FLIGHT_SECONDS / max(source.range_seconds, 1e-3))))

    async def _request(self, source: _Source, wanted: Range) -> None:
        began = trio.current_time()
        try:
            await self._leaves(source, wanted)
            source.took(trio.current_time() - began)
        finally:
            source.in_flight -= 1
            self._plan.give_back(wanted, source.holder.key)
            self._fire()

    async def _leaves(self, source: _Source, wanted: Range) -> None:
        """Ask for a range; each leaf is checked, and what is true goes to the sink."""
        arrived: Leaves = []
        seen: set[int] = set()

        def take(index: int, leaf: Buffer) -> str | None:
            if self._plan.hashes is None:
                return "sent leaves before their hashes"  # a swap of connections can do that: no lie
            if index not in wanted or index in seen:
                return "sent a leaf that it was not asked for"
            seen.add(index)
            source.heard(leaf)
            if self._plan.is_missing(index):
                if not self._blocking and not self._plan.accept_leaf(index, leaf):
                    return LIE
                arrived.append((index, leaf))
            return None

        try:
            async with source.holder.blobs.slots:
                with source.holder.blobs.leaves(self._plan.digest, wanted, take) as expected:
                    await self._finish(source, expected)
        finally:
            if arrived:  # they count as held, also where the holder failed after them
                await self._give(source, arrived)
                self._grew()

    async def _give(self, source: _Source, arrived: Leaves) -> None:
        with trio.CancelScope(shield=True):
            try:
                if not self._blocking:
                    self._sink(arrived)
                elif not await self._check_and_write(arrived):
                    self._caught(source)
            except Exception as error:  # a full disk, most likely: no holder's fault, and the end of this fetch
                self._broken = error
                self._fire()

    async def _check_and_write(self, arrived: Leaves) -> bool:
        """Whether all of them are true; those that are stand in the file then."""

        def work() -> Leaves:
            true = [(index, leaf) for index, leaf in arrived if self._plan.is_leaf(index, leaf)]
            self._sink(true)
            return true

        true = await in_thread(work)
        for index, _ in true:
            self._plan.hold(index)
        return len(true) == len(arrived)

    def _caught(self, source: _Source) -> None:
        """It lied: nothing more is asked of it, and that is what it is remembered for, whatever else it failed in."""
        if source.failure != LIE:
            source.failure = LIE
            source.scope.cancel()
            self._lied(source.holder.key)

    async def _finish(self, source: _Source, expected: Expected) -> None:
        """Wait for the answer, for as long as `_watch` lets us; a failure ends all of this holder's requests."""
        source.heard_at = trio.current_time()
        source.owed.add(expected)
        try:
            await expected.done.wait()
        finally:
            source.owed.discard(expected)
        if expected.failure == LIE:
            self._caught(source)
        elif expected.failure is not None and source.failure is None:
            source.failure = expected.failure
            source.scope.cancel()
