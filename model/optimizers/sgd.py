"""Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013): one buffer of memory, or none.

Its rate is not AdamW's: the step is as long as the gradient, so a rate of 0.1 or so takes the place of 0.001.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class SGD:
    """velocity = momentum * velocity + gradient; values -= rate * velocity."""

    def __init__(self, values: Tensor, *, momentum: float) -> None:
        self.velocity = torch.zeros_like(values) if momentum else None
        self._values = values
        self._momentum = momentum

    @torch.no_grad()
    def step(self, gradient: Tensor, *, rate: float) -> None:
        if self.velocity is not None:
            gradient = self.velocity.mul_(self._momentum).add_(gradient)
        self._values.add_(gradient, alpha=-rate)

    def state(self) -> Mapping[str, Tensor]:
        return {} if self.velocity is None else {"velocity": self.velocity}
