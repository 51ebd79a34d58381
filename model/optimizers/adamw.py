"""Adam over one flat buffer: two moments, a count, and torch's fused kernel (Kingma and Ba 2015, arXiv 1412.6980).

With the trainer's decoupled decay it is AdamW. The kernel is called by itself because `torch.optim` brings torch's
compiler with it, a second and a half of imports that every start of a node would pay. Same bits as
`torch.optim.AdamW(fused=True)`, of which a test makes sure; one pass over memory, where a step by tensors makes seven.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_EPSILON = 1e-8


class AdamW:
    """first = mean of gradients, second = mean of their squares; values -= rate * first / (sqrt(second) + epsilon)."""

    def __init__(self, values: Tensor, *, beta_first: float, beta_second: float) -> None:
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)
        self.count = torch.zeros((), dtype=torch.float32, device=values.device)  # steps, as the kernel wants them
        self._values = values
        self._beta_first = beta_first
        self._beta_second = beta_second

    @torch.no_grad()
    def step(self, gradient: Tensor, *, rate: float) -> None:
        self.count += 1
        torch._fused_adamw_(
            [self._values],
            [gradient],
            [self.first],
            [self.second],
            [],
            [self.count],
            lr=rate,
            beta1=self._beta_first,
            beta2=self._beta_second,
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> Mapping[str, Tensor]:
        return {"first": self.first, "second": self.second, "count": self.count}
