"""The decoder: embedding, layers of (norm, attention, norm, feed-forward) with residuals, norm, output projection.

Read this file first, then attention.py and feed_forward.py; what else a network may have chosen is in positions.py,
norms.py, patterns.py, sinks.py and moe.py. Free-form floating point: nothing here is replicated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import Attention
from model.cache import Cache, LayerCache
from model.checkpointing import checkpointed
from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.flat import Weights
from model.moe import MixtureOfExperts, Routing
from model.norms import norm_of
from model.positions import Positions, positions_of
from model.prediction_loss import PADDING, prediction_loss
from model.router_losses import balance_loss, choices, z_loss


class Losses(NamedTuple):
    """A micro-batch's part of its step's losses: parts add up to the losses of the step."""

    total: Tensor  # what training descends: the others, weighted as the network has chosen
    prediction: Tensor  # nats per token
    balance: Tensor
    router_z: Tensor


class Totals(NamedTuple):
    """What a micro-batch has to know of its whole step."""

    tokens: Tensor  # to predict
    choices: Sequence[Tensor] | None  # of each layer, tokens of each expert; None: the micro-batch counts for itself


class Transformer(nn.Module):
    """Tokens (batch, time) to logits (batch, time, vocabulary). `weights` are views into FlatParameters.

    Losses are of windows (batch, time + 1), and of predicting windows[:, 1:] from windows[:, :-1]. A window may end in
    padding (-1), which is neither predicted nor counted.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.config = config
        self.embedding = weights["model.embed_tokens.weight"]
        self.positions = positions_of(config, weights)
        self.layers = nn.ModuleList(Layer(config, weights, f"model.layers.{i}") for i in range(config.layers))
        self.norm = norm_of(config, weights, "model.norm")
        self.head = self.embedding if config.tied_head else weights["lm_head.weight"]
        self.dropout = float(config.dropout)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """With a cache, `tokens` follow those that it has seen, and are seen from then on."""
        hidden, _ = self.hidden(tokens, cache)
        return functional.linear(hidden, self.head)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Tensor, list[Routing]]:
        """What the output projection reads, (batch, time, width), and what the router of each layer with experts said."""
        x = functional.embedding(tokens, self.embedding)
        x = self.positions.add(x, 0 if cache is None else cache.seen)
        x = functional.dropout(x, self.dropout, self.training)
        routings: list[Routing] = []
        for index, layer in enumerate(self.layers):
            own = None if cache is None else cache.layers[index]
            x, routing = checkpointed("layer", self.config, layer, x, self.positions, own)
            if routing is not None:
                routings.append(routing)
        return self.norm(x), routings

    def loss(self, windows: Tensor) -> Tensor:
        """Mean nats per token, and nothing that only training wants: what evaluation reports."""
        hidden, _ = self.hidden(_read(windows))
        targets = targets_of(windows).flatten()
        return prediction_loss(hidden.flatten(0, 1), self.head, targets) / _count(targets).clamp_min(1)

    def losses(self, windows: Tensor, totals: Totals | None = None) -> Losses:
        """What training descends. `totals` are those of the step that this is a micro-batch of; None: it is the step."""
        hidden, routings = self.hidden(_read(windows))
        targets = targets_of(windows).flatten()
        tokens = _count(targets)
        step = totals or Totals(tokens, None)
        in_all = step.tokens.clamp_min(1)
        prediction = prediction_loss(hidden.flatten(0, 1), self.head, targets) / in_all
        if not routings:
            nothing = torch.zeros_like(prediction)
            return Losses(prediction, prediction, nothing, nothing)
        real = None if tokens == len(targets) else targets != PADDING
        counts = step.choices or [choices(routing, real) for routing in routings]
        balance = balance_loss(routings, counts, real=real) * (tokens / in_all)
        router_z = z_loss(routings, real=real) * (tokens / in_all)
        regular = float(self.config.balance_loss) * balance + float(self.config.router_z_loss) * router_z
        return Losses(prediction + regular, prediction, balance, router_z)

    @torch.no_grad()
    def totals(self, parts: Sequence[Tensor]) -> Totals:
        """Of a step of these micro-batches. With experts it reads all of several once, to count: see router_losses.py."""
        tokens = torch.stack([_count(targets_of(part)) for part in parts]).sum()
        if not self.config.experts or len(parts) == 1:
            return Totals(tokens, None)
        counted = []
        for part in parts:
            _, routings = self.hidden(_read(part))
            real = (targets_of(part) != PADDING).flatten()
            counted.append([choices(routing, real) for routing in routings])
        return Totals(tokens, [torch.stack(of_layer).sum(dim=0).int() for of_layer in zip(*counted, strict=True)])


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.config = config
        self.before_attention = norm_of(config, weights, f"{name}.input_layernorm")
        self.attention = Attention(config, weights, f"{name}.self_attn")
        self.before_feed_forward = norm_of(config, weights, f"{name}.post_attention_layernorm")
        self.feed_forward = (MixtureOfExperts if config.experts else FeedForward)(config, weights, f"{name}.mlp")
        self.dropout = float(config.dropout)

    def forward(
        self, x: Tensor, positions: Positions, cache: LayerCache | None = None
    ) -> tuple[Tensor, Routing | None]:  # (batch, time, width), the same
        x = x + checkpointed("attention", self.config, self._attended, x, positions, cache)
        added, routing = checkpointed("feed-forward", self.config, self._fed_forward, x)
        return x + added, routing

    def _attended(self, x: Tensor, positions: Positions, cache: LayerCache | None) -> Tensor:
        mixed = self.attention(self.before_attention(x), positions, cache)
        return functional.dropout(mixed, self.dropout, self.training)

    def _fed_forward(self, x: Tensor) -> tuple[Tensor, Routing | None]:
        result = self.feed_forward(self.before_feed_forward(x))
        added, routing = result if isinstance(result, tuple) else (result, None)
        return functional.dropout(added, self.dropout, self.training), routing


def targets_of(windows: Tensor) -> Tensor:
    """What is to be predicted after each token but the last, PADDING where nothing is."""
    return windows[:, 1:].clamp_min(PADDING)


def _read(windows: Tensor) -> Tensor:
    """The tokens that are read: of the negative ones, which nobody predicts, ~t is t (model/words.py), and of padding 0."""
    tokens = windows[:, :-1]
    return tokens ^ (tokens >> 63)


def _count(targets: Tensor) -> Tensor:
    """How many there are to predict."""
    return (targets != PADDING).sum()
