"""How often a link that has nothing to say is asked whether it lives, and when it counts as silent. In virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio

from tests.transport.net import Network, introduction
from tests.transport.test_own_address import World, simulated
from transport import limits
from transport.connection import Connection, Shaken, Traffic
from transport.establish import establish
from transport.framing import Kind, encode_frame
from transport.identity import Identity
from transport.outbox import Outbox

MEMBERS, STRANGERS = (lambda: True), (lambda: False)


class Mouth(Outbox):
    """Says no more, once it is muted: what a path that swallows everything looks like from the other end."""

    is_muted = False

    def push(self, frame: bytes, *, along: bool = False) -> None:
        if not self.is_muted:
            super().push(frame, along=along)


@dataclass
class End:
    """One end of a link, and what came to it."""

    shaken: Shaken
    is_watched: Callable[[], bool]
    traffic: Traffic = field(default_factory=Traffic)
    outbox: Mouth = field(default_factory=Mouth)
    came: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = Connection(self.shaken, self.outbox, self.traffic, is_watched=self.is_watched)

    async def run(self) -> None:
        await self.connection.run(self.receive)

    async def receive(self, kind: int, body: bytes) -> None:
        self.came.append(trio.current_time())

    def heard(self, kind: Kind) -> int:
        return self.traffic.kinds[kind].frames if kind in self.traffic.kinds else 0

    async def until_silent(self) -> float:
        while not self.connection.is_silent:  # noqa: ASYNC110 - silence is no event
            await trio.sleep(0.05)
        return trio.current_time()


async def link(is_watched: Callable[[], bool] = STRANGERS) -> tuple[End, End]:
    """Who dialed, and who was dialed; neither runs yet."""
    left, right = trio.testing.memory_stream_pair()
    ends: dict[bool, Shaken] = {}

    async def shake(stream: trio.abc.Stream, *, is_client: bool) -> None:
        ends[is_client] = await establish(stream, introduction(Identity.generate()), is_client=is_client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(shake, left, is_client=True))
        nursery.start_soon(partial(shake, right, is_client=False))
    return End(ends[True], is_watched), End(ends[False], is_watched)


@pytest.mark.parametrize(
    ("is_watched", "seconds"),
    [(MEMBERS, limits.QUIET_SECONDS), (STRANGERS, limits.PING_SECONDS)],
    ids=["members", "strangers"],
)
async def test_where_both_are_quiet_who_dialed_asks_and_the_other_need_not(
    autojump_clock: trio.testing.MockClock, is_watched: Callable[[], bool], seconds: float
) -> None:
    dialer, dialed = await link(is_watched)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.run)
        nursery.start_soon(dialed.run)
        await trio.sleep(60.5)
        at_once = 1
        regular = 60 / limits.PING_SECONDS if is_watched is MEMBERS else 0  # by either end, whatever the other says
        assert dialed.heard(Kind.PING) == pytest.approx(at_once + 60 / seconds, abs=1)
        assert dialer.heard(Kind.PING) == pytest.approx(at_once + regular, abs=1)
        for end in (dialer, dialed):
            assert end.connection.rtt_seconds is not None, "both have measured it once"
        nursery.cancel_scope.cancel()


async def test_a_stranger_who_talks_is_not_asked_at_all(autojump_clock: trio.testing.MockClock) -> None:
    dialer, dialed = await link(STRANGERS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.run)
        nursery.start_soon(dialed.run)
        for _ in range(30):
            await trio.sleep(limits.PING_SECONDS / 2)
            for end in (dialer, dialed):
                end.outbox.push(encode_frame(0x80, b""))
        assert (dialer.heard(Kind.PING), dialed.heard(Kind.PING)) == (1, 1)
        assert len(dialed.came) == pytest.approx(30, abs=1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_dialer", [True, False])
@pytest.mark.parametrize("is_watched", [MEMBERS, STRANGERS], ids=["members", "strangers"])
async def test_silence_is_noticed_after_a_question_that_nobody_answers(
    autojump_clock: trio.testing.MockClock, is_dialer: bool, is_watched: Callable[[], bool]
) -> None:
    here = (await link(is_watched))[not is_dialer]  # nobody runs the other end
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(here.run)
        noticed = await here.until_silent() - began
        assert noticed == pytest.approx(limits.SILENT_SECONDS, abs=0.1), "it has been asked at the very beginning"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_dialer", [True, False])
@pytest.mark.parametrize(
    ("is_watched", "seconds"),
    [(MEMBERS, limits.SILENT_SECONDS), (STRANGERS, limits.PING_SECONDS + limits.QUIET_SECONDS)],
    ids=["members", "strangers"],
)
async def test_between_members_silence_is_noticed_sooner_than_elsewhere(
    autojump_clock: trio.testing.MockClock, is_dialer: bool, is_watched: Callable[[], bool], seconds: float
) -> None:
    ends = await link(is_watched)
    here, there = ends[not is_dialer], ends[is_dialer]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run)
        nursery.start_soon(there.run)
        await trio.sleep(3 * limits.PING_SECONDS + 0.1)
        assert not here.connection.is_silent
        there.outbox.is_muted = True
        began = trio.current_time()
        noticed = await here.until_silent() - began
        assert seconds - 0.3 <= noticed <= seconds + limits.TURN_SECONDS
        nursery.cancel_scope.cancel()


async def test_who_becomes_a_member_is_not_silent_before_it_was_asked(autojump_clock: trio.testing.MockClock) -> None:
    members: list[str] = []
    dialer, dialed = await link(lambda: bool(members))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.run)
        nursery.start_soon(dialed.run)
        await trio.sleep(limits.PING_SECONDS - 0.5)
        members.append("both")
        began = trio.current_time()
        while trio.current_time() < began + 2 * limits.PING_SECONDS:
            assert not dialer.connection.is_silent and not dialed.connection.is_silent
            await trio.sleep(0.1)
        assert dialed.heard(Kind.PING) >= limits.PING_SECONDS
        nursery.cancel_scope.cancel()


async def test_a_link_is_watched_where_both_ends_are_members(net: Network) -> None:
    one, two, three = await net.node(), await net.node(), await net.node()
    for node in (one, two, three):
        node.swarm.members([one.key, two.key])
    assert one.swarm._is_watched(two.key) and two.swarm._is_watched(one.key)
    assert not one.swarm._is_watched(three.key) and not three.swarm._is_watched(one.key)


def test_who_is_live_is_looked_up_every_so_often_and_at_once_where_somebody_came_or_went(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        one, two = await world.node("20.1.0.1"), await world.node("20.2.0.1", "20.1.0.1")
        await world.until(lambda: one.knows(two))
        looks: list[float] = []

        def is_silent(_: Connection) -> bool:
            looks.append(trio.current_time())
            return False

        monkeypatch.setattr(Connection, "is_silent", property(is_silent))
        for _ in range(1000):
            assert list(one.swarm.live()) == [two.key]
            await trio.sleep(0.001)
        assert len(looks) == pytest.approx(1.0 / limits.LIVE_SECONDS, abs=2)
        two.scope.cancel()
        while one.swarm.is_connected(two.key):
            assert two.key in one.swarm.live()
            await trio.sleep(0.001)
        assert not one.swarm.live()
        three = await world.node("20.3.0.1", "20.1.0.1")
        while not one.swarm.is_connected(three.key):
            assert not one.swarm.live()
            await trio.sleep(0.001)
        assert list(one.swarm.live()) == [three.key]

    simulated(scenario)
