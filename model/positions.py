"""How a token knows where it stands: rotated queries and keys, a learned vector, or waves added to the embedding.

Each kind has the same two methods, and does nothing in one of them: `add` to the embeddings (batch, time, width), and
`rotate` a query or key (batch, heads, time, head_size). `start` is the position of the first of these tokens, more than
zero where a cache holds the ones before.
"""

import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.errors import ModelError
from model.flat import Weights


def positions_of(config: ModelConfig, weights: Weights) -> "Positions":
    match config.positions:
        case "learned":
            return LearnedPositions(weights)
        case "sinusoidal":
            return SinusoidalPositions(config)
        case _:
            return RotaryPositions(config)


class Positions(nn.Module):
    def add(self, x: Tensor, start: int) -> Tensor:
        return x

    def rotate(self, x: Tensor, start: int) -> Tensor:
        return x


class RotaryPositions(Positions):
    """Rotates each pair (i, i + head_size/2) by position * base^(-2i / head_size) (Su et al. 2021, "RoFormer").

    The angles are single precision, as in Llama's own code and in transformers: then an export has equal logits there.
    """

    cosine: Tensor  # (context, head_size / 2)
    sine: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(config.context).float(), frequencies(config))
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def rotate(self, x: Tensor, start: int) -> Tensor:
        cosine, sine = (_rows(table, start, x.shape[-2]) for table in (self.cosine, self.sine))
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
        return turned.to(x.dtype)


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per token of each pair, (head_size / 2,), with Llama 3's scaling where there is a rope_factor.

    That slows waves which the original context does not hold `rope_low_frequency` times by the factor, leaves those that
    it holds `rope_high_frequency` times, and blends in between (Grattafiori et al. 2024; the formula is in Llama 3.1's code).
    """
    exponent = torch.arange(0, config.head_size, 2).float() / config.head_size
    frequency = 1.0 / config.rope_base**exponent
    if config.rope_factor == 1:
        return frequency
    low, high = config.rope_low_frequency, config.rope_high_frequency
    wavelength = 2 * math.pi / frequency
    kept = ((config.rope_original_context / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequency / config.rope_factor + kept * frequency


class LearnedPositions(Positions):
    """A vector for each position (Gehring et al. 2017; GPT-2)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.table = weights["model.embed_positions.weight"]

    def add(self, x: Tensor, start: int) -> Tensor:
        return x + _rows(self.table, start, x.shape[-2])


class SinusoidalPositions(Positions):
    """Waves of lengths from 2 pi to 10,000 * 2 pi, sine and cosine in turn (Vaswani et al. 2017).

    They scale the embedding up by the root of the width; here the waves are scaled down by it: the same proportion.
    """

    table: Tensor  # (context, width)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        frequency = 10_000.0 ** (-torch.arange(0, config.width, 2, dtype=torch.float64) / config.width)
        angle = torch.outer(torch.arange(config.context, dtype=torch.float64), frequency)
        waves = torch.stack((angle.sin().float(), angle.cos().float()), dim=-1).flatten(1)
        self.register_buffer("table", waves / math.sqrt(config.width), persistent=False)

    def add(self, x: Tensor, start: int) -> Tensor:
        return x + _rows(self.table, start, x.shape[-2])


def _rows(table: Tensor, start: int, count: int) -> Tensor:
    if start + count > len(table):
        raise ModelError(f"{start + count} tokens, but the model's context is {len(table)}", "give a shorter text")
    return table[start : start + count]
