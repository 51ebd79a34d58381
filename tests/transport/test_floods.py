"""Floods over real sockets at a node in a process of its own: it goes on serving a friend, and its memory stays within its bounds.

What is asserted is service and memory; processor seconds and the friend's longest wait are printed (`pytest -s`), because they are the
machine's. Each flood is a fixed amount of work, not a time.
"""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.transport.net import CHAIN, Network, Node, Rogue, introduction, open_network
from tests.transport.victim import BLOB
from transport import content, limits
from transport.address import Address
from transport.envelope import Envelope
from transport.establish import establish
from transport.framing import Kind, encode_frame
from transport.identity import Identity, PublicKey
from transport.peerbook import PeerRecord
from transport.pex import encode_response
from transport.statement import make_statement
from transport.tls import tls_identity

ROOT = Path(__file__).parents[2]
SLACK_BYTES = 24 * limits.MIB  # the allocator's, and what a connection takes beside its queues
RECEIVE_BYTES = 64 * limits.KIB  # of a rogue's socket: what it does not read must not find room in the system
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass
class Victim:
    process: trio.Process
    address: Address
    key: PublicKey

    @property
    def memory_bytes(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def statistics(self) -> tuple[int, int, int]:
        """Peers, addresses known, and refusals."""
        assert self.process.stdin is not None and self.process.stdout is not None
        await self.process.stdin.send_all(b"?\n")
        peers, known, refused = (await self.process.stdout.receive_some(1000)).split()
        return int(peers), int(known), int(refused)


@dataclass
class Scene:
    """The victim, its friend, and the rogues."""

    net: Network
    victim: Victim
    friend: Node
    rogues: list[Rogue]

    async def rogue(self) -> Rogue:
        identity = Identity.generate()
        tls = tls_identity(identity)
        tcp = await trio.open_tcp_stream("127.0.0.1", self.victim.address.port)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        rogue = Rogue(await establish(tcp, introduction(identity, tls=tls), is_client=True), identity, tls)
        self.rogues.append(rogue)
        return rogue

    async def say(self, rogue: Rogue, *data: bytes) -> None:
        """Until it is sent, or the victim has hung up."""
        try:
            await rogue.send(*data)
        except GONE:
            pass

    async def asks(self, count: int = 3) -> float:
        """The friend's longest wait for an answer, in seconds."""
        longest = 0.0
        for number in range(count):
            began = trio.current_time()
            body = b"%d" % number
            answer = await self.friend.swarm.request(
                self.victim.key, 1, body, timeout_seconds=60.0, response_bytes_max=100
            )
            assert answer == body
            longest = max(longest, trio.current_time() - began)
        return longest


@asynccontextmanager
async def scene(*words: str) -> AsyncIterator[Scene]:
    async with open_network() as net, trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "tests.transport.victim", *words]
        run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        process = await nursery.start(run)
        stdout = process.stdout
        assert stdout is not None
        port, key = (await stdout.receive_some(1000)).split()
        victim = Victim(process, Address("127.0.0.1", int(port)), PublicKey(bytes.fromhex(key.decode())))
        friend = await net.node(victim.address)
        await net.until(lambda: friend.swarm.is_connected(victim.key))
        at = Scene(net, victim, friend, [])
        try:
            yield at
        finally:
            for rogue in at.rogues:
                await rogue.leave()
        await process.stdin.aclose()
        await process.wait()
        nursery.cancel_scope.cancel()


Flood = Callable[[Scene], Awaitable[None]]


async def connections(at: Scene) -> None:
    """Four hundred that begin a TLS handshake and never go on."""
    held = []
    for _ in range(400):
        stream = await trio.open_tcp_stream("127.0.0.1", at.victim.address.port)
        try:
            await stream.send_all(b"\x16\x03\x01")
        except GONE:
            pass
        held.append(stream)
    await at.asks()
    for stream in held:
        await trio.aclose_forcefully(stream)


