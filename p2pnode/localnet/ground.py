"""Where the nodes of a local network stand: on the loopback of this machine, or each in a network namespace of its own.

What it is: the few questions whose answers differ. ``p2pnode localnet`` asks the loopback, where the nodes' own processes shape their links
(shim.py); ``scripts/netns`` puts the namespaces of ``netns.py`` in the context variable, where the kernel does.

For editors: nothing else of a local network may depend on where it stands.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar

from p2pnode.localnet.weather import Partition, Weather


class Ground:
    """The loopback."""

    def host(self, index: int) -> str:
        """The address of a node; ``index`` counts from 0."""
        return "127.0.0.1"

    def inside(self, index: int) -> tuple[str, ...]:
        """The words before a command that is to run there."""
        return ()

    def left_to_shim(self, weather: Weather) -> Weather:
        """What the nodes' processes have to do themselves."""
        return weather

    @asynccontextmanager
    async def open(self, weather: Weather) -> AsyncIterator[str]:
        """Leaves nothing behind. Gives what there is to say about it, or nothing. Raises UserError."""
        yield ""

    async def add(self, index: int) -> None:
        """Make room for one more node; they come in the order of their numbers."""

    async def cut(self, partitions: Sequence[Partition]) -> None:
        """These partitions are on from now, and no others."""


GROUND: ContextVar[Ground] = ContextVar("ground", default=Ground())  # noqa: B039 - it has no state
