"""What a node may compute in, and the scale of the loss that fp16 needs."""

import subprocess
import sys

import pytest
import torch

from model.errors import ConfigError
from model.precision import PRECISIONS, LossScaler, autocast, check_precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_of_the_type_that_was_chosen(precision: str) -> None:
    a = torch.ones(4, 4, requires_grad=True)
    with autocast(precision, "cpu"):
        product = a @ a
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert product.dtype == expected[precision]
    product.float().sum().backward()
    assert a.grad is not None and a.grad.dtype == torch.float32


def test_fp16_on_a_processor_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="19 times") as caught:
        check_precision("fp16", "cpu")
    assert "bf16" in caught.value.hint
    for precision, device in (("fp16", "cuda:1"), ("bf16", "cpu"), ("fp32", "cuda")):
        check_precision(precision, device)
    with pytest.raises(ConfigError, match="unknown precision 'fp8'"):
        check_precision("fp8", "cuda")


def test_the_scale_halves_at_an_overflow_and_doubles_after_two_thousand_good_steps() -> None:
    scaler = LossScaler(1024.0)
    assert not scaler.accept(finite=False) and scaler.scale == 512
    for _ in range(1999):
        assert scaler.accept(finite=True) and scaler.scale == 512
    assert scaler.accept(finite=True) and scaler.scale == 1024
    assert not scaler.accept(finite=False) and (scaler.scale, scaler.good_steps) == (512, 0)


def test_a_scale_of_one_hides_no_divergence() -> None:
    scaler = LossScaler(2.0)
    assert not scaler.accept(finite=False)
    assert scaler.accept(finite=False) and scaler.scale == 1


def test_the_command_line_asks_without_torch() -> None:
    program = "import sys, model.precision; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
