"""Attention sinks: what a head pays attention to when nothing is worth it.

Each head has a learned logit that takes part in the softmax and has no value, as in gpt-oss (OpenAI 2025; the "zero sink"
of Xiao et al. 2023, arXiv 2309.17453, is this logit held at zero). The weights of the tokens then add up to less than one.
The other meaning of the name, first tokens that a cache never drops, is `first` in model/cache.py.

torch's fused attention knows no such logit, so it gets a key more: zero, but for one feature of its own, in which each
query of a head carries the head's logit and every other key is zero. Its value is zero. Exact, with the gradient of the
logit, and as sparing of memory as what it is joined to.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_FEATURES = 8  # one is needed; the kernels want rows of 16 bytes


def with_sink_key(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, sinks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`sinks` is (heads,). The key is the first of all; where there is no mask, causality must let every query see it, so
    a query goes before the first one, too, whose result is nobody's."""
    batch, heads, time, size = query.shape
    logit = (sinks * math.sqrt(size)).to(query.dtype).view(heads, 1, 1).expand(batch, heads, time, 1)
    query = torch.cat((query, functional.pad(logit, (0, _FEATURES - 1))), dim=-1)
    key, value = (functional.pad(x, (0, _FEATURES, 1, 0)) for x in (key, value))
    key[..., 0, size] = 1
    if mask is None:
        return functional.pad(query, (0, 0, 1, 0)), key, value, None
    return query, key, value, functional.pad(mask, (1, 0), value=True)


def without_sink_key(mixed: Tensor, time: int, size: int) -> Tensor:
    """The result's own queries and features."""
    return mixed[..., -time:, :size]
