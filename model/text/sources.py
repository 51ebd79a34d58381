"""Everything that a person may name as the text of a network, as one stream of pieces.

What a file is follows from its contents where these say so (compression, parquet), and from its name where they do not (jsonl, csv). What
is neither is plain text, source code for example; in a folder what has zero bytes in it is none, and is left out and counted.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.data import default_corpus
from model.errors import CorpusError
from model.limits import CORPUS_BYTES_MAX, PIECE_BYTES
from model.text import places, plain, rows, unpacking
from model.text.census import Census, Piece
from model.text.hub import dataset
from model.text.pairs import look_like_pairs, pairs
from model.text.parquet import MAGIC, parquet, parquet_file
from model.text.places import Place
from model.text.rows import TEXT_COLUMN
from model.text.synthetic import DEFAULT_BYTES, ENTROPY_NATS, synthetic

_HEAD_BYTES: Final = 1 << 16  # what a decision about a file looks at
_SYNTHETIC: Final = re.compile(r"synthetic(?::([0-9]{1,11})([kKmMgG]?)(?::([0-9]{1,9}))?)?")
_MAY_BE_PAIRS: Final = ("", ".txt", ".pairs", ".text")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person named. `columns`: one of the text, or two of pairs; `pairs`: None for as it looks."""

    data: tuple[Path | str, ...] = ()  # a str means synthetic text
    datasets: tuple[str, ...] = ()
    columns: tuple[str, ...] = (TEXT_COLUMN,)
    pairs: bool | None = None


