"""config.py and fields.py: the presets, what is refused, and which documents older networks have."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import PRESETS, ModelConfig, TrainingConfig, check_together
from model.errors import ConfigError
from model.layout import Layout

TINY = PRESETS["tiny"]


@pytest.mark.parametrize(("size", "low", "high"), [
    ("tiny", 1.1e6, 1.3e6), ("small", 8e6, 12e6), ("base", 70e6, 130e6), ("1b", 0.9e9, 1.2e9), ("8b", 6.5e9, 8.1e9),
])  # fmt: skip
def test_presets_have_the_size_that_they_name(size: str, low: float, high: float) -> None:
    config, sparse = ModelConfig.named(size), ModelConfig.named(f"{size}-moe")
    assert low < config.parameters == config.active_parameters < high
    assert config.active_parameters <= sparse.active_parameters < 1.01 * high, "a token costs what it costs without"
    assert sparse.parameters > 3 * config.parameters and sparse.experts == 8
    for each in (config, sparse):
        assert each.parameters == sum(place.count for place in Layout.of(each).tensors)


def test_the_large_presets_are_llamas() -> None:
    for size, parameters in (("1b", 1_235_814_400), ("8b", 8_030_261_248)):
        config = ModelConfig.named(size, vocabulary=128_256)
        assert config.parameters == parameters == sum(place.count for place in Layout.of(config).tensors)


# One of each choice that adds, removes or reshapes tensors.
EVERY_TENSOR = [
    {"norm": "layer"}, {"activation": "gelu"}, {"activation": "relu", "norm": "layer"}, {"positions": "learned", "rope_base": 10_000},
    {"tied_head": False, "vocabulary": 1000}, {"attention_sinks": True}, {"head_dim": 6},
    {"width": 132, "head_dim": 40}, {"experts": 5, "experts_per_token": 3},
    {"experts": 4, "shared_experts": 3, "tied_head": False, "norm": "layer", "attention_sinks": True},
]  # fmt: skip


@pytest.mark.parametrize("change", EVERY_TENSOR)
def test_the_parameters_are_those_of_the_layout(change: dict[str, Any]) -> None:
    config = replace(TINY, **change)
    places = Layout.of(config).tensors
    assert config.parameters == sum(place.count for place in places)
    one = config.experts_per_token / config.experts if config.experts else 1
    assert config.active_parameters == sum(place.count * (one if ".experts." in place.name else 1) for place in places)


@pytest.mark.parametrize("config", [*PRESETS.values(), TrainingConfig()])
def test_a_configuration_survives_canonical_json(config: ModelConfig | TrainingConfig) -> None:
    text = json.dumps(config.to_dict())
    assert "." not in text.replace('"0.', "").replace('"1.', ""), "decimals must be strings"
    assert type(config).from_dict(json.loads(text)) == config


def test_a_size_can_be_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    fields = {"width": 64, "layers": 2, "heads": 4, "key_value_heads": 2, "feed_forward": 96, "context": 128}
    path.write_text(json.dumps(fields))
    assert ModelConfig.named(str(path)) == ModelConfig(**fields)


@pytest.mark.parametrize("content", [
    b"", b"[]", b"\xff\xfe", b"{", b"{}", b'{"width": 64}', b'{"width": "64"}', b" " * 100_000, b"[" * 60_000,
    json.dumps(TINY.to_dict() | {"widht": 1}).encode(), json.dumps(TINY.to_dict() | {"layers": True}).encode(),
    json.dumps(TINY.to_dict() | {"width": 10**12}).encode(), json.dumps(TINY.to_dict() | {"width": None}).encode(),
])  # fmt: skip
def test_a_bad_size_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ModelConfig.named(str(path))
    assert caught.value.message and "\n" not in caught.value.message and len(caught.value.message) < 300


def test_a_preset_has_a_variant_with_experts_by_either_name(tmp_path: Path) -> None:
    assert ModelConfig.named("tiny", moe=True) == ModelConfig.named("tiny-moe")
    for size in ("tiny-moe", "huge", str(tmp_path)):
        with pytest.raises(ConfigError, match="no variant"):
            ModelConfig.named(size, moe=True)


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.named("huge")
    assert "tiny" in caught.value.hint


@pytest.mark.parametrize("change", [
    {"width": 130}, {"heads": 3}, {"heads": 4, "key_value_heads": 3}, {"key_value_heads": 0}, {"layers": 0},
    {"feed_forward": 1 << 20}, {"context": 1}, {"rope_base": 1}, {"norm_epsilon": "nan"}, {"norm_epsilon": "x"},
    {"norm_epsilon": "1"}, {"width": 64.0}, {"vocabulary": 1}, {"vocabulary": 1 << 19}, {"dropout": "1"}, {"dropout": "-0.1"},
    {"norm": "batch"}, {"activation": "silu"}, {"positions": "alibi"}, {"attention": "flash"}, {"checkpointing": "all"},
    {"attention": "window"}, {"attention": "window", "window": 129}, {"attention": "block-sparse", "sparse_block": 0},
    {"attention": "block-sparse", "sparse_local": 0}, {"attention": "block-sparse", "sparse_stride": 0},
    {"rope_factor": 0}, {"rope_factor": 8, "rope_high_frequency": 1}, {"rope_factor": 8, "rope_original_context": 0},
    {"experts": 513}, {"experts": -1}, {"experts": 4, "experts_per_token": 5}, {"experts": 4, "experts_per_token": 0},
    {"experts": 4, "experts_per_token": 1}, {"experts": 4, "shared_experts": 187}, {"experts": 4, "activation": "gelu"},
    {"experts": 4, "balance_loss": "11"}, {"experts": 4, "router_z_loss": "x"}, {"experts": 4.0}, {"attention_sinks": 1},
    {"width": 16384, "feed_forward": 65536, "layers": 256, "experts": 512}, {"head_dim": 5}, {"head_dim": -2},
    {"width": 129, "heads": 3, "key_value_heads": 1, "head_dim": 32, "positions": "sinusoidal", "rope_base": 10_000}, {"head_dim": 1 << 15},
])  # fmt: skip
def test_a_model_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(TINY, **change)


@pytest.mark.parametrize("change", [
    {"window": 8}, {"sparse_block": 32}, {"sparse_local": 1}, {"sparse_stride": 2, "attention": "window", "window": 8},
    {"positions": "learned"}, {"positions": "sinusoidal", "rope_base": 10_000, "rope_factor": 2}, {"rope_low_frequency": 2},
    {"rope_original_context": 64}, {"experts_per_token": 1}, {"shared_experts": 1}, {"normalize_top_k": False},
    {"balance_loss": "0"}, {"router_z_loss": "0"},
])  # fmt: skip
def test_a_choice_that_nothing_would_read_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has a meaning only with"):
        replace(TINY, **change)


def test_a_document_from_before_a_field_is_todays_model_and_todays_document() -> None:
    before = {
        "width": 128, "layers": 6, "heads": 4, "key_value_heads": 2, "feed_forward": 352, "context": 128,
        "rope_base": 100, "norm_epsilon": "0.00001", "initial_gain": 4,
    }  # fmt: skip
    assert ModelConfig.from_dict(before) == TINY and TINY.to_dict() == before
    chosen = replace(TINY, norm="layer", experts=4, normalize_top_k=False, experts_per_token=1)
    added = {"norm": "layer", "experts": 4, "normalize_top_k": False, "experts_per_token": 1}
    assert chosen.to_dict() == before | added and ModelConfig.from_dict(before | added) == chosen


def test_a_network_of_bytes_needs_a_row_for_every_byte() -> None:
    check_together(replace(TINY, vocabulary=257), TrainingConfig())
    with pytest.raises(ConfigError, match="vocabulary of 255"):
        check_together(replace(TINY, vocabulary=255), TrainingConfig())


@pytest.mark.parametrize("change", [
    {"local_steps": 0}, {"batch": 0}, {"sequence": 1}, {"inner_rate": "inf"}, {"inner_rate": "-1"}, {"clip": "0"},
    {"inner_rate": 0.001}, {"outer_rate_numerator": 1025}, {"outer_rate_denominator": 0}, {"momentum_shift": 11},
    {"momentum_numerator": 8, "momentum_shift": 3}, {"nesterov": True}, {"nesterov": 1}, {"codec": "zip"},
    {"inner_rate": "0." + "0" * 30 + "1"}, {"optimizer": "adam"}, {"sharpness_radius": "-0.1"}, {"quantization": "int4"},
    {"schedule": "linear"}, {"schedule": "cosine"}, {"schedule_steps": 100}, {"schedule": "wsd", "schedule_steps": 100},
    {"schedule": "wsd", "schedule_steps": 100, "decay_steps": 101}, {"rate_floor": "1.1"}, {"decay_steps": -1},
    {"schedule": "cosine", "schedule_steps": 100, "decay_steps": 10}, {"rate_floor": "0.2"},
    {"optimizer": "sgd", "beta_second": "0.99"}, {"schedule": "cosine", "schedule_steps": 20}, {"batch": "8"}, {"batch": 10**50},
    {"inner_rate": " 0.1"}, {"inner_rate": "1_0e-3"}, {"inner_rate": "\u0660.\u0661"}, {"inner_rate": "+0.1"}, {"clip": "sNaN"},
    {"inner_rate": "1e-99999999999999"}, {"momentum_numerator": 1}, {"momentum_numerator": -1}, {"optimizer": None},
])  # fmt: skip
def test_training_out_of_bounds_is_one_line_and_a_hint(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(TrainingConfig(), **change)
    message, hint = caught.value.message, caught.value.hint
    assert (
        any(name.partition("_")[0] in message for name in change)
        and "\n" not in message
        and len(message) < 200
        and hint
    )


@pytest.mark.parametrize("change", [
    {"optimizer": "lion"}, {"sharpness_radius": "0.05"}, {"quantization": "int8"},
    {"schedule": "wsd", "schedule_steps": 100, "decay_steps": 10, "rate_floor": "0"},
])  # fmt: skip
def test_a_field_that_came_later_is_silent_at_its_default(change: dict[str, Any]) -> None:
    """So that the document of a network that was founded before is still the document of that network."""
    older = TrainingConfig().to_dict()
    assert "optimizer" not in older and TrainingConfig.from_dict(older) == TrainingConfig()
    changed = replace(TrainingConfig(), **change)
    assert changed.to_dict() == older | change
    assert TrainingConfig.from_dict(changed.to_dict()) == changed


def test_training_can_be_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"optimizer": "sgd", "inner_rate": "0.1"}')
    assert TrainingConfig.from_file(path) == TrainingConfig(optimizer="sgd", inner_rate="0.1")
    path.write_text('{"optimiser": "sgd"}')
    with pytest.raises(ConfigError, match="unknown: optimiser") as caught:
        TrainingConfig.from_file(path)
    assert "optimizer" in caught.value.hint
    path.write_text('{"batch": 4, "batch": 8}')
    with pytest.raises(ConfigError, match="a name stands there twice"):
        TrainingConfig.from_file(path)
    with pytest.raises(ConfigError, match="no training named"):
        TrainingConfig.from_file(tmp_path / "none.json")


def test_a_context_shorter_than_the_training_windows_is_refused() -> None:
    check_together(TINY, TrainingConfig())
    with pytest.raises(ConfigError, match="context is 64"):
        check_together(replace(TINY, context=64), TrainingConfig())


def test_the_command_line_does_not_pay_for_torch() -> None:
    program = "import sys, model, model.config, model.errors, model.layout; print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_a_follower_does_not_load_torch() -> None:
    program = "import sys, model.replica, model.selftest, model.data; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]


def test_the_layout_pads_every_tensor_to_chunks() -> None:
    layout = Layout.of(TINY)
    offset = 0
    for place in layout.tensors:
        assert place.offset == offset and offset % 4096 == 0
        offset += -(-place.count // 4096) * 4096
    assert layout.values == offset == layout.chunks * 4096
    padded = sum(span.stop - span.start for span in layout.padding)
    assert padded == layout.values - TINY.parameters
    assert all(span.stop % 4096 == 0 and 0 < span.stop - span.start < 4096 for span in layout.padding)


def test_the_layout_says_which_tensor_holds_a_value() -> None:
    layout = Layout.of(TINY)
    assert layout.locate(0) == "model.embed_tokens.weight"
    assert layout.locate(layout.values - 1) == "model.norm.weight"
    for place in layout.tensors:
        assert layout.locate(place.offset) == layout.locate(place.offset + place.count - 1) == place.name
