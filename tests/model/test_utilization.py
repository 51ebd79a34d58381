"""Operations of a token against their count by hand, and no figure where the peak is unknown."""

from dataclasses import replace

import pytest

from model.config import PRESETS, ModelConfig
from model.utilization import PEAKS, device_name, training_flops_per_token, utilization

SMALL = ModelConfig(width=16, layers=3, heads=2, key_value_heads=1, feed_forward=40, context=64)


def test_it_is_six_for_each_value_in_a_product_and_attention_on_top() -> None:
    products = 3 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 40) + 256 * 16
    vectors = 7 * 16  # gains of the norms, which the convention counts as well
    assert training_flops_per_token(SMALL, 32) == 6 * (products + vectors) + 12 * 3 * 16 * 32


def test_rows_that_are_only_looked_up_cost_nothing() -> None:
    untied = replace(SMALL, tied_head=False)
    assert untied.parameters == SMALL.parameters + 256 * 16
    assert training_flops_per_token(untied, 32) == training_flops_per_token(SMALL, 32)


def test_of_the_experts_only_a_tokens_own_count() -> None:
    few, many = (replace(SMALL, experts=experts, experts_per_token=2) for experts in (4, 64))
    router = 60 * 16 * 3  # its rows, and nothing else
    assert training_flops_per_token(many, 32) == training_flops_per_token(few, 32) + 6 * router


def test_a_window_is_what_a_token_sees() -> None:
    windowed = replace(SMALL, attention="window", window=8)
    full, seen = training_flops_per_token(SMALL, 64), training_flops_per_token(windowed, 64)
    assert full - seen == 12 * 3 * 16 * (64 - 8)
    sparse = replace(SMALL, attention="block-sparse", sparse_block=8, sparse_local=1, sparse_stride=4)
    assert full - training_flops_per_token(sparse, 64) == 12 * 3 * 16 * (64 - 24)


def test_heads_may_be_wider_than_the_stream() -> None:
    grown = replace(SMALL, head_dim=3 * SMALL.head_size)
    more = 6 * (grown.parameters - SMALL.parameters) + 12 * 3 * (grown.query_width - SMALL.query_width) * 64
    assert training_flops_per_token(grown, 64) - training_flops_per_token(SMALL, 64) == more


def test_the_eight_billion_take_about_six_times_their_number() -> None:
    config = PRESETS["8b"]
    assert training_flops_per_token(config, 8192) == pytest.approx(6 * config.parameters + 12.9e9, rel=0.01)


def test_a_share_of_the_peak_or_nothing() -> None:
    assert utilization(494.7e12, 1.0, device_name="NVIDIA H200", precision="bf16") == pytest.approx(0.5)
    assert utilization(494.7e12, 2.0, device_name="NVIDIA H200", precision="fp16") == pytest.approx(0.25)
    for name, precision in (("cpu", "fp32"), ("NVIDIA H200 MIG 1g.18gb", "bf16"), ("Tesla T4", "bf16")):
        assert utilization(1e12, 1.0, device_name=name, precision=precision) is None
    assert utilization(1e12, 0.0, device_name="NVIDIA H200", precision="bf16") is None
    assert device_name("cpu") == "cpu"


def test_sixteen_bits_are_faster_on_every_part_of_the_table() -> None:
    for name, peaks in PEAKS.items():
        assert set(peaks) <= {"bf16", "fp16", "fp32"}, name
        assert max(peaks.get("bf16", 0), peaks["fp16"]) > 1.9 * peaks.get("fp32", 0), name
