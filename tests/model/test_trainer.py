import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import compression
from model.config import ModelConfig, TrainingConfig
from model.data import Corpus
from model.error_feedback import ErrorFeedback
from model.errors import NonFiniteError, SnapshotError
from model.layout import Layout
from model.limits import MICRO_BATCH_TOKENS
from model.replica import Replica
from model.trainer import Trainer

CONFIG = ModelConfig(width=32, layers=2, heads=2, key_value_heads=1, feed_forward=64, context=32)
TRAINING = TrainingConfig(local_steps=4, batch=4, sequence=32, warmup_steps=5)
CORPUS = Corpus(b"The quick brown fox jumps over the lazy dog, again. " * 400, 32)
CHAIN, AUTHOR = bytes(32), b"\1" * 32


def trainer(training: TrainingConfig = TRAINING, author: bytes = AUTHOR, chain_id: bytes = CHAIN) -> Trainer:
    return Trainer(CONFIG, training, CORPUS, chain_id=chain_id, author=author)


def initial(training: TrainingConfig = TRAINING) -> Replica:
    return Replica.initial(CONFIG, training, seed=1)


def run(node: Trainer, replica: Replica, heights: range) -> tuple[Replica, list[bytes]]:
    payloads = []
    for height in heights:
        update = node.learn(replica, height)
        assert update is not None
        payloads.append(update.payload)
        replica = replica.apply([update.payload], [1])
        node.settle(height, True)
    return replica, payloads


def values(payload: bytes) -> np.ndarray:
    layout = Layout.of(CONFIG)
    return compression.dequantize(compression.decode(payload, layout))


def test_learning_learns() -> None:
    node, replica = trainer(), initial()
    before = node.evaluate(replica)
    assert 5 < before < 7
    replica, _ = run(node, replica, range(1, 31))
    assert node.evaluate(replica) < 0.55 * before


def test_an_update_reports_its_figures() -> None:
    node, replica = trainer(), initial()
    heard: list[tuple[int, float]] = []
    update = node.learn(replica, 1, progress=lambda step, loss: heard.append((step, loss)))
    assert update is not None
    assert [step for step, _ in heard] == [1, 2, 3, 4]
    losses = [loss for _, loss in heard]
    assert update.loss == pytest.approx(sum(losses) / 4) and update.loss_first == losses[0]
    assert update.tokens == 4 * 4 * 32 and update.seconds > 0
    compression.check(update.payload, replica.layout)


def test_the_same_node_learns_the_same_and_another_node_something_else() -> None:
    first, again, other = trainer(), trainer(), trainer(author=b"\2" * 32)
    updates = [node.learn(initial(), 1) for node in (first, again, other)]
    digests = [hashlib.sha256(update.payload).hexdigest() for update in updates if update]
    assert digests[0] == digests[1] != digests[2]


def test_micro_batches_add_up_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer().learn(initial(), 1)
    monkeypatch.setitem(MICRO_BATCH_TOKENS, "cpu", 32)
    parts = trainer().learn(initial(), 1)
    assert whole and parts
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    difference = np.linalg.norm(values(parts.payload) - values(whole.payload))
    assert difference < 0.05 * np.linalg.norm(values(whole.payload))


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_stop_comes_between_micro_batches(batches: int) -> None:
    node = trainer()
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > batches

    assert node.learn(initial(), 1, should_stop=should_stop) is None
    assert asked == batches + 1 and node.learner.steps == batches
    assert node.feedback.pending is None
    assert node.learn(initial(), 1) is not None


@pytest.mark.parametrize("settled", [None, True, False])
def test_a_restored_trainer_goes_on_bit_for_bit(tmp_path: Path, settled: bool | None) -> None:
    path = tmp_path / "trainer.state"
    one = trainer()
    replica, _ = run(one, initial(), range(1, 3))
    update = one.learn(replica, 3)
    assert update is not None
    if settled is not None:
        one.settle(3, settled)
    one.save(path)
    two = trainer()
    two.restore(path)
    assert two.learner.steps == one.learner.steps == 12
    after = replica.apply([update.payload], [1])
    for node in (one, two):
        node.settle(3, True)
    assert run(one, after, range(4, 7))[1] == run(two, after, range(4, 7))[1]
    assert [each.name for each in tmp_path.iterdir()] == ["trainer.state"]


