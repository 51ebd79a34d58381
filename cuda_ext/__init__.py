"""Operators of the model that deserve kernels of their own: plain torch everywhere, C++ and CUDA where these have been built."""

from cuda_ext.load import Status, status
from cuda_ext.ops import (
    SCORES,
    Plan,
    Route,
    moe_aux_loss,
    moe_combine,
    moe_permute,
    moe_plan,
    moe_topk_route,
    swiglu,
    swiglu_packed,
)

__all__ = [
    "SCORES",
    "Plan",
    "Route",
    "Status",
    "moe_aux_loss",
    "moe_combine",
    "moe_permute",
    "moe_plan",
    "moe_topk_route",
    "status",
    "swiglu",
    "swiglu_packed",
]
