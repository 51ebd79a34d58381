"""All formats behind one door: what a file is, what a folder is made of, and what is refused."""

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path

import pytest
import zstandard

from model.data import default_corpus
from model.errors import CorpusError
from model.text.sources import Text, Wishes
from tests.model.text.reading import raw, read

LINES = "naïve\r\nsecond line\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = LINES.encode()
    files = {
        "a.txt": text,
        "b.md": b"# title\n",
        "c.py": b"import this\n",
        "d.jsonl": json.dumps({"text": "a row"}).encode() + b"\n",
        "e.csv": b"id,text\n1,a cell\n",
        "f.txt.gz": gzip.compress(text),
        "g.jsonl.zst": zstandard.compress(json.dumps({"text": "packed"}).encode()),
        "h.csv.bz2": bz2.compress(b"text\nalso\n"),
        "i.rst.xz": lzma.compress(b"more\n"),
        "j.json": b'{"text": "first"}\n{"text": "second"}\n',
        "k.json": b'{\n  "name": "a setting"\n}\n',
        "l.utf16": "zweierlei\n".encode("utf-16"),
        "m.bin": b"\0\1\2\3",
        "n.png": b"\x89PNG\r\n\x1a\n...",
        "o.txt": b"",
        "p": b"no suffix at all\n",
    }
    (tmp_path / "text").mkdir()
    for name, data in files.items():
        (tmp_path / "text" / name).write_bytes(data)
    return tmp_path / "text"


def test_a_folder_of_everything(folder: Path) -> None:
    found, census = read(folder)
    assert found == [
        *(LINES, "# title\n", "import this\n", "a row", "a cell", LINES, "packed", "also", "more\n"),
        *("first", "second", '{\n  "name": "a setting"\n}\n', "zweierlei\n", "no suffix at all\n"),
    ]
    assert (census.files, census.empty_files, census.left_out_count) == (16, 1, 2)
    assert census.bytes_read == census.bytes_in_all == sum(path.stat().st_size for path in folder.iterdir())


def test_a_plain_file_of_bytes_is_what_it_is(tmp_path: Path) -> None:
    """As networks of before had it."""
    path = tmp_path / "text"
    for data in (b"\x00\xff caf\xc3\xa9\r\n", "\ufeffmarked".encode(), b"\r\r\n\xc3", b"x" * 700_001):
        path.write_bytes(data)
        assert raw(path) == data


def test_several_names_follow_one_another(folder: Path) -> None:
    assert raw(folder / "b.md", "synthetic:5", folder / "c.py")[:20] == b"# title\nimport this\n"
    assert len(raw("synthetic:2k")) == 2048 and raw("synthetic:9:1") != raw("synthetic:9:2")


def test_nothing_named_is_the_source_of_the_standard_library() -> None:
    assert raw() == default_corpus()


@pytest.mark.parametrize("name", ["synthetic:0", "synthetic:x", "synthetic:", "synthetic:1T", "synthetic:99999999999"])
def test_made_up_text_has_a_length(name: str) -> None:
    with pytest.raises(CorpusError, match=f"--data {name}"):
        raw(name)


def test_what_is_known_to_be_no_text_is_refused_where_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    for data, says in [
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PK\3\4...", "a zip archive"),
        (gzip.compress(b"%PDF-1."), "a PDF"),
    ]:
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=f"report.txt: this is {says}") as caught:
            raw(path)
        assert caught.value.hint
        assert read(tmp_path)[1].left_out_count == 1


def test_pairs_are_seen_or_asked_for(tmp_path: Path) -> None:
    pairs, prose = tmp_path / "pairs.txt", tmp_path / "prose.txt"
    pairs.write_text("2+2 |4\n3+3 |6\n")
    prose.write_text("only prose\nwith one |bar\n")
    for data, wish, masked in [
        (pairs, None, True),
        (pairs, False, False),
        (prose, None, False),
        (prose, True, True),
        (tmp_path, None, True),
    ]:
        assert Text(Wishes(data=(data,), pairs=wish)).masked is masked
    found, census = read(pairs)
    assert found == ["2+2 |4", "3+3 |6"] and census.pairs == 2
    assert read(prose, pairs=True)[1].unpaired == 1
    assert Text(Wishes(columns=("q", "a"))).masked
    packed = tmp_path / "pairs.txt.gz"
    packed.write_bytes(gzip.compress(pairs.read_bytes() * 50_000))
    assert Text(Wishes(data=(packed,))).masked and len(read(packed)[0]) == 100_000


def test_a_broken_file_stops_the_reading_and_is_named(folder: Path) -> None:
    """A text without one of its files would train as well, and nobody would know."""
    (folder / "d.jsonl").write_text('{"text": "good"}\n{"text": \n')
    with pytest.raises(CorpusError, match=r"d\.jsonl:2: not JSON"):
        raw(folder)
    (folder / "d.jsonl").unlink()
    whole = (folder / "f.txt.gz").read_bytes()
    (folder / "f.txt.gz").write_bytes(whole[:-4])
    with pytest.raises(CorpusError, match=r"f\.txt\.gz \(gzip\): cut short"):
        raw(folder)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".jsonl.gz"])
def test_one_line_of_gigabytes_is_refused_before_it_is_in_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"line{suffix}"
    with gzip.open(path, "wb", 1) if suffix.endswith("gz") else path.open("wb") as file:
        file.write(b'{"text": "')
        for number in range(80):
            file.write(b"%d" % number * 300_000)
    with pytest.raises(CorpusError, match="a line of more than"):
        raw(path)


@pytest.mark.parametrize(
    "name", ["a.txt", "d.jsonl", "e.csv", "f.txt.gz", "g.jsonl.zst", "h.csv.bz2", "i.rst.xz", "j.json", "l.utf16"]
)
def test_damage_anywhere_is_text_or_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    whole, source = (folder / name).read_bytes(), random.Random(name)
    path = tmp_path / name
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            place = source.randrange(len(data))
            match source.randrange(3):
                case 0:
                    data[place] ^= 1 << source.randrange(8)
                case 1:
                    del data[place : place + source.randrange(1, 9)]
                case 2:
                    data[place:place] = source.randbytes(source.randrange(1, 9))
            data = data or bytearray(b"x")
        path.write_bytes(data)
        try:
            read(path)
        except CorpusError as problem:
            assert str(path) in problem.message and "\n" not in problem.message and problem.hint, problem.message


def test_pairs_of_what_has_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "2+2 |4"}\n')
    for wish in (True, False):
        with pytest.raises(CorpusError, match="--pairs: nothing that was named is a file of plain text") as refused:
            list(Text(Wishes((tmp_path / "a.jsonl",), pairs=wish)).pieces())
        assert "--column INPUT --column TARGET" in refused.value.hint
    (tmp_path / "b.txt").write_text("2+2 |4\n")
    both = Text(Wishes((tmp_path,), pairs=True))
    assert [piece.text for piece in both.pieces()] == ["2+2 |4", "2+2 |", "4"]


def test_a_list_in_json_is_said_to_be_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"text": "one"},\n{"text": "two"}\n]\n')
    _, census = read(path)
    assert any("rows.json: a list in JSON is read as plain text" in remark for remark in census.remarks(raw=True))


def test_a_column_of_what_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / "b.jsonl").write_text('{"body": "row"}\n')
    with pytest.raises(CorpusError, match="--column body: nothing that was named has columns"):
        list(Text(Wishes((tmp_path / "a.txt",), columns=("body",))).pieces())
    both = Text(Wishes((tmp_path,), columns=("body",)))
    assert [piece.text for piece in both.pieces()] == ["text\n", "row"]
