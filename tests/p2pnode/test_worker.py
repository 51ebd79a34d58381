"""The thread that learns: in order, at a lower priority, and never in the way of an end."""

import os
import threading
import weakref

import pytest
import trio

from p2pnode.worker import NICENESS, Worker
from tests.p2pnode.little import until


@pytest.fixture
def worker():
    made = Worker("test worker")
    yield made
    made.finish(lambda: None, timeout_seconds=10)


def named(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_a_job_runs_elsewhere_and_its_result_comes_back(worker):
    thread = await worker.run(threading.current_thread)
    assert thread.name == "test worker" and thread is not threading.current_thread() and thread.daemon


async def test_a_jobs_error_comes_back_as_it_is(worker):
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 7) == 7


async def test_it_steps_back_behind_the_event_loop(worker):
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    theirs = await worker.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert theirs == min(19, mine + NICENESS)  # also in a process that is nice already


async def test_jobs_run_one_at_a_time_in_order(worker):
    done = []
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(worker.run, lambda number=number: done.append(number))
            await trio.testing.wait_all_tasks_blocked()
    assert done == list(range(5))


async def test_a_job_that_is_done_is_not_held(worker):
    """It may hold a model, and there may never be another."""

    class Model:
        def job(self):
            return 1

    model = Model()
    held = weakref.ref(model)
    assert await worker.run(model.job) == 1
    del model
    await until(lambda: held() is None)


async def test_a_cancelled_caller_leaves_at_once_and_the_job_ends_by_itself(worker):
    may_end, ended = threading.Event(), threading.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run, lambda: (may_end.wait(10), ended.set()))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught and not ended.is_set()
    may_end.set()
    assert await worker.run(ended.is_set)


async def test_cancelled_before_it_began_nothing_runs(worker):
    ran = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await worker.run(lambda: ran.append(1))
    assert await worker.run(lambda: 1) == 1 and not ran


def test_a_last_job_and_then_no_thread(worker):
    last = Worker("last worker")
    ran = []
    assert last.finish(lambda: ran.append(1), timeout_seconds=10)
    assert ran == [1]
    for thread in named("last worker"):
        thread.join(10)
    assert not named("last worker")


def test_a_last_job_that_fails_is_told(worker):
    assert not Worker("failing worker").finish(lambda: 1 // 0, timeout_seconds=10)


def test_a_job_that_does_not_end_keeps_nobody():
    may_end, began = threading.Event(), threading.Event()
    stuck = Worker("stuck worker")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.run, lambda: (began.set(), may_end.wait(10)))
            await until(began.is_set)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not stuck.finish(lambda: None, timeout_seconds=0.01)
    may_end.set()
    for thread in named("stuck worker"):
        thread.join(10)
