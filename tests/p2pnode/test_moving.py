"""A key moves with what it signed: never two that can sign, whenever the move is cut short, and nothing is forgotten on the way."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import consensus
import transport
from p2pnode.errors import SetUpError, UserError
from p2pnode.files import FILES, Files
from p2pnode.founding import identity_of, open_blobs
from p2pnode.home import Home
from p2pnode.moving import export_key, import_key, read_moving
from p2pnode.store import Store
from p2pnode.verify import Wishes, verify
from p2pnode.vote_records import Moved, Signed, Silent, decode, encode
from p2pnode.wal import VoteLog, recover
from tests.p2pnode.little import TEXT, Chain, identities, make_genesis, until
from tests.p2pnode.partition import committee, introduce, start
from tests.p2pnode.test_node import height, living, make_home, make_node

VOTE = encode(Signed(consensus.Record(consensus.RecordKind.BLOCK, 3, 0, b"a vote, or what it rests on")))


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(4).grow(2)


@pytest.fixture
def home(tmp_path: Path, chain: Chain) -> Home:
    """A member that has decided two heights, and signed in the third."""
    home = make_home(tmp_path / "old", chain.founders[0], chain.genesis)
    home.key.write_text(chain.founders[0].seed.hex() + "\n")
    store = Store(home.chain, chain.genesis.chain_id)
    for block, certificate in chain.decided:
        store.put_block(block, certificate, {"height": block.height})
    store.put_note("public_key", bytes(chain.founders[0].public_key))
    store.close()
    log = VoteLog(home.votes)
    log.append(VOTE)
    log.close()
    return home


def can_sign(home: Home) -> bool:
    """Whether a start would find a key in it."""
    try:
        home.check_key_is_here()
    except SetUpError:
        return False
    return home.key.exists()


def test_the_key_arrives_with_its_votes_and_the_old_home_signs_no_more(
    home: Home, chain: Chain, tmp_path: Path
) -> None:
    file, new = tmp_path / "key", Home(tmp_path / "new")
    moved = export_key(home, file)
    assert (moved.height, moved.records) == (2, (VOTE,))
    assert file.stat().st_mode & 0o777 == 0o600 and not home.key.exists() and not can_sign(home)
    with pytest.raises(SetUpError, match=f"its key has moved to {file}: nothing votes from here any more"):
        identity_of(home)
    arrived = import_key(new, file)
    assert arrived.identity.public_key == chain.founders[0].public_key == identity_of(new).public_key
    assert not file.exists()
    assert recover(new.votes).records == (VOTE, encode(Moved(2)))
    assert new.genesis.read_bytes() == home.genesis.read_bytes()
    assert verify(new.path, Wishes()).sound


def test_it_may_come_back(home: Home, tmp_path: Path) -> None:
    new = Home(tmp_path / "new")
    for source, target in ((home, new), (new, home)):
        export_key(source, tmp_path / "key")
        import_key(target, tmp_path / "key")
    assert can_sign(home) and not can_sign(new)
    assert [decode(data) for data in recover(home.votes).records][1:] == [
        Moved(2),
        Moved(0),
    ]  # the other never had the chain


def test_a_key_before_its_first_network_moves_too(tmp_path: Path) -> None:
    old, new = Home(tmp_path / "old"), Home(tmp_path / "new")
    old.create()
    key = identity_of(old).public_key
    export_key(old, tmp_path / "key")
    assert import_key(new, tmp_path / "key").genesis is None
    assert identity_of(new).public_key == key and not new.initialised


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def test_nothing_moves_while_a_node_runs_and_no_file_is_written_over(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "key"
    with home.locked(), pytest.raises(SetUpError, match="a node is running in it already"):
        export_key(home, file)
    file.write_text("mine")
    with pytest.raises(SetUpError, match="exists already"):
        export_key(home, file)
    with pytest.raises(SetUpError, match="no such file or directory"):
        export_key(home, tmp_path / "nowhere" / "key")
    with pytest.raises(SetUpError, match="is no node's home"):
        export_key(Home(tmp_path / "nobody"), tmp_path / "other")
    with pytest.raises(SetUpError, match="holds no key"):
        export_key(Home(tmp_path), tmp_path / "other")
    assert can_sign(home) and file.read_text() == "mine"
    export_key(home, tmp_path / "good")
    with home.locked(), pytest.raises(SetUpError, match="a node is running in it already"):
        import_key(home, tmp_path / "good")


def test_a_log_that_is_not_whole_is_not_handed_on(home: Home, tmp_path: Path) -> None:
    content = bytearray(home.votes.read_bytes())
    content[600] ^= 1
    home.votes.write_bytes(content)
    with pytest.raises(SetUpError, match="what this key signed is not known"):
        export_key(home, tmp_path / "key")
    home.votes.unlink()
    with pytest.raises(SetUpError, match="it is missing, though this home has had one"):
        export_key(home, tmp_path / "key")
    home.votes.with_suffix(".begun").unlink()
    with pytest.raises(SetUpError, match="its chain shows votes of this key"):
        export_key(home, tmp_path / "key")
    assert can_sign(home)


def test_a_silence_that_was_promised_goes_along(home: Home, tmp_path: Path) -> None:
    VoteLog(home.votes, anew=[encode(Silent(9))]).close()
    export_key(home, tmp_path / "key")
    new = Home(tmp_path / "new")
    import_key(new, tmp_path / "key")
    assert encode(Silent(9)) in recover(new.votes).records


def test_a_key_goes_into_no_home_that_has_one_or_was_anothers(home: Home, chain: Chain, tmp_path: Path) -> None:
    file, other = tmp_path / "key", make_home(tmp_path / "other", chain.founders[1], chain.genesis)
    export_key(home, file)
    with pytest.raises(SetUpError, match="has a key already"):
        import_key(other, file)
    other.key.unlink()
    store = Store(other.chain, chain.genesis.chain_id)
    store.put_note("public_key", bytes(chain.founders[1].public_key))
    store.close()
    with pytest.raises(SetUpError, match="was the home of node"):
        import_key(other, file)
    stranger = make_home(tmp_path / "stranger", chain.founders[1], make_genesis(identities(1)))
    stranger.key.unlink()
    with pytest.raises(SetUpError, match="belongs to network"):
        import_key(stranger, file)
    with pytest.raises(SetUpError, match="there is no file"):
        import_key(Home(tmp_path / "new"), tmp_path / "none")
    assert read_moving(file).height == 2


def test_a_file_that_is_not_whole_or_that_others_can_read_is_refused(home: Home, tmp_path: Path) -> None:
    file, new = tmp_path / "key", Home(tmp_path / "new")
    export_key(home, file)
    whole = file.read_bytes()
    fields: dict[str, Any] = json.loads(whole)
    broken = [
        *(whole[:cut] for cut in (0, 1, 100, len(whole) - 20)),
        *(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :] for at in range(0, len(whole) - 1, 97)),
        *(json.dumps({**fields, name: value}).encode() for name in fields for value in (None, 7, "x", {})),
        b"[]",
        b"7",
        b"\xff" * 99,
        b"[" * 100_000,
    ]
    for document in broken:
        file.write_bytes(document)
        with pytest.raises(SetUpError, match="is no whole file of p2pnode export-key"):
            read_moving(file)
    file.write_bytes(whole)
    file.chmod(0o640)
    with pytest.raises(SetUpError, match=r"others can read the file .* \(mode 0640\)"):
        import_key(new, file)
    assert not can_sign(new)


# --- cut short -------------------------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The process is killed here."""


