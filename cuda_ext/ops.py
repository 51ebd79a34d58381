"""The operators of the model that have kernels of their own: schemas, shapes, gradients, and the functions that a model calls.

Each is registered once, under `torch.ops.p2pnode`, with the plain torch of `reference.py` behind it. Kernels, where they have been built
(`python -m cuda_ext.build`) and loaded, take the place of that for their device and types in torch's dispatcher, so that nothing that calls
an operator knows which of the two runs. Same operators, same shapes and same choices either way.

For editors: a kernel for a device is bound to the name of the schema. What a kernel does not know (float64, float16 on a CPU) it passes on
to the operator's twin, `<name>_reference`. Every operator is functional, and gives equal bits when run twice. Indices are int32: a call has
fewer than 2^31 rows; how many values these hold is not bounded.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cuda_ext import load, reference

SCHEMAS: Final = {
    "swiglu": "(Tensor gate, Tensor up) -> Tensor",
    "swiglu_backward": "(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)",
    "swiglu_packed": "(Tensor packed) -> Tensor",
    "swiglu_packed_backward": "(Tensor grad, Tensor packed) -> Tensor",
    "moe_topk_route": "(Tensor logits, int k, bool renorm, str score) -> (Tensor, Tensor, Tensor, Tensor)",
    "moe_topk_route_backward": (
        "(Tensor grad_weights, Tensor? grad_lse, Tensor logits, Tensor indices, Tensor weights, Tensor lse,"
        " bool renorm, str score) -> Tensor"
    ),
    "moe_plan": "(Tensor indices, int experts, int align) -> (Tensor, Tensor, Tensor)",
    "moe_permute": "(Tensor x, Tensor perm, int k) -> Tensor",
    "moe_permute_backward": "(Tensor grad, Tensor perm, SymInt tokens, int k) -> Tensor",
    "moe_combine": "(Tensor y, Tensor inverse, Tensor weights) -> Tensor",
    "moe_combine_backward": "(Tensor grad, Tensor y, Tensor inverse, Tensor weights) -> (Tensor, Tensor)",
    "grouped_linear": "(Tensor x, Tensor weights, Tensor ends) -> Tensor",
    "grouped_linear_backward": "(Tensor grad, Tensor x, Tensor weights, Tensor ends) -> (Tensor, Tensor)",
    "moe_aux_loss": "(Tensor logits, Tensor lse, Tensor counts, int k) -> Tensor",
    "moe_aux_loss_backward": "(Tensor grad, Tensor logits, Tensor lse, Tensor counts, int k) -> Tensor",
}
CPU_ALONE: Final = (
    "grouped_linear",
    "grouped_linear_backward",
)  # on a GPU torch's own grouped product is what there is
SCORES: Final = ("softmax", "sigmoid")
FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROWS_MAX: Final = 2**31 - 1
SMALL_VALUES: Final = 1 << 15  # on a CPU: to call an operator costs more than it saves below this


class Route(NamedTuple):
    """What a router chose for T tokens."""

    weights: Tensor  # (T, k) float32, highest first
    indices: Tensor  # (T, k) int32: the experts
    counts: Tensor  # (E,) int32: tokens of each expert
    lse: Tensor  # (T,) float32: log of the sum of exp(logits); its squares make the router's z-loss


class Plan(NamedTuple):
    """In which order the T * k pairs of token and expert stand so that each expert's are neighbours."""

    perm: Tensor  # (P,) int32: row -> pair, which is token * k + slot; -1 where a row is padding
    inverse: Tensor  # (T * k,) int32: pair -> row
    offsets: Tensor  # (E,) int32: where each expert's rows end, as `grouped_mm` takes them


# --- what a model calls ----------------------------------------------------------------------------------------------------------


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise (Shazeer 2020, "GLU variants improve transformer").

    Shapes and types are equal, any floating type; computed in float32 and rounded once. Keeps gate and up for the gradient, nothing else.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype or gate.dtype not in FLOATS:
        raise ValueError(f"swiglu: gate is {_said(gate)}, up is {_said(up)}")
    if torch.compiler.is_compiling() or (gate.numel() < SMALL_VALUES and gate.device.type == "cpu"):
        # A compiler fuses this with what stands around it; an operator of ours would stand in its way.
        return functional.silu(gate) * up
    result: Tensor = torch.ops.p2pnode.swiglu(gate, up)
    return result


