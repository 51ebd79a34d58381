"""Attention as a layer: projections, heads and groups by the definition; test_patterns.py and test_cache.py have what it looks at."""

import pytest
import torch

from model.attention import Attention
from model.cache import Eviction, LayerCache
from model.positions import Positions
from tests.model.decoders import build, variant

X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
NOWHERE = Positions()  # neither adds nor rotates


@pytest.mark.parametrize("key_value_heads", [1, 2, 3, 6])
def test_heads_share_keys_in_groups(key_value_heads: int) -> None:
    config = variant("llama", key_value_heads=key_value_heads)
    _, flat = build(config)
    name = "model.layers.0.self_attn"
    q, k, v, o = (flat.weights[f"{name}.{part}_proj.weight"] for part in "qkvo")
    expected = torch.zeros_like(X)
    for head in range(6):
        group = head * key_value_heads // 6
        mine, shared = slice(4 * head, 4 * head + 4), slice(4 * group, 4 * group + 4)
        scores = (X @ q[mine].T) @ (X @ k[shared].T).mT / 2  # the root of the head's size
        weights = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(dim=-1)
        expected += weights @ (X @ v[shared].T) @ o[:, mine].T
    attention = Attention(config, flat.weights, name)
    assert torch.allclose(attention(X, NOWHERE), expected, atol=1e-5)
    cache = LayerCache(Eviction())
    in_turn = [attention(part, NOWHERE, cache) for part in X.split([4, 1, 3, 1], dim=1)]
    assert torch.allclose(torch.cat(in_turn, dim=1), expected, atol=1e-5)


def test_weights_are_dropped_in_training_alone() -> None:
    config = variant("llama", dropout="0.5")
    _, flat = build(config)
    attention = Attention(config, flat.weights, "model.layers.0.self_attn")
    whole = Attention(variant("llama"), flat.weights, "model.layers.0.self_attn")(X, NOWHERE)
    torch.manual_seed(1)
    assert not torch.allclose(attention(X, NOWHERE), whole)
    assert torch.equal(attention.eval()(X, NOWHERE), whole)
