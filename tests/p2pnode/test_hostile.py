"""Whole nodes among hostile peers: they stay up, go on deciding, hold no more than their bounds, and say why they refuse.

Each test is a class of lies, told over real connections (``hostile``) to a real node with a tiny model. What is asserted is progress and
bounds, never a speed.
"""

import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

import consensus
import transport
from p2pnode import blocksync, gossip
from p2pnode.config import Endpoint
from p2pnode.node import Node
from p2pnode.store import Store
from p2pnode.wire import FrameKind, Method
from tests.p2pnode.hostile import (
    Hostile,
    frame,
    height,
    living,
    make_node,
    meet,
    port,
    said,
    signed,
    statement,
    status,
    strangers,
)
from tests.p2pnode.little import Chain, contribution, identities, make_genesis, payload, sign
from transport import limits
from transport.establish import DialError
from transport.framing import Kind

SECONDS_MAX = 20.0  # per wait; one is over in well under a second unless something is wrong


async def until(condition: Callable[[], Any]) -> None:
    """Real threads and sockets: looked at now and then, for a while."""
    with trio.fail_after(SECONDS_MAX):
        while not condition():  # noqa: ASYNC110 - nothing fires when a height is decided
            await trio.sleep(0.01)


async def decides(node: Node, heights: int = 5) -> None:
    """It goes on, whatever is said to it: fifty times quicker than ``round_seconds_max`` would have it."""
    wanted = height(node) + heights
    await until(lambda: height(node) >= wanted)


def tasks() -> int:
    """Everything that runs in this process."""
    count, stack = 0, [trio.lowlevel.current_root_task()]
    while stack:
        task = stack.pop()
        assert task is not None
        count += 1
        for nursery in task.child_nurseries:
            stack.extend(nursery.child_tasks)
    return count


@dataclass
class Scene:
    """A node that decides alone, and a way to meet it."""

    node: Node
    nursery: trio.Nursery

    @property
    def chain_id(self) -> bytes:
        assert self.node.genesis is not None
        return self.node.genesis.chain_id

    async def enemy(self, **how: Any) -> Hostile:
        return await meet(port(self.node), self.chain_id, self.nursery, **how)


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[Scene]:
    founders = identities(1)
    node = make_node(directory, founders[0], make_genesis(founders))
    async with living(node), trio.open_nursery() as nursery:
        await until(lambda: height(node) >= 1)
        yield Scene(node, nursery)
        nursery.cancel_scope.cancel()


async def test_claims_to_be_learning_hold_nobody_up(tmp_path):
    async with alone(tmp_path / "home") as scene:
        enemies = [await scene.enemy() for _ in range(3)]

        async def claim() -> None:
            while True:
                open_height = height(scene.node) + 1
                for enemy in enemies:
                    await enemy.send(status(open_height - 1, learning=open_height))
                await trio.sleep(0.005)

        scene.nursery.start_soon(claim)
        await decides(scene.node)


async def test_contributions_that_never_arrive_leave_nothing_behind(tmp_path):
    async with alone(tmp_path / "home") as scene:
        enemy = await scene.enemy()
        enemy.mute = True
        calm = tasks()
        for number in range(10):
            state = scene.node.rounds.state
            for author in strangers(100):
                nowhere = consensus.Digest(os.urandom(32))
                await enemy.send(said(contribution(author, state, payload(1), payload_digest=nowhere), scene.chain_id))
            await decides(scene.node, 1)
            assert tasks() < calm + 400, number
        await decides(scene.node)
        assert len(scene.node.rounds._underway) <= 64


