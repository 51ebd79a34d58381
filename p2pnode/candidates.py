"""The models that a block of the open height may lead to: computed off the event loop, once for each set of contributions.

What it is: a small cache in front of the aggregate and the root. What it is not: agreed state; a candidate becomes the model only by a
decision (``rounds``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

import consensus
from model.replica import Replica
from p2pnode.blobs import Blobs
from transport.machine import in_thread

CANDIDATES_MAX = 4  # a proposer who changes its mind costs one more computation

# Anybody can announce another node's bytes again, so a digest alone does not tell how it is weighed.
_Key = tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and its root."""

    replica: Replica
    root: bytes


class Candidates:
    """What may follow ``state``, whose model is ``replica``. A new height has new ones."""

    def __init__(self, blobs: Blobs, state: consensus.ChainState, replica: Replica) -> None:
        self._blobs = blobs
        self._base = Candidate(replica, state.model_root)
        self._committee = state.membership.current
        self._known: dict[_Key, Candidate] = {}
        self._computing: dict[_Key, trio.Event] = {}

    async def of(self, contributions: Sequence[consensus.Contribution], payloads: Sequence[bytes]) -> Candidate:
        """The model that follows from these contributions. Who asks for what is being computed waits for it. Raises PayloadError."""
        weights = consensus.weights(contributions, self._committee)
        if not any(weights):
            return self._base
        key = tuple((c.payload_digest, weight) for c, weight in zip(contributions, weights, strict=True))
        while key in self._computing:
            await self._computing[key].wait()
        if key not in self._known:
            await self._compute(key, payloads, weights)
        return self._known[key]

    async def _compute(self, key: _Key, payloads: Sequence[bytes], weights: Sequence[int]) -> None:
        def compute() -> Candidate:
            replica = self._base.replica.apply(payloads, weights)
            return Candidate(replica, self._blobs.model_root(replica))

        done = self._computing[key] = trio.Event()
        try:
            candidate = await in_thread(compute)
            while len(self._known) >= CANDIDATES_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[key] = candidate
        finally:
            del self._computing[key]
            done.set()
