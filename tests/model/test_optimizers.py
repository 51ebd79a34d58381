"""Each optimizer against torch's own or its paper's formula, over the one flat buffer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import OPTIMIZERS, TrainingConfig
from model.optimizers import SGD, AdamW, Lion, make_optimizer, uphill

RATES = [1e-3 * (step + 1) / 5 for step in range(5)]


def gradients(count: int = 5, size: int = 5000) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for _ in range(count)]


def test_adamw_gives_the_same_bits_as_torch() -> None:
    ours, *steps = gradients(6)
    theirs = ours.clone().requires_grad_()
    mine = AdamW(ours, beta_first=0.9, beta_second=0.95)
    reference = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
    for rate, gradient in zip(RATES, steps, strict=True):
        mine.step(gradient, rate=rate)
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert torch.equal(ours, theirs.detach())
    assert torch.equal(mine.second, reference.state[theirs]["exp_avg_sq"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_gives_the_same_bits_as_torch(momentum: float) -> None:
    ours, *steps = gradients(6)
    theirs = ours.clone().requires_grad_()
    mine = SGD(ours, momentum=momentum)
    reference = torch.optim.SGD([theirs], lr=1e-3, momentum=momentum, foreach=False)
    for rate, gradient in zip(RATES, steps, strict=True):
        mine.step(gradient.clone(), rate=rate)
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert torch.equal(ours, theirs.detach())
    assert bool(mine.state()) is bool(momentum)


def test_lion_is_its_papers_algorithm() -> None:
    ours, *steps = gradients(6)
    values, momentum = ours.double().numpy().copy(), np.zeros(5000)
    mine = Lion(ours, beta_first=0.9, beta_second=0.99)
    for rate, gradient in zip(RATES, steps, strict=True):
        mine.step(gradient, rate=rate)
        exact = gradient.double().numpy()
        values -= rate * np.sign(0.9 * momentum + 0.1 * exact)
        momentum = 0.99 * momentum + 0.01 * exact
    assert np.abs(ours.double().numpy() - values).max() < 1e-6
    assert np.abs(mine.momentum.double().numpy() - momentum).max() < 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_stays_where_it_is(name: str) -> None:
    """Padding, above all: it is zero for ever."""
    values = torch.zeros(64)
    optimizer = make_optimizer(values, TrainingConfig(optimizer=name))
    for gradient in gradients(3, 64):
        gradient[32:] = 0
        optimizer.step(gradient, rate=0.1)
    assert values[:32].all() and not values[32:].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_memory_that_is_copied_goes_on_with_the_same_bits(name: str) -> None:
    start, *steps = gradients(7)
    one, two = start.clone(), start.clone()
    first = make_optimizer(one, TrainingConfig(optimizer=name))
    for gradient in steps[:3]:
        first.step(gradient.clone(), rate=0.01)
    two.copy_(one)
    second = make_optimizer(two, TrainingConfig(optimizer=name))
    for key, tensor in second.state().items():
        tensor.copy_(first.state()[key])
    for gradient in steps[3:]:
        first.step(gradient.clone(), rate=0.01)
        second.step(gradient.clone(), rate=0.01)
    assert torch.equal(one, two) and not torch.equal(one, start)


def test_uphill_is_one_radius_along_the_gradient_and_back_to_the_bit() -> None:
    values, gradient = gradients(2)
    before = values.clone()
    with uphill(values, gradient, radius=0.05):
        moved = values - before
        assert moved.norm().item() == pytest.approx(0.05, rel=1e-3)
        assert torch.nn.functional.cosine_similarity(moved, gradient, dim=0) > 0.999
    assert torch.equal(values, before)
    with pytest.raises(KeyError), uphill(values, gradient, radius=0.05):
        raise KeyError
    assert torch.equal(values, before)
    with uphill(values, torch.zeros_like(gradient), radius=0.05):
        assert torch.equal(values, before), "no gradient leads nowhere"
