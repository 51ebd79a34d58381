import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from model.data import Corpus, default_corpus, load_corpus, smallest_corpus
from model.errors import CorpusError

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


def test_a_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\x00\xff caf\xc3\xa9\r\n")
    assert load_corpus(path) == b"\x00\xff caf\xc3\xa9\r\n"


def test_an_unusable_text_is_one_clear_error(tmp_path: Path) -> None:
    empty, pipe, loop = (tmp_path / name for name in ("empty", "pipe", "loop"))
    empty.write_bytes(b"")
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (
        tmp_path / "missing",
        tmp_path,
        empty,
        pipe,
        loop,
        empty / "below",
        Path("a\0b"),
        Path("x" * 5000),
    ):
        with pytest.raises(CorpusError) as caught:
            load_corpus(path)
        assert caught.value.message and caught.value.hint, path


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_text_without_permission_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(path)
