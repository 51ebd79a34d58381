"""A file is the old one or the new one."""

import pytest

from model.files import write_atomically


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "state"
    for content in (b"old", b"new"):
        write_atomically(path, lambda where, content=content: where.write_bytes(content))
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def fail(where):
        where.write_bytes(b"ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
