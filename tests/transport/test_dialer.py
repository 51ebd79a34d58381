"""How often the dialer looks at whom to dial, and the exchange says that there is news, however much happens."""

from random import Random
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from tests.transport.net import RecordingLog, Signal
from transport import limits
from transport.dialer import Dialer
from transport.dialing import DialPlan
from transport.exchange import Exchange
from transport.identity import Identity
from transport.outbox import Outbox
from transport.peerbook import PeerBook
from transport.pex import PexExchange

ME = Identity(b"m" * 32)


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
