"""Lines about what peers send wrongly: enough to see it, never a flood."""

import contextlib

import pytest
import trio

from tests.transport.net import Network, RecordingLog, Signal
from transport import limits
from transport.refusals import Refusals


async def test_a_flood_is_some_lines_and_then_one_a_second_with_the_count(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = RecordingLog(Signal())
    bad = Refusals(log, "frame refused")
    for _ in range(1000):
        bad.say("eve", "rubbish")
    assert (
        log.lines == [("warning", "frame refused", {"peer": "eve", "reason": "rubbish"})] * limits.REFUSAL_LINES_AT_ONCE
    )
    await trio.sleep(1.0)
    bad.say("", "more")
    bad.say("", "and more")
    assert log.lines[-1][2] == {"peer": "", "reason": "more", "left_out": 1000 - limits.REFUSAL_LINES_AT_ONCE}
    await trio.sleep(10.0)
    for _ in range(100):
        bad.say("", "x")
    assert len(log.lines) == limits.REFUSAL_LINES_AT_ONCE + 1 + 10 * limits.REFUSAL_LINES_PER_SECOND


async def test_a_quiet_time_makes_room_for_a_few_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    log = RecordingLog(Signal())
    bad = Refusals(log, "refused")
    await trio.sleep(10_000)
    for _ in range(100):
        bad.say("", "x")
    assert len(log.lines) == limits.REFUSAL_LINES_AT_ONCE


async def test_who_only_connects_writes_few_lines_and_all_are_counted(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REFUSAL_LINES_PER_SECOND", 1e-6)
    node = await net.node()
    for _ in range(2 * limits.REFUSAL_LINES_AT_ONCE):
        stream = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        await stream.aclose()
    with trio.fail_after(20):
        while node.swarm.statistics().refused < 2 * limits.REFUSAL_LINES_AT_ONCE:
            await trio.lowlevel.checkpoint()
    assert len(node.log.named("peer refused")) == limits.REFUSAL_LINES_AT_ONCE
