"""The inner rate: what it was before there were schedules, and the shapes that networks can choose."""

import math

import pytest

from model.config import TrainingConfig
from model.schedule import annealing, inner_rate

COSINE = TrainingConfig(warmup_steps=100, schedule="cosine", schedule_steps=1100, rate_floor="0.1")
WSD = TrainingConfig(warmup_steps=100, schedule="wsd", schedule_steps=1000, decay_steps=100, rate_floor="0")


def test_by_default_the_rate_warms_up_and_then_stays() -> None:
    training = TrainingConfig(warmup_steps=5)
    rates = [inner_rate(training, own_step=step, network_step=step - 1) for step in (1, 2, 4, 5, 6, 10**9)]
    assert rates == pytest.approx([0.0002, 0.0004, 0.0008, 0.001, 0.001, 0.001])
    assert inner_rate(TrainingConfig(warmup_steps=0), own_step=1, network_step=0) == 0.001


def test_cosine_falls_from_the_end_of_the_warm_up_to_its_floor() -> None:
    assert [annealing(COSINE, step) for step in (0, 100)] == [1, 1]
    assert annealing(COSINE, 600) == pytest.approx(0.55)
    assert annealing(COSINE, 350) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert [annealing(COSINE, step) for step in (1100, 10**9)] == pytest.approx([0.1, 0.1])


def test_wsd_is_stable_until_it_decays() -> None:
    assert [annealing(WSD, step) for step in (0, 500, 900)] == [1, 1, 1]
    assert annealing(WSD, 925) == pytest.approx(0.5)
    assert [annealing(WSD, step) for step in (1000, 10**9)] == [0, 0]


@pytest.mark.parametrize("training", [COSINE, WSD])
def test_the_rate_never_rises_after_the_warm_up(training: TrainingConfig) -> None:
    rates = [annealing(training, step) for step in range(0, 1300, 7)]
    assert rates == sorted(rates, reverse=True) and rates[0] == 1


def test_a_newcomer_warms_up_to_where_the_network_is() -> None:
    rate = inner_rate(COSINE, own_step=50, network_step=600)
    assert rate == pytest.approx(0.001 * 0.5 * 0.55)
