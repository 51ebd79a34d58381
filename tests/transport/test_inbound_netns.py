"""Limits by address over the kernel's TCP: a node in one network namespace, and a crowd with globally routable addresses in another.

Needs root and iproute2, and is skipped with the reason where that is not to be had; test_admission.py has the same on a simulated network.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.p2pnode.test_namespaces import run, why_not
from transport.limits import INBOUND_PER_GROUP_MAX, INBOUND_PER_IP_MAX

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
HERE, THERE = f"p2pn{os.getpid()}-here", f"p2pn{os.getpid()}-there"
HOSTS = INBOUND_PER_GROUP_MAX // INBOUND_PER_IP_MAX  # of one netgroup, that fill its share


def crowded(group: str, number: int, host: int = 1) -> str:
    """An address of a netgroup (11.2/16 or 2a00:2/32), in its IP group of that number; IPv4 has one in each."""
    return f"{group}.1.{number}" if "." in group else f"{group}:0:{number}::{host}"


FAMILIES = {"11": ("11.1.0.1", "11.2", "11.3"), "2a00": ("2a00:1::1", "2a00:2", "2a00:3")}


@pytest.fixture
def cable() -> Iterator[None]:
    """From one namespace to the other, with a hundred addresses at the far end."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    try:
        for name in (HERE, THERE):
            run("ip", "netns", "add", name)
        run("ip", "-n", HERE, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", THERE)
        for here, *groups in FAMILIES.values():
            give(HERE, here)
            places = [(group, number) for group in groups for number in range(1, HOSTS + 2)]
            for address in {crowded(*place, host) for place in places for host in range(1, 1 + INBOUND_PER_IP_MAX)}:
                give(THERE, address)
        for name in (HERE, THERE):
            run("ip", "-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        for name in (HERE, THERE):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def give(namespace: str, address: str) -> None:
    """One more address; to be used at once, since nobody else is on the cable."""
    of_family = ("/16", "nodad") if ":" in address else ("/8",)
    run("ip", "-n", namespace, "addr", "add", address + of_family[0], "dev", "eth0", *of_family[1:])


def steps(one: str, other: str) -> list[tuple[str, str]]:
    """Where each comes from, and what becomes of it: two from each IP group of a netgroup until its share is taken, and so on."""
    hosts = range(1, 1 + INBOUND_PER_IP_MAX)
    taken = [(crowded(one, number, host), "in") for number in range(1, HOSTS + 1) for host in hosts]
    return [
        *taken[:INBOUND_PER_IP_MAX],
        (taken[0][0], "full"),
        *taken[INBOUND_PER_IP_MAX:],
        (crowded(one, HOSTS + 1), "full"),
        (crowded(other, 1), "in"),
        (f"liar@{crowded(other, 2)}", "lied"),
        (crowded(other, 2), "banned"),
        (crowded(other, 3), "in"),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_who_comes_from_where_by_the_kernels_word(cable: None, family: str) -> None:
    here, one, other = FAMILIES[family]
    plan = steps(one, other)
    victim = ["ip", "netns", "exec", HERE, sys.executable, "-m", "tests.transport.victim", "at", here]
    with subprocess.Popen(victim, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as node:
        try:
            assert node.stdin is not None and node.stdout is not None
            port, _ = node.stdout.readline().split()
            crowd = ["ip", "netns", "exec", THERE, sys.executable, "-m", "tests.transport.crowd", here, port]
            crowd += [source for source, _ in plan]
            done = subprocess.run(crowd, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout.split() == [word for _, word in plan]
            node.stdin.write("?\n")
            node.stdin.flush()
            assert int(node.stdout.readline().split()[2]) == sum(word != "in" for _, word in plan)
            node.stdin.close()
            assert node.wait(timeout=60) == 0
        finally:
            node.kill()
