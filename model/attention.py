"""Causal self-attention with fewer key heads than query heads, or as many (Ainslie et al. 2023), in Llama's layout."""

from torch import Tensor, nn
from torch.nn import functional

from model.cache import LayerCache
from model.config import ModelConfig
from model.flat import Weights
from model.patterns import attend, pattern_of
from model.positions import Positions


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.pattern = pattern_of(config)
        self.dropout = float(config.dropout)
        self.q_proj = weights[f"{name}.q_proj.weight"]
        self.k_proj = weights[f"{name}.k_proj.weight"]
        self.v_proj = weights[f"{name}.v_proj.weight"]
        self.o_proj = weights[f"{name}.o_proj.weight"]
        self.sinks = weights.get(f"{name}.sinks")

    def forward(self, x: Tensor, positions: Positions, cache: LayerCache | None = None) -> Tensor:
        """(batch, time, width), the same. With a cache, `x` are the tokens that follow those in it."""
        start = 0 if cache is None else cache.seen
        query = positions.rotate(self._heads(functional.linear(x, self.q_proj)), start)
        key = positions.rotate(self._heads(functional.linear(x, self.k_proj)), start)
        value = self._heads(functional.linear(x, self.v_proj))
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            mixed = attend(self.pattern, query, key, value, sinks=self.sinks, dropout=dropout)
        else:
            mixed = cache.attend(self.pattern, query, key, value, sinks=self.sinks)
        return functional.linear(mixed.transpose(1, 2).flatten(2), self.o_proj)

    def _heads(self, x: Tensor) -> Tensor:  # (batch, time, heads * head_size) -> (batch, heads, time, head_size)
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)
