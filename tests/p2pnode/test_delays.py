"""Measured delays: what the engine's timeouts rest on."""

import pytest

import consensus
from p2pnode.delays import SAMPLES_MAX, Delays, percentile_99


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([3.0], 3.0), ([2.0, 1.0], 2.0), (list(range(1, 101)), 99), (list(range(1, 202)), 199), ([1.0] * 99 + [9.0], 1.0)],
)
def test_the_smallest_sample_that_99_percent_do_not_exceed(samples, expected):
    assert percentile_99(samples) == expected


def test_nothing_is_said_until_both_are_known():
    delays = Delays()
    assert delays.measured() is None
    delays.note_check(0.5)
    assert delays.measured() is None
    delays.note_round_trips([0.2], needed=1)
    assert delays.measured() == consensus.DelaysMeasured(delay_seconds=0.1, check_seconds=1.0)


def test_old_samples_are_forgotten():
    delays = Delays()
    for seconds in [100.0] * SAMPLES_MAX + [1.0] * SAMPLES_MAX:
        delays.note_check(seconds)
        delays.note_round_trips([seconds], needed=1)
    assert delays.measured() == consensus.DelaysMeasured(delay_seconds=0.5, check_seconds=2.0)


def test_fewer_than_a_third_cannot_teach_patience():
    delays = Delays()
    for number in range(SAMPLES_MAX):
        delays.note_check(600.0 if number % 4 == 0 else 0.1)
        delays.note_round_trips([0.02, 9.0, 0.04], needed=2)
    assert delays.measured() == consensus.DelaysMeasured(delay_seconds=0.02, check_seconds=0.2)


def test_without_a_quorum_no_round_trip_counts():
    delays = Delays()
    delays.note_check(1.0)
    delays.note_round_trips([0.2], needed=2)
    delays.note_round_trips([], needed=0)  # a node that decides alone
    assert delays.measured() is None


def test_where_a_quorum_is_several_links_away_its_messages_take_as_many():
    delays = Delays()
    delays.note_check(0.1)
    delays.note_round_trips([], needed=26, steps=2)  # nobody is near: nothing is known
    assert delays.measured() is None
    delays.note_round_trips([0.02, 0.04, 9.0], needed=26, steps=3)
    assert delays.measured() == consensus.DelaysMeasured(delay_seconds=0.06, check_seconds=0.2)
