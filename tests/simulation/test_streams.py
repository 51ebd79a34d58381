"""The simulated network keeps to TCP's habits: order, delay, silence while blocked, and resets from whoever is gone."""

import random

import pytest
import trio

from p2pnode.simulation.streams import Network, Weather
from p2pnode.simulation.whole import BEGINNING_SECONDS, virtually

HERE, THERE = "10.0.0.1", ("10.0.0.2", 7000)
EVEN = Weather(delay_seconds=0.1, spread=0.0, bytes_per_second=1e9)


def meet(scenario, *, weather=EVEN):
    """``scenario(network, dialed, accepted)`` over one connection."""

    async def main():
        network = Network(random.Random(1), weather)
        listener = await network.listen(*THERE)
        dialed = await network.connect(HERE, THERE)
        return await scenario(network, dialed, await listener.accept())

    return virtually(main, seed=1)


def test_bytes_arrive_in_order_a_delay_later():
    async def scenario(network, dialed, accepted):
        sent_at = trio.current_time()
        await dialed.send_all(b"first ")
        await dialed.send_all(b"second")
        received = await accepted.receive_some() + await accepted.receive_some(6)
        assert received == b"first second"
        assert trio.current_time() == pytest.approx(sent_at + 0.1, abs=1e-6)

    meet(scenario)


def test_a_path_has_a_speed():
    async def scenario(network, dialed, accepted):
        await dialed.send_all(bytes(500_000))
        received, began = 0, trio.current_time()
        while received < 500_000:
            received += len(await accepted.receive_some(65536))
        assert trio.current_time() - began == pytest.approx(0.1 + 0.5, rel=0.01)

    meet(scenario, weather=Weather(delay_seconds=0.1, spread=0.0, bytes_per_second=1e6))


def test_what_is_sent_into_a_blocked_path_is_sent_again_at_the_moments_of_tcp():
    async def scenario(network, dialed, accepted):
        network.block(HERE, THERE[0])
        began = trio.current_time()
        await dialed.send_all(b"held")
        await trio.sleep(1.0)
        network.heal()
        assert await accepted.receive_some() == b"held"
        assert trio.current_time() - began == pytest.approx(0.2 + 0.4 + 0.8 + 0.1)  # the third attempt, and the way

    meet(scenario)


def test_an_end_that_closes_is_heard_of_and_one_that_is_gone_answers_with_a_reset():
    async def scenario(network, dialed, accepted):
        await dialed.aclose()
        assert await accepted.receive_some() == b""
        await accepted.send_all(b"too late")
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await accepted.send_all(b"much too late") or await accepted.receive_some()
            await accepted.receive_some()

    meet(scenario)


def test_a_process_that_dies_resets_its_connections_and_a_machine_that_vanishes_does_not():
    async def dies(network, dialed, accepted):
        network.die(THERE[0])
        with pytest.raises(trio.BrokenResourceError):
            await dialed.receive_some()

    async def vanishes(network, dialed, accepted):
        network.die(THERE[0], silently=True)
        await dialed.send_all(b"hello?")
        with trio.move_on_after(100) as patience:
            await dialed.receive_some()
        assert patience.cancelled_caught
        await network.listen(*THERE)  # it is back, and knows nothing of the connection
        await dialed.send_all(b"hello?")
        with pytest.raises(trio.BrokenResourceError):
            await dialed.receive_some()

    meet(dies)
    meet(vanishes)


def test_nobody_listens_or_nobody_answers():
    async def main():
        network = Network(random.Random(1), EVEN)
        with pytest.raises(ConnectionRefusedError):
            await network.connect(HERE, THERE)
        await network.listen(*THERE)
        with pytest.raises(OSError, match="in use"):
            await network.listen(*THERE)
        network.part([HERE], [THERE[0]])
        with trio.move_on_after(100) as patience:
            await network.connect(HERE, THERE)
        assert patience.cancelled_caught
        return trio.current_time()

    assert virtually(main, seed=1) == pytest.approx(BEGINNING_SECONDS + 100.2)