def swiglu_packed(packed: Tensor) -> Tensor:
    """`swiglu` of the two halves of the last axis, (..., 2F) to (..., F): one matrix product made both, gate first."""
    if packed.dim() == 0 or packed.shape[-1] % 2 or packed.dtype not in FLOATS:
        raise ValueError(f"swiglu_packed: {_said(packed)} has no two halves of a floating type")
    if torch.compiler.is_compiling() or (packed.numel() < 2 * SMALL_VALUES and packed.device.type == "cpu"):
        gate, up = packed.chunk(2, dim=-1)
        return functional.silu(gate) * up
    result: Tensor = torch.ops.p2pnode.swiglu_packed(packed)
    return result


def moe_topk_route(logits: Tensor, k: int, renorm: bool = True, score: str = "softmax") -> Route:
    """The k experts with the highest logits of each token, and their weights (Shazeer et al. 2017; Mixtral renormalises them).

    `logits` is (T, E), any floating type. Of equal logits the smaller expert wins. `score` is "softmax" over all experts or "sigmoid"
    of each (DeepSeek-V3); `renorm` divides the chosen weights by their sum. A NaN counts as the highest logit: it is chosen, and makes its
    token's weights NaN, as softmax would. Gradients flow through `weights` and `lse`.
    """
    if logits.dim() != 2 or logits.dtype not in FLOATS or not 1 <= k <= logits.shape[1] or score not in SCORES:
        raise ValueError(f"moe_topk_route: logits {_said(logits)}, k {k}, score {score!r}")
    return Route(*torch.ops.p2pnode.moe_topk_route(logits, k, renorm, score))


def moe_plan(indices: Tensor, experts: int, align: int = 1) -> Plan:
    """Sorts the T * k pairs by expert, pairs of one expert by token: a stable counting sort.

    `indices` is (T, k) int32 in [0, experts). With `align` > 1 the rows of each expert are filled up to a multiple of it, and P is
    T * k + experts * (align - 1), whatever was chosen; rows after the last expert's belong to nobody.
    """
    if indices.dtype != torch.int32 or experts < 1 or align < 1:
        raise ValueError(f"moe_plan: indices {_said(indices)}, {experts} experts, align {align}")
    if indices.numel() + experts * (align - 1) > ROWS_MAX:
        raise ValueError(f"moe_plan: {indices.numel()} pairs and padding are more than {ROWS_MAX} rows")
    return Plan(*torch.ops.p2pnode.moe_plan(indices, experts, align))


def moe_permute(x: Tensor, perm: Tensor, k: int) -> Tensor:
    """Rows of tokens (T, D) in the order of a plan, (P, D): row r is token perm[r] // k, zeros where perm[r] is -1.

    The gradient of a token is the sum over its k rows, in float32, in the order of its experts.
    """
    is_known = x.dim() == 2 and x.dtype in FLOATS and perm.dim() == 1 and perm.dtype == torch.int32
    if not is_known or k < 1 or perm.shape[0] < x.shape[0] * k:
        raise ValueError(f"moe_permute: x {_said(x)}, perm {_said(perm)}, k {k}")
    result: Tensor = torch.ops.p2pnode.moe_permute(x, perm, k)
    return result


def moe_combine(y: Tensor, inverse: Tensor, weights: Tensor) -> Tensor:
    """Each token's weighted sum of what its experts made of it: y (P, D), inverse (T * k,), weights (T, k) float32, to (T, D) of y's type.

    Added in float32, in the order of the token's experts.
    """
    is_known = y.dim() == 2 and y.dtype in FLOATS and weights.dim() == 2 and weights.dtype == reference.accumulator(y)
    if not is_known or inverse.dtype != torch.int32 or inverse.numel() != weights.numel():
        raise ValueError(f"moe_combine: y {_said(y)}, inverse {_said(inverse)}, weights {_said(weights)}")
    result: Tensor = torch.ops.p2pnode.moe_combine(y, inverse, weights)
    return result


