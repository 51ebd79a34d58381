"""The vote log on real files: what a crash, a bad disk or a careless hand can leave behind, and what is made of it."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pnode import wal
from p2pnode.wal import VoteLog, VoteLogFault, recover


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "votes.log"


def written(path: Path, *records: bytes) -> bytes:
    log = VoteLog(path)
    for record in records:
        log.append(record)
    log.close()
    return path.read_bytes()


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
    log.append(b"three", b"four")
    log.close()
    assert reopened(path) == wal.Recovered((b"one", b"two", b"three", b"four"), 0, None)
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_records_cost_one_flush(path, monkeypatch):
    log = VoteLog(path)
    flushes = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (flushes.append(fd), real(fd)))
    log.append(b"a", b"b", b"c")
    log.close()
    assert len(flushes) == 1


def test_a_torn_tail_is_cut_wherever_it_was_torn(path):
    whole = written(path, b"first", b"second record")
    boundary = len(written(path.with_name("one.log"), b"first"))
    for length in range(boundary + 1, len(whole)):
        path.write_bytes(whole[:length])
        recovered = reopened(path)
        assert recovered == wal.Recovered((b"first",), length - boundary, None)
        assert path.stat().st_size == boundary


def test_after_a_cut_tail_new_records_follow_the_good_ones(path):
    path.write_bytes(written(path, b"first", b"second")[:-3])
    log = VoteLog(path)
    log.append(b"third")
    log.close()
    assert reopened(path).records == (b"first", b"third")


@pytest.mark.parametrize("at", [0, 5, 8, 20])
def test_damage_before_the_tail_is_no_torn_tail(path, at):
    """Length, checksum, sequence, data: whichever byte of the first record turned."""
    content = bytearray(written(path, b"first record", b"second"))
    content[len(wal._MAGIC) + at] ^= 0x40
    path.write_bytes(content)
    recovered = recover(path)
    assert recovered.damage == f"the record at byte {len(wal._MAGIC)} is damaged"
    assert path.read_bytes() == content  # reading changed nothing


def test_a_damaged_file_is_kept_beside_and_its_good_records_stay(path):
    content = bytearray(written(path, b"first", b"second", b"third"))
    content[content.index(b"second")] ^= 1
    path.write_bytes(content)
    assert reopened(path).damage is not None
    assert path.with_suffix(".damaged").read_bytes() == content
    assert reopened(path) == wal.Recovered((b"first",), 0, None)


def test_a_log_begun_anew_holds_exactly_what_replaces_it(path):
    content = bytearray(written(path, b"first", b"second"))
    content[len(wal._MAGIC) + 16] ^= 1
    path.write_bytes(content)
    log = VoteLog(path, anew=[b"silence"])
    log.append(b"later")
    log.close()
    assert reopened(path).records == (b"silence", b"later")
    assert path.with_suffix(".damaged").read_bytes() == content


@pytest.mark.parametrize("length", [0, 1, len(wal._MAGIC) - 1])
def test_a_log_whose_first_line_is_cut_was_never_begun(path, length):
    path.write_bytes(wal._MAGIC[:length])
    assert not recover(path).begun
    assert reopened(path).records == ()
    assert recover(path).begun


def test_a_missing_file_was_never_begun(path):
    assert recover(path) == wal.Recovered((), 0, None, begun=False)
    assert not path.exists()


def test_another_file_is_not_a_vote_log(path):
    path.write_bytes(b"#!/bin/sh\necho hello\n")
    assert recover(path).damage == "it does not begin like a vote log"
    reopened(path)
    assert path.with_suffix(".damaged").read_bytes().startswith(b"#!/bin/sh")


def test_a_full_disk_closes_the_log_for_good(path):
    log = VoteLog(path)
    log.append(b"good")
    with (
        file_size_limit(path.stat().st_size + 10),
        pytest.raises(VoteLogFault, match=r"writing votes\.log failed: file too large"),
    ):
        log.append(b"x" * 100)
    with pytest.raises(VoteLogFault, match="file too large"):
        log.append(b"there is room again, but who knows what the kernel kept")
    log.prune(lambda _: True)
    log.close()
    recovered = reopened(path)
    assert recovered.records == (b"good",) and recovered.damage is None and recovered.torn_bytes == 10


def test_a_failed_flush_is_never_tried_again(path, monkeypatch):
    log = VoteLog(path)
    tried = []

    def fail(fd):
        tried.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    for _ in range(2):
        with pytest.raises(VoteLogFault, match="input/output error"):
            log.append(b"vote")
    log.close()
    assert len(tried) == 1


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
    assert reopened(path) == wal.Recovered((b"record 9", b"record 19", b"after"), 0, None)
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