class Dying(Files):
    """Dies before the operation of this number."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __getattribute__(self, name: str) -> Any:
        if name in ("create", "write", "sync", "rename", "link", "remove"):
            self.left -= 1
            if self.left < 0:
                raise Died
        return super().__getattribute__(name)


@contextlib.contextmanager
def dying(at: int) -> Iterator[Dying]:
    token = FILES.set(files := Dying(at))
    try:
        with contextlib.suppress(Died):
            yield files
    finally:
        FILES.reset(token)


def test_an_export_cut_short_anywhere_never_leaves_two_that_can_sign_and_goes_on(
    chain: Chain, tmp_path: Path, home: Home
) -> None:
    seen = set()
    for at in range(50):
        file, new = tmp_path / f"key{at}", Home(tmp_path / f"new{at}")
        with dying(at) as files:
            export_key(home, file)
        assert not (file.exists() and can_sign(home)), at
        seen.add((file.exists(), can_sign(home)))
        finished = files.left >= 0
        if not file.exists():
            export_key(home, file)
        assert not can_sign(home)
        import_key(new, file)
        assert recover(new.votes).records[0] == VOTE
        export_key(new, file)  # back to where it was, for the next one
        import_key(home, file)
        if finished:
            break
    assert finished and seen == {(False, True), (False, False), (True, False)}


def test_an_import_cut_short_anywhere_has_the_votes_before_the_key(home: Home, tmp_path: Path) -> None:
    for at in range(50):
        file, new = tmp_path / f"key{at}", Home(tmp_path / f"new{at}")
        export_key(home, file)
        with dying(at) as files:
            import_key(new, file)
        if not new.key.exists():
            import_key(new, file)
        assert can_sign(new) and recover(new.votes).records[0] == VOTE
        if file.exists():
            with pytest.raises(SetUpError, match="has a key already"):
                import_key(new, file)
            file.unlink()
        export_key(new, file)
        import_key(home, file)
        if files.left >= 0:
            return
    raise AssertionError("it never came to its end")


def test_a_file_that_cannot_be_removed_is_said_to_be_there_still(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new = tmp_path / "key", Home(tmp_path / "new")
    export_key(home, file)
    files = Files()
    remove = files.remove

    def refuse(path: Path) -> None:
        if path == file:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        remove(path)

    monkeypatch.setattr(files, "remove", refuse)
    token = FILES.set(files)
    try:
        with pytest.raises(UserError, match="is still there: read-only file system") as caught:
            import_key(new, file)
    finally:
        FILES.reset(token)
    assert can_sign(new) and "remove it yourself" in caught.value.hint


# --- whole nodes -----------------------------------------------------------------------------------------------------------------------


async def test_who_decides_alone_takes_its_chain_along_or_decides_nothing(tmp_path: Path) -> None:
    """In a fresh home it would begin the chain anew, and sign other blocks of heights that its first peers may have."""
    founder = identities(1)[0]
    home = make_home(tmp_path / "old", founder, make_genesis([founder]))
    home.key.write_text(founder.seed.hex() + "\n")
    node = make_node(home)
    async with living(node):
        await until(lambda: height(node) >= 3)
    fresh, copy = Home(tmp_path / "fresh"), Home(tmp_path / "copy")
    left = export_key(home, tmp_path / "key").height
    shutil.copytree(home.path, copy.path)
    import_key(fresh, tmp_path / "key")
    open_blobs(fresh).put(TEXT)
    lone = make_node(fresh)
    async with living(lone):
        await until(lambda: lone.driver is not None and lone.seat is not None)
        assert lone.driver is not None and lone.driver.silent is not None
        assert lone.driver.silent.endswith(f"observing until height {left} is decided")
    assert height(lone) == 0
    export_key(fresh, tmp_path / "key")
    import_key(copy, tmp_path / "key")
    again = make_node(copy)
    async with living(again):
        await until(lambda: height(again) >= left + 2)
        assert again.driver is not None and again.driver.silent is None
    assert verify(copy.path, Wishes()).sound


# --- a whole network -------------------------------------------------------------------------------------------------------------------


async def test_a_member_moves_and_the_network_goes_on_with_nobody_in_evidence(tmp_path: Path) -> None:
    async with committee(tmp_path, 4) as four:
        await four.until(lambda: min(four.heights()) >= 2, "start")
        old = four.nodes[3]
        old.stopping.set()
        await old.ended.wait()  # type: ignore[attr-defined]
        export_key(old.home, tmp_path / "key")
        with pytest.raises(SetUpError, match="its key has moved"):
            four.make(old.home, trains=True)
        new = Home(tmp_path / "new")
        moved = import_key(new, tmp_path / "key")
        there = [f"127.0.0.1:{node.bound.port}" for node in four.nodes[:3] if node.bound is not None]
        four.nodes[3] = four.make(new, trains=True, bootstrap=there)
        await start(four, 3, four.nodes[3])
        introduce(four)
        target = max(four.heights()) + 5
        await four.until(lambda: min(four.heights()) >= target, "the moved one does not keep up")
        driver = four.nodes[3].driver
        assert driver is not None and driver.silent is None and four.height(3) > moved.height
        votes = [r for r in map(decode, recover(new.votes).records) if isinstance(r, Signed)]
        assert any(r.record.kind is consensus.RecordKind.VOTE and r.height > moved.height + 1 for r in votes)
        assert not any(node.view.evidence() for node in four.nodes)
        four.assert_no_fork()
        assert transport.short_id(moved.identity.public_key) == transport.short_id(four.identities[3].public_key)
