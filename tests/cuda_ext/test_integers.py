"""integers.py: each kernel gives the bits of its numpy twin, and each twin those of Python's unbounded integers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_ext import build, integers, load

CHUNK = integers.CHUNK_VALUES
LOWEST, HIGHEST = -40, -8
FACTOR_MAX = 1 << 24  # 127 times it is below 2^31
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def kernels():
    try:
        build.put("integer", build.build_integers)
    except build.BuildError as problem:
        pytest.skip(f"no kernels: {problem}")
    load.integers.cache_clear()
    if load.integers() is None:
        pytest.skip("no kernels")


@pytest.fixture(params=["kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(load, "integers", lambda: None)
    return request.param


def quanta_of(seed, chunks, low=-127, high=127):
    return np.random.default_rng(seed).integers(low, high, (chunks, CHUNK), dtype=np.int8, endpoint=True)


# --- the sum of contributions ----------------------------------------------------------------------------------------------------


def total_of(quanta, shifts, factors, *, first, chunks, down=12):
    total = np.empty((chunks, CHUNK), np.int64)
    integers.WeightedSum(quanta, shifts, factors, down=down).into(total, first=first)
    return total


def python_total(quanta, shifts, factors, *, first, chunks, down=12):
    rows = []
    for chunk in range(first, first + chunks):
        sums = [(1 << down) >> 1] * CHUNK
        for values, of_chunks, factor in zip(quanta, shifts, factors, strict=True):
            sums = [
                s + ((q * factor) << int(of_chunks[chunk])) for s, q in zip(sums, values[chunk].tolist(), strict=True)
            ]
        rows.append([s >> down for s in sums])
    return np.array(rows, np.int64)


@pytest.mark.parametrize(("contributions", "first", "chunks"), [(1, 0, 1), (3, 1, 2)])
def test_the_sum_is_that_of_unbounded_integers(way, contributions, first, chunks):
    rng = np.random.default_rng(1)
    quanta = [quanta_of(n, 3) for n in range(contributions)]
    shifts = [rng.integers(0, 33, 3).astype(np.uint8) for _ in quanta]
    factors = [int(factor) for factor in rng.integers(0, FACTOR_MAX >> 2, contributions)]
    got = total_of(quanta, shifts, factors, first=first, chunks=chunks)
    assert np.array_equal(got, python_total(quanta, shifts, factors, first=first, chunks=chunks))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("contributions", [1, 1024])
def test_the_largest_sums_do_not_wrap(way, contributions, sign):
    """All weights at their bound, all quanta at theirs, the coarsest exponent: 127 * 2^56 before the shift."""
    values = np.full((1, CHUNK), 127 * sign, np.int8)
    shifts = np.full(1, 32, np.uint8)
    each = FACTOR_MAX // contributions
    got = total_of([values] * contributions, [shifts] * contributions, [each] * contributions, first=0, chunks=1)
    assert (got == ((127 * sign << 56) + 2048) >> 12).all()


@SETTINGS
@given(
    seed=st.integers(0, 2**32),
    contributions=st.integers(1, 5),
    chunks=st.integers(1, 5),
    down=st.sampled_from([0, 1, 12]),
)
def test_kernel_and_numpy_add_to_the_same_bits(seed, contributions, chunks, down):
    rng = np.random.default_rng(seed)
    quanta = [quanta_of(seed + n, chunks + 2) for n in range(contributions)]
    shifts = [rng.integers(0, 33, chunks + 2).astype(np.uint8) for _ in quanta]
    factors = [int(factor) for factor in rng.integers(0, FACTOR_MAX // contributions, contributions, endpoint=True)]
    addition = integers.WeightedSum(quanta, shifts, factors, down=down)
    kernel, plain = np.empty((chunks, CHUNK), np.int64), np.empty((chunks, CHUNK), np.int64)
    addition.into(kernel, first=1)
    addition._into_plain(plain, first=1)
    assert np.array_equal(kernel, plain)


def test_a_payload_need_not_be_aligned_or_contiguous(way):
    buffer = np.zeros(2 * CHUNK + 17, np.int8)
    buffer[17:] = quanta_of(5, 2).reshape(-1)
    odd = buffer[17:].reshape(2, CHUNK)
    spread = np.repeat(odd, 2, axis=0)[::2]
    shifts = np.array([3, 30], np.uint8)
    expected = python_total([odd], [shifts], [77], first=0, chunks=2)
    for values in (odd, spread):
        assert np.array_equal(total_of([values], [shifts], [77], first=0, chunks=2), expected)


# --- squares ---------------------------------------------------------------------------------------------------------------------


def test_squares_are_exact(way):
    quanta = np.concatenate([quanta_of(2, 18), np.full((1, CHUNK), -127, np.int8), np.zeros((1, CHUNK), np.int8)])
    expected = [sum(q * q for q in row) for row in quanta.tolist()]
    assert integers.squares(quanta).tolist() == expected and expected[-2] == CHUNK * 127**2
    assert integers.squares(quanta[:0]).tolist() == []


# --- quantizing ------------------------------------------------------------------------------------------------------------------


def quantized(values, quantize=integers.quantize):
    exponents, quanta = np.empty(len(values), np.int8), np.empty(values.shape, np.int8)
    if not quantize(values, exponents, quanta, lowest=LOWEST, highest=HIGHEST):
        return None
    return exponents, quanta


def check_same(values):
    ours = quantized(values)
    with np.errstate(over="ignore"):
        plain = quantized(values, integers.quantize_plain)
    assert all(map(np.array_equal, ours, plain))
    return ours


@SETTINGS
@given(seed=st.integers(0, 2**32), chunks=st.integers(1, 20), power=st.integers(-150, 120))
def test_kernel_and_numpy_quantize_to_the_same_bits(seed, chunks, power):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", under="ignore"):
        values = np.ldexp(rng.standard_normal((chunks, CHUNK)), power).astype(np.float32)
    values[~np.isfinite(values)] = np.finfo(np.float32).max
    check_same(values)


@pytest.mark.parametrize("exponent", range(LOWEST - 10, HIGHEST + 12))
def test_values_half_way_between_two_quanta_go_to_the_even_one(way, exponent):
    """Every quarter from -128 to 128, so also 127.5, which moves the exponent by one."""
    quarters = np.arange(-512, 513, dtype=np.float64) / 4
    for largest in (64.0, 127.25, 127.5, np.nextafter(np.float32(127.5), np.float32(0)), 127.75, 128.0):
        row = np.zeros(CHUNK, np.float64)
        row[: len(quarters)] = np.where(np.abs(quarters) <= largest, quarters, 0)
        row[-1] = largest
        values = np.ldexp(row, exponent).astype(np.float32).reshape(1, CHUNK)
        exponents, quanta = check_same(values) if way == "kernel" else quantized(values)
        e = int(exponents[0])
        assert LOWEST <= e <= HIGHEST
        expected = np.clip(np.rint(np.ldexp(values.astype(np.float64), -e)), -127, 127)
        assert np.array_equal(quanta, expected)
        if LOWEST < e < HIGHEST:
            assert 64 <= np.abs(quanta.astype(int)).max() <= 127


def test_zeros_denormals_and_the_largest_there_are(way):
    smallest, largest = np.float32(2.0**-149), np.finfo(np.float32).max
    rows = [
        np.zeros(CHUNK),
        np.full(CHUNK, -0.0),
        np.full(CHUNK, smallest),
        np.full(CHUNK, 2.0**-41),
        np.full(CHUNK, -largest),
    ]
    values = np.array(rows, np.float32)
    with np.errstate(over="ignore"):
        exponents, quanta = quantized(values)
    assert exponents.tolist() == [LOWEST, LOWEST, LOWEST, LOWEST, HIGHEST]
    assert [row[0] for row in quanta.tolist()] == [0, 0, 0, 0, -127]  # one half is rounded to even


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), -float("nan")])
@pytest.mark.parametrize("at", [0, CHUNK, 20 * CHUNK - 1])
def test_what_is_not_finite_is_told(way, wrong, at):
    values = np.zeros((20, CHUNK), np.float32)
    values.reshape(-1)[at] = wrong
    assert quantized(values) is None


# --- who has to do without -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "is_there"), [("auto", True), ("require", True), ("off", False)])
def test_a_replay_needs_no_torch_and_no_kernels(mode, is_there):
    program = (
        "import sys; import model.replica; from cuda_ext import load;"
        "print(load.integers() is not None, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"P2PNODE_EXT": mode}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(is_there), "False"]
