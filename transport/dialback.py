"""Dialing back: this node asks peers whether they can reach it, and tries it for those that ask.

What it is: the tasks around reachability.py, one object for each node. What it is not: a dialer of links (dialer.py); a probe is a
whole handshake, and then BYE. `probe` is for whoever wants to know if a certain node answers at an address.

Rule for editing: a node dials for a stranger only where that stranger is connected from. Never an address that somebody names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Protocol, assert_never

import trio

from transport import limits, sockets
from transport.address import Address
from transport.connection import Shaken
from transport.dialing import DialFailure
from transport.establish import DialError
from transport.events import ReachabilityChanged
from transport.handshake import Bye, encode_bye
from transport.identity import PublicKey
from transport.inbox import Inbox
from transport.log import Log
from transport.machine import unix_seconds
from transport.reachability import Reach, Reachability, Result, Verdict, decode_question, encode_answer
from transport.tcp import TcpStream

if TYPE_CHECKING:
    from transport.session import Session

_OURS = b""  # the inbox's name for events that concern no peer


class Prober(Protocol):
    """Whoever can shake hands."""

    async def establish(
        self, tcp: TcpStream, remote: Address, *, expected: PublicKey | None, is_client: bool, is_probe: bool = False
    ) -> Shaken: ...


class Host(Prober, Protocol):
    """What dialing back needs of the swarm."""

    inbox: Inbox
    log: Log
    rng: Random
    bound: Address | None

    def learned_address(self, address: Address) -> None:
        """Strangers can dial this node there, as it has learned from them."""


class DialBack:
    """Of one node. `sessions` are its peers, as they are at any moment."""

    def __init__(self, *, announce: Address | None, sessions: Mapping[PublicKey, Session], host: Host) -> None:
        self.reachability = Reachability(host.rng, announced=announce)
        self._announce = announce
        self._sessions = sessions
        self._host = host
        self._changed = trio.Event()
        self._told = Reach(Verdict.UNKNOWN)
        self._own: Address | None = None
        self._under_way = 0
        self._nursery: trio.Nursery | None = None

    def reach(self) -> Reach:
        """What is known; while peers are asked again, what was known before."""
        reach = self.reachability.reach()
        return reach if self._told.verdict is Verdict.UNKNOWN or not reach.asked else self._told

    # --- What the swarm says ----------------------------------------------------------------------------------------

    def met(self, session: Session, shaken: Shaken) -> None:
        self.reachability.met(session.key, remote=shaken.remote, seen=shaken.said.seen, now=trio.current_time())
        self._changed.set()

    def lost(self, key: PublicKey) -> None:
        self.reachability.lost(key)
        self._changed.set()

    async def receive_probe(self, shaken: Shaken) -> None:
        """Somebody wanted to know whether this node answers, and knows now."""
        self.reachability.came(shaken.key, trio.current_time())
        self._changed.set()
        await _hear_out(shaken)

    # --- Frames -----------------------------------------------------------------------------------------------------

    def asked(self, session: Session, body: bytes) -> None:
        """A peer wants to be dialed back; raises Malformed."""
        nonce, port = decode_question(body)
        is_within = session.dial_backs.take(trio.current_time())
        if self._nursery is None or not is_within or self._under_way >= limits.DIAL_BACKS_AT_ONCE:
            session.outbox.push(encode_answer(nonce, Result.BUSY, unix_seconds()))
            return
        self._under_way += 1
        self._nursery.start_soon(self._serve, session, nonce, replace(session.remote, port=port))

    def answered(self, session: Session, body: bytes) -> None:
        """A peer has tried; raises Malformed."""
        self.reachability.answered(session.key, body, unix_seconds=unix_seconds())
        self._changed.set()

    # --- Tasks ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask whom it is time to ask, and tell the node when the answers have changed what is known."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                self._changed = trio.Event()
                self._ask()
                self._tell()
                with trio.move_on_at(self.reachability.wake_at(trio.current_time())):
                    await self._changed.wait()

    def _ask(self) -> None:
        port = (self._announce or self._host.bound or Address("", 0)).port
        now = trio.current_time()
        for key in self.reachability.whom(now) if port else ():
            frame = self.reachability.ask(key, port=port, now=now)
            self._sessions[PublicKey(key)].outbox.push(frame)

    def _tell(self) -> None:
        """Once nobody is waited for, so that the first of three answers is not taken for all."""
        reach, told = self.reachability.reach(), self._told
        if not reach.asked:
            self._told = reach
            if (reach.verdict, reach.scope, reach.address) != (told.verdict, told.scope, told.address):
                self._host.inbox.put_nowait(_OURS, ReachabilityChanged(reach))
        own = self.reachability.own_address()
        if own is not None and own != self._own:
            self._own = own
            self._host.learned_address(own)

    async def _serve(self, session: Session, nonce: int, address: Address) -> None:
        try:
            result = await self._try(session.key, address)
        finally:
            self._under_way -= 1
        self._host.log.debug("dialed back", peer=session.name, address=str(address), result=result.name.lower())
        session.outbox.push(encode_answer(nonce, result, unix_seconds()))

    async def _try(self, key: PublicKey, address: Address) -> Result:
        try:
            await probe(self._host, address, key)
        except DialError as error:
            return _result(error.failure)
        return Result.REACHED


async def probe(host: Prober, address: Address, key: PublicKey) -> None:
    """Whether this very node answers there: all the handshakes, and BYE. Raises DialError where it does not."""
    tcp, remote = await sockets.connect(address)
    shaken = await host.establish(tcp, remote, expected=key, is_client=True, is_probe=True)
    await _hear_out(shaken, say=encode_bye(Bye.LEAVING, "only a probe"))


async def _hear_out(shaken: Shaken, *, say: bytes = b"") -> None:
    """The end of a probe. The dialer's last words must not be lost in a reset, so it waits until the other end has closed."""
    try:
        with trio.move_on_after(limits.PROBE_SECONDS_MAX):
            if say:
                await shaken.stream.send_all(say)
            await shaken.stream.receive_some(limits.HELLO_BYTES_MAX)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(shaken.stream)


def _result(failure: DialFailure) -> Result:
    match failure:
        case DialFailure.REFUSED:
            return Result.REFUSED
        case DialFailure.TIMED_OUT:
            return Result.TIMED_OUT
        case DialFailure.UNREACHABLE:
            return Result.UNREACHABLE
        case (
            DialFailure.BAD_CERTIFICATE
            | DialFailure.WRONG_NETWORK
            | DialFailure.INCOMPATIBLE_VERSION
            | DialFailure.MYSELF
            | DialFailure.TWIN
            | DialFailure.CLOSED
        ):
            return Result.ANOTHER
        case DialFailure.FULL:
            return Result.BUSY
        case _:
            assert_never(failure)
