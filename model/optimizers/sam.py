"""Sharpness-aware minimization around any optimizer (Foret et al. 2021, arXiv 2010.01412).

The step is taken from where the parameters are, with the gradient of where the loss is highest nearby: one radius up
along the gradient. So a step costs two passes, and what is found are wide valleys.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_LEAST_NORM = 1e-12  # a gradient of nothing leads nowhere


@contextmanager
def uphill(values: Tensor, gradient: Tensor, *, radius: float) -> Iterator[None]:
    """Within, `values` are `radius` further along `gradient`, in the Euclidean norm of all of them; then the same bits."""
    with torch.no_grad():
        before = values.clone()
        norm = torch.linalg.vector_norm(gradient).clamp(min=_LEAST_NORM)
        values.add_(gradient * (radius / norm))
    try:
        yield
    finally:
        with torch.no_grad():
            values.copy_(before)
