"""``p2pnode verify`` on homes as nodes leave them: what is sound, every kind of damage by its name, and any single bit."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import consensus
from consensus.record import record_of_vote
from p2pnode.cli import main
from p2pnode.errors import ExitCode, SetUpError
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.genesis import PROTOCOL_VERSION
from p2pnode.home import Home
from p2pnode.pagesums import damaged_pages, sums_of
from p2pnode.store import SCHEMA_VERSION, Store
from p2pnode.verify import Report, Wishes, chainfile, database, disk, verify
from p2pnode.verify import chain as chain_module
from p2pnode.verify import replay as replay_module
from p2pnode.verify.report import Fault
from p2pnode.vote_records import Announced, Decided, Moved, Signed, encode
from p2pnode.wal import VoteLog
from tests.p2pnode.little import TEXT, Chain, certify, contribution, payload, sign
from transport import Envelope

HEIGHTS = 12
CHAIN = Chain(4).grow(HEIGHTS)
ME = CHAIN.founders[0]


def vote(kind: type, height: int, block_hash: bytes, *, view: int = 0) -> Signed:
    author, unsigned = consensus.PublicKey(ME.public_key), consensus.Signature(b"")
    fields = (author, height, view, consensus.Digest(block_hash))
    message = consensus.Commit(*fields, unsigned) if kind is consensus.Commit else kind(*fields, -1, unsigned)
    chain_id = CHAIN.state.chain_id
    return Signed(record_of_vote(sign(ME, chain_id, message), chain_id=chain_id))


def announced(height: int) -> Announced:
    block, _ = CHAIN.decided[height - 1]
    own = next(c for c in block.contributions if c.author == ME.public_key)
    return Announced(height, Envelope(own.author, own.signature, own.statement(CHAIN.state.chain_id)))


def log_of_the_last_height() -> list[Announced | Signed]:
    tip = CHAIN.state.block_hash
    return [announced(HEIGHTS), vote(consensus.Prepare, HEIGHTS, tip), vote(consensus.Commit, HEIGHTS, tip)]


def make_home(directory: Path) -> Home:
    home = Home(directory)
    home.create()
    home.key.write_text(bytes(ME._key).hex() + "\n")
    home.key.chmod(0o600)
    write_genesis(home, CHAIN.genesis)
    blobs = open_blobs(home)
    blobs.put(TEXT)
    for data in CHAIN.payloads.values():
        blobs.put(data)
    blobs.put_snapshot(10, CHAIN.states[10].model_root, CHAIN.replicas[10], keep=2)
    store = Store(home.chain, CHAIN.genesis.chain_id)
    for block, certificate in CHAIN.decided:
        store.put_block(block, certificate, {"height": block.height, "seconds": 1.5})
    store.put_note("public_key", bytes(ME.public_key))
    store.close()
    write_log(home, *log_of_the_last_height())
    return home


def write_log(home: Home, *records: Announced | Signed | Decided | Moved) -> None:
    log = VoteLog(home.votes, anew=[encode(record) for record in records])
    log.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("made") / "home").path


@pytest.fixture
def home(made, tmp_path) -> Home:
    shutil.copytree(made, tmp_path / "home")
    return Home(tmp_path / "home")


def checked(home: Home | Path, **wishes: object) -> Report:
    return verify(home.path if isinstance(home, Home) else home, Wishes(**wishes))


def change(home: Home, statement: str, *values: object, sums: bool = False) -> None:
    db = sqlite3.connect(home.chain)
    db.execute(statement, values).connection.commit()
    db.close()
    if not sums:
        sums_of(home.chain).unlink()


def only_fault(report: Report) -> Fault:
    assert len(report.faults) == 1, report.faults
    return report.faults[0]


# --- what is sound ---------------------------------------------------------------------------------------------------------------------


def test_a_home_as_its_node_left_it_is_sound(home):
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    report = checked(home, replay=True)
    assert not report.faults and not report.notes
    assert (report.heights, report.members, report.snapshots, report.statements) == (HEIGHTS, 4, 1, 3)
    assert report.payloads == len(CHAIN.payloads) + 1 and report.model_root == CHAIN.state.model_root
    assert report.signatures == HEIGHTS * (4 + 2)
    assert report.verdict().startswith(f"sound: network {CHAIN.genesis.chain_id.hex()[:16]}, 12 heights, 72 signatures")
    assert report.verdict().endswith("replayed 1 to 12 of 12")
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


def test_the_modules_say_which_heights_they_could_replay(home):
    """From M(0), and again from the snapshot of height 10 behind the gap."""
    gone = CHAIN.decided[4][0].contributions[0].payload_digest.hex()
    (home.blobs / gone[:2] / gone).unlink()
    report = checked(home, replay=True)
    assert report.sound and report.replayed == [(1, 4), (11, 12)]
    assert report.verdict().endswith("replayed 1 to 4 and 11 to 12 of 12")
    assert replay_module.__doc__ and disk.__doc__ and chain_module.__doc__


def test_a_home_that_was_killed_is_sound_and_says_what_it_cannot_show(home):
    """As a kill leaves it: SQLite's log is there, the digests of the pages are not, a decision stands in the vote log only."""
    store = Store(home.chain, CHAIN.genesis.chain_id)
    store.put_note("peers", b"book")
    copy = home.path.with_name("copy")
    shutil.copytree(home.path, copy)
    store.close()
    killed = Home(copy)
    block, _ = CHAIN.next_block()
    write_log(killed, *log_of_the_last_height(), Decided(block, certify(CHAIN.founders, CHAIN.genesis.chain_id, block)))
    report = checked(killed)
    assert report.sound, report.faults
    assert "its node did not close it" in report.notes[0] and "height 13 was decided" in report.notes[1]


