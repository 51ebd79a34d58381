"""Training pairs, a line each: `input |target`. The input and the bar are read, the target is learned.

The line stays what it is, bar and all: whoever gives the model `input |` gets the target. A target may have bars of its own.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from model.text.census import Census, Piece

BAR: Final = " |"
_LINES_AT_LEAST: Final = 2  # one alone proves nothing


def pairs(lines: Iterable[str], census: Census) -> Iterator[Piece]:
    """Each line a document. One without a bar is learned whole; empty ones are left out."""
    for line in lines:
        text = line.rstrip("\r\n")
        before, bar, target = text.partition(BAR)
        if not text.strip():
            continue
        if not bar:
            census.unpaired += 1
            yield Piece(text, ends=True)
            continue
        yield from pair(before, target, census)


def pair(before: str, target: str, census: Census) -> Iterator[Piece]:
    """One, as it stands in the text."""
    census.pairs += 1
    yield Piece(before + BAR, silent=True)
    yield Piece(target, ends=True)


def look_like_pairs(beginning: str) -> bool:
    """Whether every whole line at a file's beginning is a pair, with one bar and something on either side of it."""
    found = [line for line in beginning.splitlines() if line.strip()]
    halves = [line.split(BAR) for line in found]
    return len(found) >= _LINES_AT_LEAST and all(len(parts) == 2 and all(map(str.strip, parts)) for parts in halves)
