"""A node's own learning: H local steps from the agreed model, and the compressed difference as its contribution.

Synchronous and single-threaded: the daemon runs one call at a time in a worker thread. Free-form floating point: two
machines may differ in every bit, for only the payload crosses into agreement. The optimizer's memory and the count of steps
live as long as the node does (starting AdamW's moments anew each round costs 1.4 to 2.4 % of the loss).

Which text a step reads, and what it draws at random, follow from (network, height, node, step) alone.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model import allocator, trainer_state
from model.config import ModelConfig, TrainingConfig, check_together
from model.data import Corpus
from model.error_feedback import ErrorFeedback
from model.errors import NonFiniteError
from model.layout import Layout
from model.learner import Learner
from model.replica import Replica
from model.utilization import device_name, training_flops_per_token, utilization

_DOMAIN = b"p2pnode-draws-v1"


@dataclass(frozen=True, slots=True)
class Update:
    """What a round of learning gives: the payload to announce, and figures for people."""

    payload: bytes
    loss: float  # mean training loss over the round's steps, nats per token
    loss_first: float  # of the first step, hence of the agreed model
    tokens: int
    seconds: float
    utilization: float | None = None  # of the device's peak, 0 to 1; None where that is not known
    compilation: str = ""  # "compiled", or why not; empty where nobody wanted it

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None


class Trainer:
    """`threads` is torch's number of threads in this whole process; more than one only where nothing else runs.

    `device`, `precision` and `compiled` are the node's own: see Learner. Raises ConfigError.
    """

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig,
        corpus: Corpus,
        *,
        chain_id: bytes,
        author: bytes,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
        threads: int = 1,
    ) -> None:
        assert corpus.sequence == training.sequence
        check_together(config, training)
        torch.set_num_threads(threads)
        self.config = config
        self.training = training
        self.corpus = corpus
        self.chain_id = chain_id
        self.author = author
        self.layout = Layout.of(config)
        self.feedback = ErrorFeedback(self.layout)
        self.learner = Learner(config, training, device=device, precision=precision, compiled=compiled)

    def learn(
        self,
        replica: Replica,
        height: int,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Update | None:
        """Learn from M(height - 1) and compress the difference. `progress(steps done, loss)` follows each local step.

        None if `should_stop` said so, which is asked before every micro-batch: the weights are dropped, the moments keep
        what they saw. Raises NonFiniteError when training diverged; moments and error feedback then start anew.
        """
        started = time.perf_counter()
        self.learner.load(replica.theta)
        losses: list[float] = []
        for step in range(self.training.local_steps):
            loss = self.learner.step(
                self.corpus.batch(
                    self.training.batch, chain_id=self.chain_id, height=height, author=self.author, step=step
                ),
                network_step=(height - 1) * self.training.local_steps + step,
                seed=self._seed(height, step),
                should_stop=should_stop,
            )
            if loss is None:
                return None
            losses.append(loss)
            progress(step + 1, loss)
        try:
            payload = self.feedback.compress(replica.theta - self.learner.parameters(), height)
        except NonFiniteError:
            self.learner.forget()
            self.feedback = ErrorFeedback(self.layout)
            raise
        allocator.release()
        seconds = time.perf_counter() - started
        return Update(
            payload=payload,
            loss=math.fsum(losses) / len(losses),
            loss_first=losses[0],
            tokens=self.training.tokens_per_round,
            seconds=seconds,
            utilization=self._utilization(seconds),
            compilation=self.learner.compilation,
        )

    def settle(self, height: int, accepted: bool) -> None:
        """The block of `height` is decided: did it list our contribution? If not, the next one will carry it."""
        self.feedback.settle(height, accepted=accepted)

    def evaluate(self, replica: Replica) -> float:
        """Mean nats per token over the held-out windows: 64 times `sequence` predictions, the same ones every time."""
        self.learner.load(replica.theta)
        return self.learner.evaluate(self.corpus.held_out())

    def save(self, path: Path) -> None:
        """Everything that a trainer needs to go on to the bit, atomically. Raises OSError."""
        trainer_state.save(path, owner=self._owner(), state=trainer_state.take(self.learner, self.feedback))

    def restore(self, path: Path) -> None:
        """Go on where `save` left off. Raises SnapshotError for another node's, network's or model's file."""
        state = trainer_state.load(path, owner=self._owner(), like=self.learner)
        self.feedback = state.feedback
        trainer_state.give(state, self.learner)

    def _utilization(self, seconds: float) -> float | None:
        """Of the round's whole time: compression counts as time in which the device did nothing."""
        passes = 2 if float(self.training.sharpness_radius) else 1
        flops = passes * self.training.tokens_per_round * training_flops_per_token(self.config, self.training.sequence)
        name = device_name(self.learner.device)
        return utilization(flops, seconds, device_name=name, precision=self.learner.precision)

    def _seed(self, height: int, step: int) -> int:
        fields = _DOMAIN + self.chain_id + height.to_bytes(8, "big") + self.author + step.to_bytes(4, "big")
        return int.from_bytes(hashlib.sha256(fields).digest()[:8], "big")

    def _owner(self) -> str:
        """A state is of use to the same node, in the same network, with the same model only."""
        return f"{self.chain_id.hex()} {self.author.hex()}"
