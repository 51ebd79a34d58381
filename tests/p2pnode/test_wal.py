"""The vote log on real files: what a crash, a bad disk or a careless hand can leave behind, and what is made of it."""

import errno
import itertools
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pnode import wal
from p2pnode.files import FILES, Files
from p2pnode.wal import VoteLog, VoteLogFault, recover


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    before = FILES.set(Files())
    yield tmp_path / "votes.log"
    FILES.reset(before)


def written(path: Path, *records: bytes) -> bytes:
    log = VoteLog(path)
    for record in records:
        log.append(record)
    log.close()
    return path.read_bytes()


def used(path: Path) -> int:
    """Where the next append goes."""
    return len(path.read_bytes().rstrip(b"\0"))


def reopened(path: Path) -> wal.Recovered:
    log = VoteLog(path)
    log.close()
    return log.recovered


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full for real: the kernel refuses to let any file of this process grow beyond ``size``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_was_appended_is_there_in_order(path):
    written(path, b"one", b"two")
    log = VoteLog(path)
    log.append(b"three", b"")
    log.append()
    log.append(b"four" * 1000)
    log.close()
    assert reopened(path) == wal.Recovered((b"one", b"two", b"three", b"", b"four" * 1000))
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_records_cost_one_flush_that_changes_no_size(path):
    class Counting(Files):
        synced = 0

        def sync_data(self, descriptor: int) -> None:
            self.synced += 1
            super().sync_data(descriptor)

    files = Counting()
    FILES.set(files)
    log = VoteLog(path)
    size = path.stat().st_size
    log.append(b"a", b"b", b"c" * 2000)
    log.close()
    assert files.synced == 1
    assert path.stat().st_size == size


def test_the_file_grows_in_steps_and_ahead_of_time(path, monkeypatch):
    monkeypatch.setattr(wal, "STEP_BYTES", 4096)
    log = VoteLog(path)
    log.append(b"x" * 3000)
    before = path.stat().st_size
    log.prune(lambda _: True)
    assert path.stat().st_size == before + 4096
    log.append(b"y" * 20_000)
    log.close()
    assert reopened(path).records == (b"x" * 3000, b"y" * 20_000)


# --- what a loss of power, a bad disk or a careless hand leaves ----------------------------------------------------------------------

APPENDS = ((b"first",), (b"second", b"third" * 200), (bytes(700), b"fourth" * 100))  # of one, three and three sectors


@pytest.fixture
def small(path, monkeypatch) -> bytes:
    """A small log, each of whose bits can be turned."""
    monkeypatch.setattr(wal, "STEP_BYTES", 1024)
    log = VoteLog(path)
    for records in APPENDS:
        log.append(*records)
    log.close()
    return path.read_bytes()


def read(content: bytes) -> wal.Recovered:
    return wal._read(content, lost=False)[0]


def first(appends: int) -> tuple[bytes, ...]:
    return tuple(itertools.chain.from_iterable(APPENDS[:appends]))


def test_one_flipped_bit_is_damage_wherever_it_is(small):
    """All of them, the last record and the free space behind it included; and what is still read is what was written."""
    assert len(small) < 8192 and read(small).damage is None
    for at in range(len(small)):
        for bit in range(8):
            content = bytearray(small)
            content[at] ^= 1 << bit
            recovered = read(bytes(content))
            assert recovered.damage is not None, (at, bit)
            assert f"byte {at // 512 * 512}:" in recovered.damage, (at, bit)
            assert recovered.records == first(3)[: len(recovered.records)]


def test_a_file_cut_short_anywhere_loses_the_appends_that_are_not_whole_and_nothing_else(small):
    for length in range(512, len(small) + 1):
        for content in (small[:length], small[:length].ljust(len(small), b"\0")):
            recovered = read(content)
            assert recovered.damage is None, length
            whole = sum(length >= end for end in (1024, 2560, len(small.rstrip(b"\0"))))
            assert recovered.records == first(whole), length


