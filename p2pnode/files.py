"""The few operations on files that a promise rests on: what is durable, in which order, and what a crash may leave.

One object, held in a context variable like ``transport.machine``: a simulation puts another in its place, which tears writes, loses what
was not synced, runs full or reports errors. The vote log and the blobs write through it and through nothing else; the chain is SQLite's,
which does the same with its own means, and a snapshot or a key goes through ``model.files``.

Rules for editing: one method is one effect on the disk. Every method blocks and raises ``OSError``.
"""

import os
from contextvars import ContextVar
from pathlib import Path


class Files:
    """The real ones. A descriptor is whatever ``create`` and ``open`` return, and goes back to the same object."""

    def read(self, path: Path) -> bytes:
        """All of it. Raises FileNotFoundError."""
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """An empty file in place of whatever stood there, for the owner alone."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """A file that is there, or a directory, to be synced."""
        return os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes | memoryview, *, offset: int) -> None:
        """All of ``data``; after an error, any part of it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def sync_data(self, descriptor: int) -> None:
        """Return when what was written survives a loss of power."""
        os.fdatasync(descriptor)

    def sync(self, descriptor: int) -> None:
        """The same, with everything about the file; of a directory, its names."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """In one step, in place of whatever stood there. Durable once the directory is."""
        source.rename(target)

    def link(self, source: Path, name: Path) -> None:
        """A second name for the same file."""
        name.hardlink_to(source)

    def remove(self, path: Path) -> None:
        """It need not be there."""
        path.unlink(missing_ok=True)

    def exists(self, path: Path) -> bool:
        return path.exists()


FILES: ContextVar[Files] = ContextVar("files", default=Files())  # noqa: B039 - it has no state


def sync_at(files: Files, path: Path) -> None:
    """Make a file or a directory durable by its name."""
    descriptor = files.open(path)
    try:
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def write_whole(files: Files, path: Path, data: bytes) -> None:
    """A durable file of these bytes, or none; what stood there before is replaced in one step."""
    part = path.with_name(path.name + ".part")
    try:
        descriptor = files.create(part)
        try:
            files.write(descriptor, data, offset=0)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(part, path)
    except OSError:
        files.remove(part)  # on a full disk, half a file is in the way
        raise
    sync_at(files, path.parent)
