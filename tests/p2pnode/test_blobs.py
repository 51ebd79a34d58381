"""Bytes by content address on real files: what is served is what the digest says, or nothing is."""

import os
import threading
from pathlib import Path

import pytest

from model.replica import Replica
from p2pnode import blobs as blobs_module
from p2pnode.blobs import Blobs, Served
from tests.p2pnode.little import Chain
from tests.p2pnode.test_wal import file_size_limit
from transport import content
from transport.limits import LEAF_BYTES

DATA = bytes(range(256)) * 700  # three leaves, the last one short


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path / "blobs", tmp_path / "snapshots")


def file_of(blobs, digest):
    return blobs._path(digest)


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def joined(blobs, digest):
    hashes = blobs.leaf_hashes(digest)
    return hashes and content.digest_of_hashes(hashes, len(DATA))


def test_what_is_put_is_had_under_its_digest(blobs):
    digest = blobs.put(DATA)
    assert digest == content.digest_of(DATA) and blobs.get(digest) == DATA
    assert blobs.put(DATA, digest) == digest
    assert (
        file_of(blobs, digest).stat().st_mode & 0o077 == 0 or file_of(blobs, digest).parent.stat().st_mode & 0o077 == 0
    )


@pytest.mark.parametrize("size", [1000, LEAF_BYTES, LEAF_BYTES + 1, 10 * LEAF_BYTES])
def test_what_comes_piece_by_piece_is_one_blob(blobs, size):
    chunks = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    assert blobs.put_chunks(iter(chunks)) == (content.digest_of(DATA), len(DATA))
    digest = blobs.digest_of_chunks(chunks)
    assert digest == content.digest_of(DATA) and blobs.get(digest) == DATA and blobs.is_durable(digest)
    assert blobs.known_leaf_hashes(digest) == content.leaf_hashes(content.split(DATA))
    assert blobs.checked_file(digest) == file_of(blobs, digest)
    assert blobs.put_chunks([])[0] == content.digest_of(b"")


def test_what_breaks_off_leaves_nothing(blobs, tmp_path):
    def broken():
        yield DATA
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blobs.put_chunks(broken())
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_file_is_read_once_before_it_is_used(tmp_path):
    digest = Blobs(tmp_path / "blobs", tmp_path / "snapshots").put(DATA)
    damage(tmp_path / "blobs" / digest.hex()[:2] / digest.hex())
    fresh = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    assert fresh.checked_file(digest) is None and not file_of(fresh, digest).exists()
    assert fresh.checked_file(bytes(32)) is None


def test_leaves_are_hashed_once_for_all_who_ask(tmp_path, monkeypatch):
    digest = Blobs(tmp_path / "blobs", tmp_path / "snapshots").put(DATA)
    fresh = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    reads, together, found = [], threading.Barrier(4), []
    read = Blobs.read
    monkeypatch.setattr(Blobs, "read", lambda self, *given: (reads.append(given), read(self, *given))[1])

    def ask():
        together.wait()
        found.append(fresh.leaf_hashes(digest))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content.leaf_hashes(content.split(DATA))] * 4 and len(reads) == len(found[0]) + 1


def test_room_is_asked_for_before_it_is_taken(blobs):
    blobs.check_room(1)
    with pytest.raises(OSError, match="more bytes are needed"):
        blobs.check_room(1 << 60)


def test_a_damaged_file_counts_as_absent_and_is_replaced(blobs):
    digest = blobs.put(DATA)
    damage(file_of(blobs, digest))
    assert blobs.get(digest) is None and not file_of(blobs, digest).exists()
    blobs.put(DATA, digest)
    assert blobs.get(digest) == DATA


@pytest.mark.parametrize("content_left", [b"", DATA[:100], DATA + b"x"])
def test_a_file_that_is_cut_or_grew_counts_as_absent(blobs, content_left):
    digest = blobs.put(DATA)
    file_of(blobs, digest).write_bytes(content_left)
    assert Blobs(blobs._directory, blobs._snapshots).leaf_hashes(digest) is None
    assert blobs.get(digest) is None


def test_an_unreadable_file_counts_as_absent(blobs):
    digest = blobs.put(DATA)
    path = file_of(blobs, digest)
    path.unlink()
    path.mkdir()  # not even root can read it
    assert blobs.get(digest) is None


def test_what_is_served_equals_the_digest(blobs):
    digest = blobs.put(DATA)
    for fresh in (blobs, Blobs(blobs._directory, blobs._snapshots)):  # remembered, and computed from the file
        assert joined(fresh, digest) == digest
    leaves = [blobs.read(digest, offset, LEAF_BYTES) for offset in range(0, len(DATA), LEAF_BYTES)]
    assert b"".join(leaves) == DATA
    assert blobs.read(digest, 10 * LEAF_BYTES, LEAF_BYTES) == b""
    assert blobs.read(digest, (2**32 - 1) * LEAF_BYTES, LEAF_BYTES) == b""  # the last leaf that a question can name


def test_damaged_bytes_are_not_served(blobs):
    """A peer would take us for a liar and ask us no more."""
    digest = blobs.put(DATA)
    damage(file_of(blobs, digest))
    assert Blobs(blobs._directory, blobs._snapshots).leaf_hashes(digest) is None
    assert not file_of(blobs, digest).exists()


def test_unknown_digests_are_not_here(blobs):
    assert (
        blobs.leaf_hashes(bytes(32)) is None and blobs.read(bytes(32), 0, 10) is None and blobs.get(bytes(32)) is None
    )
    blobs.drop(bytes(32))


def test_an_empty_blob_is_a_blob(blobs):
    digest = blobs.put(b"")
    assert blobs.get(digest) == b"" and blobs.leaf_hashes(digest) == []


