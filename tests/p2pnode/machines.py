"""Homes as a user starts them by hand: a directory, a process in it, and what its node says over its control socket.

Real processes and sockets. Waiting is polling with a generous limit; no time is ever asserted.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def same_at_every_common_height(*nodes: Machine) -> int:
    """All roots equal wherever two nodes know a height; returns how many heights all of them know."""
    known = [node.roots() for node in nodes]
    common = set(known[0]).intersection(*known[1:])
    for height in common:
        assert len({roots[height] for roots in known}) == 1, f"height {height}"
    return len(common)


def founder(machine: Machine, tmp_path: Path, *flags: str) -> str:
    """Start a network of one on a small text; returns the address that its own line names."""
    size, text = tmp_path / "small.json", tmp_path / "text.txt"
    size.write_text(json.dumps(SMALL))
    text.write_bytes(TEXT)
    machine.start("--listen", "127.0.0.1:0", "--size", str(size), "--data", str(text), *flags)
    join = machine.until(lambda s: s["height"] >= 2)["join"]
    assert join.startswith("p2pnode start --bootstrap 127.0.0.1:")
    return str(join).split()[-1]
