"""Floods of things that only a whole node understands, at a real one in a process of its own: its memory stays within bounds, it answers.

Strangers come upon a node that decides alone, and it goes on deciding. A member comes upon one that waits for it: the height stays open, so
whatever a height may gather piles up. What is asserted is service and memory; processor seconds are printed (`pytest -s`), because they are
the machine's. tests/transport/test_floods.py has the floods that the transport must bear.
"""

import contextlib
import os
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
import pytest
import trio

import consensus
import transport
from consensus.evidence import evidence_of
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.genesis import Genesis
from p2pnode.wire import BLOCKS_RESPONSE_BYTES_MAX, FrameKind, Method
from tests.p2pnode.hostile import Hostile, frame, meet, said, signed, statement, status
from tests.p2pnode.little import TEXT, contribution, identities, make_genesis, payload, sign
from tests.p2pnode.machines import Machine
from transport import limits
from transport.framing import Kind

SLACK_BYTES = 32 * limits.MIB  # the allocator's, and a node at work
COUNT = 3000  # messages in a flood; a payload or a task for each would show

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the costs of a process from /proc")


@dataclass
class Scene:
    """A node, and a flooder at the end of one connection to it."""

    victim: Machine
    port: int
    genesis: Genesis
    flooder: transport.Identity
    enemy: Hostile

    @property
    def members(self) -> set[bytes]:
        return {founder.public_key for founder in self.genesis.founders}

    @property
    def memory_bytes(self) -> int:
        return int(self._proc("statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc(self, name: str) -> str:
        assert self.victim.process is not None
        return Path(f"/proc/{self.victim.process.pid}/{name}").read_text()

    async def status(self) -> dict[str, object]:
        """In the node's own words: it still answers its owner."""
        found = await trio.to_thread.run_sync(self.victim.status)
        assert found, "no answer over the control socket"
        return found

    async def next_height(self) -> int:
        height = (await self.status())["height"]
        assert isinstance(height, int)
        return height + 1

    async def say(self, *frames: bytes) -> None:
        for start in range(0, len(frames), 100):
            await self.enemy.send(*frames[start : start + 100])
        await self.heard()

    async def heard(self) -> None:
        """Everything that was said has been taken."""
        nonce = os.urandom(8)
        await self.enemy.send(frame(Kind.PING, nonce))
        with trio.fail_after(120):
            while (Kind.PONG, nonce) not in self.enemy.heard[-1000:]:
                assert not self.enemy.ended.is_set(), self.victim.output.read_text()[-2000:]
                await trio.sleep(0.01)


# --- the floods ------------------------------------------------------------------------------------------------------------------


async def far_votes(at: Scene) -> None:
    """Truly signed, each another one: for far views of the open height, and for far heights."""
    frames, here = [], await at.next_height()
    for number in range(COUNT):
        height, view = (here, number) if number % 2 else (2**40 + number, 0)
        kind, tail = ((0x11, b"\xff" * 4), (0x12, b""), (0x13, b""))[number % 3]
        body = os.urandom(32) + tail if kind != 0x13 else b"\xff" * 4 + bytes(32)
        text = statement(at.genesis.chain_id, kind, height, view, body)
        frames.append(signed(at.flooder, text, bytes(8) if kind == 0x13 else b""))
    await at.say(*frames)


async def offers(at: Scene) -> None:
    """Payloads of sixty megabytes, each by another name, that are nowhere; from as many keys where keys are free."""
    state, here = at.genesis.state(), await at.next_height()
    frames = []
    for number in range(COUNT // 3):
        author = at.flooder if number % 8 == 0 else transport.Identity(number.to_bytes(32, "big"))
        nowhere = consensus.Digest(os.urandom(32))
        offer = contribution(
            author, state, payload(1), payload_digest=nowhere, payload_bytes=60 << 20, height=here + number % 2
        )
        frames.append(said(offer, at.genesis.chain_id))
    await at.say(*frames)


async def proposals(at: Scene) -> None:
    """Blocks without end for the open height and those after it, each another one."""
    state, me = at.genesis.state(), consensus.PublicKey(at.flooder.public_key)
    listed = [contribution(at.flooder, state, payload(1))]
    frames = []
    for number in range(COUNT // 10):
        block = consensus.build_block(
            consensus.BlockTemplate(state, me), contributions=listed, model_root=consensus.Digest(os.urandom(32))
        )
        unsigned = consensus.Proposal(me, block.height, number % 70, block, None, consensus.Signature(b""))
        frames.append(said(sign(at.flooder, at.genesis.chain_id, unsigned), at.genesis.chain_id))
    await at.say(*frames)


async def evidence(at: Scene) -> None:
    """The flooder's own contradictions, by vote and as proof, and the same with a founder's name on them."""
    me, framed = consensus.PublicKey(at.flooder.public_key), consensus.PublicKey(at.genesis.founders[0].public_key)
    frames, here = [], await at.next_height()
    for number in range(COUNT // 4):
        blank = consensus.Prepare(me, here + number, 0, consensus.NIL, -1, consensus.Signature(b""))
        pair = [replace(blank, block_hash=consensus.Digest(os.urandom(32))) for _ in range(2)]
        votes = [sign(at.flooder, at.genesis.chain_id, vote) for vote in pair]
        proof = [(vote.statement(consensus.Digest(at.genesis.chain_id)), vote.signature) for vote in votes]
        frames += [said(vote, at.genesis.chain_id) for vote in votes]
        frames += [frame(FrameKind.EVIDENCE, evidence_of(author, *proof).encode()) for author in (me, framed)]
    await at.say(*frames)
    wanted = {transport.node_id(at.flooder.public_key)} if at.flooder.public_key in at.members else set()
    with trio.fail_after(60):
        while True:
            accused = {row["node"] for row in await trio.to_thread.run_sync(at.victim.client.evidence)}
            if accused >= wanted:
                break
            await trio.sleep(0.05)
    assert accused == wanted, "nobody is framed"


async def certificates(at: Scene) -> None:
    """Of the open height and far ones, by the whole committee or a hundred others, with signatures that are none."""
    frames, here = [], await at.next_height()
    others = sorted(os.urandom(32) for _ in range(100))
    for number in range(COUNT // 4):
        keys = sorted(at.members) if number % 2 else others
        signers = tuple((consensus.PublicKey(key), consensus.Signature(bytes(64))) for key in keys)
        height, name = here + number // 2 % 3, consensus.Digest(os.urandom(32))
        made: list[consensus.Certificate] = [
            consensus.PrepareCertificate(height, number, name, -1, signers),
            consensus.CommitCertificate(height, number, name, signers),
            consensus.ViewCertificate(height, number, tuple((key, name, lie) for key, lie in signers)),
        ]
        frames.append(frame(FrameKind.CERTIFICATE, made[number % 3].encode()))
    await at.say(*frames)


async def claims(at: Scene) -> None:
    """Of heights that go up and down, and of being busy with all of them."""
    await at.say(
        *(status(2**40 + 7919 * n % 10_000, learning=n, role=n % 3, root=os.urandom(32)) for n in range(COUNT))
    )


async def questions(at: Scene) -> None:
    """Pages of blocks, asked for as fast as they are taken; the answers are read, or all would end here."""
    body = msgpack.packb((1, 64))
    await at.say(
        *(frame(Kind.REQUEST, struct.pack(">IH", number, Method.BLOCKS) + body) for number in range(COUNT // 10))
    )


async def connections(at: Scene) -> None:
    """Each says something that is no TLS, or nothing, and is gone or waits to be thrown out. The log shows that, and other things, too."""
    began, lines = trio.current_time(), at.victim.output.read_text().count("peer refused")
    for number in range(COUNT // 5):
        stream = await trio.open_tcp_stream("127.0.0.1", at.port)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all((b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n")[number % 3])
            if number % 2:
                with trio.move_on_after(0.01):
                    await stream.receive_some(100)
        await trio.aclose_forcefully(stream)
    await at.heard()
    seconds = trio.current_time() - began
    more = at.victim.output.read_text().count("peer refused") - lines
    assert 0 < more <= limits.REFUSAL_LINES_AT_ONCE + limits.REFUSAL_LINES_PER_SECOND * (seconds + 5)


async def bombs(at: Scene) -> None:
    """Msgpack that is deep, or claims to be long, wherever msgpack is read."""
    shapes = [
        b"\x91" * 60_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81" * 60_000,
    ]
    frames = []
    for number in range(COUNT // 30):
        shape = shapes[number % len(shapes)]
        frames.append(frame(FrameKind.STATUS, shape))
        for method in (Method.BLOCKS, Method.SNAPSHOTS, Method.SPOKEN, Method.GENESIS):
            frames.append(frame(Kind.REQUEST, struct.pack(">IH", number, method) + shape))
    await at.say(*frames)


Flood = Callable[[Scene], Awaitable[None]]
FLOODS: dict[Flood, int] = {  # and what it may make the victim hold, by the limits
    far_votes: 0,
    offers: 0,
    proposals: 0,
    evidence: 0,
    certificates: 0,
    claims: 0,
    questions: limits.ANSWERS_AT_ONCE * 2 * BLOCKS_RESPONSE_BYTES_MAX,
    connections: limits.HANDSHAKES_MAX * 128 * limits.KIB,
    bombs: limits.REQUESTS_SERVED_MAX * limits.REQUEST_BYTES_MAX,
}


# --- the victims -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["stranger", "member"])
def victim(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Machine, Genesis, bool]]:
    """A founder alone; or one of two, and the flooder has the other's key."""
    is_member = request.param == "member"
    founders = identities(2 if is_member else 1)
    genesis = make_genesis(founders)
    machine = Machine(tmp_path_factory.mktemp("victim"), "home")
    machine.home.create()
    machine.home.key.write_text(bytes(founders[0]._key).hex())
    machine.home.key.chmod(0o600)
    open_blobs(machine.home).put(TEXT)
    write_genesis(machine.home, genesis)
    machine.start("--listen", "127.0.0.1:0")
    try:
        machine.until(lambda s: s["phase"] != "start" and (is_member or s["height"] >= 2))
        yield machine, genesis, is_member
    finally:
        assert machine.process is not None
        machine.process.kill()
        machine.process.wait()
    assert "Traceback" not in machine.output.read_text()


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_flood_costs_no_more_than_its_bounds_and_the_node_goes_on(
    victim: tuple[Machine, Genesis, bool], flood: Flood
) -> None:
    machine, genesis, is_member = victim
    flooder = identities(2)[1] if is_member else transport.Identity(b"\x77" * 32)
    port = int(machine.status()["listen"].rpartition(":")[2])
    async with trio.open_nursery() as nursery:
        enemy = await meet(port, genesis.chain_id, nursery, identity=flooder)
        at = Scene(machine, port, genesis, flooder, enemy)
        await at.heard()
        before, cpu, height = at.memory_bytes, at.cpu_seconds, await at.next_height()
        began = trio.current_time()
        await flood(at)
        after = await at.status()
        grown = at.memory_bytes - before
        sys.stdout.write(
            f"\n{'member' if is_member else 'stranger':8} {flood.__name__:13} {trio.current_time() - began:6.2f} s,"
            f" {at.cpu_seconds - cpu:6.2f} s of processor, {grown / limits.MIB:6.1f} MiB more"
            f" (at most {FLOODS[flood] // limits.MIB} and slack); refused so far: {after['refused']}"
        )
        assert grown <= FLOODS[flood] + SLACK_BYTES
        if not is_member:
            with trio.fail_after(60):
                while await at.next_height() < height + 3:  # noqa: ASYNC110 - it is in another process
                    await trio.sleep(0.05)
        await enemy.leave()
        nursery.cancel_scope.cancel()
