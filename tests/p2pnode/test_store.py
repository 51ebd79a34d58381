"""The chain file, in real SQLite on a real disk: what comes back, what is refused, and what is said about it."""

import sqlite3
import threading

import pytest

import consensus
from consensus.evidence import evidence_of
from p2pnode import store as store_module
from p2pnode.errors import ExitCode, SetUpError, user_error
from p2pnode.store import Store
from tests.p2pnode.little import Chain, contribution, payload
from tests.p2pnode.test_wal import file_size_limit

CHAIN = Chain(4).grow(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chain.sqlite"


@pytest.fixture
def store(path):
    opened = Store(path, CHAIN.genesis.chain_id)
    yield opened
    opened.close()


def fill(store, heights=5):
    for block, certificate in CHAIN.decided[:heights]:
        store.put_block(block, certificate, {"height": block.height, "loss": None})


def offence(seeds=(1, 2)):
    one, other = (contribution(CHAIN.founders[2], CHAIN.states[0], payload(seed)) for seed in seeds)
    chain_id = consensus.Digest(CHAIN.genesis.chain_id)
    pair = [(c.statement(chain_id), c.signature) for c in (one, other)]
    return evidence_of(one.author, *pair)


def test_blocks_come_back_as_they_were(store):
    fill(store)
    rows = store.block_rows(2, 3)
    assert [consensus.Block.decode(block) for block, _ in rows] == [block for block, _ in CHAIN.decided[1:4]]
    assert [consensus.decode_certificate(c) for _, c in rows] == [certificate for _, certificate in CHAIN.decided[1:4]]
    assert store.height() == 5
    block = CHAIN.decided[2][0]
    assert store.block_with_hash(block.hash) == block.encode() and store.block_with_hash(bytes(32)) is None


def test_many_rounds_are_read_a_few_at_a_time(store, monkeypatch):
    """So that a short question from the loop never waits for all of them."""
    monkeypatch.setattr(store_module, "ROUNDS_PER_READ", 2)
    fill(store)
    assert [row["height"] for row in store.rounds(10_000)] == [1, 2, 3, 4, 5]
    assert [row["height"] for row in store.rounds(3)] == [3, 4, 5]


def test_a_decision_is_seen_at_once_and_durable_a_little_later(store):
    """What a reader sees does not wait for the disk; `make_durable` does, and leaves the height that it covers."""
    block, certificate = CHAIN.decided[0]
    store.put_block(block, certificate, {}, durable=False)
    assert store.height() == 1 and store.note("durable_height") is None
    store.make_durable()
    assert store.note("durable_height") == (1).to_bytes(8, "big")


def test_an_empty_chain(store):
    assert (store.height(), store.block_rows(1, 10), store.rounds(10), store.round(1)) == (0, [], [], None)


def test_a_page_ends_at_a_gap(store):
    fill(store)
    sqlite3.connect(store._path).execute("DELETE FROM blocks WHERE height = 3").connection.commit()
    assert len(store.block_rows(1, 10)) == 2 and store.block_rows(3, 10) == []


def test_timings_of_a_round_are_amended(store):
    fill(store)
    store.amend_round(4, {"height": 4, "loss": 2.5})
    assert [row["height"] for row in store.rounds(2)] == [4, 5]
    assert store.round(4) == {"height": 4, "loss": 2.5} and store.round(99) is None


def test_evidence_is_kept_once_and_in_full(store):
    proof = offence()
    store.put_evidence([proof, proof])
    assert store.evidence() == [(proof.author, "double_contribution", 1, 0)]
    assert [consensus.Evidence.decode(data) for data in store.evidence_proofs()] == [proof]


def test_evidence_that_a_block_carries_is_known_from_then_on(store):
    """Also to a node that was away when it happened, and took the block from others."""
    proof, state = offence(), CHAIN.states[0]
    template = consensus.BlockTemplate(state, state.membership.current.members[0], (proof,))
    block = consensus.build_block(template, contributions=(), model_root=state.model_root)
    store.put_block(block, CHAIN.decided[0][1], {})
    assert len(store.evidence()) == 1


def test_everything_is_there_after_a_restart(path):
    first = Store(path, CHAIN.genesis.chain_id)
    fill(first)
    first.put_note("peers", b"book")
    first.close()
    again = Store(path, CHAIN.genesis.chain_id)
    assert again.height() == 5 and again.note("peers") == b"book" and again.note("unknown") is None
    again.close()


def test_everything_is_there_after_a_kill(path):
    """Nothing is closed: the files are copied as they lie on the disk."""
    first = Store(path, CHAIN.genesis.chain_id)
    fill(first)
    copy = path.with_name("copy.sqlite")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    again = Store(copy, CHAIN.genesis.chain_id)
    assert again.height() == 5
    again.close()
    first.close()


@pytest.mark.parametrize("place", ["header", "middle"])
def test_a_damaged_file_is_said_to_be_damaged(path, place):
    opened = Store(path, CHAIN.genesis.chain_id)
    fill(opened)
    opened.close()
    data = bytearray(path.read_bytes())
    start = 0 if place == "header" else 4096
    data[start : start + 200] = bytes(range(200))
    path.write_bytes(data)
    with pytest.raises(SetUpError, match=r"chain\.sqlite is damaged") as caught:
        Store(path, CHAIN.genesis.chain_id)
    assert "chain.sqlite* away" in caught.value.hint and caught.value.exit_code is ExitCode.SET_UP


def test_another_file_is_no_chain(path):
    path.write_bytes(b"not a database at all\n" * 100)
    with pytest.raises(SetUpError, match="is damaged"):
        Store(path, CHAIN.genesis.chain_id)


def test_the_chain_of_another_network_is_refused(path):
    Store(path, b"\7" * 32).close()
    with pytest.raises(SetUpError, match="belongs to network 0707070707070707") as caught:
        Store(path, CHAIN.genesis.chain_id)
    assert caught.value.hint


def test_what_cannot_be_opened_is_not_called_damaged(path):
    path.mkdir()
    with pytest.raises(SetUpError, match="cannot be opened") as caught:
        Store(path, CHAIN.genesis.chain_id)
    assert "owns it" in caught.value.hint


def test_a_full_disk_is_one_line_for_the_operator_and_loses_nothing(path):
    opened = Store(path, CHAIN.genesis.chain_id)
    fill(opened, 4)
    wal = path.with_name(path.name + "-wal")
    with file_size_limit(wal.stat().st_size), pytest.raises(SetUpError, match="cannot be written") as caught:
        fill(opened)
    assert user_error(BaseExceptionGroup("tasks", [caught.value])) is caught.value
    assert "nothing that was decided is lost" in caught.value.hint
    opened.close()
    again = Store(path, CHAIN.genesis.chain_id)
    assert again.height() == 4
    again.close()


def test_a_read_does_not_wait_for_a_write(store):
    """The owner's questions are answered on the loop; a commit may take as long as the disk does."""
    with store._writing:
        answered = threading.Thread(target=lambda: (store.height(), store.evidence(), store.rounds(5), store.note("x")))
        answered.start()
        answered.join(10)
        assert not answered.is_alive()
