"""How often the dialer looks at whom to dial, and the exchange says that there is news, however much happens."""

from collections.abc import Collection
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.transport.net import RecordingLog, Signal
from tests.transport.test_own_address import PORT, World, simulated
from transport import limits
from transport.address import Address
from transport.dialer import Dialer
from transport.dialing import DialPlan, Target
from transport.exchange import Exchange
from transport.identity import Identity
from transport.outbox import Outbox
from transport.peerbook import PeerBook
from transport.pex import PexExchange

ME = Identity(b"m" * 32)
HOSTS = [f"{20 + number}.{number}.0.1" for number in range(4)]


def book() -> PeerBook:
    return PeerBook(bytes(32))


def host() -> Any:
    log = RecordingLog(Signal())
    return SimpleNamespace(log=log, rng=Random(1), bound=None, not_to_dial=set, is_alone=lambda: False)


async def test_what_changes_at_the_same_time_is_looked_at_together(autojump_clock: MockClock) -> None:
    looks: list[float] = []

    class Plan(DialPlan):
        def due(self, now: float, connected: Any) -> Any:
            looks.append(now)
            return super().due(now, connected)

    dialer = Dialer(Plan(ME.public_key, Random(1)), book(), host())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.run, ())
        began = trio.current_time()
        for _ in range(1000):
            dialer.wake()
            await trio.sleep(0.001)
        spent = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert 0.8 * spent / limits.LOOK_SECONDS <= len(looks) <= 1 + spent / limits.LOOK_SECONDS


async def test_news_to_many_are_told_more_seldom_than_to_few(autojump_clock: MockClock) -> None:
    async def told(peers: int) -> float:
        """Frames a second, where there is news all the time."""
        sessions: Any = {n: SimpleNamespace(pex=PexExchange(now=0.0), outbox=Outbox()) for n in range(peers)}
        dialer = Dialer(DialPlan(ME.public_key, Random(1)), book(), host())
        exchange = Exchange(book=book(), dialer=dialer, sessions=sessions, announce=None, host=host())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.tell_news)
            for _ in range(1000):
                exchange.tell()
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        return sum(len(session.outbox.gather()) for session in sessions.values()) / 5 / 20

    few, many = await told(2), await told(96)
    assert 0.8 * 2 / limits.NEWS_SECONDS <= few <= 1.1 * 2 / limits.NEWS_SECONDS
    assert 0.8 * limits.NEWS_PER_SECOND <= many <= 1.2 * limits.NEWS_PER_SECOND


class Looks:
    """When the plan of one node was asked what is due, and which members' addresses it was offered."""

    def __init__(self, plan: DialPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: list[float] = []
        self.offered: list[bytes] = []
        due, offer = plan.due, plan.offer

        def seen_due(now: float, connected: Collection[bytes]) -> list[Target]:
            self.at.append(trio.current_time())
            return due(now, connected)

        def seen_offer(*args: Any, key: Any, **more: Any) -> bool:
            self.offered.append(key)
            return offer(*args, key=key, **more)

        monkeypatch.setattr(plan, "due", seen_due)
        monkeypatch.setattr(plan, "offer", seen_offer)


def test_the_first_change_in_a_while_is_looked_at_at_once_and_what_is_due_meanwhile_when_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        one, two = await world.node(HOSTS[0]), await world.node(HOSTS[1])
        await trio.sleep(1)
        looks, now = Looks(one.swarm.dialer.plan, monkeypatch), trio.current_time()
        at = Address(HOSTS[1], PORT)
        one.swarm.dialer.plan.offer(at, key=two.key, now=now + limits.LOOK_SECONDS / 2, is_bootstrap=True)
        one.swarm.dialer.wake()
        await trio.sleep(limits.LOOK_SECONDS / 4)
        assert looks.at == [now]
        one.swarm.dialer.wake()
        await trio.sleep(limits.LOOK_SECONDS)
        assert looks.at[:2] == pytest.approx([now, now + limits.LOOK_SECONDS / 2])
        await world.until(lambda: one.knows(two), seconds=1)

    simulated(scenario)


def test_the_addresses_of_members_are_gone_through_when_they_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        nodes = [await world.node(host, *HOSTS[:1]) for host in HOSTS]
        first, *others = nodes
        await world.until(lambda: all(node.knows(*set(nodes) - {node}) for node in nodes))
        first.swarm.members([node.key for node in nodes])
        await trio.sleep(1)
        looks = Looks(first.swarm.dialer.plan, monkeypatch)
        for _ in range(10):
            first.swarm.dialer.wake()
            await trio.sleep(2 * limits.LOOK_SECONDS)
        assert len(looks.at) >= 10 and not looks.offered, "nothing new"
        first.swarm.members([node.key for node in others])
        await trio.sleep(1)
        assert set(looks.offered) == {node.key for node in others}
        looks.offered.clear()
        last = await world.node("30.30.0.1", HOSTS[0])
        await world.until(lambda: first.knows(last))
        assert set(looks.offered) >= {node.key for node in others}, "the book has one more"

    simulated(scenario)
