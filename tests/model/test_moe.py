"""The mixture of experts by its definition, token by token; the grouped product against a loop."""

import pytest
import torch
from torch.nn import functional

from cuda_ext import grouped_linear
from model.moe import MixtureOfExperts
from tests.model.decoders import VARIANTS, _feed_forward, build, variant

MIXTURES = [name for name, change in VARIANTS.items() if "experts" in change]


@pytest.mark.parametrize("name", MIXTURES)
def test_each_token_gets_the_weighted_sum_of_its_experts(name: str) -> None:
    config = variant(name)
    _, flat = build(config)
    layer = {name.removeprefix("model.layers.0."): w.detach().double() for name, w in flat.weights.items()}
    x = torch.randn(2, 7, config.width, generator=torch.Generator().manual_seed(1))
    mixed, routing = MixtureOfExperts(config, flat.weights, "model.layers.0.mlp")(x)
    expected = torch.stack([_feed_forward(config, layer, token) for token in x.flatten(0, 1).double()])
    assert torch.allclose(mixed.flatten(0, 1).double(), expected, atol=2e-6, rtol=1e-5)
    assert routing.counts.sum() == 14 * config.experts_per_token, "no token is dropped"
    assert torch.equal(routing.chosen.flatten().bincount(minlength=config.experts), routing.counts)
    assert torch.allclose(routing.logits, x.flatten(0, 1) @ layer["mlp.gate.weight"].float().T, atol=1e-6)
    assert torch.allclose(routing.lse, routing.logits.logsumexp(dim=-1))


@pytest.mark.parametrize("name", MIXTURES)
def test_every_tensor_of_it_has_its_gradient(name: str) -> None:
    """In float64, by finite differences in one direction, which moves no choice."""
    config = variant(name)
    _, flat = build(config)
    prefix = "model.layers.0.mlp."
    weights = {name: w.detach().double() for name, w in flat.weights.items() if name.startswith(prefix)}
    x = torch.randn(2, 7, config.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def result(values: dict[str, torch.Tensor]) -> torch.Tensor:
        parameters = {name: torch.nn.Parameter(value) for name, value in values.items()}
        mixed, _ = MixtureOfExperts(config, parameters, prefix[:-1])(x)
        (mixed * upstream).sum().backward()
        slopes.update({name: parameter.grad for name, parameter in parameters.items()})
        return (mixed * upstream).sum().detach()

    slopes: dict[str, torch.Tensor | None] = {}
    result(weights)
    exact = dict(slopes)
    for name, value in weights.items():
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        above, below = (result(weights | {name: value + sign * 1e-6 * direction}) for sign in (1, -1))
        slope = exact[name]
        assert slope is not None and slope.abs().sum() > 0, name
        assert ((above - below) / 2e-6).item() == pytest.approx((slope * direction).sum().item(), rel=1e-5), name


@pytest.mark.parametrize("shape", [(8, 16), (13, 7), (16, 6)])
@pytest.mark.parametrize("ends", [[3, 3, 10], [0, 0, 10], [10, 10, 10], [0, 0, 0]])
def test_a_grouped_product_is_one_product_for_each_group(shape: tuple[int, int], ends: list[int]) -> None:
    """On strides that the fused kernel takes, and on others; with empty groups, and with nothing at all."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = shape
    x = torch.randn(ends[-1], columns, generator=generator).requires_grad_()
    weights = torch.randn(3, rows, columns, generator=generator).requires_grad_()
    result = grouped_linear(x, weights, torch.tensor(ends, dtype=torch.int32))
    starts = [0, *ends[:-1]]
    loop = [functional.linear(x[start:end], weight) for start, end, weight in zip(starts, ends, weights, strict=True)]
    assert result.shape == (ends[-1], rows) and torch.allclose(result, torch.cat(loop), atol=1e-6)
    for ours, theirs in zip(
        *(torch.autograd.grad(each.sum(), (x, weights)) for each in (result, torch.cat(loop))), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_under_autocast_experts_are_half_and_the_router_is_not() -> None:
    config = variant("experts")
    _, flat = build(config)
    layer = MixtureOfExperts(config, flat.weights, "model.layers.0.mlp")
    x = torch.randn(2, 7, config.width, generator=torch.Generator().manual_seed(1))
    exact, routing = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, half = layer(x)
    assert torch.equal(half.logits, routing.logits) and torch.equal(half.chosen, routing.chosen)
    assert mixed.dtype == torch.bfloat16 and torch.allclose(mixed.float(), exact, atol=0.02)
    mixed.float().square().sum().backward()
    assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in layer.parameters())
