"""The headers of parquet's pages: as the library writes them, and as nobody should."""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet_writer
import pytest

from model.errors import CorpusError
from model.text import parquet_pages
from model.text.census import Census
from model.text.parquet import parquet_file
from model.text.parquet_pages import pages

PAGE = bytes([0x15, 0x00, 0x15, 0x0E, 0x15, 0x0A, 0x00]) + b"12345"  # type 0, 7 bytes unpacked, 5 packed


def found(data: bytes) -> list[tuple[int, int]]:
    return [(page.packed, page.unpacked) for page in pages(io.BytesIO(data), 0, len(data))]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_they_add_up_to_what_the_table_of_contents_says(tmp_path: Path, version: str, compression: str) -> None:
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"text": [None if n % 7 == 0 else f"row {n}" * (n % 50) for n in range(5000)]})
    parquet_writer.write_table(
        table, path, row_group_size=2000, data_page_size=4096, data_page_version=version, compression=compression
    )
    metadata = parquet_writer.ParquetFile(path).metadata
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(0)
            start = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
            each = list(pages(file, start, start + chunk.total_compressed_size))
            packed, unpacked = (sum(getattr(page, name) for page in each) for name in ("packed", "unpacked"))
            headers = chunk.total_compressed_size - packed
            assert len(each) >= 2 and 0 < headers < 1000 * len(each)
            assert chunk.total_uncompressed_size == unpacked + headers


def test_pages_follow_one_another() -> None:
    assert found(PAGE + PAGE) == [(5, 7), (5, 7)] and found(b"") == []


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"", "without a size"),
        (bytes([0x15, 0x00, 0x15, 0x01, 0x15, 0x0A]), "without a size"),  # unpacked: minus one
        (bytes([0x15]) + b"\xff" * 12, "a number without end"),
        (bytes([0x18, 0xFF, 0x7F]), "cut short"),
        (bytes([0x1D]), "header is none"),
        (bytes([0x1C]) * 100, "nested too deeply"),
        (bytes([0x19, 0xF9]) + b"\xff\xff\xff\xff\x0f" + bytes([0x19]) * 20, "nested too deeply|cut short|is none"),
        (bytes([0x19, 0xF3]) + b"\xff\xff\xff\xff\x0f", "cut short"),
    ],
    ids=range(8),
)
def test_another_header_is_refused(header: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        found(header + b"\0" * bool(header == b"" or says == "without a size") or b"\0")


def test_a_header_is_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "_HEADER_BYTES_MAX", len(PAGE) - 5)
    assert found(PAGE) == [(5, 7)]
    monkeypatch.setattr(parquet_pages, "_HEADER_BYTES_MAX", len(PAGE) - 6)
    with pytest.raises(ValueError, match="cut short"):
        found(PAGE)


def test_a_table_of_contents_that_lies_about_its_pages_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"text": ["a" * (1 << 20) + str(n) for n in range(160)]})
    parquet_writer.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    size = parquet_writer.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    data = path.read_bytes()
    claimed, little = varint(2 * size), b"\x80\x80\x80\x80\x00"[-len(varint(2 * size)) :]
    assert claimed in data
    path.write_bytes(data.replace(claimed, little))
    assert parquet_writer.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 0
    with path.open("rb") as file, pytest.raises(CorpusError, match="may be a bomb"):
        list(parquet_file(file, ["text"], Census(), "file"))


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
