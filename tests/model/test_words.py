"""Tokens as they stand in a file."""

import numpy as np
import pytest

from model.words import BYTES, Words


@pytest.mark.parametrize("words", [BYTES, Words(2), Words(2, True), Words(4), Words(4, True)], ids=str)
def test_tokens_come_back(words: Words) -> None:
    tokens = [0, 1, 77, words.tokens_max - 1]
    data = words.pack(tokens)
    assert len(data) == words.width * 4
    assert words.unpack(data).tolist() == tokens and words.unpack(data).dtype == np.int64
    assert words.largest(data) == words.tokens_max - 1 and words.largest(b"") == -1


def test_a_word_is_little_endian_and_bytes_are_themselves() -> None:
    assert Words(2).pack([0x1234]) == b"\x34\x12" and Words(4).pack([1]) == b"\x01\0\0\0"
    assert BYTES.pack([97, 98]) == b"ab"


@pytest.mark.parametrize("width", [2, 4])
def test_what_nobody_predicts_is_negative(width: int) -> None:
    words = Words(width, masked=True)
    data = words.pack([0, 5, words.tokens_max - 1], silent=True) + words.pack([5])
    assert words.unpack(data).tolist() == [~0, ~5, ~(words.tokens_max - 1), 5]
    assert words.largest(data) == words.tokens_max - 1


def test_the_narrowest_words_that_count_a_vocabulary() -> None:
    assert Words.of(256, masked=False, raw=True) == BYTES
    assert Words.of(256, masked=True, raw=True) == Words(2, True)
    assert Words.of(256, masked=False) == Words(2)
    for masked, bits in ((False, 16), (True, 15)):
        assert Words.of(1 << bits, masked=masked) == Words(2, masked)
        assert Words.of((1 << bits) + 1, masked=masked) == Words(4, masked)


@pytest.mark.parametrize(("width", "masked"), [(3, False), (0, False), (1, True), (8, False)])
def test_other_words_are_none(width: int, masked: bool) -> None:
    with pytest.raises(ValueError, match="words of"):
        Words(width, masked)
