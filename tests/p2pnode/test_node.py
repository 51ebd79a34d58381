"""A whole node in this process: its life from start to end, what runs on the loop's thread, and what survives."""

import hashlib
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import trio
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import transport
from p2pnode import node as node_module
from p2pnode import wal
from p2pnode.client import Client
from p2pnode.config import Config, Endpoint
from p2pnode.errors import SetUpError, user_error
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.genesis import Genesis
from p2pnode.home import Home
from p2pnode.node import Kit, Node
from p2pnode.store import Store
from p2pnode.vote_records import Announced, Silent, decode, encode
from p2pnode.wal import VoteLog, recover
from tests.p2pnode.little import TEXT, Chain, identities, make_genesis, until
from tests.p2pnode.rig import Peer, network
from transport.limits import LEAF_BYTES

NEWCOMER = transport.Identity(bytes([99]) * 32)


def make_home(directory: Path, identity: transport.Identity, genesis: Genesis | None = None) -> Home:
    """As ``init`` leaves it; without a genesis as a joiner begins."""
    home = Home(directory)
    home.create()
    home.key.write_text(bytes(identity._key).hex())
    home.key.chmod(0o600)
    if genesis is not None:
        open_blobs(home).put(TEXT)
        write_genesis(home, genesis)
    return home


def make_node(home: Home, **changes: Any) -> Node:
    settings: dict[str, Any] = {"listen": Endpoint("127.0.0.1", 0), "repl": False, "threads": 1, **changes}
    config = Config(home=home.path, **settings, origins={"listen": "--listen"})
    return Node(home, config, kit=Kit())


@asynccontextmanager
async def living(*nodes: Node) -> AsyncIterator[None]:
    """The nodes run until the block ends, and then end by themselves."""
    codes: list[int] = []

    async def live(node: Node) -> None:
        codes.append(await node.main())

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(live, node)
        yield
        for node in nodes:
            node.stopping.set()
    assert codes == [0] * len(nodes)


@pytest.fixture
def alone(tmp_path: Path) -> Home:
    founders = identities(1)
    return make_home(tmp_path / "home", founders[0], make_genesis(founders))


def height(node: Node) -> int:
    return node.rounds.state.height if node.rounds is not None else -1


def ready(node: Node) -> bool:
    return node.rounds is not None and node.rounds.synced


# --- the loop's thread -----------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Who did what on which thread: (thread, bytes or name)."""

    flushed: list[tuple[int, int]] = field(default_factory=list)
    hashed: list[tuple[int, int]] = field(default_factory=list)
    written: list[tuple[int, str]] = field(default_factory=list)
    torch_on_loop: list[str] = field(default_factory=list)

    def on(self, thread: int, seen: list[tuple[int, Any]]) -> list[Any]:
        return [what for where, what in seen if where == thread]

    def elsewhere(self, thread: int, seen: list[tuple[int, Any]]) -> list[Any]:
        return [what for where, what in seen if where != thread]


class CountingHash:
    """A SHA-256 that knows how much it was given."""

    def __init__(self, watch: Watch, real: Any, data: bytes) -> None:
        self._watch, self._hash, self._bytes = watch, real(data), memoryview(data).nbytes
        self._tell()

    def update(self, data: Any) -> None:
        self._hash.update(data)
        self._bytes += memoryview(data).nbytes
        self._tell()

    def _tell(self) -> None:
        self._watch.hashed.append((threading.get_ident(), self._bytes))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hash, name)


