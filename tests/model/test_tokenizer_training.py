"""A BPE learned from a text."""

import random
from itertools import pairwise

import pytest

from model import tokenizer_training
from model.data import default_corpus
from model.errors import TokenizerError
from model.limits import VOCABULARY_MAX
from model.tokenizer import END_TOKEN, tokenizer_from_json
from model.tokenizer_training import LEAST_VOCABULARY, SAMPLE_CHARACTERS_MAX, sample, train
from tests.model.test_tokenizer import ODD

SOURCE = default_corpus()[:300_000].decode(errors="replace")


def test_it_has_as_many_tokens_as_were_asked_for_and_its_words_are_longer() -> None:
    document = train([SOURCE], 1000)
    tokenizer = tokenizer_from_json(document)
    assert tokenizer.vocabulary == 1000 and tokenizer.end == 0
    assert len(tokenizer.encode(SOURCE)) < 0.45 * len(SOURCE)
    assert END_TOKEN.encode() in document
    for text in ODD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_text_gives_the_same_tokenizer() -> None:
    assert train([SOURCE], 600) == train([SOURCE], 600) != train([SOURCE[:200_000]], 600)


def test_a_text_with_little_to_merge_gives_fewer() -> None:
    assert tokenizer_from_json(train(["ab ab"], 5000)).vocabulary < 300


@pytest.mark.parametrize("vocabulary", [LEAST_VOCABULARY - 1, VOCABULARY_MAX + 1, 0])
def test_a_vocabulary_has_its_bounds(vocabulary: int) -> None:
    with pytest.raises(TokenizerError, match=f"{LEAST_VOCABULARY} to {VOCABULARY_MAX} are allowed"):
        train(["text"], vocabulary)
    assert tokenizer_from_json(train(["text"], LEAST_VOCABULARY)).vocabulary == LEAST_VOCABULARY


def test_nothing_teaches_nothing() -> None:
    for nothing in ([], ["", ""]):
        with pytest.raises(TokenizerError, match="empty"):
            train(nothing)


def test_no_spaces_and_bad_bytes_are_survived() -> None:
    text = "".join(random.Random(1).choices("ACGT", k=500_000)) + "\udcff\ud800"
    tokenizer = tokenizer_from_json(train([text], 400))
    assert tokenizer.decode(tokenizer.encode(text[:1000])) == text[:1000]


def test_a_sample_is_no_larger_than_memory_should_hold() -> None:
    part = "x" * (1 << 20)
    parts = sample(part for _ in range(3 * SAMPLE_CHARACTERS_MAX >> 20))
    assert SAMPLE_CHARACTERS_MAX // 2 <= sum(map(len, parts)) <= SAMPLE_CHARACTERS_MAX


def test_a_sample_is_spread_over_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "_PART_CHARACTERS", 10)
    monkeypatch.setattr(tokenizer_training, "SAMPLE_CHARACTERS_MAX", 100)
    parts = sample(f"{number:010d}" for number in range(1000))
    assert 5 <= len(parts) <= 10
    steps = {int(after) - int(before) for before, after in pairwise(parts)}
    assert len(steps) == 1 and int(parts[0]) == 0 and int(parts[-1]) > 800
    assert sample(["0123456789" * 3 + "rest"]) == ["0123456789"] * 3 + ["rest"]
