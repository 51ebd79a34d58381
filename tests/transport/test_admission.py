"""Who is let in: places at the door and inside, and that no crowd of strangers shuts out those who matter.

Where addresses matter, hosts have globally routable ones on a simulated network; test_inbound_netns.py has the kernel's.
"""

from typing import Any

import pytest
import trio

from tests.transport.net import Network, Node, Rogue, forged
from tests.transport.test_own_address import PORT, World, simulated
from transport import limits
from transport.address import Address
from transport.admission import Doorway
from transport.establish import DialError
from transport.framing import Kind, encode_frame
from transport.handshake import Bye
from transport.identity import Identity


def come(door: Doorway, host: str, now: float) -> trio.CancelScope | None:
    scope = trio.CancelScope()
    return scope if door.enter(Address(host, 1), scope, now) else None


async def test_who_dawdles_at_the_door_makes_room_for_who_comes() -> None:
    door = Doorway()
    slow = [come(door, "10.0.0.1", now=0.0) for _ in range(limits.HANDSHAKES_MAX - 1)]
    honest = come(door, "10.0.0.2", now=0.0)
    assert None not in slow and honest is not None
    assert come(door, "10.0.0.3", now=0.5) is None, "nobody has had his second yet"
    assert come(door, "10.0.0.3", now=limits.HANDSHAKE_SECONDS_MIN) is not None
    assert slow[0] is not None and slow[0].cancel_called, "the oldest of those that hold most"
    assert not honest.cancel_called and len(door) == limits.HANDSHAKES_MAX


async def test_one_host_far_away_takes_few_places() -> None:
    door = Doorway()
    far = [come(door, "198.51.99.1", now=0.0) for _ in range(limits.HANDSHAKES_PER_IP_MAX + 1)]
    assert far[-1] is None and None not in far[:-1]
    first = far[0]
    assert first is not None
    door.leave(first)
    door.leave(first)
    assert come(door, "198.51.99.1", now=0.0) is not None


async def test_one_line_far_away_is_one_host_however_many_addresses_it_has() -> None:
    door = Doorway()
    taken = [come(door, f"2a00:1450:1:2::{number}", now=0.0) for number in range(1, limits.HANDSHAKES_PER_IP_MAX + 1)]
    assert None not in taken
    assert come(door, "2a00:1450:1:2::ffff", now=0.0) is None
    assert come(door, "2a00:1450:1:3::1", now=0.0) is not None


async def test_a_netgroup_that_takes_all_places_gives_way_at_once() -> None:
    """Sixty-four hosts of one network that begin anew all the time are never older than a second."""
    door = Doorway()
    flood = [come(door, f"93.184.1.{number}", now=0.0) for number in range(limits.HANDSHAKES_MAX)]
    assert None not in flood
    assert come(door, "93.184.2.1", now=0.1) is None, "one of their own has to wait"
    places = limits.HANDSHAKES_MAX - limits.HANDSHAKES_PER_GROUP_MAX
    honest = [come(door, f"{20 + number}.1.1.1", now=0.1) for number in range(places)]
    assert None not in honest
    assert sum(scope.cancel_called for scope in flood if scope) == places
    assert come(door, "19.1.1.1", now=0.1) is None, "what remains is its share"
    assert len(door) == limits.HANDSHAKES_MAX


