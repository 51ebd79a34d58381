"""Bounds of the daemon that no other test shows."""

import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

import consensus
import transport
from model.limits import CORPUS_BYTES_MAX
from p2pnode import blobs as blobs_module
from p2pnode import blocksync, control, gossip, links, logs, wire
from p2pnode import genesis as genesis_module
from p2pnode.blobs import Blobs, Served
from p2pnode.config import ALLOWED_MAX, Config
from p2pnode.control import serve_control
from p2pnode.errors import SetUpError, UserError
from p2pnode.home import Home
from p2pnode.links import Links
from p2pnode.node import EARLY_MAX, Kit, Node
from p2pnode.rounds import LISTED_HEIGHTS
from p2pnode.verify import Report, chainfile
from tests.p2pnode.conftest import Target
from tests.p2pnode.little import Chain, contribution, identities, payload, sign, until
from tests.p2pnode.rig import Peer, Rig, network

CHAIN = Chain(4).grow(3)


# --- what a peer says --------------------------------------------------------------------------------------------------------


def test_a_list_of_votes_is_short() -> None:
    votes = [bytes([number]) for number in range(wire.SPOKEN_MAX + 5)]
    assert wire.decode_spoken(wire.encode_spoken(votes)) == votes[-wire.SPOKEN_MAX :]
    with pytest.raises(wire.Malformed, match="no short list"):
        wire.decode_spoken(wire._pack(votes[: wire.SPOKEN_MAX + 1]))


def test_a_list_of_snapshots_is_short() -> None:
    listed = [(height, bytes(32)) for height in range(wire.SNAPSHOTS_MAX + 1)]
    assert wire.decode_snapshots(wire._pack(listed[1:])) == listed[1:]
    with pytest.raises(wire.Malformed, match="no short list"):
        wire.decode_snapshots(wire._pack(listed))


def test_a_height_is_one_that_the_database_holds() -> None:
    assert wire.decode_blocks_request(wire.encode_blocks_request(wire.HEIGHT_MAX, 1)) == (wire.HEIGHT_MAX, 1)
    with pytest.raises(wire.Malformed, match="a height of"):
        wire.decode_blocks_request(wire.encode_blocks_request(wire.HEIGHT_MAX + 1, 1))


def test_a_member_claims_as_many_links_as_there_can_be_members() -> None:
    me, author = identities(2)

    def claim(count: int, sequence: float) -> transport.Envelope:
        heard = [number.to_bytes(8, "big") for number in range(count)]
        said = Links(author.public_key).say(heard, chain_id=bytes(32), sign=author.sign, now=0.0, unix_seconds=sequence)
        assert said is not None
        return said

    mine, members = Links(me.public_key), [me.public_key, author.public_key]
    assert mine.take(claim(links.LINKS_MAX, 1.0), members)
    with pytest.raises(links.Malformed, match="form"):
        mine.take(claim(links.LINKS_MAX + 1, 2.0), members)


async def test_of_each_member_the_newest_votes_are_remembered_for_its_next_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path, members=2, me=0, trains=False)
    other = rig.chain.founders[1]
    for view in range(gossip.SPOKEN_MAX + 10):
        vote = consensus.Prepare(
            consensus.PublicKey(other.public_key), 1, view, consensus.NIL, -1, consensus.Signature(b"")
        )
        rig.gossip._remember(sign(other, rig.genesis.chain_id, vote))
    answer = await rig.gossip.answer(wire.Method.SPOKEN, b"", peer=other.public_key)
    assert len(answer) <= wire.SPOKEN_BYTES_MAX
    heard = [gossip.message_of(rig.gossip._chain_id, transport.Envelope.decode(e)) for e in wire.decode_spoken(answer)]
    assert [vote.view for vote in heard] == list(range(10, wire.SPOKEN_MAX + 10))  # type: ignore[union-attr]
    rig.close()


Ask = Callable[[Peer, transport.PublicKey], Awaitable[Any]]
ASKED: dict[wire.Method, tuple[int, Ask]] = {
    wire.Method.BLOCKS: (wire.BLOCKS_RESPONSE_BYTES_MAX, lambda me, peer: me.gossip.fetch_blocks(peer, 1, 1)),
    wire.Method.SPOKEN: (wire.SPOKEN_BYTES_MAX, lambda me, peer: me.gossip.fetch_spoken(peer)),
    wire.Method.SNAPSHOTS: (wire.SNAPSHOTS_BYTES_MAX, lambda me, peer: me.gossip.fetch_snapshots(peer)),
    wire.Method.BLOCK: (wire.BLOCK_BYTES_MAX, lambda me, peer: me.gossip.fetch_block(bytes(32), [peer])),
}


