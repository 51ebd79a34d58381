"""Whole characters, whole words, and no stop string, whatever the tokens are."""

import random

import pytest

from model.generation.text_stream import TextStream
from model.tokenizer import Tokenizer
from tests.model.texts import BYTES, shown, words

TEXTS = ["plain", "grüße", "日本語のテキスト", "👩‍👩‍👧 and 🇩🇪", "e\u0301", "a\x00b", "\N{REPLACEMENT CHARACTER}x", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_a_character_is_shown_when_it_is_whole(text: str) -> None:
    pieces = shown(BYTES, list(b"before"), list(text.encode()))
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
        assert pieces[-1] == ""  # nothing had to wait for the end
        ends = {len(text[:n].encode()) for n in range(1, len(text) + 1)}
        assert all(bool(piece) == (at in ends) for at, piece in enumerate(pieces[:-1], 1))


def test_half_a_character_at_the_end_is_one_replacement() -> None:
    assert shown(BYTES, [], list("ab€".encode())[:-1]) == ["a", "b", "", "", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("seed", range(30))
def test_all_pieces_together_are_the_text_of_all_tokens(seed: int) -> None:
    """Of bytes that are no text as well, and long runs of these."""
    draw = random.Random(seed)
    kinds = [
        b"\xff",
        b"\xe2\x82",
        b"\xf0\x9f\x91",
        "€".encode(),
        "👩".encode(),
        b"a",
        b"\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90",
    ]
    chosen = draw.sample(kinds, draw.randint(1, 4))
    data = b"".join(draw.choice(chosen) for _ in range(draw.randint(1, 120)))
    pieces = shown(BYTES, list(b"so: "), list(data))
    assert "".join(pieces) == data.decode(errors="replace")


def test_what_waits_has_a_bound_though_nothing_is_ever_a_character() -> None:
    stream = TextStream(BYTES, [])
    text = "".join(stream.add(0xFF) for _ in range(500))
    assert len(text) == 499 and len(stream._pending) <= 16
    assert text + stream.finish() == "\N{REPLACEMENT CHARACTER}" * 500


def test_the_first_word_keeps_its_space_after_a_prompt_and_has_none_without() -> None:
    tokenizer = words("to", "be")
    to, be = tokenizer.encode("to be")
    assert tokenizer.decode([be]) == "be"
    assert shown(tokenizer, [to], [be, to]) == [" be", " to", ""]
    assert shown(tokenizer, [], [to, be]) == ["to", " be", ""]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("o t", "wo"), "one tw"[:4] + "tw"[:1]),
        ("aaab", ("aab",), "a"),
        ("abababc", ("ababc",), "ab"),
        ("ends with sto", ("stop",), "ends with sto"),
        ("grüße an alle", ("üß",), "gr"),
        ("stop", ("stop",), ""),
        ("nothing", ("stop", "nox"), "nothing"),
        ("x\n\nUser:", ("\n\n", "User:"), "x"),
    ],
)
def test_the_text_ends_before_a_stop_string_wherever_tokens_end(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    pieces = shown(BYTES, [], list(text.encode()), *stop)
    assert "".join(pieces) == expected
    for count in range(len(pieces)):  # nothing was shown that had to be taken back
        assert expected.startswith("".join(pieces[:count]))


def test_the_earliest_of_several_stop_strings_counts() -> None:
    tokenizer = words("a", "b", "c")
    tokens = tokenizer.encode("a b c")
    assert "".join(shown(tokenizer, [], tokens, " c", " b c", "b c")) == "a"
    stream = TextStream(tokenizer, [], stop=(" b",))
    assert [stream.add(tokens[0]), stream.stopped, stream.add(tokens[1]), stream.stopped] == ["a", False, "", True]
    assert stream.finish() == ""


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    assert shown(BYTES, [], list(b"ab\ncd"), "\n\n") == ["a", "b", "", "\nc", "d", ""]


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_against_the_obvious(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choice("ab€") for _ in range(draw.randint(1, 40)))
    stop = tuple("".join(draw.choice("ab€") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(1, 3)))
    # As a reader would: the first moment at which the text holds one, and there the one that begins first.
    expected = text
    for length in range(1, len(text) + 1):
        if found := [place for each in stop if (place := text[:length].find(each)) >= 0]:
            expected = text[: min(found)]
            break
    assert "".join(shown(BYTES, [], list(text.encode()), *stop)) == expected


def test_a_tokenizer_is_all_it_takes() -> None:
    tokenizer: Tokenizer = words("x")
    assert TextStream(tokenizer, tokenizer.encode("x")).finish() == ""
