"""Whole swarms on an internet of netgroups, in virtual time: eclipse by a neighbour with many keys, restarts, feelers, seeds.

Every honest node has a netgroup of its own. The attacker has as many nodes as he likes, all of them in one; they speak the protocol
properly, dial everybody, and tell of one another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from random import Random

import pytest
import trio

from p2pnode.simulation.whole import virtually
from tests.transport.net import CHAIN, Node, RecordingLog, echo
from tests.transport.test_own_address import EVERYWHERE, PORT, Host, World
from transport import limits
from transport.address import Address, Scope
from transport.blobs import MemoryBlobs
from transport.buckets import Table
from transport.events import PeerConnected
from transport.exchange import Answers
from transport.identity import Identity
from transport.machine import MACHINE
from transport.netgroup import netgroup
from transport.peerbook import PeerBook, PeerRecord
from transport.swarm import Swarm

MALLORY = "93.184"


def honest(number: int) -> str:
    return f"{20 + number}.{number}.0.1"


class Internet(World):
    """Nodes by their addresses; a node keeps its key and, if it likes, its book over a restart."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.identities: dict[str, Identity] = {}
        self._seeds = count(1)

    async def at(self, host: str, *bootstrap: str, book: bytes | None = None) -> Node:
        token = MACHINE.set(Host(self.network, host))
        try:
            log = RecordingLog(self.signal)
            seed = next(self._seeds).to_bytes(32, "big")
            swarm = Swarm(
                identity=self.identities.setdefault(host, Identity(seed)),
                listen=EVERYWHERE,
                listen_fallback=False,
                announce=None,
                bootstrap=[Address(there, PORT) for there in bootstrap],
                book=PeerBook() if book is None else PeerBook.load(book),
                chain_id=CHAIN,
                handler=echo,
                blobs=MemoryBlobs(),
                log=log,
            )
            node = Node(swarm, log, self.signal)
            await self.nursery.start(self._live, node)
        finally:
            MACHINE.reset(token)
        return node

    async def stop(self, node: Node) -> bytes:
        """As Ctrl-C does; returns what the node keeps."""
        saved = node.swarm.saved_book()()
        node.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        return saved


