"""The agreed model, reading: tokens in, logits of what may follow out.

It keeps what it has read (model/cache.py), or reads the whole text again each time, which is the definition that the cache is held
against. On a CPU its weights are the replica's own memory: to generate takes no second model, and the replica cannot change.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model.cache import Cache, Eviction
from model.config import ModelConfig
from model.flat import Weights
from model.quantization import rounded
from model.replica import Replica
from model.transformer import Transformer


class Reader:
    """Of several texts, all equally long; at first of one. In float32, on `device`: cpu, cuda or cuda:N."""

    def __init__(self, replica: Replica, *, device: str = "cpu", cached: bool = True) -> None:
        self._replica = replica  # whose memory the weights are
        self._device = torch.device(device)
        self._model = Transformer(replica.config, _weights(replica, self._device)).to(self._device).eval()
        self._cached = cached
        self.forget()

    def forget(self) -> None:
        """Begin anew, with one text of which nothing has been read."""
        self.seen = 0  # tokens read of each text
        self._cache = Cache(self._replica.config, _eviction(self._replica.config)) if self._cached else None
        self._texts = torch.zeros(1, 0, dtype=torch.int64, device=self._device)

    @property
    def context(self) -> int:
        """How many tokens it reads at most, from `forget` on."""
        return self._replica.config.context

    @property
    def vocabulary(self) -> int:
        return self._replica.config.vocabulary

    @torch.inference_mode()
    def read(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """One text's next tokens, or (texts, time) of each. Logits (texts, vocabulary) float32, on the CPU, of what follows."""
        new = torch.as_tensor(tokens, dtype=torch.int64, device=self._device)
        new = new[None] if new.dim() == 1 else new
        self.seen += new.shape[1]
        if self._cache is None:
            new = self._texts = torch.cat((self._texts, new), dim=1)
        hidden, _ = self._model.hidden(new, self._cache)
        logits: Tensor = functional.linear(hidden[:, -1], self._model.head).float().cpu()
        return logits

    @torch.inference_mode()
    def select(self, rows: Tensor) -> None:
        """Go on with these of the texts: see Cache.select."""
        rows = rows.to(self._device)
        if self._cache is not None:
            self._cache.select(rows)
        else:
            self._texts = self._texts.index_select(0, rows)


def _eviction(config: ModelConfig) -> Eviction | None:
    """What no token sees any more need not be kept."""
    return Eviction("sliding-window", slots=config.window) if config.attention == "window" else None


def _weights(replica: Replica, device: torch.device) -> Weights:
    flat = torch.frombuffer(_as_writable(replica.theta), dtype=torch.float32).to(device)
    weights = {p.name: flat[p.offset : p.offset + p.count].view(p.shape) for p in replica.layout.tensors}
    if replica.training.quantization != "none":  # as it was trained, and as evaluation sees it
        weights = {name: rounded(weight) if weight.dim() > 1 else weight for name, weight in weights.items()}
    return {name: nn.Parameter(weight, requires_grad=False) for name, weight in weights.items()}


def _as_writable(values: NDArray[np.float32]) -> "ctypes.Array[ctypes.c_float]":
    """torch knows no tensor that cannot be written to, and warns of memory that cannot. Nothing here writes."""
    return (ctypes.c_float * len(values)).from_address(values.ctypes.data)
