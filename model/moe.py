"""A mixture of experts in place of a feed-forward layer (Shazeer et al. 2017), in Mixtral's layout.

A router scores every expert for every token; each token goes to the few with the highest scores, and their results are
added, weighted by the softmax of the scores. No token is dropped, and no expert has a capacity: tokens are sorted by
expert, and each matrix product is one grouped product over uneven groups. Shared experts, which every token meets, are
one plain feed-forward layer beside (Dai et al. 2024, "DeepSeekMoE").

What keeps the experts equally busy is in model/router_losses.py; this layer only hands out what was routed.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cuda_ext import Route, grouped_linear, moe_combine, moe_permute, moe_plan, moe_topk_route, reference, swiglu_packed
from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.flat import Weights
from model.plain import is_plain


class Routing(NamedTuple):
    """What a router said of T tokens and E experts, of which it chose k each."""

    logits: Tensor  # (T, E) float32
    chosen: Tensor  # (T, k) int32
    counts: Tensor  # (E,) int32: tokens of each expert
    lse: Tensor  # (T,) float32: log of the sum of exp(logits)


class MixtureOfExperts(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.normalize = config.normalize_top_k
        self.router = weights[f"{name}.gate.weight"]  # (E, width)
        self.gate_up_proj = weights[f"{name}.experts.gate_up_proj"]  # (E, 2 * hidden, width)
        self.down_proj = weights[f"{name}.experts.down_proj"]  # (E, width, hidden)
        self.shared = FeedForward(config, weights, f"{name}.shared_experts") if config.shared_experts else None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """(batch, time, width) to the same, and what was routed."""
        tokens = x.flatten(0, 1)
        with torch.autocast(x.device.type, enabled=False):  # half precision flips choices (Fedus et al. 2021)
            logits = functional.linear(tokens.to(self.router.dtype), self.router)
        if is_plain(x):
            route = Route(*reference.moe_topk_route(logits, self.experts_per_token, self.normalize, "softmax"))
            mixed = self._plain(tokens, route).view_as(x)
        else:
            route = moe_topk_route(logits, self.experts_per_token, self.normalize)
            plan = moe_plan(route.indices, len(self.router))
            rows = moe_permute(tokens, plan.perm, self.experts_per_token)  # (T * k, width), sorted by expert
            rows = swiglu_packed(grouped_linear(rows, self.gate_up_proj, plan.offsets))
            rows = grouped_linear(rows, self.down_proj, plan.offsets)
            mixed = moe_combine(rows, plan.inverse, route.weights).view_as(x)
        if self.shared is not None:
            mixed = mixed + self.shared(x)
        return mixed, Routing(logits, route.indices, route.counts, route.lse)

    def _plain(self, tokens: Tensor, route: Route) -> Tensor:
        """In the order of transformers, which sums a row of a matrix product otherwise in another place of it."""
        order = torch.sort(route.indices.long().flatten()).indices
        ends = route.counts.cumsum(0, dtype=torch.int32)
        gate, up = reference.grouped_linear(tokens[order // self.experts_per_token], self.gate_up_proj, ends).chunk(
            2, dim=-1
        )
        rows = (
            reference.grouped_linear(functional.silu(gate) * up, self.down_proj, ends)
            * route.weights.flatten()[order, None]
        )
        mixed = torch.empty_like(rows)
        mixed[order] = rows
        return mixed.view(len(tokens), self.experts_per_token, -1).sum(dim=1)
