"""How late the loop is, by a clock that the test moves."""

import trio

from p2pnode import lag as lag_module
from p2pnode.lag import PERIOD_SECONDS, Lag


async def test_a_loop_that_is_on_time_has_no_lag(autojump_clock, nursery):
    lag = Lag()
    assert lag.p99() is None
    nursery.start_soon(lag.watch)
    await trio.sleep(PERIOD_SECONDS * 10.5)
    assert lag.p99() == 0.0


async def test_what_holds_the_loop_up_shows(mock_clock, nursery):
    lag = Lag()
    nursery.start_soon(lag.watch)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(PERIOD_SECONDS + 0.3)  # something ran for 0.3 s without giving way
    await trio.testing.wait_all_tasks_blocked()
    assert abs(lag.p99() - 0.3) < 1e-9


async def test_a_minute_is_remembered(autojump_clock, nursery, monkeypatch):
    lag = Lag()
    assert lag_module.SAMPLES_MAX * PERIOD_SECONDS == 60
    nursery.start_soon(lag.watch)
    await trio.sleep(70)
    assert len(lag._samples) == lag_module.SAMPLES_MAX
