"""Links that go dead without a word: how soon that is noticed, and how soon two nodes talk again once bytes pass."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from tests.switchboard import Switchboard, Switched
from tests.transport.net import Network, Node, Rogue
from transport import limits
from transport.framing import Kind, encode_frame
from transport.identity import Identity
from transport.machine import MACHINE


class Cuttable:
    """Two members whose dials go through a switchboard."""

    def __init__(self, net: Network, board: Switchboard, nodes: list[Node]) -> None:
        self.net, self.board, self.nodes = net, board, nodes

    def quorum(self, has_quorum: bool) -> None:
        for node in self.nodes:
            node.swarm.quorum(has_quorum)

    def hear_each_other(self) -> bool:
        one, two = self.nodes
        return one.key in two.swarm.live() and two.key in one.swarm.live()

    async def until(self, condition: Callable[[], bool]) -> float:
        """While they have no quorum; returns how long it took."""
        began = trio.current_time()

        def look() -> bool:
            self.quorum(False)
            return condition()

        await until(look)
        return trio.current_time() - began


async def until(condition: Callable[[], bool]) -> None:
    """Real time passes in real sockets; how much is not asserted beyond a generous limit."""
    with trio.fail_after(20):
        while True:
            if condition():
                return
            await trio.sleep(0.05)  # silence is no event


@asynccontextmanager
async def two_members(net: Network) -> AsyncIterator[Cuttable]:
    board = Switchboard()
    await net.nursery.start(board.run)
    identities = sorted((Identity.generate() for _ in range(2)), key=lambda i: i.node_id)
    nodes: list[Node] = []
    for place, identity in enumerate(identities):
        token = MACHINE.set(Switched(place, board.port))
        nodes.append(await net.node(*nodes, identity=identity))
        MACHINE.reset(token)
        board.plug_in(place, nodes[-1].address.port)
    for node in nodes:
        node.swarm.members([identity.public_key for identity in identities])
    await net.until(lambda: nodes[0].knows(nodes[1]) and nodes[1].knows(nodes[0]))
    yield Cuttable(net, board, nodes)


@pytest.mark.parametrize("both_ways", [True, False])
async def test_a_cut_is_noticed_and_after_it_a_new_connection_takes_over(net: Network, both_ways: bool) -> None:
    async with two_members(net) as pair:
        one, two = pair.nodes
        pair.board.cut({0}, {1}, both_ways=both_ways)
        noticed = await pair.until(lambda: not pair.hear_each_other())
        assert noticed >= limits.SILENT_SECONDS - limits.PING_SECONDS / 2
        assert one.swarm.is_connected(two.key), "not given up: only not counted on"
        pair.board.heal_all()
        await pair.until(pair.hear_each_other)
        one.swarm.publish(one.envelope(1).frame())
        two.swarm.publish(two.envelope(2).frame())
        await net.until(lambda: bool(one.envelopes()) and bool(two.envelopes()))
        stories = (lambda: one.ups_and_downs(two.key), lambda: two.ups_and_downs(one.key))
        await until(lambda: all(story().startswith("+-+") for story in stories))  # both gave the old one up
        assert not [r for node in pair.nodes for r in node.log.reasons()], "no penalty"
        assert "it fell silent" in {line["reason"] for line in one.log.named("peer disconnected")}


async def test_with_a_quorum_a_silent_member_is_looked_for_too_though_less_and_less_often(net: Network) -> None:
    async with two_members(net) as pair:
        one, two = pair.nodes
        pair.quorum(True)
        pair.board.cut({0}, {1})
        await until(lambda: not pair.hear_each_other())
        pair.quorum(True)
        await until(lambda: pair.board.dials >= 2)
        pair.board.heal_all()
        pair.quorum(True)
        await until(pair.hear_each_other)
        await until(lambda: one.ups_and_downs(two.key).startswith("+-+"))


async def test_members_are_dialed_every_second_through_a_hole_and_tries_overlap(net: Network) -> None:
    async with two_members(net) as pair:
        pair.board.cut({0}, {1})
        await pair.until(lambda: not pair.hear_each_other())
        before, began = pair.board.dials, trio.current_time()
        await pair.until(lambda: pair.board.dials >= before + 8)
        assert trio.current_time() - began < 8 * limits.BACKOFF_QUORUM_SECONDS_MAX / 2 + 2, (
            "two nodes, one a second each"
        )


async def test_questions_that_nobody_answers_are_remembered_up_to_a_number(net: Network) -> None:
    node = await net.node()
    rogue = await Rogue.meet(node)
    (connection,) = node.swarm._sessions[rogue.identity.public_key].connections
    for _ in range(3 * limits.PINGS_UNANSWERED_MAX):
        connection._ping()
    assert len(connection._unanswered) == limits.PINGS_UNANSWERED_MAX
    await rogue.leave()


@pytest.mark.parametrize("kind", [Kind.PING, Kind.PONG])
async def test_a_question_of_another_width_ends_the_connection(net: Network, kind: Kind) -> None:
    node = await net.node()
    rogue = await Rogue.meet(node)
    await rogue.send(encode_frame(kind, bytes(7)))
    await rogue.closed()
    await rogue.leave()
    assert f"a {kind.name} of 7 bytes" in node.log.reasons()