def on_the_internet(scenario: Callable[[Internet], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await scenario(Internet(nursery))
            nursery.cancel_scope.cancel()

    virtually(main, seed=1)


def outbound_groups(node: Node) -> list[bytes]:
    return [netgroup(peer.address) for peer in node.swarm.peers() if peer.direction == "outbound"]


def first_met(node: Node) -> list[str]:
    return [event.peer.address.host for event in node.of(PeerConnected)]


def knows_all(nodes: list[Node]) -> bool:
    return all(a.swarm.is_connected(b.key) for a in nodes for b in nodes if a is not b)


def test_an_attacker_with_one_netgroup_gets_one_of_our_links_however_many_nodes_he_runs() -> None:
    async def scenario(internet: Internet) -> None:
        friends = [await internet.at(honest(0))]
        friends += [await internet.at(honest(n), honest(0)) for n in range(1, 5)]
        attackers = [await internet.at(f"{MALLORY}.1.1", honest(0))]
        attackers += [await internet.at(f"{MALLORY}.1.{n}", f"{MALLORY}.1.1", honest(0)) for n in range(2, 11)]
        await trio.sleep(10)
        victim = await internet.at(honest(9), honest(0))
        await internet.until(lambda: all(victim.swarm.is_connected(n.key) for n in friends), seconds=120)
        await trio.sleep(30)
        assert sum(victim.swarm.is_connected(n.key) for n in attackers) > 5, "they have come to us, as they may"
        assert outbound_groups(victim).count(b"4:" + bytes((93, 184))) <= 1
        assert all(victim.swarm.is_connected(n.key) for n in friends)
        for friend in friends:
            assert outbound_groups(friend).count(b"4:" + bytes((93, 184))) <= 1

    on_the_internet(scenario)


def test_after_a_restart_amid_attackers_the_first_links_are_those_it_had() -> None:
    async def scenario(internet: Internet) -> None:
        friends = [await internet.at(honest(0))]
        friends += [await internet.at(honest(n), honest(0)) for n in range(1, 5)]
        victim = await internet.at(honest(9), honest(0))
        await internet.until(lambda: all(victim.swarm.is_connected(n.key) for n in friends))
        [await internet.at(f"{MALLORY}.1.{n}", honest(0)) for n in range(1, 9)]
        await trio.sleep(10)
        ours = {peer.address.host for peer in victim.swarm.peers() if peer.direction == "outbound"}
        saved = await internet.stop(victim)
        anchors = [e.record.address.host for e in PeerBook.load(saved).anchored()]
        assert len(anchors) == limits.ANCHORS_MAX
        assert set(anchors) <= ours - {f"{MALLORY}.1.{n}" for n in range(1, 9)}
        await trio.sleep(5)
        victim = await internet.at(honest(9), book=saved)
        await internet.until(lambda: all(victim.swarm.is_connected(n.key) for n in friends))
        dialed = [e.peer.address.host for e in victim.of(PeerConnected) if e.peer.direction == "outbound"]
        assert set(anchors) & set(dialed[: limits.DIALS_MAX])

    on_the_internet(scenario)


def test_members_find_one_another_when_all_restart_and_the_bootstrap_node_is_gone() -> None:
    """One after the other within some minutes: whoever is alone goes on trying, and forgets nobody."""

    async def scenario(internet: Internet) -> None:
        seed = await internet.at(honest(0))
        nodes = [await internet.at(honest(n), honest(0)) for n in range(1, 7)]
        await internet.until(lambda: knows_all(nodes))
        await internet.stop(seed)
        saved = [await internet.stop(node) for node in nodes]
        await trio.sleep(8 * 86400)  # all addresses are stale by now
        again: list[Node] = []
        for number, book in enumerate(saved, start=1):
            again.append(await internet.at(honest(number), honest(0), book=book))
            await trio.sleep(40)
        await internet.until(lambda: knows_all(again), seconds=limits.BACKOFF_MEMBER_SECONDS_MAX + 10)

    on_the_internet(scenario)


def test_a_feeler_proves_an_address_and_leaves_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTBOUND_PEERS_MAX", 2)
    monkeypatch.setattr(limits, "OUTBOUND_PEERS_MIN", 1)
    monkeypatch.setattr(limits, "FEELER_SECONDS", 2.0)
    monkeypatch.setattr(limits, "FAILURE_SECONDS_MIN", 1.0)

    async def scenario(internet: Internet) -> None:
        stranger = await internet.at(honest(5))
        gone = Identity(b"\x77" * 32)
        nodes = [await internet.at(honest(0)), await internet.at(honest(1), honest(0))]
        node = await internet.at(honest(2), honest(0), honest(1))
        await internet.until(lambda: all(node.swarm.is_connected(n.key) for n in nodes))
        now = 1_800_000_000.0 + trio.current_time()
        identities = ((stranger.swarm.identity, honest(5)), (gone, honest(6)))
        for identity, host in identities:
            record = PeerRecord.sign(identity, CHAIN, sequence=int(now * 1000), address=Address(host, PORT))
            assert node.swarm.book.add(record, source=Address(honest(0), 1), chain_id=CHAIN, now=now)
        await internet.until(
            lambda: (e := node.swarm.book.get(stranger.key, Scope.GLOBAL)) is not None and e.is_tried, seconds=120
        )
        await internet.until(lambda: not node.swarm.book.of(gone.public_key), seconds=120)
        assert stranger.of(PeerConnected) == []
        assert len(node.swarm.peers()) == 2

    on_the_internet(scenario)


def test_a_place_in_a_full_bucket_changes_hands_only_if_its_holder_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table, "is_full", lambda table, bucket: len(table) >= 3 and len(table[bucket]) >= 1)
    monkeypatch.setattr("transport.buckets.TRIED_BUCKETS", 1)
    monkeypatch.setattr(limits, "FEELER_SECONDS", 2.0)

    async def scenario(internet: Internet) -> None:
        nodes = [await internet.at(honest(0))]
        nodes += [await internet.at(honest(n), honest(0)) for n in range(1, 4)]
        node = await internet.at(honest(9), *[honest(n) for n in range(4)])
        await internet.until(lambda: all(node.swarm.is_connected(n.key) for n in nodes))
        book = node.swarm.book
        await internet.until(lambda: book.tried == 3 and book.to_test() is not None)
        await internet.until(lambda: book.to_test() is None, seconds=60)
        kept = {entry.record.key for entry in book if entry.is_tried}
        (waiting,) = {n.key for n in nodes} - kept
        holder = min((e for e in book if e.is_tried), key=lambda e: e.succeeded_at)
        gone = next(n for n in nodes if n.key == holder.record.key)
        now = 1_800_000_000.0 + trio.current_time()
        await internet.stop(gone)
        book.succeeded(waiting, book.addresses(waiting)[0], now=now)
        await internet.until(lambda: waiting in {e.record.key for e in book if e.is_tried}, seconds=60)
        assert holder.record.key not in {e.record.key for e in book if e.is_tried}

    on_the_internet(scenario)


def test_seeds_are_left_alone_by_whoever_knows_enough_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEEDED_PEERS_MIN", 3)

    async def scenario(internet: Internet) -> None:
        seed = await internet.at(honest(0))
        nodes = [await internet.at(honest(n), honest(0)) for n in range(1, 6)]
        newest = nodes[-1]
        await internet.until(lambda: knows_all([seed, *nodes]))
        for other in nodes[:-1]:  # as if its own dials had reached them all
            record = newest.swarm.book.get(other.key, Scope.GLOBAL)
            assert record is not None
            newest.swarm.book.succeeded(other.key, record.record.address, now=1_800_000_000.0 + trio.current_time())
        newest.swarm.book.forget(seed.key, Address(honest(0), PORT))
        saved = await internet.stop(newest)
        await trio.sleep(2)
        met = len(seed.of(PeerConnected))
        again = await internet.at(honest(5), honest(0), book=saved)
        await internet.until(lambda: len(again.swarm.peers()) >= 3)
        assert again.swarm.bootstrap_peers() == []
        assert len(seed.of(PeerConnected)) <= met + 1, "the seed may have dialed it"

    on_the_internet(scenario)


def records(number: int) -> list[PeerRecord]:
    return [
        PeerRecord.sign(
            Identity(n.to_bytes(32, "big")), CHAIN, sequence=1, address=Address(f"20.{n % 256}.{n // 256}.1", PORT)
        )
        for n in range(1, number + 1)
    ]


def test_a_netgroup_is_told_of_the_same_nodes_for_a_day() -> None:
    alive = records(200)
    answers = Answers(Random(1))
    told = answers.of(b"4:xx", alive, members=(), now=0.0)
    assert len(told) == 200 * limits.ANSWER_PERCENT // 100
    assert answers.of(b"4:xx", alive, members=(), now=limits.ANSWER_SECONDS - 1) == told
    assert {r.key for r in answers.of(b"4:yy", alive, members=(), now=0.0)} != {r.key for r in told}
    later = answers.of(b"4:xx", alive, members=(), now=limits.ANSWER_SECONDS + 1)
    assert {r.key for r in later} != {r.key for r in told}


def test_who_is_gone_is_replaced_and_a_small_network_is_told_whole() -> None:
    alive = records(limits.ANSWER_RECORDS_MIN)
    answers = Answers(Random(1))
    assert {r.key for r in answers.of(b"4:xx", alive[:-2], members=(), now=0.0)} == {r.key for r in alive[:-2]}
    assert {r.key for r in answers.of(b"4:xx", alive, members=(), now=1.0)} == {r.key for r in alive}, "and so is news"
    many = records(200)
    told = answers.of(b"4:zz", many, members=(), now=0.0)
    left = [r for r in many if r.key != told[0].key]
    again = answers.of(b"4:zz", left, members=(), now=1.0)
    assert len({r.key for r in told} & {r.key for r in again}) == len(told) - 1


def test_all_are_told_of_members_who_take_nobodys_place_and_answers_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ANSWERS_MAX", 3)
    alive = records(200)
    members = {r.key for r in alive[100:]}
    answers = Answers(Random(1))
    told = {r.key for r in answers.of(b"4:aa", alive, members=members, now=0.0)}
    assert members <= told and len(told - members) == limits.ANSWER_RECORDS_MIN
    many = records(400)
    for number in range(10):
        told = {r.key for r in answers.of(b"%d" % number, many, members=members, now=0.0)}
        assert len(told - members) == 64, "23 of a hundred would be more"
    assert len(answers._given) == 3
