"""``scripts/netns``: a local network whose nodes live in network namespaces of their own, on one bridge, behind links of the kernel's.

What it is: the flags, the run and the verdict of ``p2pnode localnet`` on another ground. Latency, jitter and loss are ``tc netem``'s where
the kernel has it, and the shim's otherwise, which is said; the uplink is netem's or ``tc tbf``'s; a partition sends what a cut link would
carry to a machine that does not exist, so that it is lost without a word, one way or both.
What it is not: for machines without root and iproute2, where ``p2pnode localnet`` does the same in the nodes' processes.

For editors: everything is named after this process, and removed by it; what a run left that was killed, the next one removes.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from p2pnode.cli import main as command_line
from p2pnode.errors import SetUpError
from p2pnode.localnet.ground import GROUND, Ground
from p2pnode.localnet.weather import FAIR, Partition, Weather

SUBNET = "10.214.0"  # of a bridge that nothing else is on
NOBODY = "02:00:00:00:00:01"  # a link address that no machine has
HARDWARE = "02:00:00:00:01:{:02x}"  # of the node with this number
BURST = "16kb"  # a few large segments: what leaves the uplink at once
QUEUE = "100ms"  # how long a full uplink keeps a packet before it drops the next
_OWN = re.compile(r"p2pnet-(\d+)-\d+")


class Namespaces(Ground):
    def __init__(self) -> None:
        self._has_netem = False
        self._weather = FAIR
        self._count = 0
        self._cut: tuple[Partition, ...] = ()

    def host(self, index: int) -> str:
        return f"{SUBNET}.{index + 1}"

    def inside(self, index: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._namespace(index))

    def left_to_shim(self, weather: Weather) -> Weather:
        return FAIR if self._has_netem else replace(weather, bandwidth_mbit=None, partitions=())

    @asynccontextmanager
    async def open(self, weather: Weather) -> AsyncIterator[str]:
        if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
            raise SetUpError("network namespaces need root and iproute2", "p2pnode localnet does without either")
        for left in await _left_behind():
            await _remove(left)
        try:
            bridge = _bridge(os.getpid())
            await _run("ip", "link", "add", bridge, "type", "bridge")
            self._has_netem = await _try("tc", "qdisc", "add", "dev", bridge, "root", "netem", "delay", "1ms")
            await _try("tc", "qdisc", "delete", "dev", bridge, "root")
            await _run("ip", "link", "set", bridge, "up")
            self._weather, self._count, self._cut = weather, 0, ()
            is_lacking = not self._has_netem and replace(weather, bandwidth_mbit=None, partitions=()) != FAIR
            yield "this kernel has no netem: latency, jitter and loss are left to the shim" if is_lacking else ""
        finally:
            with trio.CancelScope(shield=True):
                await _remove(os.getpid())

    async def add(self, index: int) -> None:
        bridge, name = _bridge(os.getpid()), self._namespace(index)
        cable = f"{bridge}-{index}"
        await _run("ip", "netns", "add", name)
        await _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        await _run("ip", "link", "set", cable, "master", bridge, "up")
        lines = (
            f"link set eth0 address {HARDWARE.format(index + 1)}",
            f"addr add {self.host(index)}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        )
        await _run("ip", "-n", name, "-batch", "-", stdin="\n".join(lines))
        if words := qdisc(self._weather, has_netem=self._has_netem):
            await _run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *words)
        self._count = index + 1
        await self.cut(self._cut)

    async def cut(self, partitions: Sequence[Partition]) -> None:
        self._cut = tuple(partitions)
        for source in range(1, self._count + 1):
            lines = [
                f"neigh replace {SUBNET}.{target} dev eth0 nud permanent lladdr "
                + (NOBODY if any(p.cuts(source, target) for p in partitions) else HARDWARE.format(target))
                for target in range(1, self._count + 1)
                if target != source
            ]
            await _run("ip", "-n", self._namespace(source - 1), "-batch", "-", stdin="\n".join(lines))

    @staticmethod
    def _namespace(index: int) -> str:
        return f"p2pnet-{os.getpid()}-{index}"


def qdisc(weather: Weather, *, has_netem: bool) -> tuple[str, ...]:
    """What a node's only cable is told to do with what the node sends; nothing where there is nothing to do."""
    rate = () if weather.bandwidth_mbit is None else ("rate", f"{weather.bandwidth_mbit:g}mbit")
    if has_netem:
        delay = ("delay", f"{weather.latency_ms:g}ms", f"{weather.jitter_ms:g}ms")
        return ("netem", *delay, "loss", f"{weather.drop * 100:g}%", *rate, "limit", "10000")
    return ("tbf", *rate, "burst", BURST, "latency", QUEUE) if rate else ()


def _bridge(process: int) -> str:
    return f"p2p{process}"  # with a number behind it still below the 15 letters that a link's name may have


async def _left_behind() -> list[int]:
    """Processes that are gone and whose namespaces are not."""
    listing = await _run("ip", "netns", "list")
    owners = {int(found[1]) for line in listing.splitlines() if (found := _OWN.match(line))}
    return [owner for owner in sorted(owners) if not _is_alive(owner)]


async def _remove(process: int) -> None:
    listing = await _run("ip", "netns", "list")
    for line in listing.splitlines():
        if (found := _OWN.match(line)) and int(found[1]) == process:
            await _try("ip", "netns", "delete", found[0])
    await _try("ip", "link", "delete", _bridge(process))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def _run(*words: str, stdin: str = "") -> str:
    """What it prints. Raises SetUpError with its last words."""
    done = await trio.run_process(words, stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        raise SetUpError(
            f"{' '.join(words[:4])}: {_last(done)}", "it needs root, and a kernel with namespaces and veth"
        )
    return done.stdout.decode()


async def _try(*words: str) -> bool:
    done = await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode == 0


def _last(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = done.stderr.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it failed without a word")


def main() -> int:
    """As ``p2pnode localnet``, with its flags."""
    GROUND.set(Namespaces())
    sys.argv[1:1] = ["localnet"]
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
