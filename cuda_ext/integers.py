"""The integer arithmetic of the codec and of the aggregate: exact, so that a kernel and numpy give the same bits on every machine.

Each function runs a kernel of `integer/kernels.cpp` where it has been built, and its numpy twin, of the same name with `_plain`, where not;
the results cannot be told apart, and a round is agreed on by nodes of both kinds. The limits under which nothing wraps are the callers'
(the docstring of model/aggregate.py has the proof). Numpy and the standard library only: a node replays a chain without torch.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cuda_ext import load

CHUNK_VALUES: Final = 4096  # what the kernels take for one
_TILE_CHUNKS: Final = 16  # 64 Ki values: scratch space stays in the processor's cache
_EXACT_VALUES: Final = 1024  # 1024 * 127^2 < 2^24, so float32 adds so many squares exactly, in any order


class WeightedSum:
    """The sum of contributions, tile by tile: quanta[n] * factors[n] << shifts[n], rounded to units of 2^down.

    `quanta` are int8 of shape (chunks, 4096), `shifts` uint8 of shape (chunks,), |quantum * factor| < 2^31, and no partial sum reaches
    2^63. The arrays are not copied, and must not change.
    """

    def __init__(
        self,
        quanta: Sequence[NDArray[np.int8]],
        shifts: Sequence[NDArray[np.uint8]],
        factors: Sequence[int],
        *,
        down: int,
    ) -> None:
        assert len(quanta) == len(shifts) == len(factors)
        self._quanta = [np.ascontiguousarray(values) for values in quanta]
        self._shifts = [np.ascontiguousarray(of_chunks) for of_chunks in shifts]
        assert all(values.dtype == np.int8 and values.shape == self._quanta[0].shape for values in self._quanta)
        assert all(each.dtype == np.uint8 and each.shape == (len(self._quanta[0]),) for each in self._shifts)
        self._factors = np.array(factors, np.int32)
        self._down = down
        self._addresses = _addresses(self._quanta), _addresses(self._shifts)

    def into(self, total: NDArray[np.int64], *, first: int) -> None:
        """Fills `total`, (chunks, 4096), with the sum of the chunks from `first` on."""
        kernels = load.integers()
        if kernels is None or total.shape[1] != CHUNK_VALUES:
            self._into_plain(total, first=first)
            return
        assert total.flags.c_contiguous and total.dtype == np.int64 and first + len(total) <= len(self._quanta[0])
        half = (1 << self._down) >> 1
        kernels.p2pnode_accumulate(
            len(self._factors),
            *self._addresses,
            _address(self._factors),
            first,
            len(total),
            half,
            self._down,
            _address(total),
        )

    def _into_plain(self, total: NDArray[np.int64], *, first: int) -> None:
        tile = slice(first, first + len(total))
        product = np.empty_like(total)
        total[:] = (1 << self._down) >> 1  # the half that makes the shift below round to nearest
        for quanta, shifts, factor in zip(self._quanta, self._shifts, self._factors, strict=True):
            np.copyto(product, quanta[tile])
            np.multiply(product, np.int64(factor) << shifts[tile].astype(np.int64)[:, None], out=product)
            np.add(total, product, out=total)
        np.right_shift(total, self._down, out=total)


def squares(quanta: NDArray[np.int8]) -> NDArray[np.int64]:
    """The sum of squares of each chunk of (chunks, 4096), values within +-127: below 2^26."""
    kernels = load.integers()
    if kernels is None or quanta.shape[1] != CHUNK_VALUES:
        return squares_plain(quanta)
    assert quanta.dtype == np.int8
    quanta = np.ascontiguousarray(quanta)
    sums = np.empty(len(quanta), np.int64)
    kernels.p2pnode_squares(_address(quanta), len(quanta), _address(sums))
    return sums


def squares_plain(quanta: NDArray[np.int8]) -> NDArray[np.int64]:
    sums = np.empty(len(quanta), np.int64)
    for start in range(0, len(quanta), _TILE_CHUNKS):
        values = quanta[start : start + _TILE_CHUNKS].astype(np.float32).reshape(-1, _EXACT_VALUES)
        parts = np.einsum("ij,ij->i", values, values).astype(np.int64)
        sums[start : start + _TILE_CHUNKS] = parts.reshape(-1, quanta.shape[1] // _EXACT_VALUES).sum(axis=1)
    return sums


def quantize(
    values: NDArray[np.float32],
    exponents: NDArray[np.int8],
    quanta: NDArray[np.int8],
    *,
    lowest: int,
    highest: int,
) -> bool:
    """Each chunk of (chunks, 4096) in units of 2^exponent, rounded to even, within +-127; both outputs are filled.

    An exponent brings its chunk's largest magnitude into [64, 127], as far as [lowest, highest] lets it. False: a value is NaN or
    infinite, and what the outputs hold means nothing.
    """
    kernels = load.integers()
    if kernels is None or values.shape[1] != CHUNK_VALUES:
        return quantize_plain(values, exponents, quanta, lowest=lowest, highest=highest)
    assert values.dtype == np.float32 and exponents.dtype == quanta.dtype == np.int8
    assert values.shape == quanta.shape and exponents.shape == (len(values),)
    assert exponents.flags.c_contiguous and quanta.flags.c_contiguous
    values = np.ascontiguousarray(values)
    arrays = _address(exponents), _address(quanta)
    return bool(kernels.p2pnode_quantize(_address(values), len(values), lowest, highest, *arrays))


def quantize_plain(
    values: NDArray[np.float32],
    exponents: NDArray[np.int8],
    quanta: NDArray[np.int8],
    *,
    lowest: int,
    highest: int,
) -> bool:
    scratch = np.empty((min(_TILE_CHUNKS, len(values)), values.shape[1]), np.float32)
    for start in range(0, len(values), _TILE_CHUNKS):
        tile = values[start : start + _TILE_CHUNKS]
        scaled = scratch[: len(tile)]
        largest = np.abs(tile, out=scaled).max(axis=1)
        if not np.isfinite(largest).all():
            return False
        exponent = np.clip(_exponents(largest, lowest), lowest, highest)
        np.multiply(tile, np.ldexp(np.float32(1), -exponent)[:, None], out=scaled)
        np.clip(np.rint(scaled, out=scaled), -127, 127, out=scaled)
        exponents[start : start + _TILE_CHUNKS] = exponent
        quanta[start : start + _TILE_CHUNKS] = scaled
    return True


def _exponents(largest: NDArray[np.float32], lowest: int) -> NDArray[np.int32]:
    """The e that brings each chunk's largest magnitude into [64, 127] after rounding."""
    fraction, exponent = np.frexp(largest)  # largest = fraction * 2^exponent, fraction in [0.5, 1)
    exponent = exponent.astype(np.int32) - 7
    exponent[np.rint(fraction * 128) > 127] += 1
    exponent[largest == 0] = lowest
    return exponent


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _addresses(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
