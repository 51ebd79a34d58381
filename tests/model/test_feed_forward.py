"""The feed-forward layers by their formulas."""

import pytest
import torch

from model.feed_forward import FeedForward
from tests.model.decoders import build, variant

ACTIVATIONS = {
    "swiglu": lambda gate, up: gate * torch.sigmoid(gate) * up,
    "gelu": lambda gate, up: up * 0.5 * (1 + torch.erf(up / 2**0.5)),
    "relu": lambda gate, up: up.clamp_min(0),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_the_formula(activation: str) -> None:
    config = variant("llama", activation=activation)
    _, flat = build(config)
    name = "model.layers.0.mlp"
    up, down = (flat.weights[f"{name}.{part}_proj.weight"] for part in ("up", "down"))
    gate = flat.weights.get(f"{name}.gate_proj.weight")
    assert (gate is not None) == (activation == "swiglu"), "only a gated layer has a gate"
    x = torch.randn(2, 3, config.width, generator=torch.Generator().manual_seed(2))
    expected = ACTIVATIONS[activation](None if gate is None else x @ gate.T, x @ up.T) @ down.T
    assert torch.allclose(FeedForward(config, flat.weights, name)(x), expected, rtol=1e-4, atol=1e-6)
