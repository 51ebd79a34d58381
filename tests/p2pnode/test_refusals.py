"""Lines about what peers send wrongly: enough to see it, never a flood."""

import trio

from p2pnode import refusals
from p2pnode.refusals import Refusals
from tests.p2pnode.little import RecordingLog
from transport import short_id


def test_a_flood_is_some_lines_and_then_one_a_second_with_the_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trio, "current_time", lambda: now[0])
    log = RecordingLog()
    bad = Refusals(log, "frame refused")
    for _ in range(1000):
        bad.say(b"\1" * 32, "rubbish")
    assert len(log.lines) == refusals.LINES_AT_ONCE
    assert log.lines[0] == ("warning", "frame refused", {"peer": short_id(b"\1" * 32), "reason": "rubbish"})
    now[0] += 1.0
    bad.say(None, "more")
    bad.say(None, "and more")
    assert log.lines[-1][2] == {"peer": "", "reason": "more", "left_out": 1000 - refusals.LINES_AT_ONCE}
    assert len(log.lines) == refusals.LINES_AT_ONCE + 1


def test_a_quiet_time_makes_room_for_a_few_and_no_more(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trio, "current_time", lambda: now[0])
    log = RecordingLog()
    bad = Refusals(log, "refused")
    now[0] += 10_000
    for _ in range(100):
        bad.say(None, "x")
    assert len(log.lines) == refusals.LINES_AT_ONCE
