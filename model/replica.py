"""The state that every node holds, byte for byte: parameters, and the outer optimizer's momentum where there is one.

A replica is a value: `apply` returns a new one, and its bytes never change. The model root is the content address of
`leaves()`; a snapshot from a stranger becomes a replica through `from_bytes` once its leaves have been verified. Numpy
only: torch's kernels round differently on different machines.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import compression, snapshot
from model.aggregate import aggregate
from model.config import ModelConfig, TrainingConfig
from model.errors import SnapshotError
from model.initial import initial_parameters
from model.layout import Layout
from model.limits import CHUNK_VALUES, LEAF_BYTES, WEIGHT_SUM_MAX
from model.outer import outer_step

_CHECKED_AT_ONCE = 1 << 22  # values: beside a model of gigabytes there is no room for another


class Replica:
    """M(h). The canonical bytes are the parameters, little-endian float32 with padding, then int32 momentum if any."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, state: NDArray[np.uint8]) -> None:
        """Internal: use `initial`, `from_bytes` or `load`. Takes `state` over and freezes it."""
        self.config = config
        self.training = training
        self.layout = Layout.of(config)
        assert state.dtype == np.uint8 and state.shape == (_byte_length(self.layout, training),)
        state.flags.writeable = False
        self._state = state

    @classmethod
    def initial(cls, config: ModelConfig, training: TrainingConfig, seed: int) -> "Replica":
        state = np.zeros(_byte_length(Layout.of(config), training), np.uint8)
        parameters = initial_parameters(config, seed)
        state[: parameters.nbytes] = parameters.view(np.uint8)
        return cls(config, training, state)

    @classmethod
    def filled(
        cls, config: ModelConfig, training: TrainingConfig, fill: Callable[[NDArray[np.float32]], object]
    ) -> "Replica":
        """Parameters that `fill` writes into a flat buffer of zeros, and no momentum. Raises SnapshotError as `from_bytes`."""
        layout = Layout.of(config)
        state = np.zeros(_byte_length(layout, training), np.uint8)
        fill(state[: 4 * layout.values].view(np.float32))
        replica = cls(config, training, state)
        replica._check_canonical()
        return replica

    @classmethod
    def from_bytes(cls, config: ModelConfig, training: TrainingConfig, buffer: bytes | bytearray) -> "Replica":
        """A copy of canonical bytes. Raises SnapshotError where they are not canonical, whatever root they have."""
        expected = _byte_length(Layout.of(config), training)
        if len(buffer) != expected:
            raise SnapshotError(f"a model of {len(buffer)} bytes, not {expected}")
        replica = cls(config, training, np.frombuffer(buffer, np.uint8).copy())
        replica._check_canonical()
        return replica

    @classmethod
    def from_file(cls, config: ModelConfig, training: TrainingConfig, path: Path) -> "Replica":
        """Canonical bytes that fill a file, read once into the memory that they stay in. Raises SnapshotError, OSError."""
        expected = _byte_length(Layout.of(config), training)
        state = np.fromfile(path, np.uint8)
        if len(state) != expected:
            raise SnapshotError(f"{path}: a model of {len(state)} bytes, not {expected}")
        replica = cls(config, training, state)
        replica._check_canonical()
        return replica

    @staticmethod
    def bytes_of(config: ModelConfig, training: TrainingConfig) -> int:
        """How long the canonical bytes of every model of a network are."""
        return _byte_length(Layout.of(config), training)

    @property
    def theta(self) -> NDArray[np.float32]:
        """The parameters, flat and padded as `layout` says. Read-only."""
        return self._state[: 4 * self.layout.values].view(np.float32)

    @property
    def momentum(self) -> NDArray[np.int32] | None:
        """The outer momentum in units of 2^-26, or None where the network uses none. Read-only."""
        momentum = self._state[4 * self.layout.values :].view(np.int32)
        return momentum if len(momentum) else None

    @property
    def byte_length(self) -> int:
        return len(self._state)

    def leaves(self) -> Iterator[memoryview]:
        """The canonical bytes in pieces of 64 KiB, the last one shorter where the model is no multiple."""
        for offset in range(0, self.byte_length, LEAF_BYTES):
            yield self._state[offset : offset + LEAF_BYTES].data

    def read(self, offset: int, length: int) -> bytes:
        """Canonical bytes [offset, offset + length), fewer at the end."""
        return bytes(self.view(offset, length))

    def view(self, offset: int, length: int) -> memoryview:
        """The same, not copied: these bytes never change."""
        assert offset >= 0 and length >= 0
        return self._state[offset : offset + length].data

    def apply(self, payloads: Sequence[bytes], weights: Sequence[int]) -> "Replica":
        """The next model: every payload checked, those of positive weight aggregated, one outer step.

        Pure, and independent of the order of the pairs. Without a positive weight the model stays (a height without
        contributions keeps the root). Raises PayloadError, and nothing has happened.
        """
        assert len(payloads) == len(weights) and all(weight >= 0 for weight in weights)
        assert sum(weights) <= WEIGHT_SUM_MAX
        contributions = [compression.decode(payload, self.layout) for payload in payloads]
        counted = [(each, weight) for each, weight in zip(contributions, weights, strict=True) if weight]
        if not counted:
            return self
        state = self._state.copy()
        theta = state[: 4 * self.layout.values].view(np.float32).reshape(-1, CHUNK_VALUES)
        momentum = state[4 * self.layout.values :].view(np.int32).reshape(-1, CHUNK_VALUES)
        count = sum(weights)
        for start, total in aggregate([each for each, _ in counted], [weight for _, weight in counted]):
            tile = slice(start, start + len(total))
            moving = momentum[tile] if len(momentum) else None
            outer_step(theta[tile], moving, total=total, count=count, training=self.training)
        return Replica(self.config, self.training, state)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a safetensors file atomically, tensors named as in a Llama checkpoint. Raises OSError."""
        snapshot.save(
            path,
            config=self.config,
            training=self.training,
            theta=self.theta,
            momentum=self.momentum,
            metadata=metadata,
        )

    @classmethod
    def load(cls, path: Path) -> "Replica":
        """The replica in a file of `save`. Raises SnapshotError for anything else."""
        config, training, state = snapshot.load(path)
        replica = cls(config, training, state)
        replica._check_canonical()
        return replica

    def _check_canonical(self) -> None:
        for start in range(0, self.layout.values, _CHECKED_AT_ONCE):
            bits = self.theta[start : start + _CHECKED_AT_ONCE].view(np.uint32)
            exponents = bits & np.uint32(0x7F800000)
            if (exponents == 0x7F800000).any():
                raise SnapshotError("the model holds NaN or infinity")
            if bits[exponents == 0].any():
                raise SnapshotError("the model holds -0.0 or a denormal number")
        momentum = self.momentum
        for padding in self.layout.padding:
            if self.theta[padding].any() or (momentum is not None and momentum[padding].any()):
                raise SnapshotError("the model's padding is not zero")


def _byte_length(layout: Layout, training: TrainingConfig) -> int:
    return layout.values * (8 if training.momentum_numerator else 4)
