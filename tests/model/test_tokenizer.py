"""Text to tokens and back: what every tokenizer keeps to, and that the library says the same."""

import json
import random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model import limits
from model.byte_level import as_characters, byte_alphabet
from model.errors import TokenizerError
from model.tokenizer import END_TOKEN, ByteTokenizer, Tokenizer, tokenizer_from_json, well_formed

ODD = [
    "",
    " ",
    "\n",
    "one\ntwo\r\nthree\rfour\n\n\n",
    "naïve café, Ünïcödé; e\u0301 is not é",
    "👩‍👩‍👧 🇩🇪 🏴\U000e0067\U000e0062",
    "日本語のテキスト",
    "\x00\x01\x7f\x85\xa0\u2028\ufeff",
    "a" * 5000,
    "    indented\n\t\ttabs  ",
    f"{END_TOKEN} in a text, </s> too",
]


def library_tokenizer() -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the quick brown fox, the lazy dog; naïve 日本"] * 20, trainer=trainer)
    return library


LIBRARY = library_tokenizer()
BPE = tokenizer_from_json(LIBRARY.to_str().encode())
BYTES = ByteTokenizer()
EACH = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "json"])


@EACH
@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 <= token < tokenizer.vocabulary for token in tokens)
    assert tokenizer.encode_batch([text, "and", text]) == [tokens, tokenizer.encode("and"), tokens]


@pytest.mark.parametrize("text", [*ODD, "".join(map(chr, random.Random(1).choices(range(0xD800), k=3000)))])
def test_a_byte_is_a_token(text: str) -> None:
    assert bytes(BYTES.encode(text)) == text.encode()
    assert BYTES.vocabulary == 256 and BYTES.end is None


@pytest.mark.parametrize("text", [text for text in ODD if END_TOKEN not in text])
def test_the_library_says_the_same(text: str) -> None:
    assert BPE.encode(text) == LIBRARY.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ODD)
def test_the_document_of_bytes_means_the_same_to_the_library(text: str) -> None:
    library = tokenizers.Tokenizer.from_str(BYTES.to_json().decode())
    tokens = library.encode(text).ids
    assert tokens == BYTES.encode(text) and library.decode(tokens) == text
    assert library.get_vocab_size() == 256
    assert library.decode([0xE2, 0x82]) == BYTES.decode([0xE2, 0x82]) == "\ufffd"


def test_the_alphabet_of_bytes_is_gpt2s() -> None:
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert as_characters(b" a\n\xff") == "ĠaĊÿ"


@EACH
def test_half_a_character_is_replaced_and_what_has_no_word_is_left_out(tokenizer: Tokenizer) -> None:
    halves = tokenizer.encode("€")[:1]
    assert tokenizer.decode([*halves, *tokenizer.encode("x")]) == "\ufffdx"
    assert tokenizer.decode([tokenizer.vocabulary, -1, 1 << 40, *tokenizer.encode("x")]) == "x"


@EACH
def test_lone_surrogates_are_replaced_and_pairs_are_their_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a\ud800b\udfff") == tokenizer.encode("a\ufffdb\ufffd")
    assert tokenizer.encode("\ud83d\ude00") == tokenizer.encode("😀")
    assert well_formed("plain") == "plain"


def test_a_special_token_in_a_text_is_text() -> None:
    assert BPE.end == LIBRARY.token_to_id(END_TOKEN) == 0
    tokens = BPE.encode(f"a{END_TOKEN}b")
    assert BPE.end not in tokens and BPE.decode(tokens) == f"a{END_TOKEN}b"


def test_added_tokens_that_are_not_special_are_found_as_the_library_finds_them() -> None:
    library = library_tokenizer()
    library.add_tokens(["<tab>"])
    ours = tokenizer_from_json(library.to_str().encode())
    assert ours.encode("a<tab>b") == library.encode("a<tab>b", add_special_tokens=False).ids
    assert ours.vocabulary == BPE.vocabulary + 1


def test_a_word_that_is_called_like_an_end_but_is_none_ends_nothing() -> None:
    library = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    assert tokenizer_from_json(library.to_str().encode()).end is None


def test_documents_come_back_as_they_are() -> None:
    document = LIBRARY.to_str(pretty=True).encode()
    assert tokenizer_from_json(document).to_json() == document
    assert isinstance(tokenizer_from_json(BYTES.to_json()), ByteTokenizer)


def test_what_a_document_says_of_batches_does_not_cut_a_text() -> None:
    library = library_tokenizer()
    library.enable_truncation(4)
    library.enable_padding(length=64)
    text = "the quick brown fox " * 20
    assert tokenizer_from_json(library.to_str().encode()).encode(text) == BPE.encode(text)


def changed(**change: object) -> bytes:
    document = json.loads(LIBRARY.to_str())
    document["model"] |= change
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"version":"1.0"}',
        changed(type="Nonsense"),
        changed(merges=[["q", "nothing"]]),
        changed(vocab={"a": -1}),
        changed(vocab={}, merges=[]) and b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}',
        changed(dropout=0.1),
    ],
    ids=range(11),
)
def test_a_damaged_document_is_one_line(document: bytes) -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_from_json(document)
    assert caught.value.hint and "\n" not in caught.value.message and len(caught.value.message) < 300


def test_a_document_is_no_longer_and_has_no_more_words() -> None:
    document = LIBRARY.to_str().encode()
    largest = document + b" " * (limits.TOKENIZER_BYTES_MAX - len(document))
    assert tokenizer_from_json(largest).vocabulary == BPE.vocabulary
    with pytest.raises(TokenizerError, match=f"at most {limits.TOKENIZER_BYTES_MAX} are allowed"):
        tokenizer_from_json(largest + b" ")

    def words(count: int) -> bytes:
        model = {"type": "WordLevel", "vocab": {"a": 0, "b": count - 1}, "unk_token": "a"}
        return json.dumps({"version": "1.0", "model": model}).encode()

    assert tokenizer_from_json(words(limits.VOCABULARY_MAX)).vocabulary == limits.VOCABULARY_MAX
    with pytest.raises(TokenizerError, match=f"1 to {limits.VOCABULARY_MAX} are allowed"):
        tokenizer_from_json(words(limits.VOCABULARY_MAX + 1))


def test_a_text_without_a_word_is_one_line() -> None:
    library = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="nowhere"))
    with pytest.raises(TokenizerError, match="cannot read this text"):
        tokenizer_from_json(library.to_str().encode()).encode("b")


@pytest.mark.long
def test_ten_megabytes_without_a_newline() -> None:
    text = "".join(random.Random(5).choices("abc é", k=10_000_000))
    assert bytes(BYTES.encode(text)) == text.encode()
    tokens = BPE.encode(text)
    assert tokens == LIBRARY.encode(text, add_special_tokens=False).ids
    assert BPE.decode(tokens) == text
