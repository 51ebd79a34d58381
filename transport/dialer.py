"""The one dialer: carries out the plan of whom to dial and when, and tells plan and book how it went.

Not here: the choice (dialing.py), the handshakes (establish.py), and what becomes of a connection (swarm.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import trio

from transport import sockets
from transport.address import Address
from transport.connection import Shaken
from transport.dialing import DialFailure, DialPlan, Target
from transport.establish import DialError
from transport.events import BootstrapFailed
from transport.handshake import Bye
from transport.identity import PublicKey
from transport.inbox import Inbox
from transport.log import Log
from transport.machine import unix_seconds
from transport.peerbook import PeerBook
from transport.tcp import TcpStream

_OURS = b""  # the inbox's name for events that concern no peer


class Host(Protocol):
    """What a dialer needs of the swarm."""

    inbox: Inbox
    log: Log

    def not_to_dial(self) -> Collection[bytes]: ...
    def is_alone(self) -> bool: ...
    def heard_of_twin(self, error: DialError) -> None: ...
    async def establish(
        self, tcp: TcpStream, remote: Address, *, expected: PublicKey | None, is_client: bool
    ) -> Shaken: ...
    async def run_connection(self, shaken: Shaken) -> None: ...


class Dialer:
    """Of one node. `wake` after anything that may change what is due."""

    def __init__(self, plan: DialPlan, book: PeerBook, host: Host) -> None:
        self.plan = plan
        self._book = book
        self._host = host
        self._changed = trio.Event()
        self._bootstrap_state: dict[Address, DialFailure | None] = {}

    def wake(self) -> None:
        self._changed.set()

    async def run(self, bootstrap: Sequence[Address]) -> None:
        """Starts what is due, sleeps until something is. Its connections live in tasks of their own."""
        now = trio.current_time()
        for address in bootstrap:
            self.plan.offer(address, key=None, now=now, is_bootstrap=True)
        for entry in self._book:
            self.plan.offer(entry.record.address, key=entry.record.key, now=now)
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                connected = self._host.not_to_dial()
                for target in self.plan.due(trio.current_time(), connected):
                    nursery.start_soon(self.dial, target)
                with trio.move_on_at(self.plan.wake_at(connected)):
                    await self._changed.wait()

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
            tcp = await sockets.connect(target.address)
            remote = sockets.peer_of(tcp.socket)
            if remote is None:
                await trio.aclose_forcefully(tcp)
                raise DialError(str(target.address), DialFailure.CLOSED, "it closed the connection at once")
            return await self._host.establish(tcp, remote, expected=target.key, is_client=True)
        raise DialError(str(target.address), DialFailure.TIMED_OUT, "no answer")

    def _failed(self, target: Target, error: DialError) -> None:
        now = trio.current_time()
        self._host.heard_of_twin(error)
        if error.bye is Bye.DUPLICATE and error.key is not None:
            self.plan.succeeded(target, error.key, now)
            if target.is_bootstrap:
                self._bootstrap_state.pop(target.address, None)
            return
        key = target.key
        is_given_up = self.plan.failed(target, error.failure, now=now, alone=self._host.is_alone())
        if key is not None:
            self._book.failed(key, target.address)
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
