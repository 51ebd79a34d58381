"""Who votes, as operators decide it: by invitation, by a list, by leaving, with a threshold. Homes started by hand, on real sockets."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnode.errors import UserError
from tests.p2pnode.machines import Machine, founder, same_at_every_common_height

Make = Callable[[str], Machine]


def command(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    """A `p2pnode` command about this home, in a process of its own."""
    line = [sys.executable, "-P", "-m", "p2pnode", *words, "--home", str(machine.home)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, cwd=machine.output.parent)


def key_of(machine: Machine) -> str:
    return str(json.loads(command(machine, "id", "--json").stdout)["public_key"])


def together(*machines: Machine) -> None:
    """All of them are the committee, and every one hears every other."""
    for machine in machines:
        machine.until(lambda s: s["role"] == "member" and s["members"] == s["members_reachable"] == len(machines))


def go_on(heights: int, *machines: Machine) -> int:
    """So many heights further on every one, one root at each; returns the height."""
    height = max(machine.until(lambda s: "height" in s)["height"] for machine in machines) + heights
    for machine in machines:
        machine.until(lambda s: s["height"] >= height)
    assert same_at_every_common_height(*machines) >= 1
    return height


def test_three_are_invited_and_one_leaves_for_good(machines: Make, tmp_path: Path) -> None:
    first = machines("first")
    address = founder(first, tmp_path, "--policy", "invite")
    bootstrap = ("--listen", "127.0.0.1:0", "--bootstrap", address)
    others = [machines(name) for name in ("second", "third", "fourth")]
    tokens = [str(first.client.invite()["token"]) for _ in others]
    waiting = machines("waiting")
    waiting.start(*bootstrap)
    for node, token in zip(others, tokens, strict=True):
        node.start(*bootstrap, "--invite", token)
    together(first, *others)
    status = waiting.until(lambda s: s["role"] == "contributor" and s["members"] == 4)
    assert status["standing"] == "contributor: needs an invitation"
    assert waiting.end(signal.SIGINT) == 0
    waiting.start("--invite", tokens[0])
    waiting.until(lambda s: s["standing"] == "contributor: cannot join: the invitation was used already")

    leaver = others[0]
    done = command(leaver, "leave", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["remaining"], answer["needed"], answer["faults_tolerated"]) == (3, 3, 0)
    assert leaver.status()["role"] == "observer"
    first.until(lambda s: s["members"] == 3)
    assert leaver.end(signal.SIGINT) == 0
    leaver.start()
    status = leaver.until(lambda s: s["role"] == "observer" and s["standing"] is not None)
    assert status["standing"] == "observer: left the committee; p2pnode train contributes again"
    assert status["training"]["state"] == "paused"
    go_on(2, first, *others, waiting)


@pytest.mark.long
def test_one_of_five_leaves_while_they_train_and_the_last_one_cannot(machines: Make, tmp_path: Path) -> None:
    first = machines("first")
    address = founder(first, tmp_path)
    with pytest.raises(UserError, match="the only member"):
        first.client.leave()
    others = [machines(name) for name in ("second", "third", "fourth", "fifth")]
    for node in others:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    together(first, *others)
    assert first.client.parting()["reason"] == "4 of 5 members remain, 3 needed: one fault tolerated"
    assert command(first, "leave", "--yes").returncode == 0
    for node in others:
        node.until(lambda s: s["members"] == 4)
    assert first.status()["role"] == "observer"
    go_on(3, *others)
    for node in (first, *others):
        node.client.pause()
    others[0].until(lambda s: s["verdict"] == "idle")
    assert command(others[1], "leave", "--yes").returncode == 0  # what is asked for makes heights of its own
    for node in (others[0], *others[2:]):
        node.until(lambda s: s["members"] == 3)
        node.client.train()
    go_on(2, *others)
    rows = {row["height"]: row for row in others[0].client.rounds(10_000)}
    assert [gone["why"] for row in rows.values() for gone in row["left"]] == ["left", "left"]


@pytest.mark.long
def test_who_is_absent_for_fifty_heights_is_put_out_and_may_come_back(machines: Make, tmp_path: Path) -> None:
    nodes = [machines(name) for name in ("first", "second", "third", "fourth", "fifth")]
    address = founder(nodes[0], tmp_path)
    for node in nodes[1:]:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    together(*nodes)
    absentee, *others = reversed(nodes)
    node_id = absentee.status()["node"]
    assert absentee.end(signal.SIGKILL) == -signal.SIGKILL
    others[0].until(lambda s: [row["node"] for row in s["absent"]] == [node_id])
    for node in others:
        node.until(lambda s: s["members"] == 4)
    rows = {row["height"]: row for row in others[0].client.rounds(10_000)}
    assert [gone for row in rows.values() for gone in row["left"]] == [{"node": node_id, "why": "absent"}]
    absentee.start()
    absentee.until(lambda s: s["role"] == "contributor")
    absentee.until(lambda s: s["role"] == "member" and s["members"] == 5)
    go_on(2, *nodes)


@pytest.mark.long
def test_an_allowlist_names_who_gets_a_vote(machines: Make, tmp_path: Path) -> None:
    first, *others = [machines(name) for name in ("first", "second", "third", "fourth")]
    allow = [word for node in others for word in ("--allow", key_of(node))]
    address = founder(first, tmp_path, "--policy", "allowlist", *allow)
    stranger = machines("stranger")
    for node in (stranger, *others):
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    together(first, *others)
    status = stranger.until(lambda s: s["role"] == "contributor" and s["members"] == 4)
    assert status["standing"] == "contributor: not on the network's allowlist, so it gets no vote"
    height = go_on(5, first, *others, stranger)
    assert first.status()["members"] == 4 and height >= 5


@pytest.mark.long
def test_a_threshold_of_all_waits_for_all(machines: Make, tmp_path: Path) -> None:
    nodes = [machines(name) for name in ("first", "second", "third", "fourth")]
    address = founder(nodes[0], tmp_path, "--threshold", "100")
    for node in nodes[1:]:
        node.start("--listen", "127.0.0.1:0", "--bootstrap", address)
    together(*nodes)
    assert nodes[0].status()["quorum"] == 4
    assert nodes[3].end(signal.SIGKILL) == -signal.SIGKILL
    status = nodes[0].until(lambda s: s["verdict"] == "halted")
    assert status["reason"] == "no quorum: 3 of 4 members reachable, 4 needed"
    nodes[3].start()
    go_on(2, *nodes)
    other = machines("other")
    other.start("--bootstrap", address, "--threshold", "80", "--listen", "127.0.0.1:0")
    assert other.process is not None and other.process.wait(60) == 3
    assert "--threshold 80: the network has 100" in other.output.read_text()
