"""With whom members of a large committee keep links (p2pnode/overlay.py), as pure values and with whole nodes in virtual time."""

from collections import deque
from random import Random

import pytest

from p2pnode import overlay
from p2pnode.overlay import DRAW_SECONDS, DRAWN, LINKS_WANTED, MESH_MEMBERS_MAX, RINGS, Overlay, neighbours
from p2pnode.simulation.cluster import Cluster
from tests.simulation.test_whole import play
from tests.switchboard import say
from transport import limits

SEED = b"a network"


def keys(count: int) -> list[bytes]:
    return sorted(Random(place).randbytes(32) for place in range(count))


def graph(members: list[bytes], *, dialable: set[bytes] | None = None, rounds: int = 40) -> dict[bytes, set[bytes]]:
    """The links that stand once everybody has asked again and again; who is not ``dialable`` can only dial."""
    parts = {key: Overlay(key, seed=SEED, rng=Random(key)) for key in members}
    links: dict[bytes, set[bytes]] = {key: set() for key in members}
    for now in range(rounds):
        dialed: set[frozenset[bytes]] = set()
        for key, part in parts.items():
            wanted = part.wanted(members, live=links[key], now=float(now))
            assert wanted is not None and key not in wanted
            dialed |= {frozenset((key, other)) for other in wanted if dialable is None or other in dialable}
        for pair in dialed:
            one, other = pair
            links[one].add(other)
            links[other].add(one)
    return links


def reached(links: dict[bytes, set[bytes]], start: bytes, *, without: set[bytes]) -> dict[bytes, int]:
    """How many steps it is to everybody, none of them over ``without``."""
    steps, edge = {start: 0}, deque([start])
    while edge:
        one = edge.popleft()
        for other in sorted(links[one] - without - steps.keys()):
            steps[other] = steps[one] + 1
            edge.append(other)
    return steps


def test_a_small_committee_is_a_mesh():
    part = Overlay(keys(1)[0], seed=SEED, rng=Random(1))
    assert part.wanted(keys(MESH_MEMBERS_MAX), live=(), now=0.0) is None
    assert part.wanted(keys(MESH_MEMBERS_MAX + 1), live=(), now=0.0) is not None


def test_neighbours_are_mutual_and_nobody_is_without():
    members = keys(40)
    sides = {key: neighbours(key, members, seed=SEED) for key in members}
    for key, others in sides.items():
        assert key not in others and RINGS <= len(others) <= 2 * RINGS
        assert all(key in sides[other] for other in others)
    assert sides != {key: neighbours(key, members, seed=b"another") for key in members}
    assert neighbours(b"stranger", members, seed=SEED) == frozenset()


@pytest.mark.parametrize("count", [33, 40, 64, 128])
def test_about_sixteen_links_and_few_steps(count):
    members = keys(count)
    links = graph(members)
    degrees = sorted(len(others) for others in links.values())
    assert degrees[0] >= LINKS_WANTED - 6 and degrees[-1] <= overlay.LINKS_MAX
    assert LINKS_WANTED - 2 <= sum(degrees) / count <= LINKS_WANTED + 4
    steps = reached(links, members[0], without=set())
    assert len(steps) == count and max(steps.values()) <= 3


@pytest.mark.parametrize("seed", range(20))
def test_without_any_third_the_others_are_connected(seed):
    members = keys(100)
    links = graph(members)
    gone = set(Random(seed).sample(members, 33))
    start = next(key for key in members if key not in gone)
    assert len(reached(links, start, without=gone)) == 67


def test_who_surrounds_a_victim_on_the_rings_has_not_cut_it_off():
    members = keys(100)
    links = graph(members)
    victim = members[50]
    surrounding = set(neighbours(victim, members, seed=SEED))
    assert len(reached(links, victim, without=surrounding)) == 100 - len(surrounding)


def test_where_most_cannot_be_dialed_they_dial_more():
    members = keys(60)
    dialable = set(members[::3])
    links = graph(members, dialable=dialable, rounds=120)
    assert min(len(links[key]) for key in members) >= 8
    assert len(reached(links, members[1], without=set())) == 60


