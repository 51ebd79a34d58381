"""The CPU kernels (`cuda_ext/cpu`) of every instruction set that this machine has, against float64.

Integers must be equal. float32: within 2e-6 of the exact value; bfloat16: the exact value rounded, at most one unit in the last place away,
and the nearest one in 99 of 100 cases; what is below 2^-120 may be nothing. Bits must not depend on the run, the number of threads, or
where in memory a value stood.
"""

import itertools

import pytest
import torch

import cuda_ext
from cuda_ext import build, load
from cuda_ext.build import ISA_FLAGS
from tests.cuda_ext.operators import OPS, ROUTINGS, WIDTHS, logits_of

FLOATS = (torch.float32, torch.bfloat16)
TINY = 2.0**-120


@pytest.fixture(scope="module")
def kernels():
    """What is under test is built if it is not there, so that a machine with a compiler never skips this file."""
    try:
        build.put("cpu", build.build_cpu)
    except build.BuildError as problem:
        pytest.skip(f"no kernels: {problem}")
    if not cuda_ext.status().cpu:
        pytest.skip(f"no kernels: {cuda_ext.status().what}")
    yield
    assert load.choose_isa("")


@pytest.fixture(params=list(ISA_FLAGS))
def isa(request, kernels):
    if not load.choose_isa(request.param):
        pytest.skip(f"this processor has no {request.param}")
    return request.param


def normal(*shape, dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul_(scale).to(dtype)


def assert_exact(got, exact, *, slack=0.0):
    """`exact` is float64. `slack` is absolute: what float32 loses where large parts cancel."""
    assert got.shape == exact.shape and got.is_contiguous()
    both_nan = got.isnan() & exact.isnan()
    is_tiny = (exact.abs() < TINY) & (got.double().abs() < 2 * TINY)
    error = (got.double() - exact).abs()
    if got.dtype == torch.bfloat16:
        off = units_away(got, exact)
        assert ((off <= 1) | (error <= slack) | both_nan | is_tiny).all()
        if got.numel() >= 1000:  # a share of fewer says nothing
            assert ((off == 0) | both_nan | is_tiny).double().mean() >= 0.99
    else:
        assert ((error <= exact.abs() * 2e-6 + slack) | (got.double() == exact) | both_nan | is_tiny).all()


def units_away(got, exact):
    """In the last place of a bfloat16, from the nearest to `exact`."""

    def ordered(x):
        bits = x.view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (ordered(got) - ordered(exact.to(torch.bfloat16))).abs()


def doubled(*tensors):
    return [x.double() if x.is_floating_point() else x for x in tensors]


# --- swiglu ----------------------------------------------------------------------------------------------------------------------


def check_swiglu(gate, up, grad):
    g, u, d = doubled(gate, up, grad)
    sigmoid = torch.sigmoid(g)
    # 1 - sigmoid without cancellation
    exact = g * sigmoid * u, d * u * sigmoid * (1 + g * torch.sigmoid(-g)), d * g * sigmoid
    of_gate, of_up = OPS.swiglu_backward(grad, gate, up)
    out = OPS.swiglu(gate, up)
    assert_exact(out, exact[0])
    assert_exact(of_up, exact[2])
    # The slope of silu crosses zero at -1.278, where its parts are of the size of one third.
    assert_exact(of_gate, exact[1], slack=(d * u).abs() * 3e-7)
    if gate.dim():
        packed = torch.cat([gate, up], dim=-1)
        assert torch.equal(OPS.swiglu_packed(packed).nan_to_num(7), out.nan_to_num(7))
        of_both = torch.cat([of_gate, of_up], dim=-1)
        assert torch.equal(OPS.swiglu_packed_backward(grad, packed).nan_to_num(7), of_both.nan_to_num(7))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (31,), (33,), (64,), (517, 103), (2, 3, 5, 129)])
