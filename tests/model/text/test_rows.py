"""jsonl and csv: the column that is the text, and one line for whatever is none."""

import json

import pytest

from model.errors import CorpusError
from model.text import rows
from model.text.census import Census, Piece
from tests.model.text.reading import documents


def jsonl(*lines: str, columns=("text",)) -> list[str]:
    return documents(list(rows.jsonl([line + "\n" for line in lines], columns, Census(), "file")))


def table(*lines: str, columns=("text",), delimiter=",") -> list[str]:
    return documents(
        list(rows.csv_rows([line + "\n" for line in lines], columns, Census(), "file", delimiter=delimiter))
    )


def test_a_row_of_jsonl_is_a_document() -> None:
    texts = ["one", "two\nlines", "日本 👩", ""]
    assert jsonl(*(json.dumps({"id": 1, "text": text}) for text in texts)) == texts
    assert jsonl("", '\ufeff{"text": "a"}'[1:], "   ", '{"text": null}') == ["a", ""]
    assert jsonl('\ufeff{"text": "marked"}') == ["marked"]
    assert jsonl('{"body": "a", "text": 7}', columns=["body"]) == ["a"]


def test_two_columns_are_a_pair() -> None:
    pieces = list(rows.jsonl(['{"q": "2+2", "a": "4"}'], ["q", "a"], Census(), "file"))
    assert pieces == [Piece("2+2 |", silent=True), Piece("4", ends=True)]


def test_half_a_character_in_an_escape_is_replaced() -> None:
    assert jsonl(r'{"text": "a\udc80b\ud83d\ude00"}') == ["a\ufffdb😀"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "cut', "file:2: not JSON"),
        ("[" * 100_000, "file:2: not JSON"),
        ('{"text": ' + "9" * 10_000 + "}", "file:2: 'text' holds a number"),
        ('["text"]', "file:2: a list, not an object"),
        ('"text"', "file:2: a string, not an object"),
        ('{"body": "x", "id": 1}', "file:2: no column 'text'; there is 'body', 'id'"),
        ("{}", "no column 'text'; there is none"),
        ('{"text": ["a"]}', "file:2: 'text' holds a list, not text"),
        ('{"text": 5}', "'text' holds a number"),
    ],
    ids=range(9),
)
def test_a_row_that_is_none_is_one_line_with_its_place(line: str, says: str) -> None:
    with pytest.raises(CorpusError, match=says) as caught:
        jsonl('{"text": "good"}', line)
    assert caught.value.hint and len(caught.value.message) < 300 and "\n" not in caught.value.message


def test_a_json_file_may_be_jsonl() -> None:
    assert rows.is_jsonl('{"text": "a"}\n{"text": "b"}', ["text"])
    assert not rows.is_jsonl('{\n "name": "package"}', ["text"]) and not rows.is_jsonl('{"name": 1}', ["text"])


def test_a_row_of_csv_is_a_document() -> None:
    assert table("id,text", '1,"a, ""quoted""', 'text"', "2,b", "", "3,") == ['a, "quoted"\ntext', "b", ""]
    assert table("\ufefftext,id", "a,1") == ["a"]
    assert table("content", "a", "b") == ["a", "b"], "a single column needs no name"
    assert table("q;a", "2+2;4", columns=["q", "a"], delimiter=";") == ["2+2 |4"]


def test_what_separates_cells_is_seen_in_the_header() -> None:
    assert rows.delimiter_of("a,b\n1;2", ".csv") == ","
    assert rows.delimiter_of("a;b\n", ".csv") == ";" and rows.delimiter_of("a\tb\n", ".csv") == "\t"
    assert rows.delimiter_of("a b", ".tsv") == "\t" and rows.delimiter_of("text\n", ".csv") == ","


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("id,body", "1,x"), "file:2: no column 'text'; there is 'id', 'body'"),
        (("id,text", "1,x,y"), "file:2: 3 cells, and the header has 2"),
        (("text,id,text", "1,2,3"), "file:1: two columns are called 'text'"),
        (("id,text", "1"), "file:2: 1 cells, and the header has 2"),
        (("id,text", '1,"never closed'), "not csv"),
    ],
)
def test_a_table_that_is_none_is_one_line(lines, says) -> None:
    with pytest.raises(CorpusError, match=says) as caught:
        table(*lines)
    assert caught.value.hint
