"""The feed-forward layer: gated, SwiGLU (Shazeer 2020), in Llama's layout; or without a gate, GELU (Hendrycks and Gimpel
2016, with the error function) or ReLU."""

from torch import Tensor, nn
from torch.nn import functional

from cuda_ext import swiglu
from model.config import ModelConfig
from model.flat import Weights
from model.plain import is_plain


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.gate_proj = weights.get(f"{name}.gate_proj.weight")
        self.up_proj = weights[f"{name}.up_proj.weight"]
        self.down_proj = weights[f"{name}.down_proj.weight"]
        self.activate = functional.relu if config.activation == "relu" else functional.gelu

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width), the same
        up = functional.linear(x, self.up_proj)
        if self.gate_proj is None:
            hidden = self.activate(up)
        else:
            gate = functional.linear(x, self.gate_proj)
            hidden = functional.silu(gate) * up if is_plain(x) else swiglu(gate, up)
        return functional.linear(hidden, self.down_proj)