@pytest.mark.parametrize("method", ASKED)
async def test_an_answer_is_read_as_far_as_it_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: wire.Method
) -> None:
    """With one byte more, none of it is looked at."""
    most, ask = ASKED[method]
    liar, me = Peer(tmp_path / "liar", CHAIN, seed=91), Peer(tmp_path / "me", CHAIN, seed=92)
    got: list[str] = []

    async def note(*args: Any, **how: Any) -> bytes:
        try:
            answer = await request(*args, **how)
        except transport.RequestFailed as problem:
            got.append(problem.reason)
            raise
        got.append(f"{len(answer)} bytes")
        return answer

    async with network(liar, me):
        request = me.swarm.request
        monkeypatch.setattr(me.swarm, "request", note)
        for size in (most, most + 1):

            async def lie(_: bytes, size: int = size) -> bytes:
                return bytes(size)

            liar.answers[method] = lie
            try:
                await ask(me, liar.key)
            except (transport.RequestFailed, wire.Malformed, consensus.Malformed):
                pass
    assert got[0] == f"{most} bytes" and f"longer than {most}" in got[1]


class Silent:
    """A swarm in which nobody answers."""

    def __init__(self, *members: bytes) -> None:
        self.members = members
        self.asked: list[tuple[bytes, float]] = []

    def live(self) -> Sequence[bytes]:
        return self.members

    async def request(self, peer: bytes, *_: Any, timeout_seconds: float, **__: Any) -> bytes:
        self.asked.append((peer, trio.current_time()))
        await trio.sleep(timeout_seconds)
        raise transport.RequestFailed("no answer")


async def test_who_does_not_answer_makes_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    rig = Rig(tmp_path, members=4, trains=False)
    keys = [identity.public_key for identity in rig.chain.founders[1:]]
    swarm = Silent(*keys)
    monkeypatch.setattr(rig.gossip, "_swarm", swarm)
    assert await rig.gossip.fetch_block(consensus.Digest(bytes(32)), [keys[2]]) is None
    assert [peer for peer, _ in swarm.asked] == [keys[2], keys[0], keys[1]]
    assert [at for _, at in swarm.asked] == [number * gossip.BLOCK_SECONDS_MAX for number in range(3)]
    began = trio.current_time()
    with pytest.raises(transport.RequestFailed):
        await rig.gossip.fetch_blocks(keys[0], 1, 1)
    assert trio.current_time() - began == gossip.ASK_SECONDS_MAX
    rig.close()


GENESIS = CHAIN.genesis


def changed(*path: str, to: Any) -> bytes:
    """The document of a genesis with one field of our choice, in its canonical form."""
    document = json.loads(GENESIS.to_bytes())
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


REFOUNDED = {"network": "00" * 32, "block": "00" * 32}
KEYS = [f"{number:064x}" for number in range(ALLOWED_MAX + 1)]


@pytest.mark.parametrize(
    ("path", "most"),
    [
        (("round_seconds_max",), genesis_module.ROUND_SECONDS_MAX),
        (("probation_contributions",), genesis_module.PROBATION_CONTRIBUTIONS_MAX),
        (("corpus", "bytes"), CORPUS_BYTES_MAX),
    ],
)
def test_a_number_of_a_genesis_is_taken_up_to_its_bound(path: tuple[str, ...], most: int) -> None:
    document = changed(*path, to=most)
    assert genesis_module.parse(document).to_bytes() == document
    with pytest.raises(UserError, match=f"from 1 to {most}"):
        genesis_module.parse(changed(*path, to=most + 1))


def test_a_network_was_refounded_at_a_height_that_there_can_be() -> None:
    most = genesis_module.HEIGHT_MAX
    found = genesis_module.parse(changed("refounded", to={**REFOUNDED, "height": most}))
    assert found.refounded is not None and found.refounded.height == most
    with pytest.raises(UserError, match=f"from 0 to {most}"):
        genesis_module.parse(changed("refounded", to={**REFOUNDED, "height": most + 1}))


