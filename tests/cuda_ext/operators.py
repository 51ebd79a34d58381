"""Arguments for every operator, and what each must be in float64. Run as a program it checks the registrations with no kernels loaded."""

import sys

import torch
from torch import Tensor
from torch.library import opcheck

import cuda_ext

OPS = torch.ops.p2pnode
# Tokens, experts, k: as used, one expert, all experts, no multiple of any vector, more than any register holds, none.
ROUTINGS = ((97, 8, 2), (9, 1, 1), (5, 3, 3), (33, 130, 7), (20, 17, 16), (64, 64, 8), (40, 512, 100), (0, 8, 2))
WIDTHS = (1, 16, 33, 96, 128, 200)


def logits_of(tokens: int, experts: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random, and rows of what is hard: all equal, NaN, infinities, zeros of both signs. bfloat16 has ties by itself."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=generator).mul_(2)
    if tokens > 10:
        logits[3] = 0.25
        logits[4, 2 % experts] = float("nan")
        logits[5, 1 % experts] = float("inf")
        logits[6] = -float("inf")
        logits[7, : experts - 1] = -float("inf")
        logits[8, 0], logits[8, 1:] = -0.0, 0.0
        logits[9] = logits[9].sign() * 60
    return logits.to(dtype)


def groups_of(*ends: int) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32)


def samples() -> dict[str, list[tuple[object, ...]]]:
    """A few calls of each operator that has a gradient or shapes of its own."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    def turned(*shape: int) -> Tensor:
        return torch.randn(*shape[::-1], generator=generator).T.requires_grad_()

    calls: dict[str, list[tuple[object, ...]]] = {
        "swiglu": [(normal(5, 7), normal(5, 7)), (normal(0, 3), normal(0, 3)), (turned(4, 6), normal(4, 6))],
        "swiglu_packed": [(normal(3, 5, 8),), (normal(2, 6, dtype=torch.bfloat16),)],
        "moe_topk_route": [(normal(7, 5), 3, renorm, score) for renorm in (True, False) for score in cuda_ext.SCORES]
        + [(turned(7, 5), 2, False, "softmax")],
        "moe_plan": [],
        "moe_permute": [],
        "moe_combine": [],
        "grouped_linear": [],
        "moe_aux_loss": [],
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for ends in ([3, 3, 9], [0, 9, 9], [0, 0, 0]):
            calls["grouped_linear"].append(
                (normal(ends[-1], 8, dtype=dtype), normal(3, 16, 8, dtype=dtype), groups_of(*ends))
            )
    calls["grouped_linear"].append((turned(9, 5), normal(3, 5, 4).detach().mT.requires_grad_(), groups_of(3, 3, 9)))
    for dtype in (torch.float32, torch.bfloat16):
        route = cuda_ext.moe_topk_route(normal(7, 5).detach(), 3)
        for align in (1, 4):
            plan = cuda_ext.moe_plan(route.indices, 5, align)
            calls["moe_plan"].append((route.indices, 5, align))
            calls["moe_permute"].append((normal(7, 6, dtype=dtype), plan.perm, 3))
            rows = normal(plan.perm.shape[0], 6, dtype=dtype)
            calls["moe_combine"].append((rows, plan.inverse, route.weights.clone().requires_grad_()))
        calls["moe_permute"].append((turned(7, 6), plan.perm, 3))
        calls["moe_combine"].append((turned(plan.perm.shape[0], 6), plan.inverse, turned(7, 3)))
        calls["moe_aux_loss"].append((turned(7, 5), route.lse, route.counts, 3))
        calls["moe_aux_loss"].append((normal(7, 5, dtype=dtype), route.lse, route.counts, 3))
    return calls


def check_registrations() -> None:
    """Schemas tell the truth, gradients are torch's to find, shapes without values are right, and all of it compiles with any size."""
    for name, calls in samples().items():
        for arguments in calls:
            opcheck(getattr(OPS, name).default, arguments)


if __name__ == "__main__":
    check_registrations()
    sys.stdout.write(cuda_ext.status().what + "\n")
