"""A local network in network namespaces: what the kernel is asked for, and that it does it. The latter needs root, and is skipped without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2pnode.errors import SetUpError
from p2pnode.localnet.ground import GROUND, Ground
from p2pnode.localnet.netns import SUBNET, Namespaces, qdisc
from p2pnode.localnet.weather import FAIR, Weather, parse_partition
from tests.p2pnode.test_localnet_runs import SMALL

WEATHER = Weather(20, 5, 8, 0.01, (parse_partition("1:2:3>1"),))
PORT = 7337
LISTEN = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", {PORT}))
print("up", flush=True)
while True:
    print(s.recv(100).decode(), flush=True)
"""
SAY = f"import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], {PORT}))"


def why_not() -> str | None:
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        return "needs root and iproute2"
    name = f"p2pnet-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None


def namespaces() -> list[str]:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()


def test_what_the_kernel_is_asked_for() -> None:
    words = ("netem", "delay", "20ms", "5ms", "loss", "1%", "rate", "8mbit", "limit", "10000")
    assert qdisc(WEATHER, has_netem=True) == words
    assert qdisc(WEATHER, has_netem=False) == ("tbf", "rate", "8mbit", "burst", "16kb", "latency", "100ms")
    assert qdisc(Weather(latency_ms=20), has_netem=False) == ()


def test_what_the_kernel_lacks_is_left_to_the_shim() -> None:
    assert Namespaces().left_to_shim(WEATHER) == Weather(20, 5, None, 0.01)
    assert Ground().left_to_shim(WEATHER) == WEATHER
    assert type(GROUND.get()) is Ground, "nobody stands elsewhere who did not ask"


async def test_without_the_tools_it_says_what_does_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetUpError, match="need root and iproute2") as refusal:
        async with Namespaces().open(FAIR):
            pass
    assert "p2pnode localnet" in (refusal.value.hint or "")


@pytest.mark.long
async def test_nodes_hear_one_another_but_for_the_ways_that_are_cut() -> None:
    if reason := why_not():
        pytest.skip(reason)
    ground = Namespaces()
    async with ground.open(Weather(bandwidth_mbit=8)), trio.open_nursery() as nursery:
        await ground.add(0)
        await ground.add(1)
        heard = [await _listen(nursery, ground, index) for index in range(2)]

        async def say(source: int, text: str) -> None:
            words = (*ground.inside(source), sys.executable, "-c", SAY, ground.host(1 - source), text)
            await trio.run_process(words)

        await say(0, "hello")
        assert await heard[1].receive() == "hello"
        await ground.cut([parse_partition("0:1:1>2")])
        await say(0, "lost")
        await say(1, "one way")
        assert await heard[0].receive() == "one way"
        await ground.cut([])
        await say(0, "again")
        assert await heard[1].receive() == "again"
        nursery.cancel_scope.cancel()
    assert not [name for name in namespaces() if name.startswith(f"p2pnet-{os.getpid()}-")]
    assert ground.host(1) == f"{SUBNET}.2"


async def _listen(nursery: trio.Nursery, ground: Namespaces, index: int) -> trio.MemoryReceiveChannel[str]:
    """What datagrams a node gets; returns when it listens."""
    to, heard = trio.open_memory_channel[str](10)
    words = [*ground.inside(index), sys.executable, "-c", LISTEN]
    process: trio.Process = await nursery.start(_process, words)

    async def pass_on() -> None:
        rest = b""
        assert process.stdout is not None
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await to.send(line.decode())

    nursery.start_soon(pass_on)
    assert await heard.receive() == "up"
    return heard


async def _process(words: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(words, stdout=subprocess.PIPE, task_status=task_status)


@pytest.mark.long
def test_a_whole_run_with_real_links(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    size = tmp_path / "small.json"
    size.write_text(json.dumps(SMALL))
    command = [sys.executable, "-P", "-m", "p2pnode.localnet.netns", "--json", "--size", str(size), "--rounds", "12"]
    cuts = ["--partition", "0.2:0.8:4", "--partition", "1.2:0.8:1,2/3,4", "--partition", "2.2:0.8:3>1"]
    links = ["--latency", "10", "--bandwidth", "20", "--drop", "0.005"]
    done = subprocess.run([*command, *links, *cuts], capture_output=True, text=True, timeout=240, check=False)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["verdict"] == "ok" and result["rounds_committed"] == 12, said
    assert [cut["quorum"] for cut in result["partitions"]] == [True, False, True]
