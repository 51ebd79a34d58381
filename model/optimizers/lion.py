"""Lion: the sign of a momentum that leans towards the newest gradient (Chen et al. 2023, arXiv 2302.06675).

Every value moves by the rate itself, so the rate is a third to a tenth of AdamW's, and decay as much larger. Half of
AdamW's memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class Lion:
    """values -= rate * sign(b1 * momentum + (1 - b1) * gradient); momentum = b2 * momentum + (1 - b2) * gradient."""

    def __init__(self, values: Tensor, *, beta_first: float, beta_second: float) -> None:
        self.momentum = torch.zeros_like(values)
        self._values = values
        self._direction = torch.empty_like(values)  # kept, for fresh memory costs more than the arithmetic
        self._beta_first = beta_first
        self._beta_second = beta_second

    @torch.no_grad()
    def step(self, gradient: Tensor, *, rate: float) -> None:
        torch.lerp(self.momentum, gradient, 1 - self._beta_first, out=self._direction)
        self._values.add_(self._direction.sign_(), alpha=-rate)
        self.momentum.lerp_(gradient, 1 - self._beta_second)

    def state(self) -> Mapping[str, Tensor]:
        return {"momentum": self.momentum}
