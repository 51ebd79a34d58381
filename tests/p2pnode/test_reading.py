"""What --data and --tokenizer name becomes a network's text: written whole or not at all, said, and not read twice."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.data import Corpus, CorpusFile
from model.text.census import Census
from model.text.encoding import encode
from model.text.places import KEY_FILE
from model.text.sources import Text, Wishes
from model.tokenizer import ByteTokenizer, tokenizer_from_json
from model.tokenizer_training import train
from model.words import BYTES, Words
from p2pnode import reading, texts
from p2pnode.blobs import Blobs
from p2pnode.config import Config
from p2pnode.errors import SetUpError
from p2pnode.founding import check_flags, initialise, open_blobs
from p2pnode.genesis import Genesis, TokenizerBlob, parse
from p2pnode.home import Home
from p2pnode.reading import learn_tokenizer, make, tokenizer_named
from tests.p2pnode.little import TEXT, size_file
from transport import content

DOCUMENT = train([TEXT.decode()], 300)
SEQUENCE = 32


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "home")
    place.create()
    return place


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(DOCUMENT)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{n} + {n} |{2 * n}\n" for n in range(9000)))
    return path


def settings(home: Home, **values: Any) -> Config:
    return Config(home=home.path, **values, origins={name: f"--{name}" for name in values})


def made(home: Home, config: Config, say=lambda line: None) -> reading.Made:
    return make(home, config, open_blobs(home), tokenizer_named(config), sequence=SEQUENCE, say=say)


def left_behind(home: Home) -> list[Path]:
    return [path for path in home.blobs.rglob("*") if path.is_file()]


# --- a text --------------------------------------------------------------------------------------------------------------


def test_a_plain_text_of_bytes_is_kept_as_it_is(home, text):
    said: list[str] = []
    result = made(home, settings(home, data=(text,)), said.append)
    assert (result.words, result.tokenizer, result.length) == (BYTES, None, len(TEXT))
    assert open_blobs(home).get(result.digest) == TEXT and result.digest == content.digest_of(TEXT)
    assert said == ["text: 1 file, 1 document, 84,390 bytes, 84,390 tokens"]


def test_a_tokenized_text_and_its_tokenizer_are_kept(home, text, bpe):
    result = made(home, settings(home, data=(text,), tokenizer=bpe))
    tokenizer = tokenizer_from_json(DOCUMENT)
    assert result.words == Words(2)
    assert result.tokenizer == TokenizerBlob(content.digest_of(DOCUMENT), len(DOCUMENT))
    blobs = open_blobs(home)
    assert blobs.get(result.tokenizer.digest) == DOCUMENT
    tokens = result.words.unpack(blobs.get(result.digest)).tolist()
    assert tokens == [*tokenizer.encode(TEXT.decode()), tokenizer.end]
    file = blobs.checked_file(result.digest)
    assert Corpus(CorpusFile(file, result.length), SEQUENCE, words=result.words).tokens == len(tokens)


def test_of_pairs_the_targets_alone_are_learned(home, pairs):
    result = made(home, settings(home, data=(pairs,)))
    assert result.words == Words(2, masked=True) and result.tokenizer is None
    tokens = result.words.unpack(open_blobs(home).get(result.digest))
    learned = bytes(tokens[tokens >= 0].astype(np.uint8))
    assert learned == b"".join(b"%d\n" % (2 * n) for n in range(9000))[:-1]
    whole = bytes(np.where(tokens < 0, ~tokens, tokens).astype(np.uint8))
    assert whole == pairs.read_bytes()[:-1]


def test_what_a_person_should_know_is_said(home, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(TEXT + b"caf\xe9\r\n")
    (folder / "b.txt").write_bytes(b"")
    (folder / "c.bin").write_bytes(bytes(9))
    said: list[str] = []
    made(home, settings(home, data=(folder,)), said.append)
    assert said[0].startswith("text: 3 files, 1 document,") and said[1] == "1 of 3 files are empty"
    assert any(line.startswith("1 files are no text, and were left out") for line in said)
    assert any("1 bytes in 1 documents are not UTF-8: kept" in line for line in said)
    assert any(line.startswith("mixed line ends") for line in said)


def test_a_home_among_the_texts_is_no_text(tmp_path, text):
    home = Home(tmp_path / "home")
    genesis = initialise(home, settings(home, data=(tmp_path,), size=str(size_file(tmp_path))))
    kept = open_blobs(home).get(genesis.corpus_digest)
    assert home.key.name == KEY_FILE and home.key.read_bytes().strip() not in kept and TEXT in kept


def test_a_long_reading_says_how_far_it_is(home, text, monkeypatch):
    monkeypatch.setattr(reading, "PROGRESS_SECONDS", 0.0)
    said: list[str] = []
    made(home, settings(home, data=(text, "synthetic:1M")), said.append)
    progress = [line for line in said if line.startswith("reading: ")]
    assert len(progress) >= 4 and "100 % of 84,390 bytes" in progress[-1]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("cut.txt.gz", gzip.compress(TEXT)[:-30], "cut short"),
        ("rows.jsonl", json.dumps({"text": TEXT.decode()}).encode() + b'\n{"text": ', "rows.jsonl:2: not JSON"),
        ("short.txt", b"too short", "windows of 128 bytes need"),
        ("empty.txt", b"", "the text is empty"),
    ],
)
def test_nothing_is_left_behind_where_reading_fails(home, tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    config = settings(home, data=(path,), size=str(size_file(tmp_path)))
    with pytest.raises(SetUpError, match=says) as caught:
        initialise(home, config)
    assert caught.value.hint and not home.initialised and left_behind(home) == []


def test_a_full_disk_is_one_line(home, text, monkeypatch):
    config = settings(home, data=(text,))
    blobs = open_blobs(home)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(blobs._files), "write", full)
    with pytest.raises(SetUpError, match="the text cannot be kept") as caught:
        make(home, config, blobs, ByteTokenizer(), sequence=SEQUENCE, say=lambda line: None)
    assert "room" in caught.value.hint and left_behind(home) == []


# --- a tokenizer ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_has_a_name_or_a_place(home, bpe):
    assert isinstance(tokenizer_named(settings(home)), ByteTokenizer)
    assert isinstance(tokenizer_named(settings(home, tokenizer="bytes")), ByteTokenizer)
    for place in (bpe, bpe.parent):
        assert tokenizer_named(settings(home, tokenizer=place)).to_json() == DOCUMENT


@pytest.mark.parametrize("document", [b"", b"{}", b"\x00" * 100, DOCUMENT[:-5]])
def test_a_tokenizer_that_is_none_is_one_line(home, bpe, document):
    bpe.write_bytes(document)
    with pytest.raises(SetUpError, match=r"not a tokenizer\.json"):
        tokenizer_named(settings(home, tokenizer=bpe))
    with pytest.raises(SetUpError, match=r"nowhere\.json"):
        tokenizer_named(settings(home, tokenizer=Path("nowhere.json")))


def test_a_tokenizer_is_learned_from_what_is_named(home, text):
    said: list[str] = []
    document, facts = learn_tokenizer(settings(home, data=(text,)), 300, say=said.append)
    assert document == DOCUMENT and said == []
    assert facts == {"vocabulary": 300, "end": 0, "digest": content.digest_of(document).hex()}
    _, facts = learn_tokenizer(settings(home, data=(text,)), 5000, say=said.append)
    assert facts["vocabulary"] < 5000 and "no more to merge" in said[0]


# --- a network -----------------------------------------------------------------------------------------------------------


def founded(home: Home, tmp_path: Path, **values: Any) -> Genesis:
    return initialise(home, settings(home, size=str(size_file(tmp_path)), **values))


def test_a_network_has_the_vocabulary_of_its_tokenizer(home, tmp_path, text, bpe):
    genesis = founded(home, tmp_path, data=(text,), tokenizer=bpe)
    assert parse(genesis.to_bytes()) == genesis
    assert genesis.model.vocabulary == 320 and genesis.words == Words(2)
    assert genesis.blobs == {genesis.corpus_digest, content.digest_of(DOCUMENT)}
    blobs = open_blobs(home)
    assert texts.tokenizer_of(genesis, blobs).to_json() == DOCUMENT
    corpus = texts.open_corpus(genesis, CorpusFile(blobs.checked_file(genesis.corpus_digest), genesis.corpus_bytes))
    assert corpus.held_out().max() < 300


def test_a_model_with_fewer_words_than_the_tokenizer_is_refused(home, tmp_path, text, bpe):
    size = tmp_path / "narrow.json"
    size.write_text(json.dumps({**json.loads(size_file(tmp_path).read_text()), "vocabulary": 299}))
    with pytest.raises(SetUpError, match="a vocabulary of 299, but the tokenizer has 300 words"):
        initialise(home, settings(home, size=str(size), data=(text,), tokenizer=bpe))
    assert left_behind(home) == [], "the text is not read for nothing"


def test_who_names_the_same_again_is_heard_and_who_names_another_is_refused(home, tmp_path, text, bpe, pairs):
    genesis = founded(home, tmp_path, data=(text,), tokenizer=bpe)
    check_flags(settings(home, data=(text,), tokenizer=bpe), genesis)
    check_flags(settings(home, data=(text,)), genesis)  # with the tokenizer that is here
    for values, says in [
        ({"data": (pairs,)}, "--data text"),
        ({"tokenizer": "bytes"}, "--tokenizer bytes: the network has"),
    ]:
        with pytest.raises(SetUpError, match=says):
            check_flags(settings(home, **values), genesis)
    elsewhere = Home(tmp_path / "joiner")
    elsewhere.create()
    with pytest.raises(SetUpError, match="the network's tokenizer is not here yet"):
        check_flags(settings(elsewhere, data=(text,)), genesis)
    check_flags(settings(elsewhere, data=(text,), tokenizer=bpe), genesis)


def test_a_text_that_has_not_changed_is_not_read_again(home, tmp_path, text, monkeypatch):
    genesis = founded(home, tmp_path, data=(text,))
    reads = []
    pieces = Text.pieces
    monkeypatch.setattr(Text, "pieces", lambda self: (reads.append(1), pieces(self))[1])
    check_flags(settings(home, data=(text,)), genesis)
    assert reads == []
    text.write_bytes(TEXT[:-1] + b"?")
    with pytest.raises(SetUpError, match="--data"):
        check_flags(settings(home, data=(text,)), genesis)
    assert reads == [1]
    home.text_seen.write_text("rubbish")
    with pytest.raises(SetUpError, match="--data"):
        check_flags(settings(home, data=(text,)), genesis)
    assert reads == [1, 1]


def test_a_founders_file_takes_the_text_of_whoever_has_it_too(home, tmp_path, text, bpe):
    genesis = founded(home, tmp_path, data=(text,), tokenizer=bpe)
    other = Home(tmp_path / "other")
    taken = initialise(other, settings(other, data=(text,), tokenizer=bpe), genesis_file=home.genesis)
    assert taken == genesis and open_blobs(other).listed() == genesis.blobs
    third = Home(tmp_path / "third")
    with pytest.raises(SetUpError, match="not this network's text"):
        initialise(third, settings(third, data=("synthetic:60000",), tokenizer=bpe), genesis_file=home.genesis)
    assert not third.initialised


def test_what_is_made_is_what_the_readers_say(home, text, bpe):
    """The whole path against its parts."""
    tokenizer, census = tokenizer_from_json(DOCUMENT), Census()
    wishes = Wishes(data=(text,))
    expected = b"".join(encode(Text(wishes).pieces(), tokenizer, Words(2), census))
    result = made(home, settings(home, data=(text,), tokenizer=bpe))
    assert open_blobs(home).get(result.digest) == expected
    assert Blobs.digest_of_chunks([expected[:100], expected[100:]]) == result.digest
    assert replace(result, length=len(expected)) == result