class Text:
    """One reading: open it, iterate `pieces()` once, see `census`. Raises CorpusError where a name means nothing."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self.places = places.find([name for name in wishes.data if isinstance(name, Path)])
        self.census = Census(bytes_in_all=sum(place.size for place in self.places))
        self._has_rows = self._has_lines = False
        self._paired = {place.path for place in self.places if self._is_paired(place)}

    @property
    def masked(self) -> bool:
        """Whether some of it is to be read, and not to be learned."""
        return bool(self._paired) or len(self._wishes.columns) == 2

    def pieces(self) -> Iterator[Piece]:
        """All documents, one after the other. Raises CorpusError."""
        for place in self.places:
            yield from self._file(place)
        for name in self._wishes.data:
            if isinstance(name, str):
                yield from self._synthetic(name)
        for name in self._wishes.datasets:
            self._has_rows = True
            yield from dataset(name, self._wishes.columns, self.census)
        if not self._wishes.data and not self._wishes.datasets:
            text = default_corpus().decode(errors="surrogateescape")
            yield from _whole([text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)])
        if self._wishes.columns != (TEXT_COLUMN,) and not self._has_rows:
            column = self._wishes.columns[0]
            raise CorpusError(f"--column {column}: nothing that was named has columns", "leave it out for plain text")
        if self._wishes.pairs is not None and not self._has_lines:
            raise CorpusError(
                "--pairs: nothing that was named is a file of plain text",
                "of jsonl, csv and parquet name two columns: --column INPUT --column TARGET",
            )

    def _synthetic(self, name: str) -> Iterator[Piece]:
        match = _SYNTHETIC.fullmatch(name)
        if match is None:
            raise CorpusError(
                f"--data {name}: not synthetic:BYTES or synthetic:BYTES:SEED", "as in --data synthetic:64M"
            )
        count, unit, seed = match.groups()
        length = DEFAULT_BYTES if count is None else int(count) << {"": 0, "k": 10, "m": 20, "g": 30}[unit.lower()]
        if not 0 < length <= CORPUS_BYTES_MAX:
            raise CorpusError(f"--data {name}: 1 to {CORPUS_BYTES_MAX} bytes", "as in --data synthetic:64M")
        self.census.notes.append(
            f"synthetic text of {length} bytes: no loss gets below its entropy, {ENTROPY_NATS:.4f} nats a byte"
        )
        yield from synthetic(length, seed=int(seed or 0))

    def _file(self, place: Place) -> Iterator[Piece]:
        self.census.files += 1
        name = str(place.path)
        suffix = _suffix(place.path)
        with (
            closing(unpacking.pieces_of(place.path, self.census)) as raw,
            closing(unpacking.unpacked(raw, name)) as pieces,
        ):
            head, pieces_again = _peek(pieces)
            if not head:
                self.census.empty_files += 1
                return
            if head.startswith(MAGIC) or suffix in (".parquet", ".pq"):
                yield from self._parquet(place, pieces_again)
                return
            if (other := plain.what_else(head)) is not None and place.named:
                raise CorpusError(f"{name}: this is {other}, not text", "convert it to text first")
            if other is not None or (plain.looks_binary(head) and not place.named):
                self.census.leave_out(name)
                self.census.bytes_read += place.size - min(place.size, PIECE_BYTES)
                return
            yield from self._text(place, suffix, plain.characters(pieces_again), head)

    def _parquet(self, place: Place, pieces: Iterable[bytes]) -> Iterator[Piece]:
        columns, name = self._wishes.columns, str(place.path)
        self._has_rows = True
        with place.path.open("rb") as file:
            if file.read(4) == MAGIC:  # not packed once more
                yield from parquet_file(file, columns, self.census, name)
                self.census.bytes_read += max(0, place.size - PIECE_BYTES)
            else:
                yield from parquet(pieces, columns, self.census, name)

    def _text(self, place: Place, suffix: str, texts: Iterator[str], head: bytes) -> Iterator[Piece]:
        columns, name = self._wishes.columns, str(place.path)
        beginning = next(plain.characters([head]), "")
        if suffix in (".jsonl", ".ndjson") or (suffix == ".json" and rows.is_jsonl(beginning, columns)):
            self._has_rows = True
            yield from rows.jsonl(plain.lines(texts, name), columns, self.census, name)
        elif suffix in (".csv", ".tsv"):
            self._has_rows = True
            delimiter = rows.delimiter_of(beginning, suffix)
            yield from rows.csv_rows(plain.lines(texts, name), columns, self.census, name, delimiter=delimiter)
        elif place.path in self._paired:
            self._has_lines = True
            yield from pairs(plain.lines(texts, name), self.census)
        else:
            self._has_lines = True
            if place.named and suffix == ".json" and beginning.lstrip("\ufeff \t\r\n").startswith("["):
                self.census.notes.append(
                    f"{name}: a list in JSON is read as plain text; rows are one object a line (jsonl)"
                )
            yield from _whole(texts)

    def _is_paired(self, place: Place) -> bool:
        if self._wishes.pairs is not None or _suffix(place.path) not in _MAY_BE_PAIRS:
            return bool(self._wishes.pairs)
        unseen, name = Census(), str(place.path)
        with closing(unpacking.pieces_of(place.path, unseen)) as raw, closing(unpacking.unpacked(raw, name)) as pieces:
            head, _ = _peek(pieces)
        if plain.looks_binary(head) or head.startswith(MAGIC):
            return False
        beginning = next(plain.characters([head]), "")
        whole = beginning if len(head) < _HEAD_BYTES else beginning.rpartition("\n")[0]
        return look_like_pairs(whole)


def _whole(texts: Iterable[str]) -> Iterator[Piece]:
    """All of it is one document."""
    last: str | None = None
    for text in texts:
        if last is not None:
            yield Piece(last)
        last = text
    if last is not None:
        yield Piece(last, ends=True)


def _suffix(path: Path) -> str:
    """In small letters, without that of the compression."""
    name = path.name.lower()
    for packed in unpacking.SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _peek(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The beginning, and all of it."""
    first: list[bytes] = []
    while sum(map(len, first)) < _HEAD_BYTES and (piece := next(pieces, None)) is not None:
        first.append(piece)

    def again() -> Iterator[bytes]:
        yield from first
        yield from pieces

    return b"".join(first)[:_HEAD_BYTES], again()
