"""What a text is made of, counted whatever the pieces are."""

import pytest

from model.text.census import Census, Piece

TEXT = "a\r\nb\nc\rd\r\n\r\n\re\udcff\udcfe é\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_line_ends_and_bad_bytes_are_counted_across_pieces(size: int) -> None:
    census = Census()
    parts = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    for number, part in enumerate(parts, 1):
        census.see(Piece(part, ends=number == len(parts)))
    assert (census.lf, census.crlf, census.cr) == (2, 3, 2)
    assert (census.bad_bytes, census.bad_documents) == (2, 1)
    assert census.text_bytes == len(TEXT.encode(errors="surrogateescape"))


def test_what_a_person_should_know_is_said() -> None:
    census = Census(files=5, empty_files=2, empty_documents=1, pairs=7, unpaired=3, notes=["a note"])
    for name in "abcd":
        census.leave_out(name)
    census.see(Piece("x\r\ny\n\udc80\0", ends=True))
    assert list(census.remarks(raw=True)) == [
        "2 of 5 files are empty",
        "4 files are no text, and were left out: a, b, c, ...",
        "1 documents are empty, and were left out",
        "1 bytes in 1 documents are not UTF-8: kept as they are",
        "1 zero bytes, kept as they are: is it text? of UTF-16, a mark at the beginning says so",
        "mixed line ends, kept as they are: 1 LF, 1 CR LF, 0 CR",
        "7 pairs: loss on the targets alone",
        "3 lines have no ` |`: they are learned whole",
        "a note",
    ]
    assert any("became U+FFFD" in remark for remark in census.remarks(raw=False))
    assert list(Census(files=1, documents=3).remarks(raw=True)) == []


def test_how_far_it_is() -> None:
    census = Census(bytes_in_all=200_000_000, bytes_read=50_000_000, text_bytes=1_500_000, tokens=7, documents=1)
    assert census.progress() == "25 % of 200 MB, 1.5 MB of text, 7 tokens"
    assert census.total() == "1 document, 1.5 MB, 7 tokens"
    assert Census(files=2, documents=2).total() == "2 files, 2 documents, 0 bytes, 0 tokens"
