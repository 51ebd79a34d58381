"""Peer exchange with all peers together: what of the address book is told to whom, and what is learned from them.

A stranger on the internet is told of a part of what we know, and his neighbours of the same part for a day: nobody maps the
network by asking again, or from many addresses. A peer of this machine or site is told of anybody.

Not here: the frames and who may ask how often (pex.py), the book itself (peerbook.py), and dialing (dialer.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Protocol

import trio

from transport import limits, sockets
from transport.address import Address, Scope, may_hear
from transport.buckets import Slot
from transport.connection import Shaken
from transport.dialer import Dialer
from transport.errors import Malformed, RemoteFault
from transport.establish import DialError
from transport.identity import Identity, PublicKey
from transport.log import Log
from transport.machine import unix_seconds
from transport.netgroup import netgroup
from transport.peerbook import PeerBook, PeerRecord
from transport.ratelimit import TokenBucket
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
    def own_address(self) -> Address | None: ...


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
        self._looked_up: Address | None = None  # where the operator announces a name
        self._host = host
        self._own: dict[Address, PeerRecord] = {}
        self._answers = Answers(host.rng)
        self._shares: dict[bytes, TokenBucket] = {}  # by netgroup: reconnecting gives nobody a new share
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
        alive = self._book.alive(scope=session.scope, connected=self._sessions)
        if session.scope is Scope.GLOBAL:
            group, now = netgroup(session.remote), trio.current_time()
            alive = self._answers.of(group, alive, members=self._book.members, now=now)
        if (own := self._learned_record(session.scope)) is not None:
            alive = [own, *alive]
        told = session.pex.unseen((record for record in alive if record.key != session.key), trio.current_time())
        if len(told) > count:  # members, without whom nobody joins; and of the others any
            self._host.rng.shuffle(told)
            told = sorted(told, key=lambda record: record.key not in self._book.members)[:count]
        session.pex.show(told, trio.current_time())
        return told

    def learn(self, session: Session, records: Sequence[PeerRecord]) -> None:
        """Take in what a peer told us. A record with a wrong signature proves that it does not check what it relays."""
        session.pex.show(records, trio.current_time())
        for record in records:
            if record.key == self._host.identity.public_key or not may_hear(record.address.scope, session.scope):
                continue
            known = self._book.get(record.key, record.address.scope)
            is_known = known is not None and known.record.sequence >= record.sequence
            if not is_known and not self._may_tell(session, trio.current_time()):
                return
            try:
                self._add_record(record, source=session.remote)
            except Malformed as error:
                raise RemoteFault(session.name, f"it relayed {error}", proven=True) from None
            if record.key == session.key:  # it has learned its own address since its HELLO
                session.listens_at(record.address)

    def take_record(self, session: Session, shaken: Shaken) -> None:
        """A peer's own record, from its HELLO."""
        if shaken.direction == "outbound":
            session.listens_at(shaken.remote)
        record = shaken.said.record
        if record is None or not may_hear(record.address.scope, shaken.remote.scope):
            return
        try:
            self._add_record(record, source=shaken.remote)
        except Malformed as error:
            self._host.log.warning("record refused", peer=session.name, reason=str(error))
            return
        session.listens_at(record.address)
        if shaken.direction == "outbound" and shaken.remote == record.address:
            self._book.succeeded(record.key, record.address, now=unix_seconds())

    def _add_record(self, record: PeerRecord, *, source: Address) -> None:
        if self._book.add(record, source=source, chain_id=self._host.chain_id, now=unix_seconds()):
            self._dialer.wake()
            if record.key in self._sessions:
                self._has_news.set()

    def _may_tell(self, session: Session, now: float) -> bool:
        """Whether one more record of this peer may enter the book."""
        if session.scope is not Scope.GLOBAL:
            return session.pex.may_tell(now)
        group = netgroup(session.remote)
        share = self._shares.pop(group, None) or TokenBucket(
            per_second=limits.RECORDS_PER_SOURCE_PER_SECOND, burst=limits.RECORDS_PER_SOURCE_BURST, now=now
        )
        self._shares[group] = share
        if len(self._shares) > limits.SOURCES_MAX:
            del self._shares[next(iter(self._shares))]
        return share.take(now)

    def own_record(self, local: Address, scope: Scope) -> PeerRecord | None:
        """The record of this node to show on a connection whose own end is `local`, from `scope`."""
        if self._host.bound is None:
            return None
        address = self._looked_up or self._announce or self._host.bound
        if address.ip is None or address.is_wildcard:
            address = replace(local, port=address.port)
        return self._signed(address) if may_hear(address.scope, scope) else self._learned_record(scope)

    def _learned_record(self, scope: Scope) -> PeerRecord | None:
        """Ours at the address that peers have shown us (reachability.py), or at that of our name: most HELLOs came too early to carry it."""
        learned = self._looked_up if self._announce is not None else self._host.own_address()
        return self._signed(learned) if learned is not None and may_hear(learned.scope, scope) else None

    def _signed(self, address: Address) -> PeerRecord:
        if address not in self._own:
            if len(self._own) >= limits.OWN_RECORDS_MAX:
                self._own.clear()
            sequence = int(unix_seconds() * 1000)
            signed = PeerRecord.sign(self._host.identity, self._host.chain_id, sequence=sequence, address=address)
            self._own[address] = signed
        return self._own[address]

    async def tell_news(self) -> None:
        """Hint to everybody that there is something to ask for: at once, and then not too often.

        The more peers, the less often: what a meeting of many nodes costs each of them in a second has a bound.
        """
        while True:
            await self._has_news.wait()
            self._has_news = trio.Event()
            for session in self._sessions.values():
                session.outbox.push(session.pex.news())
            await trio.sleep(max(limits.NEWS_SECONDS, len(self._sessions) / limits.NEWS_PER_SECOND))

    async def look_up_own_name(self) -> None:
        """Records carry numbers. A name that the operator announces may get another one, as those of homes do."""
        while self._announce is not None and self._announce.ip is None:
            try:
                found = await sockets.look_up(self._announce)
            except DialError as error:
                self._host.log.warning("own name not found", announce=error.name, reason=error.reason)
            else:
                if found != self._looked_up:
                    self._looked_up = found
                    self.tell()
            await trio.sleep(limits.LOOK_UP_SECONDS)

    async def ask_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.PEX_ASK_SECONDS * self._host.rng.uniform(0.8, 1.2))
            for session in self._sessions.values():
                session.ask_for_peers()
            self._dialer.wake()


