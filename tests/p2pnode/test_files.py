"""The operations on files under a promise: whole or not at all, and nothing half-written in the way."""

import errno
import os
from pathlib import Path

import pytest

from p2pnode.files import Files, sync_at, write_whole


def test_a_file_appears_whole_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"another " * 1000):
        write_whole(Files(), path, content)
        assert path.read_bytes() == content and path.stat().st_mode & 0o777 == 0o600
    sync_at(Files(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("refused", ["write", "sync", "rename"])
def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch, refused):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path: Path = tmp_path / "file"
    write_whole(Files(), path, b"old")
    files = Files()
    monkeypatch.setattr(files, refused, refuse)
    with pytest.raises(OSError, match="No space"):
        write_whole(files, path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
