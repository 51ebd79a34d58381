"""One peer for as long as any connection to it lives: its queues, its questions, its blobs, and what each frame does.

A session outlives a swap of connections (two nodes that dial each other at the same time have two for a moment), so
the node sees one PeerConnected and later one PeerDisconnected, and queued frames go out on whichever is left.
Not here: making connections, and everything that concerns several peers (swarm.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

import trio

from transport import limits
from transport.address import Address, Scope
from transport.blobs import BlobClient, BlobServer
from transport.connection import Connection, Shaken
from transport.content import Buffer
from transport.dialback import DialBack
from transport.envelope import Envelope, SeenCache
from transport.errors import Malformed, RemoteFault
from transport.events import Direction, EnvelopeReceived, FrameReceived, PeerInfo, TwinSeen
from transport.exchange import Exchange
from transport.framing import APPLICATION_KIND_MIN, FrameJoiner, Kind
from transport.identity import node_id, short_id
from transport.inbox import Inbox
from transport.log import Log
from transport.machine import in_thread
from transport.outbox import Outbox
from transport.pacing import Pacer
from transport.pex import PexExchange, encode_response
from transport.ratelimit import TokenBucket
from transport.requests import RequestHandler, Requests
from transport.sharing import Sharing
from transport.statement import ChainId


class Host(Protocol):
    """What a session needs of the swarm."""

    inbox: Inbox
    seen: SeenCache
    rng: Random
    log: Log
    blobs: Sharing
    handler: RequestHandler
    exchange: Exchange
    dialback: DialBack
    pacer: Pacer

    @property
    def chain_id(self) -> ChainId | None: ...


class Session:
    def __init__(self, shaken: Shaken, host: Host) -> None:
        self.key = shaken.key
        self.node_id = node_id(shaken.key)
        self.name = f"{short_id(shaken.key)}@{shaken.remote}"
        self.leaf_hash = shaken.leaf_hash
        self.chain_id = shaken.said.chain_id
        self.connections: list[Connection] = []
        self.outbox = Outbox(host.pacer)
        self.blobs = BlobClient(self.outbox)
        self.pex = PexExchange(now=trio.current_time())
        self.dial_backs = TokenBucket(
            per_second=1 / limits.DIAL_BACKS_SECONDS, burst=limits.DIAL_BACKS_BURST, now=trio.current_time()
        )
        self.requests = Requests(self.key, name=self.name, outbox=self.outbox, handler=host.handler, log=host.log)
        self._server = BlobServer(self.name, self.key, self.outbox, host.blobs, host.log)
        self._host = host
        self._address = shaken.remote
        self._listens = False
        self._joiner = FrameJoiner()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._started = trio.Event()
        self._latest = shaken

    @property
    def active(self) -> Connection | None:
        """The connection that is written to."""
        for connection in reversed(self.connections):
            if not connection.is_retired:
                return connection
        return None

    @property
    def is_silent(self) -> bool:
        """Nothing has come for a while, though it was asked."""
        active = self.active
        return active is not None and active.is_silent

    @property
    def scope(self) -> Scope:
        """Where it is connected from: decides which addresses it may hear of."""
        return self._latest.remote.scope

    @property
    def remote(self) -> Address:
        """The other end of the connection that is written to, or was last."""
        active = self.active
        return self._latest.remote if active is None else active.shaken.remote

    def add(self, connection: Connection) -> None:
        self.connections.append(connection)

    @property
    def direction(self) -> Direction:
        """Of the connection that is written to, or was last."""
        active = self.active
        if active is not None:
            self._latest = active.shaken
        return self._latest.direction

    def info(self) -> PeerInfo:
        active = self.active
        rtt_seconds = None if active is None else active.rtt_seconds
        return PeerInfo(
            key=self.key,
            node_id=self.node_id,
            address=self._address,
            listens=self._listens,
            direction=self.direction,
            chain_id=self.chain_id,
            rtt_seconds=rtt_seconds,
            is_silent=self.is_silent,
        )

    def listens_at(self, address: Address) -> None:
        """It proved, or signed, that it can be dialed there."""
        self._address = address
        self._listens = True

    async def run(self) -> None:
        """Handlers and the blob server of this peer, until `end`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._started.set()
                nursery.start_soon(self._server.run)

    def feed(self, frames: Iterator[Sequence[Buffer]]) -> None:
        """Send these when nothing else is to be sent, each made once there is room for the one before, until `end`."""
        if self._nursery is not None and not self._scope.cancel_called:
            self._nursery.start_soon(self._feed, frames)

    async def _feed(self, frames: Iterator[Sequence[Buffer]]) -> None:
        for frame in frames:
            await self.outbox.push_bulk(*frame)

    def end(self, reason: str) -> None:
        """Nothing more will come or go: everybody who waits for this peer is told so."""
        self.requests.close(reason)
        self.blobs.close(reason)
        self._scope.cancel()

    async def receive(self, kind: int, body: bytes) -> None:
        """One frame. Raises Malformed or RemoteFault where the peer broke a rule; waits while the node is behind."""
        match kind:
            case Kind.LEAF:
                self.blobs.on_leaf(body)
            case Kind.PART:
                if (frame := self._joiner.take(body)) is not None:
                    await self.receive(*frame)
            case Kind.ENVELOPE:
                await self._on_envelope(body)
            case Kind.REQUEST:
                await self._on_request(body)
            case Kind.RESPONSE:
                self.requests.on_response(body)
            case Kind.HASHES_WANTED | Kind.LEAVES_WANTED:
                self._server.on_wanted(kind, body)
            case Kind.HELD_WANTED:
                self._server.on_held_wanted(body)
            case Kind.HELD:
                self.blobs.on_held(body)
            case Kind.HASHES:
                self.blobs.on_hashes(body)
            case Kind.BLOB_REFUSED:
                self.blobs.on_refused(body)
            case Kind.TWIN:
                where = "".join(c if c.isprintable() else "?" for c in body.decode(errors="replace"))
                await self._host.inbox.put(self.key, TwinSeen(self.key, where, refused=False), size_bytes=len(body))
            case Kind.PEX_NEWS:
                self.ask_for_peers()
            case Kind.PEX_REQUEST:
                nonce, count = self.pex.on_request(body, trio.current_time())
                self.outbox.push(encode_response(nonce, self._host.exchange.records_for(self, count)))
            case Kind.PEX_RESPONSE:
                self._host.exchange.learn(self, self.pex.on_response(body))
                if self.pex.wants_more:
                    self.ask_for_peers()
            case Kind.DIAL_BACK:
                self._host.dialback.asked(self, body)
            case Kind.DIALED_BACK:
                self._host.dialback.answered(self, body)
            case _ if kind >= APPLICATION_KIND_MIN:
                event = FrameReceived(self.key, kind, body)
                await self._host.inbox.put(self.key, event, size_bytes=len(body))
            case _:
                raise Malformed(f"a frame of kind 0x{kind:02x} out of place")

    def ask_for_peers(self) -> None:
        """Unless an answer is outstanding."""
        if (frame := self.pex.ask()) is not None:
            self.outbox.push(frame)

    async def _on_request(self, body: bytes) -> None:
        if self._nursery is None:
            await self._started.wait()
        if self._nursery is not None and not self._scope.cancel_called:
            self.requests.on_request(body, self._nursery)

    async def _on_envelope(self, body: bytes) -> None:
        """Look up, then decode, then verify: a copy costs a hash, and only a wrong signature is proof of a lie."""
        is_long = len(body) > limits.LEAF_BYTES  # then not on the loop
        digest = await in_thread(_sha256, body) if is_long else _sha256(body)
        now = trio.current_time()
        if self._host.seen.is_echo(digest, now):
            return
        envelope = Envelope.decode(body)
        chain_id = self._host.chain_id
        if chain_id is None:
            return  # a joiner that has pinned no network yet has no use for it
        if envelope.chain_id() != chain_id:
            raise Malformed("an envelope of another network")
        is_first = not self._host.seen.is_known(digest)
        if is_first and not envelope.is_authentic():
            raise RemoteFault(self.name, "it sent an envelope with a wrong signature", proven=True)
        self._host.seen.remember(digest, now)
        await self._host.inbox.put(self.key, EnvelopeReceived(self.key, envelope, is_first), size_bytes=len(body))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
