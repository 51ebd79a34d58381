"""Text that can be shown while its tokens come: whole characters only, and nothing that may turn out to be a stop string.

A token may end in the middle of a character, and how it reads may depend on the ones before it (of some tokenizers the first word
of a text has no space before it). So a new token is decoded together with the last ones before it, and what these give alone is
taken off. What ends in U+FFFD may be half a character and waits; at most three bytes of a character can.

All that a stream gave, `finish` included, is what the tokenizer makes of all its tokens, up to the stop string.
"""

from collections.abc import Sequence
from typing import Final

from model.tokenizer import Tokenizer

_CONTEXT_TOKENS: Final = 4  # as many as the bytes of a character; half a word on which another depends is one token
_PENDING_TOKENS: Final = 16  # of a text that is no text: then what is sure is taken off
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"


def text_after(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int]) -> str:
    """What `tokens` add to the text of some tokens `before` them."""
    known = list(before[-_CONTEXT_TOKENS:])
    return tokenizer.decode([*known, *tokens])[len(tokenizer.decode(known)) :]


class TextStream:
    """`before`: tokens of the prompt, which is not shown. `stop`: see Settings."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], *, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._before = list(before[-_CONTEXT_TOKENS:])
        self._pending: list[int] = []
        self._taken = 0  # characters of the pending tokens' text that are in `_held` already, or shown
        self._stop = stop
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that can be shown now. After `stopped`, no more tokens."""
        assert not self.stopped
        self._pending.append(token)
        return self._release(self._new_text())

    def finish(self) -> str:
        """What was held back; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        rest = text_after(self._tokenizer, self._before, self._pending)[self._taken :]
        self._pending, self._taken = [], 0
        return self._release(rest) + self._flush()

    def _new_text(self) -> str:
        text = text_after(self._tokenizer, self._before, self._pending)
        if not text.endswith(_UNFINISHED):
            new = text[self._taken :]
            self._before = [*self._before, *self._pending][-_CONTEXT_TOKENS:]
            self._pending, self._taken = [], 0
            return new
        new, self._taken = text[self._taken : -1], max(self._taken, len(text) - 1)
        if len(self._pending) >= _PENDING_TOKENS:
            self._shorten(text)
        return new

    def _shorten(self, text: str) -> None:
        """Split the pending tokens where both parts read the same as the whole: else their number has no bound."""
        for kept in range(1, _CONTEXT_TOKENS + 1):
            head, tail = self._pending[:-kept], self._pending[-kept:]
            before = [*self._before, *head]
            sure = text_after(self._tokenizer, self._before, head)
            if sure + text_after(self._tokenizer, before, tail) == text and len(sure) <= self._taken:
                self._before, self._pending, self._taken = before[-_CONTEXT_TOKENS:], tail, self._taken - len(sure)
                return

    def _release(self, new: str) -> str:
        """Of the text held and this, what no stop string can begin in."""
        self._held += new
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        kept = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return shown

    def _flush(self) -> str:
        rest, self._held = self._held, ""
        return "" if self.stopped else rest


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` are the first of `stop`."""
    return next((count for count in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:count])), 0)
