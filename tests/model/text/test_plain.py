"""Bytes to characters and lines, whatever the bytes are."""

import random

import pytest

from model import limits
from model.errors import CorpusError
from model.text import plain


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    "data",
    [
        "naïve 日本 👩‍👩‍👧\r\nline".encode(),
        b"\xff\xfe is no text",
        b"caf\xe9 in Latin-1, \xc3",
        "ünï\r\n".encode("utf-8-sig"),
        bytes(random.Random(1).choices(range(1, 256), k=3000)),
        b"",
    ],
    ids=range(6),
)
def test_every_byte_of_a_text_comes_back(data: bytes, size: int) -> None:
    if plain.encoding_of(data) == "utf-8":
        texts = list(plain.characters(pieces(data, size)))
        assert "".join(texts).encode(errors="surrogateescape") == data and all(texts)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "utf-32-be"])
def test_a_mark_names_another_encoding(encoding: str) -> None:
    text = "ünï 日本 👩\r\n"
    data = ("\ufeff" * encoding.endswith("be") + text).encode(encoding)
    assert "".join(plain.characters(pieces(data, 8))) == text
    assert not plain.looks_binary(data)
    assert "".join(plain.characters([data + b"\x00"])).startswith(text)  # half a character behind it


def test_lines_keep_their_ends() -> None:
    text = "one\ntwo\r\n\n\rthree\u2028still\nlast\r"
    for size in (1, 2, 5, 100):
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(plain.lines(parts, "file")) == ["one\n", "two\r\n", "\n", "\r", "three\u2028still\n", "last\r"]
    assert list(plain.lines([], "file")) == []


def test_a_line_is_no_longer_than_memory_should_hold() -> None:
    part = "x" * (1 << 20)
    fits = [part] * (limits.LINE_CHARACTERS_MAX >> 20)
    assert [len(line) for line in plain.lines([*fits, "\n", "next"], "file")] == [limits.LINE_CHARACTERS_MAX + 1, 4]
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield part

    with pytest.raises(CorpusError, match="file: a line of more than"):
        list(plain.lines(endless(), "file"))
    assert taken == len(fits) + 1


def test_well_known_kinds_of_no_text_are_called_by_their_name() -> None:
    assert plain.what_else(b"%PDF-1.7") == "a PDF" and plain.what_else(b"PK\x03\x04...").startswith("a zip")
    assert plain.what_else(bytes(257) + b"ustar\x0000") == "a tar archive"
    assert plain.what_else(b"plain text") is None and plain.what_else(b"") is None
    assert plain.looks_binary(b"a\0b") and not plain.looks_binary(b"a b")
