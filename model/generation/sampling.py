"""From logits to one token: temperature, top-k, top-p, and a draw. Numpy only.

The order is transformers': temperature first, then top-k, then top-p on what is left. One uniform number is drawn for each token,
whatever the settings, and looked up in the cumulated probabilities by token number: two readings of a text whose logits differ in
their last bits draw the same tokens, but for a number that falls into the gap of a last bit.
"""

import numpy as np
from numpy.typing import NDArray

from model.errors import GenerationError
from model.generation.settings import SEEDS, Settings


class Sampler:
    """Chooses one token after the other. `seed`: what it draws from, also where the settings left it open; None: nothing is drawn."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.seed: int | None = None
        if settings.heat:
            fresh = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) % SEEDS
            self.seed = fresh if settings.seed is None else settings.seed
            self._draws = np.random.Generator(np.random.PCG64(self.seed))

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Of logits (vocabulary,)."""
        if self.seed is None:
            check_finite(logits)
            return int(logits.argmax())
        probabilities = distribution(logits, self._settings)
        cumulated = np.cumsum(probabilities)
        found = np.searchsorted(cumulated, self._draws.random() * cumulated[-1], side="right")
        return min(int(found), int(probabilities.nonzero()[0][-1]))  # a product that was rounded up is the last one's


def distribution(logits: NDArray[np.float32], settings: Settings) -> NDArray[np.float64]:
    """Probabilities (vocabulary,) that add up to one; of a model as it is where the settings draw nothing."""
    check_finite(logits)
    with np.errstate(over="ignore"):  # minus infinity, where it is that cold
        scores = (logits.astype(np.float64) - logits.max()) / (settings.heat or 1.0)
    kept = np.arange(len(scores))
    if settings.top_k is not None and settings.top_k < len(scores):
        kept = np.argpartition(-scores, settings.top_k - 1)[: settings.top_k]
    weights = np.exp(scores[kept])
    weights /= weights.sum()
    if settings.top_p is not None:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        order = order[before < settings.top_p]  # the first always: nothing is before it
        kept, weights = kept[order], weights[order] / weights[order].sum()
    probabilities = np.zeros(len(scores))
    probabilities[kept] = weights
    return probabilities


def check_finite(logits: NDArray[np.float32]) -> None:
    """Raises GenerationError: of such a model nothing can be said."""
    if not np.isfinite(logits).all():
        raise GenerationError(
            "the model's logits are not finite: its training has diverged", "p2pnode rounds shows when"
        )
