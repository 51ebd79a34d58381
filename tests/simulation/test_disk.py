"""The simulated disk and machine: what a death leaves, what they refuse, and that the dead do nothing."""

import errno
import random

import pytest
import trio

from p2pnode.files import write_whole
from p2pnode.simulation.disk import Disk, Faults, Killed, flip
from p2pnode.simulation.machine import SimulatedMachine
from p2pnode.simulation.streams import Network
from p2pnode.simulation.whole import virtually
from transport.machine import MACHINE, in_thread

SEEDS = range(30)


def written(path, disk, *, synced, then):
    """A file whose first bytes are durable and whose next ones are not."""
    descriptor = disk.create(path)
    disk.write(descriptor, synced, offset=0)
    disk.sync(descriptor)
    parent = disk.open(path.parent)
    disk.sync(parent)
    disk.write(descriptor, then, offset=len(synced))
    return descriptor


def test_what_was_synced_survives_and_what_was_not_may_be_lost_kept_or_torn(tmp_path):
    seen = set()
    for seed in SEEDS:
        disk, path = Disk(random.Random(seed)), tmp_path / f"file-{seed}"
        written(path, disk, synced=b"a" * 512, then=b"b" * 2048)
        disk.crash()
        left = path.read_bytes()
        assert left.startswith(b"a" * 512)
        seen.add("lost" if len(left) == 512 else "kept" if left[512:] == b"b" * 2048 else "torn")
    assert seen == {"lost", "kept", "torn"}


def test_a_name_that_its_directory_did_not_sync_may_be_the_old_one_and_a_whole_file_is_old_or_new(tmp_path):
    seen = set()
    for seed in SEEDS:
        disk, path = Disk(random.Random(seed)), tmp_path / f"file-{seed}"
        write_whole(disk, path, b"old")
        part = path.with_suffix(".part")
        descriptor = disk.create(part)
        disk.write(descriptor, b"new", offset=0)
        disk.sync(descriptor)
        disk.close(descriptor)
        disk.rename(part, path)
        disk.crash()
        seen.add(path.read_bytes())
    assert seen == {b"old", b"new"}


def test_a_full_disk_and_one_that_cannot_sync_say_so(tmp_path):
    disk = Disk(random.Random(1))
    descriptor = disk.create(tmp_path / "file")
    disk.faults.room_bytes = 3
    with pytest.raises(OSError) as full:
        disk.write(descriptor, b"five!", offset=0)
    assert full.value.errno == errno.ENOSPC and (tmp_path / "file").read_bytes() == b"fiv"
    disk.faults = Faults(syncs_fail=True)
    with pytest.raises(OSError) as bad:
        disk.sync_data(descriptor)
    assert bad.value.errno == errno.EIO
    disk.close(descriptor)


def test_one_bit_flips(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    place = flip(path, random.Random(1))
    assert sum(bin(byte).count("1") for byte in path.read_bytes()) == 1 and path.read_bytes()[place]


def test_a_machine_dies_at_the_operation_it_was_told_and_does_nothing_more(tmp_path):
    done = []

    async def main():
        disk = Disk(random.Random(1))
        machine = SimulatedMachine(Network(random.Random(1)), "10.0.0.1", disk, seed="a seed")
        MACHINE.set(machine)
        await in_thread(done.append, "before")
        machine.kill_at = machine.operations + 2  # the moment after the next call
        with trio.move_on_after(1000) as patience:
            await in_thread(done.append, "the last")
            done.append("its caller went on")
        assert patience.cancelled_caught and machine.is_dead
        with pytest.raises(Killed):
            disk.create(tmp_path / "file")
        with trio.move_on_after(1000):
            await in_thread(done.append, "after")

    virtually(main, seed=1)
    assert done == ["before", "the last"]


def test_a_dead_machine_is_not_kept_by_a_shield_of_its_own():
    """What is being written when the process dies is awaited under a shield, and nothing would ever end it."""

    async def main():
        machine = SimulatedMachine(Network(random.Random(1)), "10.0.0.1", Disk(random.Random(1)), seed="a seed")
        MACHINE.set(machine)

        async def write():
            with trio.CancelScope(shield=True):
                await in_thread(machine.kill)
                raise AssertionError("it went on")

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                machine.on_kill = nursery.cancel_scope.cancel
                nursery.start_soon(write)
        assert machine.is_dead

    virtually(main, seed=1)
