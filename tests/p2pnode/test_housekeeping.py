"""What rounds leave on the disk, and when it goes: a real chain in a real store, and its payloads as files."""

import pytest

from p2pnode import housekeeping
from p2pnode.blobs import Blobs
from p2pnode.housekeeping import Housekeeping
from p2pnode.store import Store
from tests.p2pnode.little import Chain, payload


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "PAYLOAD_HEIGHTS_KEPT", 3)
    chain = Chain(4).grow(6, contributors=(0,))
    store = Store(tmp_path / "chain.sqlite", chain.genesis.chain_id)
    blobs = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    for block, certificate in chain.decided:
        store.put_block(block, certificate, {"height": block.height})
    for data in chain.payloads.values():
        blobs.put(data)
    yield chain, blobs, Housekeeping(store, blobs)
    store.close()


def held(chain, blobs):
    return [block.height for block, _ in chain.decided if all(blobs.get(c.payload_digest) for c in block.contributions)]


def test_payloads_of_the_last_heights_stay(house):
    chain, blobs, keeper = house
    keeper.sweep(3)
    assert held(chain, blobs) == [1, 2, 3, 4, 5, 6]
    keeper.sweep(5)
    assert held(chain, blobs) == [3, 4, 5, 6]
    keeper.sweep(6)
    assert held(chain, blobs) == [4, 5, 6]


def test_heights_that_catch_up_jumped_over_are_swept_too(house):
    chain, blobs, keeper = house
    keeper.sweep(6)
    assert held(chain, blobs) == [4, 5, 6]
    assert keeper.swept == 3


def test_what_no_block_lists_goes_at_once(house):
    _, blobs, keeper = house
    stray = blobs.put(payload(999))
    keeper.sweep(6, [stray])
    assert blobs.get(stray) is None


def test_bytes_that_a_kept_block_lists_stay_whoever_announces_them_again(house):
    """A stranger who repeats another node's digest must not have it deleted."""
    chain, blobs, keeper = house
    keeper.sweep(6, [chain.decided[4][0].contributions[0].payload_digest])
    assert held(chain, blobs) == [4, 5, 6]


def test_an_old_digest_that_a_newer_block_repeats_stays(house):
    chain, blobs, keeper = house
    block, certificate = chain.grow(contributors=(2,), seed=0).decided[-1]  # what founder 0 offered to height 1
    keeper._store.put_block(block, certificate, {})
    keeper.sweep(7)
    assert held(chain, blobs) == [1, 5, 6, 7]


def test_every_tenth_height_leaves_a_snapshot_and_two_stay(house):
    chain, blobs, keeper = house
    for height in range(31):
        if keeper.is_due(height):
            keeper.keep_snapshot(height, bytes([height]) * 32, chain.replica)
    assert [height for height, _ in blobs.snapshots()] == [30, 20]


def test_what_an_earlier_run_left_behind_goes_with_the_first_sweep(house, tmp_path):
    """Announced and never listed, or fetched before a crash: nobody else would ever delete it."""
    chain, blobs, _ = house
    orphan, corpus, opened = (blobs.put(payload(seed)) for seed in (990, 991, 992))
    keeper = Housekeeping(Store(tmp_path / "chain.sqlite", chain.genesis.chain_id), blobs, kept=frozenset({corpus}))
    late = blobs.put(payload(993))  # by this run: it knows what it is for
    keeper.sweep(5, is_open=lambda digest: digest == opened)
    assert blobs.get(orphan) is None
    assert all(blobs.get(kept) for kept in (corpus, opened, late))
    assert held(chain, blobs) == [3, 4, 5, 6], "blocks above the model's height have their payloads"
    keeper._store.close()
