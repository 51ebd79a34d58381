"""Committees in which not everybody can dial everybody: what cannot be said goes through others, and every height is decided."""

from dataclasses import replace

import pytest

from p2pnode.gossip import Gossip
from p2pnode.node import Kit
from tests.p2pnode.partition import committee
from tests.switchboard import say

TOPOLOGIES = {
    "line of 4": (4, [(0, 1), (1, 2), (2, 3)]),
    "star of 4": (4, [(0, 1), (0, 2), (0, 3)]),
    "ring of 4": (4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "two that see each other through a third": (4, [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]),
    "line of 7": (7, [(place, place + 1) for place in range(6)]),
    "star of 7": (7, [(3, place) for place in range(7) if place != 3]),
    "ring of 7": (7, [(place, (place + 1) % 7) for place in range(7)]),
}
LONG = ("star of 4", "ring of 4", "star of 7", "ring of 7")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in TOPOLOGIES]
)
async def test_every_height_is_decided(tmp_path, name):
    count, links = TOPOLOGIES[name]
    async with committee(tmp_path, count, links=links) as nodes:
        took = await nodes.until(lambda: min(nodes.heights()) >= 3)
        for place, node in enumerate(nodes.nodes):
            neighbours = {b if a == place else a for a, b in links if place in (a, b)}
            assert len(node.swarm.peers()) == len(neighbours)
        await nodes.until(lambda: all(node.view.status()["members_reachable"] == count for node in nodes.nodes))
        assert not any("no quorum" in nodes.line(place) for place in range(count))
        nodes.assert_no_fork()
        views = [row["view"] for row in nodes.nodes[0].view.rounds(10)]
        say(f"{name}: {took:.1f} s for 3 heights, views {views}")


class Drop(Gossip):
    """Says nothing of its own in agreement, and passes nothing on."""

    def broadcast(self, message):
        pass

    def tell(self, peer, things):
        pass

    def broadcast_certificate(self, certificate):
        pass

    def _pass_on(self, event, message):
        pass

    def tell_held(self, contribution):
        pass


async def test_a_relay_that_drops_everything_is_gone_around(tmp_path):
    """A ring of five stays connected without any one of them, and four of five decide."""
    ring = [(place, (place + 1) % 5) for place in range(5)]

    def kit(place):
        return replace(Kit(), gossip=Drop) if place == 2 else Kit()

    async with committee(tmp_path, 5, links=ring, kit=kit) as nodes:
        await nodes.until(lambda: min(nodes.heights([0, 1, 3, 4])) >= 3)
        nodes.assert_no_fork()


async def test_what_a_full_mesh_costs(tmp_path):
    """Where all hear all, a vote is passed on once at most: the relay costs what the ring alone did."""
    async with committee(tmp_path, 4) as nodes:
        await nodes.until(lambda: min(nodes.heights()) >= 2)
        await nodes.until(lambda: all(len(node.swarm.live()) == 3 for node in nodes.nodes))
        relays = [node.gossip.relay for node in nodes.nodes]
        before, height = [relay.passed_on for relay in relays], min(nodes.heights())
        across = [relay.passed_across for relay in relays]
        await nodes.until(lambda: min(nodes.heights()) >= height + 5)
        decided = max(nodes.heights()) - height
        passed = sum(relay.passed_on for relay in relays) - sum(before)
        over_gaps = sum(relay.passed_across for relay in relays) - sum(across)
        say(f"{passed / decided:.1f} sends of relays a height, {over_gaps / decided:.1f} of them across gaps")
        # An announcement and two votes of each and a proposal, twice more each; as much again for views that failed.
        assert passed <= 2 * (4 * 3 + 1) * 2 * (decided + 1)
