"""What compression cut off, and what a block left out, is owed to later rounds (Seide et al. 2014; Karimireddy et al. 2019).

Local to a node, never replicated: floats are fine here.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model import compression
from model.layout import Layout

_OWED_MAX: Final = 2.0  # times the length of a round's own update: a whole round that was left out fits


@dataclass(frozen=True, slots=True)
class Pending:
    """A contribution whose block is not decided yet."""

    height: int
    payload: bytes


class ErrorFeedback:
    """`residual` is added to the next contribution; `pending` is added to it should the network not take it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.residual = np.zeros(layout.values, np.float32)
        self.pending: Pending | None = None

    def compress(self, update: NDArray[np.float32], height: int) -> bytes:
        """The payload for `update` and what is owed. Raises NonFiniteError, and nothing has changed."""
        if self.pending is not None:
            self.settle(self.pending.height, accepted=False)
        # A node that was left out for long must not answer with one huge stale step: what is owed is cut to twice the
        # length of what is new. (Equalised norms would give the stale part nearly all of the weight.)
        owed, fresh = float(np.linalg.norm(self.residual)), float(np.linalg.norm(update))
        wanted = update + self.residual * np.float32(min(1.0, _OWED_MAX * fresh / owed) if owed else 0.0)
        payload = compression.encode(wanted, self.layout)
        self.residual = wanted - self._values(payload)
        self.pending = Pending(height, payload)
        return payload

    def settle(self, height: int, *, accepted: bool) -> None:
        """The block of `height` is decided. A height that is not pending changes nothing."""
        if self.pending is None or self.pending.height != height:
            return
        if not accepted:
            self.residual += self._values(self.pending.payload)
        self.pending = None

    def _values(self, payload: bytes) -> NDArray[np.float32]:
        return compression.dequantize(compression.decode(payload, self.layout))
