"""What a trainer takes up again, and every way in which its file can be of no use."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model import trainer_state
from model.config import ModelConfig, TrainingConfig
from model.error_feedback import ErrorFeedback
from model.errors import SnapshotError
from model.learner import Learner
from model.precision import LossScaler
from tests.model.resuming import WAYS, rounds

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(width=32, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32)
WIDER = ModelConfig(width=64, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32)
TRAINING = TrainingConfig(batch=2, sequence=16)
WINDOWS = np.random.default_rng(2).integers(0, 256, (2, 17))


def learner(config: ModelConfig = CONFIG, training: TrainingConfig = TRAINING) -> Learner:
    return Learner(config, training)


@pytest.fixture
def saved(tmp_path):
    random, path = np.random.default_rng(1), tmp_path / "state.safetensors"
    one = learner()
    layout = one.flat.layout
    feedback, update = ErrorFeedback(layout), random.standard_normal(layout.values).astype(np.float32) / 1000
    for padding in layout.padding:
        update[padding] = 0
    feedback.compress(update, height=7)
    one.load(update)
    for step in range(3):
        one.step(WINDOWS, network_step=step, seed=step)
    one.scaler = LossScaler(512.0, 77)
    trainer_state.save(path, owner="me", state=trainer_state.take(one, feedback))
    return path, one, feedback


def test_all_of_it_comes_back(saved):
    path, one, feedback = saved
    two = learner()
    two.scaler = LossScaler()
    state = trainer_state.load(path, owner="me", like=two)
    trainer_state.give(state, two)
    assert two.steps == one.steps == 3 and state.feedback.pending == feedback.pending
    assert np.array_equal(state.feedback.residual, feedback.residual)
    assert set(two.optimizer.state()) == {"first", "second", "count"}
    for name, tensor in two.optimizer.state().items():
        assert tensor.any() and tensor.equal(one.optimizer.state()[name])
    assert (two.scaler.scale, two.scaler.good_steps) == (512, 77)


def test_a_scale_is_of_no_use_to_who_needs_none(saved):
    two = learner()
    trainer_state.give(trainer_state.load(saved[0], owner="me", like=two), two)
    assert two.scaler is None and two.steps == 3


@pytest.mark.parametrize(("owner", "like", "why"), [
    ("you", (CONFIG, TRAINING), "another node"), ("me", (WIDER, TRAINING), "damaged"),
    ("me", (CONFIG, TrainingConfig(batch=2, sequence=16, optimizer="sgd")), "damaged"),
])  # fmt: skip
def test_the_state_of_another_is_of_no_use(saved, owner, like, why):
    with pytest.raises(SnapshotError, match=why):
        trainer_state.load(saved[0], owner=owner, like=learner(*like))


def test_a_missing_or_a_cut_file_is_one_error(saved, tmp_path):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:-1])
    for file in (path, tmp_path / "none"):
        with pytest.raises(SnapshotError, match="no readable trainer state"):
            trainer_state.load(file, owner="me", like=learner())


def test_another_process_goes_on_bit_for_bit(tmp_path):
    """Three rounds of each way to train; and one, and two in a process that knows nothing but the files of the first."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    expected = rounds(straight, range(1, 4))
    rounds(stopped, range(1, 2))
    command = [sys.executable, "-m", "tests.model.resuming", str(stopped), "2", "4"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(said.stdout) == expected
    assert len(set(expected.values())) == len(WAYS), "each way learns something else"
