"""All peers together: listening, dialing, admission, duplicates, and the node's calls.

Read `run` first. Every connection lives in a task of its own that catches what goes wrong with it: one peer's failure
never reaches another's. Elsewhere: dialer.py and dialing.py (whom and when), exchange.py, pex.py and peerbook.py (who is out
there), handshake.py, session.py (what a frame does), transfer.py and fetch.py (blobs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from random import Random

import trio

from transport import limits, sockets
from transport.address import Address
from transport.admission import Admission, Doorway, Refusal
from transport.ban import Ban
from transport.connection import Connection, Shaken, Traffic
from transport.content import Buffer, leaf_count
from transport.dialback import DialBack
from transport.dialer import Dialer
from transport.dialing import DialFailure, DialPlan
from transport.envelope import SeenCache
from transport.errors import RequestFailed
from transport.establish import Admit, DialError, Introduction, establish
from transport.events import (
    PeerConnected,
    PeerDisconnected,
    PeerInfo,
    Statistics,
    TwinSeen,
)
from transport.exchange import Exchange
from transport.fetch import Fetch, Sink
from transport.handshake import Bye
from transport.identity import Identity, PublicKey, short_id
from transport.inbox import Inbox
from transport.log import Log
from transport.machine import random_bytes
from transport.pacing import Pacer
from transport.peerbook import PeerBook
from transport.ratelimit import TokenBucket
from transport.reachability import Reach
from transport.refusals import Refusals
from transport.requests import RequestHandler
from transport.session import Session
from transport.sharing import BlobSource, Read, Sharing
from transport.statement import ChainId
from transport.tcp import TcpListener, TcpStream
from transport.tls import TlsPeer, tls_identity
from transport.transfer import FetchPlan

_OURS = b""  # the inbox's name for events that concern no peer


class Swarm:
    """Peers of one node. Create it, `await nursery.start(swarm.run)`, iterate over `events`."""

    def __init__(
        self,
        *,
        identity: Identity,
        listen: Address | None,
        listen_fallback: bool,
        announce: Address | None,
        bootstrap: Sequence[Address],
        book: PeerBook,
        chain_id: bytes | None,
        handler: RequestHandler,
        blobs: BlobSource,
        log: Log,
        upload_bytes_per_second: float = math.inf,
    ) -> None:
        self.pacer = Pacer(upload_bytes_per_second)
        self.identity = identity
        self.handler = handler
        self.blobs = Sharing(blobs)
        self.log = log
        self.book = book
        self.inbox = Inbox()
        self.seen = SeenCache()
        self.rng = Random(random_bytes(16))  # noqa: S311  (jitter and sampling, not secrets)
        self.bound: Address | None = None
        self._listen = listen
        self._listen_fallback = listen_fallback
        self._bootstrap = tuple(bootstrap)
        self._chain_id = None if chain_id is None else ChainId(chain_id)
        self._tls = tls_identity(identity)
        self._sessions: dict[PublicKey, Session] = {}
        self.dialer = Dialer(DialPlan(identity.public_key, self.rng), book, self)
        self.exchange = Exchange(book=book, dialer=self.dialer, sessions=self._sessions, announce=announce, host=self)
        self.dialback = DialBack(announce=announce, sessions=self._sessions, host=self)
        own = TlsPeer(identity.public_key, self._tls.leaf_hash)
        self._admission = Admission(own=own, sessions=self._sessions, on_twin=self._met_twin)
        self._doorway = Doorway()
        self._liars = Ban(limits.BAN_SECONDS)
        self._late = Ban(limits.BAN_SECONDS)
        self._has_quorum = False
        self._live: dict[PublicKey, None] = {}
        self._live_until = -math.inf  # when to look again
        self._links: frozenset[bytes] | None = None
        self._refused = 0
        self._refusals = Refusals(log, "peer refused")
        self._traffic = Traffic()
        self._strangers = TokenBucket(
            per_second=limits.STRANGERS_FRAMES_PER_SECOND, burst=limits.STRANGERS_FRAMES_BURST, now=0.0
        )
        self._nursery: trio.Nursery | None = None

    # --- The node's calls -------------------------------------------------------------------------------------------

    @property
    def events(self) -> Inbox:
        """What happens, in order for each peer and in turn among peers. Must be drained: peers wait for it."""
        return self.inbox

    @property
    def chain_id(self) -> ChainId | None:
        return self._chain_id

    def pin(self, chain_id: bytes) -> None:
        """A joiner has found its network: peers of another one are dropped, records of another one forgotten."""
        self._chain_id = ChainId(chain_id)
        self.exchange.pin(chain_id)
        for session in list(self._sessions.values()):
            if session.chain_id not in (None, chain_id):
                self._end_session(session, "it is on another network")

    def peers(self) -> list[PeerInfo]:
        return [session.info() for session in self._sessions.values()]

    def bootstrap_peers(self) -> list[PeerInfo]:
        """Of the peers those that answered at the bootstrap addresses: whom the operator chose, where no network is known yet."""
        keys = self.dialer.plan.bootstrap_keys()
        return [peer for peer in self.peers() if peer.key in keys]

    def is_connected(self, key: bytes) -> bool:
        return key in self._sessions

    def publish(
        self,
        frame: bytes,
        *,
        to: Iterable[bytes] | None = None,
        exclude: Collection[bytes] = (),
        along: bool = False,
    ) -> int:
        """Queue one frame (encode_frame, Envelope.frame) for peers, all by default; returns for how many. No wait.

        `along`: it may come a moment later, with the next frame.
        """
        if to is None:
            sessions: Iterable[Session] = self._sessions.values()
        else:
            sessions = [s for key in to if (s := self._sessions.get(PublicKey(key))) is not None]
        count = 0
        for session in sessions:
            if session.key not in exclude:
                session.outbox.push(frame, along=along)
                count += 1
        return count

    def offer_bulk(self, frame: Sequence[Buffer], *, to: Iterable[bytes]) -> int:
        """Send behind everything else to those who have room for it, and to the others not at all; returns to how many."""
        sessions = [s for key in to if (s := self._sessions.get(PublicKey(key))) is not None]
        return sum(session.outbox.offer_bulk(*frame) for session in sessions)

    def feed(self, key: bytes, frames: Iterator[Sequence[Buffer]]) -> None:
        """The same to one peer, frame after frame as there is room, in a task of its own."""
        session = self._sessions.get(PublicKey(key))
        if session is not None:
            session.feed(frames)

    async def request(
        self, peer_key: bytes, method: int, body: bytes, *, timeout_seconds: float, response_bytes_max: int
    ) -> bytes:
        """Ask one connected peer. Raises RequestFailed (not connected, refused, too late, too long)."""
        session = self._sessions.get(PublicKey(peer_key))
        if session is None:
            raise RequestFailed("not connected")
        return await session.requests.call(
            method, body, timeout_seconds=timeout_seconds, response_bytes_max=response_bytes_max
        )

    async def fetch(
        self,
        digest: bytes,
        length: int,
        *,
        holders: Callable[[], Sequence[bytes]],
        sink: Sink,
        blocking: bool = False,
        leaves: Iterable[int] | None = None,
        hashes: Sequence[bytes] | None = None,
        read: Read | None = None,
    ) -> Sequence[bytes]:
        """Get a blob, or some of its leaves, from whoever of `holders` is connected. Returns the hashes of all of its leaves.

        `sink` gets every leaf, verified, a few at a time and in any order; where it is `blocking`, in a worker thread, and
        the last ones perhaps twice. `holders` is asked again whenever somebody
        fails; `hashes`, where they are known, are not asked for. With `read`, which gives leaves that have come and all those that were
        not wanted, the blob is served to others while it comes. Raises RequestFailed once all have been tried.
        """

        def connected() -> list[Session]:
            now, live = trio.current_time(), self.live()
            found = [PublicKey(key) for key in (*holders(), *fetch.fellows) if key in live]
            found.sort(key=lambda key: self._late.holds(key, now))  # else as they were
            return [self._sessions[key] for key in found if not self._liars.holds(key, now)]

        plan = FetchPlan(digest, length, leaves=leaves, hashes=hashes)
        fetch = Fetch(
            plan,
            holders=connected,
            sink=sink,
            blocking=blocking,
            lied=self.lied,
            stalled=lambda key: self._late.add(key, trio.current_time()),
            log=self.log,
        )
        shared = (
            None if read is None or not plan.is_shared else fetch.share(self.blobs, read, me=self.identity.public_key)
        )
        try:
            await fetch.run()
        finally:
            if shared is not None and plan.is_done and self._nursery is not None:
                self._nursery.start_soon(self.blobs.linger, digest, shared)
            elif shared is not None:
                self.blobs.end(digest, shared)
        return plan.hashes or ()

    async def fetch_bytes(self, digest: bytes, length: int, *, holders: Callable[[], Sequence[bytes]]) -> bytes:
        """A whole blob, in memory: for what fits there easily. `length` is what the caller has a reason to believe. As `fetch`."""
        parts: dict[int, Buffer] = {}

        async def read(first: int, count: int) -> Buffer | None:
            wanted = [parts.get(index) for index in range(first, min(first + count, leaf_count(length)))]
            return None if None in wanted else b"".join(part for part in wanted if part is not None)

        await self.fetch(digest, length, holders=holders, sink=parts.update, read=read)
        return b"".join(parts[index] for index in sorted(parts))

    def lied(self, key: PublicKey) -> None:
        """What it sent is not what a digest names: not asked for blobs for a while. Its votes are heard all the same."""
        self._refuse(short_id(key), "it served bytes that do not match their digest")
        self._liars.add(key, trio.current_time())

    def members(self, keys: Iterable[bytes], *, links: Collection[bytes] | None = None) -> None:
        """The committee: admitted beyond the limits, and dialed again more eagerly; those of `links` only, where it is given.

        Then the others that we have dialed are let go, once there are enough links without them.
        """
        before, self._admission.members = self._admission.members, frozenset(keys)
        members, linked = self._admission.members, None if links is None else frozenset(links)
        if (members, linked) != (before, self._links):
            self._links, self.book.members = linked, members
            self.dialer.plan.set_members(members, trio.current_time(), links=linked)
            self.dialer.wake()
        if linked is not None and len(linked & self._sessions.keys()) >= min(limits.OVERLAY_PEERS_MIN, len(linked)):
            for session in list(self._sessions.values()):
                if session.direction == "outbound" and session.key in members - linked:
                    self._end_session(session, "no link to it is needed")

    def quorum(self, has_quorum: bool) -> None:
        """Whether enough members are reachable. While not, they are dialed at most a second apart.

        Say so every half second or so: members that have fallen silent since are looked for then, with a quorum, too.
        """
        if not has_quorum or not self._has_quorum:
            self.dialer.plan.set_quorum(has_quorum, trio.current_time())
        self._has_quorum = has_quorum
        if not has_quorum or any(s.key in self._admission.members for s in self._sessions.values() if s.is_silent):
            self.dialer.wake()

    def live(self) -> AbstractSet[PublicKey]:
        """Peers that are connected and not silent, in the order in which they came; whether silent, as of a moment ago at most."""
        now = trio.current_time()
        if now >= self._live_until:
            heard = [s for s in self._sessions.values() if (active := s.active) and not active.is_silent]
            self._live, self._live_until = dict.fromkeys(s.key for s in heard), now + limits.LIVE_SECONDS
        return self._live.keys()

    def reach(self) -> Reach:
        """Whether others can dial this node, by what its peers have tried."""
        return self.dialback.reach()

    def own_address(self) -> Address | None:
        """Where the world can dial this node, where peers have shown it; no operator needs to know it."""
        return self.dialback.reachability.own_address()

    def saved_book(self) -> Callable[[], bytes]:
        """The address book with what a restart should dial first, as a call for a worker thread: bytes to keep."""
        self.dialer.keep_anchors()
        return self.book.frozen()

    def statistics(self) -> Statistics:
        return Statistics(
            bytes_sent=self._traffic.sent,
            bytes_received=self._traffic.received,
            refused=self._refused,
            peers=len(self._sessions),
            known=len(self.book),
            received=dict(self._traffic.kinds),
        )

    # --- Running ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Address | None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. The started value is the address bound, or None without a listener.

        Raises UserError where it cannot listen.
        """
        listeners: list[TcpListener] = []
        if self._listen is not None:
            listeners = await sockets.listen(self._listen, fallback=self._listen_fallback)
            self.bound = replace(self._listen, port=sockets.name_of(listeners[0].socket).port)
            if self._listen.port not in (0, self.bound.port):
                self.log.warning("port taken", wanted=str(self._listen), listening=str(self.bound))
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if listeners:
                    nursery.start_soon(trio.serve_listeners, self._incoming, listeners)
                nursery.start_soon(self.dialer.run, self._bootstrap)
                nursery.start_soon(self.exchange.tell_news)
                nursery.start_soon(self.exchange.ask_now_and_then)
                nursery.start_soon(self.exchange.look_up_own_name)
                nursery.start_soon(self.dialback.run)
                task_status.started(self.bound)
                await trio.sleep_forever()
        finally:
            for session in list(self._sessions.values()):
                self._end_session(session, "this node is stopping")
            self.inbox.close()
            self._nursery = None
            for listener in listeners:
                listener.socket.close()

    # --- Connections ------------------------------------------------------------------------------------------------

    async def _incoming(self, tcp: TcpStream) -> None:
        """One connection that somebody made to us, from accept to end."""
        remote = sockets.peer_of(tcp.socket)
        if remote is None:
            await trio.aclose_forcefully(tcp)
            return
        shaken = await self._let_in(tcp, remote)
        if shaken is None:
            return
        await self.run_connection(shaken)

    async def _let_in(self, tcp: TcpStream, remote: Address) -> Shaken | None:
        """The handshakes of a connection that was made to us, while it has a place at the door."""
        with trio.CancelScope() as scope:
            if not self._doorway.enter(remote, scope, trio.current_time()):
                self._refuse(str(remote), "too many handshakes at once")
                await trio.aclose_forcefully(tcp)
                return None
            try:
                shaken = await self.establish(tcp, remote, expected=None, is_client=False)
                if not shaken.said.is_probe:
                    return shaken
                await self.dialback.receive_probe(shaken)
                return None
            except DialError as error:
                self.heard_of_twin(error)
                if error.bye not in (Bye.DUPLICATE, Bye.MYSELF):
                    self._refuse(error.name, error.reason)
                return None
            finally:
                self._doorway.leave(scope)
                self._admission.settled(tcp)  # nothing else runs until `_attach`
        self._refuse(str(remote), "its handshake took too long while others waited")
        return None

    async def run_connection(self, shaken: Shaken) -> None:
        """A connection that both ends have accepted, until it ends. Nothing that happens in it leaves this function."""
        connection = self._attach(shaken)
        session = self._sessions[shaken.key]
        try:
            await connection.run(session.receive)
        except Exception as error:  # a bug of ours that this peer brought out: loud, and only this connection ends
            self.log.error("connection crashed", peer=connection.name, error=repr(error), exc_info=True)
            connection.reason = "internal error"
        finally:
            self._detach(session, connection)

    def _attach(self, shaken: Shaken) -> Connection:
        """Add a connection to its peer's session, and settle which one stays if there are two."""
        session = self._sessions.get(shaken.key)
        if session is not None and session.leaf_hash != shaken.leaf_hash:
            self._end_session(session, "it was restarted")
            session = None
        # Both ends know what both HELLOs said, so both give the same connection up.
        active = None if session is None else session.active
        if session and active and active.shaken.id in (shaken.suspected, shaken.said.suspected):
            self._end_session(session, "it fell silent")
            session = None
        if session is None:
            session = Session(shaken, self)
            self._sessions[shaken.key] = session
            assert self._nursery is not None
            self._nursery.start_soon(session.run)
            is_new = True
        else:
            is_new = False
        share, is_watched = partial(self._share_of, shaken.key), partial(self._is_watched, shaken.key)
        self._live_until = -math.inf
        connection = Connection(shaken, session.outbox, self._traffic, shared=share, is_watched=is_watched)
        self._choose(session, connection)
        self.exchange.take_record(session, shaken)
        self.dialback.met(session, shaken)
        if is_new:
            self.log.info("peer connected", peer=connection.name, direction=shaken.direction)
            self.inbox.put_nowait(session.key, PeerConnected(session.info()))
            session.ask_for_peers()
            self.exchange.tell()
        self.dialer.wake()
        return connection

    def _share_of(self, key: PublicKey) -> TokenBucket | None:
        """What all strangers together may send: keys are free, so a share for each bounds nothing."""
        return None if key in self._admission.members else self._strangers

    def _is_watched(self, key: PublicKey) -> bool:
        """Members hear at once of a cut between them. A stranger's link is only kept alive: there may be hundreds, and nothing waits."""
        members = self._admission.members
        return key in members and self.identity.public_key in members

    def _choose(self, session: Session, new: Connection) -> None:
        """Of two connections to one peer the one that the lower node id dialed stays (docs/wire-format.md, 3).

        Both ends come to the same choice. Dialed by the same end, the newer stays: the dialer knows the old is gone.
        """
        old = session.active
        session.add(new)
        if old is None:
            return
        lower_is_me = self.identity.node_id < session.node_id
        preferred = "outbound" if lower_is_me else "inbound"
        keeps_new = new.shaken.direction in (old.shaken.direction, preferred)
        (old if keeps_new else new).retire()
        kept = new if keeps_new else old
        self.log.debug("duplicate connection", peer=session.name, kept=kept.shaken.direction)
        for oldest in session.connections[: -limits.LINKS_PER_PEER_MAX]:
            oldest.abort("duplicate connection")

    def _detach(self, session: Session, connection: Connection) -> None:
        """A connection has ended. Its session ends with the last one, after a moment if a swap is under way."""
        session.connections.remove(connection)
        self._live_until = -math.inf
        if connection.fault is not None:
            self._refuse(connection.name, connection.fault.reason)
            if connection.fault.proven:
                self._admission.ban(session.key, connection.shaken.remote, trio.current_time())
        if session.connections or self._sessions.get(session.key) is not session:
            return
        if connection.is_retired and self._nursery is not None and connection.fault is None:
            self._nursery.start_soon(self._await_other, session)
        else:
            self._end_session(session, connection.reason)

    async def _await_other(self, session: Session) -> None:
        """The peer closed a duplicate, so its other connection is on its way."""
        await trio.sleep(limits.RETIRE_SECONDS_MAX)
        if not session.connections and self._sessions.get(session.key) is session:
            self._end_session(session, "connection lost")

    def _end_session(self, session: Session, reason: str) -> None:
        info = session.info()
        del self._sessions[session.key]
        self._live_until = -math.inf
        session.end(reason)
        self.dialback.lost(session.key)
        for connection in session.connections:
            connection.abort(reason)
        self.log.info("peer disconnected", peer=session.name, reason=reason)
        self.inbox.put_nowait(session.key, PeerDisconnected(info, reason))
        self.dialer.plan.lost(session.key, trio.current_time())
        self.dialer.wake()

    async def establish(
        self, tcp: TcpStream, remote: Address, *, expected: PublicKey | None, is_client: bool, is_probe: bool = False
    ) -> Shaken:
        """Both handshakes; raises DialError, and nothing else whatever the other end sends."""
        try:
            local = sockets.name_of(tcp.socket)
            admit: Admit = _anybody if is_probe else partial(self._admit, remote=remote, tcp=tcp)
            introduction = Introduction(
                identity=self.identity,
                tls=self._tls,
                chain_id=self._chain_id,
                record=self.exchange.own_record(local, remote.scope),
                remote=remote,
                local=local,
                expected=expected,
                admit=admit,
                suspected=self._admission.suspected,
                is_probe=is_probe,
            )
            return await establish(tcp, introduction, is_client=is_client)
        except DialError:
            raise
        except Exception as error:  # a bug of ours that this peer brought out: loud, and only this connection ends
            await trio.aclose_forcefully(tcp)
            self.log.error("handshake crashed", peer=str(remote), error=repr(error), exc_info=True)
            raise DialError(str(remote), DialFailure.CLOSED, "internal error") from error

    def learned_address(self, address: Address) -> None:
        self.log.info("own address learned", address=str(address))
        self.exchange.tell()

    def not_to_dial(self) -> Collection[bytes]:
        """Who is connected; a member only as long as something is heard from it."""
        return {key for key, s in self._sessions.items() if not (s.is_silent and key in self._admission.members)}

    def is_alone(self) -> bool:
        return not self._sessions

    async def _admit(self, peer: TlsPeer, *, remote: Address, tcp: TcpStream, is_client: bool) -> Refusal | None:
        refusal = await self._admission.judge(peer, remote, tcp, is_client=is_client)
        if refusal is not None and refusal[0] is Bye.TWIN:
            self.log.warning("twin refused", peer=f"{short_id(peer.key)}@{remote}", reason=refusal[1])
        return refusal

    def _met_twin(self, where: Address) -> None:
        self.inbox.put_nowait(_OURS, TwinSeen(None, str(where), refused=False))

    def heard_of_twin(self, error: DialError) -> None:
        if error.bye is Bye.TWIN and error.told and error.key is not None and error.key != self.identity.public_key:
            self.inbox.put_nowait(_OURS, TwinSeen(error.key, error.reason, refused=True))

    def _refuse(self, name: str, reason: str) -> None:
        self._refused += 1
        self._refusals.say(name, reason)


async def _anybody(peer: TlsPeer, *, is_client: bool) -> tuple[Bye, str] | None:
    """Who is probed need not be let in."""
    return None
