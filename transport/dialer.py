"""The one dialer: carries out the plan of whom to dial and when, and tells plan and book how it went.

Not here: the choice (dialing.py), the handshakes (establish.py), and what becomes of a connection (swarm.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from random import Random
from typing import Protocol

import trio

from transport import limits, sockets
from transport.address import Address
from transport.connection import Shaken
from transport.dialback import probe
from transport.dialing import DialFailure, DialPlan, Target
from transport.establish import DialError
from transport.events import BootstrapFailed
from transport.handshake import Bye
from transport.identity import PublicKey
from transport.inbox import Inbox
from transport.log import Log
from transport.machine import unix_seconds
from transport.netgroup import internet_group
from transport.peerbook import Entry, PeerBook
from transport.tcp import TcpStream

_OURS = b""  # the inbox's name for events that concern no peer


class Host(Protocol):
    """What a dialer needs of the swarm."""

    inbox: Inbox
    log: Log
    rng: Random
    bound: Address | None

    def not_to_dial(self) -> Collection[bytes]: ...
    def is_alone(self) -> bool: ...
    def heard_of_twin(self, error: DialError) -> None: ...
    async def establish(
        self, tcp: TcpStream, remote: Address, *, expected: PublicKey | None, is_client: bool, is_probe: bool = False
    ) -> Shaken: ...
    async def run_connection(self, shaken: Shaken) -> None: ...


class Dialer:
    """Of one node. `wake` after anything that may change what is due."""

    def __init__(self, plan: DialPlan, book: PeerBook, host: Host) -> None:
        self.plan = plan
        self._book = book
        self._host = host
        self._changed = trio.Event()
        self._is_alone = False
        self._offered: tuple[frozenset[bytes], int] | None = (
            None  # the members whose addresses the plan knows, as of which book
        )
        self._bootstrap_state: dict[Address, DialFailure | None] = {}

    def wake(self) -> None:
        self._changed.set()

    async def run(self, bootstrap: Sequence[Address]) -> None:
        """Starts what is due, sleeps until something is. Its connections live in tasks of their own."""
        now = trio.current_time()
        # They are there for whoever knows nobody. A book that has reached many gets a moment to do so again.
        waits = self._book.tried >= limits.SEEDED_PEERS_MIN
        for address in bootstrap:
            at = now + limits.SEED_WAIT_SECONDS if waits else now
            self.plan.offer(address, key=None, now=at, is_bootstrap=True)
        for entry in self._book.anchored():
            self.plan.offer(entry.record.address, key=entry.record.key, now=now, is_anchor=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feel_now_and_then)
            while True:
                self._changed = trio.Event()
                looked_at = trio.current_time()
                connected = self._host.not_to_dial()
                self._choose(connected)
                for target in self.plan.due(looked_at, connected):
                    nursery.start_soon(self.dial, target)
                with trio.move_on_at(self.plan.wake_at(connected)):
                    await self._changed.wait()
                    await trio.sleep_until(
                        looked_at + limits.LOOK_SECONDS
                    )  # what changes meanwhile is looked at together

    def keep_anchors(self) -> None:
        """What a restart should dial first goes into the book; where there is no link now, what was there before stays."""
        targets = self.plan.anchors()
        anchors = [e.slot for t in targets for e in self._book.of(t.key or b"") if e.record.address == t.address]
        if anchors:
            self._book.anchors = tuple(anchors)

    def _choose(self, connected: Collection[bytes]) -> None:
        """Offer the plan all members' addresses, and so many strangers' as it has a use for."""
        now = trio.current_time()
        if self._host.is_alone() is not self._is_alone:
            self._is_alone = not self._is_alone
            if self._is_alone:
                self.plan.now_alone(now)
        if (self.plan.members, self._book.changes) != self._offered:
            self._offered = self.plan.members, self._book.changes
            for key in sorted(self.plan.members):  # in one order: a simulation is the same for the same seed
                for entry in self._book.of(key):
                    self.plan.offer(entry.record.address, key=entry.record.key, now=now)
        wanted = self.plan.strangers_wanted(connected)
        if wanted <= 0:
            return
        groups = self.plan.groups(connected)
        for entry in islice(self._book.candidates(self._host.rng), limits.CANDIDATES_SCANNED_MAX):
            address, key = entry.record.address, entry.record.key
            if key in connected or (group := internet_group(address)) in groups:
                continue
            if self.plan.offer(address, key=key, now=now):
                groups |= {group} if group else set()
                wanted -= 1
                if not wanted:
                    return

    async def _feel_now_and_then(self) -> None:
        """A look at an address that nobody has proved, while no links are wanted; and at whose place in the book somebody wants."""
        while True:
            await trio.sleep(limits.FEELER_SECONDS * self._host.rng.uniform(0.5, 1.5))
            connected = self._host.not_to_dial()
            entry = self._book.to_test()
            if entry is not None and entry.record.key in connected:
                self._book.succeeded(entry.record.key, entry.record.address, now=unix_seconds())
                continue
            if entry is None and self.plan.is_full(connected):
                entry = self._book.unproven(connected, self._host.rng)
            if entry is not None:
                await self.feel(entry)

    async def feel(self, entry: Entry) -> None:
        """Whether that node answers there."""
        address, key = entry.record.address, entry.record.key
        target = self.plan.feel(address, key)
        if target is None:
            return
        try:
            await probe(self._host, address, key)
            self._book.succeeded(key, address, now=unix_seconds())
        except DialError as error:
            self._host.heard_of_twin(error)
            if error.bye is not Bye.DUPLICATE and not self._host.is_alone():
                self._book.failed(key, address, now=unix_seconds())
        finally:
            self.plan.felt(target)
            self.wake()

    async def dial(self, target: Target) -> None:
        """One target, and then the connection to its end."""
        try:
            shaken = await self._connect(target)
        except DialError as error:
            self._failed(target, error)
            return
        except BaseException:
            self.plan.abandoned(target)
            raise
        finally:
            self.wake()
        self.plan.succeeded(target, shaken.key, trio.current_time())
        self._book.succeeded(shaken.key, target.address, now=unix_seconds())
        if target.is_bootstrap and self._bootstrap_state.pop(target.address, None) is not None:
            self._host.log.info("bootstrap reached", address=str(target.address))
        await self._host.run_connection(shaken)

    async def _connect(self, target: Target) -> Shaken:
        """TCP, TLS and HELLO with one target; raises DialError."""
        with trio.move_on_after(self.plan.seconds_max(target)):
            tcp, remote = await sockets.connect(target.address)
            return await self._host.establish(tcp, remote, expected=target.key, is_client=True)
        raise DialError(str(target.address), DialFailure.TIMED_OUT, "no answer")

    def _failed(self, target: Target, error: DialError) -> None:
        now = trio.current_time()
        self._host.heard_of_twin(error)
        if error.bye is Bye.DUPLICATE and error.key is not None:
            self.plan.met(target, error.key, now)
            if target.is_bootstrap:
                self._bootstrap_state.pop(target.address, None)
            return
        key, alone = target.key, self._host.is_alone()
        is_given_up = self.plan.failed(target, error.failure, now=now, alone=alone, owner=error.key)
        if key is not None:
            if not alone:  # else the fault is rather our own, and a night without a link costs nobody their place
                self._book.failed(key, target.address, now=unix_seconds())
            if is_given_up:
                self._book.forget(key, target.address)
        if target.is_bootstrap:
            if self._bootstrap_state.get(target.address) is not error.failure:
                self._bootstrap_state[target.address] = error.failure
                self._host.log.warning(
                    "bootstrap failed", address=str(target.address), failure=str(error.failure), reason=error.reason
                )
                self._host.inbox.put_nowait(_OURS, BootstrapFailed(target.address, error.failure, error.reason))
        else:
            self._host.log.info("dial failed", peer=error.name, failure=str(error.failure), reason=error.reason)