def test_a_draw_that_does_not_come_about_is_given_up_for_another():
    members = keys(40)
    part = Overlay(members[0], seed=SEED, rng=Random(3))
    sides = neighbours(members[0], members, seed=SEED)
    first = part.wanted(members, live=(), now=0.0)
    assert len(first - sides) == DRAWN
    assert part.wanted(members, live=(), now=DRAW_SECONDS - 1) == first
    second = part.wanted(members, live=(), now=DRAW_SECONDS)
    assert len(second - sides) >= DRAWN and second != first
    assert sides <= second
    kept = part.wanted(members, live=second, now=DRAW_SECONDS * 2)
    assert second <= kept


def test_who_has_links_enough_gives_up_what_it_drew_beyond_its_share():
    members = keys(100)
    part = Overlay(members[0], seed=SEED, rng=Random(3))
    sides = neighbours(members[0], members, seed=SEED)
    wanted = part.wanted(members, live=sides, now=0.0)
    wanted = part.wanted(members, live=wanted, now=DRAW_SECONDS)
    assert len(wanted - sides) > DRAWN
    others = [key for key in members[1:] if key not in wanted][: overlay.LINKS_MAX + 1 - len(wanted)]
    assert part.wanted(members, live=[*wanted, *others[1:]], now=DRAW_SECONDS) == wanted, "so many are not too many"
    fewer = part.wanted(members, live=[*wanted, *others], now=DRAW_SECONDS)
    assert fewer < wanted and len(fewer) == len(wanted) - 1


def test_who_is_no_member_draws_a_few():
    members = keys(40)
    part = Overlay(b"stranger", seed=SEED, rng=Random(4))
    wanted = part.wanted(members, live=(), now=0.0)
    assert len(wanted) == DRAWN and wanted <= set(members)


# --- whole nodes ---------------------------------------------------------------------------------------------------------------------


def play_sparsely(count: int, *, heights: int, seconds: float) -> tuple[list[int], list[int]]:
    """A committee of whole nodes that are linked in part, in virtual time; how many each was linked to, and sends of relays, at the end."""
    degrees, passed_on = [], []

    async def scenario(cluster: Cluster) -> None:
        cluster.start(*cluster.members)
        await cluster.reach(heights, seconds=seconds)
        await cluster.until(
            lambda: all(
                member.status["members_reachable"] == count
                and len(member.node.swarm.live()) < count - 1
                and len(rows := member.node.store.rounds(1)) == 1
                and rows[0]["contributions"] == count
                and len(member.node.gossip.standings()) == count - 1
                and member.status["verdict"] == "healthy"  # a moment after the block is in the store
                for member in cluster.members
            ),
            seconds=seconds,
            what="all contributions over part of the links",
        )
        degrees.extend(len(member.node.swarm.live()) for member in cluster.members)
        passed_on.extend(member.node.gossip.relay.passed_on for member in cluster.members)
        assert all(len(member.node.delays._one_way) for member in cluster.members)
        assert not any(member.node.gossip.spreading.passed_on for member in cluster.members)

    play(scenario, founders=count)
    return degrees, passed_on


def test_a_committee_that_is_linked_in_part_decides_with_everybodys_contribution(monkeypatch):
    for name, value in {"MESH_MEMBERS_MAX": 4, "RINGS": 1, "DRAWN": 1, "LINKS_WANTED": 4, "LINKS_MAX": 5}.items():
        monkeypatch.setattr(overlay, name, value)
    monkeypatch.setattr(limits, "OVERLAY_PEERS_MIN", 3)
    monkeypatch.setattr(limits, "SPREAD_LEAVES_MIN", 1)
    degrees, passed_on = play_sparsely(9, heights=3, seconds=60)
    say(f"nine members, links of each: {degrees}, sends of relays by each: {passed_on}")
    assert sum(degrees) / 9 < 7


@pytest.mark.long
def test_forty_members_on_sixteen_links():
    degrees, passed_on = play_sparsely(40, heights=3, seconds=60)
    say(f"forty members: {min(degrees)} to {max(degrees)} links, {sum(passed_on) / 40:.0f} sends of relays by each")
    assert sum(degrees) / 40 <= LINKS_WANTED + 4 and max(degrees) <= overlay.LINKS_MAX + DRAWN
