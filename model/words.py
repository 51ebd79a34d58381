"""How a text that is tokenized stands in a file: one word of fixed width for each token, little-endian.

Bytes stand as they are. Other tokens take two bytes, or four where two cannot count the vocabulary. In a text of pairs the
top bit of a word says that its token is read and not predicted: nobody learns to write the inputs. Beyond the file such a
token t is ~t, hence negative, and -1 stays what padding always was (model/prediction_loss.py): a 0 that nobody predicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.limits import VOCABULARY

_TYPES: Final[Mapping[int, np.dtype[Any]]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}


@dataclass(frozen=True, slots=True)
class Words:
    """`width`: bytes of a word, 1, 2 or 4; `masked`: whether its top bit is a mark."""

    width: int = 1
    masked: bool = False

    def __post_init__(self) -> None:
        if self.width not in _TYPES:
            raise ValueError(f"words of {self.width} bytes, not 1, 2 or 4")
        if self.masked and self.width == 1:
            raise ValueError("words of one byte have no bit to spare for a mark")

    @classmethod
    def of(cls, vocabulary: int, *, masked: bool, raw: bool = False) -> "Words":
        """The narrowest that count the vocabulary; `raw`: for bytes, which stand as they are where nothing is masked."""
        if raw and not masked:
            return cls()
        return cls(2 if vocabulary <= 1 << (16 - masked) else 4, masked)

    @property
    def tokens_max(self) -> int:
        """The largest vocabulary that they count."""
        return VOCABULARY if self.width == 1 else 1 << (8 * self.width - self.masked)

    def pack(self, tokens: Sequence[int] | NDArray[np.int64], *, silent: bool = False) -> bytes:
        """Tokens as they stand in a file; `silent`: none of them is to be predicted, which only masked words can say."""
        assert self.masked or not silent
        words = np.asarray(tokens, _TYPES[self.width])
        data: bytes = (words | self._mark if silent else words).tobytes()
        return data

    def unpack(self, data: bytes | memoryview) -> NDArray[np.int64]:
        """Tokens, ~t for one that nobody predicts. `data` holds whole words."""
        words: NDArray[np.int64] = np.frombuffer(data, _TYPES[self.width]).astype(np.int64)
        if not self.masked:
            return words
        silent = words >= self.tokens_max
        words[silent] = ~(words[silent] - self.tokens_max)
        return words

    def largest(self, data: bytes | memoryview) -> int:
        """The largest token in whole words; -1 where there is none."""
        words = np.frombuffer(data, _TYPES[self.width])
        return int((words & ~self._mark if self.masked else words).max(initial=0)) if len(words) else -1

    @property
    def _mark(self) -> Any:
        """The top bit, as a word."""
        return _TYPES[self.width].type(self.tokens_max)


BYTES: Final = Words()