def test_a_trainer_that_never_learned_can_be_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "trainer.state"
    trainer().save(path)
    node = trainer()
    node.restore(path)
    assert node.learner.steps == 0 and run(node, initial(), range(1, 2))[1] == run(trainer(), initial(), range(1, 2))[1]


def test_another_nodes_or_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trainer.state"
    node = trainer()
    node.learn(initial(), 1)
    node.save(path)
    for other in (trainer(author=b"\2" * 32), trainer(chain_id=b"\2" * 32)):
        with pytest.raises(SnapshotError):
            other.restore(path)
    wider = Trainer(replace(CONFIG, feed_forward=200), TRAINING, CORPUS, chain_id=CHAIN, author=AUTHOR)
    with pytest.raises(SnapshotError):
        wider.restore(path)
    with pytest.raises(SnapshotError, match="damaged"):
        trainer(replace(TRAINING, optimizer="lion")).restore(path)
    content = path.read_bytes()
    for wrong in (b"", content[:50], content[:-9], b"x" * 500):
        path.write_bytes(wrong)
        with pytest.raises(SnapshotError):
            node.restore(path)
    with pytest.raises(SnapshotError):
        node.restore(tmp_path / "missing")


def test_evaluation_changes_nothing_and_repeats() -> None:
    node, control, replica = trainer(), trainer(), initial()
    assert node.evaluate(replica) == node.evaluate(replica)
    assert run(node, replica, range(1, 3))[1] == run(control, replica, range(1, 3))[1]


def test_divergence_is_said_and_survived() -> None:
    node = trainer(replace(TRAINING, inner_rate="1", warmup_steps=0))
    node.learner.model.norm.epsilon = float("nan")
    with pytest.raises(NonFiniteError):
        node.learn(initial(), 1)
    node.learner.model.norm.epsilon = 1e-5
    update = node.learn(initial(), 2)
    assert update is not None and np.isfinite(update.loss)
    assert np.isfinite(node.feedback.residual).all()


def test_nothing_is_lost_between_what_was_learned_and_what_was_sent() -> None:
    """Telescoping: after any number of rounds, what arrived plus what is owed is what was learned."""
    layout = Layout.of(CONFIG)
    feedback = ErrorFeedback(layout)
    generator = np.random.default_rng(1)
    learned, arrived = np.zeros(layout.values), np.zeros(layout.values)
    for height in range(1, 12):
        update = (generator.standard_normal(layout.values) * 1e-3).astype(np.float32)
        for padding in layout.padding:
            update[padding] = 0
        accepted = height % 4 != 0
        payload = feedback.compress(update, height)
        feedback.settle(height, accepted=accepted)
        learned += update
        arrived += values(payload) * accepted
        # heights 4 and 8 were left out: the next payload carries two updates
        if accepted:
            assert np.abs(learned - arrived).max() < 2e-4
    assert np.allclose(arrived + feedback.residual, learned, atol=1e-7)


def test_a_height_that_is_not_pending_settles_nothing() -> None:
    node = trainer()
    node.learn(initial(), 7)
    before = node.feedback.residual.copy()
    node.settle(6, False)
    assert np.array_equal(node.feedback.residual, before) and node.feedback.pending is not None
    node.settle(7, True)
    node.settle(7, False)
    assert np.array_equal(node.feedback.residual, before) and node.feedback.pending is None


def test_a_node_that_was_left_out_for_long_does_not_answer_with_one_huge_step() -> None:
    layout = Layout.of(CONFIG)
    feedback = ErrorFeedback(layout)
    update = np.zeros(layout.values, np.float32)
    update[:100] = 1e-3
    lengths = []
    for height in range(1, 20):
        payload = feedback.compress(update, height)  # the one before counts as left out
        lengths.append(float(np.linalg.norm(values(payload))))
    assert max(lengths) <= 3.1 * float(np.linalg.norm(update))
