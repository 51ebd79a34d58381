"""A node behind a router learns its own address from strangers, and tells others of it; whole swarms, in virtual time, on a simulated network.

The hosts have globally routable addresses, each in a netgroup of its own. A node behind a router has a private one, and the router's is what
others see; whether it forwards a port is what these tests turn on and off.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from p2pnode.simulation.streams import Listener, Network, Stream, Weather
from p2pnode.simulation.whole import virtually
from tests.transport.net import CHAIN, Node, RecordingLog, Rogue, Signal, echo, introduction
from transport import limits, sockets
from transport.address import Address, Scope
from transport.blobs import MemoryBlobs
from transport.establish import DialError, establish
from transport.events import ReachabilityChanged
from transport.framing import Kind, encode_frame
from transport.identity import Identity
from transport.machine import MACHINE, Machine
from transport.peerbook import PeerBook
from transport.reachability import Result, Verdict, decode_answer
from transport.swarm import Swarm
from transport.tls import TlsIdentity, tls_identity

PORT = 7337
EVERYWHERE = Address("0.0.0.0", PORT)
INSIDE = "192.168.1.2"
NAMES: dict[str, str] = {}
PUBLIC = "12.7.7.7"


class Host(Machine):
    """A machine with one address, or behind a router that has it."""

    def __init__(self, network: Network, address: str, *, inside: str | None = None, forwards: bool = True) -> None:
        self._network, self.address, self._inside, self.forwards = network, address, inside, forwards
        self._rng = random.Random(address)
        self.names = NAMES

    async def listen(self, host: str, port: int) -> list[Listener]:
        listener = await self._network.listen(self.address if self.forwards else f"{self.address}-inside", port)
        accept = listener.accept

        async def accepted() -> Stream:
            return self._translated(await accept())

        listener.accept = accepted
        return [listener]

    async def connect(self, host: str, port: int) -> Stream:
        return self._translated(await self._network.connect(self.address, (host, port)))

    async def look_up(self, host: str) -> str:
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    def unix_seconds(self) -> float:
        return 1_800_000_000.0 + trio.current_time()

    def _translated(self, stream: Stream) -> Stream:
        """This end knows only its own side of the router."""
        if self._inside is not None:
            names = stream.socket
            port = names.getsockname()[1]
            names.getsockname = lambda: (self._inside, port)
        return stream


class World:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = Network(random.Random(5), Weather(delay_seconds=0.05))
        self.signal = Signal()
        self.nursery = nursery

    async def node(self, host: str, *bootstrap: str, announce: Address | None = None, **options: object) -> Node:
        token = MACHINE.set(Host(self.network, host, **options))
        try:
            log = RecordingLog(self.signal)
            swarm = Swarm(
                identity=Identity.generate(),
                listen=EVERYWHERE,
                listen_fallback=False,
                announce=announce,
                bootstrap=[Address(there, PORT) for there in bootstrap],
                book=PeerBook(),
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

    async def _live(self, node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        with node.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.swarm.run)
                task_status.started()
                async for event in node.swarm.events:
                    node.seen.append(event)
                    self.signal.fire()

    async def stranger(
        self,
        host: str,
        to: str,
        *,
        is_probe: bool = False,
        identity: Identity | None = None,
        tls: TlsIdentity | None = None,
        admit: Any = None,
    ) -> Rogue:
        """Somebody who shakes hands and then does as he likes."""
        identity = identity or Identity.generate()
        tls = tls or tls_identity(identity)
        intro = replace(introduction(identity, tls=tls, admit=admit), is_probe=is_probe)
        stream = await Host(self.network, host).connect(to, PORT)
        return Rogue(await establish(stream, intro, is_client=True), identity, tls)

    async def until(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - in virtual time a look costs nothing
                await trio.sleep(0.1)


def simulated(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await scenario(World(nursery))
            nursery.cancel_scope.cancel()

    virtually(main, seed=1)


def verdicts(node: Node) -> list[Verdict]:
    return [event.reach.verdict for event in node.of(ReachabilityChanged)]


def addresses(node: Node, of: Node) -> list[Address]:
    """Where `node` believes that the other one can be dialed."""
    return node.swarm.book.addresses(of.key)


def test_behind_a_router_that_forwards_it_learns_its_address_and_others_hear_of_it() -> None:
    async def scenario(world: World) -> None:
        first = await world.node("11.1.1.1")
        second = await world.node("13.1.1.1", "11.1.1.1")
        home = await world.node(PUBLIC, "11.1.1.1", inside=INSIDE)
        await world.until(lambda: verdicts(home) == [Verdict.YES])
        await world.until(lambda: home.swarm.own_address() == Address(PUBLIC, PORT))
        await world.until(lambda: Address(PUBLIC, PORT) in addresses(first, home) + addresses(second, home))
        reach = home.swarm.reach()
        assert (reach.scope, reach.address) == (Scope.GLOBAL, Address(PUBLIC, PORT))
        seen = {peer.key: peer for node in (first, second) for peer in node.swarm.peers()}[home.key]
        assert (seen.address, seen.listens) == (Address(PUBLIC, PORT), True)
        late = await world.node("14.1.1.1", "11.1.1.1")
        await world.until(lambda: addresses(late, home) == [Address(PUBLIC, PORT)])
        for node in (first, second, late):
            assert not any(address.host == INSIDE for address in addresses(node, home)), (
                "a private address is nobody's business"
            )

    simulated(scenario)


def test_behind_a_router_that_forwards_nothing_it_is_told_what_to_open_and_takes_part_all_the_same() -> None:
    async def scenario(world: World) -> None:
        first = await world.node("11.1.1.1")
        second = await world.node("13.1.1.1", "11.1.1.1")
        home = await world.node(PUBLIC, "11.1.1.1", inside=INSIDE, forwards=False)
        await world.until(lambda: verdicts(home) == [Verdict.NO])
        reach = home.swarm.reach()
        assert (reach.address, reach.result) == (Address(PUBLIC, PORT), Result.REFUSED)
        assert home.swarm.own_address() is None
        await world.until(lambda: home.knows(first, second), seconds=600)
        assert addresses(first, home) == addresses(second, home) == []

    simulated(scenario)


def test_a_port_that_is_opened_is_noticed_within_a_minute_and_one_that_is_closed_within_ten() -> None:
    async def scenario(world: World) -> None:
        first = await world.node("11.1.1.1")
        await world.node("13.1.1.1", "11.1.1.1")
        home = await world.node(PUBLIC, "11.1.1.1", inside=INSIDE)
        await world.until(lambda: verdicts(home) == [Verdict.YES])
        listener = world.network._listeners.pop((PUBLIC, PORT))
        await world.until(lambda: verdicts(home)[-1] is Verdict.NO, seconds=limits.DIAL_BACK_CHECK_SECONDS + 30)
        world.network._listeners[PUBLIC, PORT] = listener
        await world.until(lambda: verdicts(home)[-1] is Verdict.YES, seconds=limits.DIAL_BACK_AGAIN_SECONDS + 30)
        assert first.ups_and_downs(home.key) == "+"

    simulated(scenario)


def test_what_the_operator_announces_wins() -> None:
    async def scenario(world: World) -> None:
        first = await world.node("11.1.1.1")
        await world.node("13.1.1.1", "11.1.1.1")
        named = Address("15.5.5.5", PORT)
        home = await world.node(PUBLIC, "11.1.1.1", inside=INSIDE, announce=named)
        await world.until(lambda: addresses(first, home) == [named])
        await trio.sleep(120)
        assert addresses(first, home) == [named]
        assert verdicts(home)[-1] is Verdict.YES

    simulated(scenario)


def test_a_name_that_is_announced_is_looked_up_and_its_number_told() -> None:
    async def scenario(world: World) -> None:
        NAMES.clear()
        first = await world.node("11.1.1.1")
        home = await world.node(PUBLIC, "11.1.1.1", inside=INSIDE, announce=Address("home.example", PORT))
        await world.until(lambda: bool(home.log.named("own name not found")))
        assert addresses(first, home) == []
        for number in ("15.5.5.5", "16.6.6.6"):
            NAMES["home.example"] = number
            wanted = [Address(number, PORT)]
            await world.until(
                lambda wanted=wanted: addresses(first, home) == wanted, seconds=limits.LOOK_UP_SECONDS + 30
            )

    simulated(scenario)


async def test_the_systems_names_are_looked_up() -> None:
    assert (await sockets.look_up(Address("localhost", 9))).scope is Scope.LOOPBACK
    with pytest.raises(DialError, match="the name is not known"):
        await sockets.look_up(Address("a" * 64, 9))


def test_a_private_address_is_told_to_nobody_outside() -> None:
    async def scenario(world: World) -> None:
        far = await world.node("11.1.1.1")
        one = await world.node("192.168.1.3")
        two = await world.node("192.168.1.4", "192.168.1.3", "11.1.1.1")
        await world.until(lambda: two.knows(one, far) and bool(addresses(two, one)) and bool(addresses(one, two)))
        await trio.sleep(120)
        assert not any(entry.record.address.scope is Scope.PRIVATE for entry in far.swarm.book)
        assert addresses(one, two) == [Address("192.168.1.4", PORT)]

    simulated(scenario)


def test_one_peer_is_dialed_back_three_times_and_then_once_in_half_a_minute() -> None:
    async def scenario(world: World) -> None:
        await world.node("11.1.1.1")
        rogue = await world.stranger("12.1.1.1", "11.1.1.1")

        async def ask() -> Result:
            await rogue.send(encode_frame(Kind.DIAL_BACK, struct.pack(">QH", 1, 9)))
            return decode_answer(await rogue.next(Kind.DIALED_BACK))[1]

        async def stay() -> None:
            await trio.sleep(limits.DIAL_BACKS_SECONDS / 10)
            await rogue.send(encode_frame(Kind.PING, bytes(8)))
            await rogue.next(Kind.PONG)

        burst = int(limits.DIAL_BACKS_BURST)
        assert [await ask() for _ in range(burst + 2)] == [Result.REFUSED] * burst + [Result.BUSY] * 2
        for _ in range(3):
            for _ in range(10):
                await stay()
            assert [await ask(), await ask()] == [Result.REFUSED, Result.BUSY]

    simulated(scenario)


def test_a_probe_that_does_not_end_is_ended() -> None:
    async def scenario(world: World) -> None:
        node = await world.node("11.1.1.1")
        probes = [await world.stranger(f"{number}.1.1.1", "11.1.1.1", is_probe=True) for number in range(12, 16)]
        began = trio.current_time()
        for rogue in probes:
            await rogue.closed()
        assert trio.current_time() - began <= limits.PROBE_SECONDS_MAX + 1
        assert node.swarm.peers() == [] and not node.of(ReachabilityChanged)

    simulated(scenario)


def test_of_its_own_records_a_node_keeps_a_few() -> None:
    async def scenario(world: World) -> None:
        node = await world.node("11.1.1.1")
        for number in range(1, 250):
            record = node.swarm.exchange.own_record(Address(f"11.1.2.{number}", 1), Scope.GLOBAL)
            assert record is not None and record.address == Address(f"11.1.2.{number}", PORT)
            assert len(node.swarm.exchange._own) <= limits.OWN_RECORDS_MAX

    simulated(scenario)
