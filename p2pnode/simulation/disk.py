"""A disk in one process that may lose, tear and refuse: what ``p2pnode.files`` is replaced by in a simulated node.

What it is: the files are real ones, so whoever reads them by their path sees what is there; beside them stands what a loss of power would
leave. Writes to a file are lost, kept or torn by sectors until the file is synced; names are lost or kept, the later ones first, until
their directory is. What it is not: SQLite's files. SQLite syncs by itself; a run that is killed here ends between two of its commits.

Rules for editing: every operation is counted before it happens, so that a run may be killed at each of them; ``crash`` draws everything
from the injected generator.
"""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2pnode.files import Files

SECTOR_BYTES = 512


class Killed(BaseException):
    """The process is dead: nothing of it runs any more."""


@dataclass(slots=True)
class _Inode:
    """A file whatever it is called: its bytes as the disk surely has them."""

    durable: bytes = b""


@dataclass(slots=True)
class Faults:
    """What the disk does wrong from now on. ``room_bytes``: what may still be written."""

    room_bytes: int | None = None
    syncs_fail: bool = False


@dataclass(slots=True)
class _Change:
    """A name that its directory may forget: what it led to before and leads to now."""

    path: Path
    before: tuple[_Inode, bytes] | None


class Disk(Files):
    """Of one node. ``on_operation`` is called before each one; it may raise ``Killed``."""

    def __init__(self, rng: random.Random) -> None:
        self.on_operation: Callable[[], None] = lambda: None
        self.faults = Faults()
        self._rng = rng
        self._inodes: dict[Path, _Inode] = {}
        self._changes: list[_Change] = []
        self._open: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        self.on_operation()
        if self.faults.room_bytes == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._note(path)
        self._inodes[path] = _Inode()
        path.unlink(missing_ok=True)  # the old file may have another name as well
        return self._opened(super().create(path), path)

    def open(self, path: Path) -> int:
        return self._opened(super().open(path), path)

    def write(self, descriptor: int, data: bytes | memoryview, *, offset: int) -> None:
        self.on_operation()
        self._inode(self._open[descriptor])
        room = self.faults.room_bytes
        if room is not None:
            super().write(descriptor, data[:room], offset=offset)
            self.faults.room_bytes = max(0, room - len(data))
            if room < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        super().write(descriptor, data, offset=offset)

    def sync_data(self, descriptor: int) -> None:
        self.sync(descriptor)

    def sync(self, descriptor: int) -> None:
        self.on_operation()
        if self.faults.syncs_fail:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        path = self._open[descriptor]
        if path.is_dir():
            self._changes = [change for change in self._changes if change.path.parent != path]
        else:
            self._inode(path).durable = path.read_bytes()

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        super().close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.on_operation()
        inode = self._inode(source)
        self._note(source)
        self._note(target)
        super().rename(source, target)
        del self._inodes[source]
        self._inodes[target] = inode
        for descriptor, path in self._open.items():
            if path == source:
                self._open[descriptor] = target

    def link(self, source: Path, name: Path) -> None:
        self.on_operation()
        self._note(name)
        super().link(source, name)
        self._inodes[name] = self._inode(source)

    def remove(self, path: Path) -> None:
        self.on_operation()
        if path.exists():
            self._note(path)
            super().remove(path)
            self._inodes.pop(path, None)

    def crash(self) -> None:
        """What a loss of power leaves. Every descriptor of the dead process is closed."""
        for descriptor in list(self._open):
            self.close(descriptor)
        for path, inode in self._inodes.items():
            if path.is_file() and (now := path.read_bytes()) != inode.durable:
                path.write_bytes(self._torn(inode.durable, now))
        kept = self._rng.randint(0, len(self._changes))  # names are written in order
        for change in reversed(self._changes[kept:]):
            if change.before is None:
                change.path.unlink(missing_ok=True)
            else:
                change.path.unlink(missing_ok=True)
                change.path.write_bytes(change.before[1])
        self._inodes, self._changes = {}, []

    def _torn(self, before: bytes, now: bytes) -> bytes:
        """A file that was not synced: all of its sectors old or new, or each by itself; a new length may come without the bytes."""
        if self._rng.random() < 0.3:
            return before
        if self._rng.random() < 0.4:
            return now
        length = max(len(before), len(now)) if self._rng.random() < 0.5 else len(before)
        padded, fresh = before.ljust(length, b"\0"), now.ljust(length, b"\0")
        return b"".join(
            (fresh if self._rng.random() < 0.5 else padded)[start : min(start + SECTOR_BYTES, length)]
            for start in range(0, length, SECTOR_BYTES)
        )

    def _inode(self, path: Path) -> _Inode:
        """Of a file that is there; one that this process has not touched yet is on the disk as it is."""
        if path not in self._inodes:
            self._inodes[path] = _Inode(path.read_bytes() if path.is_file() else b"")
        return self._inodes[path]

    def _note(self, path: Path) -> None:
        """The name is about to change."""
        before = (self._inode(path), self._inode(path).durable) if path.is_file() else None
        self._changes.append(_Change(path, before))

    def _opened(self, descriptor: int, path: Path) -> int:
        self._open[descriptor] = path
        return descriptor


def flip(path: Path, rng: random.Random) -> int:
    """One bit of a file changes. Returns the byte it is in."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return place
