"""Nodes as processes: starting, killing, restarting, ending them, and what they leave behind.

What it is: one ``Fleet`` that owns every child process of a run. What it is not: a client of the nodes; it never reads
a control socket.

For editors: every exit is either ours (``kill``, ``stop``) or trouble, and is recorded as such by the one task that
waits for the process. All children live in the warden's process group and none in the terminal's, so that Ctrl-C
reaches the harness alone, which then ends them in order.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2pnode.errors import SetUpError
from p2pnode.home import Home
from p2pnode.localnet import warden
from p2pnode.localnet.readings import NodeId

# After a run nobody is in a hurry, and a loaded machine may be slow. On Ctrl-C everything must be gone within two seconds,
# of which the harness needs some for itself.
STOP_SECONDS_MAX = 10.0
INTERRUPTED_STOP_SECONDS_MAX = 1.4
LOG_TAIL_BYTES = 64 * 1024
# As the installed `p2pnode` command would run: a folder named `model` where the user stands must not be imported.
PYTHON = (sys.executable, "-P", "-m")
TRACEBACK = b"Traceback (most recent call last)"


@dataclass(slots=True)
class Node:
    """One node of the run: who it is, how it is started, and the process that it is at the moment."""

    index: int
    node: NodeId
    home: Home
    port: int
    command: tuple[str, ...]
    attack: str | None = None
    process: trio.Process | None = None
    exit_expected: bool = False
    troubles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"node {self.index + 1} ({self.node[:8]})"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def output(self) -> Path:
        """What the process itself wrote: whatever comes before or beside its log."""
        return self.home.path / "output.log"


class Fleet:
    """All processes of one run. Made by ``open_fleet``."""

    def __init__(self, nursery: trio.Nursery, group: int) -> None:
        self._nursery = nursery
        self._group = group
        self._processes: list[trio.Process] = []

    @property
    def ended(self) -> bool:
        """Whether no process of this fleet runs any more."""
        return all(process.returncode is not None for process in self._processes)

    async def start(self, node: Node) -> None:
        """Start the node's process; its exit is watched from here on."""
        node.exit_expected = False
        with node.output.open("ab") as output:
            node.process = await trio.lowlevel.open_process(
                list(node.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(),
                cwd=node.home.path,
                process_group=self._group,
            )
        self._processes.append(node.process)
        self._nursery.start_soon(self._watch, node, node.process)

    async def kill(self, node: Node) -> None:
        """SIGKILL, now; returns when the process is gone."""
        if node.process is not None:
            node.exit_expected = True
            node.process.kill()
            await node.process.wait()

    async def stop(self, nodes: Sequence[Node], *, seconds_max: float = STOP_SECONDS_MAX) -> None:
        """End all of them in order, as Ctrl-C would; whoever takes too long is killed, and that is trouble."""
        running = [node for node in nodes if node.running]
        for node in running:
            self._signal(node, signal.SIGINT)
        with trio.move_on_after(seconds_max):
            for node in running:
                assert node.process is not None
                await node.process.wait()
        for node in running:
            if node.running:
                node.troubles.append(f"did not end within {seconds_max:g} seconds of being asked")
                with trio.CancelScope(shield=True):
                    await self.kill(node)

    async def run(self, command: Sequence[str], *, what: str) -> None:
        """Run a command of ours to its end. Raises SetUpError with its last words if it fails."""
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_environment(),
            process_group=self._group,
        )
        self._processes.append(process)
        assert process.stderr is not None
        words = b""
        try:
            async with process.stderr:
                async for chunk in process.stderr:
                    words = (words + chunk)[-LOG_TAIL_BYTES:]
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
        if process.returncode:
            message, hint = _last_words(words)
            raise SetUpError(f"{what}: {message}", hint)

    @staticmethod
    def _signal(node: Node, number: signal.Signals) -> None:
        assert node.process is not None
        node.exit_expected = True
        node.process.send_signal(number)

    @staticmethod
    async def _watch(node: Node, process: trio.Process) -> None:
        code = await process.wait()
        if not node.exit_expected:
            ending = f"was ended by signal {-code}" if code < 0 else f"ended by itself with status {code}"
            node.troubles.append(f"{ending}: {_last_line(node.output)}")


@asynccontextmanager
async def open_fleet(temporary: Path | None) -> AsyncIterator[Fleet]:
    """A fleet under the eye of a warden, who removes ``temporary`` if this process dies without warning."""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", warden.__file__, *([str(temporary)] if temporary else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        assert process.stdin is not None
        fleet = Fleet(nursery, process.pid)
        try:
            yield fleet
        finally:
            # Without the word the warden kills whatever still runs: after a bug of ours that is what it is for.
            with trio.CancelScope(shield=True):
                if fleet.ended:
                    await process.stdin.send_all(warden.DONE)
                await process.stdin.aclose()
                await process.wait()
            nursery.cancel_scope.cancel()


def node_command(
    home: Path, *, listen: str, peers: Sequence[str], attack: str | None, forecast: Path | None = None
) -> tuple[str, ...]:
    """The command line of one node: what a user would type, or the module of attacks, which ``start`` cannot reach.

    With a ``forecast`` (weather.py), behind links that are as it says. ``listen`` and ``peers``: HOST:PORT.
    """
    module = ["p2pnode", "start", "--no-repl"] if attack is None else ["p2pnode.attacks", "--attack", attack]
    bootstrap = [word for peer in peers for word in ("--bootstrap", peer)]
    shaped = ["p2pnode.localnet.shaped", str(forecast), listen.rpartition(":")[2]] if forecast else []
    return (
        *(*PYTHON, *shaped, *module, "--home", str(home), "--listen", listen),
        *("--no-train", "--threads", "1", *bootstrap),
    )


def child_environment() -> dict[str, str]:
    """Our environment without the settings of the user's own node, which must not leak into these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("P2PNODE_")}


def leftovers(node: Node) -> Iterator[str]:
    """What an ended node left behind, in words; nothing if all is clean."""
    if node.running:
        yield "is still running"
    place = node.home.control_socket()
    if place.exists():
        yield f"left its control socket behind ({place.name})"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", node.port))
        except OSError:
            yield f"left port {node.port} in use"


def tracebacks(node: Node) -> Iterator[str]:
    """Which of the node's logs hold a traceback, in words."""
    for path in sorted(node.home.path.glob("*.log*")):
        if path != node.home.votes and path.is_file() and TRACEBACK in path.read_bytes():
            yield f"wrote a traceback to {path.name}"


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on and that the system does not hand out to outgoing connections: a killed
    node must find its own again."""
    lowest = _lowest_ephemeral_port()
    ports: list[int] = []
    with _Sockets() as sockets:
        while len(ports) < count:
            port = 10_000 + int.from_bytes(os.urandom(4), "big") % (lowest - 10_000)
            if sockets.bind(port):
                ports.append(port)
    return ports


class _Sockets:
    """Ports that are held while others are looked for, so that none is found twice."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __enter__(self) -> "_Sockets":
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._held:
            held.close()

    def bind(self, port: int) -> bool:
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
            return False
        self._held.append(candidate)
        return True


def _lowest_ephemeral_port() -> int:
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768  # the lowest that common systems use
    return max(lowest, 12_000)


def _last_words(output: bytes) -> tuple[str, str]:
    """(message, hint) of a command of ours that failed, from what it wrote to stderr."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    return (errors or lines or ["it ended without a word"])[-1], (hints or [""])[-1]


def _last_line(path: Path) -> str:
    try:
        return _last_words(path.read_bytes()[-LOG_TAIL_BYTES:])[0]
    except OSError:
        return "it left no output"
