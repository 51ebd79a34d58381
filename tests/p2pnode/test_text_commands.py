"""text_commands.py: `p2pnode tokenizer ...` and the flags of a text, as a person types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.tokenizer import tokenizer_from_json
from model.words import Words
from p2pnode.cli import app
from p2pnode.errors import UserError
from p2pnode.genesis import parse
from tests.p2pnode.little import TEXT, size_file


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    return path


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def test_from_a_text_to_a_network_with_a_tokenizer_of_its_own(tmp_path, text):
    out, home = tmp_path / "mine.json", tmp_path / "home"
    result = run("tokenizer", "train", "--data", text, "--vocabulary", 300, "--out", out)
    assert result.exit_code == 0 and "vocabulary 300" in result.stdout
    assert tokenizer_from_json(out.read_bytes()).vocabulary == 300
    words = ("init", "--home", home, "--data", text, "--data", "synthetic:70000", "--tokenizer", out)
    result = run(*words, "--size", size_file(tmp_path))
    assert result.exit_code == 0, result.output
    genesis = parse((home / "genesis.json").read_bytes())
    assert genesis.words == Words(2) and genesis.model.vocabulary == 320


def test_a_tokenizer_is_written_as_a_document_of_its_own(tmp_path, text):
    out = tmp_path / "bytes.json"
    result = run("tokenizer", "convert", "bytes", "--out", out, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["vocabulary"] == 256 and facts["end"] is None and facts["file"] == str(out)
    assert tokenizer_from_json(out.read_bytes()).encode("a") == [97]


@pytest.mark.parametrize(
    "words",
    [
        ("tokenizer", "convert", "nowhere.json"),
        ("tokenizer", "train", "--data", "nowhere.txt"),
        ("tokenizer", "train", "--data", "synthetic", "--vocabulary", "5"),
        ("tokenizer", "convert", "bytes", "--out", "no/such/folder/x.json"),
        ("init", "--data", "synthetic", "--column", "a", "--column", "b", "--column", "c"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2PNODE_HOME", str(tmp_path / "home"))
    result = run(*words)
    assert isinstance(result.exception, UserError), result.output
    assert result.exception.hint and "\n" not in result.exception.message
    assert not (tmp_path / "tokenizer.json").exists()


def test_without_a_command_there_is_help():
    result = run("tokenizer")
    assert result.exit_code == 0 and "train" in result.output and "convert" in result.output
