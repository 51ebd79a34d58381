"""Pieces of text to the words of a corpus (model/words.py), a few hundred kilobytes at a time.

Documents follow one another, each behind the tokenizer's end token; where there is none, as with bytes, behind a line end, unless it had one
or nothing follows. A document longer than CUT_CHARACTERS is cut where the usual tokenizers begin a new word whatever stands before it, so
that it has the tokens that it would have in one piece. Bytes that are never masked go through as they are, also those that are no UTF-8.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.text.census import Census, Piece
from model.tokenizer import ByteTokenizer, Tokenizer
from model.words import BYTES, Words

CUT_CHARACTERS: Final = 1 << 18
_BATCH_CHARACTERS: Final = 1 << 20  # for all cores at once; an encoding takes a hundred bytes a token
# The best places to cut: before a line's first character, where the line before is not empty; before a space behind a word.
_CUTS: Final = (re.compile(r"(?<=[^\s]\n)(?=\S)"), re.compile(r"(?<=\n)"), re.compile(r"(?<=\S)(?= \S)"))


def encode(pieces: Iterable[Piece], tokenizer: Tokenizer, words: Words, census: Census) -> Iterator[bytes]:
    """The corpus, piece by piece; `census` counts. Raises TokenizerError, and what `pieces` raises."""
    counted = _counted(pieces, census)
    if words == BYTES:
        yield from _raw(counted, census)
        return
    batch: list[Piece] = []
    size = 0
    for piece in _cut(_separated(counted) if tokenizer.end is None else counted):
        batch.append(piece)
        size += len(piece.text)
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


def _raw(pieces: Iterable[Piece], census: Census) -> Iterator[bytes]:
    for piece in _separated(pieces):
        data = piece.text.encode(errors="surrogateescape")
        census.tokens += len(data)
        yield data


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


def _cut(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same text in pieces that a tokenizer takes at once: whole documents, or parts that begin where words do."""
    rest = Piece("")
    for piece in pieces:
        if rest.text and rest.silent != piece.silent:
            yield rest
            rest = Piece("")
        rest = replace(piece, text=rest.text + piece.text)
        text, start = rest.text, 0
        while len(text) - start > CUT_CHARACTERS:
            at = cut_at(text, start)
            yield Piece(text[start:at], silent=rest.silent)
            start = at
        if start:
            rest = replace(rest, text=text[start:])
        if rest.ends:
            yield rest
            rest = Piece("")
    if rest.text:
        yield rest


def cut_at(text: str, start: int = 0) -> int:
    """Where to cut a text of which more than CUT_CHARACTERS are left: at the last good place in the second half of so many."""
    middle, end = start + CUT_CHARACTERS // 2, start + CUT_CHARACTERS
    for pattern in _CUTS:
        places = [match.start() for match in pattern.finditer(text, middle, end)]
        if places:
            return places[-1]
    return end


def _packed(batch: list[Piece], tokenizer: Tokenizer, words: Words, census: Census) -> bytes:
    parts = []
    for piece, tokens in zip(batch, _tokens(batch, tokenizer), strict=True):
        census.tokens += len(tokens)
        parts.append(words.pack(tokens, silent=piece.silent))
        if piece.ends and tokenizer.end is not None:
            census.tokens += 1
            parts.append(words.pack([tokenizer.end]))
    return b"".join(parts)


def _tokens(batch: list[Piece], tokenizer: Tokenizer) -> Iterable[list[int] | NDArray[np.int64]]:
    if isinstance(tokenizer, ByteTokenizer):  # without a Python integer for each byte
        texts = [piece.text.encode(errors="surrogateescape") for piece in batch]
        return [np.frombuffer(text, np.uint8).astype(np.int64) for text in texts]
    return tokenizer.encode_batch([piece.text for piece in batch])