def test_durable_means_flushed_file_and_directory_once(blobs, monkeypatch):
    digest = blobs.put(DATA)
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd)))
    blobs.make_durable([digest])
    path = file_of(blobs, digest)
    assert flushed == [str(path), str(path.parent), str(path.parent.parent)]
    blobs.make_durable([digest])
    assert len(flushed) == 3
    blobs.drop(digest)
    blobs.put(DATA)
    blobs.make_durable([digest])
    assert len(flushed) == 6


def test_a_full_disk_leaves_no_half_blob(blobs):
    with file_size_limit(LEAF_BYTES), pytest.raises(OSError, match="File too large"):
        blobs.put(DATA)
    assert not [path for path in blobs._directory.rglob("*") if path.is_file()]
    assert blobs.get(blobs.put(DATA)) == DATA


def test_what_a_crash_cut_short_is_cleared_away(tmp_path, blobs):
    digest = blobs.put(DATA)
    torn = file_of(blobs, digest).with_suffix(".77.part")
    torn.write_bytes(b"half")
    Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    assert not torn.exists() and blobs.get(digest) == DATA


def test_threads_that_put_the_same_bytes_do_not_meet(blobs):
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(blobs.put(DATA))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(digests) == {content.digest_of(DATA)} and blobs.get(digests[0]) == DATA


# --- models -------------------------------------------------------------------------------------------------------------------


def test_a_model_is_served_under_its_root_from_memory(blobs):
    replica = Chain(1).replica
    root = blobs.model_root(replica)
    assert root == content.content_digest(replica.leaves(), replica.byte_length)
    assert blobs.read(root, 0, replica.byte_length) == replica.read(0, replica.byte_length)
    assert content.digest_of_hashes(blobs.leaf_hashes(root), replica.byte_length) == root


def test_and_from_a_snapshot_when_memory_has_it_no_more(tmp_path, blobs):
    replica = Chain(1).replica
    root = blobs.model_root(replica)
    blobs.put_snapshot(10, root, replica, keep=2)
    fresh = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    assert fresh.snapshots() == [(10, root)]
    assert fresh.read(root, 0, replica.byte_length) == replica.read(0, replica.byte_length)
    assert Replica.load(fresh.snapshot_path(10)).read(0, 100) == replica.read(0, 100)


def test_a_snapshot_that_says_to_be_another_model_is_not_served(tmp_path, blobs):
    replica = Chain(1).replica
    claimed = b"\5" * 32
    blobs.put_snapshot(10, claimed, replica, keep=2)
    assert Blobs(tmp_path / "blobs", tmp_path / "snapshots").leaf_hashes(claimed) is None


def test_a_damaged_snapshot_is_passed_over(tmp_path, blobs):
    replica = Chain(1).replica
    root = blobs.model_root(replica)
    blobs.put_snapshot(10, root, replica, keep=2)
    path = blobs.snapshot_path(10)
    path.write_bytes(path.read_bytes()[:-100])
    (path.parent / "000000000011.safetensors").write_bytes(b"nothing of the kind")
    fresh = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    assert fresh.leaf_hashes(root) is None and fresh.read(root, 0, 10) is None


def test_memory_of_models_and_leaves_is_bounded(blobs, monkeypatch):
    monkeypatch.setattr(blobs_module, "MODELS_KEPT", 2)
    monkeypatch.setattr(blobs_module, "LEAF_LISTS_KEPT", 3)
    chain = Chain(4).grow(5)
    roots = [blobs.model_root(replica) for replica in chain.replicas]
    assert list(blobs._models) == roots[-2:] and len(blobs._leaf_lists) == 3 + 2


def test_strangers_cannot_have_the_leaf_list_of_the_model_forgotten(blobs):
    chain = Chain(1)
    root = blobs.model_root(chain.replica)
    for number in range(blobs_module.LEAF_LISTS_KEPT + 5):
        blobs.put(b"%d" % number)
    assert blobs.known_leaf_hashes(root) is not None


async def test_peers_are_served_off_the_loop(blobs):
    digest = blobs.put(DATA)
    later = Blobs(blobs._directory, blobs._snapshots)
    threads = []
    read = later.read
    later.read = lambda *args: (threads.append(threading.get_ident()), read(*args))[1]
    assert await Served(later).read(digest, 1, 2) == DATA[LEAF_BYTES : 3 * LEAF_BYTES]
    assert await Served(later).leaf_hashes(digest) == blobs.leaf_hashes(digest)
    assert threads and threading.get_ident() not in threads


async def test_what_is_new_is_served_from_memory(blobs, monkeypatch):
    monkeypatch.setattr(blobs_module, "NEWEST_BYTES_MAX", 2 * len(DATA))
    digest = blobs.put(DATA)
    monkeypatch.setattr(blobs, "read", None)  # no thread, no file
    assert await Served(blobs).read(digest, 1, 2) == DATA[LEAF_BYTES : 3 * LEAF_BYTES]
    assert content.digest_of_hashes(await Served(blobs).leaf_hashes(digest), len(DATA)) == digest
    for other in (b"1" * len(DATA), b"2" * len(DATA)):
        blobs.put(other)
    assert blobs.at_hand(digest, 0, 1) is None
    blobs.drop(content.digest_of(other))
    assert blobs.at_hand(content.digest_of(other), 0, 1) is None


def test_a_blob_that_a_loss_of_power_left_under_its_name_is_written_again(tmp_path):
    """The name may be durable before the bytes are: what a later life fetches again must reach the disk."""
    data = b"payload" * 100
    first = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    digest = first.put(data)
    path = first._path(digest)
    path.write_bytes(b"")
    later = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    later.put(data, digest)
    later.make_durable([digest])
    assert path.read_bytes() == data
