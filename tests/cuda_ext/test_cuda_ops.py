"""The CUDA kernels (cuda/*.cu, bind.cpp) against `reference.py`: on a GPU where there is one, and everywhere over the emulator.

The emulator runs the same sources on the CPU, threads of a block in an order that a seed chooses; sizes are such that every path is taken:
packs and single values, one block and several, rows that are cut and grids that go around. What the CPU cannot show stands at the end.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_ext
from cuda_ext import build_cuda, load, ops, reference
from tests.cuda_ext import compiled

ROOT = Path(__file__).parents[2]
TYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # of a value: 2e-6, or its last place


@dataclass(frozen=True)
class Machine:
    device: str
    ops: Any  # torch.ops.p2pnode, or the emulated ones

    def random(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(self.device, dtype)


@pytest.fixture(params=["cuda", "emulated"])
def machine(request: pytest.FixtureRequest) -> Machine:
    if request.param == "cuda":
        return gpu()
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or shutil.which("objcopy") is None:
        pytest.skip("no C++ compiler to emulate with")
    return Machine("cpu", compiled.emulated(compiler))


def gpu() -> Machine:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    if build_cuda.find_nvcc() is None:
        pytest.skip("no nvcc")
    assert load.status().cuda, f"{load.status().what}: {load.BUILD_HINT}"
    return Machine("cuda", torch.ops.p2pnode)


def exact(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def near(got: Tensor, wanted: Tensor, *, relative: float | None = None) -> None:
    """Within the type's last place of what float64 gives, and, in half precision, nearly always what it rounds to."""
    assert got.shape == wanted.shape and got.is_contiguous()
    finite = wanted[torch.isfinite(wanted)]
    kind = torch.finfo(got.dtype)
    floor = max(2e-6 * float(finite.abs().max()) if finite.numel() else 0.0, kind.smallest_normal * kind.eps)
    torch.testing.assert_close(got.double(), wanted, rtol=relative or ROUNDING[got.dtype], atol=floor, equal_nan=True)
    if got.dtype != torch.float32 and got.numel() > 1000:
        assert (got == wanted.to(got.dtype)).double().mean() > 0.99


def bits(result: Tensor | tuple[Tensor, ...]) -> list[bytes]:
    tensors = (result,) if isinstance(result, Tensor) else result
    return [x.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for x in tensors]


# --- the gated feed-forward layer ------------------------------------------------------------------------------------------------

