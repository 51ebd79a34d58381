"""Attention by whole matrices against float64, no worse than torch's fused kernel, and where it takes over."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.dense_attention import TIME_MAX, dense_causal_attention, is_faster
from model.patterns import Full, attend


def inputs(time: int, heads: int = 6, key_heads: int = 2, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(time)
    shapes = [(2, heads, time, size), (2, key_heads, time, size), (2, key_heads, time, size), (2, heads, time, size)]
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def results(query: Tensor, key: Tensor, value: Tensor, upstream: Tensor, *, dense: bool) -> list[Tensor]:
    """Output and the three gradients, in float64."""
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    fused = partial(functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    mixed = (dense_causal_attention if dense else fused)(*leaves)
    mixed.backward(upstream)
    return [mixed.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)]


def distances(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm().clamp_min(1e-3)) for a, b in zip(found, exact, strict=True)]


@pytest.mark.parametrize("time", [1, 7, 128])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_it_is_as_exact_as_the_fused_kernel(time: int, key_heads: int) -> None:
    given = inputs(time, key_heads=key_heads)
    exact = results(*(x.double() for x in given), dense=False)
    ours, fused = (distances(results(*given, dense=dense), exact) for dense in (True, False))
    assert max(ours) < 0.01
    assert sum(ours) < 1.3 * sum(fused) + 0.001


def test_it_takes_over_for_bf16_on_a_processor_in_short_texts() -> None:
    query = inputs(8)[0]
    assert is_faster(query, dropout=0.0)
    assert not is_faster(query, dropout=0.1) and not is_faster(query.float(), dropout=0.0)
    assert not is_faster(torch.empty(1, 1, TIME_MAX + 1, 2, dtype=torch.bfloat16), dropout=0.0)
    assert not is_faster(torch.empty(1, 1, 4, 2, dtype=torch.bfloat16, device="meta"), dropout=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_faster(query.float(), dropout=0.0)


def test_attention_is_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, _ = inputs(40)
    dense = attend(Full(), query, key, value)
    monkeypatch.setattr("model.dense_attention.TIME_MAX", 0)
    fused = attend(Full(), query, key, value)
    assert not torch.equal(dense, fused) and torch.allclose(dense.float(), fused.float(), atol=0.03)
