"""AdamW over one flat buffer: two moments, a count, and torch's fused kernel (Loshchilov and Hutter, arXiv 1711.05101).

The kernel is called by itself because `torch.optim` brings torch's compiler with it, a second and a half of imports that
every start of a node would pay. Same bits as `torch.optim.AdamW(fused=True)`; a test compares them. The decoupled decay
is not in here, for it spares some tensors and the buffer is one tensor to the kernel: see `Trainer._decay_matrices`.
"""

import torch
from torch import Tensor

from model.config import TrainingConfig

_EPSILON = 1e-8


class AdamW:
    """State for one parameter buffer of `values.shape`, on its device."""

    def __init__(self, values: Tensor, training: TrainingConfig) -> None:
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)
        self.count = torch.zeros((), dtype=torch.float32, device=values.device)  # steps, as the kernel wants them
        self._values = values
        self._beta_first = float(training.beta_first)
        self._beta_second = float(training.beta_second)

    @torch.no_grad()
    def step(self, gradient: Tensor, *, rate: float) -> None:
        """Move the values in place."""
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
