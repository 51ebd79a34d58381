"""Which tokens a token sees, and attention over just these.

A pattern says it twice: `sees`, of any two positions, is the definition; `blocks` names the blocks of keys that a block
of queries has to look at. Attention goes through the text by blocks of queries, each with its blocks of keys, so that
what is never seen is never computed, and no mask is larger than one block's. The result is exact: the same as with the
definition as a mask over everything, forward and backward, on any device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelConfig
from model.dense_attention import dense_causal_attention, is_faster
from model.plain import is_plain
from model.sinks import with_sink_key, without_sink_key

_WINDOW_BLOCK_MIN = 64  # smaller ones keep no core busy
_WHOLE_TIME_MAX = 4096  # a mask over everything has sixteen million values there


def pattern_of(config: ModelConfig) -> "Pattern":
    match config.attention:
        case "window":
            return Window(config.window)
        case "block-sparse":
            return BlockSparse(config.sparse_block, config.sparse_local, config.sparse_stride)
        case _:
            return Full()


@dataclass(frozen=True, slots=True)
class Full:
    """Every token sees all before it, and itself."""

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether positions see positions, of any shapes that broadcast."""
        return key <= query


@dataclass(frozen=True, slots=True)
class Window:
    """Every token sees the `window` last ones, itself included (Beltagy et al. 2020; Mistral)."""

    window: int

    @property
    def horizon(self) -> int:
        """Texts of so many tokens are seen whole."""
        return self.window

    @property
    def block(self) -> int:
        return max(_WINDOW_BLOCK_MIN, self.window // 4)  # so a query is shown a quarter more than it sees

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key > query - self.window)

    def blocks(self, index: int) -> Sequence[int]:
        oldest = max(0, index * self.block - self.window + 1)
        return range(oldest // self.block, index + 1)


@dataclass(frozen=True, slots=True)
class BlockSparse:
    """A block of tokens sees the `local` last blocks, itself included, and before these the last of every `stride` blocks.

    The fixed pattern of Child et al. 2019 ("Generating long sequences with sparse transformers") on blocks.
    """

    block: int
    local: int
    stride: int

    @property
    def horizon(self) -> int:
        return self.block * self.local

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        of_query, of_key = query // self.block, key // self.block
        return (key <= query) & ((of_query - of_key < self.local) | ((of_key + 1) % self.stride == 0))

    def blocks(self, index: int) -> Sequence[int]:
        local = max(0, index - self.local + 1)
        return [*range(self.stride - 1, local, self.stride), *range(local, index + 1)]


Pattern = Full | Window | BlockSparse


def attend(
    pattern: Pattern, query: Tensor, key: Tensor, value: Tensor, *, sinks: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Softmax attention over what the pattern shows: (batch, heads, time, head_size), keys and values of fewer heads."""
    time = query.shape[2]
    if isinstance(pattern, Full) or time <= pattern.horizon:
        return _dot_product(query, key, value, mask=None, sinks=sinks, dropout=dropout)
    positions = torch.arange(time, device=query.device)
    if isinstance(pattern, Window) and sinks is None and time <= _WHOLE_TIME_MAX and is_plain(query):
        mask = pattern.sees(positions[:, None], positions)
        grouped, scale = query.shape[1] > key.shape[1], query.shape[-1] ** -0.5
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=grouped, scale=scale
        )
    queries, keys, values, places = (
        torch.split(x, pattern.block, dim=-2) for x in (query, key, value, positions[:, None])
    )
    mixed = []
    for index, part in enumerate(queries):
        seen = pattern.blocks(index)
        mask = pattern.sees(places[index], torch.cat([places[at] for at in seen]).T)
        near_key, near_value = (torch.cat([blocks[at] for at in seen], dim=2) for blocks in (keys, values))
        mixed.append(_dot_product(part, near_key, near_value, mask=mask, sinks=sinks, dropout=dropout))
    return torch.cat(mixed, dim=2)


def _dot_product(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, sinks: Tensor | None, dropout: float
) -> Tensor:
    """torch's fused attention. `mask` (queries, keys) is true where a query sees a key; None: all before it, and itself."""
    batch, heads, time, size = query.shape
    if sinks is not None:
        query, key, value, mask = with_sink_key(query, key, value, mask=mask, sinks=sinks)
    groups = heads // key.shape[1]
    fused = functional.scaled_dot_product_attention
    if mask is None and sinks is None and is_faster(query, dropout=dropout):
        mixed = dense_causal_attention(query, key, value)
    elif mask is None:
        mixed = fused(query, key, value, is_causal=True, enable_gqa=groups > 1, scale=size**-0.5, dropout_p=dropout)
    else:
        # The heads that share a key are so many rows of one: no kernel with a mask has to know of groups.
        rows = query.reshape(batch, key.shape[1], groups * time, -1)
        mixed = fused(rows, key, value, attn_mask=mask.repeat(groups, 1), scale=size**-0.5, dropout_p=dropout)
        mixed = mixed.reshape(batch, heads, time, -1)
    return mixed if sinks is None else without_sink_key(mixed, time, size)
