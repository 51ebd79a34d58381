"""Digests of a file's pages: kept while nobody writes to it, gone before anybody does, and exact about what changed."""

from pathlib import Path

import pytest

from p2pnode.pagesums import PAGE_BYTES, damaged_pages, drop_sums, keep_sums, sums_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    keep_sums(path)
    return path


def test_a_file_that_did_not_change_has_no_damaged_page(path: Path) -> None:
    assert not list(damaged_pages(path))
    drop_sums(path)
    drop_sums(path)
    assert not sums_of(path).exists()


@pytest.mark.parametrize("at", [0, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES + 5, 40 * 256 - 1])
def test_a_changed_bit_is_in_its_page(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert [byte for byte, _ in damaged_pages(path)] == [at // PAGE_BYTES * PAGE_BYTES]


def test_a_file_that_is_longer_or_shorter_is_not_the_same(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content + bytes(3 * PAGE_BYTES))
    assert [byte for byte, _ in damaged_pages(path)] == [2 * PAGE_BYTES, 3 * PAGE_BYTES, 4 * PAGE_BYTES, 5 * PAGE_BYTES]
    path.write_bytes(content[:PAGE_BYTES])
    assert list(damaged_pages(path)) == [(PAGE_BYTES, "it is cut short")]
    path.write_bytes(b"")
    assert list(damaged_pages(path)) == [(0, "it is cut short")]


def test_damaged_sums_accuse_themselves(path: Path) -> None:
    for at in range(sums_of(path).stat().st_size):
        content = bytearray(sums_of(path).read_bytes())
        content[at] ^= 8
        changed = path.with_name("copy.sums")
        changed.write_bytes(content)
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        assert [byte for byte, _ in damaged_pages(copy)] == [None], at
