"""Payloads that go through members: on real sockets, with relays that drop and lie, and with frames that nobody asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import consensus
from p2pnode.gossip import Gossip
from p2pnode.links import Links
from p2pnode.relay import Relay
from p2pnode.spreading import Spreading
from p2pnode.wire import FrameKind
from tests.p2pnode.little import Chain, contribution, until
from tests.p2pnode.partition import committee
from tests.p2pnode.rig import Peer, make_swarm
from tests.switchboard import Switchboard, Switched, say
from transport import content, limits, spread
from transport.framing import encode_frame
from transport.limits import LEAF_BYTES
from transport.machine import MACHINE

MEMBERS = 9
PAYLOAD = b"".join(place.to_bytes(2, "big") * (LEAF_BYTES // 2) for place in range(16))[:-1000]
TREE = content.levels(content.leaf_hashes(content.split(PAYLOAD)))
DIGEST = content.digest_of(PAYLOAD)


def piece(index: int, *, pass_on: bool = False) -> spread.Piece:
    return spread.Piece(DIGEST, index, content.inclusion_path(TREE, index), content.split(PAYLOAD)[index], pass_on)


def frame(made: spread.Piece) -> bytes:
    return encode_frame(FrameKind.SPREAD, *made.encode())


class Drops(Spreading):
    """Keeps what it is to pass on."""

    def _pass_on(self, author: bytes, piece: spread.Piece) -> None:
        pass


class Lies(Spreading):
    """Passes other bytes on."""

    def _pass_on(self, author: bytes, piece: spread.Piece) -> None:
        changed = bytearray(piece.leaf)
        changed[7] ^= 1
        super()._pass_on(author, spread.Piece(piece.digest, piece.index, piece.path, changed, pass_on=True))


class Member(Peer):
    """A founder that announces, spreads and fetches as ``rounds`` does, and has no rounds otherwise."""

    def __init__(self, directory: Path, chain: Chain, place: int, spreading: type[Spreading]) -> None:
        super().__init__(directory, chain)
        self.identity = chain.founders[place]
        self.got: list[bytes | None] = []
        self.make = spreading

    @property
    def spreading(self) -> Spreading:
        return self.gossip.spreading

    def committee(self) -> consensus.Committee:
        return self.chain.state.membership.current

    async def announce(self, payload: bytes = PAYLOAD) -> None:
        self.blobs.put(payload)
        message = contribution(self.identity, self.chain.state, payload)
        self.gossip.broadcast(message)
        await self.gossip.spread(message, payload)

    async def live(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled."""
        self.swarm = make_swarm(self.identity, self.chain.genesis, self.blobs)
        self.gossip = Gossip(
            identity=self.identity,
            swarm=self.swarm,
            genesis=self.chain.genesis,
            store=self.store,
            blobs=self.blobs,
            committee=self.committee,
            log=self.log,
        )
        self.gossip.spreading = self.make(self.key, swarm=self.swarm, committee=self.committee, relay=self.gossip.relay)
        try:
            async with trio.open_nursery() as nursery:

                def hear(message: consensus.Message) -> None:
                    assert isinstance(message, consensus.Contribution)
                    if message not in self.heard:
                        self.heard.append(message)
                        self.spreading.expect(message)
                        nursery.start_soon(self._bring, message)

                self.address = await nursery.start(self.swarm.run)
                nursery.start_soon(self.gossip.listen_forever, hear, {})
                task_status.started()
        finally:
            self.store.close()

    async def _bring(self, message: consensus.Contribution) -> None:
        payload = await self.gossip.fetch_payload(message.payload_digest, message.payload_bytes, [message.author])
        self.got.append(payload)
        if payload is not None:
            self.blobs.put(payload, message.payload_digest)
            self.gossip.tell_held(message)


