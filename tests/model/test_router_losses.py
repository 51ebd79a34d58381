"""The two losses of routers by their definitions, their gradients, and that they do what they are for."""

import pytest
import torch
from torch import Tensor

from cuda_ext import moe_topk_route
from model.moe import Routing
from model.router_losses import balance_loss, choices, z_loss
from tests.model.decoders import build, variant, windows

K = 2


def routing(logits: Tensor) -> Routing:
    route = moe_topk_route(logits, K)
    return Routing(logits, route.indices, route.counts, route.lse)


def layers(count: int = 2, tokens: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(tokens, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]


def test_balance_is_the_formula() -> None:
    logits = layers()
    routings = [routing(each) for each in logits]
    ours = balance_loss(routings, [each.counts for each in routings], real=None)
    expected = []
    for each in logits:
        chosen = each.topk(K).indices
        share = torch.stack([(chosen == expert).sum().double() / 9 for expert in range(5)])
        expected.append(5 * (share * each.softmax(dim=-1).mean(dim=0)).sum())
    assert ours.item() == pytest.approx(sum(expected).item() / 2, rel=1e-12)
    gradients = (torch.autograd.grad(each, logits) for each in (ours, sum(expected) / 2))
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.abs().sum() > 0 and torch.allclose(mine, theirs, atol=1e-14)


def test_z_is_the_formula() -> None:
    logits = layers()
    ours = z_loss([routing(each) for each in logits], real=None)
    expected = torch.stack(logits).exp().sum(dim=-1).log().square().mean()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = (torch.autograd.grad(each, logits) for each in (ours, expected))
    assert all(torch.allclose(mine, theirs, atol=1e-14) for mine, theirs in zip(*gradients, strict=True))


def test_padding_is_not_there() -> None:
    logits = layers()
    real = torch.tensor([True, True, False, True, False, False, True, True, True])
    routings, without = [routing(each) for each in logits], [routing(each[real]) for each in logits]
    counts = [choices(each, real) for each in routings]
    assert all(torch.equal(ours, theirs.counts) for ours, theirs in zip(counts, without, strict=True))
    for loss, expected in (
        (balance_loss(routings, counts, real=real), balance_loss(without, counts, real=None)),
        (z_loss(routings, real=real), z_loss(without, real=None)),
    ):
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert not any(slope[~real].any() for slope in torch.autograd.grad(loss, logits, retain_graph=True))


def test_equally_busy_experts_cost_k_and_a_favourite_costs_more() -> None:
    even = torch.eye(5).repeat(4, 1) + torch.eye(5).roll(1, dims=1).repeat(4, 1)
    favourite = torch.tensor([[9.0, 8.0, 0.0, 0.0, 0.0]]).repeat(20, 1)
    costs = []
    for logits in (even, favourite):
        each = routing(logits)
        costs.append(balance_loss([each], [each.counts], real=None).item())
    assert costs[0] == pytest.approx(K) and costs[1] > 2 * K


def test_layers_that_favour_different_experts_are_not_balanced_together() -> None:
    first = torch.tensor([[9.0, 8.0, 0.0, 0.0]]).repeat(20, 1)
    routings = [routing(first), routing(first.roll(2, dims=1))]
    assert balance_loss(routings, [each.counts for each in routings], real=None).item() > 1.9 * K


def test_descending_them_balances_the_experts_and_calms_the_scores() -> None:
    """The whole way: through the hidden states, into every layer's router."""
    model, flat = build(variant("experts", balance_loss="1", router_z_loss="0.1"))
    part = windows(model.config, 8, 16)
    with torch.no_grad():  # what all tokens have in common, all routers take for the first expert's
        flat.weights["model.embed_tokens.weight"].add_(0.3)
        for layer in range(2):
            flat.weights[f"model.layers.{layer}.mlp.gate.weight"][0] += 0.2
    before = model.losses(part)
    for _ in range(60):
        flat.gradient.zero_()
        losses = model.losses(part)
        (losses.total - losses.prediction).backward()
        with torch.no_grad():
            flat.values.sub_(0.4 * flat.gradient)
    assert before.balance > 1.5 * K and losses.balance < 1.25 * K
    assert losses.router_z < 0.5 * before.router_z
