"""Operators of the model that deserve kernels of their own: plain torch everywhere, C++ and CUDA where these have been built.

`ops.py` has the operators, `integers.py` the exact arithmetic of the codec and the aggregate, `load.py` and `build.py` the kernels of both.
What is named here is imported when it is asked for: `integers` and the build have no need of torch, which takes seconds to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cuda_ext.load import Status, gpus_in_plain_torch, status

if TYPE_CHECKING:
    from cuda_ext.ops import (
        SCORES,
        Plan,
        Route,
        grouped_linear,
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
    "gpus_in_plain_torch",
    "grouped_linear",
    "moe_aux_loss",
    "moe_combine",
    "moe_permute",
    "moe_plan",
    "moe_topk_route",
    "status",
    "swiglu",
    "swiglu_packed",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("cuda_ext.ops"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
