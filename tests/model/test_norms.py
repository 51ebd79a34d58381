"""The norms by their formulas, and against torch's own modules."""

import torch

from model.norms import LayerNorm, RMSNorm, norm_of
from tests.model.decoders import build, variant

X = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)) * 3 + 1


def test_root_mean_square() -> None:
    config = variant("llama", norm_epsilon="0.01")
    _, flat = build(config)
    norm = norm_of(config, flat.weights, "model.norm")
    assert isinstance(norm, RMSNorm)
    gain = flat.weights["model.norm.weight"]
    expected = X / torch.sqrt(X.square().mean(dim=-1, keepdim=True) + 0.01) * gain
    assert torch.allclose(norm(X), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm() -> None:
    config = variant("llama", norm="layer", norm_epsilon="0.01")
    _, flat = build(config)
    norm = norm_of(config, flat.weights, "model.layers.1.input_layernorm")
    assert isinstance(norm, LayerNorm)
    theirs = torch.nn.LayerNorm(24, eps=0.01)
    with torch.no_grad():
        theirs.weight.copy_(flat.weights["model.layers.1.input_layernorm.weight"])
        theirs.bias.copy_(flat.weights["model.layers.1.input_layernorm.bias"])
    assert theirs.bias.abs().sum() > 0 and torch.equal(norm(X), theirs(X))
