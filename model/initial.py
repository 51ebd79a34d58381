"""M(0): the parameters that every machine computes for itself and finds equal.

A value is k * m * 2^-s: k an odd 17-bit integer from Philox in counter mode, uniform and symmetric about zero, m an 8-bit
integer. k * m fits the 24 bits of a float32, so each value is exact and no rounding mode, library or processor enters.
A consensus rule: any change here is another network.
"""

import hashlib
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.layout import Layout, TensorPlace

_DOMAIN = b"p2pnode-initial-v1"


def initial_parameters(config: ModelConfig, seed: int) -> NDArray[np.float32]:
    """The flat buffer of M(0), padding zero. `seed`: 0 to 2^64 - 1."""
    layout = Layout.of(config)
    flat = np.zeros(layout.values, dtype=np.float32)
    for place in layout.tensors:
        values = flat[place.offset : place.offset + place.count]
        if len(place.shape) == 1:
            values[:] = 1.0  # the gain of a norm
        else:
            mantissa, shift = _bound(config, place)
            np.multiply(odd_integers(seed, place.name, place.count), mantissa, out=values, casting="unsafe")
            np.multiply(values, np.float32(2.0**-shift), out=values)
    return flat


def odd_integers(seed: int, name: str, count: int) -> NDArray[np.int32]:
    """`count` odd integers, uniform in (-2^16, 2^16): 16 bits each of Philox 4x64-10 (Salmon et al. 2011)."""
    key = hashlib.sha256(_DOMAIN + seed.to_bytes(8, "big") + name.encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8").astype(np.uint64))
    words = generator.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
    return words.astype(np.int32) * 2 - 0xFFFF


def _bound(config: ModelConfig, place: TensorPlace) -> tuple[int, int]:
    """(m, s): |value| < m * 2^(16-s). The deviation of a uniform value is its bound divided by the root of three."""
    fan_in = place.shape[1]
    # deviation 1 / sqrt(fan_in), so a bound of sqrt(3 / fan_in); projections back into the residual stream smaller, by
    # the root of their number, so that the stream's variance does not grow with depth (Radford et al. 2019)
    residual = place.name.endswith(("o_proj.weight", "down_proj.weight"))
    square = (3, fan_in * 2 * config.layers) if residual else (3, fan_in)
    return eight_bit_root(*square)


def eight_bit_root(numerator: int, denominator: int) -> tuple[int, int]:
    """(m, s) with m in [128, 255] and m * 2^(16-s) the root of the fraction, rounded down."""
    shift = 0
    while isqrt((numerator << 2 * shift) // denominator) < 128:
        shift += 1
    return isqrt((numerator << 2 * shift) // denominator), shift + 16
