"""Real processes, each in a network namespace of its own, on one bridge; cut as cables are cut, and as routers lose packets.

Needs root and the tools of iproute2 (behind routers: nftables as well), and is skipped with the reason where that is not to be had;
test_partition.py covers the same ground everywhere. Here TCP itself is cut off: its retransmissions back off, its connections stay, and
nobody is told. Behind a router TCP is translated as at home: nothing comes in that nobody inside has asked for.
"""

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pnode.founding import open_blobs, write_genesis
from tests.p2pnode.little import TEXT, identities, make_genesis
from tests.p2pnode.machines import Machine, same_at_every_common_height
from tests.switchboard import say

pytestmark = pytest.mark.long

COUNT = 5
PORT = 7337
SUBNET = "10.213.77"
NUMBERS = itertools.count()  # the kernel is slow to forget a name


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def why_not() -> str | None:
    """What keeps this machine from making namespaces."""
    if shutil.which("ip") is None:
        return "no iproute2 here"
    name = f"p2pnode-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    run("ip", "netns", "delete", name)
    return None


class Wires:
    """A bridge with a cable to each namespace."""

    def __init__(self) -> None:
        self._tag = f"{os.getpid() % 10000:04d}{next(NUMBERS)}"
        self._bridge = f"pb{self._tag}"
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "link", "set", self._bridge, "up")
        for place in range(COUNT):
            run("ip", "netns", "add", self.namespace(place))
            run(
                "ip",
                "link",
                "add",
                self.cable(place),
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self.namespace(place),
            )
            run("ip", "link", "set", self.cable(place), "master", self._bridge, "up")
            inside = ("ip", "-n", self.namespace(place))
            run(*inside, "addr", "add", f"{SUBNET}.{place + 1}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")

    def namespace(self, place: int) -> str:
        return f"p2pn{self._tag}-{place}"

    def cable(self, place: int) -> str:
        return f"pv{self._tag}-{place}"

    def unplug(self, place: int, how: str) -> None:
        """Pull the cable, which a machine notices; or take it off the bridge, so that all that is sent is lost without a word."""
        run("ip", "link", "set", self.cable(place), *(["down"] if how == "cable" else ["nomaster"]))

    def plug(self, place: int, how: str) -> None:
        run("ip", "link", "set", self.cable(place), *(["up"] if how == "cable" else ["master", self._bridge]))

    def remove(self) -> None:
        for place in range(COUNT):
            subprocess.run(["ip", "netns", "delete", self.namespace(place)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)


PUBLIC = 2  # of the five; the others are at home, each behind a router of its own
ROUTER = """
table ip p2pnode {
    chain translate { type nat hook postrouting priority 100; oifname "wan" masquerade; }
    chain in { type filter hook input priority 0; policy drop; ct state established,related accept; }
    chain through { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" accept; }
}
"""


class Internet:
    """Two machines with addresses of their own, and three homes, whose machines all have the same address."""

    def __init__(self) -> None:
        self._tag = f"{os.getpid() % 10000:04d}{next(NUMBERS)}"
        self._bridge = f"pb{self._tag}"
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "link", "set", self._bridge, "up")
        for place in range(COUNT):
            run("ip", "netns", "add", self.namespace(place))
            run("ip", "-n", self.namespace(place), "link", "set", "lo", "up")
            outside, device = self.namespace(place), "eth0"
            if place >= PUBLIC:
                outside, device = self._router(place), "wan"
            cable = f"pv{self._tag}-{place}"
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", device, "netns", outside)
            run("ip", "link", "set", cable, "master", self._bridge, "up")
            run("ip", "-n", outside, "addr", "add", f"11.{place + 1}.0.1/8", "dev", device)
            run("ip", "-n", outside, "link", "set", device, "up")

    def namespace(self, place: int) -> str:
        return f"p2pn{self._tag}-{place}"

    def address(self, place: int) -> str:
        """At which its machine listens."""
        return f"11.{place + 1}.0.1:{PORT}" if place < PUBLIC else f"192.168.1.2:{PORT}"

    def _router(self, place: int) -> str:
        inside, router = self.namespace(place), f"{self.namespace(place)}r"
        run("ip", "netns", "add", router)
        run("ip", "-n", inside, "link", "add", "eth0", "type", "veth", "peer", "name", "lan", "netns", router)
        for where, device, address in ((inside, "eth0", "192.168.1.2/24"), (router, "lan", "192.168.1.1/24")):
            run("ip", "-n", where, "addr", "add", address, "dev", device)
            run("ip", "-n", where, "link", "set", device, "up")
        run("ip", "-n", inside, "route", "add", "default", "via", "192.168.1.1")
        run("ip", "netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        subprocess.run(["ip", "netns", "exec", router, "nft", "-f", "-"], input=ROUTER, check=True, text=True)
        return router

    def lets_in(self, place: int) -> bool:
        """Whether anybody outside can connect to this machine, by the only address that it has there."""
        probe = f"import socket; socket.create_connection(('11.{place + 1}.0.1', {PORT}), timeout=2)"
        words = ["ip", "netns", "exec", self.namespace((place + 1) % PUBLIC), sys.executable, "-c", probe]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def remove(self) -> None:
        for place in range(COUNT):
            for name in (self.namespace(place), f"{self.namespace(place)}r"):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)


