"""Each operator in plain torch: what runs where no kernel is built, and the oracle that a kernel is tested against.

What it is: the meaning of the operators, on any device and in any floating type (float64 for gradient checks). Whatever the strides of what
they get, what they return is contiguous. What it is not: fast; a kernel must give the same choices (every integer equal) and at least the
same accuracy. For editors: `ops.py` has the schemas and says what each argument is; the functions here carry the operators' names and are
registered under them, backward ones included.
"""

import torch
from torch import Tensor
from torch.nn import functional

# --- the gated feed-forward layer ----------------------------------------------------------------------------------------------


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate.contiguous()).mul_(up)


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    sigmoid = torch.sigmoid(gate.contiguous())
    silu = sigmoid * gate
    # d silu / d gate = sigmoid + silu * (1 - sigmoid)
    slope = sigmoid.addcmul_(silu, 1 - sigmoid)
    return slope.mul_(up).mul_(grad), silu.mul_(grad)


def swiglu_packed(packed: Tensor) -> Tensor:
    gate, up = packed.chunk(2, dim=-1)
    return swiglu(gate, up)


def swiglu_packed_backward(grad: Tensor, packed: Tensor) -> Tensor:
    gate, up = packed.chunk(2, dim=-1)
    return torch.cat(swiglu_backward(grad, gate, up), dim=-1)


# --- mixture of experts: who gets which token ------------------------------------------------------------------------------------


