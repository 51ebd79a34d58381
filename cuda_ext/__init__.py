"""Operators of the model that deserve kernels of their own: plain torch everywhere, C++ and CUDA where these have been built."""

from cuda_ext.ops import (
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
    "Plan",
    "Route",
    "moe_aux_loss",
    "moe_combine",
    "moe_permute",
    "moe_plan",
    "moe_topk_route",
    "swiglu",
    "swiglu_packed",
]
