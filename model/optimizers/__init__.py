"""What turns a gradient into a step. Each is one file, over one flat buffer, and does no more than its paper says.

Clipping, the rate, and decay are the trainer's: an optimizer gets a gradient and a rate, and moves the values. Decay is
decoupled from whichever optimizer it is (Loshchilov and Hutter, arXiv 1711.05101), and spares the gains of norms, which
scale and do not select; the buffer is one tensor to an optimizer, so it could not.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from model.config import TrainingConfig
from model.optimizers.adamw import AdamW
from model.optimizers.lion import Lion
from model.optimizers.sam import uphill
from model.optimizers.sgd import SGD

__all__ = ["SGD", "AdamW", "Lion", "Optimizer", "make_optimizer", "uphill"]


class Optimizer(Protocol):
    """Holds what it remembers of earlier gradients, on the device of the values."""

    def step(self, gradient: Tensor, *, rate: float) -> None:
        """Move the values in place. `gradient` has their shape, and may be used up."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """The memory itself, by name: a tensor of the values' shape or a single number each. Copied into, it is restored."""
        ...


def make_optimizer(values: Tensor, training: TrainingConfig) -> Optimizer:
    """The network's, without any memory yet, for the parameters `values`."""
    match training.optimizer:
        case "adamw":
            return AdamW(values, beta_first=float(training.beta_first), beta_second=float(training.beta_second))
        case "lion":
            return Lion(values, beta_first=float(training.beta_first), beta_second=float(training.beta_second))
        case "sgd":
            return SGD(values, momentum=float(training.beta_first))
    raise AssertionError(training.optimizer)  # the configuration knows no other