class Housed(Machine):
    """A home whose process runs in a namespace."""

    def __init__(self, directory: Path, place: int, wires: Wires | Internet) -> None:
        super().__init__(directory, f"node{place}")
        self._namespace = wires.namespace(place)

    def start(self, *flags: str) -> None:
        words = ["-P", "-m", "p2pnode", "start", "--home", str(self.home), "--no-repl", "--threads", "1", *flags]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace, sys.executable, *words],
                stdout=output,
                stderr=output,
                cwd=self.output.parent,
            )


@pytest.fixture
def wires() -> Iterator[Wires]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Wires()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def internet() -> Iterator[Internet]:
    reason = why_not() or (None if shutil.which("nft") else "no nftables here")
    if reason is not None:
        pytest.skip(reason)
    made = Internet()
    try:
        yield made
    finally:
        made.remove()


def settle(directory: Path, where: Wires | Internet, addresses: tuple[str, ...]) -> list[Housed]:
    """The homes of five founders; an address that is empty is nobody's to know."""
    people = identities(COUNT)
    genesis = make_genesis(people, addresses=addresses)
    nodes = [Housed(directory, place, where) for place in range(COUNT)]
    for node, person in zip(nodes, people, strict=True):
        node.home.create()
        node.home.key.write_text(bytes(person._key).hex())
        node.home.key.chmod(0o600)
        open_blobs(node.home).put(TEXT)
        write_genesis(node.home, genesis)
    return nodes


def end(nodes: list[Housed]) -> None:
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.end(signal.SIGKILL)


@pytest.fixture
def five(wires: Wires, tmp_path: Path) -> Iterator[list[Housed]]:
    """A committee of five that decides."""
    addresses = tuple(f"{SUBNET}.{place + 1}:{PORT}" for place in range(COUNT))
    nodes = settle(tmp_path, wires, addresses)
    try:
        for node, address in zip(nodes, addresses, strict=True):
            node.start("--listen", address)
        for node in nodes:
            node.until(lambda s: s["height"] >= 2 and s["members_reachable"] == COUNT)
        yield nodes
    finally:
        end(nodes)
    for node in nodes:
        assert "Traceback" not in node.output.read_text()


def heights(nodes: list[Housed]) -> list[int]:
    return [int(node.status().get("height", -1)) for node in nodes]


def wait(condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120, "it never came true"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["cable", "loss"])
def test_cut_off_and_back(five: list[Housed], wires: Wires, how: str) -> None:
    wires.unplug(4, how)
    noticed = wait(lambda: "no quorum" in five[4].status().get("reason", ""))
    assert five[4].status()["reason"] == "no quorum: 1 of 5 members reachable, 4 needed"
    alone, tip = heights(five)[4], heights(five)[0]
    five[0].until(lambda s: s["height"] >= tip + 5)
    assert heights(five)[4] == alone
    wires.plug(4, how)
    goal = heights(five)[0]
    back = wait(lambda: heights(five)[4] >= goal)
    say(f"{how}: verdict after {noticed:.1f} s; at the tip {back:.2f} s after healing, {goal - alone} heights behind")
    assert same_at_every_common_height(*five) >= alone

    took = []
    for seconds in (3, 10, 30):
        for place in (3, 4):
            wires.unplug(place, how)
        time.sleep(seconds)
        goal = max(heights(five)) + 1
        for place in (3, 4):
            wires.plug(place, how)
        took.append(wait(lambda goal=goal: max(heights(five)) >= goal))
        for node in five:
            node.until(lambda s, goal=goal: s["height"] >= goal)
    say(
        f"{how}: first decision after 3, 10 and 30 s: {[round(t, 2) for t in took]}, median {statistics.median(took):.2f} s"
    )
    same_at_every_common_height(*five)


def test_three_behind_routers_that_let_nothing_in_train_with_two_that_are_not(
    internet: Internet, tmp_path: Path
) -> None:
    """No two of the three can connect to each other, so what they say of one another's goes through the two."""
    known = tuple(internet.address(place) if place < PUBLIC else "" for place in range(COUNT))
    nodes = settle(tmp_path, internet, known)
    try:
        for place, node in enumerate(nodes):
            node.start("--listen", internet.address(place))
        for node in nodes:
            node.until(lambda s: s["height"] >= 2 and s["members_reachable"] == COUNT)
        assert [internet.lets_in(place) for place in range(COUNT)] == [True] * PUBLIC + [False] * (COUNT - PUBLIC)
        assert [len(node.client.peers()) for node in nodes] == [4, 4, 2, 2, 2]
        goal = max(heights(nodes)) + 10
        took = wait(lambda: min(heights(nodes)) >= goal)
        rows = nodes[0].client.rounds(10)
        full = sum(row["contributions"] == COUNT for row in rows)
        say(f"behind routers: 10 heights in {took:.1f} s, {full} of the last {len(rows)} with all five contributions")
        assert full > len(rows) // 2
        assert {node.status()["verdict"] for node in nodes} == {"healthy"}

        nodes[1].end(signal.SIGKILL)  # the four that remain are a quorum, and three of them hear one only
        goal = max(heights(nodes)) + 5
        rest = [node for place, node in enumerate(nodes) if place != 1]
        took = wait(lambda: min(heights(rest)) >= goal)
        say(f"behind routers, one machine left outside: 5 heights in {took:.1f} s")
        same_at_every_common_height(*rest)
    finally:
        end(nodes)
    for node in nodes:
        assert "Traceback" not in node.output.read_text()
