"""What an operator reads about reachability, word for word, and where it is read: ``status``, the log of ``start``, the line to join with."""

import pytest

from p2pnode import logs, openness
from p2pnode.config import Endpoint
from p2pnode.home import Home
from tests.p2pnode.little import identities, make_genesis, until
from tests.p2pnode.test_node import NEWCOMER, living, make_home, make_node, ready
from transport import Address, Reach, Result, Scope, Verdict

HERE, WORLD = Address("0.0.0.0", 7337), Address("8.8.4.4", 7337)


def say(reach: Reach, *, listen: Address = HERE, announced: Address | None = None) -> str:
    return openness.line(reach, listen=listen, announced=announced)


@pytest.mark.parametrize(
    ("reach", "text"),
    [
        (Reach(Verdict.YES, scope=Scope.GLOBAL, peers=2), "yes (dialed back by 2 peers)"),
        (Reach(Verdict.YES, scope=Scope.GLOBAL, peers=1, failed=2), "yes (dialed back by 1 of 3 peers)"),
        (Reach(Verdict.YES, scope=Scope.PRIVATE, peers=1), "yes, from this local network (dialed back by 1 peer)"),
        (Reach(Verdict.YES, scope=Scope.LOOPBACK, peers=3), "yes, from this machine (dialed back by 3 peers)"),
        (
            Reach(Verdict.NO, scope=Scope.GLOBAL, failed=2, address=WORLD, result=Result.TIMED_OUT),
            "no: open TCP port 7337 to this machine, in its firewall and in the router"
            " (2 peers tried at 8.8.4.4:7337: no answer)",
        ),
        (
            Reach(Verdict.NO, scope=Scope.GLOBAL, failed=1, address=WORLD, result=Result.ANOTHER),
            "no: forward TCP port 7337 to this machine in the router"
            " (1 peer tried at 8.8.4.4:7337: something else answers there)",
        ),
        (Reach(Verdict.UNKNOWN), "unknown: no peer has tried it yet"),
        (Reach(Verdict.UNKNOWN, asked=1), "unknown: 1 peer is trying"),
        (Reach(Verdict.UNKNOWN, asked=2), "unknown: 2 peers are trying"),
    ],
)
def test_the_line_is_a_verdict_and_what_to_do(reach: Reach, text: str) -> None:
    assert say(reach) == text
    assert openness.facts(reach, listen=HERE, announced=None)["text"] == text


def test_a_listener_on_loopback_is_told_how_to_let_others_in() -> None:
    shut = Reach(Verdict.NO, scope=Scope.GLOBAL, failed=1, address=WORLD, result=Result.REFUSED)
    text = say(shut, listen=Address("127.0.0.1", 7337))
    assert text.startswith("no: it listens on 127.0.0.1 only; start with --listen 0.0.0.0:7337 (1 peer tried")


def test_an_address_that_peers_do_not_see_is_named_beside_theirs() -> None:
    elsewhere = Reach(Verdict.UNKNOWN, address=WORLD)
    assert say(elsewhere, announced=Address("9.9.9.9", 7337)) == (
        "unknown: peers see this node at 8.8.4.4, and not at 9.9.9.9:7337, which it announces"
    )


def test_the_announced_port_is_the_one_to_open() -> None:
    shut = Reach(Verdict.NO, scope=Scope.GLOBAL, failed=1, address=WORLD, result=Result.TIMED_OUT)
    assert "open TCP port 443 " in say(shut, announced=Address("8.8.4.4", 443))


async def test_two_nodes_dial_each_other_back_and_say_so(tmp_path):
    founders = identities(1)
    genesis = make_genesis(founders)
    one = make_node(make_home(tmp_path / "one", founders[0], genesis))
    logs._recent.clear()  # nodes of other tests have lived in this process
    with logs.logging_to(Home(tmp_path / "one"), "info"):
        async with living(one):
            await until(lambda: ready(one))
            assert one.view.status()["reachable"]["text"] == "unknown: no peer has tried it yet"
            two = make_node(make_home(tmp_path / "two", NEWCOMER), bootstrap=(Endpoint("127.0.0.1", one.bound.port),))
            async with living(two):
                said = "reachable: yes, from this machine (dialed back by 1 peer)"
                await until(lambda: [r["event"] for r in logs.recent(1000)].count(said) == 2)
                status = two.view.status()
                assert status["reachable"]["text"] == "yes, from this machine (dialed back by 1 peer)"
                assert abs(status["clock_seconds"]) < 5
                assert status["bootstrap_failures"] == {}