class Members:
    """A committee whose members can dial one another, but for the pairs in ``cut``."""

    def __init__(self, directory: Path, nursery: trio.Nursery, board: Switchboard) -> None:
        self.chain = Chain(MEMBERS)
        self._directory = directory
        self._nursery = nursery
        self._board = board
        self.all: list[Member] = []

    async def start(self, place: int, spreading: type[Spreading] = Spreading) -> Member:
        """A member that is linked to all that are there."""
        member = Member(self._directory / str(place), self.chain, place, spreading)
        token = MACHINE.set(Switched(place, self._board.port))
        await self._nursery.start(member.live)
        MACHINE.reset(token)
        self._board.plug_in(place, member.address.port)
        for other in self.all:
            member.swarm.dialer.plan.offer(other.address, key=other.key, now=trio.current_time())
        member.swarm.dialer.wake()
        self.all.append(member)
        return member

    async def linked(self, missing: int = 0) -> None:
        """Everybody hears everybody, but for so many ends of links, and all know that."""
        ends = len(self.all) * (len(self.all) - 1) - missing
        await until(lambda: sum(len(member.swarm.live()) for member in self.all) == ends)
        for member in self.all:
            member.gossip.tell_links()
        want = len(self.all)
        await until(lambda: all(len(member.gossip.links._claims) == want for member in self.all))
        await until(
            lambda: sum(len(c.prefixes) for m in self.all for c in m.gossip.links._claims.values()) == ends * want
        )

    def sent(self) -> list[int]:
        return [member.swarm.statistics().bytes_sent for member in self.all]

    async def arrived(self, author: Member, payload: bytes = PAYLOAD) -> None:
        await until(lambda: all(member.got for member in self.all if member is not author))
        assert all(member.got == [payload] for member in self.all if member is not author)


@asynccontextmanager
async def members(
    directory: Path,
    *,
    count: int = MEMBERS,
    cut: Iterable[tuple[int, int]] = (),
    spreading: dict[int, type[Spreading]] | None = None,
) -> AsyncIterator[Members]:
    board = Switchboard()
    async with trio.open_nursery() as nursery:
        await nursery.start(board.run)
        made = Members(directory, nursery, board)
        for a, b in cut:
            board.link(a, b).refuses = board.link(b, a).refuses = True
        for place in range(count):
            await made.start(place, (spreading or {}).get(place, Spreading))
        await made.linked(missing=2 * len(list(cut)))
        yield made
        nursery.cancel_scope.cancel()