def moe_topk_route(logits: Tensor, k: int, renorm: bool, score: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    values = logits.to(accumulator(logits))
    # Descending, NaN first, and equal values by the smaller expert: `torch.topk` leaves the order of equals open.
    indices = values.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    scores = torch.sigmoid(values) if score == "sigmoid" else torch.softmax(values, dim=-1)
    weights = scores.gather(1, indices)
    if renorm:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    counts = torch.zeros(logits.shape[1], dtype=torch.int32, device=logits.device)
    counts.scatter_add_(0, indices.reshape(-1), torch.ones_like(indices, dtype=torch.int32).reshape(-1))
    return weights, indices.to(torch.int32, memory_format=torch.contiguous_format), counts, values.logsumexp(dim=-1)


def moe_topk_route_backward(  # noqa: PLR0917 - the order of the schema
    grad_weights: Tensor,
    grad_lse: Tensor | None,
    logits: Tensor,
    indices: Tensor,
    weights: Tensor,
    lse: Tensor,
    renorm: bool,
    score: str,
) -> Tensor:
    values, chosen = logits.contiguous().to(weights.dtype), indices.to(torch.int64)
    mean = (grad_weights * weights).sum(dim=-1, keepdim=True)
    probabilities = torch.exp(values - lse[:, None])
    if score == "sigmoid":
        scores = torch.sigmoid(values.gather(1, chosen))
        slope = (grad_weights - mean) / scores.sum(dim=-1, keepdim=True) if renorm else grad_weights
        of_chosen, of_all = slope * scores * (1 - scores), torch.zeros_like(values)
    elif renorm:  # a softmax over the chosen ones alone
        of_chosen, of_all = (grad_weights - mean) * weights, torch.zeros_like(values)
    else:
        of_chosen, of_all = grad_weights * weights, -probabilities * mean
    if grad_lse is not None:
        of_all = of_all + grad_lse[:, None] * probabilities
    return of_all.scatter_add(1, chosen, of_chosen).to(logits.dtype)


def moe_plan(indices: Tensor, experts: int, align: int) -> tuple[Tensor, Tensor, Tensor]:
    flat = indices.reshape(-1).to(torch.int64)
    counts = torch.zeros(experts, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    order = flat.argsort(stable=True)
    rounded = (counts + align - 1) // align * align
    ends = rounded.cumsum(0)
    # Where the rows of an expert begin, less how many rows stand before them in `order`.
    shift = (ends - rounded) - (counts.cumsum(0) - counts)
    places = torch.arange(flat.numel(), device=flat.device) + shift[flat[order]]
    perm = torch.full((flat.numel() + experts * (align - 1),), -1, dtype=torch.int32, device=flat.device)
    perm[places] = order.to(torch.int32)
    inverse = torch.empty_like(flat, dtype=torch.int32)
    inverse[order] = places.to(torch.int32)
    return perm, inverse, ends.to(torch.int32)


# --- mixture of experts: there and back ------------------------------------------------------------------------------------------


def moe_permute(x: Tensor, perm: Tensor, k: int) -> Tensor:
    if x.shape[0] == 0:  # nothing to select from, but there may be padding
        return x.new_zeros((perm.shape[0], x.shape[1]))
    rows = x.index_select(0, perm.clamp_min(0) // k)
    if perm.shape[0] != x.shape[0] * k:  # else every row is some token's
        rows.masked_fill_((perm < 0)[:, None], 0)
    return rows


def moe_permute_backward(grad: Tensor, perm: Tensor, tokens: int, k: int) -> Tensor:
    owned = torch.nonzero(perm >= 0).reshape(-1)
    inverse = torch.empty(tokens * k, dtype=torch.int64, device=perm.device)
    inverse[perm[owned].to(torch.int64)] = owned
    rows = grad.index_select(0, inverse).reshape(tokens, k, grad.shape[1])
    return rows.sum(dim=1, dtype=accumulator(grad)).to(grad.dtype)


def moe_combine(y: Tensor, inverse: Tensor, weights: Tensor) -> Tensor:
    tokens, k = weights.shape
    rows = y.index_select(0, inverse).reshape(tokens, k, y.shape[1])
    return (rows * weights[:, :, None]).sum(dim=1).to(y.dtype)


def moe_combine_backward(grad: Tensor, y: Tensor, inverse: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    tokens, k = weights.shape
    rows = y.index_select(0, inverse).reshape(tokens, k, y.shape[1])
    grads = grad.to(weights.dtype)[:, None, :]
    grad_y = torch.zeros_like(y, memory_format=torch.contiguous_format)
    grad_y[inverse.to(torch.int64)] = (grads * weights[:, :, None]).to(y.dtype).reshape(tokens * k, y.shape[1])
    return grad_y, (grads * rows).sum(dim=-1)


# --- mixture of experts: products ------------------------------------------------------------------------------------------------


def grouped_linear(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    x, weights = x.contiguous(), weights.contiguous()
    if not is_for_grouped_mm(x, weights):
        return torch.cat([functional.linear(*pair) for pair in zip(_split(x, ends), weights, strict=True)])
    result = functional.grouped_mm(x, weights.transpose(1, 2), offs=ends)
    if result.requires_grad:  # where this is not an operator's twin, and torch finds its gradient
        result.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]  # it takes no expanded gradient: a sum's
    return result


def grouped_linear_backward(grad: Tensor, x: Tensor, weights: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    grad, x, weights = grad.contiguous(), x.contiguous(), weights.contiguous()
    if not is_for_grouped_mm(x, weights):
        grads = _split(grad, ends)
        of_x = torch.cat([part @ matrix for part, matrix in zip(grads, weights, strict=True)])
        return of_x, torch.stack([part.T @ rows for part, rows in zip(grads, _split(x, ends), strict=True)])
    of_x = functional.grouped_mm(grad, weights, offs=ends)
    return of_x, functional.grouped_mm(grad.T, x, offs=ends)


def _split(x: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, torch.diff(ends, prepend=ends.new_zeros(1)).tolist())


def is_for_grouped_mm(x: Tensor, weights: Tensor) -> bool:
    """torch's grouped product takes no doubles, not nothing, no rows that do not begin on 16 bytes, no GPU older than Ampere;
    and its compiler knows it in bfloat16 only."""
    return (
        len(x) > 0
        and x.dtype != torch.float64
        and all(size * x.element_size() % 16 == 0 for size in weights.shape[1:])
        and (x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (8, 0))
        and (x.dtype == torch.bfloat16 or not torch.compiler.is_compiling())
    )


# --- mixture of experts: balance -------------------------------------------------------------------------------------------------


def moe_aux_loss(logits: Tensor, lse: Tensor, counts: Tensor, k: int) -> Tensor:
    probabilities = torch.exp(logits.to(lse.dtype) - lse[:, None])
    mean = probabilities.sum(dim=0) / max(logits.shape[0], 1)
    return logits.shape[1] * (_fractions(counts, k, lse.dtype) * mean).sum()


def moe_aux_loss_backward(grad: Tensor, logits: Tensor, lse: Tensor, counts: Tensor, k: int) -> Tensor:
    probabilities = torch.exp(logits.contiguous().to(lse.dtype) - lse[:, None])
    fractions = _fractions(counts, k, lse.dtype)
    scale = grad * (logits.shape[1] / max(logits.shape[0], 1))
    mean = (probabilities * fractions).sum(dim=-1, keepdim=True)
    return (scale * probabilities * (fractions - mean)).to(logits.dtype)


def _fractions(counts: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """Of all tokens, the part that each expert got; adds up to k."""
    return counts.to(dtype) * k / counts.sum().clamp_min(1)


def accumulator(x: Tensor) -> torch.dtype:
    """Half precision is computed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
