"""Attention in blocks against the definition as one mask, forward and backward; what it saves."""

import pytest
import torch
from torch import Tensor

from model import patterns
from model.patterns import BlockSparse, Full, Pattern, Window, attend, pattern_of
from tests.model.decoders import is_seen, variant

# Texts shorter than, equal to, and longer than a block or a window, by no round number.
CASES: list[tuple[Pattern, int]] = [
    (Full(), 40), (Window(1), 9), (Window(5), 5), (Window(5), 6), (Window(5), 64), (Window(5), 150), (Window(64), 129),
    (Window(100), 131), (Window(300), 411), (BlockSparse(16, 2, 3), 33), (BlockSparse(16, 2, 3), 170),
    (BlockSparse(16, 1, 1), 100), (BlockSparse(7, 3, 2), 65), (BlockSparse(32, 6, 4), 500),
]  # fmt: skip


def inputs(time: int, heads: int, key_heads: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(time)
    return [
        torch.randn(2, n, time, 8, generator=generator, dtype=dtype).requires_grad_()
        for n in (heads, key_heads, key_heads)
    ]


def masked(pattern: Pattern, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None) -> Tensor:
    """The definition: every score, those of what is not seen struck out, and a softmax."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    at = torch.arange(query.shape[2])
    scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~pattern.sees(at[:, None], at), -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(1, -1, 1, 1).expand(2, -1, len(at), 1)), dim=-1)
    return scores.softmax(dim=-1)[..., : len(at)] @ value


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (6, 2)])
@pytest.mark.parametrize(("pattern", "time"), CASES)
def test_blocks_give_what_the_mask_gives(pattern: Pattern, time: int, heads: int, key_heads: int, sinks: bool) -> None:
    tensors = inputs(time, heads, key_heads)
    logits = torch.linspace(-1, 2, heads, dtype=torch.float64).requires_grad_() if sinks else None
    tensors += [logits] if logits is not None else []
    result = attend(pattern, *tensors[:3], sinks=logits)
    expected = masked(pattern, *tensors[:3], sinks=logits)
    assert torch.allclose(result, expected, atol=1e-12)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = (torch.autograd.grad(each, tensors, upstream) for each in (result, expected))
    assert all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_kernels_agree_too(dtype: torch.dtype) -> None:
    tensors = inputs(200, 4, 2, dtype)
    result, exact = attend(Window(70), *tensors), masked(Window(70), *(x.double() for x in tensors))
    assert result.dtype == dtype
    assert torch.allclose(result.double(), exact, atol=1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("name", ["llama", "window", "block-sparse"])
def test_who_sees_whom_is_what_the_network_chose(name: str) -> None:
    config = variant(name)
    at = torch.arange(16)
    seen = pattern_of(config).sees(at[:, None], at)
    assert seen.tolist() == [[is_seen(config, query, key) for key in range(16)] for query in range(16)]


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in CASES if not isinstance(pattern, Full)])
def test_the_named_blocks_are_those_that_hold_something_seen(pattern: Window | BlockSparse) -> None:
    time = 40 * pattern.block
    at = torch.arange(time)
    seen = pattern.sees(at[:, None], at).view(40, pattern.block, 40, pattern.block).any(dim=3).any(dim=1)
    for index in range(40):
        assert list(pattern.blocks(index)) == seen[index].nonzero().flatten().tolist()


def test_no_mask_is_larger_than_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    inner = patterns._dot_product

    def watched(*args: Tensor, mask: Tensor | None, sinks: Tensor | None, dropout: float) -> Tensor:
        assert mask is not None
        sizes.append(tuple(mask.shape))
        return inner(*args, mask=mask, sinks=sinks, dropout=dropout)

    monkeypatch.setattr(patterns, "_dot_product", watched)
    attend(Window(256), *inputs(2048, 1, 1, torch.float32))
    assert len(sizes) == 32 and max(sizes) == (64, 320) and sum(a * b for a, b in sizes) < 2048 * 320


def test_dropout_drops_and_keeps_the_mean() -> None:
    query, key, _ = inputs(200, 2, 2, torch.float32)
    torch.manual_seed(1)
    ones = torch.ones_like(key)
    for pattern in (Full(), Window(70), BlockSparse(16, 2, 3)):
        mixed = attend(pattern, query, key, ones, dropout=0.25)
        assert not torch.allclose(mixed, torch.ones_like(mixed)) and mixed.mean().item() == pytest.approx(1, abs=0.02)
