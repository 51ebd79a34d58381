"""However much rubbish comes, the log stays readable and says how much it left out."""

import pytest

from p2pnode import refusals
from p2pnode.refusals import LINES_AT_ONCE, Refusals
from tests.p2pnode.little import RecordingLog


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    return now


def test_a_flood_is_a_few_lines_and_a_number(clock):
    log = RecordingLog()
    refused = Refusals(log, "frame refused")
    for _ in range(1000):
        refused.say(b"\1" * 32, "rubbish")
    assert len(log.said("frame refused")) == LINES_AT_ONCE
    clock[0] += 1
    refused.say(None, "rubbish")
    refused.say(None, "rubbish")
    assert len(log.lines) == LINES_AT_ONCE + 1
    assert log.lines[-1] == ("warning", "frame refused", {"peer": "", "reason": "rubbish", "left_out": 980})


def test_after_a_pause_there_is_room_again_but_no_more_than_at_first(clock):
    log = RecordingLog()
    refused = Refusals(log, "refused")
    clock[0] += 10_000
    for _ in range(2 * LINES_AT_ONCE):
        refused.say(b"\1" * 32, "rubbish")
    assert len(log.lines) == LINES_AT_ONCE and "left_out" not in log.lines[-1][2]