def test_the_lists_of_a_genesis_are_taken_up_to_their_bounds() -> None:
    founders = [{"public_key": each, "address": ""} for each in KEYS[: genesis_module.MEMBERS_MAX + 1]]
    assert len(genesis_module.parse(changed("founders", to=founders[1:])).founders) == genesis_module.MEMBERS_MAX
    with pytest.raises(UserError, match=f"1 to {genesis_module.MEMBERS_MAX} are allowed"):
        genesis_module.parse(changed("founders", to=founders))

    def allowing(count: int) -> bytes:
        document = json.loads(changed("policy", to="allowlist"))
        return json.dumps({**document, "allowlist": KEYS[:count]}, sort_keys=True, separators=(",", ":")).encode()

    assert len(genesis_module.parse(allowing(ALLOWED_MAX)).allowlist) == ALLOWED_MAX
    with pytest.raises(UserError, match=f"{ALLOWED_MAX + 1} allowed keys, at most {ALLOWED_MAX}"):
        genesis_module.parse(allowing(ALLOWED_MAX + 1))


def test_a_founders_address_and_a_whole_genesis_are_no_longer_than_they_can_be() -> None:
    most = genesis_module.ADDRESS_CHARACTERS_MAX
    for length, is_long in ((most, False), (most + 1, True)):
        with pytest.raises(UserError) as caught:
            genesis_module.parse(changed("founders", to=[{"public_key": "00" * 32, "address": "x" * length}]))
        assert (f"at most {most} characters" in str(caught.value)) is is_long
    most = genesis_module.GENESIS_BYTES_MAX
    for length, is_long in ((most, False), (most + 1, True)):
        with pytest.raises(UserError) as caught:
            genesis_module.parse(b" " * length)
        assert (f"at most {most} are allowed" in str(caught.value)) is is_long


# --- what a peer asks --------------------------------------------------------------------------------------------------------


class Gate:
    """Holds threads up until it opens; how many there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.inside = 0

    def pass_through(self, *_: Any) -> list[Any]:
        with self._lock:
            self.inside += 1
        self._open.wait(30)
        return []

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def test_pages_are_read_for_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    """However many peers ask, threads are left for our own writes."""
    rig = Rig(tmp_path, trains=False)
    monkeypatch.setattr(rig.store, "block_rows", gate.pass_through)
    async with trio.open_nursery() as nursery:
        for _ in range(3 * gossip.SERVING_THREADS_MAX):
            nursery.start_soon(rig.gossip.answer, wire.Method.BLOCKS, wire.encode_blocks_request(1, 64))
        await until(lambda: gate.inside >= gossip.SERVING_THREADS_MAX)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.gossip._serving.statistics().tasks_waiting == 2 * gossip.SERVING_THREADS_MAX
        gate.open()
    rig.close()


async def test_blobs_are_read_for_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    blobs = Blobs(tmp_path / "blobs", tmp_path / "snapshots")
    served = Served(blobs)
    monkeypatch.setattr(blobs, "read", gate.pass_through)
    async with trio.open_nursery() as nursery:
        for _ in range(3 * blobs_module.SERVING_THREADS_MAX):
            nursery.start_soon(served.read, bytes(32), 0, 1)
        await until(lambda: gate.inside >= blobs_module.SERVING_THREADS_MAX)
        await trio.testing.wait_all_tasks_blocked()
        assert served._threads.statistics().tasks_waiting == 2 * blobs_module.SERVING_THREADS_MAX
        gate.open()


async def test_of_a_peer_that_delivers_two_pages_are_on_their_way(tmp_path: Path) -> None:
    """One page alone from whoever has proven nothing; and from nobody more than that, however long the chain."""
    heights = 3 * wire.BLOCKS_PER_REQUEST_MAX
    chain = Chain(4).grow(heights, contributors=())
    them, me = Peer(tmp_path / "them", chain, heights=heights, seed=93), Peer(tmp_path / "me", chain, seed=92)
    asked: list[int] = []
    gate = trio.Event()

    async def slow(body: bytes) -> bytes:
        asked.append(wire.decode_blocks_request(body)[0])
        if len(asked) > 1:
            await gate.wait()
        return await them.gossip.answer(wire.Method.BLOCKS, body)

    them.answers[wire.Method.BLOCKS] = slow
    async with network(them, me), trio.open_nursery() as nursery:
        them.says(10**6)  # of which it has no more than it has
        await until(lambda: me.gossip.statuses)
        catchup, _ = me.catch_up()
        nursery.start_soon(catchup.sync.extend, 10**6)
        await until(lambda: catchup.chain.height == wire.BLOCKS_PER_REQUEST_MAX)
        await until(lambda: len(asked) == 1 + blocksync.PAGES_PER_PEER)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert len(asked) == 1 + blocksync.PAGES_PER_PEER
        nursery.cancel_scope.cancel()


def test_of_the_page_that_all_wait_for_a_few_are_asked() -> None:
    pages = blocksync.Pages(0, 64)
    asked = [pages.ask_next(bytes([peer]), 64, now=10.0 * peer) for peer in range(blocksync.ASKERS_PER_PAGE_MAX + 3)]
    assert [page is not None for page in asked] == [True] * blocksync.ASKERS_PER_PAGE_MAX + [False] * 3
    pages.failed(pages._pages[0], b"\1")
    assert pages.ask_next(b"another", 64, now=100.0) is not None, "one of them is out of it"


# --- what is kept ------------------------------------------------------------------------------------------------------------


def test_what_is_heard_before_there_are_rounds_is_bounded(tmp_path: Path) -> None:
    node = Node(Home(tmp_path), Config(home=tmp_path), kit=Kit())
    for seed in range(EARLY_MAX + 10):
        node._hear(contribution(CHAIN.founders[0], CHAIN.state, payload(1), height=seed))
    assert [message.height for message in node.early] == list(range(10, EARLY_MAX + 10))


async def test_scores_look_back_for_some_heights_and_no_further(tmp_path: Path) -> None:
    rig = Rig(tmp_path, members=1, trains=False)
    chain = rig.chain.grow(LISTED_HEIGHTS + 5, contributors=(0,))
    async with rig.running(begins=False):
        for block, _ in chain.decided:
            rig.rounds._close(block)
    assert len(rig.rounds.listed) == LISTED_HEIGHTS


def test_a_running_node_remembers_its_newest_lines(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with logs.logging_to(home, "info", coloured=False):
        log = logs.get_logger()
        for number in range(logs.RECENT_RECORDS_MAX + 10):
            log.info("line", number=number)
        found = logs.recent(10**6)
    assert [record["number"] for record in found] == list(range(10, logs.RECENT_RECORDS_MAX + 10))


def test_a_long_file_is_no_exported_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by its length, before any of it is in memory."""
    file = tmp_path / "chain"
    with file.open("wb") as sparse:
        sparse.truncate(chainfile.BYTES_MAX + 1)
    with pytest.raises(SetUpError, match="larger than any exported chain"):
        chainfile.read(file, Report(path=str(file)))
    with file.open("wb") as sparse:
        sparse.truncate(chainfile.BYTES_MAX)
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"")
    with pytest.raises(SetUpError, match="neither a node's home"):
        chainfile.read(file, Report(path=str(file)))


