"""The two losses that only routers see: one keeps the experts equally busy, the other keeps the scores small.

Both are means over the tokens of a whole optimizer step, whatever the micro-batches; a micro-batch computes its part, and
the parts add up. For the z-loss that is plain. The balance loss of a layer is E * sum over experts of f * P (Fedus et al.
2021): f the share of the step's choices that an expert got, P its mean probability over the step's tokens. Given f, which
has no gradient, it is a mean over tokens; but f is known only when every micro-batch has been routed. So a step of several
micro-batches counts first, in a forward pass without gradients (`Transformer.totals`), and learns second. The alternatives
are no such mean: f of the micro-batch alone is another loss, one that wants every few sentences to use all experts
(Qiu et al. 2025, "Demons in the detail"), and f counted so far depends on the order.

Nothing is accumulated as a side effect, so a layer that is computed a second time for its gradient counts once. Padding
is left out of f and P alike.

The loss of a model is the mean of its layers'. (transformers pools the layers before it multiplies, so that one which
sends everything to expert 0 and another to expert 1 look balanced together. For one layer both are the same.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cuda_ext import moe_aux_loss
from model.moe import Routing


def choices(routing: Routing, real: Tensor | None) -> Tensor:
    """How many of the tokens chose each expert, (E,); `real` (T,) is false for padding, None where there is none."""
    if real is None:
        return routing.counts
    return torch.bincount(routing.chosen[real].flatten(), minlength=routing.counts.shape[0]).int()


def balance_loss(routings: Sequence[Routing], counts: Sequence[Tensor], *, real: Tensor | None) -> Tensor:
    """The mean over these tokens and the layers, with each layer's choices of the whole step in `counts`. At least about
    k, the number of experts a token meets, when all are equally busy."""
    losses = []
    for routing, whole in zip(routings, counts, strict=True):
        logits, lse = _real(routing, real)
        losses.append(moe_aux_loss(logits, lse, whole, routing.chosen.shape[1]))
    return torch.stack(losses).mean()


def z_loss(routings: Sequence[Routing], *, real: Tensor | None) -> Tensor:
    """The mean squared log of the sum of exp(logits) (Zoph et al. 2022, "ST-MoE"), over these tokens and the layers."""
    lses = torch.stack([_real(routing, real)[1] for routing in routings])
    return lses.square().sum() / max(1, lses.numel())


def _real(routing: Routing, real: Tensor | None) -> tuple[Tensor, Tensor]:
    return (routing.logits, routing.lse) if real is None else (routing.logits[real], routing.lse[real])
