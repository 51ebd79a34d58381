"""Pieces to words: what stands between documents, where long ones are cut, and that nothing is lost on the way."""

import random
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from model.data import default_corpus
from model.text import encoding
from model.text.census import Census, Piece
from model.text.encoding import CUT_CHARACTERS, NEAR_CHARACTERS, cut_at, encode
from model.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from_json
from model.tokenizer_training import train
from model.words import BYTES, Words

SOURCE = default_corpus()[:1_500_000].decode(errors="replace")
BPE = tokenizer_from_json(train([SOURCE], 600))


def whole(*texts: str, silent: bool = False) -> list[Piece]:
    return [Piece(text, ends=True, silent=silent) for text in texts]


def raw(pieces: list[Piece]) -> tuple[bytes, Census]:
    census = Census()
    return b"".join(encode(pieces, ByteTokenizer(), BYTES, census)), census


def test_bytes_go_through_as_they_are() -> None:
    text = "naïve\r\n\udcff\udc80"
    assert raw(whole(text))[0] == text.encode(errors="surrogateescape")
    assert raw([Piece("half "), Piece("a document", ends=True)])[0] == b"half a document"


def test_documents_of_bytes_are_apart() -> None:
    data, census = raw(whole("one", "two\n", "", "three", "four"))
    assert data == b"one\ntwo\nthree\nfour"
    assert (census.documents, census.empty_documents, census.tokens) == (4, 1, len(data))
    assert raw([])[0] == b"" and raw(whole("", ""))[1].empty_documents == 2


def test_an_end_stands_behind_each_document() -> None:
    words, census = Words(2), Census()
    data = b"".join(encode(whole("one", "", "two\n"), BPE, words, census))
    assert words.unpack(data).tolist() == [*BPE.encode("one"), BPE.end, *BPE.encode("two\n"), BPE.end]
    assert census.tokens == len(data) // 2


def test_inputs_are_read_and_targets_are_learned() -> None:
    pieces = [Piece("2+2 |", silent=True), Piece("4", ends=True), Piece("3+3 |", silent=True), Piece("6", ends=True)]
    for tokenizer, end in ((BPE, [BPE.end]), (ByteTokenizer(), list(b"\n"))):
        words = Words(2, masked=True)
        found = words.unpack(b"".join(encode(pieces, tokenizer, words, Census()))).tolist()
        expected = []
        for silent, target in (("2+2 |", "4"), ("3+3 |", "6")):
            expected += [~token for token in tokenizer.encode(silent)] + tokenizer.encode(target) + end
        assert found == (expected if tokenizer is BPE else expected[:-1])


def test_bytes_that_are_no_utf8_become_a_replacement_for_a_tokenizer() -> None:
    words = Words(2)
    found = words.unpack(b"".join(encode(whole("caf\udce9"), BPE, words, Census()))).tolist()
    assert BPE.decode(found[:-1]) == "caf\ufffd"
    masked = Words(2, masked=True)
    kept = masked.unpack(b"".join(encode(whole("caf\udce9"), ByteTokenizer(), masked, Census())))
    assert kept.tolist() == list(b"caf\xe9")


@pytest.mark.parametrize("step", [1000, 77_777, 1 << 22])
def test_a_long_document_has_the_tokens_that_it_has_in_one_piece(step: int) -> None:
    parts = [SOURCE[start : start + step] for start in range(0, len(SOURCE), step)]
    pieces = [Piece(part, ends=number == len(parts)) for number, part in enumerate(parts, 1)]
    words = Words(2)
    chunks = list(encode(pieces, BPE, words, Census()))
    found = np.concatenate([words.unpack(chunk) for chunk in chunks]).tolist()
    assert found == [*BPE.encode(SOURCE), BPE.end] and len(chunks) > 1


def other_tokenizer(kind: str) -> Tokenizer:
    """Of every kind that puts something before a text, or takes something from its ends."""
    trainer: object = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    match kind:
        case "XLM-R":
            library = tokenizers.Tokenizer(models.Unigram())
            library.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False, right=True)])
            spaces = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
            library.pre_tokenizer = pre_tokenizers.Sequence(spaces)
            trainer = trainers.UnigramTrainer(
                vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
            )
        case "Llama 2":  # nothing splits a text
            library = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
            library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        case "RoBERTa":
            library = tokenizers.Tokenizer(models.BPE())
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case _:
            library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
            library.normalizer = normalizers.BertNormalizer()
            library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    library.train_from_iterator(SOURCE[:200_000].splitlines(), trainer=trainer)
    return tokenizer_from_json(library.to_str().encode())


@pytest.mark.parametrize("kind", ["XLM-R", "Llama 2", "RoBERTa", "BERT"])
def test_a_cut_changes_no_token_whatever_the_tokenizer_does_at_the_ends_of_a_text(kind: str) -> None:
    tokenizer = other_tokenizer(kind)
    source, words = SOURCE[: 3 * CUT_CHARACTERS], Words.of(tokenizer.vocabulary, masked=False)
    draw = random.Random(3)
    for text in (
        source,
        source.replace("\n", "\r\n"),
        "  ".join(source.split()),  # no cut before a single space
        "\N{NO-BREAK SPACE}".join(source.split()),
        "".join(draw.choices("日本語文字漢かなカナ。", k=3 * CUT_CHARACTERS)),
        "👩‍👩‍👧🏳️‍🌈é" * (CUT_CHARACTERS // 4),
    ):
        chunks = list(encode([Piece(text), Piece("", ends=True)], tokenizer, words, Census()))
        found = words.unpack(b"".join(chunks)).tolist()
        assert found == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("word\n" * CUT_CHARACTERS, "word\n", "word\n"),
        ("\n" * 2 * CUT_CHARACTERS, "\n", "\n"),
        ("some words " * CUT_CHARACTERS, "s", " "),
        ("x" * 2 * CUT_CHARACTERS, "x", "x"),
    ],
    ids=["lines", "empty lines", "words", "no break at all"],
)
def test_a_long_text_is_cut_where_a_word_begins(text: str, before: str, after: str) -> None:
    for start in (0, 1000):
        at, known = cut_at(text, start, BPE)
        assert known == len(BPE.encode(text[at - NEAR_CHARACTERS : at]))
        assert text[:at].endswith(before) and text[at:].startswith(after)
        assert start + CUT_CHARACTERS // 2 <= at <= start + CUT_CHARACTERS


@pytest.mark.long
def test_ten_megabytes_without_a_line_end_are_all_there() -> None:
    text = "".join(random.Random(2).choices("abcdé ", k=1_000_000)) * 10
    words, tokens = Words(2), []
    for chunk in encode(whole(text), BPE, words, Census()):
        tokens += words.unpack(chunk).tolist()
    assert tokens[-1] == BPE.end and BPE.decode(tokens[:-1]) == text


def test_a_text_of_any_length_takes_no_memory() -> None:
    """Of Python's; what the library keeps while it works on a batch is measured where a whole corpus is."""
    part = SOURCE[:200_000]

    def long() -> Iterator[Piece]:
        for _ in range(25):
            yield Piece(part)
        yield Piece(part, ends=True)

    for tokenizer, words in ((ByteTokenizer(), BYTES), (ByteTokenizer(), Words(2, masked=True)), (BPE, Words(2))):
        count = 0
        tracemalloc.start()
        try:
            for chunk in encode(long(), tokenizer, words, Census()):
                count += len(chunk)
            assert tracemalloc.get_traced_memory()[1] < 48 << 20
        finally:
            tracemalloc.stop()
        assert count > 2_000_000
    assert encoding.CUT_CHARACTERS == 1 << 18
