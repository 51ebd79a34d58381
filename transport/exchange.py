"""Peer exchange with all peers together: what of the address book is told to whom, and what is learned from them.

Not here: the frames and who may ask how often (pex.py), the book itself (peerbook.py), and dialing (dialer.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Protocol

import trio

from transport import limits
from transport.address import Address, Scope, may_hear
from transport.connection import Shaken
from transport.dialer import Dialer
from transport.errors import Malformed, RemoteFault
from transport.identity import Identity, PublicKey
from transport.log import Log
from transport.machine import unix_seconds
from transport.peerbook import PeerBook, PeerRecord
from transport.statement import ChainId

if TYPE_CHECKING:
    from transport.session import Session


class Host(Protocol):
    """What the exchange needs of the swarm."""

    identity: Identity
    log: Log
    rng: Random
    bound: Address | None

    @property
    def chain_id(self) -> ChainId | None: ...


class Exchange:
    """Of one node. `sessions` are its peers, as they are at any moment."""

    def __init__(
        self,
        *,
        book: PeerBook,
        dialer: Dialer,
        sessions: Mapping[PublicKey, Session],
        announce: Address | None,
        host: Host,
    ) -> None:
        self._book = book
        self._dialer = dialer
        self._sessions = sessions
        self._announce = announce
        self._host = host
        self._own: dict[Address, PeerRecord] = {}
        self._has_news = trio.Event()

    def pin(self, chain_id: bytes) -> None:
        """Records of other networks are forgotten, our own are signed anew."""
        self._book.keep_only(chain_id)
        self._own.clear()

    def tell(self) -> None:
        """There is something to ask for."""
        self._has_news.set()

    def records_for(self, session: Session, count: int) -> list[PeerRecord]:
        """What to tell a peer that asked."""
        return self._book.select(
            scope=session.scope, exclude=session.key, connected=self._sessions, count=count, rng=self._host.rng
        )

    def learn(self, session: Session, records: Sequence[PeerRecord]) -> None:
        """Take in what a peer told us. A record with a wrong signature proves that it does not check what it relays."""
        for record in records:
            if record.key == self._host.identity.public_key or not may_hear(record.address.scope, session.scope):
                continue
            known = self._book.get(record.key, record.address.scope)
            if known is not None and known.record.sequence >= record.sequence:
                continue
            if not session.pex.may_tell(trio.current_time()):
                return
            try:
                self._add_record(record)
            except Malformed as error:
                raise RemoteFault(session.name, f"it relayed {error}", proven=True) from None

    def take_record(self, session: Session, shaken: Shaken) -> None:
        """A peer's own record, from its HELLO."""
        if shaken.direction == "outbound":
            session.listens_at(shaken.remote)
        record = shaken.said.record
        if record is None or not may_hear(record.address.scope, shaken.remote.scope):
            return
        session.listens_at(record.address)
        try:
            self._add_record(record)
        except Malformed as error:
            self._host.log.warning("record refused", peer=session.name, reason=str(error))
            return
        if shaken.direction == "outbound" and shaken.remote == record.address:
            self._book.succeeded(record.key, record.address, now=unix_seconds())

    def _add_record(self, record: PeerRecord) -> None:
        if self._book.add(record, chain_id=self._host.chain_id, now=unix_seconds()):
            self._dialer.plan.offer(record.address, key=record.key, now=trio.current_time())
            self._dialer.wake()
            if record.key in self._sessions:
                self._has_news.set()

    def own_record(self, local: Address, scope: Scope) -> PeerRecord | None:
        """The record of this node to show on a connection whose own end is `local`, from `scope`."""
        if self._host.bound is None:
            return None
        address = self._announce or self._host.bound
        if address.ip is None or address.is_wildcard:
            address = replace(local, port=self._host.bound.port)
        if not may_hear(address.scope, scope):
            return None
        if address not in self._own:
            sequence = int(unix_seconds() * 1000)
            signed = PeerRecord.sign(self._host.identity, self._host.chain_id, sequence=sequence, address=address)
            self._own[address] = signed
        return self._own[address]

    async def tell_news(self) -> None:
        """Hint to everybody that there is something to ask for: at once, and then not too often."""
        while True:
            await self._has_news.wait()
            self._has_news = trio.Event()
            for session in self._sessions.values():
                session.outbox.push(session.pex.news())
            await trio.sleep(limits.NEWS_SECONDS)

    async def ask_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.PEX_ASK_SECONDS * self._host.rng.uniform(0.8, 1.2))
            for session in self._sessions.values():
                session.ask_for_peers()