# Nothing, less than a pack, packs and a rest, several blocks and a rest, rows of packs, rows that no pack fits.
SHAPES = ((0, 5), (1,), (3, 5), (9000 + 3,), (2, 3, 64), (70, 33))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_swiglu(machine: Machine, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up, grad = (machine.random(*shape, dtype=dtype, seed=seed, scale=2) for seed in range(3))
    near(machine.ops.swiglu(gate, up), reference.swiglu(exact(gate), exact(up)))
    wanted = reference.swiglu_backward(exact(grad), exact(gate), exact(up))
    for got, value in zip(machine.ops.swiglu_backward(grad, gate, up), wanted, strict=True):
        near(got, value)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape", ((0, 6), (1, 2), (5, 2 * 3), (3, 5, 2 * 8), (40, 2 * 96), (2, 2 * 4104), (5, 2 * 4100))
)
def test_swiglu_packed(machine: Machine, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    packed = machine.random(*shape, dtype=dtype, scale=2)
    grad = machine.random(*shape[:-1], shape[-1] // 2, dtype=dtype, seed=1)
    near(machine.ops.swiglu_packed(packed), reference.swiglu_packed(exact(packed)))
    near(machine.ops.swiglu_packed_backward(grad, packed), reference.swiglu_packed_backward(exact(grad), exact(packed)))


@pytest.mark.parametrize("dtype", TYPES)
def test_swiglu_where_no_pack_can_be_loaded(machine: Machine, dtype: torch.dtype) -> None:
    whole = machine.random(3, 801, dtype=dtype)
    gate, up, grad = (row[1:] for row in whole)  # at most one of the three begins on sixteen bytes
    near(machine.ops.swiglu(gate, up), reference.swiglu(exact(gate), exact(up)))
    near(machine.ops.swiglu_backward(grad, gate, up)[0], reference.swiglu_backward(*map(exact, (grad, gate, up)))[0])
    packed = machine.random(1 + 4 * 64, dtype=dtype)[1:].reshape(4, 64)
    near(machine.ops.swiglu_packed(packed), reference.swiglu_packed(exact(packed)))


def test_swiglu_of_tensors_that_are_not_dense(machine: Machine) -> None:
    gate, up = machine.random(40, 24).T, machine.random(24, 80, seed=1)[:, ::2]
    grad = machine.random(1, 1).expand(24, 40)
    near(machine.ops.swiglu(gate, up), reference.swiglu(exact(gate), exact(up)))
    for got, wanted in zip(
        machine.ops.swiglu_backward(grad, gate, up),
        reference.swiglu_backward(exact(grad), exact(gate), exact(up)),
        strict=True,
    ):
        near(got, wanted)
    near(machine.ops.swiglu_packed(gate), reference.swiglu_packed(exact(gate)))


@pytest.mark.parametrize("dtype", TYPES)
def test_swiglu_of_the_largest_the_smallest_and_none(machine: Machine, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    gate = torch.tensor([float("nan"), float("inf"), -float("inf"), largest, -largest, 0.0, -0.0, 30.0, -30.0, 100.0])
    gate = gate.to(machine.device, dtype)
    up = torch.ones_like(gate)
    near(machine.ops.swiglu(gate, up), reference.swiglu(exact(gate), exact(up)))
    got, wanted = machine.ops.swiglu_backward(up, gate, up), reference.swiglu_backward(*map(exact, (up, gate, up)))
    for x, y in zip(got, wanted, strict=True):
        near(x, y)


# --- mixture of experts: who gets which token --------------------------------------------------------------------------------------

# Tokens, experts, k: one lane's worth to the most that registers hold, more than that, one expert, all experts, more than a warp of them.
ROUTES = (
    (5, 8, 2),
    (3, 1, 1),
    (0, 8, 2),
    (33, 60, 4),
    (19, 128, 8),
    (9, 200, 3),
    (4, 512, 10),
    (3, 700, 5),
    (4, 64, 64),
    (2, 70, 40),
    (1, 600, 600),
)


def check_route(machine: Machine, logits: Tensor, k: int, renorm: bool, score: str) -> tuple[Tensor, ...]:
    got = machine.ops.moe_topk_route(logits, k, renorm, score)
    wanted = reference.moe_topk_route(exact(logits), k, renorm, score)
    weights, indices, counts, lse = got
    assert (weights.dtype, indices.dtype, counts.dtype, lse.dtype) == (
        torch.float32,
        torch.int32,
        torch.int32,
        torch.float32,
    )
    assert torch.equal(indices, wanted[1])
    assert torch.equal(counts, wanted[2])
    near(weights, wanted[0])
    near(lse, wanted[3])
    return tuple(got)


@pytest.mark.parametrize("score", ops.SCORES)
@pytest.mark.parametrize("renorm", (True, False))
@pytest.mark.parametrize("route", ROUTES)
def test_route(machine: Machine, route: tuple[int, int, int], renorm: bool, score: str) -> None:
    tokens, experts, k = route
    check_route(machine, machine.random(tokens, experts, scale=3), k, renorm, score)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("experts", (40, 128, 600))
def test_route_of_coarse_logits_full_of_ties(machine: Machine, experts: int, dtype: torch.dtype) -> None:
    logits = (machine.random(20, experts) * 2).round().to(dtype)
    check_route(machine, logits, 9, renorm=True, score="softmax")
    check_route(machine, torch.zeros_like(logits), 9, renorm=False, score="sigmoid")


@pytest.mark.parametrize("experts", (40, 600))
def test_route_of_what_is_no_number(machine: Machine, experts: int) -> None:
    nan, infinity = float("nan"), float("inf")
    logits = machine.random(8, experts)
    logits[0, 7] = nan
    logits[1, [3, 30]] = torch.tensor([nan, nan], device=machine.device).copysign(torch.tensor(-1.0))
    logits[2, [5, 6]] = infinity
    logits[3] = -infinity
    logits[4, 1:] = -infinity
    logits[5] = -logits[5].abs()
    logits[5, [9, 4]] = torch.tensor([0.0, -0.0], device=machine.device)  # equal, so 4 before 9
    logits[6, [8, 2]] = torch.tensor([infinity, nan], device=machine.device)
    logits[7] = -80.0
    for renorm in (True, False):
        for score in ops.SCORES:
            _, indices, *_ = check_route(machine, logits, 3, renorm, score)
            assert indices[1].tolist()[:2] == [3, 30] and indices[5].tolist()[:2] == [4, 9]
            assert indices[6].tolist()[:2] == [2, 8] and indices[3].tolist() == [0, 1, 2]


def test_route_of_logits_that_are_not_dense(machine: Machine) -> None:
    check_route(machine, machine.random(40, 9).T, 4, renorm=True, score="softmax")
    check_route(machine, machine.random(9, 100)[:, 3:50], 4, renorm=False, score="softmax")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("with_lse", (True, False))
@pytest.mark.parametrize("score", ops.SCORES)
@pytest.mark.parametrize("renorm", (True, False))
@pytest.mark.parametrize("route", ((0, 8, 2), (9, 8, 2), (21, 64, 6), (5, 33, 33), (3, 700, 40)))
def test_route_backward(
    machine: Machine, route: tuple[int, int, int], renorm: bool, score: str, with_lse: bool, dtype: torch.dtype
) -> None:
    tokens, experts, k = route
    logits = machine.random(tokens, experts, dtype=dtype)
    weights, indices, _, lse = reference.moe_topk_route(logits.float(), k, renorm, score)
    grad_weights = machine.random(tokens, k, seed=1)
    grad_lse = machine.random(tokens, seed=2) if with_lse else None
    arguments = (grad_weights, grad_lse, logits, indices, weights, lse, renorm, score)
    near(machine.ops.moe_topk_route_backward(*arguments), reference.moe_topk_route_backward(*map(exact, arguments)))


# Tokens, k, experts: nothing, one block, several, one expert, more than fit in shared memory.
PLANS = ((0, 2, 8), (1, 1, 1), (37, 5, 100), (300, 3, 300), (3000, 3, 7), (2049, 1, 1), (1500, 3, 1500))


@pytest.mark.parametrize("align", (1, 4, 16))
@pytest.mark.parametrize("plan", PLANS)
def test_plan(machine: Machine, plan: tuple[int, int, int], align: int) -> None:
    check_plan(machine, plan, align)


def test_plan_of_more_pairs_than_blocks_have_at_their_shortest(machine: Machine) -> None:
    check_plan(machine, (90001, 3, 30), 1)


def check_plan(machine: Machine, plan: tuple[int, int, int], align: int) -> None:
    tokens, k, experts = plan
    generator = torch.Generator().manual_seed(7)
    skewed = torch.rand((tokens, k), generator=generator) ** 3 * experts  # many experts without any pair
    indices = skewed.to(torch.int32).to(machine.device)
    for got, wanted in zip(
        machine.ops.moe_plan(indices, experts, align), reference.moe_plan(indices, experts, align), strict=True
    ):
        assert got.dtype == torch.int32 and torch.equal(got, wanted)


def test_plan_of_indices_that_are_not_dense(machine: Machine) -> None:
    indices = torch.arange(60, dtype=torch.int32, device=machine.device).reshape(5, 12).T % 7
    assert bits(machine.ops.moe_plan(indices, 7, 1)) == bits(reference.moe_plan(indices, 7, 1))


# --- mixture of experts: there and back --------------------------------------------------------------------------------------------

# Tokens, k, experts, values a token, align: single values, packs, rows cut in blocks, more slots than are loaded at once, padding, nothing.
MIXTURES = (
    (7, 2, 4, 5, 1),
    (9, 3, 8, 64, 1),
    (3, 1, 2, 4200, 1),
    (4, 9, 12, 136, 4),
    (5, 2, 3, 33, 8),
    (0, 2, 4, 16, 4),
    (3, 2, 4, 0, 1),
)


def mixture(machine: Machine, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    tokens, k, experts, _, align = sizes
    weights, indices, _, _ = reference.moe_topk_route(machine.random(tokens, experts), k, True, "softmax")
    perm, inverse, _ = reference.moe_plan(indices, experts, align)
    return weights, perm, inverse


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", MIXTURES)
def test_permute(machine: Machine, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    tokens, k, _, width, _ = sizes
    _, perm, _ = mixture(machine, sizes)
    x = machine.random(tokens, width, dtype=dtype)
    assert bits(machine.ops.moe_permute(x, perm, k)) == bits(reference.moe_permute(x, perm, k))
    grad = machine.random(perm.shape[0], width, dtype=dtype, seed=1)
    near(
        machine.ops.moe_permute_backward(grad, perm, tokens, k),
        reference.moe_permute_backward(exact(grad), perm, tokens, k),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", MIXTURES)
def test_combine(machine: Machine, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    tokens, _, _, width, _ = sizes
    weights, perm, inverse = mixture(machine, sizes)
    y, grad = machine.random(perm.shape[0], width, dtype=dtype), machine.random(tokens, width, dtype=dtype, seed=1)
    near(machine.ops.moe_combine(y, inverse, weights), reference.moe_combine(exact(y), inverse, exact(weights)))
    grad_y, grad_weights = machine.ops.moe_combine_backward(grad, y, inverse, weights)
    wanted = reference.moe_combine_backward(exact(grad), exact(y), inverse, exact(weights))
    near(grad_y, wanted[0])
    near(grad_weights, wanted[1], relative=1e-5)  # a sum of many products
    padding = torch.ones(perm.shape[0], dtype=torch.bool, device=machine.device)
    padding[inverse.long()] = False
    assert not grad_y[padding].any()


def test_rows_that_are_not_dense_and_rows_off_sixteen_bytes(machine: Machine) -> None:
    sizes = (6, 2, 4, 64, 1)
    weights, perm, inverse = mixture(machine, sizes)
    x = machine.random(64, 6).T
    assert bits(machine.ops.moe_permute(x, perm, 2)) == bits(reference.moe_permute(x, perm, 2))
    y = machine.random(12 * 64 + 1)[1:].reshape(12, 64)
    near(machine.ops.moe_combine(y, inverse, weights), reference.moe_combine(exact(y), inverse, exact(weights)))
    grad = machine.random(1, 64).expand(6, 64)
    got = machine.ops.moe_combine_backward(grad, y, inverse, weights.T.contiguous().T)
    near(got[0], reference.moe_combine_backward(exact(grad), exact(y), inverse, exact(weights))[0])


# --- mixture of experts: balance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", ((0, 8, 2), (1, 1, 1), (50, 8, 2), (37, 33, 3), (5, 704, 4)))
def test_aux_loss(machine: Machine, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    check_aux_loss(machine, sizes, dtype)


def test_aux_loss_of_more_tokens_than_the_grid_has_warps(machine: Machine) -> None:
    check_aux_loss(machine, (4100, 4, 2), torch.float32)


def check_aux_loss(machine: Machine, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    tokens, experts, k = sizes
    logits = machine.random(tokens, experts, dtype=dtype)
    _, _, counts, lse = reference.moe_topk_route(logits.float(), k, True, "softmax")
    # Those of a larger batch, which was far from balanced: else the gradient is a small difference, in float32 and of the reference as well.
    counts = (counts + 1) * torch.arange(1, experts + 1, dtype=torch.int32, device=machine.device)
    near(machine.ops.moe_aux_loss(logits, lse, counts, k), reference.moe_aux_loss(exact(logits), exact(lse), counts, k))
    grad = machine.random(1, seed=1).reshape(())
    near(
        machine.ops.moe_aux_loss_backward(grad, logits, lse, counts, k),
        reference.moe_aux_loss_backward(exact(grad), exact(logits), exact(lse), counts, k),
    )


def test_aux_loss_before_anything_was_chosen(machine: Machine) -> None:
    logits, counts = machine.random(3, 4), torch.zeros(4, dtype=torch.int32, device=machine.device)
    assert float(machine.ops.moe_aux_loss(logits, logits.logsumexp(1), counts, 2)) == 0.0


# --- of all operators --------------------------------------------------------------------------------------------------------------


def calls(machine: Machine) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each operator, on something that takes several warps and blocks."""
    operators = machine.ops
    gate, up, grad = (machine.random(2, 2500, seed=seed) for seed in range(3))
    yield "swiglu", lambda: operators.swiglu(gate, up)
    yield "swiglu_backward", lambda: operators.swiglu_backward(grad, gate, up)
    yield "swiglu_packed", lambda: operators.swiglu_packed(gate)
    yield "swiglu_packed_backward", lambda: operators.swiglu_packed_backward(grad[:, :1250], gate)
    logits, grad_weights = machine.random(200, 16, dtype=torch.bfloat16), machine.random(200, 3)
    weights, indices, counts, lse = operators.moe_topk_route(logits, 3, True, "softmax")
    yield "moe_topk_route", lambda: operators.moe_topk_route(logits, 3, True, "softmax")
    backward = (grad_weights, lse, logits, indices, weights, lse, False, "softmax")
    yield "moe_topk_route_backward", lambda: operators.moe_topk_route_backward(*backward)
    perm, inverse, _ = operators.moe_plan(indices, 16, 2)
    many = indices.repeat(5, 1)
    yield "moe_plan", lambda: operators.moe_plan(many, 16, 1)
    x, y = machine.random(200, 40), machine.random(perm.shape[0], 40)
    yield "moe_permute", lambda: operators.moe_permute(x, perm, 3)
    yield "moe_permute_backward", lambda: operators.moe_permute_backward(y, perm, 200, 3)
    yield "moe_combine", lambda: operators.moe_combine(y, inverse, weights)
    yield "moe_combine_backward", lambda: operators.moe_combine_backward(x, y, inverse, weights)
    yield "moe_aux_loss", lambda: operators.moe_aux_loss(logits, lse, counts, 3)
    yield "moe_aux_loss_backward", lambda: operators.moe_aux_loss_backward(lse.sum(), logits, lse, counts, 3)


def test_the_same_bits_whatever_the_order_of_threads(machine: Machine) -> None:
    order: Callable[[int], Any] = lambda seed: None  # noqa: E731 - a GPU chooses for itself
    if machine.device == "cpu":
        order = CDLL(str(compiled.emulated_library("g++"))).emulator_order
    for name, call in calls(machine):
        results = []
        for seed in range(4):
            order(seed)
            results.append(bits(call()))
        order(0)
        assert results.count(results[0]) == 4, name
    assert {name for name, _ in calls(machine)} == ops.SCHEMAS.keys() - set(ops.CPU_ALONE)


def test_what_the_kernels_do_not_know_goes_to_plain_torch(machine: Machine) -> None:
    """With every kind of argument that an operator has: none instead of a tensor, words, numbers."""
    x, y = machine.random(6, 7, dtype=torch.float64), machine.random(6, 7, dtype=torch.float64, seed=1)
    weights, indices, _, lse = reference.moe_topk_route(x, 2, True, "sigmoid")
    perm, inverse, _ = reference.moe_plan(indices, 7, 4)
    rows = machine.random(perm.shape[0], 7, dtype=torch.float64)
    arguments: dict[str, tuple[Any, ...]] = {
        "swiglu": (x, y),
        "swiglu_backward": (y, x, y),
        "moe_topk_route": (x, 2, True, "sigmoid"),
        "moe_topk_route_backward": (weights, None, x, indices, weights, lse, True, "sigmoid"),
        "moe_permute_backward": (rows, perm, 6, 2),
        "moe_combine": (rows.float(), inverse, weights),
    }
    for name, given in arguments.items():
        assert bits(getattr(machine.ops, name)(*given)) == bits(getattr(reference, name)(*given)), name


def test_shapes_that_do_not_fit_are_refused(machine: Machine) -> None:
    x, one = machine.random(4, 6), torch.zeros(4, dtype=torch.int32, device=machine.device)
    weights = machine.random(4, 2)
    with pytest.raises(RuntimeError, match="one shape"):
        machine.ops.swiglu(x, x[:2])
    with pytest.raises(RuntimeError, match="two halves"):
        machine.ops.swiglu_packed(x[:, :5])
    with pytest.raises(RuntimeError, match="k one to experts"):
        machine.ops.moe_topk_route(x, 7, True, "softmax")
    with pytest.raises(RuntimeError, match="softmax or sigmoid"):
        machine.ops.moe_topk_route(x, 2, True, "tanh")
    with pytest.raises(RuntimeError, match=r"fewer rows than 2\^31"):
        machine.ops.moe_plan(one, 2**16, 2**16)
    with pytest.raises(RuntimeError, match="inverse as many"):
        machine.ops.moe_combine(x, one, weights)


def test_a_wrong_index_stops_the_kernel() -> None:
    """And writes nowhere. In a process of its own, as it takes a process with it, on a GPU too."""
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("objcopy") is None:
        pytest.skip("no C++ compiler to emulate with")
    program = (
        "import sys, torch; from tests.cuda_ext import compiled\n"
        "indices = torch.tensor([[0, 7]], dtype=torch.int32)\n"
        "compiled.emulated(sys.argv[1]).moe_plan(indices, 7, 1)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, compiler], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode < 0 and "wrong index" in done.stderr


def test_a_gpu_that_is_too_old_runs_plain_torch_and_is_named() -> None:
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("objcopy") is None:
        pytest.skip("no C++ compiler to emulate with")
    program = (
        "import sys, torch; from cuda_ext import load; from tests.cuda_ext import compiled\n"
        "gate = torch.randn(3, 40)\n"
        "result = compiled.emulated(sys.argv[1]).swiglu(gate, gate)\n"
        "print(torch.equal(result, torch.ops.p2pnode.swiglu_reference(gate, gate)))\n"
        "load.find = lambda part: compiled.emulated_library(sys.argv[1])\n"
        "load.status = lambda: load.Status('CUDA', cuda=True)\n"
        "torch.cuda.device_count = lambda: 1\n"
        "torch.cuda.get_device_name = lambda index: 'Tesla V100'\n"
        "torch.cuda.get_device_capability = lambda index: (7, 0)\n"
        "print(*load.gpus_in_plain_torch())"
    )
    said = {}
    for name, environment in {"old": {"EMULATOR_IS_OLD": "1"}, "new": {}}.items():
        command = [sys.executable, "-c", program, compiler]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout.splitlines()
    words = "no kernel image is available for execution on the device"
    assert said == {"old": ["True", f"Tesla V100 (sm_70) runs plain torch: {words}"], "new": [said["new"][0], ""]}


@pytest.mark.long
def test_no_kernel_reads_or_writes_beside_its_tensors() -> None:
    """All of the above again, the emulated kernels compiled with a sanitizer of addresses, alignment and overflow."""
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("objcopy") is None:
        pytest.skip("no C++ compiler to emulate with")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "emulated", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=os.environ | {compiled.SANITIZE: "1", "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": " ".join(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- what only a GPU shows ---------------------------------------------------------------------------------------------------------


def test_gradients_arrive_through_the_functions_of_the_package() -> None:
    machine = gpu()

    def loss(functions: Any, x: Tensor, logits: Tensor, w: Tensor) -> Tensor:
        weights, indices, counts, lse = functions.moe_topk_route(logits, 2, True, "softmax")
        perm, inverse, _ = functions.moe_plan(indices, 8, 1)
        rows = functions.moe_permute(x, perm, 2)
        factors = torch.linspace(0.5, 1.5, len(rows), dtype=x.dtype, device=x.device)[
            :, None
        ]  # or no weight would matter
        y = (functions.swiglu_packed(rows @ w) + functions.swiglu(rows, rows)) * factors
        total = functions.moe_combine(y, inverse, weights).square().mean()
        return total + 0.1 * functions.moe_aux_loss(logits, lse, counts, 2) + 0.01 * lse.square().mean()

    gradients = []
    for functions, dtype in ((cuda_ext, torch.float32), (reference, torch.float64)):
        tensors = [machine.random(*shape, dtype=dtype, seed=sum(shape)) for shape in ((50, 32), (50, 8), (32, 64))]
        for tensor in tensors:
            tensor.requires_grad_()
        loss(functions, *tensors).backward()
        gradients.append([tensor.grad for tensor in tensors])
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.filterwarnings("default")
def test_opcheck() -> None:
    machine = gpu()
    x = machine.random(6, 8).requires_grad_()
    torch.library.opcheck(torch.ops.p2pnode.swiglu.default, (x, x.detach().requires_grad_()))
    torch.library.opcheck(torch.ops.p2pnode.swiglu_packed.default, (x,))
    torch.library.opcheck(torch.ops.p2pnode.moe_topk_route.default, (x, 2, True, "softmax"))


def test_the_current_stream_is_used() -> None:
    machine = gpu()
    gate, up = torch.zeros(1 << 20, device="cuda"), machine.random(1 << 20)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # long enough that a kernel on another stream would read the zeros
        gate.copy_(up)
        got = machine.ops.swiglu(gate, up)
    stream.synchronize()
    near(got, reference.swiglu(exact(up), exact(up)))


def test_each_device_runs_its_own() -> None:
    machine = gpu()
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = machine.random(40, 8).to("cuda:1")
    got = machine.ops.moe_topk_route(x, 2, True, "softmax")
    assert torch.equal(got[1].cpu(), reference.moe_topk_route(x.cpu(), 2, True, "softmax")[1])


def test_tensors_of_two_devices_are_refused() -> None:
    machine = gpu()
    x = machine.random(8, 8)
    with pytest.raises(RuntimeError, match="one device"):
        machine.ops.swiglu(x, x.cpu())


@pytest.mark.parametrize("operator", ("swiglu", "swiglu_packed", "moe_permute", "moe_combine", "moe_combine_backward"))
def test_more_than_two_to_the_31_values(operator: str) -> None:
    """The last values of a tensor that 32 bits cannot number are right."""
    machine = gpu()
    width, tokens, k = 4096, (1 << 19) // 2 + 3, 2  # 2^31 values and three rows more, of tokens times k
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("less than 40 GiB of GPU memory free")
    torch.manual_seed(0)
    perm = torch.arange(tokens * k - 1, -1, -1, dtype=torch.int32, device="cuda")  # the last pair stands first
    y = torch.randn(tokens * k, width, device="cuda", dtype=torch.bfloat16)
    last = slice(-3, None)
    match operator:
        case "swiglu":
            near(machine.ops.swiglu(y, y)[last], reference.swiglu(exact(y[last]), exact(y[last])))
        case "swiglu_packed":
            near(machine.ops.swiglu_packed(y)[last], reference.swiglu_packed(exact(y[last])))
        case "moe_permute":
            x = y[:tokens]
            assert torch.equal(machine.ops.moe_permute(x, perm, k)[last], x[perm[last].long() // k])
        case "moe_combine":
            weights = torch.ones(tokens, k, device="cuda")
            got = machine.ops.moe_combine(y, perm, weights)
            near(got[:2], torch.stack([exact(y[-1]) + exact(y[-2]), exact(y[-3]) + exact(y[-4])]))
        case "moe_combine_backward":
            grad, weights = y[:tokens], torch.full((tokens, k), 0.5, device="cuda")
            grad_y, grad_weights = machine.ops.moe_combine_backward(grad, y, perm, weights)
            near(grad_y[last], torch.stack([exact(grad[1]), exact(grad[0]), exact(grad[0])]) / 2)
            near(
                grad_weights[0],
                torch.stack([exact(grad[0]) @ exact(y[-1]), exact(grad[0]) @ exact(y[-2])]),
                relative=1e-4,
            )
