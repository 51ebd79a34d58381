"""Each operation in plain torch: what runs where no kernel is built, and the oracle that a kernel is tested against."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class _SwiGLU(torch.autograd.Function):
    """Keeps gate and up only; autograd on `silu(gate) * up` would keep silu(gate) as well, half as much again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = gradients
        gate, up = ctx.saved_tensors
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        # d silu / d gate = sigmoid + silu * (1 - sigmoid)
        slope = sigmoid.addcmul_(silu, 1 - sigmoid)
        return slope.mul_(up).mul_(grad), silu.mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise (Shazeer 2020, "GLU variants improve transformer"). Shapes equal, any dtype."""
    result: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return result
