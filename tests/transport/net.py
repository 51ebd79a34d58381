"""Real swarms on loopback for tests, and hostile peers that speak TLS and HELLO properly and then misbehave.

Nothing sleeps: `until` waits for an event or a log line to make a condition true, and fails after a while.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from transport.address import Address
from transport.blobs import MemoryBlobs
from transport.connection import Shaken
from transport.envelope import Envelope
from transport.errors import RequestRefused
from transport.establish import Introduction, establish
from transport.events import EnvelopeReceived, FrameReceived, PeerConnected, PeerDisconnected, SwarmEvent
from transport.framing import FrameDecoder, Kind, encode_frame
from transport.identity import Identity, PublicKey
from transport.peerbook import PeerBook, PeerRecord
from transport.sharing import BlobSource
from transport.statement import ChainId, make_statement
from transport.swarm import Swarm
from transport.tls import TlsIdentity, tls_identity

CHAIN = ChainId(b"\x11" * 32)
OTHER_CHAIN = ChainId(b"\x22" * 32)
LOOPBACK = Address("127.0.0.1", 0)
PATIENCE_SECONDS = 20.0


class Signal:
    """Wakes everybody who waits for a condition, whenever something happened."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while not condition():
                await self._event.wait()


class RecordingLog:
    def __init__(self, signal: Signal) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self._signal = signal

    def _add(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, event, fields))
        self._signal.fire()

    def debug(self, event: str, /, **fields: Any) -> None:
        self._add("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._add("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._add("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._add("error", event, fields)

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.lines if name == event]

    def reasons(self, event: str = "peer refused") -> list[str]:
        return [fields["reason"] for fields in self.named(event)]


async def echo(_: PublicKey, method: int, body: bytes) -> bytes:
    """The handler of every node that is given none: method 1 echoes, 2 refuses, 3 has a bug, 4 never answers."""
    match method:
        case 1:
            return body
        case 2:
            raise RequestRefused("not today")
        case 3:
            raise ZeroDivisionError("a bug")
        case _:
            await trio.sleep_forever()
            raise AssertionError


class Node:
    def __init__(self, swarm: Swarm, log: RecordingLog, signal: Signal) -> None:
        self.swarm = swarm
        self.log = log
        self.signal = signal
        self.seen: list[SwarmEvent] = []
        self.address = LOOPBACK
        self.scope = trio.CancelScope()
        self.stopped = trio.Event()

    @property
    def key(self) -> PublicKey:
        return self.swarm.identity.public_key

    def knows(self, *others: Node) -> bool:
        """Connected to each of them, and told so."""
        return all(self.swarm.is_connected(o.key) and self.ups_and_downs(o.key).endswith("+") for o in others)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def frames(self) -> list[bytes]:
        return [event.body for event in self.of(FrameReceived)]

    def envelopes(self) -> list[EnvelopeReceived]:
        return self.of(EnvelopeReceived)

    def ups_and_downs(self, key: bytes) -> str:
        """The story of one peer: + for connected, - for gone."""
        signs = {PeerConnected: "+", PeerDisconnected: "-"}
        return "".join(
            signs[type(e)] for e in self.seen if isinstance(e, PeerConnected | PeerDisconnected) and e.peer.key == key
        )

    def envelope(self, number: int = 0, *, chain_id: bytes = CHAIN, attachment: bytes = b"") -> Envelope:
        """A vote-like thing signed by this node."""
        signed = make_statement(0x11, chain_id, number.to_bytes(12, "big"))
        return Envelope(self.key, self.swarm.identity.sign(signed), signed, attachment)

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()


class Network:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.signal = Signal()

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.signal.until(condition)

    def make(
        self,
        *bootstrap: Node | Address,
        identity: Identity | None = None,
        listen: Address | None = LOOPBACK,
        listen_fallback: bool = False,
        announce: Address | None = None,
        book: PeerBook | None = None,
        chain_id: bytes | None = CHAIN,
        handler: Callable[[PublicKey, int, bytes], Awaitable[bytes]] = echo,
        blobs: BlobSource | None = None,
    ) -> Node:
        log = RecordingLog(self.signal)
        swarm = Swarm(
            identity=identity or Identity.generate(),
            listen=listen,
            listen_fallback=listen_fallback,
            announce=announce,
            bootstrap=[b.address if isinstance(b, Node) else b for b in bootstrap],
            book=book or PeerBook(),
            chain_id=chain_id,
            handler=handler,
            blobs=blobs or MemoryBlobs(),
            log=log,
        )
        return Node(swarm, log, self.signal)

    async def start(self, node: Node, *, drain: bool = True) -> Node:
        node.address = await self.nursery.start(self._run, node, drain) or LOOPBACK
        return node

    async def node(self, *bootstrap: Node | Address, drain: bool = True, **options: Any) -> Node:
        return await self.start(self.make(*bootstrap, **options), drain=drain)

    async def pair(self, **options: Any) -> tuple[Node, Node]:
        """Two nodes, connected."""
        first = await self.node(**options)
        second = await self.node(first, **options)
        await self.until(lambda: first.knows(second) and second.knows(first))
        return first, second

    async def _run(self, node: Node, drain: bool, *, task_status: trio.TaskStatus[Address | None]) -> None:
        with node.scope:
            async with trio.open_nursery() as nursery:
                bound = await nursery.start(node.swarm.run)
                if drain:
                    nursery.start_soon(self._drain, node)
                task_status.started(bound)
        while True:  # what was left when it stopped
            try:
                node.seen.append(node.swarm.events.receive_nowait())
            except (trio.EndOfChannel, trio.WouldBlock):
                break
        node.stopped.set()
        self.signal.fire()

    async def _drain(self, node: Node) -> None:
        async for event in node.swarm.events:
            node.seen.append(event)
            self.signal.fire()


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    async with trio.open_nursery() as nursery:
        yield Network(nursery)
        nursery.cancel_scope.cancel()


async def anybody(peer: object, *, is_client: bool) -> None:
    """Admits."""


def introduction(
    identity: Identity,
    *,
    tls: TlsIdentity | None = None,
    chain_id: bytes | None = CHAIN,
    record: PeerRecord | None = None,
    expected: PublicKey | None = None,
    admit: Any = None,
) -> Introduction:
    return Introduction(
        identity=identity,
        tls=tls or tls_identity(identity),
        chain_id=None if chain_id is None else ChainId(chain_id),
        record=record,
        remote=Address("127.0.0.1", 1),
        local=Address("127.0.0.1", 2),
        expected=expected,
        admit=admit or anybody,
    )


class Rogue:
    """A peer that has shaken hands and then sends what it likes."""

    def __init__(self, shaken: Shaken, identity: Identity, tls: TlsIdentity) -> None:
        self.shaken = shaken
        self.identity = identity
        self.tls = tls

    @classmethod
    async def meet(cls, node: Node, *, identity: Identity | None = None, record: PeerRecord | None = None) -> Rogue:
        identity = identity or Identity.generate()
        tls = tls_identity(identity)
        tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        shaken = await establish(tcp, introduction(identity, tls=tls, record=record), is_client=True)
        rogue = cls(shaken, identity, tls)
        await node.signal.until(lambda: node.swarm.is_connected(identity.public_key))
        return rogue

    async def send(self, *data: bytes) -> None:
        await self.shaken.stream.send_all(b"".join(data))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame that the node sends, or None once it has closed."""
        decoder: FrameDecoder = self.shaken.decoder
        while (frame := decoder.next()) is None:
            try:
                data = await self.shaken.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            decoder.feed(bytes(data))
        return frame

    async def next(self, kind: int) -> bytes:
        """The body of the next frame of a kind."""
        with trio.fail_after(PATIENCE_SECONDS):
            while (frame := await self.receive()) is not None:
                if frame[0] == kind:
                    return frame[1]
        raise AssertionError(f"closed before a frame of kind 0x{kind:02x}")

    async def closed(self) -> None:
        """Until the node closes the connection."""
        with trio.fail_after(PATIENCE_SECONDS):
            while await self.receive() is not None:
                pass

    async def stay(self) -> None:
        """Answer every PING and nothing else, until the node closes."""
        while (frame := await self.receive()) is not None:
            if frame[0] == Kind.PING:
                await self.send(encode_frame(Kind.PONG, frame[1]))

    async def leave(self) -> None:
        await trio.aclose_forcefully(self.shaken.stream)


def forged() -> bytes:
    """An ENVELOPE frame with one node's name and another's signature: proof that who sends it does not check."""
    signed = make_statement(0x11, CHAIN, b"vote")
    return Envelope(Identity.generate().public_key, Identity.generate().sign(signed), signed).frame()


def random_bytes(count: int) -> bytes:
    """Content that compresses to nothing; its value never matters."""
    return os.urandom(count)


def everybody_knows_everybody(nodes: Sequence[Node]) -> bool:
    return all(a.knows(b) for a in nodes for b in nodes if a is not b)
