"""Beam search: the most likely text that a bounded search finds, by the rules of transformers 5, so that both give the same tokens.

Each step continues all beams by all tokens and looks at the best 2 * beams of these: enough that as many go on where half of them
end here. Of the best `beams` those that end are finished, with their log-probability per token as score; the best of those that do
not end are the next beams. The search is over when as many are finished as there are beams and the best running one is, per token
so far, no better than the worst of these (`early_stopping=False`, `length_penalty=1`), or when everything that was looked at ends.

For editors: scores are float32, added and divided in the same order as there. That is what equal means where two texts are close.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_NEVER: Final = -1e9  # a score that nothing real has


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished text."""

    score: float  # nats per token, at most zero
    tokens: tuple[int, ...]


class BeamSearch:
    """`ends(tokens)`: whether a text is finished with its last token. Feed logits by `step` until `best` is there."""

    def __init__(self, beams: int, *, ends: Callable[[tuple[int, ...]], bool]) -> None:
        self._beams = beams
        self._ends = ends
        self._running: list[tuple[int, ...]] = [()] * beams
        # The beams are one and the same at first: only one of them may be continued.
        self._scores = torch.tensor([0.0] + [_NEVER] * (beams - 1))
        self._finished: list[Hypothesis] = []
        self.best: Hypothesis | None = None

    @property
    def length(self) -> int:
        """Tokens of each running text."""
        return len(self._running[0])

    @torch.inference_mode()
    def step(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """From logits (beams, vocabulary), or (1, vocabulary) at first, to the rows to go on with and their next tokens.

        Both are (beams,) int64; the tokens are for the reader to read next, unless `best` is there.
        """
        vocabulary = logits.shape[1]
        scores = functional.log_softmax(logits, dim=-1).expand(self._beams, -1) + self._scores[:, None]
        top = scores.flatten().topk(min(2 * self._beams, scores.numel()))
        rows, tokens = top.indices // vocabulary, top.indices % vocabulary
        texts = [(*self._running[row], token) for row, token in zip(rows.tolist(), tokens.tolist(), strict=True)]
        ending = [self._ends(text) for text in texts]
        self._finish(texts, ending, top.values)
        going_on = top.values + torch.tensor(ending) * _NEVER
        chosen = going_on.topk(self._beams).indices
        self._scores = going_on[chosen]
        self._running = [texts[index] for index in chosen.tolist()]
        if all(ending) or not self._can_improve():
            self.best = self._finished[0]
        return rows[chosen], tokens[chosen]

    def _finish(self, texts: list[tuple[int, ...]], ending: list[bool], scores: Tensor) -> None:
        each = (scores / (self.length + 1)).tolist()
        new = [Hypothesis(each[i], texts[i]) for i in range(self._beams) if ending[i]]
        self._finished = sorted(self._finished + new, key=lambda found: -found.score)[: self._beams]

    def _can_improve(self) -> bool:
        if len(self._finished) < self._beams:
            return True
        return float(self._scores[0] / self.length) > self._finished[-1].score
