"""Parquet: the column that is the text, and one line for a file that is none."""

import gzip
from pathlib import Path

import pytest

from model import limits
from model.errors import CorpusError
from model.text.census import Census, Piece
from model.text.parquet import _THRIFT_MAX, parquet, parquet_file
from tests.model.text.reading import documents, read

pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
parquet_writer = pytest.importorskip("pyarrow.parquet")


def write(path: Path, **columns: list[object]) -> Path:
    parquet_writer.write_table(pyarrow.table(columns), path, row_group_size=50)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.parquet", id=list(range(120)), text=[f"row {n} é" for n in range(119)] + [None])


TEXTS = [f"row {n} é" for n in range(119)] + [""]


def test_a_row_is_a_document(file: Path) -> None:
    found, census = read(file)
    assert found == TEXTS and census.bytes_read == file.stat().st_size
    renamed = file.with_name("no-suffix")
    file.rename(renamed)
    assert read(renamed)[0] == TEXTS


def test_packed_once_more_it_is_the_same(file: Path) -> None:
    packed = file.with_suffix(".parquet.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert read(packed)[0] == TEXTS
    data = file.read_bytes()
    assert documents(list(parquet([data[:100], data[100:]], ["text"], Census(), "file"))) == TEXTS


def test_a_single_column_needs_no_name_and_two_are_a_pair(tmp_path: Path) -> None:
    assert read(write(tmp_path / "one.parquet", content=["a", "b"]))[0] == ["a", "b"]
    path = write(tmp_path / "two.parquet", q=["2+2"], a=["4"])
    with path.open("rb") as file:
        found = list(parquet_file(file, ["q", "a"], Census(), "file"))
    assert found == [Piece("2+2 |", silent=True), Piece("4", ends=True)]


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_other_ways_to_hold_text(tmp_path: Path, kind: str) -> None:
    array = pyarrow.array(["a", "b", "a"])
    array = array.dictionary_encode() if kind == "dictionary" else array.cast(getattr(pyarrow, kind)())
    parquet_writer.write_table(pyarrow.table({"text": array, "id": [1, 2, 3]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[0] == ["a", "b", "a"]


@pytest.mark.parametrize("cut", [3, 10, 200, -1, -5, -100])
def test_a_file_that_was_cut_short_is_one_line(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CorpusError, match=r"rows.parquet: not a whole parquet file") as caught:
        read(file)
    assert caught.value.hint and "\n" not in caught.value.message and len(caught.value.message) < 500


def test_damage_anywhere_is_an_error_or_leaves_text(file: Path) -> None:
    """No page has a checksum by default: damage inside a text cannot be seen. It ends nothing, and takes no memory to speak of."""
    whole = file.read_bytes()
    for place in range(4, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 0xFF
        file.write_bytes(bytes(data))
        try:
            found, _ = read(file)
        except CorpusError as problem:
            assert "\n" not in problem.message
        else:
            assert len(found) == len(TEXTS)


def test_bytes_that_are_no_utf8_are_kept_for_whoever_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", text=["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "b"])
    data = path.read_bytes()
    path.write_bytes(data.replace("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\xe9\xe9"))
    assert read(path)[0] == ["caf\udce9\udce9", "b"]


def test_a_table_of_contents_is_no_longer(tmp_path: Path) -> None:
    def described(length: int) -> Path:
        table = pyarrow.table({"text": ["a"]}).replace_schema_metadata({"about": "x" * length})
        parquet_writer.write_table(table, tmp_path / "x.parquet")  # which has it twice, once with a third more
        return tmp_path / "x.parquet"

    assert read(described(_THRIFT_MAX * 6 // 10))[0] == ["a"]
    with pytest.raises(CorpusError, match="not a whole parquet file"):
        read(described(_THRIFT_MAX * 9 // 10))


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_bomb_is_one_line(tmp_path: Path, dictionary: bool) -> None:
    """One text that stands there thousands of times, or one that packs to nothing."""
    rows = ["a" * 100_000] * 2000 if dictionary else [f"{n}" + "a" * 9_000_000 for n in range(12)]
    table = pyarrow.table({"text": rows})
    parquet_writer.write_table(table, tmp_path / "x.parquet", use_dictionary=dictionary, compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    with pytest.raises(CorpusError, match="may be a bomb") as caught:
        read(tmp_path / "x.parquet")
    assert "jsonl" in caught.value.hint


def test_another_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", body=["a"], id=[1])
    with pytest.raises(CorpusError, match="no column 'text'; there is 'body', 'id'"):
        read(path)
    with pytest.raises(CorpusError, match="'id' holds int64, not text"):
        read(path, columns=("id",))
    assert read(path, columns=("body",))[0] == ["a"]


def test_a_text_of_a_row_is_no_longer(tmp_path: Path) -> None:
    fits = write(tmp_path / "x.parquet", text=["a" * limits.LINE_CHARACTERS_MAX])
    assert len(read(fits)[0][0]) == limits.LINE_CHARACTERS_MAX
    with pytest.raises(CorpusError, match="bytes in one row"):
        read(write(tmp_path / "y.parquet", text=["a" * (limits.LINE_CHARACTERS_MAX + 1)]))
