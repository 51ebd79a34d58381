"""A node's own learning: H steps of AdamW from the agreed model, and the compressed difference as its contribution.

Synchronous and single-threaded: the daemon runs one call at a time in a worker thread. Free-form floating point: two
machines may differ in every bit, for only the payload crosses into agreement. AdamW's moments and the count of steps
live as long as the node does (starting them anew each round costs 1.4 to 2.4 % of the loss).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import trainer_state
from model.adamw import AdamW
from model.config import ModelConfig, TrainingConfig, check_together
from model.data import Corpus
from model.error_feedback import ErrorFeedback
from model.errors import NonFiniteError
from model.flat import FlatParameters
from model.layout import Layout
from model.limits import MICRO_BATCH_TOKENS
from model.replica import Replica
from model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Update:
    """What a round of learning gives: the payload to announce, and figures for people."""

    payload: bytes
    loss: float  # mean training loss over the round's steps, nats per byte
    loss_first: float  # of the first step, hence of the agreed model
    tokens: int
    seconds: float


class Trainer:
    """`threads` is torch's number of threads in this whole process; more than one only where nothing else runs."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig,
        corpus: Corpus,
        *,
        chain_id: bytes,
        author: bytes,
        device: str = "cpu",
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
        self.steps = 0  # over the node's life, for the warm-up
        self.feedback = ErrorFeedback(Layout.of(config))
        self._device = torch.device(device)
        self._flat = FlatParameters(Layout.of(config), self._device)
        self._model = Transformer(config, self._flat.weights).to(self._device)
        self._optimizer = AdamW(self._flat.values, self.training)

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
        self._load(replica)
        losses: list[float] = []
        for step in range(self.training.local_steps):
            windows = self.corpus.batch(
                self.training.batch, chain_id=self.chain_id, height=height, author=self.author, step=step
            )
            loss = self._step(torch.from_numpy(windows).to(self._device), should_stop)
            if loss is None:
                return None
            losses.append(loss)
            progress(step + 1, loss)
        try:
            payload = self.feedback.compress(replica.theta - self._parameters(), height)
        except NonFiniteError:
            self._optimizer = AdamW(self._flat.values, self.training)
            self.feedback = ErrorFeedback(self._flat.layout)
            raise
        return Update(
            payload=payload,
            loss=math.fsum(losses) / len(losses),
            loss_first=losses[0],
            tokens=self.training.tokens_per_round,
            seconds=time.perf_counter() - started,
        )

    def settle(self, height: int, accepted: bool) -> None:
        """The block of `height` is decided: did it list our contribution? If not, the next one will carry it."""
        self.feedback.settle(height, accepted=accepted)

    def evaluate(self, replica: Replica) -> float:
        """Mean nats per byte over the held-out windows: 64 times `sequence` predictions, the same ones every time."""
        self._load(replica)
        windows = torch.from_numpy(self.corpus.held_out()).to(self._device)
        with torch.no_grad():
            parts = [self._model.loss(part).item() * len(part) for part in torch.split(windows, self._micro_batch())]
        return math.fsum(parts) / len(windows)

    def save(self, path: Path) -> None:
        """Moments, steps and error feedback, atomically. Raises OSError."""
        trainer_state.save(path, owner=self._owner(), steps=self.steps, moments=self._moments(), feedback=self.feedback)

    def restore(self, path: Path) -> None:
        """Go on where `save` left off. Raises SnapshotError for another node's, network's or model's file."""
        state = trainer_state.load(path, owner=self._owner(), layout=self._flat.layout)
        self.steps = state.steps
        self.feedback = state.feedback
        self._optimizer = AdamW(self._flat.values, self.training)
        if state.moments is not None:
            first, second, count = state.moments
            self._optimizer.first.copy_(torch.from_numpy(first))
            self._optimizer.second.copy_(torch.from_numpy(second))
            self._optimizer.count.fill_(count)

    def _step(self, windows: Tensor, should_stop: Callable[[], bool]) -> float | None:
        """One AdamW step over micro-batches; None if told to stop."""
        self._flat.gradient.zero_()
        total = 0.0
        for part in torch.split(windows, self._micro_batch()):
            if should_stop():
                return None
            loss = self._model.loss(part) * (len(part) / len(windows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = torch.linalg.vector_norm(self._flat.gradient)
        self._flat.gradient.mul_((float(self.training.clip) / (norm + 1e-6)).clamp(max=1.0))
        self.steps += 1
        self._decay_matrices()
        self._optimizer.step(self._flat.gradient, rate=self._rate())
        return total

    def _decay_matrices(self) -> None:
        """AdamW's decoupled decay (Loshchilov and Hutter 2019), but not of the gains, which scale and do not select."""
        kept = 1.0 - self._rate() * float(self.training.weight_decay)
        with torch.no_grad():
            for weight in self._flat.weights.values():
                if weight.dim() > 1:
                    weight.mul_(kept)

    def _rate(self) -> float:
        """Constant after a linear warm-up: the network has no last round to anneal towards."""
        warmup = self.training.warmup_steps
        return float(self.training.inner_rate) * (min(1.0, self.steps / warmup) if warmup else 1.0)

    def _moments(self) -> trainer_state.Moments | None:
        count = int(self._optimizer.count)
        if not count:
            return None
        return self._optimizer.first.cpu().numpy(), self._optimizer.second.cpu().numpy(), count

    def _owner(self) -> str:
        """A state is of use to the same node, in the same network, with the same model only."""
        return f"{self.chain_id.hex()} {self.author.hex()}"

    def _micro_batch(self) -> int:
        return max(1, MICRO_BATCH_TOKENS // self.training.sequence)

    def _load(self, replica: Replica) -> None:
        with torch.no_grad():
            self._flat.values.copy_(torch.tensor(replica.theta))  # torch.tensor copies, for the replica is read-only

    def _parameters(self) -> NDArray[np.float32]:
        parameters: NDArray[np.float32] = self._flat.values.detach().cpu().numpy()
        return parameters
