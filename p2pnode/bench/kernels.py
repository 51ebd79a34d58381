"""``scripts/bench kernels``: the operators of ``cuda_ext`` beside what one would write without them.

    swiglu        forward and backward, against the plain expression, torch.compile of it, and Liger's Triton kernel on a GPU
    route, plan, permute, combine     against the expressions of torch, which are spelled out below
    layer         a whole mixture of experts, forward and backward, against transformers' with its grouped products

What it is: pairs. Every repetition runs each way once, one after the other, so that all see the same machine, and the ratios are of
neighbours. On a CPU the time is the thread's, with one thread, and no way gives memory back to the system (what the next would pay for: 64 MiB
of fresh pages take as long as to fill them twice); on a GPU events around each call, behind a flush of its cache. Beside each
contest stands a floor, the copy of its largest tensor, and beside a layer its matrix products, which are torch's in both: no way of doing the
rest is faster than that. Beside each ratio stands what we set out to reach. What it is not: a judgement; a figure that falls short is printed
like any other.
"""

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import cuda_ext
from model.config import ModelConfig
from model.moe import MixtureOfExperts

SECONDS = 2.5  # of each contest: many turns for what is short, fewer for what is not
TURNS = range(7, 102)
PARTS = ("swiglu", "experts", "layer")  # as the command line names them
FLUSH_BYTES = 256 << 20  # more than the last cache of any GPU

Json = dict[str, Any]
Way = Callable[[], object]


class LayerSize(NamedTuple):
    tokens: int
    experts: int
    k: int
    width: int
    hidden: int  # of each expert


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens and features of swiglu; tokens, experts, k and width of the operators of experts; whole layers."""

    swiglu: tuple[tuple[int, int], ...]
    experts: tuple[tuple[int, int, int, int], ...]
    layer: tuple[LayerSize, ...]


CPU_SIZES = Sizes(
    swiglu=((512, 1408), (4096, 1408), (8192, 2048)),
    experts=((4096, 8, 2, 1024), (8192, 64, 8, 1024), (8192, 128, 8, 2048)),
    layer=(LayerSize(4096, 64, 8, 512, 256), LayerSize(4096, 8, 2, 512, 1024)),
)
CUDA_SIZES = Sizes(
    swiglu=((8192, 4096), (8192, 14336), (16384, 16384)),
    experts=((8192, 64, 8, 2048), (8192, 128, 8, 2048), (32768, 128, 8, 2048)),
    layer=(LayerSize(8192, 128, 8, 2048, 768), LayerSize(8192, 8, 2, 2048, 4096)),
)


@dataclass(frozen=True, slots=True)
class Contest:
    """One piece of work in several ways. ``targets``: how many times as long as ours a way should take."""

    name: str
    size: str
    ours: Way
    others: Mapping[str, Way]
    floor: Way
    targets: Mapping[str, float] = field(default_factory=dict)


def measure(
    say: Callable[[str], None],
    *,
    sizes: Sizes | None = None,
    parts: Sequence[str] = PARTS,
    repetitions: int | None = None,
    compiled: bool = True,
    allocator_tuned: bool = False,
) -> Json:
    """Figures of every contest. Torch is left with as many threads as it had; `allocator_tuned` is the caller's word.

    `repetitions`: of each way; None: as many as SECONDS and TURNS say.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    contests: Mapping[str, Callable[[torch.device, Sizes, bool], Iterator[Contest]]] = {
        "swiglu": _swiglu,
        "experts": _experts,
        "layer": _layer,
    }
    rows = []
    with _one_thread():
        for part in parts:
            for contest in contests[part](device, sizes or (CUDA_SIZES if on_gpu else CPU_SIZES), compiled):
                say(f"{contest.name}, {contest.size}")
                rows.append(_held(contest, device, repetitions))
    return {
        "benchmark": "kernels",
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, 1 thread",
        "operators": cuda_ext.status().what,
        "torch": torch.__version__,
        "allocator_tuned": allocator_tuned,
        "contests": rows,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- taking the time -------------------------------------------------------------------------------------------------------------


def _held(contest: Contest, device: torch.device, repetitions: int | None) -> Json:
    clock = _gpu_seconds if device.type == "cuda" else _cpu_seconds
    ways = {"ours": contest.ours, **contest.others, "copy": contest.floor}
    for way in ways.values():  # compiles, loads, and brings the memory that all will use
        way()
    turn = sum(clock(way) for way in ways.values())
    turns = repetitions or min(max(int(SECONDS / turn), TURNS[0]), TURNS[-1])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            seconds[name].append(clock(way))
    return {
        "name": contest.name,
        "size": contest.size,
        "turns": turns,
        "seconds": {name: {"min": min(taken), "median": statistics.median(taken)} for name, taken in seconds.items()},
        "ratios": {
            name: {
                "min": min(seconds[name]) / min(seconds["ours"]),
                "median": statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)),
                "target": contest.targets.get(name),
            }
            for name in contest.others
        },
    }