def grouped_linear(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows (P, in) times the transposed matrix of their group, (E, out, in), to (P, out): rows up to `ends[e]` (int32) are group e's.

    The last group ends with the last row. Under autocast in its type, else types are equal.
    """
    if torch.is_autocast_enabled(x.device.type):
        half = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(half), weights.to(half)
    if x.dim() != 2 or weights.dim() != 3 or x.shape[1] != weights.shape[2] or ends.shape != weights.shape[:1]:
        raise ValueError(f"grouped_linear: x {_said(x)}, weights {_said(weights)}, ends {_said(ends)}")
    if x.dtype != weights.dtype or ends.dtype != torch.int32:
        raise ValueError(f"grouped_linear: x {_said(x)}, weights {_said(weights)}, ends {_said(ends)}")
    if torch.compiler.is_compiling() and reference.is_for_grouped_mm(x, weights):  # which it knows
        return reference.grouped_linear(x, weights, ends)
    result: Tensor = torch.ops.p2pnode.grouped_linear(x, weights, ends)
    return result


def moe_aux_loss(logits: Tensor, lse: Tensor, counts: Tensor, k: int) -> Tensor:
    """The load-balancing loss E * sum over experts of f * P (Fedus et al. 2021, as in Mixtral), a scalar; k when all are equally busy.

    P is the mean probability of an expert over the tokens of `logits` (T, E), whose `lse` is given; f its share of all choices in
    `counts`, times k. `counts` may be of more tokens than these: with counts of a whole batch the loss is a mean over tokens, so
    micro-batches of it add up, weighted by tokens. The gradient goes to `logits`, and takes `lse` for their function; f has none.
    """
    is_known = logits.dim() == 2 and logits.dtype in FLOATS and counts.dtype == torch.int32 and k >= 1
    if (
        not is_known
        or lse.shape != logits.shape[:1]
        or lse.dtype != reference.accumulator(logits)
        or counts.shape != logits.shape[1:]
    ):
        raise ValueError(f"moe_aux_loss: logits {_said(logits)}, lse {_said(lse)}, counts {_said(counts)}, k {k}")
    result: Tensor = torch.ops.p2pnode.moe_aux_loss(logits, lse, counts, k)
    return result


def _said(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


# --- shapes ----------------------------------------------------------------------------------------------------------------------


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _shapes_of_route(logits: Tensor, k: int, renorm: bool, score: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = logits.shape
    floats = reference.accumulator(logits)
    return (
        logits.new_empty((tokens, k), dtype=floats),
        logits.new_empty((tokens, k), dtype=torch.int32),
        logits.new_empty((experts,), dtype=torch.int32),
        logits.new_empty((tokens,), dtype=floats),
    )


def _shapes_of_plan(indices: Tensor, experts: int, align: int) -> tuple[Tensor, Tensor, Tensor]:
    pairs = indices.numel()
    rows = pairs + experts * (align - 1)
    return indices.new_empty((rows,)), indices.new_empty((pairs,)), indices.new_empty((experts,))


_SHAPES: Final[dict[str, Callable[..., Any]]] = {
    "swiglu": lambda gate, up: _like(gate),
    "swiglu_backward": lambda grad, gate, up: (_like(gate), _like(up)),
    "swiglu_packed": lambda packed: packed.new_empty((*packed.shape[:-1], packed.shape[-1] // 2)),
    "swiglu_packed_backward": lambda grad, packed: _like(packed),
    "moe_topk_route": _shapes_of_route,
    "moe_topk_route_backward": lambda grad_weights, grad_lse, logits, *rest: _like(logits),
    "moe_plan": _shapes_of_plan,
    "moe_permute": lambda x, perm, k: x.new_empty((perm.shape[0], x.shape[1])),
    "moe_permute_backward": lambda grad, perm, tokens, k: grad.new_empty((tokens, grad.shape[1])),
    "moe_combine": lambda y, inverse, weights: y.new_empty((weights.shape[0], y.shape[1])),
    "moe_combine_backward": lambda grad, y, inverse, weights: (_like(y), _like(weights)),
    "grouped_linear": lambda x, weights, ends: x.new_empty((x.shape[0], weights.shape[1])),
    "grouped_linear_backward": lambda grad, x, weights, ends: (_like(x), _like(weights)),
    "moe_aux_loss": lambda logits, lse, counts, k: lse.new_empty(()),
    "moe_aux_loss_backward": lambda grad, logits, lse, counts, k: _like(logits),
}

# --- gradients -------------------------------------------------------------------------------------------------------------------


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_gradient(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.p2pnode.swiglu_backward(grad, *ctx.saved_tensors)


def _swiglu_packed_gradient(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.p2pnode.swiglu_packed_backward(grad, *ctx.saved_tensors)


def _keep_route(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, _, ctx.renorm, ctx.score = inputs
    weights, indices, _, lse = output
    ctx.save_for_backward(logits, indices, weights, lse)
    ctx.set_materialize_grads(False)  # most routers have no z-loss


def _route_gradient(
    ctx: Any, grad_weights: Tensor | None, _indices: None, _counts: None, grad_lse: Tensor | None
) -> Any:
    logits, indices, weights, lse = ctx.saved_tensors
    if grad_weights is None:
        grad_weights = torch.zeros_like(weights)
    backward = torch.ops.p2pnode.moe_topk_route_backward
    return backward(grad_weights, grad_lse, logits, indices, weights, lse, ctx.renorm, ctx.score), None, None, None


def _keep_permute(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, perm, ctx.k = inputs
    ctx.tokens = x.shape[0]
    ctx.save_for_backward(perm)


def _permute_gradient(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.p2pnode.moe_permute_backward(grad, *ctx.saved_tensors, ctx.tokens, ctx.k), None, None


def _combine_gradient(ctx: Any, grad: Tensor) -> Any:
    y, inverse, weights = ctx.saved_tensors
    grad_y, grad_weights = torch.ops.p2pnode.moe_combine_backward(grad, y, inverse, weights)
    return grad_y, None, grad_weights


def _grouped_linear_gradient(ctx: Any, grad: Tensor) -> Any:
    return *torch.ops.p2pnode.grouped_linear_backward(grad, *ctx.saved_tensors), None


def _keep_aux_loss(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.k = inputs
    ctx.save_for_backward(*tensors)


def _aux_loss_gradient(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.p2pnode.moe_aux_loss_backward(grad, *ctx.saved_tensors, ctx.k), None, None, None


_GRADIENTS: Final[dict[str, tuple[Callable[..., Any], Callable[..., None]]]] = {
    "swiglu": (_swiglu_gradient, _keep_inputs),
    "swiglu_packed": (_swiglu_packed_gradient, _keep_inputs),
    "moe_topk_route": (_route_gradient, _keep_route),
    "moe_permute": (_permute_gradient, _keep_permute),
    "moe_combine": (_combine_gradient, _keep_inputs),
    "grouped_linear": (_grouped_linear_gradient, _keep_inputs),
    "moe_aux_loss": (_aux_loss_gradient, _keep_aux_loss),
}


def _once(name: str, gradient: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient has no gradient itself: autograd would leave that part of the sum out, and only warn."""

    def run(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(f"{name} has no second derivative (create_graph=True)")
        return gradient(ctx, *grads)

    return run


# --- registration ----------------------------------------------------------------------------------------------------------------


def _until_kernels_arrive(name: str) -> Callable[..., Any]:
    """Plain torch, once it is known that there is no kernel. The first call loads what there is, and goes where it then belongs."""
    twin = getattr(reference, name)

    def run(*arguments: Any) -> Any:
        return getattr(torch.ops.p2pnode, name)(*arguments) if load.arrived() else twin(*arguments)

    return run


def _register() -> torch.library.Library:
    library = torch.library.Library("p2pnode", "DEF")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        for operator, run in ((name, _until_kernels_arrive(name)), (f"{name}_reference", getattr(reference, name))):
            library.define(f"{operator}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
            library.impl(operator, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
            torch.library.register_fake(f"p2pnode::{operator}", _SHAPES[name], lib=library)
    for name, (gradient, keep) in _GRADIENTS.items():
        torch.library.register_autograd(f"p2pnode::{name}", _once(name, gradient), setup_context=keep, lib=library)
    return library


LIBRARY: Final = _register()  # the operators exist as long as this object does
