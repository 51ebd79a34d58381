"""A wake-up call: tasks wait for the next one, nobody owns it, and a call that nobody waits for is forgotten.

Waiters re-check their condition in a loop, so a spurious call costs a turn and a missed one cannot happen within one trio thread.
"""

import trio


class Signal:
    """``fire`` wakes everybody who waits now."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()
