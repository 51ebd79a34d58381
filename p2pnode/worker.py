"""One thread for one kind of long work, at a lower priority than the event loop's.

Training wants a core for seconds at a time; votes want one for microseconds at once. The loop's thread keeps the process's priority, this
one steps back by ``NICENESS``, so that on a machine with fewer cores than nodes a vote does not wait behind a gradient.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import outcome
import trio

NICENESS = 5
T = TypeVar("T")
_Job = tuple[Callable[[], Any], Callable[[outcome.Outcome[Any]], None]]


class Worker:
    """A daemon thread that runs one job at a time, in order. Use from one trio run."""

    def __init__(self, name: str, *, niceness: int = NICENESS) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._niceness = niceness
        # A daemon thread: a job that does not look at its stop flag must not keep the process alive.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, job: Callable[[], T]) -> T:
        """The job's result. A cancelled caller leaves at once; the job ends by itself and its result is dropped."""
        task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        waiting = True

        def hand_back(result: outcome.Outcome[T]) -> None:
            if waiting:
                trio.lowlevel.reschedule(task, result)

        def report(result: outcome.Outcome[T]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(hand_back, result)

        def abort(_: Any) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.checkpoint_if_cancelled()
        self._jobs.put((job, report))
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def finish(self, job: Callable[[], object], *, timeout_seconds: float) -> bool:
        """Blocking, after the trio run: do a last job if the thread gets to it in time. Returns whether it did and went well."""
        done = threading.Event()
        results: list[outcome.Outcome[object]] = []

        def report(result: outcome.Outcome[object]) -> None:
            results.append(result)
            done.set()

        self._jobs.put((job, report))
        self._jobs.put(None)
        return done.wait(timeout_seconds) and isinstance(results[0], outcome.Value)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._niceness)
        while (entry := self._jobs.get()) is not None:
            job, report = entry
            report(outcome.capture(job))
            del entry, job, report  # a job may hold a model, and the next one may never come
