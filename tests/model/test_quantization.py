"""Matrices that int8 can hold, and gradients that pass through the rounding."""

import torch
from torch import nn

from model.quantization import rounded, rounded_matrices


def test_each_row_is_127_steps_of_its_own_largest_value() -> None:
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 40)[:, None]
    near = rounded(weight)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    levels = near / scale
    assert torch.allclose(levels, levels.round(), atol=1e-3) and levels.abs().max() <= 127.001
    assert ((near - weight).abs() <= 0.5001 * scale).all()
    assert torch.equal(rounded(near), near), "rounding twice is rounding once"


def test_rows_of_nothing_and_of_very_little_stay_finite() -> None:
    weight = torch.zeros(3, 8)
    weight[1] = 1e-38
    assert rounded(weight).isfinite().all() and not rounded(weight)[0].any()


def test_experts_have_channels_of_their_own() -> None:
    weight = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(rounded(weight)[1, 3], rounded(weight[1, 3:4])[0])


def test_matrices_are_rounded_within_and_exact_again_after() -> None:
    values = torch.randn(64, generator=torch.Generator().manual_seed(3))
    matrix, gain = nn.Parameter(values[:48].view(6, 8)), nn.Parameter(values[48:])
    before = values.clone()
    with rounded_matrices(values, [matrix, gain]):
        assert torch.equal(matrix.detach(), rounded(before[:48].view(6, 8)))
        assert torch.equal(gain.detach(), before[48:])
    assert torch.equal(values, before)


def test_the_gradient_is_the_straight_through_estimators() -> None:
    generator = torch.Generator().manual_seed(4)
    values, x = torch.randn(48, generator=generator), torch.randn(5, 8, generator=generator)
    weight = nn.Parameter(values.view(6, 8))
    with rounded_matrices(values, [weight]):
        (x @ weight.T).square().sum().backward()
    direct = values.view(6, 8).clone().requires_grad_()
    through = direct + (rounded(direct) - direct).detach()
    (x @ through.T).square().sum().backward()
    assert weight.grad is not None and direct.grad is not None
    assert torch.allclose(weight.grad, direct.grad, rtol=1e-5)
