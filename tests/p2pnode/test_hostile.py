"""Whole nodes among hostile peers: they stay up, go on deciding, hold no more than their bounds, and say why they refuse.

Each test is a class of lies, told over real connections (``hostile``) to a real node with a tiny model. What is asserted is progress and
bounds, never a speed.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import consensus
from p2pnode.node import Node
from tests.p2pnode.hostile import (
    Hostile,
    height,
    living,
    make_node,
    meet,
    port,
    said,
    status,
    strangers,
)
from tests.p2pnode.little import contribution, identities, make_genesis, payload

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