async def test_somebody_elses_bytes_again_and_a_lying_holder(tmp_path):
    async with alone(tmp_path / "home") as scene:
        enemy = await scene.enemy()
        enemy.lies = True
        node = scene.node
        for place, author in enumerate(strangers(5)):
            state = node.rounds.state
            own = node.rounds.pool.held()
            if own:  # the founder's own digest under another name
                digest = own[0].contribution.payload_digest
                await enemy.send(said(contribution(author, state, payload(1), payload_digest=digest), scene.chain_id))
            data = payload(1000 + place)
            lie = contribution(author, state, data, purpose=consensus.Purpose.PROBE)
            enemy.blobs[lie.payload_digest] = data
            await enemy.send(said(lie, scene.chain_id))
            huge = contribution(author, state, data, payload_bytes=2**63)
            await enemy.send(said(huge, scene.chain_id))
            await decides(node, 1)
        await decides(node)


# --- anybody --------------------------------------------------------------------------------------------------------------------


async def test_frames_of_every_kind_in_every_shape(tmp_path):
    async with alone(tmp_path / "home") as scene:
        shapes = [
            b"",
            b"\xff",
            b"\x91" * 900,
            b"\xdd\xff\xff\xff\xff",
            bytes(42),
            bytes(44),
            bytes(range(256)),
            bytes(60_000),
        ]
        for kind in [*Kind, 0x06, 0x7F, 0x80, 0x81, 0x82, 0x99, 0xFF]:
            enemy = await scene.enemy()
            for shape in shapes:
                await enemy.send(frame(kind, shape))
            cut_short = await scene.enemy()
            await cut_short.send(frame(kind, b"\0", length=9))
            endless = await scene.enemy()
            await endless.send(frame(kind, b"", length=2**32 - 1))
            await endless.ended.wait()
            await enemy.leave()
            await cut_short.leave()
        await decides(scene.node)


async def test_a_flood_of_well_formed_nonsense(tmp_path):
    async with alone(tmp_path / "home") as scene:
        stranger = strangers(1)[0]
        things = [
            frame(FrameKind.CERTIFICATE, b"\2" + bytes(7) + b"\1" + bytes(36) + b"\0\0"),
            frame(FrameKind.EVIDENCE, bytes(161) + b"\x40" + bytes(128)),
            frame(0x99, b"?"),
            status(2**62, learning=2**62, role=2),
            signed(stranger, statement(scene.chain_id, 0x10, 5, 0, bytes(36)), bytes(8)),
            signed(stranger, statement(scene.chain_id, 0x02, 5, 0, b"")),
        ]
        flooders = [await scene.enemy() for _ in things]

        async def flood(enemy: Hostile, data: bytes) -> None:
            while not enemy.ended.is_set():
                await enemy.send(*[data] * 50)

        for enemy, data in zip(flooders, things, strict=True):
            scene.nursery.start_soon(flood, enemy, data)
        await decides(scene.node, 3)


async def test_questions_without_end_and_answers_never_read(tmp_path):
    async with alone(tmp_path / "home") as scene:
        enemy = await scene.enemy()
        for number in range(200):
            for method, body in (
                (Method.BLOCKS, msgpack.packb((1, 64))),
                (Method.BLOCKS, msgpack.packb((0, 2**63))),
                (Method.BLOCKS, b"\x91" * 60_000),
                (Method.BLOCK, bytes(32)),
                (Method.SNAPSHOTS, b"?"),
                (Method.GENESIS, b"?"),
                (0, b""),
            ):
                await enemy.send(frame(Kind.REQUEST, struct.pack(">IH", number, method) + body))
            await enemy.send(frame(Kind.RESPONSE, struct.pack(">IB", number, 1) + bytes(65_536)))
        await until(lambda: sum(kind == Kind.RESPONSE for kind, _ in enemy.heard) > 400)
        assert not enemy.ended.is_set()
        deaf = await trio.open_tcp_stream("127.0.0.1", port(scene.node))
        await deaf.send_all(b"\x16\x03\x01")  # the beginning of a TLS handshake, and never more
        await decides(scene.node)
        await deaf.aclose()


