"""SwiGLU by its formula."""

import torch

from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.flat import FlatParameters
from model.layout import Layout


def test_it_is_the_formula():
    flat = FlatParameters(
        Layout.of(ModelConfig(width=32, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32)),
        torch.device("cpu"),
    )
    torch.nn.init.normal_(flat.values, generator=torch.Generator().manual_seed(1))
    (name,) = {key.removesuffix(".gate_proj.weight") for key in flat.weights if key.endswith(".gate_proj.weight")}
    gate, up, down = (flat.weights[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(2))
    gated = x @ gate.T
    expected = (gated * torch.sigmoid(gated) * (x @ up.T)) @ down.T
    assert torch.allclose(FeedForward(flat.weights, name)(x), expected, rtol=1e-4, atol=1e-3)
