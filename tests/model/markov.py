"""A text whose entropy is known: letters that depend on the two before them, by chances that are drawn once from a seed.

So how low a loss can get is no matter of taste: below the entropy of the source nothing gets, and a model that has learned
the source gets there.
"""

import math

import numpy as np
from numpy.typing import NDArray


class Markov:
    """A source of order two over `letters` letters: chances[a, b] are those of the letter after a and then b."""

    def __init__(self, letters: int, *, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.letters = letters
        self.chances: NDArray[np.float64] = generator.dirichlet([0.5] * letters, size=(letters, letters))
        self._pairs = self._stationary()

    def text(self, length: int, *, seed: int) -> bytes:
        """Letters from `a` on."""
        draws = np.random.default_rng(seed).random(length)
        cumulated = self.chances.cumsum(axis=-1).tolist()
        before, last, found = 0, 0, bytearray()
        for draw in draws.tolist():
            row = cumulated[before][last]
            letter = next((index for index, edge in enumerate(row) if draw < edge), self.letters - 1)
            found.append(ord("a") + letter)
            before, last = last, letter
        return bytes(found)

    def floor(self, sequence: int) -> float:
        """The least mean loss in nats over windows that begin anywhere: the first of `sequence` predictions knows one letter."""
        known = _entropy(self.chances) * self._pairs
        after_one = (self._pairs[..., None] * self.chances).sum(axis=0)  # (last, next): chances of both
        first = _entropy(after_one / after_one.sum(axis=-1, keepdims=True)) * after_one.sum(axis=-1)
        return float((first.sum() + (sequence - 1) * known.sum()) / sequence)

    def _stationary(self) -> NDArray[np.float64]:
        """How often each pair of letters stands in a long text, (letters, letters)."""
        pairs = np.full((self.letters, self.letters), self.letters**-2.0)
        for _ in range(1000):
            following = (pairs[..., None] * self.chances).sum(axis=0)
            if np.abs(following - pairs).max() < 1e-15:
                break
            pairs = following
        assert math.isclose(pairs.sum(), 1.0, rel_tol=1e-9)
        return pairs


def _entropy(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """In nats, of the last axis."""
    logs = np.log(np.where(chances > 0, chances, 1.0))
    entropy: NDArray[np.float64] = -(chances * logs).sum(axis=-1)
    return entropy