async def test_more_peers_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PEERS_MAX", 20)  # fewer, for the time that handshakes take
    async with alone(tmp_path / "home") as scene:
        for _ in range(limits.PEERS_MAX):
            await scene.enemy()
        with pytest.raises(DialError, match="enough peers"):
            await scene.enemy()
        await decides(scene.node)


async def test_lies_about_the_chain_keep_a_node_from_nothing(tmp_path):
    """A node asks whoever claims to be ahead, and gets everything but a block."""
    async with alone(tmp_path / "home") as scene:
        rows = scene.node.store.block_rows(1, 1)
        answers = [
            b"",
            b"\x90",
            b"\x91" * 5000,
            b"\xdd\xff\xff\xff\xff",
            msgpack.packb(rows),
            msgpack.packb([(bytes(1 << 20), b"")] * 8),
            msgpack.packb([(rows[0][0], rows[0][1][:-1])]),
            bytes(9 << 20),
        ]
        enemies = []
        for answer in answers:
            enemy = await scene.enemy()
            enemy.answers[Method.BLOCKS] = lambda _, answer=answer: answer
            enemy.answers[Method.SNAPSHOTS] = lambda _: msgpack.packb([(2**62, bytes(32))] * 8)
            await enemy.send(status(2**62))
            enemies.append(enemy)
        await until(lambda: all(Method.BLOCKS in enemy.asked for enemy in enemies))
        await decides(scene.node)
        catchup = scene.node.catchup
        await until(lambda: catchup.claimed() < 2**62)  # all of them are doubted
        assert scene.node.view.health().verdict == "healthy"


# --- one of four, with its key in the wrong hands ----------------------------------------------------------------------------------


@dataclass
class Four:
    """Three honest nodes, and the key of the fourth founder."""

    honest: list[Node]
    identity: transport.Identity
    nursery: trio.Nursery

    @property
    def chain_id(self) -> bytes:
        assert self.honest[0].genesis is not None
        return self.honest[0].genesis.chain_id

    async def traitors(self) -> list[Hostile]:
        """One connection to each honest node, under the founder's key."""
        return [await meet(port(node), self.chain_id, self.nursery, identity=self.identity) for node in self.honest]

    async def go_on(self, heights: int) -> None:
        for node in self.honest:
            await decides(node, heights)

    def agree(self) -> None:
        """Wherever two of them know a height, they know the same block; and none of them stands accused."""
        assert not any(node.rounds.diverged for node in self.honest)
        chains = [{row["height"]: row["block"] for row in node.store.rounds(10_000)} for node in self.honest]
        common = set(chains[0]).intersection(*chains[1:])
        assert common and all(len({chain[at] for chain in chains}) == 1 for at in common)
        keys = {node.identity.public_key for node in self.honest}
        assert not any(key in keys for node in self.honest for key, _, _, _ in node.store.evidence())


@asynccontextmanager
async def three_of_four(directory: Path, *, place: int = 1) -> AsyncIterator[Four]:
    founders = identities(4)
    genesis = make_genesis(founders)
    traitor = founders.pop(place)
    honest: list[Node] = []
    async with trio.open_nursery() as nursery:
        for number, identity in enumerate(founders):
            reach = tuple(Endpoint("127.0.0.1", port(node)) for node in honest)
            node = make_node(directory / str(number), identity, genesis, bootstrap=reach)
            nursery.start_soon(node.main)
            await until(lambda node=node: node.bound is not None)
            honest.append(node)
        for node in honest:
            await until(lambda node=node: height(node) >= 1)
        async with trio.open_nursery() as others:
            yield Four(honest, traitor, others)
            others.cancel_scope.cancel()
        for node in honest:
            node.stopping.set()


def proposal(
    four: Four, state: consensus.ChainState, contributions: list[consensus.Contribution], *, root: bytes
) -> consensus.Proposal:
    """The traitor's block for the height after ``state``, signed whether it is its turn or not."""
    me = consensus.PublicKey(four.identity.public_key)
    block = consensus.build_block(
        consensus.BlockTemplate(state, me), contributions=contributions, model_root=consensus.Digest(root)
    )
    unsigned = consensus.Proposal(me, block.height, 0, block, None, consensus.Signature(b""))
    return sign(four.identity, four.chain_id, unsigned)


