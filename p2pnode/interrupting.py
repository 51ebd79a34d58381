"""Ctrl-C in the midst of a library that looks at no signal until it is done.

What it is: a long call that leaves nothing half done, on a thread that the process does not wait for. What it is not: a worker (``worker``),
whose jobs end by themselves.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

import outcome

from p2pnode.errors import ExitCode

T = TypeVar("T")


def interruptible(job: Callable[[], T]) -> T:
    """The job's result, or its error. At Ctrl-C the process leaves, and the job with it."""
    results: list[outcome.Outcome[T]] = []
    done = threading.Event()

    def work() -> None:
        results.append(outcome.capture(job))
        done.set()

    try:
        threading.Thread(target=work, name="interruptible", daemon=True).start()
        done.wait()
    except KeyboardInterrupt:
        leave_at_once(ExitCode.INTERRUPTED)
    return results[0].unwrap()


def leave_at_once(code: int) -> NoReturn:
    """Everything is saved, flushed and closed; tearing torch down takes the interpreter up to two more seconds, and Ctrl-C has two."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
