"""What a trainer takes up again, and every way in which its file can be of no use."""

import numpy as np
import pytest

from model import trainer_state
from model.config import ModelConfig
from model.error_feedback import ErrorFeedback
from model.errors import SnapshotError
from model.layout import Layout

LAYOUT = Layout.of(ModelConfig(width=32, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32))
WIDER = Layout.of(ModelConfig(width=64, layers=1, heads=2, key_value_heads=1, feed_forward=64, context=32))


@pytest.fixture
def saved(tmp_path):
    random, path = np.random.default_rng(1), tmp_path / "state.safetensors"
    feedback, update = ErrorFeedback(LAYOUT), random.standard_normal(LAYOUT.values).astype(np.float32) / 1000
    for padding in LAYOUT.padding:
        update[padding] = 0
    feedback.compress(update, height=7)
    moments = tuple(random.random((2, LAYOUT.values), dtype=np.float32))
    trainer_state.save(path, owner="me", steps=30, moments=(*moments, 20), feedback=feedback)
    return path, moments, feedback


def test_all_of_it_comes_back(saved):
    path, moments, feedback = saved
    state = trainer_state.load(path, owner="me", layout=LAYOUT)
    assert state.steps == 30 and state.feedback.pending == feedback.pending
    assert np.array_equal(state.feedback.residual, feedback.residual)
    first, second, count = state.moments
    assert np.array_equal(first, moments[0]) and np.array_equal(second, moments[1]) and count == 20


def test_before_the_first_step_there_are_no_moments(tmp_path):
    path = tmp_path / "state.safetensors"
    trainer_state.save(path, owner="me", steps=0, moments=None, feedback=ErrorFeedback(LAYOUT))
    state = trainer_state.load(path, owner="me", layout=LAYOUT)
    assert state.moments is None and state.feedback.pending is None


@pytest.mark.parametrize(("owner", "layout", "why"), [("you", LAYOUT, "another node"), ("me", WIDER, "damaged")])
def test_the_state_of_another_is_of_no_use(saved, owner, layout, why):
    with pytest.raises(SnapshotError, match=why):
        trainer_state.load(saved[0], owner=owner, layout=layout)


def test_a_missing_or_a_cut_file_is_one_error(saved, tmp_path):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:-1])
    for file in (path, tmp_path / "none"):
        with pytest.raises(SnapshotError, match="no readable trainer state"):
            trainer_state.load(file, owner="me", layout=LAYOUT)