def test_any_of_the_sectors_of_the_last_append_may_be_missing_or_half_there(small):
    """A disk writes the sectors of one append in any order, and one of them from the front."""
    end = len(small.rstrip(b"\0"))
    assert end - 2560 == 3 * 512
    for kept in itertools.product((0, 1, 3, 11, 12, 300, 511, 512), repeat=3):
        content = bytearray(small)
        for place, length in enumerate(kept):
            start = 2560 + 512 * place
            content[start + length : start + 512] = bytes(512 - length)
        recovered = read(bytes(content))
        assert recovered.damage is None, kept
        assert recovered.records == first(3 if kept == (512, 512, 512) else 2), kept


def test_a_whole_append_behind_one_that_is_not_is_damage(small):
    content = bytearray(small)
    content[1024:1536] = bytes(512)  # a sector that had been acknowledged
    assert read(bytes(content)).damage == "byte 2560: the 512 bytes from here on are damaged"


def test_after_a_cut_tail_new_records_follow_the_good_ones(path, small):
    path.write_bytes(small[: used(path) - 3])
    log = VoteLog(path)
    assert log.recovered.torn_bytes == 3 * 512 - 3
    log.append(b"later")
    log.close()
    assert reopened(path) == wal.Recovered((*first(2), b"later"))


def test_reading_changes_nothing(path, small):
    content = bytearray(small)
    content[700] ^= 0x40
    path.write_bytes(content)
    assert recover(path).damage == "byte 512: the 512 bytes from here on are damaged"
    assert path.read_bytes() == content


def test_a_damaged_file_is_kept_beside_and_its_good_records_stay(path, small):
    content = bytearray(small)
    content[content.index(b"fourth")] ^= 1
    path.write_bytes(content)
    assert reopened(path).damage is not None
    assert path.with_suffix(".damaged").read_bytes() == content
    assert reopened(path) == wal.Recovered(first(2))


def test_a_log_begun_anew_holds_exactly_what_replaces_it(path, small):
    content = bytearray(small)
    content[600] ^= 1
    path.write_bytes(content)
    log = VoteLog(path, anew=[b"silence"])
    log.append(b"later")
    log.close()
    assert reopened(path).records == (b"silence", b"later")
    assert path.with_suffix(".damaged").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\xa5", b"#!/bin/sh\necho hello\n", b"p2pnode-votes-1\n"])
def test_another_file_is_not_a_vote_log(path, content):
    """A log is created under another name, so not even an empty file is what a crash left."""
    path.write_bytes(content)
    assert recover(path).damage == "byte 0: it does not begin like a vote log"
    reopened(path)
    assert path.with_suffix(".damaged").read_bytes() == content


def test_a_missing_file_was_never_begun(path):
    assert recover(path) == wal.Recovered((), begun=False)
    assert not path.exists()


def test_a_log_that_is_gone_is_missed(path, small):
    path.unlink()
    assert recover(path) == wal.Recovered((), begun=False, lost=True)
    assert path.with_suffix(".begun").exists()


def test_an_interrupted_rewrite_changes_nothing(path, small, monkeypatch):
    monkeypatch.setattr(wal, "PRUNE_BYTES", 64)

    class NoRename(Files):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    FILES.set(NoRename())
    log = VoteLog(path)
    with pytest.raises(VoteLogFault, match=r"rewriting votes\.log failed: input/output error"):
        log.prune(lambda _: False)
    log.close()
    FILES.set(Files())
    assert reopened(path).records == first(3)


# --- a disk that refuses --------------------------------------------------------------------------------------------------------------


def test_a_full_disk_closes_the_log_for_good(path, monkeypatch):
    monkeypatch.setattr(wal, "STEP_BYTES", 1024)
    log = VoteLog(path)
    log.append(b"good")
    with (
        file_size_limit(path.stat().st_size),
        pytest.raises(VoteLogFault, match=r"writing votes\.log failed: file too large"),
    ):
        log.append(b"x" * 2000)
    with pytest.raises(VoteLogFault, match="file too large"):
        log.append(b"there is room again, but who knows what the kernel kept")
    log.prune(lambda _: True)
    log.close()
    recovered = reopened(path)
    assert recovered.records == (b"good",) and recovered.damage is None


