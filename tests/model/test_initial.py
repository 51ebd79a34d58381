import hashlib
from math import sqrt

import numpy as np
import pytest

from model.config import PRESETS, ModelConfig, TrainingConfig
from model.initial import eight_bit_root, initial_parameters, odd_integers
from model.layout import Layout
from model.replica import Replica

# Consensus: a change of either value is another network.
TINY_ROOT = "749964229b6e600141277af55bdead68bf44cd83a77a998dee8e3552f06e574c"
EVERYTHING = ModelConfig(
    width=24, layers=2, heads=4, key_value_heads=2, feed_forward=40, context=16, initial_gain=2, tied_head=False, norm="layer",
    positions="learned", attention_sinks=True, experts=3, shared_experts=3,
)  # fmt: skip
PHILOX_ZERO = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


def test_philox_gives_the_answers_that_its_authors_published() -> None:
    """Random123's kat_vectors, philox4x64-10, counter and key zero; numpy counts up before it draws."""
    generator = np.random.Philox(key=0, counter=2**256 - 1)
    assert generator.random_raw(4).tolist() == PHILOX_ZERO


def test_the_first_model_of_the_default_network_is_known() -> None:
    replica = Replica.initial(PRESETS["tiny"], TrainingConfig(), seed=0)
    digest = hashlib.sha256(b"".join(replica.leaves())).hexdigest()
    assert digest == TINY_ROOT


def test_seeds_and_tensors_differ() -> None:
    config = PRESETS["tiny"]
    first, again, other = (initial_parameters(config, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert odd_integers(1, "a", 8).tolist() != odd_integers(1, "b", 8).tolist()


def test_a_longer_draw_begins_with_the_shorter() -> None:
    assert odd_integers(9, "x", 1001)[:77].tolist() == odd_integers(9, "x", 77).tolist()


def test_integers_are_odd_symmetric_and_uniform() -> None:
    values = odd_integers(3, "uniform", 1 << 16)
    assert (values % 2 == 1).all() and values.min() >= -0xFFFF and values.max() <= 0xFFFF
    assert abs(values.mean()) < 0xFFFF / 100
    assert values.std() == pytest.approx(0x10000 / sqrt(3), rel=0.01)


@pytest.mark.parametrize("config", [PRESETS["tiny"], EVERYTHING], ids=["tiny", "everything"])
def test_every_value_is_an_integer_times_a_power_of_two(config: ModelConfig) -> None:
    """Exactness: divided by its tensor's unit, a value is an integer of 24 bits, so no rounding was involved."""
    flat = initial_parameters(config, 4)
    for place in Layout.of(config).tensors:
        values = flat[place.offset : place.offset + place.count].astype(np.float64)
        if len(place.shape) == 1:
            assert (values == values[0]).all()
            continue
        scaled = values * 2.0**40
        assert (scaled == np.rint(scaled)).all() and (np.abs(values) < 4).all() and values.any()


@pytest.mark.parametrize("fraction", [(3, 1), (3, 128), (1, 7), (3, 10**6), (255 * 255, 1)])
def test_a_bound_has_eight_bits_and_is_rounded_down(fraction: tuple[int, int]) -> None:
    mantissa, shift = eight_bit_root(*fraction)
    exact = sqrt(fraction[0] / fraction[1])
    assert 128 <= mantissa <= 255
    assert mantissa * 2.0 ** (16 - shift) <= exact < (mantissa + 1) * 2.0 ** (16 - shift)


def test_every_kind_of_tensor_starts_where_its_use_wants_it() -> None:
    layout, flat = Layout.of(EVERYTHING), initial_parameters(EVERYTHING, 4)
    width, hidden, gain, layers = 24, 40, 2, 2
    expected = {
        "embed_tokens.weight": width**-0.5, "embed_positions.weight": width**-0.5, "lm_head.weight": width**-0.5,
        "q_proj.weight": width**-0.5 / gain, "gate.weight": width**-0.5 / gain, "gate_up_proj": width**-0.5 / gain,
        "o_proj.weight": (2 * layers * width) ** -0.5, "experts.down_proj": (2 * layers * hidden) ** -0.5,
        "shared_experts.down_proj.weight": (2 * layers * 3 * hidden) ** -0.5,
    }  # fmt: skip
    constants = {".bias": 0, ".sinks": 0, "layernorm.weight": gain, "model.norm.weight": 1}
    seen = set()
    for place in layout.tensors:
        values = flat[place.offset : place.offset + place.count]
        for end, deviation in expected.items():
            if place.name.endswith(f".{end}") or place.name == end:
                seen.add(end)
                assert values.std() == pytest.approx(deviation, rel=0.1), place.name
        for end, value in constants.items():
            if place.name.endswith(end):
                seen.add(end)
                assert (values == value).all(), place.name
    assert seen == expected.keys() | constants.keys()


def test_a_tensor_is_the_same_however_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = initial_parameters(EVERYTHING, 4)
    monkeypatch.setattr("model.initial._DRAWN_AT_ONCE", 1000)
    assert initial_parameters(EVERYTHING, 4).tobytes() == whole.tobytes()


def test_padding_is_zero() -> None:
    config = PRESETS["tiny"]
    flat = initial_parameters(config, 4)
    assert not any(flat[padding].any() for padding in Layout.of(config).padding)
