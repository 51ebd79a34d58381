"""Who is let in: places at the door, and that no crowd of strangers shuts out those who matter."""

import pytest
import trio

from tests.transport.net import Network, Rogue
from transport import limits
from transport.address import Address
from transport.admission import Doorway
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
    assert slow[0] is not None and slow[0].cancel_called, "the oldest of the host that holds most"
    assert not honest.cancel_called and len(door) == limits.HANDSHAKES_MAX


async def test_one_host_far_away_takes_few_places() -> None:
    door = Doorway()
    far = [come(door, "198.51.99.1", now=0.0) for _ in range(limits.HANDSHAKES_PER_HOST_MAX + 1)]
    assert far[-1] is None and None not in far[:-1]
    first = far[0]
    assert first is not None
    door.leave(first)
    door.leave(first)
    assert come(door, "198.51.99.1", now=0.0) is not None


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
