"""Norms over the features of each token: by the root mean square (Zhang and Sennrich 2019), or LayerNorm (Ba et al. 2016)."""

from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.flat import Weights


def norm_of(config: ModelConfig, weights: Weights, name: str) -> nn.Module:
    """The network's kind of norm, with the tensors of that name. (..., width) to the same."""
    kind = {"rms": RMSNorm, "layer": LayerNorm}[config.norm]
    return kind(config, weights, name)


class RMSNorm(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.gain = weights[f"{name}.weight"]
        self.epsilon = float(config.norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.gain.shape, self.gain, self.epsilon)


class LayerNorm(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.gain = weights[f"{name}.weight"]
        self.bias = weights[f"{name}.bias"]
        self.epsilon = float(config.norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.gain.shape, self.gain, self.bias, self.epsilon)
