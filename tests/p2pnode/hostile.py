"""A peer that speaks TLS, HELLO and frames as docs/wire-format.md has them, and then says whatever it likes.

What it is: one connection under one key, a reader that answers (or lies, or stays silent) as it was told, and makers of messages with
real signatures. What it is not: a node; nothing here follows a rule of agreement. Frames are put together by hand, so that a bound of our
own encoder cannot stand between a test and what a stranger can send.
"""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import trio

import consensus
import transport
from p2pnode.config import Config, Endpoint
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.genesis import Genesis
from p2pnode.home import Home
from p2pnode.node import Kit, Node
from p2pnode.wire import FrameKind
from tests.p2pnode.little import TEXT, identities
from transport import content
from transport.address import Address
from transport.connection import Shaken
from transport.establish import Introduction, establish
from transport.framing import Kind
from transport.peerbook import PeerRecord
from transport.statement import DOMAIN, ChainId
from transport.tls import tls_identity

Answer = Callable[[bytes], bytes | None]  # None: never
SOMEWHERE = Address("127.0.0.1", 1)


def frame(kind: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame; ``length`` is what its header claims."""
    return struct.pack(">BI", kind, len(body) if length is None else length) + body


def statement(chain_id: bytes, kind: int, height: int, view: int, body: bytes) -> bytes:
    return DOMAIN + bytes([kind]) + chain_id + struct.pack(">QI", height, view) + body


def signed(identity: transport.Identity, text: bytes, attachment: bytes = b"", *, author: bytes | None = None) -> bytes:
    """An ENVELOPE frame with a true signature of ``identity`` over any text, under its own name or somebody else's."""
    head = (author or identity.public_key) + identity.sign(text) + struct.pack(">H", len(text))
    return frame(Kind.ENVELOPE, head + text + attachment)


def said(message: consensus.Message, chain_id: bytes) -> bytes:
    """An ENVELOPE frame of a message of ours, or somebody's that we relay."""
    text = message.statement(consensus.Digest(chain_id))
    head = message.author + message.signature + struct.pack(">H", len(text))
    return frame(Kind.ENVELOPE, head + text + message.attachment())


def status(height: int, *, learning: int = 0, role: int = 0, root: bytes = bytes(32)) -> bytes:
    return frame(FrameKind.STATUS, msgpack.packb((height, learning, role, root)))


class Hostile:
    """One connection. ``answers`` says what to reply to each request method, ``blobs`` what is served, and ``mute`` that nothing is."""

    def __init__(self, shaken: Shaken, identity: transport.Identity) -> None:
        self.identity = identity
        self.answers: dict[int, Answer] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.lies = False
        self.mute = False
        self.heard: list[tuple[int, bytes]] = []
        self.asked: list[int] = []
        self.ended = trio.Event()
        self._stream = shaken.stream
        self._decoder = shaken.decoder
        self._sending = trio.Lock()

    @property
    def key(self) -> bytes:
        return self.identity.public_key

    async def send(self, *frames: bytes) -> None:
        """Until it is sent or the node has hung up."""
        try:
            async with self._sending:
                await self._stream.send_all(b"".join(frames))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()

    async def run(self) -> None:
        """Read and answer until the node hangs up."""
        try:
            while data := await self._stream.receive_some(1 << 18):
                self._decoder.feed(bytes(data))
                for kind, body in self._decoder:
                    self.heard.append((kind, body))
                    await self._on(kind, body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.ended.set()
            await trio.aclose_forcefully(self._stream)

    async def leave(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _on(self, kind: int, body: bytes) -> None:
        match kind:
            case Kind.PING:
                await self.send(frame(Kind.PONG, body))
            case Kind.REQUEST:
                number, method = struct.unpack_from(">IH", body)
                self.asked.append(method)
                answer = self.answers.get(method, lambda _: None)(body[6:])
                if answer is not None:
                    parts = [answer[start : start + 65536] for start in range(0, max(len(answer), 1), 65536)]
                    for place, part in enumerate(parts, start=1):
                        more = int(place < len(parts))
                        await self.send(frame(Kind.RESPONSE, struct.pack(">IB", number, more) + part))
            case Kind.HASHES_WANTED | Kind.LEAVES_WANTED if not self.mute:
                await self._serve(kind, body)

    async def _serve(self, kind: int, body: bytes) -> None:
        number, digest, first = struct.unpack_from(">I32sI", body)
        data = self.blobs.get(digest)
        if data is None:
            await self.send(frame(Kind.BLOB_REFUSED, struct.pack(">IB", number, 1)))
            return
        if self.lies:
            data = bytes(len(data))
        leaves = content.split(data)
        if kind == Kind.HASHES_WANTED:
            await self.send(frame(Kind.HASHES, struct.pack(">I", number) + b"".join(content.leaf_hashes(leaves))))
            return
        (count,) = struct.unpack_from(">H", body, 40)
        for index in range(first, first + count):
            await self.send(frame(Kind.LEAF, struct.pack(">II", number, index) + bytes(leaves[index])))


async def anybody(peer: object, *, is_client: bool) -> None:
    """Admits."""


async def meet(
    port: int,
    chain_id: bytes | None,
    nursery: trio.Nursery,
    *,
    identity: transport.Identity | None = None,
    listens_at: Address | None = None,
) -> Hostile:
    """Connect to a node on this machine. Raises transport's DialError where it does not let us in."""
    identity = identity or transport.Identity.generate()
    record = None
    if listens_at is not None:
        record = PeerRecord.sign(identity, chain_id, sequence=1, address=listens_at)
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    introduction = Introduction(
        identity=identity,
        tls=tls_identity(identity),
        chain_id=None if chain_id is None else ChainId(chain_id),
        record=record,
        remote=Address("127.0.0.1", port),
        local=SOMEWHERE,
        expected=None,
        admit=anybody,
    )
    hostile = Hostile(await establish(tcp, introduction, is_client=True), identity)
    nursery.start_soon(hostile.run)
    return hostile


# --- the victims -----------------------------------------------------------------------------------------------------------------


def make_node(directory: Any, identity: transport.Identity, genesis: Genesis | None, **settings: Any) -> Node:
    """A whole real node on loopback; without a genesis it joins."""
    home = Home(directory)
    home.create()
    home.key.write_text(bytes(identity._key).hex())
    home.key.chmod(0o600)
    if genesis is not None:
        open_blobs(home).put(TEXT)
        write_genesis(home, genesis)
    chosen: dict[str, Any] = {"listen": Endpoint("127.0.0.1", 0), "repl": False, "threads": 1, **settings}
    return Node(home, Config(home=home.path, **chosen, origins={"listen": "--listen"}), kit=Kit())


@asynccontextmanager
async def living(*nodes: Node) -> AsyncIterator[None]:
    """They run until the block ends; a node that dies takes the test along."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.main)
        yield
        for node in nodes:
            node.stopping.set()


def height(node: Node) -> int:
    return node.rounds.state.height if node.rounds is not None and node.rounds.synced else -1


def port(node: Node) -> int:
    assert node.bound is not None
    return node.bound.port


def strangers(count: int) -> list[transport.Identity]:
    """Keys that no genesis knows, the same in every run."""
    return [transport.Identity(hashlib.sha256(b"stranger %d" % number).digest()) for number in range(count)]


__all__ = ["Hostile", "frame", "identities", "living", "make_node", "meet", "said", "signed", "status"]
