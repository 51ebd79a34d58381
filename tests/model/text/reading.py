"""What the tests of the readers share: all of a text at once, as no reader gives it."""

from pathlib import Path

from model.text.census import Census, Piece
from model.text.encoding import encode
from model.text.sources import Text, Wishes
from model.tokenizer import ByteTokenizer
from model.words import BYTES


def documents(pieces: list[Piece]) -> list[str]:
    """Whole, their inputs and targets together."""
    found, current = [], ""
    for piece in pieces:
        current += piece.text
        if piece.ends:
            found.append(current)
            current = ""
    assert not current, "every document ends"
    return found


def read(*data: Path | str, **wishes: object) -> tuple[list[str], Census]:
    """The documents that are meant, and what was met on the way."""
    text = Text(Wishes(data=data, **wishes))  # type: ignore[arg-type]
    pieces = list(text.pieces())
    for piece in pieces:
        text.census.see(piece)
    return documents(pieces), text.census


def raw(*data: Path | str, **wishes: object) -> bytes:
    """As a network of bytes would have it."""
    text = Text(Wishes(data=data, **wishes))  # type: ignore[arg-type]
    return b"".join(encode(text.pieces(), ByteTokenizer(), BYTES, text.census))
