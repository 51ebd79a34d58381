"""One model in training: its parameters, its optimizer's memory, and how a batch of text moves both.

What a step is: the gradient of the whole batch, a micro-batch at a time; clipped; the matrices decay; the optimizer moves
everything by it. What changes a step stands around it: sixteen bits inside matrix products (precision.py), matrices that
int8 can hold (quantization.py), a second pass from further up the hill (optimizers/sam.py). Whose text it is, and what
becomes of the parameters, is the trainer's.

A step draws its random numbers (dropout) from the seed it is given and from nothing before it, so that a trainer that was
stopped goes on with the same bits, and no generator's state needs keeping.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compiling import Compiled
from model.config import ModelConfig, TrainingConfig
from model.flat import FlatParameters
from model.layout import Layout
from model.limits import MICRO_BATCH_TOKENS
from model.optimizers import make_optimizer, uphill
from model.precision import LossScaler, autocast, check_precision
from model.prediction_loss import PADDING
from model.quantization import rounded_matrices
from model.schedule import inner_rate
from model.transformer import Transformer, targets_of


def _never() -> bool:
    return False


class Learner:
    """`device`: cpu, cuda or cuda:N. Raises ConfigError where it does not compute in `precision`. `compiled`: see compiling.py."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        check_precision(precision, device)
        self.training = training
        self.precision = precision
        self.device = device
        self.flat = FlatParameters(Layout.of(config), torch.device(device))
        self.model = Transformer(config, self.flat.weights).to(device)
        self.losses = Compiled(self.model.losses) if compiled else self.model.losses
        self.steps = 0  # over the node's life, for the warm-up
        self.scaler = LossScaler() if precision == "fp16" else None
        self.forget()

    @property
    def compilation(self) -> str:
        """ "compiled", or why not; empty where nobody wanted it."""
        if not isinstance(self.losses, Compiled):
            return ""
        return "compiled" if self.losses.failure is None else f"not compiled: {self.losses.failure}"

    def forget(self) -> None:
        """The optimizer starts without a memory, as if it had never seen a gradient."""
        self.optimizer = make_optimizer(self.flat.values, self.training)

    def load(self, parameters: NDArray[np.float32]) -> None:
        """Go on from these parameters: a flat buffer as `Layout` says."""
        with torch.no_grad():
            self.flat.values.copy_(torch.tensor(parameters))  # torch.tensor copies, for a replica is read-only

    def parameters(self) -> NDArray[np.float32]:
        """Where the steps have led: flat, and on a CPU the very memory that the next step moves."""
        values: NDArray[np.float32] = self.flat.values.detach().cpu().numpy()
        return values

    def step(
        self,
        windows: NDArray[np.int64],
        *,
        network_step: int,
        seed: int,
        should_stop: Callable[[], bool] = _never,
    ) -> float | None:
        """One step on windows (batch, time + 1); the loss before it, in nats per token.

        None, and nothing has moved, if `should_stop` said so, which is asked before every micro-batch. `network_step` is
        for the schedule (schedule.py), `seed` for whatever is drawn at random.
        """
        self.model.train()
        parts = self._micro_batches(windows)
        loss = self._accumulate(parts, seed, should_stop)
        radius = float(self.training.sharpness_radius)
        if radius and loss is not None:
            with uphill(self.flat.values, self.flat.gradient, radius=radius):
                if self._accumulate(parts, seed, should_stop) is None:
                    return None
        if loss is None:
            return None
        norm = torch.linalg.vector_norm(self.flat.gradient)
        if self.scaler is not None and not self.scaler.accept(finite=bool(norm.isfinite())):
            return loss
        share = float(self.training.clip) / (norm + 1e-6)
        if share < 1:
            self.flat.gradient.mul_(share)
        self.steps += 1
        rate = inner_rate(self.training, own_step=self.steps, network_step=network_step)
        self._decay_matrices(rate)
        self.optimizer.step(self.flat.gradient, rate=rate)
        return loss

    @torch.no_grad()
    def evaluate(self, windows: NDArray[np.int64]) -> float:
        """Mean nats per predicted token over windows (count, time + 1), without dropout and what only training descends."""
        self.model.eval()
        batches = self._micro_batches(windows)
        counts = [int((targets_of(part) != PADDING).sum()) / (windows.shape[1] - 1) for part in batches]
        with self._as_seen(), autocast(self.precision, self.device):
            parts = [self.model.loss(part) * count for part, count in zip(batches, counts, strict=True)]
        return float(torch.stack(parts).double().sum()) / (sum(counts) or 1)

    def _accumulate(self, parts: Sequence[Tensor], seed: int, should_stop: Callable[[], bool]) -> float | None:
        """Leaves the gradient of the whole batch in the flat buffer: each token counts alike, whatever the micro-batches."""
        scale = 1.0 if self.scaler is None else self.scaler.scale
        losses: list[Tensor] = []
        self.flat.gradient.zero_()
        with self._as_seen():
            torch.manual_seed(seed)
            with autocast(self.precision, self.device):
                totals = self.model.totals(parts)
            torch.manual_seed(seed)  # what was counted is what is learned
            for part in parts:
                if should_stop():
                    return None
                with autocast(self.precision, self.device):
                    loss = self.losses(part, totals)
                (loss.total * scale).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.prediction.detach())
        if scale != 1:
            self.flat.gradient.div_(scale)
        return float(torch.stack(losses).double().sum())

    def _as_seen(self) -> AbstractContextManager[None]:
        """The parameters as forward and backward see them."""
        if self.training.quantization == "none":
            return nullcontext()
        return rounded_matrices(self.flat.values, self.flat.weights.values())

    @torch.no_grad()
    def _decay_matrices(self, rate: float) -> None:
        """Decoupled decay (Loshchilov and Hutter 2019), but not of the gains, which scale and do not select."""
        matrices: list[Tensor] = [weight for weight in self.flat.weights.values() if weight.dim() > 1]
        torch._foreach_mul_(matrices, 1.0 - rate * float(self.training.weight_decay))

    def _micro_batches(self, windows: NDArray[np.int64]) -> Sequence[Tensor]:
        """A batch in parts of about MICRO_BATCH_TOKENS."""
        tokens = MICRO_BATCH_TOKENS[self.device.partition(":")[0]]
        on_device = torch.from_numpy(windows).to(self.device)
        return torch.split(on_device, max(1, tokens // (windows.shape[1] - 1)))
