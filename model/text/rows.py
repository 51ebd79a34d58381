"""Rows of jsonl and csv: one column of them is the text, a row a document; of two columns the second is learned (`pairs`).

Lines are bounded before they are parsed, and a row without the column is an error that names the columns there are: half a text
would train as well as a whole one, and nobody would know.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from model.errors import CorpusError
from model.limits import LINE_CHARACTERS_MAX
from model.text.census import Census, Piece
from model.text.pairs import pair
from model.tokenizer import well_formed

TEXT_COLUMN: Final = "text"
_SHOWN: Final = 12  # columns, in an error


def pieces_of_row(row: Mapping[str, Any], columns: Sequence[str], census: Census, place: str) -> Iterator[Piece]:
    """One document. Raises CorpusError where a column is missing or holds no text."""
    values = []
    for column in columns:
        if column not in row:
            raise missing(columns, list(row), place)
        value = row[column]
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise CorpusError(
                f"{place}: {column!r} holds {_kind(value)}, not text", "name the column of the text with --column"
            )
        values.append(value)
    if len(values) == 2:
        yield from pair(values[0], values[1], census)
    else:
        yield Piece(values[0], ends=True)


def missing(columns: Sequence[str], there: Sequence[str], place: str) -> CorpusError:
    """There are others."""
    names = ", ".join(repr(str(name)[:40]) for name in there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
    absent = next((column for column in columns if column not in there), columns[0])
    return CorpusError(
        f"{place}: no column {absent!r}; there is {names or 'none'}", "name the column of the text with --column"
    )


def jsonl(lines: Iterable[str], columns: Sequence[str], census: Census, name: str) -> Iterator[Piece]:
    """A JSON object a line. Raises CorpusError."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix("\ufeff") if number == 1 else line
        if not text.strip():
            continue
        place = f"{name}:{number}"
        try:
            row = json.loads(text, parse_int=float)  # Python has bounds for integers, and this is about texts
        except (ValueError, RecursionError) as problem:
            reason = getattr(problem, "msg", None) or str(problem)
            raise CorpusError(f"{place}: not JSON ({reason})", "a jsonl holds one JSON object a line") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{place}: {_kind(row)}, not an object", f'a row is such as {{"{columns[0]}": "..."}}')
        for piece in pieces_of_row(row, columns, census, place):
            # An escape can say half a character, which is no byte of the file.
            yield piece if piece.text.isascii() else Piece(well_formed(piece.text), piece.ends, piece.silent)


def is_jsonl(beginning: str, columns: Sequence[str]) -> bool:
    """Whether a `.json` file's first line is a row by itself."""
    try:
        row = json.loads(beginning.removeprefix("\ufeff").lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and all(column in row for column in columns)


def csv_rows(
    lines: Iterable[str], columns: Sequence[str], census: Census, name: str, *, delimiter: str
) -> Iterator[Piece]:
    """A table with a header; a single column needs no name. Raises CorpusError."""
    csv.field_size_limit(LINE_CHARACTERS_MAX)
    reader = csv.reader(_without_mark(lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            place = f"{name}:{reader.line_num}"
            if header is None:
                header = [cell.strip() for cell in row]
                if len(header) == 1 and list(columns) == [TEXT_COLUMN]:
                    columns = header
                twice = [name for name in columns if header.count(name) > 1]
                if twice:
                    raise CorpusError(f"{place}: two columns are called {twice[0]!r}", "rename one of them")
                continue
            if not row:
                continue
            if len(row) != len(header):
                raise CorpusError(f"{place}: {len(row)} cells, and the header has {len(header)}", "repair the row")
            yield from pieces_of_row(dict(zip(header, row, strict=True)), columns, census, place)
    except csv.Error as problem:
        raise CorpusError(
            f"{name}:{reader.line_num}: not csv ({problem})", "a cell with quotes, commas or line ends is quoted"
        ) from None


def delimiter_of(header: str, suffix: str) -> str:
    """A tab in a `.tsv`; else the comma, unless the header has none and semicolons."""
    line = header.partition("\n")[0]
    if suffix == ".tsv" or ("\t" in line and "," not in line):
        return "\t"
    return ";" if ";" in line and "," not in line else ","


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
    }
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")
