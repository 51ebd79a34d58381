"""Pieces of text to the words of a corpus (model/words.py), a few hundred kilobytes at a time.

Documents follow one another, each behind the tokenizer's end token; where there is none, as with bytes, behind a line end, unless it had one
or nothing follows. Bytes go through as they are, also those that are no UTF-8. A document longer than CUT_CHARACTERS is cut, and has the
tokens that it would have in one piece: a cut is tried out on the text around it, and what follows is encoded behind the last characters
before it, whose tokens are taken off again, so that nothing is put before a part that stands before a whole text only (the space of
SentencePiece). Where no cut of many is good, as in a word of a megabyte, a token at its place may be another one.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from model.text.census import Census, Piece
from model.tokenizer import ByteTokenizer, Tokenizer
from model.words import Words

CUT_CHARACTERS: Final = 1 << 18
NEAR_CHARACTERS: Final = 512  # on either side of a cut, where it is tried out
_BATCH_CHARACTERS: Final = 1 << 20  # for all cores at once; an encoding takes a hundred bytes a token
# The best places to cut: before a line's first character, where the line before is not empty; before a space behind a word.
_CUTS: Final = (re.compile(r"(?<=[^\s]\n)(?=\S)"), re.compile(r"(?<=\n)"), re.compile(r"(?<=\S)(?= \S)"))
_TRIED_OF_EACH: Final = 4
_TRIED_ANYWHERE: Final = 64  # more than the longest words of most vocabularies have characters


@dataclass(frozen=True, slots=True)
class _Part:
    """What a tokenizer takes at once. `before`: encoded in front of it, to `known` tokens that are no part of it."""

    piece: Piece
    before: str = ""
    known: int = 0


def encode(pieces: Iterable[Piece], tokenizer: Tokenizer, words: Words, census: Census) -> Iterator[bytes]:
    """The corpus, piece by piece; `census` counts. Raises TokenizerError, and what `pieces` raises."""
    counted = _counted(pieces, census)
    if isinstance(tokenizer, ByteTokenizer):
        yield from _raw(counted, words, census)
        return
    batch: list[_Part] = []
    size = 0
    for part in _cut(_separated(counted) if tokenizer.end is None else counted, tokenizer):
        batch.append(part)
        size += len(part.piece.text)
        if size >= _BATCH_CHARACTERS:
            yield _packed(batch, tokenizer, words, census)
            batch, size = [], 0
    if batch:
        yield _packed(batch, tokenizer, words, census)


def _counted(pieces: Iterable[Piece], census: Census) -> Iterator[Piece]:
    """Without empty documents."""
    filled = False
    for piece in pieces:
        census.see(piece)
        filled = filled or bool(piece.text)
        if piece.ends and not filled:
            census.empty_documents += 1
            continue
        if piece.ends:
            census.documents += 1
            filled = False
        if piece.text or piece.ends:
            yield piece


def _raw(pieces: Iterable[Piece], words: Words, census: Census) -> Iterator[bytes]:
    for piece in _separated(pieces):
        data = piece.text.encode(errors="surrogateescape")
        census.tokens += len(data)
        yield words.pack(np.frombuffer(data, np.uint8), silent=piece.silent)


def _separated(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A line end behind each document that has none, once another follows. The pieces of one keep their order."""
    owed: Piece | None = None  # the last piece of a document
    for piece in pieces:
        if owed is not None:
            yield owed if owed.text.endswith("\n") else replace(owed, text=owed.text + "\n")
        owed = piece if piece.ends else None
        if owed is None:
            yield piece
    if owed is not None:
        yield owed


def _cut(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[_Part]:
    """The same text in parts: whole documents, or what is between two cuts."""
    rest, before, known = Piece(""), "", 0
    for piece in pieces:
        if rest.text and rest.silent != piece.silent:
            yield _Part(rest, before, known)
            rest, before, known = Piece(""), "", 0
        rest = replace(piece, text=rest.text + piece.text)
        text, start = rest.text, 0
        while len(text) - start > CUT_CHARACTERS + NEAR_CHARACTERS:
            at, seen = cut_at(text, start, tokenizer)
            yield _Part(Piece(text[start:at], silent=rest.silent), before, known)
            start, before, known = at, text[at - NEAR_CHARACTERS : at], seen
        if start:
            rest = replace(rest, text=text[start:])
        if rest.ends:
            yield _Part(rest, before, known)
            rest, before, known = Piece(""), "", 0
    if rest.text:
        yield _Part(rest, before, known)


def cut_at(text: str, start: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """Where to cut a text of which more than CUT_CHARACTERS are left, in the second half of so many.

    Also how many tokens the NEAR_CHARACTERS before it have, which what follows must not change.
    """
    first: tuple[int, int] | None = None
    for at in _places(text, start):
        before, after = text[at - NEAR_CHARACTERS : at], text[at : at + NEAR_CHARACTERS]
        alone, together = tokenizer.encode_batch([before, before + after])
        if together[: len(alone)] == alone:
            return at, len(alone)
        first = first or (at, len(alone))
    assert first is not None
    return first


def _places(text: str, start: int) -> Iterator[int]:
    """The best first, each as far on as can be."""
    middle, end = start + CUT_CHARACTERS // 2, start + CUT_CHARACTERS
    for pattern in _CUTS:
        yield from [match.start() for match in pattern.finditer(text, middle, end)][: -1 - _TRIED_OF_EACH : -1]
    yield from range(end, end - _TRIED_ANYWHERE, -1)


def _packed(batch: list[_Part], tokenizer: Tokenizer, words: Words, census: Census) -> bytes:
    packed = []
    encoded = tokenizer.encode_batch([part.before + part.piece.text for part in batch])
    for part, tokens in zip(batch, encoded, strict=True):
        census.tokens += len(tokens) - part.known
        packed.append(words.pack(tokens[part.known :], silent=part.piece.silent))
        if part.piece.ends and tokenizer.end is not None:
            census.tokens += 1
            packed.append(words.pack([tokenizer.end]))
    return b"".join(packed)
