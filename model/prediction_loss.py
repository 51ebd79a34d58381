"""Cross-entropy of the next token, from the last hidden state: the output projection and the loss in one.

The logits of a large vocabulary are the largest tensor of a model, several times over: themselves, their softmax, their
gradient. So rows of tokens go through one chunk at a time, and each chunk leaves its part of both gradients behind in the
same pass (Wijmans et al. 2024 and Liger's FusedLinearCrossEntropy do this in a kernel). The same sum, in parts.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

PADDING: Final = -1  # a target that nobody has to predict
LOGITS_AT_ONCE: Final = 1 << 24  # 64 MiB of float32 a copy; all of a byte model's, 512 tokens' of 32,000 words
_TOKENS_AT_LEAST: Final = 256  # fewer, and the product waits for the head's weights


def prediction_loss(hidden: Tensor, head: Tensor, targets: Tensor, *, chunk: int | None = None) -> Tensor:
    """The sum of nats over targets that are not padding: hidden (T, width), head (vocabulary, width), targets (T,).

    `chunk`: tokens at once, by default as many as LOGITS_AT_ONCE allows.
    """
    rows = chunk or max(_TOKENS_AT_LEAST, LOGITS_AT_ONCE // len(head))
    if len(hidden) <= rows:
        return _at_once(hidden, head, targets)
    if not torch.is_grad_enabled():  # which the function below cannot see
        parts = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        return torch.stack([_at_once(part, head, target) for part, target in parts]).sum()
    total: Tensor = _InChunks.apply(hidden, head, targets, rows)  # type: ignore[no-untyped-call]
    return total


def _at_once(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden, head)
    return functional.cross_entropy(logits, targets, ignore_index=PADDING, reduction="sum")


class _InChunks(torch.autograd.Function):
    """The gradient for an upstream of one, made in the forward pass; backward scales it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, rows: int) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        wanted = any(ctx.needs_input_grad)
        of_hidden, of_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=total.dtype) if wanted else None
        for start in range(0, len(hidden), rows):
            part, target = hidden[start : start + rows], targets[start : start + rows, None]
            logits = functional.linear(part, head)  # of autocast's type, where there is one
            logs = functional.log_softmax(logits, dim=-1, dtype=total.dtype)
            real = target != PADDING
            known = target.clamp_min(0)
            total -= (logs.gather(1, known) * real).sum()
            if of_head is not None:
                slope = logs.exp_().scatter_add_(1, known, -torch.ones_like(logs[:, :1])).mul_(real).to(logits.dtype)
                of_hidden[start : start + rows] = slope @ head.to(slope.dtype)
                of_head += slope.T @ part.to(slope.dtype)
        if wanted:
            ctx.save_for_backward(of_hidden, of_head)
            ctx.head_type = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_hidden, of_head = ctx.saved_tensors
        return of_hidden * gradients[0].to(of_hidden.dtype), (of_head * gradients[0]).to(ctx.head_type), None, None
