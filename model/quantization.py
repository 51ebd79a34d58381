"""Learning for a model of eight bits: forward and backward see matrices that int8 can hold, the steps move fp32 ones.

The gradient with respect to the rounded matrices is taken for that of the exact ones (the straight-through estimator:
Bengio et al. 2013; for integer inference Jacob et al. 2018). As the largest value of each row sets its scale, nothing is
clipped, and the estimator is the identity. Local to learning: the replica, the codec and the root are fp32 as ever.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

_LEVELS: Final = 127  # -127 to 127: symmetric, as the kernels that use such weights want them


def rounded(weight: Tensor) -> Tensor:
    """The nearest matrix of int8 times one scale for each output channel, (..., outputs, inputs): `weight`'s shape."""
    scale = weight.abs().amax(dim=-1, keepdim=True) / _LEVELS
    return (weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)).round() * scale


@contextmanager
def rounded_matrices(values: Tensor, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, every matrix among `weights`, views into `values`, is rounded; then `values` have their bits again."""
    with torch.no_grad():
        before = values.clone()
        for weight in weights:
            if weight.dim() > 1:
                weight.copy_(rounded(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            values.copy_(before)
