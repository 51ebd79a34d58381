"""No bound without a test that shows it holding.

A bound is shown by a test that uses its name, or by one listed in `SHOWN`, whose numbers are its. `PACE` is what is no bound at all:
units, and how often we do things of our own accord. `UNSHOWN` is what is owed: nothing is added to it.
"""

import ast
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio

from tests.transport.net import Network, RecordingLog, Rogue, Signal, introduction
from tests.transport.test_hostile import EVE, connect
from transport import MemoryBlobs, limits, sockets
from transport.address import Address
from transport.blobs import BlobServer
from transport.dialing import DialFailure, DialPlan
from transport.errors import Malformed
from transport.establish import DialError, establish
from transport.framing import FRAME_BYTES_MAX, FrameDecoder, Kind, encode_frame
from transport.identity import Identity, PublicKey
from transport.machine import MACHINE, Machine
from transport.outbox import Outbox
from transport.peerbook import PeerRecord
from transport.pex import PexExchange
from transport.sharing import Shared, Sharing
from transport.tcp import TcpStream
from transport.tls import identify

TESTS = Path(__file__).parents[1]
PACE = {"KIB", "MIB", "NEWS_SECONDS", "PEX_ASK_SECONDS", "FEELER_SECONDS", "PING_SECONDS", "DIAL_BACK_GATHER_SECONDS"}
SHOWN = {
    "REQUESTS_PER_HOLDER": "test_blobs.py::test_many_fetches_at_once_from_one_holder",
    "FETCHES_PER_HOLDER_MAX": "test_blobs.py::test_many_fetches_at_once_from_one_holder",
    "ASKERS_PER_LEAF_MAX": "test_transfer.py::test_at_the_end_another_is_asked_for_what_somebody_keeps_us_waiting_for",
    "HOLDER_BYTES_PER_SECOND_MIN": "test_fetch.py::test_who_drips_keeps_nobody_waiting",
    "PATIENCE_SECONDS_MAX": "test_fetch.py::test_who_drips_keeps_nobody_waiting",
    "HASHES_ON_LOOP_MAX": "test_blobs.py::test_a_list_of_hashes_that_takes_several_frames",
    "RESPONSE_PART_BYTES_MAX": "test_requests.py::test_a_long_answer_comes_in_parts",
    "TWIN_SECONDS_MAX": "test_swarm.py::test_what_a_dead_process_had_sent_does_not_keep_its_key_from_the_next",
    "ADDRESS_SECONDS_MAX": "test_peerbook_attacks.py::test_what_answered_once_is_kept_for_a_week",
    "FAILURES_PROVEN_MAX": "test_peerbook_attacks.py::test_what_answered_once_is_kept_for_a_week",
    "FAILURE_SECONDS_MIN": "test_peerbook_attacks.py::test_what_never_answered_is_dropped_after_three_failures_a_minute_apart",
    "NEW_BUCKETS": "test_buckets.py::test_from_one_netgroup_an_eighth_of_the_new_table_is_reached",
    "ANCHORS_MAX": "test_dialing.py::test_anchors_go_first_and_are_the_oldest_links_into_different_netgroups",
    "ANSWERS_MAX": "test_eclipse.py::test_members_come_first_and_answers_are_bounded",
    "ANSWER_SECONDS": "test_eclipse.py::test_a_netgroup_is_told_of_the_same_nodes_for_a_day",
    "ANSWER_PERCENT": "test_eclipse.py::test_a_netgroup_is_told_of_the_same_nodes_for_a_day",
    "ANSWER_RECORDS_MIN": "test_eclipse.py::test_who_is_gone_is_replaced_and_a_small_network_is_told_whole",
    "SEED_WAIT_SECONDS": "test_eclipse.py::test_seeds_are_left_alone_by_whoever_knows_enough_others",
    "DIAL_BACKS_SECONDS": "test_dialback.py::test_one_peer_is_dialed_back_three_times_and_then_told_not_now",
    "OWN_ADDRESS_GROUPS_MIN": "test_reachability.py::test_an_address_is_ones_own_when_two_netgroups_see_it_and_one_came_in_by_it",
    "FELLOW_SECONDS_MAX": "test_sharing.py::test_fellows_whose_source_is_gone_give_up",
    "GROUPS_MIN": "test_sharing.py::test_long_blobs_are_told_in_many_groups_and_short_ones_as_ever",
    "SHARED_LEAVES_MIN": "test_sharing.py::test_long_blobs_are_told_in_many_groups_and_short_ones_as_ever",
    "OUTBOUND_PER_GROUP_MAX": "test_dialing.py::test_into_one_netgroup_of_the_internet_leads_one_link_to_a_stranger",
}
UNSHOWN = {
    "FLIGHT_SECONDS",
    "HELD_SECONDS",
    "OVERLAY_PEERS_MIN",
    "PROBE_SECONDS_MAX",
    "REQUESTS_MIN",
}