def _cpu_seconds(way: Way) -> float:
    began = time.thread_time()
    way()
    return time.thread_time() - began


def _gpu_seconds(way: Way) -> float:
    """Of the device. What the last call left in its cache is pushed out, and the queue is long enough that nothing waits for Python."""
    _flush()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(1_000_000)  # type: ignore[no-untyped-call] # half a millisecond, in which the calls below are queued
    before.record()
    way()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after)) / 1e3


def _flush() -> None:
    torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda").zero_()


# --- swiglu ----------------------------------------------------------------------------------------------------------------------


def _plain_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def _plain_packed(packed: Tensor) -> Tensor:
    gate, up = packed.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _swiglu(device: torch.device, sizes: Sizes, compiled: bool) -> Iterator[Contest]:
    is_gpu = device.type == "cuda"
    for tokens, features in sizes.swiglu:
        for dtype in (torch.float32, torch.bfloat16):
            gate, up, grad = (torch.randn(tokens, features, device=device, dtype=dtype) for _ in range(3))
            packed = torch.cat([gate, up], dim=-1).requires_grad_()
            gate.requires_grad_(), up.requires_grad_()
            size, target = f"{tokens}x{features} {_short(dtype)}", torch.empty_like(grad)
            eager = (1.6 if is_gpu else 1.55) if dtype == torch.float32 else (1.6 if is_gpu else 2.3)
            others = {"eager": _with_gradient(_plain_swiglu, (gate, up), grad)}
            targets = {"eager": eager, "compile": 0.97 if is_gpu else 1.0, "liger": 0.98}
            others_packed = {"eager": _with_gradient(_plain_packed, (packed,), grad)}
            if compiled:
                torch.compiler.reset()  # each shape for itself, or a limit is met and eager stands in silently
                others["compile"] = _with_gradient(torch.compile(_plain_swiglu, dynamic=False), (gate, up), grad)
                plain = torch.compile(_plain_packed, dynamic=False)
                others_packed["compile"] = _with_gradient(plain, (packed,), grad)
            if is_gpu and importlib.util.find_spec("liger_kernel") is not None:
                liger = importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction.apply
                others["liger"] = _with_gradient(liger, (gate, up), grad)
            ours = _with_gradient(cuda_ext.swiglu, (gate, up), grad)
            yield Contest("swiglu f+b", size, ours, others, _copies(target, grad), targets)
            ours = _with_gradient(cuda_ext.swiglu_packed, (packed,), grad)
            targets = {"eager": 2.1} if is_gpu else {}
            yield Contest("swiglu_packed f+b", size, ours, others_packed, _copies(target, grad), targets)


def _with_gradient(operator: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> Way:
    def run() -> None:
        for x in inputs:
            x.grad = None
        operator(*inputs).backward(grad)  # type: ignore[no-untyped-call]

    return run


def _copies(to: Tensor, source: Tensor) -> Way:
    return lambda: to.copy_(source)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]


# --- the operators of the experts ------------------------------------------------------------------------------------------------


