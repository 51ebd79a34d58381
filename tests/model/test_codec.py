"""The codec against an oracle in plain Python, and against bytes that no encoder made."""

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import compression
from model.config import ModelConfig
from model.errors import NonFiniteError, PayloadError
from model.layout import Layout

CONFIG = ModelConfig(width=8, layers=1, heads=1, key_value_heads=1, feed_forward=513, context=16)
LAYOUT = Layout.of(CONFIG)  # 14 chunks; some tensors span two chunks, most are mostly padding
HEADER = 16


def python_decode(payload: bytes) -> list[list[float]] | None:
    """The rules of the codec, byte by byte: the values of each chunk, or None where a rule is broken."""
    chunks = LAYOUT.chunks
    if len(payload) != 16 + chunks * 4097 or payload[:16] != b"p2pc" + struct.pack(">HHQ", 1, 1, chunks):
        return None
    decoded = []
    for chunk in range(chunks):
        (exponent,) = struct.unpack_from("b", payload, 16 + chunk)
        quanta = struct.unpack_from("4096b", payload, 16 + chunks + 4096 * chunk)
        if not -40 <= exponent <= -8 or min(quanta) == -128:
            return None
        if max(map(abs, quanta)) < 64 and exponent != -40:
            return None
        decoded.append([quantum * 2.0**exponent for quantum in quanta])
    flat = [value for chunk in decoded for value in chunk]
    if any(any(flat[padding]) for padding in LAYOUT.padding):
        return None
    return decoded


def refused(payload: bytes) -> bool:
    try:
        compression.check(payload, LAYOUT)
    except PayloadError:
        return True
    return False


def update(seed: int = 0, scale: float = 1e-3) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(LAYOUT.values).astype(np.float32) * np.float32(scale)
    for padding in LAYOUT.padding:
        values[padding] = 0
    return values


def decoded(payload: bytes) -> np.ndarray:
    return compression.dequantize(compression.decode(payload, LAYOUT))


@pytest.mark.parametrize("scale", [1e-14, 1e-11, 1e-6, 1e-3, 0.05])
def test_encoding_errs_by_half_a_step_at_most(scale: float) -> None:
    values = update(scale=scale)
    payload = compression.encode(values, LAYOUT)
    largest = np.abs(values).reshape(-1, 4096).max(axis=1)
    half_step = np.maximum(largest / 63.75, 2.0**-40) / 2
    assert (np.abs(decoded(payload) - values).reshape(-1, 4096).max(axis=1) <= half_step).all()
    assert len(payload) == compression.payload_bytes(LAYOUT)
    assert np.array_equal(decoded(payload).reshape(-1, 4096), np.array(python_decode(payload), np.float32))


def test_encoding_what_was_decoded_gives_the_same_bytes() -> None:
    for seed in range(5):
        payload = compression.encode(update(seed, 10.0**-seed), LAYOUT)
        assert compression.encode(decoded(payload), LAYOUT) == payload


@pytest.mark.parametrize("largest", [127 * 2.0**-20, 127.49 * 2.0**-20, 127.5 * 2.0**-20, 128 * 2.0**-20, 64 * 2.0**-20,
                                     63.5 * 2.0**-20, 63.75 * 2.0**-20, 2.0**-41, 1.01 * 2.0**-41, 0.0, -0.0])  # fmt: skip
def test_the_largest_value_of_a_chunk_may_lie_anywhere(largest: float) -> None:
    values = np.zeros(LAYOUT.values, np.float32)
    values[5] = largest
    payload = compression.encode(values, LAYOUT)
    assert python_decode(payload) is not None
    assert abs(decoded(payload)[5] - np.float32(largest)) <= max(largest / 128, 2.0**-41)


def test_what_is_too_large_saturates() -> None:
    values = np.zeros(LAYOUT.values, np.float32)
    values[:3] = 1e6, -1e30, 0.3
    assert decoded(compression.encode(values, LAYOUT))[:3].tolist() == [127 / 256, -127 / 256, 77 / 256]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_encoded(bad: float) -> None:
    values = update()
    values[LAYOUT.tensors[-1].offset] = bad
    with pytest.raises(NonFiniteError):
        compression.encode(values, LAYOUT)