class Functions(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.watch.torch_on_loop.append(str(function))
        return function(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.watch.torch_on_loop.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    seen = Watch()
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def flush(fd: int, real: Any = real) -> None:
            seen.flushed.append((threading.get_ident(), os.fstat(fd).st_size))
            real(fd)

        monkeypatch.setattr(os, name, flush)
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data=b"", **_: CountingHash(seen, sha256, data))
    write = Store._write

    def record(self: Store, statement: str, row: tuple[object, ...], **how: Any) -> None:
        seen.written.append((threading.get_ident(), statement))
        write(self, statement, row, **how)

    monkeypatch.setattr(Store, "_write", record)
    return seen


async def test_nothing_long_runs_on_the_loops_thread(alone, watch, monkeypatch):
    """Three real rounds of a real founder, watched.

    How: ``os.fsync`` and ``os.fdatasync`` are wrapped and note the thread and the size of the file that they flush (so a flush counts
    with everything that the file holds, not only with what is new); ``hashlib.sha256`` gives a hash that counts what it is fed; writes
    to SQLite, which flushes in C, are noted where the store makes them; two torch modes, for functions and for kernels, are entered on
    this thread, and torch keeps them to the thread that entered them, so they see exactly what the loop's thread asks of torch. What
    is seen on other threads shows that the watch sees. The vote log's flush may run on the loop where the disk is quick
    (``VoteLog.is_quick``); here no disk is.
    """
    monkeypatch.setattr(wal, "QUICK_SECONDS", 0.0)
    loop = threading.get_ident()
    node = make_node(alone)
    async with living(node):
        await until(lambda: node.rounds is not None)
        for seen in (watch.written, watch.hashed, watch.flushed):
            seen.clear()  # opening the files is no part of a round
        with Functions(watch), Kernels(watch):
            begin = height(node)
            await until(lambda: height(node) >= begin + 3)
            await node.view.evaluate()
            rounds_of_torch = list(watch.torch_on_loop)
            written_on_loop = watch.on(loop, watch.written)  # at its end a node has nothing else to do
            torch.zeros(1)
    assert not rounds_of_torch and watch.torch_on_loop
    assert max(watch.on(loop, watch.flushed), default=0) <= 4096 < max(watch.elsewhere(loop, watch.flushed))
    assert max(watch.on(loop, watch.hashed)) <= LEAF_BYTES + 64
    assert sum(watch.elsewhere(loop, watch.hashed)) > 3 * node.genesis.model.parameters
    assert not written_on_loop and watch.elsewhere(loop, watch.written)


# --- life ------------------------------------------------------------------------------------------------------------------------------


def sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that lists the directory
        if target.startswith("socket:"):
            found.add(target)
    return found


def still_learning() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "learn"}


@pytest.mark.parametrize("how", ["signal", "control socket"])
async def test_a_node_ends_in_time_and_leaves_nothing_behind(alone, how):
    before, learning_before = sockets(), still_learning()
    node = make_node(alone)
    ended: list[float] = []

    async def live() -> None:
        assert await node.main() == 0
        ended.append(time.monotonic())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await until(lambda: height(node) >= 1)
        status = await trio.to_thread.run_sync(Client(alone).status)
        assert status["role"] == "member" and status["height"] >= 1 and status["verdict"] == "healthy"
        address = (node.bound.host, node.bound.port)
        socket.create_connection(address).close()
        began = time.monotonic()
        if how == "signal":
            signal.raise_signal(signal.SIGINT)
        else:
            await trio.to_thread.run_sync(Client(alone).stop)
    assert ended[0] - began < 2
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address)
    assert sockets() <= before and not alone.control_socket().exists()
    await until(lambda: not still_learning() - learning_before)
    assert (alone.trainer / "state.safetensors").exists()


async def test_a_node_that_is_stopped_while_it_starts_leaves_nothing_behind(tmp_path):
    home = make_home(tmp_path / "home", NEWCOMER)
    before, learning_before = sockets(), still_learning()
    node = make_node(home, bootstrap=(Endpoint("127.0.0.1", 1),))
    async with living(node):
        await until(node.bootstrap_failure)
        assert "nobody listens there" in node.bootstrap_failure() and node.view.status()["role"] == "joining"
        assert node.view.health().verdict == "degraded"
    await until(lambda: not still_learning() - learning_before)
    assert sockets() <= before and not home.initialised


