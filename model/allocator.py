"""The C library's allocator, told to keep what training gives back, for the next step asks for the same again.

glibc maps every block above 32 MiB anew and unmaps it at once, so each use of a large tensor first takes thousands of page
faults, in which the kernel fills it with zeros. Kept blocks have none. And it keeps an arena for each thread, which can hold
no large block at all: one that a worker thread asks for is mapped whatever else is said (measured: without the single arena,
nothing of this helps a node, which trains in a thread). docs/benchmarks.md has what it saves and what it costs.

What it costs is resident memory: freed blocks lie between others, and an aligned block does not fit the hole that one of its
size has left. So no more than `kept_bytes_max` of free memory stays: `release` gives the rest back, between rounds.

Only glibc is tuned; elsewhere nothing happens. P2PNODE_HOST_ALLOCATOR=system leaves it as it is. Standard library only.
"""

import ctypes
import os
from typing import Final

VARIABLE: Final = "P2PNODE_HOST_ALLOCATOR"
KEPT_BYTES_MAX: Final = 1 << 30  # two micro-batches of a model of 100 million parameters
KEPT_SHARE: Final = 16  # and no more than a sixteenth of the machine's memory

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
_TOP_PAD_BYTES: Final = 64 << 20
_NEVER: Final = -1  # as a threshold: the largest there is


class _Mallinfo2(ctypes.Structure):
    """What mallinfo2 (glibc 2.33) returns; `fordblks` are the bytes of free blocks."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def tune_host_allocator(*, keep_all: bool = False) -> bool:
    """Whether it is tuned now. Call before threads and large tensors: what they hold by then stays as it was.

    With `keep_all` nothing is ever given back: for measurements, in which one way must not pay for what another has freed.
    """
    library = _glibc()
    if library is None or os.environ.get(VARIABLE) == "system":
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: _NEVER if keep_all else kept_bytes_max(),
        _M_TOP_PAD: _TOP_PAD_BYTES,
    }
    return all(library.mallopt(option, value) == 1 for option, value in settings.items())


def release() -> None:
    """Give free memory back to the system where more than the limit is kept. Takes microseconds where not."""
    library = _glibc()
    if library is not None and free_bytes() > kept_bytes_max():
        library.malloc_trim(0)


def kept_bytes_max() -> int:
    """How much free memory may stay with the process."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return KEPT_BYTES_MAX
    return min(KEPT_BYTES_MAX, memory // KEPT_SHARE)


def free_bytes() -> int:
    """What the allocator keeps of what was given back to it; 0 where it does not say."""
    library = _glibc()
    if library is None or not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _Mallinfo2
    return int(library.mallinfo2().fordblks)


def _glibc() -> ctypes.CDLL | None:
    """The process's own C library, if it is glibc."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