async def test_a_proposer_that_lists_what_nobody_can_have(tmp_path):
    async with three_of_four(tmp_path) as four:
        traitors = await four.traitors()
        for traitor in traitors:
            traitor.mute = True
        calm = tasks()
        turns = 0
        while turns < 1:
            state = four.honest[0].rounds.state
            if state.membership.current.proposer(state.height + 1, 0) == four.identity.public_key:
                turns += 1
                listed = [
                    contribution(author, state, payload(1), payload_digest=consensus.Digest(os.urandom(32)))
                    for author in strangers(60)
                ]
                bad = said(proposal(four, state, listed, root=b"\1" * 32), four.chain_id)
                for traitor in traitors:
                    await traitor.send(bad)
            await until(lambda state=state: all(height(node) > state.height for node in four.honest))
        await four.go_on(1)
        four.agree()
        assert tasks() < calm + 300


async def impossible_votes(four: Four, traitors: list[Hostile]) -> None:
    """Of heights and views that nobody has reached, or ever will."""
    stranger = strangers(1)[0]
    for at in (0, 1, height(four.honest[0]) + 2, 10**6, 2**62, 2**63, 2**64 - 1):
        for view in (0, 1, 63, 2**31 - 1, 2**31, 2**32 - 1):
            for kind, body in (
                (0x11, b"\1" * 32 + b"\xff" * 4),
                (0x12, b"\1" * 32),
                (0x13, b"\xff" * 4 + bytes(32)),
            ):
                text = statement(four.chain_id, kind, at, view, body)
                attachment = bytes(8) if kind == 0x13 else b""
                for traitor in traitors:
                    await traitor.send(signed(four.identity, text, attachment), signed(stranger, text, attachment))


async def test_a_member_that_contradicts_itself_frames_nobody_else(tmp_path):
    async with three_of_four(tmp_path) as four:
        traitors = await four.traitors()
        await impossible_votes(four, traitors)
        me = consensus.PublicKey(four.identity.public_key)
        for _ in range(6):
            state = four.honest[0].rounds.state
            for number, traitor in enumerate(traitors):
                name = consensus.Digest(bytes([number + 1]) * 32)
                prepare = consensus.Prepare(me, state.height + 1, 0, name, -1, consensus.Signature(b""))
                commit = consensus.Commit(me, state.height + 1, 0, name, consensus.Signature(b""))
                offered = contribution(four.identity, state, payload(number))
                empty = proposal(four, state, [], root=state.model_root)
                other = proposal(four, state, [offered], root=b"\2" * 32)
                for message in (offered, empty, other):
                    await traitor.send(said(message, four.chain_id))
                for vote in (prepare, commit):
                    await traitor.send(said(sign(four.identity, four.chain_id, vote), four.chain_id))
            await until(lambda state=state: all(height(node) > state.height for node in four.honest))
        await four.go_on(1)
        four.agree()
        assert not any(traitor.ended.is_set() for traitor in traitors)
        assert all(node.view.health().verdict != "halted" for node in four.honest)
        accused = {key for node in four.honest for key, _, _, _ in node.store.evidence()}
        assert accused == {four.identity.public_key}