def bounds() -> Iterator[str]:
    for node in ast.parse((Path(limits.__file__)).read_text(encoding="utf-8")).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name


def used_by_tests() -> set[str]:
    """Words of the tests, those of import statements apart."""
    words: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        if path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            words |= set(re.findall(r"\b[A-Z][A-Z_]+\b", re.sub(r"^from .*?(\(.*?\)|$)", "", text, flags=re.M | re.S)))
    own = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    for node in ast.walk(own):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
    return words


def test_every_bound_is_shown_to_hold() -> None:
    names = set(bounds())
    missing = names - used_by_tests() - SHOWN.keys() - PACE
    assert missing <= UNSHOWN, f"without a test: {sorted(missing - UNSHOWN)}"
    gone = (SHOWN.keys() | PACE) - names
    assert not gone, f"no such bound any more: {sorted(gone)}"


@pytest.mark.parametrize("name", SHOWN)
def test_the_tests_that_are_named_exist(name: str) -> None:
    file, _, function = SHOWN[name].partition("::")
    assert f"def {function}(" in (TESTS / "transport" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(bounds()))
def test_every_bound_says_why(name: str) -> None:
    """On its line, or on the one below the bracket that a long reason is put into."""
    lines = Path(limits.__file__).read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if re.match(rf"{name}\b", line))
    assert name in ("KIB", "MIB") or "#" in "".join(lines[at : at + 3])


# --- those that no other test shows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (Kind.HELLO, limits.HELLO_BYTES_MAX),
        (Kind.BYE, 1 + limits.BYE_TEXT_BYTES_MAX),
        (Kind.TWIN, limits.BYE_TEXT_BYTES_MAX),
        (Kind.ENVELOPE, limits.ENVELOPE_BYTES_MAX),
        (Kind.REQUEST, 6 + limits.REQUEST_BYTES_MAX),
        (Kind.RESPONSE, 5 + limits.RESPONSE_PART_BYTES_MAX),
        (Kind.LEAF, 8 + limits.LEAF_BYTES),
        (0xFF, limits.APPLICATION_FRAME_BYTES_MAX),
    ],
)
def test_a_frame_is_refused_by_its_header_alone(kind: int, most: int) -> None:
    assert FRAME_BYTES_MAX[kind] == most
    whole, too_long = FrameDecoder(), FrameDecoder()
    whole.feed(encode_frame(kind, bytes(most)))
    assert list(whole) == [(kind, bytes(most))]
    too_long.feed(bytes([kind]) + (most + 1).to_bytes(4, "big"))
    with pytest.raises(Malformed, match="at most"):
        too_long.next()


def test_a_certificate_is_not_parsed_beyond_its_size() -> None:
    with pytest.raises(Malformed, match=f"a certificate of {limits.CERTIFICATE_BYTES_MAX + 1} bytes"):
        identify(bytes(limits.CERTIFICATE_BYTES_MAX + 1))
    with pytest.raises(Malformed, match="does not parse"):
        identify(bytes(limits.CERTIFICATE_BYTES_MAX))


class Hanging(Machine):
    """Whatever it dials never answers."""

    async def connect(self, host: str, port: int) -> object:  # type: ignore[override]
        await trio.sleep_forever()


async def test_a_dial_that_nobody_answers_is_over_in_time(autojump_clock: trio.testing.MockClock) -> None:
    before = MACHINE.set(Hanging())
    try:
        with pytest.raises(DialError) as caught:
            await sockets.connect(Address("192.0.2.1", 1))
    finally:
        MACHINE.reset(before)
    assert caught.value.failure is DialFailure.TIMED_OUT
    assert trio.current_time() == pytest.approx(limits.CONNECT_SECONDS_MAX)


async def test_one_peer_has_few_connections_at_a_time(net: Network) -> None:
    """It dials again and again, and never closes: of two the newer stays, and those before are not kept until they end."""
    node = await net.node()
    rogue = await Rogue.meet(node)
    others = []
    for _ in range(3 * limits.LINKS_PER_PEER_MAX):
        tcp = await trio.open_tcp_stream("127.0.0.1", node.address.port)
        others.append(await establish(tcp, introduction(rogue.identity, tls=rogue.tls), is_client=True))
        session = node.swarm._sessions[rogue.identity.public_key]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len([c for c in session.connections if not c._scope.cancel_called]) <= limits.LINKS_PER_PEER_MAX
    assert node.swarm.statistics().peers == 1
    for shaken in others:
        await trio.aclose_forcefully(shaken.stream)
    await rogue.leave()