class Answers:
    """What strangers on the internet are told, by their netgroup: of all members, who are on the chain anyway, and of a part of the others.

    Of the others, who has gone is replaced; nobody else changes for a day. Members take nobody's place: strangers whom nobody is told of
    would be linked to members alone, and to whom those are is no limit.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._given: dict[bytes, tuple[float, tuple[Slot, ...]]] = {}

    def of(
        self, group: bytes, alive: Sequence[PeerRecord], *, members: Collection[bytes], now: float
    ) -> list[PeerRecord]:
        """Of the living those that this netgroup hears of."""
        others = {(record.key, record.address.scope): record for record in alive if record.key not in members}
        since, given = self._given.pop(group, (now, ()))
        if now - since > limits.ANSWER_SECONDS:
            since, given = now, ()
        kept = dict.fromkeys(slot for slot in given if slot in others)
        fresh = [slot for slot in others if slot not in kept]
        self._rng.shuffle(fresh)
        share = max(limits.ANSWER_RECORDS_MIN, len(others) * limits.ANSWER_PERCENT // 100)
        slots = tuple([*kept, *fresh][: min(limits.RECORDS_PER_RESPONSE_MAX, share)])
        self._given[group] = since, slots
        if len(self._given) > limits.ANSWERS_MAX:
            del self._given[next(iter(self._given))]
        return [*(record for record in alive if record.key in members), *(others[slot] for slot in slots)]
