"""It learns what there is to learn: a source of known entropy down to it, and Shakespeare as far as a small model gets.

The second needs a text that the project does not carry: the environment variable TINY_SHAKESPEARE names a file with the
1.1 MB of Karpathy's char-rnn. The recipe is nanoGPT's for a CPU: 4 layers of 128, windows of 64, batch 12, 2,000 steps, for
which its README gives 1.88 nats per character.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.config import ModelConfig, TrainingConfig
from model.data import Corpus
from model.initial import initial_parameters
from model.learner import Learner
from tests.model.markov import Markov

CHAIN, AUTHOR = bytes(32), bytes(32)
SHAKESPEARE = os.environ.get("TINY_SHAKESPEARE", "")
RECIPE = ModelConfig(
    width=128, layers=4, heads=4, key_value_heads=4, feed_forward=344, context=64, rope_base=100, initial_gain=4
)
TRAINING = TrainingConfig(
    batch=12, sequence=64, warmup_steps=100, schedule="cosine", schedule_steps=2000, beta_second="0.99"
)  # to a tenth of 0.001


def train(config: ModelConfig, training: TrainingConfig, text: bytes) -> float:
    """All steps of the schedule; the loss over all of the held-out text."""
    corpus = Corpus(text, training.sequence)
    learner = Learner(config, training)
    learner.load(initial_parameters(config, 1))
    for step in range(training.schedule_steps):
        windows = corpus.batch(training.batch, chain_id=CHAIN, height=1, author=AUTHOR, step=step)
        learner.step(windows, network_step=step, seed=step)
    size = corpus.sequence
    starts = [start for span in corpus.held_out_ranges for start in range(span.start, span.stop - size, size)]
    return learner.evaluate(np.stack([np.frombuffer(text[at : at + size + 1], np.uint8) for at in starts]).astype(int))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


def test_the_entropy_of_a_source_is_that_of_its_text() -> None:
    """Of a long text, counted: the mean of -log of the chances that its letters had, and the least of windows of one."""
    source = Markov(4, seed=1)
    text = np.frombuffer(source.text(200_000, seed=2), np.uint8) - ord("a")
    surprise = -np.log(source.chances[text[:-2], text[1:-1], text[2:]]).mean()
    assert source.floor(10**9) == pytest.approx(surprise, rel=0.005)
    pairs = np.bincount(text[:-1] * 4 + text[1:], minlength=16).reshape(4, 4) / (len(text) - 1)
    after_one = -(pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True))).sum()
    assert source.floor(1) == pytest.approx(after_one, rel=0.005) and after_one > surprise


def test_a_small_source_is_learned_to_its_entropy(say: Callable[[str], None]) -> None:
    source = Markov(4, seed=1)
    config = ModelConfig(
        width=16, layers=2, heads=2, key_value_heads=2, feed_forward=32, context=32, rope_base=100, initial_gain=4
    )
    training = TrainingConfig(
        batch=16, sequence=32, warmup_steps=20, schedule="cosine", schedule_steps=300, inner_rate="0.01"
    )
    loss, floor = train(config, training, source.text(100_000, seed=3)), source.floor(32)
    say(f"a source of 4 letters: held-out {loss:.4f}, its entropy {floor:.4f} ({loss / floor - 1:+.2%}, at most +2%)")
    assert loss < 1.02 * floor


@pytest.mark.long
def test_a_source_is_learned_to_its_entropy(say: Callable[[str], None]) -> None:
    source = Markov(16, seed=1)
    loss, floor = train(RECIPE, TRAINING, source.text(1_000_000, seed=3)), source.floor(64)
    say(f"a source of 16 letters: held-out {loss:.4f}, its entropy {floor:.4f} ({loss / floor - 1:+.2%}, at most +2%)")
    assert loss < 1.02 * floor


@pytest.mark.long
@pytest.mark.skipif(not SHAKESPEARE, reason="TINY_SHAKESPEARE names no text")
def test_shakespeare_is_learned_as_well_as_by_nanogpt(say: Callable[[str], None]) -> None:
    loss = train(RECIPE, TRAINING, Path(SHAKESPEARE).read_bytes())
    say(f"Shakespeare, {RECIPE.parameters / 1e6:.2f} M parameters: held-out {loss:.4f} nats per character (1.90)")
    assert loss <= 1.90
