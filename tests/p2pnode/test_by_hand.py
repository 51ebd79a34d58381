"""Homes started by hand, as users do it: one founds, others join in mid-training, one is stopped, one is killed, all come back.

Real processes and sockets. What is asserted is agreement (the same root at the same height, in every home), never a time; waiting is
polling of the control sockets with a generous limit.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnode.client import Client
from p2pnode.errors import UserError
from p2pnode.home import Home

SMALL = {"width": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 64, "context": 128}
SECONDS_MAX = 150.0
TEXT = ("It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 600).encode()


class Machine:
    """One home and the process in it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.home = Home(directory / name)
        self.client = Client(self.home)
        self.process: subprocess.Popen[bytes] | None = None
        self.output = directory / f"{name}.log"

    def start(self, *flags: str) -> None:
        command = [
            sys.executable,
            "-P",
            "-m",
            "p2pnode",
            "start",
            "--home",
            str(self.home),
            "--no-repl",
            "--threads",
            "1",
            *flags,
        ]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.output.parent)

    def end(self, signal_number: int) -> int:
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=30)

    def status(self) -> dict[str, Any]:
        """The node's own words; an empty answer while it does not answer."""
        try:
            return dict(self.client.status())
        except UserError:
            return {}

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            status = self.status()
            if status and wanted(status):
                return status
            assert self.process is not None and self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)
        raise AssertionError(f"not within {SECONDS_MAX} s: {status}\n{self.output.read_text()[-3000:]}")

    def roots(self) -> dict[int, str]:
        return {row["height"]: row["model_root"] for row in self.client.rounds(10_000)}


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(tmp_path, name))
        return made[-1]

    yield make
    for machine in made:
        if machine.process is not None and machine.process.poll() is None:
            machine.process.kill()
            machine.process.wait()
    for machine in made:
        if machine.output.exists():
            assert "Traceback" not in machine.output.read_text()


def same_at_every_common_height(*nodes: Machine) -> int:
    """All roots equal wherever two nodes know a height; returns how many heights all of them know."""
    known = [node.roots() for node in nodes]
    common = set(known[0]).intersection(*known[1:])
    for height in common:
        assert len({roots[height] for roots in known}) == 1, f"height {height}"
    return len(common)


def founder(machine: Machine, tmp_path: Path) -> str:
    """Start a network of one on a small text; returns the address that its own line names."""
    size, text = tmp_path / "small.json", tmp_path / "text.txt"
    size.write_text(json.dumps(SMALL))
    text.write_bytes(TEXT)
    machine.start("--listen", "127.0.0.1:0", "--size", str(size), "--data", str(text))
    join = machine.until(lambda s: s["height"] >= 2)["join"]
    assert join.startswith("p2pnode start --bootstrap 127.0.0.1:")
    return str(join).split()[-1]


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
