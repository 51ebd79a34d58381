"""What a round cost: the parts add up, and nothing that is missing makes a negative time."""

import pytest
import trio

from p2pnode.driver import PhaseTimes
from p2pnode.timings import PARTS, Timings
from tests.p2pnode.little import Chain
from transport import node_id

CHAIN = Chain(4).grow(2)
BLOCK, CERTIFICATE = CHAIN.decided[0]
ME = CHAIN.founders[0].public_key


@pytest.fixture
def timings(monkeypatch):
    moments = iter(range(10_000))
    monkeypatch.setattr(trio, "current_time", lambda: float(next(moments)))
    made = Timings()
    made.open(1)
    return made


def test_the_parts_of_a_round_add_up_to_it(timings):
    begin = timings.opened
    timings.learning(1, begin + 1)
    timings.learned(1, begin + 11, 3.5)
    times = PhaseTimes(
        started=begin + 14, proposed=begin + 15, checked=begin + 17, committed=begin + 18, decided=begin + 20
    )
    row = timings.decided(BLOCK, CERTIFICATE, times, me=ME)
    seconds = row["seconds"]
    assert [seconds[part] for part in PARTS] == [11, 3, 1, 2, 1, 2]
    assert seconds["agree"] == 5 and seconds["total"] == 20 == sum(seconds[part] for part in PARTS)
    assert (
        row["loss"] == 3.5
        and row["listed"]
        and row["contributions"] == 2
        and row["proposer"] == node_id(BLOCK.header.proposer)
    )
    applied = timings.applied(row)
    assert applied["seconds"]["total"] == pytest.approx(sum(applied["seconds"][part] for part in (*PARTS, "apply")))
    assert row["seconds"]["apply"] == 0.0  # the first row is not touched


@pytest.mark.parametrize("known", range(6))
def test_a_round_seen_in_part_has_no_negative_times(timings, known):
    names = ["started", "proposed", "checked", "committed", "decided"]
    times = PhaseTimes(**{name: timings.opened + 10 + place for place, name in enumerate(names[:known])})
    row = timings.decided(BLOCK, CERTIFICATE, times, me=b"somebody else")
    assert all(value >= 0 for value in row["seconds"].values())
    assert not row["listed"] and row["loss"] is None


def test_moments_of_an_earlier_height_do_not_count(timings):
    """A phase that this height skipped still holds the moment of the height before."""
    stale = PhaseTimes(started=0.5, proposed=0.6, checked=0.7, committed=0.8)
    row = timings.decided(BLOCK, CERTIFICATE, stale, me=ME)
    assert all(value >= 0 for value in row["seconds"].values())
    assert sum(row["seconds"][part] for part in PARTS) == row["seconds"]["total"]


def test_a_loss_belongs_to_the_height_that_it_was_learned_for(timings):
    timings.learned(7, 5.0, 1.0)
    assert timings.decided(BLOCK, CERTIFICATE, PhaseTimes(), me=ME)["loss"] is None


def test_the_first_step_ever_is_remembered(timings):
    timings.learning(1, 3.0)
    timings.open(2)
    timings.learning(2, 9.0)
    assert timings.first_step == 3.0