async def test_who_is_quiet_is_asked_once_in_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line, _ = await connect(nursery)
        asked: list[float] = []

        async def listen() -> None:
            decoder = FrameDecoder()
            while True:
                decoder.feed(bytes(await line.far.receive_some(1000)))
                asked.extend(trio.current_time() for kind, _ in decoder if kind == Kind.PING)

        nursery.start_soon(listen)
        await trio.sleep(2 * limits.SILENT_SECONDS)
        nursery.cancel_scope.cancel()
    first, *gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert first == pytest.approx(limits.QUIET_SECONDS + limits.TURN_SECONDS, abs=0.01), (
        "the other end's turn comes first"
    )
    assert gaps and all(gap == pytest.approx(limits.QUIET_SECONDS, abs=0.01) for gap in gaps)


def test_news_entitle_to_a_few_requests_and_not_to_any_number() -> None:
    exchange, answered = PexExchange(now=0.0), 0
    for _ in range(100):
        exchange.news()
    with pytest.raises(Malformed, match="too often"):
        for _ in range(100):
            exchange.on_request(bytes(8) + b"\x40", 0.0)
            answered += 1
    assert answered == limits.PEX_REQUESTS_BURST


def test_without_a_quorum_so_many_tries_run_at_once_and_no_more() -> None:
    plan = DialPlan(Identity(bytes(32)).public_key, Random(1))
    members = [Identity(number.to_bytes(32, "big")).public_key for number in range(1, 101)]
    for number, key in enumerate(members):
        plan.offer(Address("127.0.0.1", 1000 + number), key=key, now=0.0)
    plan.set_members(members, 0.0)
    plan.set_quorum(False, 0.0)
    under_way = 0
    for step in range(100):
        under_way += len(plan.due(step / 10, set()))
    assert under_way == limits.QUORUM_DIALS_ALL_MAX


async def test_of_one_peer_a_few_questions_about_holdings_wait() -> None:
    server = BlobServer("eve", EVE.public_key, Outbox(), Sharing(MemoryBlobs()), RecordingLog(Signal()))
    for number in range(1000):
        server.on_held_wanted(number.to_bytes(4, "big") + number.to_bytes(32, "big") + bytes(4))
    assert len(server._curious) == limits.HELD_QUESTIONS_MAX


def test_whoever_says_that_it_fetches_the_same_is_one_of_a_few() -> None:
    met: list[int] = []
    shared = Shared(read_nothing, on_fellow=lambda *_: met.append(1))
    for number in range(1000):
        shared.met(PublicKey(number.to_bytes(32, "big")))
    assert len(shared.fellows) == len(met) == limits.FELLOWS_MAX


async def read_nothing(first: int, count: int) -> bytes:
    return b""


async def test_what_was_fetched_is_served_from_memory_for_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    sharing, shared = Sharing(MemoryBlobs()), Shared(read_nothing, on_fellow=lambda *_: None)
    assert sharing.begin(bytes(32), shared)
    await sharing.linger(bytes(32), shared)
    assert not sharing._shared and trio.current_time() == pytest.approx(limits.LINGER_SECONDS)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no such option")
async def test_the_system_holds_little_that_was_not_sent(net: Network) -> None:
    node = await net.node()
    stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", node.address.port))
    assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == limits.UNSENT_BYTES_MAX
    await stream.aclose()


async def test_what_is_kept_for_each_place_that_peers_come_from_is_bounded(net: Network) -> None:
    """Netgroups that told us of somebody, addresses of our own, and records that were shown: none grows with who comes."""
    node = await net.node()
    rogue = await Rogue.meet(node)
    session, exchange = node.swarm._sessions[rogue.identity.public_key], node.swarm.exchange
    for number in range(limits.SOURCES_MAX + 100):
        place = Address(f"{11 + number // 256}.{number % 256}.0.1", 1)
        object.__setattr__(session._latest, "remote", place)
        exchange._may_tell(session, 0.0)
        exchange._signed(place)
    assert len(exchange._shares) == limits.SOURCES_MAX
    assert len(exchange._own) <= limits.OWN_RECORDS_MAX
    pex, record = PexExchange(now=0.0), PeerRecord.sign(EVE, None, sequence=1, address=Address("127.0.0.1", 1))
    for number in range(0, limits.SHOWN_RECORDS_MAX + 640, 64):
        pex.show([replace(record, signature=(number + each).to_bytes(64, "big")) for each in range(64)], 0.0)
    assert len(pex._shown) == limits.SHOWN_RECORDS_MAX
    await rogue.leave()
