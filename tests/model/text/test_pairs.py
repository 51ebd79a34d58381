"""Pairs: what is read, what is learned, and what looks like a file of them."""

import pytest

from model.text.census import Census, Piece
from model.text.pairs import look_like_pairs, pair, pairs


def test_a_line_is_an_input_and_a_target() -> None:
    census = Census()
    found = list(pairs(["2+2 |4\n", "\n", "a |b |c\r\n", "no bar|here\n", " |only a target\n"], census))
    assert found == [
        Piece("2+2 |", silent=True),
        Piece("4", ends=True),
        Piece("a |", silent=True),
        Piece("b |c", ends=True),
        Piece("no bar|here", ends=True),
        Piece(" |", silent=True),
        Piece("only a target", ends=True),
    ]
    assert (census.pairs, census.unpaired) == (3, 1)


def test_one_pair_stands_as_in_a_file() -> None:
    assert list(pair("q", "a", Census())) == [Piece("q |", silent=True), Piece("a", ends=True)]


@pytest.mark.parametrize("text", ["2+2 |4\n3+3 |6\n", "a |b\r\n\r\nc d |e f"])
def test_a_file_of_pairs_looks_like_one(text: str) -> None:
    assert look_like_pairs(text)


@pytest.mark.parametrize(
    "text",
    ["", "one |pair", "2+2 |4\nprose\n", "| a | b |\n|---|---|\n", "a |b |c\nd |e |f\n", " |x\n |y\n", "a |\nb |\n"],
    ids=range(7),
)
def test_other_text_does_not(text: str) -> None:
    assert not look_like_pairs(text)