def test_a_running_home_is_read_as_of_one_moment_and_no_lock_is_taken(home):
    with home.locked():
        store = Store(home.chain, CHAIN.genesis.chain_id)
        report = checked(home)
        store.put_note("port", b"\x1c\xa9")
        store.close()
    assert report.sound and "its node is running" in report.notes[0]


def test_a_home_that_has_not_begun(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    write_genesis(home, CHAIN.genesis)
    report = checked(home)
    assert report.sound and report.heights == 0 and len(report.notes) == 2


# --- an exported chain -----------------------------------------------------------------------------------------------------------------


def test_an_exported_chain_verifies_alone(home, tmp_path):
    file = tmp_path / "chain"
    assert checked(home, export=file).sound
    report = checked(file)
    assert report.sound and report.heights == HEIGHTS and report.network == CHAIN.genesis.chain_id
    again = tmp_path / "again"
    checked(home, export=again)
    assert again.read_bytes() == file.read_bytes() and file.read_bytes().startswith(chainfile.MAGIC)


def test_a_damaged_chain_is_not_exported(home, tmp_path):
    change(home, "UPDATE blocks SET certificate = ? WHERE height = 3", CHAIN.decided[0][1].encode())
    report = checked(home, export=tmp_path / "chain")
    assert not report.sound and not (tmp_path / "chain").exists()
    assert report.notes[-1].endswith("was not written, because of the faults")


def test_every_bit_of_an_exported_chain_counts(tmp_path):
    """All of them, on a short chain."""
    short = Chain(1).grow(2, contributors=(0,))
    file = tmp_path / "chain"
    rows = [chain_module.Row(b.height, b.encode(), c.encode()) for b, c in short.decided]
    chainfile.write(file, genesis=short.genesis, height=short.state.height, rows=iter(rows))
    whole = file.read_bytes()
    assert checked(file).sound
    named = 0
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 1 << (at % 8)
        file.write_bytes(content)
        try:
            report = checked(file)
        except SetUpError:
            raise AssertionError(f"byte {at} was not taken for damage") from None
        assert not report.sound, at
        named += any(fault.height is not None or fault.byte is not None for fault in report.faults)
    assert named > len(whole) // 3  # the rest is genesis and digest, which say so


@pytest.mark.parametrize("length", [0, 10, 100, 5000])
def test_an_exported_chain_that_is_cut_short(home, tmp_path, length):
    file = tmp_path / "chain"
    checked(home, export=file)
    file.write_bytes(file.read_bytes()[:length])
    if length < 48:
        with pytest.raises(SetUpError, match="neither a node's home nor an exported chain"):
            checked(file)
    else:
        assert "is cut short" in checked(file).verdict()


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def test_what_is_no_home_is_refused_in_one_line(tmp_path):
    with pytest.raises(SetUpError, match=r"no node's home: it has no genesis\.json"):
        checked(tmp_path)
    with pytest.raises(SetUpError, match="there is no such file"):
        checked(tmp_path / "nowhere")
    (tmp_path / "text").write_text("a text that has nothing to do with it\n" * 10)
    with pytest.raises(SetUpError, match="neither a node's home nor an exported chain"):
        checked(tmp_path / "text")


def test_a_chain_file_that_cannot_be_opened_or_is_none(home):
    home.chain.write_bytes(b"no database at all\n" * 300)
    sums_of(home.chain).unlink()
    assert "SQLite cannot read it" in checked(home).verdict()
    home.chain.unlink()
    home.chain.mkdir()
    with pytest.raises(SetUpError, match=r"chain\.sqlite: unable to open"):
        checked(home)


def test_what_a_later_version_wrote_is_refused(home, tmp_path):
    change(home, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SetUpError, match=f"version {SCHEMA_VERSION + 1} of the chain file"):
        checked(home)
    document = json.loads(home.genesis.read_bytes())
    document["protocol"] = PROTOCOL_VERSION + 1
    later = Home(tmp_path / "later")
    later.create()
    later.genesis.write_text(json.dumps(document))
    with pytest.raises(SetUpError, match="written by a later version"):
        checked(later)


def test_the_command_ends_with_the_code_of_its_verdict(home, capsys, monkeypatch, tmp_path):
    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["p2pnode", "verify", *args])
        return main(), capsys.readouterr().out

    code, out = run(str(home.path), "--replay")
    assert code == ExitCode.OK and out.startswith("sound: network") and len(out.splitlines()) == 1
    code, out = run("--home", str(home.path), "--json")
    assert code == ExitCode.OK and json.loads(out)["verdict"] == "sound" and json.loads(out)["replayed"] is None
    change(home, "DELETE FROM blocks WHERE height = 5")
    code, out = run(str(home.path))
    assert code == ExitCode.FAILED
    assert out.startswith("NOT SOUND: chain.sqlite, height 5, block: missing: height 6 follows height 4")
    assert run(str(tmp_path))[0] == ExitCode.SET_UP
    assert run(str(home.path), "--home", str(home.path))[0] == ExitCode.USAGE


