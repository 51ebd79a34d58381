"""M(0): the parameters that every machine computes for itself and finds equal.

A value is k * m * 2^-s: k an odd 17-bit integer from Philox in counter mode, uniform and symmetric about zero, m an 8-bit
integer. k * m fits the 24 bits of a float32, so each value is exact and no rounding mode, library or processor enters.
A consensus rule: any change here is another network.

`initial_gain` g: the gains of the norms before attention and feed-forward start at g, and the matrices that read from
them at 1/g of their usual size, so the first model computes the same function. But AdamW moves every value by about the
rate, however large it is, so those matrices turn g times as fast. A narrow model bears, and at a fixed rate needs, more
than a wide one (the best rate falls with the width: Yang et al. 2022, "Tensor Programs V").
"""

import hashlib
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.layout import Layout, TensorPlace

_DOMAIN = b"p2pnode-initial-v1"
_DRAWN_AT_ONCE = 1 << 22  # a multiple of four: a layer's experts are one tensor of gigabytes


def initial_parameters(config: ModelConfig, seed: int) -> NDArray[np.float32]:
    """The flat buffer of M(0), padding zero. `seed`: 0 to 2^64 - 1."""
    layout = Layout.of(config)
    flat = np.zeros(layout.values, dtype=np.float32)
    for place in layout.tensors:
        values = flat[place.offset : place.offset + place.count]
        if len(place.shape) == 1:
            values[:] = _constant(config, place.name)
        else:
            mantissa, shift = _bound(config, place)
            generator = _philox(seed, place.name)
            for start in range(0, place.count, _DRAWN_AT_ONCE):
                part = values[start : start + _DRAWN_AT_ONCE]
                np.multiply(_odd_integers(generator, len(part)), mantissa, out=part, casting="unsafe")
                np.multiply(part, np.float32(2.0**-shift), out=part)
    return flat


def odd_integers(seed: int, name: str, count: int) -> NDArray[np.int32]:
    """`count` odd integers, uniform in (-2^16, 2^16): 16 bits each of Philox 4x64-10 (Salmon et al. 2011)."""
    return _odd_integers(_philox(seed, name), count)


def _philox(seed: int, name: str) -> np.random.Philox:
    key = hashlib.sha256(_DOMAIN + seed.to_bytes(8, "big") + name.encode()).digest()
    return np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8").astype(np.uint64))


def _odd_integers(generator: np.random.Philox, count: int) -> NDArray[np.int32]:
    words = generator.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
    return words.astype(np.int32) * 2 - 0xFFFF


def _constant(config: ModelConfig, name: str) -> int:
    """Of a tensor with one axis: biases and sinks start at zero, a norm before a layer at the gain, the last one at one."""
    if name.endswith((".bias", ".sinks")):
        return 0
    return 1 if name == "model.norm.weight" else config.initial_gain


def _bound(config: ModelConfig, place: TensorPlace) -> tuple[int, int]:
    """(m, s): |value| < m * 2^(16-s). The deviation of a uniform value is its bound divided by the root of three."""
    # deviation 1 / sqrt(width), so a bound of sqrt(3 / width), for what reads the stream or is it (the embeddings)
    fan_in = place.shape[-1]
    if place.name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
        # Back into the stream: smaller by the root of their number, so that the stream's variance does not grow with
        # depth (Radford et al. 2019).
        return eight_bit_root(3, fan_in * 2 * config.layers)
    if place.name in ("model.embed_tokens.weight", "model.embed_positions.weight", "lm_head.weight"):
        return eight_bit_root(3, fan_in)
    return eight_bit_root(3, fan_in * config.initial_gain**2)


def eight_bit_root(numerator: int, denominator: int) -> tuple[int, int]:
    """(m, s) with m in [128, 255] and m * 2^(16-s) the root of the fraction, rounded down."""
    shift = 0
    while isqrt((numerator << 2 * shift) // denominator) < 128:
        shift += 1
    return isqrt((numerator << 2 * shift) // denominator), shift + 16
