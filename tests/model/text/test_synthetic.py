"""Text of a known entropy: the figure is right, and a text is the same for its seed."""

import math
from collections import Counter, defaultdict

import pytest

from model.text.synthetic import ENTROPY_NATS, synthetic


def text(length: int, seed: int = 0) -> str:
    pieces = list(synthetic(length, seed=seed))
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return "".join(piece.text for piece in pieces)


def test_a_text_is_the_same_for_its_seed() -> None:
    assert text(5000) == text(5000) != text(5000, seed=1)
    assert len(text(300_001)) == 300_001 and text(1) in "abcdefghijklmnop"


@pytest.mark.parametrize("seed", [0, 5])
def test_its_entropy_is_what_it_says(seed: int) -> None:
    """Measured: of each letter, where the two before it are known. The estimate is a little too low, as each is of few samples."""
    letters = text(1_000_000, seed)
    following: dict[str, Counter[str]] = defaultdict(Counter)
    for place in range(2, len(letters)):
        following[letters[place - 2 : place]][letters[place]] += 1
    measured = 0.0
    for counts in following.values():
        total = counts.total()
        measured -= sum(count * math.log(count / total) for count in counts.values())
    assert measured / (len(letters) - 2) == pytest.approx(ENTROPY_NATS, rel=0.005)
    assert pytest.approx(1.75 * math.log(2)) == ENTROPY_NATS
    assert all(len(counts) == 4 for counts in following.values() if counts.total() > 500)
