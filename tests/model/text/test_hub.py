"""Named data sets: what a name means, what is said without the package or a network, and rows from a folder where there is the package."""

import json
import sys
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.text import hub
from model.text.census import Census, Piece
from model.text.hub import Known, dataset, resolve
from tests.model.text.reading import documents


def test_a_name_says_which_part_of_which_set() -> None:
    assert resolve("someone/texts") == (Known("someone/texts"), "train")
    assert resolve("someone/texts:de:test") == (Known("someone/texts", "de"), "test")
    assert resolve("wikitext-2")[0] == Known("Salesforce/wikitext", "wikitext-2-raw-v1", lines=True)
    assert resolve("WikiText2") == resolve("wikitext-2") and resolve("wikitext-2::test")[1] == "test"
    assert resolve("tiny_shakespeare") == resolve("tiny-shakespeare") == resolve("tinyshakespeare")
    assert resolve("wikitext:wikitext-103-raw-v1")[0].configuration == "wikitext-103-raw-v1"


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(hub, "_reaches", lambda: True)
    with pytest.raises(CorpusError, match="needs the package datasets") as caught:
        list(dataset("wikitext-2", ["text"], Census()))
    assert "p2pnode[datasets]" in caught.value.hint


def test_without_a_network_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port of `discard`, where nobody listens
    assert not hub._reaches()
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    assert not hub._reaches()


class Library:
    """As much of `datasets` as is called, with rows of ours: what comes over a network is not ours to test."""

    def __init__(self, rows: list[object]) -> None:
        self.rows, self.asked = rows, []

    def load_dataset(self, path: str, **options: object) -> object:
        self.asked.append((path, options))
        if isinstance(self.rows, Exception):
            raise self.rows
        for row in self.rows:
            if isinstance(row, Exception):
                raise row
            yield row


def with_rows(monkeypatch: pytest.MonkeyPatch, *rows: object) -> Library:
    library = Library(list(rows))
    monkeypatch.setattr(hub, "_reaches", lambda: True)
    monkeypatch.setattr(hub, "_library", lambda *, offline: library)
    return library


def test_rows_are_documents_or_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    library = with_rows(monkeypatch, {"text": "one", "id": 1}, {"text": "two"})
    assert list(dataset("x/y:de", ["text"], Census())) == [Piece("one", ends=True), Piece("two", ends=True)]
    assert library.asked == [("x/y", {"name": "de", "split": "train", "streaming": True})]
    pieces = list(dataset("wikitext-2", ["text"], Census()))
    assert "".join(piece.text for piece in pieces) == "one\ntwo\n"
    assert [piece.ends for piece in pieces] == [False, False, True]


def test_a_single_column_of_text_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rows(monkeypatch, {"content": "one", "id": 1})
    assert documents(list(dataset("x/y", ["text"], Census()))) == ["one"]
    with_rows(monkeypatch, {"a": "one", "b": "two"})
    with pytest.raises(CorpusError, match="no column 'text'; there is 'a', 'b'"):
        list(dataset("x/y", ["text"], Census()))
    assert list(dataset("x/y", ["a", "b"], Census())) == [Piece("one |", silent=True), Piece("two", ends=True)]


def test_what_goes_wrong_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rows(monkeypatch, {"text": "one"}, TimeoutError("the line\nwent dead"))
    with pytest.raises(CorpusError, match="--dataset x/y: the line went dead") as caught:
        list(dataset("x/y", ["text"], Census()))
    assert caught.value.hint


def test_rows_from_a_folder_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(30)))
    assert documents(list(dataset(str(folder), ["text"], Census()))) == [f"row {n}" for n in range(30)]