# --- each kind of damage by its name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "values", "place", "what"),
    [
        ("UPDATE blocks SET block = ? WHERE height = 3", (b"x" * 400,), "block", ""),
        ("UPDATE blocks SET block = ? WHERE height = 3", (CHAIN.decided[4][0].encode(),), "block", "does not follow"),
        ("UPDATE blocks SET certificate = ? WHERE height = 3", (b"",), "certificate", "cut short"),
        (
            "UPDATE blocks SET certificate = ? WHERE height = 3",
            (CHAIN.decided[1][1].encode(),),
            "certificate",
            "another",
        ),
        (
            "UPDATE blocks SET certificate = ? WHERE height = 3",
            (replace(CHAIN.decided[2][1], signers=CHAIN.decided[2][1].signers[:2]).encode(),),
            "certificate",
            "2 signers, 3 needed",
        ),
        ("UPDATE blocks SET hash = ? WHERE height = 3", (bytes(32),), "hash, round or digest", "changed"),
        ("UPDATE blocks SET round = ? WHERE height = 3", ("{}",), "hash, round or digest", "changed"),
        ("UPDATE blocks SET block = 'text' WHERE height = 3", (), "block or certificate", "no bytes"),
    ],
)
def test_a_changed_row_is_named(home, statement, values, place, what):
    change(home, statement, *values)
    fault = only_fault(checked(home))
    assert (fault.file, fault.height, fault.field) == ("chain.sqlite", 3, place) and what in fault.what


def test_a_bit_in_any_block_is_found_whatever_the_log_says_of_the_height_below(home):
    """What is not verified is compared with nothing."""
    write_log(home, *(announced(number) for number in range(1, HEIGHTS + 1)))
    for number in range(1, HEIGHTS + 1):
        block = bytearray(CHAIN.decided[number - 1][0].encode())
        block[-100] ^= 1
        change(home, "UPDATE blocks SET block = ? WHERE height = ?", bytes(block), number, sums=True)
        sums_of(home.chain).unlink(missing_ok=True)
        assert [fault.height for fault in checked(home).faults] == [number]
        change(
            home,
            "UPDATE blocks SET block = ? WHERE height = ?",
            CHAIN.decided[number - 1][0].encode(),
            number,
            sums=True,
        )
    assert checked(home).sound


