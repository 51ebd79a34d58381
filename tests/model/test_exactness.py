"""The replicated path against two twins: plain Python integers (obvious and slow), and torch (other kernels altogether).

Every comparison is of all bits. The extremes come from the bounds that the docstrings of aggregate.py and outer.py prove.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import aggregate as aggregate_module
from model import compression
from model.aggregate import aggregate, norm_weights, squared_norm
from model.compression import Contribution
from model.config import ModelConfig, TrainingConfig
from model.errors import PayloadError
from model.layout import Layout
from model.outer import make_canonical, outer_step
from model.replica import Replica

CONFIG = ModelConfig(width=24, layers=1, heads=2, key_value_heads=1, feed_forward=200, context=16)
LAYOUT = Layout.of(CONFIG)
PLAIN = TrainingConfig()
TRAININGS = (
    PLAIN,
    TrainingConfig(outer_rate_numerator=7, outer_rate_denominator=3),
    TrainingConfig(momentum_numerator=7, momentum_shift=3),
    TrainingConfig(momentum_numerator=1, momentum_shift=10, nesterov=True, outer_rate_numerator=1024),
    TrainingConfig(momentum_numerator=1023, momentum_shift=10, nesterov=True, outer_rate_denominator=1024),
)


def torch_apply(replica: Replica, payloads: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """`Replica.apply` in torch, without tiles, and the canonical bytes of the result."""
    training = replica.training
    exponents, quanta, counted = [], [], []
    for payload, weight in zip(payloads, weights, strict=True):
        contribution = compression.decode(payload, replica.layout)
        if weight:
            exponents.append(torch.from_numpy(contribution.exponents.astype(np.int64)) + 40)
            quanta.append(torch.from_numpy(contribution.quanta.astype(np.int64)))
            counted.append(weight)
    norms = [
        sum(int(s) << 2 * int(e) for s, e in zip((q * q).sum(dim=1), exponent, strict=True))
        for q, exponent in zip(quanta, exponents, strict=True)
    ]
    median = sorted(norms)[(len(norms) - 1) // 2]
    total = torch.zeros_like(quanta[0])
    for q, exponent, norm, weight in zip(quanta, exponents, norms, counted, strict=True):
        scale = min(isqrt((median << 24) // norm), 1 << 14) if norm else 0
        total += (q << exponent[:, None]) * (scale * weight)
    total = torch.div(total + 2048, 4096, rounding_mode="floor")
    divisor = sum(counted) * training.outer_rate_denominator * 2**14
    step = torch.div(total * training.outer_rate_numerator + divisor // 2, divisor, rounding_mode="floor")
    theta = torch.tensor(replica.theta).view(-1, 4096)
    tail = b""
    if replica.momentum is not None:
        power = 2**training.momentum_shift

        def decay(m: torch.Tensor) -> torch.Tensor:
            return torch.div(m * training.momentum_numerator + power // 2, power, rounding_mode="floor")

        moved = decay(torch.tensor(replica.momentum).view(-1, 4096).long()) + step
        moved = moved.clamp(-(2**31), 2**31 - 1)
        step = step + decay(moved) if training.nesterov else moved
        tail = moved.int().numpy().tobytes()
    theta = theta - step.clamp(-(2**24) + 1, 2**24 - 1).float() * torch.tensor(2.0**-26)
    theta = torch.where(theta.abs() < 2.0**-126, torch.tensor(0.0), theta)
    return theta.numpy().tobytes() + tail


def python_sum(contributions: Sequence[Contribution], weights: Sequence[int], scales: Sequence[int]) -> np.ndarray:
    """The aggregate in Python's unbounded integers."""
    rows = []
    for chunk in range(len(contributions[0].quanta)):
        total = [2048] * 4096
        for contribution, weight, scale in zip(contributions, weights, scales, strict=True):
            factor = weight * scale * 2 ** (int(contribution.exponents[chunk]) + 40)
            total = [t + int(q) * factor for t, q in zip(total, contribution.quanta[chunk].tolist(), strict=True)]
        rows.append([t // 4096 for t in total])
    return np.array(rows, dtype=object)


def python_step(theta: float, momentum: int, *, total: int, count: int, training: TrainingConfig) -> tuple[float, int]:
    """One value's outer step in Python integers and one float32 subtraction."""
    divisor = count * training.outer_rate_denominator * 2**14
    step = (total * training.outer_rate_numerator + divisor // 2) // divisor
    if training.momentum_numerator:
        mu, power = training.momentum_numerator, 2**training.momentum_shift
        momentum = (momentum * mu + power // 2) // power + step
        momentum = max(-(2**31), min(2**31 - 1, momentum))
        step = step + (momentum * mu + power // 2) // power if training.nesterov else momentum
    step = max(-(2**24) + 1, min(2**24 - 1, step))
    moved = np.float32(theta) - np.float32(step / 2**26)
    return (0.0 if abs(moved) < 2.0**-126 else float(moved)), momentum


def contribution(exponents: Sequence[int] | int, quanta: np.ndarray | int, chunks: int = 3) -> Contribution:
    return Contribution(
        np.broadcast_to(np.asarray(exponents, np.int8), (chunks,)).copy(),
        np.broadcast_to(np.asarray(quanta, np.int8), (chunks, 4096)).copy(),
    )


def random_contribution(seed: int, low: int = -40, chunks: int = 3) -> Contribution:
    generator = np.random.default_rng(seed)
    return contribution(generator.integers(low, -7, chunks), generator.integers(-127, 128, (chunks, 4096)), chunks)


def whole_sum(contributions: Sequence[Contribution], weights: Sequence[int]) -> np.ndarray:
    return np.concatenate([tile.copy() for _, tile in aggregate(contributions, weights)])


def bytes_of(replica: Replica) -> bytes:
    return replica.read(0, replica.byte_length)


def payloads_of_round(layout: Layout, seed: int, count: int) -> list[bytes]:
    """Payloads of very different lengths, one of them zero."""
    generator = np.random.default_rng(seed)
    payloads = []
    for index in range(count):
        values = generator.standard_normal(layout.values).astype(np.float32) * np.float32(
            10.0 ** generator.integers(-7, 0)
        )
        for padding in layout.padding:
            values[padding] = 0
        payloads.append(compression.encode(values * (index != 1), layout))
    return payloads


@pytest.mark.parametrize("training", TRAININGS)
def test_torch_gives_the_same_bytes(training: TrainingConfig) -> None:
    replica = Replica.initial(CONFIG, training, seed=5)
    for height in range(6):
        payloads = payloads_of_round(LAYOUT, height, 1 + height)
        weights = [1, 2, 1, 0, 1, 3][: len(payloads)]
        expected = torch_apply(replica, payloads, weights)
        replica = replica.apply(payloads, weights)
        assert bytes_of(replica) == expected


@pytest.mark.parametrize("rounds", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_many_rounds_stay_equal(rounds: int) -> None:
    training = TRAININGS[2]
    replica = Replica.initial(CONFIG, training, seed=6)
    pool = payloads_of_round(LAYOUT, 99, 7)
    for height in range(rounds):
        payloads = [pool[(height + index * index) % 7] for index in range(4)]
        expected = torch_apply(replica, payloads, [1] * 4)
        replica = replica.apply(payloads, [1] * 4)
        assert bytes_of(replica) == expected


def test_python_integers_give_the_same_sum() -> None:
    for seed in range(3):
        contributions = [random_contribution(10 * seed + index) for index in range(4)]
        weights = [1, 1, 2, 1]
        scales = norm_weights([squared_norm(each) for each in contributions])
        assert (whole_sum(contributions, weights) == python_sum(contributions, weights, scales)).all()


def test_the_sum_at_its_extremes_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 contributions of the largest value, stretched as far as the rules allow: |A| = 127 * 2^56 before its shift."""
    monkeypatch.setattr(aggregate_module, "norm_weights", lambda norms: [1 << 14] * len(norms))
    for sign in (-1, 1):
        each = contribution(-8, sign * 127, chunks=1)
        for weights in ([1] * 1024, [1024], [1000, 24]):
            total = whole_sum([each] * len(weights), weights)
            assert total.tolist() == [[sign * 127 * 2**44] * 4096]


@pytest.mark.parametrize("training", TRAININGS)
def test_the_outer_step_at_its_extremes(training: TrainingConfig) -> None:
    largest = 127 * 2**44
    totals = [0, 1, -1, 2**13, -(2**13), 2**13 - 1, 2**40, -(2**40), 127 * 2**34, -127 * 2**34, largest, -largest]
    thetas = [0.0, 1.0, -1.0, 2.0**-26, 2.0**-126, -(2.0**-126), 3e38, -3e38, 0.1, 2.0**-27]
    momenta = [0, 1, -1, 2**31 - 1, -(2**31), 2**24, -(2**24)]
    for count in (1, 3, 1024):
        cases = list(itertools.product(totals, thetas, momenta))
        theta = np.array([case[1] for case in cases], np.float32)
        momentum = np.array([case[2] for case in cases], np.int32)
        expected = [
            python_step(float(t), int(m), total=case[0], count=count, training=training)
            for case, t, m in zip(cases, theta, momentum, strict=True)
        ]
        total = np.array([case[0] for case in cases], np.int64)
        outer_step(
            theta, momentum if training.momentum_numerator else None, total=total, count=count, training=training
        )
        assert theta.tolist() == [value for value, _ in expected]
        assert momentum.tolist() == [value for _, value in expected]
        assert np.isfinite(theta).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    total=st.integers(-127 * 2**44, 127 * 2**44) | st.integers(-(2**30), 2**30),
    theta=st.floats(-4, 4, width=32, allow_subnormal=False),
    momentum=st.integers(-(2**31), 2**31 - 1),
    count=st.integers(1, 1024),
    training=st.sampled_from(TRAININGS),
)
def test_the_outer_step_is_what_python_integers_say(
    total: int, theta: float, momentum: int, count: int, training: TrainingConfig
) -> None:
    thetas, momenta = np.array([theta + 0.0], np.float32), np.array([momentum], np.int32)
    make_canonical(thetas)
    expected = python_step(float(thetas[0]), momentum, total=total, count=count, training=training)
    moving = momenta if training.momentum_numerator else None
    outer_step(thetas, moving, total=np.array([total], np.int64), count=count, training=training)
    assert (float(thetas[0]), int(momenta[0])) == expected
    assert thetas.view(np.uint32)[0] != 0x80000000


@settings(max_examples=100, deadline=None, derandomize=True)
@given(bits=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 2**23), min_size=1, max_size=40))
def test_canonical_means_no_negative_zero_and_no_denormal(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    make_canonical(values)
    expected = [0 if not bit & 0x7F800000 else bit for bit in bits]
    assert values.view(np.uint32).tolist() == expected


def test_a_squared_norm_is_exact_at_its_extremes() -> None:
    for quantum in (127, -127, 1, 0):
        for exponent in (-40, -8):
            each = contribution(exponent, quantum, chunks=5)
            assert squared_norm(each) == 5 * 4096 * quantum**2 * 4 ** (exponent + 40)
    each = random_contribution(1, chunks=20)
    rows = zip(each.quanta.astype(object), each.exponents.tolist(), strict=True)
    assert squared_norm(each) == sum(int((row * row).sum()) * 4 ** (exponent + 40) for row, exponent in rows)


def test_norms_are_equalised_to_the_lower_median() -> None:
    assert norm_weights([100, 100, 100]) == [4096] * 3
    assert norm_weights([1, 4, 16, 64]) == [8192, 4096, 2048, 1024]  # the lower of the two in the middle
    assert norm_weights([1, 10**30, 10**30]) == [16384, 4096, 4096]  # a short one is stretched fourfold at most
    assert norm_weights([10**24, 1, 1]) == [0, 4096, 4096]
    assert norm_weights([0, 5, 5]) == [0, 4096, 4096]
    assert norm_weights([0, 0, 5]) == [0, 0, 0]  # a majority did not learn: neither does the network
    assert norm_weights([7]) == [4096]


def test_one_liar_with_huge_values_moves_the_model_no_further_than_an_honest_node() -> None:
    generator = np.random.default_rng(0)
    honest = [generator.standard_normal(LAYOUT.values).astype(np.float32) * np.float32(1e-4) for _ in range(3)]
    liar = np.full(LAYOUT.values, 0.49, np.float32)
    for values in (*honest, liar):
        for padding in LAYOUT.padding:
            values[padding] = 0
    start = Replica.initial(CONFIG, PLAIN, seed=1)
    moved = start.apply([compression.encode(values, LAYOUT) for values in (*honest, liar)], [1] * 4)
    length = float(np.linalg.norm(moved.theta - start.theta))
    assert length <= max(float(np.linalg.norm(values)) for values in honest)


def test_the_order_of_arrival_changes_nothing() -> None:
    start = Replica.initial(CONFIG, TRAININGS[2], seed=2).apply(payloads_of_round(LAYOUT, 3, 2), [1, 1])
    pairs = list(zip(payloads_of_round(LAYOUT, 4, 6), [1, 1, 2, 0, 1, 1], strict=True))
    expected = bytes_of(start.apply(*zip(*pairs, strict=True)))
    generator = np.random.default_rng(0)
    for _ in range(12):
        shuffled = [pairs[index] for index in generator.permutation(len(pairs))]
        assert bytes_of(start.apply(*zip(*shuffled, strict=True))) == expected


def test_any_sharding_gives_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    contributions = [random_contribution(seed, chunks=21) for seed in range(3)]
    expected = whole_sum(contributions, [1, 1, 1])
    for tile in (1, 4, 20, 64):
        monkeypatch.setattr(aggregate_module, "TILE_CHUNKS", tile)
        assert (whole_sum(contributions, [1, 1, 1]) == expected).all()


def test_what_has_no_weight_is_checked_and_not_counted() -> None:
    start = Replica.initial(CONFIG, PLAIN, seed=2)
    first, second, third = payloads_of_round(LAYOUT, 8, 3)
    assert bytes_of(start.apply([first, third], [1, 0])) == bytes_of(start.apply([first], [1]))
    assert start.apply([first, second], [0, 0]) is start and start.apply([], []) is start
    with pytest.raises(PayloadError):
        start.apply([first, third[:-1]], [1, 0])


def test_momentum_carries_on_and_a_round_of_zeros_only_decays_it() -> None:
    training = replace(PLAIN, momentum_numerator=1, momentum_shift=1)
    start = Replica.initial(CONFIG, training, seed=2)
    values = np.zeros(LAYOUT.values, np.float32)
    values[0] = 2.0**-10
    pushed = start.apply([compression.encode(values, LAYOUT)], [1])
    coasted = pushed.apply([compression.encode(values * 0, LAYOUT)], [1])
    assert pushed.momentum is not None and coasted.momentum is not None
    assert (int(pushed.momentum[0]), int(coasted.momentum[0])) == (2**16, 2**15)
    assert float(start.theta[0] - pushed.theta[0]) == pytest.approx(2.0**-10, rel=1e-3)
    assert float(pushed.theta[0] - coasted.theta[0]) == pytest.approx(2.0**-11, rel=1e-3)