def _plain_route(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    weights, indices = torch.softmax(logits, dim=-1).topk(k, dim=-1)
    return (
        weights / weights.sum(dim=-1, keepdim=True),
        indices,
        torch.bincount(indices.flatten(), minlength=logits.shape[1]),
    )


def _plain_plan(indices: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return order, inverse, torch.bincount(flat, minlength=experts).cumsum(0)


def _experts(device: torch.device, sizes: Sizes, compiled: bool) -> Iterator[Contest]:
    is_gpu = device.type == "cuda"
    for tokens, experts, k, width in sizes.experts:
        logits = torch.randn(tokens, experts, device=device)
        weights, indices, _ = _plain_route(logits, k)
        chosen, size = indices.int(), f"T{tokens} E{experts} k{k}"
        floor = _copies(torch.empty_like(logits), logits)
        others: dict[str, Way] = {"eager": lambda: _plain_route(logits, k)}  # noqa: B023 - run before the next
        if compiled:
            torch.compiler.reset()
            plain = torch.compile(_plain_route, dynamic=False)
            others["compile"] = lambda: plain(logits, k)  # noqa: B023
        ours: Way = lambda: cuda_ext.moe_topk_route(logits, k)  # noqa: B023, E731
        yield Contest("route", size, ours, others, floor, {"eager": 4.0 if is_gpu else 2.5})
        others = {"eager": lambda: _plain_plan(indices, experts)}  # noqa: B023
        ours = lambda: cuda_ext.moe_plan(chosen, experts)  # noqa: B023, E731
        yield Contest("plan", size, ours, others, floor, {"eager": 3.0 if is_gpu else 5.0})
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(tokens, width, device=device, dtype=dtype)
            yield from _rows(x, weights, cuda_ext.moe_plan(chosen, experts), f"{size} D{width} {_short(dtype)}")


def _rows(x: Tensor, weights: Tensor, plan: cuda_ext.Plan, size: str) -> Iterator[Contest]:
    """Rows to the experts and back, and the gradients of both."""
    is_gpu, (tokens, k) = x.is_cuda, weights.shape
    owner = plan.perm.long() // k  # of each row
    weight = weights.flatten()[plan.perm.long()][:, None].to(x.dtype)
    y = x[owner]
    into, back = torch.empty_like(y), plan.inverse.long()

    def plain_combine() -> Tensor:
        return torch.zeros_like(x).index_add_(0, owner, y * weight)

    def plain_gather() -> Tensor:
        return (y[back].view(tokens, k, -1) * weights[:, :, None]).sum(1).to(x.dtype)

    def plain_combine_backward() -> tuple[Tensor, Tensor]:
        grad = x[owner]
        return grad * weight, (grad * y).sum(-1)[back]

    floor = _copies(into, y)
    yield Contest(
        "permute",
        size,
        lambda: cuda_ext.moe_permute(x, plan.perm, k),
        {"x[order // k]": lambda: x[owner], "index_select": lambda: x.index_select(0, owner)},
        floor,
        {"x[order // k]": 1.3 if is_gpu else 2.2},
    )
    yield Contest(
        "combine",
        size,
        lambda: cuda_ext.moe_combine(y, plan.inverse, weights),
        {"index_add": plain_combine, "gather, sum": plain_gather},
        floor,
        {"index_add": 2.0 if is_gpu else 2.2},
    )
    operators = torch.ops.p2pnode
    yield Contest(
        "permute, backward",
        size,
        lambda: operators.moe_permute_backward(y, plan.perm, tokens, k),
        {"index_add": lambda: torch.zeros_like(x).index_add_(0, owner, y)},
        floor,
    )
    yield Contest(
        "combine, backward",
        size,
        lambda: operators.moe_combine_backward(x, y, plan.inverse, weights),
        {"expression": plain_combine_backward},
        floor,
    )


# --- a layer ---------------------------------------------------------------------------------------------------------------------


def _layer(device: torch.device, sizes: Sizes, compiled: bool) -> Iterator[Contest]:
    if importlib.util.find_spec("transformers") is None:
        return
    for size in sizes.layer:
        for dtype in (torch.float32, torch.bfloat16):
            ours, theirs = _layers(size, device=device, dtype=dtype)
            x = torch.randn(1, size.tokens, size.width, device=device, dtype=dtype).requires_grad_()
            grad = torch.randn_like(x)
            yield Contest(
                "layer f+b",
                f"T{size.tokens} E{size.experts} k{size.k} D{size.width} F{size.hidden} {_short(dtype)}",
                _trained(ours, x, grad),
                {"transformers": _trained(theirs, x, grad), "products alone": _products(size, ours)},
                _copies(torch.empty_like(grad), grad),
                {"transformers": 1.15 if device.type == "cuda" else 1.2 if size.experts >= 64 else 1.0},
            )


def _trained(layer: torch.nn.Module, x: Tensor, grad: Tensor) -> Way:
    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        out = layer(x)
        (out[0] if isinstance(out, tuple) else out).backward(grad)

    return run


def _products(size: LayerSize, layer: MixtureOfExperts) -> Way:
    """The grouped products of a layer alone, whose experts have equally many tokens, and those of their gradients."""
    rows = size.tokens * size.k // size.experts * torch.arange(1, size.experts + 1, dtype=torch.int32)
    ends, like = rows.to(layer.down_proj.device), layer.down_proj.detach()
    up_in, down_in = (like.new_ones(int(ends[-1]), width).requires_grad_() for width in (size.width, size.hidden))
    products = [(up_in, layer.gate_up_proj), (down_in, layer.down_proj)]
    grads = [like.new_ones(len(x), weights.shape[1]) for x, weights in products]

    def run() -> None:
        for (x, weights), grad in zip(products, grads, strict=True):
            x.grad = weights.grad = None
            cuda_ext.grouped_linear(x, weights, ends).backward(grad)  # type: ignore[no-untyped-call]

    return run


def _layers(size: LayerSize, *, device: torch.device, dtype: torch.dtype) -> tuple[MixtureOfExperts, torch.nn.Module]:
    """Ours and transformers' Mixtral layer on the same weights; theirs with the grouped products that it takes by default."""
    mixtral = importlib.import_module("transformers.models.mixtral")
    config = mixtral.MixtralConfig(
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_local_experts=size.experts,
        num_experts_per_tok=size.k,
    )
    config._experts_implementation = "grouped_mm"
    theirs = mixtral.modeling_mixtral.MixtralSparseMoeBlock(config)
    for weights in theirs.parameters():
        torch.nn.init.normal_(weights, std=0.02)
    theirs = theirs.to(device=device, dtype=dtype)
    named = dict(theirs.named_parameters())
    model = ModelConfig(
        width=size.width,
        layers=1,
        heads=8,
        key_value_heads=8,
        feed_forward=size.hidden,
        context=128,
        experts=size.experts,
        experts_per_token=size.k,
    )
    parameters = {f"moe.{name}": torch.nn.Parameter(weights.detach().clone()) for name, weights in named.items()}
    ours = MixtureOfExperts(model, parameters, "moe")
    return ours, theirs


# --- what one sees ---------------------------------------------------------------------------------------------------------------


def text(result: Json) -> str:
    """Milliseconds, the least and in brackets the median; ratios are theirs to ours, of the medians of pairs."""
    lines = [
        f"{result['device']}; operators: {result['operators']}; torch {result['torch']};"
        f" allocator {'tuned' if result['allocator_tuned'] else 'as it is'}"
    ]
    for row in result["contests"]:
        lines.append(
            f"{row['name']}, {row['size']}: {_ms(row['seconds']['ours'])}; a copy {_ms(row['seconds']['copy'])};"
            f" {row['turns']} turns"
        )
        for name, ratio in row["ratios"].items():
            goal = "" if ratio["target"] is None else f" (to reach: {ratio['target']:.2f})"
            seconds = _ms(row["seconds"][name])
            lines.append(
                f"    {name:<14}{seconds:>22}   {ratio['median']:.2f}x, of the least {ratio['min']:.2f}x{goal}"
            )
    return "\n".join(lines)


def _ms(seconds: Json) -> str:
    return f"{seconds['min'] * 1e3:.3f} ({seconds['median'] * 1e3:.3f}) ms"
