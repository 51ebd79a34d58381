"""A node as its owner sees it: a real control server on a real unix socket, with a small target behind it.

The server runs on a thread of its own, so that the synchronous client, the prompt and the command line meet it as they would meet a
node in another process.
"""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from p2pnode.cli import main
from p2pnode.client import Client
from p2pnode.control import serve_control
from p2pnode.errors import UserError
from p2pnode.home import Home
from tests.p2pnode.machines import Machine

NODE = "3f2a9c1b" + "0" * 32
ROOT = "5ab3c1d2e4f6" + "0" * 52
FACTS = {
    "reason": "length",
    "height": 12,
    "model_root": ROOT,
    "context": 128,
    "prompt_tokens": 300,
    "prompt_tokens_read": 64,
    "tokens": 4,
    "token_ids": [1, 2, 3, 4],
    "seed": None,
    "score": None,
    "seconds": 0.1,
    "tokens_per_second": 40.0,
    "candidates": [],
}
TOKEN = "p2pnode1-" + "x" * 230


def make_status(**changes: Any) -> dict[str, Any]:
    """A healthy member of four in the middle of a round."""
    training = {"state": "training", "until_height": 40, "step": 3, "steps": 10}
    status: dict[str, Any] = {
        "verdict": "healthy",
        "reason": "height 12 decided 0.8 s ago",
        "node": NODE,
        "name": "alice",
        "network": ROOT,
        "role": "member",
        "height": 12,
        "view": 0,
        "phase": "learn",
        "model_root": ROOT,
        "members": 4,
        "members_reachable": 4,
        "quorum": 3,
        "peers": 3,
        "training": training,
        "loss": 3.9123,
        "loss_height": 12,
        "loss_unit": "nats per byte",
        "validation_loss": 3.95,
        "listen": "127.0.0.1:7337",
        "join": "p2pnode start --bootstrap 127.0.0.1:7337",
        "reachable": {"verdict": "yes", "text": "yes (dialed back by 2 peers)", "peers": 2, "failed": 0},
        "bootstrap_failures": {},
        "clock_seconds": 0.1,
        "version": "0.1.0",
        "parameters": 1_180_000,
        "tokens_total": 122_880,
        "bytes_sent_total": 12_345_678,
        "bytes_received_total": 999,
        "compute_fraction": 0.93,
        "evidence": 0,
        "refused": 2,
        "uptime_seconds": 200.0,
        "home": "/srv/alice",
        "pid": 4242,
        "threads": 1,
        "contributions_last": 4,
    }
    return status | changes