def test_swiglu_of_any_shape(isa, shape, dtype):
    check_swiglu(*(normal(*shape, dtype=dtype, seed=seed, scale=3) for seed in range(3)))


@pytest.mark.parametrize(("up", "grad"), [(1.0, 1.0), (-1.47, 0.37), (0.61, -2.2)])
def test_swiglu_of_every_bfloat16(isa, up, grad):
    gate = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    check_swiglu(gate, torch.full_like(gate, up), torch.full_like(gate, grad))


@pytest.mark.parametrize("dtype", FLOATS)
def test_swiglu_at_the_ends_of_what_there_is(isa, dtype):
    gate = torch.tensor(
        [float("inf"), -float("inf"), float("nan"), 1e30, -1e30, 0.0, -0.0, 88.5, -88.5, 200, -200], dtype=dtype
    )
    ones = torch.ones_like(gate)
    assert_exact(OPS.swiglu(gate, ones), OPS.swiglu_reference(*doubled(gate, ones)))
    for got, exact in zip(
        OPS.swiglu_backward(ones, gate, ones), OPS.swiglu_backward_reference(*doubled(ones, gate, ones)), strict=True
    ):
        assert_exact(got, exact)


@pytest.mark.parametrize("dtype", FLOATS)
def test_swiglu_past_the_caches(isa, dtype):
    """Large results are written another way, which must write the same."""
    shape = (3, (load_stream_bytes() // 4 + 1000) // 3)
    gate, up, grad = (normal(*shape, dtype=dtype, seed=seed) for seed in range(3))
    out, backward = OPS.swiglu(gate, up), OPS.swiglu_backward(grad, gate, up)
    some = slice(777, 1777)
    for row in range(3):
        cut = gate[row, some], up[row, some], grad[row, some]
        assert torch.equal(out[row, some], OPS.swiglu(*cut[:2]))
        for whole, part in zip(backward, OPS.swiglu_backward(cut[2], *cut[:2]), strict=True):
            assert torch.equal(whole[row, some], part)


def load_stream_bytes():
    """As bind.cpp has it."""
    (line,) = [line for line in (load.HERE / "cpu" / "bind.cpp").read_text().splitlines() if " STREAM_BYTES = " in line]
    count, shift = line.split("=")[1].rstrip(";").split("<<")
    return int(count) << int(shift)


# --- the router ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("score", cuda_ext.SCORES)
@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize(("tokens", "experts", "k"), ROUTINGS)
def test_a_route_and_its_gradient(isa, tokens, experts, k, renorm, score, dtype):
    logits = logits_of(tokens, experts, dtype=dtype)
    weights, indices, counts, lse = OPS.moe_topk_route(logits, k, renorm, score)
    exact = OPS.moe_topk_route_reference(logits.double(), k, renorm, score)
    assert torch.equal(indices, exact[1]) and torch.equal(counts, exact[2])
    assert_exact(weights, exact[0])
    assert_exact(lse, exact[3], slack=1e-6)  # near one expert alone with weight 1 it is near 0
    grad_weights, grad_lse = normal(tokens, k, seed=1), normal(tokens, seed=2)
    for of_lse in (None, grad_lse):
        got = OPS.moe_topk_route_backward(grad_weights, of_lse, logits, indices, weights, lse, renorm, score)
        doubles = [None if x is None else x.double() for x in (grad_weights, of_lse, logits)]
        want = OPS.moe_topk_route_backward_reference(*doubles, indices, exact[0], exact[3], renorm, score)
        # Sums of k parts of the size of one.
        assert_close(got, want, slack=3e-6)


def assert_close(got, exact, *, slack):
    """As `assert_exact`, where so many values cancel that few of them are the nearest."""
    if got.dtype == torch.bfloat16:
        both_nan = got.isnan() & exact.isnan()
        off = units_away(got, exact)
        assert ((off <= 1) | ((got.double() - exact).abs() <= slack) | both_nan).all()
    else:
        assert_exact(got, exact, slack=slack)


@pytest.mark.parametrize("score", cuda_ext.SCORES)
def test_weights_add_up_as_exactly_where_all_of_many_experts_are_chosen(isa, score):
    logits = normal(5, 1000, scale=2).round()  # equal values round the same way, one after the other
    weights, indices, *_ = OPS.moe_topk_route(logits, 1000, True, score)
    exact = OPS.moe_topk_route_reference(logits.double(), 1000, True, score)
    assert torch.equal(indices, exact[1])
    assert_exact(weights, exact[0])


def test_ties_go_to_the_smaller_expert_wherever_they_stand(isa):
    for experts in (5, 16, 17, 64, 65, 128, 129, 300):
        logits = torch.zeros(2 * experts, experts)
        for row in range(experts):
            logits[row, row:] = 1  # equal from here to the end
            logits[experts + row, row] = -0.0
        k = min(experts, 9)
        indices = OPS.moe_topk_route(logits, k, True, "softmax")[1]
        for row in range(experts):
            highest = [*range(row, experts), *range(row)]
            assert indices[row].tolist() == highest[:k]
            assert indices[experts + row].tolist() == list(range(k))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("tokens", "experts", "k"), ROUTINGS)
def test_the_balance_and_its_gradient(isa, tokens, experts, k, dtype):
    logits = normal(tokens, experts, dtype=dtype, scale=2)
    *_, counts, lse = OPS.moe_topk_route(logits, k, True, "softmax")
    exact = logits.double(), logits.double().logsumexp(-1), counts, k
    assert_exact(OPS.moe_aux_loss(logits, lse, counts, k), OPS.moe_aux_loss_reference(*exact))
    grad = torch.tensor(1.25)
    got = OPS.moe_aux_loss_backward(grad, logits, lse, counts, k)
    assert_close(got, OPS.moe_aux_loss_backward_reference(grad.double(), *exact), slack=1e-6)


# --- the plan, there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "experts", "k"), ROUTINGS)
@pytest.mark.parametrize("align", [1, 3, 8])
def test_a_plan_is_the_same_everywhere(kernels, tokens, experts, k, align):
    indices = OPS.moe_topk_route(logits_of(tokens, experts), k, True, "softmax")[1]
    for indices_given in (indices, indices.T.contiguous().T):
        for got, want in zip(
            OPS.moe_plan(indices_given, experts, align), OPS.moe_plan_reference(indices, experts, align), strict=True
        ):
            assert torch.equal(got, want) and got.dtype == torch.int32


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize(("tokens", "experts", "k"), [(97, 8, 2), (20, 17, 16), (5, 3, 3), (0, 8, 2)])
def test_rows_there_and_back(isa, tokens, experts, k, align, dtype):
    indices = OPS.moe_topk_route(logits_of(tokens, experts), k, True, "softmax")[1]
    perm, inverse, _ = OPS.moe_plan(indices, experts, align)
    weights = normal(tokens, k, seed=3)
    for width in WIDTHS:
        x, grad = (normal(tokens, width, dtype=dtype, seed=seed) for seed in (1, 2))
        rows = OPS.moe_permute(x, perm, k)
        assert torch.equal(rows, OPS.moe_permute_reference(x, perm, k))
        y = normal(*rows.shape, dtype=dtype, seed=4)
        # Sums of k (of `width`) products of the size of one.
        combined = OPS.moe_combine(y, inverse, weights)
        assert_close(combined, OPS.moe_combine_reference(y.double(), inverse, weights.double()), slack=1e-5)
        back = OPS.moe_permute_backward(y, perm, tokens, k)
        assert_close(back, OPS.moe_permute_backward_reference(y.double(), perm, tokens, k), slack=1e-5)
        grad_y, grad_weights = OPS.moe_combine_backward(grad, y, inverse, weights)
        exact = OPS.moe_combine_backward_reference(*doubled(grad, y, inverse, weights))
        assert_exact(grad_y, exact[0])
        assert_exact(grad_weights, exact[1], slack=1e-4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_past_the_caches(isa, dtype):
    tokens, k, width = 1024, 4, 4 * load_stream_bytes() // (1024 * 4 * 4 * 2)
    indices = OPS.moe_topk_route(normal(tokens, 8), k, True, "softmax")[1]
    perm, inverse, _ = OPS.moe_plan(indices, 8, 1)
    x, grad = (normal(tokens, width, dtype=dtype, seed=seed) for seed in (1, 2))
    rows = OPS.moe_permute(x, perm, k)
    assert rows.numel() * rows.element_size() >= load_stream_bytes()
    assert torch.equal(rows, OPS.moe_permute_reference(x, perm, k))
    weights = normal(tokens, k, seed=3)
    whole = OPS.moe_combine_backward(grad, rows, inverse, weights)
    few = slice(0, 50)
    for token in range(50):
        for slot in range(k):
            row = inverse[token * k + slot]
            assert torch.equal(whole[0][row], (grad[token].float() * weights[token, slot]).to(dtype))
    exact = OPS.moe_combine_reference(rows.double(), inverse, weights.double())
    assert_close(OPS.moe_combine(rows, inverse, weights)[few], exact[few], slack=1e-5)


# --- grouped products ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 31, 64, 545])  # of a tile, of several, and of more than go through at a time
@pytest.mark.parametrize("inner", [1, 15, 33, 530])
def test_grouped_products(isa, inner, columns):
    counts = [0, 1, 11, 12, 0, 13, 40, 0]
    ends = torch.tensor(counts).cumsum(0).int()
    x, weights = normal(sum(counts), inner), normal(len(counts), columns, inner, seed=1)
    grad = normal(sum(counts), columns, seed=2)
    slack = 1e-5 * max(inner, columns) ** 0.5
    exact = OPS.grouped_linear_reference(*doubled(x, weights), ends)
    assert_exact(OPS.grouped_linear(x, weights, ends), exact, slack=slack)
    results = OPS.grouped_linear_backward(grad, x, weights, ends)
    for got, want in zip(results, OPS.grouped_linear_backward_reference(*doubled(grad, x, weights), ends), strict=True):
        assert_exact(got, want, slack=slack)
    assert not results[1][0].any(), "a group of no rows has a gradient of zeros"


def test_grouped_products_of_nan_and_infinity(isa):
    x, ends = normal(14, 20), torch.tensor([13, 14], dtype=torch.int32)
    x[2, 3], x[5, 0] = float("nan"), float("inf")
    result = OPS.grouped_linear(x, torch.ones(2, 40, 20), ends)
    assert result[2].isnan().all() and (result[5] == float("inf")).all()
    assert result[[0, 1, 3, 4, *range(6, 14)]].isfinite().all()


def test_grouped_products_through_strides(isa):
    ends = torch.tensor([4, 9], dtype=torch.int32)
    x, weights, grad = normal(20, 9).T, normal(2, 20, 33).mT, normal(1, 1).expand(9, 33)
    flat = [tensor.contiguous() for tensor in (grad, x, weights)]
    assert torch.equal(OPS.grouped_linear(x, weights, ends), OPS.grouped_linear(*flat[1:], ends))
    got = OPS.grouped_linear_backward(grad, x, weights, ends)
    assert all(map(torch.equal, got, OPS.grouped_linear_backward(*flat, ends)))


@pytest.mark.parametrize("ends", [[3, 2, 6], [3, 4, 5], [3, 4, 7], [-1, 4, 6], [6, 6]])
def test_groups_that_are_none_are_refused(kernels, ends):
    if not load.choose_isa("avx512"):
        pytest.skip("this processor has no avx512, and torch's product does not look")
    groups = torch.tensor(ends, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="grouped_linear"):
        OPS.grouped_linear(normal(6, 4), normal(3, 5, 4), groups)
    with pytest.raises(RuntimeError, match="grouped_linear_backward"):
        OPS.grouped_linear_backward(normal(6, 5), normal(6, 4), normal(3, 5, 4), groups)


# --- what holds for all ----------------------------------------------------------------------------------------------------------


def every_result(dtype):
    """All operators once, forward and backward, on sizes that need several pieces and have an odd rest."""
    logits = normal(1501, 70, dtype=dtype)
    gate, up, grad = (normal(1501, 133, dtype=dtype, seed=seed) for seed in range(3))
    weights, indices, counts, lse = OPS.moe_topk_route(logits, 3, True, "softmax")
    perm, inverse, ends = OPS.moe_plan(indices, 70, 1)
    rows = OPS.moe_permute(gate, perm, 3)
    packed = torch.cat([gate, up], dim=-1)
    yield from (weights, indices, counts, lse, perm, inverse, ends, rows)
    yield OPS.swiglu(gate, up)
    yield from OPS.swiglu_backward(grad, gate, up)
    yield OPS.swiglu_packed(packed)
    yield OPS.swiglu_packed_backward(grad, packed)
    yield OPS.moe_topk_route_backward(weights, lse, logits, indices, weights, lse, False, "softmax")
    yield OPS.moe_permute_backward(rows, perm, 1501, 3)
    yield OPS.moe_combine(rows, inverse, weights)
    yield from OPS.moe_combine_backward(grad, rows, inverse, weights)
    matrices = normal(70, 30, 133, dtype=dtype, seed=5)
    yield OPS.grouped_linear(rows, matrices, ends)
    yield from OPS.grouped_linear_backward(normal(len(rows), 30, dtype=dtype), rows, matrices, ends)
    yield OPS.moe_aux_loss(logits, lse, counts, 3)
    yield OPS.moe_aux_loss_backward(torch.tensor(2.0), logits, lse, counts, 3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_depend_neither_on_the_run_nor_on_the_threads(isa, dtype):
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 1, 2, 5):
            torch.set_num_threads(count)
            runs.append(list(every_result(dtype)))
    finally:
        torch.set_num_threads(threads)
    for first, second in itertools.pairwise(runs):
        assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", FLOATS)
def test_strides_make_no_difference(isa, dtype):
    def turned(x):
        return x.T.contiguous().T if x.dim() == 2 else x.repeat_interleave(2)[::2]

    logits, gate, up, grad = (normal(41, width, dtype=dtype, seed=width) for width in (9, 20, 21, 22))
    up, grad = up[:, 1:], grad[:, 2:]
    assert not up.is_contiguous()
    flat = [x.contiguous() for x in (gate, up, grad)]
    assert torch.equal(OPS.swiglu(turned(gate), up), OPS.swiglu(*flat[:2]))
    ones = torch.ones((), dtype=dtype).expand_as(gate)  # what `sum` hands back
    for got, want in zip(
        OPS.swiglu_backward(ones, turned(gate), up), OPS.swiglu_backward(ones.contiguous(), *flat[:2]), strict=True
    ):
        assert torch.equal(got, want)
    route = OPS.moe_topk_route(logits, 3, True, "softmax")
    assert all(map(torch.equal, OPS.moe_topk_route(turned(logits), 3, True, "softmax"), route))
    perm, inverse, _ = OPS.moe_plan(turned(route[1]), 9, 1)
    rows = OPS.moe_permute(turned(gate), turned(perm), 3)
    assert torch.equal(rows, OPS.moe_permute(gate, perm, 3))
    combined = OPS.moe_combine(turned(rows), turned(inverse), turned(route[0]))
    assert torch.equal(combined, OPS.moe_combine(rows, inverse, route[0]))
    got = OPS.moe_combine_backward(turned(combined), turned(rows), turned(inverse), turned(route[0]))
    assert all(map(torch.equal, got, OPS.moe_combine_backward(combined, rows, inverse, route[0])))
    got = OPS.moe_aux_loss(turned(logits), turned(route[3]), turned(route[2]), 3)
    assert torch.equal(got, OPS.moe_aux_loss(logits, route[3], route[2], 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_take_the_plain_way(kernels, dtype):
    logits, gate, up = (normal(11, width, seed=width).to(dtype) for width in (5, 6, 6))
    route = OPS.moe_topk_route(logits, 2, True, "softmax")
    assert all(map(torch.equal, route, OPS.moe_topk_route_reference(logits, 2, True, "softmax")))
    perm, inverse, _ = OPS.moe_plan(route[1], 5, 1)
    assert torch.equal(OPS.swiglu(gate, up), OPS.swiglu_reference(gate, up))
    rows = OPS.moe_permute(gate, perm, 2)
    assert rows.dtype == dtype and torch.equal(rows, OPS.moe_permute_reference(gate, perm, 2))
    combined = OPS.moe_combine(rows, inverse, route[0])
    assert torch.equal(combined, OPS.moe_combine_reference(rows, inverse, route[0]))
    loss = OPS.moe_aux_loss(logits, route[3], route[2], 2)
    assert torch.equal(loss, OPS.moe_aux_loss_reference(logits, route[3], route[2], 2))


INDICES = torch.tensor([0, 1, 2, 3], dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: OPS.moe_plan(INDICES, 3, 1), "an index is out of range"),
        (lambda: OPS.moe_plan(INDICES - 1, 4, 1), "an index is out of range"),
        (lambda: OPS.moe_permute(normal(2, 3), INDICES + 1, 2), "an index is out of range"),
        (lambda: OPS.moe_permute(normal(2, 3), INDICES // 2, 2), "not every pair has a row"),
        (lambda: OPS.moe_permute_backward(normal(4, 3), INDICES // 2, 2, 2), "not every pair has a row"),
        (lambda: OPS.moe_combine(normal(3, 5), INDICES, normal(2, 2)), "an index is out of range"),
        (lambda: OPS.moe_combine(normal(4, 5), INDICES.long(), normal(2, 2)), "another shape, type or device"),
        (lambda: OPS.moe_combine_backward(normal(3, 5), normal(4, 5), INDICES, normal(2, 2)), "another shape, type"),
        (lambda: OPS.swiglu(normal(2, 3), normal(3, 2)), "different shapes"),
        (lambda: OPS.swiglu_backward(normal(2, 4), normal(2, 3), normal(2, 3)), "different shapes"),
        (lambda: OPS.moe_topk_route(normal(2, 3), 4, True, "softmax"), "k experts of none or fewer"),
        (lambda: OPS.moe_aux_loss(normal(2, 3), normal(3), INDICES[:3], 1), "another shape, type or device"),
    ],
)
def test_nothing_is_read_or_written_outside_of_a_tensor(kernels, call, said):
    with pytest.raises(RuntimeError, match=said):
        call()


def test_offsets_beyond_two_to_the_31(isa):
    """Rows far behind the 2^31st value, in memory that is never touched elsewhere, so that it costs no more than those rows."""
    width, rows = 1 << 11, (1 << 20) + 16
    try:
        y = torch.empty(rows, width, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this machine promises no 4 GiB")
    last = torch.tensor([rows - 1, rows - 16, rows - 7], dtype=torch.int32)
    y[last.long()] = normal(3, width, dtype=torch.bfloat16)
    assert torch.equal(OPS.moe_combine(y, last, torch.ones(3, 1)), y[last.long()])
    perm = torch.full((rows,), -1, dtype=torch.int32)
    perm[last.long()] = torch.arange(3, dtype=torch.int32)
    assert torch.equal(OPS.moe_permute_backward(y, perm, 3, 1), y[last.long()])
