"""Known answers, asked at every start: a machine that computes them otherwise must not vote.

Each check runs the code that rounds run, on inputs that reach its edges, and compares with a constant in this file.
What may go wrong on a strange machine: byte order, denormals flushed to zero (libraries built with -Ofast do that to the
whole process), contracted multiply-adds, a numpy whose Philox, frexp or floor division differs.
A constant changes only with the consensus rules, hence with a new version of the payload or of the genesis.
"""

import hashlib
import sys
from collections.abc import Callable
from typing import Final

import numpy as np

from model.compression import decode, encode, probe
from model.config import ModelConfig, TrainingConfig
from model.initial import odd_integers
from model.layout import Layout
from model.outer import make_canonical
from model.replica import Replica

_CONFIG: Final = ModelConfig(width=24, layers=1, heads=2, key_value_heads=1, feed_forward=200, context=16)
_PLAIN: Final = TrainingConfig(outer_rate_numerator=7, outer_rate_denominator=3)
_NESTEROV: Final = TrainingConfig(momentum_numerator=7, momentum_shift=3, nesterov=True)

_INITIAL: Final = "74c58c79f6311fb4c9de26fb785ee1b4f2c082f788b784e2fc23969ccf984d51"
_ENCODED: Final = "4c8d4558e0e7c5182a62b074b184b73df99ca0ebad90344172addc8db76ab7eb"
_STEPPED: Final = "af5a449c5ee09bfe8c27e3c9f6e526fa26d1242c61c5f9f77781a0bbb5389025"
_STEPPED_NESTEROV: Final = "5f81a23010225d723c7c498aff40c0f432a4a2f3d49fe0f2cb5617fef8a8b66d"


def run() -> str | None:
    """None, or one line that says which answer is wrong. Takes a few milliseconds."""
    for name, check in _CHECKS.items():
        if not check():
            return f"self-test failed: {name}; this machine would not agree with the others"
    return None


def _byte_order() -> bool:
    return sys.byteorder == "little" and np.array([1.0], np.float32).tobytes() == b"\x00\x00\x80\x3f"


def _denormals() -> bool:
    smallest_normal = np.full(8, 2.0**-126, np.float32)
    halved = smallest_normal * np.float32(0.5)
    kept = halved.view(np.uint32).tolist() == [0x00400000] * 8 and bool((smallest_normal - halved == halved).all())
    edges = np.array([-0.0, 2.0**-127, -(2.0**-149), 2.0**-126, -1.0], np.float32)
    make_canonical(edges)
    return kept and edges.view(np.uint32).tolist() == [0, 0, 0, 0x00800000, 0xBF800000]


def _two_operations() -> bool:
    """(1 + 2^-12)^2 - (1 + 2^-11) is 0 where the product is rounded first, 2^-24 in a fused multiply-add."""
    a, b = np.full(32, 1 + 2.0**-12, np.float32), np.full(32, -(1 + 2.0**-11), np.float32)
    return not (a * a + b).any()


def _integers() -> bool:
    values = np.array([-7, 7, -8, 8, -(2**62), 2**62 - 1], np.int64)
    divided = (values // 3).tolist() == [-3, 2, -3, 2, -1537228672809129302, 1537228672809129301]
    shifted = (values >> 2).tolist() == [-2, 1, -2, 2, -(2**60), 2**60 - 1]
    return divided and shifted and bool(odd_integers(1, "known", 6).tolist() == _PHILOX)


def _initial() -> bool:
    return _digest(Replica.initial(_CONFIG, _PLAIN, seed=1)) == _INITIAL


def _codec() -> bool:
    layout = Layout.of(_CONFIG)
    values = odd_integers(2, "known", layout.values).astype(np.float32) * np.float32(2.0**-20)
    values[: 3 * 4096] *= np.repeat(np.array([2.0**-30, 2.0**-12, 16], np.float32), 4096)
    for padding in layout.padding:
        values[padding] = 0
    payload = encode(values, layout)
    decode(payload, layout)
    return hashlib.sha256(payload).hexdigest() == _ENCODED


def _step() -> bool:
    return _digest(_stepped(_PLAIN)) == _STEPPED


def _step_nesterov() -> bool:
    return _digest(_stepped(_NESTEROV)) == _STEPPED_NESTEROV


def _stepped(training: TrainingConfig) -> Replica:
    replica = Replica.initial(_CONFIG, training, seed=3)
    for height in range(3):
        payloads = [probe(replica.layout, 10 * height + index) for index in range(4)]
        replica = replica.apply(payloads, [1, 2, 0, 1])
    return replica


def _digest(replica: Replica) -> str:
    digest = hashlib.sha256()
    for leaf in replica.leaves():
        digest.update(leaf)
    return digest.hexdigest()


_PHILOX: Final = [24137, -25551, 30105, -47815, -53443, 48151]
_CHECKS: Final[dict[str, Callable[[], bool]]] = {
    "byte order": _byte_order,
    "denormal numbers": _denormals,
    "multiply and add as two operations": _two_operations,
    "integer arithmetic": _integers,
    "initial parameters": _initial,
    "codec": _codec,
    "outer step": _step,
    "outer step with momentum": _step_nesterov,
}