def test_a_failed_flush_is_never_tried_again(path):
    class Failing(Files):
        tried = 0

        def sync_data(self, descriptor: int) -> None:
            self.tried += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = Failing()
    FILES.set(files)
    log = VoteLog(path)
    for _ in range(2):
        with pytest.raises(VoteLogFault, match="input/output error"):
            log.append(b"vote")
    log.close()
    assert files.tried == 1


def test_a_record_that_is_too_long_is_refused_and_harms_nothing(path, monkeypatch):
    monkeypatch.setattr(wal, "RECORD_BYTES_MAX", 10)
    log = VoteLog(path)
    with pytest.raises(VoteLogFault, match="above 10 bytes"):
        log.append(b"x" * 11)
    log.append(b"x" * 10)
    log.close()
    assert reopened(path).records == (b"x" * 10,)


def test_a_small_log_is_not_rewritten(path):
    log = VoteLog(path)
    log.append(b"old")
    log.prune(lambda _: False)
    log.close()
    assert reopened(path).records == (b"old",)


def test_pruning_keeps_what_is_wanted_and_goes_on(path, monkeypatch):
    monkeypatch.setattr(wal, "PRUNE_BYTES", 64)
    log = VoteLog(path)
    log.append(*(b"record %d" % number for number in range(20)))
    log.prune(lambda data: data.endswith(b"9"))
    log.append(b"after")
    log.close()
    assert reopened(path) == wal.Recovered((b"record 9", b"record 19", b"after"))
    assert not path.with_suffix(".new").exists()


def test_a_full_disk_while_pruning_loses_nothing(path, monkeypatch):
    monkeypatch.setattr(wal, "PRUNE_BYTES", 64)
    log = VoteLog(path)
    log.append(b"x" * 200, b"y" * 200)
    with file_size_limit(100), pytest.raises(VoteLogFault, match=r"rewriting votes\.log failed"):
        log.prune(lambda _: True)
    log.close()
    assert reopened(path).records == (b"x" * 200, b"y" * 200)


def test_a_record_appended_while_pruning_is_not_lost(path, monkeypatch):
    """The round logs a contribution while the driver prunes: both come from threads."""
    monkeypatch.setattr(wal, "PRUNE_BYTES", 64)
    log = VoteLog(path)
    log.append(b"x" * 100)
    appender = threading.Thread(target=log.append, args=(b"contribution",))

    def keep(_: bytes) -> bool:
        if appender.ident is None:
            appender.start()  # between reading the old log and renaming the new one
        return True

    log.prune(keep)
    appender.join()
    log.close()
    assert reopened(path).records == (b"x" * 100, b"contribution")


def test_a_closed_log_writes_nowhere(path):
    log = VoteLog(path)
    log.close()
    with pytest.raises(VoteLogFault, match="closed"):
        log.append(b"late")


def test_a_log_is_quick_while_its_disk_is(path, monkeypatch):
    """The clock is ours: a flush takes as long as the test says."""
    now, flush_seconds = [0.0], [0.0003]

    def sync_data(self, descriptor):
        now[0] += flush_seconds[0]

    monkeypatch.setattr(wal.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(wal.Files, "sync_data", sync_data)
    log = VoteLog(path)

    def after(count):
        for _ in range(count):
            log.append(b"vote")
        return log.is_quick

    assert not log.is_quick, "nobody knows yet"
    assert not after(5)
    assert after(10)
    with log._lock:
        assert not log.is_quick, "a rewriting takes longer than any flush"
    flush_seconds[0] = 0.03
    assert not after(1), "one slow flush is enough"
    flush_seconds[0] = 0.0003
    assert not after(2)
    assert after(12)
    log.close()
