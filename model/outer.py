"""The outer step: one exact sum becomes the next parameters. Integers until the last subtraction, which rounds once.

With A from the aggregate (units of 2^-40, |A| <= 127 * 2^44) and n the sum of the weights (at most 2^10):

    D = n * rate_den * 2^14                         <= 2^34
    u = floor((A * rate_num + D // 2) / D)          A * rate_num <= 127 * 2^54, + 2^33: below 2^62;  |u| <= 2^54 at most
    M' = sat32(((M * mu_num + half) >> mu_shift) + u)      M * mu_num < 2^41
    d = u, or M' with momentum, or u + ((M' * mu_num + half) >> mu_shift) with Nesterov's   all below 2^55
    theta -= float32(sat(d, 2^24 - 1)) * 2^-26      conversion and scaling are exact; IEEE rounds the difference

(|u| <= n * 127 * 2^34 * rate_num / D <= 127 * 2^30, in truth; the coarse bound already suffices.) Then theta is made
canonical: -0.0 and denormals become +0.0 by an integer test. Non-finite theta cannot arise: |theta| grows by less than
0.25 a round. Consensus rule. No torch, no float reduction, no fused operation in this file.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.config import TrainingConfig
from model.limits import FRACTION_BITS, STEP_MAX, UPDATE_BITS

_INT32: Final = np.iinfo(np.int32)
_UNIT: Final = np.float32(2.0**-UPDATE_BITS)


def outer_step(
    theta: NDArray[np.float32],
    momentum: NDArray[np.int32] | None,
    *,
    total: NDArray[np.int64],
    count: int,
    training: TrainingConfig,
) -> None:
    """Moves `theta` and `momentum` in place by the aggregate `total` of `count` contributions. All shapes are equal."""
    divisor = count * training.outer_rate_denominator << (FRACTION_BITS - UPDATE_BITS)
    step = (total * training.outer_rate_numerator + divisor // 2) // divisor
    if momentum is not None:
        decayed = _decay(momentum.astype(np.int64), training)
        moved = np.clip(decayed + step, _INT32.min, _INT32.max)
        momentum[...] = moved
        step = step + _decay(moved, training) if training.nesterov else moved
    np.clip(step, -STEP_MAX, STEP_MAX, out=step)
    np.subtract(theta, step.astype(np.float32) * _UNIT, out=theta)
    make_canonical(theta)


def make_canonical(theta: NDArray[np.float32]) -> None:
    """Zeroes every value whose exponent field is zero: -0.0 and the denormals."""
    bits = theta.view(np.uint32)
    bits[(bits & np.uint32(0x7F800000)) == 0] = 0


def _decay(momentum: NDArray[np.int64], training: TrainingConfig) -> NDArray[np.int64]:
    half = (1 << training.momentum_shift) >> 1
    return (momentum * training.momentum_numerator + half) >> training.momentum_shift
