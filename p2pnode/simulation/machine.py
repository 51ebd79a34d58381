"""The machine below one simulated node: its address in the network, its disk, its random bytes, and threads that are none.

What it is: ``transport.machine`` and the training thread, in virtual time and in one real thread. What would run beside the loop runs in it,
at one moment, between two waits of a drawn length; so a simulation is one sequence of steps, the same for the same seed.
A killed machine does nothing more: whatever a task of the dead node still asks for, it waits and is cancelled.
"""

import random
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from p2pnode.simulation.disk import Disk, Killed
from p2pnode.simulation.streams import Listener, Network, Stream
from p2pnode.worker import NICENESS, Worker
from transport.machine import MACHINE, Machine

T = TypeVar("T")
UNIX_SECONDS = 1_800_000_000.0  # the time of day when a simulation begins
THREAD_SECONDS_MAX = 0.004  # of a blocking call: a flush, a small computation
LEARN_SECONDS = (0.4, 0.8)  # of a round's training


class SimulatedMachine(Machine):
    """Of one node, from its start to its end; the disk outlives it."""

    def __init__(self, network: Network, host: str, disk: Disk, *, seed: str) -> None:
        self._network = network
        self.host = host
        self.disk = disk
        self.rng = random.Random(seed)
        self.is_dead = False
        self.operations = 0
        self.kill_at: int | None = None
        self.on_kill: Callable[[], None] = lambda: None
        self._shields: dict[int, trio.CancelScope] = {}
        disk.on_operation = self.operation

    def operation(self) -> None:
        """Something outside is about to change: the moment to die, where this is the one."""
        if not self.is_dead:
            self.operations += 1
            if self.kill_at is not None and self.operations >= self.kill_at:
                self.kill()
        if self.is_dead:
            raise Killed

    def kill(self) -> None:
        """At once, and without a word to anybody in the process."""
        if not self.is_dead:
            self.is_dead = True
            for scope in list(self._shields.values()):
                scope.cancel()
            self.on_kill()

    # --- transport.machine -------------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int) -> list[Listener]:
        return [await self._network.listen(host, port)]

    async def connect(self, host: str, port: int) -> Stream:
        return await self._network.connect(self.host, (host, port))

    async def in_thread(
        self, call: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None, abandon_on_cancel: bool
    ) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        before, after = self.rng.random() * THREAD_SECONDS_MAX, self.rng.random() * THREAD_SECONDS_MAX
        await self._pass(before)
        try:
            self.operation()
            result = call(*args)
            self.operation()
        except Killed:
            await _die()
        await self._pass(after)
        return result

    async def on_loop(self, call: Callable[..., Any], *args: Any) -> Any:
        """How quick the real disk below this process is must not be seen: as in a thread."""
        return await self.in_thread(call, *args, limiter=None, abandon_on_cancel=False)

    async def _pass(self, seconds: float) -> None:
        """Threads are not cancelled: only the death of the process ends them."""
        with trio.CancelScope(shield=True) as scope:
            number = len(self._shields)
            while number in self._shields:
                number += 1
            self._shields[number] = scope
            if self.is_dead:
                scope.cancel()
            try:
                await trio.sleep(seconds)
            finally:
                del self._shields[number]
        if self.is_dead:
            await _die()

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def unix_seconds(self) -> float:
        return UNIX_SECONDS + trio.current_time()


async def _die() -> None:
    """Until cancelled, and no shield of the node's own keeps it: a thread that has begun to write is gone with its process."""
    status = trio.lowlevel.current_task()._cancel_status
    while status is not None:
        status._scope.shield = False
        status = status._parent
    await trio.sleep_forever()


class SimulatedWorker(Worker):
    """Where training takes virtual seconds and a moment of real ones."""

    def __init__(self, name: str, *, niceness: int = NICENESS) -> None:
        """No thread."""

    async def run(self, job: Callable[[], T]) -> T:
        rng = self._machine().rng
        await trio.sleep(rng.uniform(*LEARN_SECONDS))
        return job()

    def finish(self, job: Callable[[], object], *, timeout_seconds: float) -> bool:
        job()
        return True

    @staticmethod
    def _machine() -> SimulatedMachine:
        machine = MACHINE.get()
        assert isinstance(machine, SimulatedMachine)
        return machine
