"""One text in the making: a model reads a prompt, and writes on, a step at a time.

Whoever runs it decides when the next step is made, and so may stop between any two, show the text as it comes, and let others have
the processor. A step reads a piece of the prompt, or chooses one token (with beams, one token of each); nothing waits.

A text ends with `stop` (a stop string), `end` (the tokenizer's token for it), or `length` (as many tokens as asked for). Where
nothing is before a text, it follows the end of another one, or a new line.

A model reads so many tokens, its context. Of a text that is longer, prompt or not, it reads the newest half of a context, and from
there on again until it is full. Beams end there (`context`): all of a search is one context.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.errors import GenerationError
from model.generation.beam_search import BeamSearch
from model.generation.reader import Reader
from model.generation.sampling import Sampler, check_finite, distribution
from model.generation.settings import TOKENS_USUAL, Settings
from model.generation.text_stream import TextStream, text_after
from model.limits import PROMPT_CHARACTERS_MAX
from model.tokenizer import Tokenizer

PIECE_TOKENS: Final = (
    128  # of a prompt at a time: attention takes that times the context of memory, and others wait so long
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may be the next one. Its text may be no whole character."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a text ended, and what it took. `tokens` are those of the text, its end and a stop string's included."""

    reason: str
    prompt_tokens: int
    prompt_tokens_read: int  # fewer only where the prompt is longer than the context
    tokens: tuple[int, ...]
    seed: int | None = None  # which gives the same text again; None where nothing was drawn
    score: float | None = None  # of the best of several beams, in nats per token
    candidates: tuple[Candidate, ...] = ()


