"""Grouped-query causal self-attention with rotary positions (Ainslie et al. 2023; Su et al. 2021), in Llama's layout."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.flat import Weights


class Rotary(nn.Module):
    """Rotates each pair (i, i + head_size/2) of a query or key by position * base^(-2i / head_size)."""

    cosine: Tensor  # (context, head_size / 2)
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = config.head_size // 2
        frequency = float(config.rope_base) ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(config.context, dtype=torch.float64), frequency)
        self.register_buffer("cosine", angle.cos().float(), persistent=False)
        self.register_buffer("sine", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, heads, time, head_size), any number of heads
        cosine, sine = self.cosine[: x.shape[-2]], self.sine[: x.shape[-2]]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.grouped = config.key_value_heads < config.heads
        self.q_proj = weights[f"{name}.q_proj.weight"]
        self.k_proj = weights[f"{name}.k_proj.weight"]
        self.v_proj = weights[f"{name}.v_proj.weight"]
        self.o_proj = weights[f"{name}.o_proj.weight"]

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:  # (batch, time, width), the same
        query = rotary(self._heads(functional.linear(x, self.q_proj)))
        key = rotary(self._heads(functional.linear(x, self.k_proj)))
        value = self._heads(functional.linear(x, self.v_proj))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.grouped)
        return functional.linear(mixed.transpose(1, 2).flatten(2), self.o_proj)

    def _heads(self, x: Tensor) -> Tensor:  # (batch, time, heads * head_size) -> (batch, heads, time, head_size)
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)
