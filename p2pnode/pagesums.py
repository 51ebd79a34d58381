"""Digests of a file's pages, kept beside it while nobody writes to it: so that a changed bit is found where no content covers it.

SQLite checks structure and leaves content and unused space to others. A chain file that its node has closed does not change, so its pages
are summed then, and the sums go before it is opened for writing again.

    p2pnode-sums-1\\n   then for each 4096 bytes the first 16 of their SHA-256, then the SHA-256 of all this
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from p2pnode.files import FILES, sync_at, write_whole

PAGE_BYTES = 4096  # SQLite's own, so that a fault names its page
_MAGIC = b"p2pnode-sums-1\n"
_SUM_BYTES, _SEAL_BYTES = 16, 32


def sums_of(path: Path) -> Path:
    """Where the sums of a file stand."""
    return path.with_name(path.name + ".sums")


def keep_sums(path: Path) -> None:
    """Of a file that is closed and durable. Raises OSError."""
    content = _MAGIC + b"".join(_sums(path))
    write_whole(FILES.get(), sums_of(path), content + hashlib.sha256(content).digest())


def drop_sums(path: Path) -> None:
    """Before the file is written to; durably, because sums that came back after a loss of power would accuse a good file."""
    files, sums = FILES.get(), sums_of(path)
    if files.exists(sums):
        files.remove(sums)
        sync_at(files, path.parent)


def damaged_pages(path: Path) -> Iterator[tuple[int | None, str]]:
    """(byte, what) of every page that changed; no byte where the sums themselves did."""
    content = sums_of(path).read_bytes()
    body, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if hashlib.sha256(body).digest() != seal or not body.startswith(_MAGIC):
        yield None, "the digests of the chain file's pages are damaged"
        return
    kept = body[len(_MAGIC) :]
    number = -1
    for number, digest in enumerate(_sums(path)):
        if kept[number * _SUM_BYTES : (number + 1) * _SUM_BYTES] != digest:
            yield (
                number * PAGE_BYTES,
                f"page {number + 1}, the {PAGE_BYTES} bytes from here on, changed after its node closed it",
            )
    if (number + 1) * _SUM_BYTES < len(kept):
        yield (number + 1) * PAGE_BYTES, "it is cut short"


def _sums(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while page := file.read(PAGE_BYTES):
            yield hashlib.sha256(page).digest()[:_SUM_BYTES]
