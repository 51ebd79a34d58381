"""Keys and values of the tokens that a model has read, so that the next token costs one step and not the whole text.

A cache keeps them all (`full`), or so many `slots` for each layer and key head, and then somebody has to go:

* `sliding-window`: the oldest;
* `lru`: whichever was not looked at for longest; a look is a weight of at least its even share;
* `heavy-hitter`: whichever got the least attention in all, the newest half apart (Zhang et al. 2023, "H2O").

The `first` tokens never go (Xiao et al. 2023, "attention sinks"). New tokens look at what is held and at one another;
then they move in, and then somebody goes: a text that is read in one piece sees all of itself.

Exact, equal to reading the whole text again: `full`; and `sliding-window` with at least as many slots as the window of a
model whose attention is a window. Everything else is an approximation, for no model was trained to lose these tokens. A
key keeps the position at which its token stands, and the next token's position is the number of tokens read, however
many were dropped in between: distances stay true. (StreamingLLM counts positions within the cache instead, to go on
beyond the context; here a text ends with the context.)

For editors: no gradients here. Attention is written out, because the policies need its weights; it takes
(new tokens) x (tokens held) of memory, so give a long text in pieces of some hundred tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import ModelError
from model.patterns import Pattern

Policy = Literal["full", "sliding-window", "lru", "heavy-hitter"]


@dataclass(frozen=True, slots=True)
class Eviction:
    """Raises ModelError where the numbers do not fit the policy."""

    policy: Policy = "full"
    slots: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ModelError(f"unknown cache policy {self.policy!r}", f"known: {', '.join(get_args(Policy))}")
        if (self.policy == "full") != (self.slots is None) or (self.policy == "full" and self.first):
            raise ModelError(
                f"cache policy {self.policy} with slots {self.slots}", "full takes none, the others need them"
            )
        if self.slots is not None and not 0 <= self.first < self.slots - self.newest:
            raise ModelError(f"{self.slots} slots for {self.first} first tokens", "more slots, or fewer first tokens")

    @property
    def newest(self) -> int:
        """How many of the newest tokens are safe."""
        return (self.slots or 0) // 2 if self.policy == "heavy-hitter" else 0


class Cache:
    """Of one batch of texts, all equally long. `Transformer.forward` fills it."""

    def __init__(self, config: ModelConfig, eviction: Eviction | None = None) -> None:
        self.layers = [LayerCache(eviction or Eviction()) for _ in range(config.layers)]

    @property
    def seen(self) -> int:
        """Tokens read, dropped ones included: the position of the next one."""
        return self.layers[0].seen

    def select(self, rows: Tensor) -> None:
        """Go on with these texts of the batch, (texts,) int64: in another order, some more than once, some not at all."""
        for layer in self.layers:
            layer.select(rows)


class Held(NamedTuple):
    """What a layer's cache holds, per batch, key head and slot; positions ascend."""

    keys: Tensor  # (batch, key heads, held, head_size)
    values: Tensor
    positions: Tensor  # (batch, key heads, held)
    worth: Tensor  # the same, float32: who has the least goes first


class LayerCache:
    def __init__(self, eviction: Eviction) -> None:
        self.eviction = eviction
        self.seen = 0
        self.held: Held | None = None

    @torch.no_grad()
    def attend(
        self, pattern: Pattern, query: Tensor, key: Tensor, value: Tensor, *, sinks: Tensor | None = None
    ) -> Tensor:
        """What the next tokens see of the text so far, (batch, heads, time, head_size); then they move in."""
        here = torch.arange(self.seen, self.seen + query.shape[2], device=query.device)
        self.seen += len(here)
        held = self._with(key, value, here)
        visible = pattern.sees(here[:, None], held.positions[:, :, None, None, :])
        weights = _weights(query, held.keys, visible=visible, sinks=sinks)
        mixed = (weights.to(value.dtype) @ held.values[:, :, None]).flatten(1, 2)
        self.held = self._evicted(held._replace(worth=self._worth(held, weights, visible=visible, here=here)))
        return mixed

    def select(self, rows: Tensor) -> None:
        """See Cache."""
        if self.held is not None:
            self.held = Held(*(x.index_select(0, rows) for x in self.held))

    def _with(self, key: Tensor, value: Tensor, here: Tensor) -> Held:
        positions = here.expand(*key.shape[:2], -1)
        by_age = self.eviction.policy != "heavy-hitter"
        new = Held(
            key, value, positions, positions.float() if by_age else torch.zeros_like(positions, dtype=torch.float32)
        )
        return (
            new if self.held is None else Held(*(torch.cat(pair, dim=2) for pair in zip(self.held, new, strict=True)))
        )

    def _worth(self, held: Held, weights: Tensor, *, visible: Tensor, here: Tensor) -> Tensor:
        match self.eviction.policy:
            case "heavy-hitter":
                return held.worth + weights.sum(dim=(2, 3))
            case "lru":
                looked_at = weights >= 1 / visible.sum(dim=-1, keepdim=True)
                return torch.maximum(held.worth, (looked_at * here[:, None]).amax(dim=(2, 3)))
            case _:
                return held.worth

    def _evicted(self, held: Held) -> Held:
        slots = self.eviction.slots
        if slots is None or held.worth.shape[2] <= slots:
            return held
        is_safe = (held.positions < self.eviction.first) | (held.positions >= self.seen - self.eviction.newest)
        kept = held.worth.masked_fill(is_safe, math.inf).topk(slots, dim=2).indices.sort(dim=2).values
        return Held(*(x.take_along_dim(kept[..., None] if x.dim() == 4 else kept, dim=2) for x in held))


def _weights(query: Tensor, keys: Tensor, *, visible: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax by its definition: (batch, key heads, group of query heads, time, held)."""
    batch, _, time, size = query.shape
    grouped = query.reshape(batch, keys.shape[1], -1, time, size)
    scores = grouped @ keys[:, :, None].mT / math.sqrt(size)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~visible, -math.inf)
    if sinks is not None:
        logit = sinks.to(scores.dtype).view(1, keys.shape[1], -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, logit), dim=-1)
    weights: Tensor = scores.softmax(dim=-1)[..., : keys.shape[2]]
    return weights
