"""Cross-entropy in chunks: the same sum and the same gradients, in less memory."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import prediction_loss as module
from model.prediction_loss import PADDING, prediction_loss


def inputs(tokens: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 12, generator=generator, dtype=dtype).requires_grad_()
    head = torch.randn(vocabulary, 12, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[tokens // 3 :: 5] = PADDING
    return hidden, head, targets


@pytest.mark.parametrize(("tokens", "vocabulary"), [(2, 2), (37, 67), (100, 5)])
@pytest.mark.parametrize("chunk", [1, 7, 36, 50, 1000])
def test_chunks_change_nothing(tokens: int, vocabulary: int, chunk: int) -> None:
    hidden, head, targets = inputs(tokens, vocabulary)
    logs = functional.log_softmax(hidden @ head.T, dim=-1)
    expected = -sum((logs[t, target] for t, target in enumerate(targets) if target != PADDING), torch.zeros(()))
    ours = prediction_loss(hidden, head, targets, chunk=chunk)
    assert torch.allclose(ours, expected.double(), rtol=1e-12)
    gradients = (torch.autograd.grad(3 * each, (hidden, head)) for each in (ours, expected))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_the_gradient_is_the_true_one() -> None:
    hidden, head, targets = inputs(11, 6)
    assert torch.autograd.gradcheck(lambda h, w: prediction_loss(h, w, targets, chunk=4), (hidden, head))
    frozen = head.detach()
    assert torch.autograd.gradcheck(lambda h: prediction_loss(h, frozen, targets, chunk=4), (hidden,))
    with torch.no_grad():
        assert torch.allclose(prediction_loss(hidden, head, targets, chunk=4), prediction_loss(hidden, head, targets))


def test_who_wants_no_gradient_computes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters want one always, and evaluation evaluates them."""
    hidden, head, targets = inputs(40, 6)
    monkeypatch.setattr(module._InChunks, "forward", lambda *args: pytest.fail("with its gradient"))
    with torch.no_grad():
        prediction_loss(hidden, head, targets, chunk=16)
    with pytest.raises(pytest.fail.Exception):
        prediction_loss(hidden, head, targets, chunk=16)


@pytest.mark.parametrize("chunk", [8, 64])
def test_half_precision_keeps_its_types_and_sums_in_float32(chunk: int) -> None:
    hidden, head, targets = inputs(64, 33, torch.float32)
    exact = torch.autograd.grad(prediction_loss(hidden, head, targets), (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        loss = prediction_loss(hidden, head, targets, chunk=chunk)
    assert loss.dtype == torch.float32
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, head)), exact, strict=True):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.02 * theirs.norm()


def test_a_large_vocabulary_goes_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    inner = functional.linear
    monkeypatch.setattr(module.functional, "linear", lambda x, w: rows.append(len(x)) or inner(x, w))
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 300 * 50)
    prediction_loss(*inputs(700, 50)).backward()
    assert rows == [300, 300, 100], "each product once: nothing is computed again for the gradient"
    rows.clear()
    prediction_loss(*inputs(700, 500))
    assert rows == [256, 256, 188], "but no chunk is tiny"
