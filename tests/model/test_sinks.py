"""Sinks: the softmax of gpt-oss, from the paper, and its gradient; test_patterns.py has them in every pattern."""

import torch

from model.patterns import Full, attend
from model.sinks import with_sink_key, without_sink_key

QUERY, KEY, VALUE = torch.randn(3, 2, 4, 9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_sink_takes_its_share_and_gives_nothing() -> None:
    """Of a head whose scores are all zero, exp(sink) of n + exp(sink)."""
    sinks = torch.tensor([-50.0, 0.0, 1.0, 30.0], dtype=torch.float64)
    mixed = attend(Full(), torch.zeros_like(QUERY), KEY, torch.ones_like(VALUE), sinks=sinks)
    seen = torch.arange(1, 10, dtype=torch.float64)
    expected = seen / (seen + sinks.exp()[:, None])
    assert torch.allclose(mixed, expected[None, :, :, None].expand_as(mixed), atol=1e-12)


def test_the_logit_learns() -> None:
    sinks = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: attend(Full(), QUERY, KEY, VALUE, sinks=s), (sinks,))


def test_the_key_is_seen_by_all_and_leaves_no_trace() -> None:
    sinks = torch.arange(4, dtype=torch.float64)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    query, key, value, wider = with_sink_key(QUERY, KEY, VALUE, mask=mask, sinks=sinks)
    assert wider is not None and wider.shape == (9, 10) and wider[:, 0].all() and torch.equal(wider[:, 1:], mask)
    assert (
        torch.allclose((query @ key.mT)[..., 0] / 6**0.5, sinks[:, None].expand(2, 4, 9)) and not value[:, :, 0].any()
    )
    assert torch.allclose((query @ key.mT)[..., 1:], QUERY @ KEY.mT) and torch.equal(
        without_sink_key(query, 9, 6), QUERY
    )
    longer, *_, none = with_sink_key(QUERY, KEY, VALUE, mask=None, sinks=sinks)
    assert none is None and longer.shape[2] == 10 and torch.equal(without_sink_key(longer, 9, 6), QUERY)