async def drips(at: Scene) -> None:
    """Frames that come a byte at a time and never end, from as many as may be connected."""
    rogues = [await at.rogue() for _ in range(limits.PEERS_MAX // 2)]
    for _ in range(20):
        for rogue in rogues:
            await at.say(rogue, b"\x20" if _ == 0 else b"\0")
    await at.asks()


async def handshakes(at: Scene) -> None:
    """Whole ones, each given up at once."""
    for _ in range(50):
        await (await at.rogue()).leave()


async def small_frames(at: Scene) -> None:
    await repeat(at, encode_frame(0x80, b"x"), limits.STRANGERS_FRAMES_BURST / 2)


async def answers_unasked(at: Scene) -> None:
    for frame in (encode_frame(Kind.BLOB_REFUSED, bytes(5)), encode_frame(Kind.RESPONSE, bytes(5) + b"x")):
        await repeat(at, frame, limits.STRANGERS_FRAMES_BURST / 4)


async def leaves_unasked(at: Scene) -> None:
    await repeat(at, encode_frame(Kind.LEAF, bytes(8 + limits.LEAF_BYTES)), 500)


async def strangers_votes(at: Scene) -> None:
    """Signed by somebody, each another one, for heights and views that nobody will reach."""
    rogue, votes = await at.rogue(), []
    for number in range(2000):
        signed = make_statement(0x11, CHAIN, struct.pack(">QI", 2**63 + number, 2**31) + bytes(36))
        votes.append(Envelope(rogue.identity.public_key, rogue.identity.sign(signed), signed).frame())
        await trio.lowlevel.checkpoint()  # the friend is in this process
    for start in range(0, len(votes), 100):
        await at.say(rogue, *votes[start : start + 100])
    await ponged(rogue)


async def peers_that_are_not(at: Scene) -> None:
    """Whenever it asks, sixty-four addresses that it did not know of; and it is told of news a thousand times."""
    rogue, told = await at.rogue(), 0
    await at.say(rogue, encode_frame(Kind.PEX_NEWS) * 1000)
    with trio.move_on_after(10.0):
        while told < 12:
            nonce = (await rogue.next(Kind.PEX_REQUEST))[:8]
            records = []
            for _ in range(limits.RECORDS_PER_RESPONSE_MAX):
                identity = Identity.generate()
                where = Address(f"127.0.{told}.{len(records) + 1}", 7337)
                records.append(PeerRecord.sign(identity, CHAIN, sequence=1, address=where))
            await at.say(rogue, encode_response(int.from_bytes(nonce, "big"), records), encode_frame(Kind.PEX_NEWS))
            told += 1
    _, known, _ = await at.victim.statistics()
    assert known <= limits.RECORDS_PER_SOURCE_BURST + 10 * limits.RECORDS_PER_SOURCE_PER_SECOND + 10


async def requests_never_read(at: Scene) -> None:
    """Blobs and answers asked for as fast as they are taken, and not one byte read."""
    wanted = struct.pack(">32sI", content.digest_of(BLOB), 0)
    for _ in range(8):
        rogue = await at.rogue()
        for number in range(limits.BLOB_REQUESTS_QUEUED_MAX):
            leaves = encode_frame(Kind.LEAVES_WANTED, struct.pack(">I", number) + wanted + struct.pack(">H", 8))
            await at.say(rogue, leaves)
        for number in range(200):
            await at.say(rogue, encode_frame(Kind.REQUEST, struct.pack(">IH", number, 1) + bytes(60_000)))
    await at.asks()


async def pings_never_read(at: Scene) -> None:
    """Every PING asks for a PONG, which is urgent and waits for nobody."""
    for _ in range(4):
        rogue = await at.rogue()
        for _ in range(40):
            await at.say(rogue, encode_frame(Kind.PING, bytes(8)) * 100)
    await at.asks()


async def questions_never_read(at: Scene) -> None:
    """About blobs that nobody holds, and to be dialed back: each has a short answer that waits for nobody."""
    for _ in range(4):
        rogue = await at.rogue()
        for number in range(40):
            wanted = [struct.pack(">I32sI", each, os.urandom(32), 0) for each in range(50)]
            questions = [encode_frame(Kind.HELD_WANTED, body) for body in wanted]
            back = encode_frame(Kind.DIAL_BACK, struct.pack(">QH", number, 9)) * 50
            await at.say(rogue, *questions, back)
    await at.asks()


async def words_never_read(at: Scene) -> None:
    """What the node says to all piles up for those who do not read, up to its bound; a friend hears everything, and at once."""
    for _ in range(4):
        await at.rogue()
    count = 2 * limits.URGENT_BYTES_MAX // 200_000
    for number in range(count):
        at.friend.swarm.publish(encode_frame(0x81, encode_frame(0x80, struct.pack(">I", number) + bytes(200_000))))
        await at.asks(1)
    assert [struct.unpack_from(">I", body)[0] for body in at.friend.frames()] == list(range(count))


async def repeat(at: Scene, frame: bytes, count: float) -> None:
    rogue = await at.rogue()
    for _ in range(int(count) // 100):
        await at.say(rogue, frame * 100)
    await ponged(rogue)


async def ponged(rogue: Rogue) -> None:
    """Everything before it has been taken."""
    await rogue.send(encode_frame(Kind.PING, b"the last"))
    while await rogue.next(Kind.PONG) != b"the last":
        pass


FLOODS: dict[Flood, int] = {  # and what its rogues may make the victim hold, by the limits
    connections: limits.HANDSHAKES_MAX * 128 * limits.KIB,
    drips: limits.PEERS_MAX // 2 * 256 * limits.KIB,
    handshakes: 0,
    small_frames: 0,
    answers_unasked: 0,
    leaves_unasked: 0,
    strangers_votes: 0,
    peers_that_are_not: 0,
    requests_never_read: 8 * (limits.BULK_BYTES_MAX + limits.REQUESTS_SERVED_MAX * limits.REQUEST_BYTES_MAX),
    pings_never_read: 4 * limits.URGENT_BYTES_MAX,
    questions_never_read: 4 * limits.URGENT_FRAMES_MAX * 128,
    words_never_read: 4 * limits.URGENT_BYTES_MAX,
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the costs of a process from /proc")
@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_flood_costs_no_more_than_its_bounds_and_keeps_nobody_waiting(flood: Flood) -> None:
    async with scene() as at:
        await at.asks(20)
        memory, cpu, longest = at.victim.memory_bytes, at.victim.cpu_seconds, 0.0
        most = memory

        async def watch() -> None:
            nonlocal longest, most
            while True:
                longest = max(longest, await at.asks(1))
                most = max(most, at.victim.memory_bytes)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await flood(at)
            nursery.cancel_scope.cancel()
        most = max(most, at.victim.memory_bytes)
        sys.stdout.write(
            f"\n{flood.__name__:20} {trio.current_time() - began:6.2f} s, {at.victim.cpu_seconds - cpu:6.2f} s of processor, "
            f"{(most - memory) / limits.MIB:6.1f} MiB more (at most {FLOODS[flood] // limits.MIB} and slack), "
            f"longest wait of a friend {longest * 1e3:6.0f} ms"
        )
        assert most - memory <= FLOODS[flood] + SLACK_BYTES
        await at.asks()


async def test_who_takes_no_events_holds_a_share_for_each_peer_and_no_more() -> None:
    """A node that is busy: what peers send waits in the inbox up to its bound, and then in their own sockets."""
    async with scene("deaf") as at:
        memory = at.victim.memory_bytes
        for _ in range(4):
            rogue = await at.rogue()
            with trio.move_on_after(1.0):
                for _ in range(60):
                    await at.say(rogue, encode_frame(0x80, bytes(200_000)))
        await at.asks()
        grown = at.victim.memory_bytes - memory
        sys.stdout.write(f"\n{'inbox':20} {grown / limits.MIB:6.1f} MiB more for four rogues with 12 MB each")
        assert grown <= 4 * (limits.INBOX_BYTES_PER_PEER_MAX + 1 * limits.MIB) + SLACK_BYTES