def test_a_changed_note_and_changed_evidence_are_named(home):
    change(home, "UPDATE notes SET value = x'00' WHERE name = 'public_key'")
    assert {fault.field for fault in checked(home).faults} == {"note public_key", None}  # and the key is another one
    db = sqlite3.connect(home.chain)
    db.execute("DELETE FROM notes WHERE name = 'public_key'")
    db.execute("INSERT INTO evidence VALUES (x'01', 'double_commit', 4, 0, x'00', x'00')").connection.commit()
    db.close()
    fault = only_fault(checked(home))
    assert fault.height == 4 and fault.field == "evidence against 01"


def test_a_bit_in_unused_space_is_found_where_the_node_has_closed_the_file(home):
    content = bytearray(home.chain.read_bytes())
    unused = content.index(bytes(64))
    content[unused + 5] ^= 4
    home.chain.write_bytes(content)
    assert any(fault.byte == unused // 4096 * 4096 for fault in checked(home).faults)
    assert [byte for byte, _ in damaged_pages(home.chain)] == [unused // 4096 * 4096]


def test_another_genesis_is_named(home):
    home.genesis.write_bytes(replace(CHAIN.genesis, round_seconds_max=61).to_bytes())
    assert "by which the chain file knows the network" in only_fault(checked(home)).what


def test_another_key_is_named(home):
    home.key.write_text(bytes(CHAIN.founders[1]._key).hex() + "\n")
    assert "it is the key of node" in checked(home).faults[0].what
    home.key.chmod(0o644)
    assert "others can read" in checked(home).faults[0].what


def test_a_snapshot_of_another_model_is_named(home):
    path = home.snapshots / "000000000010.safetensors"
    CHAIN.replicas[9].save(path, {"height": "10", "model_root": CHAIN.states[10].model_root.hex()})
    fault = only_fault(checked(home))
    assert fault.file == "snapshots/000000000010.safetensors" and "its root is" in fault.what
    CHAIN.replicas[10].save(path, {"height": "11", "model_root": CHAIN.states[10].model_root.hex()})
    assert only_fault(checked(home)).field == "height"


def test_a_model_that_the_payloads_do_not_lead_to_is_found_by_replaying(tmp_path):
    """A chain certified by dishonest members: signatures alone cannot show it."""
    lying = Chain(1, genesis=None)
    block, _ = lying.next_block(contributors=(0,))
    template = consensus.BlockTemplate(lying.state, block.header.proposer)
    false = consensus.build_block(template, contributions=block.contributions, model_root=consensus.Digest(b"\7" * 32))
    home = Home(tmp_path / "home")
    home.create()
    write_genesis(home, lying.genesis)
    for data in lying.payloads.values():
        open_blobs(home).put(data)
    store = Store(home.chain, lying.genesis.chain_id)
    store.put_block(false, certify(lying.founders, lying.genesis.chain_id, false), {})
    store.close()
    assert checked(home).sound
    fault = only_fault(checked(home, replay=True))
    assert (fault.height, fault.field) == (1, "model_root") and "0707070707070707 certified" in fault.what


# --- the vote log ----------------------------------------------------------------------------------------------------------------------


def other_contribution() -> Announced:
    other = contribution(ME, CHAIN.states[HEIGHTS - 1], payload(4711))
    return Announced(HEIGHTS, Envelope(other.author, other.signature, other.statement(CHAIN.state.chain_id)))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (lambda: vote(consensus.Commit, HEIGHTS, b"\5" * 32), "commit: two statements for one slot"),
        (lambda: vote(consensus.Commit, 11, b"\5" * 32), "commit: the chain shows another one of this node"),
        (other_contribution, "contribution: two statements for one slot"),
        (
            lambda: vote(consensus.Commit, 15, b"\5" * 32),
            "it ends at height 12, and votes.log shows statements of height 15",
        ),
        (
            lambda: Decided(Chain(4).grow(1, seed=5).decided[0][0], CHAIN.decided[0][1]),
            "it is not the block of the chain",
        ),
    ],
)
def test_a_log_that_contradicts_itself_or_the_chain_is_named(home, more: Callable[[], Signed], what):
    write_log(home, *log_of_the_last_height(), more())
    assert what in only_fault(checked(home)).line()


