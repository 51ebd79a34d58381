"""In which numbers a node computes while it learns: its own choice, like its device, and nobody else's business.

The parameters, the gradient and the optimizer's memory are fp32 whatever is chosen; only matrix products and attention run
in sixteen bits, under torch's autocast. So the contribution has the same form, and replicas agree on it as on any other.
That is why the precision stands in no genesis: which one is fast depends on the machine alone.

bf16 has the range of fp32, so nothing else changes. fp16 ends at 65504 and below 6e-8: the loss is scaled up so that small
gradients survive (Micikevicius et al. 2018), and a step whose gradient overflowed is left out.

Importing this module does not import torch: the command line checks settings here.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from model.errors import ConfigError

PRECISIONS: Final = ("fp32", "bf16", "fp16")
_SCALE_FIRST: Final = 2.0**16
_SCALE_MAX: Final = 2.0**24
_STEPS_UNTIL_GROWTH: Final = 2000


def check_precision(precision: str, device: str) -> None:
    """Raises ConfigError where this device does not compute so."""
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision[:40]!r}", f"known: {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.startswith("cpu"):
        # measured: 84 ms against 4.3 ms for one product of matrices, AMD Zen 5, torch 2.13
        raise ConfigError(
            "fp16 on a CPU takes 19 times as long as bf16", "take bf16, which has as few bits, or a CUDA device"
        )


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Within, matrix products on `device` ("cpu", "cuda" or "cuda:N") are in `precision`."""
    if precision == "fp32":
        return nullcontext()
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.partition(":")[0], dtype=dtype)


class LossScaler:
    """A power of two: halved when a gradient overflowed, doubled after 2,000 steps in which none did."""

    def __init__(self, scale: float = _SCALE_FIRST, good_steps: int = 0) -> None:
        self.scale = scale
        self.good_steps = good_steps

    def accept(self, *, finite: bool) -> bool:
        """Whether to take the step. At a scale of 1 it is training that diverged, which the trainer must see."""
        if not finite and self.scale > 1.0:
            self.scale /= 2
            self.good_steps = 0
            return False
        self.good_steps += 1
        if self.good_steps >= _STEPS_UNTIL_GROWTH:
            self.scale = min(2 * self.scale, _SCALE_MAX)
            self.good_steps = 0
        return True
