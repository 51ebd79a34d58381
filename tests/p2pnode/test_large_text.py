"""A text of 2 GB on 1 GB of memory: founded on by bytes and by a BPE that was learned from it.

Real processes, under a limit of the kernel on all the memory they may map. Behind --long: it writes 7 GB in all, and takes the quarter of
an hour that tokenizing 2 GB takes.
"""

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

BYTES = 2_000_000_000
MAPPED_BYTES_MAX = 1_000_000_000
WORDS_AT_ONCE = 1 << 20


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lines of made-up words, a few of them frequent, no two megabytes equal."""
    random = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlucmfwypvbgkéß"))
    words = np.array(["".join(random.choice(letters, size)) for size in random.integers(1, 11, 50_000)])
    ends = np.array([" "] * 11 + ["\n"])
    path = tmp_path_factory.mktemp("text") / "large.txt"
    with path.open("wb") as file:
        while file.tell() < BYTES:
            chosen = words[np.minimum(random.zipf(1.2, WORDS_AT_ONCE), len(words)) - 1]
            file.write("".join(np.char.add(chosen, random.choice(ends, WORDS_AT_ONCE))).encode())
        file.truncate(BYTES)
    yield path
    path.unlink()


def in_a_gigabyte(*arguments: str | Path) -> str:
    """What the command said, and that it ended well."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pnode", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MAPPED_BYTES_MAX, MAPPED_BYTES_MAX)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def tokens(said: str) -> int:
    found = re.search(r"text: 1 file, .* ([\d,]+) tokens$", said, flags=re.MULTILINE)
    assert found is not None, said
    return int(found[1].replace(",", ""))


@pytest.mark.long
def test_bytes(text: Path, tmp_path: Path) -> None:
    assert tokens(in_a_gigabyte("init", "--home", tmp_path / "one", "--data", text)) == BYTES


@pytest.mark.long
def test_a_bpe_learned_from_it(text: Path, tmp_path: Path) -> None:
    bpe = tmp_path / "bpe.json"
    in_a_gigabyte("tokenizer", "train", "--data", text, "--vocabulary", "4096", "--out", bpe)
    said = in_a_gigabyte("init", "--home", tmp_path / "one", "--data", text, "--tokenizer", bpe)
    assert BYTES / 8 < tokens(said) < BYTES
