"""The codec `dense-int8`: each chunk of 4,096 values is one exponent e and 4,096 signed bytes q; a value is q * 2^e.

    header   16 bytes   magic "p2pc" | version u16 | codec u16 | chunks u64, big-endian
    exponents  1 byte a chunk, signed, e in [-40, -8]
    quanta     4,096 bytes a chunk, signed, q in [-127, 127]

Each set of values has exactly one encoding, and a decoder refuses every other: a chunk that has no |q| >= 64 must be at
the lowest exponent (else a finer one would hold the same values), padding is zero, the length is exact. Nothing here
reads state, so all nodes refuse the same bytes. Encoding may change freely; decoding is a consensus rule.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cuda_ext import integers
from model.config import CODECS
from model.errors import NonFiniteError, PayloadError
from model.initial import odd_integers
from model.layout import Layout
from model.limits import CHUNK_VALUES, EXPONENT_MAX, EXPONENT_MIN, QUANTUM_MAX

_HEADER: Final = struct.Struct(">4sHHQ")
_MAGIC: Final = b"p2pc"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Contribution:
    """A checked payload, as views into its bytes."""

    exponents: NDArray[np.int8]  # (chunks,)
    quanta: NDArray[np.int8]  # (chunks, 4096)


def payload_bytes(layout: Layout) -> int:
    """The one length that a payload of this layout has."""
    return _HEADER.size + layout.chunks * (1 + CHUNK_VALUES)


def check(payload: bytes, layout: Layout) -> None:
    """Raise PayloadError unless `payload` is the canonical encoding of some update of this layout."""
    decode(payload, layout)


def decode(payload: bytes, layout: Layout) -> Contribution:
    """The checked contents of a payload, without a copy. Raises PayloadError."""
    if len(payload) != payload_bytes(layout):
        raise PayloadError(f"{len(payload)} bytes, not {payload_bytes(layout)}")
    magic, version, codec, chunks = _HEADER.unpack_from(payload)
    if (magic, version, codec, chunks) != (_MAGIC, _VERSION, CODECS["dense-int8"], layout.chunks):
        raise PayloadError("not a dense-int8 payload, version 1, of this model")
    exponents = np.frombuffer(payload, np.int8, chunks, _HEADER.size)
    quanta = np.frombuffer(payload, np.int8, -1, _HEADER.size + chunks).reshape(chunks, CHUNK_VALUES)
    if exponents.min() < EXPONENT_MIN or exponents.max() > EXPONENT_MAX:
        raise PayloadError("an exponent is out of range")
    lowest, highest = quanta.min(axis=1), quanta.max(axis=1)
    if lowest.min() < -QUANTUM_MAX:
        raise PayloadError("a value is -128")
    large = (lowest <= -64) | (highest >= 64)
    if not np.all(large | (exponents == EXPONENT_MIN)):
        raise PayloadError("a chunk is not in its canonical form")
    flat = quanta.reshape(-1)
    if any(flat[padding].any() for padding in layout.padding):
        raise PayloadError("the padding is not zero")
    return Contribution(exponents, quanta)


def encode(update: NDArray[np.float32], layout: Layout) -> bytes:
    """The payload closest to `update` (flat, padding zero). Values of 127 * 2^-8 and more saturate; error feedback keeps
    what is cut. Raises NonFiniteError."""
    assert update.shape == (layout.values,) and update.dtype == np.float32
    payload = bytearray(payload_bytes(layout))
    _HEADER.pack_into(payload, 0, _MAGIC, _VERSION, CODECS["dense-int8"], layout.chunks)
    exponents = np.frombuffer(payload, np.int8, layout.chunks, _HEADER.size)
    quanta = np.frombuffer(payload, np.int8, -1, _HEADER.size + layout.chunks).reshape(layout.chunks, CHUNK_VALUES)
    values = update.reshape(layout.chunks, CHUNK_VALUES)
    if not integers.quantize(values, exponents, quanta, lowest=EXPONENT_MIN, highest=EXPONENT_MAX):
        raise NonFiniteError("the update holds NaN or infinity")
    return bytes(payload)


def dequantize(contribution: Contribution) -> NDArray[np.float32]:
    """The values of a contribution as float32, exactly (8 significant bits each), flat."""
    scale = np.ldexp(np.float32(1), contribution.exponents.astype(np.int32))
    return np.multiply(contribution.quanta, scale[:, None], dtype=np.float32).reshape(-1)


def probe(layout: Layout, seed: int) -> bytes:
    """A valid payload of the model's size with arbitrary contents, for a `test` of the network."""
    values = odd_integers(seed, "probe", layout.values).astype(np.float32) * np.float32(2.0**-30)
    for padding in layout.padding:
        values[padding] = 0
    return encode(values, layout)
