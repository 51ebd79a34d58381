"""The gated feed-forward layer, SwiGLU (Shazeer 2020), in Llama's layout."""

from torch import Tensor, nn
from torch.nn import functional

from cuda_ext import swiglu
from model.flat import Weights


class FeedForward(nn.Module):
    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.gate_proj = weights[f"{name}.gate_proj.weight"]
        self.up_proj = weights[f"{name}.up_proj.weight"]
        self.down_proj = weights[f"{name}.down_proj.weight"]

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width), the same
        hidden = swiglu(functional.linear(x, self.gate_proj), functional.linear(x, self.up_proj))
        return functional.linear(hidden, self.down_proj)
