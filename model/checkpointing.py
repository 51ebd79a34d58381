"""Selective gradient checkpointing (Chen et al. 2016): memory for time, in the part of each layer that the config names.

Of that part backward keeps the inputs alone, and runs it again when it wants what stood between (`attention` and
`feed-forward` are halves of a layer, with their norms). What is drawn at random is drawn again alike, so that no result
changes by a bit.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig

Result = TypeVar("Result")


def checkpointed(part: str, config: ModelConfig, function: Callable[..., Result], *inputs: Any) -> Result:
    """`function` of `inputs`, which is the `part` of a layer."""
    if part != config.checkpointing or not torch.is_grad_enabled():
        return function(*inputs)
    result: Result = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=float(config.dropout) > 0)
    return result
