"""What the harness asks a node, over the node's control socket.

What it is: the control client, off the event loop and as typed values. A node that does not answer (not up yet, just
killed, ending) is None, which is an ordinary state in a network where nodes are killed. What it is not: a retry; who
asks decides whether to ask again.
"""

from collections.abc import Callable
from typing import TypeVar

import trio

from p2pnode.client import Client
from p2pnode.errors import UserError
from p2pnode.home import Home
from p2pnode.localnet.readings import EvidenceRow, Round, Status, evidence_from, rounds_from, status_from

T = TypeVar("T")

ROUNDS_SLACK = 64  # heights decided while the harness makes up its mind must not push the first ones out of the answer


class Questions:
    """The questions to the node that lives in ``home``."""

    def __init__(self, home: Home) -> None:
        self._client = Client(home)

    async def status(self) -> Status | None:
        return await _ask(lambda: status_from(self._client.status()))

    async def rounds(self, last: int) -> tuple[Round, ...]:
        return await _ask(lambda: rounds_from(self._client.rounds(last + ROUNDS_SLACK))) or ()

    async def evidence(self) -> tuple[EvidenceRow, ...]:
        return await _ask(lambda: evidence_from(self._client.evidence())) or ()

    async def evaluate(self) -> float | None:
        """The held-out loss of the node's model, which the node computes now."""
        return await _ask(lambda: float(self._client.evaluate()["validation_loss"]))

    async def leave(self) -> None:
        """Asked to; ``status`` shows when it has left."""
        await _ask(self._client.leave)

    async def train(self, rounds: int) -> None:
        """Until this height, whatever the node's is at the moment: an order that arrives late must not count from there."""
        await _ask(lambda: self._client.train(rounds, since=0))


async def _ask(question: Callable[[], T]) -> T | None:
    def ask() -> T | None:
        try:
            return question()
        except UserError:
            return None

    # Cancelled, the thread is left to its socket's timeout: Ctrl-C does not wait for a busy node.
    return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
