"""Where a decoder computes with torch's own expressions (test_writing.py shows to what end), and that it is the same function."""

import pytest
import torch

from model.plain import is_plain
from tests.model.decoders import build, variant, windows


def test_it_is_where_nothing_is_learned_in_float32_on_a_cpu() -> None:
    x = torch.zeros(3)
    assert not is_plain(x)
    with torch.no_grad():
        assert is_plain(x) and not is_plain(x.bfloat16()) and not is_plain(x.double())


@pytest.mark.parametrize("name", ["llama", "window", "experts", "experts-odd", "switch", "window-sinks"])
def test_it_is_the_function_that_learns(name: str) -> None:
    config = variant(name, context=80)
    model, _ = build(config)
    tokens = windows(config, 2, 79)
    with torch.no_grad():
        plain = model(tokens)
    assert torch.allclose(plain, model(tokens), atol=2e-5)