async def test_a_restart_goes_on_where_it_was(alone):
    node = make_node(alone)
    async with living(node):
        await until(lambda: height(node) >= 3)
    stopped = node.rounds.state
    again = make_node(alone)
    async with living(again):
        await until(lambda: height(again) > stopped.height)
        rows = again.view.rounds(1000)
    assert [row["height"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[stopped.height - 1]["model_root"] == stopped.model_root.hex()


async def test_no_contribution_is_ever_signed_twice_across_restarts(alone):
    """Stopped anywhere, also between the log and the decision: one record a height."""
    for _ in range(3):
        node = make_node(alone)
        async with living(node):
            await until(lambda node=node: ready(node))
            begin = height(node)
            await until(lambda node=node, begin=begin: height(node) > begin)
    heights = [r.height for r in map(decode, recover(alone.votes).records) if isinstance(r, Announced)]
    assert heights == sorted(set(heights))


async def test_the_port_of_last_time_comes_first(tmp_path):
    founders = identities(1)
    home = make_home(tmp_path / "home", founders[0], make_genesis(founders))
    node = make_node(home)
    async with living(node):
        await until(lambda: ready(node))
    again = Node(home, Config(home=home.path, repl=False, train=False, listen=Endpoint("127.0.0.1", 1)), kit=Kit())
    async with living(again):
        await until(lambda: again.bound is not None)
        assert again.bound == node.bound


async def test_a_joiner_does_not_take_the_place_of_whom_it_asks(tmp_path):
    """Who may start a moment later."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = Endpoint("127.0.0.1", port)
    home = make_home(tmp_path / "home", identities(1)[0])
    node = Node(home, Config(home=home.path, repl=False, listen=place, bootstrap=(place,)), kit=Kit())
    async with living(node):
        await until(lambda: node.bound is not None)
        assert node.bound.port > port


# --- joining ---------------------------------------------------------------------------------------------------------------------------


async def test_a_joiner_reaches_a_network_that_stands_still(tmp_path, alone):
    """Peers say where they stand when they connect, and in an idle network never again: the joiner must have listened."""
    founder = make_node(alone)
    async with living(founder):
        await until(lambda: height(founder) >= 2)
        await founder.view.pause()
        await until(lambda: founder.driver.engine.idle)
        joiner = make_node(
            make_home(tmp_path / "joiner", NEWCOMER),
            bootstrap=(Endpoint("127.0.0.1", founder.bound.port),),
            train=False,
        )
        async with living(joiner):
            await until(lambda: ready(joiner))
            assert joiner.rounds.state == founder.rounds.state
            assert joiner.genesis == founder.genesis
            assert joiner.view.status()["role"] == "observer"
            (peer,) = founder.view.peers()
            assert peer["node"] == joiner.identity.node_id


async def test_a_newcomer_takes_part(tmp_path, alone):
    founder = make_node(alone)
    async with living(founder):
        await until(lambda: height(founder) >= 1)
        joiner = make_node(
            make_home(tmp_path / "joiner", NEWCOMER), bootstrap=(Endpoint("127.0.0.1", founder.bound.port),)
        )
        async with living(joiner):
            both = {founder.identity.public_key, joiner.identity.public_key}
            await until(lambda: founder.rounds.listed and founder.rounds.listed[-1] == both)
            at = height(founder)
            await until(lambda: height(joiner) >= at)
            roots = [{row["height"]: row["model_root"] for row in node.view.rounds(1000)} for node in (founder, joiner)]
        assert all(roots[0][at] == root for at, root in roots[1].items())


async def test_one_liar_keeps_no_node_from_starting(tmp_path):
    """It claims a height that nobody has; the node goes on with what can be shown."""
    chain = Chain(1)
    home = make_home(tmp_path / "home", chain.founders[0], chain.genesis)
    liar = Peer(tmp_path / "liar", chain, seed=93)
    async with network(liar):
        liar.says(10**12)
        node = make_node(home, bootstrap=(Endpoint("127.0.0.1", liar.address.port),))
        async with living(node):
            await until(lambda: height(node) >= 2)
            assert node.view.health().verdict == "healthy"
    assert liar.asked


# --- a home that is damaged ----------------------------------------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("loss", ["damaged", "missing", "emptied"])
async def test_a_node_that_decides_alone_goes_on_without_its_log(alone, loss):
    """Nobody else would ever decide the height that it would have to wait for."""
    node = make_node(alone)
    async with living(node):
        await until(lambda: height(node) >= 2)
    lose(alone, loss)
    again = make_node(alone)
    begin = node.rounds.state.height
    async with living(again):
        await until(lambda: height(again) > begin)
        assert again.driver.silent is None


@pytest.mark.parametrize("loss", ["damaged", "missing", "emptied"])
async def test_a_member_that_lost_its_log_is_silent_and_stays_so_after_a_restart(tmp_path, loss):
    """Two heights beyond any that it can have signed in; a second start must not take the new log for a good one."""
    chain = Chain(4).grow(2)
    home = make_home(tmp_path / "home", chain.founders[0], chain.genesis)
    store = Store(home.chain, chain.genesis.chain_id)
    for block, certificate in chain.decided:
        store.put_block(block, certificate, {"height": block.height})
    store.close()
    blobs = open_blobs(home)
    for data in chain.payloads.values():
        blobs.put(data)
    if loss == "damaged":
        log = VoteLog(home.votes)
        log.append(b"C" + (3).to_bytes(8, "big") + b"x", b"C" + (3).to_bytes(8, "big") + b"y")
        log.close()
    lose(home, loss)
    for _ in range(2):
        node = make_node(home)
        async with living(node):
            await until(lambda node=node: ready(node))
            assert "observing until height 4 is decided" in node.driver.silent
            assert node.view.health().verdict in ("halted", "degraded")
            assert not await node.driver.append(Silent(9))
        assert recover(home.votes).records == (encode(Silent(4)),)
    assert home.votes.with_suffix(".damaged").exists() == (loss != "missing")


def lose(home: Home, how: str) -> None:
    match how:
        case "damaged":
            damage(home.votes, 20)
        case "missing":
            home.votes.unlink(missing_ok=True)
        case "emptied":
            home.votes.write_bytes(b"")


async def ends_with(home: Home, **changes: Any) -> SetUpError:
    """The one error that a start in this home shows its operator."""
    with pytest.raises((SetUpError, BaseExceptionGroup)) as caught:
        await make_node(home, **changes).main()
    shown = user_error(caught.value)
    assert isinstance(shown, SetUpError)
    return shown


async def test_a_damaged_chain_is_one_line(alone):
    node = make_node(alone)
    async with living(node):
        await until(lambda: height(node) >= 1)
    alone.chain.write_bytes(b"rubbish" * 1000)
    shown = await ends_with(alone)
    assert "is damaged" in shown.message and "chain.sqlite* away" in shown.hint


async def test_a_chain_with_a_hole_in_the_middle_is_one_line(alone):
    node = make_node(alone)
    async with living(node):
        await until(lambda: height(node) >= 3)
    with sqlite3.connect(alone.chain) as database:
        database.execute("UPDATE blocks SET block = (SELECT block FROM blocks WHERE height = 1) WHERE height = 2")
    database.close()
    shown = await ends_with(alone)
    assert "does not follow the one before it" in shown.message


async def test_a_taken_port_is_one_line(alone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shown = await ends_with(alone, listen=Endpoint("127.0.0.1", taken.getsockname()[1]))
    assert "taken" in shown.message and shown.hint


async def test_another_first_model_is_one_line(tmp_path):
    founders = identities(1)
    home = make_home(tmp_path / "home", founders[0], make_genesis(founders, model_root=b"\1" * 32))
    shown = await ends_with(home)
    assert "draws another first model" in shown.message


async def test_arithmetic_that_is_not_the_networks_is_one_line(alone, monkeypatch):
    monkeypatch.setattr(node_module, "self_test", lambda: "1 + 1 is 3 here")
    shown = await ends_with(alone)
    assert shown.message == "this machine's arithmetic is not the network's: 1 + 1 is 3 here"
