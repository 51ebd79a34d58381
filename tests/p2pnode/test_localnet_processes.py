"""The local network's processes, with small programs in the place of nodes: real processes, real signals."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from p2pnode.errors import SetUpError
from p2pnode.home import Home
from p2pnode.localnet.processes import (
    Fleet,
    Node,
    child_environment,
    free_ports,
    leftovers,
    node_command,
    open_fleet,
    tracebacks,
)
from p2pnode.localnet.readings import NodeId

SLEEP = "import signal; signal.signal(signal.SIGINT, lambda *_: exit(0)); print('up', flush=True); signal.pause()"
DEAF = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)


def a_node(directory: Path, program: str, index: int = 0) -> Node:
    home = Home(directory / f"node-{index + 1}")
    home.create()
    command = (sys.executable, "-I", "-S", "-c", program)
    return Node(index, NodeId(f"{index:040d}"), home, free_ports(1)[0], command)


async def started(fleet: Fleet, node: Node) -> None:
    """Start it and wait until it runs its own code."""
    await fleet.start(node)
    while node.running and b"up" not in node.output.read_bytes():
        await trio.lowlevel.checkpoint()


async def test_nodes_that_end_when_asked_leave_no_trouble(tmp_path: Path) -> None:
    nodes = [a_node(tmp_path, SLEEP, index) for index in range(2)]
    async with open_fleet(None) as fleet:
        for node in nodes:
            await started(fleet, node)
        assert not fleet.ended
        await fleet.stop(nodes)
        assert fleet.ended
    assert [list(leftovers(node)) for node in nodes] == [[], []]
    assert [node.troubles for node in nodes] == [[], []]


async def test_a_killed_node_is_no_trouble_and_starts_again(tmp_path: Path) -> None:
    node = a_node(tmp_path, SLEEP)
    async with open_fleet(None) as fleet:
        await started(fleet, node)
        await fleet.kill(node)
        assert not node.running
        await started(fleet, node)
        await fleet.stop([node])
    assert node.troubles == []


async def test_an_exit_that_nobody_asked_for_is_trouble_in_words(tmp_path: Path) -> None:
    node = a_node(tmp_path, "import sys; sys.exit('error: port 7337 is in use')")
    async with open_fleet(None) as fleet:
        await fleet.start(node)
        while not node.troubles:
            await trio.lowlevel.checkpoint()
    assert node.troubles == ["ended by itself with status 1: port 7337 is in use"]


async def test_a_node_that_does_not_end_is_killed_and_that_is_trouble(tmp_path: Path) -> None:
    node = a_node(tmp_path, DEAF)
    async with open_fleet(None) as fleet:
        await started(fleet, node)
        await fleet.stop([node], seconds_max=0.1)
        assert fleet.ended
    assert node.troubles == ["did not end within 0.1 seconds of being asked"]


async def test_what_a_node_leaves_behind_is_found(tmp_path: Path) -> None:
    node = a_node(tmp_path, "pass")
    node.home.control_socket().touch()
    with socket.socket() as held:
        held.bind(("127.0.0.1", node.port))
        held.listen()
        assert list(leftovers(node)) == [
            "left its control socket behind (control.sock)",
            f"left port {node.port} in use",
        ]


def test_tracebacks_are_found_in_every_log_but_not_among_the_votes(tmp_path: Path) -> None:
    node = a_node(tmp_path, "pass")
    words = "Traceback (most recent call last):\n"
    node.home.log.write_text("all is well\n")
    node.home.votes.write_text(words)
    assert list(tracebacks(node)) == []
    node.home.log.write_text(f"well\n{words}")
    node.output.write_text(words)
    assert list(tracebacks(node)) == ["wrote a traceback to output.log", "wrote a traceback to p2pnode.log"]


async def test_a_command_that_fails_says_why_with_its_own_hint(tmp_path: Path) -> None:
    program = "import sys; print('error: no text\\nhint: give one', file=sys.stderr); sys.exit(3)"
    async with open_fleet(None) as fleet:
        with pytest.raises(SetUpError) as failure:
            await fleet.run((sys.executable, "-I", "-S", "-c", program), what="founding the network")
    assert (failure.value.message, failure.value.hint) == ("founding the network: no text", "give one")


def test_nodes_outlive_neither_a_killed_harness_nor_its_directory(tmp_path: Path) -> None:
    """SIGKILL leaves the harness no last word; the warden must see to the node and the temporary directory."""
    directory = tmp_path / "run"
    directory.mkdir()
    harness = textwrap.dedent(f"""
        import sys, trio
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_localnet_processes import DEAF, a_node, open_fleet, started

        async def main():
            directory = Path({str(directory)!r})
            async with open_fleet(directory) as fleet:
                node = a_node(directory, DEAF)
                await started(fleet, node)
                print(node.process.pid, flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """)
    with subprocess.Popen([sys.executable, "-c", harness], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        watched = os.pidfd_open(pid)
        process.send_signal(signal.SIGKILL)
        trio.run(_wait_for, watched, directory)


async def _wait_for(watched: int, directory: Path) -> None:
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(watched)
        os.close(watched)
        while await trio.Path(directory).exists():
            await trio.lowlevel.checkpoint()


def test_ports_are_distinct_and_not_the_systems_own_choice() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert max(ports) < probe.getsockname()[1]


def test_an_honest_node_is_started_with_a_users_command_and_an_attacker_with_its_own(tmp_path: Path) -> None:
    honest = node_command(tmp_path, listen="127.0.0.1:1001", peers=["127.0.0.1:1002"], attack=None)
    liar = node_command(tmp_path, listen="127.0.0.1:1001", peers=["127.0.0.1:1002"], attack="huge")
    assert honest[3:5] == ("p2pnode", "start")
    assert liar[3:6] == ("p2pnode.attacks", "--attack", "huge")
    for command in (honest, liar):
        assert command[command.index("--bootstrap") + 1] == "127.0.0.1:1002"
        assert "--no-train" in command


def test_the_settings_of_the_users_own_node_do_not_reach_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_HOME", "mine")
    assert "P2PNODE_HOME" not in child_environment()
    assert "PATH" in child_environment()
