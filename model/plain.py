"""Where a decoder computes with torch's own expressions, and so, for an export, what transformers computes, to the last bit.

The kernels of `cuda_ext` and attention by blocks are as exact, but round elsewhere: some units of the last place, which grow with depth
and with what was learned. A text that is read or generated shall not depend on them. Training is free to.
"""

import torch
from torch import Tensor


def is_plain(x: Tensor) -> bool:
    """In float32 on a CPU, where nothing is learned."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
