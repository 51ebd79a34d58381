"""Many contributions into one sum, exactly: equal on every machine, in any order of arrival, sharded in any way.

Each contribution is scaled so that its Euclidean norm equals the lower median of all norms (at most fourfold up), so one
that is a million times too long moves the model no further than an honest one; then they are added. All in integers:

    x = q * 2^(e + 40)                     units of 2^-40, 0 <= e + 40 <= 32,         |x| <= 127 * 2^32
    W = isqrt((median << 24) // norm^2)    units of 2^-12, at most 2^14;  norm^2, median: exact Python integers
    A = sum of weight * W * x              units of 2^-52, weights sum to <= 2^10,    |A| <= 127 * 2^56 < 2^63
    returned: (A + 2^11) >> 12             units of 2^-40,                            |A| <= 127 * 2^44

The multiplier weight * W << (e + 40) is at most 2^56, and every partial sum of A obeys A's own bound, so int64 never
wraps. Consensus rule; `tests/model/test_exactness.py` holds two twins (torch, Python integers) and the extremes.
"""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.compression import Contribution
from model.limits import (
    CHUNK_VALUES,
    FRACTION_BITS,
    NORM_WEIGHT_BITS,
    NORM_WEIGHT_MAX,
    WEIGHT_SUM_MAX,
)

TILE_CHUNKS: Final = 16  # 64 Ki values of int64 are half a megabyte: two such tiles stay in the cache
_EXACT_VALUES: Final = 1024  # 1024 * 127^2 < 2^24, so float32 adds so many squares exactly, in any order


def squared_norm(contribution: Contribution) -> int:
    """The exact sum of squares, in units of 2^-80."""
    total = 0
    for start in range(0, len(contribution.quanta), TILE_CHUNKS):
        values = contribution.quanta[start : start + TILE_CHUNKS].astype(np.float32).reshape(-1, _EXACT_VALUES)
        squares = np.einsum("ij,ij->i", values, values).astype(np.int64)
        by_chunk = squares.reshape(-1, CHUNK_VALUES // _EXACT_VALUES).sum(axis=1)  # < 2^26
        shifts = 2 * (contribution.exponents[start : start + TILE_CHUNKS].astype(np.int64) + FRACTION_BITS)
        total += sum(int(square) << int(shift) for square, shift in zip(by_chunk, shifts, strict=True))
    return total


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
    multipliers = [
        np.int64(weight * norm_weight) << (contribution.exponents.astype(np.int64) + FRACTION_BITS)[:, None]
        for contribution, weight, norm_weight in zip(contributions, weights, equalised, strict=True)
    ]
    chunks = len(contributions[0].quanta)
    total = np.empty((min(TILE_CHUNKS, chunks), CHUNK_VALUES), np.int64)
    product = np.empty_like(total)
    for start in range(0, chunks, TILE_CHUNKS):
        stop = min(start + TILE_CHUNKS, chunks)
        tile, scratch = total[: stop - start], product[: stop - start]
        tile[:] = 1 << (NORM_WEIGHT_BITS - 1)  # the half that makes the shift below round to nearest
        for contribution, multiplier in zip(contributions, multipliers, strict=True):
            np.copyto(scratch, contribution.quanta[start:stop])
            np.multiply(scratch, multiplier[start:stop], out=scratch)
            np.add(tile, scratch, out=tile)
        np.right_shift(tile, NORM_WEIGHT_BITS, out=tile)
        yield start, tile
