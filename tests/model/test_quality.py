"""Quality on real text: what agreement and compression cost, and how far the default settings get.

Three runs on the same text, from the same first model, with the same trainer and the same batches:

* `network`: what a network of four computes; payloads, equalised norms, the integer outer step;
* `in_turn`: four replicas in turn in one process; their differences are averaged as floats, nothing is compressed;
* `data_parallel`: one replica that takes every step on all four batches at once, so four times the exchanges.

Thirty rounds with `--long`, five without. Each test prints its figures.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config import ModelConfig, TrainingConfig
from model.data import Corpus, default_corpus
from model.error_feedback import ErrorFeedback
from model.replica import Replica
from model.trainer import Trainer

CONFIG = ModelConfig.named("tiny")
TRAINING = TrainingConfig()
CHAIN = bytes(32)
AUTHORS = tuple(bytes([number]) * 32 for number in range(1, 5))
SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"
SHORT, LONG = 5, 30


@dataclass(frozen=True)
class Run:
    loss: float  # held-out nats per byte, after the last round
    tokens: int


class Uncompressed(ErrorFeedback):
    """Takes the place of compression in a trainer: keeps the difference as it is."""

    def compress(self, update: np.ndarray, height: int) -> bytes:
        self.update = update.astype(np.float64)
        return b""


class Text(Corpus):
    """Evaluates on all of the held-out text, for a difference of half a percent is lost in a node's 64 windows."""

    def held_out(self) -> np.ndarray:
        size = self.sequence
        starts = [start for span in self.held_out_ranges for start in range(span.start, span.stop - size, size)]
        return self._windows(starts)


class AllAuthors(Text):
    """The batches of all four nodes as one batch."""

    def batch(self, count: int, *, author: bytes, **at: Any) -> np.ndarray:
        return np.concatenate([super(AllAuthors, self).batch(count, author=each, **at) for each in AUTHORS])


def moved(replica: Replica, update: np.ndarray) -> Replica:
    theta = (replica.theta - update).astype(np.float32)
    theta[np.abs(theta) < 2.0**-126] = 0
    return Replica.from_bytes(replica.config, replica.training, theta.tobytes())


def nodes(corpus: Corpus, feedback: type[ErrorFeedback], authors: tuple[bytes, ...] = AUTHORS) -> list[Trainer]:
    trainers = [Trainer(CONFIG, TRAINING, corpus, chain_id=CHAIN, author=author) for author in authors]
    for trainer in trainers:
        trainer.feedback = feedback(trainer.feedback.layout)
    return trainers


def network(text: bytes, rounds: int) -> Run:
    trainers = nodes(Text(text), ErrorFeedback)
    return schedule(trainers, rounds, lambda replica, payloads: replica.apply(payloads, [1] * len(payloads)))


def in_turn(text: bytes, rounds: int) -> Run:
    trainers = nodes(Text(text), Uncompressed)
    return schedule(
        trainers, rounds, lambda replica, _: moved(replica, np.mean([t.feedback.update for t in trainers], 0))
    )


def data_parallel(text: bytes, rounds: int) -> Run:
    trainers = nodes(AllAuthors(text), Uncompressed, AUTHORS[:1])
    return schedule(trainers, rounds, lambda replica, _: moved(replica, trainers[0].feedback.update))


def schedule(trainers: list[Trainer], rounds: int, step: Callable[[Replica, list[bytes]], Replica]) -> Run:
    replica = Replica.initial(CONFIG, TRAINING, seed=0)
    tokens = 0
    for height in range(1, rounds + 1):
        updates = [trainer.learn(replica, height) for trainer in trainers]
        tokens += sum(update.tokens for update in updates if update)
        replica = step(replica, [update.payload for update in updates if update])
        for trainer in trainers:
            trainer.settle(height, True)
    return Run(trainers[0].evaluate(replica), tokens)


@pytest.fixture(scope="module", params=[SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def rounds(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture(scope="module")
def text() -> bytes:
    return SHAKESPEARE.read_bytes() if SHAKESPEARE.exists() else default_corpus()


@pytest.fixture(scope="module")
def networked(text: bytes, rounds: int) -> Run:
    return network(text, rounds)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


def test_a_network_loses_nothing_to_compression_and_agreement(
    networked: Run, text: bytes, rounds: int, say: Callable[[str], None]
) -> None:
    plain, parallel = in_turn(text, rounds), data_parallel(text, rounds)
    cost, gap = networked.loss / plain.loss - 1, networked.loss / parallel.loss - 1
    say(
        f"quality (a), {rounds} rounds: held-out {networked.loss:.4f} as a network of four, {plain.loss:.4f} in turn "
        f"without compression ({cost:+.2%}, at most +0.50%), {parallel.loss:.4f} data-parallel ({gap:+.2%}, at most +8%)"
    )
    assert cost <= 0.005
    assert gap <= 0.08


def test_the_default_settings_learn_well(networked: Run, rounds: int, say: Callable[[str], None]) -> None:
    goal = {SHORT: 2.5, LONG: 2.0}[rounds]
    say(
        f"quality (b), {rounds} rounds: held-out {networked.loss:.4f} nats per byte "
        f"(below {goal}), {networked.tokens / 1e6:.3f} M training tokens"
    )
    assert networked.tokens <= 1_300_000
    if SHAKESPEARE.exists():
        assert networked.loss < goal
    assert networked.loss < 3  # on any text: it began at 6