def copies(before: list[int], after: list[int]) -> list[float]:
    """How often each has sent the payload, or as many bytes."""
    return [(b - a) / len(PAYLOAD) for a, b in zip(before, after, strict=True)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a leaf may be late, and nothing is fetched for that reason alone."""
    monkeypatch.setattr(limits, "PATIENCE_SECONDS_MIN", 5.0)
    monkeypatch.setattr(limits, "PATIENCE_SECONDS_MAX", 5.0)


async def test_nobody_sends_much_more_than_one_copy(tmp_path: Path, patient: None) -> None:
    async with members(tmp_path) as made:
        before = made.sent()
        await made.all[0].announce()
        await made.arrived(made.all[0])
        sent = copies(before, made.sent())
        say("copies sent by each, the author first: " + " ".join(f"{share:.2f}" for share in sent))
        assert sent[0] < 1.3
        assert max(sent) < 2.2  # two leaves of sixteen to seven others, or three
        assert sum(member.spreading.passed_on for member in made.all) == 16 * (MEMBERS - 2)


async def test_without_it_the_author_sends_a_copy_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPREAD_MEMBERS_MIN", MEMBERS + 1)
    async with members(tmp_path) as made:
        before = made.sent()
        await made.all[0].announce()
        await made.arrived(made.all[0])
        sent = copies(before, made.sent())
        say("copies sent by each, the author first: " + " ".join(f"{share:.2f}" for share in sent))
        assert sum(sent) > MEMBERS - 1
        assert not any(member.spreading.passed_on for member in made.all)


async def test_what_a_relay_drops_is_fetched(tmp_path: Path) -> None:
    async with members(tmp_path, spreading={3: Drops, 5: Drops}) as made:
        await made.all[0].announce()
        await made.arrived(made.all[0])
        assert made.all[3].spreading.passed_on == made.all[5].spreading.passed_on == 0
        assert not any(member.spreading.lies for member in made.all)


async def test_a_relay_that_lies_is_not_listened_to(tmp_path: Path) -> None:
    async with members(tmp_path, spreading={4: Lies}) as made:
        await made.all[0].announce()
        await made.arrived(made.all[0])
        liar = made.all[4]
        others = [member for member in made.all[1:] if member is not liar]
        await until(lambda: all(member.spreading.lies for member in others))
        for member in others:
            assert member.spreading.lies == 1  # the second leaf is not even looked at
            assert member.swarm._liars.holds(liar.key, trio.current_time())
            assert member.swarm.is_connected(liar.key)  # its votes are heard all the same


async def test_a_member_that_does_not_hear_the_author_is_no_hindrance(tmp_path: Path, patient: None) -> None:
    """Its leaves go by another relay, and it fetches the payload once others tell it of it."""
    async with members(tmp_path, cut=[(0, 2)]) as made:
        before = made.sent()
        await made.all[0].announce()
        await made.arrived(made.all[0])
        assert not made.all[2].spreading.passed_on
        assert made.all[2].spreading.unasked == 0
        assert copies(before, made.sent())[0] < 1.4


async def test_who_comes_late_fetches(tmp_path: Path) -> None:
    async with members(tmp_path, count=MEMBERS - 1) as made:
        author = made.all[0]
        await author.announce()
        await made.arrived(author)
        late = await made.start(MEMBERS - 1)
        await made.linked()
        author.gossip.broadcast(contribution(author.identity, made.chain.state, PAYLOAD))
        await made.arrived(author)
        assert late.got == [PAYLOAD]


async def test_what_nobody_announced_is_dropped_unread(tmp_path: Path) -> None:
    """However much of it: nothing is kept, and nothing passed on."""
    async with members(tmp_path, count=2) as made:
        sender, target = made.all
        for number in range(1, 321):
            sender.swarm.publish(frame(piece(number % 16, pass_on=True)), to=[target.key])
            if number % 20 == 0:
                await until(partial(has_dropped, target, number))
        assert target.spreading.find(DIGEST) is None
        assert target.spreading.passed_on == target.spreading.lies == 0


def has_dropped(member: Member, count: int) -> bool:
    return member.spreading.unasked == count


class TestOneNode:
    """What a member takes, frame by frame."""

    @pytest.fixture
    async def made(self, tmp_path: Path) -> AsyncIterator[Members]:
        async with members(tmp_path) as made:
            yield made

    async def test_frames(self, made: Members) -> None:
        target, author, other, *_ = made.all
        others: list[bytes] = [*spread.ring(target.committee().members, author.key)]
        relays = spread.relays(others, 16, linked=lambda _: True)
        ours, theirs = relays.index(target.key), relays.index(made.all[5].key)
        take = target.spreading.take
        target.spreading.expect(contribution(author.identity, made.chain.state, PAYLOAD))
        held = target.spreading.find(DIGEST)
        assert held is not None

        def body(index: int, *, pass_on: bool = False) -> bytes:
            return b"".join(piece(index, pass_on=pass_on).encode())

        take(b"stranger".ljust(32), body(ours))  # no member
        take(author.key, b"short")
        assert (target.spreading.unasked, len(held.missing())) == (2, 16)
        take(author.key, body(theirs, pass_on=True))  # not ours to pass on
        take(other.key, body(ours, pass_on=True))  # not the author
        assert (target.spreading.passed_on, len(held.missing())) == (0, 14)
        take(author.key, body(ours, pass_on=True))  # held already, and yet
        assert target.spreading.passed_on == MEMBERS - 2
        for _ in range(100):
            take(author.key, body(ours, pass_on=True))
            take(other.key, body(ours))
        assert (target.spreading.passed_on, target.spreading.lies, len(held.missing())) == (MEMBERS - 2, 0, 14)
        target.spreading.opened(made.chain.state.height + 2)
        take(author.key, body(theirs))
        assert target.spreading.find(DIGEST) is None
        assert target.spreading.unasked == 3


class TestPatience:
    """When the rest is fetched, in virtual time and without a network: nothing is said about how long a path takes."""

    @pytest.fixture
    def chain(self) -> Chain:
        return Chain(MEMBERS)

    @pytest.fixture
    def part(self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Spreading:
        member = Member(tmp_path / "one", chain, 0, Spreading)
        member.store.close()
        swarm = make_swarm(member.identity, chain.genesis, member.blobs)
        everybody = frozenset(founder.public_key for founder in chain.founders)
        monkeypatch.setattr(swarm, "live", lambda: everybody)
        relay = Relay(member.key, links=Links(member.key), committee=member.committee, height=lambda: 0)
        return Spreading(member.key, swarm=swarm, committee=member.committee, relay=relay)

    async def waited(self, part: Spreading, chain: Chain, moments: list[float], *, hurry: bool = False) -> float:
        """How long one waits for a payload of sixteen leaves that come at these moments, the first announced at zero."""
        part.expect(contribution(chain.founders[1], chain.state, PAYLOAD))
        wanted = part.find(DIGEST)
        assert wanted is not None
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                for index, moment in enumerate(moments):
                    await trio.sleep_until(began + moment)
                    part.take(chain.founders[2].public_key, b"".join(piece(index).encode()))

            nursery.start_soon(come)
            await part.settle(wanted, hurry=hurry)
            nursery.cancel_scope.cancel()
        return trio.current_time() - began

    async def test_it_ends_when_all_is_here(self, part: Spreading, chain: Chain, autojump_clock: MockClock) -> None:
        assert await self.waited(part, chain, [place / 100 for place in range(16)]) == pytest.approx(0.15)

    async def test_silence_costs_the_patience(self, part: Spreading, chain: Chain, autojump_clock: MockClock) -> None:
        assert await self.waited(part, chain, []) == pytest.approx(limits.PATIENCE_SECONDS_MIN)

    async def test_a_leaf_that_is_dropped_costs_it_too(
        self, part: Spreading, chain: Chain, autojump_clock: MockClock
    ) -> None:
        moments = [place / 100 for place in range(15)]
        assert await self.waited(part, chain, moments) == pytest.approx(0.14 + limits.PATIENCE_SECONDS_MIN)

    async def test_who_drips_is_not_waited_for_for_ever(
        self, part: Spreading, chain: Chain, autojump_clock: MockClock
    ) -> None:
        most = limits.PATIENCE_SECONDS_MIN + len(PAYLOAD) / limits.SPREAD_BYTES_PER_SECOND_MIN
        assert await self.waited(part, chain, [place / 5 for place in range(16)]) == pytest.approx(most)

    async def test_where_many_are_spread_each_may_come_slowly(
        self, part: Spreading, chain: Chain, autojump_clock: MockClock
    ) -> None:
        for place in range(2, MEMBERS):
            other = bytes((place,)) * len(PAYLOAD)
            part.expect(contribution(chain.founders[place], chain.state, other))
        assert await self.waited(part, chain, [place / 5 for place in range(16)]) == pytest.approx(3.0)

    async def test_a_block_that_lists_it_waits_for_the_patience_at_most(
        self, part: Spreading, chain: Chain, autojump_clock: MockClock
    ) -> None:
        moments = [place / 5 for place in range(16)]
        assert await self.waited(part, chain, moments, hurry=True) == pytest.approx(limits.PATIENCE_SECONDS_MIN)


async def test_whole_nodes_decide_what_was_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smallest model a payload is one leaf, so that is enough here."""
    monkeypatch.setattr(limits, "SPREAD_LEAVES_MIN", 1)
    async with committee(tmp_path, limits.SPREAD_MEMBERS_MIN) as nodes:
        await nodes.until(lambda: all(len(node.swarm.live()) == 7 for node in nodes.nodes))
        height = min(nodes.heights())
        took = await nodes.until(lambda: min(nodes.heights()) >= max(height, 0) + 3)
        nodes.assert_no_fork()
        parts = [node.gossip.spreading for node in nodes.nodes if node.gossip is not None]
        passed = [part.passed_on for part in parts]
        say(f"{took:.1f} s for 3 heights, leaves passed on by each: {passed}")
        assert sum(passed) > 0
        assert not any(part.lies for part in parts)
