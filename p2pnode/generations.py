"""Texts that the agreed model writes for the node's owner, a slice of time at a time.

What it is: the node's side of ``p2pnode generate``, and one text in the making, which that command uses also where no node runs. What it
is not: the writing itself (``model/generation``), or part of any round: a text goes on with the model that it began with.

A client asks for a text and is given what comes within a slice; then it asks on. So nothing is computed that nobody waits for: who goes
away stops its text by not asking, a slice is all that the end of the node has to wait for, and a client that stops reading holds
nothing up. The slices of all clients take turns on one thread.

That thread has the priority of the loop's: one with less that is preempted while it holds the interpreter's lock (and it takes that
for every small operation) stops votes and training for as long. Instead it rests, while the node trains, as long as it has worked.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from model.errors import ModelError
from model.generation.generation import Ending, Generation
from model.generation.reader import Reader
from model.generation.settings import Settings
from model.replica import Replica
from model.tokenizer import Tokenizer
from p2pnode.errors import UserError
from p2pnode.worker import Worker

SLICE_SECONDS = 0.1  # a tenth of a second between two looks at a text is still a stream to whoever reads it
TEXTS_MAX = 4  # each holds the model that it began with, and all that it has read
LEASE_SECONDS_MAX = 10.0  # a client that asks later than this has gone, or its owner has stopped it
NICENESS = 0

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgreedModel:
    """M(h) with its height and root, as far as these are known, and what its tokens mean."""

    replica: Replica
    tokenizer: Tokenizer
    height: int | None
    root: str | None
    device: str = "cpu"


class Text:
    """One text in the making. Blocking; for one thread at a time."""

    def __init__(self, model: AgreedModel, prompt: str, settings: Settings) -> None:
        self._model, self._prompt, self._settings = model, prompt, settings
        self._generation: Generation | None = None
        self._seconds = 0.0

    def advance(self, seconds: float) -> Answer:
        """Go on for so long, at least by one step: the new ``text``, the ``tokens`` so far, and once it has ``ended``, the facts.

        Raises:
            UserError: it cannot be generated as asked.
        """
        started, shown = time.perf_counter(), []
        try:
            generation = self._generation = self._generation or self._begin()
            while True:
                shown.append(generation.step())
                if generation.ending is not None or time.perf_counter() - started >= seconds:
                    break
        except ModelError as problem:
            raise UserError(problem.message, problem.hint) from None
        except MemoryError:
            raise UserError("not enough memory for this text", "fewer beams, or fewer tokens, take less") from None
        self._seconds += time.perf_counter() - started
        ending = generation.ending
        return {
            "text": "".join(shown),
            "tokens": generation.tokens,
            "ended": None if ending is None else self._facts(ending),
        }

    def _begin(self) -> Generation:
        try:
            reader = Reader(self._model.replica, device=self._model.device, cached=self._settings.cached)
        except (RuntimeError, AssertionError) as problem:  # how torch says that there is no such device
            if self._model.device == "cpu":
                raise
            reason = str(problem).partition("\n")[0]
            raise UserError(f"cannot compute on {self._model.device}: {reason}", "set device to cpu") from None
        return Generation(reader, self._model.tokenizer, self._prompt, self._settings)

    def _facts(self, ending: Ending) -> Answer:
        count = len(ending.tokens)
        return {
            "reason": ending.reason,
            "height": self._model.height,
            "model_root": self._model.root,
            "context": self._model.replica.config.context,
            "prompt_tokens": ending.prompt_tokens,
            "prompt_tokens_read": ending.prompt_tokens_read,
            "tokens": count,
            "token_ids": list(ending.tokens),
            "seed": ending.seed,
            "score": ending.score,
            "seconds": self._seconds,
            "tokens_per_second": count / self._seconds if count and self._seconds else None,
            "candidates": [
                {"token": each.token, "text": each.text, "probability": each.probability} for each in ending.candidates
            ],
        }


@dataclass(slots=True)
class _Leased:
    text: Text
    waiting: int = 0  # requests that wait for a slice of it
    answered: float = field(default_factory=trio.current_time)


class Generations:
    """All texts that clients of this node have asked for and not yet had to their end."""

    def __init__(self, make_worker: type[Worker], *, is_training: Callable[[], bool]) -> None:
        self._make_worker = make_worker
        self._is_training = is_training
        self._turn = trio.Lock()  # whoever asked first is next
        self._rested = 0.0  # when the thread may work again
        self._worker: Worker | None = None  # most nodes never write
        self._texts: dict[int, _Leased] = {}
        self._last = 0

    async def begin(self, model: AgreedModel, prompt: str, settings: Settings) -> Answer:
        """The first slice of a new text, and the ``number`` under which there is more.

        Raises:
            UserError: too many are being written, or it cannot be generated as asked.
        """
        self.forget_abandoned()
        if len(self._texts) >= TEXTS_MAX:
            raise UserError(f"{len(self._texts)} texts are being written already", "try again when one has ended")
        self._last += 1
        self._texts[self._last] = _Leased(Text(model, prompt, settings))
        return await self.go_on(self._last)

    async def go_on(self, number: int) -> Answer:
        """The next slice. Raises UserError where there is no such text, or no more."""
        leased = self._texts.get(number)
        if leased is None:
            raise UserError(
                f"text {number} is not being written",
                f"it has ended, or was not asked for within {LEASE_SECONDS_MAX:.0f} s",
            )
        if self._worker is None:
            self._worker = self._make_worker("generate", niceness=NICENESS)
        leased.waiting += 1
        try:
            answer = await self._slice(self._worker, leased.text)
        except BaseException:
            self.end(number)
            raise
        finally:
            leased.waiting -= 1
            leased.answered = trio.current_time()
        if answer["ended"] is not None:
            self.end(number)
        return {"number": number, **answer}

    async def _slice(self, worker: Worker, text: Text) -> Answer:
        async with self._turn:
            await trio.sleep_until(self._rested)
            began = trio.current_time()
            answer = await worker.run(partial(text.advance, SLICE_SECONDS))
            worked = trio.current_time() - began
            self._rested = trio.current_time() + (worked if self._is_training() else 0)
            return answer

    def end(self, number: int) -> None:
        """Nobody wants more of it."""
        self._texts.pop(number, None)

    def forget_abandoned(self) -> None:
        oldest = trio.current_time() - LEASE_SECONDS_MAX
        for number in [n for n, leased in self._texts.items() if not leased.waiting and leased.answered < oldest]:
            self.end(number)

    async def forget_forever(self) -> None:
        """Until cancelled: a text that nobody asks for holds a whole model."""
        while True:
            await trio.sleep(LEASE_SECONDS_MAX)
            self.forget_abandoned()

    def close(self) -> None:
        """The thread ends with the slice that it is at."""
        if self._worker is not None:
            self._worker.finish(lambda: None, timeout_seconds=0)
