"""A step through torch's compiler: the same gradient, and nothing lost where it fails."""

from typing import Any

import numpy as np
import pytest
import torch

from model.compiling import Compiled
from model.config import ModelConfig, TrainingConfig
from model.initial import initial_parameters
from model.learner import Learner

CONFIG = ModelConfig(width=32, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32)
TRAINING = TrainingConfig(batch=4, sequence=24, warmup_steps=0)
WINDOWS = np.random.default_rng(1).integers(0, 256, (4, 25))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
def test_the_compiled_step_has_the_same_loss_and_gradient() -> None:
    results = []
    for compiled in (False, True):
        learner = Learner(CONFIG, TRAINING, compiled=compiled)
        learner.load(initial_parameters(CONFIG, 1))
        loss = learner.step(WINDOWS, network_step=0, seed=1)
        results.append((loss, learner.flat.gradient.clone()))
        assert learner.compilation == ("compiled" if compiled else "")
    (plain, slope), (quick, compiled_slope) = results
    assert quick == pytest.approx(plain, rel=1e-6)
    assert (slope - compiled_slope).abs().max() <= 1e-5 * slope.abs().max()


def test_where_it_fails_training_goes_on_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(plain: Any, **_: Any) -> Any:
        def quick(*_: Any) -> Any:
            raise RuntimeError("no C++ compiler\nand a long story")

        return quick

    monkeypatch.setattr(torch, "compile", no_compiler)
    learner = Learner(CONFIG, TRAINING, compiled=True)
    learner.load(initial_parameters(CONFIG, 1))
    assert learner.step(WINDOWS, network_step=0, seed=1) is not None
    assert learner.compilation == "not compiled: no C++ compiler"


def test_what_is_wrong_without_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: int) -> int:
        raise ValueError(f"no such {x}")

    monkeypatch.setattr(torch, "compile", lambda plain, **_: plain)
    run = Compiled(broken)
    with pytest.raises(ValueError, match="no such 3"):
        run(3)
    assert run.failure is None