def test_a_log_of_another_key_or_another_network_is_named(home):
    record = log_of_the_last_height()[2]
    assert isinstance(record, Signed)
    turned = bytearray(record.record.data)
    turned[40] ^= 1
    write_log(home, Signed(replace(record.record, data=bytes(turned))))
    assert "a signature that does not verify" in checked(home).verdict()
    other = Chain(4, genesis=replace(CHAIN.genesis, round_seconds_max=50))
    message = sign(
        ME, other.state.chain_id, consensus.Commit(ME.public_key, 12, 0, consensus.NIL, consensus.Signature(b""))
    )
    write_log(home, Signed(record_of_vote(message, chain_id=other.state.chain_id)))
    assert "another chain" in checked(home).verdict()


def test_statements_that_came_with_the_key_from_another_home_are_no_fault(home):
    """Its chain was at height 14; this one's has not come so far."""
    later = vote(consensus.Commit, 15, b"\5" * 32)
    write_log(home, later, Moved(14))
    assert checked(home).sound
    write_log(home, later, Moved(13))
    assert "it ends at height 12, and votes.log shows statements of height 15" in only_fault(checked(home)).line()
    home.moved.write_text("elsewhere")
    assert "node.key: it has moved to another home" in checked(home).notes


def test_a_log_that_is_gone_is_missed(home):
    home.votes.unlink()
    assert only_fault(checked(home)).line() == "votes.log: it is missing, though this home has had one"


# --- any bit ---------------------------------------------------------------------------------------------------------------------------


def flips(size: int, seed: str, count: int) -> list[tuple[int, int]]:
    """Of a small file every byte, of a large one a sample, and one bit of each."""
    draw = random.Random(seed)
    places = range(size) if size <= count else sorted(draw.sample(range(size), count))
    return [(at, draw.randrange(8)) for at in places]


@pytest.mark.parametrize(
    "name", ["chain.sqlite", "chain.sqlite.sums", "votes.log", "genesis.json", "node.key", "snapshots", "blobs"]
)
def test_any_changed_bit_is_found_and_its_file_named(home, name):
    path = home.path / name
    if path.is_dir():
        path = sorted(entry for entry in path.rglob("*") if entry.is_file())[0]
    whole = path.read_bytes()
    for at, bit in flips(len(whole), name, 60):
        content = bytearray(whole)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        report = checked(home)
        assert not report.sound, (at, bit)
        assert any(path.name in fault.file for fault in report.faults), (at, bit, report.faults)
    path.write_bytes(whole)
    assert checked(home).sound


def test_any_changed_bit_of_a_chain_file_that_was_not_closed_changes_nothing_or_is_found(home):
    """Then unused space is out of sight; what a node would read is not. SQLite's own log has a checksum for each page."""
    sums_of(home.chain).unlink()
    whole, rows = home.chain.read_bytes(), contents(home.chain)
    found = 0
    for at, bit in flips(len(whole), "open", 150):
        content = bytearray(whole)
        content[at] ^= 1 << bit
        home.chain.write_bytes(content)
        if checked(home).sound:
            assert contents(home.chain) == rows, (at, bit)
        else:
            found += 1
    assert found > 30  # the rest of so small a file is unused


def contents(path: Path) -> list[object]:
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        tables = ("blocks", "evidence", "notes")
        return [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    finally:
        db.close()


def test_any_changed_bit_of_what_a_kill_leaves_of_sqlites_log_is_found(home):
    store = Store(home.chain, CHAIN.genesis.chain_id)
    store.put_note("peers", b"book" * 300)
    store.put_note("port", b"\x1c\xa9")
    killed = Home(home.path.with_name("copy"))
    shutil.copytree(home.path, killed.path)
    store.close()
    log = killed.path / "chain.sqlite-wal"
    whole = log.read_bytes()
    assert database.Database and checked(killed).sound
    for at, bit in flips(len(whole), "wal", 60):
        content = bytearray(whole)
        content[at] ^= 1 << bit
        log.write_bytes(content)
        assert any(fault.file == log.name for fault in checked(killed).faults), (at, bit)