def test_a_probe_is_a_valid_payload_and_follows_from_its_seed() -> None:
    first, again, other = (compression.probe(LAYOUT, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert python_decode(first) is not None and np.abs(decoded(first)).max() > 0


def mutated(payload: bytes, offset: int, value: int) -> bytes:
    changed = bytearray(payload)
    changed[offset] = value % 256
    return bytes(changed)


def test_each_rule_of_the_decoder_refuses_its_breach() -> None:
    good = compression.encode(update(), LAYOUT)
    quanta = HEADER + LAYOUT.chunks
    padding = quanta + LAYOUT.padding[0].start
    small = bytearray(good)
    small[quanta : quanta + 4096] = bytes(4096)  # a chunk of zeros that keeps its exponent
    breaches = {
        "empty": b"",
        "header only": good[:HEADER],
        "one byte short": good[:-1],
        "one byte more": good + b"\0",
        "doubled": good + good,
        "another magic": mutated(good, 0, 0),
        "another version": mutated(good, 5, 2),
        "another codec": mutated(good, 7, 2),
        "another number of chunks": mutated(good, 15, LAYOUT.chunks + 1),
        "exponent too large": mutated(good, HEADER, -7),
        "exponent too small": mutated(good, HEADER, -41),
        "-128": mutated(good, quanta, -128),
        "padding": mutated(good, padding, 1),
        "not canonical": bytes(small),
    }
    assert not refused(good)
    for name, payload in breaches.items():
        assert refused(payload), name
        assert python_decode(payload) is None, name


def test_half_of_a_chunk_is_a_chunk_that_is_not_canonical() -> None:
    """The same values with half the quanta and the next exponent must not be a second payload of the same meaning."""
    quanta = HEADER + LAYOUT.chunks
    values = np.zeros(LAYOUT.values, np.float32)
    values[:2] = 126 * 2.0**-20, 64 * 2.0**-20
    good = bytearray(compression.encode(values, LAYOUT))
    assert good[quanta : quanta + 2] == bytes([126, 64])
    good[HEADER] = (good[HEADER] + 1) % 256
    good[quanta : quanta + 2] = bytes([63, 32])
    assert refused(bytes(good))


_GOOD = compression.encode(update(), LAYOUT)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(edits=st.lists(st.tuples(st.integers(0, len(_GOOD) - 1), st.integers(0, 255)), max_size=6))
@example(edits=[(HEADER, 0xD8)])
def test_a_damaged_payload_is_judged_as_the_oracle_judges(edits: list[tuple[int, int]]) -> None:
    payload = _GOOD
    for offset, value in edits:
        payload = mutated(payload, offset, value)
    oracle = python_decode(payload)
    assert refused(payload) == (oracle is None)
    if oracle is not None:
        assert np.array_equal(decoded(payload).reshape(-1, 4096), np.array(oracle, np.float32))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponents=st.lists(st.integers(-44, -6), min_size=LAYOUT.chunks, max_size=LAYOUT.chunks),
    tops=st.lists(
        st.sampled_from([0, 1, 63, 64, 127, -63, -64, -127, -128]), min_size=LAYOUT.chunks, max_size=LAYOUT.chunks
    ),
)
def test_a_made_up_payload_is_judged_as_the_oracle_judges(exponents: list[int], tops: list[int]) -> None:
    quanta = np.zeros((LAYOUT.chunks, 4096), np.int8)
    quanta[:, 0] = tops
    head = b"p2pc" + struct.pack(">HHQ", 1, 1, LAYOUT.chunks)
    payload = head + np.array(exponents, np.int8).tobytes() + quanta.tobytes()
    assert refused(payload) == (python_decode(payload) is None)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(payload=st.binary(max_size=64))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    assert refused(payload) and refused(_GOOD[: len(payload)] + payload)