async def test_strangers_that_never_speak_keep_nobody_out(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """All places at the door are held by connections that say nothing; a node comes in all the same."""
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS_MIN", 0.0)
    alice = await net.node()
    mute = [await trio.open_tcp_stream("127.0.0.1", alice.address.port) for _ in range(limits.HANDSHAKES_MAX)]
    bob = await net.node(alice)
    await net.until(lambda: alice.knows(bob))
    for stream in mute:
        await trio.aclose_forcefully(stream)


async def test_a_node_full_of_strangers_still_reaches_whom_it_dials(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members come in beyond the limit, and so do the answers of those that the node itself looked for."""
    monkeypatch.setattr(limits, "PEERS_MAX", 2)
    alice = await net.node()
    crowd = [await Rogue.meet(alice) for _ in range(2)]
    member = Identity.generate()
    refused = await net.node(alice)
    await net.until(lambda: any("enough peers" in reason for reason in alice.log.reasons()))
    assert not alice.swarm.is_connected(refused.key)
    alice.swarm.members([member.public_key])
    inside = await net.node(alice, identity=member)
    await net.until(lambda: alice.knows(inside))
    wanted = await net.node()
    alice.swarm.dialer.plan.offer(wanted.address, key=wanted.key, now=trio.current_time())
    alice.swarm.dialer.wake()
    await net.until(lambda: alice.knows(wanted))
    for rogue in crowd:
        await rogue.leave()


# --- By address -----------------------------------------------------------------------------------------------------

HERE = "11.1.1.1"
FULL_IP = (Bye.FULL, "this node has enough peers at that IP address")
FULL_GROUP = (Bye.FULL, "this node has enough peers of that address group")


async def refused(world: World, host: str, **how: Any) -> tuple[Bye | None, str]:
    """What somebody from there is told who is not let in."""
    with pytest.raises(DialError) as caught:
        await world.stranger(host, HERE, **how)
    assert caught.value.told, "in words, not by a closed connection"
    return caught.value.bye, caught.value.reason


def inside(node: Node, *rogues: Rogue) -> bool:
    return all(node.swarm.is_connected(rogue.identity.public_key) for rogue in rogues)


async def come_in(world: World, node: Node, host: str, **how: Any) -> Rogue:
    """Somebody from there who is let in, here as well as there."""
    rogue = await world.stranger(host, HERE, **how)
    await world.until(lambda: inside(node, rogue))
    return rogue


async def gone(world: World, node: Node, rogue: Rogue) -> None:
    await rogue.leave()
    await world.until(lambda: not inside(node, rogue))


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("12.1.1.1", "12.1.1.1", "12.1.1.2"),
        ("2a00:1450:1:2::1", "2a00:1450:1:2:ffff::2", "2a00:1450:1:3::1"),
    ],
)
def test_from_one_ip_group_come_a_few_strangers_and_any_number_of_members(one: str, same: str, other: str) -> None:
    async def scenario(world: World) -> None:
        node, member = await world.node(HERE), Identity.generate()
        node.swarm.members([member.public_key])
        crowd = [await come_in(world, node, same) for _ in range(limits.INBOUND_PER_IP_MAX)]
        assert await refused(world, one) == await refused(world, same) == FULL_IP
        assert node.swarm.statistics().refused == 2
        assert node.log.reasons() == [FULL_IP[1]] * 2
        crowd += [await come_in(world, node, one, identity=member), await come_in(world, node, other)]
        assert inside(node, *crowd)
        await gone(world, node, crowd[0])
        await come_in(world, node, one)
        assert await refused(world, one) == FULL_IP, "the member takes no place, and the two do"

    simulated(scenario)


def test_from_one_netgroup_comes_a_quarter_of_all_strangers_and_any_number_of_members() -> None:
    async def scenario(world: World) -> None:
        node, member = await world.node(HERE), Identity.generate()
        node.swarm.members([member.public_key])
        assert limits.PEERS_MAX / 4 == limits.INBOUND_PER_GROUP_MAX
        for number in range(limits.INBOUND_PER_GROUP_MAX):
            await come_in(world, node, f"12.1.1.{number // limits.INBOUND_PER_IP_MAX + 1}")
        assert await refused(world, "12.1.200.1") == FULL_GROUP
        assert node.log.reasons() == [FULL_GROUP[1]]
        await come_in(world, node, "12.1.200.1", identity=member)
        await come_in(world, node, "12.2.1.1")
        assert len(node.swarm.peers()) == limits.INBOUND_PER_GROUP_MAX + 2

    simulated(scenario)


@pytest.mark.parametrize("host", ["192.168.1.2", "100.64.1.2"])
def test_addresses_that_say_nothing_about_who_is_there_are_not_counted(host: str) -> None:
    async def scenario(world: World) -> None:
        node = await world.node(HERE)
        crowd = [await come_in(world, node, host) for _ in range(limits.INBOUND_PER_GROUP_MAX + 1)]
        assert inside(node, *crowd)

    simulated(scenario)


def test_whom_a_node_dials_it_reaches_whoever_has_come_from_there_and_he_takes_no_place() -> None:
    async def scenario(world: World) -> None:
        node, wanted = await world.node(HERE), [await world.node(host) for host in ("12.1.1.1", "13.1.1.1")]
        for _ in range(limits.INBOUND_PER_IP_MAX):
            await come_in(world, node, "12.1.1.1")
        for other in wanted:
            host = "12.1.1.1" if other is wanted[0] else "13.1.1.1"
            node.swarm.dialer.plan.offer(Address(host, PORT), key=other.key, now=trio.current_time())
        node.swarm.dialer.wake()
        await world.until(lambda: node.knows(*wanted), seconds=5)
        assert await refused(world, "12.1.1.1") == FULL_IP
        for _ in range(limits.INBOUND_PER_IP_MAX):
            await come_in(world, node, "13.1.1.1")

    simulated(scenario)


def test_of_many_that_come_at_once_no_more_get_in() -> None:
    """All are at the door before the first is inside."""

    async def scenario(world: World) -> None:
        node, told = await world.node(HERE), []

        async def come_one() -> None:
            try:
                await world.stranger("12.1.1.1", HERE)
            except DialError as error:
                told.append((error.bye, error.reason))

        async with trio.open_nursery() as nursery:
            for _ in range(limits.HANDSHAKES_PER_IP_MAX):
                nursery.start_soon(come_one)
        assert told == [FULL_IP] * (limits.HANDSHAKES_PER_IP_MAX - limits.INBOUND_PER_IP_MAX)
        await world.until(lambda: len(node.swarm.peers()) == limits.INBOUND_PER_IP_MAX)

    simulated(scenario)


def test_a_handshake_holds_its_place_until_it_is_over_and_frees_it_then() -> None:
    """Else whoever keeps a second one waiting for each of his connections could let these go, and have new ones beside them."""

    async def scenario(world: World) -> None:
        node = await world.node(HERE)
        crowd = [await come_in(world, node, "12.1.1.1") for _ in range(limits.INBOUND_PER_IP_MAX)]
        judged, go_on = trio.Event(), trio.Event()

        async def wait(peer: object, *, is_client: bool) -> None:
            judged.set()
            await go_on.wait()

        async def again() -> None:
            first = crowd[0]
            await world.stranger("12.1.1.1", HERE, identity=first.identity, tls=first.tls, admit=wait)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(again)
            await judged.wait()
            await trio.sleep(1.0)  # what the client sent last is with the node
            await gone(world, node, crowd[0])
            assert await refused(world, "12.1.1.1") == FULL_IP
            go_on.set()
        await world.until(lambda: inside(node, *crowd))

        async def never(peer: object, *, is_client: bool) -> None:
            await trio.sleep_forever()

        with pytest.raises(DialError, match="no HELLO"):
            await world.stranger("12.1.1.2", HERE, admit=never)
        await trio.sleep(1.0)
        assert not node.swarm._admission._coming

    simulated(scenario)


def test_who_moves_is_counted_where_he_is() -> None:
    """Else one netgroup could be filled from another, again and again."""

    async def scenario(world: World) -> None:
        node = await world.node(HERE)
        for _ in range(limits.INBOUND_PER_IP_MAX):
            await come_in(world, node, "12.1.1.1")
        elsewhere = await come_in(world, node, "13.1.1.1")
        who = {"identity": elsewhere.identity, "tls": elsewhere.tls}
        assert await refused(world, "12.1.1.1", **who) == FULL_IP
        assert inside(node, elsewhere), "where he was he may stay"
        await come_in(world, node, "14.1.1.1", **who)
        assert len(node.swarm.peers()) == limits.INBOUND_PER_IP_MAX + 1

    simulated(scenario)


# --- Bans ---------------------------------------------------------------------------------------------------------------


def test_a_proven_liar_is_kept_out_by_its_key_and_for_a_while_strangers_from_its_address() -> None:
    async def scenario(world: World) -> None:
        node, member = await world.node(HERE), Identity.generate()
        node.swarm.members([member.public_key])
        neighbour, liar = [await come_in(world, node, "12.1.1.1") for _ in range(2)]
        world.nursery.start_soon(neighbour.stay)
        await liar.send(forged())
        await liar.closed()
        lied_at = trio.current_time()
        await world.until(lambda: not inside(node, liar))

        assert (await refused(world, "12.1.1.1"))[0] is Bye.BANNED, "a new key costs nothing"
        assert (await refused(world, "13.1.1.1", identity=liar.identity))[0] is Bye.BANNED
        reasons = node.log.reasons()
        assert "wrong signature" in reasons[0]
        assert reasons[1:] == [
            "a proven liar came from that IP address a moment ago",
            "it is banned for a proven fault",
        ]
        innocent = await come_in(world, node, "12.1.1.2")
        one_of_us = await come_in(world, node, "12.1.1.1", identity=member)
        assert inside(node, innocent, one_of_us, neighbour)
        await come_in(world, node, "12.1.1.1", identity=neighbour.identity, tls=neighbour.tls)
        assert inside(node, neighbour), "who is connected may connect anew"

        await trio.sleep_until(lied_at + limits.IP_BAN_SECONDS - 1)
        assert (await refused(world, "12.1.1.1"))[0] is Bye.BANNED
        await trio.sleep_until(lied_at + limits.IP_BAN_SECONDS + 1)
        await come_in(world, node, "12.1.1.1")
        assert (await refused(world, "13.1.1.1", identity=liar.identity))[0] is Bye.BANNED
        await trio.sleep_until(lied_at + limits.BAN_SECONDS + 1)
        await come_in(world, node, "13.1.1.1", identity=liar.identity)

    simulated(scenario)


def test_a_fault_that_proves_nothing_bans_no_address() -> None:
    async def scenario(world: World) -> None:
        node = await world.node(HERE)
        clumsy = await come_in(world, node, "12.1.1.1")
        await clumsy.send(encode_frame(Kind.ACK, bytes(32)))
        await clumsy.closed()
        await world.until(lambda: not inside(node, clumsy))
        await come_in(world, node, "12.1.1.1", identity=clumsy.identity)

    simulated(scenario)
