"""One flat buffer of parameters and one of gradients; the modules hold views into both.

So the optimizer, the norm of the gradient, the contribution and the load of a new model are each one operation on one
tensor, whatever the number of layers. Padding has no view, hence no gradient, and stays zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.layout import Layout

Weights = Mapping[str, nn.Parameter]


class FlatParameters:
    """`values` is an optimizer's parameter whose `.grad` the modules' backward passes fill."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.values = nn.Parameter(torch.zeros(layout.values, device=device))
        self.values.grad = torch.zeros_like(self.values)
        self.weights: Weights = {place.name: _view(self.values, place.offset, place.shape) for place in layout.tensors}

    @property
    def gradient(self) -> Tensor:
        assert self.values.grad is not None
        return self.values.grad


def _view(values: nn.Parameter, offset: int, shape: tuple[int, ...]) -> nn.Parameter:
    assert values.grad is not None
    count = torch.Size(shape).numel()
    weight = nn.Parameter(values.detach()[offset : offset + count].view(shape))
    weight.grad = values.grad[offset : offset + count].view(shape)  # backward adds in place while this is set
    return weight
