"""A large blob on its way into a file: what arrives is written where it belongs, and what an earlier attempt left is used.

What it is: the resumable half of a fetch. Nothing is kept beside the file that could contradict it: when a fetch begins, every leaf that
the file holds is hashed and compared, so a crash, a torn write or a damaged disk costs the leaves that it hit and nothing else.
What it is not: the fetch (``transport.fetch``), or a blob that is whole (``blobs``).

Rules for editing: methods block, and are called off the event loop. No more than one request's leaves are in memory at once.
"""

from collections.abc import Sequence
from pathlib import Path

from p2pnode.files import FILES
from transport import content
from transport.content import Buffer
from transport.limits import LEAF_BYTES

SUFFIX = ".arriving"


class Arriving:
    """One blob of ``length`` bytes, becoming the file ``path``."""

    def __init__(self, directory: Path, digest: bytes, length: int) -> None:
        self.digest = digest
        self.length = length
        self.path = directory / f"{digest.hex()}{SUFFIX}"
        self._descriptor: int | None = None

    def open(self) -> None:
        """Take up the file where there is one. Others on their way are given up: one model at a time. Raises OSError."""
        files = FILES.get()
        for other in self.path.parent.glob(f"*{SUFFIX}"):
            if other != self.path:
                files.remove(other)
        self._descriptor = files.open(self.path) if files.exists(self.path) else files.create(self.path)

    def begin_with(self, data: memoryview) -> None:
        """Where nothing has arrived yet, bytes of our own of which most may be right; ``missing`` finds out which. Raises OSError."""
        if not FILES.get().exists(self.path):
            self.open()
            assert self._descriptor is not None
            FILES.get().write(self._descriptor, data, offset=0)
            self.close()

    def missing(self, hashes: Sequence[bytes]) -> list[int]:
        """The leaves that the file does not hold, found by hashing what it holds."""
        with self.path.open("rb") as file:
            return [
                index
                for index, wanted in enumerate(hashes)
                if content.leaf_hash(file.read(content.leaf_length(index, self.length))) != wanted
            ]

    def take(self, leaves: Sequence[tuple[int, Buffer]]) -> None:
        """Write verified leaves (``transport.fetch.Sink``). Raises OSError."""
        files, descriptor = FILES.get(), self._descriptor
        assert descriptor is not None
        for first, run in runs(leaves):  # in one piece: a thread waits for the loop's after each call of the system
            files.write(descriptor, b"".join(run), offset=first * LEAF_BYTES)

    def read(self, first: int, count: int) -> bytes | None:
        """What stands there of these leaves, for peers that fetch the same (``transport.sharing.Read``)."""
        try:
            with self.path.open("rb") as file:
                file.seek(first * LEAF_BYTES)
                return file.read(count * LEAF_BYTES)
        except FileNotFoundError:
            return None  # it is a model by now

    def held(self) -> int:
        """How much of the disk the file takes already, in bytes. Raises OSError."""
        return min(self.length, 512 * self.path.stat().st_blocks)

    def close(self) -> None:
        if self._descriptor is not None:
            FILES.get().close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Once it was read, or is of no use."""
        self.close()
        FILES.get().remove(self.path)


def runs(leaves: Sequence[tuple[int, Buffer]]) -> list[tuple[int, list[Buffer]]]:
    """Leaves that follow one another, together, under the index of the first."""
    found: list[tuple[int, list[Buffer]]] = []
    for index, leaf in leaves:
        if found and index == found[-1][0] + len(found[-1][1]):
            found[-1][1].append(leaf)
        else:
            found.append((index, [leaf]))
    return found


def begun(directory: Path) -> set[bytes]:
    """The digests of blobs that an earlier attempt has begun to fetch."""
    found = set()
    for path in directory.glob(f"*{SUFFIX}"):
        name = path.name.removesuffix(SUFFIX)
        if len(name) == 64:
            found.add(bytes.fromhex(name))
    return found
