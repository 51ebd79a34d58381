"""Reachability as the kernel makes it: two machines on the internet, and one at home behind a router that drops what nobody asked for.

Real processes in network namespaces with globally routable addresses, each in a netgroup of its own; needs root, iproute2 and nftables, and is
skipped with the reason where these are not to be had. `tests/transport/test_own_address.py` covers the same ground everywhere.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.p2pnode.test_namespaces import NUMBERS, Housed, run, why_not

pytestmark = pytest.mark.long

PUBLIC = ("11.1.0.1", "12.1.0.1")
ROUTER, HOME = "13.1.0.1", 2  # the place of the third machine
RULES = """
table ip home {
    chain out { type nat hook postrouting priority 100; oifname "wan" masquerade; }
    chain in { type nat hook prerouting priority -100; }
    chain own { type filter hook input priority 0; iifname "wan" ct state new drop; }
}
"""


class Internet:
    """Two machines and a router on one bridge, and a machine behind the router."""

    def __init__(self) -> None:
        self._tag = f"{os.getpid() % 10000:04d}{next(NUMBERS)}"
        self._bridge, self._router = f"pb{self._tag}", f"p2pn{self._tag}-r"
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "link", "set", self._bridge, "up")
        outside = [self.namespace(place) for place in range(len(PUBLIC))]
        for name in (*outside, self._router, self.namespace(HOME)):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for number, (name, address) in enumerate(zip((*outside, self._router), (*PUBLIC, ROUTER), strict=True)):
            cable = f"pc{self._tag}-{number}"
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "wan", "netns", name)
            run("ip", "link", "set", cable, "master", self._bridge, "up")
            self._address(name, "wan", f"{address}/8")
            run("ip", "-n", name, "route", "add", "default", "dev", "wan")
        home = self.namespace(HOME)
        run("ip", "-n", home, "link", "add", "eth0", "type", "veth", "peer", "name", "lan", "netns", self._router)
        self._address(home, "eth0", "192.168.1.2/24")
        self._address(self._router, "lan", "192.168.1.1/24")
        run("ip", "-n", home, "route", "add", "default", "via", "192.168.1.1")
        run("ip", "netns", "exec", self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._rules(RULES)

    def namespace(self, place: int) -> str:
        return f"p2pn{self._tag}-{place}"

    def forward(self) -> None:
        """As its owner would in the router's settings."""
        self._rules('add rule ip home in iifname "wan" tcp dport 7337 dnat to 192.168.1.2')

    def remove(self) -> None:
        for name in (*map(self.namespace, range(HOME + 1)), self._router):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)

    def _address(self, name: str, device: str, address: str) -> None:
        run("ip", "-n", name, "addr", "add", address, "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")

    def _rules(self, text: str) -> None:
        subprocess.run(["ip", "netns", "exec", self._router, "nft", "-f", "-"], input=text, check=True, text=True)


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


def test_what_to_open_is_said_and_once_it_is_open_others_know_the_address(internet, tmp_path):
    nodes = [Housed(tmp_path, place, internet) for place in range(3)]
    first, second, home = nodes
    try:
        first.start("--listen", "0.0.0.0:7337", "--policy", "open", "--no-train")
        first.until(lambda s: s["height"] == 0 and s["role"] == "member")
        for node in (second, home):
            node.start("--listen", "0.0.0.0:7337", "--bootstrap", f"{PUBLIC[0]}:7337", "--no-train")
        shut = home.until(lambda s: s["reachable"]["verdict"] == "no")
        assert shut["reachable"]["text"] == (
            "no: open TCP port 7337 to this machine, in its firewall and in the router"
            f" (2 peers tried at {ROUTER}:7337: no answer)"
        )
        assert shut["peers"] == 2, "it takes part all the same"
        internet.forward()
        opened = home.until(lambda s: s["reachable"]["text"] == "yes (dialed back by 2 peers)")
        assert opened["join"] == f"p2pnode start --bootstrap {ROUTER}:7337"
        for node in (first, second):
            node.until(lambda s: s["reachable"]["verdict"] == "yes")

            def knows_home(_: object, node: Housed = node) -> bool:
                return f"{ROUTER}:7337" in [peer["address"] for peer in node.client.peers()]

            node.until(knows_home)
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.end(signal.SIGKILL)
    assert not any("Traceback" in node.output.read_text() for node in nodes)
