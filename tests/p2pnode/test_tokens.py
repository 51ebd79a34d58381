"""An invitation as text (tokens.py): it comes back whole, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.tokens import PREFIX, Token, parse_token, token_text

TOKEN = Token(bytes(range(32)), b"\2" * 32, 10_000, b"\3" * 32, b"\xff" * 64)
TEXT = token_text(TOKEN)


def test_it_comes_back_as_it_was():
    assert parse_token(TEXT) == TOKEN
    assert TEXT.startswith(PREFIX) and len(TEXT) < 250 and not TEXT.strip("-_" + PREFIX).startswith("=")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begin"),
        ("p2pnode2-" + TEXT.removeprefix(PREFIX), "begin"),
        (PREFIX, "characters"),
        (TEXT[:-8], "missing"),
        (TEXT[:-1], "missing"),
        (TEXT + "AAAA", "too long"),
        (TEXT * 20, "characters"),
        (TEXT[:50] + " " + TEXT[50:], "characters"),
        (PREFIX + "é" * 200, "characters"),
        (TEXT[:60] + ("A" if TEXT[60] != "A" else "B") + TEXT[61:], "wrong"),
    ],
)
def test_what_is_torn_or_mistyped_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_token(text)


@given(st.text(max_size=300) | st.text(max_size=300).map(lambda text: PREFIX + text))
def test_anything_else_is_refused_and_nothing_worse(text):
    with pytest.raises(ValueError):
        parse_token(text)
