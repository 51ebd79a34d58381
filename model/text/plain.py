"""Bytes to characters, and characters to lines: what every format that is text begins with.

UTF-8, or UTF-16 and UTF-32 where a mark at the beginning says so. Bytes that are neither are kept (`census.Piece`).
"""

import codecs
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Final

from model.errors import CorpusError
from model.limits import LINE_CHARACTERS_MAX

_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
# The longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What begins so is no text, whatever its name says.
_OTHERS: Final = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive, as office documents and e-books are"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "a database"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"ARROW1", "an Arrow file"),
)


def what_else(head: bytes) -> str | None:
    """What a file is that begins so, where that is a well-known kind of no text."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((what for magic, what in _OTHERS if head.startswith(magic)), None)


def looks_binary(head: bytes) -> bool:
    """Whether a beginning is probably no text: there is a zero byte in it, and no mark of UTF-16 or UTF-32."""
    return b"\0" in head and encoding_of(head) == "utf-8"


def encoding_of(head: bytes) -> str:
    """By the mark at the beginning; UTF-8 where there is none."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def characters(pieces: Iterable[bytes]) -> Iterator[str]:
    """The characters of a text, no piece empty. A UTF-8 mark at the beginning is one of them, U+FEFF."""
    decoder: codecs.IncrementalDecoder | None = None
    for piece in pieces:
        if decoder is None:
            encoding = encoding_of(piece)
            errors = "surrogateescape" if encoding == "utf-8" else "replace"
            decoder = codecs.getincrementaldecoder(encoding)(errors)
        if text := decoder.decode(piece):
            yield text
    if decoder is not None and (text := decoder.decode(b"", final=True)):
        yield text


def lines(texts: Iterable[str], name: str) -> Iterator[str]:
    """Lines with their ends: LF, CR LF, or CR. Raises CorpusError for one that is longer than memory should hold."""
    rest: list[str] = []
    length = 0
    whole_ends = io.IncrementalNewlineDecoder(None, translate=False)  # a CR waits for what follows
    for text in itertools.chain(texts, ("",)):
        for line in _LINE.findall(whole_ends.decode(text, final=not text)):
            rest.append(line)
            length += len(line)
            if line[-1] in "\r\n":
                yield "".join(rest) if len(rest) > 1 else line
                rest.clear()
                length = 0
            elif length > LINE_CHARACTERS_MAX:
                raise CorpusError(
                    f"{name}: a line of more than {LINE_CHARACTERS_MAX} characters",
                    "is it what its name says? a row of jsonl is one line, and a text of any length is a txt",
                )
    if rest:
        yield "".join(rest)
