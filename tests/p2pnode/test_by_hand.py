"""Homes started by hand, as users do it: one founds, others join in mid-training, one is stopped, one is killed, all come back.

Real processes and sockets. What is asserted is agreement (the same root at the same height, in every home), never a time.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.p2pnode.machines import SECONDS_MAX, Machine, founder, same_at_every_common_height


def test_one_becomes_four_and_survives_a_stop_and_a_kill(machines: Callable[[str], Machine], tmp_path: Path) -> None:
    first = machines("first")
    address = founder(first, tmp_path)
    assert first.status()["reason"] == "one node decides until four are here (1 of 4)"

    others = [machines(name) for name in ("second", "third", "fourth")]
    for node in others:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    everybody = [first, *others]
    for node in everybody:
        status = node.until(lambda s: s["role"] == "member" and s["members"] == 4 and s["members_reachable"] == 4)
        assert status["peers"] == 3  # found through the first by peer exchange
    grown = max(node.status()["height"] for node in everybody)
    for node in everybody:
        node.until(lambda s: s["height"] >= grown + 2)
    assert same_at_every_common_height(*everybody) >= grown

    stopped, killed = others[1], others[2]
    listening = [node.status()["listen"] for node in (stopped, killed)]
    assert stopped.end(signal.SIGINT) == 0
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    first.until(lambda s: s["verdict"] == "halted")
    assert first.status()["reason"] == "no quorum: 2 of 4 members reachable, 3 needed"
    for node, where in zip((stopped, killed), listening, strict=True):
        node.start("--listen", str(where))  # nothing else: the home knows its network and its peers
    height = first.status()["height"]
    for node in everybody:
        node.until(lambda s: s["height"] >= height + 3 and s["members_reachable"] == 4)
    assert same_at_every_common_height(*everybody) >= height + 3
    for node in everybody:
        assert node.status()["evidence"] == 0  # nobody framed itself
    for node in everybody:
        assert node.end(signal.SIGTERM) == 0


def test_a_joiner_waits_for_its_bootstrap_node(machines: Callable[[str], Machine], tmp_path: Path) -> None:
    first, second = machines("first"), machines("second")
    address = founder(first, tmp_path)
    assert first.end(signal.SIGINT) == 0
    second.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    status = second.until(lambda s: "refused" in s["reason"] or "nobody listens" in s["reason"])
    assert (status["verdict"], status["role"]) == ("degraded", "joining")
    first.start("--listen", address)
    second.until(lambda s: s["role"] == "contributor" and s["height"] >= 2)
    assert same_at_every_common_height(first, second) >= 1


def test_whoever_presses_ctrl_c_again_and_again_interrupts_no_saving(
    machines: Callable[[str], Machine], tmp_path: Path
) -> None:
    node = machines("node")
    founder(node, tmp_path)
    node.until(lambda s: s["height"] >= 1)
    assert node.process is not None
    while node.process.poll() is None:
        node.process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    assert node.process.returncode == 0
    assert "stopped" in node.output.read_text().splitlines()[-1]


def test_homes_of_different_networks_do_not_mix(machines: Callable[[str], Machine], tmp_path: Path) -> None:
    first, other = machines("first"), machines("other")
    address = founder(first, tmp_path)
    founder(other, tmp_path)
    own = other.status()["network"]
    assert other.end(signal.SIGINT) == 0
    other.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    other.until(lambda s: s["height"] >= 1)
    assert other.status()["network"] == own
    deadline = time.monotonic() + SECONDS_MAX
    while "wrong network" not in (said := other.output.read_text()):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    assert first.status()["network"][:12] in said.replace("…", "")