class Generation:
    """Raises TokenizerError for a prompt that the tokenizer cannot read, GenerationError where it is not the model's, or where the
    prompt is too long to be looked at."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer, prompt: str, settings: Settings) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._settings = settings
        if tokenizer.vocabulary > reader.vocabulary:
            raise GenerationError(
                f"the tokenizer has {tokenizer.vocabulary} words, the model {reader.vocabulary}",
                "give the tokenizer that the model was trained with",
            )
        if len(prompt) > PROMPT_CHARACTERS_MAX:
            raise GenerationError(
                f"a prompt of {len(prompt)} characters, at most {PROMPT_CHARACTERS_MAX} are read", "give its end alone"
            )
        self._text = tokenizer.encode(prompt) or _beginning(tokenizer)
        self._prompt_tokens = len(self._text)
        self.tokens = 0  # written so far, of each beam
        self.ending: Ending | None = None
        self._steps = self._work()

    def step(self) -> str:
        """Go on by one piece or token; what can be shown of the text since, often nothing. Not after `ending` is there."""
        assert self.ending is None
        return next(self._steps)

    def _work(self) -> Iterator[str]:
        unread = self._newest(self._text)
        self._prompt_read = len(unread)
        logits = yield from self._read(unread)
        if self._settings.candidates is not None:
            self.ending = self._ended("candidates", (), candidates=self._candidates(logits[0]))
            yield ""
        elif (self._settings.beams or 1) > 1:
            yield from self._search(logits, self._settings.beams or 1)
        else:
            yield from self._write(logits)

    def _newest(self, text: list[int]) -> list[int]:
        context = self._reader.context
        return text if len(text) <= context else text[-(context // 2) :]

    def _read(self, tokens: list[int]) -> Generator[str, None, Tensor]:
        for start in range(0, len(tokens) - PIECE_TOKENS, PIECE_TOKENS):
            self._reader.read(tokens[start : start + PIECE_TOKENS])
            yield ""
        return self._reader.read(tokens[(len(tokens) - 1) // PIECE_TOKENS * PIECE_TOKENS :])

    def _read_on(self, token: int) -> Generator[str, None, Tensor]:
        self._text.append(token)
        if self._reader.seen < self._reader.context:
            return self._reader.read([token])
        self._reader.forget()
        return (yield from self._read(self._newest(self._text)))

    def _write(self, logits: Tensor) -> Iterator[str]:
        """Token by token, each chosen for good."""
        sampler = Sampler(self._settings)
        stream = TextStream(self._tokenizer, self._text, stop=self._settings.stop)
        written: list[int] = []
        tokens_max = self._settings.max_tokens or TOKENS_USUAL
        reason = ""
        while not reason:
            token = sampler.choose(logits[0].numpy())
            written.append(token)
            self.tokens = len(written)
            if token == self._tokenizer.end:
                shown, reason = "", "end"
            else:
                shown = stream.add(token)
                reason = "stop" if stream.stopped else "length" if len(written) >= tokens_max else ""
            if reason:
                shown += stream.finish()
                reason = "stop" if stream.stopped else reason
                self.ending = self._ended(reason, written, seed=sampler.seed)
            yield shown
            if not reason:
                logits = yield from self._read_on(token)

    def _search(self, logits: Tensor, beams: int) -> Iterator[str]:
        """The text is known at the end only: until then, the best beam changes."""
        wanted, room = self._settings.max_tokens or TOKENS_USUAL, self._reader.context - self._prompt_read + 1
        search = BeamSearch(beams, ends=partial(self._is_over, tokens_max=min(wanted, room)))
        while True:
            check_finite(logits.numpy())
            rows, tokens = search.step(logits)
            self.tokens += 1
            if search.best is not None:
                break
            yield ""
            if self.tokens == 1:
                rows = torch.zeros_like(rows)  # one prompt was read; from here on it is as many as there are beams
            self._reader.select(rows)
            logits = self._reader.read(tokens[:, None])
        best = search.best
        has_end = best.tokens[-1] == self._tokenizer.end
        stream = TextStream(self._tokenizer, self._text, stop=self._settings.stop)
        shown = []
        for token in best.tokens[: len(best.tokens) - has_end]:
            shown.append(stream.add(token))
            if stream.stopped:
                break
        shown.append(stream.finish())
        reason = "stop" if stream.stopped else "end" if has_end else "length" if wanted <= room else "context"
        self.ending = self._ended(reason, best.tokens, score=best.score)
        yield "".join(shown)

    def _is_over(self, tokens: tuple[int, ...], *, tokens_max: int) -> bool:
        """Whether a beam goes no further. A stop string ends with the newest token: what is before was looked at before."""
        if len(tokens) >= tokens_max or tokens[-1] == self._tokenizer.end:
            return True
        if not self._settings.stop:
            return False
        longest = max(len(stop.encode(errors="surrogatepass")) for stop in self._settings.stop)
        text = text_after(self._tokenizer, [*self._text[-longest:], *tokens[:-longest]], tokens[-longest:])
        return any(stop in text for stop in self._settings.stop)

    def _candidates(self, logits: Tensor) -> tuple[Candidate, ...]:
        probabilities = distribution(logits.numpy(), self._settings)
        likeliest = np.argsort(-probabilities, kind="stable")[: self._settings.candidates]
        return tuple(
            Candidate(int(token), text_after(self._tokenizer, self._text, [int(token)]), float(probabilities[token]))
            for token in likeliest
            if probabilities[token] > 0
        )

    def _ended(
        self,
        reason: str,
        tokens: Sequence[int],
        *,
        seed: int | None = None,
        score: float | None = None,
        candidates: tuple[Candidate, ...] = (),
    ) -> Ending:
        return Ending(reason, self._prompt_tokens, self._prompt_read, tuple(tokens), seed, score, candidates)


def _beginning(tokenizer: Tokenizer) -> list[int]:
    """What stands before a text that has no prompt. Raises GenerationError where the tokenizer knows no such thing."""
    begun = [tokenizer.end] if tokenizer.end is not None else tokenizer.encode("\n")
    if not begun:
        raise GenerationError("the prompt is empty, and this tokenizer has no token to begin with", "give a prompt")
    return begun
