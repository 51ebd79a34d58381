"""ops.py and reference.py: registrations, gradients and meanings of the operators, whatever runs them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

import cuda_ext
from cuda_ext import reference
from cuda_ext.ops import SCHEMAS, SMALL_VALUES
from tests.cuda_ext.operators import OPS, ROUTINGS, check_registrations, logits_of

SECONDS_MAX = 300


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


# --- registrations ---------------------------------------------------------------------------------------------------------------


def test_registrations_hold_with_what_is_built_here():
    check_registrations()


def test_registrations_hold_without_kernels():
    environment = {**os.environ, "P2PNODE_EXT": "off"}
    command = [sys.executable, "-m", "tests.cuda_ext.operators"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plain torch (P2PNODE_EXT=off)\n"


def test_every_operator_has_a_twin():
    assert all(hasattr(OPS, name) and hasattr(OPS, f"{name}_reference") for name in SCHEMAS)


# --- gradients in float64, which no kernel takes ---------------------------------------------------------------------------------


def test_gradients_of_swiglu():
    assert gradcheck(OPS.swiglu, (doubles(4, 5), doubles(4, 5, seed=1)))
    assert gradcheck(OPS.swiglu_packed, (doubles(4, 6),))


@pytest.mark.parametrize("score", cuda_ext.SCORES)
@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_gradients_of_a_route(k, renorm, score):
    def differentiable(logits):
        route = cuda_ext.moe_topk_route(logits, k, renorm, score)
        return route.weights, route.lse

    assert gradcheck(differentiable, (doubles(6, 5),))


@pytest.mark.parametrize("align", [1, 4])
def test_gradients_there_and_back(align):
    route = cuda_ext.moe_topk_route(doubles(7, 5).detach(), 3)
    plan = cuda_ext.moe_plan(route.indices, 5, align)
    assert gradcheck(lambda x: cuda_ext.moe_permute(x, plan.perm, 3), (doubles(7, 4),))
    y, weights = doubles(plan.perm.shape[0], 4), route.weights.requires_grad_()
    assert gradcheck(lambda y, weights: cuda_ext.moe_combine(y, plan.inverse, weights), (y, weights))


def test_gradients_of_a_grouped_product():
    for ends in ([2, 2, 7], [0, 0, 7], [7, 7, 7]):
        groups = torch.tensor(ends, dtype=torch.int32)
        assert gradcheck(lambda x, w, g=groups: cuda_ext.grouped_linear(x, w, g), (doubles(7, 4), doubles(3, 5, 4)))


def test_gradient_of_the_balance_takes_lse_for_a_function_of_the_logits():
    logits = doubles(9, 5)
    counts = cuda_ext.moe_topk_route(logits.detach(), 2).counts

    def loss(logits):
        return cuda_ext.moe_aux_loss(logits, logits.detach().logsumexp(-1), counts, 2)

    def whole(logits):
        return cuda_ext.moe_aux_loss(logits, logits.logsumexp(-1), counts, 2)

    (gradient,) = torch.autograd.grad(loss(logits), logits)
    step = 1e-6
    for row, column in ((0, 0), (4, 3), (8, 4)):
        nudge = torch.zeros_like(logits)
        nudge[row, column] = step
        slope = (whole(logits + nudge) - whole(logits - nudge)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope.item(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_derivative_is_refused_and_not_left_out(dtype):
    gate = torch.ones(SMALL_VALUES, dtype=dtype, requires_grad=True)
    with pytest.raises(RuntimeError, match="swiglu has no second derivative"):
        torch.autograd.grad(cuda_ext.swiglu(gate, gate.detach()).sum(), gate, create_graph=True)


# --- what they mean, said differently --------------------------------------------------------------------------------------------


def test_swiglu_is_silu_times_up():
    gate, up = doubles(3, 4), doubles(3, 4, seed=1)
    expected = functional.silu(gate) * up
    torch.testing.assert_close(OPS.swiglu(gate, up), expected)
    torch.testing.assert_close(OPS.swiglu_packed(torch.cat([gate, up], -1)), expected)


@pytest.mark.parametrize(("tokens", "experts", "k"), ROUTINGS)
def test_a_route_takes_the_highest_and_of_equals_the_first(tokens, experts, k):
    logits = logits_of(tokens, experts)
    route = cuda_ext.moe_topk_route(logits, k)
    for row, chosen in zip(logits.tolist(), route.indices.tolist(), strict=True):
        by_hand = sorted(range(experts), key=lambda e: (-row[e] if row[e] == row[e] else -float("inf"), e))
        # A NaN stands before infinity.
        by_hand.sort(key=lambda e: row[e] == row[e])
        assert chosen == by_hand[:k]
    assert route.counts.tolist() == [(route.indices == e).sum().item() for e in range(experts)]
    assert route.indices.dtype == route.counts.dtype == torch.int32


def test_a_route_gives_the_weights_of_a_softmax():
    logits = logits_of(8, 6)[:3].double()
    probabilities = torch.softmax(logits, -1)
    route = cuda_ext.moe_topk_route(logits, 2, renorm=False)
    torch.testing.assert_close(route.weights, probabilities.topk(2, -1).values)
    torch.testing.assert_close(route.lse, logits.logsumexp(-1))
    renormed = cuda_ext.moe_topk_route(logits, 2)
    torch.testing.assert_close(renormed.weights.sum(-1), torch.ones(3, dtype=torch.float64))
    each = cuda_ext.moe_topk_route(logits, 2, renorm=False, score="sigmoid")
    torch.testing.assert_close(each.weights, torch.sigmoid(logits.topk(2, -1).values))


def test_a_nan_is_chosen_and_spreads_over_its_token_alone():
    logits = logits_of(11, 8)
    route = cuda_ext.moe_topk_route(logits, 2)
    assert route.indices[4, 0] == 2 and route.weights[4].isnan().all() and route.lse[4].isnan()
    clean = [0, 1, 2, 3, 7, 8, 9, 10]
    assert route.weights[clean].isfinite().all() and route.lse[clean].isfinite().all()


@pytest.mark.parametrize("align", [1, 4])
def test_a_plan_is_a_stable_sort_with_padding(align):
    indices = torch.tensor([[4, 0], [0, 2], [4, 2], [0, 4]], dtype=torch.int32)
    plan = cuda_ext.moe_plan(indices, 6, align)
    flat, rows, ends = indices.flatten().tolist(), [], []
    for expert in range(6):  # 1, 3 and 5 get nothing
        rows += [pair for pair, chosen in enumerate(flat) if chosen == expert]
        rows += [-1] * (-len(rows) % align)
        ends.append(len(rows))
    rows += [-1] * (plan.perm.shape[0] - len(rows))
    assert plan.perm.tolist() == rows and plan.offsets.tolist() == ends
    assert plan.perm.shape[0] == 8 + 6 * (align - 1)
    assert [rows[row] for row in plan.inverse.tolist()] == list(range(8))


@pytest.mark.parametrize("align", [1, 8])
def test_there_and_back_with_weights_of_one_half_is_where_it_was(align):
    x = doubles(6, 3)
    route = cuda_ext.moe_topk_route(doubles(6, 4).detach(), 2)
    plan = cuda_ext.moe_plan(route.indices, 4, align)
    rows = cuda_ext.moe_permute(x, plan.perm, 2)
    assert rows[plan.perm < 0].eq(0).all()
    for pair, row in enumerate(plan.inverse.tolist()):
        assert torch.equal(rows[row], x[pair // 2])
    halves = torch.full((6, 2), 0.5, dtype=torch.float64)
    assert torch.equal(cuda_ext.moe_combine(rows, plan.inverse, halves), x)


def test_the_balance_is_that_of_mixtral_and_adds_up_over_micro_batches():
    logits = doubles(24, 6).detach()
    route = cuda_ext.moe_topk_route(logits, 2)
    loss = cuda_ext.moe_aux_loss(logits, route.lse, route.counts, 2)
    # As transformers' load_balancing_loss_func has it, for one layer.
    chosen = functional.one_hot(route.indices.long(), 6).double()
    expected = (chosen.mean(0) * torch.softmax(logits, -1).mean(0)).sum() * 6
    torch.testing.assert_close(loss, expected)
    pieces = [
        cuda_ext.moe_aux_loss(logits[part], route.lse[part], route.counts, 2) * (part.stop - part.start) / 24
        for part in (slice(0, 5), slice(5, 6), slice(6, 24))
    ]
    torch.testing.assert_close(torch.stack(pieces).sum(), loss)
    even = torch.zeros(24, 6, dtype=torch.float64)
    counts = torch.full((6,), 8, dtype=torch.int32)
    assert cuda_ext.moe_aux_loss(even, even.logsumexp(-1), counts, 2).item() == pytest.approx(2)


def test_no_tokens_are_no_error():
    route = cuda_ext.moe_topk_route(torch.zeros(0, 4), 2)
    plan = cuda_ext.moe_plan(route.indices, 4, 8)
    rows = cuda_ext.moe_permute(torch.zeros(0, 5), plan.perm, 2)
    assert plan.offsets.tolist() == [0] * 4 and rows.shape == (28, 5) and not rows.any()
    assert cuda_ext.moe_combine(rows, plan.inverse, route.weights).shape == (0, 5)
    assert cuda_ext.moe_aux_loss(torch.zeros(0, 4), route.lse, route.counts, 2) == 0


# --- what is refused -------------------------------------------------------------------------------------------------------------

FLOATS, INTS = torch.zeros(4, 6), torch.zeros(8, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cuda_ext.swiglu(FLOATS, FLOATS[:3]), r"gate is \(4, 6\) float32, up is \(3, 6\) float32"),
        (lambda: cuda_ext.swiglu(FLOATS, FLOATS.double()), "up is .* float64"),
        (lambda: cuda_ext.swiglu_packed(FLOATS[:, :5]), "no two halves"),
        (lambda: cuda_ext.moe_topk_route(FLOATS, 7), "k 7"),
        (lambda: cuda_ext.moe_topk_route(FLOATS, 0), "k 0"),
        (lambda: cuda_ext.moe_topk_route(FLOATS, 2, score="relu"), "score 'relu'"),
        (lambda: cuda_ext.moe_topk_route(FLOATS[0], 2), r"logits \(6,\)"),
        (lambda: cuda_ext.moe_plan(INTS.long(), 3), "indices .* int64"),
        (lambda: cuda_ext.moe_plan(INTS, 0), "0 experts"),
        (lambda: cuda_ext.moe_plan(INTS, 2**20, 2**12), "more than 2147483647 rows"),
        (lambda: cuda_ext.moe_permute(FLOATS, INTS[:7], 2), r"perm \(7,\)"),
        (lambda: cuda_ext.moe_combine(FLOATS, INTS, FLOATS), r"inverse \(8,\) int32"),
        (lambda: cuda_ext.grouped_linear(FLOATS, FLOATS, INTS), r"weights \(4, 6\) float32"),
        (lambda: cuda_ext.grouped_linear(FLOATS, torch.zeros(8, 2, 5), INTS), r"weights \(8, 2, 5\) float32"),
        (lambda: cuda_ext.grouped_linear(FLOATS, torch.zeros(8, 2, 6), INTS[:7]), r"ends \(7,\) int32"),
        (lambda: cuda_ext.grouped_linear(FLOATS, torch.zeros(8, 2, 6), INTS.long()), r"ends \(8,\) int64"),
        (lambda: cuda_ext.grouped_linear(FLOATS, torch.zeros(8, 2, 6).double(), INTS), r"weights \(8, 2, 6\) float64"),
        (lambda: cuda_ext.moe_aux_loss(FLOATS, FLOATS[0], INTS, 2), r"lse \(6,\)"),
        (lambda: cuda_ext.swiglu(INTS, INTS), "gate is .* int32"),
        (lambda: cuda_ext.swiglu_packed(INTS), r"\(8,\) int32"),
        (lambda: cuda_ext.swiglu_packed(FLOATS[0, 0]), r"\(\) float32 has no two halves"),
        (lambda: cuda_ext.moe_topk_route(INTS.view(2, 4), 2), "int32"),
        (lambda: cuda_ext.moe_topk_route(FLOATS.cfloat(), 2), "complex64"),
        (lambda: cuda_ext.moe_permute(INTS.view(4, 2), INTS, 2), r"x \(4, 2\) int32"),
        (lambda: cuda_ext.moe_permute(FLOATS[0, 0], INTS, 2), r"x \(\) float32"),
        (lambda: cuda_ext.moe_permute(FLOATS, INTS, 0), "k 0"),
        (lambda: cuda_ext.moe_combine(FLOATS, INTS, FLOATS[:, :2].bfloat16()), "weights .* bfloat16"),
        (lambda: cuda_ext.moe_combine(INTS.view(8, 1), INTS, FLOATS[:, :2]), "y .* int32"),
        (lambda: cuda_ext.moe_aux_loss(FLOATS, FLOATS[:, 0], FLOATS[0], 2), r"counts \(6,\) float32"),
        (lambda: cuda_ext.moe_aux_loss(FLOATS, FLOATS[:, 0].double(), INTS[:6], 2), "lse .* float64"),
        (lambda: cuda_ext.moe_aux_loss(FLOATS, FLOATS[:, 0], INTS[:6], 0), "k 0"),
    ],
)
def test_wrong_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# --- small tensors, and compilers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [64, SMALL_VALUES])
def test_small_and_large_have_the_same_gradients(values):
    gate, up = torch.randn(2, values, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(
        cuda_ext.swiglu(gate.requires_grad_(), up.requires_grad_()).sum(), (gate, up), retain_graph=False
    )
    packed = torch.cat([gate, up]).detach().requires_grad_()
    (of_packed,) = torch.autograd.grad(cuda_ext.swiglu_packed(packed).sum(), packed)
    expected = reference.swiglu_backward(torch.ones(values), gate.detach(), up.detach())
    for got, want in zip((*ours, of_packed), (*expected, torch.cat(expected)), strict=True):
        torch.testing.assert_close(got, want)


def test_a_compiler_sees_the_plain_expression_and_the_operators_of_the_experts():
    seen = []

    def look(graph, _inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    def layer(x, logits):
        route = cuda_ext.moe_topk_route(logits, 2)
        plan = cuda_ext.moe_plan(route.indices, 4)
        rows = cuda_ext.moe_permute(x, plan.perm, 2)
        rows = cuda_ext.grouped_linear(cuda_ext.swiglu(rows, rows), matrices, plan.offsets)
        return cuda_ext.moe_combine(rows, plan.inverse, route.weights)

    torch.compiler.reset()
    matrices = torch.randn(4, 6, 8)
    x, logits = torch.randn(5, 8), torch.randn(5, 4)
    compiled = torch.compile(layer, backend=look, fullgraph=True)
    torch.testing.assert_close(compiled(x, logits), layer(x, logits))
    assert [name for name in seen if name.startswith("p2pnode")] == [
        f"p2pnode.{name}" for name in ("moe_topk_route", "moe_plan", "moe_permute", "grouped_linear", "moe_combine")
    ]