# --- what an operator's client asks ------------------------------------------------------------------------------------------


async def ask(target: Target, method: str, path: str, *, query: str = "", body: bytes = b"") -> int:
    """The status of an answer of the application itself."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        statuses.append(event.get("status", 0))

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
    await control.application(target)(scope, receive, send)
    return statuses[0]


async def test_numbers_of_a_request_are_taken_up_to_their_bounds() -> None:
    target = Target()
    assert await ask(target, "GET", "/log", query=f"last={control.LAST_MAX}") == 200
    assert await ask(target, "GET", "/log", query=f"last={control.LAST_MAX + 1}") == 400
    assert await ask(target, "POST", "/train", body=b'{"rounds": %d}' % control.ROUNDS_MAX) == 200
    assert await ask(target, "POST", "/train", body=b'{"rounds": %d}' % (control.ROUNDS_MAX + 1)) == 400
    assert await ask(target, "POST", "/invite", body=b'{"heights": %d}' % control.HEIGHT_MAX) == 200
    assert await ask(target, "POST", "/invite", body=b'{"heights": %d}' % (control.HEIGHT_MAX + 1)) == 400
    assert await ask(target, "POST", "/pause", body=b"{}".ljust(control.BODY_BYTES_MAX)) == 200
    assert await ask(target, "POST", "/pause", body=b"{}".ljust(control.BODY_BYTES_MAX + 1)) == 413


async def test_a_connection_that_asks_nothing_is_closed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    home = Home(tmp_path)
    home.path.mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        place = await nursery.start(serve_control, Target(), home)
        async with await trio.open_unix_socket(str(place)) as idle:
            began = trio.current_time()
            assert await idle.receive_some(1) == b""
            assert trio.current_time() - began == pytest.approx(control.IDLE_SECONDS_MAX, abs=0.1)
        nursery.cancel_scope.cancel()
