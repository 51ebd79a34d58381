"""A column of a parquet file, a few rows at a time (extra `parquet`: pyarrow)."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Final

from model.errors import CorpusError
from model.limits import LINE_CHARACTERS_MAX, UNPACKED_FREE_BYTES, UNPACKED_RATIO_MAX, UNPACKING_MEMORY_MAX
from model.text.census import Census, Piece, megabytes
from model.text.pairs import pair
from model.text.parquet_pages import pages
from model.text.rows import TEXT_COLUMN, missing

MAGIC: Final = b"PAR1"
_ROWS_AT_ONCE: Final = 64  # of any length: few are enough
_THRIFT_MAX: Final = 1 << 26  # of the footer, which the library takes at its word else


def parquet(pieces: Iterable[bytes], columns: Sequence[str], census: Census, name: str) -> Iterator[Piece]:
    """From a stream, by way of a temporary file: the table of contents stands at the end. Raises CorpusError."""
    with tempfile.TemporaryFile() as file:
        try:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
        except OSError as problem:
            raise CorpusError(
                f"{name}: no room to unpack it in {tempfile.gettempdir()} ({problem.strerror})",
                "set TMPDIR to a folder with room, or unpack it yourself",
            ) from None
        yield from parquet_file(file, columns, census, name)


def parquet_file(file: IO[bytes], columns: Sequence[str], census: Census, name: str) -> Iterator[Piece]:
    """From a file that can be read anywhere. Raises CorpusError."""
    arrow = _library()
    try:
        bounds = {"thrift_string_size_limit": _THRIFT_MAX, "thrift_container_size_limit": _THRIFT_MAX}
        contents = arrow.parquet.ParquetFile(file, **bounds)
        wanted = _columns(contents.schema_arrow, columns, name, arrow)
        _check_pages(file, contents.metadata, wanted, name)
        table = arrow.parquet.ParquetFile(
            file,
            metadata=contents.metadata,
            read_dictionary=wanted,  # a text that stands a million times in it is there once
            pre_buffer=False,
            buffer_size=1 << 16,
            **bounds,
        )
        packed, given = file.seek(0, os.SEEK_END), 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            for row in zip(*(batch.column(column) for column in wanted), strict=True):
                for piece in _pieces([_text(cell, name) for cell in row], census, name):
                    given += len(piece.text)
                    _check_growth(given, packed, name)
                    yield piece
    except (arrow.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, CorpusError):
            raise
        reason = " ".join(str(problem).split())[:200]
        raise CorpusError(
            f"{name}: not a whole parquet file ({reason})", "fetch the file again, or leave it out"
        ) from None


def _check_pages(file: IO[bytes], contents: Any, wanted: Sequence[str], name: str) -> None:
    """What the columns unpack to, which happens a page at a time."""
    for group in range(contents.num_row_groups):
        for column in range(contents.num_columns):
            chunk = contents.row_group(group).column(column)
            if chunk.path_in_schema not in wanted or not chunk.num_values:
                continue
            start = chunk.data_page_offset
            if chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            given = packed = 0
            for page in pages(file, start, start + chunk.total_compressed_size):
                given, packed = given + page.unpacked, packed + page.packed
                _check_growth(given, packed, name)
                if page.unpacked > UNPACKING_MEMORY_MAX:
                    raise CorpusError(
                        f"{name}: a page of {megabytes(page.unpacked)}, at most {megabytes(UNPACKING_MEMORY_MAX)} are read",
                        "write it with smaller pages, or give it as a jsonl",
                    )


def _check_growth(given: int, packed: int, name: str) -> None:
    if given > UNPACKED_FREE_BYTES and given > UNPACKED_RATIO_MAX * packed:
        raise CorpusError(
            f"{name}: {megabytes(given)} or more come out of {megabytes(packed)}; this may be a bomb",
            "if that is what it should be, give it as a jsonl",
        )


def _pieces(texts: list[str], census: Census, name: str) -> Iterator[Piece]:
    if len(texts) == 2:
        yield from pair(texts[0], texts[1], census)
    else:
        yield Piece(texts[0], ends=True)


def _text(cell: Any, name: str) -> str:
    """Of a cell that may be empty. The format promises UTF-8 and does not look."""
    if hasattr(cell, "value"):  # of a dictionary
        cell = cell.value
    data = cell.as_buffer()
    if data is None:
        return ""
    if data.size > LINE_CHARACTERS_MAX:
        raise CorpusError(f"{name}: a text of more than {LINE_CHARACTERS_MAX} bytes in one row", "split it")
    text: str = data.to_pybytes().decode(errors="surrogateescape")
    return text


def _columns(schema: Any, columns: Sequence[str], name: str, arrow: Any) -> list[str]:
    """A single column needs no name. Raises CorpusError where one is missing or holds no text."""
    there = [str(column) for column in schema.names]
    if len(there) == 1 and list(columns) == [TEXT_COLUMN]:
        columns = there
    for column in columns:
        if column not in there:
            raise missing(columns, there, name)
        kind = schema.field(column).type
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not any(
            is_text(kind)
            for is_text in (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_string_view)
        ):
            raise CorpusError(f"{name}: {column!r} holds {kind}, not text", "name the column of the text with --column")
    return list(columns)


def _library() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CorpusError("parquet needs the package pyarrow", "pip install 'p2pnode[parquet]'") from None
    return pyarrow