async def test_a_ban_is_one_nodes_own_and_changes_nobodys_count(tmp_path):
    """It hangs up on a member for a proven lie, and goes on counting it: what that member says comes by way of the others."""
    async with three_of_four(tmp_path) as four:
        traitors = await four.traitors()
        here, me = four.honest[0], consensus.PublicKey(four.identity.public_key)
        text = statement(four.chain_id, 0x12, 5, 0, bytes(32))
        await traitors[0].send(signed(four.identity, text, author=strangers(1)[0].public_key))
        await traitors[0].ended.wait()
        with pytest.raises(DialError, match="banned"):
            await meet(port(here), four.chain_id, four.nursery, identity=four.identity)
        members = here.rounds.state.membership.current
        assert me in members and members.quorum() == 3

        def is_accused() -> bool:
            return any(key == me for key, _, _, _ in here.store.evidence())

        while not is_accused():
            state = here.rounds.state
            for number, traitor in enumerate(traitors[1:]):
                name = consensus.Digest(bytes([number + 1]) * 32)
                vote = consensus.Prepare(me, state.height + 1, 0, name, -1, consensus.Signature(b""))
                await traitor.send(said(sign(four.identity, four.chain_id, vote), four.chain_id))
            await until(lambda state=state: is_accused() or all(height(n) > state.height for n in four.honest))
        await four.go_on(1)
        four.agree()


# --- who joins, or comes back ----------------------------------------------------------------------------------------------------


async def test_a_joiner_follows_its_bootstrap_node_and_nobody_else(tmp_path):
    founders, others = identities(1), identities(3)[1:]
    founder = make_node(tmp_path / "founder", founders[0], make_genesis(founders))
    elsewhere = make_genesis([others[0]])
    async with living(founder):
        await until(lambda: height(founder) >= 3)
        reach = (Endpoint("127.0.0.1", port(founder)),)
        network = founder.genesis.chain_id.hex()
        joiner = make_node(tmp_path / "joiner", others[1], None, bootstrap=reach, network=network)
        async with living(joiner), trio.open_nursery() as nursery:
            await until(lambda: joiner.bound is not None)
            for _ in range(3):  # they dial the joiner, say that they are of another network, and hand out its genesis
                with contextlib.suppress(DialError):
                    enemy = await meet(port(joiner), elsewhere.chain_id, nursery)
                    enemy.answers[Method.GENESIS] = lambda _: elsewhere.to_bytes()
            await until(lambda: height(joiner) >= 3)
            assert joiner.genesis.chain_id == founder.genesis.chain_id
            nursery.cancel_scope.cancel()


async def test_silent_claims_keep_no_node_from_coming_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gossip, "ASK_SECONDS_MAX", 1.0)
    monkeypatch.setattr(blocksync, "DOUBT_SECONDS", 1.0)  # as in life, no longer than one question takes
    founders = identities(4)
    genesis = make_genesis(founders)
    node = make_node(tmp_path / "home", founders[0], genesis, bootstrap=(Endpoint("127.0.0.1", 1),))
    async with living(node), trio.open_nursery() as nursery:
        await until(lambda: node.bound is not None)
        enemies = [await meet(port(node), genesis.chain_id, nursery) for _ in range(4)]
        for enemy in enemies:
            await enemy.send(status(2**62))
        await until(lambda: node.rounds is not None and node.rounds.synced)
        nursery.cancel_scope.cancel()


async def test_after_a_lost_vote_log_no_claim_makes_the_silence_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(gossip, "ASK_SECONDS_MAX", 0.2)
    chain = Chain(4).grow(2)
    node = make_node(tmp_path / "home", chain.founders[0], chain.genesis, bootstrap=(Endpoint("127.0.0.1", 1),))
    store = Store(node.home.chain, chain.genesis.chain_id)
    for block, certificate in chain.decided:
        store.put_block(block, certificate, {"height": block.height})
    store.close()
    for data in chain.payloads.values():
        node.blobs.put(data)
    async with living(node), trio.open_nursery() as nursery:
        await until(lambda: node.bound is not None)
        for identity in (None, chain.founders[3]):  # a stranger, and one member where two are needed to be believed
            enemy = await meet(port(node), chain.genesis.chain_id, nursery, identity=identity)
            await enemy.send(status(2**62))
        await until(lambda: node.driver is not None)
        assert "observing until height 4 is decided" in node.driver.silent
        nursery.cancel_scope.cancel()
