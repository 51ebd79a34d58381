import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.data import Corpus, CorpusFile, default_corpus, smallest_corpus
from model.errors import CorpusError
from model.words import BYTES, Words

CHAIN, AUTHOR = bytes(range(32)), bytes(range(32, 64))


def position_corpus(values: int = 60_000) -> tuple[Corpus, np.ndarray]:
    """A text in which three consecutive bytes tell where they are."""
    positions = np.arange(values // 3, dtype=np.uint32)
    text = np.stack([positions >> 16, positions >> 8, positions], axis=1).astype(np.uint8).reshape(-1)
    return Corpus(text.tobytes()), text


def starts_of(corpus: Corpus, windows: np.ndarray) -> list[int]:
    starts = [corpus.data.find(window.astype(np.uint8).tobytes()) for window in windows]
    assert min(starts) >= 0
    return starts


def test_training_never_touches_what_is_held_out() -> None:
    corpus, _ = position_corpus()
    held_out = {position for span in corpus.held_out_ranges for position in span}
    seen: set[int] = set()
    for height in range(60):
        for start in starts_of(corpus, corpus.batch(8, chain_id=CHAIN, height=height, author=AUTHOR, step=height % 10)):
            seen.update(range(start, start + corpus.sequence + 1))
    assert not seen & held_out
    assert len(seen) > 0.6 * (len(corpus.data) - len(held_out)), "training reads everywhere else"


def test_the_ranges_tile_the_text() -> None:
    for size in (20_640, 60_000, 99_999):
        corpus = Corpus(bytes(size))
        spans = sorted([*corpus.training_ranges, *corpus.held_out_ranges], key=lambda span: span.start)
        assert spans[0].start == 0 and spans[-1].stop == size
        assert all(one.stop == two.start for one, two in pairwise(spans))
        held_out = sum(len(span) for span in corpus.held_out_ranges)
        assert 0.049 * size < held_out <= 0.05 * size and len(corpus.held_out_ranges) == 8


def test_evaluation_reads_held_out_text_only() -> None:
    corpus, _ = position_corpus()
    windows = corpus.held_out()
    assert windows.shape == (64, 129)
    for start in starts_of(corpus, windows):
        assert any(span.start <= start and start + 129 <= span.stop for span in corpus.held_out_ranges)
    assert len(set(starts_of(corpus, windows))) == 64
    assert np.array_equal(windows, corpus.held_out())


def test_a_batch_follows_from_network_height_author_and_step() -> None:
    corpus, _ = position_corpus()

    def starts(chain_id: bytes = CHAIN, height: int = 5, author: bytes = AUTHOR, step: int = 3) -> list[int]:
        return starts_of(corpus, corpus.batch(8, chain_id=chain_id, height=height, author=author, step=step))

    expected = starts()
    assert starts() == expected
    assert starts() == [47964, 3150, 25311, 30937, 3236, 20340, 28011, 5245]
    others = [starts(chain_id=AUTHOR), starts(height=6), starts(author=CHAIN), starts(step=4)]
    assert all(other != expected for other in others)


def test_a_larger_batch_begins_with_the_smaller() -> None:
    corpus, _ = position_corpus()
    small, large = (corpus.batch(count, chain_id=CHAIN, height=1, author=AUTHOR, step=0) for count in (3, 11))
    assert np.array_equal(large[:3], small) and large.dtype == np.int64


def test_windows_are_spread_evenly() -> None:
    corpus, _ = position_corpus()
    starts = starts_of(corpus, corpus.batch(2000, chain_id=CHAIN, height=1, author=AUTHOR, step=0))
    counts, _ = np.histogram(starts, bins=8, range=(0, len(corpus.data)))
    assert counts.min() > 190 and counts.max() < 310


@pytest.mark.parametrize("sequence", [8, 128, 512])
def test_the_smallest_text_is_enough_and_one_byte_less_is_not(sequence: int) -> None:
    least = smallest_corpus(sequence)
    corpus = Corpus(os.urandom(least), sequence)
    assert corpus.held_out().shape == (64, sequence + 1)
    corpus.batch(64, chain_id=CHAIN, height=0, author=AUTHOR, step=0)
    with pytest.raises(CorpusError) as caught:
        Corpus(bytes(least - 1), sequence)
    assert str(least) in caught.value.message and caught.value.hint


def test_the_default_text_is_real_bounded_and_the_same_twice() -> None:
    text = default_corpus()
    assert text == default_corpus()
    assert 1_000_000 < len(text) <= 4 << 20
    assert b"import " in text and b"def " in text
    Corpus(text)


@pytest.mark.parametrize("words", [BYTES, Words(2), Words(2, masked=True), Words(4)], ids=str)
def test_a_file_gives_the_windows_that_its_bytes_give(tmp_path: Path, words: Words) -> None:
    tokens = np.random.default_rng(1).integers(0, 200, 60_000)
    path = tmp_path / "text"
    path.write_bytes(words.pack(tokens))
    held, file = Corpus(path.read_bytes(), words=words), Corpus(CorpusFile(path, path.stat().st_size), words=words)
    for corpus in (held, file):
        assert corpus.tokens == 60_000
        corpus.check(vocabulary=200)
    assert np.array_equal(held.held_out(), file.held_out())
    windows = file.batch(8, chain_id=CHAIN, height=3, author=AUTHOR, step=1)
    assert np.array_equal(windows, held.batch(8, chain_id=CHAIN, height=3, author=AUTHOR, step=1))
    assert windows.shape == (8, 129) and windows.dtype == np.int64
    starts = [np.flatnonzero((np.lib.stride_tricks.sliding_window_view(tokens, 129) == w).all(axis=1)) for w in windows]
    assert all(len(found) == 1 for found in starts), "windows are pieces of the text, whatever a word takes"


def test_what_is_not_to_be_learned_is_negative_in_a_window() -> None:
    words = Words(2, masked=True)
    text = b"".join(words.pack([7] * 4, silent=True) + words.pack([9]) for _ in range(6000))
    windows = Corpus(text, words=words).batch(4, chain_id=CHAIN, height=1, author=AUTHOR, step=0)
    assert set(np.unique(windows)) == {~7, 9}


def test_a_token_that_no_model_has_is_found(tmp_path: Path) -> None:
    words = Words(2)
    tokens = np.full(1 << 21, 5)
    tokens[-1] = 300
    corpus = Corpus(words.pack(tokens), words=words)
    corpus.check(vocabulary=301)
    with pytest.raises(CorpusError, match="a token 300, and the vocabulary 300"):
        corpus.check(vocabulary=300)
    with pytest.raises(CorpusError, match="no words of 2"):
        Corpus(bytes(60_001), words=words)


def test_a_file_that_is_gone_or_shorter_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(60_000))
    corpus = Corpus(CorpusFile(path, 60_000))
    path.write_bytes(bytes(1000))
    with pytest.raises(CorpusError, match="shorter than it was") as caught:
        corpus.held_out()
    assert "restart" in caught.value.hint
    path.unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        corpus.batch(8, chain_id=CHAIN, height=1, author=AUTHOR, step=0)
