"""The simulated wide-area network: what it says follows from delays, and costs make it slower, never faster."""

import pytest

from p2pnode.bench.agreement import FAR, NEAR
from p2pnode.bench.costs import Costs
from p2pnode.bench.quorums import Wan, decided_last
from p2pnode.bench.wan import Question, ask

FREE = Costs(0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_limit_is_three_delays_where_all_links_are_equal() -> None:
    delays = Wan(0.05, 0.0).draw(7, seed=1)
    assert decided_last(delays, proposer=3, quorum=5) == pytest.approx(0.15)


@pytest.mark.parametrize(("links", "nodes", "milliseconds"), [(NEAR, 4, 128), (NEAR, 16, 155), (FAR, 16, 286)])
def test_the_limit_is_about_four_delays_whatever_the_size(links: Wan, nodes: int, milliseconds: int) -> None:
    """To the error of a mean over some hundred networks: 128, 155 and 286 ms are from an independent model with the same delays."""
    limits = [decided_last(links.draw(nodes, seed), proposer=0, quorum=2 * nodes // 3 + 1) for seed in range(400)]
    assert sum(limits) / len(limits) * 1e3 == pytest.approx(milliseconds, rel=0.05)


def test_engines_need_three_delays_and_nothing_more() -> None:
    answer = ask(Question(nodes=7, wan=Wan(0.05, 0.0), heights=3), FREE)
    assert answer.views_max == 0
    for seconds in answer.seconds:  # what is over is the processor time of the engines themselves
        assert seconds >= 0.15
    assert all(limit == pytest.approx(0.15) for limit in answer.limit_seconds)


def test_a_message_goes_to_everybody_and_once_along_the_ring() -> None:
    nodes = 7
    answer = ask(Question(nodes=nodes, wan=Wan(0.05, 0.0), heights=2), FREE)
    direct = 2 * nodes * (nodes - 1) + nodes - 1
    assert direct * 0.9 <= answer.messages_per_height <= 2.1 * direct  # COMMITs still on their way are not counted


def test_costs_and_a_body_take_their_time() -> None:
    question = Question(nodes=7, wan=Wan(0.05, 0.0), heights=1)
    slow = ask(question, Costs(1e-3, 1e-3, 3e-3, 1e-4, 0.0)).seconds[0]
    assert slow > 0.15 + 2 * 5 * 1e-3  # two quorums' worth of checks at the least
    few = ask(Question(nodes=7, wan=Wan(0.05, 0.0), heights=1, body_bytes=1 << 20), FREE).seconds[0]
    assert 0.25 < few < 0.4  # two delays more: they hear of it, ask, and have it; and 7 MB on one uplink
    many = ask(Question(nodes=8, wan=Wan(0.05, 0.0), heights=1, body_bytes=1 << 20), FREE).seconds[0]
    assert (
        0.2 < many < 0.25
    )  # one delay more: each piece comes by way of a relay, and no uplink carries more than about one body
