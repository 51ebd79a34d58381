"""The README's path for newcomers, as it is written there: a text, a network of four, a sentence, a folder that `transformers` loads.

Real processes and sockets, in an empty folder that holds nothing but `mine.txt`. The commands are read from the README and not
changed, but for the port where another process has it. Waiting is polling; no time is asserted.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.p2pnode.machines import TEXT, Machine

README = Path(__file__).parents[2] / "README.md"
HEADING = "## From a text of yours to a model in `transformers`"
PORT = 7337


def blocks() -> list[list[list[str]]]:
    """The words of each command, in the blocks under the heading."""
    section = README.read_text().split(HEADING, 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"```\n(.*?)```", section, flags=re.DOTALL)
    return [[shlex.split(line, comments=True) for line in block.splitlines()] for block in found]


def free_port() -> int:
    """The one in the README, if nobody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Newcomer:
    """Somebody with a folder, a shell in it, and the project's programs on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.nodes: list[Machine] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("P2PNODE_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, words: list[str]) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr[-3000:]}"
        return done.stdout

    def start(self, words: list[str]) -> Machine:
        """In a terminal of its own."""
        node = Machine(self.folder, words[words.index("--home") + 1])
        words = [word.replace(str(PORT), str(self.port)) for word in words]
        if self.port != PORT and "--bootstrap" not in words:
            words += ["--listen", f"127.0.0.1:{self.port}"]
        with node.output.open("ab") as output:
            node.process = subprocess.Popen(
                words, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.nodes.append(node)
        return node


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    somebody = Newcomer(tmp_path)
    yield somebody
    for node in somebody.nodes:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
            node.process.wait()


def test_five_commands_from_a_text_to_a_folder_that_transformers_loads(newcomer: Newcomer) -> None:
    (newcomer.folder / "mine.txt").write_bytes(TEXT)
    (init, start, join, generate, export), (load,) = blocks()
    newcomer.run(init)
    first = newcomer.start(start)
    first.until(lambda s: s["height"] >= 1)
    for name in ("two", "three", "four"):
        newcomer.start([name if word == "two" else word for word in join])
    for node in newcomer.nodes:
        node.until(lambda s: s["members"] == 4 and s["members_reachable"] == 4)
    grown = first.status()["height"]
    first.until(lambda s: s["height"] >= grown + 2)

    written = newcomer.run(generate)
    assert len(written) > 20
    newcomer.run(export)
    folder = newcomer.folder / export[-1]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert newcomer.run(["p2pnode", "verify", export[-1]]).startswith("sound: ")
    loaded = newcomer.run(load)
    assert loaded.startswith(generate[2]) and len(loaded) > len(generate[2]) + 20
    for node in newcomer.nodes:
        assert node.end(signal.SIGINT) == 0
