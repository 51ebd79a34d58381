"""The C library's allocator, asked in a process of its own: what it was told stays for as long as the process does."""

import os
import subprocess
import sys

import pytest

from model import allocator

PROGRAM = """
import resource, threading, sys
from model import allocator
print(allocator.tune_host_allocator())
import numpy as np

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    np.ones(10 << 20)  # 80 MiB: more than glibc ever keeps by itself
    before = faults()
    for _ in range(10):
        np.ones(10 << 20)
    print(faults() - before)
    blocks = [np.ones(1 << 19) for _ in range(100)]
    kept = blocks[::10]  # so that the rest lies between what is in use
    del blocks
    print(allocator.free_bytes())
    allocator.kept_bytes_max = lambda: 1 << 30 << 10
    allocator.release()
    print(allocator.free_bytes(), resident())
    allocator.kept_bytes_max = lambda: 1 << 20
    allocator.release()
    print(resident())

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

worker = threading.Thread(target=work)  # as on a node
worker.start()
worker.join()
"""


def run(**environment: str) -> list[str]:
    """The words that it prints. Pages of the usual size, or there would be few faults to count."""
    command = [sys.executable, "-c", PROGRAM]
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"
    said = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=120
    )
    return said.stdout.split()


@pytest.mark.skipif(allocator._glibc() is None, reason="another C library than glibc")
def test_what_training_gives_back_is_kept_and_no_more_than_that() -> None:
    tuned, faults, free, still_free, resident, resident_then = run()
    assert tuned == "True"
    assert int(faults) < 2_000, "80 MiB are 20,480 pages, each time anew"
    assert int(free) > 300 << 20 and int(still_free) > 300 << 20
    assert int(resident) - int(resident_then) > 300 << 20


MEASURED = """
import resource, sys
from model import allocator
allocator.kept_bytes_max = lambda: 1 << 20
assert allocator.tune_host_allocator(keep_all=sys.argv[1] == "all")
import numpy as np
np.ones(10 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(allocator._glibc() is None, reason="another C library than glibc")
def test_a_measurement_gives_nothing_back_however_much_that_is() -> None:
    faults = {}
    for keep in ("all", "some"):
        environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
        command = [sys.executable, "-c", MEASURED, keep]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        faults[keep] = int(said.stdout)
    assert faults["all"] < 2_000 and faults["some"] > 30_000  # all but the 64 MiB that stay


@pytest.mark.skipif(allocator._glibc() is None, reason="another C library than glibc")
def test_it_can_be_left_as_it_is() -> None:
    tuned, faults, *_ = run(P2PNODE_HOST_ALLOCATOR="system")
    assert tuned == "False" and int(faults) > 100_000


def test_the_limit_is_a_share_of_the_machine() -> None:
    assert 1 << 26 < allocator.kept_bytes_max() <= allocator.KEPT_BYTES_MAX


def test_where_there_is_no_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    assert allocator.tune_host_allocator() is False and allocator.free_bytes() == 0
    allocator.release()
