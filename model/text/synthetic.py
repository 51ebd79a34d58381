"""Text of a known entropy: sixteen letters, each of which depends on the two before it.

After any two letters four may follow, with chances of 1/2, 1/4, 1/8 and 1/8; which four is drawn once, from the seed. So each letter
has an entropy of 1.75 bits, 1.213 nats, whatever came before it: no model gets below that, and one that has learned the table gets there.
"""

import math
import random
from collections.abc import Iterator
from typing import Final

import numpy as np

from model.limits import PIECE_BYTES
from model.text.census import Piece

ENTROPY_NATS: Final = 1.75 * math.log(2)  # per letter, which is a byte
DEFAULT_BYTES: Final = 4 << 20
_LETTERS: Final = 16
_TABLE: Final = (128, 64, 32, 32)  # of 256 draws


def synthetic(length: int, *, seed: int = 0) -> Iterator[Piece]:
    """One document of so many letters, the same for the same seed on every machine."""
    source = random.Random(f"p2pnode-synthetic-{seed}")  # noqa: S311 - a text that anybody can make again
    following = _table(source)
    state = 0
    while length > 0:
        draws = source.randbytes(min(length, PIECE_BYTES))
        # A state is 256 times the number of the two last letters, so that a draw is an index into its row.
        states = [state := following[state + draw] for draw in draws]
        letters = (np.array(states) // 256 % _LETTERS + ord("a")).astype(np.uint8)
        length -= len(draws)
        yield Piece(letters.tobytes().decode(), ends=length == 0)


def _table(source: random.Random) -> list[int]:
    """The state after a state and a draw of 0 to 255."""
    table = []
    for before in range(_LETTERS**2):
        for letter, share in zip(source.sample(range(_LETTERS), len(_TABLE)), _TABLE, strict=True):
            table += [256 * (before % _LETTERS * _LETTERS + letter)] * share
    return table