@dataclass
class Target:
    """What stands behind the socket: canned answers, and a record of the commands that came through."""

    state: dict[str, Any] = field(default_factory=make_status)
    calls: list[object] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)
    testing: threading.Event = field(default_factory=threading.Event)

    def status(self) -> dict[str, Any]:
        return self.state

    def peers(self) -> list[dict[str, Any]]:
        peer = {"node": NODE, "address": "127.0.0.1:7338", "direction": "out", "role": "member", "height": 12}
        return [{**peer, "model_root": ROOT, "score": 0, "reachable": True, "rtt_seconds": 0.0004}]

    def rounds(self, last: int) -> list[dict[str, Any]]:
        seconds = {"learn": 0.61, "collect": 0.12, "agree": 0.014, "total": 0.744}
        row = {"view": 0, "model_root": ROOT, "block": ROOT, "proposer": NODE, "contributions": 4, "loss": 3.9}
        return [{"height": h, **row, "seconds": seconds} for h in range(13 - min(last, 12), 13)]

    def trace(self, height: int) -> dict[str, Any] | None:
        steps = ["draw", "learn", "shrink", "announce", "propose", "prepare", "commit", "decide", "apply"]
        rows = [{"step": step, "where": "node", "value": ROOT, "seconds": 0.002} for step in steps]
        return {"height": height, "rows": rows} if height <= 12 else None

    def log(self, last: int) -> list[dict[str, Any]]:
        return [{"time": "2025-01-01T00:00:00+00:00", "level": "info", "event": "round decided", "height": 12}] * last

    def evidence(self) -> list[dict[str, Any]]:
        raise ZeroDivisionError("a bug of ours")

    async def train(self, rounds: int | None, *, since: int | None = None) -> dict[str, Any]:
        self.calls.append(("train", rounds))
        return {
            "state": "training",
            "until_height": None if rounds is None else (12 if since is None else since) + rounds,
        }

    async def pause(self) -> dict[str, Any]:
        self.calls.append("pause")
        return {"state": "paused"}

    async def test(self) -> dict[str, Any]:
        self.calls.append("test")
        raise UserError("test: one probe per 10 heights, the last was at height 9", "try again at height 19")

    async def evaluate(self) -> dict[str, Any]:
        """Never answers: what a node looks like that ends while it is asked."""
        self.testing.set()
        await trio.sleep_forever()
        raise AssertionError

    async def generate(self, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
        """A text of two pieces; of the prompt ``on and on`` it has no end."""
        self.calls.append(("generate", prompt, settings))
        return {"number": 7, "text": "to be\nor ", "tokens": 3, "ended": None}

    async def generate_next(self, number: int) -> dict[str, Any]:
        self.calls.append(("generate_next", number))
        is_endless = ("generate", "on and on", {}) in self.calls
        return {"number": number, "text": "not", "tokens": 4, "ended": None if is_endless else FACTS}

    async def generate_end(self, number: int) -> dict[str, Any]:
        self.calls.append(("generate_end", number))
        return {}

    async def invite(self, heights: int | None) -> dict[str, Any]:
        self.calls.append(("invite", heights))
        return {
            "token": TOKEN,
            "expiry_height": 12 + (heights or 10_000),
            "join": f"{self.state['join']} --invite {TOKEN}",
        }

    def parting(self) -> dict[str, Any]:
        line = "3 of 4 members remain, 3 needed: no fault tolerated"
        return {"members": 4, "remaining": 3, "needed": 3, "faults_tolerated": 0, "reason": line}

    async def leave(self) -> dict[str, Any]:
        self.calls.append("leave")
        self.state = self.state | {"role": "observer"}
        return self.parting()

    async def stop(self) -> dict[str, Any]:
        self.calls.append("stop")
        self.ended.set()
        return {}


@dataclass
class RunningNode:
    """A home with a lock held and a control socket served; ``client`` talks to it."""

    home: Home
    target: Target
    client: Client


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def node(home: Home) -> Iterator[RunningNode]:
    yield from run_node(home)


def run_node(home: Home) -> Iterator[RunningNode]:
    """Serve ``home`` on a thread until the caller is done or the target was told to stop."""
    target = Target()
    ready = threading.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with home.locked():
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, target, home)
                ready.set()
                await target.ended.wait()
                nursery.cancel_scope.cancel()

    thread = threading.Thread(target=lambda: trio.run(serve))
    thread.start()
    assert ready.wait(10)
    try:
        yield RunningNode(home, target, Client(home))
    finally:
        try:
            token[0].run_sync_soon(target.ended.set)
        except trio.RunFinishedError:
            pass
        thread.join(10)
        assert not thread.is_alive()


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Run the real command in a real process: ``shell("status", "--json", home=home)``."""

    def run(*words: object, home: Home | None = None, stdin: str = "") -> Done:
        command = [sys.executable, "-W", "error", "-m", "p2pnode", *map(str, words), *_home_words(home)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("P2PNODE_")} | {"HOME": str(tmp_path)}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, env=environ, cwd=tmp_path, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The same from ``main`` on, in this process: ten times as quick."""
    for variable in [v for v in os.environ if v.startswith("P2PNODE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object, home: Home | None = None, stdin: str = "", **environ: str) -> Done:
        with monkeypatch.context() as patch:
            for variable, value in environ.items():
                patch.setenv(variable, value)
            patch.setattr(sys, "argv", ["p2pnode", *map(str, words), *_home_words(home)])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            capsys.readouterr()
            return Done(main(), *capsys.readouterr())

    return run


def _home_words(home: Home | None) -> list[str]:
    return ["--home", str(home)] if home else []


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
