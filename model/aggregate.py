"""Many contributions into one sum, exactly: equal on every machine, in any order of arrival, sharded in any way.

Each contribution is scaled so that its Euclidean norm equals the lower median of all norms (at most fourfold up), so one
that is a million times too long moves the model no further than an honest one; then they are added. All in integers:

    x = q * 2^(e + 40)                     units of 2^-40, 0 <= e + 40 <= 32,         |x| <= 127 * 2^32
    W = isqrt((median << 24) // norm^2)    units of 2^-12, at most 2^14;  norm^2, median: exact Python integers
    A = sum of weight * W * x              units of 2^-52, weights sum to <= 2^10,    |A| <= 127 * 2^56 < 2^63
    returned: (A + 2^11) >> 12             units of 2^-40,                            |A| <= 127 * 2^44

|q * weight * W| is at most 127 * 2^24, below 2^31, and every partial sum of A obeys A's own bound, so neither int32 nor
int64 ever wraps. cuda_ext/integers.py does the adding, in a kernel or in numpy, to the same bits. Consensus rule;
`tests/model/test_exactness.py` holds two twins (torch, Python integers) and the extremes.
"""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cuda_ext import integers
from model.compression import Contribution
from model.limits import (
    CHUNK_VALUES,
    EXPONENT_MAX,
    EXPONENT_MIN,
    FRACTION_BITS,
    NORM_WEIGHT_BITS,
    NORM_WEIGHT_MAX,
    WEIGHT_SUM_MAX,
)

TILE_CHUNKS: Final = 16  # 64 Ki values of int64 are half a megabyte: two such tiles stay in the cache


def squared_norm(contribution: Contribution) -> int:
    """The exact sum of squares, in units of 2^-80."""
    squares = integers.squares(contribution.quanta)
    totals = np.zeros(
        EXPONENT_MAX - EXPONENT_MIN + 1, np.int64
    )  # of chunks of one exponent: fewer than 2^37, each below 2^26
    np.add.at(totals, contribution.exponents.astype(np.int64) - EXPONENT_MIN, squares)
    return sum(int(total) << 2 * (shift + EXPONENT_MIN + FRACTION_BITS) for shift, total in enumerate(totals))


def norm_weights(squared_norms: Sequence[int]) -> list[int]:
    """W of each contribution. One without length stays without (and the median may be one of those)."""
    median = sorted(squared_norms)[(len(squared_norms) - 1) // 2]  # the lower median: a majority, never an average
    return [
        min(isqrt((median << 2 * NORM_WEIGHT_BITS) // norm), NORM_WEIGHT_MAX) if norm else 0 for norm in squared_norms
    ]


def aggregate(contributions: Sequence[Contribution], weights: Sequence[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yields (first chunk, tile of the sum in units of 2^-40), shape (up to 16, 4096). A tile is reused for the next.

    `weights` are positive integers with a sum of at most 2^10; the caller divides by that sum.
    """
    assert len(contributions) == len(weights) and min(weights) > 0 and sum(weights) <= WEIGHT_SUM_MAX
    equalised = norm_weights([squared_norm(contribution) for contribution in contributions])
    addition = integers.WeightedSum(
        [contribution.quanta for contribution in contributions],
        [(contribution.exponents.astype(np.int16) + FRACTION_BITS).astype(np.uint8) for contribution in contributions],
        [weight * norm_weight for weight, norm_weight in zip(weights, equalised, strict=True)],
        down=NORM_WEIGHT_BITS,
    )
    chunks = len(contributions[0].quanta)
    total = np.empty((min(TILE_CHUNKS, chunks), CHUNK_VALUES), np.int64)
    for start in range(0, chunks, TILE_CHUNKS):
        tile = total[: min(TILE_CHUNKS, chunks - start)]
        addition.into(tile, first=start)
        yield start, tile
