"""What a node takes from the machine below it: TCP, threads, random bytes and the time of day.

One object, held in a context variable: every task of a node inherits it from the task that started the node. A simulation puts
another in its place and runs many whole nodes in one process, in virtual time, with the same code. Moments and durations are not
here: on the event loop `trio.current_time()` is the only clock.

Rules for editing: nothing else in transport or p2pnode that runs on the loop asks the system for these; `in_thread` is the only
way off the loop, but for the one thread that trains and the prompt's. `on_loop` is for the vote log's flush alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import trio

from transport.tcp import TcpListener, TcpStream, listeners

T = TypeVar("T")


class Machine:
    """The real one."""

    async def listen(self, host: str, port: int) -> list[TcpListener]:
        """Raises OSError."""
        return listeners(await trio.open_tcp_listeners(port, host=host))

    async def connect(self, host: str, port: int) -> TcpStream:
        """Raises OSError, or ValueError for a name that cannot be one."""
        return TcpStream(await trio.open_tcp_stream(host, port))

    async def look_up(self, host: str) -> str:
        """The first address of a name. Raises OSError, or ValueError for what cannot be one."""
        found = await trio.socket.getaddrinfo(host, None, type=trio.socket.SOCK_STREAM)
        return str(found[0][4][0])

    async def in_thread(
        self, call: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None, abandon_on_cancel: bool
    ) -> Any:
        return await trio.to_thread.run_sync(call, *args, limiter=limiter, abandon_on_cancel=abandon_on_cancel)

    async def on_loop(self, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def unix_seconds(self) -> float:
        return time.time()


MACHINE: ContextVar[Machine] = ContextVar("machine", default=Machine())  # noqa: B039 - it has no state


async def in_thread(
    call: Callable[..., T],
    *args: Any,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """What `call` returns or raises, off the event loop: for everything that blocks or computes."""
    result: T = await MACHINE.get().in_thread(call, *args, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    return result


async def on_loop(call: Callable[..., T], *args: Any) -> T:
    """The same where it stands: only for what has shown that it is quicker than the way to a thread and back."""
    result: T = await MACHINE.get().on_loop(call, *args)
    return result


def random_bytes(count: int) -> bytes:
    """Unpredictable; good for keys."""
    return MACHINE.get().random_bytes(count)


def unix_seconds() -> float:
    """The time of day, for records that outlive the process; it may jump."""
    return MACHINE.get().unix_seconds()
