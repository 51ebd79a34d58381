"""tiktoken's encodings as documents: every text has the tokens that tiktoken gives it."""

import json
import random

import pytest

from model.byte_level import byte_alphabet
from model.data import default_corpus
from model.errors import TokenizerError
from model.ranks import from_ranks, named_encoding
from model.tokenizer import END_TOKEN, tokenizer_from_json
from model.tokenizer_training import train
from tests.model.test_tokenizer import ODD

tiktoken = pytest.importorskip("tiktoken", reason="the extra `tiktoken` is not installed")

# As in tiktoken 0.14, whose tables of ranks are on the network; ours are made below.
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
PATTERNS = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
        r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
    "o200k": "|".join(_O200K),
}
SOURCE = default_corpus()[:400_000].decode(errors="replace")


def ranks() -> dict[bytes, int]:
    """Bytes, and then words as a BPE would find them: frequent neighbours."""
    bytes_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    words = json.loads(train([SOURCE, "日本語 naïve 👩 " * 500], 2000))["model"]["vocab"]
    del words[END_TOKEN]
    ordered = sorted(words, key=words.__getitem__)
    return {bytes(bytes_of[character] for character in word): rank for rank, word in enumerate(ordered)}


RANKS = ranks()
SPECIAL = {END_TOKEN: 2100, "<|fim|>": 2102}


def texts() -> list[str]:
    source = random.Random(3)
    spread = [*map(chr, range(0x3000)), "😀", "👩", "\u200d"]
    hard = list(" \n\r\t\u0085\u2028\u00a0\x1c\x1f'sStT\u017f1234ab.,/$|")
    return [
        *ODD,
        *(SOURCE[start : start + 1000] for start in range(0, 100_000, 1000)),
        *("".join(source.choices(spread, k=200)) for _ in range(100)),
        *("".join(source.choices(hard, k=60)) for _ in range(700)),
        "7" * 10_001,
        "x y" * 5000,
        "a\ud800b",
    ]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_text_has_the_tokens_of_tiktoken(pattern: str) -> None:
    theirs = tiktoken.Encoding(pattern, pat_str=PATTERNS[pattern], mergeable_ranks=RANKS, special_tokens=SPECIAL)
    ours = tokenizer_from_json(from_ranks(RANKS, PATTERNS[pattern], SPECIAL))
    assert (ours.vocabulary, ours.end) == (theirs.n_vocab, theirs.eot_token) == (2103, 2100)
    for text in texts():
        tokens = ours.encode(text)
        assert tokens == theirs.encode(text, disallowed_special=()), repr(text[:80])
        assert ours.decode(tokens) == theirs.decode(tokens)
    broken = [*range(128, 256), 2100]
    assert ours.decode(broken) == theirs.decode(broken)


def test_a_table_in_which_a_word_has_several_halves() -> None:
    """All of them are merges to tiktoken."""
    table = {bytes([byte]): byte for byte in range(256)}
    for rank, word in enumerate([b"bc", b"ab", b"abc", b"bcd", b"abcd", b"cd", b"aa", b"aaa", b"aaaa"], 256):
        table[word] = rank
    theirs = tiktoken.Encoding("halves", pat_str=r"\w+|\W+", mergeable_ranks=table, special_tokens={})
    ours = tokenizer_from_json(from_ranks(table, r"\w+|\W+", {}))
    source = random.Random(4)
    for _ in range(3000):
        text = "".join(source.choices("aabcd ", k=source.randrange(1, 14)))
        assert ours.encode(text) == theirs.encode(text), text


def test_a_name_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(TokenizerError, match="no tokenizer 'nothing_base'") as caught:
        named_encoding("nothing_base")
    assert "cl100k_base" in caught.value.hint


def test_an_encoding_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(TokenizerError, match=r"cannot load cl100k_base \(no network\?\): no route to host"):
        named_encoding("cl100k_base")


def test_an_encoding_comes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tiktoken.Encoding("x", pat_str=PATTERNS["gpt2"], mergeable_ranks=RANKS, special_tokens=SPECIAL)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: theirs)
    assert named_encoding("gpt2") == from_ranks(RANKS, PATTERNS["gpt2"], SPECIAL)
