"""Payloads are on the disk before a COMMIT answers for them, and mostly long before."""

import pytest
import trio
import trio.testing

from p2pnode.blobs import Blobs
from p2pnode.pool import Held, Pool
from p2pnode.wakeup import Signal
from p2pnode.writing import Writing
from tests.p2pnode.little import Chain, contribution, payload, until


class Stage:
    """An open pool over real blobs."""

    def __init__(self, directory):
        self.chain = Chain(4)
        self.state = self.chain.genesis.state()
        self.blobs = Blobs(directory / "blobs", directory / "snapshots")
        self.changed = Signal()
        members = frozenset(self.state.membership.current.members)
        self.pool = Pool(self.state, members=members, payload_bytes=len(payload(0)))
        self.writing = Writing(self.blobs, lambda: self.pool, self.changed)

    def hold(self, place):
        """A contribution whose bytes have been put and not flushed."""
        made = contribution(self.chain.founders[place], self.state, payload(place))
        self.pool.announce(made)
        self.blobs.put(payload(place), made.payload_digest)
        held = Held(made, payload(place), 0.0)
        self.pool.hold(held)
        self.changed.fire()
        return held


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def digest_of(held):
    return held.contribution.payload_digest


async def test_what_is_collected_is_flushed_as_it_comes(stage):
    first = stage.hold(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.writing.run)
        await until(lambda: stage.blobs.is_durable(digest_of(first)))
        second = stage.hold(1)
        await until(lambda: stage.blobs.is_durable(digest_of(second)))
        nursery.cancel_scope.cancel()


async def test_bytes_that_a_sweep_took_stop_nothing_and_are_written_again(stage):
    swept = stage.hold(0)
    stage.blobs.drop(digest_of(swept))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.writing.run)
        await trio.testing.wait_all_tasks_blocked()
        await stage.writing.finish([swept])
        assert stage.blobs.get(digest_of(swept)) == swept.payload and stage.blobs.is_durable(digest_of(swept))
        nursery.cancel_scope.cancel()


async def test_what_is_durable_costs_nothing_more(stage, monkeypatch):
    held = [stage.hold(0), stage.hold(1)]
    await stage.writing.finish(held)
    monkeypatch.setattr(stage.blobs, "make_durable", None)
    await stage.writing.finish(held)
